//! What other implementations test, told against this core. Which of their tests became which of ours is
//! stands in the essay of this binary.

mod configurations;
mod course;
mod elections;
mod reads;
mod replication;
mod slow_and_cut;
mod snapshots;
mod transfers;
