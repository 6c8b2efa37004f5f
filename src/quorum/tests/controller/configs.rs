//! Configurations.

use crate::fixture::*;

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
