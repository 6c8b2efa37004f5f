//! Tests of the table, the loader and the descriptions.

use crate::definitions::{DefaultValue, definitions, line_parses, table_lines};
use crate::*;

/// The active lines of the sample that Kafka 4.3.1 ships for a combined node.
const SAMPLE: &str = "\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,\
SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
";

const MINIMAL: &str = "process.roles=broker,controller\nnode.id=1\n\
    controller.quorum.voters=1@localhost:9093\nlisteners=PLAINTEXT://:9092,CONTROLLER://:9093\n\
    controller.listener.names=CONTROLLER\n";

fn load(extra: &str) -> Result<Loaded, ConfigError> {
    BrokerConfig::load(&Properties::parse(&format!("{MINIMAL}{extra}"))?)
}

fn map(pairs: &[(&str, &str)]) -> ConfigMap {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

const RESOURCES: [ConfigResource; 4] = [
    ConfigResource::Broker,
    ConfigResource::Topic,
    ConfigResource::Group,
    ConfigResource::ClientMetrics,
];

#[test]
fn every_line_of_the_tables_parses_and_no_key_is_lost() {
    let mut lines = 0;
    for line in table_lines() {
        assert!(line_parses(line), "{line}");
        lines += 1;
    }
    let keys: usize = RESOURCES.iter().map(|r| definitions(*r).len()).sum();
    assert_eq!(keys, lines);
    assert_eq!(definitions(ConfigResource::Topic).len(), 34);
    assert_eq!(definitions(ConfigResource::Group).len(), 17);
}

#[test]
fn every_default_passes_its_own_validator() {
    for resource in RESOURCES {
        for definition in definitions(resource).values() {
            if let DefaultValue::Text(text) = definition.default {
                let value = definition.parse(text).expect(definition.name);
                assert_eq!(value.render(), text, "{}", definition.name);
            }
        }
    }
}

#[test]
fn every_synonym_is_a_key_of_the_broker() {
    for resource in [ConfigResource::Topic, ConfigResource::Group] {
        for definition in definitions(resource).values() {
            for (name, _) in &definition.synonyms {
                assert!(
                    definitions(ConfigResource::Broker).contains_key(name),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn the_sample_of_kafka_loads_unchanged() {
    let loaded = BrokerConfig::load(&Properties::parse(SAMPLE).unwrap()).unwrap();
    let config = &loaded.config;
    assert_eq!(loaded.unknown, Vec::<String>::new());
    assert!(
        loaded
            .without_effect
            .iter()
            .any(|(k, _)| k == "num.io.threads")
    );
    assert_eq!(config.node_id, 1);
    assert_eq!(config.listeners.len(), 2);
    assert!(config.listeners[1].controller && !config.listeners[0].controller);
    assert_eq!(config.advertised_listeners[0].host, "localhost");
    assert_eq!(config.metadata_log_dir, config.log_dirs[0]);
    assert_eq!(config.offsets.topic_replication_factor, 1);
}

#[test]
fn typed_defaults_are_those_of_the_table() {
    let loaded = load("").unwrap().config;
    let default = BrokerConfig::default();
    assert_eq!(loaded.topics, default.topics);
    assert_eq!(loaded.log, default.log);
    assert_eq!(loaded.groups, default.groups);
    assert_eq!(loaded.offsets, default.offsets);
    assert_eq!(loaded.transactions, default.transactions);
    assert_eq!(loaded.network, default.network);
    assert_eq!(loaded.fetch, default.fetch);
    assert_eq!(loaded.flumen, default.flumen);
}

#[test]
fn units_resolve_in_kafkas_order() {
    let retention = |extra| load(extra).unwrap().config.topics.log.retention_ms;
    assert_eq!(retention("log.retention.hours=1"), 3_600_000);
    assert_eq!(
        retention("log.retention.hours=1\nlog.retention.minutes=2"),
        120_000
    );
    assert_eq!(
        retention("log.retention.hours=1\nlog.retention.minutes=2\nlog.retention.ms=3"),
        3
    );
    assert_eq!(retention("log.retention.hours=-1"), -1);
    let config = load("log.roll.hours=2\nlog.flush.scheduler.interval.ms=7").unwrap();
    assert_eq!(config.config.topics.log.segment_ms, 7_200_000);
    assert_eq!(config.config.topics.log.flush_ms, 7);
}

#[test]
fn refusals_speak_kafkas_words() {
    let message = |extra| load(extra).unwrap_err().to_string();
    assert_eq!(
        message("num.partitions=0"),
        "Invalid value 0 for configuration num.partitions: Value must be at least 1"
    );
    assert_eq!(
        message("num.partitions=x"),
        "Invalid value x for configuration num.partitions: Not a number of type INT"
    );
    assert_eq!(
        message("log.cleanup.policy=keep"),
        "Invalid value keep for configuration log.cleanup.policy: String must be one of: compact, \
         delete"
    );
    assert_eq!(
        message("log.message.timestamp.type=Never"),
        "Invalid value Never for configuration log.message.timestamp.type: String must be one of: \
         CreateTime, LogAppendTime"
    );
    assert_eq!(
        message("auto.create.topics.enable=yes"),
        "Invalid value yes for configuration auto.create.topics.enable: Expected value to be \
         either true or false"
    );
    let missing = BrokerConfig::load(&Properties::parse("node.id=1").unwrap()).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "Missing required configuration \"process.roles\" which has no default value."
    );
}

#[test]
fn security_that_is_not_built_refuses_to_start() {
    for extra in [
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:admin",
        "ssl.keystore.location=/k.jks",
        "listener.name.plaintext.ssl.keystore.location=/k.jks",
        "sasl.enabled.mechanisms=PLAIN",
        "listener.name.client.plain.sasl.jaas.config=secret",
        "security.inter.broker.protocol=SSL",
        "listeners=SSL://:9092,CONTROLLER://:9093",
        "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    ] {
        let error = load(extra).unwrap_err();
        assert!(
            matches!(error, ConfigError::Unprotected { .. }),
            "{extra}: {error}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    load("sasl.enabled.mechanisms=GSSAPI\nauthorizer.class.name=\nssl.client.auth=none").unwrap();
}

#[test]
fn listeners_are_checked() {
    let named = "listeners=INSIDE://0.0.0.0:9092,OUT://[::1]:9094,CONTROLLER://:9093\n\
        listener.security.protocol.map=INSIDE:PLAINTEXT,OUT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
        advertised.listeners=INSIDE://kafka.example:19092\ninter.broker.listener.name=inside\n";
    let config = load(named).unwrap().config;
    assert_eq!(config.listeners[1].host, "::1");
    assert_eq!(config.advertised_listeners[0].port, 19092);
    assert_eq!(config.advertised_listeners[1].host, "::1");
    assert_eq!(config.advertised_listeners[2].host, "localhost");
    assert_eq!(config.inter_broker_listener_name, "INSIDE");
    for bad in [
        "listeners=PLAINTEXT://:9092,PLAINTEXT://:9093",
        "listeners=PLAINTEXT://:9092,CONTROLLER://:9092",
        "listeners=PLAINTEXT:9092",
        "listeners=NAMED://:9092,CONTROLLER://:9093",
        "advertised.listeners=OTHER://x:1",
        "controller.quorum.voters=2@localhost:9093",
        "broker.id=2",
    ] {
        assert!(load(bad).is_err(), "{bad}");
    }
}

#[test]
fn topics_overlay_the_broker() {
    let broker = load("log.retention.hours=1\ncompression.type=zstd\ncompression.zstd.level=7");
    let broker = broker.unwrap().config;
    let topic = |pairs: &[(&str, &str)]| TopicConfig::resolve(&broker, &map(pairs));
    assert_eq!(topic(&[]).unwrap().retention_ms, 3_600_000);
    assert_eq!(topic(&[]).unwrap().compression, Compression::Zstd(7));
    let own = topic(&[
        ("compression.type", "gzip"),
        ("cleanup.policy", "compact,delete"),
    ])
    .unwrap();
    assert_eq!(own.compression, Compression::Gzip(-1));
    assert!(own.cleanup_policy.compact && own.cleanup_policy.delete);
    let none = topic(&[("cleanup.policy", "")]).unwrap().cleanup_policy;
    assert!(!none.compact && !none.delete);
    assert_eq!(
        topic(&[("nonsense", "1")]).unwrap_err().to_string(),
        "Unknown topic config name: nonsense"
    );
    assert!(
        topic(&[
            ("min.compaction.lag.ms", "5"),
            ("max.compaction.lag.ms", "4")
        ])
        .is_err()
    );
    assert!(validate_topic(&broker, &map(&[("remote.storage.enable", "true")])).is_err());
    assert!(topic(&[("leader.replication.throttled.replicas", "0:1,1:2")]).is_ok());
    assert!(topic(&[("leader.replication.throttled.replicas", "0:a")]).is_err());
}

#[test]
fn dynamic_configs_lie_over_static_ones() {
    let broker = load("log.retention.hours=1\nmessage.max.bytes=5")
        .unwrap()
        .config;
    let cluster = map(&[("log.retention.ms", "9"), ("message.max.bytes", "6")]);
    let own = map(&[("message.max.bytes", "7"), ("num.partitions", "99")]);
    let changed = broker.with_dynamic(&cluster, &own).unwrap();
    assert_eq!(changed.topics.log.retention_ms, 9);
    assert_eq!(changed.topics.log.max_message_bytes, 7);
    assert_eq!(changed.topics.num_partitions, 1);
    assert!(validate_broker(&broker, &map(&[("num.partitions", "2")]), false).is_err());
    assert!(validate_broker(&broker, &map(&[("listeners", "PLAINTEXT://:1")]), false).is_err());
    assert!(validate_broker(&broker, &map(&[("num.io.threads", "0")]), true).is_err());
    assert!(validate_broker(&broker, &map(&[("num.io.threads", "4")]), true).is_ok());
}

#[test]
fn descriptions_name_value_source_and_synonyms() {
    let broker = load("log.retention.hours=1").unwrap().config;
    let cluster = map(&[("message.max.bytes", "6")]);
    let none = ConfigMap::new();
    let entries = describe_topic(
        &broker,
        &cluster,
        &none,
        &map(&[
            ("max.message.bytes", "8"),
            ("min.cleanable.dirty.ratio", " 0.50"),
        ]),
    );
    let get = |name: &str| entries.iter().find(|e| e.name == name).unwrap();
    let size = get("max.message.bytes");
    assert_eq!(size.value.as_deref(), Some("8"));
    assert_eq!(size.source, ConfigSource::DynamicTopic);
    let sources: Vec<_> = size.synonyms.iter().map(|s| s.source).collect();
    let expected = [
        ConfigSource::DynamicTopic,
        ConfigSource::DynamicDefaultBroker,
        ConfigSource::Default,
    ];
    assert_eq!(sources, expected);
    assert_eq!(
        get("min.cleanable.dirty.ratio").value.as_deref(),
        Some("0.5")
    );
    assert_eq!(get("retention.ms").value.as_deref(), Some("3600000"));
    assert!(!entries.iter().any(|e| e.name == "internal.segment.bytes"));
    let broker_entries = describe_broker(&broker, &cluster, &none, false);
    let node = broker_entries.iter().find(|e| e.name == "node.id").unwrap();
    assert!(node.read_only && node.source == ConfigSource::StaticBroker);
    assert_eq!(describe_broker(&broker, &cluster, &none, true).len(), 1);
}

#[test]
fn groups_and_client_metrics_are_validated() {
    let broker = load("").unwrap().config;
    let group = |pairs: &[(&str, &str)]| validate_group(&broker, &map(pairs));
    group(&[]).unwrap();
    group(&[("consumer.session.timeout.ms", "50000")]).unwrap();
    assert_eq!(
        group(&[("consumer.session.timeout.ms", "1000")])
            .unwrap_err()
            .to_string(),
        "consumer.session.timeout.ms must be greater than or equal to \
         group.consumer.min.session.timeout.ms"
    );
    assert!(group(&[("nonsense", "1")]).is_err());
    let metrics = |pairs: &[(&str, &str)]| validate_client_metrics(&map(pairs));
    metrics(&[("interval.ms", "1000"), ("match", "client_id=a.*")]).unwrap();
    assert!(metrics(&[("interval.ms", "1")]).is_err());
    assert!(metrics(&[("match", "nonsense=a")]).is_err());
}

#[test]
fn flumens_own_keys() {
    let config = load("flumen.cpus=0,2-3\nflumen.shards=4\nflumen.metrics.listener=0.0.0.0:9400");
    let flumen = config.unwrap().config.flumen;
    assert_eq!(flumen.cpus, Some(vec![0, 2, 3]));
    assert_eq!(flumen.shards, Some(4));
    assert_eq!(flumen.disk_reserve_bytes, 0);
    let reserve = load("flumen.disk.reserve.bytes=1048576").unwrap().config;
    assert_eq!(reserve.flumen.disk_reserve_bytes, 1 << 20);
    assert_eq!(flumen.write_strategy, WriteStrategy::Auto);
    for (value, wanted) in [
        ("auto", WriteStrategy::Auto),
        ("inline", WriteStrategy::Inline),
        ("ring", WriteStrategy::Ring),
        ("uncached", WriteStrategy::Uncached),
        ("direct", WriteStrategy::Direct),
    ] {
        let config = load(&format!("flumen.log.write.strategy={value}"));
        assert_eq!(config.unwrap().config.flumen.write_strategy, wanted);
    }
    for bad in [
        "flumen.cpus=3-1",
        "flumen.cpus=a",
        "flumen.shards=0",
        "flumen.log.write.strategy=mmap",
        "flumen.metrics.listener=9400",
        "flumen.disk.reserve.bytes=-1",
    ] {
        assert!(load(bad).is_err(), "{bad}");
    }
    assert_eq!(load("flumen.typo=1").unwrap().unknown, ["flumen.typo"]);
}
