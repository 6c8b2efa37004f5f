//! The blocking part: topics are created and filled before anything is measured.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, InitProducerIdRequest, ListOffsetsRequest, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Request, StrBytes};

use crate::frames;

/// `TOPIC_ALREADY_EXISTS`.
const TOPIC_EXISTS: i16 = 36;

/// One blocking connection.
#[derive(Debug)]
pub struct Admin {
    stream: TcpStream,
}

/// The first address of `host:port`.
///
/// # Errors
/// The name does not resolve.
pub fn resolve(bootstrap: &str) -> Result<SocketAddr> {
    let mut all = bootstrap
        .to_socket_addrs()
        .with_context(|| bootstrap.to_owned())?;
    all.next()
        .with_context(|| format!("{bootstrap} has no address"))
}

impl Admin {
    /// Connects.
    ///
    /// # Errors
    /// Refused.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("{address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream })
    }

    /// Sends an encoded frame and returns the answer without its length.
    ///
    /// # Errors
    /// The connection ended.
    pub fn exchange(&mut self, frame: &[u8]) -> Result<Bytes> {
        self.stream.write_all(frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length))?];
        self.stream.read_exact(&mut answer)?;
        Ok(Bytes::from(answer))
    }

    /// Sends a request and decodes its answer.
    ///
    /// # Errors
    /// The connection ended, or the answer does not decode.
    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        let mut answer = self.exchange(&frames::frame(request, version)?)?;
        let key = ApiKey::try_from(R::KEY).ok().context("an API key")?;
        ResponseHeader::decode(&mut answer, key.response_header_version(version))?;
        R::Response::decode(&mut answer, version)
    }

    /// Creates a topic, or keeps the one that is there, and waits until its partitions serve.
    ///
    /// # Errors
    /// The broker refused.
    pub fn create_topic(
        &mut self,
        topic: &str,
        partitions: i32,
        configs: &[(String, String)],
    ) -> Result<()> {
        let text = |s: &str| StrBytes::from_string(s.to_owned());
        let configs = configs.iter().map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(text(key))
                .with_value(Some(text(value)))
        });
        let wanted = CreatableTopic::default()
            .with_name(frames::topic_name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(30_000);
        for result in self.call(&request, 5)?.topics {
            let (code, why) = (result.error_code, result.error_message);
            ensure!(
                code == 0 || code == TOPIC_EXISTS,
                "creating {topic}: {code} {why:?}"
            );
        }
        let end = Instant::now() + Duration::from_secs(30);
        for partition in 0..partitions {
            while let Err(e) = self.end_offset(topic, partition) {
                if Instant::now() > end {
                    return Err(e);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// The end of a partition.
    ///
    /// # Errors
    /// It does not serve.
    pub fn end_offset(&mut self, topic: &str, partition: i32) -> Result<i64> {
        let part = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(-1);
        let asked = ListOffsetsTopic::default()
            .with_name(frames::topic_name(topic))
            .with_partitions(vec![part]);
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_topics(vec![asked]);
        let answer = self.call(&request, 5)?;
        match answer.topics.first().and_then(|t| t.partitions.first()) {
            Some(p) if p.error_code == 0 => Ok(p.offset),
            Some(p) => bail!("{topic}-{partition}: error {}", p.error_code),
            None => bail!("{topic}-{partition}: no answer"),
        }
    }

    /// A new producer id and its epoch.
    ///
    /// # Errors
    /// The broker has none, after trying for 30 s.
    pub fn producer_id(&mut self) -> Result<(i64, i16)> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000);
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.call(&request, 1)?;
            if answer.error_code == 0 {
                return Ok((answer.producer_id.0, answer.producer_epoch));
            }
            if Instant::now() > end {
                bail!("no producer id: error {}", answer.error_code);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fills a partition with at least `bytes` by this frame, which produces to it.
    ///
    /// # Errors
    /// The broker refused a batch.
    pub fn fill(&mut self, frame: &[u8], bytes: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes {
            frames::check_produced(&self.exchange(frame)?)?;
            done += u64::try_from(frame.len())?;
        }
        Ok(())
    }
}
