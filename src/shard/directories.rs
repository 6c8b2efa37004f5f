//! The controller's part in log directories, on shard 0: the metadata says which are there, which
//! partition is in which, and which partitions have no leader because theirs failed.

use crate::Shard;
use crate::controller::Controller;
use flumen_base::{TopicPartition, Uuid};
use flumen_quorum::controller;
use flumen_quorum::{MetadataRecord, Partition, Topic};
use std::collections::VecDeque;

/// What the metadata does not say yet.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    /// A directory has failed.
    pub(crate) lost: bool,
    /// Partitions that are in another directory now.
    pub(crate) moved: VecDeque<(TopicPartition, Uuid)>,
}

impl Shard {
    /// Ids of the log directories that are usable.
    pub(crate) fn online_ids(&self) -> Vec<Uuid> {
        let dirs = self.dirs.online();
        let ids = dirs.filter_map(|n| self.config.log_dirs.get(n).map(|d| d.id));
        ids.collect()
    }

    /// With the registration: where partitions were found, and who leads those of directories that
    /// have failed or come back.
    pub(crate) fn found_directories(&self, c: &Controller) -> Vec<MetadataRecord> {
        let node = self.broker.node_id;
        let found = |topic: &Topic, p: &Partition| {
            let key = (topic.name.to_string(), p.index);
            let n = self.partitions.found.iter().position(|d| d.has(&key))?;
            self.config.log_dirs.get(n).map(|d| d.id)
        };
        controller::directory_records(c.quorum.latest(), node, &self.online_ids(), found)
    }

    /// At the end of a turn: the metadata hears of failed directories and of moves that ended.
    pub(crate) fn propose_directories(&mut self) {
        let due = |c: &Controller| {
            let said = !c.directories.lost && c.directories.moved.is_empty();
            !said && c.is_registering()
        };
        if !self.controller.as_ref().is_some_and(due) {
            return;
        }
        let (node, online) = (self.broker.node_id, self.online_ids());
        let Some(c) = &mut self.controller else {
            return; // looked at above
        };
        let image = c.quorum.latest();
        let mut records: Vec<MetadataRecord> = Vec::new();
        for (tp, dir) in &c.directories.moved {
            records.extend(controller::directory_moved(image, node, *tp, *dir));
        }
        if c.directories.lost {
            records.extend(controller::directories_left(image, node, &online));
        }
        // Where it is not accepted now (the disk of the metadata log is full) it comes again.
        if records.is_empty() || c.quorum.propose(&records).is_ok() {
            c.directories = Directories::default();
        }
    }
}
