//! What may go wrong in a run. Each kind can be switched on and off; how often it comes is drawn
//! from the seed.

use crate::io::{IoFaults, Writes};
use flumen_base::Prng;
use std::fmt;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed, anywhere.
    Kill,
    /// The power fails: what was not synced is lost, torn, or there, in any combination.
    Power,
    /// After a power loss new sectors hold garbage.
    Garbage,
    /// Clean shutdowns.
    Stop,
    /// Phases in which the disk is slow.
    Slow,
    /// The wall clock jumps.
    Clock,
    /// Writes and reads of jobs and of the ring are done in parts.
    Short,
    /// Log writes are direct, all or some.
    Direct,
    /// Any operation of the disk fails now and then.
    Errors,
    /// The disk is full at times.
    Full,
    /// Clients disconnect, and give up on slow answers.
    Cuts,
    /// A failed sync loses for good what it was to write.
    LostSync,
    /// Bits of synced data flip while the process is down.
    Rot,
}

/// All kinds: name, what it is, whether it is on unless something else is said.
const KINDS: [(Fault, &str, &str, bool); 13] = [
    (Fault::Kill, "kill", "the process is killed", true),
    (Fault::Power, "power", "the power fails", true),
    (
        Fault::Garbage,
        "garbage",
        "a power loss leaves garbage in new sectors",
        true,
    ),
    (Fault::Stop, "stop", "clean shutdowns", true),
    (Fault::Slow, "slow", "the disk is slow at times", true),
    (Fault::Clock, "clock", "the wall clock jumps", true),
    (
        Fault::Short,
        "short",
        "writes and reads are done in parts",
        true,
    ),
    (Fault::Direct, "direct", "direct log writes", true),
    (
        Fault::Errors,
        "errors",
        "any operation of the disk may fail",
        true,
    ),
    (Fault::Full, "full", "the disk is full at times", true),
    (
        Fault::Cuts,
        "cuts",
        "clients disconnect and give up on answers",
        true,
    ),
    (
        Fault::LostSync,
        "lost-sync",
        "a failed sync loses what it was to write",
        false,
    ),
    (
        Fault::Rot,
        "rot",
        "bits of synced data flip while the process is down",
        false,
    ),
];

/// The kinds of faults that may come in a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FaultSet(u32);

impl FaultSet {
    /// Nothing goes wrong; only the order of things is drawn.
    pub const NONE: Self = Self(0);

    /// Those under which nothing that was promised may be lost.
    pub fn usual() -> Self {
        let usual = KINDS.iter().filter(|k| k.3);
        usual.fold(Self::NONE, |set, k| set.with(k.0))
    }

    /// All of them.
    pub fn all() -> Self {
        KINDS.iter().fold(Self::NONE, |set, k| set.with(k.0))
    }

    /// With one more.
    pub fn with(self, fault: Fault) -> Self {
        Self(self.0 | (1 << fault as u32))
    }

    /// Without one.
    pub fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u32))
    }

    /// Whether this one may come.
    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    /// Reads a list: `kill,power` is these two, `-clock` the usual ones but for one, `+rot` the
    /// usual ones and one more; `usual`, `all` and `none` are sets.
    ///
    /// # Errors
    /// With the names that there are, if one is none of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut set = match text.starts_with(['-', '+']) {
            true => Self::usual(),
            false => Self::NONE,
        };
        for word in text.split(',').filter(|w| !w.is_empty()) {
            let (minus, name) = match (word.strip_prefix('-'), word.strip_prefix('+')) {
                (Some(name), _) => (true, name),
                (_, Some(name)) => (false, name),
                _ => (false, word),
            };
            let named = match name {
                "usual" => Self::usual(),
                "all" => Self::all(),
                "none" => Self::NONE,
                _ => {
                    let kind = KINDS.iter().find(|k| k.1 == name);
                    let kind = kind.ok_or_else(|| format!("{name:?} is none of:\n{}", help()))?;
                    Self::NONE.with(kind.0)
                }
            };
            set = match minus {
                true => Self(set.0 & !named.0),
                false => Self(set.0 | named.0),
            };
        }
        Ok(set)
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = KINDS
            .iter()
            .filter(|k| self.has(k.0))
            .map(|k| k.1)
            .collect();
        match names.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&names.join(",")),
        }
    }
}

impl fmt::Debug for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The kinds of faults, a line each.
pub fn help() -> String {
    let line = |k: &(Fault, &str, &str, bool)| {
        let usual = if k.3 { "" } else { " (not usual)" };
        format!("  {:10} {}{usual}\n", k.1, k.2)
    };
    KINDS.iter().map(line).collect()
}

/// True once in `one_in` times; never if that is 0.
pub(crate) fn strikes(one_in: u64, rng: &mut Prng) -> bool {
    one_in > 0 && rng.one_in(one_in)
}

/// What goes wrong in one run, and how often: drawn once.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The process ends one step in so many.
    pub(crate) end_one_in: u64,
    pub(crate) kills: bool,
    pub(crate) power: bool,
    pub(crate) garbage: bool,
    pub(crate) stops: bool,
    /// The disk is slow one phase in so many; 0 is never, as below.
    pub(crate) slow_one_in: u64,
    /// The wall clock jumps one time in so many.
    pub(crate) jump_one_in: u64,
    /// The disk fills up one time in so many.
    pub(crate) full_one_in: u64,
    pub(crate) cuts: bool,
    pub(crate) rot: bool,
    pub(crate) io: IoFaults,
}

impl Plan {
    /// Draws it; what is not in the set never comes.
    pub(crate) fn draw(set: FaultSet, rng: &mut Prng) -> Self {
        let mut maybe = |fault, one_in| rng.one_in(one_in) && set.has(fault);
        let (power, garbage) = (maybe(Fault::Power, 2), maybe(Fault::Garbage, 2));
        let (errors, full) = (maybe(Fault::Errors, 4), maybe(Fault::Full, 5));
        let (short, loses) = (maybe(Fault::Short, 2), maybe(Fault::LostSync, 1));
        let (direct, rot) = (maybe(Fault::Direct, 2), maybe(Fault::Rot, 1));
        let always = |fault, one_in: u64| if set.has(fault) { one_in } else { 0 };
        Self {
            end_one_in: 600 + rng.below(4_000),
            kills: set.has(Fault::Kill),
            power,
            garbage,
            stops: set.has(Fault::Stop),
            slow_one_in: always(Fault::Slow, 2 + rng.below(6)),
            jump_one_in: always(Fault::Clock, 30 + rng.below(200)),
            full_one_in: if full { 20 + rng.below(100) } else { 0 },
            cuts: set.has(Fault::Cuts),
            rot,
            io: IoFaults {
                writes: match (direct, rng.one_in(2)) {
                    (false, _) => Writes::Cached,
                    (true, false) => Writes::Direct,
                    (true, true) => Writes::Switching,
                },
                short,
                fail_one_in: if errors { 200 + rng.below(800) } else { 0 },
                loses_syncs: loses,
            },
        }
    }

    /// Whether the disk may refuse something: clients then hear of it.
    pub(crate) fn disk_may_fail(&self) -> bool {
        self.io.fail_one_in > 0 || self.full_one_in > 0 || self.rot
    }

    /// Nothing goes wrong any more.
    pub(crate) fn settle(&mut self) {
        let writes = self.io.writes;
        *self = Self {
            io: IoFaults {
                writes,
                ..IoFaults::default()
            },
            ..Self::draw(FaultSet::NONE, &mut Prng::new(0))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_they_are_shown() {
        for text in ["none", "kill,power", "short,direct,rot"] {
            assert_eq!(FaultSet::parse(text).unwrap().to_string(), text);
        }
        let usual = FaultSet::usual();
        assert_eq!(FaultSet::parse(&usual.to_string()), Ok(usual));
        let but_clock = FaultSet::parse("-clock,+rot").unwrap();
        assert_eq!(but_clock, usual.without(Fault::Clock).with(Fault::Rot));
        let unknown = FaultSet::parse("kil").unwrap_err();
        assert!(unknown.contains("lost-sync"), "{unknown}");
    }

    #[test]
    fn what_is_off_is_not_drawn() {
        for seed in 0..100 {
            let plan = Plan::draw(FaultSet::NONE, &mut Prng::new(seed));
            assert!(!plan.disk_may_fail() && !plan.power && !plan.stops);
            assert!(plan.slow_one_in == 0 && plan.jump_one_in == 0);
        }
    }
}
