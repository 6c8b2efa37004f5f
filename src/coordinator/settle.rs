//! How appends end: what they carried becomes the committed state, or is undone; then the replies
//! leave.

use crate::classic::{ClassicGroup, State, metadata_append_error, sync_error};
use crate::consumer::heartbeat_error;
use crate::coordinator::GroupCoordinator;
use crate::group::{Env, Group};
use crate::offsets::{
    delete_append_error, fail_commit, fail_txn_commit, fetch_append_error, offset_append_error,
};
use crate::out::{Out, Reply, ReplyToken, WriteToken};
use crate::share_group::{ShareThen, alter_error, delete_offsets_error, share_heartbeat_error};
use crate::streams::streams_heartbeat_error;
use crate::timers::TimerKey;
use crate::writes::{Done, Effect, Part, ShareDone};
use flumen_base::{ErrorCode, Mono, Now};
use flumen_wire::messages::JoinGroupResponse;
use flumen_wire::messages::delete_groups_response::DeletableGroupResult;

/// A DeleteGroups request whose groups are in several appends.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) token: ReplyToken,
    pub(crate) results: Vec<DeletableGroupResult<'static>>,
    /// Appends not answered.
    pub(crate) left: usize,
}

impl GroupCoordinator {
    /// An append is written (and replicated as far as the topic asks for).
    pub fn commit(&mut self, now: Now, token: WriteToken, out: &mut Out) {
        self.end_write(now, token, ErrorCode::None, out);
    }

    /// An append did not happen, and never will: what hung on it is undone, and who waited hears
    /// the error that Kafka makes of this one.
    pub fn append_failed(&mut self, now: Now, token: WriteToken, error: ErrorCode, out: &mut Out) {
        let error = match error {
            ErrorCode::None => ErrorCode::UnknownServerError,
            error => error,
        };
        self.end_write(now, token, error, out);
    }

    fn end_write(&mut self, now: Now, token: WriteToken, error: ErrorCode, out: &mut Out) {
        let Some(write) = self.writes.pending.remove(&token.0) else {
            return; // of a partition that was given up
        };
        for part in write.parts {
            let serial = part.group;
            let gone = self.with_group(serial, now, out, |group, env| {
                group.settle(env, token.0, part, error)
            });
            if gone == Some(true) {
                self.remove(serial);
            }
        }
        if let Done::TxnCompleted { marker, .. } = &write.done
            && error.is_none()
        {
            let (id, commit) = (marker.producer_id, marker.commit);
            self.apply_marker(write.partition, id, commit);
        }
        self.answer_write(write.done, write.waiters, error, out);
    }

    /// Lets the replies of a write leave.
    pub(crate) fn answer_write(
        &mut self,
        done: Done,
        waiters: Vec<(ReplyToken, Reply)>,
        error: ErrorCode,
        out: &mut Out,
    ) {
        match done {
            Done::Nothing => {}
            Done::TxnCompleted { token, .. } => {
                let error = match offset_append_error(error) {
                    ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator => {
                        ErrorCode::NotLeaderOrFollower // try again
                    }
                    error => error,
                };
                out.replies.push((token, Reply::TxnCompleted(error)));
            }
            Done::Reply(token, reply) => out.replies.push((token, failed(reply, error))),
            Done::Share(share) => {
                let ShareDone { reply, call, then } = *share;
                let reply = reply.map(|(token, reply)| (token, failed(reply, error)));
                out.replies.extend(reply);
                if error.is_none() {
                    self.share_wait_last += 1;
                    self.share_waits.insert(self.share_wait_last, then);
                    out.share_calls.push((self.share_wait_last, call));
                } else {
                    self.share_not_called(then, error, out);
                }
            }
            Done::DeletedGroup { gather, index } => {
                if let Some(gather) = self.gathers.get_mut(&gather)
                    && let Some(result) = gather.results.get_mut(index)
                {
                    result.error_code = offset_append_error(error).code();
                    gather.left -= 1;
                }
                self.finish_gather(gather, out);
            }
        }
        for (token, reply) in waiters {
            out.replies.push((token, failed(reply, error)));
        }
    }

    /// A call that hung on a write that failed: whoever waits hears of it.
    fn share_not_called(&mut self, then: ShareThen, error: ErrorCode, out: &mut Out) {
        let refusal = || metadata_append_error(error).into();
        let (token, reply) = match then {
            ShareThen::Heartbeat { .. } => return,
            ShareThen::Alter { token, .. } => (token, alter_error(refusal())),
            ShareThen::DeleteOffsets { token, .. } => (token, delete_offsets_error(refusal())),
            ShareThen::DeleteGroup { gather, index, .. } => {
                let done = Done::DeletedGroup { gather, index };
                return self.answer_write(done, Vec::new(), error, out);
            }
        };
        out.replies.push((token, reply));
    }

    /// Answers a DeleteGroups request when its last append is answered.
    pub(crate) fn finish_gather(&mut self, gather: u64, out: &mut Out) {
        if self.gathers.get(&gather).is_some_and(|g| g.left == 0)
            && let Some(done) = self.gathers.remove(&gather)
        {
            out.replies
                .push((done.token, Reply::DeleteGroups(done.results)));
        }
    }
}

/// A reply that was computed in the hope that its append succeeds.
fn failed(reply: Reply, error: ErrorCode) -> Reply {
    if error.is_none() {
        return reply;
    }
    match reply {
        Reply::OffsetCommit(mut response) => {
            fail_commit(&mut response, error);
            Reply::OffsetCommit(response)
        }
        Reply::OffsetDelete(_) => delete_append_error(error),
        Reply::TxnOffsetCommit(mut response) => {
            fail_txn_commit(&mut response, error);
            Reply::TxnOffsetCommit(response)
        }
        Reply::LeaveGroup(_) => crate::classic::leave_error(offset_append_error(error)),
        Reply::ConsumerGroupHeartbeat(_) => heartbeat_error(metadata_append_error(error).into()),
        Reply::StreamsGroupHeartbeat(_) => {
            streams_heartbeat_error(metadata_append_error(error).into())
        }
        Reply::ShareGroupHeartbeat(_) => share_heartbeat_error(metadata_append_error(error).into()),
        Reply::AlterShareGroupOffsets(_) => alter_error(metadata_append_error(error).into()),
        Reply::DeleteShareGroupOffsets(_) => {
            delete_offsets_error(metadata_append_error(error).into())
        }
        // Those of classic members of consumer groups; others have an effect that answers.
        Reply::JoinGroup(_) => Reply::JoinGroup(JoinGroupResponse {
            error_code: metadata_append_error(error).code(),
            protocol_name: Some("".into()),
            ..Default::default()
        }),
        Reply::SyncGroup(_) => sync_error(metadata_append_error(error)),
        Reply::OffsetFetch(mut group) => {
            group.topics.clear();
            group.error_code = fetch_append_error(error).code();
            Reply::OffsetFetch(group)
        }
        other => other,
    }
}

impl Group {
    /// One of its writes ended; true when the group is deleted by it.
    fn settle(&mut self, env: &mut Env<'_>, write: u64, part: Part, error: ErrorCode) -> bool {
        let written = error.is_none();
        self.writes_pending -= 1;
        if self.write_last == Some(write) {
            self.write_last = None;
        }
        for key in &part.offsets {
            match part.effect {
                Effect::Txn(of) => self.offsets.settle_txn(write, of, key, written),
                _ => self.offsets.settle(write, key, written),
            }
        }
        self.persisted |= written;
        match (part.effect, written) {
            (Effect::None | Effect::Created | Effect::Txn(_), true)
            | (Effect::None | Effect::Txn(_), false) => {}
            // A later record of the group is on its way, and begins it as well as this one.
            (Effect::Created, false) if self.writes_pending > 0 || self.persisted => {}
            (Effect::Created, false) => {
                self.answer_all(env, metadata_append_error(error));
                self.classic = ClassicGroup::new(env.now.wall_ms);
            }
            (
                Effect::Assignment {
                    generation,
                    by_member,
                },
                true,
            ) => self.assignment_written(env, generation, &by_member),
            (Effect::Assignment { generation, .. }, false) => {
                self.assignment_failed(env, generation, error);
            }
            (Effect::Replaced(replaced), true) => self.static_replaced(env, &replaced),
            (Effect::Replaced(replaced), false) => {
                self.static_replacement_failed(env, *replaced, error);
            }
            (Effect::Change, true) => self.change_written(write),
            (Effect::Change, false) => self.change_failed(env, write, error),
            (Effect::Deleted, true) => return true,
            (Effect::Deleted, false) => self.revive(),
        }
        false
    }

    /// Ends every waiting request with an error.
    pub(crate) fn answer_all(&mut self, env: &mut Env<'_>, error: ErrorCode) {
        let serials: Vec<_> = self.classic.members.keys().copied().collect();
        for serial in serials {
            if let Some(parked) = self.classic.take_join(serial) {
                let reply = crate::classic::join_error(parked, "", error);
                env.reply(parked.token, reply);
            }
            let member = self.classic.members.get_mut(&serial);
            if let Some(parked) = member.and_then(|m| m.sync.take()) {
                env.reply(parked.token, sync_error(error));
            }
        }
    }

    /// A queue entry of this group came up.
    pub(crate) fn timer(&mut self, env: &mut Env<'_>, entry: (Mono, TimerKey)) {
        let now = env.now.mono;
        let classic = &mut self.classic;
        match entry.1 {
            TimerKey::Session(_, serial) => {
                let member = classic.members.get_mut(&serial).map(|m| &mut m.session);
                let pending = classic.pending.get_mut(&serial).map(|(_, d)| d);
                if let Some(deadline) = member.or(pending)
                    && env.timers.take_due(deadline, entry, now)
                {
                    self.session_timer_fired(env, serial);
                }
            }
            TimerKey::Join(_) => {
                if env.timers.take_due(&mut classic.join_deadline, entry, now) {
                    self.join_timer_fired(env);
                }
            }
            TimerKey::Sync(_) => {
                if env.timers.take_due(&mut classic.sync_deadline, entry, now) {
                    self.sync_timer_fired(env);
                }
            }
            TimerKey::Member(_, serial, timer) => {
                let of = (serial, timer);
                if self.share.is_some() {
                    self.share_timer(env, entry, of);
                } else if self.streams.is_some() {
                    self.streams_timer(env, entry, of);
                } else {
                    self.consumer_timer(env, entry, of);
                }
            }
            TimerKey::Delay(_) => self.streams_delay(env, entry),
            TimerKey::Expiry(_) => {}
        }
        debug_assert!(self.classic.state != State::Dead || self.classic.members.is_empty());
    }
}
