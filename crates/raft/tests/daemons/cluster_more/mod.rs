//! What the larger tests share, beside the cluster itself: writers that retry, evidence from the disks
//! of stopped nodes, a network namespace that can be cut, and the processor time that processes took;
//! faults drawn from a seed, state machines in memory that can be killed, and clients whose every answer
//! is checked: incrementers, and readers of registers.

#![allow(dead_code, clippy::unwrap_used)]

pub mod calls;
pub mod evidence;
pub mod incrementers;
pub mod namespace;
pub mod nemesis;
pub mod overwriters;
pub mod processor;
pub mod registers;
pub mod volatile;
pub mod writers;
