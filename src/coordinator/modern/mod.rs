//! What groups have in common whose assignment the coordinator makes: partitions by topic, the
//! assignors, the hash over the metadata of a group's topics, states and deadlines of members, and
//! how changes are written and taken back. Consumer, share and streams groups stand on it.

pub(crate) mod assign;
mod hash;
mod member_state;
mod partitions;
mod place;
mod refusal;
mod subscriptions;
mod timers;
mod write;

pub(crate) use hash::metadata_hash;
pub(crate) use member_state::{LEAVE_EPOCH, LEAVE_STATIC_EPOCH, MemberState};
pub(crate) use partitions::{EpochPartitions, Partitions, with_epoch, without_epochs};
pub(crate) use place::{ById, FIRST_EPOCH, GroupMember, Place};
pub(crate) use refusal::{Refusal, is_blank, is_blank_if_any, unknown_member};
pub(crate) use subscriptions::TopicCounts;
pub(crate) use timers::{MemberTimers, is_over};
pub(crate) use write::{Change, History};
