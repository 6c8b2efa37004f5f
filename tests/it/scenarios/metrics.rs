//! The metrics and health endpoint: text that a strict parser of Prometheus' format accepts, with
//! the families that operators need.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flumen_it::{Broker, Kind, Options, Shape, raw, wait};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest};
use kafka_protocol::protocol::StrBytes;

scenarios!(metrics_are_valid_and_complete);

type Labels = BTreeMap<String, String>;

/// Status line and body of a GET.
pub(super) fn get(address: &str, path: &str) -> Result<(String, String)> {
    let mut http = TcpStream::connect(address)?;
    http.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(http, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    http.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.lines().next().unwrap_or_default().to_owned();
    Ok((status, body.to_owned()))
}

/// `name{label="value",...}` with escapes; what stands behind it is given back.
fn sample_of(line: &str) -> Result<(String, Labels, &str)> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").context("a label")?;
            ensure!(is_name(label, false), "label {label:?}");
            let (mut value, mut escaped, mut used) = (String::new(), false, None);
            for (at, c) in after.char_indices() {
                match (escaped, c) {
                    (true, 'n') => value.push('\n'),
                    (true, '\\' | '"') => value.push(c),
                    (true, _) => bail!("escape of {c:?}"),
                    (false, '\\') => {}
                    (false, '"') => {
                        used = Some(at);
                        break;
                    }
                    (false, _) => value.push(c),
                }
                escaped = !escaped && c == '\\';
            }
            let after = &after[used.context("no closing quote")? + 1..];
            ensure!(
                labels.insert(label.to_owned(), value).is_none(),
                "{label} twice"
            );
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = after.strip_prefix('}').context("no closing brace")?;
                    break;
                }
            }
        }
    }
    Ok((
        name.to_owned(),
        labels,
        rest.strip_prefix(' ').context("no space")?,
    ))
}

fn is_name(name: &str, colons: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    !name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Series by name and labels, of a text that obeys format 0.0.4 strictly.
fn parse(text: &str) -> Result<BTreeMap<(String, Labels), f64>> {
    ensure!(text.ends_with('\n'), "no line feed at the end");
    let mut seen = BTreeSet::new();
    let mut series = BTreeMap::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in text.lines() {
        let at = || format!("line {line:?}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').with_context(at)?;
            ensure!(!help.is_empty() && is_name(name, true), "{}", at());
            ensure!(seen.insert(name.to_owned()), "{name} is in two places");
            (family, kind) = (name.to_owned(), String::new());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, what) = rest.split_once(' ').with_context(at)?;
            ensure!(name == family && kind.is_empty(), "{}", at());
            ensure!(
                ["counter", "gauge", "histogram"].contains(&what),
                "{}",
                at()
            );
            what.clone_into(&mut kind);
        } else {
            let (name, labels, value) = sample_of(line).with_context(at)?;
            let suffix = name.strip_prefix(&family).with_context(at)?;
            let fits = match kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                "counter" => suffix.is_empty() && name.ends_with("_total"),
                "gauge" => suffix.is_empty(),
                _ => false,
            };
            ensure!(fits, "{}: not of {kind} {family}", at());
            let value: f64 = value.parse().with_context(at)?;
            ensure!(value.is_finite() && value >= 0.0, "{}", at());
            ensure!(
                series.insert((name, labels), value).is_none(),
                "twice: {}",
                at()
            );
        }
    }
    check_histograms(&series)?;
    Ok(series)
}

/// Buckets grow with their bounds, and the last is the count.
fn check_histograms(series: &BTreeMap<(String, Labels), f64>) -> Result<()> {
    let mut all: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
    for ((name, labels), value) in series {
        if let Some(family) = name.strip_suffix("_bucket") {
            let mut labels = labels.clone();
            let bound = labels.remove("le").context("a bucket without le")?;
            let bound = match bound.as_str() {
                "+Inf" => f64::INFINITY,
                other => other.parse()?,
            };
            let key = (family.to_owned(), labels);
            all.entry(key).or_default().push((bound, *value));
        }
    }
    for ((family, labels), mut buckets) in all {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let grows = buckets.is_sorted_by(|a, b| a.1 <= b.1);
        let last = buckets.last().copied().unwrap_or_default();
        let count = series.get(&(format!("{family}_count"), labels.clone()));
        ensure!(
            grows && last.0.is_infinite() && count == Some(&last.1),
            "{family} {labels:?}: {buckets:?}, count {count:?}"
        );
        let sum = series.get(&(format!("{family}_sum"), labels));
        ensure!(sum.is_some(), "{family} has no sum");
    }
    Ok(())
}

/// The sum over all series of a name with this label (`""` is any).
fn total(series: &BTreeMap<(String, Labels), f64>, name: &str, label: (&str, &str)) -> Option<f64> {
    let fits =
        |labels: &Labels| label.0.is_empty() || labels.get(label.0).is_some_and(|v| v == label.1);
    let found = series
        .iter()
        .filter(|((n, labels), _)| n == name && fits(labels));
    let values: Vec<f64> = found.map(|(_, v)| *v).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn metrics_are_valid_and_complete(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    if broker.kind() == Kind::Kafka {
        return Ok(()); // has no such endpoint
    }
    let address = broker.metrics_address();
    let mut client = broker.raw()?;
    client.create_topic("seen", 8)?;
    let batch = raw::batch(&[Bytes::from(vec![b'x'; 1000])])?;
    for p in 0..8 {
        client.produce("seen", &[(p, batch.clone())])?;
    }
    let group = "quo\"te\\and\nline";
    let partitions = (0..8).map(|p| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(p)
            .with_committed_offset(i64::from(p % 2))
    });
    let topic = OffsetCommitRequestTopic::default()
        .with_name(raw::name("seen"))
        .with_partitions(partitions.collect());
    let commit = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    wait::until("the commit", Duration::from_secs(20), || {
        let find = kafka_protocol::messages::FindCoordinatorRequest::default()
            .with_coordinator_keys(vec![StrBytes::from_static_str(group)]);
        client.call(&find, 4)?; // makes the topic of the groups
        let answer = client.call(&commit, 8)?;
        let mut codes = answer.topics.iter().flat_map(|t| &t.partitions);
        Ok(codes.all(|p| p.error_code == 0).then_some(()))
    })?;

    let (status, body) = get(&address, "/metrics")?;
    ensure!(status.contains(" 200 "), "{status}");
    let series = parse(&body).with_context(|| body.clone())?;
    let sum = |name: &str, label: (&str, &str)| {
        total(&series, name, label).with_context(|| format!("no {name} {label:?} in\n{body}"))
    };
    let any = ("", "");
    ensure!(sum("flumen_connections", any)? == 1.0);
    ensure!(sum("flumen_bytes_in_total", any)? > 8000.0);
    ensure!(sum("flumen_bytes_out_total", any)? > 100.0);
    ensure!(sum("flumen_log_size_bytes", ("topic", "seen"))? > 8000.0);
    ensure!(sum("flumen_topic_partitions", ("topic", "seen"))? == 8.0);
    ensure!(sum("flumen_request_duration_seconds_count", ("api", "Produce"))? == 8.0);
    ensure!(sum("flumen_groups", ("state", "Empty"))? == 1.0);
    // Committed 0, 1, 0, 1 ... of one record each, wherever the partitions are.
    ensure!(sum("flumen_group_lag", ("group", group))? == 4.0);
    for name in [
        "flumen_requests_in_flight",
        "flumen_mesh_waiting",
        "flumen_jobs_pending",
        "flumen_ring_operations",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        sum(name, any)?;
    }
    for (path, code) in [("/healthz", "200"), ("/readyz", "200"), ("/nothing", "404")] {
        let (status, _) = get(&address, path)?;
        ensure!(status.contains(&format!(" {code} ")), "{path}: {status}");
    }
    Ok(())
}
