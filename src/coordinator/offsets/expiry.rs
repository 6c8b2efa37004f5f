//! Offsets and groups that nobody needs any more (`offsets.retention.minutes`, KIP-211).
//!
//! - A simple group (offsets only): each offset after the retention since its commit.
//! - An empty group: all offsets after the retention since it became empty.
//! - A consumer or streams group (KIP-848, KIP-1071): offsets of topics it does not read, after the
//!   retention since their commit.
//! - A stable classic group of consumers: offsets of topics it does not read, after the retention
//!   since their commit.
//! - An offset with an expiry of its own: at that time.
//!
//! An empty group without offsets is deleted.

use super::OffsetValue;
use crate::classic::State;
use crate::group::{Env, Group};
use crate::limits::EXPIRY_RECORDS_PER_APPEND_MAX;
use crate::out::Record;
use crate::records;
use crate::writes::{Effect, OffsetKey, Part};
use flumen_base::PartitionIndex;
use std::sync::Arc;

/// From when the retention counts.
#[derive(Clone, Copy)]
enum Since {
    Commit,
    /// The group became empty then (wall clock, ms).
    Empty(i64),
}

impl Group {
    /// From when the retention of its offsets counts; `None`: they don't expire now.
    fn expires_since(&self) -> Option<Since> {
        let classic = &self.classic;
        if !self.is_classic_kind() || classic.protocol_type.is_none() {
            return Some(Since::Commit);
        }
        match classic.state {
            State::Empty if classic.state_since_ms >= 0 => {
                Some(Since::Empty(classic.state_since_ms))
            }
            State::Empty => Some(Since::Commit),
            State::Stable if classic.is_consumer() && classic.subscribed.is_some() => {
                Some(Since::Commit)
            }
            _ => None,
        }
    }

    fn is_expired(&self, env: &Env<'_>, since: Since, topic: &str, value: &OffsetValue) -> bool {
        if self.is_subscribed(topic) {
            return false;
        }
        let now = env.now.wall_ms;
        if let Some(expire_ms) = value.expire_ms {
            return now >= expire_ms;
        }
        let since = match since {
            Since::Commit => value.commit_ms,
            Since::Empty(at) => at,
        };
        now.saturating_sub(since) >= env.config.offsets_retention_ms
    }

    fn expired(&self, env: &Env<'_>) -> Vec<(Arc<str>, PartitionIndex)> {
        let Some(since) = self.expires_since() else {
            return Vec::new();
        };
        let gone = self.offsets.latest();
        gone.filter(|(topic, _, value)| self.is_expired(env, since, topic, value))
            .filter(|(topic, index, _)| !self.offsets.is_unstable(topic, *index))
            .map(|(topic, index, _)| (topic.clone(), index))
            .collect()
    }

    /// Adds tombstones for what has expired, at most [`EXPIRY_RECORDS_PER_APPEND_MAX`] records in
    /// all; true when this group is through.
    pub(crate) fn expire(
        &mut self,
        env: &mut Env<'_>,
        records: &mut Vec<Record>,
        parts: &mut Vec<Part>,
    ) -> bool {
        if self.classic.state == State::Dead || self.share.is_some() {
            return true; // share groups stay until they are deleted
        }
        let write = env.next_write();
        let gone = self.expired(env);
        let mut keys: Vec<OffsetKey> = Vec::new();
        let mut effect = Effect::None;
        let room = EXPIRY_RECORDS_PER_APPEND_MAX.saturating_sub(records.len());
        let through = gone.len() < room;
        for (topic, index) in gone.into_iter().take(room) {
            if let Some(record) = records::offset(&self.name, &topic, index, None) {
                records.push(record);
                keys.push(self.offsets.propose(write, &topic, index, None));
            }
        }
        let nothing_left =
            self.offsets.latest().next().is_none() && self.offsets.unstable().is_empty();
        if through && nothing_left && self.is_memberless() {
            records.extend(self.tombstones());
            effect = Effect::Deleted;
            self.mark_dead();
        }
        if !keys.is_empty() || matches!(effect, Effect::Deleted) {
            let part = Part {
                group: self.serial,
                offsets: keys,
                effect,
            };
            let part = self.part(write, part);
            parts.push(part);
        }
        through
    }
}
