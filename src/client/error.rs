//! What can go wrong between a client and a cluster.

use kafka_protocol::ResponseError;
use std::io;

/// An error of the client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A connection could not be made or broke.
    #[error("{address}: {error}")]
    Io {
        /// Of the broker.
        address: String,
        /// The system's error; a timeout is `TimedOut` or `WouldBlock`.
        error: io::Error,
    },
    /// No bootstrap address answered.
    #[error("no broker answers at {0}")]
    NoBroker(String),
    /// The broker answered with an error code.
    #[error("{what}: {}{}", error_name(*code), suffix(message))]
    Api {
        /// What was asked.
        what: String,
        /// The code.
        code: i16,
        /// What the broker says about it.
        message: Option<String>,
    },
    /// The broker lacks an API, or every version of it that this client speaks.
    #[error("the broker does not support {0}")]
    Unsupported(String),
    /// Bytes that make no sense.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// A topic, partition or group is not there.
    #[error("{0} does not exist")]
    NotFound(String),
}

impl ClientError {
    /// The broker's error code, if it answered with one.
    pub fn code(&self) -> Option<i16> {
        match self {
            Self::Api { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later or on another broker.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Api { code, .. } => {
                ResponseError::try_from_code(*code).is_some_and(|e| e.is_retriable())
            }
            _ => false,
        }
    }

    pub(crate) fn check(code: i16, what: impl FnOnce() -> String) -> Result<(), Self> {
        Self::check_message(code, None, what)
    }

    pub(crate) fn check_message(
        code: i16,
        message: Option<&str>,
        what: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        if code == 0 {
            return Ok(());
        }
        Err(Self::Api {
            what: what(),
            code,
            message: message.filter(|m| !m.is_empty()).map(str::to_owned),
        })
    }
}

fn suffix(message: &Option<String>) -> String {
    message
        .as_deref()
        .map_or_else(String::new, |m| format!(": {m}"))
}

/// Kafka's name of an error code, such as `UNKNOWN_TOPIC_OR_PARTITION`.
pub fn error_name(code: i16) -> String {
    if code == 0 {
        return "NONE".to_owned();
    }
    let Some(error) = ResponseError::try_from_code(code).filter(|e| e.code() == code) else {
        return format!("error {code}");
    };
    let mut name = String::new();
    for c in format!("{error:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}
