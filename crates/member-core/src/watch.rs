//! Who watches whom, and how silence becomes a suspicion and a suspicion a death.
//!
//! Each member exchanges heartbeats with its two predecessors and two successors on the ring. A
//! neighbour that is silent is probed: directly, and through others, so that one bad link is not
//! taken for a death. Only when nothing comes back it is accused (SUSPECT). The accusation travels
//! by gossip and directly to the accused, which refutes it with a higher incarnation. A suspicion
//! that outlives its time becomes DEAD, everywhere where it is held.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::identity::NodeId;
use crate::member::Member;
use crate::options::{INDIRECT_PROBES, WATCHERS_PER_SIDE};
use crate::packet::{Body, Origin};
use crate::record::{Record, State, Update};

/// Steps of a probe; after the last one comes the verdict.
const PROBE_STEPS: u32 = 3;

/// Most ring places that a walk for neighbours passes on one side.
const MAX_WALK: usize = 16;

/// A random member is probed every so many heartbeats: a safety net for members that, by some
/// disagreement of views, nobody watches.
const RANDOM_PROBE_BEATS: u64 = 5;

/// A member that is being probed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Probe {
    started: Duration,
    step: u32,
    next_at: Duration,
}

/// A member that is accused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Suspicion {
    pub(crate) since: Duration,
    pub(crate) accusers: BTreeSet<NodeId>,
}

impl Member {
    /// Heartbeats, and what happens once in a while beside them.
    pub(crate) fn tick_beat(&mut self, now: Duration) {
        if now < self.beat_at {
            return;
        }
        self.beat_at = (self.beat_at + self.options.interval()).max(now);
        self.beats += 1;
        let watched: Vec<NodeId> = self.watched.keys().copied().collect();
        for node_id in watched {
            let echo = self.map.get(node_id).map_or(0, |entry| entry.its_stamp);
            let body = Body::Heartbeat {
                stamp: Self::stamp(now),
                echo,
            };
            self.send_to_member(node_id, &body);
        }
        if self.beats.is_multiple_of(RANDOM_PROBE_BEATS) {
            self.probe_somebody(now);
        }
        self.seek_the_lost(now);
        self.notice_orphanhood(now);
    }

    fn probe_somebody(&mut self, now: Duration) {
        let unwatched: Vec<NodeId> = self
            .others_alive()
            .filter(|node_id| !self.watched.contains_key(node_id))
            .collect();
        if !unwatched.is_empty() {
            let node_id = unwatched[self.random.index(unwatched.len())];
            self.begin_probe(now, node_id);
        }
    }

    /// The members that count as alive, without this one.
    pub(crate) fn others_alive(&self) -> impl Iterator<Item = NodeId> {
        self.map
            .ring()
            .iter()
            .filter(|node_id| *node_id != self.me.node_id && self.is_alive(*node_id))
    }

    fn is_alive(&self, node_id: NodeId) -> bool {
        self.map
            .get(node_id)
            .is_some_and(|entry| entry.record.state == State::Alive)
    }

    /// Follows the ring: two living neighbours on each side, and the suspects among them.
    pub(crate) fn refresh_watched(&mut self, now: Duration) {
        let mut neighbours = BTreeSet::new();
        let mut beyond_suspects = BTreeSet::new();
        let me = self.me.node_id;
        let ring = self.map.ring();
        let sides: [Vec<NodeId>; 2] = [
            ring.successors(me).take(MAX_WALK).collect(),
            ring.predecessors(me).take(MAX_WALK).collect(),
        ];
        for side in sides {
            let mut alive = 0;
            let mut suspects = 0;
            for node_id in side {
                neighbours.insert(node_id);
                if !self.is_alive(node_id) {
                    suspects += 1;
                    continue;
                }
                if suspects > 0 {
                    beyond_suspects.insert(node_id);
                }
                alive += 1;
                if alive == WATCHERS_PER_SIDE {
                    break;
                }
            }
        }
        self.watched
            .retain(|node_id, _| neighbours.contains(node_id));
        for node_id in neighbours {
            if self.watched.contains_key(&node_id) {
                continue;
            }
            self.watched.insert(node_id, now);
            // Where neighbours die together, the next one may be dead as well: ask at once.
            if beyond_suspects.contains(&node_id) {
                self.begin_probe(now, node_id);
            }
        }
    }

    /// An own stamp came back from this member: it received what was sent then, and answered.
    pub(crate) fn prove(&mut self, now: Duration, node_id: NodeId, echo: u64) {
        let Some(micros) = echo.checked_sub(1) else {
            return;
        };
        let sent_at = Duration::from_micros(micros);
        let Some(entry) = self.map.get_mut(node_id) else {
            return;
        };
        if sent_at > now || sent_at <= entry.proved_at {
            return;
        }
        entry.proved_at = sent_at;
        if self
            .probes
            .get(&node_id)
            .is_some_and(|probe| sent_at >= probe.started)
        {
            self.probes.remove(&node_id);
            if let Some(since) = self.watched.get_mut(&node_id) {
                *since = now;
            }
        }
    }

    fn begin_probe(&mut self, now: Duration, node_id: NodeId) {
        if now >= self.verdicts_from && !self.probes.contains_key(&node_id) {
            self.probes.insert(
                node_id,
                Probe {
                    started: now,
                    step: 0,
                    next_at: now,
                },
            );
            self.step_probe(now, node_id);
        }
    }

    /// When silence of a neighbour makes this member probe it.
    fn patience_ends(&self, node_id: NodeId, since: Duration) -> Option<Duration> {
        let entry = self.map.get(node_id)?;
        if entry.record.state != State::Alive || self.probes.contains_key(&node_id) {
            return None;
        }
        let silent = entry.heard_at.max(since) + self.options.silence();
        let deaf = entry.proved_at.max(since) + self.options.deafness();
        Some(silent.min(deaf).max(self.verdicts_from))
    }

    /// When a suspicion becomes a death.
    fn suspicion_ends(&self, node_id: NodeId, suspicion: &Suspicion) -> Duration {
        let mut witnesses = self
            .others_alive()
            .filter(|other| *other != node_id && !suspicion.accusers.contains(other));
        let confirmed = suspicion.accusers.len() > 1 || witnesses.next().is_none();
        let patience = if confirmed {
            self.options.suspicion_timeout()
        } else {
            self.options.lone_suspicion_timeout()
        };
        (suspicion.since + patience).max(self.verdicts_from)
    }

    pub(crate) fn next_watch_deadline(&self) -> Option<Duration> {
        let silences = self
            .watched
            .iter()
            .filter_map(|(id, since)| self.patience_ends(*id, *since));
        let probes = self.probes.values().map(|probe| probe.next_at);
        let suspicions = self
            .suspicions
            .iter()
            .map(|(id, s)| self.suspicion_ends(*id, s));
        silences.chain(probes).chain(suspicions).min()
    }

    pub(crate) fn tick_watch(&mut self, now: Duration) {
        let silent: Vec<NodeId> = self
            .watched
            .iter()
            .filter(|(id, since)| {
                self.patience_ends(**id, **since)
                    .is_some_and(|at| at <= now)
            })
            .map(|(id, _)| *id)
            .collect();
        for node_id in silent {
            self.begin_probe(now, node_id);
        }
        let due = self
            .probes
            .iter()
            .filter(|(_, probe)| probe.next_at <= now)
            .map(|(id, _)| *id);
        for node_id in due.collect::<Vec<_>>() {
            self.step_probe(now, node_id);
        }
        let over: Vec<NodeId> = self
            .suspicions
            .iter()
            .filter(|(id, suspicion)| self.suspicion_ends(**id, suspicion) <= now)
            .map(|(id, _)| *id)
            .collect();
        for node_id in over {
            self.end_suspicion(now, node_id);
        }
    }

    fn step_probe(&mut self, now: Duration, node_id: NodeId) {
        let Some(probe) = self.probes.get_mut(&node_id) else {
            return;
        };
        let step = probe.step;
        probe.step += 1;
        probe.next_at = now + self.options.probe_timeout() / PROBE_STEPS;
        if step == PROBE_STEPS {
            self.probes.remove(&node_id);
            return self.accuse(now, node_id);
        }
        self.send_to_member(
            node_id,
            &Body::Ping {
                stamp: Self::stamp(now),
                origin: None,
            },
        );
        if step > 0 {
            let others: Vec<NodeId> = self
                .others_alive()
                .filter(|other| *other != node_id)
                .collect();
            for relay in self.random.pick(&others, INDIRECT_PROBES) {
                let body = Body::PingReq {
                    stamp: Self::stamp(now),
                    subject: node_id,
                };
                self.send_to_member(relay, &body);
            }
        }
    }

    /// Nothing came back from this member: raise or confirm a suspicion.
    fn accuse(&mut self, now: Duration, node_id: NodeId) {
        let Some(entry) = self.map.get(node_id) else {
            return;
        };
        if !entry.record.state.is_live() || now < self.verdicts_from {
            return;
        }
        self.counters.accusations += 1;
        let record = Record {
            state: State::Suspect,
            ..entry.record.clone()
        };
        let accusers = BTreeSet::from([self.me.node_id]);
        self.learn(now, self.me.node_id, Update { record, accusers });
    }

    fn end_suspicion(&mut self, now: Duration, node_id: NodeId) {
        let Some(suspicion) = self.suspicions.get_mut(&node_id) else {
            return;
        };
        let Some(entry) = self.map.get(node_id) else {
            self.suspicions.remove(&node_id);
            return;
        };
        // Whoever answers us is not dead, whatever others say; its refutation is under way.
        if entry.proved_at > suspicion.since {
            suspicion.since = now;
            self.version += 1;
            return;
        }
        let record = Record {
            state: State::Dead,
            ..entry.record.clone()
        };
        self.learn(
            now,
            self.me.node_id,
            Update {
                record,
                accusers: BTreeSet::new(),
            },
        );
    }

    /// A neighbour is accused by somebody: tell it, so that it can refute at once, and find out
    /// whether we can confirm.
    pub(crate) fn follow_accusation(&mut self, now: Duration, via: NodeId, node_id: NodeId) {
        let Some(entry) = self.map.get(node_id) else {
            return;
        };
        let state = entry.record.state;
        if state == State::Alive || state == State::Left || via == node_id {
            return;
        }
        let was_watched = self.watched.contains_key(&node_id);
        let mine = self.suspicions.get(&node_id);
        let accused_by_me = mine.is_some_and(|s| s.accusers.contains(&self.me.node_id));
        if state == State::Suspect && was_watched && !accused_by_me {
            self.begin_probe(now, node_id);
        } else {
            self.send_to_member(
                node_id,
                &Body::Ping {
                    stamp: Self::stamp(now),
                    origin: None,
                },
            );
        }
    }

    /// After a pause: what was missed meanwhile accuses nobody, and suspicions begin anew.
    pub(crate) fn drop_pending_verdicts(&mut self, now: Duration) {
        self.verdicts_from = now + self.options.amnesty();
        self.probes.clear();
        for since in self.watched.values_mut() {
            *since = now;
        }
        for suspicion in self.suspicions.values_mut() {
            suspicion.since = now;
            self.version += 1;
        }
    }

    /// A watcher asks us to ping somebody on its behalf.
    pub(crate) fn probe_for(&mut self, now: Duration, asker: NodeId, stamp: u64, subject: NodeId) {
        let origin = Some(Origin {
            node_id: asker,
            stamp,
        });
        self.send_to_member(
            subject,
            &Body::Ping {
                stamp: Self::stamp(now),
                origin,
            },
        );
    }

    /// Somebody whom we pinged for a watcher answered: tell the watcher.
    pub(crate) fn relay_answer(&mut self, subject: NodeId, origin: Origin) {
        self.send_to_member(
            origin.node_id,
            &Body::Relayed {
                echo: origin.stamp,
                subject,
            },
        );
    }
}
