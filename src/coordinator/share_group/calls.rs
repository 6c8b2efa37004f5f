//! What a share group wants from the coordinators of stored share state: their answers come back
//! with [`crate::GroupCoordinator::share_called`].

use crate::out::ReplyToken;
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_wire::messages::AlterShareGroupOffsetsResponse;
use flumen_wire::messages::delete_share_group_offsets_response as deleted;
use std::sync::Arc;

/// What is to be done with the stored states of share partitions of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareCall {
    /// The group.
    pub group: Arc<str>,
    /// What to do.
    pub what: ShareDeed,
}

/// Kinds of [`ShareCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareDeed {
    /// Make them known, or begin them anew.
    Initialize {
        /// Counts the beginnings.
        state_epoch: i32,
        /// Topic, partition and start offset (-1: by `share.auto.offset.reset`).
        partitions: Vec<(Uuid, PartitionIndex, i64)>,
    },
    /// Delete them; those that are not there, too.
    Delete {
        /// Topic and partition.
        partitions: Vec<(Uuid, PartitionIndex)>,
    },
}

/// What became of one share partition of a [`ShareCall`].
pub type ShareCalled = (Uuid, PartitionIndex, ErrorCode);

/// How a group goes on when its call is answered.
#[derive(Debug)]
pub(crate) enum ShareThen {
    /// Nobody waits: the partitions can be assigned, or will be tried again.
    Heartbeat { group: Arc<str> },
    /// AlterShareGroupOffsets.
    Alter {
        group: Arc<str>,
        token: ReplyToken,
        draft: Box<AlterShareGroupOffsetsResponse<'static>>,
    },
    /// DeleteShareGroupOffsets: what is wrong with other topics of the request.
    DeleteOffsets {
        group: Arc<str>,
        token: ReplyToken,
        refused: Vec<deleted::DeleteShareGroupOffsetsResponseTopic<'static>>,
    },
    /// One group of a DeleteGroups request.
    DeleteGroup {
        group: Arc<str>,
        gather: u64,
        index: usize,
    },
}

impl ShareThen {
    /// Whose.
    pub(crate) fn group(&self) -> &Arc<str> {
        match self {
            Self::Heartbeat { group }
            | Self::Alter { group, .. }
            | Self::DeleteOffsets { group, .. }
            | Self::DeleteGroup { group, .. } => group,
        }
    }
}
