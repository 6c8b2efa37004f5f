//! What can be wrong with a configuration, in Kafka's words where clients see them.

/// A configuration that is refused. The text is what `ConfigException.getMessage` says in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that its type or validator refuses.
    #[error(
        "Invalid value {value} for configuration {name}{}{reason}",
        separator(reason)
    )]
    Invalid {
        /// The key.
        name: String,
        /// The value as given (`null` for none).
        value: String,
        /// Why; may be empty.
        reason: String,
    },
    /// A required key is missing.
    #[error("Missing required configuration \"{0}\" which has no default value.")]
    Missing(String),
    /// Not a key of this kind of resource (the message names the kind).
    #[error("Unknown {kind} config name: {name}")]
    Unknown {
        /// "topic", "group" ...
        kind: &'static str,
        /// The key.
        name: String,
    },
    /// A key that can't be changed while the broker runs, keys that contradict each other, and
    /// other refusals.
    #[error("{0}")]
    Refused(String),
    /// A security key whose protection is not built: never silently open.
    #[error(
        "{name}={value} asks for protection that Flumen does not have yet ({what}): it refuses to \
         start rather than run open"
    )]
    Unprotected {
        /// The key.
        name: String,
        /// Its value (hidden when it is a secret).
        value: String,
        /// The protection it asks for.
        what: &'static str,
    },
    /// The text of a properties file is malformed.
    #[error("line {line}: {reason}")]
    Syntax {
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

fn separator(reason: &str) -> &'static str {
    if reason.is_empty() { "" } else { ": " }
}

impl ConfigError {
    /// An [`ConfigError::Invalid`].
    pub fn invalid(name: &str, value: &str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            name: name.to_owned(),
            value: value.to_owned(),
            reason: reason.into(),
        }
    }
}
