//! Topics: creation, deletion, more partitions.

use crate::fixture::*;

#[test]
fn create_topics_with_defaults() {
    let mut cluster = Cluster::new();
    let results = cluster.create(vec![topic("t"), topic("u")]);
    assert_eq!(results.len(), 2);
    for result in &results {
        assert_eq!(result.error_code, 0, "{:?}", result.error_message);
        assert_eq!((result.num_partitions, result.replication_factor), (2, 1));
        let created = cluster.image().topic(&result.name).unwrap();
        assert_eq!(created.id, result.topic_id);
        assert_eq!(cluster.image().topic_by_id(&result.topic_id), Some(created));
        let expected = |index| Partition {
            index,
            replicas: vec![0],
            directories: vec![Uuid::from_bytes([2; 16])],
            isr: vec![0],
            leader: 0,
            leader_epoch: 0,
            partition_epoch: 0,
            ..Partition::default()
        };
        let partitions: Vec<_> = created
            .partitions
            .iter()
            .map(|p| Partition::clone(p))
            .collect();
        assert_eq!(partitions, [expected(0), expected(1)]);
    }
    let configs = results[0].configs.as_ref().unwrap();
    assert!(configs.is_sorted_by_key(|c| c.name.clone()));
    let cleanup = configs.iter().find(|c| c.name == "cleanup.policy").unwrap();
    assert_eq!(
        (cleanup.value.as_deref(), cleanup.config_source),
        (Some("delete"), 5)
    );
}

#[test]
fn create_topics_stores_configs_and_says_where_they_come_from() {
    let mut cluster = Cluster::new();
    let results = cluster.create(vec![with_config("t", "cleanup.policy", Some("compact"))]);
    let configs = results[0].configs.as_ref().unwrap();
    let cleanup = configs.iter().find(|c| c.name == "cleanup.policy").unwrap();
    assert_eq!(
        (cleanup.value.as_deref(), cleanup.config_source),
        (Some("compact"), 1)
    );
    let stored = cluster.image().topic_config("t").unwrap();
    assert_eq!(stored.get("cleanup.policy").map(|v| &**v), Some("compact"));
}

#[test]
fn create_topics_refusals() {
    use ErrorCode::{
        InvalidConfig, InvalidPartitions, InvalidReplicaAssignment, InvalidReplicationFactor,
        InvalidRequest, InvalidTopicException, PolicyViolation, TopicAlreadyExists,
    };
    let long = "x".repeat(250);
    let too_long = format!(
        "Topic name is invalid: the length of '{long}' is longer than the max allowed length 249"
    );
    let cases: Vec<(CreatableTopic<'_>, ErrorCode, &str)> = vec![
        (
            topic(""),
            InvalidTopicException,
            "Topic name is invalid: the empty string is not allowed",
        ),
        (
            topic("."),
            InvalidTopicException,
            "Topic name is invalid: '.' is not allowed",
        ),
        (topic(&long), InvalidTopicException, &too_long),
        (
            topic("a b"),
            InvalidTopicException,
            "Topic name is invalid: 'a b' contains one or more characters other than ASCII \
             alphanumerics, '.', '_' and '-'",
        ),
        (
            topic("exists"),
            TopicAlreadyExists,
            "Topic 'exists' already exists.",
        ),
        (
            topic("has_dot"),
            InvalidTopicException,
            "Topic 'has_dot' collides with existing topic: has.dot",
        ),
        (
            topic("__cluster_metadata"),
            InvalidRequest,
            "Creation of internal topic __cluster_metadata is prohibited.",
        ),
        (
            CreatableTopic {
                replication_factor: 0,
                ..topic("t")
            },
            InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (
            CreatableTopic {
                num_partitions: 0,
                ..topic("t")
            },
            InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ),
        (
            CreatableTopic {
                replication_factor: 3,
                ..topic("t")
            },
            InvalidReplicationFactor,
            "Unable to replicate the partition 3 time(s): The target replication factor of 3 cannot \
             be reached because only 1 broker(s) are registered or some brokers have all their log \
             directories cordoned.",
        ),
        (
            CreatableTopic {
                num_partitions: 10_001,
                ..topic("t")
            },
            PolicyViolation,
            "Excessively large number of partitions per request.",
        ),
        (
            with_config("t", "retention.ms", None),
            InvalidConfig,
            "Null value not supported for topic configs: retention.ms",
        ),
        (
            with_config("t", "no.such.config", Some("1")),
            InvalidConfig,
            "Unknown topic config name: no.such.config",
        ),
        (
            CreatableTopic {
                replication_factor: 1,
                ..assigned("t", &[(0, &[0])])
            },
            InvalidRequest,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ),
        (
            CreatableTopic {
                num_partitions: 1,
                ..assigned("t", &[(0, &[0])])
            },
            InvalidRequest,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ),
        (
            assigned("t", &[(0, &[0]), (0, &[0])]),
            InvalidReplicaAssignment,
            "Found multiple manual partition assignments for partition 0",
        ),
        (
            assigned("t", &[(1, &[0])]),
            InvalidReplicaAssignment,
            "partitions should be a consecutive 0-based integer sequence",
        ),
        (
            assigned("t", &[(0, &[])]),
            InvalidReplicaAssignment,
            "The manual partition assignment includes an empty replica list.",
        ),
        (
            assigned("t", &[(0, &[7])]),
            InvalidReplicaAssignment,
            "The manual partition assignment includes broker 7, but no such broker is registered.",
        ),
        (
            assigned("t", &[(0, &[0, 0])]),
            InvalidReplicaAssignment,
            "The manual partition assignment includes the broker 0 more than once.",
        ),
    ];
    let mut cluster = Cluster::new();
    cluster.create(vec![topic("exists"), topic("has.dot")]);
    let before = crate::common::facts(cluster.image());
    for (request, code, message) in cases {
        let name = request.name.to_string();
        assert_eq!(
            cluster.create_one(request),
            (code, message.to_owned()),
            "{name}"
        );
        assert_eq!(crate::common::facts(cluster.image()), before, "{name}");
    }
}

#[test]
fn create_topics_duplicates_collisions_and_validation() {
    let mut cluster = Cluster::new();
    let results = cluster.create(vec![
        topic("a"),
        topic("b"),
        topic("a"),
        topic("c.d"),
        topic("c_d"),
    ]);
    let codes: Vec<_> = results.iter().map(|r| (&*r.name, r.error_code)).collect();
    assert_eq!(codes, [("b", 0), ("c.d", 0), ("c_d", 17), ("a", 42)]);
    assert_eq!(
        results[3].error_message.as_deref(),
        Some("Duplicate topic name.")
    );
    assert!(cluster.image().topic("a").is_none());

    let request = CreateTopicsRequest {
        topics: vec![assigned("v", &[(1, &[0]), (0, &[0])])],
        validate_only: true,
        ..CreateTopicsRequest::default()
    };
    let mut prng = Prng::new(9);
    let decision = controller::create_topics(&cluster.ctx(), &mut prng, &request);
    assert!(decision.records.is_empty());
    assert_eq!(decision.response.topics[0].error_code, 0);
    assert_eq!(decision.response.topics[0].num_partitions, 2);
    assert_eq!(cluster.create_one(topic("__consumer_offsets")), ok());
}

#[test]
fn automatic_creation() {
    let mut cluster = Cluster::new();
    let mut prng = Prng::new(4);
    let names = ["__consumer_offsets", "mine", "mine", "not valid"];
    let decision = controller::auto_create_topics(&cluster.ctx(), &mut prng, &names);
    cluster.commit(&decision.records);
    let codes: Vec<_> = decision
        .response
        .topics
        .iter()
        .map(|t| (&*t.name, t.error_code))
        .collect();
    assert_eq!(
        codes,
        [("__consumer_offsets", 0), ("mine", 0), ("not valid", 17)]
    );
    let offsets = cluster.image().topic("__consumer_offsets").unwrap();
    assert_eq!(offsets.partitions.len(), 50);
    assert!(offsets.is_internal());
    let configs = cluster.image().topic_config("__consumer_offsets").unwrap();
    let expected = [
        ("cleanup.policy", "compact"),
        ("compression.type", "producer"),
        ("segment.bytes", "104857600"),
    ];
    assert!(configs.iter().map(|(k, v)| (&**k, &**v)).eq(expected));
    assert_eq!(cluster.image().topic("mine").unwrap().partitions.len(), 2);
}

#[test]
fn delete_topics() {
    let mut cluster = Cluster::new();
    let ids: Vec<Uuid> = cluster
        .create(vec![
            topic("a"),
            with_config("b", "retention.ms", Some("5")),
            topic("c"),
            topic("d"),
        ])
        .iter()
        .map(|t| t.topic_id)
        .collect();
    let by_name = |name: &'static str| DeleteTopicState {
        name: Some(name.into()),
        topic_id: Uuid::ZERO,
    };
    let by_id = |topic_id| DeleteTopicState {
        name: None,
        topic_id,
    };
    let unknown = Uuid::from_bytes([77; 16]);
    let both = DeleteTopicState {
        name: Some("d".into()),
        topic_id: ids[3],
    };
    let request = DeleteTopicsRequest {
        topics: vec![
            by_name("b"),
            by_id(ids[0]),
            by_name("nope"),
            by_id(unknown),
            by_name("c"),
            by_id(ids[2]),
            by_name("twice"),
            by_name("twice"),
            by_id(Uuid::ZERO),
            both,
        ],
        ..DeleteTopicsRequest::default()
    };
    let decision = controller::delete_topics(&cluster.ctx(), &request, 6);
    let mut found: Vec<_> = decision
        .response
        .responses
        .iter()
        .map(|r| (r.name.as_deref().unwrap_or("-"), r.topic_id, r.error_code))
        .collect();
    found.sort();
    let mut expected = vec![
        ("a", ids[0], 0),
        ("b", ids[1], 0),
        ("nope", Uuid::ZERO, 3),
        ("-", unknown, 100),
        ("c", ids[2], 42),
        ("twice", Uuid::ZERO, 42),
        ("-", Uuid::ZERO, 42),
        ("d", ids[3], 42),
    ];
    expected.sort();
    assert_eq!(found, expected);
    cluster.commit(&decision.records);
    let left: Vec<_> = cluster.image().topics().keys().map(|n| &**n).collect();
    assert_eq!(left, ["c", "d"]);
    assert!(cluster.image().topic_config("b").is_none());
    // A new topic of that name has a new id and none of the old settings.
    let again = cluster.create(vec![topic("b")]);
    assert_ne!(again[0].topic_id, ids[1]);

    cluster.broker.topics.delete_topic_enable = false;
    let request = DeleteTopicsRequest {
        topic_names: vec!["c".into()],
        ..DeleteTopicsRequest::default()
    };
    for (version, code) in [(1, 42), (3, 73), (5, 73)] {
        let decision = controller::delete_topics(&cluster.ctx(), &request, version);
        assert!(decision.records.is_empty());
        assert_eq!(decision.response.responses[0].error_code, code);
    }
}

#[test]
fn create_partitions() {
    use ErrorCode::{
        InvalidPartitions, InvalidReplicaAssignment, PolicyViolation, UnknownTopicOrPartition,
    };
    let mut cluster = Cluster::new();
    cluster.create(vec![topic("t")]);
    let grow = |name: &'static str, count| CreatePartitionsTopic {
        name: name.into(),
        count,
        assignments: None,
    };
    let manual = |count, lists: &[&[i32]]| CreatePartitionsTopic {
        assignments: Some(
            lists
                .iter()
                .map(|ids| CreatePartitionsAssignment {
                    broker_ids: ids.to_vec(),
                })
                .collect(),
        ),
        ..grow("t", count)
    };
    let cases = [
        (grow("nope", 5), UnknownTopicOrPartition, "<null>"),
        (
            grow("t", 2),
            InvalidPartitions,
            "Topic already has 2 partition(s).",
        ),
        (
            grow("t", 1),
            InvalidPartitions,
            "The topic t currently has 2 partition(s); 1 would not be an increase.",
        ),
        (
            manual(4, &[&[0]]),
            InvalidReplicaAssignment,
            "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
        ),
        (
            manual(3, &[&[9]]),
            InvalidReplicaAssignment,
            "The manual partition assignment includes broker 9, but no such broker is registered.",
        ),
        (
            grow("t", i32::MAX),
            PolicyViolation,
            "Unable to perform excessively large batch operation.",
        ),
    ];
    for (request, code, message) in cases {
        assert_eq!(cluster.grow(request, false), (code, message.to_owned()));
    }
    assert_eq!(cluster.grow(grow("t", 4), true), ok());
    assert_eq!(cluster.image().topic("t").unwrap().partitions.len(), 2);
    assert_eq!(cluster.grow(grow("t", 4), false), ok());
    assert_eq!(cluster.grow(manual(5, &[&[0]]), false), ok());
    let indexes = cluster
        .image()
        .topic("t")
        .unwrap()
        .partitions
        .iter()
        .map(|p| p.index);
    assert!(indexes.eq(0..5));

    let request = CreatePartitionsRequest {
        topics: vec![grow("t", 9), grow("t", 10)],
        ..CreatePartitionsRequest::default()
    };
    let decision = controller::create_partitions(&cluster.ctx(), &mut Prng::new(1), &request);
    assert!(decision.records.is_empty());
    assert_eq!(decision.response.results.len(), 1);
    assert_eq!(
        decision.response.results[0].error_message.as_deref(),
        Some("Duplicate topic name.")
    );
}
