//! Child processes, each in a scheduler session of its own, none of which outlives the suite.
//!
//! `kernel.sched_autogroup_enabled` shares CPU time between sessions, not processes, so every
//! measured process gets a session (`setsid`) and three times the ordinary weight for it. No more:
//! the kernel's own threads, which have that weight one by one, write back what brokers have
//! written and send the disk what a limit held back. Beside a client that spins with the highest
//! weight they have a hundredth of its CPU, and the disk idles for seconds. As leader of its
//! session it also leads a process group, which is killed as a whole.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Raises the session's weight (a failure shows in `/proc/PID/autogroup`, which the facts quote),
/// dies with the suite where `setpriv` knows how, and becomes the command: the process id stays.
const LAUNCH: &str = r#"
(echo -5 > /proc/self/autogroup) 2>/dev/null
cpus=$1; shift
if command -v setpriv >/dev/null; then set -- setpriv --pdeathsig KILL "$@"; fi
exec taskset -c "$cpus" "$@"
"#;

/// Set by SIGINT and SIGTERM; everything that waits looks at it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        for signal in [
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ] {
            signal_hook::flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    /// Asks everything to end, as a signal would.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// # Errors
    /// The suite was asked to end.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Sleeps, but not longer than until the suite is asked to end.
    ///
    /// # Errors
    /// The suite was asked to end.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.check()?;
            let left = time.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK_AGAIN));
        }
    }
}

/// A child in its own session; dropping it kills its process group.
#[derive(Debug)]
pub struct Managed {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Managed {
    /// Starts `command` on `cpus` (a list for `taskset`); its output goes to the file `log`.
    ///
    /// # Errors
    /// The log cannot be written or `setsid` is not there.
    pub fn spawn(name: &str, cpus: &str, command: &[OsString], log: &Path) -> Result<Self> {
        let out = File::create(log).with_context(|| log.display().to_string())?;
        let child = Command::new("setsid")
            .args(["sh", "-c", LAUNCH, "launch", cpus])
            .args(command)
            .env("RUST_BACKTRACE", "0") // an error's message is kept, and must be short
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("setsid (util-linux)")?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        })
    }

    /// The process id; the same through `setsid`, `sh`, `taskset` and the command.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of its output, for messages.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(12);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// # Errors
    /// It ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}):\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit` (it is killed then), or the suite was asked to end.
    pub fn wait(&mut self, limit: Duration, stop: &Stop) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begin.elapsed() >= limit {
                self.kill();
                bail!("{} still ran after {limit:?}:\n{}", self.name, self.tail());
            }
            stop.check()?;
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// SIGTERM, then SIGKILL to what is left after `grace`. Returns whether it ended by itself.
    pub fn stop(&mut self, grace: Duration) -> bool {
        self.signal(Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < grace {
            if let Ok(Some(_)) = self.child.try_wait() {
                return true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.kill();
        false
    }

    fn signal(&mut self, signal: Signal) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return; // reaped: the id may belong to somebody else
        }
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // Before setsid has run there is no such group; the process is then signalled alone.
            if kill_process_group(pid, signal).is_err() {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a helper program to its end and returns what it printed.
///
/// # Errors
/// It is not there or failed; the message holds what it said.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.to_owned())?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("{program} {}: {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
#[path = "process_test.rs"]
mod process_test;
