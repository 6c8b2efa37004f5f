//! A cluster seen from outside: bootstrap, metadata, a connection per broker.

use crate::{ClientError, Connection};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// What brokers call it.
    pub client_id: String,
    /// For a connect and for every answer (beyond what the broker is asked to wait).
    pub timeout: Duration,
    /// How long calls that fail with a retriable error are repeated.
    pub retry: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            client_id: "flumen-cli".to_owned(),
            timeout: Duration::from_secs(10),
            retry: Duration::from_secs(10),
        }
    }
}

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Broker {
    pub id: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PartitionInfo {
    pub index: i32,
    /// -1: none.
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    pub error_code: i16,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TopicInfo {
    pub name: String,
    /// In Kafka's base64 form.
    pub id: [u8; 16],
    pub internal: bool,
    pub error_code: i16,
    /// By index.
    pub partitions: Vec<PartitionInfo>,
}

/// An answer about the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Metadata {
    pub cluster_id: Option<String>,
    pub controller_id: i32,
    pub brokers: Vec<Broker>,
    pub topics: Vec<TopicInfo>,
}

/// A client of one cluster.
#[derive(Debug)]
pub struct Client {
    pub(crate) options: Options,
    bootstrap: String,
    any: Option<Connection>,
    brokers: BTreeMap<i32, Broker>,
    connections: BTreeMap<i32, Connection>,
    /// What is known of topics, by name.
    pub(crate) topics: BTreeMap<String, TopicInfo>,
}

impl Client {
    /// Connects to the first address of `bootstrap` (comma separated `host:port`) that answers.
    pub fn connect(bootstrap: &str, options: Options) -> Result<Self, ClientError> {
        let mut client = Self {
            options,
            bootstrap: bootstrap.to_owned(),
            any: None,
            brokers: BTreeMap::new(),
            connections: BTreeMap::new(),
            topics: BTreeMap::new(),
        };
        client.any()?;
        Ok(client)
    }

    /// A connection to some broker.
    pub fn any(&mut self) -> Result<&mut Connection, ClientError> {
        if self.any.is_none() {
            let mut last = None;
            for address in self.bootstrap.split(',').map(str::trim) {
                match Connection::open(address, &self.options.client_id, self.options.timeout) {
                    Ok(connection) => {
                        self.any = Some(connection);
                        break;
                    }
                    Err(error) => last = Some(error),
                }
            }
            if let (None, Some(error)) = (&self.any, last) {
                return Err(error);
            }
        }
        self.any
            .as_mut()
            .ok_or_else(|| ClientError::NoBroker(self.bootstrap.clone()))
    }

    /// Calls any broker, and once more on a new connection if the old one broke.
    pub fn call_any<R: Request>(
        &mut self,
        request: &R,
        cap: i16,
    ) -> Result<R::Response, ClientError> {
        match self.any()?.call(request, cap) {
            Err(ClientError::Io { .. }) => {
                self.any = None;
                self.any()?.call(request, cap)
            }
            other => other,
        }
    }

    /// A connection to a broker by its id.
    pub fn broker(&mut self, id: i32) -> Result<&mut Connection, ClientError> {
        if !self.connections.contains_key(&id) {
            if !self.brokers.contains_key(&id) {
                self.metadata(Some(&[]), false)?;
            }
            let broker = self
                .brokers
                .get(&id)
                .ok_or_else(|| ClientError::NotFound(format!("broker {id}")))?;
            let address = format!("{}:{}", bracketed(&broker.host), broker.port);
            let (client_id, timeout) = (&self.options.client_id, self.options.timeout);
            let connection = Connection::open(&address, client_id, timeout)?;
            self.connections.insert(id, connection);
        }
        self.connections
            .get_mut(&id)
            .ok_or_else(|| ClientError::NotFound(format!("broker {id}")))
    }

    /// Forgets the connection to a broker, after it broke.
    pub fn drop_broker(&mut self, id: i32) {
        self.connections.remove(&id);
    }

    /// Calls a broker by its id; a broken connection is forgotten.
    pub fn call_broker<R: Request>(
        &mut self,
        id: i32,
        request: &R,
        cap: i16,
        extra: Duration,
    ) -> Result<R::Response, ClientError> {
        let connection = self.broker(id)?;
        let version = connection.version::<R>(cap)?;
        let result = connection.call_at(request, version, extra);
        if matches!(
            result,
            Err(ClientError::Io { .. } | ClientError::Malformed(_))
        ) {
            self.drop_broker(id);
        }
        result
    }

    /// Asks for topics by name (`None`: all of them) and remembers the answer.
    pub fn metadata(
        &mut self,
        topics: Option<&[&str]>,
        create: bool,
    ) -> Result<Metadata, ClientError> {
        let wanted = topics.map(|names| {
            let topic = |n: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(n)));
            names.iter().map(topic).collect()
        });
        let request = MetadataRequest::default()
            .with_topics(wanted)
            .with_allow_auto_topic_creation(create);
        let metadata = to_metadata(self.call_any(&request, i16::MAX)?);
        self.brokers = metadata.brokers.iter().map(|b| (b.id, b.clone())).collect();
        for topic in &metadata.topics {
            self.topics.insert(topic.name.clone(), topic.clone());
        }
        Ok(metadata)
    }

    /// One topic, waiting while it has no leaders yet; created where the broker creates topics by
    /// itself, if `create`.
    pub fn topic(&mut self, name: &str, create: bool) -> Result<TopicInfo, ClientError> {
        let what = format!("topic '{name}'");
        self.retrying(|client| {
            let metadata = client.metadata(Some(&[name]), create)?;
            let found = metadata.topics.into_iter().find(|t| t.name == name);
            let topic = found.ok_or_else(|| ClientError::NotFound(what.clone()))?;
            match topic.error_code {
                // Unknown: it may be on its way if we asked for it, otherwise it is final.
                3 if !create => return Err(ClientError::NotFound(what.clone())),
                code => ClientError::check(code, || what.clone())?,
            }
            let code = topic.partitions.iter().map(|p| p.error_code);
            let missing = code.into_iter().find(|c| *c == 5).unwrap_or(0);
            ClientError::check(missing, || what.clone())?;
            Ok(topic)
        })
    }

    /// The leader of a partition, from what is known or from a broker.
    pub fn leader(&mut self, topic: &str, partition: i32) -> Result<i32, ClientError> {
        let find = |info: &TopicInfo| {
            let mut all = info.partitions.iter();
            all.find(|p| p.index == partition).map(|p| p.leader)
        };
        match self.topics.get(topic).and_then(find) {
            Some(leader) if leader >= 0 => Ok(leader),
            _ => {
                let info = self.topic(topic, false)?;
                find(&info)
                    .ok_or_else(|| ClientError::NotFound(format!("partition {topic}-{partition}")))
            }
        }
    }

    /// The coordinator of a group (`kind` 0) or transactional id (1).
    pub fn coordinator(&mut self, key: &str, kind: i8) -> Result<i32, ClientError> {
        self.retrying(|client| {
            let key_text = StrBytes::from_string(key.to_owned());
            let version = client.any()?.version::<FindCoordinatorRequest>(5)?;
            let mut request = FindCoordinatorRequest::default();
            if version >= 1 {
                request.key_type = kind;
            }
            if version >= 4 {
                request.coordinator_keys = vec![key_text];
            } else {
                request.key = key_text;
            }
            let response = client.call_any(&request, 5)?;
            let what = || format!("coordinator of '{key}'");
            let found = match response.coordinators.first() {
                Some(c) => (
                    c.error_code,
                    c.error_message.clone(),
                    c.node_id,
                    &c.host,
                    c.port,
                ),
                None => {
                    let message = response.error_message.clone();
                    let code = response.error_code;
                    (
                        code,
                        message,
                        response.node_id,
                        &response.host,
                        response.port,
                    )
                }
            };
            let (code, message, id, host, port) = found;
            ClientError::check_message(code, message.as_deref(), what)?;
            let broker = Broker {
                id: id.0,
                host: host.to_string(),
                port,
                rack: None,
            };
            client.brokers.entry(id.0).or_insert(broker);
            Ok(id.0)
        })
    }

    /// The broker that takes changes of the cluster.
    pub fn controller(&mut self) -> Result<i32, ClientError> {
        let id = self.metadata(Some(&[]), false)?.controller_id;
        if id >= 0 {
            return Ok(id);
        }
        // Brokers forward such requests: any will do.
        let first = self.brokers.keys().next().copied();
        first.ok_or_else(|| ClientError::NotFound("a controller".to_owned()))
    }

    /// Calls the coordinator of a group, again while it loads or moves (`code` takes the error code
    /// from its answer). Gives the coordinator too.
    pub(crate) fn call_coordinator<R: Request>(
        &mut self,
        group: &str,
        request: &R,
        cap: i16,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<(i32, R::Response), ClientError> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let coordinator = self.coordinator(group, 0)?;
            let response = self.call_broker(coordinator, request, cap, Duration::ZERO)?;
            let again = matches!(code(&response), 14..=16); // loading, not available, not here
            if !again || start.elapsed() + pause > self.options.retry {
                return Ok((coordinator, response));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Repeats `call` with growing pauses while it fails with a retriable error, `options.retry` at
    /// most.
    pub fn retrying<T>(
        &mut self,
        mut call: impl FnMut(&mut Self) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match call(self) {
                Err(e) if e.is_retriable() && start.elapsed() + pause < self.options.retry => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                result => return result,
            }
        }
    }
}

/// An IPv6 address in the brackets that socket addresses need.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub(crate) fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn to_metadata(response: MetadataResponse) -> Metadata {
    let ids = |ids: &[kafka_protocol::messages::BrokerId]| ids.iter().map(|b| b.0).collect();
    let brokers = response.brokers.iter().map(|b| Broker {
        id: b.node_id.0,
        host: b.host.to_string(),
        port: b.port,
        rack: b.rack.as_ref().map(|r| r.to_string()),
    });
    let topics = response.topics.iter().map(|t| {
        let partitions = t.partitions.iter().map(|p| PartitionInfo {
            index: p.partition_index,
            leader: p.leader_id.0,
            leader_epoch: p.leader_epoch,
            replicas: ids(&p.replica_nodes),
            isr: ids(&p.isr_nodes),
            error_code: p.error_code,
        });
        let mut partitions: Vec<PartitionInfo> = partitions.collect();
        partitions.sort_by_key(|p| p.index);
        TopicInfo {
            name: t.name.as_ref().map(|n| n.to_string()).unwrap_or_default(),
            id: *t.topic_id.as_bytes(),
            internal: t.is_internal,
            error_code: t.error_code,
            partitions,
        }
    });
    Metadata {
        cluster_id: response.cluster_id.as_ref().map(|c| c.to_string()),
        controller_id: response.controller_id.0,
        brokers: brokers.collect(),
        topics: topics.collect(),
    }
}
