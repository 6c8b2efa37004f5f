//! Why a request is refused.

use flumen_base::ErrorCode;

/// An error, and what the client is told beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error: ErrorCode,
    pub(crate) message: Option<String>,
}

impl Refusal {
    pub(crate) fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            error,
            message: Some(message.into()),
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Self {
            error,
            message: None,
        }
    }
}

/// A group has no member with this id.
pub(crate) fn unknown_member(id: &str, group: &str) -> Refusal {
    let message = format!("Member {id} is not a member of group {group}.");
    Refusal::new(ErrorCode::UnknownMemberId, message)
}

/// Empty as Java's `trim` sees it.
pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c <= ' ')
}

/// The same of a text that may be missing.
pub(crate) fn is_blank_if_any(text: Option<&str>) -> bool {
    text.is_some_and(is_blank)
}
