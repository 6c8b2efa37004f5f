//! A client that looks for offsets by time.

use super::{Client, Key, Spec, code, tp_of};
use crate::Check;
use crate::client::producer::TIMESTAMPS_MS;
use crate::link::{Cx, Event, Link, Sent, decode};
use crate::model::{Floor, Tp};
use crate::trace::note;
use flumen_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use flumen_wire::messages::{ListOffsetsRequest, ListOffsetsResponse};

/// ListOffsets' timestamp for the first of the youngest records, from this version on.
const MAX_TIMESTAMP: i64 = -3;
const MAX_TIMESTAMP_VERSION: i16 = 7;

#[derive(Debug)]
struct Ask {
    tp: Tp,
    floor: Floor,
    /// The youngest if `None`.
    wanted: Option<i64>,
}

/// The client.
pub(crate) struct Seeker {
    link: Link<Ask>,
    specs: Vec<Spec>,
    failing_disk: bool,
}

impl Seeker {
    pub(crate) fn new(specs: Vec<Spec>, failing_disk: bool) -> Self {
        Self {
            link: Link::new("seeker".to_owned()),
            specs,
            failing_disk,
        }
    }

    fn ask(&mut self, cx: &mut Cx<'_>, (topic, partition): Key, tp: Tp) -> Check {
        let version = 1 + cx.rng.below(10) as i16;
        let wanted = match cx.rng.one_in(3) && version >= MAX_TIMESTAMP_VERSION {
            true => None,
            false => Some(TIMESTAMPS_MS + cx.rng.below(2_000) as i64),
        };
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: self.specs[topic].name.into(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: partition,
                    timestamp: wanted.unwrap_or(MAX_TIMESTAMP),
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let floor = cx.model.floor(tp);
        let what = Ask { tp, floor, wanted };
        self.link.send(cx, version, &request, Some(what))
    }

    fn found(&self, cx: &mut Cx<'_>, sent: &Sent<Ask>, body: &[u8]) -> Check {
        let response: ListOffsetsResponse<'_> = decode(body, sent.version)?;
        let topic = response.topics.first().ok_or("no topic in the answer")?;
        let result = topic
            .partitions
            .first()
            .ok_or("no partition in the answer")?;
        match result.error_code {
            0 => {}
            code::NOT_LEADER_OR_FOLLOWER | code::LEADER_NOT_AVAILABLE => return Ok(()),
            error if self.failing_disk && code::is_disk_trouble(error) => return Ok(()),
            _ => return Err(format!("{}: {result:?}", self.link.name)),
        }
        let Ask { tp, floor, wanted } = sent.what;
        let found = (result.offset >= 0).then_some((result.timestamp, result.offset));
        note!(cx.trace, "{tp:?}: {found:?} for {wanted:?}");
        cx.model.searches += 1;
        cx.model.found_by_time(tp, floor, wanted, found)
    }
}

impl Client for Seeker {
    fn name(&self) -> &str {
        &self.link.name
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> Check {
        while let Some(event) = self.link.poll(cx)? {
            if let Event::Answer(sent, body) = event {
                self.found(cx, &sent, &body)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, cx: &mut Cx<'_>) -> Check {
        self.receive(cx)?;
        if cx.settling || self.link.in_flight() > 0 || !self.link.open(cx) {
            return Ok(());
        }
        let topic = cx.rng.below(self.specs.len() as u64) as usize;
        let partition = cx.rng.below(self.specs[topic].partitions as u64) as i32;
        match tp_of(cx, &self.specs, (topic, partition)) {
            Some(tp) => self.ask(cx, (topic, partition), tp),
            None => Ok(()),
        }
    }

    fn left_to_do(&self, _cx: &Cx<'_>) -> Option<String> {
        let waits = self.link.pending().next();
        waits.map(|ask| format!("waits for {ask:?}"))
    }
}
