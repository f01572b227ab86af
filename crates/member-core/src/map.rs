//! The member map: all records, merged; the ring of those that live; hashes for anti-entropy; and
//! epitaphs, so that old news never brings back a member that was forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::identity::{ClusterId, Incarnation, MAX_EPOCH_LEAP, NodeId, Pid, mix};
use crate::options::{FORGET_TIMEOUT, MAX_EPITAPHS, MAX_MEMBERS};
use crate::packet::{BUCKETS, Buckets, write_record};
use crate::record::{Record, State};
use crate::ring::Ring;

/// One member as this map holds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    /// When a packet of this member, or news that it lives, last came in.
    pub(crate) heard_at: Duration,
    /// The newest own stamp that came back: the member received what was sent then.
    pub(crate) proved_at: Duration,
    /// Its newest stamp, to be echoed in the next heartbeat.
    pub(crate) its_stamp: u64,
    /// When it was last told, in answer to a packet, what it has to refute.
    pub(crate) corrected_at: Option<Duration>,
    /// Dead or departed for so long that it is not shown any more.
    pub(crate) hidden: bool,
    /// When it is hidden, or forgotten if it is hidden; set while it is not live.
    retires_at: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Epitaph {
    incarnation: Incarnation,
    until: Duration,
}

/// What became of a record that was merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    /// The member was unknown.
    New {
        /// Who was forgotten to make room.
        instead_of: Option<NodeId>,
    },
    /// The record replaces one that is smaller.
    Changed {
        /// What was held before.
        before: State,
    },
    /// It is the record that is held.
    Same,
    /// A greater one is held.
    Older,
    /// The member was forgotten at this incarnation, which the record does not exceed.
    Buried(Incarnation),
    /// So far above what is known of the member that it cannot be true.
    Leap,
    /// There is no room for another member.
    Full,
}

/// What time does to members that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Retired {
    Hidden(Record),
    Forgotten(NodeId),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct MemberMap {
    entries: BTreeMap<NodeId, Entry>,
    ring: Ring,
    /// Hashes of the live records per cluster, since two members compare only what both may hold.
    hashes: BTreeMap<Option<ClusterId>, HashedPart>,
    /// When those that are gone and still shown are hidden.
    hidings: BTreeSet<(Duration, NodeId)>,
    /// When those that are hidden are forgotten.
    forgettings: BTreeSet<(Duration, NodeId)>,
    epitaphs: BTreeMap<NodeId, Epitaph>,
    epitaph_ends: BTreeSet<(Duration, NodeId)>,
}

/// The live records of one cluster: XOR of their hashes per bucket, so that adding and removing
/// are the same and order does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct HashedPart {
    members: usize,
    buckets: Buckets,
}

impl MemberMap {
    pub(crate) fn get(&self, node_id: NodeId) -> Option<&Entry> {
        self.entries.get(&node_id)
    }

    pub(crate) fn get_mut(&mut self, node_id: NodeId) -> Option<&mut Entry> {
        self.entries.get_mut(&node_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The incarnation at which a member was forgotten.
    pub(crate) fn epitaph(&self, node_id: NodeId) -> Option<Incarnation> {
        self.epitaphs
            .get(&node_id)
            .map(|epitaph| epitaph.incarnation)
    }

    /// Merges a record: the greater one holds.
    pub(crate) fn merge(&mut self, record: &Record, now: Duration, cleanup: Duration) -> Merged {
        let node_id = record.node_id;
        let known = self
            .get(node_id)
            .map(|entry| entry.record.incarnation)
            .or_else(|| self.epitaph(node_id));
        if known.is_some_and(|known| record.incarnation.epochs_above(known) > MAX_EPOCH_LEAP) {
            return Merged::Leap;
        }
        if let Some(entry) = self.entries.get(&node_id) {
            let before = entry.record.state;
            return match record.cmp(&entry.record) {
                std::cmp::Ordering::Less => Merged::Older,
                std::cmp::Ordering::Equal => Merged::Same,
                std::cmp::Ordering::Greater => {
                    self.replace(record.clone(), now, cleanup);
                    Merged::Changed { before }
                }
            };
        }
        if let Some(buried) = self.epitaph(node_id)
            && record.incarnation <= buried
        {
            return Merged::Buried(buried);
        }
        let mut instead_of = None;
        if self.entries.len() >= MAX_MEMBERS {
            instead_of = self.forget_the_longest_gone(now);
            if instead_of.is_none() {
                return Merged::Full;
            }
        }
        self.remove_epitaph(node_id);
        self.replace(record.clone(), now, cleanup);
        Merged::New { instead_of }
    }

    fn replace(&mut self, record: Record, now: Duration, cleanup: Duration) {
        let node_id = record.node_id;
        let old = self.take(node_id);
        // A member that was never seen alive here is remembered, and not shown.
        let hidden = match &old {
            Some(old) => old.hidden && !record.state.is_live(),
            None => !record.state.is_live(),
        };
        let retires_at =
            (!record.state.is_live()).then(|| now + if hidden { FORGET_TIMEOUT } else { cleanup });
        let (proved_at, its_stamp) = match &old {
            // Stamps of an earlier boot mean nothing to this one.
            Some(old) if old.record.metadata.boot_nonce == record.metadata.boot_nonce => {
                (old.proved_at, old.its_stamp)
            }
            _ => (now, 0),
        };
        if record.state.is_live() {
            self.ring.insert(node_id);
            self.toggle_hash(&record, true);
        }
        if let Some(at) = retires_at {
            self.retirements_mut(hidden).insert((at, node_id));
        }
        // An accusation is no sign of life.
        let heard_at = match &old {
            Some(old) if record.state != State::Alive => old.heard_at,
            _ => now,
        };
        let entry = Entry {
            record,
            heard_at,
            proved_at,
            its_stamp,
            corrected_at: old.and_then(|old| old.corrected_at),
            hidden,
            retires_at,
        };
        self.entries.insert(node_id, entry);
    }

    /// Takes an entry out, with all that follows from it.
    fn take(&mut self, node_id: NodeId) -> Option<Entry> {
        let entry = self.entries.remove(&node_id)?;
        if entry.record.state.is_live() {
            self.ring.remove(node_id);
            self.toggle_hash(&entry.record, false);
        }
        if let Some(at) = entry.retires_at {
            self.retirements_mut(entry.hidden).remove(&(at, node_id));
        }
        Some(entry)
    }

    fn retirements_mut(&mut self, hidden: bool) -> &mut BTreeSet<(Duration, NodeId)> {
        if hidden {
            &mut self.forgettings
        } else {
            &mut self.hidings
        }
    }

    /// Removes all records that a member of `cluster` may not hold; says whose they were.
    pub(crate) fn remove_foreign(&mut self, cluster: ClusterId, now: Duration) -> Vec<NodeId> {
        let foreign: Vec<NodeId> = self
            .iter()
            .filter(|entry| !entry.record.belongs_with(Some(cluster)))
            .map(|entry| entry.record.node_id)
            .collect();
        // What is still told of them from before they were bound is old news.
        for node_id in &foreign {
            self.bury(*node_id, now);
        }
        foreign
    }

    /// When [`Self::retire`] has something to do.
    pub(crate) fn next_retirement(&self) -> Option<Duration> {
        let ends = [&self.hidings, &self.forgettings, &self.epitaph_ends];
        let firsts = ends.into_iter().filter_map(|ends| ends.first());
        firsts.map(|(at, _)| *at).min()
    }

    /// Hides those that are gone for the time of cleanup, forgets those gone for a day.
    pub(crate) fn retire(&mut self, now: Duration) -> Vec<Retired> {
        let mut retired = Vec::new();
        while let Some(&(at, node_id)) = self.forgettings.first()
            && at <= now
        {
            self.bury(node_id, now);
            retired.push(Retired::Forgotten(node_id));
        }
        while let Some(&(at, node_id)) = self.hidings.first()
            && at <= now
        {
            self.hidings.remove(&(at, node_id));
            if let Some(entry) = self.entries.get_mut(&node_id) {
                let forget_at = now + FORGET_TIMEOUT;
                entry.hidden = true;
                entry.retires_at = Some(forget_at);
                self.forgettings.insert((forget_at, node_id));
                retired.push(Retired::Hidden(entry.record.clone()));
            }
        }
        while let Some(&(at, node_id)) = self.epitaph_ends.first()
            && at <= now
        {
            self.remove_epitaph(node_id);
        }
        retired
    }

    fn forget_the_longest_gone(&mut self, now: Duration) -> Option<NodeId> {
        // Whoever is hidden is missed by nobody; those still shown are needed longer.
        let hidden = self.forgettings.first();
        let &(_, node_id) = hidden.or_else(|| self.hidings.first())?;
        self.bury(node_id, now);
        Some(node_id)
    }

    fn bury(&mut self, node_id: NodeId, now: Duration) {
        let Some(entry) = self.take(node_id) else {
            return;
        };
        self.remove_epitaph(node_id);
        if self.epitaphs.len() >= MAX_EPITAPHS
            && let Some(&(_, oldest)) = self.epitaph_ends.first()
        {
            self.remove_epitaph(oldest);
        }
        let epitaph = Epitaph {
            incarnation: entry.record.incarnation,
            until: now + FORGET_TIMEOUT,
        };
        self.epitaph_ends.insert((epitaph.until, node_id));
        self.epitaphs.insert(node_id, epitaph);
    }

    fn remove_epitaph(&mut self, node_id: NodeId) {
        if let Some(epitaph) = self.epitaphs.remove(&node_id) {
            self.epitaph_ends.remove(&(epitaph.until, node_id));
        }
    }

    fn toggle_hash(&mut self, record: &Record, add: bool) {
        let cluster_id = record.metadata.cluster_id;
        let part = self.hashes.entry(cluster_id).or_insert(HashedPart {
            members: 0,
            buckets: [0; BUCKETS],
        });
        part.buckets[bucket_of(record.pid())] ^= hash_of(record);
        part.members = if add {
            part.members + 1
        } else {
            part.members - 1
        };
        if part.members == 0 {
            self.hashes.remove(&cluster_id);
        }
    }

    /// How many live members may hold a record of a member of `cluster`.
    pub(crate) fn audience(&self, cluster: Option<ClusterId>) -> usize {
        let parts = self.hashes.iter().filter(|(part_cluster, _)| {
            part_cluster.is_none() || cluster.is_none() || **part_cluster == cluster
        });
        parts.map(|(_, part)| part.members).sum()
    }

    /// Hashes of the live records that members of `cluster` may hold; all of them for `None`.
    pub(crate) fn buckets(&self, cluster: Option<ClusterId>) -> Buckets {
        let mut sum = [0; BUCKETS];
        for (part_cluster, part) in &self.hashes {
            if part_cluster.is_none() || cluster.is_none() || *part_cluster == cluster {
                for (total, bucket) in sum.iter_mut().zip(part.buckets) {
                    *total ^= bucket;
                }
            }
        }
        sum
    }

    /// One hash of all that [`Self::buckets`] hashes.
    pub(crate) fn view_hash(&self, cluster: Option<ClusterId>) -> u64 {
        self.buckets(cluster)
            .into_iter()
            .fold(0, |sum, bucket| sum ^ bucket)
    }
}

/// The part of the ring that a place lies in: its top six bits.
pub(crate) fn bucket_of(pid: Pid) -> usize {
    (pid.0 >> (64 - BUCKETS.trailing_zeros())) as usize
}

fn hash_of(record: &Record) -> u64 {
    let mut bytes = Vec::with_capacity(160);
    write_record(&mut bytes, record);
    bytes.chunks(8).fold(0, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_be_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    use super::*;
    use crate::packet::testing::record;

    const CLEANUP: Duration = Duration::from_secs(12);

    /// Records of few members in few incarnations, so that they meet.
    fn few_records() -> impl Strategy<Value = Vec<Record>> {
        let one =
            (0..6_u128, 1..3_u32, 0..3_u8, record()).prop_map(|(id, epoch, steps, record)| {
                let mut incarnation = Incarnation::first_of(epoch);
                for _ in 0..steps {
                    incarnation = incarnation.next();
                }
                Record {
                    node_id: NodeId(id),
                    incarnation,
                    ..record
                }
            });
        prop::collection::vec(one, 0..24)
    }

    fn merged<'a>(records: impl IntoIterator<Item = &'a Record>) -> MemberMap {
        let mut map = MemberMap::default();
        for record in records {
            map.merge(record, Duration::ZERO, CLEANUP);
        }
        map
    }

    fn held(map: &MemberMap) -> Vec<Record> {
        map.iter().map(|entry| entry.record.clone()).collect()
    }

    proptest! {
        #[test]
        fn merging_is_the_maximum_in_any_order_and_any_number_of_times(
            records in few_records(),
            shuffle in any::<u64>(),
        ) {
            let mut expected: BTreeMap<NodeId, Record> = BTreeMap::new();
            for record in &records {
                let greatest = expected.entry(record.node_id).or_insert_with(|| record.clone());
                *greatest = greatest.clone().max(record.clone());
            }
            let once = merged(&records);
            prop_assert_eq!(held(&once), expected.into_values().collect::<Vec<_>>());

            let order = crate::identity::Random::new(shuffle).pick(
                &(0..records.len()).collect::<Vec<_>>(),
                records.len(),
            );
            let other = merged(order.iter().map(|i| &records[*i]).chain(&records));
            prop_assert_eq!(held(&once), held(&other));
            prop_assert_eq!(&once.ring, &other.ring);
            prop_assert_eq!(&once.hashes, &other.hashes);
        }

        #[test]
        fn ring_and_hashes_follow_the_records(records in few_records()) {
            let map = merged(&records);
            let live: Vec<Record> =
                held(&map).into_iter().filter(|record| record.state.is_live()).collect();
            let mut places: Vec<_> = live.iter().map(|r| (r.pid(), r.node_id)).collect();
            places.sort();
            prop_assert_eq!(map.ring.iter().collect::<Vec<_>>(), places.iter().map(|p| p.1).collect::<Vec<_>>());
            for cluster in live.iter().map(|r| r.metadata.cluster_id).chain([None]) {
                let mut buckets = [0; BUCKETS];
                for record in live.iter().filter(|record| record.belongs_with(cluster)) {
                    buckets[bucket_of(record.pid())] ^= hash_of(record);
                }
                prop_assert_eq!(map.buckets(cluster), buckets);
            }
        }

        #[test]
        fn time_forgets_but_never_resurrects(records in few_records(), old in any::<prop::sample::Index>()) {
            prop_assume!(!records.is_empty());
            let mut map = merged(&records);
            let now = FORGET_TIMEOUT + CLEANUP;
            map.retire(CLEANUP);
            map.retire(now);
            prop_assert!(map.iter().all(|entry| entry.record.state.is_live()));
            let old = &records[old.index(records.len())];
            let before = held(&map);
            map.merge(old, now, CLEANUP);
            prop_assert_eq!(held(&map), before, "old news changed the map");
            map.retire(now + FORGET_TIMEOUT);
            prop_assert!(map.epitaphs.is_empty() && map.epitaph_ends.is_empty());
            prop_assert!(map.hidings.is_empty() && map.forgettings.is_empty());
        }
    }

    fn member_of(model: &Record, id: usize, state: State) -> Record {
        Record {
            node_id: NodeId(id as u128),
            state,
            ..model.clone()
        }
    }

    #[test]
    fn a_full_map_gives_up_the_longest_gone_and_refuses_beyond() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let model = record().new_tree(&mut runner).unwrap().current();
        let mut map = MemberMap::default();
        // Three die one after the other. The first has been hidden when the others are still shown.
        for (id, died_at) in [(0, 0), (1, 20), (2, 21)] {
            let died_at = Duration::from_secs(died_at);
            map.retire(died_at);
            map.merge(&member_of(&model, id, State::Alive), died_at, CLEANUP);
            map.merge(&member_of(&model, id, State::Dead), died_at, CLEANUP);
        }
        let now = Duration::from_secs(22);
        assert!(map.get(NodeId(0)).unwrap().hidden && !map.get(NodeId(1)).unwrap().hidden);
        for id in 3..MAX_MEMBERS {
            map.merge(&member_of(&model, id, State::Alive), now, CLEANUP);
        }
        for id in [0, 1, 2] {
            let newcomer = member_of(&model, MAX_MEMBERS + id, State::Alive);
            let gone = NodeId(id as u128);
            let merged = map.merge(&newcomer, now, CLEANUP);
            assert_eq!(
                merged,
                Merged::New {
                    instead_of: Some(gone)
                }
            );
            assert!(map.get(gone).is_none() && map.epitaph(gone).is_some());
        }
        let one_too_many = member_of(&model, MAX_MEMBERS + 3, State::Alive);
        assert_eq!(map.merge(&one_too_many, now, CLEANUP), Merged::Full);
        assert_eq!(map.iter().count(), MAX_MEMBERS);
    }
}
