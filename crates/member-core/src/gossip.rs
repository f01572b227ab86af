//! How news spreads, and how views that differ become equal again.
//!
//! News rides on every packet that goes out anyway; while there is some, three members get a DELTA
//! every fifth of a gossip interval. Each record is told a number of times that grows with the
//! logarithm of the members. What that misses is found by the view hash in every packet: views that
//! differ are compared by a digest of 64 hashes, and only the parts that differ are sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::event::Event;
use crate::identity::NodeId;
use crate::map::bucket_of;
use crate::member::Member;
use crate::options::MAX_DELTA_PACKETS;
use crate::packet::{BUCKETS, Body, Buckets, Header};
use crate::record::State;

/// Members that a round of gossip goes to: two along the ring, one anywhere.
const FINGER_TARGETS: usize = 2;
const RANDOM_TARGETS: usize = 1;

/// Members that look for one of the lost in each interval, over the whole cluster.
const SEEKERS: u64 = 3;

/// Records still to be told, those told least first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct UpdateQueue {
    told: BTreeMap<NodeId, u32>,
    order: BTreeSet<(u32, NodeId)>,
}

impl UpdateQueue {
    /// How often a record is told in a cluster of this size.
    pub(crate) fn budget(members: usize) -> u32 {
        // The digits of n are the rounded-up logarithm of n + 1.
        6.max(4 * members.checked_ilog10().map_or(1, |log| log + 1))
    }

    pub(crate) fn push(&mut self, node_id: NodeId) {
        self.remove(node_id);
        self.told.insert(node_id, 0);
        self.order.insert((0, node_id));
    }

    pub(crate) fn remove(&mut self, node_id: NodeId) {
        if let Some(count) = self.told.remove(&node_id) {
            self.order.remove(&(count, node_id));
        }
    }

    pub(crate) fn told(&mut self, node_id: NodeId, budget: u32) {
        let Some(count) = self.told.get(&node_id).copied() else {
            return;
        };
        self.remove(node_id);
        if count + 1 < budget {
            self.told.insert(node_id, count + 1);
            self.order.insert((count + 1, node_id));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.order.iter().map(|(_, node_id)| *node_id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

impl Member {
    pub(crate) fn tick_gossip(&mut self, now: Duration) {
        if self.gossip_at.is_none_or(|at| now < at) {
            return;
        }
        // Whoever comes later gets everything anyway.
        let needless: Vec<NodeId> = self
            .queue
            .iter()
            .filter(|id| !self.has_audience(*id))
            .collect();
        for node_id in needless {
            self.queue.remove(node_id);
        }
        if self.queue.is_empty() {
            self.gossip_at = None;
            return;
        }
        let targets = self.gossip_targets();
        for node_id in targets {
            self.send_to_member(node_id, &Body::Delta);
        }
        self.gossiped_at = Some(now);
        let more = !self.queue.is_empty();
        self.gossip_at = more.then(|| now + self.options.gossip_pause());
    }

    /// Whether there is anybody but its subject who can be told of a record. A member need not hear
    /// that it lives itself, and members of another cluster must not hear of it.
    fn has_audience(&self, node_id: NodeId) -> bool {
        let Some(entry) = self.map.get(node_id) else {
            return false;
        };
        let record = &entry.record;
        let is_other = node_id != self.me.node_id && record.state == State::Alive;
        let without = usize::from(self.me.state.is_live()) + usize::from(is_other);
        self.map.audience(record.metadata.cluster_id) > without
    }

    /// Members at ring distances of powers of two, so that everybody is told by as many others, and
    /// a random one. (Chord's own fingers would not do: they prefer members behind large gaps.)
    fn gossip_targets(&mut self) -> Vec<NodeId> {
        let others: Vec<NodeId> = self.map.ring().successors(self.me.node_id).collect();
        let fingers: Vec<NodeId> = (0..usize::BITS)
            .map_while(|exponent| others.get((1_usize << exponent) - 1).copied())
            .collect();
        let mut targets = self.random.pick(&fingers, FINGER_TARGETS);
        targets.extend(self.random.pick(&others, RANDOM_TARGETS));
        targets.sort();
        targets.dedup();
        targets
    }

    /// The sender's view hash differs from ours: compare.
    pub(crate) fn compare_views(
        &mut self,
        now: Duration,
        from: SocketAddr,
        header: &Header,
        body: &Body,
    ) {
        let cluster = self.shared_cluster(header.cluster_id);
        if matches!(body, Body::Digest { .. } | Body::Leave { .. })
            || now < self.digest_from
            || header.view_hash == self.map.view_hash(cluster)
        {
            return;
        }
        self.digest_from = now + self.options.digest_pause();
        self.counters.digests_sent += 1;
        let buckets = Box::new(self.map.buckets(cluster));
        let body = Body::Digest {
            reply: false,
            buckets,
        };
        self.send(from, Some(header.sender), cluster, &body, &[]);
    }

    /// Answers a digest with our records of the parts that differ, and with our own digest, so that
    /// the other side does the same.
    pub(crate) fn on_digest(
        &mut self,
        from: SocketAddr,
        header: &Header,
        reply: bool,
        theirs: &Buckets,
    ) {
        let cluster = self.shared_cluster(header.cluster_id);
        let ours = self.map.buckets(cluster);
        if ours == *theirs {
            return;
        }
        self.send_differing(from, header, &ours, theirs);
        if !reply {
            let body = Body::Digest {
                reply: true,
                buckets: Box::new(ours),
            };
            self.send(from, Some(header.sender), cluster, &body, &[]);
        }
    }

    fn send_differing(
        &mut self,
        from: SocketAddr,
        header: &Header,
        ours: &Buckets,
        theirs: &Buckets,
    ) {
        let cluster = self.shared_cluster(header.cluster_id);
        let mut records: Vec<NodeId> = self
            .map
            .iter()
            .filter(|entry| !entry.hidden && entry.record.belongs_with(cluster))
            .map(|entry| entry.record.node_id)
            .filter(|id| ours[bucket_of(id.pid())] != theirs[bucket_of(id.pid())])
            .collect();
        // One digest is answered by a bounded number of packets: begin somewhere else each time,
        // bucket by bucket, so that in the end all of them have been sent.
        let first_bucket = self.random.index(BUCKETS);
        records.sort_by_key(|id| {
            (
                (bucket_of(id.pid()) + BUCKETS - first_bucket) % BUCKETS,
                *id,
            )
        });
        let mut records = records.into_iter().peekable();
        for _ in 0..MAX_DELTA_PACKETS {
            if records.peek().is_none() {
                return;
            }
            let mut writer = self.writer(Some(header.sender), cluster, &Body::Delta);
            while let Some(entry) = records.peek().and_then(|id| self.map.get(*id)) {
                if !writer.push(&entry.record, &self.accusers_of(entry.record.node_id)) {
                    break;
                }
                records.next();
            }
            self.put_out(from, writer);
        }
    }

    /// Looks for the dead, which may only have been cut off, and for introducers that nobody here
    /// knows, which may have lost their disk: this is how partitions heal by themselves. Over the
    /// whole cluster a few members do so in each interval.
    pub(crate) fn seek_the_lost(&mut self, now: Duration) {
        let alive = self.others_alive().count() as u64 + 1;
        if self.random.below(alive) >= SEEKERS {
            return;
        }
        let dead: Vec<NodeId> = self
            .map
            .iter()
            .filter(|entry| entry.record.state == State::Dead)
            .map(|entry| entry.record.node_id)
            .collect();
        let strangers = self.unknown_introducers();
        let choice = self.random.index(dead.len() + strangers.len());
        if let Some(node_id) = dead.get(choice) {
            self.send_to_member(
                *node_id,
                &Body::Ping {
                    stamp: Self::stamp(now),
                    origin: None,
                },
            );
        } else if let Some(address) = strangers.get(choice - dead.len()) {
            self.send_join(now, *address);
        }
    }

    fn unknown_introducers(&self) -> Vec<SocketAddr> {
        let known: BTreeSet<SocketAddr> = self
            .map
            .iter()
            .filter(|entry| entry.record.state.is_live())
            .map(|entry| entry.record.metadata.address)
            .collect();
        self.introducers
            .iter()
            .filter(|address| !known.contains(address))
            .copied()
            .collect()
    }

    pub(crate) fn notice_orphanhood(&mut self, now: Duration) {
        if self.joining.is_some() {
            return;
        }
        let nobody = self.others_alive().next().is_none();
        if nobody || now.saturating_sub(self.heard_anyone_at) > self.options.orphan_timeout() {
            self.event(Event::Orphaned);
            self.begin_joining(now);
        }
    }
}
