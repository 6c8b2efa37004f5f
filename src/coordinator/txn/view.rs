//! DescribeTransactions (65), version 0, and ListTransactions (66), versions 0-2.
//!
//! - List 1: transactions open for longer than a time (KIP-994). 2: a pattern of transactional ids.

use super::state::{Partitions, TxnState};
use super::{TransactionCoordinator, Txn};
use flumen_base::{ErrorCode, Now};
use flumen_wire::messages::describe_transactions_response::{TopicData, TransactionState};
use flumen_wire::messages::list_transactions_response as list;
use flumen_wire::messages::{ListTransactionsRequest, ListTransactionsResponse};
use regex::Regex;
use std::collections::BTreeSet;

/// Kafka knows two states more, in which no id that is listed can be.
const UNSEEN_STATES: [&str; 2] = ["Dead", "PrepareEpochFence"];

impl TransactionCoordinator {
    /// One transactional id.
    pub fn describe(&self, id: &str) -> TransactionState<'static> {
        let answer = TransactionState {
            transactional_id: id.to_owned().into(),
            ..Default::default()
        };
        match self.described(id) {
            Err(error) => TransactionState {
                error_code: error.code(),
                ..answer
            },
            Ok(txn) => TransactionState {
                transaction_state: txn.meta.state.name().into(),
                transaction_timeout_ms: txn.meta.timeout_ms,
                transaction_start_time_ms: txn.meta.start_ms,
                producer_id: txn.meta.producer_id,
                producer_epoch: txn.meta.producer_epoch,
                topics: topics_of(txn),
                ..answer
            },
        }
    }

    fn described(&self, id: &str) -> Result<&Txn, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let partition = self.route(id)?;
        let serial = self.find(partition, id);
        let txn = serial.and_then(|serial| self.txns.get(&serial));
        txn.filter(|txn| txn.persisted)
            .ok_or(ErrorCode::TransactionalIdNotFound)
    }

    /// The ids of this shard that pass the request's filters; the shard joins the lists.
    pub fn list(
        &self,
        now: Now,
        request: &ListTransactionsRequest<'_>,
    ) -> ListTransactionsResponse<'static> {
        let refuse = |error: ErrorCode| ListTransactionsResponse {
            error_code: error.code(),
            ..Default::default()
        };
        if self.partitions.values().any(|p| p.loading) {
            return refuse(ErrorCode::CoordinatorLoadInProgress);
        }
        let pattern = request.transactional_id_pattern.as_deref();
        let pattern = match pattern.filter(|p| !p.is_empty()).map(whole_match) {
            None => None,
            Some(Ok(pattern)) => Some(pattern),
            Some(Err(_)) => return refuse(ErrorCode::InvalidRegularExpression),
        };
        let known = |name: &str| TxnState::NAMES.iter().find(|(_, n)| *n == name);
        let unknown = |name: &&std::borrow::Cow<'_, str>| {
            known(name).is_none() && !UNSEEN_STATES.contains(&&***name)
        };
        let states: BTreeSet<TxnState> = request
            .state_filters
            .iter()
            .filter_map(|name| Some(known(name)?.0))
            .collect();
        let fits = |txn: &&Txn| {
            let (ids, meta) = (&request.producer_id_filters, &txn.meta);
            let open_for = now.wall_ms.saturating_sub(meta.start_ms);
            txn.persisted
                && (ids.is_empty() || ids.contains(&meta.producer_id))
                && (request.state_filters.is_empty() || states.contains(&meta.state))
                && (request.duration_filter < 0 || open_for > request.duration_filter)
                && pattern.as_ref().is_none_or(|p| p.is_match(&txn.id))
        };
        let serials = self.partitions.values().flat_map(|p| p.names.iter());
        let txns = serials.filter_map(|serial| self.txns.get(&serial));
        let line = |txn: &Txn| list::TransactionState {
            transactional_id: txn.id.to_string().into(),
            producer_id: txn.meta.producer_id,
            transaction_state: txn.meta.state.name().into(),
        };
        let unknown = request.state_filters.iter().filter(unknown);
        ListTransactionsResponse {
            unknown_state_filters: unknown.map(|n| n.to_string().into()).collect(),
            transaction_states: txns.filter(fits).map(line).collect(),
            ..Default::default()
        }
    }

    /// Number of transactional ids by Kafka's name of their state.
    pub fn counts(&self) -> [(&'static str, usize); 6] {
        TxnState::NAMES.map(|(state, name)| {
            let txns = self.txns.values().filter(|t| t.persisted);
            (name, txns.filter(|t| t.meta.state == state).count())
        })
    }
}

/// The expression, to match an id as a whole.
fn whole_match(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(pattern)?; // or its parentheses could end the group
    Regex::new(&format!("^(?:{pattern})$"))
}

/// The partitions of an open transaction; of a decided one those whose marker is not written.
fn topics_of(txn: &Txn) -> Vec<TopicData<'static>> {
    let mut partitions = Partitions::new();
    let all = match txn.meta.state.is_prepared() {
        true => {
            for (topic, index) in &txn.unmarked {
                let indexes = partitions.entry(topic.clone()).or_default();
                indexes.insert(*index);
            }
            &partitions
        }
        false => &txn.meta.partitions,
    };
    let of_topic = all.iter().map(|(topic, indexes)| TopicData {
        topic: topic.to_string().into(),
        partitions: indexes.iter().copied().collect(),
    });
    of_topic.collect()
}
