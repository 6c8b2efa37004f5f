//! What the suite itself asks of a broker: topics that go away, and the first acknowledged produce.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kafka_protocol::messages::{DeleteTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::process::Stop;
use crate::batch::batch;
use crate::frames;
use crate::setup::{Admin, resolve};

const DELETE_TOPICS_VERSION: i16 = 3;
const TOPIC_UNKNOWN: i16 = 3;

/// Deletes topics and, where `data` is at hand, waits until their directories are gone: what they
/// hold must neither fill the file system nor be deleted during the next measurement.
///
/// # Errors
/// The broker refused, or the directories stay.
pub fn delete_topics(
    address: &str,
    topics: &[&str],
    data: Option<&Path>,
    stop: &Stop,
) -> Result<()> {
    let mut admin = Admin::connect(resolve(address)?)?;
    let names = topics
        .iter()
        .map(|t| TopicName(StrBytes::from_string((*t).to_owned())));
    let request = DeleteTopicsRequest::default()
        .with_topic_names(names.collect())
        .with_timeout_ms(30_000);
    let answer = admin.call(&request, DELETE_TOPICS_VERSION)?;
    for topic in answer.responses {
        let code = topic.error_code;
        ensure!(
            code == 0 || code == TOPIC_UNKNOWN,
            "deleting {:?}: error {code}",
            topic.name
        );
    }
    let Some(data) = data else { return Ok(()) };
    let begin = Instant::now();
    while topics.iter().any(|t| is_there(data, t)) {
        if begin.elapsed() > Duration::from_secs(60) {
            bail!("the directories of {topics:?} stay");
        }
        stop.sleep(Duration::from_millis(50))?;
    }
    Ok(())
}

/// Whether `data` has a directory of a partition of `topic`, also one waiting to be removed.
fn is_there(data: &Path, topic: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(data) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let rest = name
            .to_str()
            .and_then(|n| n.strip_prefix(topic)?.strip_prefix('-'));
        rest.is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Creates `topic` where `create` asks for it, and produces one record to its last partition,
/// again and again until that is acknowledged. Returns when it was.
///
/// # Errors
/// Not within two minutes.
pub fn first_produce(
    address: &str,
    (topic, partitions): (&str, i32),
    create: bool,
    stop: &Stop,
) -> Result<Instant> {
    let made = batch(1, 100, 1_700_000_000_000)?;
    let frame = frames::produce(topic, &[partitions - 1], &made.bytes, -1)?;
    let address = resolve(address)?;
    let begin = Instant::now();
    loop {
        let attempt = || -> Result<()> {
            let mut admin = Admin::connect(address)?;
            if create {
                admin.create_topic(topic, partitions, &[])?;
            }
            frames::check_produced(&admin.exchange(&frame)?)
        };
        match attempt() {
            Ok(()) => return Ok(Instant::now()),
            Err(error) if begin.elapsed() > Duration::from_secs(120) => {
                return Err(error).context("no produce was acknowledged");
            }
            Err(_) => {}
        }
        stop.check()?;
        std::thread::sleep(Duration::from_millis(1));
    }
}
