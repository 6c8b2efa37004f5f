//! A Produce request (versions 3 to 13), walked in place.

use super::{TopicRef, len_size_min};
use crate::{DecodeError, Reader};
use std::ops::Range;

/// The first version that names topics by id.
pub(crate) const TOPIC_ID_FROM: i16 = 13;
pub(crate) const FLEXIBLE_FROM: i16 = 9;

/// A request that was checked as a whole, so that a walk through it cannot fail half way.
#[derive(Clone, Debug)]
pub struct ProduceRequest<'a> {
    /// Of a transactional producer.
    pub transactional_id: Option<&'a str>,
    /// 0, 1 or -1; anything else is the caller's to refuse.
    pub acks: i16,
    /// How long to wait for the in-sync replicas.
    pub timeout_ms: i32,
    /// Topics in the request, repeated ones counted again.
    pub topic_count: usize,
    /// Partitions in the request, repeated ones counted again.
    pub partition_count: usize,
    /// Topics with at least one partition: only they are answered.
    pub answered_topics: usize,
    walk: Partitions<'a>,
}

/// One partition's part of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducePartition<'a> {
    /// Its topic.
    pub topic: TopicRef<'a>,
    /// Where the topic's name (without its length) or id is in the frame.
    pub topic_at: Range<usize>,
    /// Which of the request's topics that is, from 0: partitions with the same ordinal were sent
    /// together.
    pub topic_ordinal: usize,
    /// How many partitions were sent with this topic.
    pub topic_partitions: usize,
    /// Index of the partition.
    pub index: i32,
    /// Where its records are in the frame; `None` is null.
    pub records: Option<Range<usize>>,
}

impl<'a> ProduceRequest<'a> {
    /// Checks the body that begins at `body_at` of `frame` and ends with it.
    ///
    /// # Errors
    /// Any [`DecodeError`], as the generated decoder.
    pub fn parse(frame: &'a [u8], body_at: usize, version: i16) -> Result<Self, DecodeError> {
        Self::parse_with(frame, body_at, version, |_| {})
    }

    /// As [`ProduceRequest::parse`], and `visit`s each partition on the way. What was visited
    /// counts only if there is no error.
    ///
    /// # Errors
    /// Any [`DecodeError`], as the generated decoder.
    #[inline]
    pub fn parse_with(
        frame: &'a [u8],
        body_at: usize,
        version: i16,
        mut visit: impl FnMut(&ProducePartition<'a>),
    ) -> Result<Self, DecodeError> {
        if !(3..=13).contains(&version) {
            return Err(DecodeError::Version(version));
        }
        let flexible = version >= FLEXIBLE_FROM;
        let mut r = Reader::new(frame);
        r.take(body_at);
        let transactional_id = r.nullable_str(flexible);
        let acks = r.i16();
        let timeout_ms = r.i32();
        let by_id = version >= TOPIC_ID_FROM;
        let topic_size =
            TopicRef::size_min(by_id, flexible) + len_size_min(flexible) + usize::from(flexible);
        let topic_count = r.array_len(flexible, topic_size);
        let walk = Partitions::new(r, version, topic_count);
        let mut check = walk.clone();
        let (mut partition_count, mut answered_topics) = (0, 0);
        let mut ordinal = usize::MAX;
        for partition in check.by_ref() {
            partition_count += 1;
            if partition.topic_ordinal != ordinal {
                ordinal = partition.topic_ordinal;
                answered_topics += 1;
            }
            visit(&partition);
        }
        let mut r = check.r;
        if flexible {
            r.skip_tags();
        }
        r.finish()?;
        Ok(Self {
            transactional_id,
            acks,
            timeout_ms,
            topic_count,
            partition_count,
            answered_topics,
            walk,
        })
    }

    /// Every partition, in the request's order.
    pub fn partitions(&self) -> Partitions<'a> {
        self.walk.clone()
    }
}

/// A walk through a request's partitions.
#[derive(Clone, Debug)]
pub struct Partitions<'a> {
    r: Reader<'a>,
    flexible: bool,
    by_id: bool,
    topics_left: usize,
    partitions_left: usize,
    topic: TopicRef<'a>,
    topic_at: Range<usize>,
    topics_seen: usize,
    topic_partitions: usize,
}

impl<'a> Partitions<'a> {
    fn new(r: Reader<'a>, version: i16, topics: usize) -> Self {
        Self {
            r,
            flexible: version >= FLEXIBLE_FROM,
            by_id: version >= TOPIC_ID_FROM,
            topics_left: topics,
            partitions_left: 0,
            topic: TopicRef::Name(""),
            topic_at: 0..0,
            topics_seen: 0,
            topic_partitions: 0,
        }
    }
}

impl<'a> Iterator for Partitions<'a> {
    type Item = ProducePartition<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let flexible = self.flexible;
        while self.partitions_left == 0 {
            if self.topics_left == 0 {
                return None;
            }
            self.topics_left -= 1;
            self.topics_seen += 1;
            self.topic = TopicRef::read(&mut self.r, self.by_id, flexible);
            let topic_end = self.r.position();
            let topic_len = match self.topic {
                TopicRef::Name(name) => name.len(),
                TopicRef::Id(id) => id.as_bytes().len(),
            };
            self.topic_at = topic_end.saturating_sub(topic_len)..topic_end;
            let partition_size = 4 + len_size_min(flexible) + usize::from(flexible);
            self.partitions_left = self.r.array_len(flexible, partition_size);
            self.topic_partitions = self.partitions_left;
            if self.partitions_left == 0 && flexible {
                self.r.skip_tags();
            }
        }
        self.partitions_left -= 1;
        let index = self.r.i32();
        let records = self.r.nullable_bytes(flexible).map(|records| {
            let end = self.r.position();
            end - records.len()..end
        });
        if flexible {
            self.r.skip_tags();
            if self.partitions_left == 0 {
                self.r.skip_tags();
            }
        }
        if self.r.failed() {
            // Only the check in `parse` comes here.
            (self.topics_left, self.partitions_left) = (0, 0);
            return None;
        }
        Some(ProducePartition {
            topic: self.topic,
            topic_at: self.topic_at.clone(),
            topic_ordinal: self.topics_seen - 1,
            topic_partitions: self.topic_partitions,
            index,
            records,
        })
    }
}
