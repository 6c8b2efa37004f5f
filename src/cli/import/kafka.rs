//! The metadata of a Kafka cluster (KRaft), from its newest snapshot and the log behind it.

use anyhow::{Context, bail, ensure};
use flumen_base::{Disk, OpenMode, Uuid};
use flumen_log::batch::Records;
use flumen_log::inspect::{FileKind, Found, Walker};
use flumen_runtime::FsDisk;
use flumen_wire::Message;
use flumen_wire::records::{
    AccessControlEntryRecord, BrokerRegistrationChangeRecord, ClientQuotaRecord, ConfigRecord,
    DelegationTokenRecord, FeatureLevelRecord, PartitionChangeRecord, PartitionRecord,
    ProducerIdsRecord, RegisterBrokerRecord, RemoveAccessControlEntryRecord,
    RemoveDelegationTokenRecord, RemoveTopicRecord, RemoveUserScramCredentialRecord, TopicRecord,
    UnregisterBrokerRecord, UserScramCredentialRecord, read_metadata_prefix,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `PartitionChangeRecord.Leader` when the leader stays.
const NO_LEADER_CHANGE: i32 = -2;
/// Record types without any effect on what is imported.
const WITHOUT_EFFECT: [i16; 6] = [7, 8, 20, 21, 27, 28];
const BEGIN_TRANSACTION: i16 = 23;
const END_TRANSACTION: i16 = 24;
const ABORT_TRANSACTION: i16 = 25;
/// Control records of a snapshot.
const SNAPSHOT_FOOTER: i16 = 4;

/// One partition as the log leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) replicas: Vec<i32>,
    pub(super) is_reassigning: bool,
    pub(super) leader_epoch: i32,
    pub(super) partition_epoch: i32,
}

/// One topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) partitions: BTreeMap<i32, Partition>,
}

/// Whose quota: types and names, no name for the default.
pub(super) type Entity = Vec<(String, Option<String>)>;

/// What Flumen has no place for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsupported {
    pub(super) acls: BTreeSet<Uuid>,
    pub(super) scram_users: BTreeSet<(String, i8)>,
    pub(super) tokens: BTreeSet<String>,
    pub(super) quotas: BTreeSet<(Entity, String)>,
}

impl Unsupported {
    /// What there is, with its number.
    pub(super) fn list(&self) -> Vec<String> {
        let counts = [
            (self.acls.len(), "ACLs"),
            (self.scram_users.len(), "SCRAM credentials"),
            (self.tokens.len(), "delegation tokens"),
            (self.quotas.len(), "client quotas"),
        ];
        let there = counts.iter().filter(|(n, _)| *n > 0);
        there.map(|(n, what)| format!("{n} {what}")).collect()
    }
}

/// The state of the cluster at the end of its log.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata {
    /// One above the last record.
    pub(super) end_offset: i64,
    /// The highest epoch of a leader of the metadata log.
    pub(super) epoch: i32,
    pub(super) topics: BTreeMap<Uuid, Topic>,
    /// By resource type and name.
    pub(super) configs: BTreeMap<(i8, String), BTreeMap<String, String>>,
    pub(super) features: BTreeMap<String, i16>,
    pub(super) next_producer_id: i64,
    pub(super) brokers: BTreeMap<i32, RegisterBrokerRecord<'static>>,
    pub(super) unsupported: Unsupported,
    /// Records of a transaction that has not ended.
    open: Option<Vec<Vec<u8>>>,
}

/// Reads `__cluster_metadata-0`.
pub(super) fn read(dir: &Path) -> anyhow::Result<Metadata> {
    let mut metadata = Metadata::default();
    let mut snapshot: Option<(i64, PathBuf)> = None;
    let mut segments = BTreeSet::new();
    for (name, _) in FsDisk.list(dir)? {
        match FileKind::of(&name) {
            FileKind::KafkaSnapshot => {
                let offset = name.get(..20).and_then(|digits| digits.parse().ok());
                let offset = offset.context("a snapshot's name")?;
                if snapshot.as_ref().is_none_or(|(last, _)| offset > *last) {
                    snapshot = Some((offset, dir.join(&name)));
                }
            }
            FileKind::Log(base) => {
                segments.insert(base);
            }
            _ => {}
        }
    }
    let from = match &snapshot {
        None => 0,
        Some((offset, path)) => {
            let whole = metadata.read_file(path, 0, true)?;
            ensure!(
                whole,
                "{} is not complete: it has no footer",
                path.display()
            );
            metadata.end_offset = *offset;
            *offset
        }
    };
    let first = segments.range(..=from).next_back().copied();
    let first = first.with_context(|| format!("{} lacks records from {from} on", dir.display()))?;
    for &base in segments.range(first..) {
        let path = dir.join(format!("{base:020}.log"));
        ensure!(
            base <= metadata.end_offset.max(from) || base == first,
            "{}: records from {} on are missing before it",
            path.display(),
            metadata.end_offset
        );
        metadata.read_file(&path, from, false)?;
    }
    // A transaction without an end is aborted by the next controller.
    metadata.open = None;
    Ok(metadata)
}

impl Metadata {
    /// Takes in the records at or above `from`; returns whether a snapshot's footer was there.
    fn read_file(&mut self, path: &Path, from: i64, is_snapshot: bool) -> anyhow::Result<bool> {
        let shown = path.display();
        let file = FsDisk.open(path, OpenMode::Read)?;
        let mut walker = Walker::new(&*file, file.len()?, 0);
        let mut has_footer = false;
        while let Some(found) = walker.next_found()? {
            let batch = match found {
                Found::Batch(batch) => batch,
                Found::Damage(damage) if damage.is_padding => continue,
                Found::Damage(damage) => bail!("{shown} at byte {}: {}", damage.pos, damage.error),
            };
            let place = || format!("{shown} at byte {}", batch.pos);
            batch.crc.with_context(place)?;
            let header = batch.header();
            self.epoch = self.epoch.max(header.leader_epoch());
            if !is_snapshot {
                self.end_offset = self.end_offset.max(header.last_offset().saturating_add(1));
            }
            let section = walker.records(&batch)?.with_context(place)?;
            for record in Records::new(&section, header.count()) {
                let record = record.with_context(place)?;
                let offset = header
                    .base_offset()
                    .saturating_add(record.offset_delta.into());
                if header.is_control() {
                    let kind = record.key.and_then(|k| k.get(2..4)?.first_chunk().copied());
                    has_footer |= kind.map(i16::from_be_bytes) == Some(SNAPSHOT_FOOTER);
                } else if is_snapshot || offset >= from {
                    let value = record.value.with_context(place)?;
                    self.take(value)
                        .with_context(|| format!("{}, offset {offset}", place()))?;
                }
            }
        }
        Ok(has_footer)
    }

    /// One record: at once, or when its transaction ends.
    fn take(&mut self, value: &[u8]) -> anyhow::Result<()> {
        let (kind, _, _) = read_metadata_prefix(value)?;
        match (kind, &mut self.open) {
            (BEGIN_TRANSACTION, open) => *open = Some(Vec::new()),
            (ABORT_TRANSACTION, open) => *open = None,
            (END_TRANSACTION, open) => {
                for value in open.take().unwrap_or_default() {
                    self.apply(&value)?;
                }
            }
            (_, Some(open)) => open.push(value.to_vec()),
            (_, None) => self.apply(value)?,
        }
        Ok(())
    }

    fn apply(&mut self, value: &[u8]) -> anyhow::Result<()> {
        let (kind, v, body) = read_metadata_prefix(value)?;
        match kind {
            0 => self.register(RegisterBrokerRecord::decode_exact(body, v)?),
            1 => {
                let gone = UnregisterBrokerRecord::decode_exact(body, v)?;
                self.brokers.remove(&gone.broker_id);
            }
            2 => {
                let topic = TopicRecord::decode_exact(body, v)?;
                let name = topic.name.into_owned();
                let partitions = BTreeMap::new();
                self.topics
                    .insert(topic.topic_id, Topic { name, partitions });
            }
            3 => self.partition(&PartitionRecord::decode_exact(body, v)?)?,
            4 => self.config(&ConfigRecord::decode_exact(body, v)?),
            5 => self.change(&PartitionChangeRecord::decode_exact(body, v)?)?,
            9 => {
                let gone = RemoveTopicRecord::decode_exact(body, v)?.topic_id;
                let topic = self
                    .topics
                    .remove(&gone)
                    .context("removes an unknown topic")?;
                self.configs.remove(&(TOPIC_CONFIG, topic.name));
            }
            12 => {
                let feature = FeatureLevelRecord::decode_exact(body, v)?;
                let name = feature.name.into_owned();
                match feature.feature_level {
                    0 => self.features.remove(&name),
                    level => self.features.insert(name, level),
                };
            }
            15 => {
                let next = ProducerIdsRecord::decode_exact(body, v)?.next_producer_id;
                self.next_producer_id = self.next_producer_id.max(next);
            }
            17 => {
                let change = BrokerRegistrationChangeRecord::decode_exact(body, v)?;
                if let Some(broker) = self.brokers.get_mut(&change.broker_id)
                    && !change.log_dirs.is_empty()
                {
                    broker.log_dirs = change.log_dirs;
                }
            }
            10 | 11 | 14 | 18 | 19 | 22 | 26 => self.unsupported(kind, v, body)?,
            _ if WITHOUT_EFFECT.contains(&kind) => {}
            _ => bail!("metadata record type {kind} is not of Kafka 4.3"),
        }
        Ok(())
    }

    fn register(&mut self, broker: RegisterBrokerRecord<'_>) {
        self.brokers.insert(broker.broker_id, broker.into_static());
    }

    fn config(&mut self, record: &ConfigRecord<'_>) {
        let resource = (record.resource_type, record.resource_name.to_string());
        let config = self.configs.entry(resource.clone()).or_default();
        match &record.value {
            Some(value) => drop(config.insert(record.name.to_string(), value.to_string())),
            None => drop(config.remove(&*record.name)),
        }
        if config.is_empty() {
            self.configs.remove(&resource);
        }
    }

    fn partition(&mut self, record: &PartitionRecord) -> anyhow::Result<()> {
        let topic = self.topics.get_mut(&record.topic_id);
        let topic = topic.context("a partition of an unknown topic")?;
        let partition = Partition {
            replicas: record.replicas.clone(),
            is_reassigning: !record.adding_replicas.is_empty()
                || !record.removing_replicas.is_empty(),
            leader_epoch: record.leader_epoch,
            partition_epoch: record.partition_epoch,
        };
        topic.partitions.insert(record.partition_id, partition);
        Ok(())
    }

    fn change(&mut self, record: &PartitionChangeRecord) -> anyhow::Result<()> {
        let topic = self.topics.get_mut(&record.topic_id);
        let topic = topic.context("a change of an unknown topic's partition")?;
        let partition = topic.partitions.get_mut(&record.partition_id);
        let partition = partition.context("a change of an unknown partition")?;
        if let Some(replicas) = &record.replicas {
            partition.replicas.clone_from(replicas);
        }
        let moves = [&record.adding_replicas, &record.removing_replicas];
        if moves.iter().any(|list| list.is_some()) {
            let some = |list: &&Option<Vec<i32>>| list.as_ref().is_some_and(|l| !l.is_empty());
            partition.is_reassigning = moves.iter().any(some);
        }
        partition.leader_epoch += i32::from(record.leader != NO_LEADER_CHANGE);
        partition.partition_epoch += 1;
        Ok(())
    }

    /// Kept only to say what would be lost.
    fn unsupported(&mut self, kind: i16, v: i16, body: &[u8]) -> anyhow::Result<()> {
        let found = &mut self.unsupported;
        match kind {
            10 => {
                let token = DelegationTokenRecord::decode_exact(body, v)?;
                found.tokens.insert(token.token_id.into_owned());
            }
            26 => {
                let token = RemoveDelegationTokenRecord::decode_exact(body, v)?;
                found.tokens.remove(&*token.token_id);
            }
            11 => {
                let user = UserScramCredentialRecord::decode_exact(body, v)?;
                found
                    .scram_users
                    .insert((user.name.into_owned(), user.mechanism));
            }
            22 => {
                let user = RemoveUserScramCredentialRecord::decode_exact(body, v)?;
                found
                    .scram_users
                    .remove(&(user.name.into_owned(), user.mechanism));
            }
            18 => {
                found
                    .acls
                    .insert(AccessControlEntryRecord::decode_exact(body, v)?.id);
            }
            19 => {
                found
                    .acls
                    .remove(&RemoveAccessControlEntryRecord::decode_exact(body, v)?.id);
            }
            _ => {
                let quota = ClientQuotaRecord::decode_exact(body, v)?;
                let entity = quota.entity.into_iter().map(|e| {
                    let name = e.entity_name.map(|n| n.into_owned());
                    (e.entity_type.into_owned(), name)
                });
                let key = (entity.collect::<Entity>(), quota.key.into_owned());
                match quota.remove {
                    true => found.quotas.remove(&key),
                    false => found.quotas.insert(key),
                };
            }
        }
        Ok(())
    }
}

/// `ConfigResource.Type` of topics.
const TOPIC_CONFIG: i8 = 2;
