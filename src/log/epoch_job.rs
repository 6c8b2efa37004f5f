//! The file of leader epochs. It is written before a segment is sealed that has a new one: a start
//! reads epochs from batches only from the recovery point on.

use crate::epoch;
use crate::log::Log;
use flumen_base::Disk;
use std::io;
use std::path::PathBuf;

/// Writes `leader-epoch-checkpoint`.
#[derive(Debug)]
pub struct EpochJob {
    path: PathBuf,
    text: String,
}

impl EpochJob {
    /// Does it.
    pub fn run(self, disk: &dyn Disk) -> io::Result<()> {
        disk.write_atomic(&self.path, self.text.as_bytes())
    }
}

impl Log {
    /// The job that writes `leader-epoch-checkpoint`, if the epochs changed and no such job runs.
    /// Its end goes to [`Log::epochs_written`].
    pub fn take_epoch_job(&mut self) -> Option<EpochJob> {
        if self.epochs_writing || !std::mem::take(&mut self.epochs_dirty) {
            return None;
        }
        self.epochs_writing = true;
        Some(EpochJob {
            path: self.dir.join(epoch::FILE_NAME),
            text: self.epochs.encode(),
        })
    }

    /// Such a job has ended; if it failed, [`Log::take_epoch_job`] has it again.
    pub fn epochs_written(&mut self, is_ok: bool) {
        self.epochs_writing = false;
        self.epochs_dirty |= !is_ok;
    }

    /// Whether the file does not have all epochs yet.
    pub(crate) fn epochs_behind(&self) -> bool {
        self.epochs_dirty || self.epochs_writing
    }
}
