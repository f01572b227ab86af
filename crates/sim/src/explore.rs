//! # Every schedule of a small cluster
//!
//! A simulation tries many schedules and chance decides which. Here a small cluster is taken through
//! *all* of them: three nodes, a few terms, entries, crashes, and a network that loses, delays, reorders
//! and doubles. What is explored is no model: it is [`raft_core::Raft`] itself, whose every step is a
//! function of a node and what happens to it.
//!
//! ## What a state is
//!
//! The nodes (core and disk), the messages under way, what the budgets have left, and what an onlooker
//! must remember to judge the properties (`history`). Nodes are numbered, so that a state is a few
//! numbers; two states are the same only if they are equal, not if a fingerprint is. What a node does
//! depends on itself alone, so each of its steps is computed once, however many states it occurs in.
//!
//! ## What happens
//!
//! * **Messages** are lost, or arrive at once in the order in which they were sent, or are delayed for as long
//!   as you like: up to [`Bounds::in_flight`] of them at a time, and one may arrive twice, as the budget
//!   allows. What becomes of all that is new is decided before anything else happens: most schedules that
//!   break something need few delays, and the space of those with few can be exhausted. What can change
//!   nothing any more is forgotten, and so is a request of an older term than its receiver's disk
//!   knows, which could only tell its sender of that term.
//! * **Disks** complete a write at once, or later, or never: a crash leaves any first part of what waits.
//!   Who crashed starts again at once: a node that is down and one that gets no turn do the same.
//! * **Time** is whatever a node takes it for: a clock is read by nobody but its own node. Between two
//!   steps every clock stands still, and [`raft_core::Raft::canonicalise`] takes out what differs in
//!   nothing but time; a step lets one node's time pass until it misses its leader, until a heartbeat is
//!   due, or until a leader has heard of nobody for too long. Followers never refuse a candidate because
//!   they hear a leader (E3): that is more than can happen, and what is safe so is safe with it.
//! * **Names** mean nothing where all vote: whoever is the first to do anything is node 1.
//! * **Clients** put entries, read, ask for a hand-over, or for a node to leave.
//!
//! ## What must hold
//!
//! After each step: election safety, leader completeness, log matching, state machine safety (figure 3);
//! what is committed is on the disks of a majority of the voters, counted out by the plain definition;
//! one vote in each term, and no promise before it is durable; a linearizable read misses nothing
//! that was committed when it was asked for; no correct node takes another's word for nonsense; no
//! assertion of the core fails.
//!
//! ## What is left out
//!
//! Snapshots and compaction, streams and their Hellos (D5), sick disks (D4), rule E2's fast succession,
//! learners that are promoted after a time, sessions. They are the simulator's.

mod bounds;
mod disk;
mod history;
mod intern;
mod node;
mod search;
mod state;
mod trace;

pub use bounds::{Bounds, MAX_IN_FLIGHT, MAX_NODES, Report, Start, Violation};

/// Goes through every state within the bounds, nearest first, until there are no more, there are as many
/// as the bounds allow, or a property is broken. The same bounds give the same report, but for the time.
pub fn explore(bounds: &Bounds) -> Report {
    search::search(bounds)
}
