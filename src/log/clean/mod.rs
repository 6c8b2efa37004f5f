//! Log compaction, as Kafka 4.3.1's cleaner does it: of each key only the last record stays.
//!
//! ```text
//! Log::cleanable -> due? -> Log::start_cleaning -> Cleaning, a job cut into slices:
//!   map      read the dirty part, remember the last offset of each key, until the map is full
//!   filter   copy segments, grouped up to `segment.bytes`, into `.cleaned` files, without the
//!            records that the map knows a later offset of
//!   swap     Log::begin_swap, then SwapJob: `.cleaned` -> `.swap`, old files -> `.deleted`,
//!            `.swap` -> the real names; Log::swap_done puts the new segment in place
//! Log::cleaning_done -> what is below the map's end is clean
//! ```
//! Only sealed segments below the last stable offset are touched, so everything that a cleaning
//! relies on is on disk. A cleaning may be dropped at any moment: what it has swapped stays, what
//! it has begun is removed with the next start (`leftovers.rs`), and the next one begins where the
//! last that ended had come to.
//!
//! Memory: the map (its size is given), one slice of batches, and the index of one segment.

mod filter;
mod map;
mod plan;
mod siphash;
mod swap;
mod txns;
mod work;

pub(crate) use plan::CleanState;
pub use plan::Cleanable;
pub use swap::{SwapJob, Swapped};
pub use work::{CleanLimits, CleanOutput, CleanStats, CleanStep, Cleaning};

/// Added to the names of files that a cleaning is writing.
pub(crate) const CLEANED_SUFFIX: &str = ".cleaned";
/// Added to the names of whole new segments that are about to replace others.
pub(crate) const SWAP_SUFFIX: &str = ".swap";

#[cfg(test)]
mod tests;
