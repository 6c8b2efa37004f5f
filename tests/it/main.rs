//! The scenarios, each against two shapes of the real broker (see the library's first lines).

#![allow(clippy::print_stdout, clippy::print_stderr)] // measurements belong to the output

#[path = "compare/mod.rs"]
mod compare;
#[path = "ecosystem/mod.rs"]
mod ecosystem;
#[path = "scenarios/mod.rs"]
mod scenarios;
