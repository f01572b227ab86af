//! What must not harm a running daemon, and what it says instead.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::cluster::{Cluster, PROCESSES, Process};
use rustix::process::Signal;
use wire::raft::{self as pb, ErrorKind, ResultKind};
use wire::status::detail_of;

const SOON: Duration = Duration::from_secs(10);

fn alone() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    cluster
}

fn kind_of(status: &tonic::Status) -> ErrorKind {
    detail_of(status).map_or(ErrorKind::Unspecified, |detail| detail.kind())
}

fn http(cluster: &Cluster, request: &str) -> String {
    http_of(cluster, 1, request)
}

pub fn http_of(cluster: &Cluster, node: usize, request: &str) -> String {
    let mut stream = TcpStream::connect((cluster.node(node).ip, 6003)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    )
    .unwrap();
    stream.write_all(b"Content-Length: 5\r\n\r\ntrace").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn random_bytes_on_every_port_end_nothing() {
    let mut cluster = alone();
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut noise = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect()
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    for round in 0..20 {
        for port in 6000..=6005u16 {
            let address = SocketAddr::from((cluster.node(1).ip, port));
            if let Ok(mut stream) = TcpStream::connect(address) {
                if round % 2 == 0 {
                    let _ = stream.write_all(preface);
                }
                let _ = stream.write_all(&noise(10_000));
            }
        }
        let gossip = UdpSocket::bind((cluster.node(1).ip, 0)).unwrap();
        let _ = gossip.send_to(&noise(1000), (cluster.node(1).ip, 6000));
    }
    cluster.put(1, "PUT still alive").unwrap();
    for process in PROCESSES {
        assert!(cluster.runs(1, process), "{process:?}");
    }
}

#[test]
fn entries_that_are_too_large_or_empty_are_refused_by_kind() {
    let cluster = alone();
    let large = format!("PUT large {}", "x".repeat(5 << 20));
    let error = cluster.put(1, &large).unwrap_err();
    assert_eq!(kind_of(&error), ErrorKind::TooLarge, "{error}");
    let error = cluster.put(1, "").unwrap_err();
    assert_eq!(kind_of(&error), ErrorKind::Invalid, "{error}");
    let reply = cluster.put(1, "NONSENSE").unwrap();
    assert_eq!(reply.kind(), ResultKind::Rejected, "a result, not an error");
    let fits = format!("PUT large {}", "x".repeat(3 << 20));
    assert_eq!(cluster.put(1, &fits).unwrap().kind(), ResultKind::Ok);
    assert_eq!(
        cluster.query(1, "GET large", false).unwrap().data.len(),
        3 << 20
    );
}

#[test]
fn a_session_makes_a_retry_harmless_and_unknown_ones_are_told_apart() {
    let cluster = alone();
    let mut client = cluster.client(1);
    cluster.block_on(async {
        let session = client
            .register_session(pb::RegisterSessionRequest::default())
            .await;
        let session = session.unwrap().into_inner().session;
        let put = |sequence: u64, acked_below: u64, entry: &str| pb::PutEntryRequest {
            entry: entry.to_owned().into(),
            session,
            sequence,
            acked_below,
            ..pb::PutEntryRequest::default()
        };
        let first = client
            .put_entry(put(1, 0, "PUT a 1"))
            .await
            .unwrap()
            .into_inner();
        let second = client
            .put_entry(put(2, 0, "PUT a 2"))
            .await
            .unwrap()
            .into_inner();
        let retry = client
            .put_entry(put(1, 0, "PUT a 1"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!((retry.kind, &retry.data), (first.kind, &first.data));
        assert!(
            retry.index > second.index,
            "it stands in the log again, and was not run again"
        );
        let query = pb::QueryRequest {
            query: "GET a".into(),
            ..pb::QueryRequest::default()
        };
        assert_eq!(client.query(query).await.unwrap().into_inner().data, "2");
        let stale = client.put_entry(put(1, 2, "PUT a 1")).await.unwrap_err();
        assert_eq!(kind_of(&stale), ErrorKind::StaleSequence);
        let mut unknown = put(1, 0, "PUT a 3");
        unknown.session = 1_000_000;
        let unknown = client.put_entry(unknown).await.unwrap_err();
        assert_eq!(kind_of(&unknown), ErrorKind::SessionExpired);
        let mut pinned = put(3, 0, "PUT a 3");
        pinned.cluster_id = vec![7; 16].into();
        let other = client.put_entry(pinned).await.unwrap_err();
        assert_eq!(kind_of(&other), ErrorKind::OtherCluster);
    });
}

#[test]
fn health_metrics_and_the_log_level_over_http() {
    let mut cluster = alone();
    assert!(http(&cluster, "GET /livez").contains("200 OK"));
    cluster.eventually("it is ready", SOON, |cluster| {
        http(cluster, "GET /readyz")
            .contains("200 OK")
            .then_some(())
    });
    assert!(http(&cluster, "GET /metrics").contains("\nleeky_raft_is_leader 1\n"));
    assert!(http(&cluster, "PUT /log-level").contains("the log level is trace now"));
    cluster.put(1, "PUT a b").unwrap();
    let log = cluster.log(1, Process::Raft);
    for event in [
        "ONLINE",
        "DIGESTENTRIES",
        "DIGESTCOMMITS",
        "APPLY",
        "PUTENTRY",
        "RESTORE",
    ] {
        assert!(log.contains(&format!("[{event}]")), "{event}");
    }
    cluster.kill_process(1, Process::StateMachine);
    cluster.eventually("it is not ready", SOON, |cluster| {
        http(cluster, "GET /readyz")
            .contains("the state machine does not answer")
            .then_some(())
    });
    assert!(http(&cluster, "GET /livez").contains("200 OK"));
}

#[test]
fn raft_starts_with_its_last_addresses_while_member_is_down_everywhere() {
    let mut cluster = Cluster::started(3, 3);
    cluster.put(1, "PUT a b").unwrap();
    cluster.kill_all();
    for number in cluster.numbers() {
        cluster.start_process(number, Process::Raft);
        cluster.start_process(number, Process::StateMachine);
    }
    cluster.wait_for_voters(3, SOON);
    assert_eq!(cluster.query(2, "GET a", false).unwrap().data, "b");
    cluster.eventually("an alarm tells of member", SOON, |cluster| {
        let alarms = cluster.status(1)?.alarms;
        alarms
            .iter()
            .any(|alarm| alarm.contains("member"))
            .then_some(())
    });
}

#[test]
fn a_minority_acknowledges_nothing_and_reads_nothing_but_stale() {
    let cluster = Cluster::started(3, 3);
    let leader = cluster.wait_for_voters(3, SOON);
    cluster.put(leader, "PUT a before").unwrap();
    let others: Vec<usize> = cluster.numbers().filter(|n| *n != leader).collect();
    cluster.wait_for_applied(&[1, 2, 3], 1, SOON);
    for number in &others {
        cluster.signal(*number, Signal::STOP);
    }
    let put = cluster.put(leader, "PUT a during").unwrap_err();
    let kind = kind_of(&put);
    assert!(
        matches!(kind, ErrorKind::OutcomeUnknown | ErrorKind::NoLeader),
        "{put}"
    );
    let read = cluster.query(leader, "GET a", false).unwrap_err();
    let kind = kind_of(&read);
    assert!(
        matches!(kind, ErrorKind::NoQuorum | ErrorKind::NoLeader),
        "{read}"
    );
    assert_eq!(cluster.query(leader, "GET a", true).unwrap().data, "before");
    for number in &others {
        cluster.signal(*number, Signal::CONT);
    }
    cluster.wait_for_voters(3, SOON);
    let after = cluster.query(leader, "GET a", false).unwrap().data;
    assert!(
        ["before", "during"].contains(&std::str::from_utf8(&after).unwrap()),
        "{after:?}"
    );
    let index = cluster.put(leader, "PUT a after").unwrap().index;
    cluster.wait_for_applied(&[1, 2, 3], index, SOON);
}

#[test]
fn a_state_machine_of_another_cluster_is_not_used_and_the_node_votes_on() {
    let mut first = alone();
    first.put(1, "PUT whose first").unwrap();
    let mut second = alone();
    second.put(1, "PUT whose second").unwrap();
    second.kill_process(1, Process::StateMachine);
    first.kill_process(1, Process::StateMachine);
    let (theirs, ours) = (first.node(1).data.clone(), second.node(1).data.clone());
    std::fs::remove_dir_all(ours.join("state-machine")).unwrap();
    std::fs::rename(theirs.join("state-machine"), ours.join("state-machine")).unwrap();
    second.start_process(1, Process::StateMachine);
    second.eventually("the alarm", SOON, |cluster| {
        let alarms = cluster.status(1)?.alarms.join("\n");
        (alarms.contains("cluster") || alarms.contains("does not answer")).then_some(())
    });
    let error = second.query(1, "GET whose", true).unwrap_err();
    assert_eq!(kind_of(&error), ErrorKind::StateMachineDown, "{error}");
    assert_eq!(second.status(1).unwrap().role, "leader");
}

/// Opens a peer stream by hand, says `first`, and returns what the node makes of it.
fn peer_stream(cluster: &Cluster, first: Vec<pb::PeerMessage>) -> Result<(), tonic::Status> {
    let mut client = pb::peer_client::PeerClient::new(cluster.channel(1));
    cluster.block_on(async move {
        client
            .append_entries(tokio_stream::iter(first))
            .await
            .map(|_| ())
    })
}

#[test]
fn a_stranger_s_stream_is_refused_with_both_ids_and_counted() {
    use pb::peer_message::Body;
    let cluster = alone();
    let status = cluster.status(1).unwrap();
    let (node, ours) = (status.node.unwrap().node_id, status.cluster_id);
    let hello = |cluster_id: Vec<u8>, to: Vec<u8>| pb::PeerMessage {
        body: Some(Body::Hello(pb::Hello {
            cluster_id: cluster_id.into(),
            from: vec![3; 16].into(),
            to: to.into(),
            ..pb::Hello::default()
        })),
    };
    let refused = peer_stream(&cluster, vec![hello(vec![9; 16], node.to_vec())]).unwrap_err();
    assert_eq!(kind_of(&refused), ErrorKind::OtherCluster, "{refused}");
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert!(refused.message().contains(&hex(&ours)), "{refused}");
    assert!(refused.message().contains(&hex(&[9; 16])), "{refused}");

    let refused = peer_stream(&cluster, vec![hello(ours.to_vec(), vec![5; 16])]).unwrap_err();
    assert!(refused.message().contains(&hex(&[5; 16])), "{refused}");
    assert!(refused.message().contains(&hex(&node)), "{refused}");

    let refused = peer_stream(&cluster, vec![hello(Vec::new(), node.to_vec())]).unwrap_err();
    assert_eq!(
        kind_of(&refused),
        ErrorKind::OtherCluster,
        "no cluster at all: {refused}"
    );
    let refused = peer_stream(&cluster, vec![hello(vec![1; 3], node.to_vec())]).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    let empty = pb::PeerMessage { body: None };
    let refused = peer_stream(&cluster, vec![empty.clone()]).unwrap_err();
    assert!(refused.message().contains("Hello"), "{refused}");

    let good = hello(ours.to_vec(), node.to_vec());
    let refused = peer_stream(&cluster, vec![good.clone(), empty]).unwrap_err();
    assert!(refused.message().contains("without a body"), "{refused}");
    let wild = pb::AppendEntries {
        term: u64::MAX,
        previous: Some(pb::Position {
            index: u64::MAX,
            term: u64::MAX,
        }),
        commit_index: u64::MAX,
        ..pb::AppendEntries::default()
    };
    let wild = pb::PeerMessage {
        body: Some(Body::AppendEntries(wild)),
    };
    // Well formed, from a node that is no voter: whatever the core makes of it, it lives on.
    let _ = peer_stream(&cluster, vec![good, wild]);
    let metrics = http(&cluster, "GET /metrics");
    assert!(
        metrics.contains("leeky_raft_hellos_refused_total 5"),
        "{metrics}"
    );
    cluster.eventually("it still serves", SOON, |cluster| {
        cluster.put(1, "PUT a b").ok()
    });
}

#[test]
fn a_data_directory_that_cannot_be_written_is_one_sentence_and_exit_1() {
    let mut cluster = Cluster::new(1);
    // A file where the directory should be: even root cannot write into that.
    let file = cluster.folder().join("file");
    std::fs::write(&file, "").unwrap();
    cluster.set("LEEKY_DATA_DIR", file.to_str().unwrap());
    let ended = cluster.command(1, Process::Raft).status().unwrap();
    assert_eq!(ended.code(), Some(1));
    let said = cluster.log(1, Process::Raft);
    assert!(
        said.contains("raft cannot start: cannot use the directory"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn the_seed_s_client_mode_names_the_new_command() {
    let cluster = Cluster::new(1);
    let output = cluster
        .command(1, Process::Raft)
        .args(["PUT", "a", "b"])
        .env("CLIENT", "1")
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("raft-client entry PUT a b"), "{said}");
}

#[test]
fn the_state_machine_may_be_reached_by_a_unix_socket() {
    let mut cluster = Cluster::new(1);
    let socket = cluster.folder().join("socket");
    cluster.set("LEEKY_FOUND_ALONE", "true");
    cluster.set("LEEKY_STATE_MACHINE_SOCKET", socket.to_str().unwrap());
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    cluster.put(1, "PUT by a socket").unwrap();
    assert_eq!(cluster.query(1, "GET by", false).unwrap().data, "a socket");
    assert!(TcpStream::connect((cluster.node(1).ip, 6005)).is_err());
}
