//! The state of the cluster at one position of the metadata log.
//!
//! An [`Image`] is a value: cheap to clone (everything large is behind an `Arc`), never changed
//! once it is shared, and the same on every shard and broker that applied the same records.
//! Applying records copies the outer maps once per batch and deeply only the topics and resources
//! that change.

use crate::record::{Broker, ConfigRecord, MetadataRecord, PartitionChange, PartitionRecord};
use flumen_base::{BrokerId, IdMap, LeaderEpoch, PartitionIndex, ProducerId, TopicId, Uuid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Settings of one resource: name to value, only those that were set.
pub type ConfigMap = BTreeMap<String, String>;

/// What a dynamic setting belongs to, by Kafka's number (`ConfigResource.Type`). Broker loggers (8)
/// are never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ResourceType {
    /// A topic.
    Topic = 2,
    /// A broker by its id as text, or all brokers (empty name).
    Broker = 4,
    /// A client metrics subscription (KIP-714).
    ClientMetrics = 16,
    /// A consumer, share or streams group.
    Group = 32,
}

impl ResourceType {
    /// The stored type with this number on the wire.
    pub fn from_id(id: i8) -> Option<Self> {
        match id {
            2 => Some(Self::Topic),
            4 => Some(Self::Broker),
            16 => Some(Self::ClientMetrics),
            32 => Some(Self::Group),
            _ => None,
        }
    }

    /// Its number on the wire.
    pub fn id(self) -> i8 {
        self as i8
    }
}

/// One partition of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Its index in the topic.
    pub index: PartitionIndex,
    /// Brokers that hold it; the first is the preferred leader.
    pub replicas: Vec<BrokerId>,
    /// Log directory of each replica, in the order of `replicas`.
    pub directories: Vec<Uuid>,
    /// Replicas in sync.
    pub isr: Vec<BrokerId>,
    /// Replicas that a reassignment in progress adds.
    pub adding: Vec<BrokerId>,
    /// Replicas that a reassignment in progress removes.
    pub removing: Vec<BrokerId>,
    /// The leader, -1 if there is none.
    pub leader: BrokerId,
    /// Goes up with each change of leader.
    pub leader_epoch: LeaderEpoch,
    /// Goes up with each change of the partition.
    pub partition_epoch: i32,
}

impl Partition {
    /// Whether the leader is the first replica.
    pub fn has_preferred_leader(&self) -> bool {
        self.replicas.first() == Some(&self.leader)
    }

    /// The log directory of a broker's replica; nothing if it has none.
    pub fn directory_of(&self, broker: BrokerId) -> Option<Uuid> {
        let replica = self.replicas.iter().position(|r| *r == broker)?;
        Some(self.directories.get(replica).copied().unwrap_or(Uuid::ZERO))
    }

    /// Whether a reassignment is in progress.
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id, never used again after its deletion.
    pub id: TopicId,
    /// By index, without gaps.
    pub partitions: Vec<Arc<Partition>>,
}

impl Topic {
    /// The partition with this index.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// Whether it is one of Kafka's internal topics.
    pub fn is_internal(&self) -> bool {
        crate::controller::is_internal_topic(&self.name)
    }
}

/// Why a record does not fit the image. It means that the log was written by something else, or a
/// bug: stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A record for a topic that does not exist.
    #[error("metadata record for unknown topic id {0}")]
    UnknownTopic(TopicId),
    /// A topic with this name or id exists.
    #[error("topic {0} was created twice")]
    DuplicateTopic(String),
    /// A partition that does not exist, or a new one out of order.
    #[error("metadata record for partition {1} of topic id {0}, which is out of order")]
    Partition(TopicId, PartitionIndex),
    /// A record for a broker that is not registered.
    #[error("metadata record for unknown broker {0}")]
    UnknownBroker(BrokerId),
    /// Producer ids would be given out again.
    #[error("producer id block moves back to {0}")]
    ProducerIdsGoBack(ProducerId),
}

/// The whole cluster metadata at one position of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    index: u64,
    term: u64,
    cluster_id: Option<Arc<str>>,
    brokers: Arc<BTreeMap<BrokerId, Arc<Broker>>>,
    topics: Arc<BTreeMap<Arc<str>, Arc<Topic>>>,
    topics_by_id: Arc<IdMap<TopicId, Arc<Topic>>>,
    configs: Arc<BTreeMap<ResourceType, BTreeMap<String, Arc<ConfigMap>>>>,
    features: Arc<BTreeMap<String, i16>>,
    features_index: u64,
    next_producer_id: ProducerId,
    partition_count: usize,
}

impl Image {
    /// Position of the last applied entry in the metadata log; 0 before the first. Goes up with
    /// every change.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Raft term of that entry (Kafka's controller epoch).
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The cluster id, once it has been written.
    pub fn cluster_id(&self) -> Option<&Arc<str>> {
        self.cluster_id.as_ref()
    }

    /// The broker that clients are told to be the controller: requests to any broker reach the real
    /// one, so it is the first that is alive. -1 if none is.
    pub fn controller_id(&self) -> BrokerId {
        self.active_brokers().next().map_or(-1, |b| b.id)
    }

    /// All registered brokers by id.
    pub fn brokers(&self) -> &BTreeMap<BrokerId, Arc<Broker>> {
        &self.brokers
    }

    /// Registered brokers that are not fenced, by ascending id.
    pub fn active_brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values().filter(|b| !b.fenced)
    }

    /// Whether the broker is registered and not fenced.
    pub fn is_active(&self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(|b| !b.fenced)
    }

    /// Whether a broker serves its replica of a partition: it is active, and so is the log
    /// directory, as far as that is known.
    pub fn serves(&self, p: &Partition, id: BrokerId) -> bool {
        let Some(broker) = self.brokers.get(&id).filter(|b| !b.fenced) else {
            return false;
        };
        let dir = p.directory_of(id).unwrap_or(Uuid::ZERO);
        dir.is_zero() || broker.log_dirs.is_empty() || broker.log_dirs.contains(&dir)
    }

    /// All topics by name.
    pub fn topics(&self) -> &BTreeMap<Arc<str>, Arc<Topic>> {
        &self.topics
    }

    /// The topic with this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// The topic with this id.
    pub fn topic_by_id(&self, id: &TopicId) -> Option<&Arc<Topic>> {
        self.topics_by_id.get(id)
    }

    /// Number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// The settings of a resource that were set, if any were.
    pub fn config(&self, kind: ResourceType, resource: &str) -> Option<&Arc<ConfigMap>> {
        self.configs.get(&kind)?.get(resource)
    }

    /// The settings of a topic that were set, if any were.
    pub fn topic_config(&self, name: &str) -> Option<&Arc<ConfigMap>> {
        self.config(ResourceType::Topic, name)
    }

    /// All resources of a type that have settings, by name.
    pub fn configs(&self, kind: ResourceType) -> impl Iterator<Item = (&str, &Arc<ConfigMap>)> {
        let map = self.configs.get(&kind);
        map.into_iter().flatten().map(|(name, c)| (&**name, c))
    }

    /// Finalized features by name.
    pub fn features(&self) -> &BTreeMap<String, i16> {
        &self.features
    }

    /// The finalized level of a feature; 0 if it is not finalized.
    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// Log position of the last change of the features (ApiVersions' `FinalizedFeaturesEpoch`).
    pub fn features_index(&self) -> u64 {
        self.features_index
    }

    /// The first producer id that was never given out.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// Applies records that stand at `index` of the log.
    ///
    /// # Errors
    /// If a record does not fit; the image is then half changed and must be thrown away.
    pub(crate) fn apply_all(
        &mut self,
        records: &[MetadataRecord],
        index: u64,
        term: u64,
    ) -> Result<(), ImageError> {
        self.index = index;
        self.term = term;
        records.iter().try_for_each(|record| self.apply(record))
    }

    /// Moves on over an entry without records.
    pub(crate) fn skip_to(&mut self, index: u64, term: u64) {
        self.index = index;
        self.term = term;
    }

    fn apply(&mut self, record: &MetadataRecord) -> Result<(), ImageError> {
        match record {
            MetadataRecord::ClusterId(id) => self.cluster_id = Some(Arc::from(&**id)),
            MetadataRecord::RegisterBroker(broker) => {
                Arc::make_mut(&mut self.brokers).insert(broker.id, Arc::new(broker.clone()));
            }
            MetadataRecord::UnregisterBroker { id } => {
                let removed = Arc::make_mut(&mut self.brokers).remove(id);
                removed.ok_or(ImageError::UnknownBroker(*id))?;
            }
            MetadataRecord::FenceBroker { id, fenced } => {
                let broker = Arc::make_mut(&mut self.brokers).get_mut(id);
                Arc::make_mut(broker.ok_or(ImageError::UnknownBroker(*id))?).fenced = *fenced;
            }
            MetadataRecord::Topic { name, id } => self.apply_topic(name, *id)?,
            MetadataRecord::Partition(record) => self.apply_partition(record)?,
            MetadataRecord::PartitionChange(change) => self.apply_change(change)?,
            MetadataRecord::RemoveTopic { id } => self.apply_remove(id)?,
            MetadataRecord::Config(record) => self.apply_config(record),
            MetadataRecord::ProducerIds { next, .. } => {
                if *next < self.next_producer_id {
                    return Err(ImageError::ProducerIdsGoBack(*next));
                }
                self.next_producer_id = *next;
            }
            MetadataRecord::Feature { name, level } => {
                let features = Arc::make_mut(&mut self.features);
                if *level == 0 {
                    features.remove(name);
                } else {
                    features.insert(name.clone(), *level);
                }
                self.features_index = self.index;
            }
        }
        Ok(())
    }

    fn apply_topic(&mut self, name: &str, id: TopicId) -> Result<(), ImageError> {
        if self.topics.contains_key(name) || self.topics_by_id.contains_key(&id) {
            return Err(ImageError::DuplicateTopic(name.to_owned()));
        }
        self.put_topic(Arc::new(Topic {
            name: Arc::from(name),
            id,
            partitions: Vec::new(),
        }));
        Ok(())
    }

    fn apply_partition(&mut self, r: &PartitionRecord) -> Result<(), ImageError> {
        let partition = Partition {
            index: r.index,
            replicas: r.replicas.clone(),
            directories: r.directories.clone(),
            isr: r.isr.clone(),
            adding: Vec::new(),
            removing: Vec::new(),
            leader: r.leader,
            leader_epoch: r.leader_epoch,
            partition_epoch: r.partition_epoch,
        };
        self.change_topic(&r.topic_id, |topic| {
            if usize::try_from(r.index) != Ok(topic.partitions.len()) {
                return Err(ImageError::Partition(r.topic_id, r.index));
            }
            topic.partitions.push(Arc::new(partition));
            Ok(())
        })?;
        self.partition_count += 1;
        Ok(())
    }

    fn apply_change(&mut self, c: &PartitionChange) -> Result<(), ImageError> {
        self.change_topic(&c.topic_id, |topic| {
            let slot = usize::try_from(c.index).ok();
            let slot = slot.and_then(|i| topic.partitions.get_mut(i));
            let slot = slot.ok_or(ImageError::Partition(c.topic_id, c.index))?;
            change_partition(Arc::make_mut(slot), c);
            Ok(())
        })
    }

    fn apply_remove(&mut self, id: &TopicId) -> Result<(), ImageError> {
        let topic = Arc::make_mut(&mut self.topics_by_id).remove(id);
        let topic = topic.ok_or(ImageError::UnknownTopic(*id))?;
        Arc::make_mut(&mut self.topics).remove(&topic.name);
        self.partition_count -= topic.partitions.len();
        if self.topic_config(&topic.name).is_some() {
            let configs = Arc::make_mut(&mut self.configs);
            if let Some(topics) = configs.get_mut(&ResourceType::Topic) {
                topics.remove(&*topic.name);
            }
        }
        Ok(())
    }

    fn apply_config(&mut self, r: &ConfigRecord) {
        let resources = Arc::make_mut(&mut self.configs).entry(r.kind).or_default();
        match &r.value {
            Some(value) => {
                let config = resources.entry(r.resource.clone()).or_default();
                Arc::make_mut(config).insert(r.key.clone(), value.clone());
            }
            None => {
                let Some(config) = resources.get_mut(&r.resource) else {
                    return;
                };
                let config = Arc::make_mut(config);
                config.remove(&r.key);
                if config.is_empty() {
                    resources.remove(&r.resource);
                }
            }
        }
    }

    fn put_topic(&mut self, topic: Arc<Topic>) {
        Arc::make_mut(&mut self.topics).insert(topic.name.clone(), topic.clone());
        Arc::make_mut(&mut self.topics_by_id).insert(topic.id, topic);
    }

    /// Changes one topic in both maps; the topic is copied once if somebody else holds it.
    fn change_topic(
        &mut self,
        id: &TopicId,
        change: impl FnOnce(&mut Topic) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let by_id = Arc::make_mut(&mut self.topics_by_id);
        let mut topic = by_id.remove(id).ok_or(ImageError::UnknownTopic(*id))?;
        // The name map's own reference goes first, so that a topic created in this batch is not
        // copied per partition.
        Arc::make_mut(&mut self.topics).remove(&topic.name);
        change(Arc::make_mut(&mut topic))?;
        self.put_topic(topic);
        Ok(())
    }

    /// The records that make this image out of an empty one, in an order that applies.
    pub(crate) fn to_records(&self) -> Vec<MetadataRecord> {
        let mut out = Vec::new();
        if let Some(id) = &self.cluster_id {
            out.push(MetadataRecord::ClusterId(id.to_string()));
        }
        for (name, &level) in &*self.features {
            let name = name.clone();
            out.push(MetadataRecord::Feature { name, level });
        }
        for broker in self.brokers.values() {
            out.push(MetadataRecord::RegisterBroker(Broker::clone(broker)));
        }
        if self.next_producer_id > 0 {
            let next = self.next_producer_id;
            out.push(MetadataRecord::ProducerIds { broker: -1, next });
        }
        for topic in self.topics.values() {
            topic_records(topic, &mut out);
        }
        for (&kind, resources) in &*self.configs {
            for (resource, config) in resources {
                for (key, value) in &**config {
                    out.push(MetadataRecord::Config(ConfigRecord {
                        kind,
                        resource: resource.clone(),
                        key: key.clone(),
                        value: Some(value.clone()),
                    }));
                }
            }
        }
        out
    }

    /// Restores what [`Image::to_records`] can't say.
    pub(crate) fn set_features_index(&mut self, index: u64) {
        self.features_index = index;
    }
}

fn change_partition(p: &mut Partition, c: &PartitionChange) {
    let mut bump = false;
    if let Some(leader) = c.leader {
        p.leader = leader;
        bump = true;
    }
    if let Some(replicas) = &c.replicas {
        bump |= p.replicas.iter().any(|r| !replicas.contains(r));
        p.replicas.clone_from(replicas);
    }
    if let Some(isr) = &c.isr {
        p.isr.clone_from(isr);
    }
    if let Some(adding) = &c.adding {
        p.adding.clone_from(adding);
    }
    if let Some(removing) = &c.removing {
        p.removing.clone_from(removing);
    }
    if let Some(directories) = &c.directories {
        p.directories.clone_from(directories);
    }
    p.partition_epoch += 1;
    p.leader_epoch += i32::from(bump);
}

fn topic_records(topic: &Topic, out: &mut Vec<MetadataRecord>) {
    out.push(MetadataRecord::Topic {
        name: topic.name.to_string(),
        id: topic.id,
    });
    for p in &topic.partitions {
        // A change on top of the record bumps the epochs by what it would have bumped them then:
        // start below.
        let reassigning = p.is_reassigning();
        out.push(MetadataRecord::Partition(PartitionRecord {
            topic_id: topic.id,
            index: p.index,
            replicas: p.replicas.clone(),
            directories: p.directories.clone(),
            isr: p.isr.clone(),
            leader: p.leader,
            leader_epoch: p.leader_epoch,
            partition_epoch: p.partition_epoch - i32::from(reassigning),
        }));
        if reassigning {
            out.push(MetadataRecord::PartitionChange(PartitionChange {
                topic_id: topic.id,
                index: p.index,
                adding: Some(p.adding.clone()),
                removing: Some(p.removing.clone()),
                ..PartitionChange::default()
            }));
        }
    }
}
