//! What is wrong in a directory or file: each finding with its place and what it means.

use super::FileKind;
use super::small::{Lines, SMALL_FILE_LEN_MAX, partition_of_dir, shorten};
use crate::checkpoint;
use flumen_base::{Disk, DiskFile, OpenMode, Uuid};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Of a finding that no byte of the file can be named for.
pub(super) const NOWHERE: Option<u64> = None;
/// Findings of one file that are told one by one.
const PER_FILE_MAX: usize = 1000;

/// How a file is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyOptions {
    /// Look into every batch's records, not only at its header and CRC.
    pub deep: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Something is wrong.
    Defect,
    /// It could not be looked at.
    Unreadable,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub file: PathBuf,
    /// Byte in the file, where one can be named.
    pub position: Option<u64>,
    /// What was found.
    pub what: String,
    /// What follows from it.
    pub meaning: String,
}

/// What was looked at and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files looked at.
    pub files: u64,
    /// Segments among them.
    pub segments: u64,
    /// Whole batches in them.
    pub batches: u64,
    /// Records in these, as their headers say.
    pub records: u64,
    /// Bytes of segments.
    pub bytes: u64,
    /// Findings that are [`Severity::Defect`].
    pub defects: u64,
    /// Findings that are [`Severity::Note`].
    pub notes: u64,
    /// Findings that are [`Severity::Unreadable`].
    pub unreadable: u64,
}

/// Looks at a log directory, a partition's directory or one file, and reports what it finds;
/// nothing is changed. The directory should not be in use: a running broker's last batch may seem
/// torn.
///
/// # Errors
/// `path` itself could not be read. What cannot be read below it is reported.
pub fn verify(
    disk: &dyn Disk,
    path: &Path,
    options: VerifyOptions,
    report: &mut dyn FnMut(&Finding),
) -> io::Result<Summary> {
    let mut verifier = Verifier {
        disk,
        options,
        report,
        summary: Summary::default(),
        last_file: PathBuf::new(),
        in_file: 0,
    };
    match disk.list(path) {
        Ok(names) => {
            let is_partition = names.iter().any(|(name, is_dir)| {
                let kind = FileKind::of(name);
                !is_dir && matches!(kind, FileKind::Log(_) | FileKind::PartitionMetadata)
            });
            match is_partition {
                true => {
                    verifier.partition(path, names, &Known::default());
                }
                false => verifier.log_dir(path, names),
            }
        }
        Err(error) => {
            if disk.len(path).is_err() {
                return Err(error);
            }
            verifier.single(path);
        }
    }
    Ok(verifier.summary)
}

/// What the log directory says of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// It is in the cleaner's checkpoint.
    pub(super) is_compacted: bool,
}

/// What a partition's directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionFacts {
    /// One above its last record.
    pub(super) end: i64,
    /// `partition.metadata`.
    pub(super) topic_id: Option<Uuid>,
}

pub(super) struct Verifier<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) options: VerifyOptions,
    report: &'a mut dyn FnMut(&Finding),
    pub(super) summary: Summary,
    last_file: PathBuf,
    in_file: usize,
}

impl Verifier<'_> {
    fn find(&mut self, severity: Severity, file: &Path, at: Option<u64>, what: &str, so: &str) {
        match severity {
            Severity::Note => self.summary.notes += 1,
            Severity::Defect => self.summary.defects += 1,
            Severity::Unreadable => self.summary.unreadable += 1,
        }
        if self.last_file != file {
            self.last_file = file.to_owned();
            self.in_file = 0;
        }
        self.in_file += 1;
        let (what, so) = match self.in_file {
            n if n > PER_FILE_MAX => return,
            PER_FILE_MAX => ("more of this file is counted, not told", ""),
            _ => (what, so),
        };
        (self.report)(&Finding {
            severity,
            file: file.to_owned(),
            position: at,
            what: what.to_owned(),
            meaning: so.to_owned(),
        });
    }

    pub(super) fn defect(&mut self, file: &Path, at: impl Into<Option<u64>>, what: &str, so: &str) {
        self.find(Severity::Defect, file, at.into(), what, so);
    }

    pub(super) fn note(&mut self, file: &Path, at: impl Into<Option<u64>>, what: &str, so: &str) {
        self.find(Severity::Note, file, at.into(), what, so);
    }

    pub(super) fn unreadable(&mut self, file: &Path, error: &io::Error) {
        let what = error.to_string();
        let so = "nothing can be said of this file";
        self.find(Severity::Unreadable, file, None, &what, so);
    }

    /// Opens a file that is there, with its length.
    pub(super) fn open(&mut self, path: &Path) -> Option<(Box<dyn DiskFile>, u64)> {
        let disk = self.disk;
        let open = || {
            let file = disk.open(path, OpenMode::Read)?;
            let len = file.len()?;
            Ok::<_, io::Error>((file, len))
        };
        match open() {
            Ok(opened) => {
                self.summary.files += 1;
                Some(opened)
            }
            Err(error) => {
                self.unreadable(path, &error);
                None
            }
        }
    }

    /// A small file as text.
    pub(super) fn text(&mut self, path: &Path) -> Option<String> {
        self.summary.files += 1;
        let bytes = match self.disk.read_all(path, SMALL_FILE_LEN_MAX) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.unreadable(path, &error);
                return None;
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(error) => {
                let at = error.utf8_error().valid_up_to() as u64;
                self.defect(path, at, "not text", "the file cannot be read");
                None
            }
        }
    }

    /// One file by itself.
    fn single(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let dir = path.parent().unwrap_or(Path::new(""));
        match FileKind::of(&name) {
            FileKind::Log(base) => {
                self.segment(dir, base, None, true);
            }
            FileKind::KafkaSnapshot => self.batches(path),
            FileKind::OffsetIndex(base) | FileKind::TimeIndex(base) | FileKind::TxnIndex(base) => {
                self.index_alone(path, base);
            }
            FileKind::ProducerSnapshot(at) => self.snapshot(path, at),
            FileKind::Epochs => {
                self.epochs(path);
            }
            FileKind::Offsets => {
                self.offsets(path);
            }
            FileKind::PartitionMetadata => {
                self.partition_metadata(path);
            }
            FileKind::MetaProperties => self.meta_properties(dir),
            _ => {
                self.summary.files += 1;
                let what = "not a file whose format this command knows by its name";
                self.note(path, NOWHERE, what, "nothing was checked");
            }
        }
    }

    fn log_dir(&mut self, dir: &Path, mut names: Vec<(String, bool)>) {
        names.sort();
        let mut checkpoints = BTreeMap::new();
        for (name, _) in names.iter().filter(|(_, is_dir)| !is_dir) {
            let path = dir.join(name);
            match FileKind::of(name) {
                FileKind::Offsets => {
                    checkpoints.insert(name.as_str(), self.offsets(&path));
                }
                FileKind::MetaProperties => self.meta_properties(dir),
                FileKind::Leftover => self.leftover(&path),
                FileKind::CleanShutdown | FileKind::Known => self.summary.files += 1,
                _ => {
                    let what = "not a file of a log directory";
                    self.note(&path, NOWHERE, what, "brokers leave it alone");
                }
            }
        }
        let mut found = BTreeMap::new();
        let mut ids: BTreeMap<String, Uuid> = BTreeMap::new();
        for (name, _) in names.iter().filter(|(_, is_dir)| *is_dir) {
            let path = dir.join(name);
            let Some((topic, partition)) = partition_of_dir(name) else {
                self.odd_dir(&path, name);
                continue;
            };
            let key = (topic.to_owned(), partition);
            let cleaned = checkpoints.get(checkpoint::CLEANER);
            let known = Known {
                is_compacted: cleaned.is_some_and(|c| c.contains_key(&key)),
            };
            match self.disk.list(&path) {
                Err(error) => self.unreadable(&path, &error),
                Ok(inside) => {
                    let facts = self.partition(&path, inside, &known);
                    self.one_id(&path, topic, facts.topic_id, &mut ids);
                    found.insert(key, facts);
                }
            }
        }
        for (name, offsets) in checkpoints {
            self.offsets_fit(&dir.join(name), name, &offsets, &found);
        }
    }

    /// All partitions of a topic have its id.
    fn one_id(
        &mut self,
        dir: &Path,
        topic: &str,
        id: Option<Uuid>,
        ids: &mut BTreeMap<String, Uuid>,
    ) {
        let Some(id) = id else { return };
        let first = *ids.entry(topic.to_owned()).or_insert(id);
        if first != id {
            let path = dir.join(checkpoint::PARTITION_METADATA);
            let what = format!("topic id {id}, but {first} in another partition of the topic");
            let so = "one of them is of a topic that was deleted: a broker does not load it";
            self.defect(&path, NOWHERE, &what, so);
        }
    }

    fn odd_dir(&mut self, path: &Path, name: &str) {
        let so = match name.rsplit_once('-').map(|(_, kind)| kind) {
            Some("delete") => "a deleted partition: it goes at the next start",
            Some("future") => "a move between log directories was under way",
            Some("stray") => "the metadata does not have this partition: it was put aside",
            _ => "brokers leave it alone",
        };
        self.note(path, NOWHERE, "not a partition's directory", so);
    }

    pub(super) fn leftover(&mut self, path: &Path) {
        let what = "left by something that was interrupted";
        self.note(path, NOWHERE, what, "it goes at the next start");
    }

    fn meta_properties(&mut self, dir: &Path) {
        self.summary.files += 1;
        let path = dir.join(checkpoint::META_PROPERTIES);
        match checkpoint::read_meta_properties(self.disk, dir) {
            Ok(Some(_)) => {}
            Ok(None) => self.note(&path, NOWHERE, "missing", "the directory is not formatted"),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let so = "a broker does not start with this directory";
                self.defect(&path, 0, &error.to_string(), so);
            }
            Err(error) => self.unreadable(&path, &error),
        }
    }

    /// An offset checkpoint: the offset of each partition, with its line's position.
    fn offsets(&mut self, path: &Path) -> BTreeMap<(String, i32), (u64, i64)> {
        let mut offsets = BTreeMap::new();
        let Some(text) = self.text(path) else {
            return offsets;
        };
        let mut lines = Lines::parse(&text, 3);
        for (at, names, numbers) in lines.numbers::<i64>(1) {
            let ([topic], [partition, offset]) = (&names[..], &numbers[..]) else {
                continue;
            };
            let Ok(partition) = i32::try_from(*partition) else {
                lines.problem(at, format!("{partition} is no partition"));
                continue;
            };
            if *offset < 0 {
                lines.problem(at, format!("offset {offset} of {topic}-{partition}"));
            }
            let key = (topic.clone(), partition);
            if offsets.insert(key, (at, *offset)).is_some() {
                lines.problem(at, format!("{topic}-{partition} is there twice"));
            }
        }
        self.tell(
            path,
            &lines,
            "brokers start from 0 where they have no offset",
        );
        offsets
    }

    pub(super) fn tell(&mut self, path: &Path, lines: &Lines, so: &str) {
        for (at, what) in &lines.problems {
            self.defect(path, *at, what, so);
        }
    }

    /// What a checkpoint says of each partition against what its directory holds.
    fn offsets_fit(
        &mut self,
        path: &Path,
        name: &str,
        offsets: &BTreeMap<(String, i32), (u64, i64)>,
        found: &BTreeMap<(String, i32), PartitionFacts>,
    ) {
        let so = match name {
            checkpoint::RECOVERY_POINT => "what had been synced is not there: records were lost",
            checkpoint::HIGH_WATERMARK => "records that consumers could read are not there",
            checkpoint::LOG_START => "all records are below the start: none can be read",
            _ => "the cleaner begins anew",
        };
        for ((topic, partition), (at, offset)) in offsets {
            match found.get(&(topic.clone(), *partition)) {
                None => {
                    let what = format!("{} has no directory", shorten(topic));
                    let so = "another log directory has it, or it was deleted";
                    self.note(path, *at, &what, so);
                }
                Some(facts) if *offset > facts.end => {
                    let end = facts.end;
                    let what =
                        format!("offset {offset} of {topic}-{partition}, whose log ends at {end}");
                    self.defect(path, *at, &what, so);
                }
                Some(_) => {}
            }
        }
    }

    pub(super) fn partition_metadata(&mut self, path: &Path) -> Option<Uuid> {
        self.summary.files += 1;
        let dir = path.parent().unwrap_or(Path::new(""));
        match checkpoint::read_partition_metadata(self.disk, dir) {
            Ok(id) => id,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let so = "a broker cannot tell whose partition this is";
                self.defect(path, 0, &error.to_string(), so);
                None
            }
            Err(error) => {
                self.unreadable(path, &error);
                None
            }
        }
    }
}
