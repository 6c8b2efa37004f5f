//! What becomes of a partition's write.

use crate::Shard;
use crate::dirs::fault_of;
use crate::io::IoFailure;
use crate::reads::SharedRead;
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::TopicPartition;
use flumen_log::WriteDone;

impl Shard {
    /// A partition's write has ended.
    pub(crate) fn write_done(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        written: Result<Vec<Bytes>, IoFailure>,
    ) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        p.in_flight -= 1;
        let Some(log) = p.log_mut() else {
            let n = p.log_dir;
            if let Err(failure) = &written {
                self.dir_error(turn, n, fault_of(failure), failure);
            }
            self.removal_goes_on(turn, tp);
            return;
        };
        let bufs = match written {
            Ok(bufs) => bufs,
            Err(failure) => {
                log.write_done(false);
                self.write_failed(turn, tp, (fault_of(&failure), &failure));
                self.move_goes_on(turn, tp);
                return;
            }
        };
        let mut out = std::mem::take(&mut self.partitions.scratch);
        let done = log.write_done(true);
        log.reuse_bufs(bufs);
        let held = p.is_held();
        p.write_ended(turn.now.mono);
        if let WriteDone::Advanced(end) = done {
            let woken = p.advanced(end, &mut self.partitions.watches, &mut out);
            if woken > 1 {
                self.partitions.shared = Some(SharedRead::of(tp));
            }
            p.mark_dirty(&mut self.partitions.dirty);
            self.start_log_jobs(turn, tp);
        }
        self.carry_outcomes(turn, out);
        if held {
            self.move_goes_on(turn, tp);
        }
    }
}
