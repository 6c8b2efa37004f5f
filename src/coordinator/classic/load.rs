//! A classic group as its record brings it back.

use super::member::{Member, Protocol};
use super::{ClassicGroup, State};
use crate::timers::Deadline;
use bytes::Bytes;
use flumen_wire::records::GroupMetadataValue;

impl ClassicGroup {
    /// The group of a GroupMetadata record: stable if it has members, else empty. Sessions start
    /// with [`crate::GroupCoordinator::finish_load`].
    pub(crate) fn load(value: &GroupMetadataValue<'_>) -> Self {
        let mut classic = Self::new(value.current_state_timestamp);
        classic.generation = value.generation;
        classic.protocol = value.protocol.as_deref().map(Into::into);
        let protocol_type = &*value.protocol_type;
        for m in &value.members {
            let serial = classic.next_serial();
            let rebalance_timeout_ms = match m.rebalance_timeout {
                -1 => m.session_timeout, // not in version 0
                timeout => timeout,
            };
            let member = Member {
                id: (&*m.member_id).into(),
                instance: m.group_instance_id.as_deref().map(Into::into),
                client_id: (&*m.client_id).into(),
                client_host: (&*m.client_host).into(),
                rebalance_timeout_ms,
                session_timeout_ms: m.session_timeout,
                protocols: vec![Protocol {
                    name: value.protocol.as_deref().unwrap_or("").into(),
                    metadata: Bytes::copy_from_slice(&m.subscription),
                }],
                assignment: Bytes::copy_from_slice(&m.assignment),
                join: None,
                sync: None,
                is_new: false,
                session: Deadline::default(),
            };
            classic.add(serial, member, protocol_type);
        }
        if let Some(leader) = value.leader.as_deref().and_then(|id| classic.find(id)) {
            classic.leader = Some(leader);
        }
        if !classic.members.is_empty() {
            classic.state = State::Stable;
        }
        classic.protocol_type = (!protocol_type.is_empty()).then(|| protocol_type.into());
        classic.subscribed = classic.subscribed_topics();
        classic
    }
}
