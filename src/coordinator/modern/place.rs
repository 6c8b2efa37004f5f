//! What records do to the members of a group, and to what each of them shall have.

use super::LEAVE_EPOCH;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The epoch that a group and its target begin with.
pub(crate) const FIRST_EPOCH: i32 = 1;

/// Members, or what each shall have, by the member's id.
pub(crate) type ById<T> = BTreeMap<Arc<str>, Arc<T>>;

/// A member as two records tell it: one what it says of itself, the other what it has.
pub(crate) trait GroupMember: Clone {
    /// A member that nothing is known of.
    fn new(id: Arc<str>) -> Self;
    /// Takes over what `other` says of itself.
    fn copy_metadata(&mut self, other: &Self);
    /// Takes over what `other` has.
    fn copy_assignment(&mut self, other: &Self);
    /// Has nothing from this epoch on.
    fn lose_assignment(&mut self, epoch: i32);
}

/// Who stands under an id, or what; `None`: nobody.
#[derive(Debug)]
pub(crate) struct Place<T> {
    pub(crate) id: Arc<str>,
    pub(crate) holds: Option<Arc<T>>,
}

impl<T> Place<T> {
    pub(crate) fn new(id: &Arc<str>, holds: Option<Arc<T>>) -> Self {
        let id = id.clone();
        Self { id, holds }
    }

    /// Puts it into the map; what was there before, to be put back when the change is undone.
    pub(crate) fn put_into(self, all: &mut ById<T>) -> Self {
        let before = match self.holds {
            Some(new) => all.insert(self.id.clone(), new),
            None => all.remove(&self.id),
        };
        Self {
            id: self.id,
            holds: before,
        }
    }
}

impl<M: GroupMember> Place<M> {
    /// A member after a record of what it says of itself, `None` for the tombstone, which removes
    /// it. The answer is `None` when that changes nothing.
    pub(crate) fn said(all: &ById<M>, id: &Arc<str>, said: Option<&Arc<M>>) -> Option<Self> {
        let Some(said) = said else {
            return all.contains_key(id).then(|| Self::new(id, None));
        };
        let mut member = known_or_new(all, id);
        Arc::make_mut(&mut member).copy_metadata(said);
        Some(Self::new(id, Some(member)))
    }

    /// A member after a record of what it has, `None` for the tombstone, which takes that away.
    /// The answer is `None` when that changes nothing.
    pub(crate) fn has(all: &ById<M>, id: &Arc<str>, has: Option<&Arc<M>>) -> Option<Self> {
        let member = match has {
            Some(has) => {
                let mut member = known_or_new(all, id);
                Arc::make_mut(&mut member).copy_assignment(has);
                member
            }
            None => {
                let mut member = all.get(id)?.clone();
                Arc::make_mut(&mut member).lose_assignment(LEAVE_EPOCH);
                member
            }
        };
        Some(Self::new(id, Some(member)))
    }
}

fn known_or_new<M: GroupMember>(all: &ById<M>, id: &Arc<str>) -> Arc<M> {
    match all.get(id) {
        Some(member) => member.clone(),
        None => Arc::new(M::new(id.clone())),
    }
}
