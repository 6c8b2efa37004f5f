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
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .context("a response ends early")?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        Ok(self.take(2)?.get_i16())
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        Ok(self.take(4)?.get_i32())
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(self.take(8)?.get_i64())
    }

    pub(crate) fn string(&mut self) -> Result<()> {
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

/// What stands before the records in a Fetch response of one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Where the records begin.
    pub records_at: usize,
    /// How many bytes they have.
    pub records_bytes: usize,
    /// The partition's; -1 when the response names no partition.
    pub high_watermark: i64,
}

/// Reads a Fetch response up to its records, of which none need be there.
///
/// # Errors
/// The broker reported an error, or the response is not of that form.
pub fn fetched_head(response: &[u8]) -> Result<Fetched> {
    let mut fields = Fields(response);
    fields.take(8)?; // correlation id, throttle time
    let error = fields.i16()?;
    ensure!(error == 0, "fetch: error {error}");
    fields.i32()?; // session
    if fields.i32()? == 0 {
        return Ok(Fetched {
            high_watermark: -1,
            ..Fetched::default()
        });
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
    let records_bytes = usize::try_from(fields.i32()?.max(0))?;
    Ok(Fetched {
        records_at: response.len() - fields.0.len(),
        records_bytes,
        high_watermark,
    })
}

/// The record bytes of a whole Fetch response of one partition.
///
/// # Errors
/// As `fetched_head`, or it ends early.
pub fn fetched(response: &[u8]) -> Result<&[u8]> {
    let head = fetched_head(response)?;
    response
        .get(head.records_at..head.records_at + head.records_bytes)
        .context("a response ends early")
}

/// Base offset, whole length and number of records of the batch that begins these bytes, when
/// its header is there.
pub fn batch_header(bytes: &[u8]) -> Option<(i64, usize, i64)> {
    let mut fields = Fields(bytes);
    let base = fields.i64().ok()?;
    let length = usize::try_from(fields.i32().ok()?).ok()? + 12;
    let delta = bytes.get(23..27)?.get_i32();
    Some((base, length, i64::from(delta) + 1))
}

/// Where a batch stands in a Produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The partition's index.
    pub index_at: usize,
    /// The batch, behind its length.
    pub batch_at: usize,
    /// Its length.
    pub batch_bytes: usize,
}

/// The places of all batches in a Produce frame with its length prefix, which may end behind the
/// header of its last batch.
///
/// # Errors
/// It is none of version `PRODUCE_VERSION`.
pub fn produce_places(frame: &[u8], places: &mut Vec<Place>) -> Result<()> {
    places.clear();
    let mut fields = Fields(frame);
    fields.take(12)?; // length, key, version, correlation id
    fields.string()?; // client id
    fields.string()?; // transactional id
    fields.take(6)?; // acks, timeout
    let at = |fields: &Fields<'_>| frame.len() - fields.0.len();
    for _ in 0..fields.i32()? {
        fields.string()?;
        for _ in 0..fields.i32()? {
            let index_at = at(&fields);
            fields.i32()?;
            let batch_bytes = usize::try_from(fields.i32()?)?;
            let batch_at = at(&fields);
            places.push(Place {
                index_at,
                batch_at,
                batch_bytes,
            });
            if fields.take(batch_bytes).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::batch;
    use bytes::Bytes;
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::{FetchResponse, ResponseHeader};
    use kafka_protocol::protocol::Decodable;

    /// A frame's request as the crate's own decoder reads it.
    fn decode<R: Request>(frame: &[u8], version: i16) -> R {
        let mut bytes = Bytes::copy_from_slice(&frame[4..]);
        let key = ApiKey::try_from(R::KEY).unwrap();
        let header =
            RequestHeader::decode(&mut bytes, key.request_header_version(version)).unwrap();
        assert_eq!(
            (header.request_api_key, header.request_api_version),
            (R::KEY, version)
        );
        let request = R::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty());
        request
    }

    #[test]
    fn a_patched_produce_frame_decodes_to_what_was_patched() {
        let made = batch(3, 50, 9).unwrap();
        let mut frame = produce("topic", &[0, 1], &made.bytes, 1).unwrap();
        let mut places = Vec::new();
        produce_places(&frame, &mut places).unwrap();
        assert_eq!(places.len(), 2);
        for (place, partition) in places.iter().zip([700, 701]) {
            assert_eq!(place.batch_bytes, made.bytes.len());
            assert_eq!(frame[place.batch_at..][..place.batch_bytes], made.bytes);
            patch(&mut frame, place.index_at, &i32::to_be_bytes(partition));
        }
        set_correlation(&mut frame, 77);
        let read: ProduceRequest = decode(&frame, PRODUCE_VERSION);
        assert_eq!(read.acks, 1);
        let parts = &read.topic_data[0].partition_data;
        assert_eq!((parts[0].index, parts[1].index), (700, 701));
        assert_eq!(parts[1].records.as_ref().unwrap()[..], made.bytes);
        // The head alone is enough to find the batches that begin in it.
        let head = &frame[..places[0].batch_at + 61];
        let mut of_head = Vec::new();
        produce_places(head, &mut of_head).unwrap();
        assert_eq!(of_head, places[..1]);
    }

    #[test]
    fn a_patched_fetch_frame_decodes_to_what_was_patched() {
        let (mut frame, at) = fetch("topic", 5, 4096, 500).unwrap();
        patch(&mut frame, at, &123_456_i64.to_be_bytes());
        let read: FetchRequest = decode(&frame, FETCH_VERSION);
        let part = &read.topics[0].partitions[0];
        assert_eq!((part.partition, part.fetch_offset), (5, 123_456));
        assert_eq!((part.partition_max_bytes, read.max_bytes), (4096, 4096));
    }

    #[test]
    fn the_head_of_a_fetch_response_says_where_its_records_are() {
        let made = batch(4, 30, 9).unwrap();
        let part = PartitionData::default()
            .with_partition_index(5)
            .with_high_watermark(44)
            .with_records(Some(Bytes::from(made.bytes.clone())));
        let topic = FetchableTopicResponse::default()
            .with_topic(topic_name("topic"))
            .with_partitions(vec![part]);
        let mut buffer = BytesMut::new();
        ResponseHeader::default()
            .with_correlation_id(3)
            .encode(&mut buffer, 0)
            .unwrap();
        FetchResponse::default()
            .with_responses(vec![topic])
            .encode(&mut buffer, FETCH_VERSION)
            .unwrap();
        assert_eq!(fetched(&buffer).unwrap(), made.bytes);
        let head = fetched_head(&buffer[..buffer.len() - made.bytes.len()]).unwrap();
        assert_eq!(head.records_bytes, made.bytes.len());
        assert_eq!(head.high_watermark, 44);
        assert_eq!(batch_header(&made.bytes), Some((0, made.bytes.len(), 4)));
        assert!(fetched(&buffer[..buffer.len() - 1]).is_err());
    }
}
