//! What is refused, by whom and with which sentence; and that nobody dies of it, and nothing that
//! was acknowledged is lost.

mod disks;
mod hostile;
mod junk;
mod writer;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};

use self::writer::{SOON, all_live, alone, ended, hex, sentence};
use crate::cluster::{Cluster, PROCESSES, Process, program};
use wire::raft::{self as pb, ErrorKind, ResultKind};
use wire::status::detail_of;

// ---- who belongs where ----

#[test]
fn a_node_of_another_cluster_is_refused_with_both_ids_and_disturbs_neither() {
    let mut ours = Cluster::started(3, 3);
    let mut theirs = alone();
    ours.put(1, "PUT whose ours").unwrap();
    theirs.put(1, "PUT whose theirs").unwrap();
    let (our_id, their_id) = (cluster_id(&ours), cluster_id(&theirs));

    theirs.kill_all();
    let introducers = ours.node(1).ip.to_string();
    theirs.set("LEEKY_INTRODUCERS", &introducers);
    theirs.set("LEEKY_INTRODUCER", "false");
    theirs.set("LEEKY_FOUND_ALONE", "false");
    theirs.start_all();

    let refusal = format!("it is of cluster {their_id}, this node is of cluster {our_id}");
    ours.eventually("the stranger is refused", SOON, |ours| {
        ours.log(1, Process::Member)
            .contains(&refusal)
            .then_some(())
    });
    // One that was told a wrong address speaks to `raft` itself.
    let status = hello(&ours, 1, &theirs).unwrap_err();
    let refusal =
        format!("this node belongs to cluster {our_id}, the caller to cluster {their_id}");
    assert_eq!(status.message(), refusal);
    assert_eq!(detail_of(&status).unwrap().kind(), ErrorKind::OtherCluster);
    assert!(ours.log(1, Process::Raft).contains(&refusal));
    // A client that has spoken to the one is not answered by the other.
    let request = pb::PutEntryRequest {
        entry: "PUT whose nobody's".into(),
        cluster_id: theirs.status(1).unwrap().cluster_id,
        ..pb::PutEntryRequest::default()
    };
    let status = ours
        .block_on(ours.client(1).put_entry(request))
        .unwrap_err();
    assert_eq!(detail_of(&status).unwrap().kind(), ErrorKind::OtherCluster);
    assert!(status.message().contains(&our_id) && status.message().contains(&their_id));

    theirs.wait_for_voters(1, SOON);
    for number in ours.numbers() {
        assert_eq!(ours.query(number, "GET whose", false).unwrap().data, "ours");
    }
    assert_eq!(theirs.query(1, "GET whose", false).unwrap().data, "theirs");
    // Nothing that the stranger says reaches the core: neither a vote nor a term.
    let stranger = hex(&theirs.status(1).unwrap().node.unwrap().node_id);
    for number in ours.numbers() {
        let log = ours.log(number, Process::Raft);
        let heard = log.lines().filter(|line| line.contains(&stranger));
        for line in heard {
            assert!(
                line.contains("[CONNERROR]") || line.contains("the two refuse"),
                "{line}"
            );
        }
    }
    let after = ours.status(1).unwrap();
    // Gossip may have shown the stranger before it said where it belongs; nobody took it in.
    let taken_in = |status: &pb::StatusReply| {
        status
            .nodes
            .iter()
            .filter(|node| node.standing != "none")
            .count()
    };
    assert_eq!(taken_in(&after), 3);
    assert_eq!(taken_in(&theirs.status(1).unwrap()), 1);
    all_live(&mut ours);
    all_live(&mut theirs);
}

/// Opens a stream to node `number` of `to` as the only node of `from` would.
fn hello(to: &Cluster, number: usize, from: &Cluster) -> Result<(), tonic::Status> {
    let caller = from.status(1).unwrap();
    let hello = pb::Hello {
        cluster_id: caller.cluster_id,
        from: caller.node.unwrap().node_id,
        to: to.status(number).unwrap().node.unwrap().node_id,
        boot: caller.boot,
        term: caller.term,
        durable_index: caller.durable_index,
        name: "n1".to_owned(),
    };
    hostile::stream(to, number, hostile::Lane::Bulk, hello, Vec::new())
}

fn cluster_id(cluster: &Cluster) -> String {
    hex(&cluster.status(1).unwrap().cluster_id)
}

#[test]
fn a_data_directory_whose_folders_are_of_two_nodes_is_refused_with_both_ids() {
    let mut cluster = alone();
    let raft_id = hex(&cluster.status(1).unwrap().node.unwrap().node_id);
    cluster.kill_all();
    std::fs::remove_dir_all(cluster.node(1).data.join("member")).unwrap();
    cluster.start_process(1, Process::Member);
    let mut raft = cluster.command(1, Process::Raft);
    let output = ended(&mut raft);
    let identity = std::fs::read_to_string(cluster.node(1).data.join("member/identity.json"));
    let identity = identity.unwrap();
    let member_id = identity.split('"').find(|word| word.len() == 32).unwrap();
    assert_ne!(member_id, raft_id);
    assert_eq!(
        sentence(&output),
        format!(
            "raft cannot go on: member says that this node is {member_id}, but the folder of raft \
             says {raft_id}: the two folders are of different nodes. Put back the one that belongs \
             here, or remove the whole data directory to begin as a new node"
        )
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_state_of_another_cluster_is_not_used() {
    let mut ours = alone();
    let mut theirs = alone();
    theirs.put(1, "PUT whose theirs").unwrap();
    let (our_id, their_id) = (cluster_id(&ours), cluster_id(&theirs));
    ours.kill_process(1, Process::StateMachine);
    theirs.kill_all();
    let folder = |cluster: &Cluster| cluster.node(1).data.join("state-machine");
    std::fs::rename(folder(&ours), ours.node(1).data.join("aside")).unwrap();
    std::fs::rename(folder(&theirs), folder(&ours)).unwrap();
    ours.start_process(1, Process::StateMachine);
    let alarm = ours.eventually("an alarm with both ids", SOON, |ours| {
        let alarms = ours.status(1)?.alarms;
        alarms
            .into_iter()
            .find(|alarm| alarm.contains(&our_id) && alarm.contains(&their_id))
    });
    assert!(
        alarm.starts_with("the state machine is not used: "),
        "{alarm}"
    );
    assert!(
        ours.query(1, "GET whose", false).is_err(),
        "nothing is read from it"
    );
    all_live(&mut ours);
    // Its own state in place, the node serves again.
    ours.kill_process(1, Process::StateMachine);
    std::fs::remove_dir_all(folder(&ours)).unwrap();
    std::fs::rename(ours.node(1).data.join("aside"), folder(&ours)).unwrap();
    ours.start_process(1, Process::StateMachine);
    ours.eventually("it serves", SOON, |ours| ours.put(1, "PUT whose ours").ok());
    assert_eq!(ours.query(1, "GET whose", false).unwrap().data, "ours");
}

#[test]
fn a_second_daemon_on_a_data_directory_is_refused_with_its_name() {
    let mut cluster = alone();
    let data = cluster.node(1).data.clone();
    let folder = |name: &str| data.join(name).display().to_string();
    let raft = cluster.node(1).pid(Process::Raft).unwrap();
    let refusals = [
        (
            Process::Member,
            format!(
                "member: another member daemon already runs on {}; stop it or set DataDir to \
                 another directory",
                folder("member")
            ),
        ),
        (
            Process::Raft,
            format!(
                "raft cannot start: {} is in use by process {raft}: a node's data belongs to one \
                 daemon. Stop the other one, or give this one a data directory of its own",
                folder("raft")
            ),
        ),
        (
            Process::StateMachine,
            format!(
                "[STATEMACHINE] {} is in use by another state machine: stop that one, or give this \
                 node a DataDir of its own",
                folder("state-machine")
            ),
        ),
    ];
    let own_ip = cluster.node(1).ip;
    let [a, b, c, _] = own_ip.octets();
    // On the same address the ports are taken too; the directory is what is named all the same.
    for ip in [format!("{a}.{b}.{c}.99"), own_ip.to_string()] {
        for (process, refusal) in &refusals {
            let output = ended(cluster.command(1, *process).env("LEEKY_BIND_IP", &ip));
            assert_eq!(sentence(&output), *refusal, "{process:?} at {ip}");
            assert_eq!(output.status.code(), Some(1), "{process:?} at {ip}");
        }
    }
    all_live(&mut cluster);
    assert_eq!(cluster.put(1, "PUT a b").unwrap().kind(), ResultKind::Ok);
}

// ---- config.json ----

/// Every key of the original's three files, with the values that they had.
const SEED_CONFIG: &str = r#"{
  "Introducer": "introducer", "ElectTimeoutMin": 750, "ElectTimeoutMax": 1500,
  "HeartbeatInterval": 375, "Timescale": 1, "Quorum": 0.6, "RestoreWait": 3, "RestoreTimeout": 5,
  "RPCPort": 6004, "RPCMaxRetries": 3, "RPCTimeout": 3, "RPCRetryInterval": 1,
  "FilesystemRPCPort": 6005, "MemberRPCPort": 6002, "MemberRPCRetryInterval": 3,
  "MemberRPCRetryMax": 5, "MemberInterval": 2, "Prefix": "[RAFT]", "Logfile": "raft.log",
  "LogHeartbeats": false, "LogHeartbeatsLead": true, "LogAppendEntries": true,
  "LogPutEntry": true, "LogTimers": true, "LogElections": true, "LogMembership": false,
  "LogGoroutines": false, "LogConnections": false, "LogConflictingEntries": true,
  "LogRestore": true, "LogDigestEntries": true, "LogDigestEntriesVerbose": false,
  "LogDigestCommits": true,
  "ServerPrefix": "chord-dfs_worker_", "MaxServerLookups": 10, "LogfileClient": "client.log",
  "RaftRPCPort": 6004, "Filedir": "/store/", "Replicas": 2, "RetryAttempts": 3,
  "RetryInterval": 1, "LogExecute": true, "LogFileReplication": true, "LogReads": true,
  "LogWrites": true, "LogDeletes": true, "LogPutAssign": true, "LogDelete": true,
  "LogGet": true, "LogLs": true, "LogStore": true
}"#;

/// Those of them that mean the same here.
const SEED_KEYS_KEPT: [&str; 5] = [
    "ElectTimeoutMin",
    "ElectTimeoutMax",
    "HeartbeatInterval",
    "RPCPort",
    "MemberRPCPort",
];

/// Some of the others, with what is said of them.
const SEED_KEYS_REFUSED: [(&str, &str); 6] = [
    (
        "Quorum",
        "is not configurable: a majority of the voters in the configuration in the log, always; a \
         smaller one lets two leaders be elected",
    ),
    (
        "Filedir",
        "is now named DataDir: log, identity and state lie there",
    ),
    (
        "FilesystemRPCPort",
        "is now named StateMachinePort: any state machine may listen there",
    ),
    (
        "Introducer",
        "must be true or false, and is a host: hosts are named in Introducers, a list",
    ),
    (
        "LogTimers",
        "is replaced by LogLevel, for example \"info,raft=debug\"; the events keep their names",
    ),
    (
        "Timescale",
        "is gone: set ElectTimeoutMin, ElectTimeoutMax and HeartbeatInterval themselves",
    ),
];

#[test]
fn a_configuration_of_the_seed_is_refused_key_by_key_in_one_run() {
    let cluster = Cluster::new(1);
    let file = cluster.folder().join("config.json");
    std::fs::write(&file, SEED_CONFIG).unwrap();
    let all: BTreeSet<&str> = SEED_CONFIG
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|word| SEED_CONFIG.contains(&format!("\"{word}\":")))
        .collect();
    let mut checked = cluster.command(1, Process::Raft);
    let output = ended(checked.arg("--config").arg(&file).arg("--check-config"));
    assert_eq!(output.status.code(), Some(1));
    let report = sentence(&output);
    let begin = format!("{}: ", file.display());
    let mut reported = BTreeSet::new();
    for line in report.lines() {
        let (key, verdict) = line.strip_prefix(&begin).unwrap().split_once(' ').unwrap();
        assert!(all.contains(key) && reported.insert(key), "{line}");
        assert!(verdict.split(' ').count() > 4, "{line}");
    }
    let silent: BTreeSet<&str> = all.difference(&reported).copied().collect();
    assert_eq!(silent, SEED_KEYS_KEPT.into(), "of {} keys", all.len());
    for (key, verdict) in SEED_KEYS_REFUSED {
        assert!(
            report
                .lines()
                .any(|line| line == format!("{begin}{key} {verdict}")),
            "{key}"
        );
    }
    // The original counted seconds here.
    let timeout = report
        .lines()
        .find(|line| line.contains("RPCTimeout"))
        .unwrap();
    assert!(timeout.contains("milliseconds"), "{timeout}");

    // And no daemon starts with it: it says the same, and leaves the disk alone.
    for process in PROCESSES {
        let output = ended(cluster.command(1, process).env("CONFIG", &file));
        assert!(!output.status.success(), "{process:?}");
        assert_eq!(sentence(&output), report, "{process:?}");
    }
    assert_eq!(std::fs::read_dir(&cluster.node(1).data).unwrap().count(), 0);
}

#[test]
fn a_configuration_that_is_not_utf_8_is_refused_with_the_place() {
    let cluster = Cluster::new(1);
    let file = cluster.folder().join("config.json");
    let mut bytes = b"{ \"Name\": \"".to_vec();
    let place = bytes.len();
    bytes.extend(b"\xff\xfe\" }");
    std::fs::write(&file, bytes).unwrap();
    for process in PROCESSES {
        for arguments in [&["--check-config"] as &[&str], &[]] {
            let mut command = cluster.command(1, process);
            let output = ended(command.env("CONFIG", &file).args(arguments));
            assert!(!output.status.success(), "{process:?}");
            assert_eq!(
                sentence(&output),
                format!(
                    "{}: is not UTF-8 at byte {place}: save it as UTF-8",
                    file.display()
                )
            );
        }
    }
}

// ---- entries ----

/// Runs `raft-client` with bytes as words, and bytes on its standard input.
fn client(cluster: &Cluster, words: &[&[u8]], input: &[u8]) -> Output {
    let mut child = Command::new(program("raft-client"))
        .env("RAFT_ENDPOINTS", cluster.endpoints())
        .args(words.iter().map(|word| OsStr::from_bytes(word)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses to read on has said why.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn an_entry_that_is_too_large_or_empty_is_refused_and_nothing_is_written() {
    let mut cluster = alone();
    let limit = 4 << 20;
    let address = cluster.address(1);
    let put = |bytes: usize| client(&cluster, &[b"entry", b"--stdin"], &entry_of(bytes));
    let largest = put(limit);
    assert_eq!(largest.status.code(), Some(0), "{}", sentence(&largest));
    let read = client(&cluster, &[b"GET", b"large"], b"");
    assert_eq!(read.stdout.len(), limit - "PUT large ".len() + "\n".len());

    let last_index = || cluster.status(1).unwrap().last_index;
    for bytes in [limit + 1, 5 << 20] {
        let refused = put(bytes);
        assert_eq!(refused.status.code(), Some(6));
        assert_eq!(
            sentence(&refused),
            format!(
                "Not accepted for its size: {address} says: the entry has {bytes} bytes, and \
                 MaxEntryBytes is {limit}: nothing was put. The limit is MaxEntryBytes in \
                 config.json"
            )
        );
        let before = last_index();
        let status = cluster.put(1, &"x".repeat(bytes)).unwrap_err();
        assert_eq!(detail_of(&status).unwrap().kind(), ErrorKind::TooLarge);
        assert_eq!(last_index(), before);
    }
    // Larger than any message of the protocol: it never reaches the daemon's own check.
    let refused = put(17 << 20);
    assert_eq!(refused.status.code(), Some(6), "{}", sentence(&refused));

    let empty = client(&cluster, &[b"entry", b"--stdin"], b"");
    assert_eq!(empty.status.code(), Some(15));
    assert_eq!(
        sentence(&empty),
        format!("Refused: {address} says: the entry is empty: there is nothing to put")
    );
    let before = last_index();
    let status = cluster.put(1, "").unwrap_err();
    assert_eq!(detail_of(&status).unwrap().kind(), ErrorKind::Invalid);
    assert_eq!(last_index(), before);
    all_live(&mut cluster);
}

fn entry_of(bytes: usize) -> Vec<u8> {
    let mut entry = b"PUT large ".to_vec();
    entry.resize(bytes, b'x');
    entry
}

#[test]
fn bytes_that_are_not_utf_8_are_refused_in_a_verb_and_stored_as_they_are_in_a_value() {
    let mut cluster = alone();
    let refused = client(&cluster, &[b"entry", b"P\xff\xfeT", b"key", b"value"], b"");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(refused.stdout, b"");
    assert_eq!(
        sentence(&refused),
        "the verb \"P\u{fffd}\u{fffd}T\" is unknown: this state machine knows PUT key value, \
         DELETE key, CAS key old new, INCR key [n], and as queries GET key, LIST [prefix], \
         and as a watch WATCH [prefix]"
    );
    // The state machine's refusal is a result: the same whoever asks.
    let request = pb::PutEntryRequest {
        entry: b"\xc3\x28 key value".to_vec().into(),
        ..pb::PutEntryRequest::default()
    };
    let reply = cluster
        .block_on(cluster.client(1).put_entry(request))
        .unwrap()
        .into_inner();
    assert_eq!(reply.kind(), ResultKind::Rejected);

    let every_byte: Vec<u8> = (0..=255).collect();
    let put = client(&cluster, &[b"PUT", b"bytes", b"--stdin"], &every_byte);
    assert_eq!(put.status.code(), Some(0), "{}", sentence(&put));
    let said = [
        b"Success! Set \"bytes\" to: \"" as &[u8],
        &every_byte,
        b"\"\n",
    ]
    .concat();
    assert_eq!(put.stdout, said);
    let read = client(&cluster, &[b"GET", b"bytes"], b"");
    assert_eq!(read.stdout, [&every_byte as &[u8], b"\n"].concat());

    // In the words of a command line too, in the key as in the value.
    let put = client(&cluster, &[b"PUT", b"k\xff", b"caf\xe9", b"\x80"], b"");
    assert_eq!(put.status.code(), Some(0), "{}", sentence(&put));
    assert_eq!(
        client(&cluster, &[b"GET", b"k\xff"], b"").stdout,
        b"caf\xe9 \x80\n"
    );
    all_live(&mut cluster);
}
