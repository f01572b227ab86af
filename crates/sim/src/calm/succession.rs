//! Leaders die, links flap, everything starts at once.

use raft_core::Position;
use raft_core::message::RequestVote;

use super::*;

/// Two heirs in a row have had their turn, and no ordinary timer.
const HEIRS: Micros = 200_000;

/// Less than a leader needs to find out that nobody answers, more than heirs need.
const FLAP: Micros = 400_000;

/// The longest wait before the first campaign of a start (E5), and a little.
const COLD_START: Micros = 155_000;

/// What a supervisor needs to start a process again.
const RESTART: Micros = 20_000;

impl Run<'_> {
    /// E1, E2: a leader is killed, its process is back at once, and its successor is killed too.
    pub(super) fn leaders_die(&mut self) -> Result<(), Wrong> {
        self.pass(STANDING)?;
        let (first, term) = self.leads()?;
        if !self.can_spare(first) {
            return Ok(());
        }
        self.crash(first, false);
        let (second, later) = self.successor(term, "its leader was killed")?;
        self.start(first);
        self.pass(HEIRS)?;
        if self.leading() != Some((second, later)) {
            return Ok(()); // A rival has pushed it aside: that was slow.
        }
        self.coverage.event("two leaders died");
        // It has not led for long: it has no heirs.
        self.crash(second, false);
        self.pass(RESTART)?;
        self.start(second);
        self.successor(later, "two leaders were killed")?;
        Ok(())
    }

    /// E2, E3: the leader's streams end, and for a moment nobody can ask it. Others elect one; it lives, and
    /// gives way to a higher term, to no vote.
    pub(super) fn flapping(&mut self) -> Result<(), Wrong> {
        self.pass(STANDING)?;
        let (leader, _) = self.leads()?;
        for at in self.other_voters(leader) {
            self.world.reset(leader, at);
        }
        self.cut_off(leader, true);
        self.pass(FLAP)?;
        self.world.heal();
        self.pass(FLAP)
    }

    /// E5: all processes are gone at once, and are back at once. M5: who has not heard of a change votes all the
    /// same for who came with it.
    pub(super) fn cold_start(&mut self) -> Result<(), Wrong> {
        let (_, term) = self.leads()?;
        let all = self.started();
        for at in &all {
            self.crash(*at, false);
        }
        self.pass(RESTART)?;
        let from = self.stranger();
        for at in &all {
            self.start(*at);
            let last = self.raft(*at).map_or(Position::ZERO, |raft| raft.last());
            let request = RequestVote {
                term: term + 1,
                pre_vote: true,
                last,
                transfer_token: 0,
            };
            let message = Message::RequestVote(request);
            self.tell(*at, |_| Input::Message { from, message })?;
        }
        let before = self.checker.campaigns;
        self.pass(COLD_START)?;
        if self.checker.campaigns == before {
            return wrong("calm", "all have started, and nobody campaigns");
        }
        self.successor(term, "all have started")?;
        Ok(())
    }
}
