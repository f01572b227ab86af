//! What the larger tests share, beside the cluster itself: writers that retry, evidence from the disks
//! of stopped nodes, a network namespace that can be cut, and the processor time that processes took.

#![allow(dead_code, clippy::unwrap_used)]

pub mod evidence;
pub mod namespace;
pub mod processor;
pub mod writers;
