//! Who may commit and fetch offsets of a consumer group.
//!
//! A member may commit in its epoch, and in an older one the partitions that it has had since then:
//! its commit may have crossed the answer that brought the new epoch. It may fetch in its epoch.

use super::member::Member;
use super::state::ConsumerGroup;
use crate::group::Group;
use crate::offsets::older_member;
use crate::out::{Metadata, Topics};
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_wire::messages::{
    OffsetCommitRequest, OffsetCommitResponse, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

/// Members that speak the consumer protocol must use this version of OffsetCommit.
const MEMBER_EPOCHS_FROM: i16 = 9;

/// The same error as the two protocols call it.
fn stale(member: &Member) -> ErrorCode {
    match member.is_classic() {
        true => ErrorCode::IllegalGeneration,
        false => ErrorCode::StaleMemberEpoch,
    }
}

fn check_partition(
    member: &Member,
    epoch: i32,
    (topic, partition): (Uuid, PartitionIndex),
) -> Result<(), ErrorCode> {
    match member.epoch_of(topic, partition) {
        Some(since) if epoch >= since => Ok(()),
        _ => Err(stale(member)),
    }
}

impl ConsumerGroup {
    /// Whether the sender may commit in a transaction what the draft of the answer accepts.
    pub(crate) fn validate_txn_commit(
        &self,
        request: &TxnOffsetCommitRequest<'_>,
        draft: &TxnOffsetCommitResponse<'static>,
        metadata: &dyn Metadata,
    ) -> Result<(), ErrorCode> {
        let epoch = request.generation_id;
        let member = self.member(&request.member_id).map(|m| (m, m.epoch));
        let Some(member) = older_member(request, self.is_empty(), member)? else {
            return Ok(());
        };
        for topic in &draft.topics {
            let id = metadata.topic_id(&topic.name).unwrap_or(Uuid::ZERO);
            for partition in topic.partitions.iter().filter(|p| p.error_code == 0) {
                check_partition(member, epoch, (id, partition.partition_index))
                    .map_err(|_| ErrorCode::IllegalGeneration)?;
            }
        }
        Ok(())
    }

    /// Whether the sender may commit what the draft of the answer accepts.
    pub(crate) fn validate_commit(
        &self,
        request: &OffsetCommitRequest<'_>,
        draft: &OffsetCommitResponse<'static>,
        topics: &dyn Topics,
        api_version: i16,
    ) -> Result<(), ErrorCode> {
        let epoch = request.generation_id_or_member_epoch;
        if epoch < 0 && self.is_empty() {
            return Ok(());
        }
        let member = self.member(&request.member_id);
        let member = member.ok_or(ErrorCode::UnknownMemberId)?;
        if !member.is_classic() && api_version < MEMBER_EPOCHS_FROM {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if epoch == member.epoch {
            return Ok(());
        }
        if epoch > member.epoch {
            return Err(stale(member));
        }
        for topic in &draft.topics {
            let id = match topic.topic_id.is_zero() {
                true => topics.id_of(&topic.name).unwrap_or(Uuid::ZERO),
                false => topic.topic_id,
            };
            for partition in topic.partitions.iter().filter(|p| p.error_code == 0) {
                check_partition(member, epoch, (id, partition.partition_index))?;
            }
        }
        Ok(())
    }
}

impl Group {
    /// Whether the sender may fetch offsets of this consumer or streams group. `latest`: by what is
    /// on its way to the log too, else as written.
    pub(crate) fn validate_fetch(
        &self,
        member_id: Option<&str>,
        epoch: i32,
        latest: bool,
    ) -> Result<(), ErrorCode> {
        let id = member_id.unwrap_or("");
        let found = match (&self.consumer, &self.streams) {
            (None, None) => return Ok(()),
            _ if member_id.is_none() && epoch < 0 => return Ok(()),
            (Some(group), _) => {
                let now = group.member(id);
                let seen = if latest {
                    now
                } else {
                    self.history.consumer_member(id, now)
                };
                seen.map(|member| (member.epoch, stale(member)))
            }
            (None, Some(group)) => {
                let now = group.member(id);
                let seen = if latest {
                    now
                } else {
                    self.history.streams_member(id, now)
                };
                seen.map(|member| (member.epoch, ErrorCode::StaleMemberEpoch))
            }
        };
        let (of_member, stale) = found.ok_or(ErrorCode::UnknownMemberId)?;
        (of_member == epoch).then_some(()).ok_or(stale)
    }
}
