//! Loading, part: leader epochs, from their file, held against the batches at the log's end. Where
//! the two do not agree, all segments are walked for them.

use crate::checkpoint;
use crate::epoch::{self, EpochCache};
use crate::recovery::Loader;
use crate::walk::Walk;
use flumen_base::LeaderEpoch;
use std::io;

const EPOCH_FILE_MAX: u64 = 16 << 20;

impl Loader<'_> {
    pub(crate) fn load_epochs(&mut self) -> io::Result<()> {
        let path = self.params.dir.join(epoch::FILE_NAME);
        let text = match checkpoint::read_text(self.disk, &path, EPOCH_FILE_MAX) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => None,
            text => text?,
        };
        match text.as_deref().and_then(EpochCache::decode) {
            Some(epochs) => self.found.epochs = epochs,
            None => self.found.epochs_lost = true,
        }
        Ok(())
    }

    /// The last batch is of this epoch: if the file says otherwise, the epochs are read from the
    /// batches.
    pub(crate) fn check_epoch(&mut self, epoch: LeaderEpoch, offset: i64) {
        if epoch >= 0 && self.found.epochs.at(offset) != epoch && !self.found.epochs_lost {
            self.found.epochs = EpochCache::default();
            self.found.epochs_lost = true;
        }
    }

    /// Whether the epochs are those of the batches at the log's end; else they are lost.
    pub(crate) fn epochs_hold(&mut self, walk: &Walk) -> bool {
        let known = self.found.epochs_lost;
        if let (Some((epoch, _)), Some(latest)) = (walk.epochs.last(), self.found.epochs.latest())
            && *epoch <= latest
        {
            self.check_epoch(*epoch, walk.end - 1);
        }
        known || !self.found.epochs_lost
    }

    pub(crate) fn end_epochs(&mut self, log_start: i64, log_end: i64) -> io::Result<()> {
        let found = &mut self.found;
        found.epochs_changed |= found.epochs.truncate_end(log_end);
        found.epochs_changed |= found.epochs.truncate_start(log_start);
        if !found.epochs_changed {
            return Ok(());
        }
        let path = self.params.dir.join(epoch::FILE_NAME);
        let text = found.epochs.encode();
        self.disk.write_atomic(&path, text.as_bytes())
    }
}
