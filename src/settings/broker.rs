//! The typed configuration of the broker.

use crate::{ConfigMap, ShareSettings, TopicConfig, topic::CompressionLevels};
use std::path::PathBuf;

/// `process.roles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Roles {
    pub broker: bool,
    pub controller: bool,
}

/// One of `listeners` (or `advertised.listeners`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name, upper case.
    pub name: String,
    /// Host as configured; empty means every interface (in `listeners`).
    pub host: String,
    /// Port; 0 in `listeners` means any free one.
    pub port: u16,
    /// Whether it is one of `controller.listener.names`.
    pub controller: bool,
}

/// One of `controller.quorum.voters`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Voter {
    pub node_id: i32,
    pub host: String,
    pub port: u16,
}

/// Keys of the controller quorum and the metadata log.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key `controller.quorum.x` or `metadata.log.x`
pub struct QuorumSettings {
    pub voters: Vec<Voter>,
    pub bootstrap_servers: Vec<String>,
    pub election_timeout_ms: i32,
    pub election_backoff_max_ms: i32,
    pub fetch_timeout_ms: i32,
    pub request_timeout_ms: i32,
    /// `metadata.log.max.record.bytes.between.snapshots`
    pub snapshot_after_bytes: i64,
    /// `metadata.log.max.snapshot.interval.ms`
    pub snapshot_interval_ms: i64,
    /// `unstable.api.versions.enable`
    pub unstable_api_versions: bool,
    /// `unstable.feature.versions.enable`
    pub unstable_feature_versions: bool,
    pub metadata_log_segment_bytes: i32,
    pub metadata_max_retention_bytes: i64,
    pub metadata_max_retention_ms: i64,
    pub broker_heartbeat_interval_ms: i32,
    pub broker_session_timeout_ms: i32,
}

/// Keys of connections.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the key of the same name
pub struct NetworkSettings {
    /// `socket.request.max.bytes`
    pub request_max_bytes: i32,
    pub connections_max_idle_ms: i64,
    pub max_connections: i32,
    pub max_connections_per_ip: i32,
    /// -1: the system's default.
    pub socket_send_buffer_bytes: i32,
    /// -1: the system's default.
    pub socket_receive_buffer_bytes: i32,
    pub socket_listen_backlog_size: i32,
    pub request_timeout_ms: i32,
}

/// Keys of topics in general and the defaults of topic configs.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the key of the same name
pub struct TopicSettings {
    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub auto_create_topics_enable: bool,
    pub delete_topic_enable: bool,
    pub max_request_partition_size_limit: i32,
    /// The defaults of all topics, from the `log.*` keys.
    pub log: TopicConfig,
    /// The broker's levels, for topics that choose another codec.
    pub compression_levels: CompressionLevels,
}

/// Broker-wide keys of logs.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the key `log.x` of the same name
pub struct LogSettings {
    pub retention_check_interval_ms: i64,
    pub flush_scheduler_interval_ms: i64,
    pub flush_offset_checkpoint_interval_ms: i32,
    pub flush_start_offset_checkpoint_interval_ms: i32,
    pub initial_task_delay_ms: i64,
    pub dir_failure_timeout_ms: i64,
    pub cleaner_enable: bool,
    pub cleaner_threads: i32,
    pub cleaner_backoff_ms: i64,
    pub cleaner_dedupe_buffer_bytes: i64,
    pub cleaner_io_buffer_bytes: i32,
    pub cleaner_io_buffer_load_factor: f64,
    pub cleaner_io_max_bytes_per_second: f64,
    /// `num.recovery.threads.per.data.dir`
    pub recovery_threads_per_data_dir: i32,
    /// `producer.id.expiration.ms`
    pub producer_id_expiration_ms: i32,
    /// `producer.id.expiration.check.interval.ms`
    pub producer_id_expiration_check_interval_ms: i32,
    /// `transaction.partition.verification.enable`
    pub transaction_partition_verification_enable: bool,
    /// `replica.high.watermark.checkpoint.interval.ms`
    pub high_watermark_checkpoint_interval_ms: i64,
    /// `replica.alter.log.dirs.io.max.bytes.per.second`: between two log directories.
    pub alter_dirs_bytes_per_second: i64,
}

/// Keys of groups (`group.*`). Classic ones first.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the key `group.x` of the same name
pub struct GroupSettings {
    pub min_session_timeout_ms: i32,
    pub max_session_timeout_ms: i32,
    pub initial_rebalance_delay_ms: i32,
    pub max_size: i32,
    pub coordinator_threads: i32,
    /// -1: as the load allows.
    pub coordinator_append_linger_ms: i32,
    pub coordinator_rebalance_protocols: Vec<String>,
    pub consumer_session_timeout_ms: i32,
    pub consumer_min_session_timeout_ms: i32,
    pub consumer_max_session_timeout_ms: i32,
    pub consumer_heartbeat_interval_ms: i32,
    pub consumer_min_heartbeat_interval_ms: i32,
    pub consumer_max_heartbeat_interval_ms: i32,
    pub consumer_assignment_interval_ms: i32,
    pub consumer_min_assignment_interval_ms: i32,
    pub consumer_max_assignment_interval_ms: i32,
    pub consumer_max_size: i32,
    pub consumer_assignors: Vec<String>,
    pub consumer_migration_policy: String,
    pub consumer_regex_refresh_interval_ms: i32,
    pub streams_session_timeout_ms: i32,
    pub streams_min_session_timeout_ms: i32,
    pub streams_max_session_timeout_ms: i32,
    pub streams_heartbeat_interval_ms: i32,
    pub streams_min_heartbeat_interval_ms: i32,
    pub streams_max_heartbeat_interval_ms: i32,
    pub streams_assignment_interval_ms: i32,
    pub streams_min_assignment_interval_ms: i32,
    pub streams_max_assignment_interval_ms: i32,
    pub streams_initial_rebalance_delay_ms: i32,
    pub streams_num_standby_replicas: i32,
    pub streams_max_standby_replicas: i32,
    pub streams_max_size: i32,
}

/// Keys of the offsets topic (`offsets.*`).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the key `offsets.x` of the same name
pub struct OffsetsSettings {
    pub topic_num_partitions: i32,
    pub topic_replication_factor: i16,
    pub topic_segment_bytes: i32,
    /// 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd (`offsets.topic.compression.codec`).
    pub topic_compression_codec: i8,
    pub load_buffer_size: i32,
    pub retention_minutes: i32,
    pub retention_check_interval_ms: i64,
    pub commit_timeout_ms: i32,
    /// `offset.metadata.max.bytes`
    pub metadata_max_bytes: i32,
}

/// Keys of the transaction coordinator (`transaction.*`, `transactional.*`).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the key of the same name
pub struct TransactionSettings {
    pub max_timeout_ms: i32,
    pub state_log_num_partitions: i32,
    pub state_log_replication_factor: i16,
    pub state_log_segment_bytes: i32,
    pub state_log_min_isr: i32,
    pub state_log_load_buffer_size: i32,
    pub transactional_id_expiration_ms: i32,
    pub abort_timed_out_cleanup_interval_ms: i32,
    pub remove_expired_cleanup_interval_ms: i32,
    pub two_phase_commit_enable: bool,
    /// `add.partitions.to.txn.retry.backoff.ms`
    pub add_partitions_retry_backoff_ms: i32,
    /// `add.partitions.to.txn.retry.backoff.max.ms`
    pub add_partitions_retry_backoff_max_ms: i32,
}

/// Keys of fetches.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the key of the same name
pub struct FetchSettings {
    /// `fetch.max.bytes`
    pub max_bytes: i32,
    pub max_incremental_fetch_session_cache_slots: i32,
    /// `replica.fetch.max.bytes` and friends come with replication.
    pub replica_selector_class: Option<String>,
}

/// `flumen.log.write.strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStrategy {
    /// By file system, and by how far the kernel's write-back is behind.
    Auto,
    /// Page cache, by pwritev on the shard's own thread.
    Inline,
    /// Page cache, through the shard's io_uring.
    Ring,
    /// Page cache through the ring, written back at once and dropped (RWF_DONTCACHE).
    Uncached,
    /// O_DIRECT through the ring.
    Direct,
}

/// Flumen's own keys.
#[derive(Clone, Debug, PartialEq)]
pub struct FlumenSettings {
    /// `flumen.cpus`: the CPUs to run on; `None` is every CPU of the process's affinity mask.
    pub cpus: Option<Vec<usize>>,
    /// `flumen.shards`: the number of shards; `None` is one per CPU.
    pub shards: Option<u16>,
    /// `flumen.log.write.strategy`
    pub write_strategy: WriteStrategy,
    /// `flumen.metrics.listener`: `host:port` of /metrics, /healthz and /readyz; `None` is off.
    pub metrics_listener: Option<String>,
    /// `flumen.fetch.splice.min.bytes`: file slices of at least this size are spliced.
    pub fetch_splice_min_bytes: u32,
    /// `flumen.log.sync.before.ack`: whether a produce is on disk before it is acked.
    pub log_sync_before_ack: bool,
    /// `flumen.disk.reserve.bytes`: a log directory with less free space takes no records.
    pub disk_reserve_bytes: u64,
}

/// The broker's configuration with every default resolved.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of the same name
pub struct BrokerConfig {
    pub node_id: i32,
    pub roles: Roles,
    /// `broker.rack`
    pub rack: Option<String>,
    /// In the order of the file, controller listeners included. The index is `ConnInfo::listener`.
    pub listeners: Vec<Listener>,
    /// One per listener (same order, same names), with the address that clients are told. A port 0
    /// here means: the port
    /// that the listener got.
    pub advertised_listeners: Vec<Listener>,
    /// `inter.broker.listener.name`
    pub inter_broker_listener_name: String,
    pub controller_listener_names: Vec<String>,
    pub log_dirs: Vec<PathBuf>,
    /// `metadata.log.dir`, by default the first of `log_dirs`.
    pub metadata_log_dir: PathBuf,
    pub quorum: QuorumSettings,
    pub network: NetworkSettings,
    pub topics: TopicSettings,
    pub log: LogSettings,
    pub groups: GroupSettings,
    pub offsets: OffsetsSettings,
    pub transactions: TransactionSettings,
    /// `group.share.*` and `share.coordinator.*`
    pub share: ShareSettings,
    pub fetch: FetchSettings,
    pub flumen: FlumenSettings,
    /// The keys of the file and the overrides, as written (synonyms and sources are computed from
    /// them).
    pub originals: ConfigMap,
}

/// A loaded configuration and what the log should say about it once.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The typed values.
    pub config: BrokerConfig,
    /// Keys that Kafka knows and that cannot apply here, with the reason.
    pub without_effect: Vec<(String, &'static str)>,
    /// Keys that neither Kafka nor Flumen knows.
    pub unknown: Vec<String>,
}

impl Default for BrokerConfig {
    /// A combined node 1 with one listener on 9092 and Kafka's defaults, for tests.
    fn default() -> Self {
        let listener = |host: &str| Listener {
            name: "PLAINTEXT".to_owned(),
            host: host.to_owned(),
            port: 9092,
            controller: false,
        };
        Self {
            node_id: 1,
            roles: Roles {
                broker: true,
                controller: true,
            },
            rack: None,
            listeners: vec![listener("")],
            advertised_listeners: vec![listener("localhost")],
            inter_broker_listener_name: "PLAINTEXT".to_owned(),
            controller_listener_names: vec!["CONTROLLER".to_owned()],
            log_dirs: vec![PathBuf::from("/tmp/kafka-logs")],
            metadata_log_dir: PathBuf::from("/tmp/kafka-logs"),
            quorum: QuorumSettings {
                voters: Vec::new(),
                bootstrap_servers: Vec::new(),
                election_timeout_ms: 1000,
                election_backoff_max_ms: 1000,
                fetch_timeout_ms: 2000,
                request_timeout_ms: 2000,
                snapshot_after_bytes: 20 << 20,
                unstable_api_versions: false,
                unstable_feature_versions: false,
                snapshot_interval_ms: 3_600_000,
                metadata_log_segment_bytes: 1 << 30,
                metadata_max_retention_bytes: 100 << 20,
                metadata_max_retention_ms: 604_800_000,
                broker_heartbeat_interval_ms: 2000,
                broker_session_timeout_ms: 9000,
            },
            network: NetworkSettings {
                request_max_bytes: 100 << 20,
                connections_max_idle_ms: 600_000,
                max_connections: i32::MAX,
                max_connections_per_ip: i32::MAX,
                socket_send_buffer_bytes: 100 << 10,
                socket_receive_buffer_bytes: 100 << 10,
                socket_listen_backlog_size: 50,
                request_timeout_ms: 30_000,
            },
            topics: TopicSettings {
                num_partitions: 1,
                default_replication_factor: 1,
                auto_create_topics_enable: true,
                delete_topic_enable: true,
                max_request_partition_size_limit: 2000,
                log: TopicConfig::default(),
                compression_levels: CompressionLevels::default(),
            },
            log: LogSettings {
                retention_check_interval_ms: 300_000,
                flush_scheduler_interval_ms: i64::MAX,
                flush_offset_checkpoint_interval_ms: 60_000,
                flush_start_offset_checkpoint_interval_ms: 60_000,
                initial_task_delay_ms: 30_000,
                dir_failure_timeout_ms: 30_000,
                cleaner_enable: true,
                cleaner_threads: 1,
                cleaner_backoff_ms: 15_000,
                cleaner_dedupe_buffer_bytes: 128 << 20,
                cleaner_io_buffer_bytes: 512 << 10,
                cleaner_io_buffer_load_factor: 0.9,
                cleaner_io_max_bytes_per_second: f64::MAX,
                recovery_threads_per_data_dir: 2,
                producer_id_expiration_ms: 86_400_000,
                producer_id_expiration_check_interval_ms: 600_000,
                transaction_partition_verification_enable: true,
                high_watermark_checkpoint_interval_ms: 5000,
                alter_dirs_bytes_per_second: i64::MAX,
            },
            groups: GroupSettings {
                min_session_timeout_ms: 6000,
                max_session_timeout_ms: 1_800_000,
                initial_rebalance_delay_ms: 3000,
                max_size: i32::MAX,
                coordinator_threads: 4,
                coordinator_append_linger_ms: -1,
                coordinator_rebalance_protocols: ["classic", "consumer", "streams"]
                    .map(str::to_owned)
                    .to_vec(),
                consumer_session_timeout_ms: 45_000,
                consumer_min_session_timeout_ms: 45_000,
                consumer_max_session_timeout_ms: 60_000,
                consumer_heartbeat_interval_ms: 5000,
                consumer_min_heartbeat_interval_ms: 5000,
                consumer_max_heartbeat_interval_ms: 15_000,
                consumer_assignment_interval_ms: 1000,
                consumer_min_assignment_interval_ms: 0,
                consumer_max_assignment_interval_ms: 15_000,
                consumer_max_size: i32::MAX,
                consumer_assignors: ["uniform", "range"].map(str::to_owned).to_vec(),
                consumer_migration_policy: "bidirectional".to_owned(),
                consumer_regex_refresh_interval_ms: 600_000,
                streams_session_timeout_ms: 45_000,
                streams_min_session_timeout_ms: 45_000,
                streams_max_session_timeout_ms: 60_000,
                streams_heartbeat_interval_ms: 5000,
                streams_min_heartbeat_interval_ms: 5000,
                streams_max_heartbeat_interval_ms: 15_000,
                streams_assignment_interval_ms: 1000,
                streams_min_assignment_interval_ms: 0,
                streams_max_assignment_interval_ms: 15_000,
                streams_initial_rebalance_delay_ms: 3000,
                streams_num_standby_replicas: 0,
                streams_max_standby_replicas: 2,
                streams_max_size: i32::MAX,
            },
            offsets: OffsetsSettings {
                topic_num_partitions: 50,
                topic_replication_factor: 3,
                topic_segment_bytes: 100 << 20,
                topic_compression_codec: 0,
                load_buffer_size: 5 << 20,
                retention_minutes: 10_080,
                retention_check_interval_ms: 600_000,
                commit_timeout_ms: 5000,
                metadata_max_bytes: 4096,
            },
            transactions: TransactionSettings {
                max_timeout_ms: 900_000,
                state_log_num_partitions: 50,
                state_log_replication_factor: 3,
                state_log_segment_bytes: 100 << 20,
                state_log_min_isr: 2,
                state_log_load_buffer_size: 5 << 20,
                transactional_id_expiration_ms: 604_800_000,
                abort_timed_out_cleanup_interval_ms: 10_000,
                remove_expired_cleanup_interval_ms: 3_600_000,
                two_phase_commit_enable: false,
                add_partitions_retry_backoff_ms: 20,
                add_partitions_retry_backoff_max_ms: 100,
            },
            share: ShareSettings::default(),
            fetch: FetchSettings {
                max_bytes: 55 << 20,
                max_incremental_fetch_session_cache_slots: 1000,
                replica_selector_class: None,
            },
            flumen: FlumenSettings {
                cpus: None,
                shards: None,
                write_strategy: WriteStrategy::Auto,
                metrics_listener: None,
                fetch_splice_min_bytes: 256 << 10,
                log_sync_before_ack: false,
                disk_reserve_bytes: 0,
            },
            originals: ConfigMap::new(),
        }
    }
}
