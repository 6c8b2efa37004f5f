//! One run: the schedule of everything that happens, drawn from the seed.

use crate::audit::audit;
use crate::boot::{self, Death};
use crate::broker::Broker;
use crate::client::admin::Admin;
use crate::client::committer::Committer;
use crate::client::consumer::{Consumer, Manner};
use crate::client::keyed::Keyed;
use crate::client::ledger::Ledger;
use crate::client::producer::{IN_FLIGHT_MAX, Producer, Style};
use crate::client::seeker::Seeker;
use crate::client::sharers::Sharers;
use crate::client::{Client, Spec};
use crate::faults::{FaultSet, Plan, strikes};
use crate::link::Cx;
use crate::model::{Known, Model};
use crate::trace::{Trace, note};
use crate::{Check, Stats};
use flumen_base::Prng;
use flumen_log::checkpoint::has_clean_shutdown;
use flumen_shard::LogDir;
use std::path::PathBuf;

/// Steps after which a run that should come to rest has failed to.
const SETTLE_STEPS_MAX: u64 = 400_000;
/// A clean shutdown takes at most so many steps.
const SHUTDOWN_STEPS_MAX: u64 = 50_000;

/// A run in progress.
pub(crate) struct Sim {
    broker: Broker,
    model: Model,
    rng: Prng,
    pub(crate) trace: Trace,
    specs: Vec<Spec>,
    clients: Vec<Box<dyn Client>>,
    committers: Vec<Committer>,
    plan: Plan,
    settling: bool,
    shutdown_since: Option<u64>,
    pub(crate) steps: u64,
    pub(crate) stats: Stats,
}

impl Sim {
    pub(crate) fn new(seed: u64, faults: FaultSet, trace: Trace) -> Check<Self> {
        let mut rng = Prng::new(seed);
        let shards = 1 + rng.below(4) as usize;
        let mut broker = boot::prepare(shards, &mut rng)?;
        let plan = Plan::draw(faults, &mut rng);
        broker.ring.faults = plan.io;
        broker.garbage = plan.garbage && plan.power;
        let specs = specs(&mut rng);
        let clients = clients(&specs, &plan, &mut rng);
        let committers = ["group-a", "group-b"].map(|group| {
            let timeout_ms = 200 + rng.below(4_000);
            Committer::new(group.to_owned(), specs[1].clone(), timeout_ms, plan.cuts)
        });
        Ok(Self {
            broker,
            model: Model::default(),
            rng,
            trace,
            specs,
            clients,
            committers: committers.into(),
            plan,
            settling: false,
            shutdown_since: None,
            steps: 0,
            stats: Stats::default(),
        })
    }

    /// Runs `steps` steps with faults, then lets everything come to rest and checks that it does,
    /// and that the disk then holds what was promised.
    pub(crate) fn run(&mut self, steps: u64) -> Check {
        let (shards, plan) = (self.broker.shards, &self.plan);
        note!(self.trace, "shards={shards} plan={plan:?}");
        self.start()?;
        while self.steps < steps {
            self.step()?;
        }
        self.settle()?;
        self.end(Death::Kill, false)?;
        self.stats.acks = self.model.acks;
        self.stats.records_read = self.model.records_read;
        self.stats.searches = self.model.searches;
        self.stats.disk_failures = self.broker.ring.failures;
        Ok(())
    }

    fn settle(&mut self) -> Check {
        note!(self.trace, "settle");
        self.settling = true;
        if self.broker.full {
            self.broker.set_room(None, &mut self.trace);
        }
        // What the disk has refused for good comes back with the next start.
        if self.plan.disk_may_fail() && self.broker.is_up() {
            self.end(Death::Kill, false)?;
        }
        self.plan.settle();
        self.broker.disk_delay_max = 100_000;
        self.broker.ring.faults = self.plan.io;
        for client in &mut self.clients {
            client.settle();
        }
        let until = self.steps + SETTLE_STEPS_MAX;
        loop {
            for _ in 0..50 {
                self.step()?;
            }
            let left = self.left_to_do();
            match left {
                None => return Ok(()),
                Some(left) if self.steps > until => return Err(format!("no rest: {left}")),
                Some(_) => {}
            }
        }
    }

    fn left_to_do(&mut self) -> Option<String> {
        if !self.broker.is_up() || !self.broker.nodes.iter().all(|n| n.ready) {
            return Some("the broker is not ready".to_owned());
        }
        let (clients, committers) = (&self.clients, &self.committers);
        let cx = Cx {
            broker: &mut self.broker,
            model: &mut self.model,
            rng: &mut self.rng,
            trace: &mut self.trace,
            settling: true,
        };
        let all = clients
            .iter()
            .map(|c| &**c)
            .chain(committers.iter().map(|c| c as &dyn Client));
        let mut left = all.filter_map(|c| Some(format!("{}: {}", c.name(), c.left_to_do(&cx)?)));
        left.next()
    }

    fn start(&mut self) -> Check {
        let faults = !self.settling;
        boot::start(&mut self.broker, faults, &mut self.rng, &mut self.trace)
    }

    fn step(&mut self) -> Check {
        self.steps += 1;
        if let Some(reason) = self.broker.fatal.take() {
            if !self.broker.ring.may_end {
                return Err(format!("the broker ended itself: {reason}"));
            }
            return self.die(Death::Kill);
        }
        if !self.broker.is_up() {
            self.broker.mono += self.rng.below(3_000_000_000);
            return self.start();
        }
        if let Some(since) = self.shutdown_since {
            if self.broker.nodes.iter().all(|n| n.stopped) {
                return self.stopped();
            }
            if self.steps - since > SHUTDOWN_STEPS_MAX {
                return Err("a clean shutdown does not end".to_owned());
            }
        }
        if !self.settling && self.rng.one_in(self.plan.end_one_in) {
            return self.end_somehow();
        }
        match self.rng.below(100) {
            0..40 => self.turn(),
            40..58 => self.io(),
            58..63 => self.job(),
            63..75 => self.deliver(),
            75..97 => self.client(),
            _ => {
                self.time_passes();
                Ok(())
            }
        }
    }

    // ---- ends ----

    fn end_somehow(&mut self) -> Check {
        let plan = &self.plan;
        match self.rng.below(4) {
            0 if plan.stops && self.shutdown_since.is_none() => {
                note!(self.trace, "shutdown");
                self.shutdown_since = Some(self.steps);
                self.broker.shut_down();
                Ok(())
            }
            1 | 2 if plan.power => {
                let garbage = plan.garbage;
                self.die(Death::PowerLoss { garbage })
            }
            _ if plan.kills => self.die(Death::Kill),
            _ => Ok(()),
        }
    }

    /// A shutdown is done. If it was a clean one (all logs were loaded and could be closed), even a
    /// power loss must not take anything now.
    fn stopped(&mut self) -> Check {
        let dirs = &self.broker.config.log_dirs;
        let clean = |d: &LogDir| has_clean_shutdown(&self.broker.disk, &d.path);
        let clean = dirs.iter().all(clean);
        note!(self.trace, "stopped clean={clean}");
        self.stats.shutdowns += 1;
        let power = self.plan.power && self.rng.one_in(2);
        let garbage = self.plan.garbage;
        let death = match power {
            true => Death::PowerLoss { garbage },
            false => Death::Kill,
        };
        self.model.unclean_ends += u32::from(!clean);
        self.end(death, power && !clean)
    }

    fn die(&mut self, death: Death) -> Check {
        match death {
            Death::Kill => self.stats.kills += 1,
            Death::PowerLoss { .. } => self.stats.power_losses += 1,
        }
        self.model.unclean_ends += 1;
        self.end(death, death != Death::Kill)
    }

    fn end(&mut self, death: Death, loses: bool) -> Check {
        self.shutdown_since = None;
        boot::die(&mut self.broker, death, &mut self.rng, &mut self.trace)?;
        // What still came must be heard before promises are taken back.
        for n in 0..self.clients.len() + self.committers.len() {
            self.with_client(n, |client, cx| client.receive(cx))?;
        }
        self.model.new_life();
        // What a sync could not write may go with the process that knew it.
        let loses = loses || self.broker.disk.take_lost_syncs();
        if loses {
            self.model.power_lost();
        }
        for committer in &mut self.committers {
            committer.process_ended(loses);
        }
        if self.plan.rot && self.rng.one_in(2) {
            self.rot();
        }
        self.stats.audits += 1;
        let (specs, trace) = (&self.specs, &mut self.trace);
        audit(&self.broker, &mut self.model, specs, trace)
    }

    /// A bit flips in some file of some partition that clients use.
    fn rot(&mut self) {
        let plain: Vec<&Spec> = self
            .specs
            .iter()
            .filter(|s| !s.compacted && !s.transactional)
            .collect();
        let spec = plain[self.rng.below(plain.len() as u64) as usize];
        let partition = self.rng.below(spec.partitions as u64) as i32;
        let name = format!("{}-{partition}", spec.name);
        let Known::Exists(id) = self.model.topic(spec.name).0 else {
            return;
        };
        let files = self.broker.disk.paths().into_iter();
        let in_it = |path: &PathBuf| path.parent().is_some_and(|dir| dir.ends_with(&name));
        let files: Vec<PathBuf> = files.filter(in_it).collect();
        if files.is_empty() {
            return;
        }
        let path = &files[self.rng.below(files.len() as u64) as usize];
        let len = self.broker.disk.contents(path).map_or(0, |c| c.len());
        let (at, bit) = (self.rng.below(len as u64), self.rng.below(8) as u8);
        if self.broker.disk.flip_bit(path, at, bit) {
            let path = path.display();
            note!(self.trace, "bit {bit} of byte {at} of {path} flips");
            self.model.rots((id, partition));
        }
    }

    // ---- pieces ----

    fn turn(&mut self) -> Check {
        let busy = self.broker.busy_shards();
        match self.pick(&busy) {
            Some(n) => self.broker.turn(n, &mut self.rng, &mut self.trace),
            None => {
                self.when_idle();
                Ok(())
            }
        }
    }

    fn io(&mut self) -> Check {
        let files = self.broker.ready_files();
        match self.pick(&files) {
            Some(id) => self.broker.advance_io(id, &mut self.rng, &mut self.trace),
            None => self.when_idle(),
        }
        Ok(())
    }

    fn job(&mut self) -> Check {
        let jobs = self.broker.ready_jobs();
        if let Some(at) = self.pick(&jobs) {
            self.broker.run_job(at, &mut self.rng, &mut self.trace);
        }
        Ok(())
    }

    fn deliver(&mut self) -> Check {
        let conns = self.broker.sending();
        match self.pick(&conns) {
            Some(id) => self.broker.deliver(id, &mut self.rng, &mut self.trace),
            None => Ok(()),
        }
    }

    fn client(&mut self) -> Check {
        let all = (self.clients.len() + self.committers.len()) as u64;
        let n = self.rng.below(all) as usize;
        self.broker.mono += self.rng.below(30_000);
        self.with_client(n, |client, cx| client.act(cx))
    }

    fn with_client(
        &mut self,
        n: usize,
        f: impl FnOnce(&mut dyn Client, &mut Cx<'_>) -> Check,
    ) -> Check {
        let mut cx = Cx {
            broker: &mut self.broker,
            model: &mut self.model,
            rng: &mut self.rng,
            trace: &mut self.trace,
            settling: self.settling,
        };
        let count = self.clients.len();
        match self.clients.get_mut(n) {
            Some(client) => f(&mut **client, &mut cx),
            None => f(&mut self.committers[n - count], &mut cx),
        }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.rng.below(of.len() as u64) as usize).copied()
    }

    /// Nothing can be done now: on to the next moment at which something can, sometimes.
    fn when_idle(&mut self) {
        let odds = if self.settling { 2 } else { 8 };
        let work = !self.broker.sending().is_empty() || !self.broker.busy_shards().is_empty();
        if !work && self.rng.one_in(odds) {
            self.skip_to_next_moment();
        }
    }

    fn skip_to_next_moment(&mut self) {
        if let Some(at) = self.broker.next_time() {
            self.broker.mono = self.broker.mono.max(at);
        }
    }

    fn time_passes(&mut self) {
        let passed = match self.rng.below(60) {
            0 if !self.settling => self.rng.below(20_000_000_000),
            1..8 => {
                self.skip_to_next_moment();
                0
            }
            8..20 => self.rng.below(200_000_000),
            _ => self.rng.below(2_000_000),
        };
        self.broker.mono += passed;
        self.broker.wall_ms += (passed / 1_000_000) as i64;
        if self.settling {
            return;
        }
        if strikes(self.plan.jump_one_in, &mut self.rng) {
            // Forth and back, within an hour of what was.
            let off = self.rng.below(7_200_000) as i64 - 3_600_000;
            self.broker.wall_ms = boot::WALL_START_MS + off;
            note!(self.trace, "wall clock jumps to {}", self.broker.wall_ms);
        }
        if strikes(self.plan.full_one_in, &mut self.rng) {
            let room = self.rng.below(30_000);
            self.broker.set_room(Some(room), &mut self.trace);
        } else if self.broker.full && self.rng.one_in(8) {
            self.broker.set_room(None, &mut self.trace);
        }
        if self.rng.one_in(10) {
            let slow = strikes(self.plan.slow_one_in, &mut self.rng);
            self.broker.disk_delay_max = if slow { 400_000_000 } else { 500_000 };
        }
    }
}

/// The topics of a run.
fn specs(rng: &mut Prng) -> Vec<Spec> {
    let mut spec = |name, durable| Spec {
        name,
        partitions: 1 + rng.below(4) as i32,
        durable,
        comes_and_goes: false,
        keeps: None,
        compacted: false,
        transactional: false,
    };
    let (durable, fast) = (spec("durable", true), spec("fast", false));
    let (guest, rolling) = (spec("guest", false), spec("rolling", false));
    let (keyed, ledger) = (spec("keyed", true), spec("ledger", true));
    let shared = spec("shared", true);
    vec![
        durable,
        fast,
        Spec {
            comes_and_goes: true,
            ..guest
        },
        Spec {
            durable: rng.one_in(2),
            keeps: Some(1_000 + rng.below(30_000)),
            ..rolling
        },
        Spec {
            partitions: 1,
            compacted: true,
            ..keyed
        },
        Spec {
            transactional: true,
            ..ledger
        },
        shared,
    ]
}

fn clients(specs: &[Spec], plan: &Plan, rng: &mut Prng) -> Vec<Box<dyn Client>> {
    let [durable, fast, guest, rolling, keyed, ledger, shared] = specs else {
        return Vec::new(); // `specs` makes seven
    };
    let pause = 2 + rng.below(20);
    let mut clients: Vec<Box<dyn Client>> = vec![Box::new(Admin::new(specs.to_vec(), pause))];
    let mut producer = |rng: &mut Prng, name: &str, specs: &[&Spec], idempotent, acks| {
        let style = Style {
            idempotent,
            acks,
            unacked_max: if name == "careful" { 1 } else { IN_FLIGHT_MAX },
            failing_disk: plan.disk_may_fail(),
            cuts: plan.cuts,
        };
        let timeout_ms = 100 + rng.below(4_000);
        let specs = specs.iter().map(|s| (*s).clone()).collect();
        let client = Producer::new(name.to_owned(), specs, style, timeout_ms);
        clients.push(Box::new(client));
    };
    producer(rng, "idempotent", &[durable, fast, rolling], true, -1);
    producer(rng, "careful", &[durable, fast], true, -1);
    producer(rng, "simple", &[durable, fast, rolling], false, 1);
    producer(rng, "forgetful", &[fast], false, 0);
    producer(rng, "guest's", &[guest], false, -1);
    producer(rng, "sharers'", &[shared], true, -1);
    for n in 1..=2 {
        let (from, timeout_ms) = (rng.next_u64() >> 8, 2_000 + rng.below(4_000));
        let name = format!("consumer {n}");
        let specs = vec![durable, fast, guest, rolling];
        let specs = specs.into_iter().cloned().collect();
        let manner = Manner {
            failing_disk: plan.disk_may_fail(),
            cuts: plan.cuts,
            timeout_ms,
        };
        clients.push(Box::new(Consumer::new(name, specs, from, manner)));
    }
    let searched = vec![durable.clone(), fast.clone()];
    let fails = plan.disk_may_fail();
    clients.push(Box::new(Seeker::new(searched, fails)));
    clients.push(Box::new(Keyed::new(keyed.clone(), fails, plan.cuts)));
    for name in ["ledger a", "ledger b"] {
        let modern = rng.one_in(2);
        let client = Ledger::new(name, ledger.clone(), modern, (fails, plan.cuts));
        clients.push(Box::new(client));
    }
    let limit = 2 + rng.below(9) as i16;
    clients.push(Box::new(Sharers::new(
        shared.clone(),
        limit,
        fails,
        plan.cuts,
    )));
    clients
}
