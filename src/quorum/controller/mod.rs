//! The controller's handlers: each reads the latest image and a request, and returns the records to
//! propose together with the response to send once they are committed and applied. Nothing is
//! changed here.
//!
//! One file per family of requests; the rules and messages are those of Kafka 4.3.1's KRaft
//! controller. There is no authorizer yet: every caller may do everything.

mod brokers;
mod configs;
mod create_topics;
mod delete_topics;
mod describe_quorum;
mod directories;
mod elections;
mod features;
mod metadata_version;
mod partitions;
mod placement;
mod producer_ids;
mod reassignments;

pub use brokers::{Registration, cluster_id_of, register_broker, unregister_broker};
pub use configs::{alter_configs, incremental_alter_configs};
pub use create_topics::{
    auto_create_topics, create_topics, is_internal_topic, validate_topic_name,
};
pub use delete_topics::delete_topics;
pub use describe_quorum::describe_quorum;
pub use directories::{assign_directories, directories_left, directory_moved, directory_records};
pub use elections::elect_leaders;
pub use features::{
    BUILT_FEATURES, BuiltFeature, GROUP_VERSION_FEATURE, SHARE_VERSION_FEATURE,
    STREAMS_VERSION_FEATURE, TRANSACTION_VERSION_FEATURE, built_feature, first_features,
    update_features,
};
pub(crate) use metadata_version::read_bootstrap;
pub use metadata_version::{
    METADATA_VERSION, METADATA_VERSION_FEATURE, metadata_version_of, metadata_versions,
    write_bootstrap,
};
pub use partitions::create_partitions;
pub use producer_ids::{PRODUCER_ID_BLOCK_LEN, ProducerIdBlock, allocate_producer_ids};
pub use reassignments::{alter_partition_reassignments, list_partition_reassignments};

use crate::image::Image;
use crate::record::MetadataRecord;
use flumen_base::ErrorCode;
use flumen_settings::BrokerConfig;
use std::borrow::Cow;

/// Records that one request may cause (`QuorumController.MAX_RECORDS_PER_USER_OP`), and partitions
/// that one may create.
pub const RECORDS_PER_REQUEST_MAX: usize = 10_000;

/// What every handler reads.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// [`crate::Quorum::latest`].
    pub image: &'a Image,
    /// Static and default values of settings.
    pub broker: &'a BrokerConfig,
}

/// What a handler decided: propose `records` (as one entry, all or nothing), and answer with
/// `response` after every local shard has applied them. Without records the response can leave at
/// once.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<R> {
    /// May be empty.
    pub records: Vec<MetadataRecord>,
    /// Owned, ready to encode.
    pub response: R,
}

impl<R> Decision<R> {
    fn answer(response: R) -> Self {
        Self {
            records: Vec::new(),
            response,
        }
    }

    fn new(records: Vec<MetadataRecord>, validate_only: bool, response: R) -> Self {
        Self {
            records: if validate_only { Vec::new() } else { records },
            response,
        }
    }
}

/// An error of one item of a request, as it goes into the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The code.
    pub code: ErrorCode,
    /// What is wrong. `None` where Kafka sends none because it would only repeat the code.
    pub message: Option<String>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
        }
    }

    pub(crate) fn bare(code: ErrorCode) -> Self {
        Self {
            code,
            message: None,
        }
    }

    fn too_many_records() -> Self {
        Self::new(
            ErrorCode::PolicyViolation,
            "Unable to perform excessively large batch operation.",
        )
    }
}

/// Error code and message of an item.
fn wire_error<T>(result: &Result<T, ApiError>) -> (i16, Option<Cow<'static, str>>) {
    match result {
        Ok(_) => (0, None),
        Err(e) => (e.code.code(), e.message.clone().map(Cow::Owned)),
    }
}

fn owned(text: &str) -> Cow<'static, str> {
    Cow::Owned(text.to_owned())
}
