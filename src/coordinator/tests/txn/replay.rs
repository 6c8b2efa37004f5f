//! Any order of requests, failures and restarts, under a seed: a replay of the log gives the state
//! that was.

use super::{DAY_MS, World};
use flumen_base::{ErrorCode, Prng};
use flumen_coordinator::txn::{TransactionCoordinator, TxnOut, TxnReply};
use flumen_wire::messages::ListTransactionsRequest;
use std::collections::BTreeMap;

/// What anybody can see of all ids. Which markers of a decision are written is not stored.
fn seen(coordinator: &TransactionCoordinator) -> String {
    let mut out = String::new();
    for n in 0..6 {
        let mut d = coordinator.describe(&format!("id-{n}"));
        if d.transaction_state.starts_with("Prepare") {
            d.topics.clear();
        }
        out.push_str(&format!("{d:?}\n"));
    }
    out
}

fn random_step(w: &mut World, prng: &mut Prng, known: &mut BTreeMap<String, (i64, i16)>) {
    let id = format!("id-{}", prng.below(6));
    let who = known.get(&id).copied().unwrap_or((-1, -1));
    let who = match prng.below(12) {
        0 => (who.0, who.1.saturating_sub(1)),
        1 => (who.0 + 1, who.1),
        _ => who,
    };
    match prng.below(100) {
        0..25 => {
            let expected = if prng.below(2) == 0 { who } else { (-1, -1) };
            let token = w.ask_init(&id, expected, 5);
            if let Some(TxnReply::InitProducerId(r)) = w.replies.remove(&token)
                && r.error_code == 0
            {
                known.insert(id, (r.producer_id, r.producer_epoch));
            }
        }
        25..55 => {
            let at = (["t", "u"][prng.below(2) as usize], prng.below(3) as i32);
            w.ask_add(&id, who, at, prng.below(4) > 0);
        }
        55..75 => {
            let version = if prng.below(4) > 0 { 5 } else { 4 };
            let token = w.ask_end(&id, who, prng.below(2) == 0, version);
            if let Some(TxnReply::EndTxn(r)) = w.replies.remove(&token)
                && r.error_code == 0
                && r.producer_id >= 0
            {
                known.insert(id, (r.producer_id, r.producer_epoch));
            }
        }
        75..85 if !w.appends.is_empty() => w.commit_next(),
        85..88 if !w.appends.is_empty() => w.fail_next(ErrorCode::NotEnoughReplicas),
        88..95 if !w.markers.is_empty() => {
            let errors = [ErrorCode::None, ErrorCode::NotLeaderOrFollower];
            w.mark_next(errors[prng.below(2) as usize]);
        }
        95 => w.advance_ms(prng.below(100_000) as i64),
        96 => w.advance_ms(4 * DAY_MS),
        _ => w.advance_ms(prng.below(100) as i64),
    }
}

#[test]
fn replay_of_any_prefix_is_the_state_that_was() {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    let rounds: u64 = factor.and_then(|f| f.parse().ok()).unwrap_or(1);
    for seed in 0..20 * rounds {
        let mut prng = Prng::new(seed);
        let mut w = World::new(2);
        w.auto_commit = seed % 2 == 0;
        w.auto_mark = seed % 3 == 0;
        let mut known = BTreeMap::new();
        let mut states: BTreeMap<usize, String> = BTreeMap::new();
        for _ in 0..300 {
            random_step(&mut w, &mut prng, &mut known);
            states.insert(w.log.len(), seen(&w.coordinator));
        }
        for (records, state) in states {
            let mut out = TxnOut::default();
            let replayed = w.replayed(records, &mut out);
            assert_eq!(
                seen(&replayed),
                state,
                "seed {seed} after {records} records"
            );
        }
        // Whatever was on its way, in the end everything is decided.
        (w.auto_commit, w.auto_mark) = (true, true);
        w.restart();
        w.advance_ms(200_000);
        let list = ListTransactionsRequest::default();
        for txn in w.coordinator.list(w.now, &list).transaction_states {
            let state = &*txn.transaction_state;
            let at_rest = ["Empty", "CompleteAbort", "CompleteCommit"].contains(&state);
            assert!(at_rest, "seed {seed}: {txn:?}");
        }
        assert_eq!(w.coordinator.writes_outstanding(), 0);
    }
}
