//! Bugs on purpose: the tests show that the simulator finds each of them.

use std::cell::Cell;

/// A bug to switch on, on the thread that runs the simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// None.
    #[default]
    None,
    /// The runtime says that a write is done when it has only begun.
    EarlyAck,
    /// Recovery believes the lengths in the headers of batches and does not check their CRC.
    NoCrcCheck,
    /// Recovery forgets the idempotent producers.
    ForgetProducers,
}

thread_local!(static EARLY_ACK: Cell<bool> = const { Cell::new(false) });

impl Planted {
    /// Switches this bug on and all others off, for the calling thread.
    pub fn plant(self) {
        EARLY_ACK.set(self == Self::EarlyAck);
        flumen_log::planted::set(match self {
            Self::None | Self::EarlyAck => flumen_log::planted::Bug::None,
            Self::NoCrcCheck => flumen_log::planted::Bug::NoCrcCheck,
            Self::ForgetProducers => flumen_log::planted::Bug::ForgetProducers,
        });
    }
}

pub(crate) fn early_ack() -> bool {
    EARLY_ACK.get()
}
