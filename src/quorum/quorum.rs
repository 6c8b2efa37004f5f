//! The Raft group of the metadata log, driven without I/O.
//!
//! Entries go through three places: proposed (in [`Quorum::latest`], what handlers decide on),
//! written (one frame at a time, all entries that were proposed while the frame before was on its
//! way), committed (in [`Quorum::committed`], what everybody sees). A group of one commits what is
//! on its disk; a larger group will wait for a majority in the same code.

use crate::controller::read_bootstrap;
use crate::delta::Delta;
use crate::effect::{
    Append, Commit, Effect, Job, JobResult, ProposalId, ProposeError, QuorumStatus, VoterStatus,
};
use crate::image::{Image, ImageError};
use crate::raft_log::{self, HEADER_LEN, LoadError, LoadedLog, Sealed};
use crate::record::{self, MetadataRecord};
use crate::snapshot::{self, SnapshotJob};
use crate::storage::MemoryLog;
use flumen_base::{BrokerId, Disk, FileId, LogFile, Mono, Now};
use raft::eraftpb::{Entry, EntryType};
use raft::{GetEntriesContext, RawNode, StateRole};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of proposals that may wait for the disk.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;

/// How to start a [`Quorum`].
#[derive(Clone, Debug)]
pub struct QuorumConfig {
    /// This node's id.
    pub node_id: BrokerId,
    /// Log files get ids from here upwards (one per segment ever written); a range of its own, so
    /// that they differ from those of partitions.
    pub file_id_base: u64,
    /// Log bytes after which a snapshot is taken and the log before it removed
    /// (`metadata.log.max.record.bytes.between.snapshots`).
    pub snapshot_bytes: u64,
}

/// What [`Quorum::load`] found.
#[derive(Debug)]
pub struct Loaded {
    dir: PathBuf,
    /// Snapshot.
    base: Arc<Image>,
    /// Snapshot and all of the log.
    latest: Image,
    memory: MemoryLog,
    log: LoadedLog,
    first_features: BTreeMap<String, i16>,
}

impl Loaded {
    /// All metadata on disk. In a group of one exactly what the first [`Effect::Committed`] brings,
    /// so that a broker may recover its partitions meanwhile.
    pub fn image(&self) -> &Image {
        &self.latest
    }
}

/// One node's part in the metadata Raft group.
pub struct Quorum {
    config: QuorumConfig,
    dir: PathBuf,
    node: RawNode<MemoryLog>,
    committed: Arc<Image>,
    /// The image of the last [`Effect::Committed`].
    announced: Arc<Image>,
    latest: Image,
    /// Images at the ends of frames that are not yet committed, oldest first.
    frozen: VecDeque<Arc<Image>>,
    /// Proposals that are not yet committed, by index, oldest first.
    pending: VecDeque<(u64, ProposalId)>,
    finished: Vec<ProposalId>,
    next_proposal: u64,
    /// Nothing is announced before the log found at start is applied: its end.
    announce_after: u64,
    log: LoadedLog,
    first_features: BTreeMap<String, i16>,
    file: Arc<LogFile>,
    /// Number of the raft Ready whose frame is being written.
    writing: Option<u64>,
    /// That frame.
    frame: Option<Append>,
    /// There was no room for it on the disk.
    full: bool,
    /// Index and term of the snapshot that is being written.
    snapshot_running: Option<(u64, u64)>,
    bytes_since_snapshot: u64,
    failure: Option<String>,
    failure_announced: bool,
    /// Something was done since the last [`Quorum::poll`].
    touched: bool,
}

impl Quorum {
    /// Reads snapshot and log from `dir` (created if missing) and cuts a torn tail. Blocks: run it
    /// as a job at start.
    ///
    /// # Errors
    /// If the disk fails, acknowledged data is damaged, or a record can't be understood.
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Loaded, LoadError> {
        let io = |e| LoadError::Io(dir.to_owned(), e);
        if disk.list(dir).is_err() {
            disk.create_dir_all(dir).map_err(io)?;
        }
        // Also what a process has made that was killed before it could sync it: what is written to
        // a file without a name on disk is lost with it.
        for named in [dir.parent(), Some(dir)].into_iter().flatten() {
            disk.sync_dir(named).map_err(io)?;
        }
        let snapshot = snapshot::load(disk, dir)?;
        let (base, voters) = match snapshot {
            Some(snapshot) => (snapshot.image, snapshot.voters),
            None => (Image::default(), Vec::new()),
        };
        let mut memory = MemoryLog::new(base.index(), base.term(), voters);
        let log = raft_log::load(disk, dir, &mut memory)?;
        let mut latest = base.clone();
        for entry in memory.entries_all() {
            apply(&mut latest, entry).map_err(|e| e.into_load(dir))?;
        }
        let first_features = read_bootstrap(disk, dir.parent().unwrap_or(dir))
            .map_err(|(path, e)| LoadError::Io(path, e))?;
        Ok(Loaded {
            first_features,
            dir: dir.to_owned(),
            base: Arc::new(base),
            latest,
            memory,
            log,
        })
    }

    /// Starts the group of one voter, this node, with its election; [`Quorum::poll`] has the first
    /// effects.
    ///
    /// # Errors
    /// If the log belongs to a group without this node, or contradicts itself.
    pub fn new(config: QuorumConfig, loaded: Loaded) -> Result<Self, String> {
        let Loaded {
            dir,
            base,
            latest,
            mut memory,
            log,
            first_features,
        } = loaded;
        let id = raft_id(config.node_id);
        if memory.voters().is_empty() {
            memory.set_voters(vec![id]);
        }
        if memory.voters() != [id] {
            return Err(format!(
                "the metadata in {} belongs to node {}, not {}",
                dir.display(),
                memory.voters().first().map_or(-1, |&v| node_id(v)),
                config.node_id
            ));
        }
        let mut state = memory.hard_state().clone();
        if state.commit > memory.last() {
            return Err(format!(
                "{}: committed entries are missing at the log's end",
                dir.display()
            ));
        }
        state.commit = state.commit.max(base.index());
        state.term = state.term.max(latest.term());
        memory.set_hard_state(state);
        let raft_config = raft::Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            applied: base.index(),
            max_size_per_msg: 1 << 20,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            ..raft::Config::default()
        };
        let announce_after = memory.last();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = RawNode::new(&raft_config, memory, &logger).map_err(|e| e.to_string())?;
        node.campaign().map_err(|e| e.to_string())?;
        let mut quorum = Self {
            file: segment_file(&config, &dir, log.tail.segment),
            bytes_since_snapshot: log.bytes,
            config,
            dir,
            node,
            committed: base,
            announced: Arc::default(),
            latest,
            frozen: VecDeque::new(),
            pending: VecDeque::new(),
            finished: Vec::new(),
            next_proposal: 0,
            announce_after,
            log,
            first_features,
            writing: None,
            frame: None,
            full: false,
            snapshot_running: None,
            failure: None,
            failure_announced: false,
            touched: true,
        };
        quorum.follow_leadership();
        Ok(quorum)
    }

    /// Whether this node leads and has applied everything from before: from then on handlers may
    /// decide.
    pub fn is_ready(&self) -> bool {
        self.failure.is_none()
            && self.node.raft.state == StateRole::Leader
            && self.committed.term() == self.node.raft.term
    }

    /// The levels of features that a new cluster begins with, as formatting wrote them.
    pub fn first_features(&self) -> &BTreeMap<String, i16> {
        &self.first_features
    }

    /// The metadata including what is proposed but not yet committed: what handlers decide on.
    pub fn latest(&self) -> &Image {
        &self.latest
    }

    /// The committed metadata: what everybody may see.
    pub fn committed(&self) -> &Arc<Image> {
        &self.committed
    }

    /// Takes records as one entry: all or nothing. They are in [`Quorum::latest`] at once, and in
    /// the image of the [`Effect::Committed`] that names the proposal.
    ///
    /// # Errors
    /// Nothing changed then.
    pub fn propose(&mut self, records: &[MetadataRecord]) -> Result<ProposalId, ProposeError> {
        if self.failure.is_some() {
            return Err(ProposeError::Failed);
        }
        if self.node.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader);
        }
        self.touched = true;
        if self.full {
            return Err(ProposeError::Full);
        }
        let index = self.node.raft.raft_log.last_index() + 1;
        // Applied in place: nobody shares the latest image within a turn, so that many proposals
        // copy its maps once.
        let applied = self.latest.apply_all(records, index, self.node.raft.term);
        let proposed = match applied {
            Err(e) => Err(ProposeError::Invalid(e)),
            Ok(()) => match self.node.propose(Vec::new(), record::encode_all(records)) {
                Ok(()) => Ok(()),
                Err(raft::Error::ProposalDropped) => Err(ProposeError::Busy),
                Err(_) => Err(ProposeError::NotLeader),
            },
        };
        if let Err(e) = proposed {
            self.rebuild_latest();
            return Err(e);
        }
        let id = ProposalId(self.next_proposal);
        self.next_proposal += 1;
        self.pending.push_back((index, id));
        Ok(id)
    }

    /// Appends what there is to do to `out`. Call it at the end of every turn in which anything
    /// else was called.
    pub fn poll(&mut self, out: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.touched) {
            return; // nearly every turn: to ask the raft crate costs more
        }
        // While a frame is written, proposals gather in the raft crate and become one frame
        // together.
        while self.failure.is_none() && self.writing.is_none() && self.node.has_ready() {
            self.handle_ready(out);
        }
        if let Some(reason) = self.failure.clone() {
            if !std::mem::replace(&mut self.failure_announced, true) {
                out.push(Effect::Fatal(reason));
            }
            return;
        }
        self.announce(out);
        self.maybe_snapshot(out);
    }

    /// The outstanding [`Effect::Append`] is on disk, or failed for the reason given.
    pub fn append_done(&mut self, result: Result<(), String>) {
        let Some(number) = self.writing.take() else {
            return;
        };
        self.touched = true;
        (self.frame, self.full) = (None, false);
        match result {
            Ok(()) => self.node.on_persist_ready(number),
            // What is on disk is unknown now, and no write may follow a failed sync: only a restart
            // can tell.
            Err(reason) => self.fail(format!("metadata log: {reason}")),
        }
    }

    /// The outstanding [`Effect::Append`] found no room on the disk. Nothing is proposed until it
    /// has been written after all: call [`Quorum::retry_append`] after a while. (A sync that failed
    /// is no such case: [`Quorum::append_done`].)
    pub fn append_full(&mut self) {
        self.full = self.frame.is_some();
    }

    /// Writes again what found no room: the same bytes at the same place.
    pub fn retry_append(&mut self, out: &mut Vec<Effect>) {
        if self.full && self.failure.is_none() {
            out.extend(self.frame.clone().map(Effect::Append));
        }
    }

    /// The outstanding [`Effect::Job`] is done.
    pub fn job_done(&mut self, job: JobResult) {
        let JobResult::Snapshot(result) = job;
        let Some((index, term)) = self.snapshot_running.take() else {
            return;
        };
        self.touched = true;
        // Also after a failure: it is tried again only when the log has grown once more.
        self.bytes_since_snapshot = 0;
        let Ok(removed) = result else {
            return;
        };
        self.node.mut_store().compact(index, term);
        self.log.sealed.retain(|s| !removed.contains(&s.number));
        self.log.sealed.push(Sealed {
            number: self.log.tail.segment,
            last_index: self.node.store().last(),
        });
        self.log.tail.segment += 1;
        self.log.tail.pos = HEADER_LEN;
        self.file = segment_file(&self.config, &self.dir, self.log.tail.segment);
    }

    /// Time passes (elections and heartbeats of a larger group).
    pub fn tick(&mut self, _now: Now) {
        if self.failure.is_none() && self.next_deadline().is_some() {
            self.touched = true;
            self.node.tick();
        }
    }

    /// When [`Quorum::tick`] wants to be called next; `None` for a group of one, which has nobody
    /// to hear or tell.
    pub fn next_deadline(&self) -> Option<Mono> {
        None
    }

    /// State of the group.
    pub fn status(&self) -> QuorumStatus {
        let raft = &self.node.raft;
        let voters = self.node.store().voters();
        QuorumStatus {
            leader: match raft.leader_id {
                raft::INVALID_ID => -1,
                id => node_id(id),
            },
            term: raft.term,
            committed: raft.raft_log.committed,
            last_index: raft.raft_log.last_index(),
            voters: voters
                .iter()
                .map(|&id| VoterStatus {
                    node_id: node_id(id),
                    last_index: raft.prs().get(id).map_or(0, |p| p.matched),
                })
                .collect(),
        }
    }

    fn handle_ready(&mut self, out: &mut Vec<Effect>) {
        let mut ready = self.node.ready();
        debug_assert!(
            ready.messages().is_empty(),
            "a group of one talks to nobody"
        );
        if let Err(reason) = self.apply_committed(&ready.take_committed_entries()) {
            return self.fail(reason);
        }
        let entries = ready.take_entries();
        if entries.is_empty() && !ready.must_sync() {
            // Only the commit index moved: it goes out with the next frame, since it follows from
            // the entries.
            let number = ready.number();
            self.node.advance_append_async(ready);
            self.node.on_persist_ready(number);
            self.node.advance_apply();
            return;
        }
        let mut state = self.node.raft.hard_state();
        // Never promise on disk what is not in it.
        state.commit = state.commit.min(self.node.raft.raft_log.persisted);
        let tail = &mut self.log.tail;
        let frame = raft_log::encode_frame(tail.sequence, &state, &entries);
        let (pos, len) = (tail.pos, frame.len() as u64);
        tail.sequence += 1;
        tail.pos += len;
        self.log.bytes += len;
        self.bytes_since_snapshot += len;
        let store = self.node.mut_store();
        store.set_hard_state(state);
        if !store.append(&entries) {
            return self.fail("raft left a gap in its log".to_owned());
        }
        if self.latest.index() == store.last() {
            self.frozen.push_back(Arc::new(self.latest.clone()));
        }
        self.writing = Some(ready.number());
        self.node.advance_append_async(ready);
        self.node.advance_apply();
        let append = Append {
            file: self.file.clone(),
            pos,
            bytes: frame.into(),
        };
        self.frame = Some(append.clone());
        out.push(Effect::Append(append));
    }

    fn apply_committed(&mut self, entries: &[Entry]) -> Result<(), String> {
        let Some(last) = entries.last().map(|e| e.index) else {
            return Ok(());
        };
        while self.frozen.front().is_some_and(|i| i.index() < last) {
            self.frozen.pop_front();
        }
        if self.frozen.front().is_some_and(|i| i.index() == last) {
            self.committed = self.frozen.pop_front().unwrap_or_default();
        } else {
            let mut image = Image::clone(&self.committed);
            for entry in entries {
                apply(&mut image, entry).map_err(|e| e.to_string())?;
            }
            self.committed = Arc::new(image);
        }
        while let Some((_, id)) = self.pending.pop_front_if(|(index, _)| *index <= last) {
            self.finished.push(id);
        }
        Ok(())
    }

    /// Makes the latest image anew from the committed one and the entries after it.
    fn rebuild_latest(&mut self) {
        let log = &self.node.raft.raft_log;
        let from = self.committed.index() + 1;
        let mut image = Image::clone(&self.committed);
        let result = log
            .entries(from, None, GetEntriesContext::empty(false))
            .map_err(|e| e.to_string())
            .and_then(|entries| {
                let mut each = entries.iter();
                each.try_for_each(|e| apply(&mut image, e).map_err(|e| e.to_string()))
            });
        match result {
            Ok(()) => self.latest = image,
            Err(reason) => self.fail(reason),
        }
    }

    /// After a change of role: the leader's first entry is empty, and the latest image is past it.
    fn follow_leadership(&mut self) {
        let raft = &self.node.raft;
        if raft.state == StateRole::Leader {
            let index = raft.raft_log.last_index();
            self.latest.skip_to(index, raft.term);
        }
    }

    fn announce(&mut self, out: &mut Vec<Effect>) {
        if self.committed.index() <= self.announce_after
            || Arc::ptr_eq(&self.committed, &self.announced)
        {
            return;
        }
        out.push(Effect::Committed(Commit {
            image: self.committed.clone(),
            delta: Arc::new(Delta::between(&self.announced, &self.committed)),
            finished: std::mem::take(&mut self.finished),
        }));
        self.announced = self.committed.clone();
    }

    fn maybe_snapshot(&mut self, out: &mut Vec<Effect>) {
        if self.snapshot_running.is_some()
            || self.bytes_since_snapshot < self.config.snapshot_bytes
            || self.committed.index() <= self.announce_after
        {
            return;
        }
        let index = self.committed.index();
        self.snapshot_running = Some((index, self.committed.term()));
        let sealed = self.log.sealed.iter();
        out.push(Effect::Job(Job::Snapshot(SnapshotJob {
            dir: self.dir.clone(),
            image: self.committed.clone(),
            voters: self.node.store().voters().to_vec(),
            next_segment: self.log.tail.segment + 1,
            covered: sealed
                .filter(|s| s.last_index <= index)
                .map(|s| s.number)
                .collect(),
        })));
    }

    fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }
}

impl std::fmt::Debug for Quorum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quorum")
            .field("dir", &self.dir)
            .field("status", &self.status())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// Raft ids start at 1, node ids at 0.
pub(crate) fn raft_id(node_id: BrokerId) -> u64 {
    u64::from(node_id.unsigned_abs()) + 1
}

fn node_id(raft_id: u64) -> BrokerId {
    BrokerId::try_from(raft_id.saturating_sub(1)).unwrap_or(-1)
}

fn segment_file(config: &QuorumConfig, dir: &Path, number: u64) -> Arc<LogFile> {
    let id = FileId(config.file_id_base + number);
    LogFile::new(id, raft_log::segment_path(dir, number))
}

#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Record(#[from] record::RecordError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("change of the voters in entry {0}, which this release does not do")]
    Voters(u64),
}

impl ApplyError {
    fn into_load(self, dir: &Path) -> LoadError {
        let path = dir.to_owned();
        match self {
            Self::Record(e) => LoadError::Record(path, e),
            Self::Image(e) => LoadError::Image(path, e),
            Self::Voters(_) => LoadError::Corrupt {
                path,
                pos: 0,
                reason: self.to_string(),
            },
        }
    }
}

fn apply(image: &mut Image, entry: &Entry) -> Result<(), ApplyError> {
    if entry.get_entry_type() != EntryType::EntryNormal {
        return Err(ApplyError::Voters(entry.index));
    }
    if entry.data.is_empty() {
        image.skip_to(entry.index, entry.term);
        return Ok(());
    }
    let records = record::decode_all(&entry.data)?;
    Ok(image.apply_all(&records, entry.index, entry.term)?)
}
