//! Answers of the limit probe: those that a set-up asks for, decoded and encoded in full, and the
//! templates of the answers under load.

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse, FetchResponse,
    InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataResponse,
    ProduceResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use crate::frames::{self, FETCH_VERSION, PRODUCE_VERSION};

/// Where the correlation id stands in an answer with its length prefix.
pub const CORRELATION_AT: usize = 4;

fn answer<R: Encodable>(key: ApiKey, version: i16, correlation: i32, body: &R) -> Result<Vec<u8>> {
    let mut buffer = BytesMut::from(&[0u8; 4][..]);
    ResponseHeader::default()
        .with_correlation_id(correlation)
        .encode(&mut buffer, key.response_header_version(version))?;
    body.encode(&mut buffer, version)?;
    let mut bytes = buffer.to_vec();
    let length = i32::try_from(bytes.len() - 4)?;
    frames::patch(&mut bytes, 0, &length.to_be_bytes());
    Ok(bytes)
}

/// The answer to a Produce request for these partitions.
///
/// # Errors
/// It cannot be encoded.
pub fn produced(topic: &str, partitions: &[i32]) -> Result<Vec<u8>> {
    let parts = partitions.iter().map(|p| {
        PartitionProduceResponse::default()
            .with_index(*p)
            .with_log_append_time_ms(-1)
            .with_log_start_offset(0)
    });
    let topic = TopicProduceResponse::default()
        .with_name(frames::topic_name(topic))
        .with_partition_responses(parts.collect());
    let body = ProduceResponse::default().with_responses(vec![topic]);
    answer(ApiKey::Produce, PRODUCE_VERSION, 0, &body)
}

/// What stands before the records in the answer to a Fetch of one partition.
#[derive(Debug, Clone)]
pub struct FetchHead(Vec<u8>);

impl FetchHead {
    /// For one topic.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn new(topic: &str) -> Result<Self> {
        let part = PartitionData::default().with_records(Some(Bytes::new()));
        let topic = FetchableTopicResponse::default()
            .with_topic(frames::topic_name(topic))
            .with_partitions(vec![part]);
        let body = FetchResponse::default().with_responses(vec![topic]);
        Ok(Self(answer(ApiKey::Fetch, FETCH_VERSION, 0, &body)?))
    }

    /// The head of one answer.
    pub fn patched(&mut self, id: i32, partition: i32, end: i64, records: usize) -> &[u8] {
        let whole = self.0.len();
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX).to_be_bytes();
        frames::patch(&mut self.0, 0, &number(whole - 4 + records));
        frames::patch(&mut self.0, CORRELATION_AT, &id.to_be_bytes());
        // From the end: length of the records, preferred replica, aborted transactions, log start,
        // last stable offset, high watermark, error, index.
        frames::patch(&mut self.0, whole - 4, &number(records));
        frames::patch(&mut self.0, whole - 28, &end.to_be_bytes());
        frames::patch(&mut self.0, whole - 36, &end.to_be_bytes());
        frames::patch(&mut self.0, whole - 42, &partition.to_be_bytes());
        &self.0
    }
}

/// What the probe speaks.
fn api_versions(error: i16) -> ApiVersionsResponse {
    let range = |(key, max): (ApiKey, i16)| {
        ApiVersion::default()
            .with_api_key(key as i16)
            .with_max_version(max)
    };
    let known = [
        (ApiKey::Produce, PRODUCE_VERSION),
        (ApiKey::Fetch, FETCH_VERSION),
        (ApiKey::ListOffsets, 5),
        (ApiKey::Metadata, 8),
        (ApiKey::ApiVersions, 3),
        (ApiKey::CreateTopics, 5),
        (ApiKey::InitProducerId, 4),
    ];
    ApiVersionsResponse::default()
        .with_error_code(error)
        .with_api_keys(known.map(range).to_vec())
}

/// Answers a request of the set-up; `end_offset` knows the end of a partition.
///
/// # Errors
/// The request is broken or none that a set-up sends.
pub fn set_up(request: &[u8], end_offset: impl Fn(&str, i32) -> i64) -> Result<Vec<u8>> {
    let mut bytes = Bytes::copy_from_slice(request);
    let key = i16::from_be_bytes(*request.first_chunk().context("an API key")?);
    let version = request.get(2..).and_then(|b| b.first_chunk());
    let version = i16::from_be_bytes(*version.context("a version")?);
    let api = ApiKey::try_from(key).ok().context("an API key")?;
    let header = RequestHeader::decode(&mut bytes, api.request_header_version(version))?;
    let id = header.correlation_id;
    match api {
        ApiKey::ApiVersions => {
            // A version that is not known is answered in version 0 with UNSUPPORTED_VERSION.
            let (as_version, error) = if version > 3 { (0, 35) } else { (version, 0) };
            answer(api, as_version, id, &api_versions(error))
        }
        ApiKey::Metadata => {
            let broker =
                MetadataResponseBroker::default().with_host(StrBytes::from_static_str("127.0.0.1"));
            let body = MetadataResponse::default().with_brokers(vec![broker]);
            answer(api, version, id, &body)
        }
        ApiKey::CreateTopics => {
            let request = CreateTopicsRequest::decode(&mut bytes, version)?;
            let results = request.topics.into_iter().map(|t| {
                CreatableTopicResult::default()
                    .with_name(t.name)
                    .with_num_partitions(t.num_partitions)
                    .with_replication_factor(1)
            });
            let body = CreateTopicsResponse::default().with_topics(results.collect());
            answer(api, version, id, &body)
        }
        ApiKey::ListOffsets => {
            let request = ListOffsetsRequest::decode(&mut bytes, version)?;
            let topics = request.topics.into_iter().map(|t| {
                let parts = t.partitions.iter().map(|p| {
                    ListOffsetsPartitionResponse::default()
                        .with_partition_index(p.partition_index)
                        .with_offset(end_offset(&t.name.0, p.partition_index))
                });
                let parts = parts.collect();
                ListOffsetsTopicResponse::default()
                    .with_name(t.name)
                    .with_partitions(parts)
            });
            let body = ListOffsetsResponse::default().with_topics(topics.collect());
            answer(api, version, id, &body)
        }
        ApiKey::InitProducerId => {
            let body = InitProducerIdResponse::default().with_producer_id(1.into());
            answer(api, version, id, &body)
        }
        other => bail!("the limit probe does not speak {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fetch_head_is_patched_where_a_reader_looks() {
        let mut head = FetchHead::new("some-topic").unwrap();
        let mut whole = head.patched(9, 6, 1234, 5).to_vec();
        whole.extend_from_slice(&[1, 2, 3, 4, 5]);
        assert_eq!(
            i32::from_be_bytes(whole[..4].try_into().unwrap()) as usize,
            whole.len() - 4
        );
        frames::expect_correlation(&whole[4..], 9).unwrap();
        let read = frames::fetched_head(&whole[4..]).unwrap();
        assert_eq!((read.records_bytes, read.high_watermark), (5, 1234));
        let mut bytes = Bytes::from(whole).split_off(8);
        let decoded = FetchResponse::decode(&mut bytes, FETCH_VERSION).unwrap();
        let part = &decoded.responses[0].partitions[0];
        assert_eq!((part.partition_index, part.last_stable_offset), (6, 1234));
    }

    #[test]
    fn a_set_up_is_answered_in_the_versions_that_it_asks_with() {
        let request = kafka_protocol::messages::ApiVersionsRequest::default();
        for (version, error) in [(0, 0), (3, 0), (4, 35)] {
            let frame = frames::frame(&request, version).unwrap();
            let whole = set_up(&frame[4..], |_, _| 0).unwrap();
            let mut bytes = Bytes::from(whole).split_off(8);
            let as_version = if error == 0 { version } else { 0 };
            let read = ApiVersionsResponse::decode(&mut bytes, as_version).unwrap();
            assert_eq!((read.error_code, read.api_keys.len()), (error, 7));
        }
    }

    #[test]
    fn the_produce_answer_has_no_error() {
        let whole = produced("t", &[3, 4]).unwrap();
        frames::check_produced(&whole[4..]).unwrap();
    }
}
