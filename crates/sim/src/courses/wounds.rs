//! A log is damaged where another node has something else in the same place (D6).

use super::Run;
use crate::check::{Wrong, wrong};
use crate::node::Server;
use crate::world::{Address, Micros};

/// Entries of each leader: so many, that damage to the last but one lies behind what they have in common.
const ENTRIES: u64 = 4;

/// How long the others may take to elect another leader.
const ELECTION: Micros = 15_000_000;

/// How long the damaged node meets only the one that has something else.
const MISLED: Micros = 2_500_000;

/// Longer than an operator waits.
const REPAIRED: Micros = 60_000_000;

impl Run<'_> {
    /// A leader that is cut off has entries that were never committed, another one commits others in their
    /// place; then the log of the one, or of one of the majority, is damaged there.
    pub(super) fn wound_a_log(&mut self) -> Result<(), Wrong> {
        let Some(old) = self.leader().filter(|leader| self.can_spare(*leader)) else {
            return Ok(());
        };
        let common = self.checker.ledger.len();
        self.cut_off(old, true);
        self.propose_slowly(old, ENTRIES)?;
        let other = |run: &Run<'_>| run.leader().is_some_and(|leader| leader != old);
        self.must_come_about(ELECTION, "the others elect nobody", other)?;
        let Some(new) = self.leader() else {
            return Ok(());
        };
        self.propose_slowly(new, ENTRIES)?;
        let followers = self.running_voters();
        let follower = followers.into_iter().find(|at| *at != old && *at != new);
        let misled = self.dice.per_mille(500);
        let victim = match follower {
            Some(follower) if misled => follower,
            _ => old,
        };
        let anywhere = self.dice.per_mille(400);
        if !self.wound(victim, anywhere) {
            self.world.heal();
            return Ok(());
        }
        self.coverage.event("log wounded");
        let id = self.id(victim);
        self.world.heal();
        if victim != old {
            for at in self.started() {
                if at != victim && at != old {
                    self.world.cut(at, victim);
                    self.world.cut(victim, at);
                    self.world.cut(at, old);
                    self.world.cut(old, at);
                }
            }
        }
        self.start(victim);
        // What stands behind the damage may say nothing of entries: then nobody can know what is missing.
        let server = self.world.node(victim).server();
        let known = server.is_some_and(Server::is_repairing);
        if victim != old {
            self.pass(MISLED)?;
            self.world.heal();
        }
        let runs = |run: &Run<'_>| run.raft(victim).is_some();
        self.must_come_about(REPAIRED, "a damaged log is not repaired", runs)?;
        let leader = self.leader().and_then(|at| self.raft(at));
        let has_all =
            leader.is_some_and(|raft| raft.base().index < common && raft.commit_index() > common);
        match self.id(victim) != id && has_all && known && !anywhere {
            true => wrong(
                "repair",
                "a log was given up, and the leader has all that it lacks",
            ),
            false => Ok(()),
        }
    }

    /// Cuts the power, and damages the last batch but one, or whatever a later one vouches for.
    fn wound(&mut self, at: Address, anywhere: bool) -> bool {
        let vouched = self.world.node(at).server().and_then(Server::vouched);
        let Some((name, range)) = vouched.filter(|(_, range)| range.end >= range.start + WITHIN)
        else {
            return false;
        };
        if !self.may_lose(at) {
            return false;
        }
        self.crash(at, true);
        let offset = match anywhere {
            true => range.start + self.dice.below(range.end - range.start),
            false => range.end - WITHIN,
        };
        self.flip_at(at, &name, offset);
        true
    }
}

/// From the end of a batch to somewhere within its records.
const WITHIN: u64 = 16;
