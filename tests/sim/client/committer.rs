//! Commits offsets of a group and reads them back.

use super::{Client, Spec, code};
use crate::link::{Cx, Event, Link, Sent, decode};
use crate::{Check, model::Known};
use flumen_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use flumen_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use flumen_wire::messages::{
    FindCoordinatorRequest, FindCoordinatorResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetFetchRequest, OffsetFetchResponse,
};
use std::borrow::Cow;

#[derive(Debug)]
enum Ask {
    Find,
    Commit(i64),
    /// With the values that are possible, as far as they were known when it was sent, and the last
    /// attempt then.
    Read(Vec<i64>, u64),
}

/// A client that commits ever higher offsets for partition 0 of a topic.
pub(crate) struct Committer {
    link: Link<Ask>,
    group: String,
    spec: Spec,
    found: bool,
    last: i64,
    /// The value that was acked last, and those sent since that may have taken its place; -1 is
    /// none.
    possible: Vec<i64>,
    /// Sent over a connection that is gone: it may come late, until the process ends.
    late: Vec<i64>,
    /// Rises with every change of `possible`.
    version: u64,
    timeout_ms: u64,
    /// It disconnects now and then, and gives up on slow answers.
    cuts: bool,
}

impl Committer {
    pub(crate) fn new(group: String, spec: Spec, timeout_ms: u64, cuts: bool) -> Self {
        Self {
            link: Link::new(format!("committer of {group}")),
            group,
            spec,
            found: false,
            last: 0,
            possible: vec![-1],
            late: Vec::new(),
            version: 0,
            timeout_ms,
            cuts,
        }
    }

    /// The process has ended: nothing comes late any more. A power loss may bring back any older
    /// value, or none.
    pub(crate) fn process_ended(&mut self, power_lost: bool) {
        self.version += 1;
        self.possible.append(&mut self.late);
        if power_lost {
            self.possible = (-1..=self.last).collect();
        }
    }

    fn commit(&mut self, cx: &mut Cx<'_>) -> Check {
        self.last += 1;
        self.version += 1;
        self.possible.push(self.last);
        let request = OffsetCommitRequest {
            group_id: Cow::Owned(self.group.clone()),
            topics: vec![OffsetCommitRequestTopic {
                name: self.spec.name.into(),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: 0,
                    committed_offset: self.last,
                    committed_metadata: Some("note".into()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let version = 2 + cx.rng.below(8) as i16;
        self.link
            .send(cx, version, &request, Some(Ask::Commit(self.last)))
    }

    fn read(&mut self, cx: &mut Cx<'_>) -> Check {
        let version = 1 + cx.rng.below(9) as i16;
        let group = || Cow::Owned(self.group.clone());
        let request = if version < 8 {
            OffsetFetchRequest {
                group_id: group(),
                topics: Some(vec![OffsetFetchRequestTopic {
                    name: self.spec.name.into(),
                    partition_indexes: vec![0],
                }]),
                ..Default::default()
            }
        } else {
            OffsetFetchRequest {
                groups: vec![OffsetFetchRequestGroup {
                    group_id: group(),
                    topics: Some(vec![OffsetFetchRequestTopics {
                        name: self.spec.name.into(),
                        partition_indexes: vec![0],
                        ..Default::default()
                    }]),
                    ..Default::default()
                }],
                ..Default::default()
            }
        };
        let mut possible = self.possible.clone();
        possible.extend(&self.late);
        let what = Ask::Read(possible, self.version);
        self.link.send(cx, version, &request, Some(what))
    }

    fn committed(&mut self, offset: i64, version: i16, body: &[u8]) -> Check {
        let response: OffsetCommitResponse<'_> = decode(body, version)?;
        let topic = response.topics.first().ok_or("no topic in the answer")?;
        let result = topic
            .partitions
            .first()
            .ok_or("no partition in the answer")?;
        self.version += 1;
        match result.error_code {
            0 => {
                // Commits of one connection come in order: what was sent before it is overwritten.
                self.possible.retain(|o| *o >= offset);
                Ok(())
            }
            code::COORDINATOR_LOAD_IN_PROGRESS
            | code::COORDINATOR_NOT_AVAILABLE
            | code::NOT_COORDINATOR => Ok(()),
            _ => Err(format!("{}: {result:?}", self.link.name)),
        }
    }

    fn check(&self, (possible, asked): (&[i64], u64), version: i16, body: &[u8]) -> Check {
        let response: OffsetFetchResponse<'_> = decode(body, version)?;
        let (offset, error) = if version < 8 {
            let topic = response.topics.first();
            let line = topic.and_then(|t| t.partitions.first());
            let error = response.error_code;
            line.map_or((-1, error), |p| {
                (p.committed_offset, p.error_code.max(error))
            })
        } else {
            let group = response.groups.first().ok_or("no group in the answer")?;
            let topic = group.topics.first();
            let line = topic.and_then(|t| t.partitions.first());
            let error = group.error_code;
            line.map_or((-1, error), |p| {
                (p.committed_offset, p.error_code.max(error))
            })
        };
        match error {
            0 => {}
            code::COORDINATOR_LOAD_IN_PROGRESS
            | code::COORDINATOR_NOT_AVAILABLE
            | code::NOT_COORDINATOR => return Ok(()),
            _ => return Err(format!("{}: error {error}", self.link.name)),
        }
        if possible.contains(&offset) || (asked != self.version && self.possible.contains(&offset))
        {
            return Ok(());
        }
        let name = &self.link.name;
        Err(format!(
            "{name}: committed is {offset}, possible {possible:?}"
        ))
    }

    fn gone(&mut self, unanswered: Vec<Sent<Ask>>) {
        for sent in unanswered {
            if let Ask::Commit(offset) = sent.what {
                self.late.push(offset);
            }
        }
    }
}

impl Client for Committer {
    fn name(&self) -> &str {
        &self.link.name
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> Check {
        while let Some(event) = self.link.poll(cx)? {
            match event {
                Event::Answer(Sent { version, what, .. }, body) => match what {
                    Ask::Commit(offset) => self.committed(offset, version, &body)?,
                    Ask::Read(possible, asked) => self.check((&possible, asked), version, &body)?,
                    Ask::Find => {
                        let response: FindCoordinatorResponse<'_> = decode(&body, version)?;
                        let line = response.coordinators.first();
                        let error = line.map_or(response.error_code, |c| c.error_code);
                        self.found = error == 0;
                        if ![0, code::COORDINATOR_NOT_AVAILABLE].contains(&error) {
                            return Err(format!("{}: {response:?}", self.link.name));
                        }
                    }
                },
                Event::Closed(unanswered) => self.gone(unanswered),
            }
        }
        Ok(())
    }

    fn act(&mut self, cx: &mut Cx<'_>) -> Check {
        self.receive(cx)?;
        let late = self.link.waits_longer_than(cx, self.timeout_ms);
        let cut = late || cx.rng.one_in(150);
        if self.cuts && !cx.settling && self.link.is_open() && cut {
            let unanswered = self.link.close(cx);
            self.gone(unanswered);
            return Ok(());
        }
        let exists = matches!(cx.model.topic(self.spec.name).0, Known::Exists(_));
        if !exists || self.link.in_flight() >= 2 || !self.link.open(cx) {
            return Ok(());
        }
        if !self.found {
            if self.link.in_flight() > 0 || cx.settling {
                return Ok(());
            }
            let version = cx.rng.below(7) as i16;
            let request = FindCoordinatorRequest {
                key: Cow::Owned(self.group.clone()),
                coordinator_keys: vec![Cow::Owned(self.group.clone())],
                ..Default::default()
            };
            // The field that the version does not have must be empty.
            let request = match version {
                0..=3 => FindCoordinatorRequest {
                    coordinator_keys: Vec::new(),
                    ..request
                },
                _ => FindCoordinatorRequest {
                    key: "".into(),
                    ..request
                },
            };
            return self.link.send(cx, version, &request, Some(Ask::Find));
        }
        match cx.rng.one_in(3) || cx.settling {
            true => self.read(cx),
            false => self.commit(cx),
        }
    }

    fn left_to_do(&self, _cx: &Cx<'_>) -> Option<String> {
        let commits = self.link.pending().any(|a| matches!(a, Ask::Commit(_)));
        commits.then(|| "commits are not answered".to_owned())
    }
}
