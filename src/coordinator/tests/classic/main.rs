//! Classic groups, case by case: what Kafka 4.3.1 answers.

#[path = "../common/mod.rs"]
mod common;

mod kept;
mod rebalance;
mod requests;
mod static_members;

use common::*;
use flumen_base::ErrorCode;

const G: &str = "group";

fn code(error: ErrorCode) -> i16 {
    error.code()
}

/// Two members, stable; the first leads. Returns their ids and the generation.
fn two_members(w: &mut World) -> (String, String, i32) {
    let a = w.join(3, &join_request(G, "", &[("range", b"a")]));
    let b = w.join(3, &join_request(G, "", &[("range", b"b")]));
    w.advance_ms(6_000);
    let (a, b) = (w.joined(a), w.joined(b));
    assert_eq!((a.error_code, b.error_code), (0, 0));
    assert_eq!(a.leader, a.member_id);
    assert_eq!(b.leader, a.member_id);
    assert_eq!((a.members.len(), b.members.len()), (2, 0));
    assert_eq!(a.generation_id, b.generation_id);
    let (ia, ib) = (a.member_id.to_string(), b.member_id.to_string());
    let follower = w.sync(3, &sync_request(G, &ib, a.generation_id, &[]));
    assert!(w.is_waiting(follower));
    let request = sync_request(G, &ia, a.generation_id, &[(&ia, b"A"), (&ib, b"B")]);
    let leader = w.sync(3, &request);
    assert_eq!(&*w.synced(leader).assignment, b"A");
    assert_eq!(&*w.synced(follower).assignment, b"B");
    (ia, ib, a.generation_id)
}
