//! Records of `__transaction_state`, byte for byte as Kafka 4.3.1 writes them: key type 0; value
//! version 1 from transaction version 1 on, else 0.

use super::state::{Metadata, NONE, Partitions, TxnState};
use crate::out::Record;
use flumen_wire::DecodeError;
use flumen_wire::records::transaction_log_value::PartitionsSchema;
use flumen_wire::records::{self, TransactionLogKey, TransactionLogValue};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const TRANSACTION_KEY: i16 = 0;

/// A record as read from the log.
pub(super) enum Replayed {
    Txn(String, Box<Metadata>),
    Tombstone(String),
    /// Of a kind or version that is not known.
    Other,
}

/// Reads a record.
pub(super) fn read(key: &[u8], value: Option<&[u8]>) -> Result<Replayed, DecodeError> {
    let (kind, body) = records::read_version_prefix(key)?;
    if kind != TRANSACTION_KEY {
        return Ok(Replayed::Other);
    }
    let key: TransactionLogKey<'_> = records::decode_key(body)?;
    let id = key.transactional_id.into_owned();
    let Some(value) = value else {
        return Ok(Replayed::Tombstone(id));
    };
    let value: TransactionLogValue<'_> = records::decode_versioned(value)?;
    let Some(state) = TxnState::from_id(value.transaction_status) else {
        return Ok(Replayed::Other);
    };
    let mut partitions = Partitions::new();
    for of_topic in value.transaction_partitions.into_iter().flatten() {
        let topic: Arc<str> = Arc::from(&*of_topic.topic);
        partitions
            .entry(topic)
            .or_default()
            .extend(of_topic.partition_ids);
    }
    Ok(Replayed::Txn(
        id,
        Box::new(Metadata {
            producer_id: value.producer_id,
            previous_producer_id: value.previous_producer_id,
            next_producer_id: value.next_producer_id,
            producer_epoch: value.producer_epoch,
            last_producer_epoch: NONE,
            timeout_ms: value.transaction_timeout_ms,
            state,
            partitions,
            start_ms: value.transaction_start_timestamp_ms,
            last_update_ms: value.transaction_last_update_timestamp_ms,
            client_version: value.client_transaction_version,
        }),
    ))
}

/// The state of a transactional id, as a cluster of this `transaction.version` stores it. `None`
/// when the id is too long for a record.
pub(super) fn txn(id: &str, metadata: &Metadata, transaction_version: i16) -> Option<Record> {
    let version = i16::from(transaction_version >= 1);
    let partitions = (metadata.state != TxnState::Empty).then(|| listed(&metadata.partitions));
    let mut value = TransactionLogValue {
        producer_id: metadata.producer_id,
        producer_epoch: metadata.producer_epoch,
        transaction_timeout_ms: metadata.timeout_ms,
        transaction_status: metadata.state as i8,
        transaction_partitions: partitions,
        transaction_last_update_timestamp_ms: metadata.last_update_ms,
        transaction_start_timestamp_ms: metadata.start_ms,
        ..Default::default()
    };
    if version >= 1 {
        value.previous_producer_id = metadata.previous_producer_id;
        value.next_producer_id = metadata.next_producer_id;
        value.client_transaction_version = metadata.client_version;
    }
    let value = records::encode_versioned(&value, version).ok()?;
    Some(Record {
        value: Some(value),
        ..tombstone(id)?
    })
}

/// The tombstone of a transactional id.
pub(super) fn tombstone(id: &str) -> Option<Record> {
    let key = TransactionLogKey {
        transactional_id: id.into(),
    };
    let key = records::encode_key(&key).ok()?;
    Some(Record { key, value: None })
}

/// Partitions in the order in which Kafka lists them: that of Java's hash tables.
fn listed(partitions: &Partitions) -> Vec<PartitionsSchema<'static>> {
    let count = partitions.values().map(BTreeSet::len).sum();
    let topics = java_order(partitions.keys(), partitions.len(), |t| java_hash(t));
    let of_topic = |topic: &Arc<str>| {
        let indexes = partitions.get(topic).into_iter().flatten();
        // Java's TopicPartition, in one table of all partitions.
        let of_topic = java_hash(topic);
        let hash = |index: &i32| {
            let seed = 31i32.wrapping_add(*index);
            seed.wrapping_mul(31).wrapping_add(of_topic)
        };
        PartitionsSchema {
            topic: topic.to_string().into(),
            partition_ids: java_order(indexes.copied(), count, hash),
        }
    };
    topics.into_iter().map(of_topic).collect()
}

/// In the order of a `java.util.HashMap` that has grown to `count` entries. Entries of one bucket
/// are in their own order.
fn java_order<T>(items: impl Iterator<Item = T>, count: usize, hash: impl Fn(&T) -> i32) -> Vec<T> {
    let mut buckets = 16u32;
    while count as u64 * 4 > u64::from(buckets) * 3 && buckets < 1 << 30 {
        buckets *= 2;
    }
    let mut by_bucket: BTreeMap<u32, Vec<T>> = BTreeMap::new();
    for item in items {
        let hash = hash(&item) as u32;
        let bucket = (hash ^ (hash >> 16)) & (buckets - 1);
        by_bucket.entry(bucket).or_default().push(item);
    }
    by_bucket.into_values().flatten().collect()
}

/// Java's `String.hashCode`.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |h, unit| {
        h.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let mut metadata = Metadata::new(7, 60_000, 1000);
        metadata.state = TxnState::Ongoing;
        metadata.producer_epoch = 3;
        metadata.previous_producer_id = 7;
        metadata.start_ms = 900;
        metadata.client_version = 2;
        metadata.partitions.insert("t".into(), [0, 1, 2].into());
        metadata
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let record = txn("id", &metadata(), 2).unwrap();
        let read = read(&record.key, record.value.as_deref()).unwrap();
        assert!(matches!(read, Replayed::Txn(id, m) if id == "id" && *m == metadata()));
        let gone = tombstone("id").unwrap();
        let read = super::read(&gone.key, None).unwrap();
        assert!(matches!(read, Replayed::Tombstone(id) if id == "id"));
    }

    #[test]
    fn bytes_of_a_value() {
        let mut empty = Metadata::new(7, 60_000, 1000);
        empty.producer_epoch = 0;
        let record = txn("id", &empty, 0).unwrap();
        assert_eq!(&*record.key, [0, 0, 0, 2, b'i', b'd']);
        let mut expected = vec![0, 0];
        expected.extend_from_slice(&7i64.to_be_bytes());
        expected.extend_from_slice(&[0, 0]);
        expected.extend_from_slice(&60_000i32.to_be_bytes());
        expected.push(0);
        expected.extend_from_slice(&(-1i32).to_be_bytes()); // no partitions
        expected.extend_from_slice(&1000i64.to_be_bytes());
        expected.extend_from_slice(&(-1i64).to_be_bytes());
        assert_eq!(record.value.as_deref(), Some(&expected[..]));
    }

    #[test]
    fn partitions_stand_in_the_order_of_javas_tables() {
        // new HashSet<>(List.of("a", "q", "b")) of 16 buckets: 'a' and 'q' are 16 apart.
        let order = java_order(["q", "b", "a"].into_iter(), 3, |t| java_hash(t));
        assert_eq!(order, ["q", "a", "b"]);
        // The same in 32 buckets.
        let order = java_order(["q", "b", "a"].into_iter(), 13, |t| java_hash(t));
        assert_eq!(order, ["a", "b", "q"]);
    }
}
