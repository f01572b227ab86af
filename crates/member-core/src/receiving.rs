//! What becomes of a packet: the fences that it must pass, what it teaches, and how it is answered.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::event::Event;
use crate::identity::{ClusterId, MAX_EPOCH_LEAP};
use crate::member::Member;
use crate::packet::{Body, Header, Packet};
use crate::record::{Record, State, Update};

impl Member {
    pub(crate) fn on_packet(&mut self, now: Duration, from: SocketAddr, packet: Packet) {
        let Packet {
            header,
            body,
            updates,
        } = packet;
        if header.sender == self.me.node_id {
            return self.on_packet_of_twin(now, from, &header, &body, &updates);
        }
        if let Some(target) = header.target
            && target != self.me.node_id
        {
            self.counters.refused_other_target += 1;
            return self.event(Event::OtherTarget { from, target });
        }
        if let (Some(theirs), Some(ours)) = (header.cluster_id, self.me.metadata.cluster_id)
            && theirs != ours
        {
            self.counters.refused_other_cluster += 1;
            self.event(Event::OtherCluster { from, theirs, ours });
            return self.on_packet_of_other_cluster(now, from, &header, &body);
        }
        if self.is_silent() {
            return self.on_packet_while_silent(now, &header, &body);
        }
        if self.is_of_stale_boot(&header) {
            return self.on_packet_of_stale_boot(now, from, &header, updates);
        }
        let known_from_before = self.is_known_from_before(&header);
        self.note_heard(now, &header, &body);
        let answers = self.learn_all(now, header.sender, updates);
        self.answer_old_news(now, from, &header, answers);
        self.on_body(now, from, &header, &body, known_from_before);
        self.compare_views(now, from, &header, &body);
    }

    /// A packet of a boot that is over; or its sender's disk was restored, and it has to go above
    /// what is remembered of it. What it says of us counts all the same: the one to be corrected
    /// may be ourselves, and by nobody else.
    fn on_packet_of_stale_boot(
        &mut self,
        now: Duration,
        from: SocketAddr,
        header: &Header,
        updates: Vec<Update>,
    ) {
        let sender = header.sender;
        self.counters.refused_stale_boot += 1;
        self.event(Event::StaleBoot {
            node_id: sender,
            from,
        });
        let me = self.me.node_id;
        let of_us = updates.into_iter().map(|update| update.record);
        for record in of_us.filter(|record| record.node_id == me) {
            self.on_record_of_me(now, &record);
        }
        if self.may_correct(now, sender) {
            let cluster = self.shared_cluster(header.cluster_id);
            self.send(from, Some(sender), cluster, &Body::Delta, &[sender]);
        }
    }

    /// The sender is none of ours. Where it still counts as one that we may hold, it has left for its
    /// cluster, and is not dead though we shall not hear it any more. Where we count as such there,
    /// as a question shows, our header says what we are; that is answered by nothing.
    fn on_packet_of_other_cluster(
        &mut self,
        now: Duration,
        from: SocketAddr,
        header: &Header,
        body: &Body,
    ) {
        if self.is_silent() {
            return;
        }
        let sender = header.sender;
        let held = self.map.get(sender).map(|entry| &entry.record);
        let has_moved = held.filter(|held| {
            header.incarnation > held.incarnation
                && header.incarnation.epochs_above(held.incarnation) <= MAX_EPOCH_LEAP
        });
        if let Some(held) = has_moved {
            let record = Record {
                state: State::Left,
                ..held.clone()
            };
            let accusers = BTreeSet::new();
            self.learn(now, self.me.node_id, Update { record, accusers });
        }
        if matches!(body, Body::Ping { .. } | Body::Heartbeat { .. }) {
            let cluster = self.me.metadata.cluster_id;
            let writer = self.writer(Some(sender), cluster, &Body::Delta);
            self.put_out(from, writer);
        }
    }

    fn on_body(
        &mut self,
        now: Duration,
        from: SocketAddr,
        header: &Header,
        body: &Body,
        rejoin: bool,
    ) {
        let sender = header.sender;
        let reply = |member: &mut Self, body: Body| {
            let cluster = member.shared_cluster(header.cluster_id);
            member.send(from, Some(sender), cluster, &body, &[]);
        };
        match *body {
            Body::Join { stamp } => self.on_join(from, header, stamp, rejoin),
            Body::JoinReply { echo, rejoin } => {
                self.prove(now, sender, echo);
                self.on_join_reply(from, sender, rejoin);
            }
            Body::Leave { stamp } => reply(
                self,
                Body::Ack {
                    echo: stamp,
                    origin: None,
                },
            ),
            Body::Heartbeat { stamp, echo } => {
                self.event(Event::Heartbeat(sender));
                self.prove(now, sender, echo);
                // Who does not watch us does not hear our heartbeats: it needs an answer.
                if !self.watched.contains_key(&sender) {
                    reply(
                        self,
                        Body::Ack {
                            echo: stamp,
                            origin: None,
                        },
                    );
                }
            }
            Body::Ping { stamp, origin } => reply(
                self,
                Body::Ack {
                    echo: stamp,
                    origin,
                },
            ),
            Body::Ack { echo, origin: None } => self.prove(now, sender, echo),
            Body::Ack {
                echo,
                origin: Some(origin),
            } => {
                self.prove(now, sender, echo);
                self.relay_answer(sender, origin);
            }
            Body::PingReq { stamp, subject } => self.probe_for(now, sender, stamp, subject),
            Body::Relayed { echo, subject } => self.prove(now, subject, echo),
            Body::Digest { reply, ref buckets } => {
                self.on_digest(from, header, reply, buckets);
            }
            Body::Delta => {}
        }
    }

    /// What the sender and we may both hold: the records of the one cluster that either is bound
    /// to, and the unbound ones.
    pub(crate) fn shared_cluster(&self, theirs: Option<ClusterId>) -> Option<ClusterId> {
        self.me.metadata.cluster_id.or(theirs)
    }

    fn is_of_stale_boot(&self, header: &Header) -> bool {
        self.map.get(header.sender).is_some_and(|entry| {
            entry.record.metadata.boot_nonce != header.boot_nonce
                && entry.record.incarnation >= header.incarnation
        })
    }

    fn is_known_from_before(&self, header: &Header) -> bool {
        let entry = self
            .map
            .get(header.sender)
            .map(|entry| entry.record.incarnation);
        let known = entry.or_else(|| self.map.epitaph(header.sender));
        known.is_some_and(|known| known.boot_epoch() < header.incarnation.boot_epoch())
    }

    fn note_heard(&mut self, now: Duration, header: &Header, body: &Body) {
        self.heard_anyone_at = now;
        if header.target.is_some() && !matches!(body, Body::Join { .. }) {
            self.become_joined();
        }
        if let Some(entry) = self.map.get_mut(header.sender)
            && entry.record.metadata.boot_nonce == header.boot_nonce
        {
            entry.heard_at = now;
            if let Body::Heartbeat { stamp, .. } = body {
                entry.its_stamp = *stamp;
            }
        }
    }
}
