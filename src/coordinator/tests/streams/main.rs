//! Streams groups (KIP-1071), rule by rule.

#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

#[path = "../common/mod.rs"]
mod common;

mod kept;
mod requests;
mod tasks;
mod topics;

use common::streams::*;
use common::*;
use flumen_base::ErrorCode;
use flumen_coordinator::CoordinatorConfig;

fn world_with(change: impl FnOnce(&mut CoordinatorConfig)) -> World {
    let mut config = CoordinatorConfig {
        streams_group_initial_rebalance_delay_ms: 0,
        streams_group_assignment_interval_ms: 0,
        ..config()
    };
    change(&mut config);
    World::with(config, 1)
}

fn world() -> World {
    world_with(|_| {})
}

fn all(partitions: i32) -> Vec<i32> {
    (0..partitions).collect()
}

/// A member that runs all ten tasks of t0, in epoch 2.
fn alone(w: &mut World, group: &str, member: &str) {
    let r = w.ask_streams(&join_streams(group, member, simple()));
    assert_eq!(
        (error_of(&r), r.member_epoch),
        (ErrorCode::None, 2),
        "{r:?}"
    );
    assert_eq!(active(&r), Some(vec![("0".into(), all(10))]));
}
