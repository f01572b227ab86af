//! Reads that any node answers are linearizable, while clients write and leaders die or hang.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use crate::cluster::{Cluster, Process};
use crate::cluster_more::nemesis::{self, leader};
use crate::cluster_more::registers::{Plan, Registers};

const NODES: usize = 3;
const PLAN: Plan = Plan {
    registers: 4,
    readers_per_node: 3,
};

/// How long it goes on as a rule; longer by `LEEKY_NEMESIS_SECONDS`.
const SECONDS: u64 = 10;

/// A leader that hangs is succeeded in this time, and wakes up as one that has been deposed.
const HANG: Duration = Duration::from_millis(2500);

/// A leader dies or hangs at least so often for each ten seconds, or it was no run.
const FAULTS_PER_TEN_SECONDS: u64 = 2;

/// And followers answer so many reads in a second.
const READS_PER_SECOND: u64 = 100;

const PATIENCE: Duration = Duration::from_secs(60);

fn id(cluster: &Cluster, node: usize) -> Bytes {
    cluster.status(node).unwrap().node.unwrap().node_id
}

#[test]
fn reads_through_any_node_are_linearizable_while_leaders_die_and_hang() {
    let time = nemesis::seconds(SECONDS);
    let mut random = StdRng::seed_from_u64(nemesis::seed());
    let mut cluster = Cluster::started(NODES, NODES);
    let nodes: Vec<_> = cluster
        .numbers()
        .map(|node| (cluster.address(node), id(&cluster, node)))
        .collect();
    let mut registers = Registers::start(PLAN, &nodes);
    let until = Instant::now() + time;
    let (mut kills, mut hangs) = (0, 0);
    while Instant::now() < until {
        // Reads and writes go on, and then the leader is struck in the middle of them.
        let (written, read) = (registers.written() + 20, registers.read() + 200);
        cluster.eventually("reads and writes go on", PATIENCE, |_| {
            (registers.written() >= written && registers.read() >= read).then_some(())
        });
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        let leader = cluster.eventually("a leader", PATIENCE, leader);
        if random.random_bool(0.5) {
            cluster.kill_process(leader, Process::Raft);
            std::thread::sleep(Duration::from_millis(random.random_range(0..500)));
            cluster.start_process(leader, Process::Raft);
            kills += 1;
        } else {
            cluster.signal(leader, Signal::STOP);
            std::thread::sleep(HANG);
            cluster.signal(leader, Signal::CONT);
            hangs += 1;
        }
        // The sooner the better.
        let wrong = registers.wrong();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
    cluster.wait_for_voters(NODES, PATIENCE);
    registers.finish(PATIENCE);
    let wrong = registers.wrong();
    assert!(wrong.is_empty(), "{wrong:#?}");

    println!(
        "{kills} leaders killed, {hangs} hung; {} writes, {} reads",
        registers.written(),
        registers.read()
    );
    let (mut led, mut followed) = (0, 0);
    for (node, reads) in registers.reads().iter().enumerate() {
        let (leading, following) = (reads.leading.load(SeqCst), reads.following.load(SeqCst));
        println!(
            "node {}: {leading} reads while it led, {following} while it followed, {} refused",
            node + 1,
            reads.refused.load(SeqCst)
        );
        led += leading;
        followed += following;
    }
    assert!(led > 0, "no leader answered a read");
    let wanted = time.as_secs() * READS_PER_SECOND;
    assert!(
        followed >= wanted,
        "followers answered {followed} reads, and not {wanted}"
    );
    let wanted = time.as_secs() * FAULTS_PER_TEN_SECONDS / 10;
    assert!(
        kills + hangs >= wanted,
        "{kills} kills and {hangs} hangs are no run"
    );
}
