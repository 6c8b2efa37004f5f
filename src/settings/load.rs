//! From keys and texts to [`BrokerConfig`].

use crate::broker::*;
use crate::definitions::definition;
use crate::describe::ConfigResource;
use crate::listeners;
use crate::view::View;
use crate::{ConfigError, ConfigMap, Properties, TopicConfig, effect};
use std::path::PathBuf;

impl BrokerConfig {
    /// From a properties file (overrides already applied). Every value is validated, keys against
    /// each other too.
    pub fn load(properties: &Properties) -> Result<Loaded, ConfigError> {
        let mut originals = properties.entries().clone();
        for (from, to) in [("broker.id", "node.id"), ("node.id", "broker.id")] {
            if let (Some(id), false) = (originals.get(from).cloned(), originals.contains_key(to)) {
                originals.insert(to.to_owned(), id);
            }
        }
        effect::refuse_unprotected(&originals)?;
        for (name, text) in &originals {
            if let Some(definition) = definition(ConfigResource::Broker, name) {
                definition.parse(text)?;
            }
        }
        let config = Self::from_view(
            &View {
                layers: &[&originals],
            },
            &originals,
        )?;
        let without_effect = effect::without_effect(&originals);
        let known = |name: &String| {
            definition(ConfigResource::Broker, name).is_some_and(|d| !d.dynamic_only)
                || name.starts_with("listener.name.")
        };
        let unknown = originals.keys().filter(|n| !known(n)).cloned().collect();
        Ok(Loaded {
            config,
            without_effect,
            unknown,
        })
    }

    /// This configuration with the dynamic configs of the cluster (default resource) and of this
    /// broker laid over it.
    /// Keys that are read-only or that need the broker to restart keep their static values.
    pub fn with_dynamic(
        &self,
        cluster: &ConfigMap,
        broker_dynamic: &ConfigMap,
    ) -> Result<Self, ConfigError> {
        let cluster = crate::validate::dynamic_only(cluster);
        let broker_dynamic = crate::validate::dynamic_only(broker_dynamic);
        let mut config = Self::from_view(
            &View {
                layers: &[&broker_dynamic, &cluster, &self.originals],
            },
            &self.originals,
        )?;
        // Sockets are opened at the start only.
        config.listeners.clone_from(&self.listeners);
        config
            .advertised_listeners
            .clone_from(&self.advertised_listeners);
        Ok(config)
    }

    fn from_view(view: &View<'_>, originals: &ConfigMap) -> Result<Self, ConfigError> {
        let node_id = view.int("node.id")?;
        if view.int("broker.id")? != node_id {
            return Err(ConfigError::Refused(
                "You must set `node.id` to the same value as `broker.id`.".to_owned(),
            ));
        }
        let roles = roles(view)?;
        let quorum = quorum(view)?;
        let listeners = listeners::load(view, &quorum.voters, node_id)?;
        let log_dirs = log_dirs(view)?;
        let config = Self {
            node_id,
            roles,
            rack: view.opt_text("broker.rack")?,
            listeners: listeners.listeners,
            advertised_listeners: listeners.advertised,
            inter_broker_listener_name: listeners.inter_broker_name,
            controller_listener_names: listeners.controller_names,
            metadata_log_dir: match view.opt_text("metadata.log.dir")? {
                Some(dir) => PathBuf::from(dir),
                None => log_dirs.first().cloned().unwrap_or_default(),
            },
            log_dirs,
            quorum,
            network: network(view)?,
            topics: topics(view)?,
            log: log(view)?,
            groups: groups(view)?,
            offsets: offsets(view)?,
            transactions: transactions(view)?,
            share: crate::share::load(view)?,
            fetch: FetchSettings {
                max_bytes: view.int("fetch.max.bytes")?,
                max_incremental_fetch_session_cache_slots: view
                    .int("max.incremental.fetch.session.cache.slots")?,
                replica_selector_class: view.opt_text("replica.selector.class")?,
            },
            flumen: flumen(view)?,
            originals: originals.clone(),
        };
        crate::validate::broker_values(view, &config)?;
        Ok(config)
    }
}

fn roles(view: &View<'_>) -> Result<Roles, ConfigError> {
    let roles = view.list("process.roles")?;
    Ok(Roles {
        broker: roles.iter().any(|r| r == "broker"),
        controller: roles.iter().any(|r| r == "controller"),
    })
}

fn log_dirs(view: &View<'_>) -> Result<Vec<PathBuf>, ConfigError> {
    let dirs = match view.opt_list("log.dirs")? {
        Some(dirs) => dirs,
        None => view.list("log.dir")?,
    };
    Ok(dirs.into_iter().map(PathBuf::from).collect())
}

fn quorum(v: &View<'_>) -> Result<QuorumSettings, ConfigError> {
    Ok(QuorumSettings {
        voters: listeners::parse_voters(&v.list("controller.quorum.voters")?)?,
        bootstrap_servers: v.list("controller.quorum.bootstrap.servers")?,
        election_timeout_ms: v.int("controller.quorum.election.timeout.ms")?,
        election_backoff_max_ms: v.int("controller.quorum.election.backoff.max.ms")?,
        fetch_timeout_ms: v.int("controller.quorum.fetch.timeout.ms")?,
        request_timeout_ms: v.int("controller.quorum.request.timeout.ms")?,
        snapshot_after_bytes: v.long("metadata.log.max.record.bytes.between.snapshots")?,
        snapshot_interval_ms: v.long("metadata.log.max.snapshot.interval.ms")?,
        unstable_api_versions: v.bool("unstable.api.versions.enable")?,
        unstable_feature_versions: v.bool("unstable.feature.versions.enable")?,
        metadata_log_segment_bytes: v.int("metadata.log.segment.bytes")?,
        metadata_max_retention_bytes: v.long("metadata.max.retention.bytes")?,
        metadata_max_retention_ms: v.long("metadata.max.retention.ms")?,
        broker_heartbeat_interval_ms: v.int("broker.heartbeat.interval.ms")?,
        broker_session_timeout_ms: v.int("broker.session.timeout.ms")?,
    })
}

fn network(v: &View<'_>) -> Result<NetworkSettings, ConfigError> {
    Ok(NetworkSettings {
        request_max_bytes: v.int("socket.request.max.bytes")?,
        connections_max_idle_ms: v.long("connections.max.idle.ms")?,
        max_connections: v.int("max.connections")?,
        max_connections_per_ip: v.int("max.connections.per.ip")?,
        socket_send_buffer_bytes: v.int("socket.send.buffer.bytes")?,
        socket_receive_buffer_bytes: v.int("socket.receive.buffer.bytes")?,
        socket_listen_backlog_size: v.int("socket.listen.backlog.size")?,
        request_timeout_ms: v.int("request.timeout.ms")?,
    })
}

fn topics(v: &View<'_>) -> Result<TopicSettings, ConfigError> {
    let (log, compression_levels) = TopicConfig::load(v)?;
    let factor = v.int("default.replication.factor")?;
    Ok(TopicSettings {
        num_partitions: v.int("num.partitions")?,
        default_replication_factor: i16::try_from(factor).unwrap_or(i16::MAX),
        auto_create_topics_enable: v.bool("auto.create.topics.enable")?,
        delete_topic_enable: v.bool("delete.topic.enable")?,
        max_request_partition_size_limit: v.int("max.request.partition.size.limit")?,
        log,
        compression_levels,
    })
}

fn log(v: &View<'_>) -> Result<LogSettings, ConfigError> {
    Ok(LogSettings {
        retention_check_interval_ms: v.long("log.retention.check.interval.ms")?,
        flush_scheduler_interval_ms: v.long("log.flush.scheduler.interval.ms")?,
        flush_offset_checkpoint_interval_ms: v.int("log.flush.offset.checkpoint.interval.ms")?,
        flush_start_offset_checkpoint_interval_ms: v
            .int("log.flush.start.offset.checkpoint.interval.ms")?,
        initial_task_delay_ms: v.long("log.initial.task.delay.ms")?,
        dir_failure_timeout_ms: v.long("log.dir.failure.timeout.ms")?,
        cleaner_enable: v.bool("log.cleaner.enable")?,
        cleaner_threads: v.int("log.cleaner.threads")?,
        cleaner_backoff_ms: v.long("log.cleaner.backoff.ms")?,
        cleaner_dedupe_buffer_bytes: v.long("log.cleaner.dedupe.buffer.size")?,
        cleaner_io_buffer_bytes: v.int("log.cleaner.io.buffer.size")?,
        cleaner_io_buffer_load_factor: v.double("log.cleaner.io.buffer.load.factor")?,
        cleaner_io_max_bytes_per_second: v.double("log.cleaner.io.max.bytes.per.second")?,
        recovery_threads_per_data_dir: v.int("num.recovery.threads.per.data.dir")?,
        producer_id_expiration_ms: v.int("producer.id.expiration.ms")?,
        producer_id_expiration_check_interval_ms: v
            .int("producer.id.expiration.check.interval.ms")?,
        transaction_partition_verification_enable: v
            .bool("transaction.partition.verification.enable")?,
        high_watermark_checkpoint_interval_ms: v
            .long("replica.high.watermark.checkpoint.interval.ms")?,
        alter_dirs_bytes_per_second: v.long("replica.alter.log.dirs.io.max.bytes.per.second")?,
    })
}

fn groups(v: &View<'_>) -> Result<GroupSettings, ConfigError> {
    Ok(GroupSettings {
        min_session_timeout_ms: v.int("group.min.session.timeout.ms")?,
        max_session_timeout_ms: v.int("group.max.session.timeout.ms")?,
        initial_rebalance_delay_ms: v.int("group.initial.rebalance.delay.ms")?,
        max_size: v.int("group.max.size")?,
        coordinator_threads: v.int("group.coordinator.threads")?,
        coordinator_append_linger_ms: v.int("group.coordinator.append.linger.ms")?,
        coordinator_rebalance_protocols: v.list("group.coordinator.rebalance.protocols")?,
        consumer_session_timeout_ms: v.int("group.consumer.session.timeout.ms")?,
        consumer_min_session_timeout_ms: v.int("group.consumer.min.session.timeout.ms")?,
        consumer_max_session_timeout_ms: v.int("group.consumer.max.session.timeout.ms")?,
        consumer_heartbeat_interval_ms: v.int("group.consumer.heartbeat.interval.ms")?,
        consumer_min_heartbeat_interval_ms: v.int("group.consumer.min.heartbeat.interval.ms")?,
        consumer_max_heartbeat_interval_ms: v.int("group.consumer.max.heartbeat.interval.ms")?,
        consumer_assignment_interval_ms: v.int("group.consumer.assignment.interval.ms")?,
        consumer_min_assignment_interval_ms: v.int("group.consumer.min.assignment.interval.ms")?,
        consumer_max_assignment_interval_ms: v.int("group.consumer.max.assignment.interval.ms")?,
        consumer_max_size: v.int("group.consumer.max.size")?,
        consumer_assignors: v.list("group.consumer.assignors")?,
        consumer_migration_policy: v
            .text("group.consumer.migration.policy")?
            .to_ascii_lowercase(),
        consumer_regex_refresh_interval_ms: v.int("group.consumer.regex.refresh.interval.ms")?,
        streams_session_timeout_ms: v.int("group.streams.session.timeout.ms")?,
        streams_min_session_timeout_ms: v.int("group.streams.min.session.timeout.ms")?,
        streams_max_session_timeout_ms: v.int("group.streams.max.session.timeout.ms")?,
        streams_heartbeat_interval_ms: v.int("group.streams.heartbeat.interval.ms")?,
        streams_min_heartbeat_interval_ms: v.int("group.streams.min.heartbeat.interval.ms")?,
        streams_max_heartbeat_interval_ms: v.int("group.streams.max.heartbeat.interval.ms")?,
        streams_assignment_interval_ms: v.int("group.streams.assignment.interval.ms")?,
        streams_min_assignment_interval_ms: v.int("group.streams.min.assignment.interval.ms")?,
        streams_max_assignment_interval_ms: v.int("group.streams.max.assignment.interval.ms")?,
        streams_initial_rebalance_delay_ms: v.int("group.streams.initial.rebalance.delay.ms")?,
        streams_num_standby_replicas: v.int("group.streams.num.standby.replicas")?,
        streams_max_standby_replicas: v.int("group.streams.max.standby.replicas")?,
        streams_max_size: v.int("group.streams.max.size")?,
    })
}

fn offsets(v: &View<'_>) -> Result<OffsetsSettings, ConfigError> {
    let codec = v.int("offsets.topic.compression.codec")?;
    Ok(OffsetsSettings {
        topic_num_partitions: v.int("offsets.topic.num.partitions")?,
        topic_replication_factor: v.short("offsets.topic.replication.factor")?,
        topic_segment_bytes: v.int("offsets.topic.segment.bytes")?,
        topic_compression_codec: match i8::try_from(codec) {
            Ok(codec @ 0..=4) => codec,
            _ => {
                let unknown = format!("Unknown compression type id: {codec}");
                return Err(ConfigError::Refused(unknown));
            }
        },
        load_buffer_size: v.int("offsets.load.buffer.size")?,
        retention_minutes: v.int("offsets.retention.minutes")?,
        retention_check_interval_ms: v.long("offsets.retention.check.interval.ms")?,
        commit_timeout_ms: v.int("offsets.commit.timeout.ms")?,
        metadata_max_bytes: v.int("offset.metadata.max.bytes")?,
    })
}

fn transactions(v: &View<'_>) -> Result<TransactionSettings, ConfigError> {
    Ok(TransactionSettings {
        max_timeout_ms: v.int("transaction.max.timeout.ms")?,
        state_log_num_partitions: v.int("transaction.state.log.num.partitions")?,
        state_log_replication_factor: v.short("transaction.state.log.replication.factor")?,
        state_log_segment_bytes: v.int("transaction.state.log.segment.bytes")?,
        state_log_min_isr: v.int("transaction.state.log.min.isr")?,
        state_log_load_buffer_size: v.int("transaction.state.log.load.buffer.size")?,
        transactional_id_expiration_ms: v.int("transactional.id.expiration.ms")?,
        abort_timed_out_cleanup_interval_ms: v
            .int("transaction.abort.timed.out.transaction.cleanup.interval.ms")?,
        remove_expired_cleanup_interval_ms: v
            .int("transaction.remove.expired.transaction.cleanup.interval.ms")?,
        two_phase_commit_enable: v.bool("transaction.two.phase.commit.enable")?,
        add_partitions_retry_backoff_ms: v.int("add.partitions.to.txn.retry.backoff.ms")?,
        add_partitions_retry_backoff_max_ms: v.int("add.partitions.to.txn.retry.backoff.max.ms")?,
    })
}

fn flumen(v: &View<'_>) -> Result<FlumenSettings, ConfigError> {
    let shards = v.opt_int("flumen.shards")?;
    let splice = v.int("flumen.fetch.splice.min.bytes")?;
    Ok(FlumenSettings {
        cpus: v.opt_text("flumen.cpus")?.map(|t| cpus(&t)).transpose()?,
        shards: shards.and_then(|n| u16::try_from(n).ok()),
        write_strategy: match v.text("flumen.log.write.strategy")?.as_str() {
            "inline" => WriteStrategy::Inline,
            "ring" => WriteStrategy::Ring,
            "uncached" => WriteStrategy::Uncached,
            "direct" => WriteStrategy::Direct,
            _ => WriteStrategy::Auto,
        },
        metrics_listener: match v.opt_text("flumen.metrics.listener")? {
            Some(address) if !address.is_empty() => {
                listeners::parse_host_port(&address).map_err(|_| {
                    let reason = "Expected host:port";
                    ConfigError::invalid("flumen.metrics.listener", &address, reason)
                })?;
                Some(address)
            }
            _ => None,
        },
        fetch_splice_min_bytes: u32::try_from(splice).unwrap_or(u32::MAX),
        log_sync_before_ack: v.bool("flumen.log.sync.before.ack")?,
        disk_reserve_bytes: u64::try_from(v.long("flumen.disk.reserve.bytes")?).unwrap_or(0),
    })
}

/// `0,2-3` as the numbers it stands for.
fn cpus(text: &str) -> Result<Vec<usize>, ConfigError> {
    let bad = || {
        let reason = "Expected CPU numbers and ranges such as 0,2-3";
        ConfigError::invalid("flumen.cpus", text, reason)
    };
    let mut cpus = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| bad())?;
        let last: usize = last.trim().parse().map_err(|_| bad())?;
        if first > last || last > 4095 {
            return Err(bad());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus.into_iter().collect())
}
