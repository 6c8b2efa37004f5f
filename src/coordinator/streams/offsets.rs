//! Who may commit and fetch offsets of a streams group.
//!
//! A member may commit in its epoch, and in an older one the partitions of active tasks that it has
//! had since then: its commit may have crossed the answer that brought the new epoch. It may fetch
//! in its epoch.

use super::member::Member;
use super::state::StreamsGroup;
use crate::offsets::older_member;
use flumen_base::{ErrorCode, PartitionIndex};
use flumen_wire::messages::{
    OffsetCommitRequest, OffsetCommitResponse, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

/// Members must use this version of OffsetCommit.
const MEMBER_EPOCHS_FROM: i16 = 9;

impl StreamsGroup {
    /// Whether a member may commit an offset of this partition in an epoch before its own.
    fn check_partition(
        &self,
        member: &Member,
        epoch: i32,
        (topic, partition): (&str, PartitionIndex),
    ) -> Result<(), ErrorCode> {
        let topology = self.topology.as_ref();
        let reader = topology.and_then(|t| t.reader_of(topic));
        let since = reader.and_then(|reader| member.epoch_of(reader, partition));
        match since {
            Some(since) if epoch >= since => Ok(()),
            _ => Err(ErrorCode::StaleMemberEpoch),
        }
    }

    /// Whether the sender may commit what the draft of the answer accepts.
    pub(crate) fn validate_commit(
        &self,
        request: &OffsetCommitRequest<'_>,
        draft: &OffsetCommitResponse<'static>,
        api_version: i16,
    ) -> Result<(), ErrorCode> {
        let epoch = request.generation_id_or_member_epoch;
        if epoch < 0 && self.is_empty() {
            return Ok(());
        }
        let member = self.member(&request.member_id);
        let member = member.ok_or(ErrorCode::UnknownMemberId)?;
        if api_version < MEMBER_EPOCHS_FROM {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if epoch >= member.epoch {
            let current = epoch == member.epoch;
            return current.then_some(()).ok_or(ErrorCode::StaleMemberEpoch);
        }
        for topic in &draft.topics {
            for partition in topic.partitions.iter().filter(|p| p.error_code == 0) {
                self.check_partition(member, epoch, (&topic.name, partition.partition_index))?;
            }
        }
        Ok(())
    }

    /// Whether the sender may commit in a transaction what the draft of the answer accepts.
    pub(crate) fn validate_txn_commit(
        &self,
        request: &TxnOffsetCommitRequest<'_>,
        draft: &TxnOffsetCommitResponse<'static>,
    ) -> Result<(), ErrorCode> {
        let epoch = request.generation_id;
        let member = self.member(&request.member_id).map(|m| (m, m.epoch));
        let Some(member) = older_member(request, self.is_empty(), member)? else {
            return Ok(());
        };
        for topic in &draft.topics {
            for partition in topic.partitions.iter().filter(|p| p.error_code == 0) {
                self.check_partition(member, epoch, (&topic.name, partition.partition_index))
                    .map_err(|_| ErrorCode::IllegalGeneration)?;
            }
        }
        Ok(())
    }
}
