//! Members of a share group that join, fetch, say what became of the records, leave and crash.
//! What they hear is held against [`Deliveries`]: every record is accepted, rejected or delivered
//! as often as it may be, and what is done with does not come again.

use super::deliveries::{Bond, Deliveries, Given};
use super::sharer::{Ask, Beat, LEAVES, Sharer};
use super::{Client, Spec, code, tp_of};
use crate::Check;
use crate::link::{Cx, Event, Link, Sent, decode};
use crate::model::Tp;
use crate::trace::note;
use flumen_base::{Mono, Uuid};
use flumen_log::batch::Batches;
use flumen_wire::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use flumen_wire::messages::share_fetch_response::PartitionData;
use flumen_wire::messages::{
    FindCoordinatorResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    ShareAcknowledgeResponse, ShareFetchResponse, ShareGroupHeartbeatResponse,
};
use std::collections::BTreeMap;

const MEMBERS: usize = 3;
/// A resource of IncrementalAlterConfigs.
const GROUP: i8 = 32;
/// The shortest that a group may set.
const LOCK_MS: i64 = 15_000;
/// After this time of quiet, beyond that of a lock, nothing more is to come.
const QUIET_MS: i64 = 5_000;

/// The client.
pub(crate) struct Sharers {
    spec: Spec,
    failing_disk: bool,
    cuts: bool,
    /// Another one after each power loss: what the broker knew of one may be forgotten.
    group: String,
    set_up: bool,
    settings: Link<()>,
    members: Vec<Sharer>,
    ids: u32,
    deliveries: Deliveries,
    power_losses: u32,
    /// When something came last, or was said.
    busy_at: Mono,
    /// When the latest fetch was sent that brought nothing, of those that were for a partition.
    empty: BTreeMap<i32, Mono>,
    rests: bool,
}

impl Sharers {
    pub(crate) fn new(spec: Spec, limit: i16, failing_disk: bool, cuts: bool) -> Self {
        let mut sharers = Self {
            spec,
            failing_disk,
            cuts,
            group: "sharers".to_owned(),
            set_up: false,
            settings: Link::new("sharers' settings".to_owned()),
            members: Vec::new(),
            ids: 0,
            deliveries: Deliveries::new(limit, LOCK_MS, failing_disk),
            power_losses: 0,
            busy_at: Mono(0),
            empty: BTreeMap::new(),
            rests: false,
        };
        for _ in 0..MEMBERS {
            let member = sharers.newcomer();
            sharers.members.push(member);
        }
        sharers
    }

    fn newcomer(&mut self) -> Sharer {
        self.ids += 1;
        Sharer::new(format!("sharer-{}", self.ids))
    }

    /// What is set for the group before anybody joins.
    fn set_up(&mut self, cx: &mut Cx<'_>) -> Check {
        if self.settings.in_flight() > 0 || !self.settings.open(cx) {
            return Ok(());
        }
        let settings = [
            ("share.auto.offset.reset", "earliest".to_owned()),
            ("share.record.lock.duration.ms", LOCK_MS.to_string()),
            (
                "share.delivery.count.limit",
                self.deliveries.limit.to_string(),
            ),
        ];
        let configs = settings.map(|(name, value)| AlterableConfig {
            name: name.into(),
            value: Some(value.into()),
            ..Default::default()
        });
        let request = IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: GROUP,
                resource_name: self.group.clone().into(),
                configs: configs.into(),
            }],
            ..Default::default()
        };
        self.settings.send(cx, 1, &request, Some(()))
    }

    /// Sessions that have not ended, as far as their members know. A broker that stops ends all.
    fn alive(&self, cx: &Cx<'_>) -> Vec<Bond> {
        match cx.broker.stopping {
            true => Vec::new(),
            false => self.members.iter().filter_map(Sharer::bond).collect(),
        }
    }

    // ---- the coordinator ----

    fn beaten(&mut self, n: usize, sent: &Sent<Beat>, body: &[u8], topic: Uuid) -> Check {
        let member = &mut self.members[n];
        let error = match sent.what {
            Beat::Find => {
                let response: FindCoordinatorResponse<'_> = decode(body, sent.version)?;
                let line = response.coordinators.first().ok_or("no coordinator")?;
                member.found = line.error_code == 0;
                line.error_code
            }
            Beat::Beat(epoch) => {
                let response: ShareGroupHeartbeatResponse<'_> = decode(body, sent.version)?;
                match response.error_code {
                    0 if epoch == LEAVES => {
                        self.members[n] = self.newcomer_in(n);
                        return Ok(());
                    }
                    0 => member.epoch = Some(response.member_epoch),
                    code::UNKNOWN_MEMBER_ID | code::FENCED_MEMBER_EPOCH => {
                        member.epoch = None;
                        member.leaving = false;
                    }
                    _ => (member.found, member.full) = (false, true),
                }
                if let Some(assignment) = &response.assignment {
                    let topics = assignment.topic_partitions.iter();
                    let topics = topics.filter(|t| t.topic_id == topic);
                    member.assigned = topics.flat_map(|t| t.partitions.clone()).collect();
                }
                response.error_code
            }
        };
        let expected = [
            0,
            code::COORDINATOR_LOAD_IN_PROGRESS,
            code::COORDINATOR_NOT_AVAILABLE,
            code::NOT_COORDINATOR,
            code::UNKNOWN_MEMBER_ID,
            code::FENCED_MEMBER_EPOCH,
        ];
        match expected.contains(&error) {
            true => Ok(()),
            false => Err(format!("sharers: error {error} of {:?}", sent.what)),
        }
    }

    /// Another member in the place of one.
    fn newcomer_in(&mut self, n: usize) -> Sharer {
        let mut member = self.newcomer();
        let left = &mut self.members[n];
        std::mem::swap(&mut member.beats, &mut left.beats);
        std::mem::swap(&mut member.link, &mut left.link);
        member.found = left.found;
        member
    }

    // ---- records ----

    /// An answer about records.
    fn answered(&mut self, cx: &mut Cx<'_>, n: usize, sent: &Sent<Ask>, body: &[u8]) -> Check {
        let ask = &sent.what;
        let (error, partitions, acks) = match ask.only_says {
            true => {
                let response: ShareAcknowledgeResponse<'_> = decode(body, sent.version)?;
                let lines = response.responses.iter().flat_map(|t| &t.partitions);
                let acks: BTreeMap<i32, i16> =
                    lines.map(|p| (p.partition_index, p.error_code)).collect();
                (response.error_code, Vec::new(), acks)
            }
            false => {
                let response: ShareFetchResponse<'_> = decode(body, sent.version)?;
                let error = response.error_code;
                let topics = response.responses.into_iter();
                let lines: Vec<PartitionData<'_>> = topics.flat_map(|t| t.partitions).collect();
                let acks = lines
                    .iter()
                    .map(|p| (p.partition_index, p.acknowledge_error_code));
                let acks = acks.collect();
                (error, lines, acks)
            }
        };
        let known = [
            0,
            code::SHARE_SESSION_NOT_FOUND,
            code::INVALID_SHARE_SESSION_EPOCH,
        ];
        if !known.contains(&error) {
            return Err(format!("sharers: error {error} for {ask:?}"));
        }
        let now = cx.now().mono;
        let bond = self.members[n].bond().filter(|_| !cx.broker.stopping);
        for said in &ask.said {
            let said_error = match error {
                0 => acks.get(&said.partition).copied(),
                _ => Some(code::INVALID_REQUEST), // nothing of it was looked at
            };
            let Some(said_error) = said_error else {
                return Err(format!("sharers: nothing is said of {said:?}"));
            };
            self.expect(said_error)?;
            let bond = bond.filter(|_| error == 0);
            let tp = tp_of(cx, std::slice::from_ref(&self.spec), (0, said.partition));
            let start = tp.map_or(0, |tp| cx.model.start_limit(tp));
            let place = (said.partition, said_error);
            self.deliveries
                .check_refusal(&ask.said, place, (bond, now))?;
            self.deliveries
                .heard(said, Some(said_error), (bond, now, start));
            self.busy_at = now;
        }
        if error != 0 || ask.ends {
            self.members[n].session = None;
            return Ok(());
        }
        let mut nothing = true;
        for data in &partitions {
            nothing &= data.error_code == 0 && data.acquired_records.is_empty();
            self.take(cx, (n, ask), data)?;
        }
        if nothing {
            for partition in &ask.partitions {
                self.empty.insert(*partition, ask.asked.at);
            }
        }
        Ok(())
    }

    /// What a member got of a partition.
    fn take(
        &mut self,
        cx: &mut Cx<'_>,
        (n, ask): (usize, &Ask),
        data: &PartitionData<'_>,
    ) -> Check {
        self.expect(data.error_code)?;
        let now = cx.now().mono;
        let partition = data.partition_index;
        let Some(tp) = tp_of(cx, std::slice::from_ref(&self.spec), (0, partition)) else {
            return Err("sharers: records of a topic that is gone".to_owned());
        };
        let rotten = cx.model.is_rotten(tp);
        let mut batches = Vec::new();
        for batch in Batches::new(&data.records) {
            let checked = batch.and_then(|b| b.check_crc().map(|()| b));
            let batch = match checked {
                Ok(batch) => batch,
                Err(_) if rotten => break,
                Err(e) => return Err(format!("sharers: {tp:?}: {e}")),
            };
            let header = &batch.header;
            batches.push((header.base_offset(), header.last_offset(), batch.bytes()));
        }
        let span = match (batches.first(), batches.last()) {
            (Some((first, ..)), Some((_, last, _))) => *first..*last + 1,
            _ => 0..0,
        };
        if !span.is_empty() {
            cx.model.fetched(tp, span.start, &batches)?;
        }
        let alive = self.alive(cx);
        for acquired in &data.acquired_records {
            let given = Given {
                partition,
                first: acquired.first_offset,
                last: acquired.last_offset,
                count: acquired.delivery_count,
            };
            note!(cx.trace, "{}: {given:?}", self.members[n].id);
            let there = span.contains(&given.first) && span.contains(&given.last);
            if !there && !rotten {
                return Err(format!("sharers: {given:?} without records, {span:?}"));
            }
            self.deliveries.given((ask.asked, now), given, &alive)?;
            let places = (given.first..=given.last).map(|offset| (partition, offset));
            self.members[n].held.extend(places);
            self.busy_at = now;
        }
        Ok(())
    }

    /// Whether a partition may be answered with such an error.
    fn expect(&self, error: i16) -> Check {
        let expected = [
            0,
            code::UNKNOWN_TOPIC_OR_PARTITION,
            code::LEADER_NOT_AVAILABLE,
            code::NOT_LEADER_OR_FOLLOWER,
            code::COORDINATOR_LOAD_IN_PROGRESS,
            code::COORDINATOR_NOT_AVAILABLE,
            code::NOT_COORDINATOR,
            code::INVALID_REQUEST,
            code::INVALID_RECORD_STATE,
        ];
        let of_disk = self.failing_disk && (error == -1 || code::is_disk_trouble(error));
        match of_disk || expected.contains(&error) {
            true => Ok(()),
            false => Err(format!("sharers: error {error}")),
        }
    }

    /// Requests that are not answered any more: what they said may hold or not, and what they were
    /// given is not known.
    fn unanswered(&mut self, n: usize, asks: Vec<Ask>, now: Mono) {
        let member = &mut self.members[n];
        member.session = None;
        for ask in asks {
            self.deliveries.lost += u64::from(!ask.partitions.is_empty());
            for said in &ask.said {
                self.deliveries.heard(said, None, (None, now, 0));
            }
        }
        self.busy_at = now;
    }

    /// A member is gone without a word; another one comes.
    fn crash(&mut self, cx: &mut Cx<'_>, n: usize) {
        let now = cx.now().mono;
        let member = &mut self.members[n];
        note!(cx.trace, "{} crashes", member.id);
        member.beats.close(cx);
        let asks = member.link.close(cx).into_iter().map(|sent| sent.what);
        let asks = asks.collect();
        self.unanswered(n, asks, now);
        let member = self.newcomer();
        self.members[n] = member;
    }

    // ---- what goes on ----

    fn receive_of(&mut self, cx: &mut Cx<'_>, n: usize, topic: Uuid) -> Check {
        while let Some(event) = self.members[n].link.poll(cx)? {
            match event {
                Event::Answer(sent, body) => self.answered(cx, n, &sent, &body)?,
                Event::Closed(sent) => {
                    let asks = sent.into_iter().map(|sent| sent.what).collect();
                    self.unanswered(n, asks, cx.now().mono);
                }
            }
        }
        while let Some(event) = self.members[n].beats.poll(cx)? {
            match event {
                Event::Answer(sent, body) => self.beaten(n, &sent, &body, topic)?,
                Event::Closed(_) => self.members[n].full = true,
            }
        }
        Ok(())
    }

    /// Something that a member does.
    fn act_of(&mut self, cx: &mut Cx<'_>, n: usize, topic: Uuid) -> Check {
        if !cx.settling && cx.rng.one_in(250) {
            self.crash(cx, n);
            return Ok(());
        }
        let member = &mut self.members[n];
        if self.cuts && !cx.settling && member.link.is_open() && cx.rng.one_in(200) {
            let asks = member.link.close(cx).into_iter().map(|sent| sent.what);
            let asks = asks.collect();
            if cx.rng.one_in(2) {
                member.held.clear();
            }
            self.unanswered(n, asks, cx.now().mono);
            return Ok(());
        }
        if !cx.settling && member.epoch.is_some() && cx.rng.one_in(100) {
            member.leaving = true;
        }
        member.beat(cx, &self.group, self.spec.name)?;
        if member.link.in_flight() > 0 || !member.link.open(cx) {
            return Ok(());
        }
        let place = (&*self.group, topic);
        match !cx.settling && cx.rng.one_in(25) {
            true => member.renew(cx, place, &mut self.deliveries),
            false => member.ask(cx, place, &mut self.deliveries),
        }
    }

    /// After a power loss another group begins.
    fn begin_again(&mut self, cx: &mut Cx<'_>) {
        self.power_losses = cx.model.power_losses;
        self.group = format!("sharers {}", self.power_losses);
        self.set_up = false;
        self.deliveries = Deliveries::new(self.deliveries.limit, LOCK_MS, self.failing_disk);
        for n in 0..self.members.len() {
            self.members[n].beats.close(cx);
            self.members[n].link.close(cx);
            self.members[n] = self.newcomer();
        }
        self.settings.close(cx);
        self.empty.clear();
        self.busy_at = cx.now().mono;
    }

    /// Whether nothing is left: what became of every record is known, or it is silent for good.
    fn look(&self, cx: &Cx<'_>, id: Uuid) -> Check<bool> {
        let busy =
            |m: &Sharer| !m.held.is_empty() || m.link.pending().any(|ask| !ask.said.is_empty());
        if !self.set_up || self.members.iter().any(busy) {
            return Ok(false);
        }
        let quiet_from = self.busy_at.plus_ms(LOCK_MS + QUIET_MS);
        for partition in 0..self.spec.partitions {
            let tp: Tp = (id, partition);
            if cx.model.is_rotten(tp) {
                continue;
            }
            let asked = self.empty.get(&partition);
            let quiet = asked.is_some_and(|at| *at > quiet_from);
            for offset in cx.model.start_limit(tp)..cx.model.floor(tp).high {
                let place = (partition, offset);
                if self.deliveries.is_known(place) {
                    continue;
                }
                if !quiet {
                    return Ok(false);
                }
                self.deliveries.check_silent(place)?;
            }
        }
        Ok(true)
    }
}

impl Client for Sharers {
    fn name(&self) -> &str {
        "sharers"
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> Check {
        let Some((topic, _)) = tp_of(cx, std::slice::from_ref(&self.spec), (0, 0)) else {
            return Ok(());
        };
        while let Some(event) = self.settings.poll(cx)? {
            if let Event::Answer(sent, body) = event {
                let response: IncrementalAlterConfigsResponse<'_> = decode(&body, sent.version)?;
                let result = response.responses.first().ok_or("no resource")?;
                match result.error_code {
                    0 => self.set_up = true,
                    code::NOT_CONTROLLER => {}
                    _ => return Err(format!("sharers: {result:?}")),
                }
            }
        }
        for n in 0..self.members.len() {
            self.receive_of(cx, n, topic)?;
        }
        if self.power_losses != cx.model.power_losses {
            self.begin_again(cx);
        }
        Ok(())
    }

    fn act(&mut self, cx: &mut Cx<'_>) -> Check {
        self.receive(cx)?;
        let Some((topic, _)) = tp_of(cx, std::slice::from_ref(&self.spec), (0, 0)) else {
            return Ok(());
        };
        if !self.set_up {
            return self.set_up(cx);
        }
        for n in 0..self.members.len() {
            self.act_of(cx, n, topic)?;
        }
        if cx.settling && !self.rests {
            self.rests = self.look(cx, topic)?;
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.rests = false;
    }

    fn left_to_do(&self, _cx: &Cx<'_>) -> Option<String> {
        (!self.rests).then(|| format!("{:?}, busy at {:?}", self.empty, self.busy_at))
    }
}
