//! Log directories that fail.

use super::*;

/// (leader, error, offline replicas) of each partition.
fn metadata(d: &mut Driver, c: Client, topic: &str) -> Vec<(i32, i16, Vec<i32>)> {
    let request = wire::MetadataRequest {
        topics: Some(vec![wire::metadata_request::MetadataRequestTopic {
            name: Some(topic.into()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    let r: wire::MetadataResponse<'_> = d.call(c, &request, 12);
    let partitions = r.topics[0].partitions.iter();
    partitions
        .map(|p| (p.leader_id, p.error_code, p.offline_replicas.clone()))
        .collect()
}

fn list_offset(d: &mut Driver, c: Client, topic: &str, partition: i32) -> i16 {
    list_offset_at(d, c, topic, partition, -1)
}

fn list_offset_at(d: &mut Driver, c: Client, topic: &str, partition: i32, timestamp: i64) -> i16 {
    let request = wire::ListOffsetsRequest {
        replica_id: -1,
        topics: vec![wire::list_offsets_request::ListOffsetsTopic {
            name: topic.into(),
            partitions: vec![wire::list_offsets_request::ListOffsetsPartition {
                partition_index: partition,
                current_leader_epoch: -1,
                timestamp,
            }],
        }],
        ..Default::default()
    };
    let r: wire::ListOffsetsResponse<'_> = d.call(c, &request, 5);
    r.topics[0].partitions[0].error_code
}

#[test]
fn a_failed_device_takes_its_partitions_and_others_go_on() {
    for (shards, seed) in [(1, 1), (3, 2), (4, 3)] {
        let (mut d, mut c) = start(shards, seed, settings());
        let node = Driver::settings().node_id;
        d.create_topic(c, "t", 4);
        for n in 0..4 {
            assert_eq!(produce(&mut d, c, "t", n, "first"), (0, 0));
        }
        let (good, bad) = (
            partition_in(&mut d, c, "t", A),
            partition_in(&mut d, c, "t", B),
        );
        d.faults.break_below(Path::new(B));
        assert_eq!(produce(&mut d, c, "t", bad, "lost").0, STORAGE_ERROR);
        d.run_until_idle();
        assert!(d.fatal.is_none());
        // All of that directory, on every shard, and for every request.
        for n in 0..4 {
            let is_good = d
                .disk
                .contents(Path::new(&format!("/a/t-{n}/partition.metadata")));
            let expected = if is_good.is_some() { 0 } else { STORAGE_ERROR };
            assert_eq!(produce(&mut d, c, "t", n, "second").0, expected, "{n}");
            assert_eq!(read(&mut d, c, "t", n, 0).0, expected, "{n}");
            assert_eq!(list_offset(&mut d, c, "t", n), expected, "{n}");
        }
        let lines = metadata(&mut d, c, "t");
        assert_eq!(lines[good as usize], (node, 0, vec![]));
        assert_eq!(lines[bad as usize], (-1, 5, vec![node]));
        let dirs = describe(&mut d, c).results;
        let errors: Vec<i16> = dirs.iter().map(|dir| dir.error_code).collect();
        assert_eq!(errors, [0, STORAGE_ERROR]);
        assert!(dirs[1].topics.is_empty());
        // New topics go where they can be.
        assert_eq!(d.create_topic(c, "u", 2), 0);
        for n in 0..2 {
            assert_eq!(produce(&mut d, c, "u", n, "v").0, 0);
        }
        // It stays so, a clean stop included, until the device is back.
        c = again(&mut d, Driver::restart);
        assert_eq!(metadata(&mut d, c, "t")[bad as usize].0, -1);
        assert_eq!(produce(&mut d, c, "t", bad, "lost").0, STORAGE_ERROR);
        assert_eq!(produce(&mut d, c, "t", good, "third").0, 0);
        d.faults.mend();
        c = again(&mut d, Driver::restart);
        assert_eq!(metadata(&mut d, c, "t")[bad as usize], (node, 0, vec![]));
        let (error, values) = read(&mut d, c, "t", bad, 0);
        assert_eq!((error, &values[..1]), (0, &["first".to_owned()][..]));
        assert_eq!(produce(&mut d, c, "t", bad, "fourth").0, 0);
        let expected = ["first", "second", "third"].map(str::to_owned);
        assert_eq!(read(&mut d, c, "t", good, 0), (0, expected.to_vec()));
    }
}

/// Records that go into an answer by file are read when it is sent, by whatever shard the client is
/// connected to: where they can't be read the answer ends in the middle, and the directory is gone
/// as with any other read.
#[test]
fn records_that_cannot_be_sent_take_their_directory_offline() {
    for (shards, seed) in [(1, 1), (3, 2), (4, 3)] {
        let (mut d, mut c) = start(shards, seed, settings());
        d.create_topic(c, "t", 2);
        let bad = partition_in(&mut d, c, "t", B);
        let value = "x".repeat(300_000);
        for n in 0..4 {
            for partition in 0..2 {
                assert_eq!(produce(&mut d, c, "t", partition, &value), (0, n));
            }
        }
        c = again(&mut d, Driver::restart); // nothing of it is in memory
        let good = 1 - bad;
        assert_eq!(read(&mut d, c, "t", good, 0).1.len(), 4);
        d.faults.break_below(Path::new(B));
        for shard in 0..shards {
            let client = d.connect(shard);
            d.send(client, &fetch_of("t", bad, 0), 12);
            d.run_until_idle();
            let is_first = shard == 0;
            assert_eq!(d.cut_short.contains(&client), is_first, "shard {shard}");
            assert_eq!(d.take_answer(client).is_some(), !is_first, "shard {shard}");
        }
        assert!(d.fatal.is_none());
        assert_eq!(read(&mut d, c, "t", bad, 0).0, STORAGE_ERROR);
        assert_eq!(produce(&mut d, c, "t", bad, "v").0, STORAGE_ERROR);
        d.run_until_idle();
        assert_eq!(metadata(&mut d, c, "t")[bad as usize].0, -1);
        assert_eq!(read(&mut d, c, "t", good, 0).1.len(), 4);
        d.faults.mend();
        c = again(&mut d, Driver::restart);
        assert_eq!(read(&mut d, c, "t", bad, 0).1.len(), 4);
    }
}

/// A search by time reads as well, though in a job.
#[test]
fn a_search_by_time_that_cannot_read_takes_its_directory_offline() {
    for (shards, seed) in [(1, 1), (3, 2)] {
        let (mut d, mut c) = start(shards, seed, settings());
        d.create_topic(c, "t", 2);
        let bad = partition_in(&mut d, c, "t", B);
        for partition in 0..2 {
            assert_eq!(produce(&mut d, c, "t", partition, "v"), (0, 0));
        }
        d.faults.break_below(Path::new(B));
        assert_eq!(list_offset_at(&mut d, c, "t", bad, 0), STORAGE_ERROR);
        d.run_until_idle();
        assert!(d.fatal.is_none());
        assert_eq!(metadata(&mut d, c, "t")[bad as usize].0, -1);
        assert_eq!(list_offset_at(&mut d, c, "t", 1 - bad, 0), 0);
        d.faults.mend();
        c = again(&mut d, Driver::restart);
        assert_eq!(list_offset_at(&mut d, c, "t", bad, 0), 0);
    }
}

/// A sync that failed is not tried again: the device may have dropped what it was for.
#[test]
fn after_a_failed_sync_nothing_is_acked_from_there() {
    for crashes in [false, true] {
        let mut settings = settings();
        settings.flumen.log_sync_before_ack = true;
        let (mut d, mut c) = start(2, 5, settings);
        d.create_topic(c, "t", 2);
        let bad = partition_in(&mut d, c, "t", B);
        assert_eq!(produce(&mut d, c, "t", bad, "acked").0, 0);
        d.faults.fail_syncs_below(Path::new(B));
        assert_eq!(produce(&mut d, c, "t", bad, "lost").0, STORAGE_ERROR);
        d.faults.mend();
        for _ in 0..3 {
            assert_eq!(produce(&mut d, c, "t", bad, "lost").0, STORAGE_ERROR);
            d.run_for_ms(10_000);
        }
        assert_eq!(produce(&mut d, c, "t", 1 - bad, "v").0, 0);
        c = again(&mut d, if crashes { Driver::crash } else { Driver::kill });
        let (error, values) = read(&mut d, c, "t", bad, 0);
        assert_eq!(
            (error, values.first().map(String::as_str)),
            (0, Some("acked"))
        );
        assert_eq!(produce(&mut d, c, "t", bad, "next").0, 0);
    }
}

#[test]
fn a_sync_of_flush_ms_that_fails_and_a_failed_seal_take_the_directory_too() {
    for seals in [false, true] {
        let mut settings = settings();
        if seals {
            settings.topics.log.segment_bytes = 200;
        } else {
            settings.topics.log.flush_ms = 1000; // log.flush.interval.ms
        }
        let (mut d, c) = start(1, 6, settings);
        d.create_topic(c, "t", 2);
        let bad = partition_in(&mut d, c, "t", B);
        let value = "x".repeat(120);
        for n in 0..3 {
            assert_eq!(produce(&mut d, c, "t", bad, &value), (0, n));
            if n == 0 {
                d.run_until_idle(); // the epoch's checkpoint is written
                d.faults.fail_syncs_below(Path::new(B));
            }
        }
        d.run_for_ms(20_000);
        assert_eq!(produce(&mut d, c, "t", bad, "v").0, STORAGE_ERROR);
        assert_eq!(produce(&mut d, c, "t", 1 - bad, "v").0, 0);
    }
}

#[test]
fn the_process_ends_with_the_last_directory_and_with_that_of_the_metadata() {
    let (mut d, c) = start(2, 7, settings());
    d.create_topic(c, "t", 2);
    let in_a = partition_in(&mut d, c, "t", A);
    d.faults
        .break_below(&Path::new(A).join(format!("t-{in_a}")));
    let records = batch("v");
    d.send(c, &produce_request("t", in_a, -1, &records), 9);
    d.run_until_idle();
    assert!(d.fatal.as_ref().unwrap().contains("metadata"));

    let mut settings = Driver::settings_with(&[A]);
    settings.metadata_log_dir = "/elsewhere".into();
    let (mut d, c) = start(1, 8, settings);
    d.create_topic(c, "t", 1);
    d.faults.break_below(&Path::new(A).join("t-0"));
    d.send(c, &produce_request("t", 0, -1, &records), 9);
    d.run_until_idle();
    assert!(
        d.fatal
            .as_ref()
            .unwrap()
            .contains("no log directory is left")
    );
}

#[test]
fn a_directory_that_is_away_at_start_is_offline_and_its_topics_can_go() {
    let (mut d, mut c) = start(3, 9, settings());
    d.create_topic(c, "t", 4);
    let bad = partition_in(&mut d, c, "t", B);
    for n in 0..4 {
        produce(&mut d, c, "t", n, "v");
    }
    d.faults.break_below(Path::new(B));
    c = again(&mut d, Driver::kill);
    assert_eq!(metadata(&mut d, c, "t")[bad as usize].0, -1);
    assert_eq!(produce(&mut d, c, "t", bad, "v").0, STORAGE_ERROR);
    assert_eq!(d.delete_topic(c, "t"), 0);
    assert_eq!(d.create_topic(c, "t", 2), 0);
    for n in 0..2 {
        assert_eq!(read(&mut d, c, "t", n, 0), (0, vec![]));
        assert_eq!(produce(&mut d, c, "t", n, "new"), (0, 0));
    }
    // What the old topic left there is in nobody's way.
    d.faults.mend();
    c = again(&mut d, Driver::restart);
    for n in 0..2 {
        assert_eq!(read(&mut d, c, "t", n, 0), (0, vec!["new".to_owned()]));
    }
    assert_eq!(d.create_topic(c, "u", 4), 0);
    assert!(dir_of(&mut d, c, "u", 0).is_some());
}

pub(crate) fn find(d: &mut Driver, c: Client, group: &str) -> i16 {
    let find = wire::FindCoordinatorRequest {
        coordinator_keys: vec![group.into()],
        ..Default::default()
    };
    let r: wire::FindCoordinatorResponse<'_> = d.call(c, &find, 4);
    r.coordinators[0].error_code
}

pub(crate) fn commit(d: &mut Driver, c: Client, group: &str) -> i16 {
    let request = wire::OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![wire::offset_commit_request::OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![wire::offset_commit_request::OffsetCommitRequestPartition {
                committed_offset: 1,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let r: wire::OffsetCommitResponse<'_> = d.call(c, &request, 8);
    r.topics[0].partitions[0].error_code
}

#[test]
fn groups_of_a_failed_directory_have_no_coordinator_until_it_is_back() {
    let (mut d, mut c) = start(2, 10, settings());
    d.create_topic(c, "t", 1);
    let groups: Vec<String> = (0..12).map(|n| format!("g{n}")).collect();
    find(&mut d, c, "g0");
    for group in &groups {
        assert_eq!(find(&mut d, c, group), 0);
        assert_eq!(commit(&mut d, c, group), 0);
    }
    d.faults.break_below(Path::new(B));
    // Whoever commits there is the first to find out.
    let mut lost = Vec::new();
    for group in &groups {
        let error = commit(&mut d, c, group);
        assert!([0, 16].contains(&error), "{error}");
        if error != 0 {
            lost.push(group.clone());
        }
    }
    assert!(!lost.is_empty() && lost.len() < groups.len());
    d.run_until_idle();
    for group in &lost {
        assert_eq!(find(&mut d, c, group), 15);
        assert_eq!(commit(&mut d, c, group), 16);
    }
    d.faults.mend();
    c = again(&mut d, Driver::kill);
    d.run_for_ms(1000);
    for group in &groups {
        assert_eq!(find(&mut d, c, group), 0);
        assert_eq!(commit(&mut d, c, group), 0);
    }
}
