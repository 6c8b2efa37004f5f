//! Time as the core sees it: handed in with every input, never read.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment of the monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// This moment plus `ms` milliseconds; negative counts as zero.
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(
            self.0
                .saturating_add((ms.max(0) as u64).saturating_mul(1_000_000)),
        )
    }

    /// Nanoseconds from `earlier` to this moment; zero if it is later.
    pub fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Mono {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }
}

/// The time of one turn of a shard: both clocks read once, at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines and durations.
    pub mono: Mono,
    /// For record timestamps and retention: milliseconds since the epoch. It may jump.
    pub wall_ms: i64,
}

/// A source of time. Implemented by the runtime (the OS) and by the simulator (virtual time).
pub trait Clock {
    /// Both clocks, now.
    fn now(&self) -> Now;
}
