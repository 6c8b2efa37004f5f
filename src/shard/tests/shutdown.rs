//! Clean shutdowns: what the marker promises to the next start.

use flumen_log::testing::MemDisk;
use flumen_shard::testing::{Driver, create_request};
use std::collections::BTreeSet;
use std::path::PathBuf;

const MARKER: &str = ".kafka_cleanshutdown";

/// Directories that hold a file whose name ends so.
fn dirs_with(disk: &MemDisk, suffix: &str) -> BTreeSet<PathBuf> {
    let paths = disk.paths().into_iter();
    let fits = paths.filter(|p| p.to_string_lossy().ends_with(suffix));
    fits.filter_map(|p| Some(p.parent()?.to_owned())).collect()
}

/// The topic is made at any moment of a shutdown: by the time that a shard hears of its partition,
/// it may be closing its logs, or be done with that. A log that it opened then would be closed by
/// nobody, and the marker would say that it was.
#[test]
fn a_shard_that_closes_its_logs_opens_no_more() {
    let (mut clean, mut left_alone) = (0, 0);
    for seed in 0..40 {
        for steps in [0, 4, 8, 12, 16, 24] {
            let mut d = Driver::ready(3, seed);
            let c = d.connect(0);
            d.send(c, &create_request("t", 6), 7);
            for _ in 0..steps {
                d.step();
            }
            d.shutdown();
            if dirs_with(&d.disk, MARKER).is_empty() {
                continue; // a log was being loaded: the next start looks at all
            }
            clean += 1;
            let opened = dirs_with(&d.disk, ".log");
            left_alone += usize::from(opened.len() < 6);
            // Closing writes the producers of the end.
            let closed = dirs_with(&d.disk, ".snapshot");
            let missing: Vec<_> = opened.difference(&closed).collect();
            assert!(
                missing.is_empty(),
                "seed {seed}, {steps} steps: {missing:?}"
            );
        }
    }
    println!("clean {clean}, left alone {left_alone}");
    assert!(clean > 0 && left_alone > 0, "{clean} {left_alone}");
}
