//! The two brokers, asked the same; what they answer, with what may differ taken out.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flumen_it::{Broker, Kind, Options, Shape};
use serde_json::{Value, json};

use super::batch::Batch;
use super::schema::{Message, Schemas};

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// What an answer is when the broker hung up instead.
const CLOSED: &str = "connection closed";

/// What Kafka switches on by default and Flumen does not have: off, so that both are alike.
const FEATURES: [&str; 1] = ["eligible.leader.replicas.version"];

/// Fields whose value is the broker's own; only "none" and "some" are told apart.
const OWN: &[&str] = &[
    "Host",
    "ClusterId",
    "BrokerEpoch",
    "LogDir",
    "ThrottleTimeMs",
    "TotalBytes",
    "UsableBytes",
    "LastFetchTimestamp",
    "LastCaughtUpTimestamp",
    "LastTimestamp",
    "TransactionStartTimeMs",
    "LogAppendTimeMs",
    "FinalizedFeaturesEpoch",
    "NodePort",
];

/// Settings whose value is the broker's own: ports and paths.
const OWN_KEYS: &[&str] = &[
    "advertised.listeners",
    "controller.quorum.voters",
    "listeners",
    "log.dirs",
];

/// Fields with ids that each broker makes up: compared by order of appearance.
const IDS: &[&str] = &[
    "TopicId",
    "MemberId",
    "Leader",
    "ProducerId",
    "SessionId",
    "Members",
];

/// One broker with its connections and what the cases keep of its answers.
#[derive(Debug)]
struct Side {
    broker: Broker,
    address: SocketAddr,
    connections: BTreeMap<u8, TcpStream>,
    kept: BTreeMap<String, Value>,
    ids: BTreeMap<String, (String, usize)>,
    last: Value,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Difference {
    /// The case's name.
    pub(super) case: String,
    /// API and version.
    pub(super) api: String,
    /// Where in the answer.
    pub(super) path: String,
    /// What Kafka says there.
    pub(super) kafka: String,
    /// What Flumen says there.
    pub(super) flumen: String,
}

/// Both brokers.
#[derive(Debug)]
pub(super) struct Pair {
    kafka: Side,
    flumen: Side,
    schemas: Schemas,
    versions: BTreeMap<i16, (i16, i16)>,
    /// What was found so far.
    pub(super) differences: Vec<Difference>,
    /// How many answers were compared.
    pub(super) compared: usize,
    case: String,
}

impl Pair {
    /// Starts both with the same properties.
    pub(super) fn start(properties: &[(&str, &str)]) -> Result<Self> {
        let side = |kind| {
            let mut options = Options::new(Shape::FourShards).of(kind).from_file();
            for (key, value) in properties {
                options = options.set(key, value);
            }
            options.features = FEATURES.map(|name| format!("{name}=0")).to_vec();
            Side::start(options)
        };
        let flumen = std::thread::scope(|scope| {
            let kafka = scope.spawn(|| side(Kind::Kafka));
            let flumen = side(Kind::Flumen);
            (kafka.join(), flumen)
        });
        let (Ok(kafka), flumen) = flumen else {
            bail!("the thread that starts Kafka");
        };
        let mut pair = Self {
            kafka: kafka?,
            flumen: flumen?,
            schemas: Schemas::load()?,
            versions: BTreeMap::new(),
            differences: Vec::new(),
            compared: 0,
            case: String::new(),
        };
        let request = json!({"ClientSoftwareName": "compare", "ClientSoftwareVersion": "1"});
        pair.send(0, "ApiVersions", 4, &request)?;
        let (_, ours) = pair.receive(0, "ApiVersions", 4)?;
        for api in ours["ApiKeys"].as_array().context("no APIs")? {
            let n =
                |key: &str| Ok::<_, anyhow::Error>(i16::try_from(api[key].as_i64().context("n")?)?);
            pair.versions
                .insert(n("ApiKey")?, (n("MinVersion")?, n("MaxVersion")?));
        }
        Ok(pair)
    }

    /// Both brokers, Kafka first.
    pub(super) fn brokers(&self) -> [&Broker; 2] {
        [&self.kafka.broker, &self.flumen.broker]
    }

    /// Names what follows.
    pub(super) fn case(&mut self, name: &str) {
        name.clone_into(&mut self.case);
    }

    /// The lowest, a middle and the highest version that Flumen serves of an API.
    pub(super) fn versions(&self, api: &str) -> Result<Vec<i16>> {
        let key = self.schemas.get(&format!("{api}Request"))?.key;
        let (mut low, high) = *self
            .versions
            .get(&key)
            .with_context(|| format!("no {api}"))?;
        if api == "Produce" {
            low = 3; // 0 to 2 are advertised for the sake of old clients and refused
        }
        let mut all = vec![low, i16::midpoint(low, high), high];
        all.dedup();
        Ok(all)
    }

    /// The request in its three versions; `{v}` in any text of it becomes the version.
    pub(super) fn all(&mut self, api: &str, request: &Value) -> Result<()> {
        for version in self.versions(api)? {
            self.ask(api, version, request)?;
        }
        Ok(())
    }

    /// The request in the highest version.
    pub(super) fn top(&mut self, api: &str, request: &Value) -> Result<()> {
        let version = *self.versions(api)?.last().context("no version")?;
        self.ask(api, version, request)
    }

    /// The request in one version, on the first connection.
    pub(super) fn ask(&mut self, api: &str, version: i16, request: &Value) -> Result<()> {
        self.send(0, api, version, request)?;
        self.answer(0, api, version)
    }

    /// Sends without waiting.
    pub(super) fn send(
        &mut self,
        connection: u8,
        api: &str,
        v: i16,
        request: &Value,
    ) -> Result<()> {
        let message = self.schemas.get(&format!("{api}Request"))?;
        for side in [&mut self.kafka, &mut self.flumen] {
            side.send(connection, message, v, request)?;
        }
        Ok(())
    }

    fn receive(&mut self, connection: u8, api: &str, v: i16) -> Result<(Value, Value)> {
        let message = self.schemas.get(&format!("{api}Response"))?;
        let [kafka, flumen] = [&mut self.kafka, &mut self.flumen].map(|side| {
            let kind = side.broker.kind();
            let answer = side.receive(connection, message, v);
            answer.with_context(|| format!("{}: {api} v{v} from {kind:?}", self.case))
        });
        Ok((kafka?, flumen?))
    }

    /// Waits for both answers and compares them.
    pub(super) fn answer(&mut self, connection: u8, api: &str, version: i16) -> Result<()> {
        self.receive(connection, api, version)?;
        let mut kafka = self.kafka.last.clone();
        let mut flumen = self.flumen.last.clone();
        self.kafka.normalise("", &mut kafka);
        self.flumen.normalise("", &mut flumen);
        self.compared += 1;
        let mut found = Vec::new();
        differ(String::new(), &kafka, &flumen, &mut found);
        for (path, kafka, flumen) in found {
            self.differences.push(Difference {
                case: self.case.clone(),
                api: format!("{api} v{version}"),
                path,
                kafka,
                flumen,
            });
        }
        Ok(())
    }

    /// Keeps a value of the last answers under a name; `"$name"` in a request stands for it.
    pub(super) fn keep(&mut self, name: &str, pointer: &str) -> Result<()> {
        for side in [&mut self.kafka, &mut self.flumen] {
            let kind = side.broker.kind();
            let value = side.last.pointer(pointer);
            let value =
                value.with_context(|| format!("{kind:?}: no {pointer} in {}", side.last))?;
            side.kept.insert(name.to_owned(), value.clone());
        }
        Ok(())
    }

    /// Asks each until its answer satisfies `ready`, without comparing. One that was ready is not
    /// asked again: what it has given out it may not give twice.
    pub(super) fn until(
        &mut self,
        api: &str,
        version: i16,
        request: &Value,
        ready: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let ask = self.schemas.get(&format!("{api}Request"))?;
        let answer = self.schemas.get(&format!("{api}Response"))?;
        for side in [&mut self.kafka, &mut self.flumen] {
            flumen_it::wait::until(&format!("{}: {api}", self.case), ANSWER_LIMIT, || {
                side.send(0, ask, version, request)?;
                let value = side.receive(0, answer, version)?;
                ensure!(ready(&value), "{:?}: {value}", side.broker.kind());
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// A topic on both sides, with its id kept under its name, once it serves.
    pub(super) fn topic(&mut self, name: &str, n: i32, configs: &[(&str, &str)]) -> Result<()> {
        let configs: Vec<Value> = configs
            .iter()
            .map(|(name, value)| json!({"Name": name, "Value": value}))
            .collect();
        let topic = json!({"Name": name, "NumPartitions": n, "ReplicationFactor": 1,
            "Configs": configs});
        self.ask(
            "CreateTopics",
            7,
            &json!({"Topics": [topic], "timeoutMs": 20_000}),
        )?;
        self.keep(name, "/Topics/0/TopicId")?;
        for partition in 0..n {
            let partition = json!({"PartitionIndex": partition, "Timestamp": -1});
            let topics = json!([{"Name": name, "Partitions": [partition]}]);
            let ready = |v: &Value| v["Topics"][0]["Partitions"][0]["ErrorCode"] == 0;
            self.until(
                "ListOffsets",
                5,
                &json!({"ReplicaId": -1, "Topics": topics}),
                ready,
            )?;
        }
        Ok(())
    }
}

impl Side {
    fn send(&mut self, connection: u8, message: &Message, v: i16, request: &Value) -> Result<()> {
        let body = message.encode(v, &self.fill(request, v)?)?;
        let frame = frame(message.key, v, message.is_flexible(v), &body)?;
        Ok(self.connection(connection)?.write_all(&frame)?)
    }

    fn receive(&mut self, connection: u8, message: &Message, v: i16) -> Result<Value> {
        self.last = match self.read(connection)? {
            None => {
                self.connections.remove(&connection);
                json!(CLOSED)
            }
            Some(frame) => {
                let flexible = message.is_flexible(v) && message.key != 18;
                // ApiVersions answers a version it does not know in version 0.
                let unsupported = message.key == 18 && frame.get(4..6) == Some(&[0, 35]);
                let body = frame.get(if flexible { 5 } else { 4 }..);
                message.decode(if unsupported { 0 } else { v }, body.context("a header")?)?
            }
        };
        Ok(self.last.clone())
    }

    fn start(options: Options) -> Result<Self> {
        let broker = Broker::start(options)?;
        Ok(Self {
            address: broker.address().parse()?,
            broker,
            connections: BTreeMap::new(),
            kept: BTreeMap::new(),
            ids: BTreeMap::new(),
            last: Value::Null,
        })
    }

    fn connection(&mut self, number: u8) -> Result<&mut TcpStream> {
        if !self.connections.contains_key(&number) {
            let stream = TcpStream::connect_timeout(&self.address, ANSWER_LIMIT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            self.connections.insert(number, stream);
        }
        self.connections.get_mut(&number).context("a connection")
    }

    /// One frame without its length; `None` when the broker hung up.
    fn read(&mut self, number: u8) -> Result<Option<Vec<u8>>> {
        let stream = self.connection(number)?;
        let mut len = [0; 4];
        match stream.read_exact(&mut len) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => bail!("no answer"),
            Err(_) => return Ok(None),
        }
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(len))?];
        stream.read_exact(&mut frame)?;
        Ok(Some(frame))
    }

    /// The request with its placeholders replaced.
    fn fill(&self, value: &Value, version: i16) -> Result<Value> {
        Ok(match value {
            Value::String(text) => match text.strip_prefix('$') {
                Some(name) => self
                    .kept
                    .get(name)
                    .with_context(|| format!("{name} is not kept"))?
                    .clone(),
                None if text.starts_with('%') => json!(self.transactional(text)?),
                None if text.contains("{v}") => json!(text.replace("{v}", &version.to_string())),
                None => value.clone(),
            },
            Value::Array(all) => {
                let all: Result<Vec<Value>> = all.iter().map(|v| self.fill(v, version)).collect();
                Value::Array(all?)
            }
            Value::Object(all) => {
                let one = |(k, v): (&String, &Value)| Ok((k.clone(), self.fill(v, version)?));
                Value::Object(all.iter().map(one).collect::<Result<_>>()?)
            }
            _ => value.clone(),
        })
    }

    /// `%name:sequence`: a record of the transaction of the producer that is kept as `name`.
    fn transactional(&self, text: &str) -> Result<String> {
        let (name, sequence) = text
            .trim_start_matches('%')
            .split_once(':')
            .context("a sequence")?;
        let kept = |name: &str| self.kept.get(name).and_then(Value::as_i64);
        let producer = kept(name).context("a producer")?;
        let epoch = kept(&format!("{name}-epoch")).context("its epoch")?;
        let batch = Batch::of(1).from(producer, i16::try_from(epoch)?, sequence.parse()?);
        Ok(batch.attributes(0x10).hex())
    }

    /// Takes out what each broker makes up, and orders what has no order.
    fn normalise(&mut self, name: &str, value: &mut Value) {
        match value {
            Value::Object(all) => {
                let key = all.get("Name").and_then(Value::as_str).unwrap_or_default();
                if OWN_KEYS.contains(&key)
                    && let Some(value) = all.get_mut("Value").filter(|v| !v.is_null())
                {
                    *value = json!("own");
                }
                for (name, value) in all.iter_mut() {
                    self.normalise(name, value);
                }
            }
            Value::Array(all) => {
                // Ids first: topics are ordered by what stands for theirs.
                for value in all.iter_mut() {
                    self.normalise(name, value);
                }
                sort(all);
            }
            _ if name == "ThrottleTimeMs" => *value = json!(0),
            _ if name == "Port" => *value = json!("own"),
            Value::String(text) if name.ends_with("ErrorMessage") && !text.is_empty() => {
                self.anonymise(text);
            }
            Value::String(text) if OWN.contains(&name) && !text.is_empty() => {
                *value = json!("own");
            }
            Value::Number(n) if OWN.contains(&name) && n.as_i64() > Some(0) => {
                *value = json!("own");
            }
            _ if IDS.contains(&name) => self.id(name, value),
            _ => {}
        }
    }

    fn id(&mut self, name: &str, value: &mut Value) {
        let text = match &*value {
            Value::String(text) if text.is_empty() || text.chars().all(|c| c == '0') => return,
            Value::String(text) => text.clone(),
            Value::Number(n) if n.as_i64() <= Some(0) => return,
            Value::Number(n) => n.to_string(),
            _ => return,
        };
        let name = if name == "Leader" { "MemberId" } else { name };
        let next = self.ids.values().filter(|(of, _)| of == name).count();
        let (_, number) = self.ids.entry(text).or_insert((name.to_owned(), next));
        *value = json!(format!("{name} {number}"));
    }

    /// Ports, ids and names of the broker's own in a message.
    fn anonymise(&self, text: &mut String) {
        for (id, (name, number)) in &self.ids {
            if id.len() > 8 {
                *text = text.replace(id, &format!("{name} {number}"));
            }
        }
        // The range of times that a record may have moves with the clock.
        if let Some(at) = text.find("should be within [") {
            text.truncate(at);
        }
    }
}

/// Orders structures by what names them.
fn sort(all: &mut [Value]) {
    const NAMES: &[&str] = &[
        "Name",
        "TopicName",
        "Topic",
        "TopicId",
        "ResourceName",
        "MemberId",
        "GroupId",
        "TransactionalId",
        "ProducerId",
    ];
    const NUMBERS: &[&str] = &[
        "PartitionIndex",
        "Partition",
        "PartitionId",
        "Index",
        "ApiKey",
        "ResourceType",
    ];
    all.sort_by_cached_key(|value| {
        let names = NAMES
            .iter()
            .filter_map(|n| Some(value.get(n)?.as_str()?.to_owned()));
        let numbers = NUMBERS.iter().filter_map(|n| value.get(n)?.as_i64());
        (numbers.collect::<Vec<_>>(), names.collect::<Vec<_>>())
    });
}

fn frame(key: i16, version: i16, flexible: bool, body: &[u8]) -> Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    frame.extend(key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7i32.to_be_bytes());
    frame.extend([0, 7]);
    frame.extend(b"compare");
    if flexible {
        frame.push(0);
    }
    frame.extend(body);
    let len = i32::try_from(frame.len() - 4)?;
    frame.splice(..4, len.to_be_bytes());
    Ok(frame)
}

/// Adds the places where two answers differ.
fn differ(path: String, a: &Value, b: &Value, found: &mut Vec<(String, String, String)>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for (name, value) in x {
                differ(
                    format!("{path}/{name}"),
                    value,
                    y.get(name).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(x), Value::Array(y)) if labels(x) == labels(y) => {
            for (label, (one, other)) in labels(x).iter().zip(x.iter().zip(y)) {
                differ(format!("{path}/{label}"), one, other, found);
            }
        }
        (Value::Array(x), Value::Array(y)) => {
            let (p, q) = (labels(x), labels(y));
            if p.len() != q.len() {
                found.push((
                    format!("{path}/length"),
                    p.len().to_string(),
                    q.len().to_string(),
                ));
            }
            let pick = |of: &[String], not: &[String], all: &[Value]| {
                let kept = of.iter().zip(all).filter(|(l, _)| !not.contains(l));
                json!(kept.map(|(_, v)| v).collect::<Vec<_>>()).to_string()
            };
            let only = (pick(&p, &q, x), pick(&q, &p, y));
            if only.0 != only.1 {
                found.push((path.clone(), only.0, only.1));
            }
            for (label, one) in p.iter().zip(x) {
                if let Some(n) = q.iter().position(|l| l == label) {
                    differ(format!("{path}/{label}"), one, &y[n], found);
                }
            }
        }
        _ if a != b => found.push((path, a.to_string(), b.to_string())),
        _ => {}
    }
}

/// What names each element of an array: its key field, or its place.
fn labels(all: &[Value]) -> Vec<String> {
    let label = |(n, value): (usize, &Value)| {
        let keys = ["Name", "TopicName", "ApiKey", "ResourceName", "GroupId"];
        let named = keys.iter().find_map(|k| value.get(k));
        match named {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(n)) => n.to_string(),
            _ => n.to_string(),
        }
    };
    all.iter().enumerate().map(label).collect()
}
