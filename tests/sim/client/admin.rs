//! Creates the topics, lets some come and go, deletes records, and looks whether the metadata says
//! what was answered.

use super::{Client, Key, Spec, code, tp_of};
use crate::Check;
use crate::link::{Cx, Event, Link, Sent, decode};
use crate::model::{Known, Tp};
use flumen_base::Uuid;
use flumen_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use flumen_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use flumen_wire::messages::delete_topics_request::DeleteTopicState;
use flumen_wire::messages::metadata_request::MetadataRequestTopic;
use flumen_wire::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, MetadataRequest, MetadataResponse,
};

#[derive(Debug)]
enum Ask {
    Create(usize),
    Delete(usize),
    Metadata(usize, (Known, u64)),
    DeleteRecords(Key, Tp),
}

/// The administrator. It never gives up on a request, so that none can come late.
pub(crate) struct Admin {
    link: Link<Ask>,
    specs: Vec<Spec>,
    /// Does something one time in so many.
    pause: u64,
}

impl Admin {
    pub(crate) fn new(specs: Vec<Spec>, pause: u64) -> Self {
        Self {
            link: Link::new("admin".to_owned()),
            specs,
            pause,
        }
    }

    fn create(&mut self, cx: &mut Cx<'_>, topic: usize) -> Check {
        let spec = &self.specs[topic];
        let keeps = spec.keeps.map(|bytes| bytes.to_string());
        // At once, or by another name first.
        let delay = if cx.rng.one_in(2) { "0" } else { "300" };
        let mut configs = vec![
            ("segment.index.bytes", "60"),
            ("index.interval.bytes", "0"),
            ("file.delete.delay.ms", delay),
            ("retention.bytes", keeps.as_deref().unwrap_or("-1")),
        ];
        if spec.compacted {
            configs.extend([
                ("cleanup.policy", "compact"),
                ("min.cleanable.dirty.ratio", "0.01"),
                ("delete.retention.ms", "2000"),
            ]);
        }
        if spec.durable {
            configs.push(("flush.messages", "1"));
        } else if cx.rng.one_in(2) {
            configs.push(("flush.ms", "400"));
        }
        let config = |(name, value): (&'static str, &str)| CreatableTopicConfig {
            name: name.into(),
            value: Some(value.to_owned().into()),
        };
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: spec.name.into(),
                num_partitions: spec.partitions,
                replication_factor: 1,
                configs: configs.into_iter().map(config).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        cx.model.set_topic(spec.name, Known::Changing);
        self.link.send(cx, 7, &request, Some(Ask::Create(topic)))
    }

    fn delete(&mut self, cx: &mut Cx<'_>, topic: usize, id: Uuid) -> Check {
        cx.model.set_topic(self.specs[topic].name, Known::Changing);
        let request = DeleteTopicsRequest {
            topics: vec![DeleteTopicState {
                name: None,
                topic_id: id,
            }],
            timeout_ms: 1000,
            ..Default::default()
        };
        self.link.send(cx, 6, &request, Some(Ask::Delete(topic)))
    }

    fn look(&mut self, cx: &mut Cx<'_>, topic: usize) -> Check {
        let name = self.specs[topic].name;
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(name.into()),
                ..Default::default()
            }]),
            ..Default::default()
        };
        let asked = cx.model.topic(name);
        let version = 10 + cx.rng.below(4) as i16;
        self.link
            .send(cx, version, &request, Some(Ask::Metadata(topic, asked)))
    }

    fn delete_records(&mut self, cx: &mut Cx<'_>, key: Key) -> Check {
        let Some(tp) = tp_of(cx, &self.specs, key) else {
            return Ok(());
        };
        let floor = cx.model.floor(tp);
        let room = (floor.high - floor.start).max(0) as u64;
        let below = match cx.rng.one_in(5) {
            true => floor.high.max(floor.start),
            false => floor.start + cx.rng.below(room / 2 + 1) as i64,
        };
        cx.model.deleting(tp, below);
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: self.specs[key.0].name.into(),
                partitions: vec![DeleteRecordsPartition {
                    partition_index: key.1,
                    offset: below,
                }],
            }],
            timeout_ms: 1000,
        };
        let version = cx.rng.below(3) as i16;
        self.link
            .send(cx, version, &request, Some(Ask::DeleteRecords(key, tp)))
    }

    fn exists(&self, cx: &mut Cx<'_>, topic: usize, id: Uuid) {
        let spec = &self.specs[topic];
        cx.model.set_topic(spec.name, Known::Exists(id));
        for partition in 0..spec.partitions {
            cx.model.declare((id, partition), spec.durable, spec.keeps);
        }
    }

    fn answer(&mut self, cx: &mut Cx<'_>, sent: &Sent<Ask>, body: &[u8]) -> Check {
        match sent.what {
            Ask::Create(topic) => {
                let response: CreateTopicsResponse<'_> = decode(body, sent.version)?;
                let result = response.topics.first().ok_or("no topic in the answer")?;
                match result.error_code {
                    0 => self.exists(cx, topic, result.topic_id),
                    code::NOT_CONTROLLER => {}
                    _ => return Err(format!("a topic is not created: {result:?}")),
                }
            }
            Ask::Delete(topic) => {
                let response: DeleteTopicsResponse<'_> = decode(body, sent.version)?;
                let result = response.responses.first().ok_or("no topic in the answer")?;
                match result.error_code {
                    0 => cx.model.set_topic(self.specs[topic].name, Known::Absent),
                    code::NOT_CONTROLLER => {}
                    _ => return Err(format!("a topic is not deleted: {result:?}")),
                }
            }
            Ask::Metadata(topic, asked) => {
                let response: MetadataResponse<'_> = decode(body, sent.version)?;
                let found = response.topics.first().ok_or("no topic in the answer")?;
                let id = match found.error_code {
                    0 => Some(found.topic_id),
                    code::UNKNOWN_TOPIC_OR_PARTITION => None,
                    _ => return Err(format!("metadata: {found:?}")),
                };
                cx.model.check_topic(self.specs[topic].name, asked, id)?;
                match (asked.0, id) {
                    (Known::Changing, Some(id)) => self.exists(cx, topic, id),
                    (Known::Changing, None) => {
                        cx.model.set_topic(self.specs[topic].name, Known::Absent);
                    }
                    _ => {}
                }
            }
            Ask::DeleteRecords(key, tp) => {
                let response: DeleteRecordsResponse<'_> = decode(body, sent.version)?;
                let topic = response.topics.first().ok_or("no topic in the answer")?;
                let result = topic
                    .partitions
                    .first()
                    .ok_or("no partition in the answer")?;
                match result.error_code {
                    0 => cx.model.deleted(tp, result.low_watermark),
                    // A power loss, or rot, may have taken what was to be deleted; a topic may be
                    // gone.
                    code::OFFSET_OUT_OF_RANGE if !self.specs[key.0].durable => {}
                    code::OFFSET_OUT_OF_RANGE if cx.model.is_rotten(tp) => {}
                    code::UNKNOWN_TOPIC_OR_PARTITION if self.specs[key.0].comes_and_goes => {}
                    code::NOT_LEADER_OR_FOLLOWER | code::KAFKA_STORAGE_ERROR => {}
                    _ => return Err(format!("records are not deleted: {result:?}")),
                }
            }
        }
        Ok(())
    }
}

impl Client for Admin {
    fn name(&self) -> &str {
        &self.link.name
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> Check {
        while let Some(event) = self.link.poll(cx)? {
            if let Event::Answer(sent, body) = event {
                self.answer(cx, &sent, &body)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, cx: &mut Cx<'_>) -> Check {
        self.receive(cx)?;
        if self.link.in_flight() > 0 || !self.link.open(cx) {
            return Ok(());
        }
        for topic in 0..self.specs.len() {
            match cx.model.topic(self.specs[topic].name).0 {
                Known::Changing => return self.look(cx, topic),
                Known::Absent if !self.specs[topic].comes_and_goes => {
                    return self.create(cx, topic);
                }
                _ => {}
            }
        }
        if cx.settling || !cx.rng.one_in(self.pause) {
            return Ok(());
        }
        let topic = cx.rng.below(self.specs.len() as u64) as usize;
        let spec = &self.specs[topic];
        let partition = cx.rng.below(spec.partitions as u64) as i32;
        match cx.model.topic(spec.name).0 {
            Known::Absent => self.create(cx, topic),
            Known::Exists(id) if spec.comes_and_goes && cx.rng.one_in(3) => {
                self.delete(cx, topic, id)
            }
            _ if spec.keeps.is_none()
                && !spec.compacted
                && !spec.transactional
                && cx.rng.one_in(3) =>
            {
                self.delete_records(cx, (topic, partition))
            }
            _ => self.look(cx, topic),
        }
    }

    fn left_to_do(&self, cx: &Cx<'_>) -> Option<String> {
        if self.link.in_flight() > 0 {
            return Some(format!("waits for {:?}", self.link.pending().next()));
        }
        let changing = |s: &&Spec| cx.model.topic(s.name).0 == Known::Changing;
        let topic = self.specs.iter().find(changing)?;
        Some(format!("{} is changing", topic.name))
    }
}
