//! `flumen produce`.

use super::{Cluster, Topic, key_value, output};
use anyhow::{Context, bail};
use clap::Args;
use flumen_client::{BatchOptions, Client, Codec, ProduceOptions, Record};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, SystemTime};

#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    topic: Topic,
    /// Lines hold a key, this separator and a value.
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// Lines begin with headers such as a:1,b:2 and a tab.
    #[arg(long)]
    headers: bool,
    /// A header for every record; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    header: Vec<(String, String)>,
    /// Keys and values with this text are null.
    #[arg(long, value_name = "TEXT")]
    null_marker: Option<String>,
    /// Send everything to this partition. Without it keys choose (as in Kafka's Java client), and
    /// batches without keys take turns.
    #[arg(long, value_name = "P")]
    partition: Option<i32>,
    /// Who must have a record before it counts as sent: all, 1 (the leader) or 0 (nobody).
    #[arg(long, value_name = "ACKS", default_value = "all", value_parser = parse_acks,
          allow_hyphen_values = true)]
    acks: i16,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, value_name = "CODEC", default_value = "none")]
    compression: Codec,
    /// Records of one batch at most.
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_records: u32,
    #[command(flatten)]
    cluster: Cluster,
}

/// A batch is sent when it holds this many bytes, or when no line came for `LINGER`.
const BATCH_BYTES: usize = 256 << 10;
const LINGER: Duration = Duration::from_millis(5);

fn parse_acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        "0" => Ok(0),
        _ => Err("expected all, 1 or 0".to_owned()),
    }
}

/// Sends standard input line by line.
pub(crate) fn run(args: &ProduceArgs) -> anyhow::Result<()> {
    let mut client = args.cluster.connect()?;
    let mut sender = Sender::new(&mut client, args)?;
    let lines = read_lines();
    let mut progress = output::Progress::new("records sent");
    let mut number = 0u64;
    loop {
        match lines.recv_timeout(LINGER) {
            Ok(line) => {
                number += 1;
                let line = line.context("standard input")?;
                let record = parse_line(args, &line).with_context(|| format!("line {number}"))?;
                sender.add(&mut client, record)?;
                progress.show(number);
            }
            Err(RecvTimeoutError::Timeout) => {
                sender.flush(&mut client)?;
                // Nothing is pending: sleep until there is a line.
                match lines.recv() {
                    Ok(line) => {
                        number += 1;
                        let line = line.context("standard input")?;
                        let record =
                            parse_line(args, &line).with_context(|| format!("line {number}"))?;
                        sender.add(&mut client, record)?;
                    }
                    Err(_) => break,
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    sender.flush(&mut client)?;
    progress.end();
    Ok(())
}

/// Lines of standard input as a thread reads them, without their ends; not necessarily text.
fn read_lines() -> Receiver<std::io::Result<Vec<u8>>> {
    let (send, receive) = sync_channel(4096);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let result = match input.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {
                    if line.last() == Some(&b'\n') {
                        line.pop();
                    }
                    Ok(line)
                }
                Err(e) => Err(e),
            };
            let failed = result.is_err();
            if send.send(result).is_err() || failed {
                break;
            }
        }
    });
    receive
}

fn split_once<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line.windows(separator.len()).position(|w| w == separator)?;
    Some((&line[..at], &line[at + separator.len()..]))
}

fn parse_line(args: &ProduceArgs, line: &[u8]) -> anyhow::Result<Record> {
    let mut rest = line;
    let fixed = args.header.iter();
    let mut headers: Vec<(String, Option<Vec<u8>>)> = fixed
        .map(|(k, v)| (k.clone(), Some(v.clone().into_bytes())))
        .collect();
    if args.headers {
        let Some((head, tail)) = split_once(rest, b"\t") else {
            bail!("no tab after the headers");
        };
        rest = tail;
        for header in head.split(|b| *b == b',').filter(|h| !h.is_empty()) {
            let Some((name, value)) = split_once(header, b":") else {
                bail!("a header without ':'");
            };
            let name = String::from_utf8(name.to_vec()).context("the name of a header")?;
            headers.push((name, Some(value.to_vec())));
        }
    }
    let null = args.null_marker.as_deref().map(str::as_bytes);
    let field = |bytes: &[u8]| (Some(bytes) != null).then(|| bytes.to_vec());
    let (key, value) = match args.key_separator.as_deref().filter(|s| !s.is_empty()) {
        Some(separator) => match split_once(rest, separator.as_bytes()) {
            Some((key, value)) => (field(key), field(value)),
            None => bail!("no key separator '{separator}'"),
        },
        None => (None, field(rest)),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Record {
        timestamp: now.ok().and_then(|d| i64::try_from(d.as_millis()).ok()),
        headers,
        ..Record::new(key, value)
    })
}

/// Pending batches and, if the broker gave an id, the sequence of each partition: retries make no
/// duplicates.
struct Sender {
    topic: String,
    partitions: i32,
    fixed: Option<i32>,
    /// Where records without a key go until their batch is full.
    sticky: i32,
    options: ProduceOptions,
    sequences: BTreeMap<i32, i32>,
    pending: BTreeMap<i32, (Vec<Record>, usize)>,
    records_max: usize,
}

impl Sender {
    fn new(client: &mut Client, args: &ProduceArgs) -> anyhow::Result<Self> {
        let topic = args.topic.name().to_owned();
        let count = client.topic(&topic, true)?.partitions.len();
        let mut batch = BatchOptions {
            codec: args.compression,
            ..BatchOptions::default()
        };
        if args.acks == -1 {
            // Brokers that can't give an id are served without one.
            if let Ok((id, epoch)) = client.init_producer_id() {
                (batch.producer_id, batch.producer_epoch) = (id, epoch);
            }
        }
        Ok(Self {
            topic,
            partitions: i32::try_from(count).unwrap_or(i32::MAX).max(1),
            fixed: args.partition,
            sticky: 0,
            options: ProduceOptions {
                acks: args.acks,
                batch,
                ..ProduceOptions::default()
            },
            sequences: BTreeMap::new(),
            pending: BTreeMap::new(),
            records_max: args.batch_records as usize,
        })
    }

    fn add(&mut self, client: &mut Client, record: Record) -> anyhow::Result<()> {
        let partition = match (&self.fixed, &record.key) {
            (Some(partition), _) => *partition,
            (None, Some(key)) => (murmur2(key) & 0x7fff_ffff) as i32 % self.partitions,
            (None, None) => self.sticky,
        };
        let (records, bytes) = self.pending.entry(partition).or_default();
        let len = |b: &Option<Vec<u8>>| b.as_ref().map_or(0, Vec::len);
        *bytes += len(&record.key) + len(&record.value) + 32;
        records.push(record);
        if records.len() >= self.records_max || *bytes >= BATCH_BYTES {
            self.send(client, partition)?;
        }
        Ok(())
    }

    fn flush(&mut self, client: &mut Client) -> anyhow::Result<()> {
        let partitions: Vec<i32> = self.pending.keys().copied().collect();
        partitions
            .into_iter()
            .try_for_each(|p| self.send(client, p))
    }

    fn send(&mut self, client: &mut Client, partition: i32) -> anyhow::Result<()> {
        let Some((records, _)) = self.pending.remove(&partition) else {
            return Ok(());
        };
        let mut options = self.options;
        let sequence = self.sequences.entry(partition).or_insert(0);
        if options.batch.producer_id >= 0 {
            options.batch.base_sequence = *sequence;
            // Sequences wrap to 0 behind i32::MAX.
            *sequence = sequence.wrapping_add(records.len() as i32) & i32::MAX;
        }
        let topic = &self.topic;
        client
            .retrying(|client| client.produce(topic, partition, &records, &options))
            .with_context(|| format!("{} records not sent", records.len()))?;
        if partition == self.sticky {
            self.sticky = (self.sticky + 1) % self.partitions;
        }
        Ok(())
    }
}

/// Murmur2 with the seed of Kafka's Java client (`Utils.murmur2`), so that keys meet the partitions
/// they have there.
pub(crate) fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = chunk.iter().rev().fold(0, |k, b| k << 8 | u32::from(*b));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |k, b| k << 8 | u32::from(*b));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}
