//! One partition's log, without I/O of its own. Level 1: depends on `flumen-base` only.
//!
//! The shard that owns a partition owns its [`Log`]: a synchronous state machine that is told of time and of completed
//! disk work, and that hands out descriptions of the disk work it wants.
//!
//! ```text
//! produce   validate() -> Log::append() -> [end of turn] Log::take_write() -> disk -> Log::write_done()
//! fetch     Log::plan_read() -> Memory | File | NeedScan -> disk -> Log::resume_read() -> ...
//! beside    take_seal_job, take_epoch_job, retention, close_job, lookup: jobs with run(&dyn Disk), and x_done()
//! start     recovery::load(disk) (a job) -> Log::from_loaded()
//! ```
//! Bytes on disk are exactly Kafka's (`.log`, `.index`, `.timeindex`, `.snapshot`, checkpoints), so that Kafka's own
//! `DumpLogSegments` reads them. Nothing in this crate reads a clock, opens a file on the hot path, or draws a random
//! number; nothing panics on bytes from the network or the disk.
#![forbid(unsafe_code)]

pub mod batch;
mod builder;
pub mod checkpoint;
pub mod codec;
pub mod config;
pub mod epoch;
pub mod index;
mod jobs;
mod leftovers;
mod log;
pub mod lookup;
mod ops;
pub mod producer_state;
mod read;
pub mod recovery;
mod reload_producers;
mod scan;
pub mod segment;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod testing_rig;
pub mod validate;

pub use batch::{BatchBuilder, BatchError, BatchHeader, Record};
pub use codec::Compression;
pub use config::{CleanupPolicy, LogConfig, TargetCompression, TimestampType};
pub use jobs::{CloseJob, Closed, DeleteJob, Deleted, EpochJob, SealJob, Sealed, UnlinkJob};
pub use log::Log;
pub use ops::{AppendError, AppendInfo, FileIds, SyncOp, WriteDone, WriteOp};
pub use read::{FileRange, ReadPlan, ReadRequest, Scan};
pub use validate::{
    Origin, RecordError, ValidBatch, ValidateError, check_produce_version, cost_estimate, validate,
};
