//! Records and packets that bear our own node id.
//!
//! Most are accusations, refuted with a higher incarnation. But a record of another boot that is
//! not below ours means one of two things: our disk was restored from an older image, and the
//! others remember more of us than we do; or a second process runs with a copy of our identity.
//! The two are told apart by asking: a PING to the address in the record. No answer: we go above
//! what is remembered. An answer under our own id: an alarm on both sides, and whoever has the
//! lower (boot epoch, nonce) is silent for as long as the other one lives.
//!
//! Anybody can forge what bears our id: id, nonce and address are in the gossip. So a claim must not
//! lead to where we could not go on. One that is more than [`MAX_EPOCH_LEAP`] epochs above ours is
//! not believed; nobody else believes more of us either, so that we can exceed whatever the others
//! may have been told, by steps that all of them can follow. A higher epoch is taken only after a challenge, at most once in its time, since
//! each must be made durable. And only an answer that repeats what we asked can silence us.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::event::Event;
use crate::identity::{Incarnation, MAX_BOOT_EPOCH, MAX_EPOCH_LEAP};
use crate::member::Member;
use crate::packet::{Body, Header};
use crate::record::{Record, State, Update};

/// Pings of one challenge.
const CHALLENGE_PINGS: u32 = 6;

/// Pings whose answer still counts; the oldest is given up for the next one.
const MAX_OPEN_PINGS: usize = 32;

/// A challenge to whoever else claims our node id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Twin {
    address: SocketAddr,
    /// The highest incarnation that was claimed under another nonce than ours.
    claimed: Incarnation,
    until: Duration,
    next_at: Duration,
    /// The stamps of our pings: an answer repeats one of them.
    asked: BTreeSet<u64>,
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
        let claimed = record.incarnation;
        if self.leaving.is_some() || claimed < self.me.incarnation {
            return;
        }
        if !self.is_credible(claimed) {
            return self.refuse_leap(self.me.node_id, claimed);
        }
        let is_accused = record.state != State::Alive || *record > self.me;
        let costs_an_epoch = self.above(claimed).epochs_above(self.me.incarnation) > 0;
        let same_boot = record.metadata.boot_nonce == self.me.metadata.boot_nonce;
        if !same_boot || (is_accused && costs_an_epoch) {
            self.challenge(now, record.metadata.address, claimed);
        } else if is_accused {
            self.counters.refutations += 1;
            self.go_above(now, claimed);
            self.event(Event::Refuted(self.me.incarnation));
        }
    }

    /// Whether there may have been such an incarnation of this node, and enough is left above it.
    fn is_credible(&self, claimed: Incarnation) -> bool {
        let leap = claimed.epochs_above(self.me.incarnation);
        leap == 0
            || (leap <= MAX_EPOCH_LEAP && claimed.boot_epoch() < MAX_BOOT_EPOCH - MAX_EPOCH_LEAP)
    }

    /// The first incarnation above ours and the claimed one that nobody else can have used; but no
    /// higher than those can follow at once who know of us what we do. If the claim is still above
    /// that, whoever holds it tells us again, and the next step exceeds it.
    fn above(&self, claimed: Incarnation) -> Incarnation {
        let ours = self.me.incarnation;
        if claimed.epochs_above(ours) > 0 {
            let highest = ours.boot_epoch().saturating_add(MAX_EPOCH_LEAP);
            Incarnation::first_of(claimed.boot_epoch().saturating_add(1).min(highest))
        } else {
            claimed.max(ours).next()
        }
    }

    fn go_above(&mut self, now: Duration, claimed: Incarnation) {
        self.publish_myself(now, self.above(claimed));
        // The watchers are waiting for this.
        self.gossip_at = Some(now);
    }

    /// We stood still: the answer may lie unread, and whoever superseded us may be alive and well.
    pub(crate) fn ask_twin_anew(&mut self, now: Duration) {
        let timeout = self.options.twin_timeout();
        if let Some(twin) = &mut self.twin {
            twin.next_at = now;
            twin.until = twin.until.max(now + timeout);
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
            asked: BTreeSet::new(),
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
            let stamp = Self::stamp(now);
            twin.asked.insert(stamp);
            if twin.asked.len() > MAX_OPEN_PINGS {
                twin.asked.pop_first();
            }
            let body = Body::Ping {
                stamp,
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
        if !self.is_credible(header.incarnation) {
            return self.refuse_leap(header.sender, header.incarnation);
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
            Body::Ack { echo, .. } if self.has_asked_twin(echo) => {
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

    fn has_asked_twin(&self, stamp: u64) -> bool {
        self.twin
            .as_ref()
            .is_some_and(|twin| twin.asked.contains(&stamp))
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
            if self.above(theirs).epochs_above(self.me.incarnation) > 0 {
                // That costs an epoch: not before the challenge is over.
                return self.challenge(now, from, theirs);
            }
            self.twin = None;
            if theirs >= self.me.incarnation {
                self.go_above(now, theirs);
            }
            return;
        }
        let timeout = self.options.twin_timeout();
        if !self.is_superseded() {
            self.version += 1;
        }
        let before = self.twin.take();
        let claimed_before = before.as_ref().map(|twin| twin.claimed);
        self.twin = Some(Twin {
            address: from,
            claimed: claimed_before.map_or(theirs, |claimed| claimed.max(theirs)),
            asked: before.map(|twin| twin.asked).unwrap_or_default(),
            // Asked again at leisure, and given the whole time to answer from then on.
            until: now + timeout * 3,
            next_at: now + timeout,
            superseded: true,
        });
    }
}
