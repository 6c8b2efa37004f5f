//! A transactional client that does not wait: librdkafka sends the end of a transaction right
//! behind the request that adds partitions to it. The requests of one connection take effect in
//! order.

use anyhow::{Result, ensure};
use flumen_it::{Broker, Shape, lacks, raw, wait};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ApiKey, EndTxnRequest, EndTxnResponse,
    FindCoordinatorRequest, InitProducerIdRequest, ResponseHeader, TransactionalId,
};
use kafka_protocol::protocol::{Decodable, StrBytes};
use std::io::Write as _;

use super::{PATIENCE, count, options};

ecosystem!(an_end_right_behind_the_partitions);

const ID: &str = "pipelined";
const VERSION: i16 = 3;
/// The partitions may not be added while the transaction before is still being written.
const CONCURRENT_TRANSACTIONS: i16 = 51;

fn an_end_right_behind_the_partitions(shape: Shape) -> Result<()> {
    let broker = Broker::start(options(shape))?;
    if lacks(&broker, "transaction.version")? {
        return Ok(());
    }
    let mut raw = broker.raw()?;
    raw.create_topic("t", 8)?;
    let id = StrBytes::from_static_str(ID);
    let transactional = TransactionalId(id.clone());
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(transactional.clone()))
        .with_transaction_timeout_ms(60_000);
    let producer = wait::until("a producer id", PATIENCE, || {
        let find = FindCoordinatorRequest::default()
            .with_key_type(1)
            .with_coordinator_keys(vec![id.clone()]);
        raw.call(&find, 4)?;
        let answer = raw.call(&init, VERSION)?;
        ensure!(answer.error_code == 0, "error {}", answer.error_code);
        Ok(Some(answer))
    })?;
    let topic = AddPartitionsToTxnTopic::default()
        .with_name(raw::name("t"))
        .with_partitions((0..8).collect());
    let add = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(transactional.clone())
        .with_v3_and_below_producer_id(producer.producer_id)
        .with_v3_and_below_producer_epoch(producer.producer_epoch)
        .with_v3_and_below_topics(vec![topic]);
    for round in 0..count(200, 5_000) {
        let end = EndTxnRequest::default()
            .with_transactional_id(transactional.clone())
            .with_producer_id(producer.producer_id)
            .with_producer_epoch(producer.producer_epoch)
            .with_committed(round % 3 == 0);
        let added = wait::until("partitions that can be added", PATIENCE, || {
            // Both in one write; the answers in their order.
            let mut both = raw::frame(&add, VERSION, 1)?;
            both.extend_from_slice(&raw::frame(&end, VERSION, 2)?);
            raw.stream().write_all(&both)?;
            let mut first = raw.read_frame()?;
            let header = ApiKey::AddPartitionsToTxn.response_header_version(VERSION);
            ResponseHeader::decode(&mut first, header)?;
            let first = AddPartitionsToTxnResponse::decode(&mut first, VERSION)?;
            let mut second = raw.read_frame()?;
            let header = ApiKey::EndTxn.response_header_version(VERSION);
            ResponseHeader::decode(&mut second, header)?;
            let second = EndTxnResponse::decode(&mut second, VERSION)?;
            let topics = first.results_by_topic_v3_and_below.iter();
            let mut codes = topics.flat_map(|t| &t.results_by_partition);
            let codes: Vec<i16> = codes.by_ref().map(|p| p.partition_error_code).collect();
            if codes.contains(&CONCURRENT_TRANSACTIONS) {
                return Ok(None);
            }
            Ok(Some((codes, second.error_code)))
        })?;
        let fine = added.0.iter().all(|c| *c == 0) && added.1 == 0;
        ensure!(fine, "round {round}: errors {:?}, end {}", added.0, added.1);
    }
    Ok(())
}
