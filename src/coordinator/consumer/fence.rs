//! Members leave, or are made to.

use super::member::Member;
use super::state::ConsumerGroup;
use super::static_member::bury_member;
use super::{Change, ConsumerRecord, Refusal};
use crate::group::{Env, Group};
use crate::out::{Metadata, Reply, ReplyToken};
use std::collections::BTreeMap;
use std::sync::Arc;

impl ConsumerGroup {
    /// Takes members out; a new epoch begins.
    fn plan_fence(&self, metadata: &dyn Metadata, members: &[Arc<Member>]) -> Vec<ConsumerRecord> {
        let mut records = Vec::new();
        let mut topics = self.topic_counts().clone();
        let mut regexes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in members {
            bury_member(&member.id, &mut records);
            member.topics.iter().for_each(|t| topics.by_name(t, false));
            if let Some(regex) = member.regex() {
                *regexes.entry(regex).or_default() += 1;
            }
        }
        for (regex, count) in regexes {
            if self.regex_members(regex) != count {
                continue;
            }
            records.push(ConsumerRecord::Regex(regex.into(), None));
            let resolved = self.regexes.get(regex);
            let matched = resolved.iter().flat_map(|r| &r.topics);
            matched.for_each(|t| topics.by_regex(t, false));
        }
        let epoch = self.epoch.saturating_add(1);
        let hash = topics.metadata_hash(metadata);
        records.push(ConsumerRecord::Epoch(Some((epoch, hash))));
        records
    }
}

impl Group {
    /// Takes members out whose deadline has passed.
    pub(super) fn fence(&mut self, env: &mut Env<'_>, members: &[Arc<Member>]) {
        // It can't fail: these members' names stand in records already.
        let _ = self.fence_with(env, members, None);
    }

    /// Takes members out, each named once; the group may end to be a consumer group by it.
    pub(super) fn fence_with(
        &mut self,
        env: &mut Env<'_>,
        members: &[Arc<Member>],
        reply: Option<(ReplyToken, Reply)>,
    ) -> Result<(), Refusal> {
        let Some(consumer) = &self.consumer else {
            return Ok(());
        };
        let change = if members.is_empty() {
            Change::default()
        } else {
            match consumer.plan_downgrade(env, members) {
                Some(conversion) => Change {
                    conversion: Some(conversion),
                    records: Vec::new(),
                },
                None => Change::of(consumer.plan_fence(env.metadata, members)),
            }
        };
        self.write_change(env, change, reply)?;
        let group = (self.serial, &*self.name);
        if let Some(consumer) = &mut self.consumer {
            consumer.fit_timers(env, group);
        }
        Ok(())
    }
}
