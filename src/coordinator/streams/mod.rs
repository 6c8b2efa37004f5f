//! Streams groups of KIP-1071: the coordinator knows the topology of a Kafka Streams application,
//! has its topics made, and assigns tasks to its threads.
//!
//! ```text
//! the first member brings the topology   [`topology`]
//! its topics are there, or to be made    [`configure`]: status codes, topics for the shard to make
//! a member joins, leaves, is fenced;     group epoch + 1
//! topics come, grow; settings change           |
//!                              the sticky assignor makes a new target, of that epoch  [`assign`]
//!                                              |
//! each member on its own       gives up, waits, gets what the target gives it      [`reconcile`]
//! ```
//! As with consumer groups handlers make a plan out of [`state::StreamsGroup`] and the request, and
//! what is written changes the state ([`crate::modern`]). What a restart forgets (the configured
//! topology, endpoints' epoch, a wish to shut down) is found out again by heartbeats.

mod assign;
mod configure;
mod copartition;
mod endpoints;
mod heartbeat;
mod member;
mod offsets;
mod owners;
mod reconcile;
mod records;
mod state;
mod target;
mod tasks;
mod timers;
mod topology;
mod validate;
mod view;

use crate::modern::Refusal;
pub(crate) use heartbeat::heartbeat_error as streams_heartbeat_error;
pub(crate) use member::Member;
pub(crate) use records::{StreamsRecord, read as read_streams_record};
pub(crate) use state::{StreamsGroup, StreamsState, Undo};
pub(crate) use validate::validate as validate_streams;
pub(crate) use view::{
    described_error as streams_described_error, described_unknown as streams_described_unknown,
};
