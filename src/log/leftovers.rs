//! Loading, part: what a crash left in a partition's directory.

use crate::clean::{CLEANED_SUFFIX, SWAP_SUFFIX};
use crate::recovery::{Loader, SEGMENT_SUFFIXES};
use crate::scan::Scanner;
use crate::segment::{DELETED_SUFFIX, LOG_SUFFIX, offset_of_name};
use flumen_base::{Disk, OpenMode};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Removes `-delete` directories that a crash left in a log directory; returns their names.
pub fn remove_deleted_dirs(disk: &dyn Disk, log_dir: &Path) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for (name, is_dir) in disk.list(log_dir)? {
        if is_dir && name.ends_with("-delete") {
            disk.remove_dir_all(&log_dir.join(&name))?;
            removed.push(name);
        }
    }
    removed.sort();
    Ok(removed)
}

impl Loader<'_> {
    /// Removes leftovers, completes an interrupted swap of compacted segments, and returns the
    /// segments' bases.
    pub(crate) fn list_segments(&mut self) -> io::Result<BTreeSet<i64>> {
        let mut names: Vec<String> = self
            .disk
            .list(&self.params.dir)?
            .into_iter()
            .map(|n| n.0)
            .collect();
        names.sort();
        self.remove_half_swaps(&names)?;
        for name in &names {
            let gone = [DELETED_SUFFIX, CLEANED_SUFFIX, ".tmp"];
            if gone.iter().any(|s| name.ends_with(s)) {
                self.remove(name)?;
            }
        }
        names.retain(|n| !self.report.files_removed.contains(n));
        let swaps: Vec<i64> = names
            .iter()
            .filter_map(|n| offset_of_name(n.strip_suffix(SWAP_SUFFIX)?, LOG_SUFFIX))
            .collect();
        self.complete_swaps(&names, &swaps)?;
        let names: Vec<String> = self
            .disk
            .list(&self.params.dir)?
            .into_iter()
            .map(|n| n.0)
            .collect();
        let bases: BTreeSet<i64> = names
            .iter()
            .filter_map(|n| offset_of_name(n, LOG_SUFFIX))
            .collect();
        for name in &names {
            let suffixes = &SEGMENT_SUFFIXES[1..];
            let base = suffixes
                .iter()
                .find_map(|suffix| offset_of_name(name, suffix));
            if base.is_some_and(|base| !bases.contains(&base)) {
                self.remove(name)?; // an index without its records
            }
        }
        Ok(bases)
    }

    /// A swap begins when the last of its files has its `.swap` name, that of the records; what has
    /// one without that is of no use. These go before the `.cleaned` files that tell.
    fn remove_half_swaps(&mut self, names: &[String]) -> io::Result<()> {
        let cleaned = names.iter().filter_map(|n| leftover(n, CLEANED_SUFFIX));
        let cleaned = cleaned.min();
        let records = format!("{LOG_SUFFIX}{SWAP_SUFFIX}");
        let whole: BTreeSet<i64> = names
            .iter()
            .filter_map(|n| offset_of_name(n, &records))
            .collect();
        let mut removed = false;
        for name in names {
            let Some(offset) = leftover(name, SWAP_SUFFIX) else {
                continue;
            };
            if cleaned.is_some_and(|c| offset >= c) || !whole.contains(&offset) {
                self.remove(name)?;
                removed = true;
            }
        }
        match removed {
            true => self.disk.sync_dir(&self.params.dir),
            false => Ok(()),
        }
    }

    /// The segments that the swapped ones replace go, then the swapped ones get their names.
    fn complete_swaps(&mut self, names: &[String], swaps: &[i64]) -> io::Result<()> {
        let (Some(&first), Some(&last)) = (swaps.iter().min(), swaps.iter().max()) else {
            return Ok(());
        };
        let path = self.path(last, &format!("{LOG_SUFFIX}{SWAP_SUFFIX}"));
        let file = self.disk.open(&path, OpenMode::Read)?;
        let mut end = last + 1; // even if nothing is in it
        let mut scanner = Scanner::new(&*file, 0, file.len()?, false);
        while let Ok(Some(batch)) = scanner.next_header()? {
            end = batch.header().last_offset() + 1;
        }
        for name in names {
            let replaced = SEGMENT_SUFFIXES
                .iter()
                .find_map(|suffix| offset_of_name(name, suffix));
            if replaced.is_some_and(|base| base >= first && base < end) {
                self.remove(name)?;
            }
        }
        // The records last: without them what has its name already would be of no segment.
        let (records, others): (Vec<&String>, Vec<&String>) = names
            .iter()
            .partition(|name| name.ends_with(&format!("{LOG_SUFFIX}{SWAP_SUFFIX}")));
        for name in others.into_iter().chain(records) {
            if let Some(target) = name.strip_suffix(SWAP_SUFFIX) {
                let dir = &self.params.dir;
                self.disk.rename(&dir.join(name), &dir.join(target))?;
            }
        }
        self.disk.sync_dir(&self.params.dir)
    }
}

/// The offset of a leftover file of any kind: 20 digits, whatever, then `suffix`.
fn leftover(name: &str, suffix: &str) -> Option<i64> {
    name.strip_suffix(suffix)?.get(..20)?.parse().ok()
}
