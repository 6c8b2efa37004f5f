//! A program that runs beside the test. Its streams go to files, so that it never waits for a
//! reader; commands go to its standard input.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::Process;
use crate::{Output, wait};

/// How much of each stream a failure shows.
const TAIL: usize = 6_000;

/// How often its output is looked at.
const PACE: Duration = Duration::from_millis(20);

/// One running program. Dropping it kills the process.
#[derive(Debug)]
pub struct Program {
    name: String,
    process: Process,
    out: PathBuf,
    err: PathBuf,
    /// Where its own output begins: an earlier program of the same name wrote before.
    begin: u64,
}

impl Program {
    /// Starts `command`, with `NAME.out` and `NAME.err` in `dir`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(dir: &Path, name: &str, command: &mut Command) -> Result<Self> {
        let out = dir.join(format!("{name}.out"));
        let err = dir.join(format!("{name}.err"));
        let append = |p: &Path| File::options().create(true).append(true).open(p);
        command.stdin(Stdio::piped());
        command.stdout(append(&out)?).stderr(append(&err)?);
        let begin = std::fs::metadata(&out)?.len();
        Ok(Self {
            name: name.to_owned(),
            process: Process::start(command)?,
            out,
            err,
            begin,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.process.alive()
    }

    /// What it wrote to standard output so far.
    pub fn out(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.out)?;
            file.seek(SeekFrom::Start(self.begin))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// Its complete lines so far.
    pub fn lines(&self) -> Vec<String> {
        let text = self.out();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(str::to_owned).collect()
    }

    /// The ends of both streams.
    pub fn tail(&self) -> String {
        let end = |text: String| {
            let from = text.len().saturating_sub(TAIL);
            let from = (from..text.len()).find(|i| text.is_char_boundary(*i));
            text[from.unwrap_or(text.len())..].to_owned()
        };
        let err = std::fs::read(&self.err).unwrap_or_default();
        let err = String::from_utf8_lossy(&err).into_owned();
        let (out, err) = (end(self.out()), end(err));
        format!("--- {} wrote\n{out}\n--- and to stderr\n{err}", self.name)
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It does not read any more.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.process.child().stdin.as_mut().context("no stdin")?;
        stdin.write_all(format!("{line}\n").as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        drop(self.process.child().stdin.take());
    }

    /// Polls `found` with its complete lines until it gives a value. The program must stay alive.
    ///
    /// # Errors
    /// It ended, or the deadline passed; the message carries the ends of its streams.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut found: impl FnMut(&[String]) -> Option<T>,
    ) -> Result<T> {
        let what = format!("{what} by {}", self.name);
        let result = wait::every(PACE, &what, limit, || {
            let alive = self.process.alive();
            let value = found(&self.lines());
            if value.is_none() && !alive {
                return Ok(Some(None));
            }
            Ok(value.map(Some))
        });
        let value = result.with_context(|| self.tail())?;
        value.with_context(|| format!("{} ended before {what}\n{}", self.name, self.tail()))
    }

    /// Waits for the first line with `text` in it.
    ///
    /// # Errors
    /// As [`Program::until`].
    pub fn until_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let find = |lines: &[String]| lines.iter().find(|l| l.contains(text)).cloned();
        self.until(&format!("a line with {text:?}"), limit, find)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still ran after `limit`.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let status = self.process.wait(limit).with_context(|| self.tail())?;
        let err = std::fs::read(&self.err).unwrap_or_default();
        Ok(Output {
            what: self.name.clone(),
            code: status.code().unwrap_or(-1),
            out: self.out(),
            err: String::from_utf8_lossy(&err).into_owned(),
        })
    }

    /// Ends its input and requires exit code 0.
    ///
    /// # Errors
    /// Another code, or not in time.
    pub fn finish(mut self, limit: Duration) -> Result<Output> {
        self.close_input();
        self.wait(limit)?.ok()
    }

    /// SIGTERM, and requires the exit code of a program that heeded it (a JVM's is 143).
    ///
    /// # Errors
    /// Another code, or not in time.
    pub fn stop(self, limit: Duration) -> Result<Output> {
        self.process.terminate().with_context(|| self.tail())?;
        let output = self.wait(limit)?;
        ensure!([0, 143].contains(&output.code), "{output}");
        Ok(output)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
