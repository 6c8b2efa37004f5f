//! One entry per API: find the group, let it decide.

use crate::classic::{
    self, ClassicGroup, Joining, Parked, described_error, described_not_classic, described_unknown,
    join_error, sync_error,
};
use crate::coordinator::GroupCoordinator;
use crate::group::Group;
use crate::limits::WRITES_OUTSTANDING_MAX;
use crate::offsets;
use crate::out::{Out, Reply, ReplyToken, RequestContext, Topics};
use crate::records;
use crate::settle::Gather;
use crate::timers::GroupSerial;
use crate::writes::{Done, Effect, Part};
use flumen_base::{ErrorCode, Now, PartitionIndex};
use flumen_wire::messages::delete_groups_response::DeletableGroupResult;
use flumen_wire::messages::describe_groups_response::DescribedGroup;
use flumen_wire::messages::list_groups_response::ListedGroup;
use flumen_wire::messages::offset_fetch_request::OffsetFetchRequestGroup;
use flumen_wire::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    OffsetCommitRequest, OffsetDeleteRequest, SyncGroupRequest,
};

/// Room for the hyphen and the UUID of a member id that begins with a `group.instance.id`.
const INSTANCE_ID_LEN_MAX: usize = i16::MAX as usize - 37;
/// SyncGroup must name protocol type and name from this version on.
const SYNC_NAMES_PROTOCOL_FROM: i16 = 5;

impl GroupCoordinator {
    /// The partition of a group that has a name, if it is served here.
    fn route_named(&self, group: &str) -> Result<PartitionIndex, ErrorCode> {
        if group.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        self.route(group)
    }

    /// The same, for requests that may write.
    pub(crate) fn route_write(&self, group: &str) -> Result<PartitionIndex, ErrorCode> {
        let partition = self.route(group)?;
        if self.writes.pending.len() >= WRITES_OUTSTANDING_MAX {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        Ok(partition)
    }

    /// The same, of a group that has a name.
    pub(crate) fn route_named_write(&self, group: &str) -> Result<PartitionIndex, ErrorCode> {
        self.route_named(group)?;
        self.route_write(group)
    }

    /// JoinGroup. Answered with [`Reply::JoinGroup`] when the group has gathered, which may take
    /// the rebalance timeout.
    pub fn join_group(
        &mut self,
        now: Now,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &JoinGroupRequest<'_>,
        out: &mut Out,
    ) {
        let parked = Parked {
            token,
            api_version: ctx.api_version,
        };
        let (serial, created) = match self.join_target(now, request) {
            Ok(target) => target,
            Err(error) => {
                let reply = join_error(parked, &request.member_id, error);
                return Self::reply(out, token, reply);
            }
        };
        self.with_group(serial, now, out, |group, env| {
            let join = Joining {
                ctx,
                request,
                parked,
            };
            if group.share.is_some() {
                let error = ErrorCode::InconsistentGroupProtocol;
                return env.reply(token, join_error(parked, "", error));
            }
            if !group.is_classic_kind() {
                return group.join_other_kind(env, join);
            }
            group.join(env, join);
            if !created {
                return;
            }
            let empty = ClassicGroup::new(group.classic.state_since_ms);
            let Some(record) = records::group_metadata(&group.name, &empty, |_| Default::default())
            else {
                return; // its name was checked
            };
            let part = Part {
                group: serial,
                offsets: Vec::new(),
                effect: Effect::Created,
            };
            let part = group.part(env.next_write(), part);
            env.append(group.partition, vec![record], vec![part], Done::Nothing);
        });
    }

    /// The group to join, and whether it was made for this.
    fn join_target(
        &mut self,
        now: Now,
        request: &JoinGroupRequest<'_>,
    ) -> Result<(GroupSerial, bool), ErrorCode> {
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let session_ms = request.session_timeout_ms;
        if session_ms < self.config.group_min_session_timeout_ms
            || session_ms > self.config.group_max_session_timeout_ms
        {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        let instance = request.group_instance_id.as_deref();
        if instance.is_some_and(|i| i.len() > INSTANCE_ID_LEN_MAX) {
            return Err(ErrorCode::InvalidRequest);
        }
        let partition = self.route_write(&request.group_id)?;
        if let Some(serial) = self.find(partition, &request.group_id) {
            return Ok((serial, false));
        }
        if !request.member_id.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        if !Group::could_begin_with(request) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if !self.has_room() {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if records::group_tombstone(&request.group_id).is_none() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let serial = self.create(partition, &request.group_id, now.wall_ms);
        Ok((serial, true))
    }

    /// SyncGroup. Answered with [`Reply::SyncGroup`] when the leader's assignment is written.
    pub fn sync_group(
        &mut self,
        now: Now,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &SyncGroupRequest<'_>,
        out: &mut Out,
    ) {
        let unnamed = ctx.api_version >= SYNC_NAMES_PROTOCOL_FROM
            && (request.protocol_type.is_none() || request.protocol_name.is_none());
        if unnamed {
            let reply = sync_error(ErrorCode::InconsistentGroupProtocol);
            return Self::reply(out, token, reply);
        }
        let routed = self.route_named(&request.group_id);
        let found = routed.and_then(|_| self.route_write(&request.group_id));
        let found = found.and_then(|partition| {
            let serial = self.find(partition, &request.group_id);
            let serial = serial.filter(|serial| !self.is_share_group(*serial));
            serial.ok_or(ErrorCode::UnknownMemberId)
        });
        match found {
            Err(error) => Self::reply(out, token, sync_error(error)),
            Ok(serial) => {
                self.with_group(serial, now, out, |group, env| match group.consumer {
                    Some(_) => group.classic_sync(env, token, request),
                    None => group.sync(env, ctx, token, request),
                });
            }
        }
    }

    /// Heartbeat, answered at once.
    pub fn heartbeat(
        &mut self,
        now: Now,
        request: &HeartbeatRequest<'_>,
        out: &mut Out,
    ) -> HeartbeatResponse {
        let result = self.route_named(&request.group_id).and_then(|partition| {
            let serial = self.find(partition, &request.group_id);
            let serial = serial.filter(|serial| !self.is_share_group(*serial));
            let beat = serial.and_then(|serial| {
                self.with_group(serial, now, out, |group, env| match group.consumer {
                    Some(_) => group.classic_heartbeat(env, request),
                    None => group.heartbeat(env, request),
                })
            });
            beat.unwrap_or(Err(ErrorCode::UnknownMemberId))
        });
        let error = match result {
            // Who is in the group will be known soon; until then every member is taken for one.
            Ok(()) | Err(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::None,
            Err(error) => error,
        };
        HeartbeatResponse {
            error_code: error.code(),
            ..Default::default()
        }
    }

    /// LeaveGroup. Answered with [`Reply::LeaveGroup`], after a write if the group became empty.
    pub fn leave_group(
        &mut self,
        now: Now,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &LeaveGroupRequest<'_>,
        out: &mut Out,
    ) {
        let partition = match self.route_named(&request.group_id) {
            Ok(partition) => partition,
            Err(error) => return Self::reply(out, token, classic::leave_error(error)),
        };
        let found = self.find(partition, &request.group_id);
        let Some(serial) = found.filter(|serial| !self.is_share_group(*serial)) else {
            let reply = classic::leave_unknown(request, ctx.api_version);
            return Self::reply(out, token, reply);
        };
        self.with_group(serial, now, out, |group, env| {
            if group.consumer.is_some() {
                return group.classic_leave(env, token, request, ctx.api_version);
            }
            if group.streams.is_some() {
                let reply = classic::leave_unknown(request, ctx.api_version);
                return env.reply(token, reply);
            }
            let before = env.writes.last;
            let reply = group.leave(env, request, ctx.api_version);
            let after = env.writes.last;
            match env.writes.pending.get_mut(&after) {
                Some(write) if after > before => write.done = Done::Reply(token, reply),
                _ => env.reply(token, reply),
            }
        });
    }

    /// OffsetCommit. Answered with [`Reply::OffsetCommit`] when it is written.
    pub fn offset_commit(
        &mut self,
        now: Now,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &OffsetCommitRequest<'_>,
        topics: &dyn Topics,
        out: &mut Out,
    ) {
        let mut draft = offsets::draft_commit(request, ctx.api_version, topics);
        if !offsets::accepts_any(&draft) {
            return Self::reply(out, token, Reply::OffsetCommit(draft));
        }
        let generation = request.generation_id_or_member_epoch;
        let target = self.route_write(&request.group_id).and_then(|partition| {
            if let Some(serial) = self.find(partition, &request.group_id) {
                return Ok(serial);
            }
            offsets::validate_new(generation, ctx.api_version)?;
            if !self.has_room() {
                return Err(ErrorCode::CoordinatorNotAvailable);
            }
            Ok(self.create(partition, &request.group_id, now.wall_ms))
        });
        let serial = match target {
            Ok(serial) => serial,
            Err(error) => {
                offsets::refuse_commit(&mut draft, error);
                return Self::reply(out, token, Reply::OffsetCommit(draft));
            }
        };
        self.with_group(serial, now, out, |group, env| {
            let by = (ctx.api_version, topics);
            match group.validate_commit(env, request, &draft, by) {
                Ok(()) => {
                    offsets::refuse_long_metadata(env.config, request, &mut draft);
                    group.commit_offsets(env, token, request, draft);
                }
                Err(error) => {
                    offsets::refuse_commit(&mut draft, error);
                    env.reply(token, Reply::OffsetCommit(draft));
                }
            }
        });
    }

    /// One group of an OffsetFetch, in the form of version 8 and later
    /// ([`crate::offset_fetch_group_of`] makes it of an older request,
    /// [`crate::offset_fetch_response_of`] turns the answer back). Answered with
    /// [`Reply::OffsetFetch`]; with `require_stable` after the appends in flight of this group.
    pub fn offset_fetch(
        &mut self,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &OffsetFetchRequestGroup<'_>,
        require_stable: bool,
        topics: &dyn Topics,
        out: &mut Out,
    ) {
        let partition = match self.route(&request.group_id) {
            Ok(partition) => partition,
            Err(error) => {
                let group = offsets::fetch_group_error(request, error, ctx.api_version);
                return Self::reply(out, token, Reply::OffsetFetch(group));
            }
        };
        let serial = self.find(partition, &request.group_id);
        let group = serial.and_then(|serial| self.groups.get(&serial));
        // A share group has none: as if there were no such group.
        let group = group.filter(|group| group.share.is_none());
        let member = request.member_id.as_deref();
        let valid = group.map(|g| g.validate_fetch(member, request.member_epoch, require_stable));
        if let Some(Err(error)) = valid {
            let group = offsets::fetch_group_error(request, error, ctx.api_version);
            return Self::reply(out, token, Reply::OffsetFetch(group));
        }
        let write_last = group.and_then(|g| g.write_last).filter(|_| require_stable);
        let latest = write_last.is_some();
        let fetched = offsets::fetch(
            group,
            request,
            (latest, require_stable),
            ctx.api_version,
            topics,
        );
        let reply = Reply::OffsetFetch(fetched);
        match write_last.and_then(|write| self.writes.pending.get_mut(&write)) {
            Some(write) => write.waiters.push((token, reply)),
            None => Self::reply(out, token, reply),
        }
    }

    /// OffsetDelete. Answered with [`Reply::OffsetDelete`] when it is written.
    pub fn offset_delete(
        &mut self,
        now: Now,
        token: ReplyToken,
        request: &OffsetDeleteRequest<'_>,
        topics: &dyn Topics,
        out: &mut Out,
    ) {
        let routed = self.route_named(&request.group_id);
        let found = routed.and_then(|_| self.route_write(&request.group_id));
        let found = found.and_then(|partition| {
            let serial = self.find(partition, &request.group_id);
            serial.ok_or(ErrorCode::GroupIdNotFound)
        });
        match found {
            Err(error) => Self::reply(out, token, offsets::delete_error(error)),
            Ok(serial) => {
                self.with_group(serial, now, out, |group, env| {
                    group.delete_offsets(env, token, request, topics);
                });
            }
        }
    }

    /// DeleteGroups, for those groups of the request that are this shard's. Answered with
    /// [`Reply::DeleteGroups`], one result per group in this order, when all are written.
    pub fn delete_groups(&mut self, now: Now, token: ReplyToken, groups: &[&str], out: &mut Out) {
        self.gather_last += 1;
        let gather = self.gather_last;
        let (mut results, mut left) = (Vec::new(), 0);
        for (index, name) in groups.iter().enumerate() {
            let error = match self.begin_delete_group(now, name, (gather, index), out) {
                Ok(()) => {
                    left += 1;
                    ErrorCode::None
                }
                Err(error) => error,
            };
            results.push(DeletableGroupResult {
                group_id: (*name).to_owned().into(),
                error_code: error.code(),
            });
        }
        let request = Gather {
            token,
            results,
            left,
        };
        self.gathers.insert(gather, request);
        self.finish_gather(gather, out);
    }

    /// Deletes a group; the stored states of a share group go first.
    fn begin_delete_group(
        &mut self,
        now: Now,
        name: &str,
        place: (u64, usize),
        out: &mut Out,
    ) -> Result<(), ErrorCode> {
        let partition = self.route_write(name)?;
        let serial = self.find(partition, name);
        if let Some(serial) = serial.filter(|serial| self.is_share_group(*serial)) {
            let begun = self.with_group(serial, now, out, |group, env| {
                group.validate_delete()?;
                group.delete_share_states(env, place)
            });
            if begun.unwrap_or(Ok(false))? {
                return Ok(());
            }
        }
        let (gather, index) = place;
        let done = Done::DeletedGroup { gather, index };
        self.delete_group(now, name, done, out)
    }

    /// Whether a group is a share group: no other protocol has members of it.
    pub(crate) fn is_share_group(&self, serial: GroupSerial) -> bool {
        self.groups.get(&serial).is_some_and(|g| g.share.is_some())
    }

    pub(crate) fn delete_group(
        &mut self,
        now: Now,
        name: &str,
        done: Done,
        out: &mut Out,
    ) -> Result<(), ErrorCode> {
        let partition = self.route_write(name)?;
        let serial = self.find(partition, name);
        let deleted = serial.and_then(|serial| {
            self.with_group(serial, now, out, |group, env| {
                group.validate_delete()?;
                group.delete(env, done);
                Ok(())
            })
        });
        deleted.unwrap_or(Err(ErrorCode::GroupIdNotFound))
    }

    /// One group of a DescribeGroups request.
    pub fn describe_group(&self, ctx: RequestContext<'_>, name: &str) -> DescribedGroup<'static> {
        let partition = match self.route(name) {
            Ok(partition) => partition,
            Err(error) => return described_error(name, error),
        };
        let serial = self.find(partition, name);
        let group = serial.and_then(|serial| self.groups.get(&serial));
        match group.filter(|group| group.is_visible()) {
            Some(group) if !group.is_classic_kind() => described_not_classic(name, ctx.api_version),
            Some(group) => group.describe(),
            None => described_unknown(name, ctx.api_version),
        }
    }

    /// The groups of this shard that pass the request's filters; the shard joins the lists.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while a partition is loading.
    pub fn list_groups(
        &self,
        request: &ListGroupsRequest<'_>,
    ) -> Result<Vec<ListedGroup<'static>>, ErrorCode> {
        if self.partitions.values().any(|p| p.loading) {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        // Kafka's tool asks for NotReady, its coordinator understands not_ready.
        let lower = |state: &str| state.trim().to_lowercase().replace('_', "");
        let states: Vec<_> = request.states_filter.iter().map(|s| lower(s)).collect();
        let types = &request.types_filter;
        let serials = self.partitions.values().flat_map(|p| p.names.iter());
        let groups = serials.filter_map(|serial| self.groups.get(&serial));
        let listed = groups.filter(|group| {
            let name = group.state_name();
            let state_fits = states.is_empty() || states.contains(&lower(name));
            let mut named = types.iter();
            let type_fits =
                types.is_empty() || named.any(|t| t.trim().eq_ignore_ascii_case(group.type_name()));
            group.is_visible() && state_fits && type_fits
        });
        let mut listed: Vec<_> = listed.collect();
        // The order means nothing. Kafka's own test of this API knows its hash table's.
        listed.sort_by(|a, b| (a.partition, &b.name).cmp(&(b.partition, &a.name)));
        Ok(listed.into_iter().map(Group::listed).collect())
    }
}
