//! A load generator for anything that speaks Kafka's protocol, and the comparison of two runs.
//!
//! One thread drives all connections over non-blocking sockets, so that the client costs as little
//! as possible and its own scheduling does not show in the latencies. Requests are encoded once and
//! patched (correlation id, fetch offset, time stamp) before each send.
//!
//! - **Closed loop**: each connection keeps a fixed number of requests in flight; throughput is
//!   what is measured, and latency is from the send.
//! - **Open loop**: requests are due at a fixed rate, whatever the broker does; latency is from the
//!   time a request was *due*, so that a stall counts for all requests that it delayed.
//!
//! Nothing here is shared with the broker: batches and frames are this crate's and the
//! `kafka-protocol` crate's.
#![forbid(unsafe_code)]

pub mod args;
pub mod batch;
pub mod compare;
pub mod compress;
pub mod curve;
pub mod drive;
pub mod engine;
pub mod evict;
pub mod frames;
pub mod limit;
pub mod limit_answers;
pub mod limit_peer;
pub mod limit_store;
#[cfg(test)]
mod limit_test;
pub mod observe;
pub mod plot;
pub mod produce;
pub mod read;
pub mod report;
pub mod run;
pub mod setup;
pub mod suite;
pub mod tail;
pub mod tally;
#[cfg(test)]
mod testing;
pub mod workload;
