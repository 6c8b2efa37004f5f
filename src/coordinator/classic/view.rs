//! What admin requests see of a classic group: DescribeGroups (15), versions 0-6, and ListGroups
//! (16), versions 0-5.

use super::State;
use crate::group::Group;
use flumen_base::ErrorCode;
use flumen_wire::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use flumen_wire::messages::list_groups_response::ListedGroup;
use std::collections::BTreeSet;

/// DescribeGroups tells from this version on that a group does not exist; before, it calls it dead.
const TELLS_NOT_FOUND_FROM: i16 = 6;

/// A description of a group that can't be given.
pub(crate) fn described_error(group: &str, error: ErrorCode) -> DescribedGroup<'static> {
    DescribedGroup {
        group_id: group.to_owned().into(),
        error_code: error.code(),
        ..Default::default()
    }
}

/// A description of a group that does not exist.
pub(crate) fn described_unknown(group: &str, api_version: i16) -> DescribedGroup<'static> {
    let mut described = described_error(group, ErrorCode::None);
    described.group_state = State::Dead.name().into();
    if api_version >= TELLS_NOT_FOUND_FROM {
        described.error_code = ErrorCode::GroupIdNotFound.code();
        described.error_message = Some(format!("Group {group} not found.").into());
    }
    described
}

/// A description of a group of another kind.
pub(crate) fn described_not_classic(group: &str, api_version: i16) -> DescribedGroup<'static> {
    let mut described = described_unknown(group, api_version);
    if described.error_message.is_some() {
        described.error_message = Some(format!("Group {group} is not a classic group.").into());
    }
    described
}

impl Group {
    /// The state to show: a group whose tombstone is being written is still empty.
    fn shown_state(&self) -> State {
        match self.classic.state {
            State::Dead => State::Empty,
            state => state,
        }
    }

    /// As DescribeGroups shows it. Metadata only while stable, as in Kafka.
    pub(crate) fn describe(&self) -> DescribedGroup<'static> {
        let classic = &self.classic;
        let stable = classic.state == State::Stable;
        let protocol = classic.protocol.as_deref().filter(|_| stable).unwrap_or("");
        let members = classic.members.values().map(|m| DescribedGroupMember {
            member_id: m.id.to_string().into(),
            group_instance_id: m.instance.as_deref().map(|i| i.to_owned().into()),
            client_id: m.client_id.to_string().into(),
            client_host: m.client_host.to_string().into(),
            member_metadata: if stable {
                m.metadata(protocol).to_vec().into()
            } else {
                Default::default()
            },
            member_assignment: m.assignment.to_vec().into(),
        });
        DescribedGroup {
            group_id: self.name.to_string().into(),
            group_state: self.shown_state().name().into(),
            protocol_type: classic
                .protocol_type
                .as_deref()
                .unwrap_or("")
                .to_owned()
                .into(),
            protocol_data: protocol.to_owned().into(),
            members: members.collect(),
            ..Default::default()
        }
    }

    /// As ListGroups shows it.
    pub(crate) fn listed(&self) -> ListedGroup<'static> {
        if !self.is_classic_kind() {
            return ListedGroup {
                group_id: self.name.to_string().into(),
                protocol_type: self.type_name().into(),
                group_state: self.state_name().into(),
                group_type: self.type_name().into(),
            };
        }
        let protocol_type = self.classic.protocol_type.as_deref().unwrap_or("");
        ListedGroup {
            group_id: self.name.to_string().into(),
            protocol_type: protocol_type.to_owned().into(),
            group_state: self.shown_state().name().into(),
            group_type: self.type_name().into(),
        }
    }

    /// Kafka's name of its state.
    pub(crate) fn state_name(&self) -> &'static str {
        match (&self.consumer, &self.streams, &self.share) {
            (Some(consumer), _, _) => consumer.state().name(),
            (_, Some(streams), _) => streams.state().name(),
            (_, _, Some(share)) => share.state_name(),
            (None, None, None) => self.shown_state().name(),
        }
    }

    /// Kafka's name of its kind.
    pub(crate) fn type_name(&self) -> &'static str {
        match (&self.consumer, &self.streams, &self.share) {
            (Some(_), _, _) => "consumer",
            (_, Some(_), _) => "streams",
            (_, _, Some(_)) => "share",
            (None, None, None) => "classic",
        }
    }
}

/// Adds the topics of a consumer's subscription: int16 version, then (in every version first) an
/// array of topic names. `None` when the bytes are not one.
pub(crate) fn read_subscription(metadata: &[u8], topics: &mut BTreeSet<Box<str>>) -> Option<()> {
    let version = i16::from_be_bytes(*metadata.first_chunk()?);
    if version < 0 {
        return None;
    }
    let rest = metadata.get(2..)?;
    let count = i32::from_be_bytes(*rest.first_chunk()?);
    let mut rest = rest.get(4..)?;
    for _ in 0..u32::try_from(count).ok()? {
        let len = usize::try_from(i16::from_be_bytes(*rest.first_chunk()?)).ok()?;
        let name = rest.get(2..2 + len)?;
        topics.insert(std::str::from_utf8(name).ok()?.into());
        rest = rest.get(2 + len..)?;
    }
    Some(())
}
