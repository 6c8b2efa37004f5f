//! One run: the schedule of everything that happens, drawn from the seed.

use crate::boot::{self, Death};
use crate::broker::Broker;
use crate::client::admin::Admin;
use crate::client::committer::Committer;
use crate::client::consumer::Consumer;
use crate::client::producer::{IN_FLIGHT_MAX, Producer, Style};
use crate::client::{Client, Spec};
use crate::io::Writes;
use crate::link::Cx;
use crate::model::Model;
use crate::trace::{Trace, note};
use crate::{Check, Stats};
use flumen_base::Prng;
use flumen_log::checkpoint::has_clean_shutdown;
use flumen_shard::LogDir;

/// Steps after which a run that should come to rest has failed to.
const SETTLE_STEPS_MAX: u64 = 400_000;
/// A clean shutdown takes at most so many steps.
const SHUTDOWN_STEPS_MAX: u64 = 50_000;

/// What may go wrong in a run, drawn once.
#[derive(Debug)]
struct Faults {
    /// The process dies one step in so many.
    die_one_in: u64,
    /// Whether that may be a power loss.
    power: bool,
    /// The disk is slow one phase in so many.
    slow_one_in: u64,
    /// The wall clock jumps one time in so many.
    jump_one_in: u64,
}

/// A run in progress.
pub(crate) struct Sim {
    broker: Broker,
    model: Model,
    rng: Prng,
    pub(crate) trace: Trace,
    clients: Vec<Box<dyn Client>>,
    committers: Vec<Committer>,
    faults: Faults,
    failing_disk: u64,
    settling: bool,
    shutdown_since: Option<u64>,
    pub(crate) steps: u64,
    pub(crate) stats: Stats,
}

impl Sim {
    pub(crate) fn new(seed: u64, trace: Trace) -> Check<Self> {
        let mut rng = Prng::new(seed);
        let shards = 1 + rng.below(4) as usize;
        let mut broker = boot::prepare(shards, &mut rng)?;
        let spec = |rng: &mut Prng, name, durable, comes_and_goes| Spec {
            name,
            partitions: 1 + rng.below(4) as i32,
            durable,
            comes_and_goes,
        };
        let durable = spec(&mut rng, "durable", true, false);
        let fast = spec(&mut rng, "fast", false, false);
        let guest = spec(&mut rng, "guest", false, true);
        let failing_disk = if rng.one_in(4) {
            200 + rng.below(800)
        } else {
            0
        };
        let faults = Faults {
            die_one_in: 600 + rng.below(4_000),
            power: rng.one_in(2),
            slow_one_in: 2 + rng.below(6),
            jump_one_in: 30 + rng.below(200),
        };
        broker.ring.writes = match rng.below(4) {
            0 | 1 => Writes::Cached,
            2 => Writes::Direct,
            _ => Writes::Switching,
        };
        let fails = failing_disk > 0;
        let pause = 2 + rng.below(20);
        let stay = vec![durable.clone(), fast.clone()];
        let all = vec![durable.clone(), fast.clone(), guest.clone()];
        let mut clients: Vec<Box<dyn Client>> = vec![Box::new(Admin::new(all.clone(), pause))];
        let mut producer = |rng: &mut Prng, name: &str, specs: Vec<Spec>, idempotent, acks| {
            let style = Style {
                idempotent,
                acks,
                unacked_max: if name == "careful" { 1 } else { IN_FLIGHT_MAX },
                failing_disk: fails,
            };
            let timeout_ms = 100 + rng.below(4_000);
            let client = Producer::new(name.to_owned(), specs, style, timeout_ms);
            clients.push(Box::new(client));
        };
        producer(&mut rng, "idempotent", stay.clone(), true, -1);
        producer(&mut rng, "careful", stay.clone(), true, -1);
        producer(&mut rng, "simple", stay, false, 1);
        producer(&mut rng, "forgetful", vec![fast.clone()], false, 0);
        producer(&mut rng, "guest's", vec![guest], false, -1);
        for n in 1..=2 {
            let (from, timeout_ms) = (rng.next_u64() >> 8, 2_000 + rng.below(4_000));
            let name = format!("consumer {n}");
            let client = Consumer::new(name, all.clone(), from, fails, timeout_ms);
            clients.push(Box::new(client));
        }
        let committers = ["group-a", "group-b"]
            .map(|group| Committer::new(group.to_owned(), fast.clone(), 200 + rng.below(4_000)));
        Ok(Self {
            broker,
            model: Model::default(),
            rng,
            trace,
            clients,
            committers: committers.into(),
            faults,
            failing_disk,
            settling: false,
            shutdown_since: None,
            steps: 0,
            stats: Stats::default(),
        })
    }

    /// Runs `steps` steps with faults, then lets everything come to rest and checks that it does.
    pub(crate) fn run(&mut self, steps: u64) -> Check {
        let shards = self.broker.shards;
        let (faults, writes) = (&self.faults, self.broker.ring.writes);
        note!(self.trace, "shards={shards} {writes:?} faults={faults:?}");
        self.start()?;
        while self.steps < steps {
            self.step()?;
        }
        self.settle()?;
        self.stats.acks = self.model.acks;
        self.stats.records_read = self.model.records_read;
        Ok(())
    }

    fn settle(&mut self) -> Check {
        note!(self.trace, "settle");
        self.settling = true;
        self.broker.disk_delay_max = 100_000;
        // A log directory that failed comes back with the next start.
        if self.failing_disk > 0 && self.broker.is_up() {
            self.die(Death::Kill)?;
        }
        self.broker.ring.fail_one_in = 0;
        self.failing_disk = 0;
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
        self.broker.ring.fail_one_in = self.failing_disk;
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
        if !self.settling && self.rng.one_in(self.faults.die_one_in) {
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
        match self.rng.below(4) {
            0 if self.shutdown_since.is_none() => {
                note!(self.trace, "shutdown");
                self.shutdown_since = Some(self.steps);
                self.broker.shut_down();
                Ok(())
            }
            1 | 2 if self.faults.power => self.die(Death::PowerLoss),
            _ => self.die(Death::Kill),
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
        let power = self.faults.power && self.rng.one_in(2);
        let death = if power { Death::PowerLoss } else { Death::Kill };
        self.end(death, power && !clean)
    }

    fn die(&mut self, death: Death) -> Check {
        match death {
            Death::Kill => self.stats.kills += 1,
            Death::PowerLoss => self.stats.power_losses += 1,
        }
        self.end(death, death == Death::PowerLoss)
    }

    fn end(&mut self, death: Death, loses: bool) -> Check {
        self.shutdown_since = None;
        boot::die(&mut self.broker, death, &mut self.rng, &mut self.trace)?;
        // What still came must be heard before promises are taken back.
        for n in 0..self.clients.len() + self.committers.len() {
            self.with_client(n, |client, cx| client.receive(cx))?;
        }
        self.model.new_life();
        if loses {
            self.model.power_lost();
        }
        for committer in &mut self.committers {
            committer.process_ended(loses);
        }
        Ok(())
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
            Some(id) => self.broker.deliver(id, &mut self.trace),
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
        if self.rng.one_in(self.faults.jump_one_in) {
            // Forth and back, within an hour of what was.
            let off = self.rng.below(7_200_000) as i64 - 3_600_000;
            self.broker.wall_ms = boot::WALL_START_MS + off;
            note!(self.trace, "wall clock jumps to {}", self.broker.wall_ms);
        }
        if self.rng.one_in(10) {
            let slow = self.rng.one_in(self.faults.slow_one_in);
            self.broker.disk_delay_max = if slow { 400_000_000 } else { 500_000 };
        }
    }
}
