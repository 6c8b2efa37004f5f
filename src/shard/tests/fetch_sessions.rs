//! Fetch sessions and waiting fetches over shards driven in one thread: what an incremental answer
//! holds, whichever way its partitions changed, and that nothing stays armed that nobody waits for.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests stand outside of them

use bytes::Bytes;
use flumen_log::BatchBuilder;
use flumen_shard::testing::{Client, Driver, decode_answer, each_shape};
use flumen_wire::messages as wire;

const VERSION: i16 = 12;

fn batch(len: usize) -> Bytes {
    let mut b = BatchBuilder::new();
    b.push(1_700_000_000_000, None, Some(&vec![b'v'; len]));
    b.build().unwrap()
}

fn produce(d: &mut Driver, c: Client, partition: i32, len: usize) {
    let records = batch(len);
    assert_eq!(d.produce(c, "t", partition, &records).0, 0);
}

/// A session as a client keeps it.
struct Session {
    id: i32,
    epoch: i32,
    max_bytes: i32,
    min_bytes: i32,
    wait_ms: i32,
}

/// Index, error and bytes of a partition in an answer.
type Line = (i32, i16, usize);

impl Session {
    /// Of so many partitions from offset 0; gives the first answer too.
    fn open(d: &mut Driver, c: Client, partitions: i32) -> (Self, Vec<Line>) {
        let mut session = Self {
            id: 0,
            epoch: 0,
            max_bytes: 1 << 20,
            min_bytes: 1,
            wait_ms: 0,
        };
        let named: Vec<(i32, i64)> = (0..partitions).map(|p| (p, 0)).collect();
        let lines = session.fetch(d, c, &named, &[]);
        assert_ne!(session.id, 0);
        (session, lines)
    }

    fn request(&self, named: &[(i32, i64)], forgotten: &[i32]) -> wire::FetchRequest<'static> {
        let partitions =
            named.iter().map(
                |(partition, fetch_offset)| wire::fetch_request::FetchPartition {
                    partition: *partition,
                    fetch_offset: *fetch_offset,
                    partition_max_bytes: 1 << 20,
                    ..Default::default()
                },
            );
        let topic = wire::fetch_request::FetchTopic {
            topic: "t".into(),
            partitions: partitions.collect(),
            ..Default::default()
        };
        let gone = wire::fetch_request::ForgottenTopic {
            topic: "t".into(),
            partitions: forgotten.to_vec(),
            ..Default::default()
        };
        wire::FetchRequest {
            max_wait_ms: self.wait_ms,
            min_bytes: self.min_bytes,
            max_bytes: self.max_bytes,
            session_id: self.id,
            session_epoch: self.epoch,
            topics: if named.is_empty() {
                vec![]
            } else {
                vec![topic]
            },
            forgotten_topics_data: if forgotten.is_empty() {
                vec![]
            } else {
                vec![gone]
            },
            ..Default::default()
        }
    }

    fn take(&mut self, r: &wire::FetchResponse<'_>) -> Vec<Line> {
        assert_eq!(r.error_code, 0);
        self.id = r.session_id;
        self.epoch += 1;
        let partitions = r.responses.iter().flat_map(|t| &t.partitions);
        let bytes = |p: &wire::fetch_response::PartitionData<'_>| {
            p.records.as_ref().map_or(0, |records| records.len())
        };
        partitions
            .map(|p| (p.partition_index, p.error_code, bytes(p)))
            .collect()
    }

    fn fetch(
        &mut self,
        d: &mut Driver,
        c: Client,
        named: &[(i32, i64)],
        forgotten: &[i32],
    ) -> Vec<Line> {
        let request = self.request(named, forgotten);
        let r: wire::FetchResponse<'_> = d.call(c, &request, VERSION);
        self.take(&r)
    }

    /// The answer to a request that was sent, if it has come.
    fn answer(&mut self, d: &mut Driver, c: Client, id: i32) -> Option<Vec<Line>> {
        d.run_until_idle();
        let frame = d.take_answer(c)?;
        let r: wire::FetchResponse<'_> = decode_answer(1, VERSION, id, frame);
        Some(self.take(&r))
    }
}

/// Partitions watched, on all shards.
fn watches(d: &mut Driver) -> u64 {
    d.run_until_idle();
    let mut sum = 0;
    for shard in 0..d.shards() {
        let text = d.metrics(shard);
        let mut lines = text.lines();
        let line = lines
            .find(|l| l.starts_with("flumen_fetch_watches{"))
            .unwrap();
        sum += line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    }
    sum
}

#[test]
fn only_partitions_with_news_are_answered_until_they_are_read() {
    each_shape(|mut d| {
        let a = d.connect(0);
        assert_eq!(d.create_topic(a, "t", 20), 0);
        let (mut s, lines) = Session::open(&mut d, a, 20);
        assert_eq!(lines.len(), 20);
        assert_eq!(watches(&mut d), 20);
        assert!(s.fetch(&mut d, a, &[], &[]).is_empty());
        produce(&mut d, a, 7, 100);
        produce(&mut d, a, 13, 100);
        let lines = s.fetch(&mut d, a, &[], &[]);
        let indexes: Vec<i32> = lines.iter().map(|l| l.0).collect();
        assert_eq!(indexes, [7, 13]);
        // Not moved on: the same data comes again.
        assert_eq!(s.fetch(&mut d, a, &[], &[]), lines);
        assert_eq!(s.fetch(&mut d, a, &[(7, 1)], &[]), lines[1..]);
        assert!(s.fetch(&mut d, a, &[(13, 1)], &[]).is_empty());
        assert!(s.fetch(&mut d, a, &[], &[]).is_empty());
        assert_eq!(watches(&mut d), 20);
        // Back to where there is data.
        assert_eq!(s.fetch(&mut d, a, &[(7, 0)], &[]), lines[..1]);
        // Beyond the end: told each time.
        let beyond = [(7, 1, 0)];
        assert_eq!(s.fetch(&mut d, a, &[(7, 9)], &[]), beyond);
        assert_eq!(s.fetch(&mut d, a, &[], &[]), beyond);
        assert!(s.fetch(&mut d, a, &[], &[7]).is_empty());
        assert_eq!(watches(&mut d), 19);
        s.epoch = -1;
        s.fetch(&mut d, a, &[], &[]);
        assert_eq!(watches(&mut d), 0);
    });
}

#[test]
fn a_waiting_session_wakes_with_the_partition_that_grew() {
    each_shape(|mut d| {
        let (a, b) = (d.connect(0), d.connect(0));
        assert_eq!(d.create_topic(a, "t", 8), 0);
        let (mut s, _) = Session::open(&mut d, a, 8);
        s.wait_ms = 500;
        let moves: [(i32, &[(i32, i64)]); 3] =
            [(3, &[(3, 0)]), (3, &[(3, 1)]), (6, &[(3, 2), (6, 0)])];
        for (n, named) in moves {
            let id = d.send(a, &s.request(named, &[]), VERSION);
            assert_eq!(s.answer(&mut d, a, id), None);
            produce(&mut d, b, n, 50);
            let lines = s.answer(&mut d, a, id).unwrap();
            assert_eq!((lines.len(), lines[0].0), (1, n));
        }
        let id = d.send(a, &s.request(&[(6, 1)], &[]), VERSION);
        d.run_for_ms(499);
        assert_eq!(s.answer(&mut d, a, id), None);
        d.run_for_ms(2);
        assert!(s.answer(&mut d, a, id).unwrap().is_empty());
        assert_eq!(watches(&mut d), 8);
    });
}

#[test]
fn a_session_waits_for_min_bytes_of_several_partitions() {
    each_shape(|mut d| {
        let (a, b) = (d.connect(0), d.connect(0));
        assert_eq!(d.create_topic(a, "t", 4), 0);
        let (mut s, _) = Session::open(&mut d, a, 4);
        (s.wait_ms, s.min_bytes) = (10_000, 3000);
        let id = d.send(a, &s.request(&[], &[]), VERSION);
        for n in [1, 2, 1] {
            assert_eq!(s.answer(&mut d, a, id), None);
            produce(&mut d, b, n, 1000);
        }
        let lines = s.answer(&mut d, a, id).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().map(|l| l.2).sum::<usize>() > 3000, "{lines:?}");
    });
}

#[test]
fn what_has_no_room_comes_first_next_time() {
    each_shape(|mut d| {
        let a = d.connect(0);
        assert_eq!(d.create_topic(a, "t", 3), 0);
        for n in 0..3 {
            produce(&mut d, a, n, 1000);
        }
        let (mut s, lines) = Session::open(&mut d, a, 3);
        assert_eq!(lines.len(), 3);
        s.max_bytes = 1000;
        let mut served = Vec::new();
        for _ in 0..6 {
            let lines = s.fetch(&mut d, a, &[], &[]);
            let with_data: Vec<i32> = lines.iter().filter(|l| l.2 > 0).map(|l| l.0).collect();
            assert_eq!(with_data.len(), 1, "{lines:?}");
            served.extend(with_data);
        }
        assert_eq!(served[..3], served[3..]);
        served.sort_unstable();
        assert_eq!(served, [0, 0, 1, 1, 2, 2]);
    });
}

#[test]
fn deleted_records_and_topics_are_news() {
    each_shape(|mut d| {
        let a = d.connect(0);
        assert_eq!(d.create_topic(a, "t", 4), 0);
        produce(&mut d, a, 2, 10);
        let (mut s, _) = Session::open(&mut d, a, 4);
        assert!(s.fetch(&mut d, a, &[(2, 1)], &[]).is_empty());
        let request = wire::DeleteRecordsRequest {
            topics: vec![wire::delete_records_request::DeleteRecordsTopic {
                name: "t".into(),
                partitions: vec![wire::delete_records_request::DeleteRecordsPartition {
                    partition_index: 2,
                    offset: 1,
                }],
            }],
            timeout_ms: 1000,
        };
        let r: wire::DeleteRecordsResponse<'_> = d.call(a, &request, 2);
        assert_eq!(r.topics[0].partitions[0].error_code, 0);
        assert_eq!(s.fetch(&mut d, a, &[], &[]), [(2, 0, 0)]); // its log starts elsewhere
        assert!(s.fetch(&mut d, a, &[], &[]).is_empty());
        assert_eq!(d.delete_topic(a, "t"), 0);
        d.run_until_idle();
        let mut lines = s.fetch(&mut d, a, &[], &[]);
        lines.sort_unstable();
        assert_eq!(lines, [(0, 3, 0), (1, 3, 0), (2, 3, 0), (3, 3, 0)]);
        assert_eq!(watches(&mut d), 0);
        // Another topic of that name.
        assert_eq!(d.create_topic(a, "t", 4), 0);
        produce(&mut d, a, 1, 10);
        let lines = s.fetch(&mut d, a, &[], &[]);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().any(|l| l.0 == 1 && l.2 > 0), "{lines:?}");
        let named = [(1, 1), (2, 0)];
        assert_eq!(s.fetch(&mut d, a, &named, &[]), [(2, 0, 0)]);
        assert_eq!(watches(&mut d), 4);
    });
}

#[test]
fn a_later_fetch_of_the_session_lets_the_one_that_waits_come_to_nothing() {
    each_shape(|mut d| {
        let (a, b) = (d.connect(0), d.connect(0));
        assert_eq!(d.create_topic(a, "t", 4), 0);
        let (mut s, _) = Session::open(&mut d, a, 4);
        s.wait_ms = 5000;
        let first = d.send(a, &s.request(&[(1, 0)], &[]), VERSION);
        d.run_until_idle();
        s.epoch += 1;
        let second = d.send(b, &s.request(&[], &[]), VERSION);
        d.run_until_idle();
        let producer = d.connect(0);
        produce(&mut d, producer, 1, 10);
        assert_eq!(s.answer(&mut d, b, second).unwrap().len(), 1);
        assert!(d.take_answer(a).is_none(), "its time is not over");
        d.run_for_ms(5000);
        let frame = d.take_answer(a).unwrap();
        let r: wire::FetchResponse<'_> = decode_answer(1, VERSION, first, frame);
        assert_eq!(r.error_code, 71);
        // A connection that goes away leaves its partitions to the next.
        let c = d.connect(0);
        d.send(c, &s.request(&[(1, 1), (2, 0)], &[]), VERSION);
        d.run_until_idle();
        d.disconnect(c);
        d.run_until_idle();
        produce(&mut d, a, 2, 10);
        s.epoch += 1;
        let lines = s.fetch(&mut d, a, &[], &[]);
        assert_eq!((lines.len(), lines[0].0), (1, 2));
    });
}

#[test]
fn many_who_wait_at_one_place_get_the_same() {
    each_shape(|mut d| {
        let producer = d.connect(0);
        assert_eq!(d.create_topic(producer, "t", 2), 0);
        let shards = d.shards();
        let readers: Vec<Client> = (0..20).map(|n| d.connect(n % shards)).collect();
        for round in 0..5 {
            let waiting: Vec<(Client, i32, usize)> = readers
                .iter()
                .enumerate()
                .map(|(n, reader)| {
                    let mut request = Session {
                        id: 0,
                        epoch: -1,
                        max_bytes: 1 << 20,
                        min_bytes: 1,
                        wait_ms: 500,
                    }
                    .request(&[(0, round), (1, 0)], &[]);
                    // Some want only committed records.
                    request.isolation_level = (n % 3 == 0).into();
                    (*reader, d.send(*reader, &request, VERSION), n)
                })
                .collect();
            d.run_until_idle();
            assert_eq!(watches(&mut d), 40);
            produce(&mut d, producer, 0, 1000);
            d.run_until_idle();
            let mut answers = Vec::new();
            for (reader, id, n) in waiting {
                let frame = d.take_answer(reader).unwrap();
                let r: wire::FetchResponse<'_> = decode_answer(1, VERSION, id, frame);
                let p = &r.responses[0].partitions[0];
                assert_eq!(p.high_watermark, round + 1);
                assert_eq!(p.aborted_transactions.is_some(), n % 3 == 0);
                answers.push(p.records.as_ref().unwrap().to_vec());
            }
            assert!(answers[0].len() > 1000);
            assert!(answers.iter().all(|a| *a == answers[0]));
            assert_eq!(watches(&mut d), 0);
        }
    });
}
