//! How changes of a share group are written and, when that fails, taken back.
//!
//! A change is applied when it is handed out, so that the next request sees it. Until it is written
//! the group keeps what its records said before. When a write fails the group is set back to what
//! was before it, and the changes behind it are done again from their records.

use super::calls::ShareCall;
use super::calls::ShareThen;
use super::records::ShareRecord;
use super::state::{ShareGroup, ShareRecords};
use crate::consumer::Refusal;
use crate::group::{Env, Group};
use crate::out::{Record, Reply, ReplyToken};
use crate::records::{self, Replayed};
use crate::writes::{Done, Effect, Part, ShareDone};
use flumen_base::ErrorCode;

/// A change that is being written.
#[derive(Debug)]
pub(super) struct Step {
    write: u64,
    before: ShareRecords,
    records: Vec<Record>,
}

/// What follows when a change is written.
#[derive(Debug, Default)]
pub(super) struct After {
    /// This answer leaves.
    pub(super) reply: Option<(ReplyToken, Reply)>,
    /// Stored states are made or deleted.
    pub(super) call: Option<(ShareCall, ShareThen)>,
}

impl Group {
    /// Applies a change and hands it out to be written. Without records, what follows waits for
    /// what the group did before.
    ///
    /// # Errors
    /// A string is too long for its record; nothing has changed.
    pub(super) fn write_share(
        &mut self,
        env: &mut Env<'_>,
        change: &[ShareRecord],
        after: After,
    ) -> Result<(), Refusal> {
        let encoded: Option<Vec<Record>> = change.iter().map(|r| r.encode(&self.name)).collect();
        let encoded = encoded.ok_or(ErrorCode::UnknownServerError)?;
        let Some(share) = &mut self.share else {
            return Err(ErrorCode::UnknownServerError.into());
        };
        if encoded.is_empty() {
            if let Some((token, reply)) = after.reply {
                self.reply_when_written(env, token, reply);
            }
            return Ok(());
        }
        share.history.push_back(Step {
            write: env.next_write(),
            before: share.records.clone(),
            records: encoded.clone(),
        });
        for record in change {
            share.apply(record);
        }
        let group = (self.serial, &*self.name);
        share.fit_sessions(env, group);
        let part = Part {
            group: self.serial,
            offsets: Vec::new(),
            effect: Effect::Share,
        };
        let part = self.part(env.next_write(), part);
        let done = match after.call {
            Some((call, then)) => Done::Share(Box::new(ShareDone {
                reply: after.reply,
                call,
                then,
            })),
            None => match after.reply {
                Some((token, reply)) => Done::Reply(token, reply),
                None => Done::Nothing,
            },
        };
        env.append(self.partition, encoded, vec![part], done);
        Ok(())
    }

    /// Applies a record of a share group, from the log.
    pub(crate) fn apply_share(&mut self, record: &ShareRecord) {
        if matches!(record, ShareRecord::Epoch(None)) {
            self.share = None;
        } else if self.share.is_some() || !record.is_tombstone() {
            let new = || Box::new(ShareGroup::new());
            self.share.get_or_insert_with(new).apply(record);
        }
    }

    /// A change is written.
    pub(crate) fn share_written(&mut self, write: u64) {
        if let Some(share) = &mut self.share {
            share.history.retain(|step| step.write != write);
        }
    }

    /// A change could not be written.
    pub(crate) fn share_failed(&mut self, env: &mut Env<'_>, write: u64) {
        let group = (self.serial, &*self.name);
        let Some(share) = &mut self.share else {
            return;
        };
        let Some(at) = share.history.iter().position(|s| s.write == write) else {
            return;
        };
        let mut later = share.history.split_off(at);
        let Some(failed) = later.pop_front() else {
            return;
        };
        share.set_records(failed.before);
        for mut step in later {
            step.before = share.records.clone();
            for record in &step.records {
                // They were written by this process, so they can be read.
                if let Ok(Replayed::Share(_, record)) =
                    records::read(&record.key, record.value.as_deref())
                {
                    share.apply(&record);
                }
            }
            share.history.push_back(step);
        }
        share.fit_sessions(env, group);
    }
}
