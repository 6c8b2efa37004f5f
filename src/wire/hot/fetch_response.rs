//! A Fetch response (versions 4 to 18), framed around records that stay where they are.

use super::TopicRef;
use crate::api::ApiKey;
use crate::header::write_response_header;
use crate::messages::fetch_response::NodeEndpoint;
use crate::{EncodeError, Value, Writer};
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

const TOPIC_ID_FROM: i16 = 13;
const FLEXIBLE_FROM: i16 = 12;

/// What stands around one partition's records.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionHead<'a> {
    /// Index of the partition.
    pub index: i32,
    /// 0 for none.
    pub error_code: i16,
    /// High watermark, -1 when not known.
    pub high_watermark: i64,
    /// Last stable offset, -1 when not known.
    pub last_stable_offset: i64,
    /// Log start offset, -1 when not known.
    pub log_start_offset: i64,
    /// Producer id and first offset of transactions that were aborted within the records. Kafka
    /// sends null to readers of uncommitted records.
    pub aborted: Option<&'a [(i64, i64)]>,
    /// Replica to read from next time, -1 for none. Not to be set below version 11.
    pub preferred_read_replica: i32,
    /// Epoch and end offset where a follower's log diverges. Not to be set below version 12.
    pub diverging_epoch: Option<(i32, i64)>,
    /// Leader's id and epoch, for a client that asked the wrong one. Not to be set below version
    /// 12.
    pub current_leader: Option<(i32, i32)>,
    /// Length of the records, `None` for null.
    pub records_len: Option<usize>,
}

impl PartitionHead<'_> {
    /// An error without records.
    pub fn error(index: i32, error_code: i16) -> Self {
        Self {
            index,
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: None,
            preferred_read_replica: -1,
            diverging_epoch: None,
            current_leader: None,
            records_len: Some(0),
        }
    }
}

/// Where records go into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// After so many of the written bytes.
    pub at: usize,
    /// Bytes of records.
    pub len: usize,
}

/// Writes a frame's framing; the records are the caller's to put into its gaps.
///
/// ```
/// use flumen_wire::hot::{TopicRef, fetch_response::{FetchFramer, PartitionHead}};
/// let mut framer = FetchFramer::new(12, 7, 0, 0, 0, 1);
/// framer.topic(TopicRef::Name("t"), 1);
/// let mut head = PartitionHead::error(0, 0);
/// head.records_len = Some(61);
/// framer.partition(&head);
/// let frame = framer.finish(&[])?;
/// assert_eq!(frame.len(), 4 + frame.announced());
/// let parts: Vec<(usize, usize)> = frame.parts().map(|(bytes, gap)| (bytes.len(), gap)).collect();
/// assert_eq!(parts.len(), 2); // framing before the 61 bytes, framing after
/// assert_eq!(parts[0].1, 61);
/// # Ok::<(), flumen_wire::EncodeError>(())
/// ```
#[derive(Debug)]
pub struct FetchFramer {
    w: Writer,
    gaps: SmallVec<[Gap; 4]>,
    gap_bytes: usize,
    version: i16,
    partitions_left: usize,
}

impl FetchFramer {
    /// Starts the frame: its length, header and the response's first fields, up to `topic_count`
    /// topics. `session_id` and `error_code` do not exist below version 7: a session id is an error
    /// there, an error code is dropped, as in Kafka.
    pub fn new(
        version: i16,
        correlation_id: i32,
        throttle_time_ms: i32,
        error_code: i16,
        session_id: i32,
        topic_count: usize,
    ) -> Self {
        let buf = BytesMut::with_capacity(128);
        let body = (error_code, session_id, topic_count);
        Self::with_buf(buf, version, correlation_id, throttle_time_ms, body)
    }

    /// As [`FetchFramer::new`], in an empty `buf`; its last argument is the error code, the session
    /// id and the topic count.
    pub fn with_buf(
        buf: BytesMut,
        version: i16,
        correlation_id: i32,
        throttle_time_ms: i32,
        (error_code, session_id, topic_count): (i16, i32, usize),
    ) -> Self {
        debug_assert!(buf.is_empty(), "the frame's length stands at its front");
        let mut w = Writer::with_buf(buf);
        if !(4..=18).contains(&version) {
            w.fail(EncodeError::Version {
                name: "FetchResponse",
                version,
            });
        }
        if version >= FLEXIBLE_FROM {
            // Room for the length, the header with no tags, the first fields.
            let mut start = [0; 19];
            start[4..8].copy_from_slice(&correlation_id.to_be_bytes());
            start[9..13].copy_from_slice(&throttle_time_ms.to_be_bytes());
            start[13..15].copy_from_slice(&error_code.to_be_bytes());
            start[15..].copy_from_slice(&session_id.to_be_bytes());
            w.raw(&start);
        } else {
            w.i32(0);
            write_response_header(&mut w, ApiKey::Fetch, version, correlation_id);
            w.i32(throttle_time_ms);
            if version >= 7 {
                w.i16(error_code);
                w.i32(session_id);
            } else if session_id != 0 {
                w.fail(EncodeError::NotInVersion {
                    field: "SessionId",
                    version,
                });
            }
        }
        w.long_len(Some(topic_count), version >= FLEXIBLE_FROM);
        Self {
            w,
            gaps: SmallVec::new(),
            gap_bytes: 0,
            version,
            partitions_left: 0,
        }
    }

    /// The next topic, of which `partition_count` partitions (at least one) follow. Its kind is the
    /// version's: an id from 13 on.
    pub fn topic(&mut self, topic: TopicRef<'_>, partition_count: usize) {
        debug_assert_eq!(
            self.partitions_left, 0,
            "partitions of the topic before are missing"
        );
        debug_assert_eq!(
            matches!(topic, TopicRef::Id(_)),
            self.version >= TOPIC_ID_FROM
        );
        let flexible = self.version >= FLEXIBLE_FROM;
        match topic {
            TopicRef::Name(name) => self.w.nullable_str(Some(name), flexible),
            TopicRef::Id(id) => self.w.uuid(id),
        }
        self.w.long_len(Some(partition_count), flexible);
        self.partitions_left = partition_count;
        if flexible && partition_count == 0 {
            self.w.u8(0);
        }
    }

    /// The topic's next partition. Its records go where the last of [`FetchFrame::gaps`] says.
    pub fn partition(&mut self, p: &PartitionHead<'_>) {
        let (w, version) = (&mut self.w, self.version);
        let flexible = version >= FLEXIBLE_FROM;
        let mut fixed = [0; 35];
        fixed[..4].copy_from_slice(&p.index.to_be_bytes());
        fixed[4..6].copy_from_slice(&p.error_code.to_be_bytes());
        fixed[6..14].copy_from_slice(&p.high_watermark.to_be_bytes());
        fixed[14..22].copy_from_slice(&p.last_stable_offset.to_be_bytes());
        fixed[22..30].copy_from_slice(&p.log_start_offset.to_be_bytes());
        // Behind them a compact null, for no list of aborted transactions.
        fixed[31..].copy_from_slice(&p.preferred_read_replica.to_be_bytes());
        if flexible && p.aborted.is_none() {
            w.raw(&fixed);
        } else {
            w.raw(&fixed[..if version >= 5 { 30 } else { 22 }]);
            write_aborted(w, p, version);
        }
        w.long_len(p.records_len, flexible);
        if let Some(len) = p.records_len.filter(|&n| n > 0) {
            self.gaps.push(Gap { at: w.len(), len });
            self.gap_bytes = self.gap_bytes.saturating_add(len);
        }
        if flexible {
            write_partition_tags(w, p);
        } else if p.diverging_epoch.is_some() || p.current_leader.is_some() {
            w.fail(EncodeError::NotInVersion {
                field: "DivergingEpoch or CurrentLeader",
                version,
            });
        }
        self.partitions_left = self.partitions_left.saturating_sub(1);
        if flexible && self.partitions_left == 0 {
            self.w.u8(0);
        }
    }

    /// Ends the frame. Endpoints of the leaders named in it do not exist below version 16.
    ///
    /// # Errors
    /// Something written is not in this version, or the frame is longer than an int32 can say.
    pub fn finish(mut self, endpoints: &[NodeEndpoint<'_>]) -> Result<FetchFrame, EncodeError> {
        debug_assert_eq!(
            self.partitions_left, 0,
            "partitions of the last topic are missing"
        );
        let (w, version) = (&mut self.w, self.version);
        if version >= 16 && !endpoints.is_empty() {
            w.u8(1);
            let at = w.begin_tag(0);
            w.long_len(Some(endpoints.len()), true);
            for endpoint in endpoints {
                endpoint.write(w, version, true);
            }
            w.end_tag(at);
        } else if !endpoints.is_empty() {
            w.fail(EncodeError::NotInVersion {
                field: "NodeEndpoints",
                version,
            });
        } else if version >= FLEXIBLE_FROM {
            w.u8(0);
        }
        w.check()?;
        let announced = (w.len() - 4).saturating_add(self.gap_bytes);
        w.patch_i32(
            0,
            i32::try_from(announced).map_err(|_| EncodeError::Length(announced))?,
        );
        Ok(FetchFrame {
            bytes: self.w.into_buf(),
            gaps: self.gaps,
            gap_bytes: self.gap_bytes,
        })
    }
}

/// The aborted transactions and what follows them up to the records.
fn write_aborted(w: &mut Writer, p: &PartitionHead<'_>, version: i16) {
    let flexible = version >= FLEXIBLE_FROM;
    w.long_len(p.aborted.map(<[_]>::len), flexible);
    for &(producer_id, first_offset) in p.aborted.unwrap_or(&[]) {
        w.i64(producer_id);
        w.i64(first_offset);
        if flexible {
            w.u8(0);
        }
    }
    if version >= 11 {
        w.i32(p.preferred_read_replica);
    } else if p.preferred_read_replica != -1 {
        w.fail(EncodeError::NotInVersion {
            field: "PreferredReadReplica",
            version,
        });
    }
}

fn write_partition_tags(w: &mut Writer, p: &PartitionHead<'_>) {
    // Kafka leaves a tagged structure out when it equals its default.
    let diverging = p.diverging_epoch.filter(|&d| d != (-1, -1));
    let leader = p.current_leader.filter(|&l| l != (-1, -1));
    w.u8(u8::from(diverging.is_some()) + u8::from(leader.is_some()));
    if let Some((epoch, end_offset)) = diverging {
        w.raw(&[0, 13]);
        w.i32(epoch);
        w.i64(end_offset);
        w.u8(0);
    }
    if let Some((id, epoch)) = leader {
        w.raw(&[1, 9]);
        w.i32(id);
        w.i32(epoch);
        w.u8(0);
    }
}

/// A response's framing, and where its records go.
#[derive(Clone, Debug)]
pub struct FetchFrame {
    /// Everything but records; starts with the frame's length.
    pub bytes: BytesMut,
    /// In ascending order, one per partition that has records.
    pub gaps: SmallVec<[Gap; 4]>,
    gap_bytes: usize,
}

impl FetchFrame {
    /// Bytes on the wire, the length field and the records included.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.bytes.len() + self.gap_bytes
    }

    /// The length that the frame's first four bytes announce.
    pub fn announced(&self) -> usize {
        self.len() - 4
    }

    /// The framing in pieces, each with the number of record bytes that follow it (0 after the
    /// last).
    pub fn parts(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let ends = self
            .gaps
            .iter()
            .map(|g| (g.at, g.len))
            .chain([(self.bytes.len(), 0)]);
        let mut start = 0;
        ends.map(move |(end, len)| {
            let piece = self.bytes.get(start..end).unwrap_or(&[]);
            start = end;
            (piece, len)
        })
    }

    /// As [`FetchFrame::parts`], in refcounted pieces of one allocation.
    pub fn into_parts(self) -> impl Iterator<Item = (Bytes, usize)> {
        self.split_parts().0
    }

    /// As [`FetchFrame::into_parts`], and the rest of the memory, for other frames.
    pub fn split_parts(mut self) -> (impl Iterator<Item = (Bytes, usize)>, BytesMut) {
        let bytes = self.bytes.split().freeze();
        let rest = self.bytes;
        let end = bytes.len();
        let mut start = 0;
        let ends = self.gaps.into_iter().map(|g| (g.at, g.len));
        let parts = ends.chain([(end, 0)]).map(move |(end, len)| {
            let piece = bytes.slice(start..end);
            start = end;
            (piece, len)
        });
        (parts, rest)
    }
}
