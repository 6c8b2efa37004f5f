//! The APIs that are about several groups: each group is asked of the shard that coordinates it,
//! and the answers are joined.
//!
//! - OffsetFetch (9) 1 to 10: v2 all topics by null, v7 require stable (KIP-447), v8 many groups
//!   (KIP-709), v10 topic ids.
//! - DescribeGroups (15) 0 to 6: v6 GROUP_ID_NOT_FOUND (KIP-1043). DeleteGroups (42) 0 to 2
//!   (KIP-229).
//! - ListGroups (16) 0 to 5: v4 states (KIP-518), v5 types (KIP-848).

use super::fill::{Place, Scatter};
use super::{authorized, decode};
use crate::ops::{Gathering, GroupOp, GroupResult, Op, OpResult};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, ShardId};
use flumen_wire::messages as wire;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use wire::delete_groups_response::DeletableGroupResult;
use wire::describe_groups_response::DescribedGroup;
use wire::offset_fetch_response::OffsetFetchResponseGroup;

/// OffsetFetch names many groups from here on.
const MANY_GROUPS_FROM: i16 = 8;

pub(crate) fn offset_fetch(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::OffsetFetchRequest<'_>);
    let version = request.reply.version;
    let mut one = Vec::new();
    let groups = if version >= MANY_GROUPS_FROM {
        &message.groups
    } else {
        one.push(flumen_coordinator::offset_fetch_group_of(&message));
        &one
    };
    let mut ops = Vec::new();
    let mut places = Vec::new();
    let mut results = Vec::new();
    for (n, group) in groups.iter().enumerate() {
        let owner = shard.coordinator_of(&group.group_id);
        let error = owner.err().unwrap_or_default();
        results.push(flumen_coordinator::fetch_group_error(group, error, version));
        if let Ok(owner) = owner {
            let op = GroupOp::OffsetFetch {
                body: request.body.clone(),
                group: n,
                version,
            };
            ops.push((owner, Op::Group(op)));
            places.push(n);
        }
    }
    drop((one, message));
    let gathering = Offsets { results, places };
    shard.gather(turn, request.reply, Box::new(gathering), ops);
}

struct Offsets {
    results: Vec<OffsetFetchResponseGroup<'static>>,
    places: Vec<usize>,
}

impl Gathering for Offsets {
    fn take(&mut self, index: u32, result: OpResult) {
        let place = self.places.get(index as usize);
        let place = place.and_then(|n| self.results.get_mut(*n));
        if let (Some(place), OpResult::Group(GroupResult::OffsetFetch(group))) = (place, result) {
            *place = *group;
        }
    }

    fn finish(mut self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        if reply.version >= MANY_GROUPS_FROM {
            let response = wire::OffsetFetchResponse {
                groups: self.results,
                ..Default::default()
            };
            shard.reply(turn, reply, &response);
            return;
        }
        let mut group = self.results.pop().unwrap_or_default();
        if reply.version < 2 {
            // No error of its own then: the client asks again for a partition that has one.
            group.error_code = 0;
        }
        let response = flumen_coordinator::offset_fetch_response_of(group);
        shard.reply(turn, reply, &response);
    }
}

pub(crate) fn describe_groups(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::DescribeGroupsRequest<'_>);
    let version = request.reply.version;
    let with_operations = message.include_authorized_operations;
    let mut scatter = Scatter::default();
    let mut response = wire::DescribeGroupsResponse::default();
    for (n, group) in message.groups.iter().enumerate() {
        let owner = shard.coordinator_of(group);
        response.groups.push(DescribedGroup {
            group_id: Cow::Owned(group.to_string()),
            error_code: owner.err().unwrap_or_default().code(),
            ..Default::default()
        });
        if let Ok(owner) = owner {
            let group = group.to_string();
            scatter.add_group(owner, n, GroupOp::Describe { group, version });
        }
    }
    drop(message);
    let put = move |r: &mut wire::DescribeGroupsResponse<'static>, (n, _): Place, result| {
        let OpResult::Group(GroupResult::Describe(mut group)) = result else {
            return;
        };
        if with_operations && group.error_code == ErrorCode::None.code() {
            group.authorized_operations = authorized::GROUP;
        }
        if let Some(place) = r.groups.get_mut(n) {
            *place = *group;
        }
    };
    scatter.fill(shard, turn, request.reply, response, put);
}

pub(crate) fn delete_groups(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::DeleteGroupsRequest<'_>);
    let mut by_shard: BTreeMap<ShardId, Vec<String>> = BTreeMap::new();
    let mut results = Vec::new();
    // A group named twice is answered once.
    let groups: BTreeSet<&str> = message.groups_names.iter().map(|g| &**g).collect();
    for group in groups {
        match shard.coordinator_of(group) {
            Ok(owner) => by_shard.entry(owner).or_default().push(group.to_string()),
            Err(error) => results.push(DeletableGroupResult {
                group_id: Cow::Owned(group.to_string()),
                error_code: error.code(),
            }),
        }
    }
    drop(message);
    let ops = by_shard
        .into_iter()
        .map(|(owner, groups)| (owner, Op::Group(GroupOp::Delete { groups })))
        .collect();
    shard.gather(turn, request.reply, Box::new(Deleted(results)), ops);
}

struct Deleted(Vec<DeletableGroupResult<'static>>);

impl Gathering for Deleted {
    fn take(&mut self, _index: u32, result: OpResult) {
        if let OpResult::Group(GroupResult::Delete(results)) = result {
            self.0.extend(results);
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let response = wire::DeleteGroupsResponse {
            results: self.0,
            ..Default::default()
        };
        shard.reply(turn, reply, &response);
    }
}

pub(crate) fn list_groups(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::ListGroupsRequest<'_>);
    drop(message);
    let ops = (0..shard.shards)
        .map(|n| {
            let op = GroupOp::List {
                body: request.body.clone(),
                version: request.reply.version,
            };
            (ShardId(n), Op::Group(op))
        })
        .collect();
    let listed = Box::new(Listed::default());
    shard.gather(turn, request.reply, listed, ops);
}

#[derive(Default)]
struct Listed {
    error: ErrorCode,
    groups: Vec<wire::list_groups_response::ListedGroup<'static>>,
}

impl Gathering for Listed {
    fn take(&mut self, _index: u32, result: OpResult) {
        match result {
            OpResult::Group(GroupResult::List(Ok(groups))) => self.groups.extend(groups),
            OpResult::Group(GroupResult::List(Err(error))) => self.error = error,
            _ => {}
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let response = wire::ListGroupsResponse {
            error_code: self.error.code(),
            groups: if self.error.is_none() {
                self.groups
            } else {
                Vec::new()
            },
            ..Default::default()
        };
        shard.reply(turn, reply, &response);
    }
}
