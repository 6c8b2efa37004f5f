//! DescribeLogDirs (key 35), versions 1 to 5 (KIP-113): size of each partition by log directory.
//! Topics null: all. v2: flexible. v3: top-level error. v4: total and usable bytes (KIP-827), not
//! known here (-1). v5: cordoned (KIP-1066), never.

use super::decode;
use super::fill::Scatter;
use crate::ops::{Gathering, OpResult, PartitionOp};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
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
    };
    shard.gather(turn, request.reply, Box::new(gathering), scatter.ops);
}

struct Dirs {
    names: Vec<(Arc<str>, i32)>,
    places: Vec<usize>,
    dirs: BTreeMap<usize, Topics>,
}

/// Partitions and their bytes, by topic.
type Topics = BTreeMap<Arc<str>, Vec<(i32, u64)>>;

impl Gathering for Dirs {
    fn take(&mut self, index: u32, result: OpResult) {
        let place = self.places.get(index as usize);
        let name = place.and_then(|n| self.names.get(*n));
        if let (Some((topic, index)), OpResult::Size(Ok((dir, bytes)))) = (name, result) {
            let topics = self.dirs.entry(dir).or_default();
            topics
                .entry(topic.clone())
                .or_default()
                .push((*index, bytes));
        }
    }

    fn finish(mut self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let mut results = Vec::new();
        for (n, dir) in shard.config.log_dirs.iter().enumerate() {
            let topics = self.dirs.remove(&n).unwrap_or_default().into_iter();
            results.push(wire::DescribeLogDirsResult {
                log_dir: Cow::Owned(dir.path.display().to_string()),
                topics: topics
                    .map(|(name, partitions)| topic_line(&name, partitions))
                    .collect(),
                total_bytes: -1,
                usable_bytes: -1,
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

fn topic_line(name: &str, partitions: Vec<(i32, u64)>) -> wire::DescribeLogDirsTopic<'static> {
    let line = |(partition_index, bytes)| wire::DescribeLogDirsPartition {
        partition_index,
        partition_size: i64::try_from(bytes).unwrap_or(i64::MAX),
        offset_lag: 0,
        is_future_key: false,
    };
    wire::DescribeLogDirsTopic {
        name: Cow::Owned(name.to_owned()),
        partitions: partitions.into_iter().map(line).collect(),
    }
}
