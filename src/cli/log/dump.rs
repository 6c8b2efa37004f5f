//! `flumen log dump`.

use super::line::{Line, Printer, Shown};
use super::records::{self, Meaning};
use super::{DumpArgs, Outcome};
use crate::cli::report;
use anyhow::{Context, ensure};
use flumen_base::{Disk, DiskFile, OpenMode};
use flumen_log::Compression;
use flumen_log::batch::{BatchError, BatchHeader, Records, sequence_sub};
use flumen_log::index::{OFFSET_ENTRY_LEN, TIME_ENTRY_LEN};
use flumen_log::inspect::{
    AbortedTxn, Damage, Entries, FileKind, Found, FoundBatch, Lines, OffsetEntry, SnapshotFile,
    TXN_ENTRY_LEN, TimestampEntry, Walker,
};
use flumen_runtime::FsDisk;
use std::path::{Path, PathBuf};

/// Text files and snapshots up to this are shown.
const SMALL_FILE_LEN_MAX: u64 = 64 << 20;

/// Shows each path; one that cannot be read does not keep the others from being shown.
pub(super) fn run(args: &DumpArgs) -> anyhow::Result<Outcome> {
    let mut dump = Dump {
        args,
        printer: Printer::new(args.json),
        outcome: Outcome::default(),
    };
    for path in &args.paths {
        dump.path(path)?;
    }
    dump.printer.flush()?;
    Ok(dump.outcome)
}

struct Dump<'a> {
    args: &'a DumpArgs,
    printer: Printer,
    outcome: Outcome,
}

impl Dump<'_> {
    /// A file, or the files of a directory and of its partitions'.
    fn path(&mut self, path: &Path) -> anyhow::Result<()> {
        let files = match FsDisk.list(path) {
            Ok(names) => files_of(path, names, true),
            Err(_) => Ok(vec![path.to_owned()]),
        };
        let shown = match files {
            Ok(files) => files.iter().try_for_each(|file| self.try_file(file)),
            Err(error) => Err(error),
        };
        self.go_on(shown)
    }

    fn try_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let shown = self.file(path).with_context(|| path.display().to_string());
        self.go_on(shown)
    }

    /// Tells of a file that could not be read; only the end of the output ends all.
    fn go_on(&mut self, shown: anyhow::Result<()>) -> anyhow::Result<()> {
        match shown {
            Err(error) if !crate::cli::is_closed_output(&error) => {
                self.outcome.unreadable = true;
                self.printer.flush()?;
                report(&error);
                Ok(())
            }
            other => other,
        }
    }

    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let kind = FileKind::of(&name);
        FsDisk.len(path)?; // it is there
        self.printer
            .heading(&format!("Dumping {}", path.display()))?;
        if self.printer.is_json() {
            let line = Line::new("file").with("path", path.display().to_string());
            self.printer.line("", &line)?;
        }
        match kind {
            FileKind::Log(base) => self.log(path, Some(base)),
            FileKind::KafkaSnapshot => self.log(path, None),
            FileKind::OffsetIndex(base) => self.offsets(path, base),
            FileKind::TimeIndex(base) => self.times(path, base),
            FileKind::TxnIndex(_) => self.txns(path),
            FileKind::ProducerSnapshot(_) => self.snapshot(path),
            FileKind::Epochs => self.lines(path, "epoch", &["epoch", "startOffset"]),
            FileKind::Offsets => self.lines(path, "offset", &["topic", "partition", "offset"]),
            FileKind::PartitionMetadata | FileKind::MetaProperties | FileKind::CleanShutdown => {
                self.text(path)
            }
            FileKind::FlumenMetadata => {
                let what = "Flumen's own metadata: 'flumen log verify' checks it";
                self.printer.heading(what)
            }
            FileKind::Leftover | FileKind::Known | FileKind::Other => self
                .printer
                .heading("not a file whose format this command knows by its name"),
        }
    }

    fn log(&mut self, path: &Path, base: Option<i64>) -> anyhow::Result<()> {
        let (file, len) = open(path)?;
        if let Some(base) = base {
            self.printer
                .heading(&format!("Log starting offset: {base}"))?;
        }
        let meaning = Meaning::of(self.args.decoder, path);
        let mut walker = Walker::new(&*file, len, base.unwrap_or(0));
        while let Some(found) = walker.next_found()? {
            match found {
                Found::Damage(damage) => self.damage(&damage)?,
                Found::Batch(batch) => {
                    self.outcome.defects |= batch.crc.is_err();
                    self.printer.line("", &batch_line(&batch))?;
                    if self.args.deep || self.args.print_data_log {
                        self.records(&walker, &batch, meaning)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn damage(&mut self, damage: &Damage) -> anyhow::Result<()> {
        let kind = if damage.is_padding {
            "padding"
        } else {
            "damage"
        };
        self.outcome.defects |= !damage.is_padding;
        let mut line = Line::new(kind)
            .with(kind, damage.len)
            .with("position", damage.pos);
        if !damage.is_padding {
            line.push("reason", damage.error.to_string());
        }
        self.printer.line("", &line)
    }

    fn records(
        &mut self,
        walker: &Walker<'_>,
        batch: &FoundBatch,
        meaning: Meaning,
    ) -> anyhow::Result<()> {
        let header = batch.header();
        let section = match walker.records(batch)? {
            Ok(section) => section,
            Err(error) => return self.no_records(&error),
        };
        let meaning = self.args.print_data_log.then_some(meaning);
        for record in Records::new(&section, header.count()) {
            match record {
                Ok(record) => {
                    let line = records::line(&header, &record, meaning);
                    self.printer.line("| ", &line)?;
                }
                Err(error) => return self.no_records(&error),
            }
        }
        Ok(())
    }

    fn no_records(&mut self, error: &BatchError) -> anyhow::Result<()> {
        self.outcome.defects = true;
        let line = Line::new("unreadable").with("unreadable", error.to_string());
        self.printer.line("| ", &line)
    }

    fn offsets(&mut self, path: &Path, base: i64) -> anyhow::Result<()> {
        let (file, len) = open(path)?;
        let mut entries = Entries::<OFFSET_ENTRY_LEN>::new(&*file, len);
        while let Some((_, entry)) = entries.next_entry()? {
            let entry = OffsetEntry::decode(&entry);
            let line = Line::new("offsetIndex")
                .with("offset", base.saturating_add(entry.relative.into()))
                .with("position", entry.position);
            self.printer.line("", &line)?;
        }
        self.rest(len % OFFSET_ENTRY_LEN as u64)
    }

    fn times(&mut self, path: &Path, base: i64) -> anyhow::Result<()> {
        let (file, len) = open(path)?;
        let mut entries = Entries::<TIME_ENTRY_LEN>::new(&*file, len);
        while let Some((_, entry)) = entries.next_entry()? {
            let entry = TimestampEntry::decode(&entry);
            let line = Line::new("timeIndex")
                .with("timestamp", entry.timestamp)
                .with("offset", base.saturating_add(entry.relative.into()));
            self.printer.line("", &line)?;
        }
        self.rest(len % TIME_ENTRY_LEN as u64)
    }

    fn txns(&mut self, path: &Path) -> anyhow::Result<()> {
        let (file, len) = open(path)?;
        let mut entries = Entries::<TXN_ENTRY_LEN>::new(&*file, len);
        while let Some((_, entry)) = entries.next_entry()? {
            let txn = AbortedTxn::decode(&entry);
            let line = Line::new("abortedTransaction")
                .with("version", txn.version)
                .with("producerId", txn.producer_id)
                .with("firstOffset", txn.first_offset)
                .with("lastOffset", txn.last_offset)
                .with("lastStableOffset", txn.last_stable_offset);
            self.printer.line("", &line)?;
        }
        self.rest(len % TXN_ENTRY_LEN as u64)
    }

    /// Bytes behind the last whole entry.
    fn rest(&mut self, bytes: u64) -> anyhow::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.outcome.defects = true;
        let line = Line::new("damage").with("bytesOfNoWholeEntry", bytes);
        self.printer.line("", &line)
    }

    fn snapshot(&mut self, path: &Path) -> anyhow::Result<()> {
        let file = SnapshotFile::decode(&FsDisk.read_all(path, SMALL_FILE_LEN_MAX)?);
        for entry in &file.entries {
            let open_txn = match entry.txn_first_offset {
                -1 => Shown::Absent,
                first => Shown::Int(first),
            };
            let mut line = Line::new("producer")
                .with("producerId", entry.producer_id)
                .with("producerEpoch", entry.epoch)
                .with("coordinatorEpoch", entry.coordinator_epoch)
                .with("currentTxnFirstOffset", open_txn)
                .with("lastTimestamp", entry.timestamp);
            if entry.last_offset >= 0 {
                let first = sequence_sub(entry.last_sequence, entry.offset_delta);
                line.push("firstSequence", first);
                line.push("lastSequence", entry.last_sequence);
                line.push("lastOffset", entry.last_offset);
                line.push("offsetDelta", entry.offset_delta);
                line.push("timestamp", entry.timestamp);
            }
            self.printer.line("", &line)?;
        }
        self.problems(&file.problems)
    }

    /// A checkpoint file.
    fn lines(
        &mut self,
        path: &Path,
        kind: &'static str,
        names: &[&'static str],
    ) -> anyhow::Result<()> {
        let text = read_text(path)?;
        let parsed = Lines::parse(&text, names.len());
        for (_, words) in &parsed.lines {
            let mut line = Line::new(kind);
            for (&name, word) in names.iter().zip(words) {
                match word.parse::<i64>() {
                    Ok(n) if name != "topic" => line.push(name, n),
                    _ => line.push(name, word.as_str()),
                }
            }
            self.printer.line("", &line)?;
        }
        self.problems(&parsed.problems)
    }

    fn problems(&mut self, problems: &[(u64, String)]) -> anyhow::Result<()> {
        for (position, what) in problems {
            self.outcome.defects = true;
            let line = Line::new("damage")
                .with("damage", what.as_str())
                .with("position", *position);
            self.printer.line("", &line)?;
        }
        Ok(())
    }

    /// A file that is shown as it is, line by line.
    fn text(&mut self, path: &Path) -> anyhow::Result<()> {
        for text in read_text(path)?.lines().filter(|l| !l.starts_with('#')) {
            if self.printer.is_json() {
                self.printer
                    .line("", &Line::new("line").with("text", text))?;
            } else {
                self.printer.heading(text)?;
            }
        }
        Ok(())
    }
}

/// The files of a directory, and of the partitions in it, in order.
fn files_of(
    dir: &Path,
    mut names: Vec<(String, bool)>,
    below: bool,
) -> anyhow::Result<Vec<PathBuf>> {
    names.sort();
    let mut files = Vec::new();
    for (name, is_dir) in names {
        let path = dir.join(&name);
        if is_dir && below {
            let inside = FsDisk.list(&path);
            let inside = inside.with_context(|| path.display().to_string())?;
            files.extend(files_of(&path, inside, false)?);
        } else if !is_dir && !matches!(FileKind::of(&name), FileKind::Known | FileKind::Other) {
            files.push(path);
        }
    }
    Ok(files)
}

fn open(path: &Path) -> anyhow::Result<(Box<dyn DiskFile>, u64)> {
    let file = FsDisk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    Ok((file, len))
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = FsDisk.read_all(path, SMALL_FILE_LEN_MAX)?;
    let text = String::from_utf8(bytes);
    ensure!(text.is_ok(), "not text");
    Ok(text.unwrap_or_default())
}

fn batch_line(batch: &FoundBatch) -> Line {
    let header = batch.header();
    let horizon = match header.has_delete_horizon() {
        true => Shown::Int(header.base_timestamp()),
        false => Shown::Absent,
    };
    Line::new("batch")
        .with("baseOffset", header.base_offset())
        .with("lastOffset", header.last_offset())
        .with("count", header.count())
        .with("baseSequence", header.base_sequence())
        .with("lastSequence", header.last_sequence())
        .with("producerId", header.producer_id())
        .with("producerEpoch", header.producer_epoch())
        .with("partitionLeaderEpoch", header.leader_epoch())
        .with("isTransactional", header.is_transactional())
        .with("isControl", header.is_control())
        .with("deleteHorizonMs", horizon)
        .with("position", batch.pos)
        .with(records::time_name(&header), header.max_timestamp())
        .with("size", batch.len)
        .with("magic", i64::from(header.magic()))
        .with("compresscodec", codec(&header))
        .with("crc", i64::from(header.crc()))
        .with("isvalid", batch.crc.is_ok())
}

fn codec(header: &BatchHeader<'_>) -> &'static str {
    match header.compression() {
        Ok(Compression::None) => "none",
        Ok(Compression::Gzip) => "gzip",
        Ok(Compression::Snappy) => "snappy",
        Ok(Compression::Lz4) => "lz4",
        Ok(Compression::Zstd) => "zstd",
        Err(_) => "unknown",
    }
}
