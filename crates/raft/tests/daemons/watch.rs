//! Watches through real daemons: each change once and in order, whichever nodes die.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use state_machine_sdk::{Entry, Limits, Listen, Outcome, StateMachine, Volatile};
use tonic::{Status, Streaming};
use wire::raft::{self as pb, ErrorKind, ResultKind, WatchReply};
use wire::status::detail_of;

use crate::cluster::{Cluster, Process, program};

const SOON: Duration = Duration::from_secs(20);

/// `raft-client WATCH` as a process, and the lines that it has printed so far.
struct Watcher {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watcher {
    /// Nodes are asked in the order of `nodes`.
    fn start(cluster: &Cluster, nodes: &[usize], words: &[&str]) -> Watcher {
        let endpoints: Vec<String> = nodes
            .iter()
            .map(|node| cluster.address(*node).to_string())
            .collect();
        let mut child = Command::new(program("raft-client"))
            .env("RAFT_ENDPOINTS", endpoints.join(","))
            .args(["--timeout", "15s", "WATCH"])
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (kept, out) = (lines.clone(), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                kept.lock().unwrap().push(line.unwrap());
            }
        });
        Watcher { child, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + SOON;
        while self.lines.lock().unwrap().len() < count {
            let found = self.lines();
            assert!(Instant::now() < deadline, "{count} lines: {found:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ctrl-C; returns the exit code.
    fn interrupt(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn alone() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    cluster
}

/// Lets the writer end, even when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Puts, and returns the line that a watch has for it.
fn put(cluster: &Cluster, node: usize, entry: &str) -> String {
    let reply = cluster.put(node, entry).unwrap();
    assert_eq!(reply.kind(), ResultKind::Ok, "{entry}");
    format!("{} {entry}", reply.index)
}

fn watch(cluster: &Cluster, node: usize, from: u64) -> Result<Streaming<WatchReply>, Status> {
    let request = pb::WatchRequest {
        query: "WATCH k".into(),
        from_index: from,
        ..pb::WatchRequest::default()
    };
    let mut client = cluster.client(node);
    cluster.block_on(async move { Ok(client.watch(request).await?.into_inner()) })
}

/// The next change, or what ended the watch; marks are passed over.
fn next(cluster: &Cluster, watch: &mut Streaming<WatchReply>) -> Result<WatchReply, Status> {
    cluster.block_on(async {
        loop {
            let reply = tokio::time::timeout(SOON, watch.message()).await.unwrap();
            let reply = reply?.expect("a watch has no end without a reason");
            if !reply.events.is_empty() {
                return Ok(reply);
            }
        }
    })
}

/// Kind, index and sentence of the end of a watch.
fn end(result: Result<WatchReply, Status>) -> (ErrorKind, u64, String) {
    let status = result.unwrap_err();
    let detail = detail_of(&status).unwrap_or_else(|| panic!("{status:?}"));
    (detail.kind(), detail.index, status.message().to_owned())
}

fn refused(opened: Result<Streaming<WatchReply>, Status>) -> (ErrorKind, u64, String) {
    end(opened.map(|_| WatchReply::default()))
}

#[test]
fn every_change_is_told_once_and_in_order_while_the_nodes_that_tell_it_are_killed() {
    let mut cluster = Cluster::started(3, 3);
    let leader = cluster.wait_for_voters(3, SOON);
    let mut nodes: Vec<usize> = cluster.numbers().filter(|node| *node != leader).collect();
    nodes.push(leader);
    let watcher = Watcher::start(&cluster, &nodes, &["key", "--from", "1"]);
    let (stop, written) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let count = || written.lock().unwrap().len();
    let (client, runtime) = (
        cluster.client(leader),
        tokio::runtime::Runtime::new().unwrap(),
    );
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let entry = match number % 7 {
                    3 => format!("DELETE key{}", (number - 1) % 10),
                    // Nobody who watches "key" hears of these.
                    5 => format!("PUT other {number}"),
                    _ => format!("PUT key{} {number}", number % 10),
                };
                let request = pb::PutEntryRequest {
                    entry: entry.clone().into(),
                    ..pb::PutEntryRequest::default()
                };
                let mut client = client.clone();
                let reply = runtime.block_on(async move { client.put_entry(request).await });
                let reply = reply.unwrap().into_inner();
                if reply.kind() == ResultKind::Ok && !entry.contains("other") {
                    let line = format!("{} {entry}", reply.index);
                    written.lock().unwrap().push(line);
                }
            }
        });
        watcher.wait_for(200);
        cluster.kill(nodes[0]);
        watcher.wait_for(watcher.lines().len() + 200);
        cluster.start(nodes[0]);
        let level = cluster.status(leader).unwrap().commit_index;
        cluster.eventually("the first is back", SOON, |cluster| {
            (cluster.status(nodes[0])?.applied_index >= level).then_some(())
        });
        cluster.kill(nodes[1]);
        watcher.wait_for(watcher.lines().len() + 200);
    });
    watcher.wait_for(count());
    // A moment for what would be too much.
    std::thread::sleep(Duration::from_millis(200));
    let (lines, written) = (watcher.lines(), written.into_inner().unwrap());
    let wrong = lines
        .iter()
        .zip(&written)
        .position(|(line, put)| line != put);
    assert_eq!(
        wrong,
        None,
        "{:?}",
        wrong.map(|at| (&lines[at], &written[at]))
    );
    assert_eq!(lines.len(), written.len());
    assert_eq!(watcher.interrupt(), Some(0));
}

#[test]
fn an_index_older_than_the_history_is_refused_with_the_first_one_that_is_kept() {
    let mut cluster = alone();
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    let lines: Vec<String> = (0..5)
        .map(|n| put(&cluster, 1, &format!("PUT k{n} {n}")))
        .collect();
    let watcher = Watcher::start(&cluster, &[1], &["k", "--from", "1", "--count", "5"]);
    watcher.wait_for(5);
    assert_eq!(watcher.lines(), lines, "while it is kept");
    // The state machine ends in order, so that all is on its disk; its next life begins there.
    cluster.terminate(1, Process::StateMachine, SOON);
    cluster.start_process(1, Process::StateMachine);
    let (kind, first, sentence) = cluster.eventually("it answers again", SOON, |cluster| {
        let answer = refused(watch(cluster, 1, 1));
        (answer.0 != ErrorKind::StateMachineDown).then_some(answer)
    });
    let applied = cluster.status(1).unwrap().applied_index;
    assert_eq!(
        (kind, first),
        (ErrorKind::WatchCompacted, applied + 1),
        "{sentence}"
    );
    let output = cluster.raft_client(&["WATCH", "k", "--from", "1"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(18), "{told}");
    let named = format!("the first index that can be watched is {first}");
    assert!(told.contains(&named), "{told}");
    let mut kept = watch(&cluster, 1, first).unwrap();
    let line = put(&cluster, 1, "PUT k new");
    let reply = next(&cluster, &mut kept).unwrap();
    assert_eq!(line, format!("{} PUT k new", reply.index));
    assert_eq!(reply.events, [&b"PUT k new"[..]]);
}

#[test]
fn a_node_that_was_given_a_snapshot_tells_nothing_of_before_and_another_one_does() {
    let mut cluster = Cluster::new(3);
    for key in [
        "LEEKY_SNAPSHOT_BYTES",
        "LEEKY_SEGMENT_BYTES",
        "LEEKY_LOG_CACHE_BYTES",
    ] {
        cluster.set(key, "65536");
    }
    cluster.start_all();
    let leader = cluster.wait_for_voters(3, SOON);
    let value = "x".repeat(4000);
    let lines: Vec<String> = (0..200)
        .map(|n| put(&cluster, leader, &format!("PUT k{} {n} {value}", n % 9)))
        .collect();
    let newcomer = cluster.add();
    cluster.start(newcomer);
    let index = cluster.status(leader).unwrap().commit_index;
    cluster.wait_for_applied(&[newcomer], index, SOON);
    let log = cluster.log(newcomer, Process::Raft);
    assert!(
        log.contains("was given the snapshot"),
        "this test shows nothing"
    );
    let (kind, first, sentence) = refused(watch(&cluster, newcomer, 1));
    assert_eq!(kind, ErrorKind::WatchCompacted, "{sentence}");
    assert!(first > 1 && first <= index + 2, "{first} of {index}");
    watch(&cluster, newcomer, first).unwrap();
    let watcher = Watcher::start(&cluster, &[newcomer, leader], &["k", "--from", "1"]);
    watcher.wait_for(lines.len());
    assert!(watcher.lines() == lines, "another order, or other words");
}

#[test]
fn a_watch_ends_with_the_epoch_and_goes_on_with_the_next_one() {
    let mut cluster = alone();
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    let watcher = Watcher::start(&cluster, &[1], &["k", "--from", "1"]);
    let mut lines = vec![put(&cluster, 1, "PUT k 1")];
    let mut first = watch(&cluster, 1, 1).unwrap();
    let index = next(&cluster, &mut first).unwrap().index;
    watcher.wait_for(1);
    cluster.kill_process(1, Process::StateMachine);
    let (kind, resume, sentence) = end(next(&cluster, &mut first));
    assert_eq!(
        (kind, resume),
        (ErrorKind::WatchEnded, index + 1),
        "{sentence}"
    );
    cluster.start_process(1, Process::StateMachine);
    lines.push(put(&cluster, 1, "PUT k 2"));
    watcher.wait_for(2);
    // A daemon that stops says so.
    let mut second = watch(&cluster, 1, resume).unwrap();
    let index = next(&cluster, &mut second).unwrap().index;
    cluster.terminate(1, Process::Raft, SOON);
    let (kind, resume, sentence) = end(next(&cluster, &mut second));
    assert_eq!(
        (kind, resume),
        (ErrorKind::WatchEnded, index + 1),
        "{sentence}"
    );
    assert!(sentence.contains("the node stops"), "{sentence}");
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    lines.push(put(&cluster, 1, "PUT k 3"));
    watcher.wait_for(3);
    assert_eq!(watcher.lines(), lines);
}

#[test]
fn a_node_that_knows_no_leader_sends_those_who_watch_elsewhere() {
    let mut cluster = Cluster::started(3, 3);
    let leader = cluster.wait_for_voters(3, SOON);
    let follower = cluster.numbers().find(|node| *node != leader).unwrap();
    let mut cut_off = watch(&cluster, follower, 0).unwrap();
    for node in cluster.numbers().filter(|node| *node != follower) {
        cluster.kill(node);
    }
    let (kind, _, sentence) = end(next(&cluster, &mut cut_off));
    assert_eq!(kind, ErrorKind::WatchEnded);
    assert!(sentence.contains("no leader is known here"), "{sentence}");
    assert_eq!(sentence.matches("index ").count(), 1, "{sentence}");
    // Nor does it take on new ones.
    for from in [0, 1] {
        let (kind, _, sentence) = refused(watch(&cluster, follower, from));
        assert_eq!(kind, ErrorKind::NoLeader, "{sentence}");
    }
}

#[test]
fn those_who_do_not_read_hold_nobody_up() {
    let mut cluster = alone();
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    let idle: Vec<_> = (0..4).map(|_| watch(&cluster, 1, 0).unwrap()).collect();
    let value = "x".repeat(1 << 20);
    let begun = Instant::now();
    for number in 0..24 {
        put(&cluster, 1, &format!("PUT k {number} {value}"));
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let mut idle = idle.into_iter();
    // One of them begins to read: all is there, in order.
    let mut late = idle.next().unwrap();
    for number in 0..24 {
        let reply = next(&cluster, &mut late).unwrap();
        let begin = format!("PUT k {number} ");
        assert!(reply.events[0].starts_with(begin.as_bytes()), "{number}");
    }
    // The others are cut in time: what they had not taken is dropped, and the end says where that was.
    std::thread::sleep(Duration::from_secs(12));
    for mut cut in idle {
        let mut last = 0;
        for number in 0.. {
            match next(&cluster, &mut cut) {
                Ok(reply) => {
                    let begin = format!("PUT k {number} ");
                    assert!(reply.events[0].starts_with(begin.as_bytes()), "{number}");
                    assert!(number < 20, "nothing was cut");
                    last = reply.index;
                }
                error => {
                    let (kind, resume, sentence) = end(error);
                    assert_eq!((kind, resume), (ErrorKind::WatchEnded, last + 1));
                    assert!(sentence.contains("its reader is too slow"), "{sentence}");
                    let mut again = watch(&cluster, 1, resume).unwrap();
                    let reply = next(&cluster, &mut again).unwrap();
                    let begin = format!("PUT k {number} ");
                    assert!(reply.events[0].starts_with(begin.as_bytes()), "{number}");
                    break;
                }
            }
        }
    }
}

#[test]
fn an_empty_query_is_the_state_machines_to_judge() {
    let mut cluster = alone();
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    let mut client = cluster.client(1);
    let request = pb::WatchRequest::default();
    let status = cluster.block_on(async move { client.watch(request).await.unwrap_err() });
    assert!(!status.message().contains("entry is empty"), "{status:?}");
    assert_eq!(detail_of(&status).unwrap().kind(), ErrorKind::Invalid);
}

/// It says nothing of what it changes.
struct Silent;

impl StateMachine for Silent {
    fn name(&self) -> &str {
        "silent"
    }
    fn execute(&mut self, _: &Entry, _: &[u8]) -> Outcome {
        Outcome::ok("")
    }
    fn query(&self, _: &[u8]) -> Outcome {
        Outcome::ok("")
    }
}

#[test]
fn a_state_machine_without_watches_is_a_clear_answer() {
    let mut cluster = alone();
    let address = std::net::SocketAddr::from((cluster.node(1).ip, 6005));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let machine = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let shutdown = async {
            let _ = stopped.await;
        };
        let machine = Volatile::new(Silent);
        let listen = Listen::Tcp(address);
        runtime.block_on(state_machine_sdk::serve(
            machine,
            listen,
            Limits::default(),
            shutdown,
        ))
    });
    cluster.start_process(1, Process::Member);
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    let output = cluster.raft_client(&["WATCH"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(15), "{told}");
    assert!(told.contains("this state machine has no watches"), "{told}");
    drop(stop);
    machine.join().unwrap().unwrap();
}
