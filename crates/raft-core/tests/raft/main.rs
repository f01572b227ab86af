//! The core against the paper, against the project's rules, and against the tests of its peers.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "mutants")]
#[path = "../a_mutant/mod.rs"]
mod a_mutant;
mod clusters;
mod commit_notices;
mod few;
mod late_answers;
mod nonsense;
mod one;
mod paper;
mod peers;
mod recovered;
mod rules;
mod snapshots;
mod world;
