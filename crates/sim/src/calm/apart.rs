//! A leader that is alone, and an heir that nobody hears.

use raft_core::{MemberHint, RoleName};
use raft_disk::sim::{Fault, Operation};

use super::*;

/// When a leader that is alone leads on, though others may have elected another.
const IN_DOUBT: Micros = 900_000;

/// Between two reads in that time.
const BETWEEN_READS: Micros = 100_000;

/// What a leader that is alone appends: more than the others, and fewer than anyone limits.
const LONELY: u64 = 8;

/// What the others append meanwhile.
const OTHERS: u64 = 2;

/// The same, when the others are to cut off their logs behind a snapshot.
const MANY: (u64, u64) = (150, 130);

/// How long, and how closely, a moment is waited for that is over at once.
const CLOSELY: Micros = 1_000_000;
const INSTANT: Micros = 200;

/// So many are asked for at once.
const GROUP: u64 = 10;

impl Run<'_> {
    /// E3, check-quorum: who is alone does not go on for a leader. What it has appended gives way (§5.3), its
    /// configuration too (§6), though its log be longer (§5.4.1).
    pub(super) fn alone(&mut self) -> Result<(), Wrong> {
        let (leader, _) = self.leads()?;
        if self.other_voters(leader).len() < 2 {
            return Ok(());
        }
        let options = &self.plan.tuning.options;
        let reach = self.plan.tuning.snapshot_entries + options.snapshot_trailing_entries;
        let snapshots = reach <= 90 && options.max_uncommitted_entries > 150;
        let (lonely, others) = if snapshots { MANY } else { (LONELY, OTHERS) };
        self.cut_off(leader, true);
        self.ask(leader, lonely)?;
        self.pass(BETWEEN_READS)?;
        let node = self.stranger();
        let joinable = true;
        self.tell(leader, |_| {
            Input::Members(vec![MemberHint { node, joinable }])
        })?;
        self.pass(IN_DOUBT)?;
        for _ in (0..CUT - IN_DOUBT).step_by(BETWEEN_READS as usize) {
            let request = self.name();
            self.tell(leader, |now| {
                let deadline = Time(now.0 + CUT);
                Input::ReadIndex { request, deadline }
            })?;
            self.pass(BETWEEN_READS)?;
        }
        let raft = self.raft(leader);
        if raft.is_some_and(|raft| raft.role() == RoleName::Leader) {
            return wrong("calm", format!("node {leader} leads on, all alone"));
        }
        if let Some((second, term)) = self.leading() {
            for _ in 0..others.div_ceil(GROUP) {
                self.ask(second, others.min(GROUP))?;
                self.pass(2 * MOMENT)?;
            }
            self.pass(BETWEEN_READS)?;
            if !snapshots && self.dice.per_mille(500) {
                // The longer log is there, and whoever made the newer one is not.
                self.crash(second, false);
                self.world.heal();
                self.successor(term, "its leader was killed, and another is back")?;
                self.start(second);
            }
        }
        self.world.heal();
        match self.leading() {
            Some((_, term)) if snapshots => self.half_way(leader, term),
            _ => Ok(()),
        }
    }

    /// W2: the process dies when the snapshot is on its disk, and its log is still that of before.
    fn half_way(&mut self, at: Address, term: Term) -> Result<(), Wrong> {
        let raft = |run: &Run<'_>| {
            run.raft(at).map(|raft| {
                (
                    raft.durable_claim(),
                    raft.base().index,
                    raft.durable_index(),
                )
            })
        };
        let speaks = |run: &Run<'_>| {
            raft(run).is_some_and(|(claim, _, _)| claim.is_some_and(|claim| claim.0 >= term))
        };
        if !self.wait_for(CLOSELY, INSTANT, speaks)? {
            return Ok(());
        }
        self.stall(at, CUT);
        let installs = |run: &Run<'_>| raft(run).is_some_and(|(_, base, end)| end < base);
        if self.wait_for(CLOSELY, INSTANT, installs)? {
            self.coverage.event("crash within an install");
            self.die_at_once(at);
            self.start(at);
        }
        self.stall(at, 0);
        Ok(())
    }

    /// The power goes, and the disk does not even begin with what it was about to write.
    fn die_at_once(&mut self, at: Address) {
        let disk = self.world.node(at).server().map(|s| s.parts.disk.clone());
        if let Some(disk) = &disk {
            for operation in [Operation::Write, Operation::Create] {
                disk.inject(Fault {
                    operation,
                    after: 0,
                    error: std::io::ErrorKind::Other,
                    written: 0,
                });
            }
        }
        self.crash(at, true);
        if let Some(disk) = disk {
            disk.clear_faults();
        }
    }

    /// E3: an heir that nobody hears is left behind with a higher term. It tells its leader so, and is freed.
    pub(super) fn unheard_heir(&mut self) -> Result<(), Wrong> {
        let (leader, term) = self.leads()?;
        let mut others = self.other_voters(leader);
        others.retain(|at| self.can_spare(*at));
        let Some(to) = others.last().and_then(|heir| self.id(*heir)) else {
            return Ok(());
        };
        self.coverage.event("unheard heir");
        let heir = crate::node::address_of(to);
        let all = self.started();
        for at in all.iter().filter(|at| **at != heir) {
            self.world.cut(heir, *at);
        }
        self.tell(leader, |_| Input::Transfer { to: Some(to) })?;
        self.pass(STANDING)?;
        self.still_leads(leader, term, "its heir was not heard")?;
        // What it said is lost.
        for at in all {
            self.world.reset(heir, at);
        }
        self.world.heal();
        let together = |run: &Run<'_>| {
            let now = run.leading().map(|(_, term)| term);
            let term = |at: &Address| run.world.node(*at).server().and_then(|s| s.term());
            now.is_some() && others.iter().all(|at| term(at) == now)
        };
        if !self.wait_for(ELECTING, MOMENT, together)? {
            let what = format!("node {heir} is left behind in a term of its own");
            return wrong("calm", what);
        }
        Ok(())
    }
}
