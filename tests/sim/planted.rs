//! Bugs on purpose: the tests show that the simulator finds each of them.

use flumen_log::planted::{self, Bug};
use std::cell::Cell;

/// A bug to switch on, on the thread that runs the simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// None.
    #[default]
    None,
    /// The runtime says that a write is done when it has only begun.
    EarlyAck,
    /// The runtime begins a direct write with what it last knew of the block, not with what stands
    /// there.
    StaleBlock,
    /// One of the log's.
    Log(Bug),
}

/// A planted bug, its name on the command line, and the part of the system it is in.
type Line = (Planted, &'static str, &'static str);

/// All of them.
pub const PLANTED: [Line; 22] = [
    (Planted::EarlyAck, "early-ack", "runtime"),
    (Planted::StaleBlock, "stale-block", "direct writes"),
    (
        Planted::Log(Bug::KeepPadding),
        "keep-padding",
        "direct writes",
    ),
    (Planted::Log(Bug::SkipSync), "skip-sync", "group commit"),
    (
        Planted::Log(Bug::UnnamedWrites),
        "unnamed-writes",
        "group commit",
    ),
    (
        Planted::Log(Bug::IgnoreSyncError),
        "ignore-sync-error",
        "group commit",
    ),
    (
        Planted::Log(Bug::RecoveryPointAhead),
        "recovery-point-ahead",
        "log",
    ),
    (Planted::Log(Bug::NoCrcCheck), "no-crc-check", "recovery"),
    (
        Planted::Log(Bug::KeepBehindCut),
        "keep-behind-cut",
        "recovery",
    ),
    (
        Planted::Log(Bug::NoSyncAfterRecovery),
        "no-sync-after-recovery",
        "recovery",
    ),
    (
        Planted::Log(Bug::ForgetProducers),
        "forget-producers",
        "producer state",
    ),
    (
        Planted::Log(Bug::LateSnapshot),
        "late-snapshot",
        "producer state",
    ),
    (Planted::Log(Bug::IndexPosition), "index-position", "index"),
    (Planted::Log(Bug::StaleTimes), "stale-times", "index"),
    (
        Planted::Log(Bug::RetentionEager),
        "retention-eager",
        "retention",
    ),
    (
        Planted::Log(Bug::CloseWithoutSync),
        "close-without-sync",
        "stop",
    ),
    (
        Planted::Log(Bug::AppendAfterClose),
        "append-after-close",
        "stop",
    ),
    (
        Planted::Log(Bug::ForgetAborted),
        "forget-aborted",
        "transactions",
    ),
    (
        Planted::Log(Bug::StableAhead),
        "stable-ahead",
        "transactions",
    ),
    (Planted::Log(Bug::Unverified), "unverified", "transactions"),
    (
        Planted::Log(Bug::EarlyShareAck),
        "early-share-ack",
        "share groups",
    ),
    (
        Planted::Log(Bug::ForgetReleased),
        "forget-released",
        "share groups",
    ),
];

thread_local!(static RUNTIME: Cell<Planted> = const { Cell::new(Planted::None) });

impl Planted {
    /// Switches this bug on and all others off, for the calling thread.
    pub fn plant(self) {
        RUNTIME.set(self);
        planted::set(match self {
            Self::Log(bug) => bug,
            _ => Bug::None,
        });
    }

    /// The bug of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        PLANTED.iter().find(|l| l.1 == name).map(|l| l.0)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        PLANTED.iter().find(|l| l.0 == self).map_or("none", |l| l.1)
    }
}

/// Whether this bug is switched on here.
pub(crate) fn is(bug: Planted) -> bool {
    RUNTIME.get() == bug
}
