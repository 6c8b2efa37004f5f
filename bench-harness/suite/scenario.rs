//! The table of what is measured, where, against what, and what is asked of it.

use super::measure::Measure;
use super::place::Fs;

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name in folders and tables.
    pub name: &'static str,
    /// One sentence for a reader.
    pub about: &'static str,
    /// What runs.
    pub run: Run,
    /// Topic configs.
    pub topic: &'static [&'static str],
    /// File systems that it is measured on.
    pub fs: &'static [Fs],
    /// Limit probes that stand in for the broker; the better one counts, round by round.
    pub limit: &'static [&'static str],
    /// The first column of its results.
    pub main: Measure,
    /// What it has to reach.
    pub floors: &'static [Floor],
    /// When it runs.
    pub stage: Stage,
}

/// What runs.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// A workload of this program: its name and arguments.
    Load(&'static [&'static str]),
    /// A produce load at a part of the disk's sequential speed, but at most so many MB/s.
    DiskRate {
        /// Part of what the disk takes.
        part: f64,
        /// MB/s.
        at_most: f64,
        /// Bytes of a request.
        request_bytes: f64,
        /// The workload without its rate.
        args: &'static [&'static str],
    },
    /// A load with something disturbing it, after the same load undisturbed.
    Trouble {
        /// The load.
        args: &'static [&'static str],
        /// The same without the trouble; the same arguments where the trouble is elsewhere.
        calm: &'static [&'static str],
        /// What else happens meanwhile.
        trouble: Trouble,
    },
    /// From the start of the process to the first acknowledged produce, with so many partitions.
    Start {
        /// 0: a start on an empty directory.
        partitions: i32,
    },
    /// Two shards on two CPUs beside one shard on one.
    TwoShards(&'static [&'static str]),
}

/// What disturbs a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing but the arguments and topic configs of the load itself.
    Itself,
    /// Consumers that ask for megabytes and do not read their sockets.
    SlowConsumers,
    /// A topic of many partitions is created, written to and deleted again and again.
    TopicChurn,
    /// A topic of 256 MiB and more is compacted again and again while its hot keys are written.
    Compaction,
    /// The broker was killed with a GiB that it has to recover, and has just begun to serve again.
    Recovery,
}

/// When a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In every round, on a broker that the round's scenarios share.
    Rounds,
    /// In every round, on a broker of its own.
    Alone,
    /// Once, on a broker of its own, for so many seconds; with `--full` or when asked for by name.
    Once {
        /// Measured time.
        seconds: u32,
    },
}

/// What a value is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// Kafka's median.
    Kafka,
    /// The probe's median.
    Limit,
    /// The same system undisturbed.
    Calm,
    /// One shard.
    OneShard,
    /// Nothing: the value itself.
    Absolute,
}

/// A floor: a value or a ratio, and the bound that it has to keep.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// Of what.
    pub measure: Measure,
    /// Relative to what.
    pub against: Against,
    /// The bound.
    pub bound: Bound,
    /// Only on these file systems; everywhere when empty.
    pub fs: &'static [Fs],
}

/// A bound on a ratio (or on a value, or on a difference).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Ratio or value at least.
    AtLeast(f64),
    /// Ratio or value at most.
    AtMost(f64),
    /// Difference at most.
    MoreBy(f64),
}

const fn floor(measure: Measure, against: Against, bound: Bound) -> Floor {
    Floor {
        measure,
        against,
        bound,
        fs: &[],
    }
}

const fn on(fs: &'static [Fs], floor: Floor) -> Floor {
    Floor { fs, ..floor }
}

const fn times(measure: Measure, ratio: f64) -> Floor {
    floor(measure, Against::Kafka, Bound::AtLeast(ratio))
}

const fn below(measure: Measure, ratio: f64) -> Floor {
    floor(measure, Against::Kafka, Bound::AtMost(ratio))
}

const fn of_limit(part: f64) -> Floor {
    floor(Measure::Megabytes, Against::Limit, Bound::AtLeast(part))
}

/// Retention that bounds the directory.
pub const KEEP: &[&str] = &[
    "retention.bytes=67108864",
    "segment.bytes=16777216",
    "file.delete.delay.ms=0",
    "retention.ms=-1",
];
/// The same, synced before the acknowledgement.
const KEEP_SYNCED: &[&str] = &[
    "retention.bytes=67108864",
    "segment.bytes=16777216",
    "file.delete.delay.ms=0",
    "retention.ms=-1",
    "flush.messages=1",
];
const ROLL_STORM: &[&str] = &[
    "retention.bytes=67108864",
    "segment.bytes=1048576",
    "file.delete.delay.ms=0",
    "retention.ms=-1",
];
const RETENTION_STORM: &[&str] = &[
    "retention.bytes=4194304",
    "segment.bytes=1048576",
    "file.delete.delay.ms=0",
    "retention.ms=-1",
];
/// An index entry per batch, and the log flushed with its indexes twice a second.
const INDEX_STORM: &[&str] = &[
    "retention.bytes=67108864",
    "segment.bytes=1048576",
    "file.delete.delay.ms=0",
    "retention.ms=-1",
    "index.interval.bytes=1",
    "flush.ms=500",
];
const KEEP_ALL: &[&str] = &["segment.bytes=16777216", "retention.ms=-1"];
const MANY: &[&str] = &["retention.ms=-1", "segment.bytes=16777216"];
/// 10 GiB over 8 partitions.
const KEEP_10G: &[&str] = &[
    "retention.bytes=1342177280",
    "segment.bytes=134217728",
    "file.delete.delay.ms=0",
    "retention.ms=-1",
];

const MEMORY: &[Fs] = &[Fs::Tmpfs];
const DISK: &[Fs] = &[Fs::Ext4];
const FRESH: &[Fs] = &[Fs::Tmpfs, Fs::Ext4];
const FOLIOS: &[Fs] = &[Fs::Xfs];
const ALL: &[Fs] = &[Fs::Tmpfs, Fs::Xfs, Fs::Ext4];

const SOUND: Scenario = Scenario {
    name: "",
    about: "",
    run: Run::Load(&[]),
    topic: KEEP,
    fs: MEMORY,
    limit: &[],
    main: Measure::Megabytes,
    floors: &[],
    stage: Stage::Rounds,
};

/// Ratios of a produce workload: on large folios, on fresh pages.
macro_rules! produce_floors {
    ($folios:expr, $fresh:expr) => {
        &[
            on(FOLIOS, times(Measure::Megabytes, $folios)),
            on(FOLIOS, of_limit(0.75)),
            on(FOLIOS, below(Measure::P99, 1.0 / 3.0)),
            on(FRESH, times(Measure::Megabytes, $fresh)),
            on(FRESH, of_limit(0.8)),
            on(FRESH, below(Measure::P99, 0.5)),
        ]
    };
}

const TINY: &[Floor] = &[
    times(Measure::Requests, 4.5),
    floor(Measure::Requests, Against::Limit, Bound::AtLeast(0.9)),
    below(Measure::P99, 1.0 / 3.0),
];
const FAN_OUT: &[Floor] = &[times(Measure::PerCpu, 3.0), below(Measure::P99, 1.0 / 3.0)];
const UNDISTURBED: &[Floor] = &[floor(Measure::P99, Against::Calm, Bound::AtMost(2.0))];
const UNDISTURBED_BOTH: &[Floor] = &[
    floor(Measure::P99, Against::Calm, Bound::AtMost(2.0)),
    floor(Measure::SecondP99, Against::Calm, Bound::AtMost(2.0)),
];

/// Producers of 16 KiB at 1,000/s with a tail reader of each partition.
const TAILED: &[&str] = &[
    "mixed",
    "--tail",
    "--rate",
    "1000",
    "--batch-bytes",
    "16384",
    "--partitions",
    "4",
    "--connections",
    "4",
];

/// The same from the first request on.
const TAILED_AT_ONCE: &[&str] = &[
    "mixed",
    "--tail",
    "--rate",
    "1000",
    "--batch-bytes",
    "16384",
    "--partitions",
    "4",
    "--connections",
    "4",
    "--warmup",
    "0",
];
/// Single records of 200 B at 4,000/s with a tail reader of each partition.
const TAILED_SMALL: &[&str] = &[
    "mixed",
    "--tail",
    "--rate",
    "4000",
    "--batch-bytes",
    "1",
    "--record-bytes",
    "200",
    "--partitions",
    "4",
    "--connections",
    "4",
];

mod table;
pub use table::SCENARIOS;

impl Scenario {
    /// Whether a floor holds on `fs`.
    pub fn floors_on(&self, fs: Fs) -> impl Iterator<Item = &'static Floor> {
        let kind = match fs {
            Fs::XfsDisk => Fs::Xfs,
            other => other,
        };
        let floors = self.floors;
        floors
            .iter()
            .filter(move |f| f.fs.is_empty() || f.fs.contains(&kind))
    }

    /// The scenario of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|s| s.name == name)
    }

    /// Whether records are synced before they are acknowledged.
    pub fn synced(&self) -> bool {
        self.topic.contains(&"flush.messages=1")
    }

    /// Whether it drops the broker's files from memory.
    pub fn is_cold(&self) -> bool {
        match self.run {
            Run::Load(args) | Run::Trouble { args, .. } => args.contains(&"--cold"),
            _ => false,
        }
    }

    /// Whether it sets CPUs and starts by itself, so that only brokers of ours can run it.
    pub fn needs_own_broker(&self) -> bool {
        matches!(self.run, Run::Start { .. } | Run::TwoShards(_))
    }
}

impl Bound {
    /// Whether `value` keeps it, given the value it is held against.
    pub fn holds(self, value: f64, against: Option<f64>) -> bool {
        let ratio = value / against.unwrap_or(1.0);
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
            Self::MoreBy(most) => value - against.unwrap_or(0.0) <= most,
        }
    }
}
