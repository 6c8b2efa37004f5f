//! Metadata from outside, and looking at a directory without changing it.
#![allow(clippy::unwrap_used)] // a test may

use flumen_base::{Disk, OpenMode, Uuid};
use flumen_log::testing::MemDisk;
use flumen_quorum::{
    Checked, ConfigRecord, Initial, MetadataRecord, PartitionRecord, Quorum, QuorumConfig,
    ResourceType, check, write_initial,
};
use std::path::{Path, PathBuf};

const DIR: &str = "/meta/__cluster_metadata-0";

fn records() -> Vec<MetadataRecord> {
    let id = Uuid::from_bytes([7; 16]);
    vec![
        MetadataRecord::ClusterId("c".to_owned()),
        MetadataRecord::Topic {
            name: "t".to_owned(),
            id,
        },
        MetadataRecord::Partition(PartitionRecord {
            topic_id: id,
            replicas: vec![3],
            isr: vec![3],
            leader: 3,
            leader_epoch: 9,
            ..PartitionRecord::default()
        }),
        MetadataRecord::Config(ConfigRecord {
            kind: ResourceType::Topic,
            resource: "t".to_owned(),
            key: "retention.ms".to_owned(),
            value: Some("-1".to_owned()),
        }),
    ]
}

fn written(records: &[MetadataRecord]) -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("/meta")).unwrap();
    let initial = Initial {
        node_id: 3,
        index: 500,
        term: 4,
        records,
    };
    write_initial(&disk, Path::new(DIR), &initial).unwrap();
    disk
}

#[test]
fn metadata_from_outside_is_what_the_first_start_loads() {
    let disk = written(&records());
    disk.crash(&mut flumen_base::Prng::new(1));
    assert_eq!(check(&disk, Path::new(DIR)), Checked::Whole);
    let loaded = Quorum::load(&disk, Path::new(DIR)).unwrap();
    let image = loaded.image();
    assert_eq!((image.index(), image.term()), (500, 4));
    assert_eq!(image.topic("t").unwrap().partitions[0].leader_epoch, 9);
    assert_eq!(image.topic_config("t").unwrap()["retention.ms"], "-1");
    let config = |node_id| QuorumConfig {
        node_id,
        file_id_base: 0,
        snapshot_bytes: 1 << 20,
    };
    assert!(Quorum::new(config(3), loaded).is_ok());
    let again = Quorum::load(&disk, Path::new(DIR)).unwrap();
    assert!(Quorum::new(config(2), again).is_err(), "another node's");
}

#[test]
fn metadata_is_not_written_over() {
    let disk = written(&records());
    let initial = Initial {
        node_id: 3,
        index: 1,
        term: 1,
        records: &[],
    };
    assert!(write_initial(&disk, Path::new(DIR), &initial).is_err());
    let twice = [records(), records()].concat();
    let initial = Initial {
        records: &twice,
        ..initial
    };
    let other = Path::new("/meta/other");
    assert!(write_initial(&disk, other, &initial).is_err());
    assert!(disk.list(other).is_err(), "nothing is left of it");
}

#[test]
fn looking_changes_nothing_and_tells_torn_from_damaged() {
    let disk = written(&records());
    let of = |suffix: &str| -> PathBuf {
        let ends = |p: &PathBuf| p.to_string_lossy().ends_with(suffix);
        disk.paths().into_iter().find(ends).unwrap()
    };
    let append = |path: &Path, at: u64, bytes: &[u8]| {
        let file = disk.open(path, OpenMode::ReadWrite).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    let segment = of("0.raft");
    append(&segment, 20, &[0xff, 0xfe, 0xf1, 0xf5, 0, 0]);
    let before = disk.contents(&segment);
    let Checked::Torn(what) = check(&disk, Path::new(DIR)) else {
        panic!("not torn")
    };
    assert!(what.contains("byte 20"), "{what}");
    assert_eq!(disk.contents(&segment), before);
    append(&of("snapshot.raft"), 40, &[0xaa; 3]);
    let damaged = check(&disk, Path::new(DIR));
    assert!(matches!(damaged, Checked::Damaged(_)), "{damaged:?}");
    assert_eq!(check(&disk, Path::new("/none")), Checked::Absent);
}
