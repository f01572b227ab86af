//! # What a consensus system is worth
//!
//! It is worth what its tests can break. This crate holds what the proofs share; nothing of it is shipped.
