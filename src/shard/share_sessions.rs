//! Share sessions (KIP-932): which share partitions a member fetches from, on the shard of its
//! connection, with which they end. Shard 0 counts those of the broker
//! (`group.share.max.share.sessions`) and knows which groups have none left.

use crate::Shard;
use crate::io::ConnId;
use crate::ops::{Op, OpFrom, OpRequest, OpResult, PartitionOp};
use crate::turn::Turn;
use flumen_base::limits::SHARE_SESSION_PARTITIONS_MAX;
use flumen_base::{ErrorCode, PartitionIndex, ShardId, Uuid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A group and a member of it.
pub(crate) type MemberKey = (Arc<str>, Arc<str>);

/// Epoch of a request that asks for a new session.
pub(crate) const INITIAL_EPOCH: i32 = 0;
/// Epoch of a request that ends its session.
pub(crate) const FINAL_EPOCH: i32 = -1;

/// A partition of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionPartition {
    pub(crate) topic: Uuid,
    pub(crate) index: PartitionIndex,
    /// The next answer names it, even if it has nothing to say.
    pub(crate) told: bool,
}

/// A session.
#[derive(Debug)]
pub(crate) struct ShareSession {
    /// Tells it from others of the same member.
    number: u64,
    conn: ConnId,
    epoch: i32,
    /// In the order in which they are asked for: those that gave something last stand at the end.
    pub(crate) partitions: Vec<SessionPartition>,
}

/// What shards and shard 0 say about sessions.
#[derive(Clone, Debug)]
pub(crate) enum ShareSessionOp {
    /// To shard 0: may there be one more? [`OpResult::ShareSession`].
    Open(MemberKey, u64),
    /// To shard 0: it has ended.
    Close(MemberKey, u64),
    /// From shard 0: the member has a session on another shard.
    Lost(MemberKey, u64),
}

/// The sessions of a shard.
#[derive(Default)]
pub(crate) struct ShareSessions {
    map: BTreeMap<MemberKey, ShareSession>,
    /// On shard 0: those of all shards.
    granted: BTreeMap<MemberKey, (ShardId, u64)>,
}

/// The epoch behind one.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

impl ShareSessions {
    /// How many there are on this shard.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The session of a member.
    pub(crate) fn get_mut(&mut self, key: &MemberKey) -> Option<&mut ShareSession> {
        self.map.get_mut(key)
    }

    /// The session that a request of this epoch belongs to; its next one has to bring the epoch
    /// behind it.
    ///
    /// # Errors
    /// SHARE_SESSION_NOT_FOUND, INVALID_SHARE_SESSION_EPOCH.
    pub(crate) fn go_on(
        &mut self,
        key: &MemberKey,
        epoch: i32,
    ) -> Result<&mut ShareSession, ErrorCode> {
        let session = self.map.get_mut(key);
        let session = session.ok_or(ErrorCode::ShareSessionNotFound)?;
        if epoch == FINAL_EPOCH {
            return Ok(session);
        }
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidShareSessionEpoch);
        }
        session.epoch = next_epoch(epoch);
        Ok(session)
    }
}

impl ShareSession {
    /// Adds partitions that a request names and takes out those that it forgets.
    pub(crate) fn update(
        &mut self,
        named: impl Iterator<Item = (Uuid, PartitionIndex)>,
        forgotten: &[(Uuid, PartitionIndex)],
    ) {
        for (topic, index) in named {
            let known = self
                .partitions
                .iter()
                .any(|p| (p.topic, p.index) == (topic, index));
            if !known && self.partitions.len() < SHARE_SESSION_PARTITIONS_MAX {
                self.partitions.push(SessionPartition {
                    topic,
                    index,
                    told: true,
                });
            }
        }
        self.partitions
            .retain(|p| !forgotten.contains(&(p.topic, p.index)));
    }

    /// What of a partition's answer the next one depends on: whether it was an error, and whether
    /// it gave something.
    pub(crate) fn note(&mut self, place: (Uuid, PartitionIndex), failed: bool, gave: bool) {
        let at = self
            .partitions
            .iter()
            .position(|p| (p.topic, p.index) == place);
        let Some(at) = at else {
            return;
        };
        if let Some(partition) = self.partitions.get_mut(at) {
            partition.told = failed;
        }
        if gave {
            let partition = self.partitions.remove(at);
            self.partitions.push(partition);
        }
    }

    /// Whether the next answer names a partition in any case.
    pub(crate) fn must_tell(&self, place: (Uuid, PartitionIndex)) -> bool {
        let mut partitions = self.partitions.iter();
        partitions.any(|p| (p.topic, p.index) == place && p.told)
    }
}

impl Shard {
    /// Makes a session in the place of the one that the member may have; shard 0 has agreed.
    pub(crate) fn make_share_session(
        &mut self,
        conn: ConnId,
        key: &MemberKey,
        number: u64,
        partitions: &[(Uuid, PartitionIndex)],
    ) {
        let mut session = ShareSession {
            number,
            conn,
            epoch: next_epoch(INITIAL_EPOCH),
            partitions: Vec::new(),
        };
        session.update(partitions.iter().copied(), &[]);
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.share_members.push(key.clone());
        }
        self.share_sessions.map.insert(key.clone(), session);
    }

    /// Forgets the session of a member that begins another; what it holds stays its own.
    pub(crate) fn forget_share_session(&mut self, key: &MemberKey) {
        if let Some(session) = self.share_sessions.map.remove(key)
            && let Some(conn) = self.conns.get_mut(&session.conn)
        {
            conn.share_members.retain(|member| member != key);
        }
    }

    /// Ends the session of a member: what it holds is handed out to others.
    pub(crate) fn close_share_session(&mut self, turn: &mut Turn<'_>, key: &MemberKey) {
        let Some(session) = self.share_sessions.map.remove(key) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(&session.conn) {
            conn.share_members.retain(|member| member != key);
        }
        for partition in &session.partitions {
            let topic = self.image.topic_by_id(&partition.topic);
            let topic = topic.filter(|t| t.partition(partition.index).is_some());
            let Some(tp) = topic.map(|topic| crate::image::id_of(topic, partition.index)) else {
                continue;
            };
            let op = PartitionOp::ShareRelease {
                group: key.0.clone(),
                member: key.1.clone(),
            };
            self.send_op(turn, self.owner(tp), 0, 0, Op::Partition(tp, op));
        }
        let close = ShareSessionOp::Close(key.clone(), session.number);
        self.send_op(turn, ShardId::FIRST, 0, 0, Op::ShareSession(close));
    }

    /// A connection has ended, and the sessions of its members with it.
    pub(crate) fn end_share_members(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        all: &[MemberKey],
    ) {
        for key in all {
            let session = self.share_sessions.map.get(key);
            if session.is_some_and(|session| session.conn == conn) {
                self.close_share_session(turn, key);
            }
        }
    }

    /// Op::ShareSession of a shard.
    pub(crate) fn run_share_session_op(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        op: ShareSessionOp,
    ) {
        match op {
            ShareSessionOp::Open(key, number) => {
                let max = usize::try_from(self.broker.share.max_share_sessions).unwrap_or(0);
                let granted = &mut self.share_sessions.granted;
                let before = granted.get(&key).copied();
                let room = before.is_some() || granted.len() < max;
                if room {
                    granted.insert(key.clone(), (from.shard, number));
                }
                self.outbox.result(from, OpResult::ShareSession(room));
                if let Some((shard, number)) = before.filter(|(shard, _)| *shard != from.shard) {
                    let lost = Op::ShareSession(ShareSessionOp::Lost(key, number));
                    self.tell_shard(turn, shard, lost);
                }
            }
            ShareSessionOp::Close(key, number) => {
                let granted = &mut self.share_sessions.granted;
                let is_it = |(_, known): &(ShardId, u64)| *known == number;
                if !granted.get(&key).is_some_and(is_it) {
                    return;
                }
                granted.remove(&key);
                let first = (key.0.clone(), Arc::from(""));
                let next = granted.range(first..).next();
                if next.is_none_or(|((group, _), _)| *group != key.0) {
                    for n in 0..self.shards {
                        self.tell_shard(turn, ShardId(n), Op::ShareGroupIdle(key.0.clone()));
                    }
                }
            }
            ShareSessionOp::Lost(key, number) => {
                let session = self.share_sessions.map.get(&key);
                if session.is_some_and(|session| session.number == number) {
                    self.forget_share_session(&key);
                }
            }
        }
    }

    /// Sends an operation that gives no result.
    fn tell_shard(&mut self, turn: &mut Turn<'_>, to: ShardId, op: Op) {
        if to == self.id {
            let from = OpFrom {
                shard: to,
                gather: 0,
                index: 0,
            };
            self.run_op(turn, from, op);
        } else {
            let (gather, index) = (0, 0);
            self.outbox.op(to, OpRequest { gather, index, op });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Uuid = Uuid::from_bytes([1; 16]);

    #[test]
    fn partitions_come_go_and_move_to_the_end() {
        let mut session = ShareSession {
            number: 1,
            conn: ConnId(1),
            epoch: 1,
            partitions: Vec::new(),
        };
        session.update([(T, 0), (T, 1), (T, 2), (T, 1)].into_iter(), &[]);
        session.note((T, 0), false, true);
        session.note((T, 1), true, false);
        let order: Vec<_> = session
            .partitions
            .iter()
            .map(|p| (p.index, p.told))
            .collect();
        assert_eq!(order, [(1, true), (2, true), (0, false)]);
        session.update(std::iter::empty(), &[(T, 2)]);
        assert_eq!(session.partitions.len(), 2);
        assert!(session.must_tell((T, 1)) && !session.must_tell((T, 0)));
    }

    #[test]
    fn epochs_are_checked_and_counted() {
        let mut sessions = ShareSessions::default();
        let key: MemberKey = ("g".into(), "m".into());
        let error = |r: Result<&mut ShareSession, ErrorCode>| r.err();
        assert_eq!(
            error(sessions.go_on(&key, 1)),
            Some(ErrorCode::ShareSessionNotFound)
        );
        let session = ShareSession {
            number: 1,
            conn: ConnId(1),
            epoch: i32::MAX,
            partitions: Vec::new(),
        };
        sessions.map.insert(key.clone(), session);
        assert_eq!(
            error(sessions.go_on(&key, 1)),
            Some(ErrorCode::InvalidShareSessionEpoch)
        );
        assert_eq!(error(sessions.go_on(&key, FINAL_EPOCH)), None);
        assert_eq!(error(sessions.go_on(&key, i32::MAX)), None);
        assert_eq!(error(sessions.go_on(&key, 1)), None);
    }
}
