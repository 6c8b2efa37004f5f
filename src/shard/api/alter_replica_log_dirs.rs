//! AlterReplicaLogDirs (key 34), versions 1 to 2 (KIP-113): partitions go to other log directories
//! of this broker, while they serve (`relocate.rs`). The answer says that a move has begun;
//! DescribeLogDirs shows how far it is. To the directory where a partition is: ends a move of it.
//! v2: flexible.

use super::decode;
use super::fill::Scatter;
use crate::ops::{OpResult, PartitionOp};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_wire::messages::alter_replica_log_dirs_response as wire;
use flumen_wire::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse};
use std::borrow::Cow;
use std::path::Path;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, AlterReplicaLogDirsRequest<'_>);
    let mut scatter = Scatter::default();
    let mut results = Vec::new();
    for wanted in &message.dirs {
        let dir = shard.log_dir_at(Path::new(&*wanted.path));
        for topic in &wanted.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for index in &topic.partitions {
                let place = (results.len(), partitions.len());
                let error = match (dir, shard.known_partition(&topic.name, *index)) {
                    (Err(error), _) | (Ok(_), Err(error)) => error,
                    (Ok(dir), Ok(tp)) => {
                        scatter.add(shard, tp, place, PartitionOp::MoveTo(dir));
                        ErrorCode::None
                    }
                };
                partitions.push(wire::AlterReplicaLogDirPartitionResult {
                    partition_index: *index,
                    error_code: error.code(),
                });
            }
            results.push(wire::AlterReplicaLogDirTopicResult {
                topic_name: Cow::Owned(topic.name.to_string()),
                partitions,
            });
        }
    }
    drop(message);
    let response = AlterReplicaLogDirsResponse {
        results,
        ..Default::default()
    };
    scatter.fill(
        shard,
        turn,
        request.reply,
        response,
        |response, at, result| {
            let topic = response.results.get_mut(at.0);
            let partition = topic.and_then(|t| t.partitions.get_mut(at.1));
            if let (Some(partition), OpResult::MoveTo(error)) = (partition, result) {
                // That the partition is on its way to another shard, as Kafka says it here.
                let error = match error {
                    ErrorCode::NotLeaderOrFollower => ErrorCode::ReplicaNotAvailable,
                    error => error,
                };
                partition.error_code = error.code();
            }
        },
    );
}

impl Shard {
    /// The usable log directory with this path.
    fn log_dir_at(&self, path: &Path) -> Result<usize, ErrorCode> {
        let mut dirs = self.config.log_dirs.iter();
        match dirs.position(|d| d.path == path) {
            None => Err(ErrorCode::LogDirNotFound),
            Some(n) if !self.dirs.is_online(n) => Err(ErrorCode::KafkaStorageError),
            Some(n) => Ok(n),
        }
    }
}
