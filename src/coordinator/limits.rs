//! Bounds that are ours and not settings of Kafka. What a client may set itself (members,
//! protocols, metadata) is bounded by the request's size and by `group.max.size`; what it can
//! repeat without end is bounded here.

/// Groups of one shard. A join or a commit that would create one more is refused with
/// COORDINATOR_NOT_AVAILABLE.
pub(crate) const GROUPS_MAX: usize = 1 << 20;
/// Members of one group that were told their id and have not come back with it
/// (MEMBER_ID_REQUIRED). One more is refused with GROUP_MAX_SIZE_REACHED.
pub(crate) const GROUP_PENDING_MEMBERS_MAX: usize = 10_000;
/// Appends handed out and not answered. With this many outstanding, requests that would write are
/// refused with COORDINATOR_NOT_AVAILABLE.
pub(crate) const WRITES_OUTSTANDING_MAX: usize = 1 << 16;
/// Tombstones in one append of the expiry; the rest goes into further appends.
pub(crate) const EXPIRY_RECORDS_PER_APPEND_MAX: usize = 1000;
/// Groups that one tick looks at for expired offsets; the rest has to wait for the next.
pub(crate) const EXPIRY_GROUPS_PER_TICK_MAX: usize = 1000;
/// Transactional ids of one shard. An InitProducerId that would make one more is refused with
/// COORDINATOR_NOT_AVAILABLE.
pub(crate) const TXN_IDS_MAX: usize = 1 << 20;
/// Transactional ids of a partition that one tick looks at for expiry; the rest has to wait.
pub(crate) const TXN_EXPIRY_PER_TICK_MAX: usize = 1000;
/// How long a member may wait in its first JoinGroup before it is dropped, in milliseconds (Kafka's
/// constant).
pub(crate) const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1000;
/// Stale timer entries are swept out when the queue is longer than this and than twice what the
/// last sweep left.
pub(crate) const TIMER_SWEEP_MIN: usize = 1024;

const _: () = assert!(GROUP_PENDING_MEMBERS_MAX < GROUPS_MAX);
