//! `flumen storage`, and what `start` needs of log directories: formatting, checking, locking.

use super::{import, output};
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use flumen_base::{Disk, Uuid};
use flumen_log::checkpoint::{MetaProperties, read_meta_properties, write_meta_properties};
use flumen_quorum::controller;
use flumen_runtime::FsDisk;
use flumen_settings::{BrokerConfig, Loaded, Properties};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Print a new id for a cluster.
    RandomUuid,
    /// Prepare the log directories of a configuration for a cluster.
    Format(FormatArgs),
    /// Show whether the log directories are formatted, and for which cluster.
    Info(InfoArgs),
    /// Take over the directories of a Kafka broker (KRaft) that was stopped cleanly: topics, ids,
    /// configurations, records, offsets, producers.
    Import(import::ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// The cluster's id, as random-uuid prints it.
    #[arg(long, short = 't', value_name = "ID")]
    cluster_id: String,
    /// The broker's properties file.
    #[arg(long, short = 'c', value_name = "FILE")]
    config: PathBuf,
    /// A setting that replaces the file's; may be repeated.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Make this node the only voter (it always is, so far).
    #[arg(long, short = 's')]
    standalone: bool,
    /// The release whose metadata the cluster begins with, such as 3.9 or 3.9-IV0 (default: 4.3).
    #[arg(long, short = 'r', value_name = "RELEASE")]
    release_version: Option<String>,
    /// The level that a feature begins with, such as group.version=0; may be repeated.
    #[arg(long = "feature", short = 'f', value_name = "NAME=LEVEL")]
    features: Vec<String>,
    /// Leave directories alone that are formatted already.
    #[arg(long, short = 'g')]
    ignore_formatted: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The broker's properties file.
    #[arg(long, short = 'c', value_name = "FILE")]
    config: PathBuf,
    /// A setting that replaces the file's; may be repeated.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs one of the commands.
pub(crate) fn run(command: &StorageCommand) -> anyhow::Result<()> {
    match command {
        StorageCommand::RandomUuid => output::line(random_uuid()?),
        StorageCommand::Format(args) => format(args),
        StorageCommand::Info(args) => info(args),
        StorageCommand::Import(args) => import::run(args),
    }
}

/// A random id, from the system's generator.
pub(crate) fn random_uuid() -> anyhow::Result<Uuid> {
    let mut source = File::open("/dev/urandom").context("/dev/urandom")?;
    loop {
        let mut bytes = [0; 16];
        source.read_exact(&mut bytes).context("/dev/urandom")?;
        if let Some(id) = Uuid::from_random(bytes) {
            return Ok(id);
        }
    }
}

/// Reads a properties file with overrides laid over it.
pub(crate) fn load_config(file: &Path, overrides: &[String]) -> anyhow::Result<Loaded> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    load_text(&text, overrides).with_context(|| file.display().to_string())
}

/// Parses the text of a properties file with overrides laid over it.
pub(crate) fn load_text(text: &str, overrides: &[String]) -> anyhow::Result<Loaded> {
    let mut properties = Properties::parse(text)?;
    for assignment in overrides {
        properties.set_override(assignment)?;
    }
    Ok(BrokerConfig::load(&properties)?)
}

/// The log directories and the metadata directory, without repetition.
pub(crate) fn all_dirs(config: &BrokerConfig) -> Vec<PathBuf> {
    let mut dirs = config.log_dirs.clone();
    if !dirs.contains(&config.metadata_log_dir) {
        dirs.push(config.metadata_log_dir.clone());
    }
    dirs
}

fn format(args: &FormatArgs) -> anyhow::Result<()> {
    let config = load_config(&args.config, &args.overrides)?.config;
    let id = args.cluster_id.trim();
    ensure!(
        Uuid::parse(id).is_some(),
        "cluster id '{id}' is not 16 bytes in base64: take one of 'flumen storage random-uuid'"
    );
    let metadata_version = match &args.release_version {
        None => controller::METADATA_VERSION,
        Some(release) => metadata_version(&config, release)?,
    };
    let features = controller::first_features(metadata_version, &features(&args.features)?);
    let mut unformatted = Vec::new();
    for dir in all_dirs(&config) {
        match read_meta_properties(&FsDisk, &dir).with_context(|| dir.display().to_string())? {
            None => unformatted.push(dir),
            Some(meta) => {
                ensure!(
                    args.ignore_formatted,
                    "log directory {} is already formatted (cluster {}): use --ignore-formatted to \
                     leave it alone and format the others",
                    dir.display(),
                    meta.cluster_id
                );
                ensure!(
                    meta.cluster_id == id,
                    "log directory {} belongs to cluster {}, not {id}",
                    dir.display(),
                    meta.cluster_id
                );
            }
        }
    }
    if unformatted.is_empty() {
        return output::line("All of the log directories are already formatted.");
    }
    for dir in unformatted {
        if dir == config.metadata_log_dir {
            let write = || {
                FsDisk.create_dir_all(&dir)?;
                controller::write_bootstrap(&FsDisk, &dir, &features)
            };
            write().with_context(|| format!("cannot format {}", dir.display()))?;
        }
        format_dir(&dir, id, config.node_id)?;
        output::line(format!("Formatted {} for cluster {id}.", dir.display()))?;
    }
    Ok(())
}

/// The levels that were chosen for features.
fn features(chosen: &[String]) -> anyhow::Result<BTreeMap<String, i16>> {
    let mut levels = BTreeMap::new();
    for assignment in chosen {
        let (name, level) = assignment
            .split_once('=')
            .with_context(|| format!("'{assignment}' is not NAME=LEVEL"))?;
        let Some(feature) = controller::built_feature(name) else {
            bail!("feature '{name}' is not one that this version has");
        };
        let level = level.parse().ok();
        let level = level.filter(|level| (0..=feature.max).contains(level));
        let max = feature.max;
        let level = level.with_context(|| format!("the levels of {name} are 0 to {max}"))?;
        levels.insert(name.to_owned(), level);
    }
    Ok(levels)
}

/// The level of a release, if this broker may run at it.
fn metadata_version(config: &BrokerConfig, release: &str) -> anyhow::Result<i16> {
    let level = controller::metadata_version_of(release);
    let allowed = controller::metadata_versions(config);
    match level.filter(|level| allowed.contains(level)) {
        Some(level) => Ok(level),
        None => bail!(
            "release version '{release}' is not one from 3.3-IV3 to 4.3-IV0 (4.4-IV0 with \
             unstable.feature.versions.enable)"
        ),
    }
}

/// Makes a directory (and its parents) and writes its `meta.properties`.
pub(crate) fn format_dir(dir: &Path, cluster_id: &str, node_id: i32) -> anyhow::Result<()> {
    let meta = MetaProperties {
        cluster_id: cluster_id.to_owned(),
        node_id,
        directory_id: Some(random_uuid()?),
    };
    let write = || {
        FsDisk.create_dir_all(dir)?;
        write_meta_properties(&FsDisk, dir, &meta)
    };
    write().with_context(|| format!("cannot format {}", dir.display()))
}

fn info(args: &InfoArgs) -> anyhow::Result<()> {
    let config = load_config(&args.config, &args.overrides)?.config;
    let mut found = Vec::new();
    let mut problems = 0;
    for dir in all_dirs(&config) {
        let (meta, problem) = match read_meta_properties(&FsDisk, &dir) {
            Ok(Some(meta)) if meta.node_id != config.node_id => {
                (Some(meta), Some("belongs to another node".to_owned()))
            }
            Ok(Some(meta)) => (Some(meta), None),
            Ok(None) => (None, Some("is not formatted".to_owned())),
            Err(e) => (None, Some(e.to_string())),
        };
        problems += usize::from(problem.is_some());
        found.push((dir, meta, problem));
    }
    if args.json {
        let view = |(dir, meta, problem): &(PathBuf, Option<MetaProperties>, Option<String>)| {
            serde_json::json!({
                "directory": dir,
                "cluster_id": meta.as_ref().map(|m| &m.cluster_id),
                "node_id": meta.as_ref().map(|m| m.node_id),
                "directory_id": meta.as_ref().and_then(|m| m.directory_id).map(|d| d.to_string()),
                "problem": problem,
            })
        };
        output::json(&found.iter().map(view).collect::<Vec<_>>())?;
    } else {
        for (dir, meta, problem) in &found {
            let dir = dir.display();
            match (meta, problem) {
                (_, Some(problem)) => output::line(format!("{dir}: {problem}"))?,
                (Some(m), None) => {
                    let (cluster, node) = (&m.cluster_id, m.node_id);
                    output::line(format!("{dir}: cluster {cluster}, node {node}"))?;
                }
                (None, None) => {}
            }
        }
    }
    ensure!(
        problems == 0,
        "{problems} of {} directories are not usable",
        found.len()
    );
    Ok(())
}

/// What of the log directories a broker starts with.
pub(crate) struct Dirs {
    /// The cluster's id.
    pub(crate) cluster_id: String,
    /// In the order of `log.dirs`.
    pub(crate) list: Vec<CheckedDir>,
    /// Held until the end: no other process uses the directories.
    pub(crate) _locks: Vec<File>,
}

/// A log directory.
pub(crate) struct CheckedDir {
    pub(crate) path: PathBuf,
    /// Zero where it could not be read.
    pub(crate) id: Uuid,
    /// Why it can't be used, if it can't.
    pub(crate) failed: Option<String>,
}

/// Checks every log directory against the configuration, and locks it. One that can't be read is
/// offline while others can; that of the metadata log must be usable, as in Kafka. What contradicts
/// the configuration is an error wherever it stands.
pub(crate) fn check_dirs(config: &BrokerConfig) -> anyhow::Result<Dirs> {
    let mut cluster: Option<String> = None;
    let mut list: Vec<CheckedDir> = Vec::new();
    let mut locks = Vec::new();
    for path in all_dirs(config) {
        let (id, failed) = match check_dir(config, &path, &mut cluster) {
            Ok(id) => match lock_dir(&path) {
                Ok(lock) => {
                    locks.push(lock);
                    (id, None)
                }
                Err(Unusable::Now(error)) => (id, Some(error)),
                Err(Unusable::Wrong(error)) => return Err(error),
            },
            Err(Unusable::Now(error)) => (Uuid::ZERO, Some(error)),
            Err(Unusable::Wrong(error)) => return Err(error),
        };
        if let Some(error) = failed.as_ref().filter(|_| path == config.metadata_log_dir) {
            bail!("the metadata log's directory can't be used: {error:#}");
        }
        let twin = list.iter().find(|d| !id.is_zero() && d.id == id);
        if let Some(twin) = twin {
            bail!(
                "{} and {} have the same directory.id: one is a copy of the other",
                twin.path.display(),
                path.display()
            );
        }
        list.push(CheckedDir {
            path,
            id,
            failed: failed.map(|e| format!("{e:#}")),
        });
    }
    list.retain(|d| config.log_dirs.contains(&d.path));
    if list.iter().all(|d| d.failed.is_some()) {
        let reasons = list.iter().filter_map(|d| d.failed.clone());
        let reasons: Vec<String> = reasons.collect();
        bail!("no log directory can be used: {}", reasons.join("; "));
    }
    Ok(Dirs {
        cluster_id: cluster.unwrap_or_default(),
        list,
        _locks: locks,
    })
}

/// Why a log directory can't be used.
enum Unusable {
    /// Its disk is away or fails: others may serve.
    Now(anyhow::Error),
    /// It is another's: nothing may start with it.
    Wrong(anyhow::Error),
}

impl From<anyhow::Error> for Unusable {
    fn from(error: anyhow::Error) -> Self {
        Self::Wrong(error)
    }
}

/// The id of a directory of this node and of the cluster of the others.
fn check_dir(
    config: &BrokerConfig,
    dir: &Path,
    cluster: &mut Option<String>,
) -> Result<Uuid, Unusable> {
    let shown = dir.display();
    let now = |e: std::io::Error| Unusable::Now(anyhow::Error::new(e).context(shown.to_string()));
    let Some(mut meta) = read_meta_properties(&FsDisk, dir).map_err(now)? else {
        return Err(Unusable::Now(anyhow::anyhow!(
            "no meta.properties in {shown}: format it first with 'flumen storage format' (or is a \
             disk not mounted?)"
        )));
    };
    let mut check = || -> anyhow::Result<()> {
        ensure!(
            meta.node_id == config.node_id,
            "{shown} belongs to node {}, the configuration says node.id={}",
            meta.node_id,
            config.node_id
        );
        let known = cluster.get_or_insert_with(|| meta.cluster_id.clone());
        ensure!(
            *known == meta.cluster_id,
            "{shown} belongs to cluster {}, the directories before it to {known}",
            meta.cluster_id
        );
        Ok(())
    };
    check()?;
    if let Some(id) = meta.directory_id {
        return Ok(id);
    }
    let id = random_uuid()?;
    meta.directory_id = Some(id);
    write_meta_properties(&FsDisk, dir, &meta).map_err(now)?;
    Ok(id)
}

/// Takes the `.lock` file of a directory, as Kafka does, so that no second process uses it. It is
/// held until the file is dropped.
fn lock_dir(dir: &Path) -> Result<File, Unusable> {
    let path = dir.join(".lock");
    let now = |e: std::io::Error| {
        Unusable::Now(anyhow::Error::new(e).context(path.display().to_string()))
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(now)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Unusable::Wrong(anyhow::anyhow!(
            "another process uses {}: its .lock file is locked",
            dir.display()
        ))),
        Err(std::fs::TryLockError::Error(e)) => Err(now(e)),
    }
}
