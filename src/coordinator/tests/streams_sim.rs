//! Threads of a Kafka Streams application that do anything in any order (`common/members.rs`);
//! topics come, grow and go, standbys are asked for. On every step:
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

use common::members::{self, Answer, Client, GROUP, Held, MEMBERS, Protocol, Sim};
use common::streams::*;
use common::*;
use flumen_base::{ErrorCode, Prng};
use flumen_coordinator::{
    CoordinatorConfig, GroupCoordinator, GroupSettings, ReplyToken, StreamsSettings,
};
use flumen_wire::messages::streams_group_describe_response as described;
use flumen_wire::messages::streams_group_heartbeat_request::{Subtopology, TaskIds};
use std::collections::{BTreeMap, BTreeSet};

/// Active or not, subtopology, partition.
type Task = (bool, String, i32);

#[derive(Clone, Debug)]
struct Streams {
    /// Topics that the group wants.
    wanted: BTreeMap<String, i32>,
}

/// What only a thread has.
#[derive(Clone, Debug, Default)]
struct Own {
    process: String,
}

fn topology() -> Vec<Subtopology<'static>> {
    let mut first = reads("0", &["a"], "");
    first.repartition_sink_topics = vec!["app-r".into()];
    let mut second = reads("1", &[], "app-c1");
    second.repartition_source_topics = vec![internal("app-r", 0)];
    vec![first, second, reads("2", &["b"], "app-c2")]
}

/// One subtopology's tasks.
fn tasks(active: bool, subtopology: &str, partitions: &[i32]) -> Vec<Task> {
    let partitions = partitions.iter();
    partitions
        .map(|p| (active, subtopology.to_owned(), *p))
        .collect()
}

fn described_of(assignment: &described::Assignment<'_>) -> Held<Streams> {
    let of = |active, all: &[described::TaskIds<'_>]| -> Vec<Task> {
        let all = all.iter();
        all.flat_map(|t| tasks(active, &t.subtopology_id, &t.partitions))
            .collect()
    };
    let active = of(true, &assignment.active_tasks);
    let standby = of(false, &assignment.standby_tasks);
    active.into_iter().chain(standby).collect()
}

fn told_of(owned: &Held<Streams>, active: bool) -> Vec<TaskIds<'static>> {
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

fn change_topics(sim: &mut Sim<Streams>) {
    let names = ["a", "b", "app-r", "app-c1", "app-c2"];
    let name = names[sim.rng.below(5) as usize];
    let now = sim.w.metadata.topics.get(name).map_or(0, |t| t.1);
    let count = match now {
        0 => 1 + sim.rng.below(4) as i32,
        _ if sim.rng.one_in(3) => 0,
        now => now + 1,
    };
    sim.w.put_topic(name, count);
}

fn change_standbys(sim: &mut Sim<Streams>) {
    let standbys = sim.rng.below(3) as i32;
    sim.w.change_metadata(|m| {
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
fn create_topics(sim: &mut Sim<Streams>) {
    for (name, count) in std::mem::take(&mut sim.protocol.wanted) {
        if !sim.w.metadata.topics.contains_key(&name) {
            sim.w.put_topic(&name, count);
        }
    }
}

/// Each active task in one place, and each task once in a process.
fn check_owners<'a>(seed: u64, what: &str, all: impl Iterator<Item = (&'a str, Held<Streams>)>) {
    let mut active: BTreeMap<(String, i32), &str> = BTreeMap::new();
    let mut within: BTreeSet<(&str, String, i32)> = BTreeSet::new();
    for (process, tasks) in all {
        for (is_active, subtopology, partition) in tasks {
            let name = (subtopology.clone(), partition);
            if is_active && let Some(other) = active.insert(name.clone(), process) {
                panic!("seed {seed}: {what}: {name:?} runs in {process} and {other}");
            }
            let first = within.insert((process, subtopology, partition));
            assert!(first, "seed {seed}: {what}: {name:?} twice in {process}");
        }
    }
}

impl Protocol for Streams {
    type Item = Task;
    type Own = Own;
    type Group = described::DescribedGroup<'static>;

    fn start(rng: &mut Prng) -> (CoordinatorConfig, Self) {
        let config = CoordinatorConfig {
            streams_group_assignment_interval_ms: [0, 1_000][rng.below(2) as usize],
            streams_group_initial_rebalance_delay_ms: [0, 3_000][rng.below(2) as usize],
            streams_group_num_standby_replicas: rng.below(3) as i32,
            ..config()
        };
        let wanted = BTreeMap::new();
        (config, Self { wanted })
    }

    fn populate(sim: &mut Sim<Self>) {
        sim.w.put_topic("a", 3);
        sim.w.put_topic("b", 2);
        let own = (0..MEMBERS).map(|n| Own {
            process: format!("p{}", n % 4),
        });
        sim.clients.extend(own.map(Client::new));
    }

    fn happens(sim: &mut Sim<Self>, _n: usize, drawn: u64) -> bool {
        match drawn {
            16 => create_topics(sim),
            17 if sim.rng.one_in(4) => change_topics(sim),
            18 if sim.rng.one_in(6) => change_standbys(sim),
            _ => return false,
        }
        true
    }

    fn beat(sim: &mut Sim<Self>, n: usize) -> ReplyToken {
        let tells = sim.rng.one_in(2);
        let c = &sim.clients[n];
        let request = if c.epoch == 0 {
            Beat {
                process_id: Some((&*c.own.process).into()),
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
        sim.w.stream(&request)
    }

    fn leave(sim: &mut Sim<Self>, client: &Client<Self>) -> ReplyToken {
        sim.w.stream(&streams_beat(GROUP, &client.id, -1))
    }

    fn answer(&mut self, w: &mut World, token: ReplyToken) -> Answer<Self> {
        let beat = w.streamed(token);
        let topics = beat.topics.iter();
        self.wanted
            .extend(topics.map(|t| (t.name.to_string(), t.num_partitions)));
        let r = &beat.response;
        let given = active(r).zip(standby(r)).map(|(active, standby)| {
            let active = active.iter().map(|(id, p)| tasks(true, id, p));
            let standby = standby.iter().map(|(id, p)| tasks(false, id, p));
            active.chain(standby).flatten().collect()
        });
        Answer {
            error: error_of(r),
            epoch: r.member_epoch,
            given,
        }
    }

    fn refused(sim: &mut Sim<Self>, n: usize, error: ErrorCode) -> bool {
        match error {
            // The last: topics have gone that it still has tasks of.
            ErrorCode::GroupIdNotFound | ErrorCode::InvalidRequest => sim.clients[n].is_fenced(),
            _ => return false,
        }
        true
    }

    fn describe(coordinator: &GroupCoordinator) -> described::DescribedGroup<'static> {
        let mut group = coordinator.describe_streams_group(GROUP);
        group.topology = None; // how wide its topics are a replay does not know
        group
    }

    fn check(sim: &Sim<Self>, group: &described::DescribedGroup<'static>) {
        let seed = sim.seed;
        let members = group.members.iter();
        let has = members.clone();
        let has = has.map(|m| (&*m.process_id, described_of(&m.assignment)));
        check_owners(seed, "has", has);
        let shall = members.clone();
        let shall = shall.map(|m| (&*m.process_id, described_of(&m.target_assignment)));
        check_owners(seed, "shall", shall);
        for member in members.clone() {
            let ahead = member.member_epoch > group.group_epoch;
            assert!(!ahead, "seed {seed}: {member:?}");
        }
        let believed = sim.alive(members.map(|m| &*m.member_id));
        let believed = believed.map(|c| (&*c.own.process, c.owned.clone()));
        check_owners(seed, "believes", believed);
    }

    fn calm_begins(sim: &mut Sim<Self>) {
        for name in ["app-r", "app-c1", "app-c2", "a", "b"] {
            sim.w.put_topic(name, 0);
        }
        sim.w.put_topic("a", 4);
        sim.w.put_topic("b", 3);
    }

    fn calm_round(sim: &mut Sim<Self>) {
        create_topics(sim);
    }

    fn is_settled(
        _sim: &Sim<Self>,
        group: &described::DescribedGroup<'static>,
        inside: &[&Client<Self>],
    ) -> bool {
        let wanted = [("0", 4), ("1", 4), ("2", 3)].into_iter();
        let wanted: Held<Self> = wanted
            .flat_map(|(id, count)| (0..count).map(move |p| (true, id.to_owned(), p)))
            .collect();
        let run = inside.iter().flat_map(|c| c.owned.iter());
        let run: Held<Self> = run.filter(|task| task.0).cloned().collect();
        group.group_state == "Stable" && run == wanted
    }
}

#[test]
fn any_order_of_anything_keeps_the_promises() {
    members::any_order_of_anything_keeps_the_promises::<Streams>();
}

#[test]
fn the_same_seed_gives_the_same_run() {
    members::the_same_seed_gives_the_same_run::<Streams>();
}

#[test]
fn any_prefix_of_a_log_can_be_loaded() {
    members::any_prefix_of_a_log_can_be_loaded::<Streams>();
}
