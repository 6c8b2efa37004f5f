//! The paths that every record takes, by hand: Produce and Fetch requests walked in place, without
//! an allocation; Produce responses written from notes of their request, and Fetch responses framed
//! around records that are not copied. `tests/hot.rs` proves them equal to the generated codec.

pub mod fetch;
pub mod fetch_response;
pub mod produce;
pub mod produce_response;

use crate::Reader;
use flumen_base::Uuid;

/// A topic as a request names it: by name in old versions, by id in new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef<'a> {
    /// By its name.
    Name(&'a str),
    /// By its id.
    Id(Uuid),
}

impl<'a> TopicRef<'a> {
    /// Fewest bytes of one.
    fn size_min(by_id: bool, flexible: bool) -> usize {
        match (by_id, flexible) {
            (true, _) => 16,
            (false, true) => 1,
            (false, false) => 2,
        }
    }

    fn read(r: &mut Reader<'a>, by_id: bool, flexible: bool) -> Self {
        if by_id {
            Self::Id(r.uuid())
        } else {
            Self::Name(r.str(flexible))
        }
    }
}

/// Fewest bytes of an array's or byte sequence's length.
fn len_size_min(flexible: bool) -> usize {
    if flexible { 1 } else { 4 }
}
