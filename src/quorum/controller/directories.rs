//! Which log directory of a broker holds which partition, and what follows when one fails or comes
//! back.

use crate::image::{Image, Partition, Topic};
use crate::record::{Broker, MetadataRecord, PartitionChange};
use flumen_base::{BrokerId, TopicPartition, Uuid};

/// Gives every new partition that `records` put on this broker a log directory: the one with the
/// fewest partitions, of several the first. Nothing changes where the broker has only one, which is
/// known without this, or none.
pub fn assign_directories(image: &Image, node: BrokerId, records: &mut [MetadataRecord]) {
    let Some(dirs) = image.brokers().get(&node).map(|b| &b.log_dirs) else {
        return;
    };
    if dirs.len() < 2 {
        return;
    }
    let mut counts: Option<Vec<usize>> = None;
    for record in records {
        let MetadataRecord::Partition(p) = record else {
            continue;
        };
        for (replica, dir) in p.replicas.iter().zip(&mut p.directories) {
            if *replica != node || !dir.is_zero() {
                continue;
            }
            let counts = counts.get_or_insert_with(|| count_partitions(image, node, dirs));
            let fewest = counts.iter_mut().zip(dirs).min_by_key(|(count, _)| **count);
            if let Some((count, fewest)) = fewest {
                *count += 1;
                *dir = *fewest;
            }
        }
    }
}

/// How many partitions each of a broker's directories holds.
fn count_partitions(image: &Image, node: BrokerId, dirs: &[Uuid]) -> Vec<usize> {
    let mut counts = vec![0; dirs.len()];
    for topic in image.topics().values() {
        for p in &topic.partitions {
            let place = p.directory_of(node);
            let place = place.and_then(|id| dirs.iter().position(|d| *d == id));
            if let Some(count) = place.and_then(|n| counts.get_mut(n)) {
                *count += 1;
            }
        }
    }
    counts
}

/// The changes that make the metadata say what is true of this broker's directories: where each
/// partition was `found` (nothing where it is as assigned), that those in directories which are not
/// `online` have no leader here, and that those whose only trouble that was have one again.
pub fn directory_records(
    image: &Image,
    node: BrokerId,
    online: &[Uuid],
    found: impl Fn(&Topic, &Partition) -> Option<Uuid>,
) -> Vec<MetadataRecord> {
    let mut records = Vec::new();
    for topic in image.topics().values() {
        for p in &topic.partitions {
            let Some(assigned) = p.directory_of(node) else {
                continue;
            };
            let place = found(topic, p).unwrap_or(assigned);
            let serves = place.is_zero() || online.contains(&place);
            let leader = match (p.leader == node, serves) {
                (true, false) => Some(-1),
                (false, true) if p.leader < 0 && p.isr.contains(&node) => Some(node),
                _ => None,
            };
            let directories = (place != assigned).then(|| directories_with(p, node, place));
            if leader.is_some() || directories.is_some() {
                records.push(MetadataRecord::PartitionChange(PartitionChange {
                    topic_id: topic.id,
                    index: p.index,
                    leader,
                    directories,
                    ..PartitionChange::default()
                }));
            }
        }
    }
    records
}

fn directories_with(p: &Partition, node: BrokerId, dir: Uuid) -> Vec<Uuid> {
    let of = |replica: &BrokerId| match *replica == node {
        true => dir,
        false => p.directory_of(*replica).unwrap_or(Uuid::ZERO),
    };
    p.replicas.iter().map(of).collect()
}

/// This broker has only these directories left: it says so, and its partitions in others have no
/// leader any more.
pub fn directories_left(image: &Image, node: BrokerId, online: &[Uuid]) -> Vec<MetadataRecord> {
    let Some(broker) = image.brokers().get(&node) else {
        return Vec::new();
    };
    let mut records = vec![MetadataRecord::RegisterBroker(Broker {
        log_dirs: online.to_vec(),
        ..Broker::clone(broker)
    })];
    records.extend(directory_records(image, node, online, |_, _| None));
    records
}

/// A partition's replica on this broker lives in another directory now; nothing if it is not there
/// any more.
pub fn directory_moved(
    image: &Image,
    node: BrokerId,
    tp: TopicPartition,
    dir: Uuid,
) -> Option<MetadataRecord> {
    let topic = image.topic_by_id(&tp.topic_id)?;
    let p = topic.partition(tp.partition)?;
    let now = p.directory_of(node)?;
    (now != dir).then(|| {
        MetadataRecord::PartitionChange(PartitionChange {
            topic_id: tp.topic_id,
            index: tp.partition,
            directories: Some(directories_with(p, node, dir)),
            ..PartitionChange::default()
        })
    })
}
