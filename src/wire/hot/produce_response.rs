//! The body of a Produce response (versions 3 to 13), written while its request is walked again:
//! the answer names topics as the request does, so nothing of them is copied in between.

use super::TopicRef;
use super::produce::{Checked, FLEXIBLE_FROM, Partitions, TOPIC_ID_FROM};
use crate::Writer;

/// From here on LogStartOffset.
const LOG_START_FROM: i16 = 5;
/// From here on RecordErrors and ErrorMessage (KIP-467).
const RECORD_ERRORS_FROM: i16 = 8;

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAnswer<'a> {
    /// 0 where it was appended.
    pub error_code: i16,
    /// Offset of the first record, -1 with an error.
    pub base_offset: i64,
    /// -1 in CreateTime.
    pub log_append_time_ms: i64,
    /// Where the log starts, -1 where unknown.
    pub log_start_offset: i64,
    /// Index in the batch and what is wrong, of each refused record.
    pub record_errors: &'a [(i32, String)],
    /// What is wrong with the batch.
    pub error_message: Option<&'a str>,
}

/// Writes the body: one answer for each partition of the request that `frame` and `checked` are
/// of, in its order. Errors stay in the writer.
pub fn write_produce_response<'a>(
    w: &mut Writer,
    frame: &[u8],
    checked: Checked,
    version: i16,
    answers: impl Iterator<Item = PartitionAnswer<'a>>,
) {
    let flexible = version >= FLEXIBLE_FROM;
    w.long_len(Some(checked.answered), flexible);
    let mut left_of_topic = 0;
    for (part, answer) in Partitions::again(frame, checked, version).zip(answers) {
        if left_of_topic == 0 {
            left_of_topic = part.topic_partitions;
            match part.topic {
                TopicRef::Id(id) => w.uuid(id),
                TopicRef::Name(name) => w.nullable_str(Some(name), flexible),
            }
            w.long_len(Some(left_of_topic), flexible);
        }
        write_partition(w, part.index, &answer, version, flexible);
        left_of_topic -= 1;
        if flexible && left_of_topic == 0 {
            w.u8(0); // no tags of the topic
        }
    }
    w.i32(0); // throttle time
    if flexible {
        w.u8(0);
    }
}

fn write_partition(
    w: &mut Writer,
    index: i32,
    answer: &PartitionAnswer<'_>,
    version: i16,
    flexible: bool,
) {
    let mut fixed = [0; 30];
    fixed[..4].copy_from_slice(&index.to_be_bytes());
    fixed[4..6].copy_from_slice(&answer.error_code.to_be_bytes());
    fixed[6..14].copy_from_slice(&answer.base_offset.to_be_bytes());
    fixed[14..22].copy_from_slice(&answer.log_append_time_ms.to_be_bytes());
    fixed[22..].copy_from_slice(&answer.log_start_offset.to_be_bytes());
    if version >= LOG_START_FROM {
        w.raw(&fixed);
    } else {
        w.raw(&fixed[..22]);
    }
    if version >= RECORD_ERRORS_FROM {
        w.long_len(Some(answer.record_errors.len()), flexible);
        for (batch_index, message) in answer.record_errors {
            w.i32(*batch_index);
            w.nullable_str(Some(message), flexible);
            if flexible {
                w.u8(0);
            }
        }
        w.nullable_str(answer.error_message, flexible);
    }
    if flexible {
        w.u8(0);
    }
}

const _: () = assert!(TOPIC_ID_FROM > FLEXIBLE_FROM);
