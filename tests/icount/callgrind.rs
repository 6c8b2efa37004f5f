//! Runs scenarios under callgrind and reads what it writes.

use crate::node::COUNTED;
use crate::scenarios::SCENARIOS;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one request of a scenario costs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// Instructions.
    pub instructions: f64,
    /// Calls that give memory.
    pub allocations: f64,
}

/// A scenario's name and count.
pub type Counts = Vec<(String, Count)>;

const ALLOCATING: &[&str] = &[
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
];

/// Counts all scenarios whose name contains `only`, as many at a time as there are CPUs.
/// Callgrind's files stay in `keep`.
///
/// # Errors
/// Valgrind is missing, or a scenario fails.
pub fn count_all(only: &str, keep: Option<&Path>) -> Result<Counts> {
    ensure!(
        Command::new("valgrind").arg("--version").output().is_ok(),
        "valgrind is missing; Debian: apt-get install valgrind"
    );
    let temporary = std::env::temp_dir().join(format!("flumen-icount-{}", std::process::id()));
    let dir = keep.unwrap_or(&temporary);
    std::fs::create_dir_all(dir)?;
    let names: Vec<&'static str> = SCENARIOS
        .iter()
        .map(|s| s.name)
        .filter(|name| name.contains(only))
        .collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let count = count(name, dir).with_context(|| format!("scenario {name}"));
            found.lock().unwrap().push((*name, count));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if keep.is_none() {
        std::fs::remove_dir_all(dir)?;
    }
    let mut found: HashMap<&str, Result<Count>> = found.into_inner()?.into_iter().collect();
    let of = |name: &&'static str| {
        let count = found.remove(name).context("not counted")??;
        Ok(((*name).to_owned(), count))
    };
    names.iter().map(of).collect()
}

fn count(name: &str, dir: &Path) -> Result<Count> {
    let (requests, profile) = run(name, dir)?;
    let instructions = profile.instructions() as f64;
    ensure!(instructions > 0.0, "nothing was counted");
    Ok(Count {
        instructions: (instructions / requests * 10.0).round() / 10.0,
        allocations: (profile.allocations() as f64 / requests * 100.0).round() / 100.0,
    })
}

/// Runs a scenario; gives the number of requests and the profile.
fn run(name: &str, dir: &Path) -> Result<(f64, Profile)> {
    let file = dir.join(format!("callgrind.{}", name.replace('/', "-")));
    let output = Command::new("valgrind")
        // Where the environment lies moves the stack, and with it alignments.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["--tool=callgrind", "--quiet", "--read-inline-info=no"])
        .args(["--dump-instr=yes", "--compress-pos=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(["run", name])
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8(output.stdout)?;
    let requests = said.trim().strip_prefix("requests ");
    let requests = requests.context("no number of requests")?.parse()?;
    Ok((requests, Profile::parse(&std::fs::read_to_string(&file)?)?))
}

/// What a function cost, summed over all calls.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Instructions of its own.
    own: u64,
    /// Instructions of what it called.
    called: u64,
    /// How often its first instruction ran, and the address of that.
    entry: Option<(u64, u64)>,
}

/// A file of callgrind, written with `--dump-instr=yes --compress-pos=no`.
struct Profile {
    functions: HashMap<String, Cost>,
}

impl Profile {
    /// Names stand behind a number the first time, later the number stands alone. A line of costs
    /// is address, line and instructions; that behind `calls=` is what the callee cost.
    fn parse(text: &str) -> Result<Self> {
        let mut names: HashMap<&str, &str> = HashMap::new();
        let mut functions: HashMap<&str, Cost> = HashMap::new();
        let (mut here, mut is_call) = ("", false);
        for line in text.lines() {
            if let Some(function) = line.strip_prefix("cfn=").or(line.strip_prefix("fn=")) {
                let (number, name) = function.split_once(' ').unwrap_or((function, ""));
                if !name.is_empty() {
                    names.insert(number, name);
                }
                if line.starts_with('f') {
                    here = names.get(number).copied().unwrap_or_default();
                }
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if let Some(costs) = line.strip_prefix("0x") {
                let mut fields = costs.split(' ');
                let address = u64::from_str_radix(fields.next().unwrap_or_default(), 16)?;
                let cost: u64 = fields.nth(1).unwrap_or("0").parse()?;
                let sum = functions.entry(here).or_default();
                if std::mem::take(&mut is_call) {
                    sum.called += cost;
                    continue;
                }
                sum.own += cost;
                if sum.entry.is_none_or(|(_, at)| address < at) {
                    sum.entry = Some((cost, address));
                }
            }
        }
        let functions = functions.into_iter().map(|(n, c)| (n.to_owned(), c));
        Ok(Self {
            functions: functions.collect(),
        })
    }

    fn instructions(&self) -> u64 {
        self.functions.values().map(|c| c.own).sum()
    }

    /// Calls of functions that give memory: how often their first instruction ran. (The `calls=` of
    /// the file count those outside of what is measured too.)
    fn allocations(&self) -> u64 {
        let found = ALLOCATING.iter().filter_map(|n| self.functions.get(*n));
        found.filter_map(|c| c.entry).map(|(calls, _)| calls).sum()
    }
}

/// The functions that cost most in a scenario, per request.
///
/// # Errors
/// As [`count_all`].
pub fn top(name: &str, dir: &Path, functions: usize) -> Result<String> {
    let (requests, profile) = run(name, dir)?;
    let per_request = |n: u64| n as f64 / requests;
    let mut lines: Vec<(&String, &Cost)> = profile.functions.iter().collect();
    lines.sort_by_key(|(name, cost)| (std::cmp::Reverse(cost.own), *name));
    let mut text = format!(
        "{name}: {:.1} instructions, {:.2} allocations per request\n{:>9} {:>9} {:>8}  function\n",
        per_request(profile.instructions()),
        per_request(profile.allocations()),
        "self",
        "with all",
        "calls"
    );
    for (name, cost) in lines.into_iter().take(functions) {
        writeln!(
            text,
            "{:9.1} {:9.1} {:8.2}  {name}",
            per_request(cost.own),
            per_request(cost.own + cost.called),
            per_request(cost.entry.map_or(0, |(calls, _)| calls)),
        )?;
    }
    Ok(text)
}
