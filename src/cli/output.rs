//! Tables, JSON and progress.

use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Whoever read standard output has seen enough (`| head`): the end, and no failure.
#[derive(Debug)]
pub(crate) struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for Closed {}

/// The result of a write to standard output.
pub(crate) fn written(result: std::io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Closed.into()),
        Err(e) => Err(anyhow::Error::new(e).context("standard output")),
        Ok(()) => Ok(()),
    }
}

/// Writes one line to standard output.
pub(crate) fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    written(writeln!(std::io::stdout().lock(), "{text}"))
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    line(text)
}

/// Writes rows in columns as wide as their widest cell.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let show = |cells: &[&str]| {
        let cells = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    line(show(header))?;
    for row in rows {
        line(show(&row.iter().map(String::as_str).collect::<Vec<_>>()))?;
    }
    Ok(())
}

/// A count on standard error, once a second, if somebody is watching.
pub(crate) struct Progress {
    what: &'static str,
    started: Instant,
    shown: Option<Instant>,
    watched: bool,
}

impl Progress {
    /// `what` is counted: "records sent".
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            started: Instant::now(),
            shown: None,
            watched: std::io::stderr().is_terminal(),
        }
    }

    /// Shows the count if a second has passed.
    pub(crate) fn show(&mut self, count: u64) {
        let last = self.shown.unwrap_or(self.started);
        if self.watched && last.elapsed() >= Duration::from_secs(1) {
            let rate = count as f64 / self.started.elapsed().as_secs_f64();
            let _ = write!(std::io::stderr(), "\r{count} {} ({rate:.0}/s) ", self.what);
            self.shown = Some(Instant::now());
        }
    }

    /// Ends the line, if one was begun.
    pub(crate) fn end(&self) {
        if self.shown.is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}
