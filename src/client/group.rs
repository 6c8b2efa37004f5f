//! A member of a classic consumer group: the range assignor, committed offsets, heartbeats between
//! polls.

use crate::admin::decode_assignment;
use crate::client::{Client, text, topic_name};
use crate::{ClientError, EARLIEST, Fetched, LATEST};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SESSION_TIMEOUT_MS: i32 = 45_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
const MEMBER_ID_REQUIRED: i16 = 79;
const REBALANCE_IN_PROGRESS: i16 = 27;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const OFFSET_OUT_OF_RANGE: i16 = 1;

/// A consumer in a group. Polls fetch, heartbeat and rejoin; leaving is explicit.
#[derive(Debug)]
pub struct GroupConsumer {
    group: String,
    topic: String,
    from_beginning: bool,
    member_id: String,
    generation: i32,
    joined: bool,
    /// Next offset to read, by partition of ours.
    positions: BTreeMap<i32, i64>,
    last_heartbeat: Instant,
}

impl GroupConsumer {
    /// A member-to-be: the first poll joins. `from_beginning` is where it starts where nothing is
    /// committed.
    pub fn new(group: &str, topic: &str, from_beginning: bool) -> Self {
        Self {
            group: group.to_owned(),
            topic: topic.to_owned(),
            from_beginning,
            member_id: String::new(),
            generation: -1,
            joined: false,
            positions: BTreeMap::new(),
            last_heartbeat: Instant::now(),
        }
    }

    /// The partitions that it owns now.
    pub fn assignment(&self) -> Vec<i32> {
        self.positions.keys().copied().collect()
    }

    /// Joins if need be, keeps the membership alive, and fetches once, waiting up to `wait_ms`.
    /// When the group rebalances, everything from polls before this one is committed first.
    pub fn poll(&mut self, client: &mut Client, wait_ms: i32) -> Result<Vec<Fetched>, ClientError> {
        if !self.joined {
            self.join(client)?;
        }
        if self.last_heartbeat.elapsed() >= HEARTBEAT_EVERY {
            match self.heartbeat(client) {
                Err(e) if e.code() == Some(REBALANCE_IN_PROGRESS) => {
                    // What was polled before has been dealt with: others go on behind it.
                    let _ = self.commit(client);
                    self.joined = false;
                    return Ok(Vec::new());
                }
                Err(e) if self.must_rejoin(&e) => return Ok(Vec::new()),
                other => other?,
            }
        }
        let mut by_leader: BTreeMap<i32, Vec<(String, i32, i64)>> = BTreeMap::new();
        for (partition, offset) in &self.positions {
            let leader = client.leader(&self.topic, *partition)?;
            let wanted = (self.topic.clone(), *partition, *offset);
            by_leader.entry(leader).or_default().push(wanted);
        }
        if by_leader.is_empty() {
            // Nothing is ours: wait as a fetch would.
            std::thread::sleep(Duration::from_millis(
                wait_ms.clamp(0, 500).unsigned_abs().into(),
            ));
        }
        let mut all = Vec::new();
        for (leader, partitions) in by_leader {
            for fetched in client.fetch(leader, &partitions, wait_ms)? {
                self.advance(client, &fetched)?;
                all.push(fetched);
            }
        }
        Ok(all)
    }

    /// Commits what was polled so far.
    pub fn commit(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let topic = &self.topic;
        let offsets = self
            .positions
            .iter()
            .map(|(p, o)| ((topic.clone(), *p), *o));
        let offsets = offsets.collect();
        self.commit_offsets(client, &offsets)
    }

    /// Commits these next offsets by topic and partition.
    pub fn commit_offsets(
        &mut self,
        client: &mut Client,
        offsets: &crate::admin::GroupOffsets,
    ) -> Result<(), ClientError> {
        if !self.joined || offsets.is_empty() {
            return Ok(());
        }
        client.commit_as(&self.group, self.generation, &self.member_id, offsets)
    }

    /// Leaves the group, so that others need not wait for the session to time out.
    pub fn leave(&mut self, client: &mut Client) -> Result<(), ClientError> {
        if self.member_id.is_empty() {
            return Ok(());
        }
        let coordinator = client.coordinator(&self.group, 0)?;
        let version = client
            .broker(coordinator)?
            .version::<LeaveGroupRequest>(5)?;
        let request = LeaveGroupRequest::default().with_group_id(GroupId(text(&self.group)));
        let request = if version >= 3 {
            let member = MemberIdentity::default().with_member_id(text(&self.member_id));
            request.with_members(vec![member])
        } else {
            request.with_member_id(text(&self.member_id))
        };
        self.joined = false;
        let response = client.call_broker(coordinator, &request, 5, Duration::ZERO)?;
        ClientError::check(response.error_code, || format!("leaving '{}'", self.group))
    }

    fn advance(&mut self, client: &mut Client, fetched: &Fetched) -> Result<(), ClientError> {
        let partition = fetched.partition;
        match fetched.error_code {
            0 => {
                if let Some(last) = fetched.records.last() {
                    self.positions.insert(partition, last.offset + 1);
                }
                Ok(())
            }
            OFFSET_OUT_OF_RANGE => {
                let listed = client.list_offsets(&self.topic, &[(partition, self.reset())])?;
                let offset = listed.get(&partition).map_or(0, |l| l.offset);
                self.positions.insert(partition, offset);
                Ok(())
            }
            code => {
                // The leader moved: ask again next time.
                client.topic(&self.topic, false)?;
                let error = ClientError::check(code, || format!("{}-{partition}", self.topic));
                match error {
                    Err(e) if e.is_retriable() => Ok(()),
                    other => other,
                }
            }
        }
    }

    fn reset(&self) -> i64 {
        if self.from_beginning {
            EARLIEST
        } else {
            LATEST
        }
    }

    /// Whether the error means that the group moves on without us until we join again.
    fn must_rejoin(&mut self, error: &ClientError) -> bool {
        let code = error.code().unwrap_or(0);
        if matches!(code, ILLEGAL_GENERATION | UNKNOWN_MEMBER) {
            self.member_id.clear();
        }
        let rejoin = matches!(
            code,
            REBALANCE_IN_PROGRESS | ILLEGAL_GENERATION | UNKNOWN_MEMBER | 14..=16
        );
        if rejoin {
            self.joined = false;
        }
        rejoin
    }

    /// Joins and syncs until the group has settled on a generation.
    fn join(&mut self, client: &mut Client) -> Result<(), ClientError> {
        client.topic(&self.topic, false)?;
        loop {
            match self.join_once(client) {
                Ok(()) => return Ok(()),
                Err(e) if e.code() == Some(MEMBER_ID_REQUIRED) || self.must_rejoin(&e) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn join_once(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let coordinator = client.coordinator(&self.group, 0)?;
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(subscription(&self.topic)?);
        let mut request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_session_timeout_ms(SESSION_TIMEOUT_MS)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_member_id(text(&self.member_id))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        request.group_instance_id = None;
        let wait = Duration::from_millis(REBALANCE_TIMEOUT_MS.unsigned_abs().into());
        let response = client.call_broker(coordinator, &request, 9, wait)?;
        if response.error_code == MEMBER_ID_REQUIRED || response.error_code == 0 {
            self.member_id = response.member_id.to_string();
        }
        let what = || format!("joining group '{}'", self.group);
        ClientError::check(response.error_code, what)?;
        self.generation = response.generation_id;
        let assignments = if response.leader.as_str() == self.member_id {
            self.assign(client, &response)?
        } else {
            Vec::new()
        };
        let assigned = self.sync(client, coordinator, assignments)?;
        self.start(client, &assigned)?;
        self.joined = true;
        self.last_heartbeat = Instant::now();
        Ok(())
    }

    fn sync(
        &self,
        client: &mut Client,
        coordinator: i32,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<Vec<i32>, ClientError> {
        let version = client.broker(coordinator)?.version::<SyncGroupRequest>(5)?;
        let mut request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_assignments(assignments);
        if version >= 5 {
            request.protocol_type = Some(text("consumer"));
            request.protocol_name = Some(text("range"));
        }
        let wait = Duration::from_millis(REBALANCE_TIMEOUT_MS.unsigned_abs().into());
        let response = client.call_broker(coordinator, &request, 5, wait)?;
        let what = || format!("syncing with group '{}'", self.group);
        ClientError::check(response.error_code, what)?;
        let assigned = decode_assignment(&response.assignment);
        let ours = assigned
            .into_iter()
            .filter(|(topic, _)| *topic == self.topic);
        Ok(ours.flat_map(|(_, partitions)| partitions).collect())
    }

    /// As leader: contiguous ranges of each topic's partitions over the members that subscribe to
    /// it, by member id.
    fn assign(
        &self,
        client: &mut Client,
        response: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let mut subscribers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut assigned: BTreeMap<String, Vec<TopicPartition>> = BTreeMap::new();
        for member in &response.members {
            let id = member.member_id.to_string();
            assigned.insert(id.clone(), Vec::new());
            for topic in subscribed(&member.metadata) {
                subscribers.entry(topic).or_default().push(id.clone());
            }
        }
        for (topic, mut members) in subscribers {
            members.sort();
            let count = match client.topic(&topic, false) {
                Ok(info) => info.partitions.len(),
                Err(ClientError::NotFound(_)) => 0,
                Err(e) => return Err(e),
            };
            let (each, extra) = (count / members.len(), count % members.len());
            let mut next = 0;
            for (i, member) in members.iter().enumerate() {
                let size = each + usize::from(i < extra);
                let range = (next..next + size).map(|p| p as i32).collect();
                next += size;
                let part = TopicPartition::default()
                    .with_topic(topic_name(&topic))
                    .with_partitions(range);
                assigned.entry(member.clone()).or_default().push(part);
            }
        }
        let encode = |(member, partitions): (String, Vec<TopicPartition>)| {
            let assignment =
                ConsumerProtocolAssignment::default().with_assigned_partitions(partitions);
            Ok(SyncGroupRequestAssignment::default()
                .with_member_id(text(&member))
                .with_assignment(versioned(&assignment)?))
        };
        assigned.into_iter().map(encode).collect()
    }

    /// Where to read from: what is committed, else the reset rule.
    fn start(&mut self, client: &mut Client, partitions: &[i32]) -> Result<(), ClientError> {
        let committed = client.committed(&self.group)?;
        let mut missing = Vec::new();
        self.positions.clear();
        for partition in partitions {
            match committed.get(&(self.topic.clone(), *partition)) {
                Some(offset) => {
                    self.positions.insert(*partition, *offset);
                }
                None => missing.push((*partition, self.reset())),
            }
        }
        if !missing.is_empty() {
            for (partition, listed) in client.list_offsets(&self.topic, &missing)? {
                self.positions.insert(partition, listed.offset);
            }
        }
        Ok(())
    }

    fn heartbeat(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let coordinator = client.coordinator(&self.group, 0)?;
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id));
        let response = client.call_broker(coordinator, &request, 4, Duration::ZERO)?;
        self.last_heartbeat = Instant::now();
        ClientError::check(response.error_code, || "heartbeat".to_owned())
    }
}

/// A message of the consumer protocol behind its version.
fn versioned(message: &impl Encodable) -> Result<Bytes, ClientError> {
    let mut out = BytesMut::new();
    out.put_i16(0);
    message
        .encode(&mut out, 0)
        .map_err(|e| ClientError::Malformed(e.to_string()))?;
    Ok(out.freeze())
}

fn subscription(topic: &str) -> Result<Bytes, ClientError> {
    versioned(&ConsumerProtocolSubscription::default().with_topics(vec![text(topic)]))
}

fn subscribed(metadata: &Bytes) -> Vec<String> {
    let mut bytes = metadata.clone();
    if bytes.len() < 2 {
        return Vec::new();
    }
    let version = bytes::Buf::get_i16(&mut bytes).clamp(0, 3);
    match ConsumerProtocolSubscription::decode(&mut bytes, version) {
        Ok(subscription) => subscription.topics.iter().map(|t| t.to_string()).collect(),
        Err(_) => Vec::new(),
    }
}
