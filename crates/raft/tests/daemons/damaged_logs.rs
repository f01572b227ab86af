//! A log that is damaged in its middle is repaired from the other nodes, and its node is not up before (D6).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;

use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use wire::raft as pb;

use crate::cluster::{Cluster, Process};
use crate::robustness::http_of;
use crate::snapshots::{SOON, leader_of};

/// Flips a byte in the middle of what a node's only segment holds.
fn damage_log(cluster: &Cluster, number: usize) {
    let path = cluster.node(number).data.join("raft/log-0000000000000001");
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let place = end / 2;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[!bytes[place]], place as u64).unwrap();
}

/// Its state machine begins anew: all that it is told then comes from the log.
fn forget_state(cluster: &Cluster, number: usize) {
    std::fs::remove_dir_all(cluster.node(number).data.join("state-machine")).unwrap();
}

fn written(keys: usize) -> (Cluster, usize, usize) {
    let mut cluster = Cluster::new(3);
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let leader = leader_of(&cluster);
    let mut index = 0;
    for key in 0..keys {
        let put = cluster.put(leader, &format!("PUT key{key} value {key}"));
        index = put.unwrap().index;
    }
    cluster.wait_for_applied(&[1, 2, 3], index, SOON);
    let other = cluster.numbers().find(|node| *node != leader).unwrap();
    (cluster, leader, other)
}

fn health_of(cluster: &Cluster, number: usize) -> ServingStatus {
    let mut client = HealthClient::new(cluster.channel(number));
    let asked = cluster.block_on(client.check(HealthCheckRequest::default()));
    asked.unwrap().into_inner().status()
}

fn holds_all(cluster: &Cluster, number: usize, keys: usize, stale: bool) {
    for key in 0..keys {
        let query = format!("GET key{key}");
        let read = cluster.eventually(&query, SOON, |cluster| {
            cluster.query(number, &query, stale).ok()
        });
        assert_eq!(read.data, format!("value {key}"));
    }
}

#[test]
fn a_log_damaged_in_its_middle_is_repaired_from_the_others() {
    let (mut cluster, leader, other) = written(40);
    cluster.kill(other);
    damage_log(&cluster, other);
    forget_state(&cluster, other);
    cluster.start(other);
    let index = cluster.status(leader).unwrap().commit_index;
    cluster.wait_for_applied(&[other], index, SOON);
    // Whoever else has it is gone right after.
    for number in cluster.numbers().filter(|number| *number != other) {
        cluster.kill(number);
    }
    holds_all(&cluster, other, 40, true);
    let log = cluster.log(other, Process::Raft);
    assert!(log.contains("the log is damaged at byte"), "{log}");
    assert!(log.contains("had what was missing"), "{log}");
    let metrics = http_of(&cluster, other, "GET /metrics");
    assert!(
        metrics.contains("\nleeky_raft_log_repairs_total 1\n"),
        "{metrics}"
    );
    // With one of the others it is a majority, and has all; and a new start finds nothing to repair.
    cluster.kill(other);
    forget_state(&cluster, other);
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    holds_all(&cluster, other, 40, false);
    let metrics = http_of(&cluster, other, "GET /metrics");
    assert!(
        metrics.contains("\nleeky_raft_log_damages_total 0\n"),
        "{metrics}"
    );
}

#[test]
fn a_damaged_node_says_so_and_waits_for_who_has_what_is_missing() {
    let (mut cluster, _, other) = written(40);
    cluster.kill_all();
    damage_log(&cluster, other);
    forget_state(&cluster, other);
    cluster.start(other);
    let status = cluster.eventually("it says that it is damaged", SOON, |cluster| {
        let status = cluster.status(other)?;
        let told = |alarm: &String| {
            alarm.contains("are being fetched") || alarm.contains("is being fetched")
        };
        status.alarms.iter().any(told).then_some(status)
    });
    assert_eq!(status.role, "damaged");
    assert_eq!(health_of(&cluster, other), ServingStatus::NotServing);
    let refused = cluster.put(other, "PUT key0 other").unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    let metrics = http_of(&cluster, other, "GET /metrics");
    assert!(
        metrics.contains("\nleeky_raft_log_damages_total 1\n"),
        "{metrics}"
    );
    // It can be told to end, and is as damaged as before.
    let ended = cluster.terminate(other, Process::Raft, SOON);
    assert_eq!(ended.code(), Some(0));
    cluster.start_process(other, Process::Raft);
    cluster.eventually("it waits again", SOON, |cluster| {
        (cluster.status(other)?.role == "damaged").then_some(())
    });
    // Who keeps a connection to it, as clients and Prometheus do, must not be told so for ever.
    let mut grpc = cluster.client(other);
    let asked = cluster.block_on(grpc.status(pb::StatusRequest {}));
    assert_eq!(asked.unwrap().into_inner().role, "damaged");
    let mut http = TcpStream::connect((cluster.node(other).ip, 6003)).unwrap();
    http.set_read_timeout(Some(SOON)).unwrap();
    let kept_alive = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    http.write_all(kept_alive.as_bytes()).unwrap();
    assert!(http.read(&mut [0; 1024]).unwrap() > 0);
    for number in cluster.numbers().filter(|number| *number != other) {
        cluster.start(number);
    }
    cluster.wait_for_voters(3, SOON);
    cluster.eventually("it is repaired", SOON, |cluster| {
        let status = cluster.status(other)?;
        (status.role != "damaged" && status.alarms.is_empty()).then_some(())
    });
    holds_all(&cluster, other, 40, false);
    let rest = http.read(&mut [0; 1024]);
    assert_eq!(rest.unwrap(), 0, "the connection was closed");
    let asked = cluster.block_on(grpc.status(pb::StatusRequest {}));
    assert_ne!(asked.unwrap().into_inner().role, "damaged");
    assert_eq!(health_of(&cluster, other), ServingStatus::Serving);
}
