//! Well-formed calls with content that no correct node or client sends: absurd terms, indices and
//! ids, entries that do not decode, lists without measure. Nobody dies of it.
//!
//! What a node cannot tell from the truth is left out: there is no authentication, so whoever knows
//! every id and speaks plausibly in the name of a member is believed.

use std::time::Duration;

use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wire::member::{self, membership_client::MembershipClient};
use wire::raft::peer_client::PeerClient;
use wire::raft::peer_message::Body;
use wire::raft::{self as pb, ErrorKind, Position};
use wire::state_machine::state_machine_client::StateMachineClient;
use wire::state_machine::{self as machine, entry::Payload};
use wire::status::detail_of;

use super::writer::{SOON, Writes, all_live, alone, while_writing};
use crate::cluster::Cluster;

/// A call that a node must answer, one way or the other.
const ANSWER: Duration = Duration::from_secs(20);

/// Terms rise by one per election; a cluster whose terms are beyond this believed a stranger.
const TERM_MAX: u64 = 1 << 32;

/// Which of a peer's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// AppendEntries.
    Bulk,
    /// Everything else.
    Small,
}

/// Opens a stream to a node, says hello, sends messages and closes it. Returns the node's answer.
pub fn stream(
    cluster: &Cluster,
    number: usize,
    lane: Lane,
    hello: pb::Hello,
    messages: Vec<pb::PeerMessage>,
) -> Result<(), Status> {
    let mut client = PeerClient::new(cluster.channel(number));
    let first = pb::PeerMessage {
        body: Some(Body::Hello(hello)),
    };
    let all = tokio_stream::iter(std::iter::once(first).chain(messages));
    cluster.block_on(async move {
        let answer = async {
            match lane {
                Lane::Bulk => client.append_entries(all).await,
                Lane::Small => client.heartbeat(all).await,
            }
        };
        let late = || Status::deadline_exceeded("no answer");
        tokio::time::timeout(ANSWER, answer)
            .await
            .map_err(|_| late())?
            .map(|_| ())
    })
}

fn position(index: u64, term: u64) -> Option<Position> {
    Some(Position { index, term })
}

fn entry(index: u64, term: u64, payload: &[u8]) -> pb::LogEntry {
    pb::LogEntry {
        index,
        term,
        log_time_ms: u64::MAX,
        payload: payload.to_vec().into(),
    }
}

/// Payloads: unknown kinds, kinds cut short, a configuration of four thousand million nodes.
const BAD_PAYLOADS: [&[u8]; 7] = [
    b"",
    b"\xff",
    b"\x01short",
    b"\x02\xff\xff\xff\xff\x00",
    b"\x02\x00\x01\x86\xa0\x00",
    b"\x03\x00\x00",
    b"\x00and more",
];

fn appends(term: u64) -> Vec<Body> {
    let append = |previous, entries| {
        let commit_index = u64::MAX;
        Body::AppendEntries(pb::AppendEntries {
            term,
            previous,
            entries,
            commit_index,
        })
    };
    let mut all = vec![
        append(None, Vec::new()),
        append(position(u64::MAX, u64::MAX), Vec::new()),
        append(
            position(u64::MAX, term),
            vec![entry(u64::MAX, term, b"\x00")],
        ),
        append(
            position(u64::MAX - 1, term),
            vec![entry(u64::MAX, term, b"\x00")],
        ),
        append(position(u64::MAX - 1, term), vec![entry(0, term, b"\x00")]),
        append(position(0, u64::MAX), vec![entry(1, term, b"\x00")]),
        append(
            position(1 << 40, term),
            (1..2000).map(|i| entry(i, term, b"\x00")).collect(),
        ),
        append(position(0, 0), vec![entry(7, term, b"\x00")]),
    ];
    let bad = BAD_PAYLOADS.iter();
    all.extend(bad.map(|payload| append(position(0, 0), vec![entry(1, term, payload)])));
    all
}

fn others(term: u64) -> Vec<Body> {
    let ids = |count: usize, length| vec![vec![7; length].into(); count];
    let heartbeat = |succession| {
        let (commit_index, boot) = (u64::MAX, u64::MAX);
        // Round 0 is an answer to nothing.
        Body::Heartbeat(pb::Heartbeat {
            term,
            commit_index,
            round: 0,
            succession,
            boot,
        })
    };
    let vote = |pre_vote, last| {
        let transfer_token = 0;
        Body::RequestVote(pb::RequestVote {
            term,
            pre_vote,
            last,
            transfer_token,
        })
    };
    let reply = |success, index, hint| {
        Body::AppendEntriesReply(pb::AppendEntriesReply {
            term,
            success,
            index,
            hint,
        })
    };
    vec![
        vote(true, None),
        vote(true, position(u64::MAX, u64::MAX)),
        vote(false, position(u64::MAX, u64::MAX)),
        reply(true, u64::MAX, None),
        reply(false, u64::MAX, None),
        reply(false, u64::MAX, position(u64::MAX, u64::MAX)),
        reply(false, 0, position(u64::MAX, 0)),
        heartbeat(ids(1024, 16)),
        heartbeat(ids(100_000, 16)),
        heartbeat(ids(3, 3)),
        Body::HeartbeatReply(pb::HeartbeatReply {
            term,
            round: u64::MAX,
            disk_sick: true,
            state_machine_sick: true,
            stopping: true,
        }),
        Body::ReadIndex(pb::ReadIndex {
            term,
            ask: u64::MAX,
        }),
        Body::ReadIndexReply(pb::ReadIndexReply {
            term,
            ask: u64::MAX,
            index: u64::MAX,
        }),
        Body::HigherTerm(pb::HigherTerm { term }),
    ]
}

/// What is said in any term, plausible or not.
fn messages(term: u64) -> Vec<pb::PeerMessage> {
    let absurd = term > TERM_MAX;
    let mut all = appends(term);
    all.extend(others(term));
    if absurd {
        all.push(Body::RequestVoteReply(pb::RequestVoteReply {
            term,
            pre_vote: true,
            granted: true,
            request_term: term,
            hears_leader: false,
        }));
        all.push(Body::TimeoutNow(pb::TimeoutNow {
            term,
            transfer_token: u64::MAX,
        }));
        all.push(Body::RequestVote(pb::RequestVote {
            term,
            pre_vote: false,
            last: position(u64::MAX, u64::MAX),
            transfer_token: u64::MAX,
        }));
    }
    all.push(Body::Hello(pb::Hello::default()));
    let mut all: Vec<_> = all
        .into_iter()
        .map(|body| pb::PeerMessage { body: Some(body) })
        .collect();
    // As a body that this version does not know arrives.
    all.push(pb::PeerMessage { body: None });
    all
}

#[test]
fn absurd_words_of_peers_kill_nobody() {
    let mut cluster = Cluster::started(3, 3);
    let writes = while_writing(&cluster, "absurd", || {
        for number in cluster.numbers() {
            let status = cluster.status(number).unwrap();
            let own = status.node.unwrap().node_id;
            let mut callers: Vec<_> = status
                .nodes
                .into_iter()
                .filter_map(|node| Some(node.node?.node_id))
                .collect();
            callers.retain(|caller| *caller != own);
            callers.push(vec![9; 16].into());
            for from in callers {
                let hello = pb::Hello {
                    cluster_id: status.cluster_id.clone(),
                    from,
                    to: own.clone(),
                    boot: 1,
                    term: 1,
                    durable_index: u64::MAX,
                    name: "x".repeat(100_000),
                };
                say_everything(&cluster, number, &hello);
            }
        }
    });
    cluster.wait_for_voters(3, SOON);
    for number in cluster.numbers() {
        let term = cluster.status(number).unwrap().term;
        assert!(term < TERM_MAX, "node {number} was talked into term {term}");
    }
    all_live(&mut cluster);
    assert!(
        writes.acknowledged() > 0,
        "{} of {}",
        writes.acknowledged(),
        writes.tried()
    );
    writes.are_all_there(&cluster);
    let mut after = Writes::new("after");
    after.put_one(&cluster);
    assert_eq!(after.acknowledged(), 1);
}

/// Each message on a stream of its own: the first that makes no sense ends it.
fn say_everything(cluster: &Cluster, number: usize, hello: &pb::Hello) {
    let now = cluster.status(number).unwrap().term;
    for term in [
        0,
        1,
        now,
        now + (1 << 33),
        u64::MAX / 2,
        u64::MAX - 1,
        u64::MAX,
    ] {
        for message in messages(term) {
            let lane = match message.body {
                Some(Body::AppendEntries(_)) => Lane::Bulk,
                _ => Lane::Small,
            };
            // It may be refused or passed over: it must be answered.
            if let Err(status) = stream(cluster, number, lane, hello.clone(), vec![message]) {
                assert_ne!(status.code(), tonic::Code::DeadlineExceeded, "term {term}");
                assert_ne!(status.code(), tonic::Code::Internal, "{status:?}");
            }
        }
    }
}

#[test]
fn hellos_that_make_no_sense_are_refused() {
    let mut cluster = Cluster::started(3, 3);
    let status = cluster.status(1).unwrap();
    let own = status.node.clone().unwrap().node_id;
    let peer = status.nodes.iter().filter_map(|node| node.node.as_ref());
    let peer = peer
        .map(|node| node.node_id.clone())
        .find(|id| *id != own)
        .unwrap();
    let good = pb::Hello {
        cluster_id: status.cluster_id.clone(),
        from: peer,
        to: own.clone(),
        boot: 1,
        term: status.term,
        durable_index: status.durable_index,
        name: "n2".to_owned(),
    };
    let bad = [
        pb::Hello::default(),
        pb::Hello {
            from: vec![1; 3].into(),
            ..good.clone()
        },
        pb::Hello {
            to: vec![1; 3].into(),
            ..good.clone()
        },
        pb::Hello {
            to: vec![1; 16].into(),
            ..good.clone()
        },
        pb::Hello {
            cluster_id: vec![1; 3].into(),
            ..good.clone()
        },
        pb::Hello {
            cluster_id: vec![1; 16].into(),
            ..good.clone()
        },
        pb::Hello {
            cluster_id: vec![0; 1 << 20].into(),
            ..good.clone()
        },
        pb::Hello {
            from: own,
            ..good.clone()
        },
    ];
    for lane in [Lane::Bulk, Lane::Small] {
        for hello in &bad {
            let status = stream(&cluster, 1, lane, hello.clone(), Vec::new()).unwrap_err();
            assert!(!status.message().is_empty(), "{hello:?}: {status:?}");
            assert_ne!(status.code(), tonic::Code::DeadlineExceeded, "{hello:?}");
        }
        // A member that has started 2^64 times, or is in the last of all terms, would never be
        // believed again itself.
        for (boot, term) in [(u64::MAX, good.term), (good.boot, u64::MAX)] {
            let hello = pb::Hello {
                boot,
                term,
                ..good.clone()
            };
            let _ = stream(&cluster, 1, lane, hello, Vec::new());
        }
    }
    // Everyone is still believed, also after every stream was opened anew.
    cluster.kill(1);
    cluster.start(1);
    cluster.wait_for_voters(3, SOON);
    let index = cluster.eventually("a write", SOON, |cluster| {
        Some(cluster.put(1, "PUT a b").ok()?.index)
    });
    cluster.wait_for_applied(&[1, 2, 3], index, SOON);
    all_live(&mut cluster);
}

#[test]
fn absurd_requests_of_clients_are_answered() {
    let mut cluster = alone();
    let writes = while_writing(&cluster, "client", || puts(&cluster));
    other_calls(&cluster);
    all_live(&mut cluster);
    assert!(writes.acknowledged() > 0);
    writes.are_all_there(&cluster);
}

fn puts(cluster: &Cluster) {
    let mut client = cluster.client(1);
    let registered = client.register_session(pb::RegisterSessionRequest::default());
    let session = cluster.block_on(registered).unwrap().into_inner().session;
    let good = pb::PutEntryRequest {
        entry: "PUT absurd value".into(),
        session,
        sequence: 1,
        ..pb::PutEntryRequest::default()
    };
    let mut put = |request: pb::PutEntryRequest| {
        let answer = cluster
            .block_on(client.put_entry(request))
            .map_err(|status| {
                let detail = detail_of(&status);
                detail
                    .unwrap_or_else(|| panic!("no typed error: {status:?}"))
                    .kind()
            });
        answer.map(|reply| reply.into_inner().kind())
    };
    let max = u64::MAX;
    let expired = Err(ErrorKind::SessionExpired);
    let invalid = Err(ErrorKind::Invalid);
    assert_eq!(
        put(pb::PutEntryRequest {
            session: max,
            ..good.clone()
        }),
        expired
    );
    assert_eq!(
        put(pb::PutEntryRequest {
            session: max,
            sequence: max,
            ..good.clone()
        }),
        expired
    );
    assert_eq!(
        put(pb::PutEntryRequest {
            sequence: 0,
            ..good.clone()
        }),
        invalid
    );
    assert_eq!(
        put(pb::PutEntryRequest {
            cluster_id: vec![1; 3].into(),
            ..good.clone()
        }),
        invalid
    );
    let other = pb::PutEntryRequest {
        cluster_id: vec![1; 16].into(),
        ..good.clone()
    };
    assert_eq!(put(other), Err(ErrorKind::OtherCluster));
    let patient = pb::PutEntryRequest {
        timeout_ms: u32::MAX,
        forwarded: true,
        ..good.clone()
    };
    assert_eq!(put(patient), Ok(pb::ResultKind::Ok));
    let last = pb::PutEntryRequest {
        sequence: max,
        acked_below: max,
        ..good.clone()
    };
    assert_eq!(put(last.clone()), Ok(pb::ResultKind::Ok));
    assert_eq!(
        put(last),
        Ok(pb::ResultKind::Ok),
        "a retry of the last sequence of all"
    );
    assert_eq!(put(good), Err(ErrorKind::StaleSequence));
    let junk = pb::PutEntryRequest {
        entry: vec![0xff; 4 << 20].into(),
        ..Default::default()
    };
    assert_eq!(put(junk), Ok(pb::ResultKind::Rejected));
}

/// Every other call, with fields that are wrong in themselves.
fn other_calls(cluster: &Cluster) {
    let id = |length| bytes_of(length);
    let kind = |status: Status| detail_of(&status).map(|detail| detail.kind());
    cluster.block_on(async {
        let mut client = cluster.client(1);
        let keep = pb::KeepAliveRequest {
            session: u64::MAX,
            ..Default::default()
        };
        let answer = client.keep_alive(keep).await;
        assert_eq!(
            answer.map_err(kind).unwrap_err(),
            Some(ErrorKind::SessionExpired)
        );
        let register = pb::RegisterSessionRequest {
            cluster_id: id(3),
            ..Default::default()
        };
        let answer = client.register_session(register).await;
        assert_eq!(answer.map_err(kind).unwrap_err(), Some(ErrorKind::Invalid));
        let query = pb::QueryRequest {
            query: id(5000),
            ..Default::default()
        };
        let answer = client.query(query).await.unwrap().into_inner();
        assert_eq!(answer.kind(), pb::ResultKind::Rejected);
        let transfer = pb::TransferLeadershipRequest {
            to: id(3),
            forwarded: true,
        };
        let answer = client.transfer_leadership(transfer).await;
        assert_eq!(answer.map_err(kind).unwrap_err(), Some(ErrorKind::Invalid));
        let leave = pb::LeaveRequest {
            node_id: id(3),
            forwarded: true,
        };
        let answer = client.leave(leave).await;
        assert_eq!(answer.map_err(kind).unwrap_err(), Some(ErrorKind::Invalid));

        let mut peer = PeerClient::new(cluster.channel(1));
        let probe = pb::ProbeRequest {
            cluster_id: id(3),
            node_id: id(99),
            term: u64::MAX,
        };
        peer.probe(probe).await.unwrap_err();
        peer.discover(pb::DiscoverRequest { from: id(3) })
            .await
            .unwrap();

        let mut member = MembershipClient::new(channel(cluster, 6002));
        for raft_port in [0, 65_536, u32::MAX] {
            let announce = member::AnnounceRequest {
                raft_port,
                cluster_id: id(16),
            };
            member.announce(announce).await.unwrap_err();
        }
        let announce = member::AnnounceRequest {
            raft_port: 6004,
            cluster_id: id(3),
        };
        member.announce(announce).await.unwrap_err();
        state_machine_calls(StateMachineClient::new(channel(cluster, 6005))).await;
    });
}

fn bytes_of(length: usize) -> bytes::Bytes {
    vec![0xee; length].into()
}

fn channel(cluster: &Cluster, port: u16) -> Channel {
    let address = format!("http://{}:{port}", cluster.node(1).ip);
    Endpoint::from_shared(address)
        .unwrap()
        .timeout(ANSWER)
        .connect_lazy()
}

/// None of them takes the machine from its daemon: the ids are not this node's.
async fn state_machine_calls(mut client: StateMachineClient<Channel>) {
    for (length, epoch) in [(0, 1), (3, u64::MAX), (16, u64::MAX)] {
        let handshake = machine::HandshakeRequest {
            protocol_min: 0,
            protocol_max: u32::MAX,
            cluster_id: bytes_of(length),
            node_id: bytes_of(length),
            epoch,
        };
        client.handshake(handshake).await.unwrap_err();
    }
    let put = || Some(Payload::Command("PUT stolen crown".into()));
    let entry = |index| machine::Entry {
        index,
        term: u64::MAX,
        log_time_ms: 0,
        payload: put(),
    };
    for entries in [
        vec![entry(0)],
        vec![entry(u64::MAX)],
        vec![entry(u64::MAX), entry(0)],
        (1..=10_000).map(entry).collect(),
    ] {
        for epoch in [0, u64::MAX] {
            let entries = entries.clone();
            let execute = machine::ExecuteRequest {
                epoch,
                entries,
                results_floor: u64::MAX,
            };
            client.execute(execute).await.unwrap_err();
        }
    }
    let query = machine::QueryRequest {
        epoch: u64::MAX,
        query: bytes_of(3),
        min_index: u64::MAX,
    };
    client.query(query).await.unwrap_err();
    client
        .snapshot(machine::SnapshotRequest::default())
        .await
        .unwrap_err();
    let chunks = tokio_stream::iter([machine::RestoreChunk::default()]);
    client.restore(chunks).await.unwrap_err();
}
