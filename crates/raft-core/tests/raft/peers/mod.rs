//! What other implementations test, told against this core. Which of their tests became which of ours is
//! stands in the essay of this binary.

mod configurations;
mod elections;
mod reads;
mod replication;
mod snapshots;
mod transfers;
