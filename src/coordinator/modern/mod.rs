//! What groups have in common whose assignment the coordinator makes: partitions by topic, the
//! assignors, the hash over the metadata of a group's topics. Consumer groups stand on it; share
//! and streams groups can.

pub(crate) mod assign;
mod hash;
mod partitions;

pub(crate) use hash::metadata_hash;
pub(crate) use partitions::{EpochPartitions, Partitions, with_epoch, without_epochs};
