//! One line of output: named values, as text in the manner of Kafka's dump tool or as JSON.

use super::super::output;
use flumen_wire::json::quoted;
use std::io::{BufWriter, StdoutLock, Write};

/// A value of a line.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    Int(i64),
    Bool(bool),
    Text(String),
    /// JSON text, which both forms show as it is.
    Json(String),
    /// `null` in JSON, left out of text.
    Absent,
}

impl From<i64> for Shown {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<i32> for Shown {
    fn from(n: i32) -> Self {
        Self::Int(n.into())
    }
}

impl From<i16> for Shown {
    fn from(n: i16) -> Self {
        Self::Int(n.into())
    }
}

impl From<u64> for Shown {
    fn from(n: u64) -> Self {
        Self::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Shown {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Shown {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Shown {
    fn json(&self, out: &mut String) {
        match self {
            Self::Int(n) => out.push_str(&n.to_string()),
            Self::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
            Self::Text(text) => quoted(text, out),
            Self::Json(json) => out.push_str(json),
            Self::Absent => out.push_str("null"),
        }
    }

    fn text(&self, out: &mut String) {
        match self {
            Self::Text(text) if !text.chars().any(char::is_control) => out.push_str(text),
            other => other.json(out),
        }
    }
}

/// A line in the making.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// What it is, in JSON; text shows it by its form.
    kind: &'static str,
    fields: Vec<(&'static str, Shown)>,
}

impl Line {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            fields: Vec::new(),
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Shown>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    pub(super) fn push(&mut self, name: &'static str, value: impl Into<Shown>) {
        self.fields.push((name, value.into()));
    }
}

/// Standard output, as text or as JSON lines.
pub(super) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    buf: String,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self {
            out: BufWriter::with_capacity(64 << 10, std::io::stdout().lock()),
            json,
            buf: String::new(),
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// A line that JSON has no use for.
    pub(super) fn heading(&mut self, text: &str) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        output::written(writeln!(self.out, "{text}"))
    }

    /// One line; `indent` stands before it as text.
    pub(super) fn line(&mut self, indent: &str, line: &Line) -> anyhow::Result<()> {
        self.buf.clear();
        if self.json {
            self.buf.push_str("{\"kind\":");
            quoted(line.kind, &mut self.buf);
            for (name, value) in &line.fields {
                self.buf.push(',');
                quoted(name, &mut self.buf);
                self.buf.push(':');
                value.json(&mut self.buf);
            }
            self.buf.push('}');
        } else {
            self.buf.push_str(indent);
            let there = |f: &&(&str, Shown)| !matches!(f.1, Shown::Absent);
            for (n, (name, value)) in line.fields.iter().filter(there).enumerate() {
                if n > 0 {
                    self.buf.push(' ');
                }
                self.buf.push_str(name);
                self.buf.push_str(": ");
                value.text(&mut self.buf);
            }
        }
        output::written(writeln!(self.out, "{}", self.buf))
    }

    /// What is buffered goes out.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        output::written(self.out.flush())
    }
}
