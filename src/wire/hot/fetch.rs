//! A Fetch request (versions 4 to 18), walked in place.

use super::{TopicRef, len_size_min};
use crate::{DecodeError, Reader};
use flumen_base::Uuid;

const TOPIC_ID_FROM: i16 = 13;
const FLEXIBLE_FROM: i16 = 12;

/// A request that was checked as a whole, so that a walk through it cannot fail half way. Fields
/// that its version lacks have Kafka's defaults.
#[derive(Clone, Debug)]
pub struct FetchRequest<'a> {
    /// Checked by followers' leaders only.
    pub cluster_id: Option<&'a str>,
    /// Id of the follower that fetches, -1 for a consumer.
    pub replica_id: i32,
    /// Epoch of that follower, -1 when not known.
    pub replica_epoch: i64,
    /// How long to wait for `min_bytes`.
    pub max_wait_ms: i32,
    /// Answer at once when there are this many.
    pub min_bytes: i32,
    /// A limit that the first batch may exceed.
    pub max_bytes: i32,
    /// 0: read uncommitted, 1: read committed.
    pub isolation_level: i8,
    /// 0 for none.
    pub session_id: i32,
    /// 0 starts a session, -1 ends it or has none.
    pub session_epoch: i32,
    /// Rack of the consumer; empty when not known.
    pub rack_id: &'a str,
    /// Topics in the request, repeated ones counted again.
    pub topic_count: usize,
    /// Partitions in the request, repeated ones counted again.
    pub partition_count: usize,
    walk: Partitions<'a>,
    forgotten: Forgotten<'a>,
}

/// One partition's part of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPartition<'a> {
    /// Its topic.
    pub topic: TopicRef<'a>,
    /// Which of the request's topics that is, from 0.
    pub topic_ordinal: usize,
    /// Index of the partition.
    pub index: i32,
    /// The leader epoch that the client knows, -1 for none.
    pub current_leader_epoch: i32,
    /// The first offset wanted.
    pub fetch_offset: i64,
    /// Epoch of the last batch that a follower has, -1 for none.
    pub last_fetched_epoch: i32,
    /// Log start offset of a follower, -1 for a consumer.
    pub log_start_offset: i64,
    /// A limit that the first batch may exceed.
    pub max_bytes: i32,
    /// Directory of a follower's log.
    pub replica_directory_id: Uuid,
    /// High watermark that a follower knows; `i64::MAX` when it does not say.
    pub high_watermark: i64,
}

impl<'a> FetchRequest<'a> {
    /// Checks the body that begins at `body_at` of `frame` and ends with it.
    ///
    /// # Errors
    /// Any [`DecodeError`], as the generated decoder.
    pub fn parse(frame: &'a [u8], body_at: usize, version: i16) -> Result<Self, DecodeError> {
        Self::parse_with(frame, body_at, version, |_| {})
    }

    /// As [`FetchRequest::parse`], and `visit`s each partition on the way. What was visited counts
    /// only if there is no error.
    ///
    /// # Errors
    /// Any [`DecodeError`], as the generated decoder.
    #[inline]
    pub fn parse_with(
        frame: &'a [u8],
        body_at: usize,
        version: i16,
        mut visit: impl FnMut(&FetchPartition<'a>),
    ) -> Result<Self, DecodeError> {
        if !(4..=18).contains(&version) {
            return Err(DecodeError::Version(version));
        }
        let flexible = version >= FLEXIBLE_FROM;
        let mut r = Reader::new(frame);
        r.take(body_at);
        let replica_id = if version <= 14 { r.i32() } else { -1 };
        let mut request = Self {
            cluster_id: None,
            replica_id,
            replica_epoch: -1,
            max_wait_ms: r.i32(),
            min_bytes: r.i32(),
            max_bytes: r.i32(),
            isolation_level: r.i8(),
            session_id: if version >= 7 { r.i32() } else { 0 },
            session_epoch: if version >= 7 { r.i32() } else { -1 },
            rack_id: "",
            topic_count: 0,
            partition_count: 0,
            walk: Partitions::at(r, version),
            forgotten: Forgotten::none(version),
        };
        let mut check = request.walk.clone();
        request.topic_count = check.topics_left;
        for partition in check.by_ref() {
            request.partition_count += 1;
            visit(&partition);
        }
        r = check.r;
        if version >= 7 {
            request.forgotten = Forgotten::at(r, version);
            let mut check = request.forgotten.clone();
            check.by_ref().for_each(drop);
            r = check.r;
        }
        if version >= 11 {
            request.rack_id = r.str(flexible);
        }
        if flexible && !r.skip_no_tags() {
            request.read_tags(&mut r, version);
        }
        r.finish()?;
        Ok(request)
    }

    fn read_tags(&mut self, r: &mut Reader<'a>, version: i16) {
        let mut tags = r.tags();
        while let Some((tag, mut t)) = r.next_tag(&mut tags) {
            match tag {
                0 => {
                    self.cluster_id = t.nullable_str(true);
                    r.end_tag(t);
                }
                1 if version >= 15 => {
                    self.replica_id = t.i32();
                    self.replica_epoch = t.i64();
                    t.skip_tags();
                    r.end_tag(t);
                }
                1 => r.fail(DecodeError::TagNotInVersion(tag)),
                _ => {}
            }
        }
    }

    /// Every partition to fetch (of a session: to add or change), in the request's order.
    pub fn partitions(&self) -> Partitions<'a> {
        self.walk.clone()
    }

    /// Partitions that leave the session.
    pub fn forgotten(&self) -> Forgotten<'a> {
        self.forgotten.clone()
    }
}

impl<'a> FetchPartition<'a> {
    /// What only followers send.
    fn read_tags(&mut self, r: &mut Reader<'a>, version: i16) {
        let mut tags = r.tags();
        while let Some((tag, mut t)) = r.next_tag(&mut tags) {
            match tag {
                0 if version >= 17 => self.replica_directory_id = t.uuid(),
                1 if version >= 18 => self.high_watermark = t.i64(),
                0 | 1 => {
                    r.fail(DecodeError::TagNotInVersion(tag));
                    continue;
                }
                _ => continue,
            }
            r.end_tag(t);
        }
    }
}

/// A walk through a request's partitions.
#[derive(Clone, Debug)]
pub struct Partitions<'a> {
    r: Reader<'a>,
    version: i16,
    topics_left: usize,
    partitions_left: usize,
    topic: TopicRef<'a>,
    topics_seen: usize,
}

impl<'a> Partitions<'a> {
    fn at(mut r: Reader<'a>, version: i16) -> Self {
        let flexible = version >= FLEXIBLE_FROM;
        let size_min = TopicRef::size_min(version >= TOPIC_ID_FROM, flexible)
            + len_size_min(flexible)
            + usize::from(flexible);
        let topics_left = r.array_len(flexible, size_min);
        Self {
            r,
            version,
            topics_left,
            partitions_left: 0,
            topic: TopicRef::Name(""),
            topics_seen: 0,
        }
    }

    #[inline]
    fn partition(&mut self) -> FetchPartition<'a> {
        let (r, version) = (&mut self.r, self.version);
        let mut partition = FetchPartition {
            topic: self.topic,
            topic_ordinal: self.topics_seen - 1,
            index: r.i32(),
            current_leader_epoch: if version >= 9 { r.i32() } else { -1 },
            fetch_offset: r.i64(),
            last_fetched_epoch: if version >= 12 { r.i32() } else { -1 },
            log_start_offset: if version >= 5 { r.i64() } else { -1 },
            max_bytes: r.i32(),
            replica_directory_id: Uuid::ZERO,
            high_watermark: i64::MAX,
        };
        if version >= FLEXIBLE_FROM && !r.skip_no_tags() {
            partition.read_tags(r, version);
        }
        partition
    }
}

impl<'a> Iterator for Partitions<'a> {
    type Item = FetchPartition<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let version = self.version;
        let flexible = version >= FLEXIBLE_FROM;
        while self.partitions_left == 0 {
            if self.topics_left == 0 {
                return None;
            }
            self.topics_left -= 1;
            self.topics_seen += 1;
            self.topic = TopicRef::read(&mut self.r, version >= TOPIC_ID_FROM, flexible);
            // Index, offset and limit stand in every version; the rest came with 5, 9 and 12.
            let size_min = 16
                + 8 * usize::from(version >= 5)
                + 4 * usize::from(version >= 9)
                + 5 * usize::from(version >= 12);
            self.partitions_left = self.r.array_len(flexible, size_min);
            if self.partitions_left == 0 && flexible {
                self.r.skip_tags();
            }
        }
        self.partitions_left -= 1;
        let partition = self.partition();
        if flexible && self.partitions_left == 0 {
            self.r.skip_tags();
        }
        if self.r.failed() {
            // Only the check in `parse` comes here.
            (self.topics_left, self.partitions_left) = (0, 0);
            return None;
        }
        Some(partition)
    }
}

/// A walk through the partitions that leave the session.
#[derive(Clone, Debug)]
pub struct Forgotten<'a> {
    r: Reader<'a>,
    version: i16,
    topics_left: usize,
    partitions_left: usize,
    topic: TopicRef<'a>,
}

impl<'a> Forgotten<'a> {
    fn none(version: i16) -> Self {
        let r = Reader::new(&[]);
        Self {
            r,
            version,
            topics_left: 0,
            partitions_left: 0,
            topic: TopicRef::Name(""),
        }
    }

    fn at(mut r: Reader<'a>, version: i16) -> Self {
        let flexible = version >= FLEXIBLE_FROM;
        let size_min = TopicRef::size_min(version >= TOPIC_ID_FROM, flexible)
            + len_size_min(flexible)
            + usize::from(flexible);
        let topics_left = r.array_len(flexible, size_min);
        Self {
            r,
            topics_left,
            ..Self::none(version)
        }
    }
}

impl<'a> Iterator for Forgotten<'a> {
    /// Topic and index of the partition.
    type Item = (TopicRef<'a>, i32);

    fn next(&mut self) -> Option<Self::Item> {
        let flexible = self.version >= FLEXIBLE_FROM;
        while self.partitions_left == 0 {
            if self.topics_left == 0 {
                return None;
            }
            self.topics_left -= 1;
            self.topic = TopicRef::read(&mut self.r, self.version >= TOPIC_ID_FROM, flexible);
            self.partitions_left = self.r.array_len(flexible, 4);
            if self.partitions_left == 0 && flexible {
                self.r.skip_tags();
            }
        }
        self.partitions_left -= 1;
        let index = self.r.i32();
        if flexible && self.partitions_left == 0 {
            self.r.skip_tags();
        }
        if self.r.failed() {
            (self.topics_left, self.partitions_left) = (0, 0);
            return None;
        }
        Some((self.topic, index))
    }
}
