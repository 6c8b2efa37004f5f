//! A small client of the wire protocol: one connection, one request at a time, frames in the open.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest,
    MetadataResponse, ProduceRequest, RequestHeader, ResponseHeader, TopicName, TransactionalId,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    next_id: i32,
}

/// A record as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Its offset.
    pub offset: i64,
    /// Its value.
    pub value: Bytes,
}

/// A topic's name in the protocol crate's type.
pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// A request's frame, length prefix included.
///
/// # Errors
/// The crate cannot encode it in that version.
pub fn frame<R: Request>(request: &R, version: i16, correlation_id: i32) -> Result<BytesMut> {
    let key = ApiKey::try_from(R::KEY).ok().context("an API key")?;
    let mut buffer = BytesMut::from(&[0u8; 4][..]);
    RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("flumen-it")))
        .encode(&mut buffer, key.request_header_version(version))?;
    request.encode(&mut buffer, version)?;
    let len = i32::try_from(buffer.len() - 4)?;
    if let Some(prefix) = buffer.get_mut(..4) {
        prefix.copy_from_slice(&len.to_be_bytes());
    }
    Ok(buffer)
}

/// Who writes a batch, in a transaction, and the sequence of its first record.
#[derive(Debug, Clone, Copy)]
pub struct Producing {
    /// The producer's id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The first sequence.
    pub sequence: i32,
}

/// The timestamp of all records made here, unless one is given: that of the first of them.
/// Retention would take records of long ago.
pub fn time_ms() -> i64 {
    static TIME: LazyLock<i64> = LazyLock::new(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |since| since.as_millis() as i64)
    });
    *TIME
}

/// One batch of these values, uncompressed, without keys and without a producer id.
///
/// # Errors
/// The crate cannot encode it.
pub fn batch(values: &[Bytes]) -> Result<Bytes> {
    batch_at(values, time_ms())
}

/// The same with this timestamp.
///
/// # Errors
/// The crate cannot encode it.
pub fn batch_at(values: &[Bytes], timestamp: i64) -> Result<Bytes> {
    encoded(values.iter().map(|value| (None, value)), timestamp, None)
}

/// The same as [`batch`] with keys.
///
/// # Errors
/// The crate cannot encode it.
pub fn keyed_batch(records: &[(Bytes, Bytes)]) -> Result<Bytes> {
    let pairs = records
        .iter()
        .map(|(key, value)| (Some(key.clone()), value));
    encoded(pairs, time_ms(), None)
}

/// The same as [`batch`] in a transaction.
///
/// # Errors
/// The crate cannot encode it.
pub fn transactional_batch(values: &[Bytes], producing: Producing) -> Result<Bytes> {
    let pairs = values.iter().map(|value| (None, value));
    encoded(pairs, time_ms(), Some(producing))
}

fn encoded<'a>(
    pairs: impl Iterator<Item = (Option<Bytes>, &'a Bytes)>,
    timestamp: i64,
    producing: Option<Producing>,
) -> Result<Bytes> {
    let first = producing.map_or(0, |p| p.sequence);
    let records: Vec<Record> = (0i64..)
        .zip(pairs)
        .map(|(n, (key, value))| Record {
            transactional: producing.is_some(),
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: producing.map_or(-1, |p| p.id),
            producer_epoch: producing.map_or(-1, |p| p.epoch),
            timestamp_type: TimestampType::Creation,
            offset: n,
            sequence: i32::try_from(n).unwrap_or(0) + first,
            timestamp,
            key,
            value: Some(value.clone()),
            headers: Default::default(),
        })
        .collect();
    let mut buffer = BytesMut::new();
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    RecordBatchEncoder::encode(&mut buffer, &records, &options)?;
    Ok(buffer.freeze())
}

impl Raw {
    /// Connects.
    ///
    /// # Errors
    /// Refused.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream, next_id: 1 })
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// The connection ended, or the answer is not this request's.
    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        let id = self.next_id;
        self.next_id += 1;
        self.stream.write_all(&frame(request, version, id)?)?;
        let mut answer = self.read_frame()?;
        let key = ApiKey::try_from(R::KEY).ok().context("an API key")?;
        let header = ResponseHeader::decode(&mut answer, key.response_header_version(version))?;
        ensure!(
            header.correlation_id == id,
            "answer {} to {id}",
            header.correlation_id
        );
        let response = R::Response::decode(&mut answer, version)?;
        ensure!(
            answer.is_empty(),
            "{} bytes after the answer of {key:?}",
            answer.len()
        );
        Ok(response)
    }

    /// Sends all requests before it reads the answers, which come in the same order.
    ///
    /// # Errors
    /// The connection ended, or an answer is not the next request's.
    pub fn pipeline<R: Request>(
        &mut self,
        requests: &[R],
        version: i16,
    ) -> Result<Vec<R::Response>> {
        let key = ApiKey::try_from(R::KEY).ok().context("an API key")?;
        let first = self.next_id;
        let mut bytes = BytesMut::new();
        for request in requests {
            bytes.extend_from_slice(&frame(request, version, self.next_id)?);
            self.next_id += 1;
        }
        self.stream.write_all(&bytes)?;
        (first..self.next_id)
            .map(|id| {
                let mut answer = self.read_frame()?;
                let version_of_header = key.response_header_version(version);
                let header = ResponseHeader::decode(&mut answer, version_of_header)?;
                let found = header.correlation_id;
                ensure!(found == id, "answer {found} to {id}");
                R::Response::decode(&mut answer, version)
            })
            .collect()
    }

    /// Reads one frame without its length.
    ///
    /// # Errors
    /// The connection ended.
    pub fn read_frame(&mut self) -> Result<Bytes> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len)?;
        let len = usize::try_from(i32::from_be_bytes(len))?;
        let mut frame = vec![0; len];
        self.stream.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }

    /// Metadata of these topics (never created by it), or of the cluster only.
    ///
    /// # Errors
    /// As [`Raw::call`].
    pub fn metadata(&mut self, topics: &[&str]) -> Result<MetadataResponse> {
        let asked = topics
            .iter()
            .map(|t| MetadataRequestTopic::default().with_name(Some(name(t))));
        let request = MetadataRequest::default()
            .with_topics(Some(asked.collect()))
            .with_allow_auto_topic_creation(false);
        self.call(&request, 12)
    }

    /// How many brokers the metadata lists.
    ///
    /// # Errors
    /// As [`Raw::call`].
    pub fn brokers(&mut self) -> Result<usize> {
        Ok(self.metadata(&[])?.brokers.len())
    }

    /// Creates a topic and waits until its leaders are known.
    ///
    /// # Errors
    /// The broker refused.
    pub fn create_topic(&mut self, topic: &str, partitions: i32) -> Result<()> {
        let wanted = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(30_000);
        for result in self.call(&request, 7)?.topics {
            let (code, why) = (result.error_code, result.error_message);
            ensure!(code == 0, "creating {topic}: error {code} {why:?}");
        }
        self.await_leaders(topic, partitions)
    }

    /// Waits until all partitions of a topic, `count` of them, have a leader that serves.
    ///
    /// # Errors
    /// Not in time.
    pub fn await_leaders(&mut self, topic: &str, count: i32) -> Result<()> {
        crate::wait::until("leaders of all partitions", ANSWER_LIMIT, || {
            for partition in 0..count {
                self.offset(topic, partition, -1)?;
            }
            Ok(Some(()))
        })
    }

    /// Produces one batch with acks=all to each of these partitions; returns base offsets in order.
    ///
    /// # Errors
    /// A partition refused.
    pub fn produce(&mut self, topic: &str, batches: &[(i32, Bytes)]) -> Result<Vec<i64>> {
        self.produce_in(None, topic, batches)
    }

    /// As [`Raw::produce`], in a transaction of this id.
    ///
    /// # Errors
    /// A partition refused.
    pub fn produce_in(
        &mut self,
        transaction: Option<&str>,
        topic: &str,
        batches: &[(i32, Bytes)],
    ) -> Result<Vec<i64>> {
        let id = |t: &str| TransactionalId(StrBytes::from_string(t.to_owned()));
        let parts = batches.iter().map(|(index, records)| {
            PartitionProduceData::default()
                .with_index(*index)
                .with_records(Some(records.clone()))
        });
        let data = TopicProduceData::default()
            .with_name(name(topic))
            .with_partition_data(parts.collect());
        let request = ProduceRequest::default()
            .with_transactional_id(transaction.map(id))
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![data]);
        let mut offsets = Vec::new();
        for topic in self.call(&request, 9)?.responses {
            for p in topic.partition_responses {
                ensure!(
                    p.error_code == 0,
                    "partition {}: error {}",
                    p.index,
                    p.error_code
                );
                offsets.push(p.base_offset);
            }
        }
        Ok(offsets)
    }

    /// The offset for a special timestamp (-1 latest, -2 earliest).
    ///
    /// # Errors
    /// The partition refused.
    pub fn offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Result<i64> {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(timestamp);
        let asked = ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_topics(vec![asked]);
        let answer = self.call(&request, 5)?;
        let found = answer
            .topics
            .first()
            .and_then(|t| t.partitions.first())
            .context("nothing")?;
        ensure!(
            found.error_code == 0,
            "{topic}-{partition}: error {}",
            found.error_code
        );
        Ok(found.offset)
    }

    /// Records of one partition from `offset`, at most about 1 MiB.
    ///
    /// # Errors
    /// The partition refused, or the batches do not decode.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Result<Vec<Read>> {
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(1 << 20);
        let asked = FetchTopic::default()
            .with_topic(name(topic))
            .with_partitions(vec![asked]);
        let request = FetchRequest::default()
            .with_max_wait_ms(100)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_topics(vec![asked]);
        let answer = self.call(&request, 11)?;
        ensure!(answer.error_code == 0, "fetch: error {}", answer.error_code);
        let found = answer
            .responses
            .into_iter()
            .flat_map(|t| t.partitions)
            .next()
            .context("nothing")?;
        ensure!(
            found.error_code == 0,
            "{topic}-{partition}: error {}",
            found.error_code
        );
        let mut bytes = found.records.unwrap_or_default();
        let mut all = Vec::new();
        for set in RecordBatchDecoder::decode_all(&mut bytes)? {
            for record in set
                .records
                .into_iter()
                .filter(|r| r.offset >= offset && !r.control)
            {
                all.push(Read {
                    offset: record.offset,
                    value: record.value.unwrap_or_default(),
                });
            }
        }
        Ok(all)
    }

    /// Everything in a partition, from its start to the end at the time of the call.
    ///
    /// # Errors
    /// As [`Raw::fetch`], or no progress.
    pub fn read_all(&mut self, topic: &str, partition: i32) -> Result<Vec<Read>> {
        let mut next = self.offset(topic, partition, -2)?;
        let end = self.offset(topic, partition, -1)?;
        let mut all = Vec::new();
        let deadline = std::time::Instant::now() + ANSWER_LIMIT;
        while next < end {
            ensure!(
                std::time::Instant::now() < deadline,
                "{topic}-{partition} stops at {next}"
            );
            let some = self.fetch(topic, partition, next)?;
            next = some.last().map_or(next, |r| r.offset + 1);
            all.extend(some);
        }
        Ok(all)
    }
}
