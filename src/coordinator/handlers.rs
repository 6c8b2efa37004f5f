//! API SKELETON: becomes real when the wire types exist. The signatures are what the shard codes against.

/// An answer, owned; encode it at the request's version.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    JoinGroup(JoinGroupResponse<'static>),
    SyncGroup(SyncGroupResponse<'static>),
    LeaveGroup(LeaveGroupResponse<'static>),
    OffsetCommit(OffsetCommitResponse<'static>),
    OffsetDelete(OffsetDeleteResponse<'static>),
    /// One result per group asked for; the shard joins those of several shards.
    DeleteGroups(Vec<DeletableGroupResult<'static>>),
}

impl GroupCoordinator {
    /// Owns nothing yet.
    pub fn new(config: CoordinatorConfig, prng: Prng) -> Self;
    /// New settings (dynamic configuration); timers already set keep their times.
    pub fn set_config(&mut self, config: CoordinatorConfig);

    // ---- partitions ----
    /// The shard owns the partition from now on; requests get COORDINATOR_LOAD_IN_PROGRESS until `finish_load`.
    pub fn begin_load(&mut self, partition: PartitionIndex);
    /// One record, in log order. Unknown key types are skipped (newer or other protocols); broken bytes are an error and the
    /// record is skipped (the shard logs it).
    pub fn replay(&mut self, partition: PartitionIndex, key: &[u8], value: Option<&[u8]>) -> Result<(), ReplayError>;
    /// Serves the partition; loaded members get a fresh session. May append (none so far).
    pub fn finish_load(&mut self, now: Now, partition: PartitionIndex, out: &mut Out);
    /// Gives a partition up: parked requests are answered NOT_COORDINATOR, its groups are forgotten, outstanding writes too.
    pub fn unload(&mut self, partition: PartitionIndex, out: &mut Out);

    // ---- writes ----
    pub fn commit(&mut self, now: Now, token: WriteToken, out: &mut Out);
    pub fn append_failed(&mut self, now: Now, token: WriteToken, error: ErrorCode, out: &mut Out);

    // ---- time ----
    pub fn next_deadline(&self) -> Option<Mono>;
    pub fn tick(&mut self, now: Now, out: &mut Out);

    // ---- requests that may wait or write: answered through `out.replies`, now or later ----
    pub fn join_group(&mut self, now: Now, ctx: RequestContext<'_>, token: ReplyToken, request: &JoinGroupRequest<'_>, out: &mut Out);
    pub fn sync_group(&mut self, now: Now, ctx: RequestContext<'_>, token: ReplyToken, request: &SyncGroupRequest<'_>, out: &mut Out);
    pub fn leave_group(&mut self, now: Now, ctx: RequestContext<'_>, token: ReplyToken, request: &LeaveGroupRequest<'_>, out: &mut Out);
    pub fn offset_commit(&mut self, now: Now, ctx: RequestContext<'_>, token: ReplyToken, request: &OffsetCommitRequest<'_>, topics: &dyn Topics, out: &mut Out);
    pub fn offset_delete(&mut self, now: Now, token: ReplyToken, request: &OffsetDeleteRequest<'_>, topics: &dyn Topics, out: &mut Out);
    pub fn delete_groups(&mut self, now: Now, token: ReplyToken, groups: &[&str], out: &mut Out);

    // ---- requests answered at once ----
    pub fn heartbeat(&mut self, now: Now, request: &HeartbeatRequest<'_>, out: &mut Out) -> HeartbeatResponse;
    /// One group of OffsetFetch in the form of version 8+ (for versions 1-7 the shard builds the one
    /// `OffsetFetchRequestGroup` with `offset_fetch_group_of` and turns the answer back with `offset_fetch_response_of`).
    pub fn offset_fetch(&self, ctx: RequestContext<'_>, group: &OffsetFetchRequestGroup<'_>, require_stable: bool, topics: &dyn Topics) -> OffsetFetchResponseGroup<'static>;
    pub fn describe_group(&self, ctx: RequestContext<'_>, group: &str) -> DescribedGroup<'static>;
    /// The groups of this shard; the shard joins the lists. Error only while a partition is loading.
    pub fn list_groups(&self, request: &ListGroupsRequest<'_>) -> (ErrorCode, Vec<ListedGroup<'static>>);

    // ---- others ----
    /// Removes all offsets of deleted topics.
    pub fn on_topics_deleted(&mut self, now: Now, names: &[&str], out: &mut Out);
    /// Every committed offset (for lag metrics): group, topic, partition, offset.
    pub fn for_each_committed(&self, each: &mut dyn FnMut(&str, &str, PartitionIndex, Offset));
    /// Number of groups per state name (for metrics).
    pub fn group_counts(&self) -> [(&'static str, usize); 5];
}
