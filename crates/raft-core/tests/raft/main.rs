//! The core against the Raft paper, against the project's safety rules, and against what other
//! implementations test and what went wrong with them.
//!
//! | | |
//! |---|---|
//! | [`lists`] | which rule, and which test of others, became which of ours; what does not apply, and why |
//! | [`paper`] | the rules of the paper, one test each |
//! | [`rules`] | the schedules of the safety rules, by letter |
//! | [`peers`] | the stories of other implementations' tests |
//! | [`late_answers`], [`snapshots`] | schedules that once broke this core |
//! | [`nonsense`] | whatever a peer, client or disk may say |
//! | [`clusters`] | whole clusters, and chaos by seed |
//!
//! There are three benches, from the smallest up, and a story stands on the smallest that can tell it:
//! [`one`] core with inputs by hand and a disk that syncs when it is told to; a [`few`] cores with their post
//! in hand; and the [`world`], with a clock, a lossy network, slow disks, and checks after every step.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "mutants")]
#[path = "../a_mutant/mod.rs"]
mod a_mutant;
mod clusters;
mod commit_notices;
mod few;
mod late_answers;
mod lists;
mod nonsense;
mod one;
mod paper;
mod peers;
mod recovered;
mod rules;
mod snapshots;
mod world;
