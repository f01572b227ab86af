//! Records and packets that bear our own node id.
//!
//! Most are accusations, refuted with a higher incarnation. But a record of another boot that is
//! not below ours means one of two things: our disk was restored from an older image, and the
//! others remember more of us than we do; or a second process runs with a copy of our identity.
//! The two are told apart by asking: a PING to the address in the record. No answer: we go above
//! what is remembered. An answer under our own id: an alarm on both sides, and whoever has the
//! lower (boot epoch, nonce) is silent for as long as the other one lives.

use std::net::SocketAddr;
use std::time::Duration;

use crate::event::Event;
use crate::identity::Incarnation;
use crate::member::Member;
use crate::packet::{Body, Header};
use crate::record::{Record, State, Update};

/// Pings of one challenge.
const CHALLENGE_PINGS: u32 = 6;

/// A challenge to whoever else claims our node id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Twin {
    address: SocketAddr,
    /// The highest incarnation that was claimed under another nonce than ours.
    claimed: Incarnation,
    until: Duration,
    next_at: Duration,
    /// It answered, and has the better claim.
    superseded: bool,
}

impl Twin {
    pub(crate) fn deadline(&self) -> Duration {
        self.next_at.min(self.until)
    }
}

impl Member {
    pub(crate) fn is_superseded(&self) -> bool {
        self.twin.as_ref().is_some_and(|twin| twin.superseded)
    }

    /// Somebody tells us about ourselves.
    pub(crate) fn on_record_of_me(&mut self, now: Duration, record: &Record) {
        if self.leaving.is_some() || record.incarnation < self.me.incarnation {
            return;
        }
        let same_boot = record.metadata.boot_nonce == self.me.metadata.boot_nonce;
        if !same_boot && record.incarnation.boot_epoch() >= self.me.incarnation.boot_epoch() {
            return self.challenge(now, record.metadata.address, record.incarnation);
        }
        if record.state != State::Alive || *record > self.me {
            self.counters.refutations += 1;
            self.go_above(now, record.incarnation);
            self.event(Event::Refuted(self.me.incarnation));
        }
    }

    fn go_above(&mut self, now: Duration, incarnation: Incarnation) {
        let epoch_before = self.me.incarnation.boot_epoch();
        let above = if incarnation.boot_epoch() > epoch_before {
            Incarnation::first_of(incarnation.boot_epoch().saturating_add(1))
        } else {
            incarnation.max(self.me.incarnation).next()
        };
        self.publish_myself(now, above);
        // The watchers are waiting for this.
        self.gossip_at = Some(now);
        if above.boot_epoch() > epoch_before {
            self.event(Event::BootEpochRaised(above.boot_epoch()));
        }
    }

    fn challenge(&mut self, now: Duration, address: SocketAddr, claimed: Incarnation) {
        if let Some(twin) = &mut self.twin {
            twin.claimed = twin.claimed.max(claimed);
            return;
        }
        let until = now + self.options.twin_timeout();
        self.twin = Some(Twin {
            address,
            claimed,
            until,
            next_at: now,
            superseded: false,
        });
        self.tick_twin(now);
    }

    pub(crate) fn tick_twin(&mut self, now: Duration) {
        let Some(twin) = &mut self.twin else { return };
        if now >= twin.until {
            let Twin {
                claimed,
                superseded,
                ..
            } = *twin;
            self.twin = None;
            if self.leaving.is_some() {
                return;
            }
            self.go_above(now, claimed);
            if superseded {
                self.version += 1;
                self.drop_pending_verdicts(now);
                self.begin_joining(now);
                self.event(Event::CollisionOver);
            }
            return;
        }
        if now >= twin.next_at {
            twin.next_at = now + self.options.twin_timeout() / CHALLENGE_PINGS;
            let address = twin.address;
            let body = Body::Ping {
                stamp: Self::stamp(now),
                origin: None,
            };
            let cluster = self.me.metadata.cluster_id;
            let writer = self.writer(Some(self.me.node_id), cluster, &body);
            self.put_out(address, writer);
        }
    }

    /// A packet that bears our own node id.
    pub(crate) fn on_packet_of_twin(
        &mut self,
        now: Duration,
        from: SocketAddr,
        header: &Header,
        body: &Body,
        updates: &[Update],
    ) {
        if header.boot_nonce == self.me.metadata.boot_nonce || self.leaving.is_some() {
            // Our own packet, come back to us.
            return;
        }
        let theirs = (header.incarnation.boot_epoch(), header.boot_nonce);
        let ours = (
            self.me.incarnation.boot_epoch(),
            self.me.metadata.boot_nonce,
        );
        match *body {
            Body::Ping { stamp, .. } => {
                let cluster = self.me.metadata.cluster_id;
                let ack = Body::Ack {
                    echo: stamp,
                    origin: None,
                };
                let writer = self.writer(Some(self.me.node_id), cluster, &ack);
                self.put_out(from, writer);
                self.raise_alarm(from, theirs > ours);
            }
            Body::Ack { echo, .. } if echo != 0 && echo <= Self::stamp(now) => {
                self.raise_alarm(from, theirs > ours);
                self.settle_claim(now, from, header.incarnation, theirs > ours);
                return;
            }
            _ => {}
        }
        if theirs > ours {
            let address = updates
                .iter()
                .find(|update| update.record.node_id == self.me.node_id)
                .map_or(from, |update| update.record.metadata.address);
            self.challenge(now, address, header.incarnation);
        }
    }

    fn raise_alarm(&mut self, other: SocketAddr, superseded: bool) {
        self.counters.collisions += 1;
        let node_id = self.me.node_id;
        self.event(Event::Collision {
            node_id,
            other,
            superseded,
        });
    }

    /// The other process lives. The one with the lower claim is silent until it is gone.
    fn settle_claim(&mut self, now: Duration, from: SocketAddr, theirs: Incarnation, lost: bool) {
        if !lost {
            self.twin = None;
            if theirs >= self.me.incarnation {
                self.go_above(now, theirs);
            }
            return;
        }
        let timeout = self.options.twin_timeout();
        let claimed = self
            .twin
            .as_ref()
            .map_or(theirs, |twin| twin.claimed.max(theirs));
        if !self.is_superseded() {
            self.version += 1;
        }
        self.twin = Some(Twin {
            address: from,
            claimed,
            // Asked again at leisure, and given the whole time to answer from then on.
            until: now + timeout * 3,
            next_at: now + timeout,
            superseded: true,
        });
    }
}
