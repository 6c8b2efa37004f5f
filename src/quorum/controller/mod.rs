//! The controller's handlers: each reads the latest image and a request, and returns the records to propose together with the
//! response to send once they are committed and applied. Nothing is changed here.
//!
//! One file per family of requests; the rules and messages are those of Kafka 4.3.1's KRaft controller.

use crate::record::MetadataRecord;

/// What a handler decided: propose `records` (as one entry, all or nothing), and answer with `response` after every local
/// shard has applied them. Without records the response can leave at once.
#[derive(Clone, Debug)]
pub struct Decision<R> {
    /// May be empty.
    pub records: Vec<MetadataRecord>,
    /// Owned, ready to encode.
    pub response: R,
}

/// Whether a topic of this name is one of the broker's own (`Topic.INTERNAL_TOPICS`).
pub fn is_internal_topic(name: &str) -> bool {
    matches!(
        name,
        "__consumer_offsets" | "__transaction_state" | "__share_group_state"
    )
}

/// What every handler reads.
///
/// Handlers (added with the wire types; each takes `&Context`, some a `&mut Prng`, and the request):
/// `create_topics`, `delete_topics`, `create_partitions`, `alter_configs`, `incremental_alter_configs`,
/// `allocate_producer_ids`, `alter_partition_reassignments`, `list_partition_reassignments`, `elect_leaders`,
/// `update_features`, `unregister_broker`, `describe_quorum`, `auto_create_topics(&Context, &mut Prng, &[&str])`,
/// `register_broker` (at each start; the first one also writes cluster id and features).
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// [`crate::Quorum::latest`].
    pub image: &'a crate::Image,
    /// Static and default values of settings.
    pub broker: &'a flumen_settings::BrokerConfig,
}
