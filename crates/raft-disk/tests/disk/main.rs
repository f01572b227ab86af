//! Tests of the log, the snapshots and the identity on disks that crash, tear, flip, fill up and fail.

#![allow(clippy::unwrap_used, missing_docs)]

#[cfg(feature = "mutants")]
#[path = "../../../raft-core/tests/a_mutant/mod.rs"]
mod a_mutant;
mod compaction;
mod compaction_and_readers;
mod crash_points;
mod damage;
mod every_byte;
mod failing;
mod identity;
mod life;
mod lives;
mod model;
mod power_cuts;
mod reading;
mod receiving;
mod restoring;
mod snapshots;
mod switch;
mod wounds;
