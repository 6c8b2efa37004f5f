//! The words that every crate of Flumen shares: identifiers, error codes, limits, time, the disk as
//! the core sees it, and the seeded random generator. Level 0: depends on no other crate of the
//! workspace and touches no OS.
//!
//! ```
//! use flumen_base::{Offset, Uuid};
//! let id = Uuid::from_bytes([7; 16]);
//! assert_eq!(Uuid::parse(&id.to_string()), Some(id)); // Kafka's URL-safe base64 form
//! assert_eq!(Offset(41) + 1, Offset(42));
//! ```
#![forbid(unsafe_code)]

pub mod aligned;
mod disk;
mod disk_fault;
mod error;
mod ids;
pub mod limits;
mod prng;
mod time;
mod uuid;

pub use disk::{Disk, DiskFile, FileId, Handle, LogFile, OpenMode, Space};
pub use disk_fault::{DiskFault, sync_failed};
pub use error::ErrorCode;
pub use ids::{
    BrokerId, LeaderEpoch, Offset, PartitionIndex, ProducerId, ShardId, TopicId, TopicPartition,
};
pub use prng::Prng;
pub use time::{Clock, Mono, Now};
pub use uuid::Uuid;

/// A hash map with a fixed hasher, for keys that a client can't choose (ids, tokens). For names
/// sent by clients use a `BTreeMap`: a fixed hasher invites collisions made on purpose, and a
/// random one breaks seeded replay.
pub type IdMap<K, V> = rustc_hash::FxHashMap<K, V>;

/// The set that belongs to [`IdMap`].
pub type IdSet<K> = rustc_hash::FxHashSet<K>;
