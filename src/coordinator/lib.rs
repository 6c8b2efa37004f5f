//! Group coordinator of one shard: classic consumer groups and committed offsets, synchronous and without I/O.
//!
//! A shard owns one [`GroupCoordinator`]. It holds the groups of those `__consumer_offsets` partitions whose log the shard
//! owns; the group's partition is [`partition_for`]. Requests go in with a [`ReplyToken`]; what comes out is collected in an
//! [`Out`]: record batches to append to a partition of `__consumer_offsets`, and replies.
//!
//! ```text
//! begin_load(p) -> replay(p, key, value)* -> finish_load(p, now)      after start; until then COORDINATOR_LOAD_IN_PROGRESS
//! join_group(now, .., token, &request, &mut out)                      -> out.replies and/or out.appends
//!   out.appends: one Append = one record batch; the shard appends it in this order, then says
//!     commit(now, write_token, &mut out)                              it is written: state moves, replies leave
//!     append_failed(now, write_token, error, &mut out)                it is not: state reverts, replies carry the error
//! next_deadline() / tick(now, &mut out)                               sessions, rebalances, expiry of offsets
//! ```
//! Every token is answered exactly once. Appends of one partition must be answered in the order they were handed out.
#![forbid(unsafe_code)]

mod classic;
mod config;
mod coordinator;
mod group;
mod limits;
mod offsets;
mod out;
mod records;
mod requests;
mod settle;
mod timers;
mod writes;

pub use config::CoordinatorConfig;
pub use coordinator::GroupCoordinator;
pub use offsets::{offset_fetch_group_of, offset_fetch_response_of};
pub use out::{Append, Out, Record, Reply, ReplyToken, RequestContext, Topics, WriteToken};
pub use records::ReplayError;

use flumen_base::PartitionIndex;

/// The `__consumer_offsets` partition of a group: Java's `String.hashCode` over UTF-16 units, sign bit dropped, modulo the
/// number of partitions (`offsets.topic.num.partitions`; counts below one are taken for one).
pub fn partition_for(group: &str, partitions: i32) -> PartitionIndex {
    let hash = group.encode_utf16().fold(0i32, |h, unit| {
        h.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    // Kafka's Utils.abs maps i32::MIN to 0: dropping the sign bit would differ from a true abs, so spell it out.
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partitions.max(1)
}
