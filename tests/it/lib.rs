//! What the integration tests stand on: a broker in its own process, Kafka's own tools, and a small
//! raw client.
//!
//! Each scenario in `scenarios/` runs against the real `flumen` binary in two shapes (`start --dev`
//! and four shards), or, with `FLUMEN_IT_BROKER=kafka`, against Apache Kafka 4.3.1: a scenario that
//! fails there is wrong about Kafka.
//!
//! - `FLUMEN_BIN`: the binary; without it, the one beside the test program in cargo's folder.
//! - `FLUMEN_DEPS`: where `scripts/fetch-deps.sh` put Kafka's jars and the other clients.
//! - `FLUMEN_TEST_ROUNDS`: multiplies the size of the long scenarios.
//! - `FLUMEN_TEST_SEED`: repeats what a test that draws numbers printed.
//! - `FLUMEN_IT_KEEP`: keeps each broker's folder and prints where it is.

#![forbid(unsafe_code)]

pub mod broker;
pub mod committed;
pub mod cut_disk;
pub mod deps;
pub mod features;
pub mod history;
pub mod http;
pub mod loop_disk;
pub mod old_offsets;
pub mod ownership;
pub mod postgres;
pub mod process;
pub mod program;
pub mod raw;
pub mod tools;
pub mod wait;

pub use broker::{Broker, Kind, Options, Shape};
pub use features::{lacks, not_run};
pub use program::Program;
pub use raw::Raw;
pub use tools::{Output, tool};

/// How many times larger than usual the long scenarios run (`FLUMEN_TEST_ROUNDS`, at least 1).
pub fn rounds() -> usize {
    std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1)
        .max(1)
}

/// The same for a scenario that shows no more above `most`, which is what the promise it attacks
/// asks for (docs/durability.md).
pub fn rounds_to(most: usize) -> usize {
    rounds().min(most)
}

/// Numbers below their argument, from a seed that is printed and that `FLUMEN_TEST_SEED` repeats.
pub fn random(what: &str) -> impl FnMut(u64) -> u64 + use<> {
    let seed = std::env::var("FLUMEN_TEST_SEED");
    let mut state = seed.ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_nanos() as u64)
    });
    #[allow(clippy::print_stdout)] // belongs to the output of the test
    {
        println!("{what}: FLUMEN_TEST_SEED={state}");
    }
    move |below| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }
}
