//! Cluster metadata: a Raft group, the records it replicates, the image that they add up to, and
//! the handlers that decide which records a request becomes.
//!
//! ```text
//! request --> controller::* (read the latest image, decide) --> records + response
//!                                                                  |
//!                                            Quorum::propose(records) -> ProposalId
//!                                                                  |
//!   Quorum::poll --> Effect::Append (the shard writes and syncs it) --> Quorum::append_done
//!                --> Effect::Committed { image, delta, finished }   (broadcast, then respond)
//!                --> Effect::Job (snapshot, on a helper thread)     --> Quorum::job_done
//! ```
//! Nothing here touches a clock, a file or a socket: the log is written by the shard as the effects
//! say, and the two pieces that block ([`Quorum::load`] and [`Job::run`]) take a
//! [`flumen_base::Disk`] and run as jobs.
//!
//! What must not be in this crate: connections and frames, partition data, the parsing of
//! configuration values (`flumen-settings` does that).
#![forbid(unsafe_code)]

mod check;
mod codec;
mod delta;
mod effect;
mod image;
mod initial;
mod quorum;
mod raft_log;
mod record;
mod snapshot;
mod storage;

pub mod controller;

pub use check::{Checked, check};
pub use codec::RecordError;
pub use delta::{Delta, PartitionDelta};
pub use effect::{
    Append, Commit, Effect, Job, JobResult, ProposalId, ProposeError, QuorumStatus, VoterStatus,
};
pub use image::{ConfigMap, Image, ImageError, Partition, ResourceType, Topic};
pub use initial::{Initial, InitialError, write_initial};
pub use quorum::{Loaded, Quorum, QuorumConfig};
pub use raft_log::LoadError;
pub use record::{
    Broker, ConfigRecord, Endpoint, MetadataRecord, PartitionChange, PartitionRecord,
};
pub use snapshot::SnapshotJob;
