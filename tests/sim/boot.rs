//! Start and end of the process, as `flumen start` does it: format, load the quorum, read the log
//! directories, make the shards; and the ways in which it ends.

use crate::broker::Broker;
use crate::faulty::Faulty;
use crate::io::METADATA_FILE_IDS;
use crate::trace::{Trace, note};
use crate::{Check, shown};
use flumen_base::{Disk, Prng, ShardId};
use flumen_log::checkpoint::{self, MetaProperties};
use flumen_log::testing::MemDisk;
use flumen_log::testing_fuse::Fuse;
use flumen_quorum::{Quorum, QuorumConfig};
use flumen_settings::{BrokerConfig, Properties};
use flumen_shard::{LogDir, LogDirState, Shard, ShardConfig, ShardInit};
use std::sync::Arc;

/// What the wall clock shows at first.
pub(crate) const WALL_START_MS: i64 = 1_780_000_000_000;
const CLUSTER: &str = "Zmx1bWVuLXNpbXVsYXRvcg";
const METADATA_DIR: &str = "__cluster_metadata-0";

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// The machine stays up: what was handed to the disk is there.
    Kill,
    /// What was not synced is lost or torn, or there is garbage where it should be.
    PowerLoss { garbage: bool },
}

/// Properties of a broker whose periodic work comes often and whose files are small.
fn properties(dirs: u64, rng: &mut Prng) -> String {
    let dirs = if dirs > 1 {
        "/data/a,/data/b"
    } else {
        "/data/a"
    };
    let snapshots = 500 + rng.below(20_000);
    format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n\
         controller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\nlog.dirs={dirs}\n\
         offsets.topic.replication.factor=1\noffsets.topic.num.partitions=3\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=3\n\
         transaction.abort.timed.out.transaction.cleanup.interval.ms=3000\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
         log.retention.check.interval.ms=700\nlog.flush.offset.checkpoint.interval.ms=900\n\
         log.flush.start.offset.checkpoint.interval.ms=900\nlog.initial.task.delay.ms=300\n\
         log.cleaner.backoff.ms=400\n\
         metadata.log.max.record.bytes.between.snapshots={snapshots}\n\
         auto.create.topics.enable=false\nmax.incremental.fetch.session.cache.slots=8\n"
    )
}

/// The settings of a run, and a formatted disk.
pub(crate) fn prepare(shards: usize, rng: &mut Prng) -> Check<Broker> {
    let text = properties(1 + rng.below(2), rng);
    let properties = Properties::parse(&text).map_err(shown)?;
    let config = BrokerConfig::load(&properties).map_err(shown)?.config;
    let disk = MemDisk::new();
    let mut log_dirs = Vec::new();
    for path in &config.log_dirs {
        let id = rng.uuid();
        disk.create_dir_all(path).map_err(shown)?;
        let meta = MetaProperties {
            cluster_id: CLUSTER.to_owned(),
            node_id: 1,
            directory_id: Some(id),
        };
        checkpoint::write_meta_properties(&disk, path, &meta).map_err(shown)?;
        log_dirs.push(LogDir {
            id,
            path: path.clone(),
        });
    }
    disk.forget_directories();
    let config = ShardConfig {
        broker: config,
        cluster_id: CLUSTER.to_owned(),
        log_dirs,
    };
    Ok(Broker::new(disk, Arc::new(config), shards))
}

/// What the process reads before it makes its shards.
pub(crate) fn load(
    disk: &dyn Disk,
    config: &ShardConfig,
) -> Check<(Quorum, Vec<LogDirState>, ImageArc)> {
    let broker = &config.broker;
    let dir = broker.metadata_log_dir.join(METADATA_DIR);
    let loaded = Quorum::load(disk, &dir).map_err(shown)?;
    let image = Arc::new(loaded.image().clone());
    let quorum_config = QuorumConfig {
        node_id: broker.node_id,
        file_id_base: METADATA_FILE_IDS,
        snapshot_bytes: u64::try_from(broker.quorum.snapshot_after_bytes).unwrap_or(1),
    };
    let quorum = Quorum::new(quorum_config, loaded)?;
    let dirs = config.log_dirs.iter();
    let states = dirs.map(|d| LogDirState::load(disk, &d.path, &image));
    let states = states.collect::<Result<Vec<_>, _>>().map_err(shown)?;
    Ok((quorum, states, image))
}

type ImageArc = Arc<flumen_quorum::Image>;

/// Starts the process. It may die in the middle of it, or find that the disk does not work; then it
/// is started again.
pub(crate) fn start(b: &mut Broker, faults: bool, rng: &mut Prng, trace: &mut Trace) -> Check {
    let config = Arc::clone(&b.config);
    let disk = b.disk.clone();
    while faults && rng.one_in(6) {
        let changes = rng.below(12);
        let fuse = Fuse::new(&disk, changes);
        let outcome = load(&fuse, &config);
        match outcome {
            Err(e) if !fuse.is_blown() && !b.full => {
                return Err(format!("the broker does not start: {e}"));
            }
            _ => {}
        }
        note!(trace, "died while starting, after {changes} changes");
        disk.kill();
    }
    let (quorum, states, image) = load_somehow(b, faults, rng, trace)?;
    let clean = states.iter().filter(|s| s.clean).count();
    note!(trace, "start image={} clean={clean}", image.index());
    let states = Arc::new(states);
    let mut quorum = Some(quorum);
    for n in 0..b.shards {
        let shard = Shard::new(ShardInit {
            id: ShardId(n as u16),
            shards: b.shards as u16,
            config: Arc::clone(&config),
            seed: rng.next_u64(),
            now: b.now(),
            image: Arc::clone(&image),
            quorum: quorum.take(),
            log_dirs: Arc::clone(&states),
        });
        b.first_turn(shard, rng, trace)?;
    }
    Ok(())
}

/// Loads what a start needs. On a disk that fails or is full it may take another attempt, after
/// somebody has seen to the disk.
fn load_somehow(
    b: &mut Broker,
    faults: bool,
    rng: &mut Prng,
    trace: &mut Trace,
) -> Check<(Quorum, Vec<LogDirState>, ImageArc)> {
    let io = b.ring.faults;
    if faults && io.fail_one_in > 0 && rng.one_in(4) {
        let faulty = Faulty::new(&b.disk, &io, 60, rng);
        match load(&faulty, &b.config) {
            Err(e) if !faulty.has_struck() && !b.full => {
                return Err(format!("the broker does not start: {e}"));
            }
            Err(e) => {
                note!(trace, "does not start on a failing disk: {e}");
                b.disk.kill();
            }
            Ok(loaded) => return Ok(loaded),
        }
    }
    match load(&b.disk, &b.config) {
        Err(e) if b.full => {
            note!(trace, "does not start on a full disk: {e}");
            b.set_room(None, trace);
            b.disk.kill();
            load(&b.disk, &b.config)
        }
        loaded => loaded,
    }
    .map_err(|e| format!("the broker does not start: {e}"))
}

/// Ends the process in the middle of whatever it does.
pub(crate) fn die(b: &mut Broker, death: Death, rng: &mut Prng, trace: &mut Trace) -> Check {
    note!(trace, "die {death:?}");
    b.last_words(rng, trace)?;
    for pending in std::mem::take(&mut b.jobs) {
        if rng.one_in(2) {
            let fuse = Fuse::new(&b.disk, rng.below(10));
            note!(trace, " in the middle of {}", pending.job.name());
            drop(pending.job.run(&fuse));
        }
    }
    b.ring.die(&b.disk, rng);
    match death {
        Death::Kill => b.disk.kill(),
        Death::PowerLoss { garbage: false } => b.disk.crash(rng),
        Death::PowerLoss { garbage: true } => b.disk.crash_with_garbage(rng),
    }
    b.process_ends();
    Ok(())
}
