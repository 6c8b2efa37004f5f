//! Copying partitions' files, so that all of it is on disk before the copy is declared whole.

use anyhow::{Context, bail};
use flumen_base::Disk;
use flumen_log::inspect::FileKind;
use flumen_runtime::FsDisk;
use std::fs::{self, File};
use std::path::Path;

/// How files get to the new directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Their bytes.
    Copy,
    /// Sealed segments by another name of the same file; all else as [`How::Copy`].
    Link,
}

/// What was brought over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Brought {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Brings a partition's files from one directory to a new one.
pub(super) fn bring(from: &Path, to: &Path, how: How) -> anyhow::Result<Brought> {
    let names = FsDisk
        .list(from)
        .with_context(|| from.display().to_string())?;
    let last = names
        .iter()
        .filter_map(|(name, _)| match FileKind::of(name) {
            FileKind::Log(base) => Some(base),
            _ => None,
        });
    let last = last.max();
    FsDisk
        .create_dir_all(to)
        .with_context(|| to.display().to_string())?;
    let mut brought = Brought::default();
    for (name, is_dir) in &names {
        let (source, target) = (from.join(name), to.join(name));
        let place = || source.display().to_string();
        let kind = FileKind::of(name);
        let linked = match kind {
            FileKind::Log(base) => how == How::Link && Some(base) != last,
            FileKind::OffsetIndex(_)
            | FileKind::TimeIndex(_)
            | FileKind::TxnIndex(_)
            | FileKind::ProducerSnapshot(_)
            | FileKind::Epochs
            | FileKind::PartitionMetadata => false,
            // A compaction whose result has not taken its place: the broker that began it ends it.
            FileKind::Leftover if name.ends_with(".swap") => bail!(
                "{} is of an interrupted compaction: start and stop the broker that wrote it once \
                 more",
                place()
            ),
            _ => continue,
        };
        if *is_dir {
            continue;
        }
        if linked {
            fs::hard_link(&source, &target).with_context(|| {
                format!(
                    "{}: cannot link to {} (--copy can)",
                    place(),
                    target.display()
                )
            })?;
        } else {
            copy(&source, &target).with_context(place)?;
        }
        brought.files += 1;
        brought.bytes += FsDisk.len(&target).with_context(place)?;
    }
    FsDisk
        .sync_dir(to)
        .with_context(|| to.display().to_string())?;
    Ok(brought)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}
