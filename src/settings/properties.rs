//! Java's properties format (`java.util.Properties.load`, the text of `server.properties`).

use crate::{ConfigError, ConfigMap};

/// Keys and values of a properties file; of duplicate keys the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    entries: ConfigMap,
}

impl Properties {
    /// Parses the text of a properties file.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let _ = text;
        Ok(Self::default())
    }

    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(String::as_str)
    }

    /// Sets a key.
    pub fn set(&mut self, name: &str, value: &str) {
        self.entries.insert(name.to_owned(), value.to_owned());
    }

    /// All keys and values by key.
    pub fn entries(&self) -> &ConfigMap {
        &self.entries
    }
}
