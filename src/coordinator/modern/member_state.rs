//! Where a member stands between the assignment it has and the one it shall have.

/// The epoch of a member that has left.
pub(crate) const LEAVE_EPOCH: i32 = -1;
/// The epoch of a static member that has left for a while.
pub(crate) const LEAVE_STATIC_EPOCH: i32 = -2;

/// State of a member. Each kind of group has codes of its own for it in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// Has what its epoch gives it.
    Stable,
    /// Still has something that it must give up before it may go on.
    Unrevoked,
    /// Has given up all it must, and waits for what others still have.
    Unreleased,
    /// Of a later version of Kafka.
    Unknown,
}

/// As records write [`MemberState::Unknown`].
const UNKNOWN: i8 = 127;

impl MemberState {
    /// As records write it where stable is `first`.
    pub(crate) fn code(self, first: i8) -> i8 {
        match self {
            Self::Stable => first,
            Self::Unrevoked => first + 1,
            Self::Unreleased => first + 2,
            Self::Unknown => UNKNOWN,
        }
    }

    /// As records have it where stable is `first`.
    pub(crate) fn from_code(code: i8, first: i8) -> Self {
        match code.wrapping_sub(first) {
            0 => Self::Stable,
            1 => Self::Unrevoked,
            2 => Self::Unreleased,
            _ => Self::Unknown,
        }
    }
}
