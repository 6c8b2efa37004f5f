//! The classic group protocol: JoinGroup, SyncGroup, Heartbeat, LeaveGroup.
//!
//! ```text
//!        first join             delay over, or all joined       assignment is written
//! Empty ------------> Preparing --------------------> Completing ---------------> Stable
//!   ^                 Rebalance     generation + 1     Rebalance                     |
//!   |                   |   ^                              |                         |
//!   +-- nobody joined --+   +---- join, leave, expiry -----+-------------------------+
//! ```
//! Dead: the tombstone of the group is being written. Membership lives in memory; each generation
//! that became stable is one GroupMetadata record, and that record is what a restart brings back.

mod heartbeat;
mod join;
mod leave;
mod load;
mod member;
mod rebalance;
mod state;
mod sync;
mod view;

pub(crate) use join::{
    Joining, StaticReplacement, join_error, rebalance_timeout_ms, requires_member_id,
};
pub(crate) use leave::{Leaving, leave_error, leave_reply, leave_unknown, leaving, left};
pub(crate) use member::{Member, Parked, Protocol, new_member};
pub(crate) use state::{ClassicGroup, JoinTimer, State};
pub(crate) use sync::sync_error;
pub(crate) use view::{described_error, described_not_classic, described_unknown};

use flumen_base::ErrorCode;

/// What a client hears when a group's metadata could not be appended.
pub(crate) fn metadata_append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge
        | ErrorCode::RecordListTooLarge
        | ErrorCode::InvalidFetchSize => ErrorCode::UnknownServerError,
        other => other,
    }
}
