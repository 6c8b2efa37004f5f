//! Things that wait under a number, in slots that are used again: no hashing, and no allocation
//! once there are as many slots as ever wait at a time.

/// Bits of an id that name its slot; the others count the slot's uses.
const INDEX_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// Bits of an id: what is above them tells other numbers from these.
const ID_BITS: u32 = 61;
const USES_MASK: u64 = (1 << (ID_BITS - INDEX_BITS)) - 1;

/// The count of uses that follows.
fn next_use(uses: u64) -> u64 {
    ((uses + 1) & USES_MASK).max(1)
}

struct Slot<T> {
    uses: u64,
    value: Option<T>,
}

/// Values by ids that the slab gives. An id is not given again before its slot was used 2^35 times.
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Values in it.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a value in and gives its id, which is never 0.
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        let id = self.reserve();
        self.fill(id, value);
        id
    }

    /// An id whose value comes later, with [`Slab::fill`]; until then nothing is found under it.
    pub(crate) fn reserve(&mut self) -> u64 {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None => {
                self.slots.push(Slot {
                    uses: 0,
                    value: None,
                });
                self.slots.len() - 1
            }
        };
        debug_assert!(
            index as u64 <= INDEX_MASK,
            "more waits than the limits allow"
        );
        let Some(slot) = self.slots.get_mut(index) else {
            return 0; // not reached: the index is of a slot
        };
        slot.uses = next_use(slot.uses);
        slot.uses << INDEX_BITS | index as u64
    }

    /// The value of an id that was reserved.
    pub(crate) fn fill(&mut self, id: u64, value: T) {
        if let Some(slot) = self.slot(id) {
            slot.value = Some(value);
        }
    }

    /// The value with this id, if it is still there.
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        self.slot(id)?.value.as_mut()
    }

    /// Takes the value with this id out for a while: the id stays, for [`Slab::fill`].
    pub(crate) fn lift(&mut self, id: u64) -> Option<T> {
        self.slot(id)?.value.take()
    }

    /// The ids of all values.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        let slots = self.slots.iter().enumerate();
        let used = slots.filter(|(_, slot)| slot.value.is_some());
        used.map(|(index, slot)| slot.uses << INDEX_BITS | index as u64)
    }

    /// Takes the value with this id out, or takes back what was reserved.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let slot = self.slot(id)?;
        slot.uses = next_use(slot.uses); // the id is of the past from now on
        let value = slot.value.take();
        self.free.push((id & INDEX_MASK) as u32);
        value
    }

    fn slot(&mut self, id: u64) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut((id & INDEX_MASK) as usize)?;
        (slot.uses == id >> INDEX_BITS).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_values_that_are_gone_find_nothing() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!((slab.len(), slab.get_mut(b)), (2, Some(&mut 'b')));
        assert_eq!((slab.remove(a), slab.remove(a)), (Some('a'), None));
        let c = slab.insert('c');
        assert_ne!(c, a);
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.get_mut(c), Some(&mut 'c'));
        assert_eq!((slab.remove(0), slab.remove(u64::MAX)), (None, None));
        assert_eq!((slab.remove(b), slab.remove(c)), (Some('b'), Some('c')));
        let d = slab.reserve();
        assert_eq!((slab.len(), slab.get_mut(d)), (1, None));
        slab.fill(d, 'd');
        assert_eq!(slab.ids().collect::<Vec<_>>(), [d]);
        assert_eq!(
            (slab.lift(d), slab.lift(d), slab.len()),
            (Some('d'), None, 1)
        );
        assert_eq!(slab.ids().next(), None);
        slab.fill(d, 'D');
        assert_eq!((slab.remove(d), slab.len()), (Some('D'), 0));
        let e = slab.reserve();
        assert_eq!((slab.remove(e), slab.len()), (None, 0));
        assert!(slab.is_empty());
    }
}
