//! One member of a classic group.

use crate::out::ReplyToken;
use crate::timers::Deadline;
use bytes::Bytes;
use std::sync::Arc;

/// A request that waits for its group, and the version its answer will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) token: ReplyToken,
    pub(crate) api_version: i16,
}

/// A protocol that a member offers: name, and metadata that means something to the members only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: Box<str>,
    pub(crate) metadata: Bytes,
}

/// A member. All strings and bytes are copies: nothing here holds on to a request's frame.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its id.
    pub(crate) id: Arc<str>,
    /// `group.instance.id` of a static member.
    pub(crate) instance: Option<Box<str>>,
    pub(crate) client_id: Box<str>,
    pub(crate) client_host: Box<str>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    /// In order of preference; never empty but for a member loaded from a record without protocol.
    pub(crate) protocols: Vec<Protocol>,
    /// What the leader gave it in this generation; empty before.
    pub(crate) assignment: Bytes,
    /// Its JoinGroup, waiting. Change it through [`super::ClassicGroup`], which counts.
    pub(crate) join: Option<Parked>,
    /// Its SyncGroup, waiting.
    pub(crate) sync: Option<Parked>,
    /// Joined and not yet in a generation: its session also ends while it waits.
    pub(crate) is_new: bool,
    /// End of its session.
    pub(crate) session: Deadline,
}

/// A member that waits for nothing, with the rest to be filled in.
pub(crate) fn new_member(
    id: Arc<str>,
    client_id: &str,
    client_host: &str,
    protocols: Vec<Protocol>,
) -> Member {
    Member {
        id,
        instance: None,
        client_id: client_id.into(),
        client_host: client_host.into(),
        rebalance_timeout_ms: 0,
        session_timeout_ms: 0,
        protocols,
        assignment: Bytes::new(),
        join: None,
        sync: None,
        is_new: false,
        session: Deadline::default(),
    }
}

impl Member {
    /// The metadata for a protocol; empty if it does not offer it.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|p| &*p.name == protocol)
            .map(|p| p.metadata.clone())
            .unwrap_or_default()
    }

    /// Whether the end of its session may pass without effect: it waits for us, not we for it.
    pub(crate) fn is_excused(&self) -> bool {
        !self.is_new && (self.join.is_some() || self.sync.is_some())
    }
}
