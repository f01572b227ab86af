//! The ring: live members ordered by (pid, node id), and what follows from the order alone.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::identity::{NodeId, Pid, RING_BITS};

/// Live members in ring order. The pid alone may be shared by two nodes; the pair never is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ring {
    places: BTreeSet<(Pid, NodeId)>,
}

/// One entry of a finger table: the first live member at or after `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Finger {
    /// Entry number: `start` is the own pid + 2^exponent, around the ring.
    pub exponent: u32,
    /// Where the search begins.
    pub start: Pid,
    /// The pid of the member found.
    pub pid: Pid,
    /// The member found.
    pub node_id: NodeId,
}

impl Ring {
    /// Puts a member on the ring.
    pub fn insert(&mut self, node_id: NodeId) {
        self.places.insert((node_id.pid(), node_id));
    }

    /// Takes a member off the ring.
    pub fn remove(&mut self, node_id: NodeId) {
        self.places.remove(&(node_id.pid(), node_id));
    }

    /// Whether the member is on the ring.
    pub fn contains(&self, node_id: NodeId) -> bool {
        self.places.contains(&(node_id.pid(), node_id))
    }

    /// How many members are on the ring.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Nobody is on the ring.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// All members in ring order, from pid 0.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.places.iter().map(|(_, node_id)| *node_id)
    }

    /// The members after `node_id`, nearest first, once around, without itself.
    pub fn successors(&self, node_id: NodeId) -> impl Iterator<Item = NodeId> {
        let place = (node_id.pid(), node_id);
        let after = self
            .places
            .range((Bound::Excluded(place), Bound::Unbounded));
        let around = self
            .places
            .range((Bound::Unbounded, Bound::Excluded(place)));
        after.chain(around).map(|(_, node_id)| *node_id)
    }

    /// The members before `node_id`, nearest first, once around, without itself.
    pub fn predecessors(&self, node_id: NodeId) -> impl Iterator<Item = NodeId> {
        let place = (node_id.pid(), node_id);
        let before = self
            .places
            .range((Bound::Unbounded, Bound::Excluded(place)))
            .rev();
        let around = self
            .places
            .range((Bound::Excluded(place), Bound::Unbounded))
            .rev();
        before.chain(around).map(|(_, node_id)| *node_id)
    }

    /// The first member at or after a point of the ring; `None` when the ring is empty.
    pub fn at_or_after(&self, point: Pid) -> Option<(Pid, NodeId)> {
        let from_point = self.places.range((point, NodeId(0))..).next();
        from_point.or_else(|| self.places.first()).copied()
    }

    /// The finger table of a place on this ring, as Chord defines it: a pure function of the map.
    /// Entry i is the first live member at or after pid + 2^i; empty on an empty ring.
    pub fn finger_table(&self, own: Pid) -> Vec<Finger> {
        (0..RING_BITS)
            .filter_map(|exponent| {
                let start = Pid(own.0.wrapping_add(1 << exponent));
                let (pid, node_id) = self.at_or_after(start)?;
                Some(Finger {
                    exponent,
                    start,
                    pid,
                    node_id,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = Vec<NodeId>> {
        prop::collection::btree_set(any::<u128>().prop_map(NodeId), 1..40)
            .prop_map(|ids| ids.into_iter().collect())
    }

    proptest! {
        #[test]
        fn neighbours_are_those_of_the_sorted_list(ids in ids()) {
            let mut ring = Ring::default();
            ids.iter().for_each(|id| ring.insert(*id));
            let mut sorted: Vec<_> = ids.iter().map(|id| (id.pid(), *id)).collect();
            sorted.sort();
            let sorted: Vec<NodeId> = sorted.into_iter().map(|(_, id)| id).collect();
            for (i, id) in sorted.iter().enumerate() {
                let mut after = sorted.clone();
                after.rotate_left(i);
                after.remove(0);
                prop_assert_eq!(ring.successors(*id).collect::<Vec<_>>(), after.clone());
                after.reverse();
                prop_assert_eq!(ring.predecessors(*id).collect::<Vec<_>>(), after);
            }
        }

        #[test]
        fn fingers_are_those_found_by_looking_at_everybody(ids in ids(), own in any::<u64>()) {
            let mut ring = Ring::default();
            ids.iter().for_each(|id| ring.insert(*id));
            let table = ring.finger_table(Pid(own));
            prop_assert_eq!(table.len(), 64);
            for (i, finger) in table.iter().enumerate() {
                let start = own.wrapping_add(1 << i);
                // The nearest clockwise, and of equal pids the lower id.
                let nearest = ids
                    .iter()
                    .min_by_key(|id| (id.pid().0.wrapping_sub(start), **id))
                    .unwrap();
                prop_assert_eq!((finger.start, finger.node_id), (Pid(start), *nearest));
            }
        }
    }

    #[test]
    fn an_empty_ring_has_no_fingers() {
        assert!(Ring::default().finger_table(Pid(7)).is_empty());
        assert!(Ring::default().is_empty());
    }
}
