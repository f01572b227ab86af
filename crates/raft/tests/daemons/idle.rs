//! A cluster that has nothing to do does next to nothing.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, PROCESSES};
use crate::cluster_more::processor;

const NODES: usize = 5;

/// How long the cluster is watched.
const WATCHED: Duration = Duration::from_secs(20);

/// Percent of a core for a node's three processes together. The goal is below 1, and is measured by
/// scripts/measure on a quiet machine; this is the guard against burning the processor.
const MOST: f64 = 5.0;

#[test]
fn an_idle_node_takes_less_than_5_percent_of_a_core() {
    if processor::time_of(std::process::id()).is_none() {
        println!("SKIPPED: this system has no /proc");
        return;
    }
    let cluster = Cluster::started(NODES, NODES);
    let before = used(&cluster);
    let begun = Instant::now();
    // Nothing to wait for: that nothing happens is the point.
    std::thread::sleep(WATCHED);
    let after = used(&cluster);
    let watched = begun.elapsed().as_secs_f64();
    for number in cluster.numbers() {
        let percent = |process: usize| {
            let time = after[number - 1][process] - before[number - 1][process];
            100.0 * time.as_secs_f64() / watched
        };
        let [member, raft, machine] = [0, 1, 2].map(percent);
        let all = member + raft + machine;
        println!(
            "node {number}: {all:.2} % of a core (member {member:.2}, raft {raft:.2}, state \
             machine {machine:.2})"
        );
        assert!(
            all < MOST,
            "node {number} takes {all:.2} % of a core while nothing happens"
        );
    }
}

fn used(cluster: &Cluster) -> Vec<[Duration; 3]> {
    let of = |number| {
        PROCESSES.map(|process| {
            let pid = cluster.node(number).pid(process).unwrap();
            processor::time_of(pid).expect("it runs")
        })
    };
    cluster.numbers().map(of).collect()
}
