//! A node of the metadata group on a disk in memory, driven by hand.
// Each test file uses its part; a test may panic.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use flumen_base::{Disk, OpenMode, Prng};
use flumen_log::testing::MemDisk;
use flumen_quorum::{
    Append, Broker, ConfigRecord, Effect, Endpoint, Image, MetadataRecord, PartitionChange,
    PartitionRecord, ProposalId, Quorum, QuorumConfig, ResourceType,
};
use std::path::Path;
use std::sync::Arc;

pub const DIR: &str = "/data/__cluster_metadata-0";

/// How often random scenarios are repeated.
pub fn rounds(default: u32) -> u32 {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    default * factor.and_then(|f| f.parse().ok()).unwrap_or(1)
}

pub struct Node {
    pub disk: MemDisk,
    pub quorum: Quorum,
    pub image: Arc<Image>,
    pub finished: Vec<ProposalId>,
    pub appends: usize,
    pub snapshots: usize,
}

impl Node {
    pub fn start(disk: &MemDisk, snapshot_bytes: u64) -> Self {
        let loaded = Quorum::load(disk, Path::new(DIR)).expect("loads");
        let config = QuorumConfig {
            node_id: 0,
            file_id_base: 1 << 60,
            snapshot_bytes,
        };
        let mut node = Self {
            disk: disk.clone(),
            quorum: Quorum::new(config, loaded).expect("starts"),
            image: Arc::default(),
            finished: Vec::new(),
            appends: 0,
            snapshots: 0,
        };
        assert!(!node.quorum.is_ready());
        node.settle();
        assert!(node.quorum.is_ready(), "{:?}", node.quorum);
        node
    }

    /// Carries out everything until nothing is left to do.
    pub fn settle(&mut self) {
        let mut effects = Vec::new();
        loop {
            self.quorum.poll(&mut effects);
            if effects.is_empty() {
                return;
            }
            for effect in effects.drain(..) {
                match effect {
                    Effect::Append(append) => {
                        write(&self.disk, &append, true);
                        self.appends += 1;
                        self.quorum.append_done(Ok(()));
                    }
                    Effect::Committed(commit) => {
                        self.image = commit.image;
                        self.finished.extend(commit.finished);
                    }
                    Effect::Job(job) => {
                        self.snapshots += 1;
                        self.quorum.job_done(job.run(&self.disk));
                    }
                    Effect::Fatal(reason) => panic!("{reason}"),
                }
            }
        }
    }

    pub fn propose(&mut self, records: &[MetadataRecord]) -> ProposalId {
        self.quorum.propose(records).expect("accepted")
    }
}

pub fn write(disk: &MemDisk, append: &Append, sync: bool) {
    let file = disk.open(append.file.path(), OpenMode::ReadWrite).unwrap();
    file.write_all_at(&append.bytes, append.pos).unwrap();
    if sync {
        file.sync().unwrap();
    }
}

/// All that an image says, without its position in the log.
pub fn facts(image: &Image) -> String {
    let kinds = [
        ResourceType::Topic,
        ResourceType::Broker,
        ResourceType::ClientMetrics,
        ResourceType::Group,
    ];
    let by_id = image
        .topics()
        .values()
        .all(|t| image.topic_by_id(&t.id) == Some(t));
    let partitions = image.topics().values().map(|t| t.partitions.len());
    assert_eq!(partitions.sum::<usize>(), image.partition_count());
    assert!(by_id, "a topic is not found by its id");
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {}",
        image.cluster_id(),
        image.brokers(),
        image.topics(),
        kinds.map(|kind| image.configs(kind).collect::<Vec<_>>()),
        image.features(),
        image.features_index(),
        image.next_producer_id(),
    )
}

/// Records that fit the image, of a random kind.
pub fn random_records(prng: &mut Prng, image: &Image) -> Vec<MetadataRecord> {
    let topics: Vec<_> = image.topics().values().collect();
    let pick = |prng: &mut Prng| match topics.len() {
        0 => None,
        n => Some(topics[prng.below(n as u64) as usize]),
    };
    match (prng.below(8), pick(prng)) {
        (0, Some(topic)) => vec![MetadataRecord::RemoveTopic { id: topic.id }],
        (1, Some(topic)) => {
            let first = topic.partitions.len() as i32;
            let more = 1 + prng.below(3) as i32;
            let new = (first..first + more).map(|i| partition(topic.id, i));
            new.collect()
        }
        (2, Some(topic)) if !topic.partitions.is_empty() => {
            let index = prng.below(topic.partitions.len() as u64) as i32;
            vec![MetadataRecord::PartitionChange(PartitionChange {
                topic_id: topic.id,
                index,
                leader: prng.one_in(2).then_some(-1),
                isr: prng.one_in(2).then(|| vec![0, 1]),
                replicas: prng.one_in(3).then(|| vec![1, 2]),
                adding: prng.one_in(3).then(|| vec![2]),
                removing: prng.one_in(3).then(|| vec![0]),
                directories: None,
            })]
        }
        (3, topic) => {
            let value = prng.one_in(2).then(|| prng.below(100).to_string());
            let (kind, resource) = match topic {
                Some(topic) if prng.one_in(2) => (ResourceType::Topic, topic.name.to_string()),
                _ => (ResourceType::Broker, String::new()),
            };
            let key = format!("key.{}", prng.below(4));
            vec![MetadataRecord::Config(ConfigRecord {
                kind,
                resource,
                key,
                value,
            })]
        }
        (4, _) => vec![MetadataRecord::ProducerIds {
            broker: 0,
            next: image.next_producer_id() + 1000,
        }],
        (5, _) => vec![
            MetadataRecord::Feature {
                name: format!("feature.{}", prng.below(3)),
                level: prng.below(3) as i16,
            },
            MetadataRecord::RegisterBroker(Broker {
                id: prng.below(3) as i32,
                epoch: image.index() as i64,
                incarnation: prng.uuid(),
                endpoints: vec![Endpoint {
                    listener: "PLAINTEXT".to_owned(),
                    host: "häuschen".to_owned(),
                    port: 9092,
                    security_protocol: 0,
                }],
                rack: prng.one_in(2).then(|| "r1".to_owned()),
                fenced: prng.one_in(2),
                log_dirs: vec![prng.uuid()],
            }),
        ],
        _ => {
            let id = prng.uuid();
            let mut records = vec![MetadataRecord::Topic {
                name: format!("topic-{}", prng.next_u64()),
                id,
            }];
            let count = prng.below(4) as i32;
            records.extend((0..count).map(|index| partition(id, index)));
            records
        }
    }
}

fn partition(topic_id: flumen_base::Uuid, index: i32) -> MetadataRecord {
    MetadataRecord::Partition(PartitionRecord {
        topic_id,
        index,
        replicas: vec![0],
        directories: vec![flumen_base::Uuid::ZERO],
        isr: vec![0],
        leader: 0,
        leader_epoch: 0,
        partition_epoch: 0,
    })
}
