//! Producing, fetching and listing offsets.

use crate::client::{Client, topic_name};
use crate::{BatchOptions, ClientError, Record, decode_batches, encode_batch};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, ProduceRequest, ProducerId,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// Produce and Fetch name topics by id from 13 on; names are enough here.
const NAMED_VERSION_MAX: i16 = 12;

/// How to produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceOptions {
    /// -1 (all), 0 (no answer) or 1.
    pub acks: i16,
    /// How long the broker may wait for its replicas.
    pub timeout_ms: i32,
    /// The batch's header.
    pub batch: BatchOptions,
}

impl Default for ProduceOptions {
    fn default() -> Self {
        Self {
            acks: -1,
            timeout_ms: 10_000,
            batch: BatchOptions::default(),
        }
    }
}

/// What a fetch of one partition gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Its topic.
    pub topic: String,
    /// Its index.
    pub partition: i32,
    /// 0 if all is well.
    pub error_code: i16,
    /// End of what consumers may read.
    pub high_watermark: i64,
    /// Its first offset.
    pub log_start_offset: i64,
    /// From the wanted offset on; control records are among them.
    pub records: Vec<Record>,
}

/// An answer of ListOffsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// -1: no record is that late.
    pub offset: i64,
    /// Of the record at that offset; -1 for the special timestamps.
    pub timestamp: i64,
}

impl Client {
    /// Produces records as one batch to the leader of a partition. Answers with the offset of the
    /// first (-1 for acks=0).
    pub fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        records: &[Record],
        options: &ProduceOptions,
    ) -> Result<i64, ClientError> {
        let batch = encode_batch(records, &options.batch)
            .map_err(|e| ClientError::Malformed(e.to_string()))?;
        self.produce_raw(topic, partition, batch, options.acks, options.timeout_ms)
    }

    /// Produces bytes as they are.
    pub fn produce_raw(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Vec<u8>,
        acks: i16,
        timeout_ms: i32,
    ) -> Result<i64, ClientError> {
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(batch.into()));
        let topic_data = TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(acks)
            .with_timeout_ms(timeout_ms)
            .with_topic_data(vec![topic_data]);
        let leader = self.leader(topic, partition)?;
        if acks == 0 {
            let connection = self.broker(leader)?;
            let version = connection.version::<ProduceRequest>(NAMED_VERSION_MAX)?;
            let sent = connection.send(&request, version);
            if sent.is_err() {
                self.drop_broker(leader);
            }
            return sent.map(|()| -1);
        }
        let extra = Duration::from_millis(timeout_ms.max(0).unsigned_abs().into());
        let response = self.call_broker(leader, &request, NAMED_VERSION_MAX, extra)?;
        let what = || format!("produce to {topic}-{partition}");
        let mut partitions = response
            .responses
            .iter()
            .flat_map(|t| &t.partition_responses);
        let answer = partitions
            .next()
            .ok_or_else(|| ClientError::Malformed(what()))?;
        if answer.error_code == 6 || answer.error_code == 3 {
            self.topics.remove(topic);
        }
        ClientError::check_message(answer.error_code, answer.error_message.as_deref(), what)?;
        Ok(answer.base_offset)
    }

    /// A new producer id and epoch for idempotent batches.
    pub fn init_producer_id(&mut self) -> Result<(i64, i16), ClientError> {
        let request = InitProducerIdRequest::default()
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let response = self.call_any(&request, 5)?;
        ClientError::check(response.error_code, || "InitProducerId".to_owned())?;
        Ok((response.producer_id.0, response.producer_epoch))
    }

    /// Fetches one partition, waiting up to `wait_ms` for records. An error of the partition is an
    /// error here.
    pub fn fetch_one(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        wait_ms: i32,
    ) -> Result<Fetched, ClientError> {
        let leader = self.leader(topic, partition)?;
        let wanted = [(topic.to_owned(), partition, offset)];
        let fetched = self.fetch(leader, &wanted, wait_ms)?.pop();
        let fetched = fetched.ok_or_else(|| ClientError::Malformed("an empty fetch".to_owned()))?;
        if fetched.error_code != 0 {
            self.topics.remove(topic);
        }
        ClientError::check(fetched.error_code, || {
            format!("fetch of {topic}-{partition}")
        })?;
        Ok(fetched)
    }

    /// Fetches partitions (topic, partition, offset) led by one broker, waiting up to `wait_ms` for
    /// the first record.
    pub fn fetch(
        &mut self,
        broker: i32,
        partitions: &[(String, i32, i64)],
        wait_ms: i32,
    ) -> Result<Vec<Fetched>, ClientError> {
        let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for (topic, partition, offset) in partitions {
            let wanted = FetchPartition::default()
                .with_partition(*partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(*offset)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(1 << 20);
            topics.entry(topic).or_default().push(wanted);
        }
        let topic = |(name, partitions)| {
            FetchTopic::default()
                .with_topic(topic_name(name))
                .with_partitions(partitions)
        };
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(50 << 20)
            .with_session_epoch(-1)
            .with_topics(topics.into_iter().map(topic).collect());
        let extra = Duration::from_millis(wait_ms.max(0).unsigned_abs().into());
        let response = self.call_broker(broker, &request, NAMED_VERSION_MAX, extra)?;
        ClientError::check(response.error_code, || "fetch".to_owned())?;
        let mut all = Vec::new();
        for topic in &response.responses {
            for data in &topic.partitions {
                let mut fetched = Fetched {
                    topic: topic.topic.to_string(),
                    partition: data.partition_index,
                    error_code: data.error_code,
                    high_watermark: data.high_watermark,
                    log_start_offset: data.log_start_offset,
                    records: decode_batches(data.records.as_deref().unwrap_or_default())?,
                };
                let same =
                    |p: &&(String, i32, i64)| p.0 == fetched.topic && p.1 == fetched.partition;
                if let Some((_, _, from)) = partitions.iter().find(same) {
                    fetched.records.retain(|r| r.offset >= *from);
                }
                all.push(fetched);
            }
        }
        Ok(all)
    }

    /// Asks the leaders for offsets by timestamp ([`crate::EARLIEST`], [`crate::LATEST`] or
    /// milliseconds), by partition.
    pub fn list_offsets(
        &mut self,
        topic: &str,
        wanted: &[(i32, i64)],
    ) -> Result<BTreeMap<i32, ListedOffset>, ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for (partition, timestamp) in wanted {
            let leader = self.leader(topic, *partition)?;
            let asked = ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(*timestamp);
            by_leader.entry(leader).or_default().push(asked);
        }
        let mut offsets = BTreeMap::new();
        for (leader, partitions) in by_leader {
            let asked = ListOffsetsTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions);
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_topics(vec![asked]);
            let response = self.call_broker(leader, &request, 9, Duration::ZERO)?;
            for p in response.topics.iter().flat_map(|t| &t.partitions) {
                let index = p.partition_index;
                if p.error_code != 0 {
                    self.topics.remove(topic);
                }
                ClientError::check(p.error_code, || format!("offsets of {topic}-{index}"))?;
                let listed = ListedOffset {
                    offset: p.offset,
                    timestamp: p.timestamp,
                };
                offsets.insert(index, listed);
            }
        }
        Ok(offsets)
    }
}
