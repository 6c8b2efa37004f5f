//! The internal topics of Kafka Streams applications: a heartbeat names those that are missing, and
//! this shard asks the controller for them, once at a time. What can't be created is told with the
//! heartbeats until it is tried again, two heartbeats later.

use crate::Shard;
use crate::ops::{OF_GROUPS, Op};
use crate::request::Reply;
use crate::turn::Turn;
use flumen_base::{Mono, ShardId};
use flumen_coordinator::StreamsHeartbeat;
use flumen_wire::messages::create_topics_request::CreatableTopic;
use flumen_wire::messages::streams_group_heartbeat_response::Status;
use std::collections::BTreeMap;

/// Topics that are being created; more have to wait for their group's next heartbeat.
const CREATING_MAX: usize = 10_000;
/// Failures that are remembered (Kafka's default).
const FAILED_MAX: usize = 1000;
/// Failures that one heartbeat tells of; the others are counted.
const FAILURES_TOLD_MAX: usize = 3;
/// The status code that says that internal topics are missing.
const MISSING_INTERNAL_TOPICS: i8 = 3;

/// A creation that failed.
#[derive(Debug)]
struct Failure {
    /// It is not tried again before.
    until: Mono,
    why: String,
}

/// Topics that streams groups of this shard want.
#[derive(Debug, Default)]
pub(crate) struct StreamsTopics {
    /// By name: how long a failure is to be remembered, in milliseconds.
    creating: BTreeMap<String, i64>,
    failed: BTreeMap<String, Failure>,
}

impl StreamsTopics {
    /// Those of the topics that are to be asked for now.
    fn begin(
        &mut self,
        now: Mono,
        topics: Vec<CreatableTopic<'static>>,
        remember_ms: i64,
    ) -> Vec<CreatableTopic<'static>> {
        let mut asked = topics;
        asked.retain(|topic| {
            let free = self.creating.len() < CREATING_MAX
                && !self.creating.contains_key(&*topic.name)
                && self.failure(now, &topic.name).is_none();
            if free {
                self.creating.insert(topic.name.to_string(), remember_ms);
            }
            free
        });
        asked
    }

    fn failure(&self, now: Mono, topic: &str) -> Option<&str> {
        let failure = self.failed.get(topic).filter(|f| now < f.until);
        failure.map(|f| f.why.as_str())
    }

    /// What a heartbeat says of failures with these topics; `None` where there are none.
    fn told(&self, now: Mono, topics: &[CreatableTopic<'_>]) -> Option<String> {
        let failures: Vec<String> = topics
            .iter()
            .filter_map(|t| Some(format!("{} ({})", t.name, self.failure(now, &t.name)?)))
            .collect();
        let (told, rest) = failures.split_at(failures.len().min(FAILURES_TOLD_MAX));
        let told = told.join(", ");
        match (told.is_empty(), rest.len()) {
            (true, _) => None,
            (false, 0) => Some(format!("; Creation failed: {told}.")),
            (false, more) => Some(format!("; Creation failed: {told} and {more} more.")),
        }
    }

    /// The controller has answered.
    fn end(&mut self, now: Mono, results: Vec<(String, Option<String>)>) {
        self.failed.retain(|_, failure| now < failure.until);
        for (topic, why) in results {
            let remember_ms = self.creating.remove(&topic);
            let (Some(remember_ms), Some(why)) = (remember_ms, why) else {
                continue;
            };
            tracing::warn!(topic, why, "a topic of a streams group was not created");
            let until = now.plus_ms(remember_ms);
            self.failed.insert(topic, Failure { until, why });
        }
        while self.failed.len() > FAILED_MAX {
            let first = self.failed.iter().min_by_key(|(_, f)| f.until);
            let Some(name) = first.map(|(name, _)| name.clone()) else {
                break;
            };
            self.failed.remove(&name);
        }
    }
}

impl Shard {
    /// The coordinator's answer to a StreamsGroupHeartbeat: asks for the topics that are missing,
    /// and answers.
    pub(crate) fn streams_beaten(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        beat: StreamsHeartbeat,
    ) {
        let StreamsHeartbeat {
            mut response,
            topics,
        } = beat;
        if !topics.is_empty() {
            let now = turn.now.mono;
            let state = &mut self.groups.streams_topics;
            let told = state.told(now, &topics);
            let is_missing = |s: &&mut Status<'_>| s.status_code == MISSING_INTERNAL_TOPICS;
            let mut statuses = response.status.iter_mut().flatten();
            if let (Some(told), Some(status)) = (told, statuses.find(is_missing)) {
                status.status_detail.to_mut().push_str(&told);
            }
            let remember_ms = i64::from(response.heartbeat_interval_ms) * 2;
            let asked = state.begin(now, topics, remember_ms);
            if !asked.is_empty() {
                let op = Op::CreateTopics(asked);
                self.send_op(turn, ShardId::FIRST, OF_GROUPS, 0, op);
            }
        }
        self.reply(turn, reply, &response);
    }

    /// What became of topics that streams groups wanted.
    pub(crate) fn streams_topics_created(
        &mut self,
        now: Mono,
        results: Vec<(String, Option<String>)>,
    ) {
        self.groups.streams_topics.end(now, results);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> CreatableTopic<'static> {
        CreatableTopic {
            name: name.to_owned().into(),
            ..Default::default()
        }
    }

    fn names(topics: &[CreatableTopic<'_>]) -> Vec<String> {
        topics.iter().map(|t| t.name.to_string()).collect()
    }

    #[test]
    fn a_topic_is_asked_for_once_and_again_some_time_after_it_failed() {
        let mut state = StreamsTopics::default();
        let (a, b) = (topic("a"), topic("b"));
        let asked = state.begin(Mono(0), vec![a.clone(), b.clone()], 10);
        assert_eq!(names(&asked), ["a", "b"]);
        assert!(state.begin(Mono(0), vec![a.clone()], 10).is_empty());
        let results = vec![
            ("a".to_owned(), Some("no".to_owned())),
            ("b".to_owned(), None),
        ];
        state.end(Mono(0), results);
        let both = [a.clone(), b.clone()];
        let told = state.told(Mono(0), &both);
        assert_eq!(told.as_deref(), Some("; Creation failed: a (no)."));
        assert_eq!(names(&state.begin(Mono(0), both.to_vec(), 10)), ["b"]);
        let later = Mono(0).plus_ms(10);
        assert_eq!(state.told(later, &both), None);
        assert_eq!(names(&state.begin(later, both.to_vec(), 10)), ["a"]);
    }

    #[test]
    fn few_failures_are_told_and_not_all_are_kept() {
        let mut state = StreamsTopics::default();
        let topics: Vec<_> = (0..FAILED_MAX + 5)
            .map(|n| topic(&format!("t{n:04}")))
            .collect();
        state.begin(Mono(0), topics.clone(), 10);
        let fail = |t: &CreatableTopic<'_>| (t.name.to_string(), Some("no".to_owned()));
        state.end(Mono(0), topics.iter().map(fail).collect());
        assert_eq!(state.failed.len(), FAILED_MAX);
        let told = state.told(Mono(0), &topics[10..20]).unwrap();
        assert!(told.ends_with("t0012 (no) and 7 more."), "{told}");
    }
}
