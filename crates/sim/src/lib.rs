//! # What a consensus system is worth
//!
//! It is worth what its tests can break. This crate holds what the proofs share; nothing of it is shipped.
//!
//! - [`history`]: what clients asked and were told, and whether one correct store could have said it.

pub mod history;
