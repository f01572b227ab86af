//! One file for each verb.

pub mod pool;
pub mod run;
