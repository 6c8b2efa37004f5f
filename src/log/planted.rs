//! Bugs on purpose, for the simulator's tests, which must find them. Only with the feature
//! `planted-bugs`, and then off until a thread switches one on.

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
}

thread_local!(static BUG: Cell<Bug> = const { Cell::new(Bug::None) });

/// Switches a bug on for the calling thread, and any other off.
pub fn set(bug: Bug) {
    BUG.set(bug);
}

pub(crate) fn is(bug: Bug) -> bool {
    BUG.get() == bug
}
