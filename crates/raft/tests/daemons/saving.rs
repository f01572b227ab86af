//! Snapshots that are saved to files, and clusters that begin with one (P5).

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use state_machine_sdk::{Entry, Outcome, StateMachine};
use wire::raft::{self as pb, ErrorKind, ResultKind};
use wire::status::detail_of;

use crate::cluster::{Cluster, Process};
use crate::snapshots::{Machine, SOON, small, value, write};

/// What `raft-client` exits with.
const DAMAGED: i32 = 20;
const IN_THE_WAY: i32 = 21;

/// A member whose names resolve at once says who is the first introducer at once; the daemon waits longer.
const REFUSED_WITHIN: Duration = Duration::from_secs(40);

fn session_of(cluster: &Cluster, node: usize) -> u64 {
    let request = pb::RegisterSessionRequest::default();
    let opened = cluster.block_on(cluster.client(node).register_session(request));
    opened.unwrap().into_inner().session
}

fn put_in(
    cluster: &Cluster,
    node: usize,
    request: pb::PutEntryRequest,
) -> Result<pb::PutEntryReply, ErrorKind> {
    let request = pb::PutEntryRequest {
        timeout_ms: 4000,
        ..request
    };
    let answered = cluster.block_on(cluster.client(node).put_entry(request));
    match answered {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => Err(detail_of(&status).unwrap().kind()),
    }
}

fn increment(session: u64, sequence: u64) -> pb::PutEntryRequest {
    pb::PutEntryRequest {
        entry: "INCR counter".into(),
        session,
        sequence,
        ..pb::PutEntryRequest::default()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `raft-client snapshot` with these words, which must fail so.
fn refused(cluster: &Cluster, words: &[&str], code: i32) -> String {
    let output = cluster.raft_client(words);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    stderr(&output)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn save(cluster: &Cluster, file: &Path) -> serde_json::Value {
    cluster.says(&["--timeout", "20s", "snapshot", "save", text(file)]);
    let shown = cluster.says(&["snapshot", "inspect", text(file), "--json"]);
    serde_json::from_str(&shown).unwrap()
}

/// The nodes' disks are gone.
fn lose(cluster: &mut Cluster) {
    cluster.kill_all();
    for number in cluster.numbers() {
        fs::remove_dir_all(&cluster.node(number).data).unwrap();
    }
}

fn flip(file: &Path, place: u64) {
    let open = fs::File::options().read(true).write(true).open(file);
    let open = open.unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, place).unwrap();
    open.write_all_at(&[byte[0] ^ 1], place).unwrap();
}

fn check_values(cluster: &Cluster, values: usize) {
    for node in cluster.numbers() {
        for number in 0..values {
            let query = format!("GET key{number}");
            let reply = cluster.query(node, &query, false).unwrap();
            assert_eq!(reply.data, value(number), "{query} at node {node}");
        }
    }
}

/// Writes `key<n>` in order until it is told to stop, and counts what was acknowledged.
fn write_on(cluster: &Cluster, stop: &AtomicBool, acknowledged: &AtomicUsize) {
    let mut client = cluster.client(2);
    while !stop.load(Ordering::Acquire) {
        let number = acknowledged.load(Ordering::Acquire);
        let request = pb::PutEntryRequest {
            entry: format!("PUT key{number} {}", value(number)).into(),
            timeout_ms: 4000,
            ..pb::PutEntryRequest::default()
        };
        let reply = cluster.block_on(client.put_entry(request)).unwrap();
        assert_eq!(reply.into_inner().kind(), ResultKind::Ok);
        acknowledged.store(number + 1, Ordering::Release);
    }
}

#[test]
fn a_cluster_that_is_lost_comes_back_from_what_was_saved() {
    let mut cluster = Cluster::new(3);
    small(&mut cluster);
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let before = cluster.status(1).unwrap().cluster_id;
    let session = session_of(&cluster, 1);
    let counted = put_in(&cluster, 1, increment(session, 1)).unwrap();
    assert_eq!(counted.data, "1");
    let file = cluster.folder().join("saved");
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (values, found) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(&cluster, &stop, &acknowledged));
        cluster.eventually("a hundred values", SOON, |_| {
            (acknowledged.load(Ordering::Acquire) >= 100).then_some(())
        });
        let values = acknowledged.load(Ordering::Acquire);
        let found = save(&cluster, &file);
        stop.store(true, Ordering::Release);
        writer.join().unwrap();
        (values, found)
    });
    assert_eq!(found["sessions"], 1);
    assert_eq!(found["voters"].as_array().unwrap().len(), 3);
    let index = found["index"].as_u64().unwrap();
    lose(&mut cluster);

    let data = cluster.node(1).data.clone();
    cluster.says(&["snapshot", "restore", text(&file), "--data", text(&data)]);
    cluster.start(1);
    cluster.eventually("node 1 leads", SOON, |cluster| {
        (cluster.status(1)?.role == "leader").then_some(())
    });
    assert!(!data.join("restore.snapshot").exists());
    let now = cluster.status(1).unwrap();
    assert_ne!(now.cluster_id, before, "it is another cluster");
    assert!(now.commit_index > index && now.first_index == index + 1);
    for node in [2, 3] {
        cluster.start(node);
    }
    cluster.wait_for_voters(3, SOON * 2);
    check_values(&cluster, values);
    for node in cluster.numbers() {
        let reply = cluster.query(node, "GET counter", false).unwrap();
        assert_eq!(reply.data, "1");
        assert_eq!(cluster.status(node).unwrap().cluster_id, now.cluster_id);
        // Who knows the old cluster does not take this one for it; its session is nobody's.
        let mut old = increment(session, 1);
        let expired = put_in(&cluster, node, old.clone()).unwrap_err();
        assert_eq!(expired, ErrorKind::SessionExpired);
        old.cluster_id = before.clone();
        let foreign = put_in(&cluster, node, old).unwrap_err();
        assert_eq!(foreign, ErrorKind::OtherCluster);
    }
    let session = session_of(&cluster, 3);
    assert!(session > index);
    let counted = put_in(&cluster, 2, increment(session, 1)).unwrap();
    assert_eq!(counted.data, "2");
    write(&cluster, 3, 0..20);

    // Now nothing happens, and yet all of it is saved.
    let second = cluster.folder().join("second");
    let found = save(&cluster, &second);
    assert!(found["index"].as_u64().unwrap() > session);
    assert_eq!(found["cluster_id"].as_str().unwrap(), hex(&now.cluster_id));
    let sentence = refused(&cluster, &["snapshot", "save", text(&second)], IN_THE_WAY);
    assert!(sentence.contains("is there already"), "{sentence}");
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_for_voters(3, SOON * 2);
    check_values(&cluster, 20);
    let reply = cluster.query(2, "GET counter", false).unwrap();
    assert_eq!(reply.data, "2");
    let alarms = cluster.status(1).unwrap().alarms;
    assert!(alarms.is_empty(), "{alarms:?}");
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn alone() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    cluster
}

fn saved_alone() -> (Cluster, PathBuf) {
    let mut cluster = alone();
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    write(&cluster, 1, 0..20);
    let file = cluster.folder().join("saved");
    save(&cluster, &file);
    (cluster, file)
}

#[test]
fn damage_is_found_before_anything_is_restored() {
    let (mut cluster, file) = saved_alone();
    let data = cluster.node(1).data.clone();
    let restore = |cluster: &Cluster, code| {
        let words = ["snapshot", "restore", text(&file), "--data", text(&data)];
        refused(cluster, &words, code)
    };
    // Beside a node that runs, and one that has run.
    let sentence = restore(&cluster, IN_THE_WAY);
    assert!(sentence.contains("identity"), "{sentence}");
    cluster.kill_all();
    let sentence = restore(&cluster, IN_THE_WAY);
    assert!(sentence.contains("identity"), "{sentence}");
    lose(&mut cluster);
    let bytes = fs::metadata(&file).unwrap().len();
    for place in [40, bytes / 2, bytes - 5] {
        flip(&file, place);
        let inspected = refused(&cluster, &["snapshot", "inspect", text(&file)], DAMAGED);
        let restored = restore(&cluster, DAMAGED);
        for sentence in [inspected, restored] {
            assert!(sentence.contains("is damaged at byte "), "{sentence}");
        }
        assert!(!data.exists());
        flip(&file, place);
    }
    cluster.says(&["snapshot", "restore", text(&file), "--data", text(&data)]);
    // Damaged where it waits: the node does not start, until it is mended.
    let waiting = data.join("restore.snapshot");
    flip(&waiting, bytes / 2);
    cluster.start(1);
    let ended = cluster.exited(1, Process::Raft, SOON);
    assert_eq!(ended.code(), Some(1));
    let log = cluster.log(1, Process::Raft);
    assert!(log.contains("raft cannot start: the snapshot"), "{log}");
    flip(&waiting, bytes / 2);
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    check_values(&cluster, 20);
    assert!(!waiting.exists());
    // Put there by hand, beside a node with a log.
    cluster.kill_process(1, Process::Raft);
    fs::copy(&file, &waiting).unwrap();
    cluster.start_process(1, Process::Raft);
    let ended = cluster.exited(1, Process::Raft, SOON);
    assert_eq!(ended.code(), Some(1));
    let log = cluster.log(1, Process::Raft);
    assert!(log.contains("this node is not empty"), "{log}");
    fs::remove_file(&waiting).unwrap();
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    check_values(&cluster, 20);
}

/// Starts node 1's `raft`, which dies of the first file that grows beyond so many blocks of 512 bytes.
fn die_beyond(cluster: &Cluster, blocks: u32) {
    let raft = cluster.command(1, Process::Raft);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -f {blocks}; exec \"$0\"")])
        .arg(raft.get_program())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for (key, value) in raft.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    let mut child = limited.spawn().unwrap();
    let deadline = Instant::now() + SOON;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("no file grew beyond {blocks} blocks");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The node dies while it restores: in the middle of the snapshot, in the middle of the log behind it, and
/// at other moments. What waits is not gone before all of it has happened.
#[test]
fn a_node_that_is_killed_while_it_restores_begins_again() {
    let (mut cluster, file) = saved_alone();
    lose(&mut cluster);
    let data = cluster.node(1).data.clone();
    cluster.says(&["snapshot", "restore", text(&file), "--data", text(&data)]);
    cluster.start_process(1, Process::Member);
    cluster.start_process(1, Process::StateMachine);
    for (blocks, has_snapshot) in [(60, false), (4000, true), (60, true)] {
        die_beyond(&cluster, blocks);
        let complete = |name: String| name.starts_with("snapshot-0");
        assert_eq!(names(&data.join("raft")).any(complete), has_snapshot);
        assert!(!names(&data.join("raft")).any(|name| name.starts_with("log-0")));
        assert!(data.join("restore.snapshot").exists());
    }
    for milliseconds in [1, 5, 10, 15, 20, 30, 40, 60] {
        cluster.start_process(1, Process::Raft);
        std::thread::sleep(Duration::from_millis(milliseconds));
        cluster.kill_process(1, Process::Raft);
    }
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    check_values(&cluster, 20);
    assert!(!data.join("restore.snapshot").exists());
    write(&cluster, 1, 0..20);
}

#[test]
fn only_who_may_found_a_cluster_begins_one_with_a_snapshot() {
    let (cluster, file) = saved_alone();
    let mut others = Cluster::new(3);
    // Not the first of them, and none at all.
    others.set_for(2, "LEEKY_INTRODUCER", "true");
    for node in [2, 3] {
        let data = others.node(node).data.clone();
        cluster.says(&["snapshot", "restore", text(&file), "--data", text(&data)]);
        others.start(node);
    }
    for node in [3, 2] {
        let ended = others.exited(node, Process::Raft, REFUSED_WITHIN);
        assert_eq!(ended.code(), Some(1));
        let log = others.log(node, Process::Raft);
        let sentence = "only the first introducer, or a node with FoundAlone, may begin a cluster";
        assert!(log.contains(sentence), "{log}");
        let data = &others.node(node).data;
        assert!(data.join("restore.snapshot").exists());
        assert!(!data.join("raft/identity").exists());
    }
}

/// It counts, and cannot write down what.
#[derive(Default)]
struct Forgetful(u64);

impl StateMachine for Forgetful {
    fn name(&self) -> &str {
        "forgetful"
    }
    fn execute(&mut self, _: &Entry, _: &[u8]) -> Outcome {
        self.0 += 1;
        Outcome::ok(self.0.to_string())
    }
    fn query(&self, _: &[u8]) -> Outcome {
        Outcome::ok(self.0.to_string())
    }
}

#[test]
fn what_cannot_be_written_down_cannot_be_saved() {
    let mut cluster = alone();
    let machine = Machine::start(&cluster, 1, Forgetful::default);
    cluster.start_process(1, Process::Member);
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    cluster.put(1, "one").unwrap();
    let file = cluster.folder().join("saved");
    let words = ["snapshot", "save", text(&file)];
    let sentence = refused(&cluster, &words, 15);
    assert!(sentence.contains("has no snapshots"), "{sentence}");
    drop(machine);
    let sentence = refused(&cluster, &words, 12);
    assert!(sentence.contains("does not answer"), "{sentence}");
    assert!(!file.exists());
}
