//! Transaction markers: the control batches that end a transaction in a partition.
//!
//! Key: version i16 = 0, type i16 (0 abort, 1 commit). Value: version i16 = 0, coordinator epoch
//! i32.

use crate::batch::{BatchBuilder, Record};
use bytes::Bytes;
use flumen_base::ProducerId;

const ABORT: [u8; 2] = [0, 0];
const COMMIT: [u8; 2] = [0, 1];

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The transaction is committed, not rolled back.
    pub commit: bool,
    /// Epoch of the coordinator that decided: the leader epoch of its partition of
    /// `__transaction_state`.
    pub coordinator_epoch: i32,
}

impl Marker {
    /// What the record of a control batch says; `None` for control records that are no markers.
    pub fn read(record: &Record<'_>) -> Option<Self> {
        let commit = match *record.key?.get(2..)?.first_chunk::<2>()? {
            ABORT => false,
            COMMIT => true,
            _ => return None,
        };
        let epoch = record.value?.get(2..)?.first_chunk::<4>()?;
        Some(Self {
            commit,
            coordinator_epoch: i32::from_be_bytes(*epoch),
        })
    }

    /// The control batch that ends the transaction of this producer.
    pub fn batch(&self, now_ms: i64, producer_id: ProducerId, producer_epoch: i16) -> Bytes {
        let kind = if self.commit { COMMIT } else { ABORT };
        let key = [0, 0, kind[0], kind[1]];
        let mut value = [0; 6];
        value[2..].copy_from_slice(&self.coordinator_epoch.to_be_bytes());
        let mut builder = BatchBuilder::new()
            .producer(producer_id, producer_epoch, -1)
            .transactional(true)
            .control(true);
        builder.push(now_ms, Some(&key), Some(&value));
        builder.build().unwrap_or_default() // it has a record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, Records};

    #[test]
    fn markers_say_what_they_were_made_of() {
        for commit in [true, false] {
            let marker = Marker {
                commit,
                coordinator_epoch: 7,
            };
            let bytes = marker.batch(1000, 5, 3);
            let batch = Batch::parse(&bytes).unwrap();
            batch.check_crc().unwrap();
            let header = batch.header;
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id(), header.producer_epoch()), (5, 3));
            assert_eq!(header.base_sequence(), -1);
            let record = Records::new(batch.records_section(), 1).next();
            assert_eq!(Marker::read(&record.unwrap().unwrap()), Some(marker));
        }
    }
}
