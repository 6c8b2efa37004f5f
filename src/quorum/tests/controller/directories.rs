//! Several log directories: where partitions go, and what a failed directory takes with it.

use crate::fixture::*;
use flumen_base::TopicPartition;

const DIRS: [u8; 3] = [1, 2, 3];

fn dir(n: u8) -> Uuid {
    Uuid::from_bytes([n; 16])
}

fn with_three_dirs() -> Cluster {
    let mut cluster = Cluster::new();
    let registration = Registration {
        log_dirs: DIRS.map(dir).to_vec(),
        ..registration()
    };
    let records = controller::register_broker(&cluster.ctx(), &registration).unwrap();
    cluster.commit(&records);
    cluster
}

/// Creates a topic as the broker does: with directories.
fn create(cluster: &mut Cluster, name: &'static str, partitions: i32) {
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..CreatableTopic::default()
        }],
        ..CreateTopicsRequest::default()
    };
    let mut prng = Prng::new(cluster.prng.next_u64());
    let mut records = controller::create_topics(&cluster.ctx(), &mut prng, &request).records;
    controller::assign_directories(cluster.node.quorum.latest(), 0, &mut records);
    cluster.commit(&records);
}

fn places(cluster: &Cluster, name: &str) -> Vec<Uuid> {
    let topic = cluster.image().topic(name).unwrap();
    let partitions = topic.partitions.iter();
    partitions.map(|p| p.directory_of(0).unwrap()).collect()
}

#[test]
fn a_new_partition_goes_where_the_fewest_are() {
    let mut cluster = with_three_dirs();
    create(&mut cluster, "a", 2);
    assert_eq!(places(&cluster, "a"), [dir(1), dir(2)]);
    create(&mut cluster, "b", 5);
    assert_eq!(
        places(&cluster, "b"),
        [dir(3), dir(1), dir(2), dir(3), dir(1)]
    );
}

#[test]
fn a_failed_directory_takes_its_leaders_and_gives_them_back() {
    let mut cluster = with_three_dirs();
    create(&mut cluster, "t", 3);
    let left = [dir(1), dir(3)];
    let records = controller::directories_left(cluster.node.quorum.latest(), 0, &left);
    cluster.commit(&records);
    let leaders = |cluster: &Cluster| -> Vec<i32> {
        let topic = cluster.image().topic("t").unwrap();
        topic.partitions.iter().map(|p| p.leader).collect()
    };
    assert_eq!(leaders(&cluster), [0, -1, 0]);
    let served = |cluster: &Cluster| -> Vec<bool> {
        let image = cluster.image();
        let topic = image.topic("t").unwrap();
        topic
            .partitions
            .iter()
            .map(|p| image.serves(p, 0))
            .collect()
    };
    assert_eq!(served(&cluster), [true, false, true]);
    // Nobody is elected there, and new partitions go elsewhere.
    let request = ElectLeadersRequest {
        election_type: 1,
        topic_partitions: None,
        ..ElectLeadersRequest::default()
    };
    assert!(
        controller::elect_leaders(&cluster.ctx(), &request)
            .records
            .is_empty()
    );
    create(&mut cluster, "u", 2);
    assert_eq!(places(&cluster, "u"), [dir(1), dir(3)]);
    // The next start finds it usable again.
    let again = Registration {
        log_dirs: DIRS.map(dir).to_vec(),
        ..registration()
    };
    let mut records = controller::register_broker(&cluster.ctx(), &again).unwrap();
    let image = cluster.node.quorum.latest();
    let all = DIRS.map(dir);
    records.extend(controller::directory_records(image, 0, &all, |_, _| None));
    cluster.commit(&records);
    assert_eq!(leaders(&cluster), [0, 0, 0]);
    assert_eq!(served(&cluster), [true, true, true]);
    let image = cluster.node.quorum.latest();
    assert!(controller::directory_records(image, 0, &all, |_, _| None).is_empty());
}

#[test]
fn what_is_found_elsewhere_is_written_down() {
    let mut cluster = with_three_dirs();
    create(&mut cluster, "t", 1);
    assert_eq!(places(&cluster, "t"), [dir(1)]);
    let image = cluster.node.quorum.latest();
    let all = DIRS.map(dir);
    let records = controller::directory_records(image, 0, &all, |_, _| Some(dir(3)));
    cluster.commit(&records);
    assert_eq!(places(&cluster, "t"), [dir(3)]);
    let tp = TopicPartition {
        topic_id: cluster.image().topic("t").unwrap().id,
        partition: 0,
    };
    let image = cluster.node.quorum.latest();
    assert!(controller::directory_moved(image, 0, tp, dir(3)).is_none());
    let record = controller::directory_moved(image, 0, tp, dir(2)).unwrap();
    cluster.commit(&[record]);
    assert_eq!(places(&cluster, "t"), [dir(2)]);
    let topic = cluster.image().topic("t").unwrap();
    assert_eq!(topic.partitions[0].leader, 0);
}
