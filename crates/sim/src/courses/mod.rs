//! What chance alone meets too seldom: each seed goes one of these courses, on a cluster that has converged,
//! and some begin with a false start. What comes of them is judged by the checkers as ever.
//!
//! | | |
//! |---|---|
//! | `false_start` | two empty introducers, and a cluster that gives way (F1, F2, F4) |
//! | `wounds` | a log that is damaged where others have something else (D6) |
//! | `orders` | an entry that no state machine survives, and an operator's order (P5) |
//! | `clones` | a node that is put back to an image of before its last starts (D5) |
//! | `sessions` | retries, late ones, expired ones, and more than the window holds (S2, S3) |

mod clones;
mod false_start;
mod orders;
mod sessions;
mod wounds;

use std::collections::BTreeSet;

use bytes::Bytes;
use raft_core::{Command, Index, Input, NodeId, Payload, Proposal};

use crate::check::{Wrong, wrong};
use crate::run::Run;
use crate::world::{Address, Micros};

/// Longer than a group commit and an exchange of messages take without faults.
const SETTLES: Micros = 250_000;

impl Run<'_> {
    /// On a cluster that has converged.
    pub(crate) fn take_course(&mut self) -> Result<(), Wrong> {
        match self.dice.below(5) {
            0 | 1 => self.wound_a_log(),
            2 => self.skip_a_poison(),
            3 => self.put_back(),
            _ => self.try_sessions(),
        }
    }

    /// Has the leader there append these, as if clients had asked for it.
    fn propose(&mut self, at: Address, payloads: Vec<Payload>) -> bool {
        let proposals = (1..).zip(payloads);
        let proposals = proposals.map(|(request, payload)| Proposal { request, payload });
        self.input(at, Input::PutEntries(proposals.collect()))
    }

    /// Has the leader append these one by one, each in a group of its own.
    fn propose_slowly(&mut self, at: Address, count: u64) -> Result<(), Wrong> {
        for number in 0..count {
            self.propose(at, vec![put(format!("PUT course v{number}"))]);
            self.pass(SETTLES / 2)?;
        }
        Ok(())
    }

    /// Nodes that vote by the configuration of the leader, and run.
    fn running_voters(&self) -> Vec<Address> {
        let Some(raft) = self.leader().and_then(|at| self.raft(at)) else {
            return Vec::new();
        };
        let voters = raft.configuration().1.all_voters();
        let started = self.started().into_iter();
        let votes = |at: &Address| {
            let raft = self.raft(*at).filter(|_| self.world.is_up(*at));
            raft.is_some_and(|raft| voters.contains(&raft.id()))
        };
        started.filter(votes).collect()
    }

    /// Whether the voters that run are a majority without this one. Nodes that lost their disks are voters for
    /// as long as no spare takes their place.
    pub(crate) fn can_spare(&self, voter: Address) -> bool {
        let others = self.running_voters().into_iter();
        let others = others.filter(|at| *at != voter);
        let others: BTreeSet<NodeId> = others.filter_map(|at| self.id(at)).collect();
        let leader = self.leader().and_then(|leader| self.raft(leader));
        leader.is_some_and(|raft| {
            let configuration = raft.configuration().1;
            configuration.is_quorum(|voter| others.contains(&voter))
        })
    }

    /// The last committed entry of which this is so.
    fn last_committed(&self, is: impl Fn(&Payload) -> bool) -> Option<Index> {
        let mut entries = self.checker.ledger.committed_entries().rev();
        entries
            .find(|entry| is(&entry.payload))
            .map(|entry| entry.index)
    }

    /// Waits until it is so.
    fn must_come_about(
        &mut self,
        most: Micros,
        what: &str,
        done: impl Fn(&Run<'_>) -> bool,
    ) -> Result<(), Wrong> {
        let until = self.world.now() + most;
        match self.go_on(until, done)? {
            true => Ok(()),
            false => wrong("course", what.to_owned()),
        }
    }
}

/// An entry of a client without a session.
fn put(text: impl Into<Bytes>) -> Payload {
    in_session(0, 0, 0, text)
}

fn in_session(session: Index, sequence: u64, acked_below: u64, text: impl Into<Bytes>) -> Payload {
    Payload::Command(Command {
        session,
        sequence,
        acked_below,
        bytes: text.into(),
    })
}
