//! The rows themselves.

use super::*;

/// Every scenario, in the order of running and of the tables.
#[rustfmt::skip] // arguments read better in lines
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "tiny8",
        about: "produce one record of 100 B per request, 8 connections",
        run: Run::Load(&["produce", "--record-bytes", "100", "--batch-bytes", "1"]),
        limit: &["echo"],
        main: Measure::Requests,
        floors: TINY,
        ..SOUND
    },
    Scenario {
        name: "tiny32",
        about: "produce one record of 100 B per request, 32 connections",
        run: Run::Load(&[
            "produce", "--record-bytes", "100", "--batch-bytes", "1", "--connections", "32",
        ]),
        limit: &["echo"],
        main: Measure::Requests,
        floors: &[
            times(Measure::Requests, 3.5),
            floor(Measure::Requests, Against::Limit, Bound::AtLeast(0.9)),
            below(Measure::P99, 0.5),
        ],
        ..SOUND
    },
    Scenario {
        name: "tiny64",
        about: "produce one record of 100 B per request, 64 connections",
        run: Run::Load(&[
            "produce", "--record-bytes", "100", "--batch-bytes", "1", "--connections", "64",
        ]),
        limit: &["echo"],
        main: Measure::Requests,
        ..SOUND
    },
    Scenario {
        name: "16k",
        about: "produce batches of 16 KiB, 8 connections with 5 in flight",
        run: Run::Load(&["produce", "--batch-bytes", "16384"]),
        fs: ALL,
        limit: &["receive-crc-write"],
        floors: produce_floors!(4.0, 2.3),
        ..SOUND
    },
    Scenario {
        name: "64k",
        about: "produce batches of 64 KiB",
        run: Run::Load(&["produce", "--batch-bytes", "65536"]),
        fs: ALL,
        limit: &["receive-crc-write"],
        floors: &[
            on(FOLIOS, times(Measure::Megabytes, 4.5)),
            on(FOLIOS, of_limit(0.75)),
            on(FOLIOS, below(Measure::P99, 1.0 / 3.0)),
            on(FRESH, times(Measure::Megabytes, 2.0)),
            on(FRESH, of_limit(0.8)),
            on(FRESH, below(Measure::P99, 0.5)),
            below(Measure::Memory, 1.0 / 15.0),
        ],
        ..SOUND
    },
    Scenario {
        name: "256k",
        about: "produce batches of 256 KiB",
        run: Run::Load(&["produce", "--batch-bytes", "262144"]),
        fs: ALL,
        limit: &["receive-crc-write"],
        floors: produce_floors!(4.0, 1.4),
        ..SOUND
    },
    Scenario {
        name: "8x16k",
        about: "produce requests of 8 partitions with 16 KiB each",
        run: Run::Load(&[
            "produce", "--batch-bytes", "16384", "--partitions-per-request", "8",
        ]),
        fs: ALL,
        limit: &["receive-crc-write"],
        floors: produce_floors!(5.0, 2.0),
        ..SOUND
    },
    Scenario {
        name: "many1000",
        about: "produce batches of 1 KiB spread over 1,000 partitions",
        run: Run::Load(&[
            "produce", "--batch-bytes", "1", "--record-bytes", "900", "--partitions", "1000",
            "--spread",
        ]),
        topic: MANY,
        main: Measure::Requests,
        ..SOUND
    },
    Scenario {
        name: "acks0",
        about: "produce batches of 16 KiB with acks=0",
        run: Run::Load(&["produce", "--batch-bytes", "16384", "--acks", "0"]),
        ..SOUND
    },
    Scenario {
        name: "acks1",
        about: "produce batches of 16 KiB with acks=1",
        run: Run::Load(&["produce", "--batch-bytes", "16384", "--acks", "1"]),
        ..SOUND
    },
    Scenario {
        name: "acks-all",
        about: "produce batches of 16 KiB with acks=all, spread over the partitions",
        run: Run::Load(&[
            "produce", "--batch-bytes", "16384", "--acks", "-1", "--spread",
        ]),
        ..SOUND
    },
    Scenario {
        name: "idempotent16k",
        about: "produce batches of 16 KiB, idempotent",
        run: Run::Load(&["produce", "--batch-bytes", "16384", "--idempotent"]),
        ..SOUND
    },
    Scenario {
        name: "lz4-64k",
        about: "produce batches of 64 KiB before LZ4 by the client",
        run: Run::Load(&["produce", "--batch-bytes", "65536", "--compression", "lz4"]),
        ..SOUND
    },
    Scenario {
        name: "zstd-64k",
        about: "produce batches of 64 KiB before Zstandard by the client",
        run: Run::Load(&["produce", "--batch-bytes", "65536", "--compression", "zstd"]),
        ..SOUND
    },
    Scenario {
        name: "sync16k",
        about: "produce batches of 16 KiB, on disk before the acknowledgement",
        run: Run::Load(&["produce", "--batch-bytes", "16384"]),
        topic: KEEP_SYNCED,
        fs: DISK,
        limit: &["receive-crc-write-sync"],
        floors: &[
            times(Measure::Megabytes, 7.0),
            of_limit(0.9),
            below(Measure::P99, 0.25),
        ],
        ..SOUND
    },
    Scenario {
        name: "sync64k",
        about: "produce batches of 64 KiB, on disk before the acknowledgement",
        run: Run::Load(&["produce", "--batch-bytes", "65536"]),
        topic: KEEP_SYNCED,
        fs: DISK,
        limit: &["receive-crc-write-sync"],
        floors: &[
            times(Measure::Megabytes, 5.0),
            of_limit(0.9),
            below(Measure::P99, 2.0 / 3.0),
        ],
        ..SOUND
    },
    Scenario {
        name: "serve4k",
        about: "catch-up fetches of 4 KiB, resident, 4 connections",
        run: Run::Load(&[
            "fetch", "--batch-bytes", "4096", "--fetch-bytes", "4096", "--connections", "4",
            "--partitions", "4",
        ]),
        topic: KEEP_ALL,
        limit: &["serve-copy"],
        main: Measure::Requests,
        ..SOUND
    },
    Scenario {
        name: "serve64k",
        about: "catch-up fetches of 64 KiB, resident",
        run: Run::Load(&[
            "fetch", "--batch-bytes", "16384", "--fetch-bytes", "65536", "--connections", "4",
            "--partitions", "4",
        ]),
        topic: KEEP_ALL,
        limit: &["serve-copy", "sendfile"],
        floors: &[
            times(Measure::Megabytes, 2.2),
            of_limit(0.8),
            below(Measure::P99, 0.5),
        ],
        ..SOUND
    },
    Scenario {
        name: "serve1m",
        about: "catch-up fetches of 1 MiB, resident",
        run: Run::Load(&[
            "fetch", "--batch-bytes", "65536", "--fetch-bytes", "1048576", "--connections", "4",
            "--partitions", "4",
        ]),
        topic: KEEP_ALL,
        limit: &["serve-copy", "sendfile"],
        floors: &[
            times(Measure::Megabytes, 1.2),
            of_limit(0.9),
            below(Measure::P99, 2.0 / 3.0),
        ],
        ..SOUND
    },
    Scenario {
        name: "serve64k-cold",
        about: "catch-up fetches of 64 KiB of data that memory no longer holds",
        run: Run::Load(&[
            "fetch", "--batch-bytes", "16384", "--fetch-bytes", "65536", "--connections", "4",
            "--partitions", "4", "--cold", "--fill-bytes", "268435456",
        ]),
        topic: KEEP_ALL,
        fs: DISK,
        ..SOUND
    },
    Scenario {
        name: "serve1m-cold",
        about: "catch-up fetches of 1 MiB of data that memory no longer holds",
        run: Run::Load(&[
            "fetch", "--batch-bytes", "65536", "--fetch-bytes", "1048576", "--connections", "4",
            "--partitions", "4", "--cold", "--fill-bytes", "268435456",
        ]),
        topic: KEEP_ALL,
        fs: DISK,
        ..SOUND
    },
    Scenario {
        name: "fanout1",
        about: "one producer of 16 KiB at 1,000/s, one tail consumer",
        run: Run::Load(&[
            "fan-out", "--batch-bytes", "16384", "--partitions", "1", "--rate", "1000",
            "--consumers", "1",
        ]),
        limit: &["serve-copy"],
        main: Measure::PerCpu,
        floors: FAN_OUT,
        ..SOUND
    },
    Scenario {
        name: "fanout10",
        about: "one producer of 16 KiB at 500/s, 10 tail consumers",
        run: Run::Load(&[
            "fan-out", "--batch-bytes", "16384", "--partitions", "1", "--rate", "500",
            "--consumers", "10",
        ]),
        limit: &["serve-copy"],
        main: Measure::PerCpu,
        floors: FAN_OUT,
        ..SOUND
    },
    Scenario {
        name: "fanout100",
        about: "one producer of 16 KiB at 100/s, 100 tail consumers",
        run: Run::Load(&[
            "fan-out", "--batch-bytes", "16384", "--partitions", "1", "--rate", "100",
            "--consumers", "100",
        ]),
        limit: &["serve-copy"],
        main: Measure::PerCpu,
        floors: FAN_OUT,
        ..SOUND
    },
    Scenario {
        name: "mixed",
        about: "16 KiB at 1,000/s beside 4 catch-up readers of 1 MiB, resident",
        run: Run::Load(&["mixed", "--rate", "1000", "--batch-bytes", "16384"]),
        topic: KEEP_ALL, // the readers' topic gets it too, and begins at offset 0
        main: Measure::P99,
        ..SOUND
    },
    Scenario {
        name: "e2e1k",
        about: "1 KiB at 1,000/s, from due to held by a waiting consumer",
        run: Run::Load(&[
            "end-to-end", "--record-bytes", "1024", "--rate", "1000", "--partitions", "1",
        ]),
        limit: &["serve-copy"], // what waking an idle CPU costs is in both
        main: Measure::P50,
        floors: &[
            below(Measure::P50, 0.6),
            below(Measure::CpuPerRequest, 0.2),
            below(Measure::P99, 0.2),
        ],
        ..SOUND
    },
    Scenario {
        name: "lat16k",
        about: "produce batches of 16 KiB at 3,000/s",
        run: Run::Load(&["produce", "--batch-bytes", "16384", "--rate", "3000"]),
        limit: &["receive-crc-write"], // what waking an idle CPU costs is in both
        main: Measure::P50,
        floors: &[
            below(Measure::P50, 0.5),
            below(Measure::CpuPerRequest, 0.4),
            below(Measure::P99, 1.0 / 3.0),
        ],
        ..SOUND
    },
    Scenario {
        name: "load-curve",
        about: "produce batches of 16 KiB from a tenth of the capacity to beyond it",
        run: Run::Load(&["load-curve", "--batch-bytes", "16384"]),
        main: Measure::Requests,
        ..SOUND
    },
    Scenario {
        name: "idle",
        about: "a broker with 8 partitions and one connection, left alone",
        run: Run::Load(&["idle"]),
        main: Measure::IdleCpu,
        ..SOUND
    },
    Scenario {
        name: "start",
        about: "from an empty directory's start to the first acknowledged produce",
        run: Run::Start { partitions: 0 },
        main: Measure::Start,
        floors: &[below(Measure::Start, 1.0 / 30.0)],
        stage: Stage::Alone,
        ..SOUND
    },
    Scenario {
        name: "start1000",
        about: "restart after a clean stop with 1,000 partitions, to the first acked produce",
        run: Run::Start { partitions: 1000 },
        main: Measure::Start,
        floors: &[below(Measure::Start, 0.1)],
        stage: Stage::Alone,
        ..SOUND
    },
    Scenario {
        name: "mixed-cold",
        about: "16 KiB at 1,000/s beside 4 catch-up readers of cold data, against no readers",
        run: Run::Trouble {
            args: &[
                "mixed", "--rate", "1000", "--batch-bytes", "16384", "--cold", "--fill-bytes",
                "268435456",
            ],
            calm: &["produce", "--rate", "1000", "--batch-bytes", "16384"],
            trouble: Trouble::Itself,
        },
        fs: DISK,
        topic: KEEP_ALL, // the readers' topic gets it too, and begins at offset 0
        main: Measure::P99,
        floors: UNDISTURBED,
        ..SOUND
    },
    Scenario {
        name: "two-shards-64k",
        about: "64 KiB on two shards and two CPUs (the client shares them) against one shard",
        run: Run::TwoShards(&["produce", "--batch-bytes", "65536"]),
        main: Measure::OwnCpuPerGb,
        floors: &[floor(
            Measure::OwnCpuPerGb,
            Against::OneShard,
            Bound::AtMost(1.1),
        )],
        stage: Stage::Alone,
        ..SOUND
    },
    Scenario {
        name: "two-shards-tiny",
        about: "100 B requests on two shards, half of them forwarded, against one shard",
        run: Run::TwoShards(&["produce", "--record-bytes", "100", "--batch-bytes", "1"]),
        main: Measure::OwnCpuPerRequest,
        // 1.5 us for each forwarded request, and every second one is.
        floors: &[floor(
            Measure::OwnCpuPerRequest,
            Against::OneShard,
            Bound::MoreBy(0.75),
        )],
        stage: Stage::Alone,
        ..SOUND
    },
    Scenario {
        name: "trouble-roll",
        about: "16 KiB at 1,000/s with tail readers; segments of 1 MiB, rolled 16 times a second",
        run: Run::Trouble {
            args: TAILED,
            calm: TAILED,
            trouble: Trouble::Itself,
        },
        topic: ROLL_STORM,
        fs: DISK,
        main: Measure::P99,
        floors: UNDISTURBED_BOTH,
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "trouble-retention",
        about: "the same with retention of 4 MiB: as many deletions as rolls",
        run: Run::Trouble {
            args: TAILED,
            calm: TAILED,
            trouble: Trouble::Itself,
        },
        topic: RETENTION_STORM,
        fs: DISK,
        main: Measure::P99,
        floors: UNDISTURBED_BOTH,
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "trouble-slow-consumer",
        about: "16 KiB at 1,000/s with tail readers beside consumers that stop reading",
        run: Run::Trouble {
            args: TAILED,
            calm: TAILED,
            trouble: Trouble::SlowConsumers,
        },
        fs: DISK,
        main: Measure::P99,
        floors: UNDISTURBED_BOTH,
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "trouble-topics",
        about: "the same while topics of 64 partitions are created, written to and deleted",
        run: Run::Trouble {
            args: TAILED,
            calm: TAILED,
            trouble: Trouble::TopicChurn,
        },
        fs: DISK,
        main: Measure::P99,
        floors: UNDISTURBED_BOTH,
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "trouble-index",
        about: "200 B at 4,000/s with tail readers; an index entry per batch, flush.ms=500",
        run: Run::Trouble {
            args: TAILED_SMALL,
            calm: TAILED_SMALL,
            trouble: Trouble::Itself,
        },
        topic: INDEX_STORM,
        fs: DISK,
        main: Measure::P99,
        floors: UNDISTURBED_BOTH,
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "trouble-compaction",
        about: "16 KiB at 1,000/s with tail readers beside 10 MB/s to a topic that is compacted",
        run: Run::Trouble {
            args: TAILED,
            calm: TAILED,
            trouble: Trouble::Compaction,
        },
        fs: DISK,
        main: Measure::P99,
        floors: UNDISTURBED_BOTH,
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "trouble-recovery",
        about: "16 KiB at 1,000/s with tail readers right after a kill, with a GiB to be recovered",
        run: Run::Trouble {
            args: TAILED_AT_ONCE,
            calm: TAILED,
            trouble: Trouble::Recovery,
        },
        fs: DISK,
        main: Measure::P99,
        floors: UNDISTURBED_BOTH,
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "trouble-cold",
        about: "16 KiB at 1,000/s beside cold catch-up readers for a minute",
        run: Run::Trouble {
            args: &[
                "mixed", "--rate", "1000", "--batch-bytes", "16384", "--cold", "--fill-bytes",
                "268435456",
            ],
            calm: &["produce", "--rate", "1000", "--batch-bytes", "16384"],
            trouble: Trouble::Itself,
        },
        fs: DISK,
        topic: KEEP_ALL, // the readers' topic gets it too, and begins at offset 0
        main: Measure::P99,
        floors: UNDISTURBED,
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "disk90",
        about: "64 KiB at 250 MB/s, or 90 % of the disk's speed if that is less, for 5 minutes",
        run: Run::DiskRate {
            part: 0.9,
            at_most: 250.0,
            request_bytes: 64_650.0,
            args: &["produce", "--batch-bytes", "65536"],
        },
        topic: KEEP_10G,
        fs: DISK,
        main: Measure::P99,
        floors: &[
            floor(Measure::Sustained, Against::Absolute, Bound::AtLeast(0.99)),
            below(Measure::P99, 0.6),
        ],
        stage: Stage::Once { seconds: 300 },
        ..SOUND
    },
    Scenario {
        name: "disk-saturate",
        about: "64 KiB in a closed loop until the disk is the bound, for a minute after another",
        run: Run::Load(&["produce", "--batch-bytes", "65536", "--warmup", "60"]),
        topic: KEEP_10G,
        fs: DISK,
        limit: &["disk"],
        floors: &[
            of_limit(0.95),
            floor(
                Measure::ServiceP99,
                Against::Absolute,
                Bound::AtMost(50_000.0),
            ),
        ],
        stage: Stage::Once { seconds: 60 },
        ..SOUND
    },
    Scenario {
        name: "soak",
        about: "64 KiB at 80 % of the disk's speed for 30 minutes, retention 10 GiB",
        run: Run::DiskRate {
            part: 0.8,
            at_most: f64::INFINITY,
            request_bytes: 64_650.0,
            args: &["produce", "--batch-bytes", "65536"],
        },
        topic: KEEP_10G,
        fs: DISK,
        main: Measure::P99,
        floors: &[floor(
            Measure::Sustained,
            Against::Absolute,
            Bound::AtLeast(0.99),
        )],
        stage: Stage::Once { seconds: 1800 },
        ..SOUND
    },
];

#[cfg(test)]
#[path = "table_test.rs"]
mod table_test;
