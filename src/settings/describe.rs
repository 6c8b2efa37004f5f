//! Configuration as DescribeConfigs, AlterConfigs and CreateTopics see it: names, values, sources,
//! synonyms.

use crate::definitions::{Definition, UpdateMode, definition, definitions};
use crate::view::View;
use crate::{BrokerConfig, ConfigMap};
use std::collections::BTreeSet;

/// The kinds of resources that have configuration, with their numbers on the wire
/// (`ConfigResource.Type`).
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
    Unknown = 0,
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

impl ValueType {
    pub(crate) fn from_table(text: &str) -> Option<Self> {
        Some(match text {
            "bool" => Self::Boolean,
            "string" => Self::String,
            "int" => Self::Int,
            "short" => Self::Short,
            "long" => Self::Long,
            "double" => Self::Double,
            "list" => Self::List,
            "class" => Self::Class,
            "password" => Self::Password,
            _ => return None,
        })
    }
}

/// The type of a key (AlterConfigs' append and subtract work on lists only); `None`: not a key of
/// this resource.
pub fn definition_type(resource: ConfigResource, name: &str) -> Option<ValueType> {
    let base = match (resource, name.strip_prefix("listener.name.")) {
        (ConfigResource::Broker, Some(rest)) => rest.split_once('.').map_or(name, |(_, b)| b),
        _ => name,
    };
    definition(resource, base).map(|d| d.value_type)
}

/// The layers of the broker's configuration with their sources, the strongest first.
struct Layers<'a>([(&'a ConfigMap, ConfigSource); 3]);

impl<'a> Layers<'a> {
    fn new(broker: &'a BrokerConfig, cluster: &'a ConfigMap, own: &'a ConfigMap) -> Self {
        Self([
            (own, ConfigSource::DynamicBroker),
            (cluster, ConfigSource::DynamicDefaultBroker),
            (&broker.originals, ConfigSource::StaticBroker),
        ])
    }

    /// Every place where `name` or one of its unit variants is set, layer by layer, then the
    /// defaults; starting with the
    /// first that is called `name`, as Kafka does.
    fn synonyms(&self, name: &str) -> Vec<ConfigSynonym> {
        let definition = definition(ConfigResource::Broker, name);
        let sensitive = definition.is_none_or(Definition::sensitive);
        let names = unit_variants(name);
        let mut found = Vec::new();
        for (layer, source) in self.0 {
            for variant in &names {
                if let Some(value) = layer.get(*variant) {
                    found.push(synonym(variant, Some(value), source, sensitive));
                }
            }
        }
        for variant in &names {
            let default = crate::definitions::definition(ConfigResource::Broker, variant)
                .and_then(Definition::default_value);
            if let Some(value) = default {
                let text = value.render();
                found.push(synonym(
                    variant,
                    Some(&text),
                    ConfigSource::Default,
                    sensitive,
                ));
            }
        }
        let first = found.iter().position(|s| s.name == name);
        found.drain(..first.unwrap_or(found.len()));
        found
    }
}

fn synonym(
    name: &str,
    value: Option<&String>,
    source: ConfigSource,
    sensitive: bool,
) -> ConfigSynonym {
    ConfigSynonym {
        name: name.to_owned(),
        value: value.filter(|_| !sensitive).cloned(),
        source,
    }
}

/// Keys of the broker that set the same thing in different units, in order of precedence.
fn unit_variants(name: &str) -> Vec<&str> {
    const GROUPS: [&[&str]; 3] = [
        &["log.roll.ms", "log.roll.hours"],
        &["log.roll.jitter.ms", "log.roll.jitter.hours"],
        &[
            "log.retention.ms",
            "log.retention.minutes",
            "log.retention.hours",
        ],
    ];
    if let Some(group) = GROUPS.iter().find(|group| group.contains(&name)) {
        return group.to_vec();
    }
    match name {
        "log.flush.interval.ms" => vec![name, "log.flush.scheduler.interval.ms"],
        _ => match name
            .strip_prefix("listener.name.")
            .and_then(|r| r.split_once('.'))
        {
            Some((_, base)) => vec![name, base],
            None => vec![name],
        },
    }
}

/// An entry whose value is the strongest synonym's, or `own` where it has none.
fn entry(
    definition: &Definition,
    own: Option<String>,
    synonyms: Vec<ConfigSynonym>,
) -> ConfigEntry {
    ConfigEntry {
        name: definition.name.to_owned(),
        value: own.filter(|_| !definition.sensitive()),
        read_only: false,
        source: synonyms.first().map_or(ConfigSource::Default, |s| s.source),
        sensitive: definition.sensitive(),
        synonyms,
        value_type: definition.value_type,
        doc: definition.doc,
    }
}

/// The text of a value in its canonical form; as it is if it does not parse.
fn canonical(definition: &Definition, text: &str) -> String {
    definition
        .parse(text)
        .map_or_else(|_| text.to_owned(), |value| value.render())
}

/// Every config of a topic. `cluster` and `broker_dynamic` are the dynamic configs of the default
/// broker resource and of
/// this broker.
pub fn describe_topic(
    broker: &BrokerConfig,
    cluster: &ConfigMap,
    broker_dynamic: &ConfigMap,
    overrides: &ConfigMap,
) -> Vec<ConfigEntry> {
    let layers = Layers::new(broker, cluster, broker_dynamic);
    let maps = [broker_dynamic, cluster, &broker.originals];
    let view = View { layers: &maps };
    let shown = |d: &&Definition| !d.internal || overrides.contains_key(d.name);
    definitions(ConfigResource::Topic)
        .values()
        .filter(shown)
        .map(|d| {
            let mut synonyms = match d.synonyms.first() {
                Some((name, _)) => layers.synonyms(name),
                None => Vec::new(),
            };
            let value = match overrides.get(d.name) {
                Some(text) => {
                    let text = canonical(d, text);
                    let source = ConfigSource::DynamicTopic;
                    synonyms.insert(0, synonym(d.name, Some(&text), source, d.sensitive()));
                    Some(text)
                }
                None => inherited(d, &view),
            };
            entry(d, value, synonyms)
        })
        .collect()
}

/// The value that the broker's configuration gives a topic or group, in the unit of the key.
fn inherited(definition: &Definition, view: &View<'_>) -> Option<String> {
    let from_broker = match (definition.value_type, definition.synonyms.as_slice()) {
        (_, []) => None,
        (ValueType::Long, synonyms) => match view.first_long(synonyms) {
            Ok(n) if definition.name == "retention.ms" && n < 0 => Some("-1".to_owned()),
            Ok(n) => Some(n.to_string()),
            Err(_) => None,
        },
        (_, [(name, _), ..]) => view.value(name).ok().flatten().map(|v| v.render()),
    };
    from_broker.or_else(|| definition.default_value().map(|v| v.render()))
}

/// Every config of this broker, or with `default_resource` only the dynamic cluster-wide defaults.
pub fn describe_broker(
    broker: &BrokerConfig,
    cluster: &ConfigMap,
    broker_dynamic: &ConfigMap,
    default_resource: bool,
) -> Vec<ConfigEntry> {
    let layers = Layers::new(broker, cluster, broker_dynamic);
    let none = ConfigMap::new();
    let maps = if default_resource {
        // What one broker has set does not show among the defaults of all.
        [&none, cluster, &none]
    } else {
        [broker_dynamic, cluster, &broker.originals]
    };
    let view = View { layers: &maps };
    let table = definitions(ConfigResource::Broker);
    let mut names: BTreeSet<&str> = maps
        .iter()
        .flat_map(|m| m.keys())
        .map(String::as_str)
        .collect();
    if default_resource {
        names = cluster.keys().map(String::as_str).collect();
    } else {
        let fixed = |d: &&Definition| !d.internal && !d.dynamic_only;
        names.extend(table.values().filter(fixed).map(|d| d.name));
    }
    names
        .into_iter()
        .map(|name| broker_entry(name, &layers, &view, default_resource))
        .collect()
}

fn broker_entry(
    name: &str,
    layers: &Layers<'_>,
    view: &View<'_>,
    default_resource: bool,
) -> ConfigEntry {
    let definition = definition(ConfigResource::Broker, name);
    let mut synonyms = layers.synonyms(name);
    if default_resource {
        synonyms.retain(|s| s.source == ConfigSource::DynamicDefaultBroker);
    }
    let sensitive = definition.is_none_or(Definition::sensitive);
    let value = match (view.set(name), definition) {
        (Some(text), Some(d)) => Some(canonical(d, text)),
        (Some(text), None) => Some(text.to_owned()),
        (None, Some(d)) => d.default_value().map(|v| v.render()),
        (None, None) => None,
    };
    ConfigEntry {
        name: name.to_owned(),
        value: value.filter(|_| !sensitive),
        read_only: definition.is_none_or(|d| d.mode == UpdateMode::ReadOnly),
        source: synonyms.first().map_or(ConfigSource::Default, |s| s.source),
        sensitive,
        synonyms,
        value_type: definition.map_or(ValueType::Unknown, |d| d.value_type),
        doc: definition.map_or("", |d| d.doc),
    }
}

/// Every config of a group.
pub fn describe_group(
    broker: &BrokerConfig,
    cluster: &ConfigMap,
    broker_dynamic: &ConfigMap,
    overrides: &ConfigMap,
) -> Vec<ConfigEntry> {
    let layers = Layers::new(broker, cluster, broker_dynamic);
    let maps = [broker_dynamic, cluster, &broker.originals];
    let view = View { layers: &maps };
    definitions(ConfigResource::Group)
        .values()
        .map(|d| {
            let default = d.default_value().map(|v| v.render());
            let mut synonyms = match d.synonyms.first() {
                Some((name, _)) => layers.synonyms(name),
                None => vec![synonym(
                    d.name,
                    default.as_ref(),
                    ConfigSource::Default,
                    false,
                )],
            };
            let value = match overrides.get(d.name) {
                Some(text) => {
                    let text = canonical(d, text);
                    let source = ConfigSource::DynamicGroup;
                    synonyms.insert(0, synonym(d.name, Some(&text), source, false));
                    Some(text)
                }
                None => inherited(d, &view),
            };
            entry(d, value, synonyms)
        })
        .collect()
}

/// Every config of a client-metrics subscription.
pub fn describe_client_metrics(overrides: &ConfigMap) -> Vec<ConfigEntry> {
    definitions(ConfigResource::ClientMetrics)
        .values()
        .map(|d| {
            let set = overrides.get(d.name).map(|text| canonical(d, text));
            let synonyms = set
                .iter()
                .map(|t| synonym(d.name, Some(t), ConfigSource::DynamicClientMetrics, false))
                .collect();
            let value = set.or_else(|| d.default_value().map(|v| v.render()));
            entry(d, value, synonyms)
        })
        .collect()
}
