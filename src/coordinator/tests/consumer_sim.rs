//! Members of a consumer group that do anything in any order (`common/members.rs`); what they read
//! changes; topics come, grow and go. On every step:
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
use common::members::{self, Answer, Client, GROUP, Held, MEMBERS, Protocol, Sim};
use common::*;
use flumen_base::{ErrorCode, Prng, Uuid};
use flumen_coordinator::{Assignor, CoordinatorConfig, GroupCoordinator, ReplyToken};
use flumen_wire::messages::ConsumerGroupHeartbeatRequest;
use flumen_wire::messages::consumer_group_describe_response::DescribedGroup;
use flumen_wire::messages::consumer_group_heartbeat_request::TopicPartitions;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 4] = ["t0", "t1", "t2", "x3"];

#[derive(Clone, Debug, Default, PartialEq)]
struct Subscription {
    topics: Vec<&'static str>,
    regex: &'static str,
}

impl Subscription {
    fn any(rng: &mut Prng) -> Self {
        let topics = NAMES.iter().filter(|_| !rng.one_in(3)).copied().collect();
        match rng.below(5) {
            0 => Self {
                topics: Vec::new(),
                regex: ["t.*", "t[01]", "x.*|t2"][rng.below(3) as usize],
            },
            1 => Self {
                topics,
                regex: "t[12]",
            },
            2 => Self {
                topics: NAMES.to_vec(),
                regex: "",
            },
            _ => Self { topics, regex: "" },
        }
    }

    fn has(&self, name: &str) -> bool {
        let matches = match self.regex {
            "" => false,
            "t.*" => name.starts_with('t'),
            "t[01]" => name == "t0" || name == "t1",
            "t[12]" => name == "t1" || name == "t2",
            _ => name.starts_with('x') || name == "t2",
        };
        matches || self.topics.contains(&name)
    }
}

/// What only a consumer has.
#[derive(Clone, Debug, Default)]
struct Own {
    instance: Option<String>,
    wants: Subscription,
    /// What it has said that it wants.
    said: Subscription,
}

#[derive(Clone, Debug)]
struct Consumers {
    topic_ids: u8,
}

fn change_topics(sim: &mut Sim<Consumers>) {
    let name = NAMES[sim.rng.below(4) as usize];
    let (grows, count) = (sim.rng.one_in(2), 1 + sim.rng.below(5) as i32);
    let rack = sim.rng.one_in(4);
    sim.protocol.topic_ids += 1;
    let id = topic_id(sim.protocol.topic_ids);
    sim.w.change_metadata(|m| {
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

impl Protocol for Consumers {
    type Item = (Uuid, i32);
    type Own = Own;
    type Group = DescribedGroup<'static>;

    fn start(rng: &mut Prng) -> (CoordinatorConfig, Self) {
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
        (config, Self { topic_ids: 0 })
    }

    fn populate(sim: &mut Sim<Self>) {
        for n in 0..MEMBERS {
            let instance = sim.rng.one_in(3).then(|| format!("i{n}"));
            sim.clients.push(Client::new(Own {
                instance,
                wants: Subscription::any(&mut sim.rng),
                said: Subscription::default(),
            }));
        }
        change_topics(sim);
        change_topics(sim);
    }

    fn happens(sim: &mut Sim<Self>, n: usize, drawn: u64) -> bool {
        match drawn {
            16 => sim.clients[n].own.wants = Subscription::any(&mut sim.rng),
            17 if sim.rng.one_in(2) => change_topics(sim),
            _ => return false,
        }
        true
    }

    fn beat(sim: &mut Sim<Self>, n: usize) -> ReplyToken {
        let assignor = ["uniform", "range"][sim.rng.below(2) as usize];
        let names_assignor = sim.rng.one_in(10) && sim.w.config.consumer_group_assignors.len() > 1;
        let tells = sim.rng.one_in(2);
        let c = sim.clients[n].clone();
        let full = c.full || c.epoch == 0;
        let says = full || c.own.wants != c.own.said;
        let mut owned: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in &c.owned {
            owned.entry(*topic).or_default().push(*partition);
        }
        let owned = owned
            .into_iter()
            .map(|(topic_id, partitions)| TopicPartitions {
                topic_id,
                partitions,
            });
        let topics = c.own.wants.topics.iter().map(|t| (*t).into()).collect();
        let request = ConsumerGroupHeartbeatRequest {
            instance_id: c.own.instance.as_deref().map(Into::into),
            rebalance_timeout_ms: if full { 30_000 } else { -1 },
            subscribed_topic_names: says.then_some(topics),
            subscribed_topic_regex: says.then(|| c.own.wants.regex.into()),
            server_assignor: names_assignor.then(|| assignor.into()),
            topic_partitions: (full || tells).then(|| owned.collect()),
            ..beat_request(GROUP, &c.id, c.epoch)
        };
        sim.clients[n].own.said = c.own.wants.clone();
        sim.w.beat(&request)
    }

    fn leave(sim: &mut Sim<Self>, client: &Client<Self>) -> ReplyToken {
        let for_good = sim.rng.one_in(3);
        let epoch = match client.own.instance {
            Some(_) if !for_good => -2,
            _ => -1,
        };
        sim.w.beat(&ConsumerGroupHeartbeatRequest {
            instance_id: client.own.instance.as_deref().map(Into::into),
            ..beat_request(GROUP, &client.id, epoch)
        })
    }

    fn answer(&mut self, w: &mut World, token: ReplyToken) -> Answer<Self> {
        let r = w.beaten(token);
        let given = r.assignment.as_ref().map(|assignment| {
            let topics = assignment.topic_partitions.iter();
            topics
                .flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p)))
                .collect()
        });
        Answer {
            error: code(&r),
            epoch: r.member_epoch,
            given,
        }
    }

    fn refused(sim: &mut Sim<Self>, n: usize, error: ErrorCode) -> bool {
        match error {
            ErrorCode::FencedInstanceId => sim.clients[n].is_gone(),
            ErrorCode::UnreleasedInstanceId
            | ErrorCode::GroupMaxSizeReached
            | ErrorCode::GroupIdNotFound => sim.clients[n].out = true,
            _ => return false,
        }
        true
    }

    fn describe(coordinator: &GroupCoordinator) -> DescribedGroup<'static> {
        coordinator.describe_consumer_group(GROUP)
    }

    fn check(sim: &Sim<Self>, group: &DescribedGroup<'static>) {
        let seed = sim.seed;
        let mut held: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        let mut targets: Held<Self> = BTreeSet::new();
        for member in &group.members {
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
                    let first = targets.insert((t.topic_id, *p));
                    assert!(first, "seed {seed}: {t:?} is given twice");
                }
            }
        }
        let mut believed: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        for client in sim.alive(group.members.iter().map(|m| &*m.member_id)) {
            for partition in &client.owned {
                let twice = believed.insert(*partition, &client.id);
                assert_eq!(twice, None, "seed {seed}: {partition:?} has two owners");
            }
        }
    }

    fn is_settled(
        sim: &Sim<Self>,
        group: &DescribedGroup<'static>,
        inside: &[&Client<Self>],
    ) -> bool {
        let subscribed = |name: &str| inside.iter().any(|c| c.own.wants.has(name));
        let topics = sim.w.metadata.topics.iter();
        let wanted: Held<Self> = topics
            .filter(|(name, _)| subscribed(name))
            .flat_map(|(_, (id, count))| (0..*count).map(|p| (*id, p)))
            .collect();
        let all: Held<Self> = inside.iter().flat_map(|c| c.owned.clone()).collect();
        group.group_state == "Stable" && all == wanted
    }
}

#[test]
fn any_order_of_anything_keeps_the_promises() {
    members::any_order_of_anything_keeps_the_promises::<Consumers>();
}

#[test]
fn the_same_seed_gives_the_same_run() {
    members::the_same_seed_gives_the_same_run::<Consumers>();
}

#[test]
fn any_prefix_of_a_log_can_be_loaded() {
    members::any_prefix_of_a_log_can_be_loaded::<Consumers>();
}
