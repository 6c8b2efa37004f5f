//! AlterConfigs (33), versions 0 to 2, and IncrementalAlterConfigs (44), versions 0 and 1.
//!
//! - A resource changes as a whole or not at all; resources of one request are independent.
//! - AlterConfigs replaces all settings of a resource; keys that are not named go back to their
//!   defaults.
//! - Broker settings are written even where nothing changes, so that a broker reads its files (key
//!   stores) again.
//! - Broker loggers: there are no Java loggers to set, so that every logger name is unknown.

use super::{ApiError, Context, Decision, owned, validate_topic_name, wire_error};
use crate::image::{ConfigMap, ResourceType};
use crate::record::{ConfigRecord, MetadataRecord};
use flumen_base::ErrorCode;
use flumen_settings::{self as settings, ConfigSource, ValueType};
use flumen_wire::messages::alter_configs_response::AlterConfigsResourceResponse;
use flumen_wire::messages::incremental_alter_configs_request::AlterableConfig;
use flumen_wire::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, incremental_alter_configs_response,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

const BROKER_LOGGER: i8 = 8;
/// UTF-16 units of a value (`Short.MAX_VALUE`).
const VALUE_LEN_MAX: usize = 32_767;

/// Replaces the settings of resources.
pub fn alter_configs(
    ctx: &Context<'_>,
    request: &AlterConfigsRequest<'_>,
) -> Decision<AlterConfigsResponse<'static>> {
    let mut records = Vec::new();
    let ids = request.resources.iter();
    let twice = duplicates(ids.map(|r| (r.resource_type, &*r.resource_name)));
    let mut responses = Vec::with_capacity(request.resources.len());
    for r in &request.resources {
        let outcome = if twice.contains(&(r.resource_type, &*r.resource_name)) {
            Err(invalid_request("Each resource must appear at most once."))
        } else {
            let values = r.configs.iter().map(|c| (&*c.name, c.value.as_deref()));
            replace(ctx, r.resource_type, &r.resource_name, values.collect())
        };
        let outcome = outcome.map(|mut new| records.append(&mut new));
        let (error_code, error_message) = wire_error(&outcome);
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: r.resource_type,
            resource_name: owned(&r.resource_name),
        });
    }
    let response = AlterConfigsResponse {
        throttle_time_ms: 0,
        responses,
    };
    Decision::new(records, request.validate_only, response)
}

/// Sets, deletes, appends to and subtracts from settings of resources.
pub fn incremental_alter_configs(
    ctx: &Context<'_>,
    request: &IncrementalAlterConfigsRequest<'_>,
) -> Decision<IncrementalAlterConfigsResponse<'static>> {
    let mut records = Vec::new();
    let ids = request.resources.iter();
    let twice = duplicates(ids.map(|r| (r.resource_type, &*r.resource_name)));
    let mut responses = Vec::with_capacity(request.resources.len());
    for r in &request.resources {
        let outcome = if twice.contains(&(r.resource_type, &*r.resource_name)) {
            Err(invalid_request("Each resource must appear at most once."))
        } else {
            change(ctx, r.resource_type, &r.resource_name, &r.configs)
        };
        let outcome = outcome.map(|mut new| records.append(&mut new));
        let (error_code, error_message) = wire_error(&outcome);
        responses.push(
            incremental_alter_configs_response::AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: r.resource_type,
                resource_name: owned(&r.resource_name),
            },
        );
    }
    let response = IncrementalAlterConfigsResponse {
        throttle_time_ms: 0,
        responses,
    };
    Decision::new(records, request.validate_only, response)
}

/// Dynamic settings of all brokers, and of this one.
pub(super) fn broker_maps<'a>(ctx: &Context<'a>) -> (&'a ConfigMap, &'a ConfigMap) {
    let node = ctx.broker.node_id.to_string();
    let map = |name: &str| config_of(ctx, ResourceType::Broker, name);
    (map(""), map(&node))
}

/// Refuses values that Kafka's records can't hold.
pub(super) fn check_value_lengths(configs: &ConfigMap) -> Result<(), ApiError> {
    let long = |value: &String| value.len() > VALUE_LEN_MAX;
    if configs
        .values()
        .any(|value| long(value) && value.encode_utf16().count() > VALUE_LEN_MAX)
    {
        return Err(ApiError::new(
            ErrorCode::InvalidConfig,
            format!(
                "The configuration value cannot be added because it exceeds the maximum value size \
                 of {VALUE_LEN_MAX} bytes."
            ),
        ));
    }
    Ok(())
}

fn config_of<'a>(ctx: &Context<'a>, kind: ResourceType, name: &str) -> &'a ConfigMap {
    static EMPTY: OnceLock<ConfigMap> = OnceLock::new();
    let image = ctx.image;
    match image.config(kind, name) {
        Some(config) => Arc::as_ref(config),
        None => EMPTY.get_or_init(ConfigMap::new),
    }
}

fn invalid_request(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, message)
}

fn duplicates<'a>(ids: impl Iterator<Item = (i8, &'a str)>) -> BTreeSet<(i8, &'a str)> {
    let mut seen = BTreeSet::new();
    ids.filter(|id| !seen.insert(*id)).collect()
}

fn replace(
    ctx: &Context<'_>,
    kind: i8,
    name: &str,
    values: Vec<(&str, Option<&str>)>,
) -> Result<Vec<MetadataRecord>, ApiError> {
    check_keys(values.iter().copied())?;
    let resource = Resource::new(ctx, kind, name)?;
    let wanted: ConfigMap = values
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
        .collect();
    let mut changes: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for key in resource.current.keys() {
        changes.insert(key, None);
    }
    for (key, value) in &wanted {
        changes.insert(key, Some(value));
    }
    resource.validate(&wanted)?;
    Ok(resource.records(&changes))
}

fn change(
    ctx: &Context<'_>,
    kind: i8,
    name: &str,
    ops: &[AlterableConfig<'_>],
) -> Result<Vec<MetadataRecord>, ApiError> {
    let delete = |op: &AlterableConfig<'_>| op.config_operation == Operation::Delete as i8;
    // A deletion may come without a value, so that it is checked with one here.
    check_keys(ops.iter().map(|op| {
        let value = op.value.as_deref();
        (&*op.name, if delete(op) { Some("") } else { value })
    }))?;
    if kind == BROKER_LOGGER {
        return Err(check_logger(ctx, name, ops));
    }
    let resource = Resource::new(ctx, kind, name)?;
    let mut wanted = resource.current.clone();
    for op in ops {
        let value = resource.apply(op)?;
        match value {
            Some(value) => wanted.insert(op.name.to_string(), value),
            None => wanted.remove(&*op.name),
        };
    }
    resource.validate(&wanted)?;
    let keys = ops.iter().map(|op| &*op.name);
    let changes = keys.map(|key| (key, wanted.get(key).map(|v| &**v)));
    Ok(resource.records(&changes.collect()))
}

/// Each key once, each with a value.
fn check_keys<'a>(
    values: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<(), ApiError> {
    let mut seen = BTreeSet::new();
    let mut nulls = Vec::new();
    for (key, value) in values {
        if !seen.insert(key) {
            return Err(invalid_request("Error due to duplicate config keys"));
        }
        if value.is_none() {
            nulls.push(key);
        }
    }
    if nulls.is_empty() {
        return Ok(());
    }
    Err(invalid_request(format!(
        "Null value not supported for : {}",
        nulls.join(", ")
    )))
}

fn check_logger(ctx: &Context<'_>, name: &str, ops: &[AlterableConfig<'_>]) -> ApiError {
    let node = ctx.broker.node_id;
    match name.parse::<i32>() {
        Err(_) => invalid_request(format!("Node id must be an integer, but it is: {name}")),
        Ok(id) if id != node => invalid_request(format!(
            "Unexpected node id. Expected {node}, but received {id}"
        )),
        Ok(_) => match ops.first() {
            None => invalid_request("No logger is named."),
            Some(op) => match Operation::from_id(op.config_operation) {
                Some(Operation::Set | Operation::Delete) => ApiError::new(
                    ErrorCode::InvalidConfig,
                    format!("Logger {} does not exist!", op.name),
                ),
                Some(operation) => invalid_request(format!(
                    "{} operation is not allowed for the BROKER_LOGGER resource",
                    operation.name()
                )),
                None => invalid_request(format!(
                    "Unknown operation type {} is not allowed for the BROKER_LOGGER resource",
                    op.config_operation
                )),
            },
        },
    }
}

/// `AlterConfigOp.OpType`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
enum Operation {
    Set = 0,
    Delete = 1,
    Append = 2,
    Subtract = 3,
}

impl Operation {
    fn from_id(id: i8) -> Option<Self> {
        [Self::Set, Self::Delete, Self::Append, Self::Subtract]
            .into_iter()
            .find(|op| *op as i8 == id)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Delete => "DELETE",
            Self::Append => "APPEND",
            Self::Subtract => "SUBTRACT",
        }
    }
}

/// A resource of a request with its settings so far.
struct Resource<'a> {
    ctx: &'a Context<'a>,
    kind: ResourceType,
    name: &'a str,
    current: &'a ConfigMap,
}

impl<'a> Resource<'a> {
    fn new(ctx: &'a Context<'a>, kind: i8, name: &'a str) -> Result<Self, ApiError> {
        let Some(kind) = ResourceType::from_id(kind) else {
            return Err(invalid_request(format!("Unknown resource type {kind}")));
        };
        if kind == ResourceType::Broker && !name.is_empty() {
            check_node_id(ctx, name)?;
        }
        let current = config_of(ctx, kind, name);
        Ok(Self {
            ctx,
            kind,
            name,
            current,
        })
    }

    /// The value that an operation makes.
    fn apply(&self, op: &AlterableConfig<'_>) -> Result<Option<String>, ApiError> {
        let given = op.value.as_deref().unwrap_or_default();
        let Some(operation) = Operation::from_id(op.config_operation) else {
            return Err(invalid_request(format!(
                "Unknown operations type {}",
                op.config_operation
            )));
        };
        match operation {
            Operation::Set => Ok(Some(given.to_owned())),
            Operation::Delete => Ok(None),
            Operation::Append => {
                let mut list = self.list(op, operation)?;
                for value in java_split(given) {
                    if !list.iter().any(|v| v == value) {
                        list.push(value.to_owned());
                    }
                }
                Ok(Some(list.join(",")))
            }
            Operation::Subtract => {
                let mut list = self.list(op, operation)?;
                for value in java_split(given) {
                    if let Some(at) = list.iter().position(|v| v == value) {
                        list.remove(at);
                    }
                }
                Ok(Some(list.join(",")))
            }
        }
    }

    /// The items of a list setting: its own, or the default's.
    fn list(
        &self,
        op: &AlterableConfig<'_>,
        operation: Operation,
    ) -> Result<Vec<String>, ApiError> {
        let refused = |message: String| Err(ApiError::new(ErrorCode::InvalidConfig, message));
        let key = &*op.name;
        match (self.value_type(key), self.kind) {
            (Some(ValueType::List), _) => {}
            (None, ResourceType::Broker) => return refused(format!("Unknown config name: {key}")),
            (Some(_), ResourceType::Broker) => {
                let name = operation.name().to_ascii_lowercase();
                return refused(format!(
                    "Config value {name} is not allowed for config key: {key}"
                ));
            }
            _ => {
                return refused(format!(
                    "Can't {} to key {key} because its type is not LIST.",
                    operation.name()
                ));
            }
        }
        let current = self.current.get(key).cloned();
        let value = current.or_else(|| self.default_value(key));
        let value = value.unwrap_or_default();
        let items = value.split(',').filter(|v| !v.is_empty());
        Ok(items.map(str::to_owned).collect())
    }

    fn settings_kind(&self) -> settings::ConfigResource {
        match self.kind {
            ResourceType::Topic => settings::ConfigResource::Topic,
            ResourceType::Broker => settings::ConfigResource::Broker,
            ResourceType::ClientMetrics => settings::ConfigResource::ClientMetrics,
            ResourceType::Group => settings::ConfigResource::Group,
        }
    }

    fn value_type(&self, key: &str) -> Option<ValueType> {
        settings::definition_type(self.settings_kind(), key)
    }

    /// The built-in default of a key.
    fn default_value(&self, key: &str) -> Option<String> {
        let (broker, none) = (self.ctx.broker, &ConfigMap::new());
        let entries = match self.kind {
            ResourceType::Topic => settings::describe_topic(broker, none, none, none),
            ResourceType::Broker => settings::describe_broker(broker, none, none, false),
            ResourceType::ClientMetrics => settings::describe_client_metrics(none),
            ResourceType::Group => settings::describe_group(broker, none, none, none),
        };
        let entry = entries.into_iter().find(|e| e.name == key)?;
        if entry.source == ConfigSource::Default {
            return entry.value;
        }
        let mut synonyms = entry.synonyms.into_iter();
        synonyms.find(|s| s.source == ConfigSource::Default)?.value
    }

    /// Checks the settings as they would be, then whether the resource exists: in Kafka's order.
    fn validate(&self, wanted: &ConfigMap) -> Result<(), ApiError> {
        let invalid =
            |e: settings::ConfigError| ApiError::new(ErrorCode::InvalidConfig, e.to_string());
        let (broker, name) = (self.ctx.broker, self.name);
        match self.kind {
            ResourceType::Topic => {
                if name.is_empty() {
                    return Err(invalid_request("Default topic resources are not allowed."));
                }
                validate_topic_name(name)
                    .map_err(|m| ApiError::new(ErrorCode::InvalidTopicException, m))?;
                check_value_lengths(wanted)?;
                settings::validate_topic(broker, wanted).map_err(invalid)?;
                if self.ctx.image.topic(name).is_none() {
                    return Err(ApiError::new(
                        ErrorCode::UnknownTopicOrPartition,
                        format!("The topic '{name}' does not exist."),
                    ));
                }
            }
            ResourceType::Broker => {
                // Kafka answers INVALID_REQUEST, not INVALID_CONFIG, for broker settings
                // (KAFKA-13609).
                settings::validate_broker(broker, wanted, !name.is_empty())
                    .map_err(|e| invalid_request(e.to_string()))?;
                check_value_lengths(wanted)?;
            }
            ResourceType::ClientMetrics => {
                if name.is_empty() {
                    return Err(invalid_request("Subscription name can't be empty"));
                }
                check_value_lengths(wanted)?;
                settings::validate_client_metrics(wanted).map_err(|e| match e {
                    // As Kafka: these checks throw invalid request exceptions where the value is
                    // read.
                    settings::ConfigError::Unknown { .. } => invalid_request(e.to_string()),
                    e => invalid(e),
                })?;
            }
            ResourceType::Group => {
                if name.is_empty() {
                    return Err(invalid_request("Default group resources are not allowed."));
                }
                check_value_lengths(wanted)?;
                settings::validate_group(broker, wanted).map_err(invalid)?;
            }
        }
        Ok(())
    }

    fn records(&self, changes: &BTreeMap<&str, Option<&str>>) -> Vec<MetadataRecord> {
        let always = self.kind == ResourceType::Broker;
        let changed = changes
            .iter()
            .filter(|(key, value)| always || self.current.get(**key).map(|v| &**v) != **value);
        changed
            .map(|(key, value)| {
                MetadataRecord::Config(ConfigRecord {
                    kind: self.kind,
                    resource: self.name.to_owned(),
                    key: (*key).to_owned(),
                    value: value.map(str::to_owned),
                })
            })
            .collect()
    }
}

fn check_node_id(ctx: &Context<'_>, name: &str) -> Result<(), ApiError> {
    let node = ctx.broker.node_id;
    match name.parse::<i32>() {
        Err(_) => Err(invalid_request(format!(
            "Node id must be an integer, but it is: {name}"
        ))),
        Ok(id) if id != node => Err(invalid_request(format!(
            "Unexpected broker id, expected {node}, but received {name}"
        ))),
        Ok(_) => Ok(()),
    }
}

/// Java's `String.split(",")`: empty parts at the end fall away, unless there is only one part.
fn java_split(text: &str) -> impl Iterator<Item = &str> {
    let trimmed = text.trim_end_matches(',');
    let all = if trimmed.is_empty() && text.is_empty() {
        Some(text)
    } else {
        (!trimmed.is_empty()).then_some(trimmed)
    };
    all.into_iter().flat_map(|t| t.split(','))
}
