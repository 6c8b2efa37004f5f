//! Share groups (KIP-932): members share the records of partitions instead of the partitions. The
//! coordinator says which members read which partitions; who has which record is the partition's
//! affair ([`crate::share`]).
//!
//! ```text
//! a member subscribes -> its topics' share partitions get stored state (a call to other shards)
//!   -> they are there -> with the next heartbeat: group epoch + 1, a new target, and the member
//!      has what the target gives it
//! ```
//! As in a consumer group handlers make a plan out of the group and the request; applying its
//! records changes the group at once, the answer leaves when they are written ([`write`]).

mod calls;
mod heartbeat;
mod offsets;
mod records;
mod state;
mod stored;
mod timers;
mod view;
mod write;

pub use calls::{ShareCall, ShareCalled, ShareDeed};
pub use heartbeat::is_share_member_id;

pub(crate) use calls::ShareThen;
pub(crate) use heartbeat::{share_heartbeat_error, validate as validate_share_heartbeat};
pub(crate) use offsets::{alter_answer, alter_error, delete_offsets_error};
pub(crate) use records::{ShareRecord, read as read_share_record};
pub(crate) use state::{ShareGroup, Undo};
pub(crate) use view::{no_share_group, share_described_error};
