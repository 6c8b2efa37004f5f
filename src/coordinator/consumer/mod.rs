//! Consumer groups of KIP-848: the coordinator assigns, and members are led to what they shall have
//! one step at a time, so that no partition ever has two owners.
//!
//! ```text
//! a member subscribes, leaves, is fenced;          group epoch + 1
//! topics come, go, grow                                  |
//!                                     the assignor makes a new target, of that epoch
//!                                                        |
//! each member on its own:       what it has = what the target gives it and it had
//!        Unrevoked    <--- first it gives up what the target gives to others
//!        Unreleased   <--- then it waits for what others have not given up; epoch = target's
//!        Stable       <--- it has all of it
//! ```
//! Handlers make a plan out of [`state::ConsumerGroup`] and the request: records and an answer.
//! Applying the records changes the state, at once; the answer leaves when they are written. If
//! they can't be, they are taken back ([`crate::modern`]).
//!
//! Members may also speak the classic protocol ([`classic_member`]): the generation is their
//! epoch, JoinGroup reconciles, SyncGroup brings the assignment. The group begins and ends to be
//! one of this kind online ([`convert`]).

mod classic_join;
mod classic_member;
mod convert;
mod fence;
mod heartbeat;
mod member;
mod offsets;
mod reconcile;
mod records;
mod regex;
mod state;
mod static_member;
mod target;
mod timers;
mod view;

pub(crate) use convert::Conversion;
pub(crate) use heartbeat::{heartbeat_error, validate};
pub(crate) use member::Member;
pub(crate) use records::{ConsumerRecord, read as read_record};
pub(crate) use state::{ConsumerGroup, ConsumerState, Undo};
pub(crate) use view::{consumer_described_error, consumer_described_unknown};

pub(crate) use crate::modern::{Change, Refusal};

use std::collections::BTreeMap;

/// Counts a name in or out; names that nobody has are not kept.
fn counted(counts: &mut BTreeMap<Box<str>, usize>, name: &str, add: bool) {
    if add {
        match counts.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                counts.insert(name.into(), 1);
            }
        }
    } else if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}
