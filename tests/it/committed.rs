//! Reading with isolation `read_committed`, by a reader of our own: what the broker says of aborted
//! transactions is applied here, from the protocol's rules. And the same with `read_uncommitted`,
//! over logs with markers in them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest};
use kafka_protocol::records::{Record, RecordBatchDecoder};

use crate::raw::{Raw, Read, name};

/// How long reading one partition may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Isolation level `read_committed`.
const READ_COMMITTED: i8 = 1;
/// Isolation level `read_uncommitted`.
const READ_UNCOMMITTED: i8 = 0;
/// Bytes of one fetch.
const FETCH_BYTES: i32 = 1 << 20;

/// One fetch: records of all kinds, and the aborted transactions among them (producer id and
/// first offset).
struct Fetched {
    records: Vec<Record>,
    aborted: Vec<(i64, i64)>,
}

/// Whether a control record says that its producer's transaction is aborted.
fn is_abort(key: Option<&Bytes>) -> bool {
    // Version and type, two bytes each; type 0 aborts.
    key.is_some_and(|k| k.get(2..4) == Some(&[0, 0]))
}

/// The records that a reader may see: none of transactions that were aborted, no markers.
fn visible(fetched: Fetched, from: i64) -> Vec<Read> {
    let mut waiting = fetched.aborted;
    waiting.sort_by_key(|(_, first)| std::cmp::Reverse(*first));
    let mut open = BTreeSet::new();
    let mut all = Vec::new();
    for record in fetched.records {
        while let Some((producer, _)) = waiting.pop_if(|(_, first)| *first <= record.offset) {
            open.insert(producer);
        }
        if record.control {
            if is_abort(record.key.as_ref()) {
                open.remove(&record.producer_id);
            }
            continue;
        }
        let hidden = record.transactional && open.contains(&record.producer_id);
        if record.offset >= from && !hidden {
            all.push(Read {
                offset: record.offset,
                value: record.value.unwrap_or_default(),
            });
        }
    }
    all
}

impl Raw {
    /// The last stable offset.
    ///
    /// # Errors
    /// The partition refused.
    pub fn stable_end(&mut self, topic: &str, partition: i32) -> Result<i64> {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(-1);
        let asked = ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(READ_COMMITTED)
            .with_topics(vec![asked]);
        let answer = self.call(&request, 5)?;
        let found = answer.topics.first().and_then(|t| t.partitions.first());
        let found = found.context("nothing")?;
        ensure!(
            found.error_code == 0,
            "{topic}-{partition}: error {}",
            found.error_code
        );
        Ok(found.offset)
    }

    fn fetch_isolated(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        level: i8,
    ) -> Result<Fetched> {
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(FETCH_BYTES);
        let asked = FetchTopic::default()
            .with_topic(name(topic))
            .with_partitions(vec![asked]);
        let request = FetchRequest::default()
            .with_max_wait_ms(100)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES)
            .with_isolation_level(level)
            .with_topics(vec![asked]);
        let answer = self.call(&request, 11)?;
        ensure!(answer.error_code == 0, "fetch: error {}", answer.error_code);
        let topics = answer.responses.into_iter();
        let found = topics.flat_map(|t| t.partitions).next();
        let found = found.context("nothing")?;
        ensure!(
            found.error_code == 0,
            "{topic}-{partition}: error {}",
            found.error_code
        );
        let aborted = found.aborted_transactions.unwrap_or_default();
        let mut bytes = found.records.unwrap_or_default();
        let sets = RecordBatchDecoder::decode_all(&mut bytes)?;
        Ok(Fetched {
            records: sets.into_iter().flat_map(|s| s.records).collect(),
            aborted: aborted
                .iter()
                .map(|a| (a.producer_id.0, a.first_offset))
                .collect(),
        })
    }

    /// What a `read_committed` reader sees of a partition up to the last stable offset at the time
    /// of the call.
    ///
    /// # Errors
    /// The partition refused, or no progress.
    pub fn read_committed(&mut self, topic: &str, partition: i32) -> Result<Vec<Read>> {
        let end = self.stable_end(topic, partition)?;
        self.read_isolated(topic, partition, end, READ_COMMITTED)
    }

    /// What a `read_uncommitted` reader sees of a partition: all but the markers.
    ///
    /// # Errors
    /// As [`Raw::read_committed`].
    pub fn read_uncommitted(&mut self, topic: &str, partition: i32) -> Result<Vec<Read>> {
        let end = self.offset(topic, partition, -1)?;
        self.read_isolated(topic, partition, end, READ_UNCOMMITTED)
    }

    fn read_isolated(
        &mut self,
        topic: &str,
        partition: i32,
        end: i64,
        level: i8,
    ) -> Result<Vec<Read>> {
        let mut next = self.offset(topic, partition, -2)?;
        let deadline = Instant::now() + LIMIT;
        let mut all = Vec::new();
        while next < end {
            ensure!(
                Instant::now() < deadline,
                "{topic}-{partition} stops at {next}"
            );
            let fetched = self.fetch_isolated(topic, partition, next, level)?;
            let after = fetched.records.last().map_or(next, |r| r.offset + 1);
            all.extend(visible(fetched, next));
            next = after;
        }
        Ok(all)
    }

    /// Waits until nothing is open in a topic's partitions: each last stable offset is the end.
    ///
    /// # Errors
    /// A transaction is still open after `limit`.
    pub fn await_stable(&mut self, topic: &str, partitions: i32, limit: Duration) -> Result<()> {
        crate::wait::until("the end of all transactions", limit, || {
            for partition in 0..partitions {
                let end = self.offset(topic, partition, -1)?;
                let stable = self.stable_end(topic, partition)?;
                ensure!(stable == end, "{topic}-{partition}: {stable} of {end}");
            }
            Ok(Some(()))
        })
    }
}
