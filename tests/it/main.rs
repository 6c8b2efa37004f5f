//! The scenarios, each against two shapes of the real broker (see the library's first lines).

#[path = "scenarios/mod.rs"]
mod scenarios;
