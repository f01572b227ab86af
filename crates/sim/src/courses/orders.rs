//! An entry that no state machine survives, and the order of an operator to leave it out (P5).

use raft_core::Payload;

use super::{Run, put};
use crate::check::Wrong;
use crate::node::machine::POISON;
use crate::world::Micros;

/// How long the state machines die over it.
const STUCK: Micros = 2_000_000;

/// Orders that are given: who leads may change while its state machine is gone.
const ORDERS: usize = 20;

impl Run<'_> {
    pub(super) fn skip_a_poison(&mut self) -> Result<(), Wrong> {
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        let entries = vec![
            put("PUT course before"),
            put(POISON),
            put("PUT course behind"),
        ];
        self.propose(leader, entries);
        self.pass(STUCK)?;
        let is_poison = |payload: &Payload| matches!(payload, Payload::Command(command) if command.bytes == POISON);
        let Some(index) = self.last_committed(is_poison) else {
            return Ok(()); // Its leader was deposed.
        };
        self.coverage.event("poison entry");
        for _ in 0..ORDERS {
            let ordered = |payload: &Payload| matches!(payload, Payload::Skip { .. });
            if self.last_committed(ordered).is_some() {
                break;
            }
            if let Some(leader) = self.leader() {
                self.propose(leader, vec![Payload::Skip { index }]);
            }
            self.pass(STUCK / 2)?;
        }
        self.settle_again("an entry was poison")?;
        // Who starts again knows of the order before it comes to the entry, whose program is corrected now: it
        // is left out all the same.
        for at in self.started() {
            if let Some(server) = self.world.node_mut(at).server_mut() {
                server.parts.machine.cured = true;
            }
            self.crash(at, true);
            self.start(at);
        }
        self.settle_again("an entry was skipped")
    }
}
