//! One partition's log, without I/O of its own. Level 1: depends on `flumen-base` only.
//!
//! The shard that owns a partition owns its [`Log`]: a synchronous state machine that is told of
//! time and of completed disk work, and that hands out descriptions of the disk work it wants.
//!
//! ```text
//! produce   validate() -> Log::append() -> take_write() -> disk -> write_done()
//! fetch     Log::plan_read() -> Memory | File | NeedScan -> disk -> Log::resume_read() -> ...
//! beside    take_seal_job, take_epoch_job, retention, close_job, lookup, start_cleaning (clean/):
//!           jobs, and x_done()
//! start     recovery::load(disk) (a job) -> Log::from_loaded()
//! ```
//! Bytes on disk are exactly Kafka's (`.log`, `.index`, `.timeindex`, `.snapshot`, checkpoints), so
//! that Kafka's own `DumpLogSegments` reads them. Nothing in this crate reads a clock, opens a file
//! on the hot path, or draws a random number; nothing panics on bytes from the network or the disk.
//!
//! ```
//! # use flumen_log::{validate, BatchBuilder, FileIds, Log, LogConfig, Origin};
//! # use flumen_log::{ReadPlan, ReadRequest};
//! # use flumen_log::recovery::{load, LoadParams};
//! # use flumen_base::{Disk, Now, Offset, Uuid};
//! # fn run(disk: &dyn Disk) -> Result<(), Box<dyn std::error::Error>> {
//! # let config = std::sync::Arc::new(LogConfig::default());
//! # let params = LoadParams { dir: "logs/t-0".into(), config: config.clone(),
//! #     recovery_point: Offset(0), log_start_offset: Offset(0), cleaned_offset: Offset(0),
//! #     clean: false, now_ms: 0, topic_id: Uuid::from_bytes([1; 16]) };
//! let mut log = Log::from_loaded(load(disk, params)?, config.clone(), FileIds::default());
//! let mut batch = BatchBuilder::new();
//! batch.push(0, Some(b"key"), Some(b"value"));
//! let bytes = batch.build().ok_or("no records")?;
//! let valid = validate(bytes, &config, Origin::Client, 0, 1 << 20)?;
//! let info = log.append(Now::default(), &valid, 0)?;
//! let write = log.take_write().ok_or("nothing staged")?; // carried out by the runtime, then:
//! log.write_done(true);
//! assert!(log.written_end_offset() > info.last_offset); // now it may be acked and read
//! let upper_bound = write.end_offset;
//! let all = ReadRequest { offset: Offset(0), upper_bound, max_bytes: 1 << 20, min_one: true };
//! assert!(matches!(log.plan_read(&all), ReadPlan::File(range) if range.pos == 0));
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

/// Whether a bug of that name is switched on; never but in the simulator.
#[cfg(feature = "planted-bugs")]
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is($crate::planted::Bug::$bug)
    };
}
#[cfg(not(feature = "planted-bugs"))]
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

pub mod batch;
mod builder;
pub mod checkpoint;
pub mod clean;
pub mod codec;
pub mod config;
#[cfg(test)]
mod corruption_test;
mod crc;
mod cut;
pub mod epoch;
mod epoch_job;
pub mod index;
pub mod inspect;
mod jobs;
mod leftovers;
#[cfg(test)]
mod load_test;
mod log;
mod log_view;
pub mod lookup;
mod marker;
mod ops;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod producer_state;
mod read;
pub mod recovery;
mod refused;
mod reindex;
mod reload_epochs;
mod reload_producers;
mod relocate;
mod retire;
mod scan;
pub mod segment;
mod staging;
mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(any(test, feature = "testing"))]
pub mod testing_dirs;
#[cfg(any(test, feature = "testing"))]
pub mod testing_fuse;
#[cfg(test)]
mod testing_rig;
mod times;
mod trusted;
mod txn;
pub mod txn_index;
pub mod validate;
mod verification;
mod walk;

pub use batch::{BatchBuilder, BatchError, BatchHeader, Record};
pub use codec::Compression;
pub use config::{CleanupPolicy, LogConfig, TargetCompression, TimestampType};
pub use cut::CutJob;
pub use epoch_job::EpochJob;
pub use jobs::{CloseJob, Closed, SEAL_DELAY_MS, SealJob, SealStep, Sealed};
pub use log::Log;
pub use marker::Marker;
pub use ops::{AppendError, AppendInfo, FileIds, SyncOp, WriteDone, WriteOp};
pub use read::{FileRange, ReadPlan, ReadRequest, Scan};
pub use reindex::{ReindexJob, Reindexed};
pub use relocate::{Copied, CopyJob, CopyState, RelocateJob, Relocated};
pub use retire::{DeleteJob, Deleted, UnlinkJob};
pub use times::{CheckedTimes, TimesJob};
pub use validate::{
    Origin, RecordError, ValidBatch, ValidateError, check_produce_version, cost_estimate, validate,
};
pub use verification::{TxnContext, VerificationGuard};
