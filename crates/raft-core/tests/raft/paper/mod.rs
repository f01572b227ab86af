//! The rules of "In Search of an Understandable Consensus Algorithm" (extended version), one test
//! each, with one core on a bench. A voter's pre-vote (§9.6 of the dissertation) comes before each
//! election.

mod clients;
mod election;
mod membership;
mod replication;
mod safety;
