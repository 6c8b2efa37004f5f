//! Threads of a Kafka Streams application that do anything in any order, as clients do: they take
//! their time to give tasks up, fall silent, crash, leave, come back; topics come, grow and go,
//! standbys are asked for; answers get lost, writes fail, the process restarts. Under a seed. On
//! every step:
//!
//! - no task is active in two members that the coordinator takes for alive, neither by what it
//!   knows nor by what they believe, and no process believes to have a task twice;
//! - no task stands in two targets as active, nor twice in those of one process;
//! - a member's epoch is never ahead of its group's;
//! - what is computed follows from the records, and when nothing is in flight a replay of the log
//!   gives the same group.
//!
//! In the end everyone calms down: the group becomes stable and every task runs once.
//!
//! `FLUMEN_TEST_ROUNDS` multiplies the number of seeds; a failure prints its seed.

mod common;

use common::streams::*;
use common::*;
use flumen_base::{ErrorCode, Prng};
use flumen_coordinator::{CoordinatorConfig, GroupSettings, ReplyToken, StreamsSettings};
use flumen_wire::messages::streams_group_describe_response as described;
use flumen_wire::messages::streams_group_heartbeat_request::{Subtopology, TaskIds};
use flumen_wire::messages::streams_group_heartbeat_response as answered;
use std::collections::{BTreeMap, BTreeSet};

const GROUP: &str = "g";
const SEEDS: u64 = 60;
const STEPS: usize = 400;

/// Active or not, subtopology, partition.
type Task = (bool, String, i32);
type Owned = BTreeSet<Task>;

/// A thread as it sees itself.
#[derive(Clone, Debug, Default)]
struct Client {
    process: String,
    id: String,
    epoch: i32,
    /// Has not joined, or was fenced.
    out: bool,
    /// What it runs and follows.
    owned: Owned,
    /// What it was told to.
    given: Owned,
    waits_for: Option<ReplyToken>,
    silent: bool,
}

struct Sim {
    w: World,
    rng: Prng,
    seed: u64,
    clients: Vec<Client>,
    asked: BTreeMap<ReplyToken, usize>,
    ids: u64,
    /// Topics that the group wants.
    wanted: BTreeMap<String, i32>,
}

fn topology() -> Vec<Subtopology<'static>> {
    let mut first = reads("0", &["a"], "");
    first.repartition_sink_topics = vec!["app-r".into()];
    let mut second = reads("1", &[], "app-c1");
    second.repartition_source_topics = vec![internal("app-r", 0)];
    vec![first, second, reads("2", &["b"], "app-c2")]
}

fn given_of(active: &[answered::TaskIds<'_>], standby: &[answered::TaskIds<'_>]) -> Owned {
    let mut owned = Owned::new();
    for (is_active, all) in [(true, active), (false, standby)] {
        for t in all {
            let tasks = t.partitions.iter();
            owned.extend(tasks.map(|p| (is_active, t.subtopology_id.to_string(), *p)));
        }
    }
    owned
}

fn described_of(assignment: &described::Assignment<'_>) -> Owned {
    let mut owned = Owned::new();
    let all = [
        (true, &assignment.active_tasks),
        (false, &assignment.standby_tasks),
    ];
    for (is_active, all) in all {
        for t in all {
            let tasks = t.partitions.iter();
            owned.extend(tasks.map(|p| (is_active, t.subtopology_id.to_string(), *p)));
        }
    }
    owned
}

fn told_of(owned: &Owned, active: bool) -> Vec<TaskIds<'static>> {
    let mut by_subtopology: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (_, subtopology, partition) in owned.iter().filter(|t| t.0 == active) {
        by_subtopology
            .entry(subtopology)
            .or_default()
            .push(*partition);
    }
    let all = by_subtopology.into_iter();
    all.map(|(subtopology, partitions)| TaskIds {
        subtopology_id: subtopology.to_owned().into(),
        partitions,
    })
    .collect()
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = Prng::new(seed);
        let config = CoordinatorConfig {
            streams_group_assignment_interval_ms: [0, 1_000][rng.below(2) as usize],
            streams_group_initial_rebalance_delay_ms: [0, 3_000][rng.below(2) as usize],
            streams_group_num_standby_replicas: rng.below(3) as i32,
            ..config()
        };
        let mut w = World::with(config, seed);
        w.auto_commit = false;
        w.change_metadata(|m| m.topics.clear());
        w.put_topic("a", 3);
        w.put_topic("b", 2);
        let clients = (0..6).map(|n| Client {
            process: format!("p{}", n % 4),
            out: true,
            ..Client::default()
        });
        Self {
            w,
            rng,
            seed,
            clients: clients.collect(),
            asked: BTreeMap::new(),
            ids: 0,
            wanted: BTreeMap::new(),
        }
    }

    fn change_topics(&mut self) {
        let names = ["a", "b", "app-r", "app-c1", "app-c2"];
        let name = names[self.rng.below(5) as usize];
        let now = self.w.metadata.topics.get(name).map_or(0, |t| t.1);
        let count = match now {
            0 => 1 + self.rng.below(4) as i32,
            _ if self.rng.one_in(3) => 0,
            now => now + 1,
        };
        self.w.put_topic(name, count);
    }

    fn change_standbys(&mut self) {
        let standbys = self.rng.below(3) as i32;
        self.w.change_metadata(|m| {
            m.settings = GroupSettings {
                streams: StreamsSettings {
                    standby_replicas: Some(standbys),
                    ..StreamsSettings::default()
                },
                ..GroupSettings::default()
            };
        });
    }

    /// The broker makes the topics that the group wants.
    fn create_topics(&mut self) {
        for (name, count) in std::mem::take(&mut self.wanted) {
            if !self.w.metadata.topics.contains_key(&name) {
                self.w.put_topic(&name, count);
            }
        }
    }

    fn step(&mut self) {
        let n = self.rng.below(self.clients.len() as u64) as usize;
        match self.rng.below(24) {
            0..=12 => self.go_on(n),
            13 => self.leave(n),
            14 => self.crash(n),
            15 if self.rng.one_in(3) => {
                let silent = !self.clients[n].silent;
                self.clients[n].silent = silent;
            }
            16 => self.create_topics(),
            17 if self.rng.one_in(4) => self.change_topics(),
            18 if self.rng.one_in(6) => self.change_standbys(),
            18 | 19 => {
                let ms = self.rng.below(3_000) as i64;
                self.w.advance_ms(ms);
            }
            20 if self.rng.one_in(6) => {
                let ms = self.rng.below(60_000) as i64;
                self.w.advance_ms(ms);
            }
            21 if self.rng.one_in(12) => self.restart(),
            22 if self.rng.one_in(6) => self.fail_all(),
            _ => {
                for _ in 0..=self.rng.below(3) {
                    self.w.commit_next();
                }
            }
        }
        self.read_replies();
        self.check();
    }

    /// What a thread does next: it gives up, takes what is new, heartbeats.
    fn go_on(&mut self, n: usize) {
        let lost = self.rng.one_in(20);
        let slow = self.rng.one_in(3);
        let client = &mut self.clients[n];
        if client.silent {
            return;
        }
        if client.waits_for.is_some() {
            if lost {
                client.waits_for = None;
            }
            return;
        }
        if client.out {
            return self.join(n);
        }
        let kept: Owned = client.owned.intersection(&client.given).cloned().collect();
        if kept != client.owned {
            if !slow {
                client.owned = kept; // it has committed and closed
            }
        } else {
            client.owned.clone_from(&client.given);
        }
        self.beat(n);
    }

    fn join(&mut self, n: usize) {
        self.ids += 1;
        let client = &mut self.clients[n];
        if client.id.is_empty() {
            client.id = format!("m{}", self.ids);
        }
        client.epoch = 0;
        client.owned.clear();
        client.given.clear();
        client.out = false;
        self.beat(n);
    }

    fn beat(&mut self, n: usize) {
        let tells = self.rng.one_in(2);
        let c = self.clients[n].clone();
        let request = if c.epoch == 0 {
            Beat {
                process_id: Some((&*c.process).into()),
                rebalance_timeout_ms: 30_000,
                ..join_streams(GROUP, &c.id, topology())
            }
        } else {
            Beat {
                active_tasks: tells.then(|| told_of(&c.owned, true)),
                standby_tasks: tells.then(|| told_of(&c.owned, false)),
                warmup_tasks: tells.then(Vec::new),
                ..streams_beat(GROUP, &c.id, c.epoch)
            }
        };
        let token = self.w.stream(&request);
        self.clients[n].waits_for = Some(token);
        self.asked.insert(token, n);
    }

    fn leave(&mut self, n: usize) {
        let c = self.clients[n].clone();
        if c.out || c.silent {
            return;
        }
        self.clients[n].owned.clear();
        self.gone(n);
        let token = self.w.stream(&streams_beat(GROUP, &c.id, -1));
        self.asked.insert(token, usize::MAX);
    }

    /// The process is gone; a new thread comes under another id.
    fn crash(&mut self, n: usize) {
        if self.rng.one_in(2) {
            self.clients[n].owned.clear();
            self.gone(n);
        }
    }

    fn gone(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.id.clear();
        client.out = true;
        client.given.clear();
        client.waits_for = None;
    }

    fn restart(&mut self) {
        self.read_replies();
        self.w.restart();
        self.asked.clear();
        for client in &mut self.clients {
            client.waits_for = None;
        }
    }

    /// The log fails: everything on its way to it does.
    fn fail_all(&mut self) {
        while self.w.fail_next(ErrorCode::NotLeaderOrFollower) {}
    }

    fn read_replies(&mut self) {
        for (token, reply) in std::mem::take(&mut self.w.replies) {
            self.w.replies.insert(token, reply);
            let beat = self.w.streamed(token);
            let topics = beat.topics.iter();
            self.wanted
                .extend(topics.map(|t| (t.name.to_string(), t.num_partitions)));
            let asked = self.asked.remove(&token);
            let n = asked.unwrap_or_else(|| panic!("seed {}: stray {token:?}", self.seed));
            let client = self.clients.get(n);
            if client.is_some_and(|c| c.waits_for == Some(token)) {
                self.take(n, &beat.response);
            }
        }
    }

    fn take(&mut self, n: usize, r: &Beaten) {
        let client = &mut self.clients[n];
        client.waits_for = None;
        match error_of(r) {
            ErrorCode::None => {
                client.epoch = r.member_epoch;
                if let (Some(active), Some(standby)) = (&r.active_tasks, &r.standby_tasks) {
                    client.given = given_of(active, standby);
                }
            }
            // The last: topics have gone that it still has tasks of.
            ErrorCode::FencedMemberEpoch
            | ErrorCode::UnknownMemberId
            | ErrorCode::GroupIdNotFound
            | ErrorCode::InvalidRequest => {
                client.owned.clear();
                client.given.clear();
                client.out = true;
            }
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                client.out = client.epoch == 0;
            }
            other => panic!("seed {}: {other:?}: {r:?}", self.seed),
        }
    }

    /// Each active task in one place, and each task once in a process.
    fn check_owners<'a>(&self, what: &str, all: impl Iterator<Item = (&'a str, Owned)>) {
        let mut active: BTreeMap<(String, i32), &str> = BTreeMap::new();
        let mut within: BTreeSet<(&str, String, i32)> = BTreeSet::new();
        for (process, tasks) in all {
            for (is_active, subtopology, partition) in tasks {
                let name = (subtopology.clone(), partition);
                if is_active && let Some(other) = active.insert(name.clone(), process) {
                    panic!(
                        "seed {}: {what}: {name:?} runs in {process} and {other}",
                        self.seed
                    );
                }
                let first = within.insert((process, subtopology, partition));
                assert!(
                    first,
                    "seed {}: {what}: {name:?} twice in {process}",
                    self.seed
                );
            }
        }
    }

    fn check(&mut self) {
        let seed = self.seed;
        self.w.coordinator.check();
        let group = self.w.describe_streams(GROUP);
        let members = group.members.iter();
        let of = |m: &described::Member<'_>, target: bool| match target {
            true => described_of(&m.target_assignment),
            false => described_of(&m.assignment),
        };
        let has = members.clone().map(|m| (&*m.process_id, of(m, false)));
        self.check_owners("has", has);
        let shall = members.clone().map(|m| (&*m.process_id, of(m, true)));
        self.check_owners("shall", shall);
        for member in members.clone() {
            let ahead = member.member_epoch > group.group_epoch;
            assert!(!ahead, "seed {seed}: {member:?}");
        }
        let alive: BTreeSet<&str> = members.map(|m| &*m.member_id).collect();
        let clients = self.clients.iter().filter(|c| alive.contains(&*c.id));
        let believed = clients.map(|c| (&*c.process, c.owned.clone()));
        self.check_owners("believes", believed);
        if self.w.coordinator.writes_outstanding() == 0 && self.rng.one_in(4) {
            let replayed = self.w.replayed(self.w.log.len());
            replayed.check();
            let back = replayed.describe_streams_group(GROUP);
            let without = |mut group: described::DescribedGroup<'static>| {
                group.topology = None; // how wide its topics are a replay does not know
                group
            };
            let (back, group) = (without(back), without(group));
            assert_eq!(back, group, "seed {seed}: a replay gives another group");
        }
    }

    /// Nobody falls silent, nothing changes any more.
    fn calm_down(&mut self) {
        for client in &mut self.clients {
            client.silent = false;
        }
        for name in ["app-r", "app-c1", "app-c2", "a", "b"] {
            self.w.put_topic(name, 0);
        }
        self.w.put_topic("a", 4);
        self.w.put_topic("b", 3);
        for round in 0..120 {
            for n in 0..self.clients.len() {
                self.w.commit_all();
                self.read_replies();
                self.clients[n].waits_for = None;
                self.go_on(n);
            }
            self.w.commit_all();
            self.read_replies();
            self.create_topics();
            self.check();
            // those that crashed are fenced meanwhile, the others are not
            self.w.advance_ms(2_000);
            if round > 60 && self.is_settled() {
                return;
            }
        }
        let group = self.w.describe_streams(GROUP);
        panic!(
            "seed {}: does not settle: {group:?}\n{:?}",
            self.seed, self.clients
        );
    }

    fn is_settled(&self) -> bool {
        let group = self.w.describe_streams(GROUP);
        if group.group_state != "Stable" {
            return false;
        }
        let mut run = Owned::new();
        for client in self.clients.iter().filter(|c| !c.out) {
            if client.owned != client.given {
                return false;
            }
            run.extend(client.owned.iter().filter(|t| t.0).cloned());
        }
        let tasks = [("0", 4), ("1", 4), ("2", 3)].into_iter();
        let wanted: Owned = tasks
            .flat_map(|(id, count)| (0..count).map(move |p| (true, id.to_owned(), p)))
            .collect();
        run == wanted
    }
}

#[test]
fn any_order_of_anything_keeps_the_promises() {
    for seed in seeds(SEEDS) {
        let mut sim = Sim::new(seed);
        for _ in 0..STEPS {
            sim.step();
        }
        sim.calm_down();
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut sim = Sim::new(seed);
        (0..STEPS).for_each(|_| sim.step());
        sim.calm_down();
        sim.w.log
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// Any prefix of a log can be loaded, and what it makes is consistent.
#[test]
fn any_prefix_of_a_log_can_be_loaded() {
    for seed in 0..4 {
        let mut sim = Sim::new(seed);
        (0..STEPS).for_each(|_| sim.step());
        for len in 0..=sim.w.log.len() {
            sim.w.replayed(len).check();
        }
    }
}
