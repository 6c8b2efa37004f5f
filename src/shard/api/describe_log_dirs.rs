//! DescribeLogDirs (key 35), versions 1 to 5 (KIP-113): size of each partition by log directory.
//! Topics null: all. A partition on its way to another directory is in both, there as a future one.
//! Directories that are offline have an error and nothing else. v2: flexible. v3: top-level error.
//! v4: total and usable bytes (KIP-827). v5: cordoned (KIP-1066), never.

use super::decode;
use super::fill::Scatter;
use crate::ops::{Gathering, Op, OpResult, PartitionOp};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, Space};
use flumen_wire::messages::describe_log_dirs_response as wire;
use flumen_wire::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, DescribeLogDirsRequest<'_>);
    let mut names: Vec<(Arc<str>, i32)> = Vec::new();
    match &message.topics {
        None => {
            for topic in shard.image.topics().values() {
                names.extend(
                    topic
                        .partitions
                        .iter()
                        .map(|p| (topic.name.clone(), p.index)),
                );
            }
        }
        Some(topics) => {
            for wanted in topics {
                if let Some(topic) = shard.image.topic(&wanted.topic) {
                    names.extend(wanted.partitions.iter().map(|n| (topic.name.clone(), *n)));
                }
            }
        }
    }
    drop(message);
    let mut scatter = Scatter::default();
    for (n, (topic, index)) in names.iter().enumerate() {
        if let Some(tp) = shard.partition_id(topic, *index) {
            scatter.add(shard, tp, (n, 0), PartitionOp::Size);
        }
    }
    let gathering = Dirs {
        places: scatter.places.iter().map(|p| p.0).collect(),
        names,
        dirs: BTreeMap::new(),
        space: Vec::new(),
    };
    scatter.ops.push((shard.id, Op::Space));
    shard.gather(turn, request.reply, Box::new(gathering), scatter.ops);
}

struct Dirs {
    names: Vec<(Arc<str>, i32)>,
    places: Vec<usize>,
    dirs: BTreeMap<usize, Topics>,
    space: Vec<(usize, Space)>,
}

/// Partitions by topic.
type Topics = BTreeMap<Arc<str>, Vec<wire::DescribeLogDirsPartition>>;

impl Dirs {
    fn add(&mut self, dir: usize, topic: &Arc<str>, line: wire::DescribeLogDirsPartition) {
        let topics = self.dirs.entry(dir).or_default();
        topics.entry(topic.clone()).or_default().push(line);
    }
}

impl Gathering for Dirs {
    fn take(&mut self, index: u32, result: OpResult) {
        let place = self.places.get(index as usize);
        let name = place.and_then(|n| self.names.get(*n)).cloned();
        match (name, result) {
            (Some((topic, index)), OpResult::Size(Ok(size))) => {
                let line = |bytes, lag, future| wire::DescribeLogDirsPartition {
                    partition_index: index,
                    partition_size: i64::try_from(bytes).unwrap_or(i64::MAX),
                    offset_lag: lag,
                    is_future_key: future,
                };
                self.add(size.dir, &topic, line(size.bytes, 0, false));
                if let Some((dir, bytes, lag)) = size.future {
                    self.add(dir, &topic, line(bytes, lag, true));
                }
            }
            (_, OpResult::Space(space)) => self.space = space,
            _ => {}
        }
    }

    fn finish(mut self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let mut results = Vec::new();
        for (n, dir) in shard.config.log_dirs.iter().enumerate() {
            let log_dir = Cow::Owned(dir.path.display().to_string());
            if !shard.dirs.is_online(n) {
                results.push(wire::DescribeLogDirsResult {
                    error_code: ErrorCode::KafkaStorageError.code(),
                    log_dir,
                    ..Default::default()
                });
                continue;
            }
            let topics = self.dirs.remove(&n).unwrap_or_default().into_iter();
            let space = self.space.iter().find(|(dir, _)| *dir == n);
            let known = |bytes: fn(&Space) -> u64| {
                space.map_or(-1, |(_, s)| i64::try_from(bytes(s)).unwrap_or(i64::MAX))
            };
            results.push(wire::DescribeLogDirsResult {
                log_dir,
                topics: topics
                    .map(|(name, partitions)| topic_line(&name, partitions))
                    .collect(),
                total_bytes: known(|s| s.total),
                usable_bytes: known(|s| s.usable),
                ..Default::default()
            });
        }
        let response = DescribeLogDirsResponse {
            results,
            ..Default::default()
        };
        shard.reply(turn, reply, &response);
    }
}

fn topic_line(
    name: &str,
    partitions: Vec<wire::DescribeLogDirsPartition>,
) -> wire::DescribeLogDirsTopic<'static> {
    wire::DescribeLogDirsTopic {
        name: Cow::Owned(name.to_owned()),
        partitions,
    }
}
