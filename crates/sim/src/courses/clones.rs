//! A node is put back to an image of before its last starts, and says so by the boots that it counts (D5).

use raft_core::Input;

use super::{Run, SETTLES, put};
use crate::check::{Wrong, wrong};
use crate::world::{Address, Micros};

/// Starts that the image does not know of.
const STARTS: usize = 2;

/// Entries that the leader is asked for while the one that was put back is being asked what it has.
const ENTRIES: usize = 200;
const BETWEEN_ENTRIES: Micros = 1_000;

/// Within this it is found out.
const FOUND_OUT: Micros = 600_000;

/// And has taken a new id.
const GIVEN_UP: Micros = 20_000_000;

impl Run<'_> {
    pub(super) fn put_back(&mut self) -> Result<(), Wrong> {
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        let voters = self.running_voters();
        let Some(victim) = voters.iter().copied().find(|at| *at != leader) else {
            return Ok(());
        };
        self.doubt(leader, victim)?;
        let Some(image) = self.image_of(victim) else {
            return Ok(());
        };
        for _ in 0..STARTS {
            self.crash(victim, false);
            self.start(victim);
            self.pass(SETTLES * 4)?;
            self.propose_slowly(leader, 1)?;
        }
        let led = |run: &Run<'_>| {
            run.raft(leader)
                .map(raft_core::Raft::term)
                .filter(|_| run.leader() == Some(leader))
        };
        let term = led(self);
        if term.is_none() || !self.may_lose(victim) || !self.may_roll_back(victim, &image) {
            return Ok(());
        }
        self.coverage.event("clone put back");
        let away = self.dispensable(leader, victim);
        self.crash(victim, true);
        for at in &away {
            self.crash(*at, false);
        }
        let id = image.id;
        self.put_image(victim, &image);
        self.start(victim);
        for _ in 0..ENTRIES {
            self.propose(leader, vec![put("PUT course clone")]);
            self.pass(BETWEEN_ENTRIES)?;
        }
        self.pass(FOUND_OUT)?;
        let still = led(self) == term;
        for at in away {
            self.start(at);
        }
        let until = self.world.now() + GIVEN_UP;
        let gone = self.go_on(until, |run| run.id(victim) != Some(id))?;
        match gone || !still {
            true => Ok(()),
            false => wrong(
                "rollback",
                format!("{id} was put back, and nobody notices (D5)"),
            ),
        }
    }

    /// Voters without whom there is a majority only with both of these.
    fn dispensable(&self, leader: Address, victim: Address) -> Vec<Address> {
        let voters = self.running_voters();
        let needed = voters.len() / 2 + 1;
        let others = voters.into_iter();
        let others = others.filter(|at| *at != leader && *at != victim);
        others.skip(needed.saturating_sub(2)).collect()
    }

    /// Late words of a node make it a suspect, again and again: until it has answered, what it acknowledges counts
    /// for nothing, and without it there is no majority.
    fn doubt(&mut self, leader: Address, suspect: Address) -> Result<(), Wrong> {
        let away = self.dispensable(leader, suspect);
        let Some(peer) = self.id(suspect) else {
            return Ok(());
        };
        for at in &away {
            self.crash(*at, false);
        }
        for number in 0..ENTRIES / 2 {
            self.propose(leader, vec![put("PUT course doubt")]);
            self.pass(BETWEEN_ENTRIES)?;
            if number % 4 == 3 {
                let late = Input::Hello {
                    peer,
                    boot: 0,
                    term: 0,
                    durable_index: 0,
                    challenged: None,
                };
                self.input(leader, late);
            }
        }
        for at in away {
            self.start(at);
        }
        self.settle_again("a node was doubted")
    }
}
