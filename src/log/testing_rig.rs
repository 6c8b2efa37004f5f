//! For this crate's tests: a log on a [`MemDisk`], driven as a shard and a runtime would, and a
//! naive model beside it.

use crate::batch::{BatchBuilder, Batches, Records};
use crate::recovery::{LoadParams, LoadReport, load};
use crate::testing::MemDisk;
use crate::{
    AppendError, AppendInfo, CloseJob, FileIds, Log, LogConfig, Origin, ReadPlan, ReadRequest,
    SealJob, SealStep, WriteDone, WriteOp, validate,
};
use bytes::{Bytes, BytesMut};
use flumen_base::{Disk, Mono, Now, Offset, OpenMode, Uuid};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const DIR: &str = "/logs/t-0";

pub(crate) struct Rig {
    pub(crate) disk: MemDisk,
    pub(crate) log: Log,
    pub(crate) config: Arc<LogConfig>,
    pub(crate) now_ms: i64,
    pub(crate) scans: usize,
    pub(crate) report: LoadReport,
    pub(crate) mended: usize,
}

/// Segments of a few records, which stay.
pub(crate) fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 4000,
        index_interval_bytes: 300,
        message_timestamp_after_max_ms: i64::MAX,
        retention_ms: -1,
        ..LogConfig::default()
    }
}

impl Rig {
    /// With a log that is loaded already.
    pub(crate) fn around(disk: MemDisk, log: Log, config: Arc<LogConfig>) -> Self {
        Self {
            disk,
            log,
            config,
            now_ms: 1_000_000,
            scans: 0,
            report: LoadReport::default(),
            mended: 0,
        }
    }

    /// Makes indexes anew that were found wrong; true where damage was told of.
    pub(crate) fn mend(&mut self) -> bool {
        let told = self.log.take_trouble();
        while let Some(job) = self.log.take_reindex_job() {
            self.mended += 1;
            self.log.reindex_done(job.run(&self.disk));
        }
        told.is_some_and(|text| text.contains(".log is damaged"))
    }

    pub(crate) fn new(config: LogConfig) -> Self {
        let disk = MemDisk::new();
        disk.create_dir_all(Path::new("/logs")).unwrap();
        Self::open(disk, config, 0, 0, false)
    }

    pub(crate) fn open(
        disk: MemDisk,
        config: LogConfig,
        recovery_point: i64,
        log_start: i64,
        clean: bool,
    ) -> Self {
        let config = Arc::new(config);
        let params = LoadParams {
            dir: PathBuf::from(DIR),
            config: Arc::clone(&config),
            recovery_point: Offset(recovery_point),
            log_start_offset: Offset(log_start),
            cleaned_offset: Offset(0),
            clean,
            now_ms: 1_000_000,
            topic_id: Uuid::from_bytes([3; 16]),
        };
        let loaded = load(&disk, params).unwrap();
        let report = loaded.report.clone();
        let log = Log::from_loaded(loaded, Arc::clone(&config), FileIds::default());
        Self {
            disk,
            log,
            config,
            now_ms: 1_000_000,
            scans: 0,
            report,
            mended: 0,
        }
    }

    /// When each rolled segment is due to be sealed.
    pub(crate) fn later(&self) -> Mono {
        self.now().mono.plus_ms(crate::SEAL_DELAY_MS)
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: Mono(self.now_ms as u64 * 1_000_000),
            wall_ms: self.now_ms,
        }
    }

    pub(crate) fn append(&mut self, batch: Bytes) -> Result<AppendInfo, AppendError> {
        self.append_at_epoch(batch, 0)
    }

    pub(crate) fn append_at_epoch(
        &mut self,
        batch: Bytes,
        epoch: i32,
    ) -> Result<AppendInfo, AppendError> {
        let valid = validate(batch, &self.config, Origin::Client, self.now_ms, 1 << 20).unwrap();
        self.log.append(self.now(), &valid, epoch)
    }

    pub(crate) fn carry_out(&self, write: &WriteOp) {
        let file = self.disk.open(write.file.path(), OpenMode::Create).unwrap();
        let mut pos = write.pos;
        for buf in &write.bufs {
            file.write_all_at(buf, pos).unwrap();
            pos += buf.len() as u64;
        }
        if write.sync {
            file.sync().unwrap();
        }
    }

    /// Writes everything staged. Synced writes wait for the seal of the segment before.
    pub(crate) fn write(&mut self) {
        while self.log.has_pending_writes() {
            while let Some(write) = self.log.take_write() {
                self.carry_out(&write);
                assert_eq!(
                    self.log.write_done(true),
                    WriteDone::Advanced(write.end_offset)
                );
            }
            if self.log.has_pending_writes() {
                self.write_epochs();
                let job = self.log.take_seal_job(self.later()).unwrap();
                self.run_seal(job);
            }
        }
        assert_eq!(self.log.log_end_offset(), self.log.written_end_offset());
    }

    pub(crate) fn write_epochs(&mut self) {
        if let Some(job) = self.log.take_epoch_job() {
            self.log.epochs_written(job.run(&self.disk).is_ok());
        }
    }

    pub(crate) fn seal(&mut self) {
        self.write_epochs();
        while let Some(job) = self.log.take_seal_job(self.later()) {
            self.run_seal(job);
        }
    }

    /// Both steps.
    pub(crate) fn run_seal(&mut self, job: SealJob) {
        match job.run(&self.disk) {
            Ok(SealStep::Named(rest)) => {
                self.log.seal_named(&rest);
                self.run_seal(rest);
            }
            Ok(SealStep::Sealed(sealed)) => self.log.seal_done(Ok(sealed)),
            Err(error) => self.log.seal_done(Err(error)),
        }
    }

    pub(crate) fn close(mut self) -> (MemDisk, LogConfig) {
        self.write();
        let job: CloseJob = self.log.close_job();
        let closed = job.run(&self.disk).unwrap();
        self.log.close_done(closed);
        (self.disk, (*self.config).clone())
    }

    /// Bytes of a read, scans carried out.
    pub(crate) fn read(&mut self, offset: i64, bound: i64, max_bytes: u32) -> Option<Vec<u8>> {
        let read = self.try_read(offset, bound, max_bytes);
        read.unwrap_or_else(|()| panic!("corrupt at {offset}"))
    }

    /// The same; an error where the log says that it is damaged.
    pub(crate) fn try_read(
        &mut self,
        offset: i64,
        bound: i64,
        max_bytes: u32,
    ) -> Result<Option<Vec<u8>>, ()> {
        let request = ReadRequest {
            offset: Offset(offset),
            upper_bound: Offset(bound),
            max_bytes,
            min_one: true,
        };
        let mut plan = self.log.plan_read(&request);
        for _ in 0..10_000 {
            match plan {
                ReadPlan::Memory(bufs) => return Ok(Some(bufs.concat())),
                ReadPlan::Empty => return Ok(Some(Vec::new())),
                ReadPlan::OffsetOutOfRange => return Ok(None),
                ReadPlan::Corrupt => return Err(()),
                ReadPlan::File(range) => {
                    let mut bytes = vec![0; range.len as usize];
                    let file = self.disk.open(range.file.path(), OpenMode::Read).unwrap();
                    file.read_exact_at(&mut bytes, range.pos).unwrap();
                    return Ok(Some(bytes));
                }
                ReadPlan::NeedScan(scan) => {
                    self.scans += 1;
                    let mut bytes = BytesMut::zeroed(scan.range.len as usize);
                    let file = self
                        .disk
                        .open(scan.range.file.path(), OpenMode::Read)
                        .unwrap();
                    let n = file.read_at(&mut bytes, scan.range.pos).unwrap();
                    bytes.truncate(n);
                    plan = self.log.resume_read(scan, &bytes.freeze());
                }
            }
        }
        panic!("a read of {offset} scans for ever");
    }

    /// All values from `offset` on, read to the end like a consumer does.
    pub(crate) fn consume(&mut self, mut offset: i64, max_bytes: u32) -> Vec<(i64, Vec<u8>)> {
        let mut out = Vec::new();
        let end = self.log.written_end_offset().0;
        while offset < end {
            let bytes = self.read(offset, end, max_bytes).unwrap();
            let got = values(&bytes, offset);
            assert!(!got.is_empty(), "no progress at {offset} of {end}");
            offset = got.last().unwrap().0 + 1;
            out.extend(got);
        }
        out
    }
}

/// Offsets and values at or above `from` in whole batches of a fetch response, checked as a client
/// would.
pub(crate) fn values(bytes: &[u8], from: i64) -> Vec<(i64, Vec<u8>)> {
    let mut out = Vec::new();
    for (i, batch) in Batches::new(bytes).enumerate() {
        let batch = batch.unwrap();
        batch.check_crc().unwrap();
        let header = batch.header;
        if i == 0 {
            let holds = header.base_offset() <= from && from <= header.last_offset();
            assert!(
                holds,
                "{from} is not in {}..={}",
                header.base_offset(),
                header.last_offset()
            );
        }
        let section = batch.unfold(1 << 20).unwrap();
        for record in Records::new(&section, header.count()) {
            let record = record.unwrap();
            let offset = header.base_offset() + i64::from(record.offset_delta);
            if offset >= from {
                out.push((offset, record.value.unwrap_or_default().to_vec()));
            }
        }
    }
    out
}

/// A batch of `count` records, value `tag` and a number, padded to `len` bytes each.
pub(crate) fn batch(time: i64, tag: u64, count: usize, len: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    fill(&mut builder, time, tag, count, len);
    builder.build().unwrap()
}

pub(crate) fn fill(builder: &mut BatchBuilder, time: i64, tag: u64, count: usize, len: usize) {
    for value in batch_values(tag, count, len) {
        builder.push(time, Some(b"k"), Some(&value));
    }
}

pub(crate) fn batch_values(tag: u64, count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| {
            let mut value = format!("{tag}-{i}-").into_bytes();
            value.resize(len.max(value.len()), b'x');
            value
        })
        .collect()
}
