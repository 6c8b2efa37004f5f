//! What the kernel tells about the broker's process and the machine, before and after.
//!
//! Everything is read from `/proc`. Reading takes about 20 us per thread, so it happens at the two
//! ends of the measured time and, in long runs, each 15 s between, which keeps what threads that
//! end in the meantime had counted.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::report::BrokerCost;

/// Between two samples in a long run.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(15);
/// `USER_HZ` is 100 on Linux.
const TICK_SECONDS: f64 = 0.01;
/// `PF_KTHREAD` of the flags in `/proc/PID/stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Kernel threads that work for files and sockets; the others are listed and not summed up.
const WORKING_KINDS: &[&str] = &[
    "kworker",
    "jbd2",
    "xfs",
    "ext4",
    "loop",
    "kswapd",
    "ksoftirqd",
    "flush",
    "kthrotld",
];

/// What one thread has counted so far, or in a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Thread {
    cpu_ns: u64,
    voluntary: u64,
    involuntary: u64,
}

/// One look at the process, the kernel's threads and the CPU.
#[derive(Debug, Clone, Default)]
struct Sample {
    cpu_seconds: f64,
    threads: BTreeMap<u32, Thread>,
    write_bytes: u64,
    read_bytes: u64,
    /// Kind and CPU seconds by process id.
    kernel: BTreeMap<u32, (String, f64)>,
    cpu_busy: Option<f64>,
    cpu_steal: Option<f64>,
}

/// Watches a broker from `start` to `finish`.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    cpu: Option<usize>,
    first: Sample,
    last: Sample,
    /// Of the spans between samples so far.
    spent: Thread,
    /// Threads that ended in them.
    ended: u64,
}

/// Fields of a `stat` file behind the name, which may hold spaces and parentheses.
fn stat(path: &str) -> Result<(String, Vec<u64>)> {
    let text = fs::read_to_string(path)?;
    let (before, after) = text.rsplit_once(')').context("a name")?;
    let name = before.split_once('(').context("a name")?.1.to_owned();
    // The state is a letter and some fields are negative: they count as 0, none is used here.
    let fields = after.split_whitespace().map(|f| f.parse().unwrap_or(0));
    Ok((name, fields.collect()))
}

/// User and system time in a `stat` file's fields, seconds.
fn cpu_of(fields: &[u64]) -> f64 {
    let at = |n: usize| fields.get(n).copied().unwrap_or(0);
    (at(11) + at(12)) as f64 * TICK_SECONDS
}

/// The value of `key:` in a file of such lines.
fn value(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    let line = line.strip_prefix(':')?;
    line.split_whitespace().next()?.parse().ok()
}

/// Entries of a directory of `/proc` that are numbers.
fn numbers(path: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|e| e.file_name());
    names.filter_map(|n| n.to_str()?.parse().ok()).collect()
}

fn threads(pid: u32) -> BTreeMap<u32, Thread> {
    let mut all = BTreeMap::new();
    for task in numbers(&format!("/proc/{pid}/task")) {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")) else {
            continue; // it ended
        };
        let thread = Thread {
            cpu_ns: on_cpu_ns(&format!("/proc/{pid}/task/{task}/schedstat")).unwrap_or(0),
            voluntary: value(&text, "voluntary_ctxt_switches").unwrap_or(0),
            involuntary: value(&text, "nonvoluntary_ctxt_switches").unwrap_or(0),
        };
        all.insert(task, thread);
    }
    all
}

/// `kworker/0:1-events` is a `kworker`, `jbd2/vda-8` a `jbd2`, `xfsaild/loop0` an `xfsaild`.
fn kind(name: &str) -> String {
    name.split(['/', ':']).next().unwrap_or(name).to_owned()
}

/// CPU seconds of each of the kernel's threads.
fn kernel_threads() -> BTreeMap<u32, (String, f64)> {
    let mut all = BTreeMap::new();
    for pid in numbers("/proc") {
        let Ok((name, fields)) = stat(&format!("/proc/{pid}/stat")) else {
            continue;
        };
        if fields.get(6).copied().unwrap_or(0) & KERNEL_THREAD == 0 {
            continue;
        }
        // In nanoseconds where the kernel keeps it, which ticks of 10 ms are too coarse for.
        let exact = on_cpu_ns(&format!("/proc/{pid}/schedstat"));
        let seconds = exact.map_or_else(|| cpu_of(&fields), |ns| ns as f64 / 1e9);
        all.insert(pid, (kind(&name), seconds));
    }
    all
}

/// Busy and stolen seconds of a CPU since boot.
fn cpu_times(cpu: usize) -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let name = format!("cpu{cpu} ");
    let line = text.lines().find_map(|l| l.strip_prefix(&name))?;
    let fields: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal
    let sum = |at: &[usize]| -> u64 { at.iter().filter_map(|n| fields.get(*n)).sum() };
    let seconds = |ticks: u64| ticks as f64 * TICK_SECONDS;
    Some((seconds(sum(&[0, 1, 2, 5, 6])), seconds(sum(&[7]))))
}

/// CPU time of a thread in nanoseconds, which the other files have in ticks of 10 ms.
fn on_cpu_ns(path: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// CPU time of the calling thread so far, seconds.
pub fn own_cpu_seconds() -> f64 {
    on_cpu_ns("/proc/thread-self/schedstat").unwrap_or(0) as f64 / 1e9
}

impl Sample {
    fn take(pid: u32, cpu: Option<usize>) -> Result<Self> {
        let (_, fields) = stat(&format!("/proc/{pid}/stat"))?;
        // Only the owner and root may read it.
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let times = cpu.and_then(cpu_times);
        Ok(Self {
            cpu_seconds: cpu_of(&fields),
            threads: threads(pid),
            write_bytes: value(&io, "write_bytes").unwrap_or(0),
            read_bytes: value(&io, "read_bytes").unwrap_or(0),
            kernel: kernel_threads(),
            cpu_busy: times.map(|t| t.0),
            cpu_steal: times.map(|t| t.1),
        })
    }
}

/// What all threads spent between two looks, and how many ended. A thread that is new has spent
/// all that it counted in the span.
fn spent(before: &BTreeMap<u32, Thread>, after: &BTreeMap<u32, Thread>) -> (Thread, u64) {
    let mut sum = Thread::default();
    for (id, now) in after {
        let old = before.get(id).copied().unwrap_or_default();
        // A smaller count is another thread that got the same id.
        let reused = now.voluntary < old.voluntary || now.cpu_ns < old.cpu_ns;
        let old = if reused { Thread::default() } else { old };
        sum.cpu_ns += now.cpu_ns - old.cpu_ns;
        sum.voluntary += now.voluntary - old.voluntary;
        sum.involuntary += now.involuntary.saturating_sub(old.involuntary);
    }
    let ended = before.keys().filter(|id| !after.contains_key(id)).count();
    (sum, u64::try_from(ended).unwrap_or(0))
}

/// Seconds of each kind of kernel thread between two looks, greatest first.
fn kernel_by_kind(
    before: &BTreeMap<u32, (String, f64)>,
    after: &BTreeMap<u32, (String, f64)>,
) -> Vec<(String, f64)> {
    let mut kinds: BTreeMap<&str, f64> = BTreeMap::new();
    for (id, (kind, seconds)) in after {
        let old = before.get(id).map_or(0.0, |(_, s)| *s);
        *kinds.entry(kind).or_default() += (seconds - old).max(0.0);
    }
    let mut all: Vec<(String, f64)> = kinds
        .into_iter()
        .filter(|(_, s)| *s > 0.0)
        .map(|(k, s)| (k.to_owned(), s))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

impl Watch {
    /// Takes the first look.
    ///
    /// # Errors
    /// There is no such process.
    pub fn start(pid: u32, cpu: Option<usize>) -> Result<Self> {
        let first = Sample::take(pid, cpu).with_context(|| format!("process {pid}"))?;
        let last = first.clone();
        Ok(Self {
            pid,
            cpu,
            first,
            last,
            spent: Thread::default(),
            ended: 0,
        })
    }

    /// Looks between, so that threads which end are not forgotten.
    ///
    /// # Errors
    /// The process is gone.
    pub fn again(&mut self) -> Result<()> {
        let now = Sample::take(self.pid, self.cpu).context("the broker ended")?;
        let (spent, ended) = spent(&self.last.threads, &now.threads);
        self.spent.cpu_ns += spent.cpu_ns;
        self.spent.voluntary += spent.voluntary;
        self.spent.involuntary += spent.involuntary;
        self.ended += ended;
        self.last = now;
        Ok(())
    }

    /// Takes the last look and sums up the cost of `requests` and `bytes`.
    ///
    /// # Errors
    /// The process is gone.
    pub fn finish(mut self, requests: u64, bytes: u64) -> Result<BrokerCost> {
        self.again()?;
        let (first, last) = (&self.first, &self.last);
        // The process's sum is in ticks but has what ended threads used; the threads' is exact.
        let in_ticks = (last.cpu_seconds - first.cpu_seconds).max(0.0);
        let exact = self.spent.cpu_ns as f64 / 1e9;
        let complete = self.ended == 0 && exact > 0.0;
        let cpu_seconds = if complete { exact } else { exact.max(in_ticks) };
        let kernel_threads = kernel_by_kind(&first.kernel, &last.kernel);
        let working = |kind: &str| WORKING_KINDS.iter().any(|k| kind.starts_with(k));
        let kernel_thread_seconds = kernel_threads
            .iter()
            .filter_map(|(kind, s)| working(kind).then_some(s))
            .sum();
        let all = cpu_seconds + kernel_thread_seconds;
        let gigabytes = bytes.max(1) as f64 / 1e9;
        let millions = requests.max(1) as f64 / 1e6;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let kib = |key: &str| value(&status, key).unwrap_or(0) * 1024;
        let span = |a: Option<f64>, b: Option<f64>| Some((b? - a?).max(0.0));
        Ok(BrokerCost {
            cpu_seconds,
            cpu_seconds_per_gb: cpu_seconds / gigabytes,
            cpu_us_per_request: cpu_seconds / millions,
            kernel_thread_seconds,
            kernel_threads,
            cpu_busy_seconds: span(first.cpu_busy, last.cpu_busy),
            cpu_steal_seconds: span(first.cpu_steal, last.cpu_steal),
            cpu_seconds_per_gb_with_kernel: all / gigabytes,
            cpu_us_per_request_with_kernel: all / millions,
            resident_bytes: kib("VmRSS"),
            resident_bytes_max: kib("VmHWM"),
            switches_voluntary: self.spent.voluntary,
            switches_involuntary: self.spent.involuntary,
            threads_ended: self.ended,
            disk_write_bytes: last.write_bytes.saturating_sub(first.write_bytes),
            disk_read_bytes: last.read_bytes.saturating_sub(first.read_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(voluntary: u64, involuntary: u64) -> Thread {
        Thread {
            cpu_ns: voluntary * 1000,
            voluntary,
            involuntary,
        }
    }

    #[test]
    fn switches_of_new_ended_and_renumbered_threads() {
        let before = BTreeMap::from([(1, thread(10, 1)), (2, thread(50, 5)), (3, thread(9, 9))]);
        let after = BTreeMap::from([(1, thread(17, 2)), (3, thread(2, 1)), (4, thread(3, 0))]);
        // 1 went on, 2 ended, 3 is another thread by now, 4 is new.
        let (sum, ended) = spent(&before, &after);
        assert_eq!(sum, thread(7 + 2 + 3, 1 + 1));
        assert_eq!(ended, 1);
    }

    #[test]
    fn kernel_threads_are_summed_by_kind() {
        let before = BTreeMap::from([(1, ("kworker".to_owned(), 1.0))]);
        let after = BTreeMap::from([
            (1, ("kworker".to_owned(), 1.5)),
            (2, (kind("kworker/u4:0-flush-7:0"), 0.25)),
            (3, (kind("jbd2/vda-8"), 2.0)),
            (4, (kind("ksoftirqd/0"), 0.0)),
        ]);
        let kinds = kernel_by_kind(&before, &after);
        assert_eq!(kinds[0], ("jbd2".to_owned(), 2.0));
        assert_eq!(kinds[1], ("kworker".to_owned(), 0.75));
        assert_eq!(kinds.len(), 2);
    }

    #[test]
    fn this_process_is_seen_to_work() {
        let mut watch = Watch::start(std::process::id(), Some(0)).unwrap();
        let begin = own_cpu_seconds();
        let mut sum = 0u64;
        while own_cpu_seconds() - begin < 0.05 {
            sum = sum.wrapping_add((0..10_000u64).sum());
        }
        assert!(sum > 0);
        watch.again().unwrap();
        let cost = watch.finish(10, 1_000_000_000).unwrap();
        assert!(cost.cpu_seconds >= 0.03, "{cost:?}");
        assert!((cost.cpu_seconds_per_gb - cost.cpu_seconds).abs() < 1e-9);
        assert!(cost.resident_bytes > 0 && cost.resident_bytes_max >= cost.resident_bytes);
        assert!(cost.cpu_busy_seconds.is_some());
    }
}
