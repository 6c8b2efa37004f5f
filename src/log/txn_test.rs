use super::*;
use crate::batch::BatchBuilder;
use crate::segment::{SNAPSHOT_SUFFIX, segment_path};
use crate::testing_rig::{DIR, Rig};
use crate::{LogConfig, Marker, Origin, ReadRequest, TxnContext, validate};
use bytes::{Bytes, BytesMut};
use flumen_base::{Disk, OpenMode, Prng};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn data(pid: i64, epoch: i16, sequence: i32, values: &[String]) -> Bytes {
    let mut builder = BatchBuilder::new()
        .producer(pid, epoch, sequence)
        .transactional(pid >= 0);
    for value in values {
        builder.push(1_000_000, Some(b"k"), Some(value.as_bytes()));
    }
    builder.build().unwrap()
}

fn append(rig: &mut Rig, bytes: Bytes, origin: Origin, txn: TxnContext) -> Result<i64, ErrorCode> {
    let valid = validate(bytes, &rig.config, origin, rig.now_ms, 1 << 20).unwrap();
    let appended = rig.log.append(rig.now(), &valid.with_txn(txn), 0);
    appended.map(|i| i.base_offset.0).map_err(|e| e.code)
}

fn verified(rig: &mut Rig, id: i64, at: (i16, i32), bump: bool) -> Result<TxnContext, ErrorCode> {
    let guard = rig.log.start_verification(rig.now(), id, at, bump);
    let guard = guard.map_err(|e| e.code)?;
    Ok(TxnContext { guard, version: 0 })
}

fn one() -> Vec<String> {
    vec!["v".to_owned()]
}

/// Verifies and appends one record.
fn write(rig: &mut Rig, id: i64, epoch: i16, sequence: i32) -> Result<i64, ErrorCode> {
    let txn = verified(rig, id, (epoch, sequence), true)?;
    append(rig, data(id, epoch, sequence, &one()), Origin::Client, txn)
}

fn end(rig: &mut Rig, id: i64, epoch: i16, commit: bool, version: i16) -> Result<i64, ErrorCode> {
    end_by(rig, id, epoch, commit, (version, 0))
}

fn end_by(
    rig: &mut Rig,
    id: i64,
    epoch: i16,
    commit: bool,
    (version, coordinator_epoch): (i16, i32),
) -> Result<i64, ErrorCode> {
    let marker = Marker {
        commit,
        coordinator_epoch,
    };
    let bytes = marker.batch(rig.now_ms, id, epoch);
    let guard = None;
    append(
        rig,
        bytes,
        Origin::Coordinator,
        TxnContext { guard, version },
    )
}

fn stable(rig: &Rig) -> i64 {
    let written = rig.log.written_end_offset();
    rig.log
        .first_unstable_offset()
        .map_or(written, |first| first.min(written))
        .0
}

#[test]
fn nothing_transactional_without_a_guard() {
    let mut rig = Rig::new(LogConfig::default());
    let none = TxnContext::default();
    let unverified = append(&mut rig, data(7, 0, 0, &one()), Origin::Client, none);
    assert_eq!(unverified, Err(ErrorCode::InvalidTxnState));
    let coordinated = append(&mut rig, data(7, 0, 0, &one()), Origin::Coordinator, none);
    assert_eq!(coordinated, Err(ErrorCode::InvalidTxnState));
    let guard = verified(&mut rig, 7, (0, 0), true).unwrap();
    assert!(guard.guard.is_some());
    assert_eq!(
        verified(&mut rig, 7, (0, 0), true),
        Ok(guard),
        "the same one"
    );
    assert_eq!(
        append(&mut rig, data(7, 0, 0, &one()), Origin::Client, guard),
        Ok(0)
    );
    assert_eq!(verified(&mut rig, 7, (0, 1), true), Ok(none), "open now");
    assert_eq!(
        append(&mut rig, data(7, 0, 1, &one()), Origin::Client, none),
        Ok(1)
    );
    assert_eq!(end(&mut rig, 7, 1, true, 2), Ok(2));
    // The guard of the first transaction is no good for the second.
    let stale = append(&mut rig, data(7, 1, 0, &one()), Origin::Client, guard);
    assert_eq!(stale, Err(ErrorCode::InvalidTxnState));
    assert_eq!(write(&mut rig, 7, 1, 0), Ok(3));

    let mut off = Rig::new(LogConfig {
        txn_verification: false,
        ..LogConfig::default()
    });
    assert_eq!(
        append(&mut off, data(7, 0, 0, &one()), Origin::Client, none),
        Ok(0)
    );
}

#[test]
fn a_marker_that_overtakes_the_answer_uses_the_guard_up() {
    for (bump, marker_epoch, left) in [(false, 0, false), (true, 5, true), (true, 4, false)] {
        let mut rig = Rig::new(LogConfig::default());
        let epoch = if bump { 5 } else { 0 };
        let guard = verified(&mut rig, 7, (epoch, 0), bump).unwrap();
        let version = if bump { 2 } else { 0 };
        end(&mut rig, 7, marker_epoch, false, version).unwrap();
        let result = append(&mut rig, data(7, epoch, 0, &one()), Origin::Client, guard);
        assert_eq!(result.is_ok(), left, "bump {bump} marker {marker_epoch}");
    }
}

#[test]
fn sequences_while_verifying() {
    let mut rig = Rig::new(LogConfig::default());
    let out_of_order = Err(ErrorCode::OutOfOrderSequenceNumber);
    // The batch behind the first overtakes it.
    let guard = verified(&mut rig, 7, (0, 0), false).unwrap();
    let second = append(&mut rig, data(7, 0, 1, &one()), Origin::Client, guard);
    assert_eq!(second, out_of_order);
    assert_eq!(
        append(&mut rig, data(7, 0, 0, &one()), Origin::Client, guard),
        Ok(0)
    );
    // With an epoch for each transaction a producer without state begins at 0.
    let guard = verified(&mut rig, 8, (0, 3), true).unwrap();
    assert_eq!(
        append(&mut rig, data(8, 0, 3, &one()), Origin::Client, guard),
        out_of_order
    );
    let guard = verified(&mut rig, 9, (0, 3), false).unwrap();
    assert_eq!(
        append(&mut rig, data(9, 0, 3, &one()), Origin::Client, guard),
        Ok(1)
    );
}

#[test]
fn epochs_of_markers() {
    let mut rig = Rig::new(LogConfig::default());
    let old = Err(ErrorCode::InvalidProducerEpoch);
    write(&mut rig, 7, 3, 0).unwrap();
    assert_eq!(end(&mut rig, 7, 2, true, 0), old);
    assert_eq!(
        end(&mut rig, 7, 3, true, 2),
        old,
        "that of a transaction before"
    );
    assert_eq!(end(&mut rig, 7, 4, true, 2), Ok(1));
    assert_eq!(end(&mut rig, 7, 4, true, 2), Ok(2), "once more");
    assert_eq!(
        verified(&mut rig, 7, (3, 1), true),
        Err(ErrorCode::InvalidProducerEpoch)
    );
    write(&mut rig, 7, 4, 0).unwrap();
    assert_eq!(end(&mut rig, 7, 4, true, 2), old);
    assert_eq!(end_by(&mut rig, 7, 5, true, (2, 9)), Ok(4));
    let fenced = Err(ErrorCode::TransactionCoordinatorFenced);
    assert_eq!(end_by(&mut rig, 7, 5, true, (2, 8)), fenced);
    write(&mut rig, 8, 3, 0).unwrap();
    assert_eq!(
        end(&mut rig, 8, 3, false, 0),
        Ok(6),
        "older coordinators keep the epoch"
    );
    assert_eq!(write(&mut rig, 8, 3, 1), Ok(7));
}

#[test]
fn nothing_is_decided_before_its_marker_is_written() {
    let mut rig = Rig::new(LogConfig::default());
    write(&mut rig, 7, 0, 0).unwrap();
    rig.write();
    assert_eq!(stable(&rig), 0);
    end(&mut rig, 7, 1, false, 2).unwrap();
    assert_eq!(stable(&rig), 0, "its marker is only staged");
    rig.write();
    assert_eq!(stable(&rig), 2);
    write(&mut rig, 7, 1, 0).unwrap();
    rig.write();
    end(&mut rig, 7, 2, false, 2).unwrap();
    assert!(rig.log.take_write().is_some());
    rig.log.write_done(false);
    assert_eq!(stable(&rig), 2, "the marker is taken back");
    let all = aborted_up_to(&rig, 0, 10);
    assert_eq!(all.len(), 1, "{all:?}");
}

/// A process is killed while it writes the producers at the beginnings of segments. The next one
/// does not need them, but retention does, later.
#[test]
fn torn_snapshots_of_producers_are_written_again() {
    let config = LogConfig {
        segment_bytes: 200,
        ..LogConfig::default()
    };
    let mut rig = Rig::new(config.clone());
    for id in 0..4 {
        write(&mut rig, id, 0, 0).unwrap();
        end(&mut rig, id, 0, true, 0).unwrap();
    }
    rig.write();
    let bases: Vec<i64> = rig.log.segments.iter().map(|s| s.base_offset).collect();
    assert!(bases.len() > 2, "{bases:?}");
    for base in &bases {
        let path = segment_path(Path::new(DIR), *base, SNAPSHOT_SUFFIX);
        let torn = rig.disk.open(&path, OpenMode::Create).unwrap();
        torn.write_all_at(&[0, 1, 2], 0).unwrap();
    }
    rig.disk.kill();
    let mut rig = Rig::open(rig.disk, config.clone(), 0, 0, false);
    let last = bases[bases.len() - 1];
    rig.log.advance_log_start(Offset(last));
    let job = rig.log.retention(rig.now(), Offset(8)).unwrap();
    rig.log.retire_done(&job.run(&rig.disk));
    rig.disk.kill();
    let rig = Rig::open(rig.disk, config, last, last, false);
    for id in 0..4 {
        assert!(rig.log.producers().get(id).is_some(), "{id} at {bases:?}");
    }
}

fn aborted_up_to(rig: &Rig, from: i64, bound: i64) -> Vec<AbortedTxn> {
    let mut found = Vec::new();
    for segment in &rig.log.segments {
        if segment.aborted.collect(from, bound, &mut found) {
            break;
        }
    }
    found
}

#[test]
fn the_txnindex_file_is_kafkas() {
    let mut rig = Rig::new(LogConfig::default());
    write(&mut rig, 7, 0, 0).unwrap();
    write(&mut rig, 8, 0, 0).unwrap();
    end(&mut rig, 8, 1, false, 2).unwrap();
    end(&mut rig, 7, 1, false, 2).unwrap();
    let (disk, _) = rig.close();
    let path = disk
        .paths()
        .into_iter()
        .find(|p| p.extension().is_some_and(|e| e == "txnindex"))
        .unwrap();
    let mut expected = Vec::new();
    for fields in [[8i64, 1, 2, 0], [7, 0, 3, 4]] {
        expected.extend_from_slice(&[0, 0]);
        expected.extend(fields.iter().flat_map(|f| f.to_be_bytes()));
    }
    assert_eq!(disk.contents(&path).unwrap(), expected);
}

/// One batch of the model's log.
#[derive(Clone, Debug)]
struct Entry {
    base: i64,
    pid: i64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Data(Vec<String>),
    End(bool),
}

#[derive(Clone, Default)]
struct Model {
    log: Vec<Entry>,
    /// Epoch and next sequence.
    producers: BTreeMap<i64, (i16, i32)>,
    last_value: u64,
}

impl Model {
    /// What a reader of committed records sees of the log below `end`, and up to where.
    fn committed(&self, end: i64) -> (Vec<(i64, String)>, i64) {
        let log: Vec<&Entry> = self.log.iter().filter(|e| e.base < end).collect();
        let mut stable = end;
        let mut seen = Vec::new();
        for (n, entry) in log.iter().enumerate() {
            let Kind::Data(values) = &entry.kind else {
                continue;
            };
            let decided = log.get(n..).unwrap_or_default().iter().find_map(|e| {
                let mine = e.pid == entry.pid && entry.pid >= 0;
                match e.kind {
                    Kind::End(commit) if mine => Some(commit),
                    _ => None,
                }
            });
            match (entry.pid < 0, decided) {
                (false, None) => stable = stable.min(entry.base),
                (false, Some(false)) => {}
                _ => {
                    let values = values.iter().enumerate();
                    seen.extend(values.map(|(i, v)| (entry.base + i as i64, v.clone())));
                }
            }
        }
        seen.retain(|(offset, _)| *offset < stable);
        (seen, stable)
    }

    fn truncate(&mut self, end: i64) {
        self.log.retain(|e| e.base < end);
    }
}

/// Reads like a consumer of committed records.
fn consume(rig: &mut Rig, from: i64, max_bytes: u32) -> Vec<(i64, String)> {
    let bound = stable(rig);
    let mut offset = from;
    let mut out = Vec::new();
    while offset < bound {
        let (bytes, aborted) = read(rig, offset, bound, max_bytes);
        let mut aborted: Vec<(i64, i64)> = aborted
            .iter()
            .map(|t| (t.first_offset, t.producer_id))
            .collect();
        aborted.sort_unstable();
        let mut aborted = aborted.into_iter().peekable();
        let mut rolled_back = BTreeSet::new();
        let before = offset;
        for batch in Batches::new(&bytes) {
            let batch = batch.unwrap();
            let header = batch.header;
            while let Some((_, pid)) = aborted.next_if(|(first, _)| *first <= header.last_offset())
            {
                rolled_back.insert(pid);
            }
            let records = Records::new(batch.records_section(), header.count());
            let records: Vec<_> = records.map(Result::unwrap).collect();
            if header.is_control() {
                if Marker::read(&records[0]).is_some_and(|m| !m.commit) {
                    rolled_back.remove(&header.producer_id());
                }
            } else if !(header.is_transactional() && rolled_back.contains(&header.producer_id())) {
                for r in records {
                    let at = header.base_offset() + i64::from(r.offset_delta);
                    let value = String::from_utf8(r.value.unwrap().to_vec()).unwrap();
                    out.push((at, value));
                }
            }
            offset = header.last_offset() + 1;
        }
        assert!(offset > before, "no progress at {offset} of {bound}");
    }
    out.retain(|(at, _)| *at >= from);
    out
}

fn read(rig: &mut Rig, offset: i64, bound: i64, max_bytes: u32) -> (Vec<u8>, Vec<AbortedTxn>) {
    let request = ReadRequest {
        offset: Offset(offset),
        upper_bound: Offset(bound),
        max_bytes,
        min_one: true,
    };
    let mut plan = rig.log.plan_read(&request);
    while let ReadPlan::NeedScan(scan) = plan {
        let mut bytes = BytesMut::zeroed(scan.range.len as usize);
        let file = rig
            .disk
            .open(scan.range.file.path(), OpenMode::Read)
            .unwrap();
        let n = file.read_at(&mut bytes, scan.range.pos).unwrap();
        bytes.truncate(n);
        plan = rig.log.resume_read(scan, &bytes.freeze());
    }
    let aborted = rig.log.aborted_txns(Offset(offset), Offset(bound), &plan);
    let bytes = match plan {
        ReadPlan::Memory(bufs) => bufs.concat(),
        ReadPlan::File(range) => {
            let mut bytes = vec![0; range.len as usize];
            let file = rig.disk.open(range.file.path(), OpenMode::Read).unwrap();
            file.read_exact_at(&mut bytes, range.pos).unwrap();
            bytes
        }
        other => panic!("{other:?} at {offset} of {bound}"),
    };
    (bytes, aborted)
}

fn step(rig: &mut Rig, model: &mut Model, prng: &mut Prng) {
    match prng.below(100) {
        0..45 => {
            let pid = prng.below(5) as i64 - 1;
            let values: Vec<String> = (0..1 + prng.below(3))
                .map(|_| {
                    model.last_value += 1;
                    format!(
                        "{}-{}",
                        model.last_value,
                        "x".repeat(prng.below(80) as usize)
                    )
                })
                .collect();
            let (epoch, sequence) = model.producers.get(&pid).copied().unwrap_or((0, 0));
            let (epoch, sequence, txn) = match pid {
                -1 => (-1, -1, TxnContext::default()),
                _ => {
                    let txn = verified(rig, pid, (epoch, sequence), true).unwrap();
                    (epoch, sequence, txn)
                }
            };
            let bytes = data(pid, epoch, sequence, &values);
            let base = append(rig, bytes, Origin::Client, txn).unwrap();
            model
                .producers
                .insert(pid, (epoch, sequence + values.len() as i32));
            let kind = Kind::Data(values);
            model.log.push(Entry { base, pid, kind });
        }
        45..75 => {
            let pid = prng.below(4) as i64;
            let commit = prng.below(2) == 0;
            let (epoch, _) = model.producers.get(&pid).copied().unwrap_or((0, 0));
            let base = end(rig, pid, epoch + 1, commit, 2).unwrap();
            model.producers.insert(pid, (epoch + 1, 0));
            let kind = Kind::End(commit);
            model.log.push(Entry { base, pid, kind });
        }
        75..90 => rig.write(),
        90..95 => {
            rig.write();
            rig.seal();
        }
        _ => {}
    }
}

fn restart(mut rig: Rig, model: &mut Model, prng: &mut Prng) -> Rig {
    let config = (*rig.config).clone();
    let mut point = rig.log.recovery_point().0;
    match prng.below(3) {
        0 => {
            rig.write();
            let end = rig.log.log_end_offset().0;
            let (disk, config) = rig.close();
            return Rig::open(disk, config, end, 0, true);
        }
        1 => rig.write(),
        _ => {
            // A write fails: what was staged is gone.
            if rig.log.take_write().is_some() {
                rig.log.write_done(false);
            }
            let end = rig.log.log_end_offset().0;
            model.truncate(end);
            point = point.min(end);
        }
    }
    Rig::open(rig.disk, config, point, 0, false)
}

/// Epochs and sequences as the log knows them: what was taken back may be sent again.
fn resync(rig: &Rig, model: &mut Model) {
    model.producers.clear();
    for (pid, entry) in rig.log.producers().iter() {
        let next = match entry.batches.last() {
            Some(last) => last.last_sequence + 1,
            None => 0,
        };
        model.producers.insert(pid, (entry.epoch, next));
    }
}

fn compare(rig: &mut Rig, model: &Model, prng: &mut Prng, seed: u64) {
    let end = rig.log.written_end_offset().0;
    let (seen, undecided) = model.committed(end);
    assert_eq!(stable(rig), undecided, "seed {seed}");
    let from = prng.below(undecided.max(1) as u64) as i64;
    let max_bytes = 1 + prng.below(3000) as u32;
    let expected: Vec<_> = seen.into_iter().filter(|(at, _)| *at >= from).collect();
    let got = consume(rig, from, max_bytes);
    assert_eq!(got, expected, "seed {seed} from {from}");
}

#[test]
fn committed_reads_match_a_naive_model() {
    for seed in 0..rounds(60) {
        let mut prng = Prng::new(seed);
        let config = LogConfig {
            segment_bytes: 2000,
            index_interval_bytes: 200,
            ..LogConfig::default()
        };
        let mut rig = Rig::new(config);
        let mut model = Model::default();
        if prng.below(2) == 0 {
            rig.log.set_tail_budget(600);
        }
        for n in 0..300 {
            step(&mut rig, &mut model, &mut prng);
            if n % 20 == 19 {
                compare(&mut rig, &model, &mut prng, seed);
            }
            if prng.below(60) == 0 {
                rig = restart(rig, &mut model, &mut prng);
                resync(&rig, &mut model);
                compare(&mut rig, &model, &mut prng, seed);
            }
        }
    }
}

fn rounds(few: u64) -> u64 {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    few * factor.and_then(|f| f.parse().ok()).unwrap_or(1)
}
