//! The order of a run and how long it takes.

use clap::Parser;

use super::*;
use crate::suite::Command;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn plan(words: &str) -> Plan {
    let all = ["bench-harness"].into_iter().chain(words.split(' '));
    match Cli::try_parse_from(all).unwrap().command {
        Command::Suite(args) => Plan::suite(&args).unwrap(),
        Command::Strategies(args) => Plan::strategies(&args).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn minutes(plan: &Plan) -> f64 {
    plan.steps()
        .iter()
        .map(|s| plan.estimate_step(s))
        .sum::<f64>()
        / 60.0
}

#[test]
fn quick_fits_three_minutes() {
    let quick = plan("suite --quick");
    assert!(minutes(&quick) < 2.8, "{} minutes", minutes(&quick));
    assert_eq!(quick.lines.len(), QUICK.len());
    assert!(quick.steps().iter().all(|s| s.fs == Fs::Tmpfs));
}

#[test]
fn systems_alternate_and_none_always_follows_the_same_other() {
    let plan = plan("suite --only 64k --fs tmpfs --rounds 3");
    let order: Vec<String> = plan
        .steps()
        .iter()
        .map(|s| s.variant.name.clone())
        .collect();
    let wanted = [
        ["kafka", "flumen", "limit"],
        ["flumen", "limit", "kafka"],
        ["limit", "kafka", "flumen"],
    ];
    assert_eq!(order, wanted.concat());
}

#[test]
fn long_ones_run_when_they_are_asked_for() {
    let names = |words: &str| -> Vec<&str> { plan(words).lines.iter().map(|l| l.0.name).collect() };
    assert!(!names("suite").contains(&"soak"));
    assert!(names("suite --full").contains(&"soak"));
    assert_eq!(names("suite --only soak"), ["soak"]);
    assert_eq!(names("suite --only trouble-.*").len(), 8);
    let all = names("suite --full");
    assert_eq!(all.len(), SCENARIOS.len());
}

#[test]
fn each_system_gets_what_it_can_run() {
    let plan = plan("suite --rounds 1 --full");
    for step in plan.steps() {
        for s in &step.scenarios {
            let name = (s.name, step.variant.name.as_str());
            match step.variant.system {
                System::Limit => assert!(!s.limit.is_empty(), "{name:?}"),
                System::Kafka => assert!(!matches!(s.run, Run::TwoShards(_)), "{name:?}"),
                _ => {}
            }
            let shared = step.scenarios.len() > 1;
            assert!(
                !shared || s.stage == Stage::Rounds,
                "{name:?} shares its broker"
            );
        }
    }
}

#[test]
fn somebody_elses_broker_is_neither_started_nor_limited() {
    let plan = plan("suite --address example:9092 --only 64k|start|idle|.*-cold");
    let steps = plan.steps();
    assert!(
        steps
            .iter()
            .all(|s| s.variant.system == System::Remote && s.fs == Fs::Dir)
    );
    assert!(
        steps
            .iter()
            .all(|s| s.scenarios.iter().all(|s| s.name == "64k"))
    );
}

#[test]
fn strategies_are_columns() {
    let plan = plan("strategies --fs ext4 --strategies inline,direct --seconds 30 --only disk90");
    let steps = plan.steps();
    let names: Vec<&str> = steps.iter().map(|s| s.variant.name.as_str()).collect();
    assert_eq!(names, ["inline", "direct"]);
    let config = &steps[1].variant.config;
    assert!(config.contains(&("flumen.log.write.strategy".to_owned(), "direct".to_owned())));
    assert_eq!(plan.seconds_of(steps[0].scenarios[0]), 30.0);
}

#[test]
fn filters_that_leave_nothing_are_errors() {
    let args = ["bench-harness", "suite", "--only", "nothing"];
    let Command::Suite(args) = Cli::try_parse_from(args).unwrap().command else {
        panic!("not a suite");
    };
    assert!(Plan::suite(&args).is_err());
}
