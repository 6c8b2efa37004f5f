//! Configuration as DescribeConfigs, AlterConfigs and CreateTopics see it: names, values, sources, synonyms.

use crate::{BrokerConfig, ConfigError, ConfigMap};

/// The kinds of resources that have configuration, with their numbers on the wire (`ConfigResource.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigResource {
    /// 2
    Topic = 2,
    /// 4
    Broker = 4,
    /// 8: log levels; no config definitions.
    BrokerLogger = 8,
    /// 16
    ClientMetrics = 16,
    /// 32
    Group = 32,
}

impl ConfigResource {
    /// The kind with this number.
    pub fn from_i8(n: i8) -> Option<Self> {
        Some(match n {
            2 => Self::Topic,
            4 => Self::Broker,
            8 => Self::BrokerLogger,
            16 => Self::ClientMetrics,
            32 => Self::Group,
            _ => return None,
        })
    }
}

/// Where a value comes from, with its number on the wire (`DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
#[allow(missing_docs)] // Kafka's names
pub enum ConfigSource {
    Unknown = 0,
    DynamicTopic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
    DynamicBrokerLogger = 6,
    DynamicClientMetrics = 7,
    DynamicGroup = 8,
}

/// The type of a value, with its number on the wire (`DescribeConfigsResponse.ConfigType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
#[allow(missing_docs)] // Kafka's names
pub enum ValueType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

/// Another place where the value of a key may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// The key there.
    pub name: String,
    /// Its value; `None` if it has none or is secret.
    pub value: Option<String>,
    /// The place.
    pub source: ConfigSource,
}

/// One line of a DescribeConfigs answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key.
    pub name: String,
    /// The effective value; `None` if it has none or is secret.
    pub value: Option<String>,
    /// Whether it can't be changed while the broker runs.
    pub read_only: bool,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it is a secret.
    pub sensitive: bool,
    /// In order of precedence, the effective one first.
    pub synonyms: Vec<ConfigSynonym>,
    /// Type of the value.
    pub value_type: ValueType,
    /// One sentence; empty when there is none.
    pub doc: &'static str,
}

/// The type of a key (AlterConfigs' append and subtract work on lists only); `None`: not a key of this resource.
pub fn definition_type(resource: ConfigResource, name: &str) -> Option<ValueType> {
    let _ = (resource, name);
    None
}

/// Every config of a topic. `cluster` and `broker_dynamic` are the dynamic configs of the default broker resource and of
/// this broker.
pub fn describe_topic(
    broker: &BrokerConfig,
    cluster: &ConfigMap,
    broker_dynamic: &ConfigMap,
    overrides: &ConfigMap,
) -> Vec<ConfigEntry> {
    let _ = (broker, cluster, broker_dynamic, overrides);
    Vec::new()
}

/// Every config of this broker, or with `default_resource` only the dynamic cluster-wide defaults.
pub fn describe_broker(
    broker: &BrokerConfig,
    cluster: &ConfigMap,
    broker_dynamic: &ConfigMap,
    default_resource: bool,
) -> Vec<ConfigEntry> {
    let _ = (broker, cluster, broker_dynamic, default_resource);
    Vec::new()
}

/// Every config of a group.
pub fn describe_group(broker: &BrokerConfig, overrides: &ConfigMap) -> Vec<ConfigEntry> {
    let _ = (broker, overrides);
    Vec::new()
}

/// Every config of a client-metrics subscription.
pub fn describe_client_metrics(overrides: &ConfigMap) -> Vec<ConfigEntry> {
    let _ = overrides;
    Vec::new()
}

/// Checks a topic's whole set of overrides (names, values, and values against each other and the broker's).
pub fn validate_topic(broker: &BrokerConfig, overrides: &ConfigMap) -> Result<(), ConfigError> {
    let _ = (broker, overrides);
    Ok(())
}

/// Checks the dynamic configs of one broker (`per_broker`) or of the cluster-wide default resource.
pub fn validate_broker(
    broker: &BrokerConfig,
    configs: &ConfigMap,
    per_broker: bool,
) -> Result<(), ConfigError> {
    let _ = (broker, configs, per_broker);
    Ok(())
}

/// Checks a group's configs.
pub fn validate_group(broker: &BrokerConfig, overrides: &ConfigMap) -> Result<(), ConfigError> {
    let _ = (broker, overrides);
    Ok(())
}

/// Checks a client-metrics subscription.
pub fn validate_client_metrics(overrides: &ConfigMap) -> Result<(), ConfigError> {
    let _ = overrides;
    Ok(())
}
