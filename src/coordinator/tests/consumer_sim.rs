//! Members of a consumer group that do anything in any order, as clients do: they take their time
//! to give partitions up, fall silent, crash, leave, come back, change what they read; topics come,
//! grow and go; answers get lost, writes fail, the process restarts. Under a seed. On every step:
//!
//! - no partition is held by two members that the coordinator takes for alive, neither by what it
//!   knows nor by what they believe;
//! - a member's epoch is never ahead of its group's;
//! - what is computed follows from the records, and when nothing is in flight a replay of the log
//!   gives the same group.
//!
//! In the end everyone calms down: the group becomes stable, every partition that somebody
//! subscribes to has one owner, who knows it.
//!
//! `FLUMEN_TEST_ROUNDS` multiplies the number of seeds; a failure prints its seed.

mod common;

use common::consumers::*;
use common::*;
use flumen_base::{ErrorCode, Prng, Uuid};
use flumen_coordinator::{Assignor, CoordinatorConfig, ReplyToken};
use flumen_wire::messages::consumer_group_heartbeat_request::TopicPartitions;
use flumen_wire::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use std::collections::{BTreeMap, BTreeSet};

const GROUP: &str = "g";
const SEEDS: u64 = 60;
const STEPS: usize = 400;
const NAMES: [&str; 4] = ["t0", "t1", "t2", "x3"];

type Owned = BTreeSet<(Uuid, i32)>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Subscription {
    topics: Vec<&'static str>,
    regex: &'static str,
}

/// A consumer as it sees itself.
#[derive(Clone, Debug, Default)]
struct Client {
    instance: Option<String>,
    id: String,
    epoch: i32,
    /// Has not joined, or was fenced.
    out: bool,
    /// What it reads from.
    owned: Owned,
    /// What it was told to have.
    given: Owned,
    wants: Subscription,
    /// What it has said that it wants.
    said: Subscription,
    /// Says everything with the next heartbeat.
    full: bool,
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
    topic_ids: u8,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = Prng::new(seed);
        let assignors = match rng.below(3) {
            0 => vec![Assignor::Range],
            _ => Assignor::ALL.to_vec(),
        };
        let config = CoordinatorConfig {
            consumer_group_assignment_interval_ms: [0, 1_000][rng.below(2) as usize],
            consumer_group_max_size: [4, 100][rng.below(2) as usize],
            consumer_group_assignors: assignors,
            ..config()
        };
        let mut w = World::with(config, seed);
        w.auto_commit = false;
        w.change_metadata(|m| m.topics.clear());
        let mut sim = Self {
            w,
            rng,
            seed,
            clients: Vec::new(),
            asked: BTreeMap::new(),
            ids: 0,
            topic_ids: 0,
        };
        for n in 0..6 {
            let mut client = Client {
                instance: sim.rng.one_in(3).then(|| format!("i{n}")),
                out: true,
                ..Client::default()
            };
            client.wants = sim.subscription();
            sim.clients.push(client);
        }
        sim.change_topics();
        sim.change_topics();
        sim
    }

    fn subscription(&mut self) -> Subscription {
        let topics = NAMES
            .iter()
            .filter(|_| !self.rng.one_in(3))
            .copied()
            .collect();
        match self.rng.below(5) {
            0 => Subscription {
                topics: Vec::new(),
                regex: ["t.*", "t[01]", "x.*|t2"][self.rng.below(3) as usize],
            },
            1 => Subscription {
                topics,
                regex: "t[12]",
            },
            2 => Subscription {
                topics: NAMES.to_vec(),
                regex: "",
            },
            _ => Subscription { topics, regex: "" },
        }
    }

    fn change_topics(&mut self) {
        let name = NAMES[self.rng.below(4) as usize];
        let (grows, count) = (self.rng.one_in(2), 1 + self.rng.below(5) as i32);
        let rack = self.rng.one_in(4);
        self.topic_ids += 1;
        let id = topic_id(self.topic_ids);
        self.w.change_metadata(|m| {
            match m.topics.get_mut(name) {
                None => {
                    m.topics.insert(name.to_owned(), (id, count));
                }
                Some((_, partitions)) if grows => *partitions += count,
                Some(_) => {
                    m.topics.remove(name);
                }
            }
            if rack {
                m.rack = Some(format!("rack-{count}"));
            }
        });
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
            16 => self.clients[n].wants = self.subscription(),
            17 if self.rng.one_in(2) => self.change_topics(),
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

    fn new_id(&mut self) -> String {
        self.ids += 1;
        format!("m{}", self.ids)
    }

    /// What a client does next: it gives up, takes what is free, heartbeats.
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
                client.full = true;
            }
            return;
        }
        if client.out {
            return self.join(n);
        }
        let kept: Owned = client.owned.intersection(&client.given).copied().collect();
        if kept != client.owned {
            if !slow {
                client.owned = kept; // it has committed and given up
            }
        } else {
            client.owned = client.given.clone();
        }
        self.beat(n);
    }

    fn join(&mut self, n: usize) {
        let id = self.new_id();
        let client = &mut self.clients[n];
        if client.id.is_empty() {
            client.id = id;
        }
        client.epoch = 0;
        client.owned.clear();
        client.given.clear();
        client.full = true;
        client.out = false;
        self.beat(n);
    }

    fn beat(&mut self, n: usize) {
        let assignor = ["uniform", "range"][self.rng.below(2) as usize];
        let name_assignor = self.rng.one_in(10) && self.w.config.consumer_group_assignors.len() > 1;
        let tells = self.rng.one_in(2);
        let client = &mut self.clients[n];
        let full = client.full || client.epoch == 0;
        let says = full || client.wants != client.said;
        let mut owned: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in &client.owned {
            owned.entry(*topic).or_default().push(*partition);
        }
        let owned = owned
            .into_iter()
            .map(|(topic_id, partitions)| TopicPartitions {
                topic_id,
                partitions,
            });
        let c = client.clone();
        let topics = c.wants.topics.iter().map(|t| (*t).into()).collect();
        let request = ConsumerGroupHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: (&*c.id).into(),
            member_epoch: c.epoch,
            instance_id: c.instance.as_deref().map(Into::into),
            rebalance_timeout_ms: if full { 30_000 } else { -1 },
            subscribed_topic_names: says.then_some(topics),
            subscribed_topic_regex: says.then(|| c.wants.regex.into()),
            server_assignor: name_assignor.then(|| assignor.into()),
            topic_partitions: (full || tells).then(|| owned.collect()),
            ..Default::default()
        };
        client.said = client.wants.clone();
        client.full = false;
        let token = self.w.beat(&request);
        self.clients[n].waits_for = Some(token);
        self.asked.insert(token, n);
    }

    fn leave(&mut self, n: usize) {
        let for_good = self.rng.one_in(3);
        let client = &mut self.clients[n];
        if client.out || client.silent {
            return;
        }
        let epoch = match client.instance {
            Some(_) if !for_good => -2,
            _ => -1,
        };
        let c = client.clone();
        client.owned.clear();
        self.gone(n);
        let request = ConsumerGroupHeartbeatRequest {
            instance_id: c.instance.as_deref().map(Into::into),
            ..beat_request(GROUP, &c.id, epoch)
        };
        let token = self.w.beat(&request);
        self.asked.insert(token, usize::MAX);
    }

    /// The process is gone; a new one comes under another id.
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
            if client.waits_for.take().is_some() {
                client.full = true;
            }
        }
    }

    /// The log fails: everything on its way to it does.
    fn fail_all(&mut self) {
        while self.w.fail_next(ErrorCode::NotLeaderOrFollower) {}
    }

    fn read_replies(&mut self) {
        for (token, reply) in std::mem::take(&mut self.w.replies) {
            self.w.replies.insert(token, reply);
            let response = self.w.beaten(token);
            let asked = self.asked.remove(&token);
            let n = asked.unwrap_or_else(|| panic!("seed {}: stray {token:?}", self.seed));
            let waits = self
                .clients
                .get(n)
                .is_some_and(|c| c.waits_for == Some(token));
            if waits {
                self.take(n, &response);
            }
        }
    }

    fn take(&mut self, n: usize, r: &ConsumerGroupHeartbeatResponse<'_>) {
        let client = &mut self.clients[n];
        client.waits_for = None;
        match code(r) {
            ErrorCode::None => {
                client.epoch = r.member_epoch;
                if let Some(assignment) = &r.assignment {
                    let topics = assignment.topic_partitions.iter();
                    client.given = topics
                        .flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p)))
                        .collect();
                }
            }
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId => {
                client.owned.clear();
                client.given.clear();
                client.out = true;
            }
            ErrorCode::FencedInstanceId => {
                client.owned.clear();
                self.gone(n);
            }
            ErrorCode::UnreleasedInstanceId
            | ErrorCode::GroupMaxSizeReached
            | ErrorCode::GroupIdNotFound => client.out = true,
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                client.full = true;
                client.out = client.epoch == 0;
            }
            other => panic!("seed {}: {other:?}: {r:?}", self.seed),
        }
    }

    fn check(&mut self) {
        let seed = self.seed;
        self.w.coordinator.check();
        let group = self.w.describe_consumers(GROUP);
        let mut held: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        let mut targets: Owned = BTreeSet::new();
        let mut alive: BTreeSet<&str> = BTreeSet::new();
        for member in &group.members {
            alive.insert(&member.member_id);
            assert!(
                member.member_epoch <= group.group_epoch,
                "seed {seed}: {member:?}"
            );
            for t in &member.assignment.topic_partitions {
                for p in &t.partitions {
                    let twice = held.insert((t.topic_id, *p), &member.member_id);
                    assert_eq!(twice, None, "seed {seed}: {t:?} is held twice: {group:?}");
                }
            }
            for t in &member.target_assignment.topic_partitions {
                for p in &t.partitions {
                    assert!(
                        targets.insert((t.topic_id, *p)),
                        "seed {seed}: {t:?} is given twice"
                    );
                }
            }
        }
        let mut believed: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        for client in self.clients.iter().filter(|c| alive.contains(&*c.id)) {
            for partition in &client.owned {
                let twice = believed.insert(*partition, &client.id);
                assert_eq!(twice, None, "seed {seed}: {partition:?} has two owners");
            }
        }
        if self.w.coordinator.writes_outstanding() == 0 && self.rng.one_in(4) {
            let replayed = self.w.replayed(self.w.log.len());
            replayed.check();
            let back = replayed.describe_consumer_group(GROUP);
            assert_eq!(back, group, "seed {seed}: a replay gives another group");
        }
    }

    /// Nobody falls silent, nothing changes any more.
    fn calm_down(&mut self) {
        for client in &mut self.clients {
            client.silent = false;
        }
        for round in 0..120 {
            for n in 0..self.clients.len() {
                self.w.commit_all();
                self.read_replies();
                if self.clients[n].waits_for.take().is_some() {
                    self.clients[n].full = true;
                }
                self.go_on(n);
            }
            self.w.commit_all();
            self.read_replies();
            self.check();
            // those that crashed are fenced meanwhile, the others are not
            self.w.advance_ms(2_000);
            if round > 60 && self.is_settled() {
                return;
            }
        }
        let group = self.w.describe_consumers(GROUP);
        panic!(
            "seed {}: does not settle: {group:?}\n{:?}",
            self.seed, self.clients
        );
    }

    fn is_settled(&self) -> bool {
        let group = self.w.describe_consumers(GROUP);
        if group.group_state != "Stable" {
            return false;
        }
        let mut all = Owned::new();
        for client in self.clients.iter().filter(|c| !c.out) {
            if client.owned != client.given {
                return false;
            }
            all.extend(&client.owned);
        }
        let subscribed = |name: &str| {
            let matches = |c: &Client| {
                let regex = !c.wants.regex.is_empty()
                    && match c.wants.regex {
                        "t.*" => name.starts_with('t'),
                        "t[01]" => name == "t0" || name == "t1",
                        "t[12]" => name == "t1" || name == "t2",
                        _ => name.starts_with('x') || name == "t2",
                    };
                regex || c.wants.topics.contains(&name)
            };
            self.clients.iter().any(|c| !c.out && matches(c))
        };
        let topics = self.w.metadata.topics.iter();
        let wanted: Owned = topics
            .filter(|(name, _)| subscribed(name))
            .flat_map(|(_, (id, count))| (0..*count).map(|p| (*id, p)))
            .collect();
        all == wanted
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
