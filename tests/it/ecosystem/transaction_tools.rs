//! What operators see of transactions, and how they end one that hangs: `kafka-transactions`.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::raw::{self, Producing};
use flumen_it::{Broker, Raw, Shape, lacks, wait};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use super::{PATIENCE, options};

ecosystem!(the_tool_lists_describes_and_aborts);

const TOPIC: &str = "hanging";
const ID: &str = "forgotten";

/// Opens a transaction with three records in partition 0 and leaves it open.
fn leave_open(raw: &mut Raw) -> Result<Producing> {
    let id = StrBytes::from_static_str(ID);
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(id.clone())))
        .with_transaction_timeout_ms(600_000);
    let producing = wait::until("a producer id", PATIENCE, || {
        let find = FindCoordinatorRequest::default()
            .with_key_type(1)
            .with_coordinator_keys(vec![id.clone()]);
        raw.call(&find, 4)?;
        let answer = raw.call(&init, 3)?;
        ensure!(answer.error_code == 0, "error {}", answer.error_code);
        Ok(Some(Producing {
            id: answer.producer_id.0,
            epoch: answer.producer_epoch,
            sequence: 0,
        }))
    })?;
    let topic = AddPartitionsToTxnTopic::default()
        .with_name(raw::name(TOPIC))
        .with_partitions(vec![0]);
    let add = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(TransactionalId(id))
        .with_v3_and_below_producer_id(producing.id.into())
        .with_v3_and_below_producer_epoch(producing.epoch)
        .with_v3_and_below_topics(vec![topic]);
    let answer = raw.call(&add, 3)?;
    let topics = answer.results_by_topic_v3_and_below.iter();
    for partition in topics.flat_map(|t| &t.results_by_partition) {
        let code = partition.partition_error_code;
        ensure!(code == 0, "adding the partition: error {code}");
    }
    let values = ["a", "b", "c"].map(Bytes::from);
    let batch = raw::transactional_batch(&values, producing)?;
    raw.produce_in(Some(ID), TOPIC, &[(0, batch)])?;
    Ok(producing)
}

fn the_tool_lists_describes_and_aborts(shape: Shape) -> Result<()> {
    let broker = Broker::start(options(shape))?;
    if lacks(&broker, "transaction.version")? {
        return Ok(());
    }
    let mut raw = broker.raw()?;
    raw.create_topic(TOPIC, 1)?;
    let before = raw::batch(&[Bytes::from_static(b"outside")])?;
    raw.produce(TOPIC, &[(0, before.clone())])?;
    let producing = leave_open(&mut raw)?;
    raw.produce(TOPIC, &[(0, before)])?;
    let (end, stable) = (raw.offset(TOPIC, 0, -1)?, raw.stable_end(TOPIC, 0)?);
    ensure!((end, stable) == (5, 1), "end {end}, stable end {stable}");
    let producer = producing.id.to_string();

    let listed = broker.tool("kafka-transactions", &["list"])?;
    let row = listed.row(&[ID])?;
    ensure!(
        row.contains(&producer.as_str()) && row.contains(&"Ongoing"),
        "{listed}"
    );
    let describe = ["describe", "--transactional-id", ID];
    let described = broker.tool("kafka-transactions", &describe)?;
    described.has("Ongoing")?.has(TOPIC)?.has(&producer)?;
    let producers = ["describe-producers", "--topic", TOPIC, "--partition", "0"];
    let described = broker.tool("kafka-transactions", &producers)?;
    let row = described.row(&[&producer])?;
    let start = row.last().context("the transaction's start")?;
    ensure!(*start == "1", "{described}");

    let abort = [
        "abort",
        "--topic",
        TOPIC,
        "--partition",
        "0",
        "--start-offset",
        "1",
    ];
    broker.tool("kafka-transactions", &abort)?;
    wait::until("the end of the transaction", PATIENCE, || {
        let (end, stable) = (raw.offset(TOPIC, 0, -1)?, raw.stable_end(TOPIC, 0)?);
        ensure!((end, stable) == (6, 6), "end {end}, stable end {stable}");
        Ok(Some(()))
    })?;
    let committed: Vec<i64> = raw
        .read_committed(TOPIC, 0)?
        .iter()
        .map(|r| r.offset)
        .collect();
    ensure!(committed == [0, 4], "{committed:?}");
    let all = raw.read_uncommitted(TOPIC, 0)?;
    ensure!(all.len() == 5, "{all:?}");
    Ok(())
}
