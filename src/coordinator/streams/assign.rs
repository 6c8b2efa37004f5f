//! The `sticky` assignor: who runs which task.
//!
//! 1. An active task stays where it was, then goes where a standby of it was, as long as that
//!    member's share is not used up; the rest goes to the process with least work for its threads.
//!    Every member ends with its share: all have the same number of tasks, or one more.
//! 2. Each standby of a stateful task goes to a process that does not have the task: first where
//!    it was active, then where it was a standby, while that member's share of all tasks is not
//!    used up, then to the process with least work. With too few processes there are fewer
//!    standbys.
//!
//! Warm-up tasks are never given out, as in Kafka 4.3.1.

use super::tasks::{TaskMap, Tasks};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A member as the assignor sees it.
pub(super) struct MemberSpec<'a> {
    pub(super) process: &'a str,
    /// What it shall have by the last target.
    pub(super) last: Option<&'a Tasks>,
}

/// A subtopology as the assignor sees it.
pub(super) struct SubtopologySpec<'a> {
    pub(super) id: &'a Arc<str>,
    pub(super) tasks: i32,
    /// It has state to follow.
    pub(super) stateful: bool,
}

/// What is to be assigned to whom.
#[derive(Default)]
pub(super) struct Spec<'a> {
    pub(super) members: Vec<MemberSpec<'a>>,
    /// By id, ascending.
    pub(super) subtopologies: Vec<SubtopologySpec<'a>>,
    /// Standbys of each stateful task.
    pub(super) standbys: usize,
}

/// A subtopology by its place in the spec, and a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    subtopology: usize,
    partition: i32,
}

impl Task {
    /// Tasks of one partition beside each other, as they are read together.
    fn by_partition(&self) -> (i32, usize) {
        (self.partition, self.subtopology)
    }
}

/// How many tasks a member may have so that all end with the same number or one more. What is
/// left is shared anew among the others when a member has its share.
struct Share {
    tasks_left: usize,
    members_left: usize,
    each: usize,
}

impl Share {
    fn new(tasks: usize, members: usize) -> Self {
        let mut share = Self {
            tasks_left: tasks,
            members_left: members,
            each: 0,
        };
        share.divide();
        share
    }

    fn divide(&mut self) {
        self.each = match self.members_left {
            0 => 0,
            members => self.tasks_left.div_ceil(members),
        };
    }

    /// A member has so many tasks now.
    fn reached(&mut self, tasks: usize) {
        if tasks == self.each && self.members_left > 0 {
            self.members_left -= 1;
            self.tasks_left = self.tasks_left.saturating_sub(tasks);
            self.divide();
        }
    }
}

/// A process by how much work its threads have: least first, then the one with the idlest thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    tasks: usize,
    members: usize,
    idlest: usize,
    process: usize,
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        // tasks / members, without fractions
        let (left, right) = (self.tasks * other.members, other.tasks * self.members);
        let by_load = left.cmp(&right).then(self.idlest.cmp(&other.idlest));
        by_load.then(self.process.cmp(&other.process))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Default)]
struct Process {
    /// Its members by how much they have.
    members: BTreeSet<(usize, usize)>,
    tasks: BTreeSet<Task>,
    count: usize,
}

impl Process {
    fn load(&self, process: usize) -> Load {
        Load {
            tasks: self.count,
            members: self.members.len(),
            idlest: self.members.first().map_or(0, |(tasks, _)| *tasks),
            process,
        }
    }
}

/// The work while it is given out.
struct Board {
    processes: Vec<Process>,
    /// Of each member.
    process_of: Vec<usize>,
    counts: Vec<usize>,
    loads: BTreeSet<Load>,
    active: Vec<BTreeSet<Task>>,
    standby: Vec<BTreeSet<Task>>,
    active_share: Share,
    share: Share,
}

impl Board {
    fn new(spec: &Spec<'_>) -> Self {
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let mut processes: Vec<Process> = Vec::new();
        let mut process_of = Vec::new();
        for (member, m) in spec.members.iter().enumerate() {
            let place = *places.entry(m.process).or_insert_with(|| {
                processes.push(Process::default());
                processes.len() - 1
            });
            processes[place].members.insert((0, member));
            process_of.push(place);
        }
        let sizes = spec.subtopologies.iter();
        let sizes = sizes.map(|s| (usize::try_from(s.tasks).unwrap_or(0), s.stateful));
        let active: usize = sizes.clone().map(|(tasks, _)| tasks).sum();
        let stateful: usize = sizes.filter(|(_, s)| *s).map(|(tasks, _)| tasks).sum();
        let members = spec.members.len();
        Self {
            loads: (0..processes.len()).map(|p| processes[p].load(p)).collect(),
            processes,
            process_of,
            counts: vec![0; members],
            active: vec![BTreeSet::new(); members],
            standby: vec![BTreeSet::new(); members],
            active_share: Share::new(active, members),
            share: Share::new(active + stateful * spec.standbys, members),
        }
    }

    fn has(&self, member: usize, task: Task) -> bool {
        let process = &self.processes[self.process_of[member]];
        process.tasks.contains(&task)
    }

    fn give(&mut self, member: usize, task: Task, is_active: bool) {
        let place = self.process_of[member];
        let process = &mut self.processes[place];
        self.loads.remove(&process.load(place));
        process.members.remove(&(self.counts[member], member));
        self.counts[member] += 1;
        let count = self.counts[member];
        process.members.insert((count, member));
        process.tasks.insert(task);
        process.count += 1;
        self.loads.insert(process.load(place));
        if is_active {
            self.active[member].insert(task);
            self.active_share.reached(count);
        } else {
            self.standby[member].insert(task);
        }
        self.share.reached(count);
    }

    /// Of these members the one in the process with least work, of its threads the idlest.
    fn idlest(&self, members: impl Iterator<Item = usize>) -> Option<usize> {
        members.min_by_key(|m| {
            let place = self.process_of[*m];
            (self.processes[place].load(place), self.counts[*m], *m)
        })
    }

    /// The idlest thread of the process with least work among those with a thread that has less
    /// than its share of active tasks.
    fn least_active(&self) -> Option<usize> {
        let each = self.active_share.each;
        let free = |load: &&Load| load.idlest < each;
        let load = self.loads.iter().find(free)?;
        self.processes[load.process].members.first().map(|m| m.1)
    }

    /// The idlest thread of the process with least work among those without the task.
    fn least_without(&self, task: Task) -> Option<usize> {
        let without = |load: &&Load| !self.processes[load.process].tasks.contains(&task);
        let load = self.loads.iter().find(without)?;
        self.processes[load.process].members.first().map(|m| m.1)
    }
}

/// Who had which tasks by the last target.
#[derive(Default)]
struct Before {
    active: BTreeMap<Task, usize>,
    standby: BTreeMap<Task, Vec<usize>>,
}

impl Before {
    fn new(spec: &Spec<'_>) -> Self {
        let mut before = Self::default();
        for (member, m) in spec.members.iter().enumerate() {
            let Some(last) = m.last else {
                continue;
            };
            for task in spec.tasks_of(&last.active) {
                before.active.insert(task, member);
            }
            for task in spec.tasks_of(&last.standby) {
                before.standby.entry(task).or_default().push(member);
            }
        }
        before
    }

    fn standbys(&self, task: Task) -> impl Iterator<Item = usize> {
        self.standby.get(&task).into_iter().flatten().copied()
    }
}

impl Spec<'_> {
    /// Those of the tasks that there still are.
    fn tasks_of<'t>(&'t self, all: &'t TaskMap) -> impl Iterator<Item = Task> + 't {
        all.iter().flat_map(move |(id, partitions)| {
            let place = self.subtopologies.binary_search_by(|s| s.id.cmp(id));
            let known = place.ok().map(|p| (p, self.subtopologies[p].tasks));
            known.into_iter().flat_map(move |(subtopology, tasks)| {
                let partitions = partitions.range(0..tasks.max(0));
                partitions.map(move |p| Task {
                    subtopology,
                    partition: *p,
                })
            })
        })
    }

    fn tasks(&self, stateful_only: bool) -> Vec<Task> {
        let all = self.subtopologies.iter().enumerate();
        let all = all.filter(|(_, s)| s.stateful || !stateful_only);
        all.flat_map(|(subtopology, s)| {
            (0..s.tasks).map(move |partition| Task {
                subtopology,
                partition,
            })
        })
        .collect()
    }

    fn named(&self, tasks: &BTreeSet<Task>) -> TaskMap {
        let mut named = TaskMap::new();
        for task in tasks {
            let id = self.subtopologies[task.subtopology].id;
            named.entry(id.clone()).or_default().insert(task.partition);
        }
        named
    }
}

/// What each member shall have, in the order of the spec.
pub(super) fn assign(spec: &Spec<'_>) -> Vec<Tasks> {
    if spec.members.is_empty() {
        return Vec::new();
    }
    let before = Before::new(spec);
    let mut board = Board::new(spec);
    assign_active(spec, &before, &mut board);
    if spec.standbys > 0 {
        assign_standby(spec, &before, &mut board);
    }
    let members = board.active.iter().zip(&board.standby);
    members
        .map(|(active, standby)| Tasks {
            active: spec.named(active),
            standby: spec.named(standby),
            warmup: TaskMap::new(),
        })
        .collect()
}

fn assign_active(spec: &Spec<'_>, before: &Before, board: &mut Board) {
    let mut tasks = spec.tasks(false);
    tasks.sort_by_key(Task::by_partition);
    tasks.retain(|task| {
        let stays = before.active.get(task).copied();
        let stays = stays.filter(|m| board.counts[*m] < board.active_share.each);
        stays.is_none_or(|member| {
            board.give(member, *task, true);
            false
        })
    });
    tasks.retain(|task| {
        let each = board.active_share.each;
        let free = before.standbys(*task).filter(|m| board.counts[*m] < each);
        board.idlest(free).is_none_or(|member| {
            board.give(member, *task, true);
            false
        })
    });
    tasks.sort();
    for task in tasks {
        let member = board.least_active();
        debug_assert!(member.is_some(), "shares don't add up");
        if let Some(member) = member {
            board.give(member, task, true);
        }
    }
}

fn assign_standby(spec: &Spec<'_>, before: &Before, board: &mut Board) {
    let mut tasks = spec.tasks(true);
    // From the other end than active tasks: who has many of those is at its share already.
    tasks.sort_by_key(|task| std::cmp::Reverse(task.by_partition()));
    let mut open: Vec<(Task, usize)> = Vec::new();
    for task in tasks {
        let mut left = spec.standbys;
        while left > 0 {
            let each = board.share.each;
            let fits = |m: &usize| board.counts[*m] < each && !board.has(*m, task);
            let was_active = before.active.get(&task).copied().filter(fits);
            let member = was_active.or_else(|| board.idlest(before.standbys(task).filter(fits)));
            let Some(member) = member else {
                break;
            };
            board.give(member, task, false);
            left -= 1;
        }
        if left > 0 {
            open.push((task, left));
        }
    }
    open.sort_by_key(|o| std::cmp::Reverse(*o));
    for (task, left) in open {
        for _ in 0..left {
            let Some(member) = board.least_without(task) else {
                break; // too few processes
            };
            board.give(member, task, false);
        }
    }
}

#[cfg(test)]
#[path = "assign_test.rs"]
mod tests;
