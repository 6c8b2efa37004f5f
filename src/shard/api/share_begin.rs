//! What comes before a share request is carried out: whether it may be, its session, and the
//! partitions that it is about.

use super::share_acks::Said;
use super::share_fetch::ShareWant;
use crate::Shard;
use crate::share_sessions::{FINAL_EPOCH, INITIAL_EPOCH, MemberKey};
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use std::borrow::Cow;
use std::collections::BTreeSet;

impl Shard {
    /// Whether share groups are there, and a request names group and member.
    pub(super) fn check_share_request(
        &self,
        group: &Option<Cow<'_, str>>,
        member: &Option<Cow<'_, str>>,
    ) -> Result<MemberKey, ErrorCode> {
        if !self.serves_share_groups() {
            return Err(ErrorCode::UnsupportedVersion);
        }
        let is_id = |id: &&str| flumen_coordinator::is_share_member_id(id);
        match (group.as_deref(), member.as_deref().filter(is_id)) {
            (Some(group), Some(member)) => Ok((group.into(), member.into())),
            _ => Err(ErrorCode::InvalidRequest),
        }
    }

    /// Brings the session up to date with the request; the partitions that it is about.
    pub(super) fn begin_share_request(
        &mut self,
        key: &MemberKey,
        epoch: i32,
        named: &[(Uuid, PartitionIndex)],
        forgotten: &[(Uuid, PartitionIndex)],
        said: &[Said],
    ) -> Result<Vec<(Uuid, PartitionIndex)>, ErrorCode> {
        if epoch == INITIAL_EPOCH {
            return match said.is_empty() {
                true => Ok(named.to_vec()),
                false => Err(ErrorCode::InvalidRequest),
            };
        }
        let session = self.share_sessions.go_on(key, epoch)?;
        if epoch == FINAL_EPOCH {
            return Ok(Vec::new());
        }
        session.update(named.iter().copied(), forgotten);
        let partitions = session.partitions.iter();
        Ok(partitions.map(|p| (p.topic, p.index)).collect())
    }

    /// The partitions of a request, with those that it says something of.
    pub(super) fn share_wants(
        &self,
        places: Vec<(Uuid, PartitionIndex)>,
        said: &[Said],
    ) -> Vec<ShareWant> {
        let mut known: BTreeSet<(Uuid, PartitionIndex)> = BTreeSet::new();
        let spoken_of = said.iter().map(|said| (said.topic, said.index));
        let places = places.into_iter().chain(spoken_of);
        let wants = places
            .filter(|place| known.insert(*place))
            .map(|(topic, index)| {
                let tp = match self.image.topic_by_id(&topic) {
                    None => Err(ErrorCode::UnknownTopicId),
                    Some(topic) if topic.partition(index).is_some() => {
                        Ok(crate::image::id_of(topic, index))
                    }
                    Some(_) => Err(ErrorCode::UnknownTopicOrPartition),
                };
                ShareWant::new((topic, index), tp)
            });
        wants.collect()
    }
}
