//! Every bound of a queue, buffer or session, in one place. Bounds that Kafka lets a user set are
//! settings instead (`flumen-settings`); these are ours. Relations between them are checked when
//! this file compiles.

/// Responses that one connection may owe before its socket is no longer read.
pub const CONN_REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// Bytes of request frames that one shard holds before it stops reading its sockets.
pub const SHARD_FRAME_BYTES_MAX: usize = 512 << 20;
/// Bytes of one connection's frames in flight before it is no longer read (one frame always fits).
pub const CONN_FRAME_BYTES_MAX: usize = 128 << 20;
/// Bytes in memory of one connection's answers that have not left before it is no longer read.
pub const CONN_RESPONSE_BYTES_MAX: usize = 4 << 20;
/// Messages from one shard to another before the sender parks its connections.
pub const MESH_QUEUE_MESSAGES_MAX: usize = 4096;
/// Connections of one shard.
pub const SHARD_CONNECTIONS_MAX: usize = 16_384;
/// Operations on stored share states that wait for others, per shard. More are refused.
pub const SHARE_STATE_OPS_WAITING_MAX: usize = 10_000;
/// Fetches that wait for one share partition. More are answered with nothing.
pub const SHARE_PARTITION_WAITING_MAX: usize = 10_000;
/// What is read from a log for a share partition at a time, unless one batch is larger.
pub const SHARE_READ_BYTES_MAX: u32 = 1 << 20;
/// Partitions of one share session.
pub const SHARE_SESSION_PARTITIONS_MAX: usize = 100_000;
/// Recently written batches kept in memory for tail fetches, per shard.
pub const TAIL_CACHE_BYTES_MAX: usize = 8 << 20;
/// Of those bytes, the most that one partition may take.
pub const TAIL_BYTES_PER_PARTITION_MAX: usize = 4 << 20;
/// Fetch sessions of one shard (`max.incremental.fetch.session.cache.slots` is per broker and
/// divided among shards).
pub const FETCH_SESSIONS_MAX: usize = 1000;
/// Bytes that a compressed batch may unfold to in one validation.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 256 << 20;
/// Nested depth of nothing in Kafka's schemas exceeds this.
pub const SCHEMA_DEPTH_MAX: usize = 16;

const _: () = assert!(CONN_FRAME_BYTES_MAX < SHARD_FRAME_BYTES_MAX);
const _: () = assert!(TAIL_CACHE_BYTES_MAX < SHARD_FRAME_BYTES_MAX);
/// Partitions in all fetch sessions of one shard.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 200_000;
/// Bytes that checking one batch may unfold on a shard's turn; more goes to a job.
pub const VALIDATE_INLINE_BYTES_MAX: usize = 256 << 10;
/// Partitions of one shard that are loaded at the same time.
pub const LOADS_IN_FLIGHT_MAX: usize = 16;
/// Bytes of log that one slice of a load walks, before others have their turn.
pub const LOAD_SLICE_BYTES: u64 = 64 << 20;
