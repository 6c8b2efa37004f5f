//! The assignor by example, and against what must hold of any assignment.

use super::*;
use flumen_base::Prng;

/// An application: subtopologies (tasks, stateful), threads by process, what each has.
#[derive(Clone)]
struct App {
    subtopologies: Vec<(Arc<str>, i32, bool)>,
    members: Vec<(String, Option<Tasks>)>,
    standbys: usize,
}

impl App {
    fn new(subtopologies: &[(i32, bool)], processes: &[usize], standbys: usize) -> Self {
        let ids = subtopologies.iter().enumerate();
        let members = processes.iter().enumerate();
        Self {
            subtopologies: ids
                .map(|(n, (tasks, stateful))| (format!("{n}").into(), *tasks, *stateful))
                .collect(),
            members: members
                .flat_map(|(p, threads)| (0..*threads).map(move |_| (format!("p{p}"), None)))
                .collect(),
            standbys,
        }
    }

    fn assign(&self) -> Vec<Tasks> {
        let spec = Spec {
            members: self
                .members
                .iter()
                .map(|(process, last)| MemberSpec {
                    process,
                    last: last.as_ref(),
                })
                .collect(),
            subtopologies: self
                .subtopologies
                .iter()
                .map(|(id, tasks, stateful)| SubtopologySpec {
                    id,
                    tasks: *tasks,
                    stateful: *stateful,
                })
                .collect(),
            standbys: self.standbys,
        };
        assign(&spec)
    }

    /// Assigns, and remembers it as the last target.
    fn settle(&mut self) -> Vec<Tasks> {
        let targets = self.assign();
        for ((_, last), target) in self.members.iter_mut().zip(&targets) {
            *last = Some(target.clone());
        }
        targets
    }

    fn processes(&self) -> BTreeSet<&str> {
        self.members.iter().map(|(p, _)| &**p).collect()
    }
}

fn flat(tasks: &TaskMap) -> BTreeSet<(Arc<str>, i32)> {
    let all = tasks.iter();
    all.flat_map(|(id, partitions)| partitions.iter().map(move |p| (id.clone(), *p)))
        .collect()
}

fn sizes(targets: &[Tasks]) -> Vec<usize> {
    targets.iter().map(|t| flat(&t.active).len()).collect()
}

/// What a naive look at an assignment asks of it.
fn check(app: &App, targets: &[Tasks], seed: u64) {
    assert_eq!(targets.len(), app.members.len(), "seed {seed}");
    let mut active: BTreeMap<(Arc<str>, i32), &str> = BTreeMap::new();
    let mut standby: BTreeMap<(Arc<str>, i32), Vec<&str>> = BTreeMap::new();
    for ((process, _), target) in app.members.iter().zip(targets) {
        for task in flat(&target.active) {
            let twice = active.insert(task.clone(), process);
            assert!(twice.is_none(), "seed {seed}: {task:?} is active twice");
        }
        for task in flat(&target.standby) {
            standby.entry(task).or_default().push(process);
        }
        assert!(target.warmup.is_empty());
    }
    let processes = app.processes().len();
    for (id, tasks, stateful) in &app.subtopologies {
        for partition in 0..*tasks {
            let task = (id.clone(), partition);
            let runs = active.remove(&task);
            assert!(runs.is_some(), "seed {seed}: nobody runs {task:?}");
            let copies = standby.remove(&task).unwrap_or_default();
            let wanted = if *stateful { app.standbys } else { 0 };
            assert_eq!(
                copies.len(),
                wanted.min(processes - 1),
                "seed {seed}: {task:?}"
            );
            let mut everywhere: BTreeSet<&str> = copies.iter().copied().collect();
            everywhere.extend(runs);
            assert_eq!(everywhere.len(), copies.len() + 1, "seed {seed}: {task:?}");
        }
    }
    assert!(active.is_empty() && standby.is_empty(), "seed {seed}");
    let sizes = sizes(targets);
    let (least, most) = (sizes.iter().min(), sizes.iter().max());
    assert!(
        most.unwrap() - least.unwrap() <= 1,
        "seed {seed}: {sizes:?}"
    );
}

#[test]
fn tasks_are_spread_over_processes_and_their_threads() {
    let mut app = App::new(&[(3, false), (3, true)], &[1, 2], 0);
    let targets = app.settle();
    check(&app, &targets, 0);
    assert_eq!(sizes(&targets), [2, 2, 2]);
}

#[test]
fn nothing_moves_when_nothing_changes() {
    for seed in 0..300 {
        let mut app = random_app(&mut Prng::new(seed));
        app.standbys = 0;
        let first = app.settle();
        assert_eq!(app.assign(), first, "seed {seed}");
    }
}

#[test]
fn a_new_member_takes_its_share_and_no_more() {
    let mut app = App::new(&[(6, false)], &[1, 1], 0);
    let before = app.settle();
    app.members.push(("p9".to_owned(), None));
    let after = app.settle();
    check(&app, &after, 0);
    assert_eq!(sizes(&after), [2, 2, 2]);
    for (old, new) in before.iter().zip(&after) {
        assert!(flat(&old.active).is_superset(&flat(&new.active)));
    }
}

#[test]
fn what_a_gone_member_had_goes_where_a_standby_of_it_is() {
    let mut app = App::new(&[(2, true)], &[1, 1], 1);
    let before = app.settle();
    check(&app, &before, 0);
    app.members.remove(0);
    let after = app.assign();
    check(&app, &after, 0);
    assert_eq!(flat(&after[0].active).len(), 2);
    // Three instances, one goes: the two that had copies of its tasks run them.
    let mut app = App::new(&[(3, true)], &[1, 1, 1], 2);
    app.settle();
    let gone = flat(&app.members.remove(0).1.unwrap().active);
    let after = app.assign();
    check(&app, &after, 0);
    let run: BTreeSet<_> = after.iter().flat_map(|t| flat(&t.active)).collect();
    assert!(run.is_superset(&gone));
}

#[test]
fn there_are_fewer_standbys_with_too_few_processes() {
    let app = App::new(&[(4, true)], &[3], 2);
    let targets = app.assign();
    check(&app, &targets, 0);
    assert!(targets.iter().all(|t| t.standby.is_empty()));
}

#[test]
fn stateless_tasks_have_no_standbys() {
    let app = App::new(&[(4, false), (2, true)], &[1, 1], 1);
    let targets = app.assign();
    check(&app, &targets, 0);
    let copies: BTreeSet<_> = targets.iter().flat_map(|t| flat(&t.standby)).collect();
    assert!(copies.iter().all(|(id, _)| &**id == "1"));
}

#[test]
fn tasks_that_are_gone_are_forgotten() {
    let mut app = App::new(&[(4, true), (4, true)], &[1, 1], 1);
    app.settle();
    app.subtopologies.pop();
    app.subtopologies[0].1 = 2;
    let targets = app.assign();
    check(&app, &targets, 0);
}

#[test]
fn nobody_gets_nothing() {
    assert!(App::new(&[(4, true)], &[], 1).assign().is_empty());
    let targets = App::new(&[], &[1], 1).assign();
    assert_eq!(targets, [Tasks::default()]);
}

fn random_app(prng: &mut Prng) -> App {
    let mut below = |n: u64| (prng.next_u64() % n) as usize;
    let subtopologies: Vec<_> = (0..1 + below(4))
        .map(|_| (1 + below(12) as i32, below(2) == 0))
        .collect();
    let processes: Vec<_> = (0..1 + below(5)).map(|_| 1 + below(4)).collect();
    let standbys = below(3);
    App::new(&subtopologies, &processes, standbys)
}

/// Members come and go, topics grow, standbys are asked for: what must hold holds after each step,
/// and an active task moves only when its member has more than its share.
#[test]
fn any_history_of_an_application_is_assigned_well() {
    for seed in 0..400 {
        let mut prng = Prng::new(seed);
        let mut app = random_app(&mut prng);
        for step in 0..12 {
            let before: Vec<_> = app.members.iter().map(|(_, last)| last.clone()).collect();
            let targets = app.settle();
            check(&app, &targets, seed);
            let total: usize = app.subtopologies.iter().map(|s| s.1 as usize).sum();
            let share = total / app.members.len();
            for (last, target) in before.iter().zip(&targets) {
                let last = last.as_ref().map(|l| flat(&l.active)).unwrap_or_default();
                let kept = flat(&target.active).intersection(&last).count();
                let least = last.len().min(share);
                assert!(
                    kept >= least,
                    "seed {seed}, step {step}: {kept} of {least} stay"
                );
            }
            change(&mut app, &mut prng);
        }
    }
}

fn change(app: &mut App, prng: &mut Prng) {
    let mut below = |n: usize| (prng.next_u64() % n as u64) as usize;
    match below(4) {
        0 => app.members.push((format!("p{}", below(7)), None)),
        1 if app.members.len() > 1 => {
            let gone = below(app.members.len());
            app.members.remove(gone);
        }
        2 => {
            let grown = below(app.subtopologies.len());
            app.subtopologies[grown].1 += 1;
        }
        _ => app.standbys = below(3),
    }
}
