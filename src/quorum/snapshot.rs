//! The snapshot: the records that make up an image, in one file that is replaced atomically.
//!
//! `snapshot.raft`: magic (8 bytes), CRC32C of all that follows (u32), index (u64), term (u64),
//! position of the last feature change (u64), voters (list of u64), records as in a log entry.

use crate::codec::{Decoder, Encoder, RecordError};
use crate::image::Image;
use crate::raft_log::{self, LoadError};
use crate::record;
use flumen_base::Disk;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"FLSNAP\x00\x01";
const NAME: &str = "snapshot.raft";
/// A snapshot of a million partitions has about 150 MB.
const BYTES_MAX: u64 = 4 << 30;

/// A snapshot to write, and the log segments that it makes superfluous.
#[derive(Debug)]
pub struct SnapshotJob {
    pub(crate) dir: PathBuf,
    pub(crate) image: Arc<Image>,
    pub(crate) voters: Vec<u64>,
    /// Segment to create for the writes after the snapshot.
    pub(crate) next_segment: u64,
    /// Segments whose entries are all covered.
    pub(crate) covered: Vec<u64>,
}

impl SnapshotJob {
    /// In this order, so that a crash at any point leaves a directory that loads: snapshot, new
    /// segment, removals.
    pub(crate) fn run(self, disk: &dyn Disk) -> io::Result<Vec<u64>> {
        write(disk, &self.dir, &self.image, &self.voters)?;
        raft_log::create_segment(disk, &self.dir, self.next_segment)?;
        let mut removed = Vec::new();
        for number in self.covered {
            match disk.remove_file(&raft_log::segment_path(&self.dir, number)) {
                Ok(()) => removed.push(number),
                Err(e) if e.kind() == io::ErrorKind::NotFound => removed.push(number),
                // The snapshot stands; the segment is tried again with the next one. None behind it
                // goes before it does: what is left must follow each other.
                Err(_) => break,
            }
        }
        Ok(removed)
    }
}

/// What a snapshot file holds.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) image: Image,
    pub(crate) voters: Vec<u64>,
}

/// The snapshot of a directory, or `None` if none was ever taken.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Snapshot>, LoadError> {
    let path = dir.join(NAME);
    let bytes = match disk.read_all(&path, BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LoadError::Io(path, e)),
    };
    let corrupt = |reason: &str| LoadError::Corrupt {
        path: path.clone(),
        pos: 0,
        reason: reason.to_owned(),
    };
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(corrupt("not a metadata snapshot of this version"));
    };
    let Some((crc, body)) = rest.split_first_chunk::<4>() else {
        return Err(corrupt("too short"));
    };
    if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
        return Err(corrupt("checksum mismatch"));
    }
    let (records, meta) = decode(body).map_err(|e| LoadError::Record(path.clone(), e))?;
    let mut image = Image::default();
    image
        .apply_all(&records, meta.index, meta.term)
        .map_err(|e| LoadError::Image(path.clone(), e))?;
    image.set_features_index(meta.features_index);
    Ok(Some(Snapshot {
        image,
        voters: meta.voters,
    }))
}

struct Meta {
    index: u64,
    term: u64,
    features_index: u64,
    voters: Vec<u64>,
}

/// Writes the snapshot of a directory.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, image: &Image, voters: &[u64]) -> io::Result<()> {
    disk.write_atomic(&dir.join(NAME), &encode(image, voters))
}

pub(crate) fn encode(image: &Image, voters: &[u64]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut e = Encoder::new(&mut body);
    e.u64(image.index());
    e.u64(image.term());
    e.u64(image.features_index());
    e.list(voters, |e, &id| e.u64(id));
    e.sized_bytes(&record::encode_all(&image.to_records()));
    let mut out = Vec::with_capacity(body.len() + 12);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    out.extend_from_slice(&body);
    out
}

fn decode(body: &[u8]) -> Result<(Vec<record::MetadataRecord>, Meta), RecordError> {
    let mut d = Decoder::new(body);
    let meta = Meta {
        index: d.u64()?,
        term: d.u64()?,
        features_index: d.u64()?,
        voters: d.list(Decoder::u64)?,
    };
    let records = record::decode_all(d.sized_bytes()?)?;
    d.finish()?;
    Ok((records, meta))
}
