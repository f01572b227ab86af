//! # What a consensus system is worth
//!
//! It is worth what its tests can break. This crate holds what the proofs share; nothing of it is shipped.
//!
//! - [`run`](fn@run): one seed decides everything. Real cores, logs, snapshots, sessions and key-value
//!   stores in a world in which everything goes wrong that can, with checkers that look on from outside.
//! - [`world`]: that world, for any kind of node.
//! - [`mod@explore`]: every schedule of a small cluster of cores, within bounds.
//! - [`history`]: what clients asked and were told, and whether one correct store could have said it.

mod calm;
pub mod check;
pub mod client;
mod courses;
pub mod coverage;
mod dice;
pub mod explore;
pub mod faults;
pub mod history;
pub mod node;
pub mod party;
pub mod run;
pub mod settings;
pub mod world;

pub use coverage::Coverage;
pub use dice::Dice;
pub use run::{Failure, run, run_traced};
pub use settings::Settings;
