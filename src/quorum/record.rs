//! The records of the metadata log and their codec.
//!
//! One record on disk is `type: u16, version: u8, length: u32, body`, all big-endian. A body may
//! grow at its end under a higher version; a reader refuses types and versions it does not know,
//! because skipping one would fork the metadata.

pub(crate) use crate::codec::RecordError;
use crate::codec::{Decoder, Encoder};
use crate::image::ResourceType;
use flumen_base::{BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TopicId, Uuid};

/// One change of the cluster metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {
    /// The id of the cluster; written once.
    ClusterId(String),
    /// A broker (re)joined with these listeners.
    RegisterBroker(Broker),
    /// A broker left for good.
    UnregisterBroker {
        /// Its id.
        id: BrokerId,
    },
    /// A broker is fenced (serves nothing) or not any more.
    FenceBroker {
        /// Its id.
        id: BrokerId,
        /// Whether it is fenced from now on.
        fenced: bool,
    },
    /// A new topic, without partitions yet.
    Topic {
        /// Its name.
        name: String,
        /// Its id.
        id: TopicId,
    },
    /// A new partition of a topic; partitions of a topic are created in ascending order without
    /// gaps.
    Partition(PartitionRecord),
    /// A change of a partition; its partition epoch goes up by one.
    PartitionChange(PartitionChange),
    /// The topic is gone, with its partitions and its configuration.
    RemoveTopic {
        /// Its id.
        id: TopicId,
    },
    /// A configuration value was set or removed.
    Config(ConfigRecord),
    /// Producer ids below `next` are taken.
    ProducerIds {
        /// The broker that got the block.
        broker: BrokerId,
        /// First id of the next block.
        next: ProducerId,
    },
    /// The finalized level of a feature; 0 removes it.
    Feature {
        /// Its name (`metadata.version` ...).
        name: String,
        /// Its level.
        level: i16,
    },
}

/// A registered broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: BrokerId,
    /// Goes up with each registration of this id.
    pub epoch: i64,
    /// Names this run of the process.
    pub incarnation: Uuid,
    /// Where it listens, in the order of its `listeners`.
    pub endpoints: Vec<Endpoint>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Whether it serves nothing yet.
    pub fenced: bool,
    /// Ids of its log directories.
    pub log_dirs: Vec<Uuid>,
}

/// One advertised listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Listener name, such as `PLAINTEXT`.
    pub listener: String,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Security protocol by Kafka's number (0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL).
    pub security_protocol: i16,
}

/// A new partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionRecord {
    /// Id of its topic.
    pub topic_id: TopicId,
    /// Its index.
    pub index: PartitionIndex,
    /// Brokers that hold it; the first is the preferred leader.
    pub replicas: Vec<BrokerId>,
    /// Log directory of each replica, in the order of `replicas` ([`Uuid::ZERO`]: not assigned
    /// yet).
    pub directories: Vec<Uuid>,
    /// Replicas in sync.
    pub isr: Vec<BrokerId>,
    /// The leader, -1 if none.
    pub leader: BrokerId,
    /// 0 at creation.
    pub leader_epoch: LeaderEpoch,
    /// 0 at creation.
    pub partition_epoch: i32,
}

/// A change of a partition. `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionChange {
    /// Id of its topic.
    pub topic_id: TopicId,
    /// Its index.
    pub index: PartitionIndex,
    /// A new leader, -1 for none. The leader epoch goes up by one.
    pub leader: Option<BrokerId>,
    /// The replicas in sync.
    pub isr: Option<Vec<BrokerId>>,
    /// The replicas. The leader epoch goes up by one when one leaves.
    pub replicas: Option<Vec<BrokerId>>,
    /// Replicas that a reassignment adds.
    pub adding: Option<Vec<BrokerId>>,
    /// Replicas that a reassignment removes.
    pub removing: Option<Vec<BrokerId>>,
    /// Log directories, as in [`PartitionRecord`].
    pub directories: Option<Vec<Uuid>>,
}

/// A configuration value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRecord {
    /// What it belongs to.
    pub kind: ResourceType,
    /// Name of the resource; empty for the default of all brokers.
    pub resource: String,
    /// Name of the setting.
    pub key: String,
    /// Its value; `None` removes it.
    pub value: Option<String>,
}

const CLUSTER_ID: u16 = 1;
const REGISTER_BROKER: u16 = 2;
const UNREGISTER_BROKER: u16 = 3;
const FENCE_BROKER: u16 = 4;
const TOPIC: u16 = 5;
const PARTITION: u16 = 6;
const PARTITION_CHANGE: u16 = 7;
const REMOVE_TOPIC: u16 = 8;
const CONFIG: u16 = 9;
const PRODUCER_IDS: u16 = 10;
const FEATURE: u16 = 11;
// 12 to 19 are kept for ACLs, SCRAM users, client quotas and delegation tokens.

/// Version of every record body; a type that grows gets its own.
const VERSION: u8 = 0;

impl MetadataRecord {
    /// Appends this record in its disk form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut e = Encoder::new(out);
        e.u16(self.type_number());
        e.u8(VERSION);
        e.sized(|e| self.encode_body(e));
    }

    /// Reads the next record of `d`.
    pub(crate) fn decode(d: &mut Decoder<'_>) -> Result<Self, RecordError> {
        let number = d.u16()?;
        let version = d.u8()?;
        let mut body = d.sized()?;
        if version > VERSION {
            return Err(RecordError::UnknownVersion { number, version });
        }
        let record = Self::decode_body(number, &mut body)?;
        body.finish()?;
        Ok(record)
    }

    fn type_number(&self) -> u16 {
        match self {
            Self::ClusterId(_) => CLUSTER_ID,
            Self::RegisterBroker(_) => REGISTER_BROKER,
            Self::UnregisterBroker { .. } => UNREGISTER_BROKER,
            Self::FenceBroker { .. } => FENCE_BROKER,
            Self::Topic { .. } => TOPIC,
            Self::Partition(_) => PARTITION,
            Self::PartitionChange(_) => PARTITION_CHANGE,
            Self::RemoveTopic { .. } => REMOVE_TOPIC,
            Self::Config(_) => CONFIG,
            Self::ProducerIds { .. } => PRODUCER_IDS,
            Self::Feature { .. } => FEATURE,
        }
    }

    fn encode_body(&self, e: &mut Encoder<'_>) {
        match self {
            Self::ClusterId(id) => e.str(id),
            Self::RegisterBroker(broker) => encode_broker(broker, e),
            Self::UnregisterBroker { id } => e.i32(*id),
            Self::FenceBroker { id, fenced } => {
                e.i32(*id);
                e.bool(*fenced);
            }
            Self::Topic { name, id } => {
                e.str(name);
                e.uuid(id);
            }
            Self::Partition(p) => {
                e.uuid(&p.topic_id);
                e.i32(p.index);
                e.list(&p.replicas, |e, &b| e.i32(b));
                e.list(&p.directories, Encoder::uuid);
                e.list(&p.isr, |e, &b| e.i32(b));
                e.i32(p.leader);
                e.i32(p.leader_epoch);
                e.i32(p.partition_epoch);
            }
            Self::PartitionChange(c) => {
                e.uuid(&c.topic_id);
                e.i32(c.index);
                e.option(c.leader.as_ref(), |e, &b| e.i32(b));
                for brokers in [&c.isr, &c.replicas, &c.adding, &c.removing] {
                    e.option(brokers.as_ref(), |e, ids| e.list(ids, |e, &b| e.i32(b)));
                }
                e.option(c.directories.as_ref(), |e, ids| e.list(ids, Encoder::uuid));
            }
            Self::RemoveTopic { id } => e.uuid(id),
            Self::Config(c) => {
                e.u8(c.kind as u8);
                e.str(&c.resource);
                e.str(&c.key);
                e.option(c.value.as_ref(), |e, v| e.str(v));
            }
            Self::ProducerIds { broker, next } => {
                e.i32(*broker);
                e.i64(*next);
            }
            Self::Feature { name, level } => {
                e.str(name);
                e.i16(*level);
            }
        }
    }

    fn decode_body(number: u16, d: &mut Decoder<'_>) -> Result<Self, RecordError> {
        Ok(match number {
            CLUSTER_ID => Self::ClusterId(d.str()?),
            REGISTER_BROKER => Self::RegisterBroker(decode_broker(d)?),
            UNREGISTER_BROKER => Self::UnregisterBroker { id: d.i32()? },
            FENCE_BROKER => Self::FenceBroker {
                id: d.i32()?,
                fenced: d.bool()?,
            },
            TOPIC => Self::Topic {
                name: d.str()?,
                id: d.uuid()?,
            },
            PARTITION => Self::Partition(PartitionRecord {
                topic_id: d.uuid()?,
                index: d.i32()?,
                replicas: d.list(Decoder::i32)?,
                directories: d.list(Decoder::uuid)?,
                isr: d.list(Decoder::i32)?,
                leader: d.i32()?,
                leader_epoch: d.i32()?,
                partition_epoch: d.i32()?,
            }),
            PARTITION_CHANGE => Self::PartitionChange(PartitionChange {
                topic_id: d.uuid()?,
                index: d.i32()?,
                leader: d.option(Decoder::i32)?,
                isr: d.option(|d| d.list(Decoder::i32))?,
                replicas: d.option(|d| d.list(Decoder::i32))?,
                adding: d.option(|d| d.list(Decoder::i32))?,
                removing: d.option(|d| d.list(Decoder::i32))?,
                directories: d.option(|d| d.list(Decoder::uuid))?,
            }),
            REMOVE_TOPIC => Self::RemoveTopic { id: d.uuid()? },
            CONFIG => {
                let kind = d.u8()?;
                Self::Config(ConfigRecord {
                    kind: ResourceType::from_id(kind as i8)
                        .ok_or(RecordError::Invalid("resource type"))?,
                    resource: d.str()?,
                    key: d.str()?,
                    value: d.option(Decoder::str)?,
                })
            }
            PRODUCER_IDS => Self::ProducerIds {
                broker: d.i32()?,
                next: d.i64()?,
            },
            FEATURE => Self::Feature {
                name: d.str()?,
                level: d.i16()?,
            },
            number => return Err(RecordError::UnknownType { number }),
        })
    }
}

fn encode_broker(b: &Broker, e: &mut Encoder<'_>) {
    e.i32(b.id);
    e.i64(b.epoch);
    e.uuid(&b.incarnation);
    e.list(&b.endpoints, |e, p| {
        e.str(&p.listener);
        e.str(&p.host);
        e.u16(p.port);
        e.i16(p.security_protocol);
    });
    e.option(b.rack.as_ref(), |e, rack| e.str(rack));
    e.bool(b.fenced);
    e.list(&b.log_dirs, Encoder::uuid);
}

fn decode_broker(d: &mut Decoder<'_>) -> Result<Broker, RecordError> {
    Ok(Broker {
        id: d.i32()?,
        epoch: d.i64()?,
        incarnation: d.uuid()?,
        endpoints: d.list(|d| {
            Ok(Endpoint {
                listener: d.str()?,
                host: d.str()?,
                port: d.u16()?,
                security_protocol: d.i16()?,
            })
        })?,
        rack: d.option(Decoder::str)?,
        fenced: d.bool()?,
        log_dirs: d.list(Decoder::uuid)?,
    })
}

/// The records of one proposal in their disk form: `count: u32`, then each record.
pub(crate) fn encode_all(records: &[MetadataRecord]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 * records.len() + 4);
    Encoder::new(&mut out).u32(records.len() as u32);
    for record in records {
        record.encode(&mut out);
    }
    out
}

/// The reverse of [`encode_all`]; trailing bytes are an error.
pub(crate) fn decode_all(bytes: &[u8]) -> Result<Vec<MetadataRecord>, RecordError> {
    let mut d = Decoder::new(bytes);
    let count = d.u32()? as usize;
    // A record takes at least 7 bytes, so a wrong count can't ask for more memory than the bytes
    // justify.
    let mut records = Vec::with_capacity(count.min(bytes.len() / 7));
    for _ in 0..count {
        records.push(MetadataRecord::decode(&mut d)?);
    }
    d.finish()?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> Vec<MetadataRecord> {
        let id = Uuid::from_bytes([9; 16]);
        let broker = Broker {
            id: 1,
            epoch: 7,
            incarnation: id,
            endpoints: vec![Endpoint {
                listener: "EXTERNAL".to_owned(),
                host: "h".to_owned(),
                port: 65535,
                security_protocol: 3,
            }],
            rack: Some(String::new()),
            fenced: true,
            log_dirs: vec![id, Uuid::ZERO],
        };
        vec![
            MetadataRecord::ClusterId("c".to_owned()),
            MetadataRecord::RegisterBroker(broker),
            MetadataRecord::UnregisterBroker { id: -1 },
            MetadataRecord::FenceBroker {
                id: 3,
                fenced: true,
            },
            MetadataRecord::Topic {
                name: "töpic".to_owned(),
                id,
            },
            MetadataRecord::Partition(PartitionRecord {
                topic_id: id,
                replicas: vec![1, 2, 3],
                isr: vec![2],
                leader: -1,
                ..PartitionRecord::default()
            }),
            MetadataRecord::PartitionChange(PartitionChange {
                leader: Some(-1),
                isr: Some(Vec::new()),
                directories: Some(vec![id]),
                ..PartitionChange::default()
            }),
            MetadataRecord::RemoveTopic { id },
            MetadataRecord::Config(ConfigRecord {
                kind: ResourceType::Group,
                resource: "g".to_owned(),
                key: "k".to_owned(),
                value: None,
            }),
            MetadataRecord::ProducerIds {
                broker: 1,
                next: i64::MAX,
            },
            MetadataRecord::Feature {
                name: "metadata.version".to_owned(),
                level: 30,
            },
        ]
    }

    #[test]
    fn records_survive_the_round_trip_and_nothing_shorter_or_longer_is_one() {
        let records = samples();
        let bytes = encode_all(&records);
        assert_eq!(decode_all(&bytes), Ok(records));
        for len in 0..bytes.len() {
            assert!(decode_all(&bytes[..len]).is_err(), "{len}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode_all(&longer), Err(RecordError::Trailing(1)));
    }

    #[test]
    fn records_of_a_later_release_are_refused() {
        let mut bytes = encode_all(&[MetadataRecord::UnregisterBroker { id: 1 }]);
        bytes[6] = 9;
        let number = UNREGISTER_BROKER;
        let version = 9;
        let refused = RecordError::UnknownVersion { number, version };
        assert_eq!(decode_all(&bytes), Err(refused));
        bytes[6] = 0;
        bytes[4] = 0x70;
        assert!(matches!(
            decode_all(&bytes),
            Err(RecordError::UnknownType { number: 0x7003 })
        ));
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0usize..500, with: u8, cut in 0usize..500) {
            let mut bytes = encode_all(&samples());
            let len = bytes.len();
            bytes[at % len] = with;
            bytes.truncate(len - cut % 50);
            let _ = decode_all(&bytes);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_all(&bytes);
        }
    }
}
