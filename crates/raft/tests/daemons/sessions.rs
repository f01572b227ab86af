//! Sessions come to an end (S3), and leadership goes where a state machine answers.

use wire::raft::{self as pb, ErrorKind};

use crate::cluster::{Cluster, Process};
use crate::snapshots::{SOON, leader_of};

fn register(cluster: &Cluster, node: usize) -> u64 {
    let request = pb::RegisterSessionRequest::default();
    let reply = cluster.block_on(cluster.client(node).register_session(request));
    reply.unwrap().into_inner().session
}

fn increment(
    cluster: &Cluster,
    node: usize,
    session: u64,
    sequence: u64,
) -> Result<bytes::Bytes, tonic::Status> {
    let request = pb::PutEntryRequest {
        entry: "INCR counter".into(),
        session,
        sequence,
        ..pb::PutEntryRequest::default()
    };
    let reply = cluster.block_on(cluster.client(node).put_entry(request));
    reply.map(|reply| reply.into_inner().data)
}

fn kind(status: &tonic::Status) -> ErrorKind {
    wire::status::detail_of(status).unwrap().kind()
}

/// Idle for longer than `SessionTimeout`: ended, by an entry in the log, so that a retry is refused and not
/// run again, here and on every node, after a restart of all too. What is used meanwhile stays.
#[test]
fn a_session_that_nobody_uses_ends_and_one_that_is_kept_alive_does_not() {
    let mut cluster = Cluster::new(3);
    cluster.set("LEEKY_SESSION_TIMEOUT", "2000");
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let leader = leader_of(&cluster);
    let (idle, used) = (register(&cluster, leader), register(&cluster, leader));
    assert_eq!(increment(&cluster, leader, idle, 1).unwrap(), "1");
    assert_eq!(increment(&cluster, leader, used, 1).unwrap(), "2");
    // An entry ends the session: the log grows by it, and by what keeps the other alive.
    let refused = cluster.eventually("the idle session ends", SOON, |cluster| {
        let request = pb::KeepAliveRequest {
            session: used,
            ..pb::KeepAliveRequest::default()
        };
        cluster
            .block_on(cluster.client(leader).keep_alive(request))
            .unwrap();
        let before = cluster.log(leader, Process::Raft);
        if !before.contains("idle sessions are to end") {
            return None;
        }
        increment(cluster, leader, idle, 1).err()
    });
    assert_eq!(kind(&refused), ErrorKind::SessionExpired, "{refused}");
    assert_eq!(
        increment(&cluster, leader, used, 1).unwrap(),
        "2",
        "a retry"
    );
    cluster.kill_all();
    cluster.start_all();
    let leader = leader_of(&cluster);
    let refused = increment(&cluster, leader, idle, 1).unwrap_err();
    assert_eq!(kind(&refused), ErrorKind::SessionExpired, "{refused}");
    assert_eq!(increment(&cluster, leader, used, 2).unwrap(), "3");
}

/// A state machine that hangs takes the answers of its node with it. If that node leads, another one does
/// soon, and clients get theirs there.
#[test]
fn leadership_leaves_a_node_whose_state_machine_is_gone() {
    let mut cluster = Cluster::new(3);
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let leader = leader_of(&cluster);
    cluster.put(leader, "PUT a 1").unwrap();
    cluster.kill_process(leader, Process::StateMachine);
    let others: Vec<usize> = cluster.numbers().filter(|node| *node != leader).collect();
    let heir = cluster.wait_for_leader(&others, Some(leader), SOON);
    cluster.put(heir, "PUT a 2").unwrap();
    // It is a node of the cluster all the same, and level again when its state machine is back.
    let status = cluster.status(leader).unwrap();
    assert_eq!(status.role, "follower");
    cluster.start_process(leader, Process::StateMachine);
    let index = cluster.status(heir).unwrap().commit_index;
    cluster.wait_for_applied(&[leader], index, SOON);
    let log = cluster.log(leader, Process::Raft);
    assert!(log.contains("the heir was told"), "nobody was told");
}
