//! Coming and going: JOIN, JOINREPLY, LEAVE.
//!
//! An introducer is an address, not a role: every member answers JOIN. A joiner tries all
//! introducers and all members that it knows from an earlier run, with a growing pause and jitter,
//! for ever.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::event::Event;
use crate::identity::NodeId;
use crate::member::Member;
use crate::options::{
    JOIN_FANOUT, JOIN_PAUSE_MAX, JOIN_PAUSE_MIN, LEAVE_ACKS, LEAVE_TIMEOUT, MAX_JOIN_ADDRESSES,
};
use crate::packet::{Body, Header};
use crate::record::State;

/// Records of the joiner's neighbourhood that a JOINREPLY offers; as many as fit are sent, and the
/// rest follows by digest.
const JOIN_REPLY_NEIGHBOURS: usize = 4;
const JOIN_REPLY_OTHERS: usize = 8;

/// Pause between two rounds of LEAVE.
const LEAVE_PAUSE: Duration = Duration::from_millis(200);

/// Members beside the neighbours that are told of a leave directly.
const LEAVE_OTHERS: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Joining {
    next_at: Duration,
    pause: Duration,
}

impl Joining {
    pub(crate) fn begin(now: Duration) -> Self {
        Self {
            next_at: now,
            pause: JOIN_PAUSE_MIN,
        }
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.next_at
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Leaving {
    targets: Vec<NodeId>,
    acknowledged: BTreeSet<NodeId>,
    began: Duration,
    next_at: Duration,
    until: Duration,
    done: bool,
}

impl Leaving {
    pub(crate) fn deadline(&self) -> Option<Duration> {
        (!self.done).then(|| self.next_at.min(self.until))
    }
}

impl Member {
    /// Sets the addresses of the introducers, as they resolve now. A new one is tried at once.
    pub fn set_introducers(&mut self, now: Duration, introducers: Vec<SocketAddr>) {
        self.notice_pause(now);
        let mut introducers = introducers;
        introducers.sort();
        introducers.dedup();
        introducers.retain(|address| *address != self.me.metadata.address);
        introducers.truncate(MAX_JOIN_ADDRESSES);
        let has_new = introducers
            .iter()
            .any(|address| !self.introducers.contains(address));
        self.introducers = introducers;
        if has_new && let Some(joining) = &mut self.joining {
            *joining = Joining::begin(now);
        }
        self.promise(now);
    }

    /// Leaves the ring: the others hear LEAVE instead of having to find a death. Ends with
    /// [`Event::LeaveDone`], at the latest after [`LEAVE_TIMEOUT`]; then the member is silent.
    pub fn leave(&mut self, now: Duration) {
        if self.leaving.is_some() {
            return;
        }
        self.notice_pause(now);
        self.refresh_watched(now);
        let mut targets: Vec<NodeId> = self.watched.keys().copied().collect();
        let others: Vec<NodeId> = self
            .others_alive()
            .filter(|node_id| !targets.contains(node_id))
            .collect();
        targets.extend(self.random.pick(&others, LEAVE_OTHERS));
        self.me.state = State::Left;
        self.publish_myself(now, self.me.incarnation);
        self.leaving = Some(Leaving {
            targets,
            acknowledged: BTreeSet::new(),
            began: now,
            next_at: now,
            until: now + LEAVE_TIMEOUT,
            done: false,
        });
        self.tick_leave(now);
        self.promise(now);
    }

    pub(crate) fn tick_leave(&mut self, now: Duration) {
        let Some(leaving) = &mut self.leaving else {
            return;
        };
        if leaving.done {
            return;
        }
        let wanted = LEAVE_ACKS.min(leaving.targets.len());
        if leaving.acknowledged.len() >= wanted || now >= leaving.until {
            leaving.done = true;
            let acknowledged = leaving.acknowledged.len();
            return self.event(Event::LeaveDone { acknowledged });
        }
        if now < leaving.next_at {
            return;
        }
        leaving.next_at = now + LEAVE_PAUSE;
        let missing = leaving
            .targets
            .iter()
            .filter(|id| !leaving.acknowledged.contains(id));
        for node_id in missing.copied().collect::<Vec<_>>() {
            let Some(entry) = self.map.get(node_id) else {
                continue;
            };
            let address = entry.record.metadata.address;
            let cluster = self.shared_cluster(entry.record.metadata.cluster_id);
            let body = Body::Leave {
                stamp: Self::stamp(now),
            };
            self.send(address, Some(node_id), cluster, &body, &[self.me.node_id]);
        }
    }

    /// A member that left or is superseded speaks no more; it only counts who heard its LEAVE.
    pub(crate) fn is_silent(&self) -> bool {
        self.leaving.is_some() || self.is_superseded()
    }

    pub(crate) fn on_packet_while_silent(&mut self, now: Duration, header: &Header, body: &Body) {
        if let Some(leaving) = &mut self.leaving
            && let Body::Ack { echo, origin: None } = *body
            && echo >= Self::stamp(leaving.began)
            && header.target.is_some()
            && leaving.targets.contains(&header.sender)
        {
            leaving.acknowledged.insert(header.sender);
            self.tick_leave(now);
        }
    }

    pub(crate) fn begin_joining(&mut self, now: Duration) {
        self.joining = Some(Joining::begin(now));
    }

    pub(crate) fn tick_join(&mut self, now: Duration) {
        let Some(joining) = &mut self.joining else {
            return;
        };
        if now < joining.next_at {
            return;
        }
        // Between three and five quarters of the pause, so that a cluster that starts at once does
        // not knock at once.
        let jitter = self.random.below(joining.pause.as_micros() as u64 / 2);
        joining.next_at = now + joining.pause * 3 / 4 + Duration::from_micros(jitter);
        joining.pause = (joining.pause * 2).min(JOIN_PAUSE_MAX);
        let addresses = self.join_addresses();
        self.event(Event::JoinSent {
            addresses: addresses.len(),
        });
        for address in addresses {
            self.send_join(now, address);
        }
    }

    /// Introducers first; of those and of the members known once, as many as a round may have.
    fn join_addresses(&mut self) -> Vec<SocketAddr> {
        let mut once_known = self.last_known.clone();
        let not_left = self
            .map
            .iter()
            .filter(|entry| entry.record.state != State::Left);
        once_known.extend(not_left.map(|entry| entry.record.metadata.address));
        once_known.sort();
        once_known.dedup();
        let own = self.me.metadata.address;
        once_known.retain(|address| *address != own && !self.introducers.contains(address));
        let introducers = self.introducers.clone();
        let mut addresses = self.random.pick(&introducers, JOIN_FANOUT * 2 / 3);
        addresses.extend(self.random.pick(&once_known, JOIN_FANOUT - addresses.len()));
        addresses
    }

    /// To an address of which the cluster is not known: it tells of this member alone, for what else
    /// it knows may be of another one. The answer, and digests, bring the rest both ways.
    pub(crate) fn send_join(&mut self, now: Duration, address: SocketAddr) {
        let cluster = self.me.metadata.cluster_id;
        let body = Body::Join {
            stamp: Self::stamp(now),
        };
        let mut writer = self.writer(None, cluster, &body);
        writer.push(&self.me, &BTreeSet::new());
        self.put_out(address, writer);
    }

    /// Answers a JOIN with the joiner's neighbourhood; differing views do the rest.
    pub(crate) fn on_join(&mut self, from: SocketAddr, header: &Header, stamp: u64, rejoin: bool) {
        let joiner = header.sender;
        let ring = self.map.ring();
        let mut first = vec![joiner, self.me.node_id];
        first.extend(ring.successors(joiner).take(JOIN_REPLY_NEIGHBOURS));
        first.extend(ring.predecessors(joiner).take(JOIN_REPLY_NEIGHBOURS));
        let others: Vec<NodeId> = ring.iter().collect();
        first.extend(self.random.pick(&others, JOIN_REPLY_OTHERS));
        let cluster = self.shared_cluster(header.cluster_id);
        let body = Body::JoinReply {
            echo: stamp,
            rejoin,
        };
        self.send(from, Some(joiner), cluster, &body, &first);
        if let Some(entry) = self.map.get(joiner) {
            let record = entry.record.clone();
            self.event(Event::Join {
                record,
                from,
                rejoin,
            });
        }
    }

    pub(crate) fn on_join_reply(&mut self, from: SocketAddr, sender: NodeId, rejoin: bool) {
        if rejoin && !self.rejoin {
            self.rejoin = true;
            self.version += 1;
        }
        self.event(Event::JoinReply {
            node_id: sender,
            from,
            rejoin,
        });
    }

    /// Somebody who knows us spoke to us.
    pub(crate) fn become_joined(&mut self) {
        self.joining = None;
        if !self.joined {
            self.joined = true;
            self.version += 1;
        }
    }
}
