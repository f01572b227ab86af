//! Real daemons, as processes, on networks of their own. One program: each of them would link all of it.
#![allow(clippy::unwrap_used)]

mod cluster;
mod cluster_more;
mod comparison;
mod damaged_logs;
mod damaged_snapshots;
mod follower_reads;
mod heights;
mod idle;
mod increments;
mod log_events;
mod membership;
mod one_node;
mod overwrite;
mod partitions;
mod power;
mod refusals;
mod robustness;
mod saving;
mod sessions;
mod snapshots;
mod three_nodes;
mod throughput;
mod watch;
