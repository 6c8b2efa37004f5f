//! The controller's answers, case by case, against those of Kafka 4.3.1.

// A test may panic; tables of cases are long.
#![allow(clippy::unwrap_used, clippy::type_complexity)]

#[path = "../common/mod.rs"]
mod common;

mod brokers;
mod configs;
mod directories;
mod fixture;
mod topics;
