//! Everything a user can set: Kafka 4.3.1's broker, topic, group and client-metrics configuration
//! plus Flumen's own
//! `flumen.*` keys; where they come from (a properties file, overrides, dynamic configs), what they
//! are allowed to be, and
//! the typed values that the other crates work with.
//!
//! ```
//! use flumen_settings::{BrokerConfig, ConfigMap, Properties, TopicConfig};
//! let text =
//! "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@localhost:9093\n\
//!             listeners=PLAINTEXT://:9092,CONTROLLER://:9093\n\
//!             controller.listener.names=CONTROLLER\n";
//! let loaded = BrokerConfig::load(&Properties::parse(text).unwrap()).unwrap();
//! let overrides = ConfigMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
//! let topic = TopicConfig::resolve(&loaded.config, &overrides).unwrap();
//! assert_eq!(topic.retention_ms, -1);
//! assert_eq!(topic.segment_bytes, 1 << 30);
//! ```
//! No file, clock or socket is touched here: the caller reads the text.
#![forbid(unsafe_code)]

mod broker;
mod definitions;
mod describe;
mod effect;
mod error;
mod listeners;
mod load;
mod properties;
mod share;
mod topic;
mod validate;
mod value;
mod view;

#[cfg(test)]
mod properties_test;
#[cfg(test)]
mod tests;

pub use broker::{
    BrokerConfig, FetchSettings, FlumenSettings, GroupSettings, Listener, Loaded, LogSettings,
    NetworkSettings, OffsetsSettings, QuorumSettings, Roles, TopicSettings, TransactionSettings,
    Voter, WriteStrategy,
};
pub use definitions::{DefaultValue, Definition, UpdateMode, definition, definitions};
pub use describe::{
    ConfigEntry, ConfigResource, ConfigSource, ConfigSynonym, ValueType, definition_type,
    describe_broker, describe_client_metrics, describe_group, describe_topic,
};
pub use effect::{Effect, effect};
pub use error::ConfigError;
pub use properties::Properties;
pub use share::{Bounded, ShareSettings};
pub use topic::{CleanupPolicy, Compression, CompressionLevels, TimestampType, TopicConfig};
pub use validate::{validate_broker, validate_client_metrics, validate_group, validate_topic};

/// Names and values as they were set, ordered by name (names come from clients: no hashing).
pub type ConfigMap = std::collections::BTreeMap<String, String>;
