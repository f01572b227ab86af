//! Leadership transfer (§3.10 of the dissertation).

use crate::ids::{NodeId, Time};
use crate::io::Event;
use crate::message::Message;
use crate::raft::{Raft, Role};

/// A hand-over that is under way. Meanwhile no new entries are taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    to: NodeId,
    token: u64,
    sent: bool,
    deadline: Time,
}

impl Transfer {
    pub(crate) fn to(&self) -> NodeId {
        self.to
    }

    /// What the heir shows to voters, once it was told.
    pub(crate) fn token(&self) -> Option<u64> {
        self.sent.then_some(self.token)
    }

    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        change(&mut self.deadline);
    }

    pub(crate) fn deadline(&self) -> Time {
        self.deadline
    }
}

impl Raft {
    /// Begins to hand over to `to`, or to the first in the order of succession. A hand-over to the same
    /// heir that is under way goes on as it is.
    pub(crate) fn transfer(&mut self, to: Option<NodeId>) {
        let Role::Leader(leading) = &self.role else {
            return;
        };
        let begun = leading.transfer.as_ref();
        let begun = begun.map(|transfer| (transfer.to, transfer.deadline));
        let configuration = self.configuration().1;
        let heirs = self.order_of_succession();
        let heir = match to {
            Some(node) => heirs.into_iter().find(|heir| *heir == node),
            None => heirs.first().copied(),
        };
        let Some(heir) = heir.filter(|heir| configuration.voters.contains(heir)) else {
            let to = to.unwrap_or(self.id);
            return self.event(Event::Transfer {
                to,
                outcome: "no such voter",
            });
        };
        // Begun anew, it would keep clients waiting for as long as somebody repeats the order, and void
        // the token that the heir has.
        if begun.is_some_and(|(to, _)| to == heir) {
            return;
        }
        // 0 would mean "no token".
        let token = self.dice.next() | 1;
        // D4: a sick leader is to be gone by the end of its first attempt, whoever else is tried meanwhile.
        let deadline = match begun {
            Some((_, deadline)) if self.disk.sick => deadline,
            _ => self.now + self.options.elect_timeout_max,
        };
        if let Some(leading) = self.leading() {
            leading.transfer = Some(Transfer {
                to: heir,
                token,
                sent: false,
                deadline,
            });
        }
        self.event(Event::Transfer {
            to: heir,
            outcome: "begun",
        });
        self.append_entries_until_caught_up(heir);
        self.run_transfer();
    }

    /// Tells the heir once it has everything; gives up when it takes too long.
    pub(crate) fn run_transfer(&mut self) {
        let (now, term, last) = (self.now, self.term(), self.log.last().index);
        let Role::Leader(leading) = &self.role else {
            return;
        };
        let Some(Transfer { to, sent, .. }) = leading.transfer else {
            return;
        };
        let has_all = leading.match_index(to) == last || mutant!(TransferBeforeCaughtUp);
        let ready = has_all && !self.is_suspect(to);
        // M1, also when it said so after the hand-over had begun.
        let goes = !sent && self.goes(to);
        let Some(leading) = self.leading() else {
            return;
        };
        let Some(transfer) = &mut leading.transfer else {
            return;
        };
        if now >= transfer.deadline || goes {
            leading.transfer = None;
            let outcome = match goes {
                true => "given up: the heir is about to go",
                false => "given up: the heir did not take over",
            };
            self.event(Event::Transfer { to, outcome });
            if self.disk.sick {
                self.yield_role("its disk is sick, and nobody took over");
            }
        } else if ready && !sent {
            transfer.sent = true;
            let token = transfer.token;
            self.event(Event::Transfer {
                to,
                outcome: "the heir was told",
            });
            self.send(to, Message::TimeoutNow { term, token });
        }
    }

    /// Leads no more for a reason of its own: to an heir if there is one, else to nobody.
    pub(crate) fn yield_leadership(&mut self, reason: &'static str) {
        if !matches!(self.role, Role::Leader(_)) {
            return;
        }
        self.transfer(None);
        let handing_over = self
            .leading()
            .is_some_and(|leading| leading.transfer.is_some());
        if !handing_over {
            self.yield_role(reason);
        }
    }
}
