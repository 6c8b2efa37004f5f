//! Typed reads of the broker's configuration through its layers.

use crate::definitions::{DefaultValue, definition};
use crate::describe::ConfigResource;
use crate::value::Value;
use crate::{ConfigError, ConfigMap};

/// The broker's configuration as layers, the strongest first: dynamic of this broker, dynamic
/// default, static.
pub(crate) struct View<'a> {
    pub(crate) layers: &'a [&'a ConfigMap],
}

macro_rules! getter {
    ($name:ident, $opt:ident, $variant:ident, $type:ty) => {
        pub(crate) fn $opt(&self, name: &str) -> Result<Option<$type>, ConfigError> {
            match self.value(name)? {
                Some(Value::$variant(v)) => Ok(Some(v)),
                _ => Ok(None),
            }
        }
        pub(crate) fn $name(&self, name: &str) -> Result<$type, ConfigError> {
            self.$opt(name)?
                .ok_or_else(|| ConfigError::Missing(name.to_owned()))
        }
    };
}

impl View<'_> {
    /// The text of a key in the strongest layer that has it.
    pub(crate) fn set(&self, name: &str) -> Option<&str> {
        self.layers
            .iter()
            .find_map(|layer| layer.get(name))
            .map(String::as_str)
    }

    /// The validated value of a key, or its default; `None` if it has neither.
    pub(crate) fn value(&self, name: &str) -> Result<Option<Value>, ConfigError> {
        let unknown = || ConfigError::Unknown {
            kind: "broker",
            name: name.to_owned(),
        };
        let definition = definition(ConfigResource::Broker, name).ok_or_else(unknown)?;
        match self.set(name) {
            Some(text) => definition.parse(text).map(Some),
            None if definition.default == DefaultValue::Required => {
                Err(ConfigError::Missing(name.to_owned()))
            }
            None => Ok(definition.default_value()),
        }
    }

    getter!(bool, _opt_bool, Bool, bool);
    getter!(int, opt_int, Int, i32);
    getter!(short, _opt_short, Short, i16);
    getter!(long, opt_long, Long, i64);
    getter!(double, _opt_double, Double, f64);
    getter!(text, opt_text, Text, String);
    getter!(list, opt_list, List, Vec<String>);

    /// The first of several keys that is set, each with the factor of its unit, else the default of
    /// the last.
    pub(crate) fn first_long(&self, names: &[(&str, i64)]) -> Result<i64, ConfigError> {
        for (name, factor) in names {
            let n = match self.value(name)? {
                Some(Value::Long(n)) => n,
                Some(Value::Int(n)) => i64::from(n),
                _ => continue,
            };
            return Ok(if *factor == 1 {
                n
            } else {
                n.saturating_mul(*factor)
            });
        }
        Err(ConfigError::Missing(
            names.last().map_or("", |n| n.0).to_owned(),
        ))
    }
}
