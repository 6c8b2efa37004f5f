//! The controller's answers, case by case, against those of Kafka 4.3.1.

// A test may panic; tables of cases are long.
#![allow(clippy::unwrap_used, clippy::type_complexity)]

mod common;

use common::Node;
use flumen_base::{ErrorCode, Prng, Uuid};
use flumen_log::testing::MemDisk;
use flumen_quorum::controller::{self, Context, Registration};
use flumen_quorum::{Endpoint, Image, MetadataRecord, Partition, ResourceType};
use flumen_settings::{BrokerConfig, Properties};
use flumen_wire::messages::alter_partition_reassignments_request as reassign;
use flumen_wire::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use flumen_wire::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use flumen_wire::messages::create_topics_response::CreatableTopicResult;
use flumen_wire::messages::delete_topics_request::DeleteTopicState;
use flumen_wire::messages::elect_leaders_request::TopicPartitions;
use flumen_wire::messages::incremental_alter_configs_request as incremental;
use flumen_wire::messages::update_features_request::FeatureUpdateKey;
use flumen_wire::messages::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteTopicsRequest, DescribeQuorumRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest, UnregisterBrokerRequest,
    UpdateFeaturesRequest, alter_configs_request, describe_quorum_request,
};

/// A broker with id 0 that is registered.
struct Cluster {
    node: Node,
    broker: BrokerConfig,
    prng: Prng,
}

impl Cluster {
    fn new() -> Self {
        let text = "process.roles=broker,controller\nnode.id=0\n\
            controller.quorum.voters=0@localhost:9093\n\
            listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ncontroller.listener.names=CONTROLLER\n\
            num.partitions=2\noffsets.topic.replication.factor=1\n";
        let properties = Properties::parse(text).unwrap();
        let broker = BrokerConfig::load(&properties).unwrap().config;
        let mut cluster = Self {
            node: Node::start(&MemDisk::new(), u64::MAX),
            broker,
            prng: Prng::new(1),
        };
        let records = controller::register_broker(&cluster.ctx(), &registration()).unwrap();
        cluster.commit(&records);
        cluster
    }

    fn ctx(&self) -> Context<'_> {
        Context {
            image: self.node.quorum.latest(),
            broker: &self.broker,
        }
    }

    fn image(&self) -> &Image {
        &self.node.image
    }

    fn commit(&mut self, records: &[MetadataRecord]) {
        self.node.propose(records);
        self.node.settle();
    }

    fn create(&mut self, topics: Vec<CreatableTopic<'_>>) -> Vec<CreatableTopicResult<'static>> {
        let request = CreateTopicsRequest {
            topics,
            ..CreateTopicsRequest::default()
        };
        let mut prng = Prng::new(self.prng.next_u64());
        let decision = controller::create_topics(&self.ctx(), &mut prng, &request);
        self.commit(&decision.records);
        decision.response.topics
    }

    fn create_one(&mut self, topic: CreatableTopic<'_>) -> (ErrorCode, String) {
        let results = self.create(vec![topic]);
        assert_eq!(results.len(), 1);
        error(results[0].error_code, results[0].error_message.as_deref())
    }

    fn alter(
        &mut self,
        kind: i8,
        name: &str,
        ops: &[(&str, i8, Option<&str>)],
    ) -> (ErrorCode, String) {
        let configs = ops
            .iter()
            .map(|(key, op, value)| incremental::AlterableConfig {
                name: (*key).into(),
                config_operation: *op,
                value: value.map(Into::into),
            });
        let request = IncrementalAlterConfigsRequest {
            resources: vec![incremental::AlterConfigsResource {
                resource_type: kind,
                resource_name: name.into(),
                configs: configs.collect(),
            }],
            validate_only: false,
        };
        let decision = controller::incremental_alter_configs(&self.ctx(), &request);
        self.commit(&decision.records);
        let r = &decision.response.responses[0];
        assert_eq!((r.resource_type, &*r.resource_name), (kind, name));
        error(r.error_code, r.error_message.as_deref())
    }

    fn grow(
        &mut self,
        topic: CreatePartitionsTopic<'_>,
        validate_only: bool,
    ) -> (ErrorCode, String) {
        let request = CreatePartitionsRequest {
            topics: vec![topic],
            validate_only,
            ..CreatePartitionsRequest::default()
        };
        let mut prng = Prng::new(3);
        let decision = controller::create_partitions(&self.ctx(), &mut prng, &request);
        self.commit(&decision.records);
        let r = &decision.response.results[0];
        error(r.error_code, r.error_message.as_deref())
    }
}

fn registration() -> Registration {
    Registration {
        cluster_id: "4L6g3nShT-eMCtK--X86sw".to_owned(),
        incarnation: Uuid::from_bytes([1; 16]),
        endpoints: vec![Endpoint {
            listener: "PLAINTEXT".to_owned(),
            host: "localhost".to_owned(),
            port: 9092,
            security_protocol: 0,
        }],
        log_dirs: vec![Uuid::from_bytes([2; 16])],
        metadata_version: controller::METADATA_VERSION,
    }
}

fn error(code: i16, message: Option<&str>) -> (ErrorCode, String) {
    (
        ErrorCode::from_i16(code).unwrap(),
        message.unwrap_or("<null>").to_owned(),
    )
}

fn ok() -> (ErrorCode, String) {
    error(0, None)
}

fn topic(name: &str) -> CreatableTopic<'_> {
    CreatableTopic {
        name: name.into(),
        num_partitions: -1,
        replication_factor: -1,
        ..CreatableTopic::default()
    }
}

fn with_config<'a>(name: &'a str, key: &'a str, value: Option<&'a str>) -> CreatableTopic<'a> {
    CreatableTopic {
        configs: vec![CreatableTopicConfig {
            name: key.into(),
            value: value.map(Into::into),
        }],
        ..topic(name)
    }
}

fn assigned<'a>(name: &'a str, assignments: &[(i32, &[i32])]) -> CreatableTopic<'a> {
    let assignments = assignments
        .iter()
        .map(|(index, ids)| CreatableReplicaAssignment {
            partition_index: *index,
            broker_ids: ids.to_vec(),
        });
    CreatableTopic {
        assignments: assignments.collect(),
        ..topic(name)
    }
}

#[test]
fn the_first_start_writes_id_features_and_listeners_and_each_start_a_new_epoch() {
    let mut cluster = Cluster::new();
    let image = cluster.image();
    assert_eq!(
        controller::cluster_id_of(image),
        Some("4L6g3nShT-eMCtK--X86sw")
    );
    assert_eq!(image.feature("metadata.version"), 30);
    assert_eq!(image.features().len(), 1);
    assert_eq!(image.features_index(), image.index());
    assert_eq!(image.controller_id(), 0);
    let epoch = image.brokers()[&0].epoch;
    assert_eq!(epoch, image.index() as i64);

    let again = controller::register_broker(&cluster.ctx(), &registration()).unwrap();
    assert_eq!(again.len(), 1);
    cluster.commit(&again);
    assert!(cluster.image().brokers()[&0].epoch > epoch);

    let other = Registration {
        cluster_id: "other".to_owned(),
        ..registration()
    };
    let refused = controller::register_broker(&cluster.ctx(), &other).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InconsistentClusterId);
}

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
    let before = common::facts(cluster.image());
    for (request, code, message) in cases {
        let name = request.name.to_string();
        assert_eq!(
            cluster.create_one(request),
            (code, message.to_owned()),
            "{name}"
        );
        assert_eq!(common::facts(cluster.image()), before, "{name}");
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

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

#[test]
fn incremental_alter_configs_of_topics() {
    let mut cluster = Cluster::new();
    cluster.create(vec![topic("t")]);
    let value = |cluster: &Cluster, key: &str| {
        let configs = cluster.image().topic_config("t")?;
        configs.get(key).cloned()
    };
    assert_eq!(
        cluster.alter(2, "t", &[("retention.ms", SET, Some("10"))]),
        ok()
    );
    assert_eq!(value(&cluster, "retention.ms").as_deref(), Some("10"));
    let appended = cluster.alter(
        2,
        "t",
        &[("cleanup.policy", APPEND, Some("compact,delete"))],
    );
    assert_eq!(appended, ok());
    assert_eq!(
        value(&cluster, "cleanup.policy").as_deref(),
        Some("delete,compact")
    );
    assert_eq!(
        cluster.alter(2, "t", &[("cleanup.policy", SUBTRACT, Some("delete"))]),
        ok()
    );
    assert_eq!(
        value(&cluster, "cleanup.policy").as_deref(),
        Some("compact")
    );
    let both = [
        ("cleanup.policy", DELETE, None),
        ("retention.ms", DELETE, Some("x")),
    ];
    assert_eq!(cluster.alter(2, "t", &both), ok());
    assert!(cluster.image().topic_config("t").is_none());
}

#[test]
fn incremental_alter_configs_refusals() {
    use ErrorCode::{InvalidConfig, InvalidRequest, UnknownTopicOrPartition};
    let mut cluster = Cluster::new();
    cluster.create(vec![topic("t")]);
    let long = "x".repeat(40_000);
    #[rustfmt::skip]
    let cases: &[(i8, &str, &[(&str, i8, Option<&str>)], ErrorCode, &str)] = &[
        (2, "nope", &[("retention.ms", SET, Some("1"))], UnknownTopicOrPartition, "The topic 'nope' does not exist."),
        (2, "", &[("retention.ms", SET, Some("1"))], InvalidRequest, "Default topic resources are not allowed."),
        (2, "t", &[("retention.ms", SET, None)], InvalidRequest, "Null value not supported for : retention.ms"),
        (2, "t", &[("retention.ms", SET, Some("1")), ("retention.ms", DELETE, None)], InvalidRequest, "Error due to duplicate config keys"),
        (2, "t", &[("retention.ms", APPEND, Some("1"))], InvalidConfig, "Can't APPEND to key retention.ms because its type is not LIST."),
        (2, "t", &[("unknown", SET, Some("1"))], InvalidConfig, "Unknown topic config name: unknown"),
        (2, "t", &[("leader.replication.throttled.replicas", SET, Some(&long))], InvalidConfig, "The configuration value cannot be added because it exceeds the maximum value size of 32767 bytes."),
        (2, "t", &[("retention.ms", 9, Some("1"))], InvalidRequest, "Unknown operations type 9"),
        (4, "1", &[("log.cleaner.threads", SET, Some("1"))], InvalidRequest, "Unexpected broker id, expected 0, but received 1"),
        (4, "x", &[("log.cleaner.threads", SET, Some("1"))], InvalidRequest, "Node id must be an integer, but it is: x"),
        (8, "0", &[("kafka.Kafka", SET, Some("DEBUG"))], InvalidConfig, "Logger kafka.Kafka does not exist!"),
        (8, "3", &[("kafka.Kafka", SET, Some("DEBUG"))], InvalidRequest, "Unexpected node id. Expected 0, but received 3"),
        (8, "0", &[("kafka.Kafka", APPEND, Some("DEBUG"))], InvalidRequest, "APPEND operation is not allowed for the BROKER_LOGGER resource"),
        (16, "", &[("interval.ms", SET, Some("1000"))], InvalidRequest, "Subscription name can't be empty"),
        (32, "", &[("consumer.session.timeout.ms", SET, Some("50000"))], InvalidRequest, "Default group resources are not allowed."),
        (3, "t", &[], InvalidRequest, "Unknown resource type 3"),
    ];
    for (kind, name, ops, code, message) in cases {
        let found = cluster.alter(*kind, name, ops);
        assert_eq!(
            found,
            (*code, (*message).to_owned()),
            "{kind} {name} {}",
            ops.len()
        );
    }
    for kind in [
        ResourceType::Topic,
        ResourceType::Broker,
        ResourceType::Group,
    ] {
        assert_eq!(cluster.image().configs(kind).count(), 0);
    }
}

#[test]
fn broker_settings_are_written_even_unchanged() {
    let mut cluster = Cluster::new();
    for name in ["", "0"] {
        let op = [("log.retention.ms", SET, Some("1000"))];
        assert_eq!(cluster.alter(4, name, &op), ok());
        let index = cluster.image().index();
        assert_eq!(cluster.alter(4, name, &op), ok());
        assert!(cluster.image().index() > index);
        let stored = cluster.image().config(ResourceType::Broker, name).unwrap();
        assert_eq!(stored.len(), 1);
    }
}

#[test]
fn alter_configs_replaces_everything() {
    let mut cluster = Cluster::new();
    cluster.create(vec![topic("t"), topic("u")]);
    cluster.alter(
        2,
        "t",
        &[
            ("retention.ms", SET, Some("10")),
            ("segment.ms", SET, Some("7")),
        ],
    );
    let resource = |name: &'static str, value: Option<&'static str>| {
        alter_configs_request::AlterConfigsResource {
            resource_type: 2,
            resource_name: name.into(),
            configs: vec![alter_configs_request::AlterableConfig {
                name: "retention.ms".into(),
                value: value.map(Into::into),
            }],
        }
    };
    let request = AlterConfigsRequest {
        resources: vec![resource("t", Some("20")), resource("u", None)],
        validate_only: false,
    };
    let decision = controller::alter_configs(&cluster.ctx(), &request);
    let codes: Vec<_> = decision
        .response
        .responses
        .iter()
        .map(|r| r.error_code)
        .collect();
    assert_eq!(codes, [0, 42]);
    cluster.commit(&decision.records);
    let stored = cluster.image().topic_config("t").unwrap();
    assert!(
        stored
            .iter()
            .map(|(k, v)| (&**k, &**v))
            .eq([("retention.ms", "20")])
    );

    let request = AlterConfigsRequest {
        resources: vec![resource("t", Some("30")), resource("t", Some("40"))],
        validate_only: false,
    };
    let decision = controller::alter_configs(&cluster.ctx(), &request);
    assert!(decision.records.is_empty());
    let r = &decision.response.responses;
    assert_eq!(r.len(), 2);
    assert_eq!(
        r[1].error_message.as_deref(),
        Some("Each resource must appear at most once.")
    );
}

#[test]
fn producer_id_blocks_are_never_given_out_twice() {
    let disk = MemDisk::new();
    let broker = BrokerConfig::default();
    let mut next = 0;
    for restart in 0..5 {
        let mut node = Node::start(&disk, 200);
        for _ in 0..4 {
            let ctx = Context {
                image: node.quorum.latest(),
                broker: &broker,
            };
            let decision = controller::allocate_producer_ids(&ctx, 0).unwrap();
            assert_eq!(decision.response.first, next, "restart {restart}");
            next += i64::from(decision.response.len);
            node.propose(&decision.records);
            node.settle();
        }
    }
    assert_eq!(next, 20_000);
}

#[test]
fn elections_and_reassignments_on_one_broker() {
    let mut cluster = Cluster::new();
    cluster.create(vec![topic("t")]);
    let ask = |kind, partitions| ElectLeadersRequest {
        election_type: kind,
        topic_partitions: partitions,
        ..ElectLeadersRequest::default()
    };
    let named = |name: &'static str, partition| {
        Some(vec![TopicPartitions {
            topic: name.into(),
            partitions: vec![partition],
        }])
    };
    for (request, code) in [
        (ask(0, named("t", 0)), 84),
        (ask(1, named("t", 1)), 84),
        (ask(0, named("t", 2)), 3),
        (ask(0, named("nope", 0)), 3),
        (ask(5, named("t", 0)), 42),
    ] {
        let decision = controller::elect_leaders(&cluster.ctx(), &request);
        assert!(decision.records.is_empty());
        let results = &decision.response.replica_election_results;
        assert_eq!(results[0].partition_result[0].error_code, code);
    }
    let all = controller::elect_leaders(&cluster.ctx(), &ask(0, None)).response;
    assert_eq!(all.error_code, 0);
    assert!(
        all.replica_election_results
            .iter()
            .all(|t| t.partition_result.is_empty())
    );

    let target =
        |name: &'static str, replicas: Option<Vec<i32>>| AlterPartitionReassignmentsRequest {
            topics: vec![reassign::ReassignableTopic {
                name: name.into(),
                partitions: vec![reassign::ReassignablePartition {
                    partition_index: 0,
                    replicas,
                }],
            }],
            ..AlterPartitionReassignmentsRequest::default()
        };
    for (request, code) in [
        (target("t", Some(vec![0])), 0),
        (target("t", None), 85),
        (target("t", Some(vec![])), 39),
        (target("t", Some(vec![1])), 39),
        (target("nope", None), 3),
    ] {
        let decision = controller::alter_partition_reassignments(&cluster.ctx(), &request);
        assert!(decision.records.is_empty());
        assert_eq!(
            decision.response.responses[0].partitions[0].error_code, code,
            "{request:?}"
        );
    }
    let request = ListPartitionReassignmentsRequest::default();
    let listed = controller::list_partition_reassignments(&cluster.ctx(), &request);
    assert!(listed.topics.is_empty());
}

#[test]
fn leader_changes_bump_epochs() {
    let mut cluster = Cluster::new();
    let fence = |fenced| [MetadataRecord::FenceBroker { id: 0, fenced }];
    cluster.create(vec![topic("t")]);
    let id = cluster.image().topic("t").unwrap().id;
    let lost = flumen_quorum::PartitionChange {
        topic_id: id,
        leader: Some(-1),
        ..Default::default()
    };
    cluster.commit(&[MetadataRecord::PartitionChange(lost)]);
    cluster.commit(&fence(true));
    let request = ElectLeadersRequest {
        election_type: 0,
        topic_partitions: None,
        ..ElectLeadersRequest::default()
    };
    let decision = controller::elect_leaders(&cluster.ctx(), &request);
    assert_eq!(
        decision.response.replica_election_results[0].partition_result[0].error_code,
        80
    );
    assert_eq!(
        cluster.create_one(topic("u")).0,
        ErrorCode::InvalidReplicationFactor
    );
    cluster.commit(&fence(false));
    let decision = controller::elect_leaders(&cluster.ctx(), &request);
    assert_eq!(
        decision.response.replica_election_results[0].partition_result[0].error_code,
        0
    );
    cluster.commit(&decision.records);
    let p = cluster
        .image()
        .topic("t")
        .unwrap()
        .partition(0)
        .unwrap()
        .clone();
    assert_eq!((p.leader, p.leader_epoch, p.partition_epoch), (0, 2, 2));
}

#[test]
fn features_that_are_not_complete_are_refused() {
    let mut cluster = Cluster::new();
    let ask = |feature: &'static str, level, kind| UpdateFeaturesRequest {
        feature_updates: vec![FeatureUpdateKey {
            feature: feature.into(),
            max_version_level: level,
            upgrade_type: kind,
            ..FeatureUpdateKey::default()
        }],
        ..UpdateFeaturesRequest::default()
    };
    for (request, message) in [
        (
            ask("group.version", 1, 1),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 1 for feature group.version. Local controller 0 does not support this \
             feature.",
        ),
        (
            ask("metadata.version", 31, 1),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 31 for feature metadata.version. Local controller 0 only supports \
             versions 7-30",
        ),
        (
            ask("metadata.version", 29, 1),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 29 for feature metadata.version. Can't downgrade the version of this \
             feature without setting the upgrade type to either safe or unsafe downgrade.",
        ),
        (
            ask("metadata.version", 29, 2),
            "The update failed for all features since the following feature had an error: \
             Unsupported metadata.version downgrade from 30 to 29. Refusing to perform the \
             requested downgrade because it might delete metadata information.",
        ),
        (
            ask("metadata.version", 30, 0),
            "The update failed for all features since the following feature had an error: Invalid \
             update version 30 for feature metadata.version. The controller does not support the \
             given upgrade type.",
        ),
    ] {
        let decision = controller::update_features(&cluster.ctx(), &request, 2);
        assert!(decision.records.is_empty());
        assert_eq!(decision.response.error_code, 95);
        assert_eq!(decision.response.error_message.as_deref(), Some(message));
    }
    let same = ask("metadata.version", 30, 1);
    let decision = controller::update_features(&cluster.ctx(), &same, 1);
    assert_eq!(
        (
            decision.response.error_code,
            decision.response.results.len()
        ),
        (0, 1)
    );
    cluster.commit(&decision.records);
    assert_eq!(cluster.image().feature("metadata.version"), 30);
    let decision = controller::update_features(&cluster.ctx(), &same, 2);
    assert!(decision.response.results.is_empty());
}

#[test]
fn a_cluster_begins_with_the_level_of_its_formatting_and_rises() {
    let mut cluster = Cluster::new();
    let registration = Registration {
        metadata_version: 13,
        ..registration()
    };
    let ctx = Context {
        image: &Image::default(),
        broker: &cluster.broker,
    };
    let records = controller::register_broker(&ctx, &registration).unwrap();
    let feature = |level| MetadataRecord::Feature {
        name: "metadata.version".to_owned(),
        level,
    };
    assert_eq!(records[1], feature(13));
    cluster.commit(&[feature(13)]);
    let rise = UpdateFeaturesRequest {
        feature_updates: vec![FeatureUpdateKey {
            feature: "metadata.version".into(),
            max_version_level: 16,
            upgrade_type: 1,
            ..FeatureUpdateKey::default()
        }],
        ..UpdateFeaturesRequest::default()
    };
    let decision = controller::update_features(&cluster.ctx(), &rise, 2);
    assert_eq!(decision.response.error_code, 0);
    cluster.commit(&decision.records);
    assert_eq!(cluster.image().feature("metadata.version"), 16);
}

#[test]
fn unregistering_and_describing() {
    let mut cluster = Cluster::new();
    let ask = |broker_id| UnregisterBrokerRequest { broker_id };
    for (id, code) in [(5, 102), (0, 42)] {
        let decision = controller::unregister_broker(&cluster.ctx(), &ask(id));
        assert!(decision.records.is_empty());
        assert_eq!(decision.response.error_code, code);
    }
    cluster.commit(&[MetadataRecord::RegisterBroker(flumen_quorum::Broker {
        id: 5,
        fenced: true,
        ..Default::default()
    })]);
    let decision = controller::unregister_broker(&cluster.ctx(), &ask(5));
    assert_eq!(decision.response.error_code, 0);
    cluster.commit(&decision.records);
    assert_eq!(cluster.image().brokers().len(), 1);

    let describe = |name: &'static str| DescribeQuorumRequest {
        topics: vec![describe_quorum_request::TopicData {
            topic_name: name.into(),
            partitions: vec![describe_quorum_request::PartitionData { partition_index: 0 }],
        }],
    };
    let status = cluster.node.quorum.status();
    let ctx = cluster.ctx();
    let found = controller::describe_quorum(&ctx, &status, &describe("__cluster_metadata"), 2, 123);
    let p = &found.topics[0].partitions[0];
    assert_eq!((p.error_code, p.leader_id, p.leader_epoch), (0, 0, 1));
    assert_eq!(p.high_watermark, cluster.image().index() as i64 + 1);
    assert_eq!(p.current_voters.len(), 1);
    assert_eq!(p.current_voters[0].log_end_offset, p.high_watermark);
    let wrong = controller::describe_quorum(&ctx, &status, &describe("t"), 2, 123);
    assert_eq!(wrong.topics[0].partitions[0].error_code, 3);
}
