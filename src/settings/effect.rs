//! Which configurations do something in Flumen: for the log line at the start, and for
//! docs/protocol-support.md.

use crate::definitions::{Definition, definition};
use crate::describe::ConfigResource;
use crate::{ConfigError, ConfigMap};

/// What setting a configuration does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What it does in Kafka.
    Works,
    /// It is checked, stored and shown; nothing else, for the reason given.
    Stored(&'static str),
    /// The broker refuses to start with it.
    Refused(&'static str),
}

const TIERED: &str = "tiered storage is not built";
const POOLS: &str = "shards per core take the place of Kafka's thread pools and queues";
const PURGATORY: &str = "waiting requests have deadlines, there are no purgatories to purge";
const METRICS: &str = "metrics are served as Prometheus text: flumen.metrics.listener";
const SINGLE: &str = "brokers do not replicate partitions yet";
const QUOTAS: &str = "quotas are not built yet";
const ONE_ASSIGNOR: &str = "the simple assignor is built in, classes of Java are not";
const ALWAYS_WRITTEN: &str = "state is written with each turn";
const COLD: &str = "snapshots follow updates only";
const PLAIN: &str = "state is not compressed";
const TXN: &str = "two-phase commit (KIP-939) is refused";
const TLS: &str = "TLS and SASL";
const ACLS: &str = "authorization";

/// Longest matching prefix wins; a key that no prefix matches works.
const STORED: &[(&str, &str)] = &[
    ("remote.", TIERED),
    ("local.retention.", TIERED),
    ("log.local.retention.", TIERED),
    ("follower.fetch.last.tiered", TIERED),
    ("num.network.threads", POOLS),
    ("num.io.threads", POOLS),
    ("num.replica.alter.log.dirs.threads", POOLS),
    ("background.threads", POOLS),
    ("queued.max.", POOLS),
    ("group.coordinator.threads", POOLS),
    ("group.coordinator.background.threads", POOLS),
    ("group.coordinator.append.linger.ms", POOLS),
    ("group.coordinator.cached.buffer", POOLS),
    ("fetch.purgatory.", PURGATORY),
    ("producer.purgatory.", PURGATORY),
    ("delete.records.purgatory.", PURGATORY),
    ("metric.reporters", METRICS),
    ("metrics.num.samples", METRICS),
    ("metrics.recording.level", METRICS),
    ("metrics.sample.window", METRICS),
    ("kafka.metrics.", METRICS),
    ("telemetry.", METRICS),
    ("replica.", SINGLE),
    (
        "replica.high.watermark.",
        "the high watermark of a single replica is its log's end",
    ),
    ("num.replica.fetchers", SINGLE),
    ("unclean.leader.election.", SINGLE),
    ("auto.leader.rebalance", SINGLE),
    ("leader.imbalance.", SINGLE),
    ("controller.quorum.fetch", SINGLE),
    ("controller.quorum.election", SINGLE),
    ("controller.quorum.request", SINGLE),
    ("controller.quorum.retry", SINGLE),
    ("controller.quorum.append", SINGLE),
    ("controller.quorum.auto.join", SINGLE),
    ("controller.socket.", SINGLE),
    ("controller.performance.", METRICS),
    ("controlled.shutdown.", SINGLE),
    ("broker.heartbeat.", SINGLE),
    ("broker.session.", SINGLE),
    ("initial.broker.registration", SINGLE),
    ("socket.connection.setup.", SINGLE),
    ("leader.replication.throttled.", SINGLE),
    ("follower.replication.throttled.", SINGLE),
    ("replication.quota.", QUOTAS),
    ("alter.log.dirs.replication.quota.", QUOTAS),
    ("controller.quota.", QUOTAS),
    ("quota.", QUOTAS),
    ("max.connection.creation.rate", QUOTAS),
    ("group.share.assignors", ONE_ASSIGNOR),
    ("share.coordinator.append.linger.ms", ALWAYS_WRITTEN),
    ("share.coordinator.cached.buffer", POOLS),
    ("share.coordinator.threads", POOLS),
    ("share.coordinator.write.timeout.ms", ALWAYS_WRITTEN),
    ("share.coordinator.cold.partition", COLD),
    ("share.coordinator.state.topic.compression.codec", PLAIN),
    ("share.fetch.purgatory.", PURGATORY),
    ("transaction.two.phase.commit.", TXN),
    ("log.cleaner.threads", POOLS),
    (
        "connection.failed.authentication",
        "there is no authentication yet",
    ),
    ("connections.max.reauth", "there is no authentication yet"),
    ("delegation.token.", "there is no authentication yet"),
    ("early.start.listeners", "there is no authorization yet"),
    ("interval.ms", METRICS),
    ("match", METRICS),
    ("internal.metadata.", "the metadata log has its own format"),
    (
        "metadata.log.segment.",
        "the metadata log has its own format",
    ),
    ("metadata.max.", "the metadata log has its own format"),
    ("cordoned.log.dirs", "not built yet"),
    ("server.max.startup.time.ms", "not built yet"),
];

/// Keys that work although others of their prefix do not.
const WORKING: &[&str] = &["replica.alter.log.dirs.io.max.bytes.per.second"];

/// What setting this configuration does.
pub fn effect(definition: &Definition) -> Effect {
    if let (ConfigResource::Broker, Some(what)) = (definition.resource, protection(definition.name))
    {
        return Effect::Refused(what);
    }
    if definition.resource == ConfigResource::ClientMetrics {
        return Effect::Stored(METRICS);
    }
    if WORKING.contains(&definition.name) {
        return Effect::Works;
    }
    STORED
        .iter()
        .filter(|(prefix, _)| definition.name.starts_with(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map_or(Effect::Works, |(_, reason)| Effect::Stored(reason))
}

/// The protection that a key asks for, if it is one that is not built.
fn protection(name: &str) -> Option<&'static str> {
    let base = match name.strip_prefix("listener.name.") {
        Some(rest) => rest.split_once('.').map_or(rest, |(_, base)| base),
        None => name,
    };
    let mechanism = [".sasl.jaas.config", ".sasl.login.", ".sasl.server.callback"];
    if base.starts_with("ssl.")
        || base.starts_with("sasl.")
        || mechanism.iter().any(|m| base.contains(m))
    {
        return Some(TLS);
    }
    match base {
        "security.providers" | "delegation.token.secret.key" | "principal.builder.class" => {
            Some(TLS)
        }
        "authorizer.class.name" | "super.users" | "allow.everyone.if.no.acl.found" => Some(ACLS),
        "create.topic.policy.class.name" | "alter.config.policy.class.name" => {
            Some("policies in Java classes")
        }
        "client.quota.callback.class" => Some("quotas"),
        "config.providers" => Some("secrets from configuration providers"),
        _ => None,
    }
}

/// Refuses keys whose protection is not built. A key that is set to nothing or to its own default
/// asks for nothing.
pub(crate) fn refuse_unprotected(originals: &ConfigMap) -> Result<(), ConfigError> {
    for (name, value) in originals {
        let Some(what) = protection(name) else {
            continue;
        };
        let definition = definition(ConfigResource::Broker, name);
        let default = definition.and_then(Definition::default_value);
        let is_default = definition
            .and_then(|d| d.parse(value).ok())
            .is_some_and(|v| Some(v) == default);
        if value.trim().is_empty() || is_default {
            continue;
        }
        let secret = name.contains("password") || name.contains("jaas") || name.contains("secret");
        return Err(ConfigError::Unprotected {
            name: name.clone(),
            value: if secret { "[hidden]" } else { value }.to_owned(),
            what,
        });
    }
    Ok(())
}

/// The keys that are set and do nothing here, each with its reason.
pub(crate) fn without_effect(originals: &ConfigMap) -> Vec<(String, &'static str)> {
    let mut keys = Vec::new();
    for name in originals.keys() {
        let Some(definition) = definition(ConfigResource::Broker, name) else {
            continue;
        };
        if let Effect::Stored(reason) = effect(definition) {
            keys.push((name.clone(), reason));
        }
    }
    keys
}
