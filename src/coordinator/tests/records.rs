//! The records of `__consumer_offsets`, byte for byte: computed from the schemas, and equal to what
//! the generated classes of 4.3.1 write for the same values.

mod common;

use common::consumers::*;
use common::*;
use flumen_coordinator::{CoordinatorConfig, partition_for};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn string(text: &str) -> String {
    format!("{:04x}{}", text.len(), hex(text.as_bytes()))
}

/// 1_700_000_000_000 ms.
const WALL: &str = "0000018bcfe56800";

#[test]
fn partitions_are_javas() {
    // Java's String.hashCode: "" 0, "a" 97, "hello" 99162322
    assert_eq!(partition_for("", 50), 0);
    assert_eq!(partition_for("a", 50), 97 % 50);
    assert_eq!(partition_for("hello", 50), 99_162_322 % 50);
    // "polygenelubricants" hashes to i32::MIN, whose absolute value is taken as 0
    assert_eq!(partition_for("polygenelubricants", 50), 0);
    // UTF-16: a surrogate pair counts as two units
    assert_eq!(
        partition_for("\u{1F600}", 1_000_000),
        ((0xD83D * 31 + 0xDE00) % 1_000_000)
    );
    assert_eq!(partition_for("x", 0), 0);
}

#[test]
fn an_offset() {
    let mut w = World::new();
    let mut request = commit_request("group", "", -1, &[("t1", 3, 0x0102)]);
    request.topics[0].partitions[0].committed_leader_epoch = 5;
    request.topics[0].partitions[0].committed_metadata = Some("meta".into());
    w.commit(8, &request);
    let (partition, key, value) = w.log.pop().unwrap();
    assert_eq!(partition, partition_for("group", PARTITIONS));
    assert_eq!(
        hex(&key),
        format!("0001{}{}00000003", string("group"), string("t1"))
    );
    // version 4: offset, epoch, compact metadata, timestamp, one tag: 0, 16 bytes, the topic id
    let id = "02".repeat(16);
    let expected = format!("0004000000000000010200000005056d657461{WALL}010010{id}");
    assert_eq!(hex(&value.unwrap()), expected);
}

#[test]
fn an_offset_with_its_own_expiry() {
    let mut w = World::new();
    let mut request = commit_request("group", "", -1, &[("t1", 3, 1)]);
    request.retention_time_ms = 0x100;
    w.commit(2, &request);
    let (_, _, value) = w.log.pop().unwrap();
    // version 1: offset, metadata, commit timestamp, expire timestamp
    let expected = format!("000100000000000000010000{WALL}0000018bcfe56900");
    assert_eq!(hex(&value.unwrap()), expected);
}

#[test]
fn an_offset_tombstone() {
    let mut w = World::new();
    w.commit(8, &commit_request("group", "", -1, &[("t1", 3, 1)]));
    let token = w.delete_offset("group", "t1", 3);
    w.offset_deleted(token);
    let (_, key, value) = w.log.pop().unwrap();
    assert_eq!(
        hex(&key),
        format!("0001{}{}00000003", string("group"), string("t1"))
    );
    assert_eq!(value, None);
}

#[test]
fn a_group_through_its_life() {
    let mut w = World::with(
        CoordinatorConfig {
            group_initial_rebalance_delay_ms: 0,
            ..config()
        },
        7,
    );
    let token = w.join(7, &static_join("g", "", "i1", &[("range", b"sub")]));
    w.advance_ms(0);
    let id = w.joined(token).member_id.to_string();
    w.sync(3, &sync_request("g", &id, 1, &[(&id, b"assigned")]));
    w.leave(3, "g", &[("", Some("i1"))]);
    let token = w.delete_groups(&["g"]);
    assert_eq!(w.deleted(token), [0]);
    let records: Vec<_> = w
        .log
        .iter()
        .map(|(_, k, v)| (hex(k), v.as_deref().map(hex)))
        .collect();
    let key = format!("0002{}", string("g"));
    assert!(records.iter().all(|(k, _)| *k == key));
    // version 3: protocol type, generation, protocol, leader, timestamp, members
    let created = format!("0003000000000000ffffffff{WALL}00000000");
    let member = [
        string(&id),
        string("i1"),
        string("client"),
        string("/127.0.0.1"),
        "0000ea60".into(), // rebalance timeout 60,000
        "00002710".into(), // session timeout 10,000
        format!("00000003{}", hex(b"sub")),
        format!("00000008{}", hex(b"assigned")),
    ]
    .concat();
    let head = format!("0003{}", string("consumer"));
    let (range, leader) = (string("range"), string(&id));
    let stable = format!("{head}00000001{range}{leader}{WALL}00000001{member}");
    let empty = format!("{head}00000002ffffffff{WALL}00000000");
    let values: Vec<_> = records.into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [Some(created), Some(stable), Some(empty), None]);
}

/// A string as flexible versions write it.
fn compact(text: &str) -> String {
    format!("{:02x}{}", text.len() + 1, hex(text.as_bytes()))
}

#[test]
fn a_consumer_group_through_its_life() {
    let mut w = World::new();
    w.change_metadata(|m| m.topics = [("t".to_owned(), (topic_id(0), 2))].into());
    w.ask(&join_consumers("g", "m", &["t"]));
    w.ask(&beat_request("g", "m", -1));
    let token = w.delete_groups(&["g"]);
    assert_eq!(w.deleted(token), [0]);
    let key = |kind: i16| format!("{kind:04x}{}", string("g"));
    let member_key = |kind: i16| format!("{}{}", key(kind), string("m"));
    let id = "01".repeat(16);
    // instance, rack, client, host, a topic, no expression, timeout, assignor; tag: not classic
    let (client, host, topic) = (compact("client"), compact("/127.0.0.1"), compact("t"));
    let member = format!("00000000{client}{host}02{topic}010000ea600001000100");
    let target = format!("000002{id}0300000000000000010000");
    let current =
        format!("000000000002000000000002{id}0300000000000000010100090300000002000000020100");
    let found: Vec<_> = w
        .log
        .iter()
        .map(|(_, k, v)| (hex(k), v.as_deref().map(hex)))
        .collect();
    let value = |n: usize| found[n].1.clone().unwrap_or_default();
    let keys: Vec<_> = found.iter().map(|(key, _)| key.clone()).collect();
    let expected = [
        member_key(5),
        key(3),
        member_key(7),
        key(6),
        member_key(8),
        // it leaves
        member_key(8),
        member_key(7),
        member_key(5),
        key(3),
        // the group is deleted
        key(6),
        key(4),
        key(3),
    ];
    assert_eq!(keys, expected);
    assert_eq!(value(0), member);
    // the hash is what Kafka's own library makes of id, name and partitions
    assert_eq!(value(1), "0000000000020100085997cc2552ae40e2");
    assert_eq!(value(2), target);
    assert_eq!(value(3), format!("000000000002010008{WALL}"));
    assert_eq!(value(4), current);
    assert!(found[5..8].iter().all(|(_, v)| v.is_none()));
    // nobody subscribes: the hash is 0, which is not written
    assert_eq!(value(8), "00000000000300");
    assert!(found[9..].iter().all(|(_, v)| v.is_none()));
}

#[test]
fn all_versions_are_read() {
    let mut w = World::new();
    let p = partition_for("g", PARTITIONS);
    let unhex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
            .collect()
    };
    let far = "7fffffffffff0000";
    let values = [
        format!("0000000000000000000b0000{far}"),
        format!("0001000000000000000b0000{far}{far}"),
        format!("0002000000000000000b0000{far}"),
        format!("0003000000000000000b000000010000{far}"),
        format!("0004000000000000000b0000000101{far}00"),
    ];
    for (n, value) in values.iter().enumerate() {
        w.coordinator.begin_load(p);
        for key_type in ["0000", "0001"] {
            let key = format!("{key_type}{}{}{n:08x}", string("g"), string("t0"));
            w.coordinator
                .replay(p, &unhex(&key), Some(&unhex(value)))
                .unwrap();
        }
        let mut out = Default::default();
        w.coordinator.finish_load(w.now, p, &mut out);
        assert_eq!(w.offset_of("g", "t0", n as i32), 11, "version {n}");
    }
    // group metadata, version 0: no timestamps, no rebalance timeout, no instance id
    let member = format!("{}{}{}00002710", string("m"), string("c"), string("/h"));
    let value = format!(
        "0000{}00000009{}{}00000001{member}00000001ff00000001aa",
        string("consumer"),
        string("range"),
        string("m")
    );
    w.coordinator.begin_load(p);
    let key = unhex(&format!("0002{}", string("g")));
    w.coordinator.replay(p, &key, Some(&unhex(&value))).unwrap();
    let mut out = Default::default();
    w.coordinator.finish_load(w.now, p, &mut out);
    let described = w.coordinator.describe_group(ctx(5), "g");
    assert_eq!(described.group_state, "Stable");
    assert_eq!(&*described.members[0].member_assignment, b"\xaa");
    assert_eq!(w.heartbeat("g", "m", 9), flumen_base::ErrorCode::None);
    assert_eq!(w.offset_of("g", "t0", 0), 11, "offsets stay");
}

#[test]
fn broken_and_unknown_records_are_skipped() {
    let mut w = World::new();
    w.coordinator.begin_load(0);
    let c = &mut w.coordinator;
    assert!(c.replay(0, b"", None).is_err());
    assert!(c.replay(0, b"\0", None).is_err());
    assert!(c.replay(0, b"\0\x01\0\x05ab", None).is_err());
    assert!(c.replay(0, b"\0\x02\0\x01g", Some(b"\0\x63")).is_err());
    assert!(
        c.replay(0, b"\0\x02\0\x01g", Some(b"\0\x03\xff\xff"))
            .is_err()
    );
    assert!(
        c.replay(0, b"\0\x03\0\x01g", Some(b"\0\0\0\0\0\x01\0"))
            .is_ok(),
        "another protocol"
    );
    assert!(c.replay(0, b"\x7f\x03", None).is_ok());
}
