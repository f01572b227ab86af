//! Without faults of any other kind: what must not depose a leader does not, and what must does. Faults
//! that come all at once hide an election that need not have been.

use raft_core::{RoleName, Term};

use crate::check::{Wrong, wrong};
use crate::run::Run;
use crate::world::{Address, Micros};

/// Longer than any election timeout, and shorter than the time after which a silent node counts as dead.
const CUT: Micros = 3_000_000;

/// Long enough for whoever was cut off to be heard again.
const AFTERWARDS: Micros = 3_000_000;

/// Between two resets of all streams.
const BETWEEN_RESETS: Micros = 300_000;

const RESETS: usize = 6;

/// How long a leader has to answer whether it leads.
const PROBE_PATIENCE: Micros = 30_000;

impl Run<'_> {
    /// Tries it on a cluster that has converged.
    pub(crate) fn prove_calm(&mut self) -> Result<(), Wrong> {
        let Some((leader, term)) = self.leads() else {
            return wrong("calm", "nobody leads");
        };
        let others: Vec<Address> = self
            .voters()
            .into_iter()
            .filter(|at| *at != leader)
            .collect();
        // Who answers later than that counts as lost (E2).
        let answers = self.plan.network.delay.1 * 2 < PROBE_PATIENCE;
        for _ in 0..if answers { RESETS } else { 0 } {
            // A stream that ends is no loss while the leader's process answers.
            for at in &others {
                self.world.reset(leader, *at);
                self.world.reset(*at, leader);
            }
            self.pass(BETWEEN_RESETS)?;
        }
        self.still_leads(leader, term, "all its streams were reset")?;
        if let Some(deaf) = others.first() {
            // E3, §9.6: who alone does not hear the leader campaigns, and is refused.
            self.world.cut(leader, *deaf);
            self.pass(CUT)?;
            self.world.heal();
            self.pass(AFTERWARDS)?;
            self.still_leads(leader, term, "one voter did not hear it for a while")?;
        }
        if others.len() >= 2 {
            // E3, check-quorum: who is alone does not go on for a leader.
            for at in self.started() {
                if at != leader {
                    self.world.cut(leader, at);
                    self.world.cut(at, leader);
                }
            }
            self.pass(CUT)?;
            let server = self.world.node(leader).server();
            let role = server
                .and_then(|server| server.raft())
                .map(|raft| raft.role());
            self.world.heal();
            if role == Some(RoleName::Leader) {
                return wrong("calm", format!("node {leader} leads on, all alone"));
            }
        }
        Ok(())
    }

    fn leads(&self) -> Option<(Address, Term)> {
        let leader = self.leader()?;
        let term = self.world.node(leader).server()?.raft()?.term();
        Some((leader, term))
    }

    /// Where the voters of the leader's configuration are.
    fn voters(&self) -> Vec<Address> {
        let leader = self.leader().and_then(|at| self.world.node(at).server());
        let Some(raft) = leader.and_then(|server| server.raft()) else {
            return Vec::new();
        };
        let voters = raft.configuration().1.all_voters();
        let is_voter = |at: &Address| self.id(*at).is_some_and(|id| voters.contains(&id));
        self.started().into_iter().filter(is_voter).collect()
    }

    fn still_leads(&self, leader: Address, term: Term, though: &str) -> Result<(), Wrong> {
        match self.leads() {
            Some(now) if now == (leader, term) => Ok(()),
            now => wrong(
                "calm",
                format!(
                    "node {leader} led term {term}, {though}, and now (node, term) lead: {now:?}"
                ),
            ),
        }
    }
}
