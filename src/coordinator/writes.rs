//! Appends that were handed out and not answered yet, and what each will do to the state when it
//! is.

use crate::classic::StaticReplacement;
use crate::offsets::TxnPart;
use crate::out::{Reply, ReplyToken, TxnMarker};
use crate::share_group::{ShareCall, ShareThen};
use crate::timers::GroupSerial;
use bytes::Bytes;
use flumen_base::{IdMap, PartitionIndex};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A committed-offset slot by topic and partition.
pub(crate) type OffsetKey = (Arc<str>, PartitionIndex);

/// An append in flight.
#[derive(Debug)]
pub(crate) struct Write {
    /// Partition of `__consumer_offsets`.
    pub(crate) partition: PartitionIndex,
    /// What it changes, by group.
    pub(crate) parts: Vec<Part>,
    /// Who hears of it.
    pub(crate) done: Done,
    /// Replies computed from state that this write makes true (OffsetFetch with requireStable);
    /// they leave with it.
    pub(crate) waiters: Vec<(ReplyToken, Reply)>,
}

/// The share of one group in a write.
#[derive(Debug)]
pub(crate) struct Part {
    /// Whose.
    pub(crate) group: GroupSerial,
    /// Offsets whose pending value this write carries.
    pub(crate) offsets: Vec<OffsetKey>,
    /// What else hangs on it.
    pub(crate) effect: Effect,
}

/// What a write does to a group besides offsets.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Nothing: offsets only, or metadata of a group that became empty (losing it is harmless: the
    /// generation before has no members that live).
    None,
    /// First record of a group that a join created: without it there is no group.
    Created,
    /// The leader's assignment of this generation.
    Assignment {
        generation: i32,
        by_member: BTreeMap<Box<str>, Bytes>,
    },
    /// A static member came back under a new id while the group was stable.
    Replaced(Box<StaticReplacement>),
    /// A change of a consumer, share or streams group, or of the kind of the group.
    Change,
    /// The group's tombstone.
    Deleted,
    /// Its offsets are those of a transaction.
    Txn(TxnPart),
}

/// Whom a write answers.
#[derive(Debug)]
pub(crate) enum Done {
    /// Nobody.
    Nothing,
    /// A waiting request.
    Reply(ReplyToken, Reply),
    /// Whoever sent a transaction marker.
    TxnCompleted {
        token: ReplyToken,
        marker: TxnMarker,
    },
    /// One group of a DeleteGroups request.
    DeletedGroup { gather: u64, index: usize },
    /// A waiting request, if any; and stored states of share partitions are made or deleted.
    Share(Box<ShareDone>),
}

impl Done {
    /// The waiting request is answered, if there is one.
    pub(crate) fn answer(reply: Option<(ReplyToken, Reply)>) -> Self {
        match reply {
            Some((token, reply)) => Self::Reply(token, reply),
            None => Self::Nothing,
        }
    }
}

/// What follows a write of a share group, beside the answer.
#[derive(Debug)]
pub(crate) struct ShareDone {
    /// The waiting request, if any.
    pub(crate) reply: Option<(ReplyToken, Reply)>,
    /// What is asked for the stored states.
    pub(crate) call: ShareCall,
    /// What the answer is for.
    pub(crate) then: ShareThen,
}

/// All writes in flight, by token.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    /// The last token given.
    pub(crate) last: u64,
    /// In flight.
    pub(crate) pending: IdMap<u64, Write>,
}
