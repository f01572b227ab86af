//! Growing, leaving, and taking a new identity.

use std::time::Duration;

use crate::cluster::{Cluster, Process};

const SOON: Duration = Duration::from_secs(10);
const CHANGES: Duration = Duration::from_secs(20);

#[test]
fn five_nodes_become_five_voters_and_a_sixth_a_spare() {
    let mut cluster = Cluster::started(5, 5);
    let sixth = cluster.add();
    cluster.start(sixth);
    cluster.eventually("a spare", CHANGES, |cluster| {
        let status = cluster.status(1)?;
        let learners = status
            .nodes
            .iter()
            .filter(|node| node.standing == "learner")
            .count();
        (learners == 1 && !status.joint).then_some(())
    });
    // Until it has heard of its leader it answers NO_CLUSTER.
    cluster.eventually("the spare takes a write", SOON, |cluster| {
        cluster.put(sixth, "PUT from a spare").ok()
    });
    assert_eq!(
        cluster.query(sixth, "GET from", false).unwrap().data,
        "a spare"
    );
}

#[test]
fn a_node_that_leaves_ends_with_75_and_comes_back_as_another() {
    let mut cluster = Cluster::started(5, 5);
    let leader = cluster.wait_for_voters(5, SOON);
    let leaver = cluster.numbers().find(|number| *number != leader).unwrap();
    let old = cluster.status(leaver).unwrap().node.unwrap().node_id;
    let name = cluster.node(leaver).name.clone();
    let left = cluster.raft_client(&["leave", &name]);
    assert!(left.status.success(), "{left:?}");
    let ended = cluster.exited(leaver, Process::Raft, SOON);
    assert_eq!(ended.code(), Some(75));
    let marker = std::fs::read_to_string(cluster.node(leaver).data.join("retired")).unwrap();
    let hex: String = old.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(marker.trim(), hex);
    cluster.kill(leaver);
    cluster.start(leaver);
    let new = cluster.eventually("it is back", CHANGES, |cluster| {
        let status = cluster.status(leaver)?;
        let new = status.node?.node_id;
        let known = status.nodes.iter().any(|node| {
            node.standing != "none" && node.node.as_ref().is_some_and(|node| node.node_id == new)
        });
        known.then_some(new)
    });
    assert_ne!(new, old);
    cluster.eventually("it takes a write", SOON, |cluster| {
        cluster.put(leaver, "PUT back again").ok()
    });
}

#[test]
fn sigterm_with_leave_on_terminate_leaves_above_min_voters_and_stays_below() {
    let mut cluster = Cluster::new(5);
    cluster.set("LEEKY_LEAVE_ON_TERMINATE", "true");
    cluster.start_all();
    let leader = cluster.wait_for_voters(5, Duration::from_secs(30));
    let others: Vec<usize> = cluster
        .numbers()
        .filter(|number| *number != leader)
        .collect();
    for number in &others[..2] {
        let ended = cluster.terminate(*number, Process::Raft, Duration::from_secs(25));
        assert_eq!(ended.code(), Some(0));
        cluster.kill(*number);
    }
    let voters = |cluster: &Cluster| {
        let status = cluster.status(leader).unwrap();
        status
            .nodes
            .iter()
            .filter(|node| node.standing == "voter")
            .count()
    };
    cluster.eventually("never below three", CHANGES, |cluster| {
        (voters(cluster) == 3).then_some(())
    });
    let ended = cluster.terminate(others[2], Process::Raft, Duration::from_secs(25));
    assert_eq!(ended.code(), Some(0));
    assert_eq!(voters(&cluster), 3, "MinVoters holds it");
    assert!(!cluster.node(others[2]).data.join("retired").exists());
    cluster.put(leader, "PUT still here").unwrap();
}

#[test]
fn f2_two_empty_clusters_meet_and_one_gives_way_and_its_node_joins_the_other() {
    let mut cluster = Cluster::new(2);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    // Each founds before it can hear of the other.
    for number in [1, 2] {
        cluster.start_process(number, Process::Member);
        cluster.kill_process(number, Process::Member);
    }
    cluster.start_all();
    let loser = cluster.eventually("one of the two gives way", CHANGES, |cluster| {
        [1, 2]
            .into_iter()
            .find(|number| cluster.node(*number).data.join("retired").exists())
    });
    let ended = cluster.exited(loser, Process::Raft, SOON);
    assert_eq!(ended.code(), Some(75));
    cluster.kill(loser);
    cluster.set_for(loser, "LEEKY_FOUND_ALONE", "false");
    cluster.start(loser);
    let winner = 3 - loser;
    cluster.eventually("it was taken in", CHANGES, |cluster| {
        let theirs = cluster.status(winner)?.cluster_id;
        (cluster.status(loser)?.cluster_id == theirs).then_some(())
    });
    cluster.eventually("it takes a write", SOON, |cluster| {
        cluster.put(loser, "PUT one cluster").ok()
    });
}
