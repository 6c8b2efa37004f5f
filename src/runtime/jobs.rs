//! Blocking work beside the hot path: tasks in a glommio queue of low shares, each of which runs
//! its job on glommio's blocking pool. The shard's loop gives glommio a turn only when a task waits
//! to be started. The helper thread puts the output where the shard finds it and wakes the shard:
//! glommio itself would notice only when its preemption timer ends, 100 ms later while the loop is
//! busy, and what it has to tidy up then can wait for any later turn.
//!
//! Short jobs that clients wait for go to a thread of their own: it has its turns like a shard, and
//! neither glommio's turn nor a long job is before them.

use crate::core::{In, ShardCore};
use crate::sched;
use crate::shared::Shared;
use flumen_base::{Disk, ShardId};
use flumen_shard::io::{Input, Token};
use glommio::{Latency, Shares, TaskQueueHandle};
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread;

/// Jobs handed to the helper threads at a time; the rest wait in the shard.
const RUNNING_MAX: usize = 64;
/// Jobs that clients wait for, behind the one that runs on their thread; more go to the helpers.
const AWAITED_MAX: usize = 8;
/// What top and perf call that thread.
const AWAITED_NAME: &str = "flumen-prompt";
/// Ended tasks that glommio may not have noticed; its helper threads would wait at 4,096.
const UNTIDIED_MAX: u64 = 1024;
/// Shares of the background queue; the shard's own queue has 1000.
const BACKGROUND_SHARES: usize = 50;

/// Where helper threads may run: CPUs without a shard, if there are any.
#[derive(Debug, Default)]
pub(crate) struct HelperCpus {
    spare: Vec<usize>,
    next: AtomicUsize,
}

impl HelperCpus {
    pub(crate) fn new(spare: Vec<usize>) -> Self {
        Self {
            spare,
            next: AtomicUsize::new(0),
        }
    }

    /// Pins the calling thread, once, to one of the spare CPUs.
    pub(crate) fn pin_current(&self) {
        thread_local!(static PINNED: Cell<bool> = const { Cell::new(false) });
        if self.spare.is_empty() || PINNED.replace(true) {
            return;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let id = self.spare[turn % self.spare.len()];
        if !core_affinity::set_for_current(core_affinity::CoreId { id }) {
            tracing::debug!(cpu = id, "helper thread could not be pinned");
        }
    }
}

/// A job's output; `None` if it panicked.
type Ended<C> = (Token, Option<<C as ShardCore>::JobOutput>);

/// What a thread needs that does a shard's jobs.
struct Worker<C: ShardCore> {
    disk: Arc<dyn Disk>,
    cpus: Arc<HelperCpus>,
    shared: Arc<Shared>,
    shard: ShardId,
    end: Sender<Ended<C>>,
}

impl<C: ShardCore> Clone for Worker<C> {
    fn clone(&self) -> Self {
        Self {
            disk: Arc::clone(&self.disk),
            cpus: Arc::clone(&self.cpus),
            shared: Arc::clone(&self.shared),
            shard: self.shard,
            end: self.end.clone(),
        }
    }
}

impl<C: ShardCore> Worker<C> {
    fn run(&self, token: Token, job: C::Job) {
        let run = || C::run_job(job, &*self.disk);
        let output = catch_unwind(AssertUnwindSafe(run)).ok();
        let _ = self.end.send((token, output)); // the shard may have ended
        let shard = &self.shared.shards[self.shard.index()];
        shard.jobs_finished.fetch_add(1, Ordering::SeqCst);
        shard.wake();
    }

    /// Starts the thread of those that are waited for. It ends with the sender.
    fn awaited(self) -> Option<SyncSender<(Token, C::Job)>> {
        let (sender, jobs) = sync_channel(AWAITED_MAX);
        let work = move || {
            self.cpus.pin_current();
            sched::prefer_current();
            while let Ok((token, job)) = jobs.recv() {
                self.run(token, job);
            }
        };
        let thread = thread::Builder::new().name(AWAITED_NAME.to_owned());
        thread.spawn(work).is_ok().then_some(sender)
    }
}

/// The jobs of one shard. Lives on a glommio executor.
pub(crate) struct Jobs<C: ShardCore> {
    waiting: VecDeque<(Token, C::Job)>,
    running: usize,
    spawned: u64,
    started: Rc<Cell<u64>>,
    /// Tasks whose end glommio has noticed.
    tidied: Rc<Cell<u64>>,
    collected: u64,
    ended: Receiver<Ended<C>>,
    queue: TaskQueueHandle,
    worker: Worker<C>,
    /// To the thread of those that are waited for, once there was one.
    awaited: Option<SyncSender<(Token, C::Job)>>,
}

impl<C: ShardCore> Jobs<C> {
    pub(crate) fn new(
        shard: ShardId,
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        cpus: Arc<HelperCpus>,
    ) -> Self {
        let queue = glommio::executor().create_task_queue(
            Shares::Static(BACKGROUND_SHARES),
            Latency::NotImportant,
            "background",
        );
        let (end, ended) = channel();
        Self {
            waiting: VecDeque::new(),
            running: 0,
            spawned: 0,
            started: Rc::default(),
            tidied: Rc::default(),
            collected: 0,
            ended,
            queue,
            worker: Worker {
                disk,
                cpus,
                shared,
                shard,
                end,
            },
            awaited: None,
        }
    }

    /// Jobs waiting and running.
    pub(crate) fn pending(&self) -> usize {
        self.waiting.len() + self.running
    }

    /// Takes a job.
    pub(crate) fn add(&mut self, token: Token, job: C::Job) -> Result<(), String> {
        let rest = match C::is_awaited(&job) {
            true => self.start_awaited(token, job),
            false => Some((token, job)),
        };
        self.waiting.extend(rest);
        self.spawn()
    }

    /// Has it done at once; gives it back where too many others wait for that.
    fn start_awaited(&mut self, token: Token, job: C::Job) -> Option<(Token, C::Job)> {
        if self.awaited.is_none() {
            self.awaited = self.worker.clone().awaited();
        }
        let Some(awaited) = &self.awaited else {
            return Some((token, job));
        };
        match awaited.try_send((token, job)) {
            Ok(()) => {
                self.running += 1;
                None
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job),
        }
    }

    fn spawn(&mut self) -> Result<(), String> {
        while self.running < RUNNING_MAX
            && let Some((token, job)) = self.waiting.pop_front()
        {
            self.running += 1;
            self.spawned += 1;
            let (started, tidied) = (Rc::clone(&self.started), Rc::clone(&self.tidied));
            let worker = self.worker.clone();
            let task = async move {
                started.set(started.get() + 1);
                let work = move || {
                    worker.cpus.pin_current();
                    sched::defer_current();
                    worker.run(token, job);
                };
                glommio::executor().spawn_blocking(work).await;
                tidied.set(tidied.get() + 1);
            };
            glommio::spawn_local_into(task, self.queue)
                .map_err(|e| format!("background queue: {e}"))?
                .detach();
        }
        Ok(())
    }

    /// Whether glommio has a task to start, or too many ended ones to tidy up.
    pub(crate) fn needs_turn(&self) -> bool {
        let started = self.started.get();
        self.spawned != started || started - self.tidied.get() > UNTIDIED_MAX
    }

    /// Whether outputs wait to be collected.
    pub(crate) fn has_ended(&self) -> bool {
        let finished = &self.worker.shared.shards[self.worker.shard.index()].jobs_finished;
        self.collected != finished.load(Ordering::SeqCst)
    }

    /// Takes what has ended, and starts what waited.
    pub(crate) fn collect(&mut self, inputs: &mut VecDeque<In<C>>) -> Result<(), String> {
        if !self.has_ended() {
            return Ok(());
        }
        while let Ok((token, output)) = self.ended.try_recv() {
            self.running -= 1;
            self.collected += 1;
            let output = output.ok_or("a background job panicked")?;
            inputs.push_back(Input::JobDone(token, Box::new(output)));
        }
        self.spawn()
    }
}
