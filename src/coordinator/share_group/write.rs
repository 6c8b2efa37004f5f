//! How changes of a share group are written: as those of other kinds of groups
//! ([`crate::modern`]). When one is written, stored states may be made or deleted.

use super::calls::{ShareCall, ShareThen};
use super::records::ShareRecord;
use crate::group::{Env, Group};
use crate::modern::{Change, Refusal};
use crate::out::{Reply, ReplyToken};
use crate::writes::{Done, ShareDone};
use flumen_base::ErrorCode;

/// What follows when a change is written.
#[derive(Debug, Default)]
pub(super) struct After {
    /// This answer leaves.
    pub(super) reply: Option<(ReplyToken, Reply)>,
    /// Stored states are made or deleted.
    pub(super) call: Option<(ShareCall, ShareThen)>,
}

impl Group {
    /// Applies a change and hands it out to be written. Without records the answer waits for what
    /// the group did before.
    ///
    /// # Errors
    /// A string is too long for its record; nothing has changed.
    pub(super) fn write_share(
        &mut self,
        env: &mut Env<'_>,
        records: Vec<ShareRecord>,
        After { reply, call }: After,
    ) -> Result<(), Refusal> {
        if self.share.is_none() {
            return Err(ErrorCode::UnknownServerError.into());
        }
        let changes = !records.is_empty();
        debug_assert!(changes || call.is_none(), "a call follows a record");
        let done = match call {
            Some((call, then)) => Done::Share(Box::new(ShareDone { reply, call, then })),
            None => Done::answer(reply),
        };
        self.write_change_then(env, Change::of(records), done)?;
        let group = (self.serial, &*self.name);
        if let Some(share) = self.share.as_mut().filter(|_| changes) {
            share.fit_timers(env, group);
        }
        Ok(())
    }
}
