//! Without faults of any other kind: what must not depose a leader does not, and what must does; who is to
//! campaign does, and who is not does not. Faults that come all at once hide an election that need not
//! have been, and a situation that needs three things at once is made here on purpose.
//!
//! | course | what it puts to the test |
//! |---|---|
//! | `healed`, `strangers`, `said_again` | D4, E3, W2 |
//! | `resets`, `deaf` | E2, E3, §9.6 |
//! | [`succession`] | E1, E2, E5, M1: leaders die, links flap, everything starts at once |
//! | [`apart`] | §5.3, §5.4.1, §6, E3, W1, W2: a leader alone, an heir that nobody hears |
//! | [`beside`] | R2, D4, M1, M4, §3.10: reads beside writes, a disk that hangs, leaves and hand-overs |

mod apart;
mod beside;
mod succession;

use bytes::Bytes;
use raft_core::message::RequestVoteReply;
use raft_core::{Command, Input, Message, NodeId, Payload, Term, Time};

use crate::check::{PROBE_PATIENCE, Wrong, wrong};
use crate::node::message::{Ask, Wire};
use crate::run::Run;
use crate::world::{Address, Event, Micros, Node as _};

/// Longer than any election timeout, and shorter than the time after which a silent node counts as dead.
const CUT: Micros = 3_000_000;

/// Long enough for whoever was cut off to be heard again.
const AFTERWARDS: Micros = 3_000_000;

/// Between two resets of all streams.
const BETWEEN_RESETS: Micros = 300_000;

const RESETS: usize = 6;

/// A leader that is followed for less is succeeded by the ordinary timers (E2).
const STANDING: Micros = 1_600_000;

/// A few elections that fail, and one that does not.
const ELECTING: Micros = 15_000_000;

/// How closely a moment is waited for.
const MOMENT: Micros = 10_000;

/// Requests of the calm have names that no client's have.
const NAMES: u64 = 1 << 60;

/// One thing that is tried.
type Course<'a> = fn(&mut Run<'a>) -> Result<(), Wrong>;

impl<'a> Run<'a> {
    /// Tries it on a cluster that has converged.
    pub(crate) fn prove_calm(&mut self) -> Result<(), Wrong> {
        let courses: [(&str, Course<'a>); 14] = [
            ("all faults", Run::healed),
            ("words that were said again", Run::said_again),
            ("strangers", Run::strangers),
            ("leaders that died", Run::leaders_die),
            ("resets", Run::resets),
            ("a deaf voter", Run::deaf),
            ("reads beside writes", Run::reads_beside_writes),
            ("a hand-over beside writes", Run::hand_over_beside_writes),
            ("a flapping link", Run::flapping),
            ("an heir that nobody heard", Run::unheard_heir),
            ("a leader alone", Run::alone),
            ("a follower whose disk hung", Run::sick_follower),
            ("leaves", Run::leaves),
            ("a start of all", Run::cold_start),
        ];
        for (name, course) in courses {
            self.say(0, || format!("CALM {name}"));
            course(self)?;
            self.settle_again(name)?;
        }
        Ok(())
    }

    /// D4: a disk that is quick again is well again.
    fn healed(&mut self) -> Result<(), Wrong> {
        for at in self.started() {
            if self.raft(at).is_some_and(|raft| raft.health().disk_sick) {
                return wrong("calm", format!("node {at} calls its disk sick"));
            }
        }
        Ok(())
    }

    /// W2: that a snapshot is complete may be heard twice, and late.
    fn said_again(&mut self) -> Result<(), Wrong> {
        for at in self.started() {
            if let Some(snapshot) = self.raft(at).and_then(|raft| raft.snapshot().cloned()) {
                self.tell(at, |_| Input::SnapshotReceived { snapshot })?;
            }
        }
        Ok(())
    }

    /// E3: whoever is not in the configuration may say of terms what it likes.
    fn strangers(&mut self) -> Result<(), Wrong> {
        let (leader, term) = self.leads()?;
        let stranger = self.stranger();
        let higher = term + 3;
        let refusal = RequestVoteReply {
            term: higher,
            pre_vote: false,
            granted: false,
            request_term: higher,
            hears_leader: false,
        };
        let words = [
            Message::HigherTerm { term: higher },
            Message::RequestVoteReply(refusal),
            Message::ReadIndex {
                term: higher,
                ask: 1,
            },
        ];
        for message in words {
            let from = stranger;
            self.tell(leader, |_| Input::Message { from, message })?;
        }
        self.still_leads(leader, term, "a stranger spoke")
    }

    /// E2: a stream that ends is no loss while the leader's process answers.
    fn resets(&mut self) -> Result<(), Wrong> {
        // Who answers later than that counts as lost.
        if self.plan.network.delay.1 * 2 >= PROBE_PATIENCE {
            return Ok(());
        }
        self.pass(STANDING)?;
        let (leader, term) = self.leads()?;
        for _ in 0..RESETS {
            for at in self.other_voters(leader) {
                self.world.reset(leader, at);
                self.world.reset(at, leader);
            }
            self.pass(BETWEEN_RESETS)?;
        }
        self.still_leads(leader, term, "all its streams were reset")
    }

    /// E3, §9.6: who alone does not hear the leader campaigns, and is refused.
    fn deaf(&mut self) -> Result<(), Wrong> {
        let (leader, term) = self.leads()?;
        let others = self.other_voters(leader);
        let Some(deaf) = others.into_iter().find(|at| self.can_spare(*at)) else {
            return Ok(());
        };
        self.coverage.event("deaf voter");
        self.world.cut(leader, deaf);
        self.pass(CUT)?;
        self.world.heal();
        self.pass(AFTERWARDS)?;
        self.still_leads(leader, term, "one voter did not hear it for a while")
    }

    // ---- what the courses share ----

    fn leads(&self) -> Result<(Address, Term), Wrong> {
        match self.leading() {
            Some(leads) => Ok(leads),
            None => wrong("calm", "nobody leads"),
        }
    }

    fn leading(&self) -> Option<(Address, Term)> {
        let leader = self.leader()?;
        let term = self.raft(leader)?.term();
        Some((leader, term))
    }

    /// Where the other voters of the leader's configuration are.
    fn other_voters(&self, leader: Address) -> Vec<Address> {
        let Some(raft) = self.raft(leader) else {
            return Vec::new();
        };
        let voters = raft.configuration().1.all_voters();
        let is_voter = |at: &Address| self.id(*at).is_some_and(|id| voters.contains(&id));
        let others = self.started().into_iter().filter(|at| *at != leader);
        others.filter(is_voter).collect()
    }

    fn still_leads(&self, leader: Address, term: Term, though: &str) -> Result<(), Wrong> {
        match self.leading() {
            Some(now) if now == (leader, term) => Ok(()),
            now => wrong(
                "calm",
                format!(
                    "node {leader} led term {term}, {though}, and now (node, term) lead: {now:?}"
                ),
            ),
        }
    }

    /// Somebody leads a later term before that many elections could have failed.
    fn successor(&mut self, term: Term, though: &str) -> Result<(Address, Term), Wrong> {
        let later = |run: &Run<'_>| run.leading().filter(|(_, now)| *now > term);
        self.wait_for(ELECTING, MOMENT, |run| later(run).is_some())?;
        match later(self) {
            Some(leads) => Ok(leads),
            None => wrong("calm", format!("nobody succeeds in term {term}: {though}")),
        }
    }

    /// Lets time pass until it is so, but not for longer, and looks again after each `step`. Whether it is.
    fn wait_for(
        &mut self,
        most: Micros,
        step: Micros,
        so: impl Fn(&Run<'_>) -> bool,
    ) -> Result<bool, Wrong> {
        let until = self.world.now() + most;
        while !so(self) && self.world.now() < until {
            self.pass(step)?;
        }
        Ok(so(self))
    }

    /// Nothing gets from others to that node, nor back if `both_ways`.
    pub(crate) fn cut_off(&mut self, at: Address, both_ways: bool) {
        for other in self.started() {
            if other != at {
                self.world.cut(other, at);
                if both_ways {
                    self.world.cut(at, other);
                }
            }
        }
    }

    /// Tells a core something, and looks at what it makes of it.
    fn tell(&mut self, at: Address, input: impl FnOnce(Time) -> Input) -> Result<(), Wrong> {
        self.with_server(at, |server, host| {
            let input = input(Time(host.now()));
            server.input(host, input);
            true
        });
        self.look_at(at)
    }

    fn name(&mut self) -> u64 {
        self.requests += 1;
        NAMES + self.requests
    }

    /// Somebody who has no session, and does not ask twice, asks that node to append something.
    fn ask(&mut self, at: Address, count: u64) -> Result<(), Wrong> {
        let Some(from) = self.clients.first().copied() else {
            return Ok(());
        };
        for _ in 0..count {
            let number = self.name();
            let command = Command {
                session: 0,
                sequence: 0,
                acked_below: 0,
                bytes: Bytes::from(format!("PUT calm {number}")),
            };
            let message = Wire::Request {
                number,
                ask: Ask::Put(Payload::Command(command)),
                patience: AFTERWARDS,
                forwarded: true,
            };
            let event = Event::Called { from, message };
            self.world.with(at, |party, host| party.happen(event, host));
            self.look_at(at)?;
        }
        Ok(())
    }

    /// An id that no configuration names. Nobody of interest lives where it says.
    fn stranger(&self) -> NodeId {
        NodeId(((self.servers as u128) << 64) | 1)
    }
}
