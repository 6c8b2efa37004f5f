//! OffsetDelete (47), version 0; and what DeleteGroups and deleted topics do to offsets.

use super::offset_append_error;
use crate::classic::State;
use crate::group::{Env, Group};
use crate::out::{Record, Reply, ReplyToken, Topics};
use crate::records;
use crate::writes::{Done, Effect, OffsetKey, Part};
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_wire::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use flumen_wire::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use std::collections::BTreeSet;

/// An answer that concerns the request as a whole.
pub(crate) fn delete_error(error: ErrorCode) -> Reply {
    Reply::OffsetDelete(OffsetDeleteResponse {
        error_code: error.code(),
        ..Default::default()
    })
}

/// The answer when the append failed.
pub(crate) fn delete_append_error(error: ErrorCode) -> Reply {
    delete_error(offset_append_error(error))
}

impl Group {
    /// OffsetDelete, when the group was found. Topics that members read keep their offsets.
    pub(crate) fn delete_offsets(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &OffsetDeleteRequest<'_>,
        topics: &dyn Topics,
    ) {
        match self.classic.state {
            _ if self.share.is_some() => {
                return env.reply(token, delete_error(ErrorCode::GroupIdNotFound));
            }
            State::Dead => return env.reply(token, delete_error(ErrorCode::GroupIdNotFound)),
            State::Empty => {}
            _ if self.classic.is_consumer() => {}
            _ => return env.reply(token, delete_error(ErrorCode::NonEmptyGroup)),
        }
        let write = env.next_write();
        let mut records = Vec::new();
        let mut keys = Vec::new();
        let mut response = OffsetDeleteResponse::default();
        for topic in &request.topics {
            let mut result = OffsetDeleteResponseTopic {
                name: topic.name.to_string().into(),
                ..Default::default()
            };
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let error = if !topics.has_partition(&topic.name, index) {
                    ErrorCode::UnknownTopicOrPartition
                } else if self.is_subscribed(&topic.name) {
                    ErrorCode::GroupSubscribedToTopic
                } else {
                    self.bury(write, &topic.name, index, &mut records, &mut keys);
                    ErrorCode::None
                };
                result.partitions.push(OffsetDeleteResponsePartition {
                    partition_index: index,
                    error_code: error.code(),
                });
            }
            response.topics.push(result);
        }
        let reply = Reply::OffsetDelete(response);
        if records.is_empty() {
            return env.reply(token, reply);
        }
        self.append_tombstones(env, records, keys, Effect::None, Done::Reply(token, reply));
    }

    /// Puts the tombstone of an offset on its way, if there is one to bury. One that another
    /// tombstone is on its way to counts: that may not be written, and this one be.
    fn bury(
        &mut self,
        write: u64,
        topic: &str,
        index: PartitionIndex,
        records: &mut Vec<Record>,
        keys: &mut Vec<OffsetKey>,
    ) {
        let exists = self.offsets.slot(topic, index).is_some();
        let exists = exists || self.offsets.is_unstable(topic, index);
        if exists && let Some(record) = records::offset(&self.name, topic, index, None) {
            records.push(record);
            keys.push(self.offsets.propose(write, topic, index, None));
        }
    }

    fn append_tombstones(
        &mut self,
        env: &mut Env<'_>,
        records: Vec<Record>,
        offsets: Vec<OffsetKey>,
        effect: Effect,
        done: Done,
    ) {
        let part = Part {
            group: self.serial,
            offsets,
            effect,
        };
        let part = self.part(env.next_write(), part);
        env.append(self.partition, records, vec![part], done);
    }

    /// Whether DeleteGroups may delete this group now.
    pub(crate) fn validate_delete(&self) -> Result<(), ErrorCode> {
        match self.classic.state {
            State::Dead => Err(ErrorCode::GroupIdNotFound),
            _ if self.is_memberless() => Ok(()),
            _ => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// Writes the tombstones of all its offsets and of itself. Until that ends the group is dead.
    pub(crate) fn delete(&mut self, env: &mut Env<'_>, done: Done) {
        let mut keys: BTreeSet<_> = self.offsets.unstable().into_iter().collect();
        keys.extend(self.offsets.keys());
        let write = env.next_write();
        let mut records = Vec::new();
        let mut buried = Vec::new();
        for (topic, index) in keys {
            self.bury(write, &topic, index, &mut records, &mut buried);
        }
        records.extend(self.tombstones());
        self.mark_dead();
        self.append_tombstones(env, records, buried, Effect::Deleted, done);
    }

    /// What ends the group in the log, beside its offsets.
    pub(crate) fn tombstones(&self) -> Vec<Record> {
        let name = &*self.name;
        if self.share.is_some() {
            let tombstones = self.share_tombstones();
            return tombstones.iter().filter_map(|r| r.encode(name)).collect();
        }
        if let Some(consumer) = &self.consumer {
            let tombstones = consumer.tombstones();
            return tombstones.iter().filter_map(|r| r.encode(name)).collect();
        }
        if let Some(streams) = &self.streams {
            let tombstones = streams.tombstones();
            return tombstones.iter().filter_map(|r| r.encode(name)).collect();
        }
        records::group_tombstone(name).into_iter().collect()
    }

    /// The group is being deleted. Its state's timestamp stays: if the append fails, it goes on as
    /// it was.
    pub(crate) fn mark_dead(&mut self) {
        self.classic.previous = self.classic.state;
        self.classic.state = State::Dead;
    }

    /// The append of its tombstone failed.
    pub(crate) fn revive(&mut self) {
        self.classic.state = State::Empty;
    }

    /// Removes the offsets of deleted topics, given by name and id. An offset that knows the id of
    /// another topic of this name stays.
    pub(crate) fn on_topics_deleted(&mut self, env: &mut Env<'_>, deleted: &[(&str, Uuid)]) {
        let mut keys: BTreeSet<OffsetKey> = BTreeSet::new();
        for (name, id) in deleted {
            let unstable = self.offsets.unstable().into_iter();
            keys.extend(unstable.filter(|(topic, _)| **topic == **name));
            let Some((topic, slots)) = self.offsets.topics.get_key_value(*name) else {
                continue;
            };
            let gone = slots.iter().filter(|(_, slot)| {
                let of_topic = |id_then: Uuid| id_then.is_zero() || id_then == *id;
                slot.latest().is_some_and(|v| of_topic(v.topic_id))
            });
            keys.extend(gone.map(|(index, _)| (topic.clone(), *index)));
        }
        let write = env.next_write();
        let mut records = Vec::new();
        let mut buried = Vec::new();
        for (topic, index) in keys {
            self.bury(write, &topic, index, &mut records, &mut buried);
        }
        if !records.is_empty() {
            self.append_tombstones(env, records, buried, Effect::None, Done::Nothing);
        }
    }
}
