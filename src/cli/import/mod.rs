//! `flumen storage import`: a directory that Apache Kafka wrote (KRaft, cleanly stopped) becomes
//! one of Flumen.
//!
//! Nothing is changed in the source. The target is usable only when all of it is on disk: its
//! `meta.properties` is written last, so that an import that was interrupted leaves a directory
//! that neither a start nor a second import takes.

mod files;
mod kafka;
mod records;

use super::{output, storage};
use anyhow::{Context, bail, ensure};
use clap::Args;
use files::{Brought, How};
use flumen_base::{Disk, Offset, Uuid};
use flumen_log::checkpoint::{self, MetaProperties, Offsets};
use flumen_log::inspect::partition_of_dir;
use flumen_quorum::{Initial, controller, write_initial};
use flumen_runtime::FsDisk;
use flumen_settings::BrokerConfig;
use kafka::Metadata;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const METADATA_DIR: &str = "__cluster_metadata-0";
/// The offset checkpoints that are taken over.
const CHECKPOINTS: [&str; 4] = [
    checkpoint::RECOVERY_POINT,
    checkpoint::LOG_START,
    checkpoint::HIGH_WATERMARK,
    checkpoint::CLEANER,
];

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A log directory of the other broker, or its metadata directory; all of them are needed.
    #[arg(long = "from", required = true, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// The properties file of the broker that takes over: its log.dirs are filled, and must be
    /// empty or missing.
    #[arg(long, short = 'c', value_name = "FILE")]
    config: PathBuf,
    /// A setting that replaces the file's; may be repeated.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Copy all files (this is the default): the source stays usable.
    #[arg(long, conflicts_with = "link")]
    copy: bool,
    /// Give sealed segments a second name instead of copying them (on one file system only): the
    /// source must not be used by a broker any more.
    #[arg(long)]
    link: bool,
    /// Import although there are ACLs, SCRAM credentials, delegation tokens or client quotas, which
    /// Flumen does not have: they are left out.
    #[arg(long)]
    leave_out_unsupported: bool,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// A partition's name in checkpoints.
pub(super) type Key = (String, i32);

/// One directory of the source.
struct Source {
    dir: PathBuf,
    meta: MetaProperties,
    /// Directories of partitions, the metadata's excepted.
    partitions: Vec<Key>,
}

/// What is brought where.
struct Plan {
    /// Directory of the source, of the target, and the target's id.
    dirs: Vec<(PathBuf, PathBuf, Uuid)>,
    /// Each partition that is there: which of `dirs`.
    partitions: BTreeMap<Key, usize>,
    /// Partitions of the metadata without a directory.
    missing: Vec<Key>,
    /// Directories that no topic has.
    strays: Vec<PathBuf>,
}

/// Imports.
pub(crate) fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let config = storage::load_config(&args.config, &args.overrides)?.config;
    let sources: Vec<Source> = args
        .from
        .iter()
        .map(|dir| source(dir))
        .collect::<Result<_, _>>()?;
    let meta = one_broker(&sources, &config)?;
    for dir in storage::all_dirs(&config) {
        require_empty(&dir)?;
    }
    let metadata_dir = metadata_dir(&sources)?;
    let metadata = kafka::read(&metadata_dir)
        .with_context(|| format!("the metadata in {}", metadata_dir.display()))?;
    let notes = check(&metadata, &config, args.leave_out_unsupported)?;
    let plan = plan(&sources, &config, &metadata)?;
    tell(&metadata, &plan, &notes)?;
    if args.dry_run {
        return output::line("Nothing was changed (--dry-run).");
    }
    let how = if args.link { How::Link } else { How::Copy };
    let brought = carry_out(&plan, &config, &metadata, &meta, how)?;
    let (files, bytes) = (brought.files, brought.bytes);
    output::line(format!(
        "Imported {} partitions, {files} files, {bytes} bytes.",
        plan.partitions.len()
    ))
}

/// Reads what a source directory says of itself.
fn source(dir: &Path) -> anyhow::Result<Source> {
    let shown = dir.display();
    let meta = checkpoint::read_meta_properties(&FsDisk, dir).with_context(|| shown.to_string())?;
    let meta = meta.with_context(|| format!("{shown} has no meta.properties of a KRaft broker"))?;
    let mut partitions = Vec::new();
    for (name, is_dir) in FsDisk.list(dir).with_context(|| shown.to_string())? {
        if is_dir
            && name != METADATA_DIR
            && let Some((topic, partition)) = partition_of_dir(&name)
        {
            partitions.push((topic.to_owned(), partition));
        }
        ensure!(
            !(is_dir && name.ends_with("-future")),
            "{shown}/{name}: a move between log directories is not finished; start the broker that \
             wrote it, and let it end"
        );
    }
    ensure!(
        partitions.is_empty() || checkpoint::has_clean_shutdown(&FsDisk, dir),
        "{shown} was not shut down cleanly (no {}), or its broker runs: start it and stop it once \
         more",
        checkpoint::CLEAN_SHUTDOWN
    );
    Ok(Source {
        dir: dir.to_owned(),
        meta,
        partitions,
    })
}

/// All sources are of one broker, and the configuration is its.
fn one_broker(sources: &[Source], config: &BrokerConfig) -> anyhow::Result<MetaProperties> {
    let first = sources.first().context("no directory was named")?;
    for source in sources {
        let (a, b) = (&first.meta, &source.meta);
        ensure!(
            (&a.cluster_id, a.node_id) == (&b.cluster_id, b.node_id),
            "{} is of broker {} in cluster {}, {} of broker {} in cluster {}",
            first.dir.display(),
            a.node_id,
            a.cluster_id,
            source.dir.display(),
            b.node_id,
            b.cluster_id
        );
    }
    let (theirs, ours) = (first.meta.node_id, config.node_id);
    ensure!(
        theirs == ours,
        "the directories are of broker {theirs}, the configuration has node.id={ours}: partitions \
         name the broker by its id, so that it must stay"
    );
    Ok(first.meta.clone())
}

fn require_empty(dir: &Path) -> anyhow::Result<()> {
    match FsDisk.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| dir.display().to_string()),
        Ok(names) => {
            // What mkfs makes is no data.
            let used = names.iter().find(|(name, _)| name != "lost+found");
            match used {
                None => Ok(()),
                Some((name, _)) => bail!(
                    "{} is not empty ({name}): an import fills new directories only",
                    dir.display()
                ),
            }
        }
    }
}

fn metadata_dir(sources: &[Source]) -> anyhow::Result<PathBuf> {
    let mut with = sources
        .iter()
        .map(|s| s.dir.join(METADATA_DIR))
        .filter(|d| d.is_dir());
    let found = with.next();
    let found = found.with_context(|| {
        format!("none of the directories has {METADATA_DIR}: add --from with the metadata.log.dir")
    })?;
    match with.next() {
        None => Ok(found),
        Some(other) => bail!(
            "two metadata logs: {} and {}",
            found.display(),
            other.display()
        ),
    }
}

/// Refuses what cannot be kept; returns what is worth saying.
fn check(
    metadata: &Metadata,
    config: &BrokerConfig,
    leave_out: bool,
) -> anyhow::Result<Vec<String>> {
    let node = config.node_id;
    for topic in metadata.topics.values() {
        for (n, (index, partition)) in topic.partitions.iter().enumerate() {
            let name = format!("{}-{index}", topic.name);
            ensure!(
                partition.replicas == [node],
                "partition {name} has replicas {:?}, and only those on broker {node} can be \
                 imported: reassign it to broker {node} alone first",
                partition.replicas
            );
            ensure!(
                !partition.is_reassigning,
                "partition {name} is being reassigned: let it end or cancel it first"
            );
            ensure!(
                usize::try_from(*index) == Ok(n),
                "topic {} has no partition {n}, but one {index}",
                topic.name
            );
        }
    }
    let mut notes = Vec::new();
    let level = metadata.features.get(controller::METADATA_VERSION_FEATURE);
    let level = *level.context("no metadata.version is finalized")?;
    ensure!(
        controller::metadata_versions(config).contains(&level),
        "metadata.version {level} is of another release than those up to 4.3"
    );
    let unsupported = metadata.unsupported.list();
    ensure!(
        unsupported.is_empty() || leave_out,
        "the cluster has {}, which Flumen does not have: --leave-out-unsupported imports without \
         them",
        unsupported.join(", ")
    );
    notes.extend(
        unsupported
            .into_iter()
            .map(|what| format!("left out: {what}")),
    );
    for (feature, level) in &metadata.features {
        if !records::is_kept(feature, *level) {
            notes.push(format!("left out: feature {feature} at level {level}"));
        }
    }
    let others = metadata.brokers.keys().filter(|id| **id != node);
    notes.extend(others.map(|id| format!("left out: broker {id}, which holds no partition")));
    Ok(notes)
}

fn plan(sources: &[Source], config: &BrokerConfig, metadata: &Metadata) -> anyhow::Result<Plan> {
    let with_data: Vec<&Source> = sources
        .iter()
        .filter(|s| !s.partitions.is_empty())
        .collect();
    let targets = &config.log_dirs;
    let one_to_one = targets.len() == with_data.len();
    ensure!(
        one_to_one || targets.len() == 1 || with_data.is_empty(),
        "{} directories with partitions do not go into {} log.dirs: name as many, or one",
        with_data.len(),
        targets.len()
    );
    let mut dirs = Vec::new();
    let mut first_id = None;
    for (n, source) in with_data.iter().enumerate() {
        let target = targets.get(if one_to_one { n } else { 0 });
        let target = target.context("log.dirs is empty")?.clone();
        let id = match source.meta.directory_id {
            Some(id) if one_to_one => id,
            _ => match first_id {
                Some(id) => id,
                None => *first_id.insert(storage::random_uuid()?),
            },
        };
        dirs.push((source.dir.clone(), target, id));
    }
    let mut plan = Plan {
        dirs,
        partitions: BTreeMap::new(),
        missing: Vec::new(),
        strays: Vec::new(),
    };
    let known: BTreeMap<Key, Uuid> = records::partitions(metadata).collect();
    for (n, source) in with_data.iter().enumerate() {
        for key in &source.partitions {
            let dir = source.dir.join(format!("{}-{}", key.0, key.1));
            let Some(topic_id) = known.get(key) else {
                plan.strays.push(dir);
                continue;
            };
            let found = checkpoint::read_partition_metadata(&FsDisk, &dir)
                .with_context(|| dir.display().to_string())?;
            if found.is_some_and(|id| id != *topic_id) {
                plan.strays.push(dir); // of a topic of the same name that was deleted
            } else if plan.partitions.insert(key.clone(), n).is_some() {
                bail!("{} is in two directories", dir.display());
            }
        }
    }
    let there = &plan.partitions;
    plan.missing = known
        .into_keys()
        .filter(|key| !there.contains_key(key))
        .collect();
    Ok(plan)
}

fn tell(metadata: &Metadata, plan: &Plan, notes: &[String]) -> anyhow::Result<()> {
    output::line(format!(
        "{} topics, {} partitions, metadata up to offset {}.",
        metadata.topics.len(),
        plan.partitions.len() + plan.missing.len(),
        metadata.end_offset
    ))?;
    for (from, to, _) in &plan.dirs {
        output::line(format!("{} -> {}", from.display(), to.display()))?;
    }
    for (topic, partition) in &plan.missing {
        output::line(format!(
            "no directory: {topic}-{partition}, which begins empty"
        ))?;
    }
    for stray in &plan.strays {
        output::line(format!("left out: {}, which no topic has", stray.display()))?;
    }
    notes.iter().try_for_each(output::line)
}

/// Writes the target: data, checkpoints, metadata, and last the identity of each directory.
fn carry_out(
    plan: &Plan,
    config: &BrokerConfig,
    metadata: &Metadata,
    meta: &MetaProperties,
    how: How,
) -> anyhow::Result<Brought> {
    let mut brought = Brought::default();
    let mut made = BTreeSet::new();
    for dir in storage::all_dirs(config) {
        FsDisk
            .create_dir_all(&dir)
            .with_context(|| dir.display().to_string())?;
    }
    for ((topic, partition), n) in &plan.partitions {
        let (from, to, _) = plan.dirs.get(*n).context("a directory of the plan")?;
        let name = format!("{topic}-{partition}");
        let (from, to) = (from.join(&name), to.join(&name));
        let one = files::bring(&from, &to, how)?;
        brought.files += one.files;
        brought.bytes += one.bytes;
    }
    let mut ids: BTreeMap<&Path, Uuid> = BTreeMap::new();
    for (_, to, id) in &plan.dirs {
        ids.insert(to, *id);
        if made.insert(to) {
            checkpoints(plan, to).with_context(|| to.display().to_string())?;
        }
    }
    let placed = |key: &Key| plan.partitions.get(key).and_then(|n| plan.dirs.get(*n));
    let records = records::of(metadata, meta, |key| placed(key).map(|(_, _, id)| *id));
    let quorum_dir = config.metadata_log_dir.join(METADATA_DIR);
    let initial = Initial {
        node_id: meta.node_id,
        index: u64::try_from(metadata.end_offset).unwrap_or(1).max(1),
        term: u64::try_from(metadata.epoch).unwrap_or(1).max(1),
        records: &records,
    };
    write_initial(&FsDisk, &quorum_dir, &initial)
        .with_context(|| quorum_dir.display().to_string())?;
    for dir in storage::all_dirs(config) {
        let id = match ids.get(&*dir) {
            Some(id) => *id,
            None => storage::random_uuid()?,
        };
        identity(&dir, meta, id).with_context(|| dir.display().to_string())?;
    }
    Ok(brought)
}

/// The offset checkpoints of a target: of all sources that went into it, for what was imported.
fn checkpoints(plan: &Plan, to: &Path) -> anyhow::Result<()> {
    for name in CHECKPOINTS {
        let mut all = Offsets::new();
        let mut is_there = false;
        for (n, (from, target, _)) in plan.dirs.iter().enumerate() {
            if target != to {
                continue;
            }
            is_there |= FsDisk.exists(&from.join(name));
            let offsets: BTreeMap<Key, Offset> = checkpoint::read_offsets(&FsDisk, from, name)?;
            let ours = |key: &Key| plan.partitions.get(key) == Some(&n);
            all.extend(offsets.into_iter().filter(|(key, _)| ours(key)));
        }
        if is_there {
            checkpoint::write_offsets(&FsDisk, to, name, &all)?;
        }
    }
    Ok(())
}

/// Marks a directory as cleanly shut down and as this broker's, in this order.
fn identity(dir: &Path, meta: &MetaProperties, id: Uuid) -> std::io::Result<()> {
    checkpoint::write_clean_shutdown(&FsDisk, dir, -1)?;
    let meta = MetaProperties {
        directory_id: Some(id),
        ..meta.clone()
    };
    checkpoint::write_meta_properties(&FsDisk, dir, &meta)?;
    match dir.parent() {
        Some(parent) => FsDisk.sync_dir(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "import_test.rs"]
mod tests;
