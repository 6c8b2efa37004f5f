//! CreateTopics (19), versions 2 to 7, and automatic creation.
//!
//! - A request is checked topic by topic; the topics that pass are created together, in one entry.
//! - From version 4 on -1 partitions or replicas mean the defaults; the response of 5 and up has
//!   the topic's settings.
//! - A name may be used once in a request; names that differ only in '.' and '_' collide (metrics
//!   names).
//! - Kafka's controller mutation quota and create policies do not exist here.

use super::{ApiError, Context, Decision, RECORDS_PER_REQUEST_MAX, owned, placement, wire_error};
use crate::image::{ConfigMap, Image, ResourceType};
use crate::record::{ConfigRecord, MetadataRecord};
use flumen_base::{BrokerId, ErrorCode, Prng};
use flumen_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use flumen_wire::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use flumen_wire::messages::{CreateTopicsRequest, CreateTopicsResponse};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

const NAME_LEN_MAX: usize = 249;
const CONSUMER_OFFSETS: &str = "__consumer_offsets";
const TRANSACTION_STATE: &str = "__transaction_state";
const SHARE_GROUP_STATE: &str = "__share_group_state";
const CLUSTER_METADATA: &str = "__cluster_metadata";

/// Whether a topic of this name is one of the broker's own (`Topic.INTERNAL_TOPICS`).
pub fn is_internal_topic(name: &str) -> bool {
    matches!(
        name,
        CONSUMER_OFFSETS | TRANSACTION_STATE | SHARE_GROUP_STATE
    )
}

/// Checks a topic's name.
///
/// # Errors
/// What is wrong with it, in Kafka's words (for INVALID_TOPIC_EXCEPTION).
pub fn validate_topic_name(name: &str) -> Result<(), String> {
    let reason = match name {
        "" => "the empty string is not allowed".to_owned(),
        "." | ".." => format!("'{name}' is not allowed"),
        _ if name.encode_utf16().count() > NAME_LEN_MAX => {
            format!("the length of '{name}' is longer than the max allowed length {NAME_LEN_MAX}")
        }
        _ if !name.bytes().all(is_legal) => format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' \
             and '-'"
        ),
        _ => return Ok(()),
    };
    Err(format!("Topic name is invalid: {reason}"))
}

fn is_legal(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-')
}

/// Creates topics.
pub fn create_topics(
    ctx: &Context<'_>,
    prng: &mut Prng,
    request: &CreateTopicsRequest<'_>,
) -> Decision<CreateTopicsResponse<'static>> {
    let counts = count_names(request.topics.iter().map(|t| &*t.name));
    let once = |topic: &&CreatableTopic<'_>| counts.get(&*topic.name) == Some(&1);
    let accepted: Vec<_> = request.topics.iter().filter(once).collect();
    if requested_partitions(ctx, &accepted) > RECORDS_PER_REQUEST_MAX {
        let error = ApiError::new(
            ErrorCode::PolicyViolation,
            "Excessively large number of partitions per request.",
        );
        return refuse_all(request, error);
    }
    let mut batch = Batch {
        ctx,
        prng,
        records: Vec::new(),
        created: BTreeSet::new(),
    };
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in accepted {
        let result = batch.create(topic);
        results.push(result.unwrap_or_else(|e| error_result(&topic.name, e)));
    }
    for (name, _) in counts.iter().filter(|(_, count)| **count > 1) {
        let e = ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name.");
        results.push(error_result(name, e));
    }
    let records = batch.records;
    if records.len() > RECORDS_PER_REQUEST_MAX {
        return refuse_all(request, ApiError::too_many_records());
    }
    let response = CreateTopicsResponse {
        throttle_time_ms: 0,
        topics: results,
    };
    Decision::new(records, request.validate_only, response)
}

/// Creates topics that a client asked about, with Kafka's defaults for the broker's own. The
/// response has one result per distinct name; what a client is told of it is up to the API that it
/// used.
pub fn auto_create_topics(
    ctx: &Context<'_>,
    prng: &mut Prng,
    names: &[&str],
) -> Decision<CreateTopicsResponse<'static>> {
    let distinct: BTreeSet<&str> = names.iter().copied().collect();
    let request = CreateTopicsRequest {
        topics: distinct.iter().map(|name| auto_topic(ctx, name)).collect(),
        ..CreateTopicsRequest::default()
    };
    create_topics(ctx, prng, &request)
}

fn auto_topic<'a>(ctx: &Context<'_>, name: &'a str) -> CreatableTopic<'a> {
    let (offsets, transactions) = (&ctx.broker.offsets, &ctx.broker.transactions);
    let shares = &ctx.broker.share;
    let (partitions, factor, configs) = match name {
        CONSUMER_OFFSETS => (
            offsets.topic_num_partitions,
            offsets.topic_replication_factor,
            vec![
                ("cleanup.policy", "compact".to_owned()),
                ("compression.type", "producer".to_owned()),
                ("segment.bytes", offsets.topic_segment_bytes.to_string()),
            ],
        ),
        TRANSACTION_STATE => (
            transactions.state_log_num_partitions,
            transactions.state_log_replication_factor,
            vec![
                ("cleanup.policy", "compact".to_owned()),
                ("compression.type", "uncompressed".to_owned()),
                (
                    "min.insync.replicas",
                    transactions.state_log_min_isr.to_string(),
                ),
                (
                    "segment.bytes",
                    transactions.state_log_segment_bytes.to_string(),
                ),
                ("unclean.leader.election.enable", "false".to_owned()),
            ],
        ),
        SHARE_GROUP_STATE => (
            shares.state_topic_num_partitions,
            shares.state_topic_replication_factor,
            vec![
                ("cleanup.policy", "delete".to_owned()),
                ("compression.type", "producer".to_owned()),
                (
                    "min.insync.replicas",
                    shares.state_topic_min_isr.to_string(),
                ),
                ("retention.ms", "-1".to_owned()),
                (
                    "segment.bytes",
                    shares.state_topic_segment_bytes.to_string(),
                ),
            ],
        ),
        _ => (-1, -1, Vec::new()),
    };
    CreatableTopic {
        name: Cow::Borrowed(name),
        num_partitions: partitions,
        replication_factor: factor,
        configs: configs
            .into_iter()
            .map(|(name, value)| CreatableTopicConfig {
                name: Cow::Borrowed(name),
                value: Some(Cow::Owned(value)),
            })
            .collect(),
        ..CreatableTopic::default()
    }
}

/// How often each name stands in a request.
pub(super) fn count_names<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn requested_partitions(ctx: &Context<'_>, topics: &[&CreatableTopic<'_>]) -> usize {
    let count = |topic: &&CreatableTopic<'_>| match (topic.assignments.len(), topic.num_partitions)
    {
        (0, -1) => usize::try_from(ctx.broker.topics.num_partitions).unwrap_or(0),
        (0, n) => usize::try_from(n).unwrap_or(0),
        (n, _) => n,
    };
    topics.iter().map(count).fold(0, usize::saturating_add)
}

fn refuse_all(
    request: &CreateTopicsRequest<'_>,
    error: ApiError,
) -> Decision<CreateTopicsResponse<'static>> {
    let topics = request.topics.iter();
    Decision::answer(CreateTopicsResponse {
        throttle_time_ms: 0,
        topics: topics
            .map(|t| error_result(&t.name, error.clone()))
            .collect(),
    })
}

fn error_result(name: &str, error: ApiError) -> CreatableTopicResult<'static> {
    let (error_code, error_message) = wire_error::<()>(&Err(error));
    CreatableTopicResult {
        name: owned(name),
        error_code,
        error_message,
        ..CreatableTopicResult::default()
    }
}

/// The topics of one request that passed so far.
struct Batch<'a, 'p> {
    ctx: &'a Context<'a>,
    prng: &'p mut Prng,
    records: Vec<MetadataRecord>,
    /// Names with '.' replaced, for collisions within the request.
    created: BTreeSet<String>,
}

impl Batch<'_, '_> {
    fn create(
        &mut self,
        topic: &CreatableTopic<'_>,
    ) -> Result<CreatableTopicResult<'static>, ApiError> {
        let name = &*topic.name;
        self.check_name(name)?;
        let configs = self.check_configs(topic)?;
        let partitions = self.assign(topic)?;
        let topic_id = self.prng.uuid();
        let mut records = vec![MetadataRecord::Topic {
            name: name.to_owned(),
            id: topic_id,
        }];
        for (key, value) in &configs {
            records.push(MetadataRecord::Config(ConfigRecord {
                kind: ResourceType::Topic,
                resource: name.to_owned(),
                key: key.clone(),
                value: Some(value.clone()),
            }));
        }
        let manual = !topic.assignments.is_empty();
        let count = partitions.len();
        let factor = partitions.first().map_or(0, Vec::len);
        for (index, replicas) in (0i32..).zip(partitions) {
            let record = placement::new_partition(self.ctx, topic_id, index, replicas);
            records.push(record.ok_or_else(|| all_fenced(manual, index, factor))?);
        }
        self.records.append(&mut records);
        self.created.insert(unify(name));
        Ok(CreatableTopicResult {
            name: owned(name),
            topic_id,
            error_message: None,
            num_partitions: count as i32,
            replication_factor: factor as i16,
            configs: Some(self.effective_configs(&configs)),
            ..CreatableTopicResult::default()
        })
    }

    fn check_name(&self, name: &str) -> Result<(), ApiError> {
        if name == CLUSTER_METADATA {
            return Err(ApiError::new(
                ErrorCode::InvalidRequest,
                format!("Creation of internal topic {CLUSTER_METADATA} is prohibited."),
            ));
        }
        if self.ctx.image.topic(name).is_some() {
            return Err(ApiError::new(
                ErrorCode::TopicAlreadyExists,
                format!("Topic '{name}' already exists."),
            ));
        }
        validate_topic_name(name)
            .map_err(|message| ApiError::new(ErrorCode::InvalidTopicException, message))?;
        let existing = colliding_topic(self.ctx.image, name)
            .or_else(|| self.created.get(&unify(name)).map(|unified| &**unified));
        match existing.filter(|_| name.contains(['.', '_'])) {
            None => Ok(()),
            Some(existing) => Err(ApiError::new(
                ErrorCode::InvalidTopicException,
                format!("Topic '{name}' collides with existing topic: {existing}"),
            )),
        }
    }

    fn check_configs(&self, topic: &CreatableTopic<'_>) -> Result<ConfigMap, ApiError> {
        let mut configs = ConfigMap::new();
        let mut nulls = Vec::new();
        for config in &topic.configs {
            match &config.value {
                None => nulls.push(&*config.name),
                Some(value) => {
                    configs.insert(config.name.to_string(), value.to_string());
                }
            }
        }
        if !nulls.is_empty() {
            return Err(ApiError::new(
                ErrorCode::InvalidConfig,
                format!(
                    "Null value not supported for topic configs: {}",
                    nulls.join(",")
                ),
            ));
        }
        super::configs::check_value_lengths(&configs)?;
        flumen_settings::validate_topic(self.ctx.broker, &configs)
            .map_err(|e| ApiError::new(ErrorCode::InvalidConfig, e.to_string()))?;
        Ok(configs)
    }

    /// Replicas of each partition.
    fn assign(&mut self, topic: &CreatableTopic<'_>) -> Result<Vec<Vec<BrokerId>>, ApiError> {
        let invalid = |code, message: &str| Err(ApiError::new(code, message));
        if !topic.assignments.is_empty() {
            return self.assign_manually(topic);
        }
        if topic.replication_factor < -1 || topic.replication_factor == 0 {
            return invalid(
                ErrorCode::InvalidReplicationFactor,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            );
        }
        if topic.num_partitions < -1 || topic.num_partitions == 0 {
            return invalid(
                ErrorCode::InvalidPartitions,
                "Number of partitions was set to an invalid non-positive value.",
            );
        }
        let defaults = &self.ctx.broker.topics;
        let count = match topic.num_partitions {
            -1 => defaults.num_partitions,
            n => n,
        };
        let factor = match topic.replication_factor {
            -1 => defaults.default_replication_factor,
            n => n,
        };
        let count = usize::try_from(count).unwrap_or(0);
        placement::place(self.ctx, self.prng, count, factor).map_err(|reason| {
            ApiError::new(
                ErrorCode::InvalidReplicationFactor,
                format!("Unable to replicate the partition {factor} time(s): {reason}"),
            )
        })
    }

    fn assign_manually(&self, topic: &CreatableTopic<'_>) -> Result<Vec<Vec<BrokerId>>, ApiError> {
        for (given, what) in [
            (topic.replication_factor != -1, "replication factor"),
            (topic.num_partitions != -1, "numPartitions"),
        ] {
            if given {
                return Err(ApiError::new(
                    ErrorCode::InvalidRequest,
                    format!(
                        "A manual partition assignment was specified, but {what} was not set to -1."
                    ),
                ));
            }
        }
        let invalid = |message: String| ApiError::new(ErrorCode::InvalidReplicaAssignment, message);
        let mut partitions = BTreeMap::new();
        let mut factor = None;
        for assignment in &topic.assignments {
            let index = assignment.partition_index;
            if partitions.contains_key(&index) {
                return Err(invalid(format!(
                    "Found multiple manual partition assignments for partition {index}"
                )));
            }
            let replicas = &assignment.broker_ids;
            placement::check_assignment(self.ctx, replicas, factor)?;
            factor = Some(replicas.len());
            if !replicas.iter().any(|&id| self.ctx.image.is_active(id)) {
                return Err(all_fenced(true, index, replicas.len()));
            }
            partitions.insert(index, replicas.clone());
        }
        if !partitions.keys().copied().eq(0..partitions.len() as i32) {
            return Err(invalid(
                "partitions should be a consecutive 0-based integer sequence".to_owned(),
            ));
        }
        Ok(partitions.into_values().collect())
    }

    fn effective_configs(&self, configs: &ConfigMap) -> Vec<CreatableTopicConfigs<'static>> {
        let (cluster, own) = super::configs::broker_maps(self.ctx);
        let entries = flumen_settings::describe_topic(self.ctx.broker, cluster, own, configs);
        let mut out: Vec<_> = entries
            .into_iter()
            .map(|entry| CreatableTopicConfigs {
                name: Cow::Owned(entry.name),
                value: entry.value.filter(|_| !entry.sensitive).map(Cow::Owned),
                read_only: entry.read_only,
                config_source: entry.source as i8,
                is_sensitive: entry.sensitive,
            })
            .collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }
}

pub(super) fn all_fenced(manual: bool, index: i32, factor: usize) -> ApiError {
    if manual {
        ApiError::new(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "All brokers specified in the manual partition assignment for partition {index} \
                 are fenced or in controlled shutdown."
            ),
        )
    } else {
        ApiError::new(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {factor} time(s): All brokers are currently \
                 fenced or in controlled shutdown."
            ),
        )
    }
}

fn unify(name: &str) -> String {
    name.replace('.', "_")
}

/// A topic whose name differs from `name` only in '.' and '_'.
fn colliding_topic<'a>(image: &'a Image, name: &str) -> Option<&'a str> {
    // Colliding names are equal up to the first of these characters, so that only names with that
    // prefix are looked at.
    let prefix = &name[..name.find(['.', '_'])?];
    let unified = unify(name);
    image
        .topics()
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .map(|(other, _)| &**other)
        .take_while(|other| other.starts_with(prefix))
        .find(|other| unify(other) == unified)
}
