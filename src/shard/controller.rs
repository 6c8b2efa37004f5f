//! The controller on shard 0: drives the quorum, hands its images to all shards, and answers a
//! change when all of them have applied it.
//!
//! ```text
//! request -> decide on the latest image -> propose -> write and sync (ring) -> committed
//!   -> Image to every shard -> Applied from every shard -> answer
//! ```
//! Until the quorum has elected this node, requests wait. When it has, this process registers
//! itself as a broker, which makes the shards ready.

use crate::Shard;
use crate::checkpoints::Checkpoints;
use crate::created::Wanted;
use crate::directories::Directories;
use crate::dirs::{Retry, fault_of};
use crate::io::{CloseReason, DiskOp, Effect, IoFailure, IoOutput, Response};
use crate::jobs::Job;
use crate::mesh::{CheckpointLine, Message};
use crate::ops::{OpFrom, OpResult};
use crate::partitions::{Pending, PendingJob};
use crate::request::{Reply, Request};
use crate::turn::Turn;
use flumen_base::{DiskFault, ErrorCode, Now, Prng, ShardId};
use flumen_quorum::controller::{self, Context, Decision, Registration};
use flumen_quorum::{Endpoint, ProposalId, Quorum};
use flumen_wire::Message as WireMessage;
use std::collections::{BTreeMap, VecDeque};

/// Requests that may wait for the election; more are closed.
const WAITING_REQUESTS_MAX: usize = 10_000;

/// State of the controller.
pub(crate) struct Controller {
    pub(crate) quorum: Quorum,
    prng: Prng,
    effects: Vec<flumen_quorum::Effect>,
    /// Requests and operations that came before the election was over.
    early: VecDeque<Early>,
    /// Answers by the proposal that they wait for.
    proposed: BTreeMap<ProposalId, Answer>,
    /// Answers by the image that all shards must have applied.
    committed: VecDeque<(u64, Vec<Answer>)>,
    /// The image that each shard has applied.
    applied: Vec<u64>,
    registering: bool,
    /// What the shards have said for the checkpoint files, and what of it is due.
    pub(crate) checkpoints: Checkpoints,
    /// Values of the shards that have closed their logs.
    pub(crate) closed: BTreeMap<ShardId, Vec<CheckpointLine>>,
    /// What the metadata is yet to hear of log directories.
    pub(crate) directories: Directories,
}

enum Early {
    Request(Request),
    ProducerIds(OpFrom),
    Create(OpFrom, Wanted),
}

/// Who hears that a change is made.
enum Answer {
    Reply(Reply, Response),
    Op(OpFrom, OpResult),
    Registered,
}

impl Controller {
    /// Not elected yet.
    pub(crate) fn new(quorum: Quorum, shards: u16, dirs: usize, prng: Prng) -> Self {
        Self {
            quorum,
            prng,
            effects: Vec::new(),
            early: VecDeque::new(),
            proposed: BTreeMap::new(),
            committed: VecDeque::new(),
            applied: vec![0; usize::from(shards)],
            registering: false,
            checkpoints: Checkpoints::new(dirs),
            closed: BTreeMap::new(),
            directories: Directories::default(),
        }
    }

    /// Whether this process has begun to register, which is when the metadata may change.
    pub(crate) fn is_registering(&self) -> bool {
        self.registering && self.quorum.is_ready()
    }
}

impl Shard {
    /// Has `handler` decide on the latest metadata, and answers when its records are committed and
    /// applied everywhere. Only on shard 0; a request that comes before the election waits for it.
    pub(crate) fn decide<R, F>(&mut self, turn: &mut Turn<'_>, request: Request, handler: F)
    where
        R: WireMessage<'static>,
        F: FnOnce(&Context<'_>, &mut Prng, &Quorum, &Request) -> Result<Decision<R>, CloseReason>,
    {
        let Some(c) = &mut self.controller else {
            return;
        };
        if !c.quorum.is_ready() {
            if c.early.len() < WAITING_REQUESTS_MAX {
                c.early.push_back(Early::Request(request));
            } else {
                self.close_reply(turn, request.reply, CloseReason::TooManyConnections);
            }
            return;
        }
        let ctx = Context {
            image: c.quorum.latest(),
            broker: &self.broker,
        };
        let decision = match handler(&ctx, &mut c.prng, &c.quorum, &request) {
            Ok(mut decision) => {
                controller::assign_directories(
                    ctx.image,
                    ctx.broker.node_id,
                    &mut decision.records,
                );
                decision
            }
            Err(reason) => {
                self.close_reply(turn, request.reply, reason);
                return;
            }
        };
        let reply = request.reply;
        let response = match reply.frame(&decision.response) {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(api = reply.api.name, %error, "an answer could not be encoded");
                self.close_reply(turn, reply, CloseReason::Malformed(error.to_string()));
                return;
            }
        };
        if decision.records.is_empty() {
            self.send(turn, reply, Some(response));
            return;
        }
        match c.quorum.propose(&decision.records) {
            Ok(id) => {
                c.proposed.insert(id, Answer::Reply(reply, response));
            }
            Err(error) => {
                tracing::error!(api = reply.api.name, %error, "a metadata change was not accepted");
                self.close_reply(turn, reply, CloseReason::NotNow(error.to_string()));
            }
        }
    }

    /// At the end of a turn: what the quorum wants done.
    pub(crate) fn poll_controller(&mut self, turn: &mut Turn<'_>) {
        loop {
            self.serve_early(turn);
            self.propose_directories();
            let Some(c) = &mut self.controller else {
                return;
            };
            let mut effects = std::mem::take(&mut c.effects);
            c.quorum.poll(&mut effects);
            let idle = effects.is_empty();
            for effect in effects.drain(..) {
                self.quorum_effect(turn, effect);
            }
            if let Some(c) = &mut self.controller {
                c.effects = effects;
            }
            if idle {
                return;
            }
        }
    }

    fn quorum_effect(&mut self, turn: &mut Turn<'_>, effect: flumen_quorum::Effect) {
        use flumen_quorum::Effect as E;
        match effect {
            E::Append(append) => {
                let token = self.park(Pending::QuorumAppend);
                let op = DiskOp::Write {
                    file: append.file,
                    pos: append.pos,
                    bufs: vec![append.bytes],
                    sync: true,
                };
                turn.fx.push(Effect::Io(token, op));
            }
            E::Committed(commit) => {
                let Some(c) = &mut self.controller else {
                    return;
                };
                let answers = commit
                    .finished
                    .iter()
                    .filter_map(|id| c.proposed.remove(id));
                let answers: Vec<Answer> = answers.collect();
                c.committed.push_back((commit.image.index(), answers));
                for n in 1..self.shards {
                    let (image, delta) = (commit.image.clone(), commit.delta.clone());
                    let message = Message::Image(image, delta);
                    turn.fx.push(Effect::Mesh(ShardId(n), message));
                }
                self.apply_image(turn, commit.image, &commit.delta);
            }
            E::Job(job) => {
                self.start_job(turn, PendingJob::Quorum, Job::Quorum(job));
            }
            E::Fatal(reason) => turn.fx.push(Effect::Fatal(reason)),
        }
    }

    /// A shard has applied an image: answers that waited for the last of them leave.
    pub(crate) fn on_applied(&mut self, turn: &mut Turn<'_>, from: ShardId, version: u64) {
        let Some(c) = &mut self.controller else {
            return;
        };
        if let Some(applied) = c.applied.get_mut(from.index()) {
            *applied = version.max(*applied);
        }
        let everywhere = c.applied.iter().copied().min().unwrap_or(0);
        let mut answers = Vec::new();
        while c
            .committed
            .front()
            .is_some_and(|(index, _)| *index <= everywhere)
        {
            answers.extend(c.committed.pop_front().into_iter().flat_map(|(_, a)| a));
        }
        for answer in answers {
            match answer {
                Answer::Reply(reply, response) => self.send(turn, reply, Some(response)),
                Answer::Op(from, result) => self.outbox.result(from, result),
                Answer::Registered => {
                    self.life.registered();
                    for n in 1..self.shards {
                        turn.fx.push(Effect::Mesh(ShardId(n), Message::Registered));
                    }
                }
            }
        }
    }

    /// Once elected: registers this process, then serves what waited.
    fn serve_early(&mut self, turn: &mut Turn<'_>) {
        let Some(c) = self.controller.as_mut().filter(|c| c.quorum.is_ready()) else {
            return;
        };
        if !std::mem::replace(&mut c.registering, true) {
            self.register(turn);
        }
        let early = self
            .controller
            .as_mut()
            .map(|c| std::mem::take(&mut c.early));
        for early in early.into_iter().flatten() {
            match early {
                Early::Request(request) => {
                    if let Some(handler) = crate::api::handler(request.reply.api.key) {
                        (handler.run)(self, turn, request);
                    }
                }
                Early::ProducerIds(from) => self.run_producer_ids(turn, from),
                Early::Create(from, wanted) => self.run_create(turn, from, wanted),
            }
        }
    }

    fn register(&mut self, turn: &mut Turn<'_>) {
        let found = self.controller.as_ref().map(|c| self.found_directories(c));
        let log_dirs = self.online_ids();
        let Some(c) = &mut self.controller else {
            return;
        };
        let listeners = self.config.broker.advertised_listeners.iter();
        let registration = Registration {
            cluster_id: self.config.cluster_id.clone(),
            incarnation: c.prng.uuid(),
            endpoints: listeners
                .filter(|l| !l.controller)
                .map(|l| Endpoint {
                    listener: l.name.clone(),
                    host: l.host.clone(),
                    port: l.port,
                    security_protocol: 0,
                })
                .collect(),
            log_dirs,
            features: c.quorum.first_features().clone(),
        };
        let ctx = Context {
            image: c.quorum.latest(),
            broker: &self.broker,
        };
        let records = match controller::register_broker(&ctx, &registration) {
            Ok(mut records) => {
                records.extend(found.into_iter().flatten());
                records
            }
            Err(error) => {
                let reason = format!("this broker can't register: {error:?}");
                turn.fx.push(Effect::Fatal(reason));
                return;
            }
        };
        match c.quorum.propose(&records) {
            Ok(id) => {
                c.proposed.insert(id, Answer::Registered);
            }
            Err(error) => {
                let reason = format!("this broker can't register: {error}");
                turn.fx.push(Effect::Fatal(reason));
            }
        }
    }

    /// Op::ProducerIds of a shard.
    pub(crate) fn run_producer_ids(&mut self, _turn: &mut Turn<'_>, from: OpFrom) {
        let refused = OpResult::ProducerIds(Err(ErrorCode::CoordinatorLoadInProgress));
        let Some(c) = &mut self.controller else {
            self.outbox.result(from, refused);
            return;
        };
        if !c.quorum.is_ready() {
            c.early.push_back(Early::ProducerIds(from));
            return;
        }
        let ctx = Context {
            image: c.quorum.latest(),
            broker: &self.broker,
        };
        let decision = controller::allocate_producer_ids(&ctx, self.broker.node_id);
        let Ok(decision) = decision else {
            self.outbox.result(from, refused);
            return;
        };
        let block = decision.response;
        match c.quorum.propose(&decision.records) {
            Ok(id) => {
                let result = OpResult::ProducerIds(Ok((block.first, block.len)));
                c.proposed.insert(id, Answer::Op(from, result));
            }
            Err(_) => self.outbox.result(from, refused),
        }
    }

    /// Op::AutoCreate or Op::CreateTopics of a shard.
    pub(crate) fn run_create(&mut self, _turn: &mut Turn<'_>, from: OpFrom, wanted: Wanted) {
        let Some(c) = &mut self.controller else {
            self.outbox.result(from, wanted.refused());
            return;
        };
        if !c.quorum.is_ready() {
            c.early.push_back(Early::Create(from, wanted));
            return;
        }
        let ctx = Context {
            image: c.quorum.latest(),
            broker: &self.broker,
        };
        let mut decision = wanted.decide(&ctx, &mut c.prng);
        controller::assign_directories(ctx.image, self.broker.node_id, &mut decision.records);
        let result = wanted.result(&decision.response);
        if decision.records.is_empty() {
            self.outbox.result(from, result);
            return;
        }
        match c.quorum.propose(&decision.records) {
            Ok(id) => {
                c.proposed.insert(id, Answer::Op(from, result));
            }
            Err(_) => self.outbox.result(from, wanted.refused()),
        }
    }

    pub(crate) fn quorum_append_done(&mut self, now: Now, result: Result<IoOutput, IoFailure>) {
        let Some(c) = &mut self.controller else {
            return;
        };
        match result {
            Err(failure) if fault_of(&failure) == DiskFault::Full => {
                c.quorum.append_full();
                self.retry(now, Retry::Quorum);
            }
            result => {
                let result = result.map(|_| ()).map_err(|e| e.to_string());
                c.quorum.append_done(result);
            }
        }
    }

    /// The pause after a write of the metadata log that found no room is over.
    pub(crate) fn retry_quorum_append(&mut self, turn: &mut Turn<'_>) {
        let mut effects = Vec::new();
        if let Some(c) = &mut self.controller {
            c.quorum.retry_append(&mut effects);
        }
        for effect in effects {
            self.quorum_effect(turn, effect);
        }
    }

    pub(crate) fn quorum_job_done(&mut self, result: flumen_quorum::JobResult) {
        if let Some(c) = &mut self.controller {
            c.quorum.job_done(result);
        }
    }
}
