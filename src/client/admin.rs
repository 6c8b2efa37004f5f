//! Topics, configs and groups from an administrator's point of view.

use crate::client::{Client, text, topic_name};
use crate::{ClientError, TopicInfo};
use bytes::Buf;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroupMember;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    BrokerId, ConsumerProtocolAssignment, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteGroupsRequest, DeleteGroupsResponse, DeleteTopicsRequest, DescribeConfigsRequest,
    DescribeGroupsRequest, GroupId, IncrementalAlterConfigsRequest, ListGroupsRequest,
    OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::Decodable;
use std::collections::BTreeMap;
use std::time::Duration;

/// A topic to create.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// -1: the broker's default.
    pub partitions: i32,
    /// -1: the broker's default.
    pub replication_factor: i16,
    /// Brokers per partition; if not empty, `partitions` and `replication_factor` must be -1.
    pub assignment: Vec<Vec<i32>>,
    /// Its configs.
    pub configs: Vec<(String, String)>,
}

/// A change of one config.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ConfigOp {
    Set(String, String),
    /// Back to the default.
    Delete(String),
}

/// A config as the broker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ConfigValue {
    pub name: String,
    /// `None`: not set or secret.
    pub value: Option<String>,
    /// 1: set on the topic; 5: Kafka's default.
    pub source: i8,
    pub read_only: bool,
    pub sensitive: bool,
}

/// A group in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GroupSummary {
    pub group: String,
    pub protocol_type: String,
    pub state: String,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GroupMember {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub host: String,
    pub assignment: Vec<(String, Vec<i32>)>,
}

/// A group in full.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GroupDescription {
    pub group: String,
    pub state: String,
    pub protocol_type: String,
    pub protocol: String,
    pub coordinator: i32,
    pub members: Vec<GroupMember>,
}

/// Committed offsets by topic and partition.
pub type GroupOffsets = BTreeMap<(String, i32), i64>;

const TOPIC: i8 = 2;

impl Client {
    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.options.timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Every topic, or those named (a missing one is an error).
    pub fn topics(&mut self, names: Option<&[&str]>) -> Result<Vec<TopicInfo>, ClientError> {
        let metadata = self.metadata(names, false)?;
        for topic in &metadata.topics {
            if topic.error_code == 3 {
                return Err(ClientError::NotFound(format!("topic '{}'", topic.name)));
            }
            ClientError::check(topic.error_code, || format!("topic '{}'", topic.name))?;
        }
        let mut topics = metadata.topics;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Creates a topic.
    pub fn create_topic(&mut self, topic: &NewTopic) -> Result<(), ClientError> {
        let assignment = topic.assignment.iter().enumerate().map(|(i, brokers)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(i as i32)
                .with_broker_ids(brokers.iter().map(|b| BrokerId(*b)).collect())
        });
        let configs = topic.configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
        });
        let wanted = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions)
            .with_replication_factor(topic.replication_factor)
            .with_assignments(assignment.collect())
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(self.timeout_ms());
        let controller = self.controller()?;
        let response = self.call_broker(controller, &request, 7, self.options.timeout)?;
        let what = || format!("creating topic '{}'", topic.name);
        let first = response.topics.first();
        let answer = first.ok_or_else(|| ClientError::Malformed(what()))?;
        ClientError::check_message(answer.error_code, answer.error_message.as_deref(), what)
    }

    /// Deletes a topic.
    pub fn delete_topic(&mut self, name: &str) -> Result<(), ClientError> {
        let controller = self.controller()?;
        let version = self.broker(controller)?.version::<DeleteTopicsRequest>(6)?;
        let request = DeleteTopicsRequest::default().with_timeout_ms(self.timeout_ms());
        let request = if version >= 6 {
            let state = DeleteTopicState::default().with_name(Some(topic_name(name)));
            request.with_topics(vec![state])
        } else {
            request.with_topic_names(vec![topic_name(name)])
        };
        let response = self.call_broker(controller, &request, 6, self.options.timeout)?;
        self.topics.remove(name);
        let what = || format!("deleting topic '{name}'");
        let first = response.responses.first();
        let answer = first.ok_or_else(|| ClientError::Malformed(what()))?;
        ClientError::check_message(answer.error_code, answer.error_message.as_deref(), what)
    }

    /// Raises the number of partitions of a topic to `count`.
    pub fn create_partitions(&mut self, name: &str, count: i32) -> Result<(), ClientError> {
        let wanted = CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(self.timeout_ms());
        let controller = self.controller()?;
        let response = self.call_broker(controller, &request, 3, self.options.timeout)?;
        self.topics.remove(name);
        let what = || format!("adding partitions to topic '{name}'");
        let first = response.results.first();
        let answer = first.ok_or_else(|| ClientError::Malformed(what()))?;
        ClientError::check_message(answer.error_code, answer.error_message.as_deref(), what)
    }

    /// Every config of a topic.
    pub fn topic_configs(&mut self, name: &str) -> Result<Vec<ConfigValue>, ClientError> {
        self.describe_configs(TOPIC, name)
    }

    /// Every config of a resource (2 topic, 4 broker, 16 client metrics, 32 group). A broker is
    /// asked itself.
    pub fn describe_configs(
        &mut self,
        resource_type: i8,
        name: &str,
    ) -> Result<Vec<ConfigValue>, ClientError> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let response = match name.parse() {
            Ok(broker) if resource_type == 4 => {
                self.call_broker(broker, &request, 4, Duration::ZERO)?
            }
            _ => self.call_any(&request, 4)?,
        };
        let what = || format!("configs of '{name}'");
        let first = response.results.first();
        let answer = first.ok_or_else(|| ClientError::Malformed(what()))?;
        ClientError::check_message(answer.error_code, answer.error_message.as_deref(), what)?;
        let value = |c: &DescribeConfigsResourceResult| ConfigValue {
            name: c.name.to_string(),
            value: c.value.as_ref().map(|v| v.to_string()),
            source: c.config_source,
            read_only: c.read_only,
            sensitive: c.is_sensitive,
        };
        Ok(answer.configs.iter().map(value).collect())
    }

    /// Changes configs of a topic.
    pub fn alter_topic_configs(&mut self, name: &str, ops: &[ConfigOp]) -> Result<(), ClientError> {
        let alter = |op: &ConfigOp| match op {
            ConfigOp::Set(key, value) => AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(0)
                .with_value(Some(text(value))),
            ConfigOp::Delete(key) => AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(1)
                .with_value(None),
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(name))
            .with_configs(ops.iter().map(alter).collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = self.call_any(&request, 1)?;
        let what = || format!("changing topic '{name}'");
        let first = response.responses.first();
        let answer = first.ok_or_else(|| ClientError::Malformed(what()))?;
        ClientError::check_message(answer.error_code, answer.error_message.as_deref(), what)
    }

    /// Every group of the cluster: all brokers are asked.
    pub fn groups(&mut self) -> Result<Vec<GroupSummary>, ClientError> {
        let brokers = self.metadata(Some(&[]), false)?.brokers;
        let mut groups = Vec::new();
        for broker in brokers {
            // Coordinators that are loading answer later.
            let response = self.retrying(|client| {
                let request = ListGroupsRequest::default();
                let response = client.call_broker(broker.id, &request, 4, Duration::ZERO)?;
                ClientError::check(response.error_code, || "listing groups".to_owned())?;
                Ok(response)
            })?;
            groups.extend(response.groups.iter().map(|g| GroupSummary {
                group: g.group_id.to_string(),
                protocol_type: g.protocol_type.to_string(),
                state: g.group_state.to_string(),
            }));
        }
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(groups)
    }

    /// One group with its members. A group that does not exist comes back as `Dead` (or an error,
    /// from new brokers).
    pub fn describe_group(&mut self, group: &str) -> Result<GroupDescription, ClientError> {
        let id = GroupId(text(group));
        let request = DescribeGroupsRequest::default().with_groups(vec![id]);
        let (coordinator, response) = self.call_coordinator(group, &request, 6, |r| {
            r.groups.first().map_or(0, |g| g.error_code)
        })?;
        let what = || format!("group '{group}'");
        let first = response.groups.first();
        let answer = first.ok_or_else(|| ClientError::Malformed(what()))?;
        if answer.error_code == 69 {
            return Err(ClientError::NotFound(what()));
        }
        ClientError::check_message(answer.error_code, answer.error_message.as_deref(), what)?;
        let member = |m: &DescribedGroupMember| GroupMember {
            member_id: m.member_id.to_string(),
            instance_id: m.group_instance_id.as_ref().map(|i| i.to_string()),
            client_id: m.client_id.to_string(),
            host: m.client_host.to_string(),
            assignment: decode_assignment(&m.member_assignment),
        };
        Ok(GroupDescription {
            group: group.to_owned(),
            state: answer.group_state.to_string(),
            protocol_type: answer.protocol_type.to_string(),
            protocol: answer.protocol_data.to_string(),
            coordinator,
            members: answer.members.iter().map(member).collect(),
        })
    }

    /// Deletes a group without members.
    pub fn delete_group(&mut self, group: &str) -> Result<(), ClientError> {
        let names = vec![GroupId(text(group))];
        let request = DeleteGroupsRequest::default().with_groups_names(names);
        let code = |r: &DeleteGroupsResponse| r.results.first().map_or(0, |r| r.error_code);
        let (_, response) = self.call_coordinator(group, &request, 2, code)?;
        ClientError::check(code(&response), || format!("deleting group '{group}'"))
    }

    /// What a group has committed.
    pub fn committed(&mut self, group: &str) -> Result<GroupOffsets, ClientError> {
        let coordinator = self.coordinator(group, 0)?;
        let id = GroupId(text(group));
        let version = self.broker(coordinator)?.version::<OffsetFetchRequest>(9)?;
        let request = if version >= 8 {
            let asked = OffsetFetchRequestGroup::default()
                .with_group_id(id)
                .with_member_epoch(-1)
                .with_topics(None);
            OffsetFetchRequest::default().with_groups(vec![asked])
        } else {
            OffsetFetchRequest::default()
                .with_group_id(id)
                .with_topics(None)
        };
        let what = || format!("offsets of group '{group}'");
        let (_, response) = self.call_coordinator(group, &request, 9, |r| {
            let first = r.groups.first().map_or(0, |g| g.error_code);
            if first == 0 { r.error_code } else { first }
        })?;
        let mut offsets = GroupOffsets::new();
        ClientError::check(response.error_code, what)?;
        for answer in &response.groups {
            ClientError::check(answer.error_code, what)?;
            for topic in &answer.topics {
                for p in &topic.partitions {
                    offsets.insert(
                        (topic.name.to_string(), p.partition_index),
                        p.committed_offset,
                    );
                }
            }
        }
        for topic in &response.topics {
            for p in &topic.partitions {
                offsets.insert(
                    (topic.name.to_string(), p.partition_index),
                    p.committed_offset,
                );
            }
        }
        offsets.retain(|_, offset| *offset >= 0);
        Ok(offsets)
    }

    /// Commits offsets for a group from outside of it: it must have no members.
    pub fn set_committed(
        &mut self,
        group: &str,
        offsets: &GroupOffsets,
    ) -> Result<(), ClientError> {
        self.commit_as(group, -1, "", offsets)
    }

    pub(crate) fn commit_as(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        offsets: &GroupOffsets,
    ) -> Result<(), ClientError> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition), offset) in offsets {
            let commit = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text("")));
            topics.entry(topic).or_default().push(commit);
        }
        let topic = |(name, partitions)| {
            OffsetCommitRequestTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions)
        };
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(text(member))
            .with_topics(topics.into_iter().map(topic).collect());
        let (_, response) = self.call_coordinator(group, &request, 9, |r| {
            let first = r.topics.first().and_then(|t| t.partitions.first());
            first.map_or(0, |p| p.error_code)
        })?;
        for topic in &response.topics {
            for p in &topic.partitions {
                ClientError::check(p.error_code, || {
                    format!("commit of {}-{}", topic.name.as_str(), p.partition_index)
                })?;
            }
        }
        Ok(())
    }
}

/// The partitions of a member of a consumer group; nothing if the bytes are not such an assignment.
pub(crate) fn decode_assignment(bytes: &bytes::Bytes) -> Vec<(String, Vec<i32>)> {
    let mut bytes = bytes.clone();
    if bytes.len() < 2 {
        return Vec::new();
    }
    let version = bytes.get_i16().clamp(0, 3);
    let Ok(assignment) = ConsumerProtocolAssignment::decode(&mut bytes, version) else {
        return Vec::new();
    };
    let topics = assignment.assigned_partitions.iter();
    topics
        .map(|t| (t.topic.to_string(), t.partitions.clone()))
        .collect()
}
