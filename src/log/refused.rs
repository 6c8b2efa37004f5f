//! Loading, part: data that was acked would have to go. Then nothing is changed, and the error says
//! where and what can be done.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file by which an operator accepts, in a partition's directory, that records are
/// lost.
pub const ACCEPT_LOSS: &str = "flumen-accept-loss";

/// A log that is not loaded, because it would lose records that were on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The file that is damaged.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub position: u64,
    /// The first offset that would be lost.
    pub offset: i64,
    /// What is wrong there.
    pub why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, dir) = (self.file.display(), self.file.parent());
        let dir = dir.unwrap_or(Path::new("")).join(ACCEPT_LOSS);
        write!(
            f,
            "{file} is damaged at byte {}: {}. The records from offset {} on were on disk and may \
             have been acknowledged, so none of them is cut off. Ways out, each with a restart: \
             put the file back from a copy, or accept the loss of all from offset {} on by \
             making the file {}",
            self.position,
            self.why,
            self.offset,
            self.offset,
            dir.display()
        )
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// As an error of loading (`InvalidData`).
    pub(crate) fn into_error(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }

    /// The refusal behind an error of loading: to try again is no use then.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}
