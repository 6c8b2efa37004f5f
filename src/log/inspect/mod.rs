//! Reading files of a log directory that may hold anything, without changing them: for the tools
//! that show them and tell what is wrong.
//!
//! The formats are Kafka's, so that a directory of Apache Kafka can be looked at too. Every
//! function here is bounded in memory by constants of this module, whatever the files claim, and
//! never panics on their bytes.

mod entries;
mod lockstep;
mod partition;
mod segment;
mod small;
mod verify;
mod walk;

pub use entries::{
    AbortedTxn, Entries, OffsetEntry, SnapshotEntry, SnapshotFile, TXN_ENTRY_LEN, TimestampEntry,
};
pub use small::{Lines, partition_of_dir};
pub use verify::{Finding, Severity, Summary, VerifyOptions, verify};
pub use walk::{Damage, Found, FoundBatch, Walker};

use crate::checkpoint;
use crate::epoch;
use crate::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX, offset_of_name,
};

/// The longest batch whose records are looked at.
pub const BATCH_LEN_MAX: usize = 128 << 20;
/// What its records may unfold to.
pub const UNFOLDED_MAX: usize = 256 << 20;

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Batches of a segment, which begins at this offset.
    Log(i64),
    /// Batches of a snapshot of Kafka's metadata (`<offset>-<epoch>.checkpoint`).
    KafkaSnapshot,
    /// Offset index of the segment with this base.
    OffsetIndex(i64),
    /// Time index of the segment with this base.
    TimeIndex(i64),
    /// Aborted transactions of the segment with this base.
    TxnIndex(i64),
    /// Producers as of this offset.
    ProducerSnapshot(i64),
    /// `leader-epoch-checkpoint`.
    Epochs,
    /// One of the offset checkpoints of a log directory.
    Offsets,
    /// `partition.metadata`.
    PartitionMetadata,
    /// `meta.properties`.
    MetaProperties,
    /// `.kafka_cleanshutdown`.
    CleanShutdown,
    /// Flumen's metadata log or a snapshot of it.
    FlumenMetadata,
    /// What an interrupted deletion, compaction or replacement leaves.
    Leftover,
    /// A file of other known purpose, whose content is not checked.
    Known,
    /// Anything else.
    Other,
}

impl FileKind {
    /// Of a file of this name.
    pub fn of(name: &str) -> Self {
        let offset = |suffix| offset_of_name(name, suffix);
        if let Some(base) = offset(LOG_SUFFIX) {
            return Self::Log(base);
        }
        if let Some(base) = offset(INDEX_SUFFIX) {
            return Self::OffsetIndex(base);
        }
        if let Some(base) = offset(TIME_INDEX_SUFFIX) {
            return Self::TimeIndex(base);
        }
        if let Some(base) = offset(TXN_INDEX_SUFFIX) {
            return Self::TxnIndex(base);
        }
        if let Some(at) = offset(SNAPSHOT_SUFFIX) {
            return Self::ProducerSnapshot(at);
        }
        if is_kafka_snapshot(name) {
            return Self::KafkaSnapshot;
        }
        let has = |suffixes: &[&str]| suffixes.iter().any(|s| name.ends_with(s));
        match name {
            epoch::FILE_NAME => Self::Epochs,
            checkpoint::RECOVERY_POINT
            | checkpoint::LOG_START
            | checkpoint::HIGH_WATERMARK
            | checkpoint::CLEANER => Self::Offsets,
            checkpoint::PARTITION_METADATA => Self::PartitionMetadata,
            checkpoint::META_PROPERTIES => Self::MetaProperties,
            checkpoint::CLEAN_SHUTDOWN => Self::CleanShutdown,
            ".lock" | "quorum-state" | "bootstrap.checkpoint" | "bootstrap.properties" => {
                Self::Known
            }
            _ if has(&[".raft"]) => Self::FlumenMetadata,
            _ if has(&[".deleted", ".cleaned", ".swap", ".tmp", ".part"]) => Self::Leftover,
            _ => Self::Other,
        }
    }
}

/// `00000000000000000042-0000000003.checkpoint`.
fn is_kafka_snapshot(name: &str) -> bool {
    let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let stem = name.strip_suffix(".checkpoint");
    stem.and_then(|s| s.split_once('-'))
        .is_some_and(|(offset, epoch)| digits(offset, 20) && digits(epoch, 10))
}

#[cfg(test)]
#[path = "inspect_test.rs"]
mod tests;
