//! The hash over the metadata of the topics that a group reads, as Kafka 4.3.1 writes it into the
//! group's epoch record: when it changes, the group needs a new assignment.
//!
//! XXH3 (64 bits, no seed) over little-endian values. A topic: a zero byte, the two halves of its
//! id, its name, the number of partitions, and for each partition its index and the sorted racks of
//! its replicas, each as length and text. A group: the hashes of its topics, by name. Text is
//! UTF-16 units followed by their number.

use crate::out::Metadata;
use flumen_base::Uuid;
use twox_hash::XxHash3_64;

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let mut units = 0i32;
    for unit in text.encode_utf16() {
        bytes.extend(unit.to_le_bytes());
        units = units.wrapping_add(1);
    }
    bytes.extend(units.to_le_bytes());
}

fn topic_hash(metadata: &dyn Metadata, name: &str, id: Uuid) -> i64 {
    let count = metadata.partition_count(id).unwrap_or(0);
    let mut bytes = vec![0u8];
    let id_bits = u128::from_be_bytes(*id.as_bytes());
    bytes.extend(((id_bits >> 64) as u64).to_le_bytes());
    bytes.extend((id_bits as u64).to_le_bytes());
    put_text(&mut bytes, name);
    bytes.extend(count.to_le_bytes());
    for partition in 0..count {
        bytes.extend(partition.to_le_bytes());
        let mut racks = metadata.racks(id, partition);
        racks.sort_unstable();
        for rack in racks {
            let units = rack.encode_utf16().count() as i32;
            bytes.extend(units.to_le_bytes());
            put_text(&mut bytes, rack);
        }
    }
    XxHash3_64::oneshot(&bytes) as i64
}

/// The hash of the topics with these names (ascending); those that don't exist don't count. 0 when
/// none does.
pub(crate) fn metadata_hash<'n>(
    metadata: &dyn Metadata,
    names: impl Iterator<Item = &'n str>,
) -> i64 {
    let mut bytes = Vec::new();
    for name in names {
        if let Some(id) = metadata.topic_id(name) {
            bytes.extend(topic_hash(metadata, name, id).to_le_bytes());
        }
    }
    if bytes.is_empty() {
        return 0;
    }
    XxHash3_64::oneshot(&bytes) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::GroupSettings;

    /// One topic of one partition, in two racks.
    #[derive(Debug)]
    struct Racks;

    const T: Uuid = Uuid::from_bytes([1; 16]);

    impl Metadata for Racks {
        fn version(&self) -> i64 {
            0
        }
        fn topic_id(&self, name: &str) -> Option<Uuid> {
            (name == "t").then_some(T)
        }
        fn topic_name(&self, _id: Uuid) -> Option<&str> {
            None
        }
        fn partition_count(&self, _id: Uuid) -> Option<i32> {
            Some(1)
        }
        fn racks(&self, _id: Uuid, _partition: i32) -> Vec<&str> {
            vec!["r2", "r1"]
        }
        fn for_each_topic(&self, _each: &mut dyn FnMut(&str)) {}
        fn group_settings(&self, _group: &str) -> GroupSettings {
            GroupSettings::default()
        }
    }

    /// The value was computed with the library that Kafka uses.
    #[test]
    fn racks_are_sorted_and_count() {
        let topic = topic_hash(&Racks, "t", T);
        assert_eq!(topic as u64, 0xf0ca_e34a_d42d_de87);
        assert_eq!(metadata_hash(&Racks, ["other"].into_iter()), 0);
    }
}
