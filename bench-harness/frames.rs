//! Request frames encoded once, and the few fields read from responses.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, FetchRequest, ProduceRequest, RequestHeader, TopicName};
use kafka_protocol::protocol::{Encodable, Request, StrBytes};

/// Produce version of all frames: the last one before compact fields, spoken by every broker.
pub const PRODUCE_VERSION: i16 = 8;
/// Fetch version of all frames: the last one before compact fields.
pub const FETCH_VERSION: i16 = 11;
/// Where the correlation id stands in a frame with its length prefix.
const CORRELATION_AT: usize = 8;
/// A fetch offset that appears nowhere else in the frame: marks the place to patch.
const OFFSET_MARK: i64 = 0x0102_0304_0506_0708;

/// A topic's name in the protocol crate's type.
pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// A request with its header and length prefix.
///
/// # Errors
/// The crate cannot encode it in that version.
pub fn frame<R: Request>(request: &R, version: i16) -> Result<Vec<u8>> {
    let key = ApiKey::try_from(R::KEY).ok().context("an API key")?;
    let mut buffer = BytesMut::from(&[0u8; 4][..]);
    RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("bench-harness")))
        .encode(&mut buffer, key.request_header_version(version))?;
    request.encode(&mut buffer, version)?;
    let mut bytes = buffer.to_vec();
    let length = i32::try_from(bytes.len() - 4)?;
    patch(&mut bytes, 0, &length.to_be_bytes());
    Ok(bytes)
}

/// Overwrites bytes at a place that is inside the frame.
pub fn patch(frame: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Sets the correlation id.
pub fn set_correlation(frame: &mut [u8], id: i32) {
    patch(frame, CORRELATION_AT, &id.to_be_bytes());
}

/// A Produce request of the same batch for each of `partitions`.
///
/// # Errors
/// The crate cannot encode it.
pub fn produce(topic: &str, partitions: &[i32], batch: &[u8], acks: i16) -> Result<Vec<u8>> {
    let records = bytes::Bytes::copy_from_slice(batch);
    let parts = partitions.iter().map(|p| {
        PartitionProduceData::default()
            .with_index(*p)
            .with_records(Some(records.clone()))
    });
    let data = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data(parts.collect());
    let request = ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![data]);
    frame(&request, PRODUCE_VERSION)
}

/// A Fetch request of one partition and the place of its offset.
///
/// # Errors
/// The crate cannot encode it.
pub fn fetch(
    topic: &str,
    partition: i32,
    bytes_max: i32,
    wait_ms: i32,
) -> Result<(Vec<u8>, usize)> {
    let part = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(OFFSET_MARK)
        .with_partition_max_bytes(bytes_max);
    let wanted = FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![part]);
    let request = FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(bytes_max)
        .with_session_epoch(-1)
        .with_topics(vec![wanted]);
    let bytes = frame(&request, FETCH_VERSION)?;
    let mark = OFFSET_MARK.to_be_bytes();
    let at = bytes
        .windows(8)
        .position(|w| w == mark)
        .context("the offset's place")?;
    Ok((bytes, at))
}

/// Reads big-endian fields with a check of what is left.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .context("a response ends early")?;
        self.0 = rest;
        Ok(head)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(self.take(2)?.get_i16())
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(self.take(4)?.get_i32())
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(self.take(8)?.get_i64())
    }

    fn string(&mut self) -> Result<()> {
        let length = self.i16()?;
        self.take(usize::try_from(length).unwrap_or(0)).map(drop)
    }
}

/// The correlation id of a response.
///
/// # Errors
/// It is shorter than that.
pub fn correlation(response: &[u8]) -> Result<i32> {
    Fields(response).i32()
}

/// Requires that each partition of a Produce response took its batch.
///
/// # Errors
/// One did not; the message has its error code.
pub fn check_produced(response: &[u8]) -> Result<()> {
    let mut fields = Fields(response);
    fields.i32()?; // correlation id
    for _ in 0..fields.i32()? {
        fields.string()?;
        for _ in 0..fields.i32()? {
            let (partition, error) = (fields.i32()?, fields.i16()?);
            ensure!(
                error == 0,
                "produce to partition {partition}: error {error}"
            );
            fields.take(24)?; // base offset, append time, log start
            ensure!(fields.i32()? == 0, "record errors");
            fields.string()?;
        }
    }
    Ok(())
}

/// The record bytes of a Fetch response of one partition, and its high watermark.
///
/// # Errors
/// The broker reported one, or the response is not of that form.
pub fn fetched(response: &[u8]) -> Result<(&[u8], i64)> {
    let mut fields = Fields(response);
    fields.take(8)?; // correlation id, throttle time
    let error = fields.i16()?;
    ensure!(error == 0, "fetch: error {error}");
    fields.i32()?; // session
    if fields.i32()? == 0 {
        return Ok((&[], -1));
    }
    fields.string()?;
    ensure!(fields.i32()? == 1, "one partition was asked for");
    let (partition, error) = (fields.i32()?, fields.i16()?);
    ensure!(error == 0, "fetch of partition {partition}: error {error}");
    let high_watermark = fields.i64()?;
    fields.take(16)?; // last stable offset, log start
    let aborted = fields.i32()?.max(0);
    fields.take(usize::try_from(aborted)? * 16)?;
    fields.i32()?; // preferred replica
    let length = usize::try_from(fields.i32()?.max(0))?;
    Ok((fields.take(length)?, high_watermark))
}

/// Complete batches in record bytes: base offset, next offset, and the batch itself.
pub fn batches(mut records: &[u8]) -> impl Iterator<Item = (i64, i64, &[u8])> {
    std::iter::from_fn(move || {
        let mut fields = Fields(records);
        let base = fields.i64().ok()?;
        let length = usize::try_from(fields.i32().ok()?).ok()?;
        let (batch, rest) = records.split_at_checked(length + 12)?;
        let delta = batch.get(23..27)?.get_i32();
        records = rest;
        Some((base, base + i64::from(delta) + 1, batch))
    })
}

/// Fails on a response that is none of ours.
///
/// # Errors
/// The ids differ.
pub fn expect_correlation(response: &[u8], expected: i32) -> Result<()> {
    let id = correlation(response)?;
    if id != expected {
        bail!("response {id} came where {expected} was due");
    }
    Ok(())
}
