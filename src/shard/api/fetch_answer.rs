//! The answer to a fetch: what of its results goes into it, what its session remembers of that, and
//! the frame around the records.

use super::fetch::{Fetch, Want};
use crate::io::{CloseReason, Response, Segment};
use crate::ops::{ReadOp, ReadResult};
use crate::request::Reply;
use crate::session::{Answered, FetchPartition, Mode, TopicKey};
use crate::{Shard, Turn};
use bytes::Bytes;
use flumen_base::ErrorCode;
use flumen_wire::hot::TopicRef;
use flumen_wire::hot::fetch_response::{FetchFramer, PartitionHead};
use smallvec::SmallVec;

/// Lists of fetches that were answered, for those to come.
#[derive(Default)]
pub(crate) struct FetchLists(Vec<Vec<Want>>);

/// Lists kept for reuse, and the longest that is kept.
const LISTS_KEPT: usize = 256;
const LIST_KEPT_MAX: usize = 64;

impl FetchLists {
    pub(super) fn take(&mut self) -> Vec<Want> {
        self.0.pop().unwrap_or_default()
    }

    pub(super) fn give_back(&mut self, mut wants: Vec<Want>) {
        if self.0.len() < LISTS_KEPT && wants.capacity() <= LIST_KEPT_MAX {
            wants.clear();
            self.0.push(wants);
        }
    }
}

/// The answer to a fetch of one partition, for others that wait at the same place: it differs in
/// the correlation id alone.
#[derive(Debug)]
pub(crate) struct SharedAnswer {
    op: ReadOp,
    version: i16,
    /// The frame up to the records.
    head: Bytes,
    rest: SmallVec<[Segment; 4]>,
    /// Bytes of records.
    bytes: u64,
}

/// Where the correlation id stands in a frame.
const CORRELATION_AT: std::ops::Range<usize> = 4..8;

impl Shard {
    /// Answers a fetch that has been woken as the one before it, if it waited for the same; else it
    /// comes back.
    pub(super) fn answer_like_last(
        &mut self,
        turn: &mut Turn<'_>,
        id: u64,
        mut fetch: Fetch,
    ) -> Option<Fetch> {
        let ([want], Mode::Sessionless) = (fetch.wants.as_mut_slice(), fetch.mode) else {
            return Some(fetch);
        };
        let shared = self.partitions.shared.as_ref();
        let Some(answer) = shared.and_then(|shared| shared.answer_for(want.tp)) else {
            return Some(fetch);
        };
        let op = want.read(fetch.max_bytes as u32, fetch.said.committed_only);
        let same = answer.op == op && answer.version == fetch.reply.version;
        if !same || answer.bytes < fetch.min_bytes {
            return Some(fetch);
        }
        let mut buf = self.responses.take();
        buf.extend_from_slice(&answer.head);
        if let Some(place) = buf.get_mut(CORRELATION_AT) {
            place.copy_from_slice(&fetch.reply.correlation_id.to_be_bytes());
        }
        let mut segments = SmallVec::new();
        segments.push(Segment::Bytes(buf.split().freeze()));
        segments.extend(answer.rest.iter().cloned());
        self.responses.give_back(buf);
        if let Some(before) = want.result.take() {
            self.partitions.spare_results.give_back(before);
        }
        self.end_fetch(id, &mut fetch);
        self.fetch_lists.give_back(fetch.wants);
        self.send(turn, fetch.reply, Some(Response { segments }));
        None
    }

    /// What is read for an answer that others may get too.
    fn op_to_share(&self, fetch: &Fetch) -> Option<(ReadOp, u64)> {
        let ([want], Mode::Sessionless) = (fetch.wants.as_slice(), fetch.mode) else {
            return None;
        };
        let shared = self.partitions.shared.as_ref()?;
        let bytes = want.result.as_ref()?.bytes() as u64;
        let op = want.read(fetch.max_bytes as u32, fetch.said.committed_only);
        (shared.is_of(want.tp) && bytes > 0).then_some((op, bytes))
    }

    pub(super) fn answer_session_error(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        error: ErrorCode,
    ) {
        let (version, correlation) = (reply.version, reply.correlation_id);
        let framer = FetchFramer::new(version, correlation, 0, error.code(), 0, 0);
        self.send_fetch(turn, reply, framer, &mut [], None);
    }

    /// Answers with the results that are there.
    pub(super) fn answer_fetch(&mut self, turn: &mut Turn<'_>, id: u64, mut fetch: Fetch) {
        self.end_fetch(id, &mut fetch);
        keep_within_limit(&mut fetch.wants, fetch.max_bytes);
        let session_id = match fetch.mode {
            Mode::Sessionless => 0,
            Mode::Full => self.make_session(turn, &mut fetch),
            Mode::Incremental(session) if self.sessions.is_current(session, id) => {
                self.note_in_session(session, &mut fetch.wants, true);
                self.sessions.fetch_ended(session);
                session
            }
            Mode::Incremental(_) => {
                let error = ErrorCode::InvalidFetchSessionEpoch;
                self.answer_session_error(turn, fetch.reply, error);
                return;
            }
        };
        let share = self.op_to_share(&fetch);
        self.frame_fetch(turn, fetch.reply, session_id, fetch.wants, share);
    }

    /// Makes a session of a full fetch; 0 if there is no room.
    fn make_session(&mut self, turn: &mut Turn<'_>, fetch: &mut Fetch) -> i32 {
        let (now, count) = (turn.now.mono, fetch.wants.len());
        let id = self.sessions.create(now, fetch.said, &mut self.prng, count);
        if id != 0 {
            for want in &mut fetch.wants {
                want.slot = self.sessions.add(id, want.want.clone());
            }
            self.note_in_session(id, &mut fetch.wants, false);
        }
        self.tidy_sessions(turn);
        id
    }

    /// Remembers in the session what is answered, and which partitions its next fetch has to read;
    /// the others are watched. With `only_changes`, takes the results away that say nothing new.
    fn note_in_session(&mut self, session: i32, wants: &mut [Want], only_changes: bool) {
        for want in wants.iter().rev() {
            self.sessions.was_read(session, want.slot);
            if want.result.is_none() || want.cut {
                self.sessions.due_first(session, want.slot);
            }
        }
        for want in wants {
            let Some(answered) = want.result.as_ref().map(|result| answered(result)) else {
                continue;
            };
            let changed = self.sessions.must_answer(session, want.slot, &answered);
            if answered.is_news() {
                self.sessions.due_last(session, want.slot);
            } else if !want.cut {
                self.watch_for_session(session, want);
            }
            if only_changes
                && !changed
                && let Some(result) = want.result.take()
            {
                self.partitions.spare_results.give_back(result);
            }
        }
    }

    /// Sends what `wants` have as results.
    fn frame_fetch(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        session_id: i32,
        mut wants: Vec<Want>,
        share: Option<(ReadOp, u64)>,
    ) {
        wants.retain(|want| want.result.is_some());
        let same_topic = |a: &Want, b: &Want| a.want.topic == b.want.topic;
        let topics = wants.chunk_by(same_topic).count();
        let (version, correlation) = (reply.version, reply.correlation_id);
        let memory = self.responses.take();
        let start = (0, session_id, topics);
        let mut framer = FetchFramer::with_buf(memory, version, correlation, 0, start);
        for of_topic in wants.chunk_by(same_topic) {
            for (n, want) in of_topic.iter().enumerate() {
                if n == 0 {
                    framer.topic(topic_ref(&want.want.topic), of_topic.len());
                }
                if let Some(result) = &want.result {
                    framer.partition(&head(&want.want, result, version));
                }
            }
        }
        self.send_fetch(turn, reply, framer, &mut wants, share);
        for result in wants.iter_mut().filter_map(|want| want.result.take()) {
            self.partitions.spare_results.give_back(result);
        }
        self.fetch_lists.give_back(wants);
    }

    fn send_fetch(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        framer: FetchFramer,
        wants: &mut [Want],
        share: Option<(ReadOp, u64)>,
    ) {
        match framer.finish(&[]) {
            Ok(frame) => {
                let with_data = |want: &mut Want| {
                    let data = &mut want.result.as_mut()?.data;
                    (!data.is_empty()).then(|| std::mem::take(data))
                };
                let mut data = wants.iter_mut().filter_map(with_data);
                let mut segments = SmallVec::new();
                let (parts, rest) = frame.split_parts();
                for (bytes, gap) in parts {
                    if !bytes.is_empty() {
                        segments.push(Segment::Bytes(bytes));
                    }
                    if gap > 0 {
                        segments.extend(data.next().into_iter().flatten());
                    }
                }
                self.responses.give_back(rest);
                if let (Some(share), Some(shared)) = (share, &mut self.partitions.shared) {
                    shared.answer = SharedAnswer::of(share, reply.version, &segments);
                }
                self.send(turn, reply, Some(Response { segments }));
            }
            Err(error) => {
                tracing::error!(%error, "a fetch response could not be framed");
                let reason = CloseReason::Malformed(error.to_string());
                self.close_reply(turn, reply, reason);
            }
        }
    }
}

impl SharedAnswer {
    /// Of the segments of a response for one partition, what was read and how many bytes it gave.
    fn of((op, bytes): (ReadOp, u64), version: i16, segments: &[Segment]) -> Option<Self> {
        let (Segment::Bytes(head), rest) = segments.split_first()? else {
            return None;
        };
        Some(Self {
            op,
            version,
            head: head.clone(),
            rest: rest.iter().cloned().collect(),
            bytes,
        })
    }
}

/// Drops what goes beyond the request's limit; the first data of all comes whole, or nothing would
/// ever move.
fn keep_within_limit(wants: &mut [Want], limit: usize) {
    let mut left = limit;
    let mut first = true;
    for want in wants {
        let Some(result) = &mut want.result else {
            continue;
        };
        let len = result.bytes();
        if len == 0 {
            continue;
        }
        if !first && len > left {
            cut(&mut result.data, left);
            want.cut = result.data.is_empty();
        }
        first = false;
        left = left.saturating_sub(result.bytes());
    }
}

/// Keeps whole pieces within `limit`. A range of a file goes as a whole, because where its batches
/// end is not known here.
fn cut(data: &mut SmallVec<[Segment; 2]>, limit: usize) {
    let mut total = 0;
    let keep = data.iter().take_while(|segment| {
        total += segment.len();
        total <= limit
    });
    let keep = keep.count();
    data.truncate(keep);
}

fn answered(result: &ReadResult) -> Answered {
    Answered {
        error: result.error.code(),
        high_watermark: result.high_watermark,
        log_start: result.log_start,
        bytes: result.bytes(),
        diverging: result.diverging.is_some(),
    }
}

fn topic_ref(topic: &TopicKey) -> TopicRef<'_> {
    match topic {
        TopicKey::Name(name) => TopicRef::Name(name),
        TopicKey::Id(id) => TopicRef::Id(*id),
    }
}

fn head<'a>(want: &FetchPartition, result: &'a ReadResult, version: i16) -> PartitionHead<'a> {
    PartitionHead {
        index: want.partition,
        error_code: result.error.code(),
        high_watermark: result.high_watermark,
        last_stable_offset: result.last_stable,
        log_start_offset: result.log_start,
        aborted: result.aborted.as_deref(),
        preferred_read_replica: -1,
        diverging_epoch: result.diverging.filter(|_| version >= 12),
        current_leader: None,
        records_len: Some(result.bytes()),
    }
}
