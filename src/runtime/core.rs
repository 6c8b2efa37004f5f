//! The synchronous core as the runtime drives it: a trait, so that the runtime is tested with a
//! small core of its own.

use flumen_base::{Disk, Mono, Now};
use flumen_shard::Shard;
use flumen_shard::io::{Effects, Input};
use flumen_shard::jobs::{Job, JobOutput};
use flumen_shard::mesh::Message;

/// The inputs of a core.
pub type In<C> = Input<<C as ShardCore>::Message, <C as ShardCore>::JobOutput>;
/// The effects of a core.
pub type Out<C> = Effects<<C as ShardCore>::Message, <C as ShardCore>::Job>;

/// One shard's state machine. It lives on its shard's thread and need not be `Send`.
pub trait ShardCore: 'static {
    /// What shards say to each other.
    type Message: Send + 'static;
    /// Blocking disk work.
    type Job: Send + 'static;
    /// What it gives.
    type JobOutput: Send + 'static;

    /// Does blocking work, on a thread beside the shard's.
    fn run_job(job: Self::Job, disk: &dyn Disk) -> Self::JobOutput;
    /// Whether it is short and a client waits for it: it is not to wait for what helpers do.
    fn is_awaited(_job: &Self::Job) -> bool {
        false
    }
    /// Takes one input.
    fn step(&mut self, now: Now, input: In<Self>, effects: &mut Out<Self>);
    /// Ends a turn in which inputs were taken.
    fn end_turn(&mut self, now: Now, effects: &mut Out<Self>);
    /// Called when [`Self::next_deadline`] has passed.
    fn tick(&mut self, now: Now, effects: &mut Out<Self>);
    /// When it wants to be called next.
    fn next_deadline(&self) -> Option<Mono>;
    /// Bytes of frames that it works on: they count against
    /// [`flumen_base::limits::SHARD_FRAME_BYTES_MAX`] with those that are not whole.
    fn frame_bytes(&self) -> usize;
}

impl ShardCore for Shard {
    type Message = Message;
    type Job = Job;
    type JobOutput = JobOutput;

    fn run_job(job: Job, disk: &dyn Disk) -> JobOutput {
        job.run(disk)
    }

    fn is_awaited(job: &Job) -> bool {
        job.is_awaited()
    }

    fn step(&mut self, now: Now, input: Input, effects: &mut Effects) {
        Self::step(self, now, input, effects);
    }

    fn end_turn(&mut self, now: Now, effects: &mut Effects) {
        Self::end_turn(self, now, effects);
    }

    fn tick(&mut self, now: Now, effects: &mut Effects) {
        Self::tick(self, now, effects);
    }

    fn next_deadline(&self) -> Option<Mono> {
        Self::next_deadline(self)
    }

    fn frame_bytes(&self) -> usize {
        Self::frame_bytes(self)
    }
}
