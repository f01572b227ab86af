//! Tests of the log and the identity on disks that crash, tear, flip, fill up and fail.

#![allow(clippy::unwrap_used, missing_docs)]

mod crash_points;
mod damage;
mod failing;
mod identity;
mod life;
mod model;
mod power_cuts;
mod reading;
