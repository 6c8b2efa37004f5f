//! What share groups of this shard want done with stored states: the operations go to the shards
//! that have them, and their results back to the group coordinator. The topic that they live in is
//! made when it is needed first.

use crate::Shard;
use crate::groups::Groups;
use crate::ops::{FOR_SHARE_TOPIC, Op};
use crate::share_states::{SHARE_STATE_TOPIC, ShareStateDeed, ShareStateFor, ShareStateOp};
use crate::turn::Turn;
use flumen_base::{ErrorCode, IdMap, PartitionIndex, ShardId, Uuid};
use flumen_coordinator::share::ShareKey;
use flumen_coordinator::{ShareCall, ShareCalled, ShareDeed};

/// A call whose operations are on their way.
struct Calling {
    called: Vec<ShareCalled>,
    left: usize,
}

/// All calls of a shard.
#[derive(Default)]
pub(crate) struct ShareCalls {
    calling: IdMap<u64, Calling>,
    /// Those that wait for the topic to be made.
    early: Vec<(u64, ShareCall)>,
}

/// The operations of a call.
fn deeds(call: ShareCall) -> Vec<(Uuid, PartitionIndex, ShareStateDeed)> {
    match call.what {
        ShareDeed::Initialize {
            state_epoch,
            partitions,
        } => {
            let partitions = partitions.into_iter();
            let deeds = partitions.map(|(topic, index, start_offset)| {
                let deed = ShareStateDeed::Initialize {
                    state_epoch,
                    start_offset,
                };
                (topic, index, deed)
            });
            deeds.collect()
        }
        ShareDeed::Delete { partitions } => {
            let partitions = partitions.into_iter();
            let deeds = partitions.map(|(topic, index)| (topic, index, ShareStateDeed::Delete));
            deeds.collect()
        }
    }
}

impl Shard {
    /// Carries out a call of the group coordinator.
    pub(crate) fn share_call(&mut self, turn: &mut Turn<'_>, number: u64, call: ShareCall) {
        if self.broker.share.stores_state && self.image.topic(SHARE_STATE_TOPIC).is_none() {
            let first = self.share_calls.early.is_empty();
            self.share_calls.early.push((number, call));
            if first {
                let make = Op::AutoCreate(vec![SHARE_STATE_TOPIC.to_owned()]);
                self.send_op(turn, ShardId::FIRST, FOR_SHARE_TOPIC, 0, make);
            }
            return;
        }
        self.send_share_call(turn, number, call);
    }

    /// The topic of stored states was made, or could not be: then the operations are refused.
    pub(crate) fn share_topic_made(&mut self, turn: &mut Turn<'_>) {
        for (number, call) in std::mem::take(&mut self.share_calls.early) {
            self.send_share_call(turn, number, call);
        }
    }

    fn send_share_call(&mut self, turn: &mut Turn<'_>, number: u64, call: ShareCall) {
        let group = call.group.clone();
        let deeds = deeds(call);
        let places = deeds
            .iter()
            .map(|(topic, index, _)| (*topic, *index, ErrorCode::None));
        let calling = Calling {
            called: places.collect(),
            left: deeds.len(),
        };
        self.share_calls.calling.insert(number, calling);
        for (place, (topic, partition, deed)) in (0..).zip(deeds) {
            let key = ShareKey {
                group: group.clone(),
                topic,
                partition,
            };
            let who = ShareStateFor::Group;
            self.send_share_state(turn, (number, place), ShareStateOp { key, deed, who });
        }
    }

    /// OpResult::ShareCalled: one of the operations of a call.
    pub(crate) fn share_called(
        &mut self,
        turn: &mut Turn<'_>,
        number: u64,
        place: u32,
        error: ErrorCode,
    ) {
        let Some(calling) = self.share_calls.calling.get_mut(&number) else {
            return;
        };
        if let Some((.., result)) = calling.called.get_mut(place as usize) {
            *result = error;
        }
        calling.left = calling.left.saturating_sub(1);
        if calling.left > 0 {
            return;
        }
        if let Some(done) = self.share_calls.calling.remove(&number) {
            let Groups {
                coordinator, out, ..
            } = &mut self.groups;
            coordinator.share_called(turn.now, number, &done.called, out);
        }
    }
}
