//! What requests say of records that members of share groups hold, and ShareAcknowledge (79),
//! versions 1 and 2 (KIP-932; v2: renewed locks, KIP-1222).

use super::share_fetch::ShareFetch;
use super::{decode, share_answer};
use crate::request::{ReplyTo, Request};
use crate::share_sessions::INITIAL_EPOCH;
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_coordinator::share::AckType;
use flumen_wire::messages as wire;

/// What a request says of the records of one partition.
pub(super) struct Said {
    pub(super) topic: Uuid,
    pub(super) index: PartitionIndex,
    /// First and last offset, and what is said.
    pub(super) batches: Vec<(i64, i64, Vec<i8>)>,
    pub(super) renews: bool,
    /// INVALID_REQUEST for what can't be meant.
    pub(super) valid: Result<(), ErrorCode>,
}

/// Whether batches are in order and of the right form. `renews`: locks may be renewed by them.
fn check(batches: &[(i64, i64, Vec<i8>)], (version, renews): (i16, bool)) -> Result<(), ErrorCode> {
    let highest = match version {
        ..2 => AckType::Reject,
        _ => AckType::Renew,
    };
    let mut before = -1;
    for (first, last, types) in batches {
        let span = last.checked_sub(*first).filter(|span| *span >= 0);
        let count = span.ok_or(ErrorCode::InvalidRequest)?;
        let one_each = i64::try_from(types.len()).is_ok_and(|types| types - 1 == count);
        let in_range = |t: &i8| (0..=highest as i8).contains(t);
        let fits = *first >= before
            && !types.is_empty()
            && (types.len() == 1 || one_each)
            && types.iter().all(in_range)
            && (renews || !types.contains(&(AckType::Renew as i8)));
        if !fits {
            return Err(ErrorCode::InvalidRequest);
        }
        before = *last;
    }
    Ok(())
}

/// What of one partition, unless nothing.
fn said(
    (topic, index): (Uuid, PartitionIndex),
    batches: Vec<(i64, i64, Vec<i8>)>,
    (version, renews): (i16, bool),
) -> Option<Said> {
    (!batches.is_empty()).then(|| Said {
        topic,
        index,
        valid: check(&batches, (version, renews)),
        batches,
        renews,
    })
}

macro_rules! said_in {
    ($message:expr, $version:expr) => {{
        let how = ($version, $version >= 2 && $message.is_renew_ack);
        let topics = $message.topics.iter();
        let said = topics.flat_map(|topic| {
            topic.partitions.iter().filter_map(move |partition| {
                let batches = partition.acknowledgement_batches.iter();
                let batches =
                    batches.map(|b| (b.first_offset, b.last_offset, b.acknowledge_types.clone()));
                let place = (topic.topic_id, partition.partition_index);
                said(place, batches.collect(), how)
            })
        });
        said.collect()
    }};
}

/// What a ShareFetch says.
pub(super) fn said_in_fetch(message: &wire::ShareFetchRequest<'_>, version: i16) -> Vec<Said> {
    said_in!(message, version)
}

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::ShareAcknowledgeRequest<'_>);
    let ReplyTo::Conn(conn, _) = request.reply.to else {
        return; // it is never forwarded
    };
    let epoch = message.share_session_epoch;
    let said: Vec<Said> = said_in!(message, request.reply.version);
    let checked = shard.check_share_request(&message.group_id, &message.member_id);
    drop(message);
    let begun = checked.and_then(|key| match epoch {
        INITIAL_EPOCH => Err(ErrorCode::InvalidShareSessionEpoch),
        epoch => shard.share_sessions.go_on(&key, epoch).map(|_| key),
    });
    match begun {
        Err(error) => share_answer::refuse_acknowledge(shard, turn, request.reply, error),
        Ok(key) => {
            let now = turn.now.mono;
            let mut fetch = ShareFetch::new(request.reply, conn, key, (epoch, now));
            fetch.wants = shard.share_wants(Vec::new(), &said);
            shard.start_share_fetch(turn, fetch, said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_checked() {
        let ok = |batches: &[(i64, i64, &[i8])], version, renews| {
            let batches = batches.iter().map(|(a, b, t)| (*a, *b, t.to_vec()));
            check(&batches.collect::<Vec<_>>(), (version, renews)).is_ok()
        };
        assert!(ok(&[(0, 4, &[1]), (5, 6, &[2, 3]), (7, 7, &[0])], 1, false));
        assert!(ok(&[(0, 4, &[4])], 2, true));
        assert!(!ok(&[(0, 4, &[4])], 2, false));
        assert!(!ok(&[(0, 4, &[4])], 1, true));
        assert!(!ok(&[(0, 4, &[5])], 2, true));
        assert!(!ok(&[(0, 4, &[])], 1, false));
        assert!(!ok(&[(0, 4, &[1, 1])], 1, false));
        assert!(!ok(&[(4, 3, &[1])], 1, false));
        assert!(!ok(&[(5, 9, &[1]), (0, 4, &[1])], 1, false));
        assert!(!ok(&[(i64::MIN, i64::MAX, &[1])], 1, false));
    }
}
