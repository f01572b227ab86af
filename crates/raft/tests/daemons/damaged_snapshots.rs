//! Snapshots whose damage shows only when they are read.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use wire::raft as pb;

use crate::cluster::{Cluster, Process};
use crate::snapshots::{SOON, leader_of, small, value, write};

/// Flips a byte in the middle of the newest snapshot of a node, or near its beginning.
fn damage_newest(cluster: &Cluster, number: usize, part: u64) {
    let folder = cluster.node(number).data.join("raft");
    let snapshots = std::fs::read_dir(folder).unwrap().filter_map(|file| {
        let path = file.unwrap().path();
        let name = path.file_name()?.to_str()?.strip_prefix("snapshot-")?;
        name.starts_with('0').then_some(path)
    });
    let newest: PathBuf = snapshots.max().unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(newest)
        .unwrap();
    let middle = file.metadata().unwrap().len() / part;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[!byte[0]], middle).unwrap();
}

fn three() -> (Cluster, usize, usize) {
    let mut cluster = Cluster::new(3);
    small(&mut cluster);
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let leader = leader_of(&cluster);
    let other = cluster.numbers().find(|node| *node != leader).unwrap();
    (cluster, leader, other)
}

fn is_level(cluster: &Cluster, leader: usize, other: usize) {
    let index = cluster.status(leader).unwrap().commit_index;
    cluster.wait_for_applied(&[other], index, SOON * 2);
    cluster.eventually("no alarm is left", SOON, |cluster| {
        cluster.status(other)?.alarms.is_empty().then_some(())
    });
}

#[test]
fn a_node_that_needs_its_damaged_snapshot_fetches_another() {
    let (mut cluster, leader, other) = three();
    write(&cluster, leader, 0..200);
    cluster.eventually("its log is cut off", SOON, |cluster| {
        (cluster.status(other)?.first_index > 1).then_some(())
    });
    cluster.kill(other);
    damage_newest(&cluster, other, 2);
    // An empty state machine: it can only be brought up from a snapshot.
    std::fs::remove_dir_all(cluster.node(other).data.join("state-machine")).unwrap();
    cluster.start(other);
    is_level(&cluster, leader, other);
    let reply = cluster.query(other, "GET key19", true).unwrap();
    assert_eq!(reply.data, value(199));
    let log = cluster.log(other, Process::Raft);
    assert!(log.contains("is damaged at byte"), "it was never read");
    assert!(log.contains("received from"), "no other was fetched");
}

/// Nobody writes, and what the others have ends before the damaged one: they take another for who asks.
#[test]
fn what_is_newer_than_all_others_is_fetched_although_nobody_writes() {
    let (mut cluster, leader, other) = three();
    write(&cluster, leader, 0..201);
    let saved = cluster.block_on(
        cluster
            .client(other)
            .save_snapshot(pb::SaveSnapshotRequest {
                timeout_ms: 10_000,
                ..pb::SaveSnapshotRequest::default()
            }),
    );
    assert!(saved.is_ok(), "{saved:?}");
    let newest = |number| cluster.status(number).unwrap().snapshot_index;
    let own = newest(other);
    assert!(
        cluster
            .numbers()
            .all(|node| node == other || newest(node) < own)
    );
    cluster.kill(other);
    damage_newest(&cluster, other, 2);
    std::fs::remove_dir_all(cluster.node(other).data.join("state-machine")).unwrap();
    cluster.start(other);
    is_level(&cluster, leader, other);
    let reply = cluster.query(other, "GET key0", true).unwrap();
    assert_eq!(reply.data, value(200));
}

#[test]
fn a_leader_whose_snapshot_is_damaged_takes_another_for_who_needs_it() {
    a_leader_takes_another(2);
}

#[test]
fn a_leader_whose_snapshot_is_damaged_in_its_head_takes_another_too() {
    a_leader_takes_another(1_500);
}

fn a_leader_takes_another(part: u64) {
    let (mut cluster, leader, other) = three();
    cluster.kill(other);
    write(&cluster, leader, 0..400);
    damage_newest(&cluster, leader, part);
    cluster.start(other);
    is_level(&cluster, leader, other);
    is_level(&cluster, leader, leader);
    let reply = cluster.query(other, "GET key19", true).unwrap();
    assert_eq!(reply.data, value(399));
    let log = cluster.log(leader, Process::Raft);
    assert!(log.contains("is damaged at byte"), "it was not found out");
}
