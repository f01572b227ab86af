//! Reads beside writes, a disk that hangs, leaves and hand-overs.

use super::*;

/// Reads, and a write beside so many of them.
const READS: u64 = 40;
const READS_PER_WRITE: u64 = 4;

/// A disk that hangs for so long is sick.
const SICKENS: Micros = 1_900_000;

/// Who is sick has campaigned by then.
const SICK_PATIENCE: Micros = 6_100_000;

/// Any node that hears nobody has campaigned by then.
const PATIENCE: Micros = 1_600_000;

/// Between two leaves that are to be one change.
const BETWEEN_LEAVES: Micros = 50_000;

/// Leaves have been gathered by then.
const GATHERED: Micros = 600_000;

impl Run<'_> {
    /// R2: reads on the leader and on a follower, so close to each other and to writes that a round or an ask
    /// is always under way.
    pub(super) fn reads_beside_writes(&mut self) -> Result<(), Wrong> {
        let (leader, _) = self.leads()?;
        let follower = self.other_voters(leader).first().copied();
        let pause = self.plan.network.delay.1 / 4;
        for read in 0..READS {
            if read % READS_PER_WRITE == 0 {
                self.ask(leader, 1)?;
            }
            for at in [Some(leader), follower].into_iter().flatten() {
                let request = self.name();
                self.tell(at, |now| {
                    let deadline = Time(now.0 + CUT);
                    Input::ReadIndex { request, deadline }
                })?;
            }
            self.pass(pause)?;
        }
        Ok(())
    }

    /// §3.10: the heir lacks something when it is chosen, and clients go on asking. M1: who is leaving is no
    /// heir.
    pub(super) fn hand_over_beside_writes(&mut self) -> Result<(), Wrong> {
        let (leader, _) = self.leads()?;
        let others = self.other_voters(leader);
        let heir = others.last().copied();
        for at in others {
            if Some(at) != heir {
                self.leave(leader, at)?;
            }
        }
        self.ask(leader, 2)?;
        self.tell(leader, |_| Input::Transfer { to: None })?;
        self.ask(leader, 2)?;
        self.pass(AFTERWARDS)
    }

    /// D4: a node whose disk hangs lets the others go first, and not for ever. M1: one that is about to end
    /// lets them go for good.
    pub(super) fn sick_follower(&mut self) -> Result<(), Wrong> {
        let (leader, _) = self.leads()?;
        let Some(sick) = self.other_voters(leader).first().copied() else {
            return Ok(());
        };
        self.stall(sick, SICKENS + SICK_PATIENCE);
        self.ask(leader, 1)?;
        self.pass(SICKENS)?;
        self.cut_off(sick, false);
        self.pass(SICK_PATIENCE)?;
        self.world.heal();
        self.settle_again("a disk hung")?;
        let (leader, _) = self.leads()?;
        self.ask(leader, 1)?;
        self.settle_again("a disk hung")?;
        self.healed()?;
        let Some(ending) = self.other_voters(leader).last().copied() else {
            return Ok(());
        };
        self.tell(ending, |_| Input::Stopping)?;
        self.cut_off(ending, false);
        self.pass(PATIENCE)?;
        self.world.heal();
        self.crash(ending, false);
        self.start(ending);
        Ok(())
    }

    /// M1, M4: all but the leader want to leave, or all that are left of five.
    pub(super) fn leaves(&mut self) -> Result<(), Wrong> {
        let (leader, _) = self.leads()?;
        let mut leavers = self.other_voters(leader);
        let dead = if leavers.len() >= 4 && self.dice.per_mille(500) {
            leavers.split_off(leavers.len() / 2)
        } else {
            Vec::new()
        };
        for at in &dead {
            self.crash(*at, false);
        }
        if !dead.is_empty() {
            self.pass(PATIENCE)?;
        }
        for at in leavers {
            self.leave(leader, at)?;
            self.pass(BETWEEN_LEAVES)?;
        }
        self.pass(GATHERED)?;
        for at in dead {
            self.start(at);
        }
        Ok(())
    }

    fn leave(&mut self, leader: Address, at: Address) -> Result<(), Wrong> {
        let Some(node) = self.id(at) else {
            return Ok(());
        };
        let request = self.name();
        self.tell(leader, |_| Input::Leave { request, node })
    }
}
