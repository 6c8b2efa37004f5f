//! The whole benchmark: brokers and limits in turn, several rounds, results as folders.
//!
//! ```text
//! plan      scenario table -> steps (round, file system, system)
//! engine    step -> place (file system) -> broker or probe -> client -> report
//! kept      folder of reports -> medians, spread
//! readme    folders -> tables and pictures
//! ```
//!
//! Each measured process runs in its own scheduler session ([`process`]); whatever is mounted or
//! started is undone when the suite ends, also by a signal.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod disk;
pub mod engine;
pub mod facts;
pub mod kept;
pub mod measure;
mod memory;
pub mod picture;
pub mod place;
pub mod plan;
pub mod process;
pub mod progress;
pub mod readme;
pub mod rows;
pub mod scenario;
pub mod stats;
pub mod svg_check;
pub mod throttle;
pub mod trouble;
pub mod warm;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;

use broker::{Programs, System};
use cli::{SharedArgs, StrategyArgs, SuiteArgs};
use engine::Engine;
use facts::Facts;
use kept::{FACTS, Kept};
use place::Fs;
use plan::Plan;
use process::Stop;
use progress::{minutes, say};
use throttle::Throttle;

/// Largest file of a result folder, bytes.
const FILE_BYTES_MAX: u64 = 1_000_000;

/// Subcommands of the suite.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Flumen, Kafka and the limit of each workload in turn, several rounds
    Suite(SuiteArgs),
    /// Flumen's write strategies beside each other on file systems of the disk
    Strategies(StrategyArgs),
    /// Writes perf-results/README.md and the table of the top README from the newest folders
    Publish {
        /// The result folders
        #[arg(long, default_value = "perf-results")]
        out: PathBuf,
        /// The README that holds the compact table
        #[arg(long, default_value = "README.md")]
        readme: PathBuf,
        /// Also redraw and rewrite each of the newest folders
        #[arg(long)]
        redraw: bool,
    },
    /// The scenarios: what each does, where, and its floors
    Scenarios,
}

impl Command {
    /// Runs it.
    ///
    /// # Errors
    /// Interrupted, or nothing could be measured.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Suite(args) => {
                let plan = Plan::suite(args)?;
                measure(plan, &args.shared, args.address.as_deref())
            }
            Self::Strategies(args) => measure(Plan::strategies(args)?, &args.shared, None),
            Self::Publish {
                out,
                readme,
                redraw,
            } => publish(out, readme, *redraw),
            Self::Scenarios => {
                list();
                Ok(())
            }
        }
    }
}

#[allow(clippy::print_stdout)] // the list is this command's output
fn list() {
    for s in scenario::SCENARIOS {
        let fs: Vec<&str> = s.fs.iter().map(|f| f.name()).collect();
        println!("{:<22} {:<16} {}", s.name, fs.join(","), s.about);
    }
}

/// Writes the tables again.
///
/// # Errors
/// A folder cannot be read or a file not be written.
pub fn publish(out: &Path, readme: &Path, redraw: bool) -> Result<()> {
    let kept = kept::newest(out)?;
    if redraw {
        for one in kept.iter().filter(|k| k.path.join(FACTS).exists()) {
            readme::folder(one)?;
        }
    }
    readme::all(out, &kept)?;
    readme::insert(readme, &readme::compact(&kept, &folder_name(out)))
}

fn folder_name(path: &Path) -> String {
    let name = path.file_name();
    name.map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// A directory that is removed in the end.
#[derive(Debug)]
struct Base(PathBuf);

impl Drop for Base {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn measure(plan: Plan, shared: &SharedArgs, address: Option<&str>) -> Result<()> {
    let stop = Stop::on_signals()?;
    place::remove_stale(&shared.dir);
    let base = Base(
        shared
            .dir
            .join(format!("flumen-bench-{}", std::process::id())),
    );
    let logs = base.0.join("logs");
    fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    let mut programs = programs(shared, logs)?;
    check(&plan, &programs)?;
    // A build during a run of hours must not change what later rounds measure.
    programs.harness = copied(&programs.harness, &base.0.join("bench-harness"))?;
    if plan.variants.iter().any(|v| v.system == System::Flumen) {
        programs.flumen = copied(&programs.flumen, &base.0.join("flumen"))?;
    }
    let mut facts = facts(&plan, shared, &programs);
    let limit = |most: f64| Throttle::begin(&shared.dir, most);
    let _limited = shared.disk_limit.map(limit).transpose()?;
    if let Some(most) = shared.disk_limit {
        facts.remarks.push(format!(
            "the disk was held to {most:.0} MB/s of writes, and as much of reads, by the block \
             layer (--disk-limit)"
        ));
    }
    pin(shared.client_cpu);
    if !plan.quick && address.is_none() {
        say("touching the memory once");
        say(&format!("{} MiB touched", memory::touch(&stop)?));
    }
    let mut engine = Engine::new(plan, programs, stop, facts, base.0.clone());
    engine.remote = address.map(str::to_owned);
    let given = |speed: f64| [Fs::Ext4, Fs::XfsDisk, Fs::Dir].map(|fs| (fs, speed));
    engine
        .disk_speed
        .extend(shared.disk_speed.into_iter().flat_map(given));
    say(&format!("about {} in all", minutes(engine.progress.left())));
    let ended = engine.run();
    let written = write(&mut engine, shared, ended.as_ref().err());
    let written = written?;
    if !shared.no_publish && !written.is_empty() {
        let kept = kept::newest(&shared.out)?;
        readme::all(&shared.out, &kept)?;
        if let Some(top) = shared.readme.as_ref().filter(|_| !engine.plan.quick) {
            readme::insert(top, &readme::compact(&kept, &folder_name(&shared.out)))?;
        }
    }
    for folder in written {
        say(&format!("wrote {}", folder.display()));
    }
    say(&format!("{} in all", engine.progress.elapsed()));
    ended
}

fn programs(shared: &SharedArgs, logs: PathBuf) -> Result<Programs> {
    let harness = std::env::current_exe()?;
    let beside = harness.parent().map(|dir| dir.join("flumen"));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cache = home.map(|h| h.join(".cache/flumen-deps"));
    Ok(Programs {
        flumen: shared
            .flumen_bin
            .clone()
            .or(beside)
            .context("--flumen-bin")?,
        deps: shared.deps.clone().or(cache).context("--deps")?,
        harness,
        port: shared.port,
        broker_cpu: shared.broker_cpu,
        client_cpu: shared.client_cpu,
        logs,
    })
}

fn copied(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(to.to_owned())
}

/// What would fail later fails at once.
fn check(plan: &Plan, programs: &Programs) -> Result<()> {
    let uses = |system: System| plan.variants.iter().any(|v| v.system == system);
    if uses(System::Flumen) {
        let path = programs.flumen.display();
        ensure!(
            programs.flumen.exists(),
            "{path} is missing: build it, or --flumen-bin"
        );
    }
    if uses(System::Kafka) {
        let libs = programs.deps.join("kafka/libs");
        ensure!(
            libs.exists(),
            "{} is missing: scripts/fetch-deps.sh",
            libs.display()
        );
    }
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(cpus >= 2, "the broker and the client need a CPU each");
    Ok(())
}

fn facts(plan: &Plan, shared: &SharedArgs, programs: &Programs) -> Facts {
    let mut facts = facts::gather(&shared.root);
    facts.rounds = plan.rounds;
    facts.quick = plan.quick;
    facts.pinned = format!(
        "Broker on CPU {}, client on CPU {}.",
        shared.broker_cpu, shared.client_cpu
    );
    let commit = facts.commit.clone();
    facts.versions.insert("flumen".to_owned(), commit);
    if let Ok(jars) = fs::read_dir(programs.deps.join("kafka/libs")) {
        let names = jars
            .flatten()
            .map(|j| j.file_name().to_string_lossy().into_owned());
        let mut server = names.filter(|n| n.starts_with("kafka-clients-"));
        if let Some(jar) = server.next() {
            facts.versions.insert("kafka".to_owned(), jar);
        }
    }
    facts
}

/// The suite shares the client's CPU: it must not disturb the broker's.
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if rustix::thread::sched_setaffinity(None, &set).is_err() {
        say("the suite itself could not be pinned");
    }
}

/// Moves what was gathered into result folders, also after an early end.
fn write(
    engine: &mut Engine,
    shared: &SharedArgs,
    ended: Option<&anyhow::Error>,
) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for ((name, fs), cell) in &engine.cells {
        let Some(scenario) = scenario::Scenario::named(name) else {
            continue;
        };
        let raw = engine.raw.join(engine::folder(scenario, *fs));
        let mut facts = engine.facts.clone();
        facts.scenario = format!("{}{name}", engine.plan.prefix);
        facts.fs = fs.name().to_owned();
        facts.fs_about = fs.about().to_owned();
        facts.mount.clone_from(&cell.mount);
        if place::lacks_journal(&cell.mount) {
            facts.fs_about += ", which has no journal";
        }
        if let Some(address) = &engine.remote {
            facts.fs = System::Remote.name().to_owned();
            facts.fs_about = format!("the broker at {address}");
            facts.mount = "unknown".to_owned();
            facts.pinned = format!("Broker unknown, client on CPU {}.", shared.client_cpu);
        }
        facts.seconds = engine.plan.seconds_of(scenario);
        facts.disk_mb_per_second = cell.disk;
        facts.remarks.extend(cell.remarks.iter().cloned());
        facts
            .remarks
            .extend(ended.map(|e| format!("ended early: {e:#}")));
        facts.rounds = if scenario.once() {
            1
        } else {
            engine.plan.rounds
        };
        facts.finished = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let folder = shared.out.join(facts.folder());
        if move_reports(&raw, &folder, engine.plan.prefix)? == 0 {
            let _ = fs::remove_dir(&folder);
            for remark in &facts.remarks {
                say(&format!("{name} on {}: no result: {remark}", fs.name()));
            }
            continue;
        }
        fs::write(folder.join(FACTS), serde_json::to_string_pretty(&facts)?)?;
        readme::folder(&Kept::read(&folder)?)?;
        written.push(folder);
    }
    Ok(written)
}

/// Copies reports (as compact JSON) and logs; returns how many reports. A folder of an earlier
/// run of the same commit and day is replaced.
fn move_reports(raw: &Path, folder: &Path, prefix: &str) -> Result<usize> {
    let Ok(entries) = fs::read_dir(raw) else {
        return Ok(0);
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    let is = |p: &Path, ext: &str| p.extension().is_some_and(|e| e == ext);
    if !files.iter().any(|f| is(f, "json")) {
        return Ok(0);
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut count = 0;
    for file in files {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned());
        let to = folder.join(format!("{prefix}{}", name.unwrap_or_default()));
        if is(&file, "json") {
            let value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
            fs::write(&to, serde_json::to_string(&value)?)?;
            count += 1;
        } else if fs::metadata(&file)?.len() <= FILE_BYTES_MAX {
            fs::copy(&file, &to)?;
        } else {
            say(&format!("{} is over 1 MB and not kept", file.display()));
        }
    }
    Ok(count)
}
