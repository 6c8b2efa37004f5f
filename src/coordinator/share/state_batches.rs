//! Joining what is stored about offsets with what is new.

use super::{RecordState, StateBatch};
use flumen_wire::records::{share_snapshot_value, share_update_value};
use std::collections::BTreeMap;

/// Offsets of one state, with the numbers that are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// First offset.
    pub first: i64,
    /// Last offset, inclusive.
    pub last: i64,
    /// See [`RecordState`].
    pub delivery_state: i8,
    /// How often they were handed out.
    pub delivery_count: i16,
}

impl Stored {
    /// `None` for a state that Kafka does not know and for a range that is none.
    pub fn known(&self) -> Option<StateBatch> {
        let state = RecordState::from_stored(self.delivery_state)?;
        (self.first <= self.last).then_some(StateBatch {
            first: self.first,
            last: self.last,
            state,
            deliveries: u16::try_from(self.delivery_count).unwrap_or(0),
        })
    }

    /// What wins where two batches speak of the same offset: more deliveries, then the later state.
    fn rank(&self) -> (i16, i8) {
        (self.delivery_count, self.delivery_state)
    }
}

impl From<StateBatch> for Stored {
    fn from(batch: StateBatch) -> Self {
        Self {
            first: batch.first,
            last: batch.last,
            delivery_state: batch.state as i8,
            delivery_count: i16::try_from(batch.deliveries).unwrap_or(i16::MAX),
        }
    }
}

macro_rules! convert {
    ($of:ident) => {
        impl From<&$of::StateBatch> for Stored {
            fn from(batch: &$of::StateBatch) -> Self {
                Self {
                    first: batch.first_offset,
                    last: batch.last_offset,
                    delivery_state: batch.delivery_state,
                    delivery_count: batch.delivery_count,
                }
            }
        }

        impl From<&Stored> for $of::StateBatch {
            fn from(batch: &Stored) -> Self {
                Self {
                    first_offset: batch.first,
                    last_offset: batch.last,
                    delivery_state: batch.delivery_state,
                    delivery_count: batch.delivery_count,
                }
            }
        }
    };
}
convert!(share_snapshot_value);
convert!(share_update_value);

/// One list out of two, without what lies below `start` (-1: nothing does): in order, not
/// overlapping, neighbours of one state as one.
pub fn combine(stored: &[Stored], new: &[Stored], start: i64) -> Vec<Stored> {
    let mut map: BTreeMap<i64, Stored> = BTreeMap::new();
    for batch in stored.iter().chain(new) {
        let first = if start == -1 {
            batch.first
        } else {
            batch.first.max(start)
        };
        if first <= batch.last {
            raise(&mut map, Stored { first, ..*batch });
        }
    }
    let mut list: Vec<Stored> = Vec::with_capacity(map.len());
    for batch in map.into_values() {
        match list.last_mut() {
            Some(before)
                if before.rank() == batch.rank()
                    && before.last.checked_add(1) == Some(batch.first) =>
            {
                before.last = batch.last;
            }
            _ => list.push(batch),
        }
    }
    list
}

/// Adds a batch to batches that do not overlap.
fn raise(map: &mut BTreeMap<i64, Stored>, batch: Stored) {
    split(map, batch.first);
    if let Some(behind) = batch.last.checked_add(1) {
        split(map, behind);
    }
    let mut from = batch.first;
    let mut gaps = Vec::new();
    for (&first, there) in map.range_mut(batch.first..=batch.last) {
        if from < first {
            gaps.push((from, first - 1));
        }
        from = there.last.saturating_add(1);
        if batch.rank() > there.rank() {
            there.delivery_state = batch.delivery_state;
            there.delivery_count = batch.delivery_count;
        }
    }
    if from <= batch.last {
        gaps.push((from, batch.last));
    }
    for (first, last) in gaps {
        map.insert(
            first,
            Stored {
                first,
                last,
                ..batch
            },
        );
    }
}

/// Makes `offset` the first of a batch if one contains it.
fn split(map: &mut BTreeMap<i64, Stored>, offset: i64) {
    let Some((_, there)) = map.range_mut(..offset).next_back() else {
        return;
    };
    if there.last >= offset {
        let rest = Stored {
            first: offset,
            ..*there
        };
        there.last = offset - 1;
        map.insert(offset, rest);
    }
}
