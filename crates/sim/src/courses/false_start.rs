//! Two introducers with empty disks found a cluster each, and one gives way (F1, F2, F4).

use raft_core::message::AppendEntries;
use raft_core::{ClusterId, Entry, Index, Input, Message, Payload, Position, RoleName, Term};

use super::put;
use crate::check::{Checker, Wrong, wrong};
use crate::run::{CLUSTER, Run};
use crate::world::{Address, Micros};

/// The larger of the two gives way.
const RIVAL: ClusterId = ClusterId(CLUSTER.0 + 1);

/// Of a thousand seeds so many begin so.
const OFTEN: u64 = 400;

/// A term that no founder has reached.
const AHEAD: Term = 20;

/// Longer than a founding takes.
const FOUNDED: Micros = 2_000_000;

const FIRST: Address = 0;
const SECOND: Address = 1;

impl Run<'_> {
    pub(crate) fn start_falsely(&mut self) -> Result<(), Wrong> {
        if !self.dice.per_mille(OFTEN) {
            return Ok(());
        }
        self.coverage.event("false start");
        let alone = self.dice.per_mille(600);
        let with_content = alone && self.dice.per_mille(300);
        let rival = self.id(SECOND);
        self.beside = rival.map(|id| (id, Checker::default()));
        self.begun.extend([FIRST, SECOND]);
        self.found(FIRST, CLUSTER, false);
        self.found(SECOND, RIVAL, alone);
        self.pass(FOUNDED)?;
        // F1: who is alone takes no entries, unless it was founded to be.
        self.ask_founder(FIRST);
        if !alone || with_content {
            self.ask_founder(SECOND);
        }
        self.pass(FOUNDED / 4)?;
        if self.dice.per_mille(500) {
            self.hear_the_other()?;
        }
        self.give_way()?;
        let stays = || wrong("course", "an empty cluster does not give way");
        if with_content {
            // F2: it has something to lose. An operator has it begin anew.
            if self.id(SECOND) != rival {
                return wrong("course", "a cluster with content gives way");
            }
            self.crash(SECOND, false);
            self.begin_anew(SECOND);
        } else if self.id(SECOND) == rival {
            return stays();
        }
        self.world.heal();
        Ok(())
    }

    fn found(&mut self, at: Address, cluster_id: ClusterId, alone: bool) {
        self.start_and_tell(at, Input::Found { cluster_id, alone });
    }

    /// Starts the node, if it does not run, and hands it this.
    fn start_and_tell(&mut self, at: Address, input: Input) {
        self.start(at);
        self.input(at, input);
    }

    fn ask_founder(&mut self, at: Address) {
        self.propose(at, vec![put("PUT false start"), Payload::RegisterSession]);
    }

    /// F4: the second one has just started, and knows of nothing that is committed, when a word of the first
    /// comes. The daemon would not let it in; the core does not rest on that.
    fn hear_the_other(&mut self) -> Result<(), Wrong> {
        let Some(founder) = self.id(FIRST) else {
            return Ok(());
        };
        let founding = Entry {
            index: 1,
            term: AHEAD,
            log_time_ms: 0,
            payload: Payload::Founding {
                cluster_id: CLUSTER,
                founder,
                alone: false,
            },
        };
        let message = Message::AppendEntries(AppendEntries {
            term: AHEAD,
            previous: Position::ZERO,
            entries: vec![founding],
            commit_index: 0,
        });
        self.checker.imagine(AHEAD, founder);
        if let Some((_, checker)) = &mut self.beside {
            checker.imagine(AHEAD, founder);
        }
        self.crash(SECOND, false);
        let from = founder;
        self.start_and_tell(SECOND, Input::Message { from, message });
        self.pass(FOUNDED)
    }

    /// F2: the second one hears of the first, and may be asked for entries at the same time.
    fn give_way(&mut self) -> Result<(), Wrong> {
        let leads = |run: &Run<'_>| {
            run.raft(SECOND)
                .is_some_and(|raft| raft.role() == RoleName::Leader)
        };
        // Each of the two deposes the other, until they are kept apart.
        self.cut_off(SECOND, true);
        self.must_come_about(FOUNDED * 5, "a founder does not lead", leads)?;
        self.pass(FOUNDED / 4)?;
        for _ in 0..5 {
            let before = self.log_of(SECOND);
            self.start_and_tell(SECOND, Input::GiveWay);
            if self.beside.as_ref().map(|(id, _)| *id) == self.id(SECOND) {
                self.ask_behind(before)?;
            }
            self.pass(FOUNDED)?;
        }
        Ok(())
    }

    /// Whatever comes behind a Dissolve is refused. It held this `before` it was told to give way.
    fn ask_behind(&mut self, before: Option<(Index, Index)>) -> Result<(), Wrong> {
        let (Some(before), Some((last, _))) = (before, self.log_of(SECOND)) else {
            return Ok(());
        };
        // Else it does not give way now, because a no-op is on its way, and this would be its first content.
        let settled = before.0 == before.1;
        if !settled || last == before.0 {
            return Ok(());
        }
        self.ask_founder(SECOND);
        match self.log_of(SECOND).filter(|(now, _)| *now != last) {
            Some(_) => wrong("founding", "entries are taken behind a Dissolve (F2)"),
            None => Ok(()),
        }
    }

    fn log_of(&self, at: Address) -> Option<(Index, Index)> {
        let raft = self.raft(at)?;
        Some((raft.last().index, raft.commit_index()))
    }
}
