use super::*;
use crate::testing::MemDisk;

#[test]
fn files_round_trip_in_kafkas_text() {
    let (disk, dir) = (MemDisk::new(), Path::new("/logs"));
    disk.create_dir_all(dir).unwrap();
    assert_eq!(read_offsets(&disk, dir, LOG_START).unwrap(), Offsets::new());
    let offsets: Offsets = [(("a".into(), 1), Offset(5)), (("a".into(), 0), Offset(7))]
        .into_iter()
        .collect();
    write_offsets(&disk, dir, LOG_START, &offsets).unwrap();
    let text = disk.contents(&dir.join(LOG_START)).unwrap();
    assert_eq!(text, b"0\n2\na 0 7\na 1 5\n");
    assert_eq!(read_offsets(&disk, dir, LOG_START).unwrap(), offsets);

    let id = Uuid::from_bytes([9; 16]);
    assert_eq!(read_partition_metadata(&disk, dir).unwrap(), None);
    write_partition_metadata(&disk, dir, id).unwrap();
    assert_eq!(read_partition_metadata(&disk, dir).unwrap(), Some(id));

    let meta = MetaProperties {
        cluster_id: "MkU3OEVBNTcwNTJENDM2Qk".to_owned(),
        node_id: 3,
        directory_id: Some(id),
    };
    assert_eq!(read_meta_properties(&disk, dir).unwrap(), None);
    write_meta_properties(&disk, dir, &meta).unwrap();
    assert_eq!(read_meta_properties(&disk, dir).unwrap(), Some(meta));

    write_clean_shutdown(&disk, dir, 12).unwrap();
    let marker = disk.contents(&dir.join(CLEAN_SHUTDOWN)).unwrap();
    assert_eq!(marker, br#"{"version":0,"brokerEpoch":12}"#);
    assert!(has_clean_shutdown(&disk, dir));
    remove_clean_shutdown(&disk, dir).unwrap();
    remove_clean_shutdown(&disk, dir).unwrap();
    assert!(!has_clean_shutdown(&disk, dir));
}

#[test]
fn malformed_files_are_errors() {
    let (disk, dir) = (MemDisk::new(), Path::new("/logs"));
    disk.create_dir_all(dir).unwrap();
    for bad in [
        "1\n0\n",
        "0\nx\n",
        "0\n1\na 0\n",
        "0\n2\na 0 1\n",
        "0\n1\na b c\n",
    ] {
        disk.write_atomic(&dir.join(LOG_START), bad.as_bytes())
            .unwrap();
        let error = read_offsets(&disk, dir, LOG_START).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:?}");
    }
    for bad in [
        "",
        "version=2\nnode.id=1\ncluster.id=x\n",
        "version=1\nnode.id=y\ncluster.id=x",
    ] {
        disk.write_atomic(&dir.join(META_PROPERTIES), bad.as_bytes())
            .unwrap();
        assert!(read_meta_properties(&disk, dir).is_err(), "{bad:?}");
    }
}
