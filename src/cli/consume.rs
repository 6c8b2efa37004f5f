//! `flumen consume`.

use super::{Cluster, Topic, output, time};
use clap::Args;
use flumen_client::{Client, EARLIEST, Fetched, GroupConsumer, GroupOffsets, LATEST, Record};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{BufWriter, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    topic: Topic,
    /// Start with the oldest records (of a group: where it has committed nothing), not the next.
    #[arg(long)]
    from_beginning: bool,
    /// Read as a member of this group, and commit what was printed.
    #[arg(long, short = 'g', value_name = "GROUP", conflicts_with = "partition")]
    group: Option<String>,
    /// Read this partition only.
    #[arg(long, short = 'p', value_name = "P")]
    partition: Option<i32>,
    /// Start here: an offset, earliest or latest.
    #[arg(long, short = 'o', value_name = "OFFSET", value_parser = parse_offset,
          requires = "partition", conflicts_with = "from_beginning")]
    offset: Option<i64>,
    /// Stop after so many records.
    #[arg(long, short = 'n', value_name = "N")]
    max_messages: Option<u64>,
    /// Stop when no record came for so long.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Print the key before the value.
    #[arg(long)]
    print_key: bool,
    /// Print the headers before the key.
    #[arg(long)]
    print_headers: bool,
    /// Print the partition.
    #[arg(long)]
    print_partition: bool,
    /// Print the offset.
    #[arg(long)]
    print_offset: bool,
    /// Print the timestamp.
    #[arg(long)]
    print_timestamp: bool,
    /// Between what is printed of a record.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "\t",
        hide_default_value = true
    )]
    key_separator: String,
    /// Print each record as one line of JSON with everything in it (bytes that are not text go into
    /// key_hex or value_hex).
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

const POLL_MS: i32 = 500;
const COMMIT_EVERY: Duration = Duration::from_secs(5);

fn parse_offset(text: &str) -> Result<i64, String> {
    match text {
        "earliest" => Ok(EARLIEST),
        "latest" => Ok(LATEST),
        _ => match text.parse() {
            Ok(offset) if offset >= 0 => Ok(offset),
            _ => Err("expected an offset, earliest or latest".to_owned()),
        },
    }
}

/// What is asked of a reader: the fetched partitions, at most `wait_ms` later.
trait Source {
    fn poll(&mut self, client: &mut Client, wait_ms: i32) -> anyhow::Result<Vec<Fetched>>;
    /// These next offsets were printed.
    fn printed(&mut self, client: &mut Client, offsets: &GroupOffsets) -> anyhow::Result<()>;
    fn close(&mut self, client: &mut Client) -> anyhow::Result<()>;
}

/// Prints records until told to stop.
pub(crate) fn run(args: &ConsumeArgs) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut client = args.cluster.connect()?;
    let mut source: Box<dyn Source> = match &args.group {
        Some(group) => Box::new(GroupConsumer::new(
            group,
            args.topic.name(),
            args.from_beginning,
        )),
        None => Box::new(Assigned::new(&mut client, args)?),
    };
    let mut printer = Printer {
        args,
        out: BufWriter::new(std::io::stdout()),
        count: 0,
        offsets: GroupOffsets::new(),
    };
    let result = pump(&mut client, &mut *source, &mut printer, &stop);
    let committed = source.printed(&mut client, &printer.offsets);
    let closed = source.close(&mut client);
    let _ = writeln!(std::io::stderr(), "{} records", printer.count);
    result.and(committed).and(closed)
}

fn pump(
    client: &mut Client,
    source: &mut dyn Source,
    printer: &mut Printer<'_>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let idle_max = printer.args.timeout_ms.map(Duration::from_millis);
    let (mut last_record, mut last_commit) = (Instant::now(), Instant::now());
    while !stop.load(Ordering::Relaxed) && !printer.is_done() {
        let left = idle_max.map(|max| max.saturating_sub(last_record.elapsed()));
        if left == Some(Duration::ZERO) {
            break;
        }
        let left_ms = left.map_or(u128::MAX, |l| l.as_millis() + 1);
        let wait = i32::try_from(left_ms).unwrap_or(POLL_MS).min(POLL_MS);
        for fetched in source.poll(client, wait)? {
            if !fetched.records.is_empty() {
                last_record = Instant::now();
            }
            printer.print(&fetched)?;
        }
        output::written(printer.out.flush())?;
        if last_commit.elapsed() >= COMMIT_EVERY {
            last_commit = Instant::now();
            source.printed(client, &std::mem::take(&mut printer.offsets))?;
        }
    }
    Ok(())
}

impl Source for GroupConsumer {
    fn poll(&mut self, client: &mut Client, wait_ms: i32) -> anyhow::Result<Vec<Fetched>> {
        Ok(client.retrying(|client| Self::poll(self, client, wait_ms))?)
    }

    fn printed(&mut self, client: &mut Client, offsets: &GroupOffsets) -> anyhow::Result<()> {
        match self.commit_offsets(client, offsets) {
            // The group moved on: another member prints these records again.
            Err(e) if matches!(e.code(), Some(22 | 25 | 27)) => Ok(()),
            result => Ok(result?),
        }
    }

    fn close(&mut self, client: &mut Client) -> anyhow::Result<()> {
        Ok(self.leave(client)?)
    }
}

/// Partitions read without a group.
struct Assigned {
    topic: String,
    positions: BTreeMap<i32, i64>,
}

impl Assigned {
    fn new(client: &mut Client, args: &ConsumeArgs) -> anyhow::Result<Self> {
        let topic = args.topic.name().to_owned();
        let info = client.topic(&topic, false)?;
        let mut partitions: Vec<i32> = info.partitions.iter().map(|p| p.index).collect();
        if let Some(wanted) = args.partition {
            partitions.retain(|p| *p == wanted);
            let there = !partitions.is_empty();
            anyhow::ensure!(there, "topic '{topic}' has no partition {wanted}");
        }
        let start = match args.offset {
            Some(offset) => offset,
            None if args.from_beginning => EARLIEST,
            None => LATEST,
        };
        let positions = if start >= 0 {
            partitions.into_iter().map(|p| (p, start)).collect()
        } else {
            let wanted: Vec<(i32, i64)> = partitions.into_iter().map(|p| (p, start)).collect();
            let listed = client.retrying(|client| client.list_offsets(&topic, &wanted))?;
            listed.into_iter().map(|(p, l)| (p, l.offset)).collect()
        };
        Ok(Self { topic, positions })
    }
}

impl Source for Assigned {
    fn poll(&mut self, client: &mut Client, wait_ms: i32) -> anyhow::Result<Vec<Fetched>> {
        let (topic, positions) = (&self.topic, &self.positions);
        let all = client.retrying(|client| {
            let mut by_leader: BTreeMap<i32, Vec<(String, i32, i64)>> = BTreeMap::new();
            for (partition, offset) in positions {
                let leader = client.leader(topic, *partition)?;
                let wanted = (topic.clone(), *partition, *offset);
                by_leader.entry(leader).or_default().push(wanted);
            }
            let mut all = Vec::new();
            for (leader, partitions) in by_leader {
                all.extend(client.fetch(leader, &partitions, wait_ms)?);
            }
            let moved = all.iter().any(|f| matches!(f.error_code, 3 | 6));
            if moved {
                client.topic(topic, false)?;
            }
            Ok(all)
        })?;
        for fetched in &all {
            let partition = fetched.partition;
            if !matches!(fetched.error_code, 0 | 3 | 5 | 6) {
                anyhow::bail!(
                    "{}-{partition}: {}",
                    self.topic,
                    flumen_client::error_name(fetched.error_code)
                );
            }
            if let Some(last) = fetched.records.last() {
                self.positions.insert(partition, last.offset + 1);
            }
        }
        Ok(all)
    }

    fn printed(&mut self, _: &mut Client, _: &GroupOffsets) -> anyhow::Result<()> {
        Ok(())
    }

    fn close(&mut self, _: &mut Client) -> anyhow::Result<()> {
        Ok(())
    }
}

struct Printer<'a> {
    args: &'a ConsumeArgs,
    out: BufWriter<Stdout>,
    count: u64,
    /// Next offsets behind what was printed since the last commit.
    offsets: GroupOffsets,
}

impl Printer<'_> {
    fn is_done(&self) -> bool {
        self.args.max_messages.is_some_and(|max| self.count >= max)
    }

    fn print(&mut self, fetched: &Fetched) -> anyhow::Result<()> {
        for record in &fetched.records {
            if self.is_done() {
                break;
            }
            let place = (fetched.topic.clone(), fetched.partition);
            self.offsets.insert(place, record.offset + 1);
            if record.control {
                continue;
            }
            self.count += 1;
            if self.args.json {
                let line = as_json(fetched, record);
                let line = serde_json::to_vec(&line)?;
                output::written(self.out.write_all(&line))?;
            } else {
                output::written(self.print_text(fetched, record))?;
            }
            output::written(self.out.write_all(b"\n"))?;
        }
        Ok(())
    }

    fn print_text(&mut self, fetched: &Fetched, record: &Record) -> std::io::Result<()> {
        let args = self.args;
        let mut fields: Vec<Vec<u8>> = Vec::new();
        if args.print_timestamp {
            let stamp = record.timestamp.unwrap_or(-1);
            fields.push(time::format_millis(stamp).into_bytes());
        }
        if args.print_partition {
            fields.push(fetched.partition.to_string().into_bytes());
        }
        if args.print_offset {
            fields.push(record.offset.to_string().into_bytes());
        }
        let or_null = |b: &Option<Vec<u8>>| b.clone().unwrap_or_else(|| b"null".to_vec());
        if args.print_headers {
            let header = |(name, value): &(String, Option<Vec<u8>>)| {
                [name.as_bytes(), b":", &or_null(value)].concat()
            };
            let headers: Vec<Vec<u8>> = record.headers.iter().map(header).collect();
            fields.push(headers.join(&b","[..]));
        }
        if args.print_key {
            fields.push(or_null(&record.key));
        }
        fields.push(or_null(&record.value));
        self.out
            .write_all(&fields.join(args.key_separator.as_bytes()))
    }
}

fn as_json(fetched: &Fetched, record: &Record) -> Value {
    let mut line = Map::new();
    line.insert("topic".into(), json!(fetched.topic));
    line.insert("partition".into(), json!(fetched.partition));
    line.insert("offset".into(), json!(record.offset));
    line.insert("timestamp".into(), json!(record.timestamp));
    put(&mut line, "key", record.key.as_deref());
    put(&mut line, "value", record.value.as_deref());
    let headers = record.headers.iter().map(|(name, value)| {
        let mut header = Map::from_iter([("name".to_owned(), json!(name))]);
        put(&mut header, "value", value.as_deref());
        Value::Object(header)
    });
    line.insert("headers".into(), headers.collect());
    Value::Object(line)
}

/// Text as it is, other bytes as hex under `{name}_hex`.
fn put(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else {
        object.insert(name.to_owned(), Value::Null);
        return;
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            object.insert(format!("{name}_hex"), json!(hex))
        }
    };
}
