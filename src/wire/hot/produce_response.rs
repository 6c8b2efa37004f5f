//! The body of a Produce response (versions 3 to 13), written piece by piece. The answer names
//! topics as the request does: their names go from frame to frame without being looked at.

use super::produce::{FLEXIBLE_FROM, TOPIC_ID_FROM};
use crate::Writer;

/// From here on LogStartOffset.
const LOG_START_FROM: i16 = 5;
/// From here on RecordErrors and ErrorMessage (KIP-467).
const RECORD_ERRORS_FROM: i16 = 8;

/// Index, error, base offset, append time and log start offset.
const FIXED_BYTES: usize = 30;

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

/// Writes the body: each topic, then its partitions. Errors stay in the writer.
#[derive(Debug)]
pub struct ProduceAnswers<'w> {
    w: &'w mut Writer,
    version: i16,
    flexible: bool,
    left_of_topic: usize,
}

impl<'w> ProduceAnswers<'w> {
    /// Begins the body for so many topics.
    #[inline]
    pub fn begin(w: &'w mut Writer, version: i16, topics: usize) -> Self {
        let flexible = version >= FLEXIBLE_FROM;
        w.long_len(Some(topics), flexible);
        Self {
            w,
            version,
            flexible,
            left_of_topic: 0,
        }
    }

    /// A topic, by the bytes of its name, or of its id where the version names it so; so many
    /// partitions follow, at least one.
    #[inline]
    pub fn topic(&mut self, name: &[u8], partitions: usize) {
        if self.version < TOPIC_ID_FROM {
            self.w.string_len(Some(name.len()), self.flexible);
        }
        self.w.raw(name);
        self.w.long_len(Some(partitions), self.flexible);
        self.left_of_topic = partitions;
    }

    /// The next partition of the topic.
    #[inline]
    pub fn partition(&mut self, index: i32, answer: &PartitionAnswer<'_>) {
        self.left_of_topic = self.left_of_topic.saturating_sub(1);
        let mut fixed = [0; FIXED_BYTES + 4];
        fixed[..4].copy_from_slice(&index.to_be_bytes());
        fixed[4..6].copy_from_slice(&answer.error_code.to_be_bytes());
        fixed[6..14].copy_from_slice(&answer.base_offset.to_be_bytes());
        fixed[14..22].copy_from_slice(&answer.log_append_time_ms.to_be_bytes());
        fixed[22..30].copy_from_slice(&answer.log_start_offset.to_be_bytes());
        let refused = !answer.record_errors.is_empty() || answer.error_message.is_some();
        if self.flexible && !refused {
            // In one piece: no record errors, no message, no tags.
            fixed[FIXED_BYTES] = 1;
            let last_of_topic = usize::from(self.left_of_topic == 0);
            return self.w.raw(&fixed[..FIXED_BYTES + 3 + last_of_topic]);
        }
        if self.version >= LOG_START_FROM {
            self.w.raw(&fixed[..FIXED_BYTES]);
        } else {
            self.w.raw(&fixed[..22]);
        }
        self.partition_rest(answer);
    }

    /// What may be wrong with a partition, and its tags.
    fn partition_rest(&mut self, answer: &PartitionAnswer<'_>) {
        let Self {
            w,
            version,
            flexible,
            ..
        } = self;
        let (version, flexible) = (*version, *flexible);
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
            // No tags of the partition, nor of the topic after its last.
            let none: &[u8] = if self.left_of_topic == 0 {
                &[0, 0]
            } else {
                &[0]
            };
            self.w.raw(none);
        }
    }

    /// Ends the body.
    #[inline]
    pub fn finish(self) {
        // Throttle time, and no tags.
        let end: &[u8] = if self.flexible { &[0; 5] } else { &[0; 4] };
        self.w.raw(end);
    }
}
