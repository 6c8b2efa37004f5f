//! Idempotent producers of one partition.

/// The producers known to one partition.
#[derive(Clone, Debug, Default)]
pub struct ProducerState {}
