//! One file for each verb.

pub mod explore;
pub mod pool;
pub mod run;
