//! Checks of whole sets of configurations, with Kafka's messages.

use crate::broker::BrokerConfig;
use crate::definitions::{Definition, UpdateMode, definition, definitions};
use crate::describe::ConfigResource;
use crate::value::Value;
use crate::view::View;
use crate::{ConfigError, ConfigMap, TopicConfig};
use std::collections::BTreeSet;

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::Refused(message()))
    }
}

/// Checks a topic's whole set of overrides (names, values, and values against each other and the
/// broker's).
pub fn validate_topic(broker: &BrokerConfig, overrides: &ConfigMap) -> Result<(), ConfigError> {
    let config = TopicConfig::resolve(broker, overrides)?;
    require(!config.remote_storage_enable, || {
        "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with \
         remote log storage."
            .to_owned()
    })
}

/// Checks the dynamic configs of one broker (`per_broker`) or of the cluster-wide default resource.
pub fn validate_broker(
    broker: &BrokerConfig,
    configs: &ConfigMap,
    per_broker: bool,
) -> Result<(), ConfigError> {
    let bases: Vec<(&str, &str)> = configs
        .iter()
        .map(|(name, value)| (listener_base(name).unwrap_or(name), value.as_str()))
        .collect();
    let find = |name: &str| definition(ConfigResource::Broker, name);
    let read_only = |name: &&String| find(name).is_some_and(|d| d.mode == UpdateMode::ReadOnly);
    invalid_keys(
        configs.keys().filter(read_only),
        "Cannot update these configs dynamically",
    )?;
    let security = |name: &&String| {
        name.starts_with("ssl.") || name.starts_with("sasl.") || *name == "principal.builder.class"
    };
    invalid_keys(
        configs.keys().filter(security),
        "These security configs can be dynamically updated only per-listener using the listener \
         prefix",
    )?;
    for (name, value) in bases {
        if let Some(definition) = find(name) {
            definition.parse(value)?;
        }
    }
    if !per_broker {
        let own = |name: &&String| {
            find(name).is_some_and(|d| d.mode == UpdateMode::PerBroker)
                || listener_base(name).is_some_and(|base| !base.starts_with("max.connection"))
        };
        invalid_keys(
            configs.keys().filter(own),
            "Cannot update these configs at default cluster level, broker id must be specified",
        )?;
    }
    let nothing = ConfigMap::new();
    let (cluster, own) = if per_broker {
        (&nothing, configs)
    } else {
        (configs, &nothing)
    };
    broker.with_dynamic(cluster, own).map(drop)
}

/// The configuration behind `listener.name.{name}.{configuration}`.
fn listener_base(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("listener.name.")?;
    rest.split_once('.').map(|(_, base)| base)
}

fn invalid_keys<'a>(
    names: impl Iterator<Item = &'a String>,
    message: &str,
) -> Result<(), ConfigError> {
    let names: Vec<&str> = names.map(String::as_str).collect();
    require(names.is_empty(), || {
        format!("{message}: [{}]", names.join(", "))
    })
}

/// The part of a dynamic layer that a running broker takes over.
pub(crate) fn dynamic_only(configs: &ConfigMap) -> ConfigMap {
    let applies = |name: &str| {
        definition(ConfigResource::Broker, name)
            .is_some_and(|d| d.mode == UpdateMode::ClusterWide && !d.dynamic_only)
    };
    configs
        .iter()
        .filter(|(name, _)| applies(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Checks a group's configs. Values outside the broker's own bounds are refused too.
pub fn validate_group(broker: &BrokerConfig, overrides: &ConfigMap) -> Result<(), ConfigError> {
    let view = View {
        layers: &[&broker.originals],
    };
    for (name, text) in overrides {
        let unknown = || ConfigError::Unknown {
            kind: "group",
            name: name.clone(),
        };
        let definition = definition(ConfigResource::Group, name).ok_or_else(unknown)?;
        definition.parse(text)?;
    }
    let get = |name: &str| group_int(&view, overrides, name);
    for definition in definitions(ConfigResource::Group).values() {
        group_bounds(&view, overrides, definition)?;
    }
    for kind in ["consumer", "share", "streams"] {
        let (session, heartbeat) = (
            format!("{kind}.session.timeout.ms"),
            format!("{kind}.heartbeat.interval.ms"),
        );
        require(get(&session)? > get(&heartbeat)?, || {
            format!("{session} must be greater than {heartbeat}")
        })?;
    }
    Ok(())
}

/// The group's own value of an int, else the broker's.
fn group_int(view: &View<'_>, overrides: &ConfigMap, name: &str) -> Result<i64, ConfigError> {
    let missing = || ConfigError::Missing(name.to_owned());
    let definition = definition(ConfigResource::Group, name).ok_or_else(missing)?;
    let value = match (overrides.get(name), definition.synonyms.first()) {
        (Some(text), _) => Some(definition.parse(text)?),
        (None, Some((synonym, _))) => view.value(synonym)?,
        (None, None) => definition.default_value(),
    };
    match value {
        Some(Value::Int(n)) => Ok(i64::from(n)),
        _ => Err(missing()),
    }
}

/// `group.{kind}.min.{rest}` and `group.{kind}.max.{rest}` bound `{kind}.{rest}`, where the broker
/// has such keys.
fn group_bounds(
    view: &View<'_>,
    overrides: &ConfigMap,
    bounded: &Definition,
) -> Result<(), ConfigError> {
    let name = bounded.name;
    let Some((kind, rest)) = name.split_once('.') else {
        return Ok(());
    };
    if rest == "assignment.interval.ms" && !overrides.contains_key(name) {
        return Ok(());
    }
    let rest = rest.strip_prefix("num.").unwrap_or(rest);
    for (bound, below) in [("min", true), ("max", false)] {
        let key = format!("group.{kind}.{bound}.{rest}");
        if definition(ConfigResource::Broker, &key).is_none() {
            continue;
        }
        let (limit, value) = (
            i64::from(view.int(&key)?),
            group_int(view, overrides, name)?,
        );
        let (outside, how) = if below {
            (value < limit, "greater")
        } else {
            (value > limit, "less")
        };
        require(!outside, || {
            format!("{name} must be {how} than or equal to {key}")
        })?;
    }
    Ok(())
}

/// Checks a client-metrics subscription. Patterns are checked for their form, not compiled.
pub fn validate_client_metrics(overrides: &ConfigMap) -> Result<(), ConfigError> {
    for (name, text) in overrides {
        let unknown =
            || ConfigError::Refused(format!("Unknown client metrics configuration: {name}"));
        let definition = definition(ConfigResource::ClientMetrics, name).ok_or_else(unknown)?;
        match definition.parse(text)? {
            Value::Int(n) => require((100..=3_600_000).contains(&n), || {
                format!(
                    "Invalid value {n} for interval.ms, interval must be between 100 and 3600000 \
                     (1 hour)"
                )
            })?,
            Value::List(items) if name == "match" => {
                for item in items {
                    require(is_match_pattern(&item), || {
                        format!("Illegal client matching pattern: {item}")
                    })?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_match_pattern(text: &str) -> bool {
    let known = [
        "client_instance_id",
        "client_id",
        "client_software_name",
        "client_software_version",
        "client_source_address",
        "client_source_port",
    ];
    match text.split_once('=') {
        Some((name, pattern)) => {
            known.contains(&name.trim()) && !pattern.is_empty() && !pattern.contains('=')
        }
        None => false,
    }
}

/// The broker's values against each other.
pub(crate) fn broker_values(v: &View<'_>, c: &BrokerConfig) -> Result<(), ConfigError> {
    let log = &c.topics.log;
    require(log.segment_ms >= 1, || {
        "log.roll.ms must be greater than or equal to 1".to_owned()
    })?;
    require(log.segment_jitter_ms >= 0, || {
        "log.roll.jitter.ms must be greater than or equal to 0".to_owned()
    })?;
    require(log.retention_ms == -1 || log.retention_ms >= 1, || {
        "log.retention.ms must be unlimited (-1) or, greater than or equal to 1".to_owned()
    })?;
    require(!c.log_dirs.is_empty(), || {
        "At least one log directory must be defined via log.dirs or log.dir.".to_owned()
    })?;
    let threads = i64::from(c.log.cleaner_threads.max(1));
    require(
        c.log.cleaner_dedupe_buffer_bytes / threads > 1 << 20,
        || "log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread.".to_owned(),
    )?;
    require(
        log.min_compaction_lag_ms <= log.max_compaction_lag_ms,
        || {
            "log.cleaner.min.compaction.lag.ms must not exceed log.cleaner.max.compaction.lag.ms"
                .to_owned()
        },
    )?;
    let queued = v.long("queued.max.request.bytes")?;
    let frame = i64::from(c.network.request_max_bytes);
    require(queued <= 0 || queued >= frame, || {
        "queued.max.request.bytes must be larger or equal to socket.request.max.bytes".to_owned()
    })?;
    let protocols = &c.groups.coordinator_rebalance_protocols;
    require(protocols.iter().any(|p| p == "classic"), || {
        "Disabling the 'classic' protocol is not supported.".to_owned()
    })?;
    consumer_groups(c)?;
    streams_groups(c)?;
    crate::share::validate(c)?;
    roles_and_listeners(c)
}

/// A key with the key below and the key above it.
pub(crate) type Bounded = (&'static str, i32, i32, i32);

/// `group.consumer.*` within their bounds.
fn consumer_groups(c: &BrokerConfig) -> Result<(), ConfigError> {
    let g = &c.groups;
    let bounded = [
        (
            "heartbeat.interval.ms",
            g.consumer_min_heartbeat_interval_ms,
            g.consumer_heartbeat_interval_ms,
            g.consumer_max_heartbeat_interval_ms,
        ),
        (
            "session.timeout.ms",
            g.consumer_min_session_timeout_ms,
            g.consumer_session_timeout_ms,
            g.consumer_max_session_timeout_ms,
        ),
        (
            "assignment.interval.ms",
            g.consumer_min_assignment_interval_ms,
            g.consumer_assignment_interval_ms,
            g.consumer_max_assignment_interval_ms,
        ),
    ];
    let beats = g.consumer_heartbeat_interval_ms < g.consumer_session_timeout_ms;
    group_kind("consumer", &bounded, beats)
}

/// `group.streams.*` within their bounds.
fn streams_groups(c: &BrokerConfig) -> Result<(), ConfigError> {
    let g = &c.groups;
    let bounded = [
        (
            "heartbeat.interval.ms",
            g.streams_min_heartbeat_interval_ms,
            g.streams_heartbeat_interval_ms,
            g.streams_max_heartbeat_interval_ms,
        ),
        (
            "session.timeout.ms",
            g.streams_min_session_timeout_ms,
            g.streams_session_timeout_ms,
            g.streams_max_session_timeout_ms,
        ),
        (
            "assignment.interval.ms",
            g.streams_min_assignment_interval_ms,
            g.streams_assignment_interval_ms,
            g.streams_max_assignment_interval_ms,
        ),
    ];
    let beats = g.streams_heartbeat_interval_ms < g.streams_session_timeout_ms;
    group_kind("streams", &bounded, beats)?;
    let fits = g.streams_num_standby_replicas <= g.streams_max_standby_replicas;
    require(fits, || {
        "group.streams.num.standby.replicas must be less than or equal to \
         group.streams.max.standby.replicas"
            .to_owned()
    })
}

/// The keys of one kind of groups; `beats`: a heartbeat comes within the session.
pub(crate) fn group_kind(kind: &str, bounded: &[Bounded], beats: bool) -> Result<(), ConfigError> {
    for (key, min, value, max) in bounded {
        let key = |bound: &str| format!("group.{kind}.{bound}{key}");
        require(max >= min, || {
            format!(
                "{} must be greater than or equal to {}",
                key("max."),
                key("min.")
            )
        })?;
        require(value >= min, || {
            format!(
                "{} must be greater than or equal to {}",
                key(""),
                key("min.")
            )
        })?;
        require(value <= max, || {
            format!("{} must be less than or equal to {}", key(""), key("max."))
        })?;
    }
    require(beats, || {
        format!(
            "group.{kind}.heartbeat.interval.ms must be less than group.{kind}.session.timeout.ms"
        )
    })
}

/// What `process.roles` asks of listeners and voters.
fn roles_and_listeners(c: &BrokerConfig) -> Result<(), ConfigError> {
    let (voters, listeners) = (&c.quorum.voters, &c.listeners);
    require(
        !voters.is_empty() || !c.quorum.bootstrap_servers.is_empty(),
        || {
            "If using process.roles, either controller.quorum.bootstrap.servers must contain the \
             set of bootstrap controllers or controller.quorum.voters must contain a parseable set \
             of controllers."
                .to_owned()
        },
    )?;
    require(c.roles.broker && c.roles.controller, || {
        "process.roles must be broker,controller: Flumen runs as a single node so far".to_owned()
    })?;
    let ids: BTreeSet<i32> = voters.iter().map(|v| v.node_id).collect();
    require(ids.is_empty() || ids.contains(&c.node_id), || {
        format!(
            "If process.roles contains the 'controller' role, the node id {} must be included in \
             the set of voters controller.quorum.voters={ids:?}",
            c.node_id
        )
    })?;
    require(ids.len() <= 1, || {
        "controller.quorum.voters names several nodes: Flumen runs as a single node so far"
            .to_owned()
    })?;
    let present = |name: &String| listeners.iter().any(|l| l.name.eq_ignore_ascii_case(name));
    require(c.controller_listener_names.iter().all(present), || {
        "controller.listener.names must only contain values appearing in the 'listeners' \
         configuration when running the KRaft controller role"
            .to_owned()
    })?;
    let brokers: Vec<&str> = listeners
        .iter()
        .filter(|l| !l.controller)
        .map(|l| l.name.as_str())
        .collect();
    require(!brokers.is_empty(), || {
        "There must be at least one broker advertised listener. Perhaps all listeners appear in \
         controller.listener.names?"
            .to_owned()
    })?;
    require(
        brokers.contains(&c.inter_broker_listener_name.as_str()),
        || {
            format!(
                "inter.broker.listener.name must be a listener name defined in \
                 advertised.listeners. The valid options based on currently configured listeners \
                 are {}",
                brokers.join(",")
            )
        },
    )?;
    require(
        c.advertised_listeners.iter().all(|l| l.host != "0.0.0.0"),
        || {
            "advertised.listeners cannot use the nonroutable meta-address 0.0.0.0. Use a \
             routable IP address."
                .to_owned()
        },
    )
}
