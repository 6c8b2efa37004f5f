//! A small blocking Kafka client on `std::net`: what the command line and the tests need, and
//! nothing of the broker's own
//! code, so that both ends of a conversation are independent. Messages are those of the
//! `kafka-protocol` crate; record
//! batches are our own (`records`), because that crate drops duplicate headers.
//!
//! ```no_run
//! use flumen_client::{Client, Options, Record};
//! let mut client = Client::connect("localhost:9092", Options::default())?;
//! let record = Record::new(Some(b"key".to_vec()), Some(b"value".to_vec()));
//! let offset = client.produce("topic", 0, &[record], &Default::default())?;
//! let records = client.fetch_one("topic", 0, offset, 500)?.records;
//! assert_eq!(records[0].value.as_deref(), Some(&b"value"[..]));
//! # Ok::<(), flumen_client::ClientError>(())
//! ```
//! The decoders of `kafka-protocol` trust array lengths: frames are capped at [`FRAME_BYTES_MAX`],
//! and the crate is used on
//! the client's side only.
#![forbid(unsafe_code)]

mod admin;
mod client;
mod codec;
mod conn;
mod data;
mod error;
mod group;
mod records;
#[cfg(test)]
mod records_test;

pub use admin::{
    ConfigOp, ConfigValue, GroupDescription, GroupMember, GroupOffsets, GroupSummary, NewTopic,
};
pub use client::{Broker, Client, Metadata, Options, PartitionInfo, TopicInfo};
pub use codec::Codec;
pub use conn::{Connection, FRAME_BYTES_MAX};
pub use data::{Fetched, ListedOffset, ProduceOptions};
pub use error::{ClientError, error_name};
pub use group::GroupConsumer;
pub use kafka_protocol;
pub use records::{BatchOptions, Record, decode_batches, encode_batch};

/// `ListOffsets` timestamp of the end of a partition.
pub const LATEST: i64 = -1;
/// `ListOffsets` timestamp of the start of a partition.
pub const EARLIEST: i64 = -2;
