//! Bugs on purpose, for the simulator's tests, which must find each of them. Only with the feature
//! `planted-bugs`, and then off until a thread switches one on. Each is one that somebody could
//! make: a check, a sync or a step left out, or done in the wrong order.

use std::cell::Cell;

/// Which bug.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    /// None.
    #[default]
    None,
    /// Recovery does not check the CRC of batches.
    NoCrcCheck,
    /// Recovery forgets the idempotent producers.
    ForgetProducers,
    /// Recovery cuts a segment and keeps those behind it.
    KeepBehindCut,
    /// Recovery serves, and acks again, what a killed process wrote and did not sync.
    NoSyncAfterRecovery,
    /// Group commit: a write that is to be synced is not.
    SkipSync,
    /// Group commit: synced writes do not wait until the name of their file is on disk.
    UnnamedWrites,
    /// A synced write that failed counts as a good one.
    IgnoreSyncError,
    /// The recovery point passes segments that are rolled but not yet sealed.
    RecoveryPointAhead,
    /// Entries of a sealed index say where the batch after theirs begins.
    IndexPosition,
    /// A time index is closed without the entry of its largest timestamp.
    StaleTimes,
    /// Retention takes the segment in which the log starts.
    RetentionEager,
    /// The producer snapshot of a rolled segment is taken when it is sealed, not when it rolled.
    LateSnapshot,
    /// A sealed segment keeps the zeros behind a direct write.
    KeepPadding,
    /// A clean stop does not sync the logs.
    CloseWithoutSync,
    /// A log takes appends after its close job was made.
    AppendAfterClose,
    /// Recovery does not look for the aborted transactions of the segments that it walks.
    ForgetAborted,
    /// Readers of committed records get what is not decided yet.
    StableAhead,
    /// Transactional batches need not be known to the coordinator of their transaction.
    Unverified,
    /// What members of share groups say is answered before it is stored.
    EarlyShareAck,
    /// A share partition that is loaded takes records that were given back for finished.
    ForgetReleased,
}

thread_local!(static BUG: Cell<Bug> = const { Cell::new(Bug::None) });

/// Switches a bug on for the calling thread, and any other off.
pub fn set(bug: Bug) {
    BUG.set(bug);
}

/// Whether this one is switched on for the calling thread.
pub fn is(bug: Bug) -> bool {
    BUG.get() == bug
}
