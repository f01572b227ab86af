//! How often what happened.

use std::collections::BTreeMap;

use raft_core::Event;

use crate::world::Micros;

/// What one run, or many, went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Faults that were made, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What happened because of them, or anyway.
    pub events: BTreeMap<&'static str, u64>,
    /// Requests of clients.
    pub operations: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Simulated time.
    pub simulated: Micros,
    /// Nodes.
    pub nodes: u64,
    /// A hash over everything that happened, in order.
    pub hash: u64,
    /// Steps.
    pub steps: u64,
}

impl Coverage {
    /// Takes note of a fault.
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Takes note of an event.
    pub fn event(&mut self, kind: &'static str) {
        *self.events.entry(kind).or_default() += 1;
    }

    /// Takes note of what a core tells.
    pub fn core(&mut self, event: &Event) {
        match event {
            Event::Election {
                pre_vote: false,
                hinted,
                ..
            } => {
                self.event("election");
                if *hinted {
                    self.event("hinted election");
                }
            }
            Event::BecameLeader { .. } => self.event("leader elected"),
            Event::ElectionLost { .. } => self.event("election lost"),
            Event::EntryConflict { .. } => self.event("entry conflict"),
            Event::SnapshotOffered { .. } => self.event("snapshot offered"),
            Event::LeaderLost { .. } => self.event("leader lost"),
            Event::ConfigurationAppended { joint, .. } => {
                self.event("configuration change");
                if *joint {
                    self.event("joint configuration");
                }
            }
            Event::DiskHealth { sick: true } => self.event("sick disk"),
            Event::SteppedDown { .. } => self.event("step-down"),
            Event::Transfer { .. } => self.event("transfer"),
            Event::Nonsense { .. } => self.event("nonsense"),
            _ => {}
        }
    }

    /// Faults altogether.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}
