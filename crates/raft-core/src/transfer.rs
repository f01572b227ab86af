//! Leadership transfer (§3.10 of the dissertation).

use crate::ids::{NodeId, Time};
use crate::io::Event;
use crate::message::Message;
use crate::raft::{Raft, Role};

/// A hand-over that is under way. Meanwhile no new entries are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    to: NodeId,
    /// An order names it: no other will do.
    named: bool,
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
    /// heir that is under way goes on as it is; to another one it gives way, which has what is left of its
    /// time: whatever is ordered meanwhile, entries wait no longer than `elect_timeout_max`. And a sick
    /// leader is gone by the end of its first attempt (D4).
    pub(crate) fn transfer(&mut self, to: Option<NodeId>) {
        if !matches!(self.role, Role::Leader(_)) {
            return;
        }
        let begun = self.transfer_under_way();
        let Some(heir) = self.heir(to) else {
            let to = to.unwrap_or(self.id);
            return self.event(Event::Transfer {
                to,
                outcome: "no such voter",
            });
        };
        // Begun anew, it would void the token that the heir has.
        if let Some(leading) = self.leading()
            && let Some(begun) = &mut leading.transfer
            && begun.to == heir
        {
            begun.named &= to.is_some();
            return;
        }
        let deadline = self.now + self.options.elect_timeout_max;
        let deadline = begun.map_or(deadline, |begun| begun.deadline);
        self.begin_transfer(heir, to.is_some(), deadline);
        self.run_transfer();
    }

    /// That voter, or the first in the order of succession.
    fn heir(&self, named: Option<NodeId>) -> Option<NodeId> {
        let mut heirs = self.order_of_succession().into_iter();
        match named {
            Some(node) => heirs.find(|heir| *heir == node),
            None => heirs.next(),
        }
    }

    fn begin_transfer(&mut self, to: NodeId, named: bool, deadline: Time) {
        // 0 would mean "no token".
        let token = self.dice.next() | 1;
        if let Some(leading) = self.leading() {
            leading.transfer = Some(Transfer {
                to,
                named,
                token,
                sent: false,
                deadline,
            });
        }
        self.event(Event::Transfer {
            to,
            outcome: "begun",
        });
        self.append_entries_until_caught_up(to);
    }

    /// Tells the heir once it has everything; gives up when it takes too long. An heir that is about to go
    /// is none any more (M1): the next one has what is left of the time.
    pub(crate) fn run_transfer(&mut self) {
        if let Some(transfer) = self.transfer_under_way()
            && self.now < transfer.deadline
            && !transfer.sent
            && self.goes(transfer.to)
            && (!transfer.named || self.disk.sick)
            && let Some(next) = self.heir(None)
        {
            let outcome = "the heir is about to go: the next one is tried";
            self.event(Event::Transfer {
                to: transfer.to,
                outcome,
            });
            self.begin_transfer(next, false, transfer.deadline);
        }
        let Some(Transfer {
            to,
            token,
            sent,
            deadline,
            ..
        }) = self.transfer_under_way()
        else {
            return;
        };
        let (term, last) = (self.term(), self.log.last().index);
        let goes = !sent && self.goes(to);
        if self.now >= deadline || goes {
            if let Some(leading) = self.leading() {
                leading.transfer = None;
            }
            let outcome = match goes {
                true => "given up: the heir is about to go",
                false => "given up: the heir did not take over",
            };
            self.event(Event::Transfer { to, outcome });
            if self.disk.sick {
                self.yield_role("its disk is sick, and nobody took over");
            }
            return;
        }
        let Some(leading) = self.leading() else {
            return;
        };
        let has_all = leading.match_index(to) == last || mutant!(TransferBeforeCaughtUp);
        if has_all && !sent && !self.is_suspect(to) {
            if let Some(transfer) = self.leading().and_then(|leading| leading.transfer.as_mut()) {
                transfer.sent = true;
            }
            self.event(Event::Transfer {
                to,
                outcome: "the heir was told",
            });
            self.send(to, Message::TimeoutNow { term, token });
        }
    }

    fn transfer_under_way(&self) -> Option<Transfer> {
        match &self.role {
            Role::Leader(leading) => leading.transfer,
            _ => None,
        }
    }

    /// Leads no more for a reason of its own: to an heir if there is one, else to nobody.
    pub(crate) fn yield_leadership(&mut self, reason: &'static str) {
        if !matches!(self.role, Role::Leader(_)) {
            return;
        }
        self.transfer(None);
        if self.transfer_under_way().is_none() {
            self.yield_role(reason);
        }
    }
}
