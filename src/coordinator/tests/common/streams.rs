//! Requests of the streams protocol.

use super::*;
use flumen_coordinator::StreamsHeartbeat;
use flumen_wire::messages::streams_group_describe_response::DescribedGroup;
use flumen_wire::messages::streams_group_heartbeat_request::{
    CopartitionGroup, Subtopology, TaskIds, TopicInfo, Topology,
};

pub type Beat<'a> = StreamsGroupHeartbeatRequest<'a>;
pub type Beaten = StreamsGroupHeartbeatResponse<'static>;
/// Partitions by subtopology.
pub type TaskList<'a> = &'a [(&'a str, &'a [i32])];

pub const STALE_TOPOLOGY: i8 = 0;
pub const MISSING_SOURCE_TOPICS: i8 = 1;
pub const INCORRECTLY_PARTITIONED_TOPICS: i8 = 2;
pub const MISSING_INTERNAL_TOPICS: i8 = 3;
pub const SHUTDOWN_APPLICATION: i8 = 4;
pub const ASSIGNMENT_DELAYED: i8 = 5;

impl World {
    /// A heartbeat of version 0.
    pub fn stream(&mut self, request: &Beat<'_>) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .streams_group_heartbeat(self.now, ctx(0), token, request, &mut out);
        self.drain(out);
        token
    }

    pub fn streamed(&mut self, token: ReplyToken) -> StreamsHeartbeat {
        match self.replies.remove(&token) {
            Some(Reply::StreamsGroupHeartbeat(beat)) => *beat,
            other => panic!("no answer to StreamsGroupHeartbeat: {other:?}"),
        }
    }

    /// A heartbeat and its answer; topics that the group wants are not created.
    pub fn ask_streams(&mut self, request: &Beat<'_>) -> Beaten {
        let token = self.stream(request);
        self.streamed(token).response
    }

    pub fn describe_streams(&self, group: &str) -> DescribedGroup<'static> {
        self.coordinator.describe_streams_group(group)
    }

    /// Creates, changes or (0 partitions) deletes a topic.
    pub fn put_topic(&mut self, name: &str, partitions: i32) {
        self.change_metadata(|m| {
            let mut id = [0u8; 16];
            let bytes = name.bytes().chain([m.version as u8]);
            id.iter_mut().zip(bytes).for_each(|(to, b)| *to = b);
            let id = m.topics.remove(name).map_or(Uuid::from_bytes(id), |t| t.0);
            if partitions > 0 {
                m.topics.insert(name.to_owned(), (id, partitions));
            }
        });
    }
}

/// A topic that the broker makes.
pub fn internal(name: &str, partitions: i32) -> TopicInfo<'_> {
    TopicInfo {
        name: name.into(),
        partitions,
        ..Default::default()
    }
}

/// A subtopology that reads these topics and keeps state in `changelog`, if that is named.
pub fn reads<'a>(id: &'a str, sources: &[&'a str], changelog: &'a str) -> Subtopology<'a> {
    let changelog = Some(changelog).filter(|c| !c.is_empty());
    Subtopology {
        subtopology_id: id.into(),
        source_topics: sources.iter().map(|t| (*t).into()).collect(),
        state_changelog_topics: changelog.into_iter().map(|c| internal(c, 0)).collect(),
        ..Default::default()
    }
}

/// Subtopology `0` reads t0, without state.
pub fn simple() -> Vec<Subtopology<'static>> {
    vec![reads("0", &["t0"], "")]
}

/// All sources of a subtopology are joined.
pub fn joined(mut subtopology: Subtopology<'_>) -> Subtopology<'_> {
    let (sources, made) = (
        subtopology.source_topics.len() as i16,
        subtopology.repartition_source_topics.len() as i16,
    );
    subtopology.copartition_groups = vec![CopartitionGroup {
        source_topics: (0..sources).collect(),
        repartition_source_topics: (0..made).collect(),
        ..Default::default()
    }];
    subtopology
}

/// The first heartbeat of a member, a thread of a process of its own.
pub fn join_streams<'a>(
    group: &'a str,
    member: &'a str,
    subtopologies: Vec<Subtopology<'a>>,
) -> Beat<'a> {
    Beat {
        group_id: group.into(),
        member_id: member.into(),
        rebalance_timeout_ms: 60_000,
        topology: Some(Topology {
            epoch: 0,
            subtopologies,
        }),
        active_tasks: Some(Vec::new()),
        standby_tasks: Some(Vec::new()),
        warmup_tasks: Some(Vec::new()),
        process_id: Some(format!("process of {member}").into()),
        client_tags: Some(Vec::new()),
        ..Default::default()
    }
}

/// A heartbeat that changes nothing.
pub fn streams_beat<'a>(group: &'a str, member: &'a str, epoch: i32) -> Beat<'a> {
    Beat {
        group_id: group.into(),
        member_id: member.into(),
        member_epoch: epoch,
        ..Default::default()
    }
}

fn ids<'a>(tasks: TaskList<'a>) -> Option<Vec<TaskIds<'a>>> {
    let ids = tasks.iter().map(|(subtopology, partitions)| TaskIds {
        subtopology_id: (*subtopology).into(),
        partitions: partitions.to_vec(),
    });
    Some(ids.collect())
}

/// A heartbeat that says what the member has.
pub fn running<'a>(
    group: &'a str,
    member: &'a str,
    epoch: i32,
    active: TaskList<'a>,
    standby: TaskList<'a>,
) -> Beat<'a> {
    Beat {
        active_tasks: ids(active),
        standby_tasks: ids(standby),
        warmup_tasks: Some(Vec::new()),
        ..streams_beat(group, member, epoch)
    }
}

pub fn error_of(response: &Beaten) -> ErrorCode {
    ErrorCode::from_i16(response.error_code).unwrap()
}

/// The codes of an answer's statuses.
pub fn statuses(response: &Beaten) -> Vec<i8> {
    let all = response.status.iter().flatten();
    all.map(|s| s.status_code).collect()
}

/// The active tasks that an answer gives.
pub fn active(response: &Beaten) -> Option<Vec<(String, Vec<i32>)>> {
    let all = response.active_tasks.as_ref()?.iter();
    Some(
        all.map(|t| (t.subtopology_id.to_string(), t.partitions.clone()))
            .collect(),
    )
}

/// The standby tasks that an answer gives.
pub fn standby(response: &Beaten) -> Option<Vec<(String, Vec<i32>)>> {
    let all = response.standby_tasks.as_ref()?.iter();
    Some(
        all.map(|t| (t.subtopology_id.to_string(), t.partitions.clone()))
            .collect(),
    )
}
