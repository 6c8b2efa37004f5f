//! A group changes its kind: an empty one by the first request of the other kind, one with members
//! online (`group.consumer.migration.policy`): up when the first consumer joins a classic group,
//! down when the last consumer leaves a group whose other members are classic.
//!
//! Offsets stay. The records of the old kind are buried in the same batch that brings the new ones.

use super::member::{ClassicMember, ClassicProtocol, LEAVE_EPOCH, Member, MemberState};
use super::state::ConsumerGroup;
use super::static_member::bury_member;
use super::{ConsumerRecord, Refusal};
use crate::classic::{ClassicGroup, Protocol, State, new_member};
use crate::config::CoordinatorConfig;
use crate::group::{Env, Group};
use crate::modern::{Partitions, with_epoch};
use crate::out::{Metadata, Record};
use crate::records;
use crate::streams::StreamsRecord;
use bytes::Bytes;
use flumen_base::ErrorCode;
use flumen_wire::records::{
    self as wire, ConsumerProtocolAssignment, ConsumerProtocolSubscription,
    consumer_protocol_assignment as assignment,
};
use flumen_wire::{Message, Reader};
use std::sync::Arc;

/// The other kind of group, and what is written beside what follows from it.
#[derive(Debug)]
pub(crate) enum Conversion {
    /// A consumer group begins.
    ToConsumer {
        group: Box<ConsumerGroup>,
        /// The records that make it.
        records: Vec<ConsumerRecord>,
        /// There was a classic group, if only one with offsets.
        bury: bool,
    },
    /// A classic group begins.
    ToClassic {
        group: Box<ClassicGroup>,
        /// The tombstones of the consumer group.
        tombstones: Vec<ConsumerRecord>,
        /// Its members are to join anew.
        rebalance: bool,
    },
    /// A streams group begins.
    ToStreams {
        /// There was a classic group, if only one with offsets.
        bury: bool,
    },
    /// A classic group takes the place of a streams group without members.
    FromStreams {
        group: Box<ClassicGroup>,
        /// The tombstones of the streams group.
        tombstones: Vec<StreamsRecord>,
    },
}

impl Conversion {
    /// The consumer group that begins.
    pub(super) fn consumer(&self) -> Option<&ConsumerGroup> {
        match self {
            Self::ToConsumer { group, .. } => Some(group),
            Self::ToClassic { .. } | Self::ToStreams { .. } | Self::FromStreams { .. } => None,
        }
    }

    /// Whether a classic group begins with a rebalance.
    pub(crate) fn rebalances(&self) -> bool {
        matches!(
            self,
            Self::ToClassic {
                rebalance: true,
                ..
            }
        )
    }

    /// The records for the log; `None` when a string is too long for one.
    pub(crate) fn encode(&self, name: &str) -> Option<Vec<Record>> {
        let mut out = Vec::new();
        match self {
            Self::ToConsumer { records, bury, .. } => {
                if *bury {
                    out.push(records::group_tombstone(name)?);
                }
                for record in records {
                    out.push(record.encode(name)?);
                }
            }
            Self::ToClassic {
                group, tombstones, ..
            } => {
                for record in tombstones {
                    out.push(record.encode(name)?);
                }
                let given = |m: &crate::classic::Member| m.assignment.clone();
                out.push(records::group_metadata(name, group, given)?);
            }
            Self::ToStreams { bury: false } => {}
            Self::ToStreams { bury: true } => out.push(records::group_tombstone(name)?),
            Self::FromStreams { group, tombstones } => {
                for record in tombstones {
                    out.push(record.encode(name)?);
                }
                out.push(records::group_metadata(name, group, |_| Bytes::new())?);
            }
        }
        Some(out)
    }
}

fn refuse_upgrade(group: &str, why: &str) -> Refusal {
    let message = format!("Cannot upgrade classic group {group} to consumer group because {why}.");
    Refusal::new(ErrorCode::GroupIdNotFound, message)
}

impl Group {
    /// What a ConsumerGroupHeartbeat begins with: nothing if this is a consumer group, else the
    /// conversion to one, which only a member that `joins` can ask for.
    pub(super) fn plan_begin(
        &self,
        env: &Env<'_>,
        joins: bool,
        created: bool,
    ) -> Result<Option<Conversion>, Refusal> {
        if self.consumer.is_some() {
            return Ok(None);
        }
        if !joins || !self.is_classic_kind() {
            let message = format!("Group {} is not a consumer group.", self.name);
            return Err(Refusal::new(ErrorCode::GroupIdNotFound, message));
        }
        let classic = &self.classic;
        if classic.state == State::Empty {
            return Ok(Some(Conversion::ToConsumer {
                group: Box::new(ConsumerGroup::new()),
                records: Vec::new(),
                bury: !created,
            }));
        }
        if !env.config.consumer_group_migration_policy.upgrades() {
            return Err(refuse_upgrade(&self.name, "online upgrade is disabled"));
        }
        if !classic.is_consumer() {
            let why = "the group does not use the consumer embedded protocol";
            return Err(refuse_upgrade(&self.name, why));
        }
        if classic.members.len() > env.config.consumer_group_max_size {
            let why = "the group size exceeds the consumer group maximum size";
            return Err(refuse_upgrade(&self.name, why));
        }
        let (group, records) =
            upgraded(classic, env.metadata).map_err(|why| refuse_upgrade(&self.name, why))?;
        Ok(Some(Conversion::ToConsumer {
            group: Box::new(group),
            records,
            bury: true,
        }))
    }

    /// An empty consumer or streams group becomes a classic one, for a JoinGroup.
    pub(crate) fn become_classic(&mut self, env: &mut Env<'_>) -> Result<(), ErrorCode> {
        let group = Box::new(ClassicGroup::new(env.now.wall_ms));
        let conversion = if let Some(streams) = &self.streams {
            Conversion::FromStreams {
                group,
                tombstones: streams.tombstones(),
            }
        } else if let Some(consumer) = &self.consumer {
            Conversion::ToClassic {
                group,
                tombstones: consumer.tombstones(),
                rebalance: false,
            }
        } else {
            return Ok(());
        };
        let change = super::Change::<ConsumerRecord> {
            conversion: Some(conversion),
            records: Vec::new(),
        };
        self.write_change(env, change, None).map_err(|r| r.error)
    }
}

/// The consumer group that a classic one becomes: everyone has, and shall have, what the last
/// generation gave it.
fn upgraded(
    classic: &ClassicGroup,
    metadata: &dyn Metadata,
) -> Result<(ConsumerGroup, Vec<ConsumerRecord>), &'static str> {
    const MALFORMED: &str = "the embedded consumer protocol is malformed";
    let protocol = classic
        .protocol
        .clone()
        .or_else(|| classic.select_protocol());
    let protocol = protocol.unwrap_or_default();
    let mut members = Vec::new();
    for m in classic.members.values() {
        let target = read_assignment(&m.assignment, metadata)?;
        let subscription = read_subscription(&m.metadata(&protocol)).ok_or(MALFORMED)?;
        let protocols = m.protocols.iter();
        let member = Member {
            instance: m.instance.clone(),
            rack: subscription.rack,
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            rebalance_timeout_ms: m.rebalance_timeout_ms,
            topics: subscription.topics.iter().map(|t| (&**t).into()).collect(),
            classic: Some(Arc::new(ClassicMember {
                session_timeout_ms: m.session_timeout_ms,
                protocols: protocols
                    .map(|p| ClassicProtocol {
                        name: p.name.clone(),
                        metadata: p.metadata.clone(),
                    })
                    .collect(),
            })),
            epoch: classic.generation,
            previous_epoch: classic.generation,
            state: MemberState::Stable,
            assigned: with_epoch(&target, classic.generation),
            ..Member::new(m.id.clone())
        };
        members.push((Arc::new(member), Arc::new(target)));
    }
    Ok(upgraded_records(classic.generation, &members, metadata))
}

fn upgraded_records(
    epoch: i32,
    members: &[(Arc<Member>, Arc<Partitions>)],
    metadata: &dyn Metadata,
) -> (ConsumerGroup, Vec<ConsumerRecord>) {
    use ConsumerRecord as R;
    let mut group = ConsumerGroup::new();
    let all = members.iter();
    let mut records: Vec<R> = all
        .clone()
        .map(|(m, _)| R::Member(m.id.clone(), Some(m.clone())))
        .collect();
    records.iter().for_each(|record| {
        group.apply(record);
    });
    let hash = group.topic_counts().metadata_hash(metadata);
    let applied = records.len();
    records.push(R::Epoch(Some((epoch, hash))));
    records.extend(
        all.clone()
            .map(|(m, target)| R::Target(m.id.clone(), Some(target.clone()))),
    );
    records.push(R::TargetEpoch(Some((epoch, 0))));
    records.extend(all.map(|(m, _)| R::Current(m.id.clone(), Some(m.clone()))));
    for record in records.iter().skip(applied) {
        group.apply(record);
    }
    (group, records)
}

/// What a consumer says in its subscription.
pub(super) struct Subscription {
    pub(super) topics: Vec<String>,
    pub(super) rack: Option<Box<str>>,
    /// By topic name.
    pub(super) owned: Vec<(String, Vec<i32>)>,
}

/// The int16 before a consumer's subscription or assignment, as far as we know versions.
fn protocol_version(bytes: &[u8]) -> Option<i16> {
    let version = i16::from_be_bytes(*bytes.first_chunk()?);
    let known = *ConsumerProtocolSubscription::VERSIONS.end();
    (version >= 0).then_some(version.min(known))
}

/// Reads a subscription; what a later version has more is left out.
pub(super) fn read_subscription(metadata: &[u8]) -> Option<Subscription> {
    let version = protocol_version(metadata)?;
    let mut reader = Reader::new(metadata.get(2..)?);
    let read = ConsumerProtocolSubscription::decode(&mut reader, version).ok()?;
    let owned = read.owned_partitions.into_iter();
    Some(Subscription {
        topics: read.topics.into_iter().map(String::from).collect(),
        rack: read
            .rack_id
            .filter(|rack| !rack.is_empty())
            .map(|rack| (&*rack).into()),
        owned: owned
            .map(|t| (t.topic.into_owned(), t.partitions))
            .collect(),
    })
}

/// Reads what a leader assigned; topics that don't exist any more are left out.
fn read_assignment(bytes: &[u8], metadata: &dyn Metadata) -> Result<Partitions, &'static str> {
    const MALFORMED: &str = "the embedded consumer protocol is malformed";
    if bytes.is_empty() {
        return Ok(Partitions::new());
    }
    let version = protocol_version(bytes).ok_or(MALFORMED)?;
    let mut reader = Reader::new(bytes.get(2..).unwrap_or(&[]));
    let read = ConsumerProtocolAssignment::decode(&mut reader, version).map_err(|_| MALFORMED)?;
    if read.user_data.is_some_and(|data| !data.is_empty()) {
        return Err(
            "an unsupported custom assignor is in use. Please refer to the documentation \
                    or switch to a default assignor before re-attempting the upgrade",
        );
    }
    let mut partitions = Partitions::new();
    for topic in read.assigned_partitions {
        if let Some(id) = metadata.topic_id(&topic.topic) {
            partitions.insert(id, topic.partitions.into_iter().collect());
        }
    }
    Ok(partitions)
}

/// An assignment as consumers understand it, in the version of their own `metadata`.
pub(super) fn write_assignment(
    partitions: &Partitions,
    protocol_metadata: &[u8],
    metadata: &dyn Metadata,
) -> Option<Bytes> {
    let version = protocol_version(protocol_metadata)?;
    let topics = partitions.iter().filter_map(|(id, indexes)| {
        Some(assignment::TopicPartition {
            topic: metadata.topic_name(*id)?.into(),
            partitions: indexes.iter().copied().collect(),
        })
    });
    let assignment = ConsumerProtocolAssignment {
        assigned_partitions: topics.collect(),
        user_data: None,
    };
    wire::encode_versioned(&assignment, version).ok()
}

/// Whether `count` members may go on as a classic group.
fn may_downgrade(config: &CoordinatorConfig, count: usize) -> bool {
    count > 0
        && config.consumer_group_migration_policy.downgrades()
        && count <= config.group_max_size
}

impl ConsumerGroup {
    /// The tombstones of all its records.
    pub(crate) fn tombstones(&self) -> Vec<ConsumerRecord> {
        use ConsumerRecord as R;
        let mut by_member = Vec::new();
        for id in self.members().keys() {
            bury_member(id, &mut by_member);
        }
        let mut records = Vec::new();
        let is = |kind: fn(&R) -> bool| by_member.iter().filter(move |r| kind(r)).cloned();
        records.extend(is(|r| matches!(r, R::Current(..))));
        records.extend(is(|r| matches!(r, R::Target(..))));
        records.push(R::TargetEpoch(None));
        records.extend(is(|r| matches!(r, R::Member(..))));
        records.extend(self.regexes.keys().map(|r| R::Regex(r.clone(), None)));
        records.push(R::PartitionMetadata(false));
        records.push(R::Epoch(None));
        records
    }

    /// The conversion to a classic group, if these were the last members that are not classic.
    pub(super) fn plan_downgrade(
        &self,
        env: &Env<'_>,
        leaving: &[Arc<Member>],
    ) -> Option<Conversion> {
        let classic = leaving.iter().filter(|m| m.is_classic()).count();
        let left = self.members().len().saturating_sub(leaving.len());
        if self.classic_count() - classic != left || !may_downgrade(env.config, left) {
            return None;
        }
        let stays = |m: &&Arc<Member>| !leaving.iter().any(|l| l.id == m.id);
        let members: Vec<_> = self.members().values().filter(stays).cloned().collect();
        self.downgraded(env, &members, None, true)
    }

    /// The same where a classic member takes the place of the last one that is not.
    pub(super) fn plan_downgrade_by(
        &self,
        env: &Env<'_>,
        joining: &Arc<Member>,
        replaced: &Member,
        rebalance: bool,
    ) -> Option<Conversion> {
        let others = self.members().values().filter(|m| m.id != replaced.id);
        let members: Vec<_> = others.chain([joining]).cloned().collect();
        self.downgraded(env, &members, Some((joining, replaced)), rebalance)
    }

    /// Whether a classic member in place of this one would make the group a classic one.
    pub(super) fn downgrades_without(&self, env: &Env<'_>, replaced: &Member) -> bool {
        !replaced.is_classic()
            && self.classic_count() + 1 == self.members().len()
            && may_downgrade(env.config, self.members().len())
    }

    /// The classic group of these members, in a generation that is the group's epoch, each with
    /// what it shall have. `None` when a member's protocol can't be read.
    fn downgraded(
        &self,
        env: &Env<'_>,
        members: &[Arc<Member>],
        heir: Option<(&Arc<Member>, &Member)>,
        rebalance: bool,
    ) -> Option<Conversion> {
        let mut classic = ClassicGroup::new(env.now.wall_ms);
        classic.generation = self.epoch;
        classic.state = State::Stable;
        for member in members {
            let serial = classic.next_serial();
            classic.add(serial, classic_of(member)?, "consumer");
        }
        classic.protocol = classic.select_protocol();
        classic.subscribed = classic.subscribed_topics();
        let protocol = classic.protocol.clone()?;
        for member in classic.members.values_mut() {
            let id = match heir {
                Some((joining, replaced)) if joining.id == member.id => &replaced.id,
                _ => &member.id,
            };
            let target = self.target(id).cloned().unwrap_or_default();
            let own = member.metadata(&protocol);
            member.assignment = write_assignment(&target, &own, env.metadata)?;
        }
        Some(Conversion::ToClassic {
            group: Box::new(classic),
            tombstones: self.tombstones(),
            rebalance,
        })
    }
}

fn classic_of(member: &Member) -> Option<crate::classic::Member> {
    debug_assert_ne!(member.epoch, LEAVE_EPOCH);
    let classic = member.classic.as_ref()?;
    let protocols = classic.protocols.iter();
    let mut new = new_member(
        member.id.clone(),
        &member.client_id,
        &member.client_host,
        protocols
            .map(|p| Protocol {
                name: p.name.clone(),
                metadata: p.metadata.clone(),
            })
            .collect(),
    );
    new.instance.clone_from(&member.instance);
    new.rebalance_timeout_ms = member.rebalance_timeout_ms;
    new.session_timeout_ms = classic.session_timeout_ms;
    Some(new)
}
