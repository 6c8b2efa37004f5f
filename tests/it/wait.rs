//! Waiting on a condition with a deadline.

use std::time::{Duration, Instant};

/// Polls `condition` until it gives a value; after `limit` the error names `what` and carries the
/// last reason.
///
/// # Errors
/// The deadline passed.
pub fn until<T>(
    what: &str,
    limit: Duration,
    condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    every(Duration::from_millis(2), what, limit, condition)
}

/// As [`until`], for conditions that cost something to look at: polls once in `pace`.
///
/// # Errors
/// The deadline passed.
pub fn every<T>(
    pace: Duration,
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    let mut last = String::from("not yet");
    loop {
        match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(e) => last = format!("{e:#}"),
        }
        if Instant::now() > end {
            anyhow::bail!("{what} did not happen within {limit:?}: {last}");
        }
        std::thread::sleep(pace);
    }
}
