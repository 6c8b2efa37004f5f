//! The load generator drives each probe over 127.0.0.1.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use kafka_protocol::records::RecordBatchDecoder;

use crate::batch::batch;
use crate::frames;
use crate::limit::{Kind, LimitArgs, Server};
use crate::report::{LoadCurve, Report, from_hex};
use crate::setup::{Admin, resolve};
use crate::testing::workload;

/// Client and probe both want a CPU of their own: one pair at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A probe in a thread of its own.
struct Probe {
    _alone: MutexGuard<'static, ()>,
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Probe {
    fn start(kind: Kind, recycle: bool) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // In memory where that is possible: a sync takes seconds where others use the disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.unwrap();
        let mut server = Server::bind(&LimitArgs {
            kind,
            listen: "127.0.0.1:0".to_owned(),
            dir: Some(dir.path().to_owned()),
            recycle,
        })
        .unwrap();
        let address = server.address().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.run(&flag).unwrap());
        Self {
            _alone: alone,
            address,
            stop,
            thread: Some(thread),
            dir,
        }
    }

    /// Runs a short workload and returns its JSON.
    fn load(&self, args: &[&str]) -> String {
        self.load_for("0.6", args)
    }

    fn load_for(&self, seconds: &str, args: &[&str]) -> String {
        let out = self.dir.path().join("out.json");
        let common = [
            "--bootstrap-server",
            &self.address,
            "--out",
            out.to_str().unwrap(),
            "--seconds",
            seconds,
            "--warmup",
            "0.1",
        ];
        workload(&[args, &common].concat()).run().unwrap();
        std::fs::read_to_string(out).unwrap()
    }

    fn report(&self, args: &[&str]) -> Report {
        serde_json::from_str(&self.load(args)).unwrap()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        let ended = thread.join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// Requests that were due in the measured time, however slow the machine is.
fn due_in(histogram: &str) -> u64 {
    from_hex(histogram).unwrap().len()
}

/// All batches in the log files of a partition, checked by another decoder: base offset, base
/// sequence, records.
fn stored(dir: &Path, partition: &str) -> Vec<(i64, i32, usize)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir.join(partition)).unwrap() {
        let raw = std::fs::read(entry.unwrap().path()).unwrap();
        // The last request may have come in part before the client went away.
        for (_, _, batch) in frames::batches(&raw) {
            let mut bytes = bytes::Bytes::copy_from_slice(batch);
            let set = RecordBatchDecoder::decode(&mut bytes).unwrap();
            let first = &set.records[0];
            found.push((first.offset, first.sequence, set.records.len()));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn echo_answers_small_and_large_and_many() {
    let probe = Probe::start(Kind::Echo, false);
    let tiny = ["produce", "--record-bytes", "100", "--batch-bytes", "1"];
    let report = probe.report(&tiny);
    assert!(report.requests > 100);
    assert!(report.latency_us.p50 > 0.0 && report.latency_us.p50 <= report.latency_us.p99);
    let large = ["produce", "--batch-bytes", "262144", "--connections", "2"];
    assert!(probe.report(&large).bytes > 1_000_000);
    let eight = [
        "produce",
        "--partitions-per-request",
        "8",
        "--connections",
        "3",
    ];
    assert!(probe.report(&eight).requests > 10);
    let spread = [
        "produce",
        "--spread",
        "--partitions",
        "100",
        "--batch-bytes",
        "1",
    ];
    assert!(probe.report(&spread).requests > 100);
    let silent = ["produce", "--acks", "0", "--batch-bytes", "1"];
    assert!(probe.report(&silent).requests > 100);
}

#[test]
fn what_is_received_is_what_is_stored() {
    let probe = Probe::start(Kind::ReceiveCrcWrite, false);
    let args = [
        "produce",
        "--connections",
        "3",
        "--partitions",
        "3",
        "--idempotent",
    ];
    let rate = ["--rate", "300", "--topic", "kept", "--record-bytes", "900"];
    let report = probe.report(&[&args[..], &rate].concat());
    assert_eq!(report.client.offered_per_second, Some(300.0));
    let mut batches = 0;
    for partition in ["kept-0", "kept-1", "kept-2"] {
        let all = stored(probe.dir.path(), partition);
        let records = all[0].2;
        for (n, (offset, sequence, count)) in all.iter().enumerate() {
            assert_eq!(*offset, i64::try_from(n * records).unwrap());
            assert_eq!(*sequence, i32::try_from(n * records).unwrap());
            assert_eq!(*count, records);
        }
        batches += all.len();
    }
    // 0.7 s at 300 per second, of which 0.6 s are measured; a starved client sends fewer.
    let answered = usize::try_from(report.requests).unwrap();
    assert!((answered..=211).contains(&batches), "{batches}");
    assert_eq!(due_in(&report.histogram_v2_hex), 180);
}

#[test]
fn segments_are_removed_or_written_over_and_hold_whole_batches() {
    for recycle in [false, true] {
        let probe = Probe::start(Kind::ReceiveCrcWrite, recycle);
        let args = ["produce", "--batch-bytes", "262144", "--partitions", "1"];
        let report = probe.report(&[&args[..], &["--connections", "2", "--topic", "t"]].concat());
        assert!(report.requests > 4);
        let files = std::fs::read_dir(probe.dir.path().join("t-0"))
            .unwrap()
            .count();
        assert!(files <= 7, "{files} files"); // the helper may be a little behind
    }
}

#[test]
fn synced_answers_come_and_all_of_them() {
    let probe = Probe::start(Kind::ReceiveCrcWriteSync, false);
    let closed = probe.load_for("2", &["produce", "--partitions", "4", "--connections", "4"]);
    let closed: Report = serde_json::from_str(&closed).unwrap();
    assert!(closed.requests > 4);
    let slow = probe.load_for("2", &["produce", "--rate", "50", "--connections", "2"]);
    let slow: Report = serde_json::from_str(&slow).unwrap();
    assert_eq!(due_in(&slow.histogram_v2_hex), 100);
}

#[test]
fn both_ways_of_serving_serve_what_was_produced() {
    for kind in [Kind::Sendfile, Kind::ServeCopy] {
        let probe = Probe::start(kind, false);
        for (fetch, batch) in [("4096", "3900"), ("65536", "16384"), ("1048576", "65536")] {
            let topic = format!("t{fetch}");
            let shape = [
                "--fetch-bytes",
                fetch,
                "--batch-bytes",
                batch,
                "--topic",
                &topic,
            ];
            let size = [
                "--partitions",
                "2",
                "--connections",
                "3",
                "--fill-bytes",
                "3000000",
            ];
            let report = probe.report(&[&["fetch"], &shape[..], &size].concat());
            // The client itself checks that each answer begins where the one before it ended.
            assert!(
                report.requests > 20,
                "{kind:?} {fetch}: {}",
                report.requests
            );
            let mean = report.bytes / report.requests;
            let asked: u64 = fetch.parse().unwrap();
            assert!(
                mean > asked / 2 && mean <= asked,
                "{kind:?} {fetch}: {mean}"
            );
        }
    }
}

#[test]
fn a_tail_reader_sees_each_record_and_its_latency() {
    let probe = Probe::start(Kind::ServeCopy, false);
    let args = [
        "mixed",
        "--tail",
        "--rate",
        "200",
        "--partitions",
        "2",
        "--connections",
        "2",
    ];
    let report = probe.report(&args);
    let tail = report.second.unwrap();
    assert_eq!(tail.name, "tail");
    // What a starved client sends too late does not arrive before the end.
    assert_eq!(due_in(&report.histogram_v2_hex), 120);
    assert!(
        (1..=120).contains(&due_in(&tail.histogram_v2_hex)),
        "{tail:?}"
    );
    assert!(tail.latency_us.p50 > 0.0 && tail.latency_us.p50 < 1e6);
    let args = [
        "fan-out",
        "--rate",
        "100",
        "--consumers",
        "5",
        "--topic",
        "fan",
    ];
    let report = probe.report(&args);
    assert_eq!(due_in(&report.second.unwrap().histogram_v2_hex), 60);
    assert!((1..=300).contains(&due_in(&report.histogram_v2_hex)));
    let args = [
        "mixed",
        "--rate",
        "100",
        "--readers",
        "2",
        "--fill-bytes",
        "2000000",
    ];
    let report = probe.report(&[&args[..], &["--topic", "m"]].concat());
    assert!(report.second.unwrap().bytes > report.bytes);
}

#[test]
fn a_fetch_at_the_end_waits_for_what_comes() {
    for kind in [Kind::Sendfile, Kind::ServeCopy] {
        let probe = Probe::start(kind, false);
        let address = resolve(&probe.address).unwrap();
        let mut writer = Admin::connect(address).unwrap();
        writer.create_topic("t", 1, &[]).unwrap();
        let mut reader = TcpStream::connect(address).unwrap();
        reader
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let made = batch(3, 100_000, 1_700_000_000_000).unwrap();
        for offset in [0i64, 3, 6] {
            let (mut fetch, at) = frames::fetch("t", 0, 1 << 20, 500).unwrap();
            frames::patch(&mut fetch, at, &offset.to_be_bytes());
            reader.write_all(&fetch).unwrap();
            let produce = frames::produce("t", &[0], &made.bytes, -1).unwrap();
            frames::check_produced(&writer.exchange(&produce).unwrap()).unwrap();
            let mut length = [0; 4];
            reader.read_exact(&mut length).unwrap();
            let mut answer = vec![0; u32::from_be_bytes(length) as usize];
            reader.read_exact(&mut answer).unwrap();
            let records = frames::fetched(&answer).unwrap();
            let all: Vec<_> = frames::batches(records).collect();
            assert_eq!(all.len(), 1, "{kind:?}");
            assert_eq!((all[0].0, all[0].1), (offset, offset + 3));
            // But for the base offset and the leader's epoch.
            assert_eq!(all[0].2.get(16..), made.bytes.get(16..));
        }
    }
}

#[test]
fn a_load_curve_has_its_points_in_order() {
    let probe = Probe::start(Kind::Echo, false);
    let args = [
        "load-curve",
        "--steps",
        "100,50",
        "--capacity",
        "400",
        "--connections",
        "2",
    ];
    let curve: LoadCurve = serde_json::from_str(&probe.load(&args)).unwrap();
    let offered: Vec<f64> = curve.points.iter().map(|p| p.offered_per_second).collect();
    assert_eq!(offered, [200.0, 400.0]);
    for point in &curve.points {
        let due = due_in(&point.report.histogram_v2_hex);
        assert_eq!(due as f64, point.offered_per_second * 0.6);
    }
}

#[test]
fn the_log_of_latencies_reads_again() {
    let probe = Probe::start(Kind::Echo, false);
    let path = probe.dir.path().join("latency.hlog");
    let log = ["--hdr-log", path.to_str().unwrap()];
    let args = ["produce", "--rate", "500", "--connections", "2"];
    let report = probe.report(&[&args[..], &log].concat());
    let text = std::fs::read(&path).unwrap();
    let mut all = crate::tally::histogram().unwrap();
    let mut intervals = 0;
    for entry in IntervalLogIterator::new(&text) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            intervals += 1;
            assert_eq!(interval.tag().unwrap().as_str(), "produce");
            let raw = base64(interval.encoded_histogram());
            let one: Histogram<u64> = Deserializer::new().deserialize(&mut &raw[..]).unwrap();
            all.add(one).unwrap();
        }
    }
    assert_eq!(intervals, report.series.len());
    let answered: u64 = report.series.iter().map(|s| s.requests).sum();
    assert_eq!(all.len(), answered);
    // The report's histogram has the measured part of that.
    assert_eq!(due_in(&report.histogram_v2_hex), 300);
    let service = report.service_latency_us.unwrap();
    assert!(service.p50 <= report.latency_us.p50);
}

/// Standard base64, which the log's histograms are in.
fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut out) = (0u32, 0, Vec::new());
    for c in text.bytes().filter(|c| *c != b'=') {
        let digit = alphabet.iter().position(|a| *a == c).unwrap();
        bits = (bits << 6) | u32::try_from(digit).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count).to_le_bytes()[0]);
        }
    }
    out
}
