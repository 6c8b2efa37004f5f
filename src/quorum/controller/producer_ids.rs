//! Blocks of producer ids: each is given out once in the life of the cluster.

use super::{ApiError, Context, Decision};
use crate::record::MetadataRecord;
use flumen_base::{BrokerId, ErrorCode, ProducerId};

/// Ids in a block (`ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`).
pub const PRODUCER_ID_BLOCK_LEN: i32 = 1000;

/// Producer ids `first..first + len`, for one broker alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// The first id.
    pub first: ProducerId,
    /// How many.
    pub len: i32,
}

/// Takes the next block for a broker. The block may be used once its record is committed; what is
/// left of it after a restart is lost.
///
/// # Errors
/// If all 2^63 ids are taken.
pub fn allocate_producer_ids(
    ctx: &Context<'_>,
    broker: BrokerId,
) -> Result<Decision<ProducerIdBlock>, ApiError> {
    let first = ctx.image.next_producer_id();
    let Some(next) = first.checked_add(i64::from(PRODUCER_ID_BLOCK_LEN)) else {
        return Err(ApiError::bare(ErrorCode::UnknownServerError));
    };
    Ok(Decision {
        records: vec![MetadataRecord::ProducerIds { broker, next }],
        response: ProducerIdBlock {
            first,
            len: PRODUCER_ID_BLOCK_LEN,
        },
    })
}
