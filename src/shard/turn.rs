//! What a handler may use of the turn it runs in.

use crate::io::Effects;
use flumen_base::Now;

/// The time of the turn and where its effects go.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Both clocks, read once.
    pub now: Now,
    /// To be carried out at the end of the turn.
    pub fx: &'a mut Effects,
}
