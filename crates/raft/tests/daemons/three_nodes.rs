//! Three nodes by join: the leader is killed, and the cluster goes on.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Process};
use wire::raft::ResultKind;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn the_leader_is_killed_and_writes_go_on_and_the_dead_node_catches_up() {
    let mut cluster = Cluster::started(3, 3);
    let mut leader = cluster.wait_for_voters(3, SOON);
    for round in 0..3 {
        let reply = cluster.put(leader, &format!("PUT before {round}")).unwrap();
        assert_eq!(reply.kind(), ResultKind::Ok);
        cluster.kill(leader);
        let killed = Instant::now();
        let others: Vec<usize> = cluster.numbers().filter(|n| *n != leader).collect();
        // In a session, so that it may be tried again when it meets the leader's death.
        cluster.says(&["PUT", "after", &round.to_string()]);
        println!(
            "round {round}: {} ms from the kill to the next write",
            killed.elapsed().as_millis()
        );
        for number in others {
            let before = cluster.query(number, "GET before", false).unwrap();
            assert_eq!(
                before.data,
                round.to_string(),
                "acknowledged by the old leader"
            );
            let after = cluster.query(number, "GET after", false).unwrap();
            assert_eq!(after.data, round.to_string());
        }
        cluster.start(leader);
        leader = cluster.wait_for_voters(3, SOON);
        let index = cluster.status(leader).unwrap().commit_index;
        cluster.wait_for_applied(&[1, 2, 3], index, SOON);
    }
}

#[test]
fn a_write_through_any_node_reaches_the_leader_and_is_read_from_any_node() {
    let cluster = Cluster::started(3, 3);
    for number in cluster.numbers() {
        let reply = cluster
            .put(number, &format!("PUT key{number} value {number}"))
            .unwrap();
        assert_eq!(reply.kind(), ResultKind::Ok);
        for reader in cluster.numbers() {
            let read = cluster
                .query(reader, &format!("GET key{number}"), false)
                .unwrap();
            assert_eq!(read.data, format!("value {number}"), "written at {number}");
        }
    }
    let missing = cluster.query(2, "GET nothing", false).unwrap();
    assert_eq!(missing.kind(), ResultKind::NotFound);
}

#[test]
fn sigterm_hands_leadership_over_before_the_daemon_ends() {
    let mut cluster = Cluster::started(3, 3);
    let leader = cluster.wait_for_voters(3, SOON);
    let others: Vec<usize> = cluster.numbers().filter(|n| *n != leader).collect();
    let ended = cluster.terminate(leader, Process::Raft, SOON);
    assert_eq!(ended.code(), Some(0));
    // The successor led before the old leader was gone: no election timeout passed.
    let successor = cluster.wait_for_leader(&others, None, Duration::from_millis(500));
    cluster.put(successor, "PUT handed over").unwrap();
    assert!(
        !cluster
            .log(others[0], Process::Raft)
            .contains("[ELECTTIMEOUT]")
    );
    assert!(
        !cluster
            .log(others[1], Process::Raft)
            .contains("[ELECTTIMEOUT]")
    );
    cluster.start_process(leader, Process::Raft);
    cluster.wait_for_voters(3, SOON);
}

#[test]
fn all_nodes_are_killed_at_once_and_every_acknowledged_write_is_there() {
    let mut cluster = Cluster::started(3, 3);
    let mut acknowledged = 0;
    for round in 0..3 {
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            let next = acknowledged + 1;
            cluster
                .put(1 + next % 3, &format!("PUT key{next} {next}"))
                .unwrap();
            acknowledged = next;
        }
        cluster.kill_all();
        cluster.start_all();
        cluster.wait_for_voters(3, SOON);
        for key in 1..=acknowledged {
            let read = cluster
                .query(1 + key % 3, &format!("GET key{key}"), false)
                .unwrap();
            assert_eq!(read.data, key.to_string(), "round {round}");
        }
    }
    assert!(acknowledged > 10, "only {acknowledged} writes");
}
