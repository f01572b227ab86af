//! The seed's log events: whoever looks for them under the old names finds them, each where it
//! happens. A cluster goes through what makes them happen, and then its logs are read.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::cluster::{Cluster, Process};
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};
use wire::member::membership_client::MembershipClient;
use wire::member::{LeaveRequest, SelfRequest};
use wire::raft::peer_client::PeerClient;
use wire::raft::peer_message::Body;
use wire::raft::{self as pb, ResultKind};
use wire::state_machine::ExecuteRequest;
use wire::state_machine::state_machine_client::StateMachineClient;

/// Everything that takes a moment on an idle machine is done within this on a busy one.
const SOON: Duration = Duration::from_secs(30);

/// All that the daemons have to say, and nothing of the libraries below them.
const EVERYTHING: &str = "info,raft=trace,member=trace,member_core=trace,state_machine=trace,\
                          state_machine_sdk=trace";

/// The events of the original's raft, as they are looked for, and what makes them happen here.
const RAFT: [(&str, &str); 33] = [
    ("[ONLINE]: n1 ", "a daemon starts"),
    (", timeout 750-1500 ms", "and says its election timeout"),
    (
        "[SELF]:",
        "what a daemon decides of itself: founding, joining, configurations",
    ),
    ("[ELECTION->]: Starting election", "a candidate"),
    (
        "[CANDIDATE]: (",
        "its votes so far, and how many are needed",
    ),
    ("[CANDIDATE]: QUORUM received", "its last vote"),
    ("[CANDIDATE->LEADER]: Becoming leader", "it leads"),
    ("[HEARTBEAT->]:", "and says so"),
    ("[<-HEARTBEAT]:", "which its followers hear"),
    (
        "[<-ELECTION]: GRANTED",
        "a voter is asked when the leader is gone",
    ),
    (
        "[<-ELECTIONERR]: refused",
        "a voter is asked while there is a leader",
    ),
    ("a leader is heard", "which is the reason that it gives"),
    ("[REQUESTVOTES-X]:", "the candidate hears the refusal"),
    ("[ELECTION-X]:", "and has lost when a majority refuses"),
    ("[ENDELECTION]: following", "a follower knows its leader"),
    (
        "[ELECTTIMEOUT]:",
        "a leader is gone, or silent for too long",
    ),
    (
        "[CONNERROR]:",
        "a process ends while its peers have streams to it",
    ),
    ("[PUTENTRY]: BEGINNING", "a client's entry arrives"),
    ("[PUTENTRY->]: REDIRECTING", "a follower passes it on"),
    (
        "[PUTENTRY-X]: timed out",
        "no majority acknowledges it in time",
    ),
    ("[DIGESTENTRIES]:", "entries are appended"),
    ("[APPENDENTRIES]:", "sent and acknowledged"),
    ("has everything up to", "and durable at a follower"),
    ("[<-APPENDENTRIES]:", "which has received them"),
    ("[DIGESTCOMMITS]:", "committed and handed on"),
    ("[APPLY]:", "applied"),
    ("[RESTORE]:", "a state machine is brought up to the log"),
    (
        "[ENTRYCONFLICT]:",
        "a follower holds entries that were never committed",
    ),
    (
        "[RETRYAPPENDENTRY]:",
        "so that the leader must look where the logs part",
    ),
    ("[MISMATCHTERM]:", "it comes back from an older term"),
    (
        "[HEARTBEATERR]:",
        "somebody is in a higher term than who speaks to him",
    ),
    ("[RPC]:", "a peer says what no correct peer says"),
    ("[PUTENTRY-X]:", "a client's entry fails"),
];

/// The events of the original's membership likewise.
const MEMBER: [(&str, &str); 16] = [
    ("[ONLINE]", "a member starts, and is learnt of"),
    ("[JOIN] asked", "it asks to be let in"),
    ("asks to be let in from", "which another member hears"),
    ("[JOINREPLY] sent to", "and grants"),
    ("[JOINREPLY] received from", "as the newcomer learns"),
    ("Identified as rejoin", "it was there before"),
    ("[REJOIN]", "and is told so"),
    ("[HEARTBEAT] from", "gossip"),
    ("[NOACTION]", "a datagram that is no packet"),
    ("[RPC] Self", "a call"),
    ("[RPC] Announce", "and another"),
    ("[FAILURE]", "a member is dead"),
    ("[FAILURECLEAN]", "and is no longer shown"),
    ("[LEAVE]", "a member leaves in order"),
    ("[COLLISION]", "two processes under one identity"),
    ("[ORPHANED]", "no other member answers any more"),
];

/// Those of the original's file system that the key-value store has.
const STATE_MACHINE: [(&str, &str); 9] = [
    ("[ONLINE]", "it starts"),
    ("[EXECUTE] entries", "a batch is applied"),
    ("[EXECUTE-X]", "a call that is no batch"),
    ("[PUT]", "a key is set"),
    ("[GET]", "and read"),
    ("[GET-X]", "a key that is not there is read"),
    ("[DELETE]", "a key is removed"),
    ("[DELETE-X]", "a key that is not there is removed"),
    ("[HANDSHAKE]", "the daemon beside it has come"),
];

/// Events of the original that nothing here stands for. `GOROUTINES` counted its threads of
/// execution, for there were more and more of them; the others concern files that were copied from
/// node to node.
const NOT_KEPT: [&str; 8] = [
    "GOROUTINES",
    "FILEREPL",
    "FILEREPL-X",
    "WRITE",
    "READ",
    "CALLGET-X",
    "LS-X",
    "STORE-X",
];

fn find_all(cluster: &Cluster, process: Process, prefix: &str, events: &[(&str, &str)]) {
    let log: String = cluster
        .numbers()
        .map(|number| cluster.log(number, process))
        .collect();
    let missing: Vec<_> = events
        .iter()
        .filter(|(event, _)| !log.contains(event))
        .collect();
    assert!(
        missing.is_empty(),
        "not in the logs of {process:?}: {missing:#?}"
    );
    for line in log.lines().filter(|line| line.contains(events[0].0)) {
        assert!(line.contains(prefix), "{line}");
    }
    for event in NOT_KEPT {
        assert!(
            !log.contains(&format!("[{event}]")),
            "{event} is kept after all"
        );
    }
}

fn logging(nodes: usize) -> Cluster {
    let mut cluster = Cluster::new(nodes);
    cluster.set("LEEKY_LOG_LEVEL", EVERYTHING);
    cluster
}

fn others(cluster: &Cluster, number: usize) -> Vec<usize> {
    cluster.numbers().filter(|other| *other != number).collect()
}

/// Does something again and again until a log shows it.
fn until_logged(cluster: &Cluster, number: usize, event: &str, mut provoke: impl FnMut()) {
    const ATTEMPTS: usize = 20;
    for _ in 0..ATTEMPTS {
        if cluster.log(number, Process::Raft).contains(event) {
            return;
        }
        provoke();
    }
    panic!("{event} is not in the log of node {number} after {ATTEMPTS} attempts");
}

#[test]
fn the_events_of_raft_are_found() {
    let mut cluster = logging(3);
    cluster.start_all();
    let leader = cluster.wait_for_voters(3, SOON);
    let [second, third] = others(&cluster, leader)[..] else {
        unreachable!()
    };
    // Founding, joining, an entry that a follower passes on.
    assert_eq!(
        cluster.put(second, "PUT a b").unwrap().kind(),
        ResultKind::Ok
    );
    strange_words(&cluster, leader);
    a_follower_that_stood_still(&cluster, leader, third);
    an_entry_without_majority(&mut cluster);
    a_candidate_that_all_refuse(&mut cluster);
    find_all(&cluster, Process::Raft, "[RAFT] [PID=", &RAFT);
}

/// What no correct peer says: a message that nobody knows; a higher term, to who does not lead.
fn strange_words(cluster: &Cluster, number: usize) {
    let status = cluster.status(number).unwrap();
    let hello = pb::Hello {
        cluster_id: status.cluster_id,
        from: vec![9; 16].into(),
        to: status.node.unwrap().node_id,
        boot: 1,
        ..pb::Hello::default()
    };
    let words = [
        Body::Hello(hello),
        Body::HigherTerm(pb::HigherTerm { term: 1 }),
    ];
    let words = words.map(|body| pb::PeerMessage { body: Some(body) });
    let words = words.into_iter().chain([pb::PeerMessage { body: None }]);
    let mut peer = PeerClient::new(cluster.channel(number));
    cluster
        .block_on(peer.heartbeat(tokio_stream::iter(words)))
        .unwrap_err();
}

/// A follower that did not run for longer than its election timeout takes its leader for gone, and
/// is refused by those who hear it.
fn a_follower_that_stood_still(cluster: &Cluster, leader: usize, follower: usize) {
    until_logged(cluster, leader, "[<-ELECTIONERR]: refused", || {
        cluster.signal(follower, Signal::STOP);
        std::thread::sleep(Duration::from_millis(1700));
        cluster.signal(follower, Signal::CONT);
        // It knows the leader again, whichever that is.
        cluster.eventually("it follows", SOON, |cluster| {
            cluster.status(follower)?.leader
        });
        cluster.eventually("it takes part", SOON, |cluster| {
            cluster.put(leader, "PUT c d").ok()
        });
    });
}

/// The leader takes an entry that nobody else ever gets, is succeeded, and comes back.
fn an_entry_without_majority(cluster: &mut Cluster) {
    let leader = cluster.wait_for_voters(3, SOON);
    let followers = others(cluster, leader);
    for follower in &followers {
        cluster.kill(*follower);
    }
    let request = pb::PutEntryRequest {
        entry: "PUT never committed".into(),
        timeout_ms: 300,
        ..pb::PutEntryRequest::default()
    };
    cluster
        .block_on(cluster.client(leader).put_entry(request))
        .unwrap_err();
    cluster.eventually("it is in the log", SOON, |cluster| {
        let status = cluster.status(leader)?;
        (status.durable_index > status.commit_index).then_some(())
    });
    cluster.kill(leader);
    for follower in &followers {
        cluster.start(*follower);
    }
    cluster.wait_for_leader(&followers, None, SOON);
    cluster.eventually("a write", SOON, |cluster| {
        cluster.put(followers[0], "PUT e f").ok()
    });
    cluster.start(leader);
    let index = cluster.eventually("a write", SOON, |cluster| {
        Some(cluster.put(followers[0], "PUT g h").ok()?.index)
    });
    cluster.wait_for_applied(&[1, 2, 3], index, SOON);
    // Killed in its turn, for the successors to be asked while it is gone.
    let leader = cluster.wait_for_voters(3, SOON);
    cluster.kill(leader);
    cluster.wait_for_leader(&others(cluster, leader), None, SOON);
}

/// The last one of three asks for votes. The two others are gone; the refusals are played to it,
/// for voters that are up are heard as leaders, or elect one, before they have refused in numbers.
fn a_candidate_that_all_refuse(cluster: &mut Cluster) {
    let leader = cluster
        .numbers()
        .find(|n| cluster.node(*n).is_up())
        .unwrap();
    let ids = cluster.status(leader).unwrap().nodes;
    for other in others(cluster, leader) {
        cluster.kill(other);
    }
    until_logged(cluster, leader, "[ELECTION-X]:", || {
        let status = cluster.status(leader).unwrap();
        let own = status.node.unwrap().node_id;
        let voters = ids.iter().filter_map(|node| node.node.as_ref());
        for voter in voters.filter(|voter| voter.node_id != own) {
            let hello = pb::Hello {
                cluster_id: status.cluster_id.clone(),
                from: voter.node_id.clone(),
                to: own.clone(),
                boot: 1000,
                term: status.term,
                ..pb::Hello::default()
            };
            let refusal = pb::RequestVoteReply {
                term: status.term,
                pre_vote: true,
                granted: false,
                request_term: status.term + 1,
                hears_leader: true,
            };
            let words = [
                Body::Hello(hello),
                Body::RequestVoteReply(refusal),
                Body::Goodbye(pb::PeerGoodbye {}),
            ];
            let words = words.map(|body| pb::PeerMessage { body: Some(body) });
            let mut peer = PeerClient::new(cluster.channel(leader));
            cluster
                .block_on(peer.heartbeat(tokio_stream::iter(words)))
                .unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
    });
}

fn channel(cluster: &Cluster, number: usize, port: u16) -> Channel {
    let address = format!("http://{}:{port}", cluster.node(number).ip);
    Endpoint::from_shared(address)
        .unwrap()
        .timeout(SOON)
        .connect_lazy()
}

fn wait_for_log(cluster: &Cluster, process: Process, event: &str) {
    cluster.eventually(event, SOON, |cluster| {
        cluster
            .numbers()
            .any(|n| cluster.log(n, process).contains(event))
            .then_some(())
    });
}

#[test]
fn the_events_of_membership_are_found() {
    let mut cluster = logging(4);
    cluster.set("LEEKY_GOSSIP_INTERVAL", "300");
    cluster.set("LEEKY_FAIL_TIMEOUT", "2000");
    cluster.set("LEEKY_CLEANUP_TIMEOUT", "3000");
    for number in 1..=3 {
        cluster.start_process(number, Process::Member);
    }
    for number in 1..=3 {
        cluster.eventually("everybody is let in", SOON, |cluster| {
            let log = cluster.log(number, Process::Member);
            (log.matches("[JOINREPLY]").count() > 0 && log.matches("[ONLINE]").count() >= 3)
                .then_some(())
        });
    }
    wait_for_log(&cluster, Process::Member, "[HEARTBEAT] from");
    // Its `raft` announces itself.
    cluster.start_process(1, Process::Raft);
    cluster.block_on(async {
        let mut member = MembershipClient::new(channel(&cluster, 1, 6002));
        member.self_(SelfRequest {}).await.unwrap();
    });
    wait_for_log(&cluster, Process::Member, "[RPC] Announce");
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    stranger
        .send_to(b"9", (IpAddr::from(cluster.node(1).ip), 6000))
        .unwrap();
    wait_for_log(&cluster, Process::Member, "[NOACTION]");

    a_member_that_was_away(&mut cluster);

    // A copy of its identity, at another address.
    let folder = |number: usize| cluster.node(number).data.join("member");
    std::fs::create_dir_all(folder(4)).unwrap();
    std::fs::copy(
        folder(2).join("identity.json"),
        folder(4).join("identity.json"),
    )
    .unwrap();
    cluster.start_process(4, Process::Member);
    wait_for_log(&cluster, Process::Member, "[COLLISION]");
    cluster.kill_process(4, Process::Member);

    // One leaves in order, one is killed, and the last one is alone.
    cluster.block_on(async {
        let mut member = MembershipClient::new(channel(&cluster, 3, 6002));
        member.leave(LeaveRequest {}).await.unwrap();
    });
    wait_for_log(&cluster, Process::Member, "[LEAVE]");
    cluster.kill_process(2, Process::Member);
    for event in ["[FAILURE]", "[FAILURECLEAN]", "[ORPHANED]"] {
        wait_for_log(&cluster, Process::Member, event);
    }
    find_all(&cluster, Process::Member, "[MEMBER]", &MEMBER);
}

/// Away for a moment, it asks to be let in again, unless those who know it speak to it first: then
/// it need not ask.
fn a_member_that_was_away(cluster: &mut Cluster) {
    const ATTEMPTS: usize = 30;
    let learnt = |cluster: &Cluster| {
        cluster
            .log(2, Process::Member)
            .matches("[ONLINE] n1 ")
            .count()
    };
    for _ in 0..ATTEMPTS {
        let before = learnt(cluster);
        cluster.kill_process(2, Process::Member);
        cluster.start_process(2, Process::Member);
        cluster.eventually("it is back", SOON, |cluster| {
            (learnt(cluster) > before).then_some(())
        });
        // The answer to who asked is logged within the same packet that it learnt from.
        if cluster.log(2, Process::Member).contains("[REJOIN]") {
            return wait_for_log(cluster, Process::Member, "Identified as rejoin");
        }
    }
    panic!("not in {ATTEMPTS} attempts: [REJOIN]");
}

#[test]
fn the_events_of_the_state_machine_are_found() {
    let mut cluster = logging(1);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    cluster.put(1, "PUT a b").unwrap();
    assert_eq!(cluster.query(1, "GET a", false).unwrap().data, "b");
    assert_eq!(
        cluster.query(1, "GET x", false).unwrap().kind(),
        ResultKind::NotFound
    );
    assert_eq!(cluster.put(1, "DELETE a").unwrap().kind(), ResultKind::Ok);
    assert_eq!(
        cluster.put(1, "DELETE a").unwrap().kind(),
        ResultKind::NotFound
    );
    cluster.block_on(async {
        let mut machine = StateMachineClient::new(channel(&cluster, 1, 6005));
        machine
            .execute(ExecuteRequest::default())
            .await
            .unwrap_err();
    });
    wait_for_log(&cluster, Process::StateMachine, "[EXECUTE-X]");
    find_all(
        &cluster,
        Process::StateMachine,
        "[STATEMACHINE]",
        &STATE_MACHINE,
    );
}
