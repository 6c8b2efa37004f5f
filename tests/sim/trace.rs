//! What happened, in order: always as a hash (two runs of one seed must agree), as text when
//! somebody wants to read it.

use std::fmt::{self, Write};

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: Fnv,
    lines: u64,
    text: Option<String>,
}

/// FNV-1a, 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

impl Write for Fnv {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.add(s.as_bytes());
        Ok(())
    }
}

impl Trace {
    /// An empty trace; `keep` also keeps its text.
    pub fn new(keep: bool) -> Self {
        Self {
            hash: Fnv::new(),
            lines: 0,
            text: keep.then(String::new),
        }
    }

    /// Adds a line.
    pub fn line(&mut self, args: fmt::Arguments<'_>) {
        self.lines += 1;
        match &mut self.text {
            Some(text) => {
                let from = text.len();
                let _ = writeln!(text, "{args}");
                self.hash.add(&text.as_bytes()[from..]);
            }
            None => {
                let _ = writeln!(self.hash, "{args}");
            }
        }
    }

    /// Hash of all lines.
    pub fn hash(&self) -> u64 {
        self.hash.value()
    }

    /// Number of lines.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The text, if it was kept.
    pub fn into_text(self) -> Option<String> {
        self.text
    }
}

/// Adds a line to a trace, as `format!` takes it.
macro_rules! note {
    ($trace:expr, $($arg:tt)*) => {
        $trace.line(format_args!($($arg)*))
    };
}
pub(crate) use note;

/// A short name for bytes in a trace.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut fnv = Fnv::new();
    fnv.add(bytes);
    fnv.value()
}
