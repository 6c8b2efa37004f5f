//! Members of one group of a new protocol that do anything in any order, as clients do: they take
//! their time to give up what they are to give up, fall silent, crash, leave, come back; answers
//! get lost, writes fail, the process restarts. Under a seed. What they say and what must hold is
//! the [`Protocol`]'s.

use super::*;
use std::collections::BTreeSet;
use std::fmt::Debug;

pub const GROUP: &str = "g";
const SEEDS: u64 = 60;
const STEPS: usize = 400;
pub const MEMBERS: usize = 6;

/// What a client holds or is given, all of it.
pub type Held<P> = BTreeSet<<P as Protocol>::Item>;

/// A group protocol as the simulation sees it.
pub trait Protocol: Clone + Debug {
    /// What is assigned: a partition, a task.
    type Item: Clone + Debug + Ord;
    /// What a client of this protocol has beside what all have.
    type Own: Clone + Debug + Default;
    /// A description of the group.
    type Group: Debug + PartialEq;

    /// The coordinator's configuration and what only this protocol keeps.
    fn start(rng: &mut Prng) -> (CoordinatorConfig, Self);
    /// Makes [`MEMBERS`] clients and the first topics.
    fn populate(sim: &mut Sim<Self>);
    /// Client `n` or the world does what only this protocol knows: number 16, 17 or 18 was drawn.
    /// False if nothing happened.
    fn happens(sim: &mut Sim<Self>, n: usize, drawn: u64) -> bool;
    /// Sends a heartbeat of client `n`.
    fn beat(sim: &mut Sim<Self>, n: usize) -> ReplyToken;
    /// Says that this client leaves.
    fn leave(sim: &mut Sim<Self>, client: &Client<Self>) -> ReplyToken;
    /// Takes an answer to a heartbeat out of the world.
    fn answer(&mut self, w: &mut World, token: ReplyToken) -> Answer<Self>;
    /// Client `n` hears of an error that not all protocols have. False if it must not occur.
    fn refused(sim: &mut Sim<Self>, n: usize, error: ErrorCode) -> bool;
    /// The group, without what a replay does not know.
    fn describe(coordinator: &GroupCoordinator) -> Self::Group;
    /// Panics if a promise of the protocol is broken.
    fn check(sim: &Sim<Self>, group: &Self::Group);
    /// Everyone calms down from here on.
    fn calm_begins(_sim: &mut Sim<Self>) {}
    /// All clients have had a turn since everyone calmed down.
    fn calm_round(_sim: &mut Sim<Self>) {}
    /// The group is stable, and among these clients, which have all that they were given, each
    /// item is where it belongs.
    fn is_settled(sim: &Sim<Self>, group: &Self::Group, inside: &[&Client<Self>]) -> bool;
}

/// An answer to a heartbeat.
#[derive(Debug)]
pub struct Answer<P: Protocol> {
    pub error: ErrorCode,
    pub epoch: i32,
    /// What it assigns, if it says.
    pub given: Option<Held<P>>,
}

/// A client as it sees itself.
#[derive(Clone, Debug)]
pub struct Client<P: Protocol> {
    pub id: String,
    pub epoch: i32,
    /// Has not joined, or was fenced.
    pub out: bool,
    /// What it has.
    pub owned: Held<P>,
    /// What it was told to have.
    pub given: Held<P>,
    /// Says everything with the next heartbeat.
    pub full: bool,
    pub waits_for: Option<ReplyToken>,
    pub silent: bool,
    pub own: P::Own,
}

impl<P: Protocol> Client<P> {
    pub fn new(own: P::Own) -> Self {
        Self {
            id: String::new(),
            epoch: 0,
            out: true,
            owned: BTreeSet::new(),
            given: BTreeSet::new(),
            full: false,
            waits_for: None,
            silent: false,
            own,
        }
    }

    /// It has nothing and must join again.
    pub fn is_fenced(&mut self) {
        self.owned.clear();
        self.given.clear();
        self.out = true;
    }

    /// The process is gone; the next one comes under another id.
    pub fn is_gone(&mut self) {
        self.is_fenced();
        self.id.clear();
        self.waits_for = None;
    }

    /// Whatever it waits for does not come.
    fn stops_waiting(&mut self) {
        if self.waits_for.take().is_some() {
            self.full = true;
        }
    }
}

pub struct Sim<P: Protocol> {
    pub w: World,
    pub rng: Prng,
    pub seed: u64,
    pub clients: Vec<Client<P>>,
    pub protocol: P,
    /// Who asked; `usize::MAX` for those who no longer listen.
    asked: BTreeMap<ReplyToken, usize>,
    ids: u64,
}

impl<P: Protocol> Sim<P> {
    fn new(seed: u64) -> Self {
        let mut rng = Prng::new(seed);
        let (config, protocol) = P::start(&mut rng);
        let mut w = World::with(config, seed);
        w.auto_commit = false;
        w.change_metadata(|m| m.topics.clear());
        let mut sim = Self {
            w,
            rng,
            seed,
            clients: Vec::new(),
            protocol,
            asked: BTreeMap::new(),
            ids: 0,
        };
        P::populate(&mut sim);
        sim
    }

    fn run(seed: u64) -> Self {
        let mut sim = Self::new(seed);
        (0..STEPS).for_each(|_| sim.step());
        sim
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
            drawn @ 16..=18 if P::happens(self, n, drawn) => {}
            18 | 19 => {
                let ms = self.rng.below(3_000) as i64;
                self.w.advance_ms(ms);
            }
            20 if self.rng.one_in(6) => {
                let ms = self.rng.below(60_000) as i64;
                self.w.advance_ms(ms);
            }
            21 if self.rng.one_in(12) => self.restart(),
            // The log fails: everything on its way to it does.
            22 if self.rng.one_in(6) => while self.w.fail_next(ErrorCode::NotLeaderOrFollower) {},
            _ => {
                for _ in 0..=self.rng.below(3) {
                    self.w.commit_next();
                }
            }
        }
        self.read_replies();
        self.check();
    }

    /// What a client does next: it gives up, takes what is new, heartbeats.
    fn go_on(&mut self, n: usize) {
        let lost = self.rng.one_in(20);
        let slow = self.rng.one_in(3);
        let client = &mut self.clients[n];
        if client.silent {
            return;
        }
        if client.waits_for.is_some() {
            if lost {
                client.stops_waiting();
            }
            return;
        }
        if client.out {
            return self.join(n);
        }
        let kept: Held<P> = client.owned.intersection(&client.given).cloned().collect();
        if kept == client.owned {
            client.owned.clone_from(&client.given);
        } else if !slow {
            client.owned = kept; // it has committed and given up
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
        client.full = true;
        client.out = false;
        self.beat(n);
    }

    fn beat(&mut self, n: usize) {
        let token = P::beat(self, n);
        let client = &mut self.clients[n];
        client.full = false;
        client.waits_for = Some(token);
        self.asked.insert(token, n);
    }

    fn leave(&mut self, n: usize) {
        let client = self.clients[n].clone();
        if client.out || client.silent {
            return;
        }
        self.clients[n].is_gone();
        let token = P::leave(self, &client);
        self.asked.insert(token, usize::MAX);
    }

    fn crash(&mut self, n: usize) {
        if self.rng.one_in(2) {
            self.clients[n].is_gone();
        }
    }

    fn restart(&mut self) {
        self.read_replies();
        self.w.restart();
        self.asked.clear();
        self.clients.iter_mut().for_each(Client::stops_waiting);
    }

    fn read_replies(&mut self) {
        for (token, reply) in std::mem::take(&mut self.w.replies) {
            self.w.replies.insert(token, reply);
            let answer = self.protocol.answer(&mut self.w, token);
            let asked = self.asked.remove(&token);
            let n = asked.unwrap_or_else(|| panic!("seed {}: stray {token:?}", self.seed));
            let client = self.clients.get(n);
            if client.is_some_and(|c| c.waits_for == Some(token)) {
                self.take(n, answer);
            }
        }
    }

    fn take(&mut self, n: usize, answer: Answer<P>) {
        let client = &mut self.clients[n];
        client.waits_for = None;
        match answer.error {
            ErrorCode::None => {
                client.epoch = answer.epoch;
                if let Some(given) = answer.given {
                    client.given = given;
                }
            }
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId => client.is_fenced(),
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                client.full = true;
                client.out = client.epoch == 0;
            }
            error => {
                let meant = P::refused(self, n, error);
                assert!(meant, "seed {}: {answer:?}", self.seed);
            }
        }
    }

    fn check(&mut self) {
        self.w.coordinator.check();
        let group = P::describe(&self.w.coordinator);
        P::check(self, &group);
        if self.w.coordinator.writes_outstanding() == 0 && self.rng.one_in(4) {
            let replayed = self.w.replayed(self.w.log.len());
            replayed.check();
            let back = P::describe(&replayed);
            let seed = self.seed;
            assert_eq!(back, group, "seed {seed}: a replay gives another group");
        }
    }

    /// Nobody falls silent, nothing changes any more.
    fn calm_down(&mut self) {
        for client in &mut self.clients {
            client.silent = false;
        }
        P::calm_begins(self);
        for round in 0..120 {
            for n in 0..self.clients.len() {
                self.w.commit_all();
                self.read_replies();
                self.clients[n].stops_waiting();
                self.go_on(n);
            }
            self.w.commit_all();
            self.read_replies();
            P::calm_round(self);
            self.check();
            // those that crashed are fenced meanwhile, the others are not
            self.w.advance_ms(2_000);
            if round > 60 && self.is_settled() {
                return;
            }
        }
        let group = P::describe(&self.w.coordinator);
        let (seed, clients) = (self.seed, &self.clients);
        panic!("seed {seed}: does not settle: {group:?}\n{clients:?}");
    }

    fn is_settled(&self) -> bool {
        let group = P::describe(&self.w.coordinator);
        let inside: Vec<&Client<P>> = self.clients.iter().filter(|c| !c.out).collect();
        inside.iter().all(|c| c.owned == c.given) && P::is_settled(self, &group, &inside)
    }

    /// The clients that the coordinator takes for alive.
    pub fn alive<'a>(
        &'a self,
        members: impl Iterator<Item = &'a str>,
    ) -> impl Iterator<Item = &'a Client<P>> {
        let alive: BTreeSet<&str> = members.collect();
        let clients = self.clients.iter();
        clients.filter(move |c| alive.contains(&*c.id))
    }
}

/// On every step the protocol's promises hold; in the end everyone calms down, the group becomes
/// stable and each item is where it belongs.
pub fn any_order_of_anything_keeps_the_promises<P: Protocol>() {
    for seed in seeds(SEEDS) {
        Sim::<P>::run(seed).calm_down();
    }
}

pub fn the_same_seed_gives_the_same_run<P: Protocol>() {
    let run = |seed| {
        let mut sim = Sim::<P>::run(seed);
        sim.calm_down();
        sim.w.log
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// Any prefix of a log can be loaded, and what it makes is consistent.
pub fn any_prefix_of_a_log_can_be_loaded<P: Protocol>() {
    for seed in 0..4 {
        let sim = Sim::<P>::run(seed);
        for len in 0..=sim.w.log.len() {
            sim.w.replayed(len).check();
        }
    }
}
