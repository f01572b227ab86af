//! `INCR` is executed once, whatever dies: daemons, state machines and clients are killed at random
//! while many clients increment the same counters and retry within their sessions. In the end every
//! node's counters are what was acknowledged, plus some of what is unknown, and all nodes agree.
//!
//! Each run is short. A minute of both, and the same faults again:
//! `LEEKY_NEMESIS_SECONDS=60 [LEEKY_NEMESIS_SEED=n] scripts/test -p raft --test daemons increments -- --nocapture`

use std::time::Duration;

use crate::cluster::{Cluster, Process};
use crate::cluster_more::incrementers::{Incrementers, Ledger, Plan, key};
use crate::cluster_more::nemesis::{self, Nemesis};
use crate::cluster_more::volatile::Machines;

const NODES: usize = 3;
const COUNTERS: usize = 4;
const MORTALS: usize = 6;
const LIBRARY: usize = 2;

/// How long each of the two goes on as a rule.
const SECONDS: u64 = 12;

/// Fewer acknowledged increments for each second, or clients that died for each ten: it was no run.
const ACKNOWLEDGED_PER_SECOND: u64 = 10;
const DEATHS_PER_TEN_SECONDS: u64 = 3;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_durable_state_machine_counts_every_increment_once_whatever_is_killed() {
    counted_once(None);
}

#[test]
fn a_volatile_state_machine_counts_every_increment_once_whatever_is_killed() {
    let mut cluster = counted_once(Some(Machines::default()));
    // Otherwise it was never more than a replay of the log.
    let restored = cluster.numbers().any(|node| {
        let log = cluster.log(node, Process::Raft);
        log.contains("was given the snapshot")
    });
    assert!(restored, "no state machine was ever given a snapshot");
    cluster.kill_all();
}

fn counted_once(machines: Option<Machines>) -> Cluster {
    let time = nemesis::seconds(SECONDS);
    let seed = nemesis::seed();
    let mut cluster = Cluster::new(NODES);
    // So that snapshots, and with them the sessions, are written down all the time.
    for (key, value) in [
        ("LEEKY_SNAPSHOT_BYTES", "65536"),
        ("LEEKY_SNAPSHOT_ENTRIES", "300"),
        ("LEEKY_SEGMENT_BYTES", "65536"),
        ("LEEKY_LOG_CACHE_BYTES", "65536"),
    ] {
        cluster.set(key, value);
    }
    let mut nemesis = Nemesis::new(seed, machines);
    nemesis.start_all(&mut cluster);
    cluster.wait_for_voters(NODES, PATIENCE);
    let addresses: Vec<_> = cluster
        .numbers()
        .map(|node| cluster.address(node))
        .collect();
    let plan = Plan {
        counters: COUNTERS,
        mortals: MORTALS,
        library: LIBRARY,
        seed,
    };
    let mut clients = Incrementers::start(plan, &addresses);
    nemesis.rage(&mut cluster, time, || clients.ledger().acknowledged());
    cluster.wait_for_voters(NODES, PATIENCE);
    clients.finish(PATIENCE);

    let nodes = values_everywhere(&cluster);
    let ledger = clients.ledger();
    report(&cluster, &nemesis, &ledger, &nodes[0]);
    assert!(ledger.wrong.is_empty(), "{:#?}", ledger.wrong);
    for (node, values) in nodes.iter().enumerate() {
        let wrong = ledger.wrong_values(values);
        assert!(wrong.is_empty(), "node {}: {wrong:#?}", node + 1);
        assert_eq!(values, &nodes[0], "node {} and node 1", node + 1);
    }
    let missed = missed(&cluster, &nemesis, &ledger, time);
    assert!(missed.is_empty(), "this was no run: {missed:#?}");
    drop(ledger);
    // The state machines of the nemesis end here; nobody needs them any more.
    cluster
}

/// What each node's own state machine says, all as of the same index.
fn values_everywhere(cluster: &Cluster) -> Vec<Vec<i64>> {
    let applied = |cluster: &Cluster| -> Option<Vec<u64>> {
        let status = cluster.numbers().map(|node| cluster.status(node));
        status.map(|status| Some(status?.applied_index)).collect()
    };
    cluster.eventually("all nodes are at the same entry", PATIENCE, |cluster| {
        let before = applied(cluster)?;
        let values: Option<Vec<Vec<i64>>> = cluster
            .numbers()
            .map(|node| {
                let of = |counter| value(cluster, node, counter);
                (0..COUNTERS).map(of).collect()
            })
            .collect();
        // An entry that a dead client left behind may still have come meanwhile.
        let same = before.iter().all(|index| *index == before[0]);
        (same && applied(cluster)? == before).then_some(values?)
    })
}

fn value(cluster: &Cluster, node: usize, counter: usize) -> Option<i64> {
    let query = format!("GET {}", key(counter));
    let reply = cluster.query(node, &query, true).ok()?;
    std::str::from_utf8(&reply.data).ok()?.parse().ok()
}

fn snapshots(cluster: &Cluster, node: usize) -> usize {
    let log = cluster.log(node, Process::Raft);
    log.matches("taken as of").count()
}

fn report(cluster: &Cluster, nemesis: &Nemesis, ledger: &Ledger, values: &[i64]) {
    let snapshots: Vec<usize> = cluster.numbers().map(|n| snapshots(cluster, n)).collect();
    println!(
        "{} faults {:?}; {} clients died in a call; {} increments acknowledged, {} unknown, {} not \
         done by the library's word, {} attempts refused; the counters are {values:?}; snapshots \
         taken: {snapshots:?}",
        nemesis.strikes(),
        nemesis.struck,
        ledger.deaths,
        ledger.acknowledged(),
        ledger.unknown(),
        ledger.not_done,
        ledger.refused,
    );
}

/// What did not happen although it should have.
fn missed(cluster: &Cluster, nemesis: &Nemesis, ledger: &Ledger, time: Duration) -> Vec<String> {
    let mut missed = nemesis.missed(time);
    let (acknowledged, wanted) = (
        ledger.acknowledged(),
        time.as_secs() * ACKNOWLEDGED_PER_SECOND,
    );
    if acknowledged < wanted {
        missed.push(format!(
            "{acknowledged} increments were acknowledged, and not {wanted}"
        ));
    }
    let (deaths, wanted) = (ledger.deaths, time.as_secs() * DEATHS_PER_TEN_SECONDS / 10);
    if deaths < wanted {
        missed.push(format!("{deaths} clients died, and not {wanted}"));
    }
    if ledger.refused == 0 {
        missed.push("no attempt ever failed".to_owned());
    }
    for node in cluster.numbers() {
        if snapshots(cluster, node) == 0 {
            missed.push(format!("node {node} took no snapshot"));
        }
    }
    missed
}
