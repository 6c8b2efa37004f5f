//! StreamsGroupHeartbeat (88), version 0.
//!
//! Epoch 0 joins and brings the topology, -1 leaves. A field that is null has not changed since the
//! last time. Static members and warm-up tasks are refused, as by Kafka 4.3.1.

use super::Refusal;
use super::configure::{Configured, StatusCode, configure, creatable};
use super::member::{Endpoint, Member};
use super::reconcile::Reconcile;
use super::records::{GroupEpoch, StreamsRecord};
use super::state::StreamsGroup;
use super::target::{Changed, assignment_configs};
use super::tasks::{HeldTasks, TaskMap, Tasks};
use super::topology::Topology;
use crate::consumer::Conversion;
use crate::group::{Env, Group};
use crate::modern::{Change, LEAVE_EPOCH, metadata_hash, unknown_member};
use crate::out::{Reply, ReplyToken, RequestContext, StreamsHeartbeat};
use flumen_base::ErrorCode;
use flumen_wire::messages::streams_group_heartbeat_request as req;
use flumen_wire::messages::streams_group_heartbeat_response::{Status, TaskIds};
use flumen_wire::messages::{StreamsGroupHeartbeatRequest, StreamsGroupHeartbeatResponse};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long topic metadata is taken for unchanged when nobody says that it changed (Kafka's
/// constant).
const REFRESH_INTERVAL_MS: i64 = i32::MAX as i64;

type Request<'r> = StreamsGroupHeartbeatRequest<'r>;
type Response = StreamsGroupHeartbeatResponse<'static>;

fn answer(response: Response) -> Reply {
    Reply::StreamsGroupHeartbeat(Box::new(StreamsHeartbeat {
        response,
        topics: Vec::new(),
    }))
}

/// A refusal as the answer.
pub(crate) fn heartbeat_error(refusal: Refusal) -> Reply {
    answer(Response {
        error_code: refusal.error.code(),
        error_message: refusal.message.map(Into::into),
        ..Default::default()
    })
}

fn status(code: StatusCode, detail: String) -> Status<'static> {
    Status {
        status_code: code as i8,
        status_detail: detail.into(),
    }
}

/// What the member says it has; `None`: it says nothing.
fn owned_of(request: &Request<'_>) -> Option<Tasks> {
    fn tasks(all: &[req::TaskIds<'_>]) -> TaskMap {
        let mut tasks = TaskMap::new();
        for ids in all {
            let partitions = tasks.entry((&*ids.subtopology_id).into()).or_default();
            partitions.extend(&ids.partitions);
        }
        tasks
    }
    Some(Tasks {
        active: tasks(request.active_tasks.as_ref()?),
        standby: tasks(request.standby_tasks.as_ref()?),
        warmup: tasks(request.warmup_tasks.as_ref()?),
    })
}

fn told(tasks: &TaskMap) -> Option<Vec<TaskIds<'static>>> {
    let all = tasks.iter();
    Some(
        all.map(|(subtopology, partitions)| TaskIds {
            subtopology_id: subtopology.to_string().into(),
            partitions: partitions.iter().copied().collect(),
        })
        .collect(),
    )
}

/// Changes a field of a member that others share, if it differs: most heartbeats say nothing new.
macro_rules! update {
    ($member:ident.$field:ident, $is:expr, $new:expr) => {
        if !$is {
            Arc::make_mut(&mut $member).$field = $new;
        }
    };
}

/// The member with what the request says of it.
fn updated(before: &Arc<Member>, ctx: RequestContext<'_>, request: &Request<'_>) -> Arc<Member> {
    let mut member = before.clone();
    if let Some(rack) = request.rack_id.as_deref() {
        let same = member.rack.as_deref() == Some(rack);
        update!(member.rack, same, Some(rack.into()));
    }
    let timeout_ms = request.rebalance_timeout_ms;
    let same = timeout_ms == -1 || timeout_ms == member.rebalance_timeout_ms;
    update!(member.rebalance_timeout_ms, same, timeout_ms);
    if let Some(topology) = &request.topology {
        let same = member.topology_epoch == topology.epoch;
        update!(member.topology_epoch, same, topology.epoch);
    }
    if let Some(process) = request.process_id.as_deref() {
        update!(member.process, *member.process == *process, process.into());
    }
    if let Some(endpoint) = &request.user_endpoint {
        let new = Some(Endpoint {
            host: (&*endpoint.host).into(),
            port: endpoint.port,
        });
        update!(member.endpoint, member.endpoint == new, new);
    }
    if let Some(tags) = &request.client_tags {
        let tags = tags.iter();
        let new = tags.map(|tag| ((&*tag.key).into(), (&*tag.value).into()));
        let new = new.collect();
        update!(member.tags, member.tags == new, new);
    }
    let same = *member.client_id == *ctx.client_id;
    update!(member.client_id, same, ctx.client_id.into());
    let same = *member.client_host == *ctx.client_host;
    update!(member.client_host, same, ctx.client_host.into());
    member
}

/// An epoch must be the member's, or the one before if the answer with the new one may have got
/// lost: then the member can't have more than it had. 0 begins anew, at any time.
fn check_epoch(member: &Member, epoch: i32, owned: Option<&Tasks>) -> Result<(), Refusal> {
    if epoch == 0 || epoch == member.epoch {
        return Ok(());
    }
    let smaller = epoch < member.epoch;
    let within = |owned: &Tasks| owned.are_within(&member.assigned);
    if smaller && epoch == member.previous_epoch && owned.is_some_and(within) {
        return Ok(());
    }
    let what = if smaller { "smaller" } else { "greater" };
    let message = format!(
        "The streams group member has a {what} member epoch ({epoch}) than the one known by the \
         group coordinator ({}). The member must abandon all its partitions and rejoin.",
        member.epoch
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
}

/// The tasks that a member reports must exist.
fn check_tasks(configured: &Configured, owned: Option<&Tasks>) -> Result<(), Refusal> {
    let (Some(subtopologies), Some(owned)) = (&configured.subtopologies, owned) else {
        return Ok(());
    };
    for tasks in [&owned.active, &owned.standby, &owned.warmup] {
        for (id, partitions) in tasks {
            let message = match subtopologies.get(id) {
                None => format!("Subtopology {id} does not exist in the topology."),
                Some(subtopology) => {
                    let count = subtopology.tasks;
                    let Some(bad) = partitions.iter().find(|p| !(0..count).contains(*p)) else {
                        continue;
                    };
                    format!(
                        "Task {bad} for subtopology {id} is invalid. Number of tasks for this \
                         subtopology: {count}"
                    )
                }
            };
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
    }
    Ok(())
}

/// A request and what it meets.
struct Beat<'a> {
    group: &'a StreamsGroup,
    name: &'a str,
    ctx: RequestContext<'a>,
    request: &'a Request<'a>,
    owned: Option<Tasks>,
    /// Who joins waits for others.
    waits: bool,
    /// The group is made by this request: what records don't say does not stay.
    is_new: bool,
}

/// What follows from a request: what is written, what the group then knows, and the answer.
struct Plan {
    records: Vec<StreamsRecord>,
    member: Arc<Member>,
    /// What it has, or its state, changed.
    reconciled: bool,
    configured: Arc<Configured>,
    /// When topic metadata is to be looked at again, if it was looked at now.
    refresh: Option<(i64, i32)>,
    endpoint_epoch: i32,
    answer: StreamsHeartbeat,
}

/// The topology and its topics as a request finds them.
struct Found {
    configured: Arc<Configured>,
    at: Arc<GroupEpoch>,
    looked: bool,
}

impl Beat<'_> {
    fn plan(&self, env: &Env<'_>) -> Result<Plan, Refusal> {
        let (group, request) = (self.group, self.request);
        let mut records = Vec::new();
        let mut statuses = Vec::new();
        let before = self.member()?;
        let member = updated(&before, self.ctx, request);
        let changed = !Arc::ptr_eq(&member, &before);
        if changed {
            let id = member.id.clone();
            records.push(StreamsRecord::Member(id, Some(member.clone())));
        }
        let topology = self.plan_topology(&mut records)?;
        if let Some(current) = group.topology.as_ref()
            && member.topology_epoch < current.epoch
        {
            let detail = format!(
                "The member's topology epoch {} is behind the group's topology epoch {}.",
                member.topology_epoch, current.epoch
            );
            statuses.push(status(StatusCode::StaleTopology, detail));
        }
        let found = self.plan_epoch(env, &topology, changed, &mut records)?;
        let target = group.plan_target(
            env,
            self.name,
            &Changed {
                group_epoch: found.at.epoch,
                configured: &found.configured,
                configs: &found.at.configs,
                member: Some(&member),
                waits: self.waits,
            },
            &mut records,
        );
        if let Some(delayed) = target.delayed {
            let detail = delayed.detail().to_owned();
            statuses.push(status(StatusCode::AssignmentDelayed, detail));
        }
        let planned = records.len();
        let reconcile = Reconcile {
            owners: group.owners(),
            target_epoch: target.epoch,
            target: &target.tasks,
            owned: self.owned.as_ref(),
        };
        let member = reconcile.run(member, &mut records)?;
        let moved = !Arc::ptr_eq(&member, &before) && member.assigned != before.assigned;
        let tells = request.member_epoch == 0 || moved;
        let bumps = tells && member.endpoint.is_some();
        let endpoint_epoch = group.endpoint_epoch.wrapping_add(i32::from(bumps));
        let mut answer = StreamsHeartbeat {
            response: self.response(env, &member, tells.then_some(&member.assigned)),
            topics: Vec::new(),
        };
        self.tell_endpoints(env, &member, &found, endpoint_epoch, &mut answer.response);
        self.tell_state(&found.configured, &mut statuses, &mut answer);
        answer.response.status = Some(statuses);
        let due = env.now.wall_ms.saturating_add(REFRESH_INTERVAL_MS);
        Ok(Plan {
            reconciled: records.len() > planned,
            records,
            member,
            configured: found.configured,
            refresh: found.looked.then_some((due, found.at.epoch)),
            endpoint_epoch: if self.is_new { 0 } else { endpoint_epoch },
            answer,
        })
    }

    /// The member that speaks, or one that is new.
    fn member(&self) -> Result<Arc<Member>, Refusal> {
        let id = &*self.request.member_id;
        let member = match self.group.member(id) {
            Some(member) => member.clone(),
            None if self.request.member_epoch == 0 => Arc::new(Member::new(id.into())),
            None => return Err(unknown_member(id, self.name)),
        };
        check_epoch(&member, self.request.member_epoch, self.owned.as_ref())?;
        Ok(member)
    }

    /// The group's topology; the first member brings it, and all others must have the same.
    fn plan_topology(&self, records: &mut Vec<StreamsRecord>) -> Result<Arc<Topology>, Refusal> {
        let Some(brought) = &self.request.topology else {
            let current = self.group.topology.clone();
            return current.ok_or_else(|| ErrorCode::UnknownServerError.into());
        };
        let brought = Topology::of_request(brought)?;
        match &self.group.topology {
            None => {
                let topology = Arc::new(brought);
                records.push(StreamsRecord::Topology(Some(topology.clone())));
                Ok(topology)
            }
            Some(current) if current.epoch > brought.epoch || **current == brought => {
                Ok(current.clone())
            }
            Some(_) => Err(Refusal::new(
                ErrorCode::InvalidRequest,
                "Topology updates are not supported yet.",
            )),
        }
    }

    /// Looks at the topics if that is due. A new epoch begins when something has changed: the
    /// member, the topics, whether the topology can run, or the settings of assignments.
    fn plan_epoch(
        &self,
        env: &Env<'_>,
        topology: &Topology,
        mut bump: bool,
        records: &mut Vec<StreamsRecord>,
    ) -> Result<Found, Refusal> {
        let group = self.group;
        let mut known = group
            .configured
            .clone()
            .filter(|_| group.topology.is_some());
        let mut hash = group.at.metadata_hash;
        let looked = known.is_none() || group.is_metadata_due(env.now.wall_ms);
        if looked {
            hash = metadata_hash(env.metadata, topology.required_topics().into_iter());
            if hash != group.at.metadata_hash {
                bump = true;
                known = None;
            }
        }
        let configured = match known {
            Some(configured) => configured,
            None => Arc::new(configure(topology, env.metadata, hash)?),
        };
        let mut validated = -1;
        if configured.is_ready() {
            validated = topology.epoch;
            check_tasks(&configured, self.owned.as_ref())?;
        }
        let configs = assignment_configs(env, self.name);
        bump |= validated != group.at.validated_topology_epoch || configs != group.at.configs;
        let mut at = group.at.clone();
        if bump {
            at = Arc::new(GroupEpoch {
                epoch: at.epoch.saturating_add(1),
                metadata_hash: hash,
                validated_topology_epoch: validated,
                configs,
            });
            records.push(StreamsRecord::Epoch(Some(at.clone())));
        }
        Ok(Found {
            configured,
            at,
            looked,
        })
    }

    fn response(&self, env: &Env<'_>, member: &Member, has: Option<&HeldTasks>) -> Response {
        let own = env.metadata.group_settings(self.name).streams;
        let interval_ms = own.heartbeat_interval_ms;
        Response {
            member_id: member.id.to_string().into(),
            member_epoch: member.epoch,
            heartbeat_interval_ms: interval_ms
                .unwrap_or(env.config.streams_group_heartbeat_interval_ms),
            active_tasks: has.and_then(|has| told(&has.active_set())),
            standby_tasks: has.and_then(|has| told(&has.standby)),
            warmup_tasks: has.and_then(|has| told(&has.warmup)),
            ..Default::default()
        }
    }

    fn tell_endpoints(
        &self,
        env: &Env<'_>,
        member: &Member,
        found: &Found,
        epoch: i32,
        response: &mut Response,
    ) {
        if epoch != self.request.endpoint_information_epoch {
            let subtopologies = found.configured.subtopologies.as_ref();
            let endpoints = self.group.endpoints(member, subtopologies, env.metadata);
            response.partitions_by_user_endpoint = Some(endpoints);
        }
        response.endpoint_information_epoch = if self.is_new { 0 } else { epoch };
    }

    /// What is in the way of the topology, and whether the application is to end.
    fn tell_state(
        &self,
        configured: &Configured,
        statuses: &mut Vec<Status<'static>>,
        answer: &mut StreamsHeartbeat,
    ) {
        if let Some(obstacle) = &configured.obstacle {
            statuses.push(status(obstacle.code, obstacle.detail.clone()));
            answer.topics = configured.to_create.iter().map(creatable).collect();
        }
        let asks = self.request.shutdown_application;
        let asks = asks.then_some(&*self.request.member_id);
        if let Some(by) = self.group.shutdown_by.as_deref().or(asks) {
            let detail = format!(
                "Streams group member {by} encountered a fatal error and requested a shutdown for \
                 the entire application."
            );
            statuses.push(status(StatusCode::ShutdownApplication, detail));
        }
    }
}

/// For how long who joins an empty group waits for others.
fn delay_ms(env: &Env<'_>, group: &str) -> i32 {
    let own = env.metadata.group_settings(group).streams;
    let own = own.initial_rebalance_delay_ms;
    own.unwrap_or(env.config.streams_group_initial_rebalance_delay_ms)
}

impl Group {
    /// StreamsGroupHeartbeat, when the group was found or (`created`) made.
    pub(crate) fn streams_heartbeat(
        &mut self,
        env: &mut Env<'_>,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &Request<'_>,
        created: bool,
    ) {
        let result = if self.is_dead() {
            Err(ErrorCode::CoordinatorNotAvailable.into())
        } else if request.member_epoch == LEAVE_EPOCH {
            self.streams_leave(env, token, request)
        } else {
            self.streams_beat(env, ctx, token, request, created)
        };
        if let Err(refusal) = result {
            env.reply(token, heartbeat_error(refusal));
        }
    }

    fn not_streams(&self) -> Refusal {
        let message = format!("Group {} is not a streams group.", self.name);
        Refusal::new(ErrorCode::GroupIdNotFound, message)
    }

    fn streams_beat(
        &mut self,
        env: &mut Env<'_>,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &Request<'_>,
        created: bool,
    ) -> Result<(), Refusal> {
        let begun;
        let joins = request.member_epoch == 0;
        let (group, conversion) = match &self.streams {
            Some(group) => (&**group, None),
            None if joins && self.is_classic_kind() && self.is_memberless() => {
                begun = StreamsGroup::new();
                (&begun, Some(Conversion::ToStreams { bury: !created }))
            }
            None => return Err(self.not_streams()),
        };
        let max_size = env.config.streams_group_max_size;
        if joins && group.members().len() >= max_size {
            let message = format!(
                "The streams group has reached its maximum capacity of {max_size} members."
            );
            return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
        }
        let delay_ms = delay_ms(env, &self.name);
        let delays = group.is_empty() && delay_ms > 0 && !group.delay.is_set();
        let beat = Beat {
            group,
            name: &self.name,
            ctx,
            request,
            owned: owned_of(request),
            waits: delays || group.delay.is_set(),
            is_new: conversion.is_some(),
        };
        let plan = beat.plan(env)?;
        let change = Change {
            conversion,
            records: plan.records,
        };
        let reply = Reply::StreamsGroupHeartbeat(Box::new(plan.answer));
        self.write_change(env, change, Some((token, reply)))?;
        let serial = self.serial;
        if let Some(streams) = &mut self.streams {
            streams.configured = Some(plan.configured);
            streams.refresh = plan.refresh.unwrap_or(streams.refresh);
            streams.endpoint_epoch = plan.endpoint_epoch;
            if request.shutdown_application {
                streams.shut_down(&plan.member.id);
            }
            if delays {
                streams.begin_delay(env, serial, delay_ms);
            }
            streams.begin_session(env, (serial, &self.name), &plan.member.id);
            if plan.reconciled {
                streams.watch_revocation(env, serial, &plan.member);
            }
        }
        Ok(())
    }

    fn streams_leave(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        let Some(streams) = &mut self.streams else {
            return Err(self.not_streams());
        };
        let id = &*request.member_id;
        if request.shutdown_application {
            streams.shut_down(&id.into());
        }
        let Some(member) = streams.member(id).cloned() else {
            return Err(unknown_member(id, &self.name));
        };
        let reply = answer(Response {
            member_id: id.to_owned().into(),
            member_epoch: request.member_epoch,
            ..Default::default()
        });
        self.fence_streams(
            env,
            &BTreeSet::from([member.id.clone()]),
            Some((token, reply)),
        )
    }
}
