//! Group coordinator of one shard: classic groups, consumer groups (KIP-848), share groups
//! (KIP-932), streams groups (KIP-1071) and committed offsets, synchronous and without I/O.
//!
//! A shard owns one [`GroupCoordinator`]. It holds the groups of those `__consumer_offsets`
//! partitions whose log the shard owns; the group's partition is [`partition_for`]. Requests go in
//! with a [`ReplyToken`]; what comes out is collected in an [`Out`]: record batches to append to a
//! partition of `__consumer_offsets`, and replies.
//!
//! ```text
//! begin_load(p) -> replay(p, key, value)* -> finish_load(p)   until then: LOAD_IN_PROGRESS
//! join_group(.., token, &request, &mut out) ...               fills out.replies, out.appends
//!   each Append is one record batch; the shard appends them in this order, then says
//!     commit(write_token)                                     state moves, replies leave
//!     append_failed(write_token, error)                       state reverts, errors leave
//! next_deadline(), tick(now)                                  sessions, rebalances, expiry
//! ```
//!
//! ```
//! use flumen_base::{Mono, Now, Prng};
//! use flumen_coordinator::{CoordinatorConfig, GroupCoordinator, Out, Reply, ReplyToken};
//! use flumen_coordinator::{RequestContext, partition_for};
//! use flumen_wire::messages::{JoinGroupRequest, join_group_request::JoinGroupRequestProtocol};
//!
//! let config = CoordinatorConfig::default();
//! let partition = partition_for("readers", config.offsets_topic_num_partitions);
//! let mut coordinator = GroupCoordinator::new(config, Prng::new(1));
//! let mut now = Now { mono: Mono(0), wall_ms: 1_700_000_000_000 };
//! let mut out = Out::default();
//! coordinator.begin_load(partition);
//! coordinator.finish_load(now, partition, &mut out);
//!
//! let protocol = JoinGroupRequestProtocol { name: "range".into(), ..Default::default() };
//! let request = JoinGroupRequest {
//!     group_id: "readers".into(),
//!     session_timeout_ms: 45_000,
//!     rebalance_timeout_ms: 300_000,
//!     protocol_type: "consumer".into(),
//!     protocols: vec![protocol],
//!     ..Default::default()
//! };
//! let ctx = RequestContext { api_version: 3, client_id: "c", client_host: "/127.0.0.1" };
//! coordinator.join_group(now, ctx, ReplyToken(7), &request, &mut out);
//! assert!(out.replies.is_empty()); // the group gathers for group.initial.rebalance.delay.ms
//!
//! let append = out.appends.remove(0); // the shard writes it, and then:
//! coordinator.commit(now, append.write_token, &mut out);
//!
//! now.mono = coordinator.next_deadline().unwrap();
//! coordinator.tick(now, &mut out);
//! let (token, reply) = out.replies.remove(0);
//! assert!(matches!(reply, Reply::JoinGroup(r) if r.error_code == 0 && r.generation_id == 1));
//! assert_eq!(token, ReplyToken(7));
//! ```
//! Every token is answered exactly once. Appends of one partition must be answered in the order
//! they were handed out.
#![forbid(unsafe_code)]

mod classic;
mod config;
mod consumer;
mod consumer_requests;
mod coordinator;
mod group;
mod limits;
mod modern;
mod offsets;
mod out;
mod records;
mod requests;
mod roster;
mod settle;
pub mod share;
mod share_group;
mod share_requests;
mod streams;
mod streams_requests;
mod timers;
pub mod txn;
mod writes;

pub use config::{CoordinatorConfig, MigrationPolicy};
pub use coordinator::GroupCoordinator;
pub use modern::assign::Assignor;
pub use offsets::{
    fetch_group_error, offset_fetch_group_of, offset_fetch_response_of, txn_commit_draft,
    txn_commit_error,
};
pub use out::{
    Append, AppendKind, GroupSettings, Metadata, Out, Record, Reply, ReplyToken, RequestContext,
    StreamsHeartbeat, StreamsSettings, Topics, TxnMarker, WriteToken,
};
pub use records::ReplayError;
pub use share_group::{ShareCall, ShareCalled, ShareDeed, is_share_member_id};

use flumen_base::PartitionIndex;

/// The `__consumer_offsets` partition of a group: Java's `String.hashCode` over UTF-16 units, sign
/// bit dropped, modulo the number of partitions (`offsets.topic.num.partitions`; counts below one
/// are taken for one).
pub fn partition_for(group: &str, partitions: i32) -> PartitionIndex {
    let hash = group.encode_utf16().fold(0i32, |h, unit| {
        h.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    // Kafka's Utils.abs maps i32::MIN to 0: dropping the sign bit would differ from a true abs, so
    // spell it out.
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partitions.max(1)
}
