//! Names of groups, or of transactional ids, and the numbers they have here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What a coordinator knows of the names of one partition: each is found with one look however many
/// there are, and all are walked in the order in which they were made.
///
/// Names come from the network, so that the table hashes them with a key of its own; nothing walks
/// the table, whose order differs from process to process.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    serials: HashMap<Arc<str>, u64>,
    ordered: BTreeSet<u64>,
}

impl Roster {
    /// The number behind a name.
    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        self.serials.get(name).copied()
    }

    /// Enters a name; its number is higher than all before.
    pub(crate) fn insert(&mut self, name: Arc<str>, serial: u64) {
        if let Some(old) = self.serials.insert(name, serial) {
            self.ordered.remove(&old);
        }
        self.ordered.insert(serial);
    }

    /// Strikes a name out.
    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(serial) = self.serials.remove(name) {
            self.ordered.remove(&serial);
        }
    }

    /// All numbers, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.iter_from(0)
    }

    /// The numbers from this one on, ascending.
    pub(crate) fn iter_from(&self, serial: u64) -> impl Iterator<Item = u64> {
        self.ordered.range(serial..).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Roster;

    #[test]
    fn names_are_found_and_walked_in_order_of_their_making() {
        let mut roster = Roster::default();
        for (serial, name) in ["c", "a", "b"].into_iter().enumerate() {
            roster.insert(name.into(), serial as u64 + 1);
        }
        assert_eq!(roster.get("a"), Some(2));
        assert_eq!(roster.iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(roster.iter_from(2).collect::<Vec<_>>(), [2, 3]);
        roster.remove("a");
        roster.remove("never there");
        assert_eq!(roster.get("a"), None);
        roster.insert("c".into(), 4);
        assert_eq!(roster.iter().collect::<Vec<_>>(), [3, 4]);
    }
}
