//! What a reader must know about the machine, kept with every result.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::broker::JVM;
use super::process::run;

/// The facts of one result folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Day of the run, YYYY-MM-DD, UTC.
    pub date: String,
    /// Commit of the tree that it was made from.
    pub commit: String,
    /// Whether that tree had changes that no commit holds.
    pub dirty: bool,
    /// The scenario's name.
    pub scenario: String,
    /// The file system's short name.
    pub fs: String,
    /// What the file system is, in words.
    pub fs_about: String,
    /// Its line of `/proc/mounts`.
    pub mount: String,
    /// Alternating rounds that were asked for.
    pub rounds: usize,
    /// Measured seconds of a run.
    pub seconds: f64,
    /// Whether the run was `--quick`.
    pub quick: bool,
    /// Processor.
    pub cpu: String,
    /// CPUs online.
    pub cpus: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Frequency governor of CPU 0.
    pub governor: String,
    /// Transparent huge pages.
    pub huge_pages: String,
    /// `kernel.sched_autogroup_enabled`.
    pub autogroup_enabled: String,
    /// System to its `/proc/PID/autogroup`; "nice -5" is three times the ordinary weight.
    pub autogroup: BTreeMap<String, String>,
    /// CPU of the broker, CPU of the client.
    pub pinned: String,
    /// System to its version.
    pub versions: BTreeMap<String, String>,
    /// Java's version and the flags of Kafka's JVM.
    pub jvm: String,
    /// System to seconds of warm-up before the first round, and whether it became stable.
    pub warm: BTreeMap<String, Vec<String>>,
    /// System to its `server.properties`.
    pub properties: BTreeMap<String, String>,
    /// Measured sequential write speed of the disk, MB/s, where it mattered.
    pub disk_mb_per_second: Option<f64>,
    /// What went wrong, and what differs from the usual.
    pub remarks: Vec<String>,
    /// When the folder was written, seconds since 1970.
    pub finished: u64,
    /// The command line of the suite.
    pub command: String,
}

fn line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

fn after_colon(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let found = text.lines().find(|l| l.starts_with(key));
    let value = found.and_then(|l| l.split_once(':'));
    value.map_or_else(|| "unknown".to_owned(), |(_, v)| v.trim().to_owned())
}

/// What is the same for all scenarios of one run of the suite; `root` is the source tree.
pub fn gather(root: &Path) -> Facts {
    let tree = root.display().to_string();
    let git = |args: &[&str]| {
        let mut all = vec!["-C", &tree];
        all.extend_from_slice(args);
        run("git", &all).unwrap_or_default().trim().to_owned()
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    let memory = after_colon("/proc/meminfo", "MemTotal");
    let memory = memory
        .split(' ')
        .next()
        .and_then(|kib| kib.parse::<u64>().ok());
    let governor = line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    Facts {
        date: today(),
        commit: if commit.is_empty() {
            "unknown".to_owned()
        } else {
            commit
        },
        dirty: !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        cpu: after_colon("/proc/cpuinfo", "model name"),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        memory_mib: memory.unwrap_or(0) / 1024,
        kernel: line("/proc/sys/kernel/osrelease"),
        governor: if governor.is_empty() {
            "none (the hypervisor's)".to_owned()
        } else {
            governor
        },
        huge_pages: line("/sys/kernel/mm/transparent_hugepage/enabled"),
        autogroup_enabled: line("/proc/sys/kernel/sched_autogroup_enabled"),
        jvm: format!("{} {}", java_version(), JVM.join(" ")),
        command: crate::report::command(),
        ..Facts::default()
    }
}

fn java_version() -> String {
    let out = std::process::Command::new("java").arg("-version").output();
    let text = out.map(|o| String::from_utf8_lossy(&o.stderr).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("no java").to_owned()
}

/// The day, UTC.
fn today() -> String {
    let date = run("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default();
    date.trim().to_owned()
}

impl Facts {
    /// `<date>-<commit>-<scenario>[-<fs>]`.
    pub fn folder(&self) -> String {
        let Self {
            date,
            commit,
            scenario,
            fs,
            ..
        } = self;
        if fs.is_empty() {
            format!("{date}-{commit}-{scenario}")
        } else {
            format!("{date}-{commit}-{scenario}-{fs}")
        }
    }

    /// One line for the head of a table.
    pub fn machine(&self) -> String {
        format!(
            "{}, {} CPUs, {} GiB, kernel {}",
            self.cpu,
            self.cpus,
            (self.memory_mib + 512) / 1024,
            self.kernel
        )
    }
}
