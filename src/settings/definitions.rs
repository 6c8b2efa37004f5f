//! The table of every configuration: Kafka 4.3.1's (`definitions.tsv`, taken mechanically from its
//! ConfigDefs) and Flumen's
//! own (`flumen.tsv`).

use crate::ConfigError;
use crate::describe::{ConfigResource, ValueType};
use crate::value::{Validator, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const KAFKA: &str = include_str!("definitions.tsv");
const FLUMEN: &str = include_str!("flumen.tsv");

/// The default of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// There is none: it must be set.
    Required,
    /// Not set.
    Null,
    /// As its text.
    Text(&'static str),
}

/// How a configuration of the broker can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateMode {
    /// Only by a restart.
    ReadOnly,
    /// Dynamically, for all brokers or for one.
    ClusterWide,
    /// Dynamically, for one broker only.
    PerBroker,
}

/// One configuration as Kafka declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// What it configures.
    pub resource: ConfigResource,
    /// Its key.
    pub name: &'static str,
    /// The type of its value.
    pub value_type: ValueType,
    /// Its default.
    pub default: DefaultValue,
    pub(crate) validator: Validator,
    /// "high", "medium" or "low".
    pub importance: &'static str,
    /// Not shown to clients.
    pub internal: bool,
    /// Exists only as a dynamic configuration.
    pub dynamic_only: bool,
    /// How it can be changed.
    pub mode: UpdateMode,
    /// Keys of the broker's configuration that give its default, in order, each with the factor of
    /// its unit.
    pub synonyms: Vec<(&'static str, i64)>,
    /// One sentence of our own, empty for most of Kafka's.
    pub doc: &'static str,
}

impl Definition {
    /// Whether the value is a secret.
    pub fn sensitive(&self) -> bool {
        self.value_type == ValueType::Password
    }

    /// Parses and validates a value.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, ConfigError> {
        let value = Value::parse(self.name, text, self.value_type)?;
        self.validator.check(self.name, &value)?;
        Ok(value)
    }

    /// The default, parsed; `None` if it has none.
    pub(crate) fn default_value(&self) -> Option<Value> {
        match self.default {
            DefaultValue::Text(text) => Value::parse(self.name, text, self.value_type).ok(),
            _ => None,
        }
    }

    fn from_line(line: &'static str) -> Option<Self> {
        let mut columns = line.split('\t');
        let mut next = || columns.next();
        let resource = match next()? {
            "broker" => ConfigResource::Broker,
            "topic" => ConfigResource::Topic,
            "group" => ConfigResource::Group,
            "metrics" => ConfigResource::ClientMetrics,
            _ => return None,
        };
        let name = next()?;
        let value_type = ValueType::from_table(next()?)?;
        let default = match next()? {
            "\\R" => DefaultValue::Required,
            "\\N" => DefaultValue::Null,
            "''" => DefaultValue::Text(""),
            text => DefaultValue::Text(text),
        };
        let validator = Validator::from_table(next()?)?;
        let importance = next()?;
        let mode = match next()? {
            "ro" => UpdateMode::ReadOnly,
            "broker" => UpdateMode::PerBroker,
            _ => UpdateMode::ClusterWide,
        };
        let synonyms = next()?
            .split(' ')
            .filter(|s| *s != "-")
            .map(|s| match s.split_once('*') {
                Some((name, factor)) => Some((name, factor.parse().ok()?)),
                None => Some((s, 1)),
            })
            .collect::<Option<_>>()?;
        Some(Self {
            resource,
            name,
            value_type,
            default,
            validator,
            importance: importance.trim_end_matches(['I', 'D']),
            internal: importance.ends_with('I'),
            dynamic_only: importance.ends_with('D'),
            mode,
            synonyms,
            doc: next().unwrap_or(""),
        })
    }
}

type Table = BTreeMap<&'static str, Definition>;

/// One map per resource kind. A line that does not parse is left out; a test proves that there is
/// none.
static TABLES: LazyLock<[Table; 4]> = LazyLock::new(|| {
    let mut tables: [Table; 4] = Default::default();
    for line in KAFKA.lines().chain(FLUMEN.lines()) {
        if let Some(definition) = Definition::from_line(line) {
            tables[index(definition.resource)].insert(definition.name, definition);
        }
    }
    tables
});

fn index(resource: ConfigResource) -> usize {
    match resource {
        ConfigResource::Topic => 1,
        ConfigResource::Group => 2,
        ConfigResource::ClientMetrics => 3,
        ConfigResource::Broker | ConfigResource::BrokerLogger => 0,
    }
}

/// Every configuration of a kind of resource, by key. Broker loggers have none of their own and
/// show the broker's.
pub fn definitions(resource: ConfigResource) -> &'static BTreeMap<&'static str, Definition> {
    &TABLES[index(resource)]
}

/// The definition of one key.
pub fn definition(resource: ConfigResource, name: &str) -> Option<&'static Definition> {
    definitions(resource).get(name)
}

#[cfg(test)]
pub(crate) fn table_lines() -> impl Iterator<Item = &'static str> {
    let content = |line: &&str| !line.is_empty() && !line.starts_with('#');
    KAFKA.lines().chain(FLUMEN.lines()).filter(content)
}

#[cfg(test)]
pub(crate) fn line_parses(line: &'static str) -> bool {
    Definition::from_line(line).is_some()
}
