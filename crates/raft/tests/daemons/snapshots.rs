//! Nothing grows for ever, and nobody is left behind: snapshots with real daemons (§7).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::{Cluster, Process};
use state_machine_sdk::{Entry, Limits, Listen, Outcome, StateMachine, Volatile};
use wire::raft::{self as pb, ResultKind};

pub const SOON: Duration = Duration::from_secs(20);

/// Small enough that a few hundred entries are many snapshots.
pub fn small(cluster: &mut Cluster) {
    for (key, value) in [
        ("LEEKY_SNAPSHOT_BYTES", "65536"),
        ("LEEKY_SEGMENT_BYTES", "65536"),
        ("LEEKY_LOG_CACHE_BYTES", "65536"),
    ] {
        cluster.set(key, value);
    }
}

fn alone() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    small(&mut cluster);
    cluster
}

fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap();
    files
        .filter_map(|file| file.unwrap().metadata().ok())
        .map(|data| data.len())
        .sum()
}

pub fn value(number: usize) -> String {
    format!("{number} {}", "x".repeat(4000))
}

pub fn write(cluster: &Cluster, node: usize, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let entry = format!("PUT key{} {}", number % 20, value(number));
        assert_eq!(cluster.put(node, &entry).unwrap().kind(), ResultKind::Ok);
    }
}

pub fn leader_of(cluster: &Cluster) -> usize {
    let among: Vec<usize> = cluster.numbers().collect();
    cluster.wait_for_leader(&among, None, SOON)
}

#[test]
fn a_follower_that_is_far_behind_catches_up_by_snapshot_while_writes_go_on() {
    let mut cluster = Cluster::new(3);
    small(&mut cluster);
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let leader = leader_of(&cluster);
    write(&cluster, leader, 0..100);
    let behind = cluster.numbers().find(|node| *node != leader).unwrap();
    cluster.kill(behind);
    write(&cluster, leader, 100..1100);
    // 4 MB went through a log that may keep some hundred KB.
    let log = cluster.node(leader).data.join("raft");
    let bytes = bytes_in(&log);
    assert!(bytes < 1 << 20, "{bytes} bytes in {}", log.display());
    let stop = AtomicBool::new(false);
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = cluster.client(leader);
            let mut number = 1100;
            while !stop.load(Ordering::Acquire) {
                let entry = format!("PUT key{} {}", number % 20, value(number)).into();
                let request = pb::PutEntryRequest {
                    entry,
                    ..pb::PutEntryRequest::default()
                };
                cluster.block_on(client.put_entry(request)).unwrap();
                number += 1;
                written.store(number as u64, Ordering::Release);
            }
        });
        let mut children: Vec<_> = [Process::Member, Process::Raft, Process::StateMachine]
            .map(|process| cluster.command(behind, process).spawn().unwrap())
            .into_iter()
            .collect();
        let level = cluster.status(leader).unwrap().commit_index + 200;
        cluster.wait_for_applied(&[behind], level, SOON);
        stop.store(true, Ordering::Release);
        writer.join().unwrap();
        let index = cluster.status(leader).unwrap().commit_index;
        cluster.wait_for_applied(&[behind], index, SOON);
        for number in written.load(Ordering::Acquire) - 20..written.load(Ordering::Acquire) {
            let query = format!("GET key{}", number % 20);
            let reply = cluster.query(behind, &query, true).unwrap();
            assert_eq!(reply.data, value(number as usize), "{query}");
        }
        let log = cluster.log(behind, Process::Raft);
        assert!(log.contains("received from"), "no snapshot was pulled");
        assert!(log.contains("was given the snapshot"), "none was restored");
        for child in &mut children {
            let _ = child.kill();
            let _ = child.wait();
        }
    });
    for number in cluster.numbers() {
        let bytes = bytes_in(&cluster.node(number).data.join("raft"));
        assert!(bytes < 1 << 20, "node {number}: {bytes} bytes");
    }
}

#[test]
fn a_newcomer_gets_what_is_in_no_log_any_more() {
    let mut cluster = Cluster::new(3);
    small(&mut cluster);
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let leader = leader_of(&cluster);
    write(&cluster, leader, 0..300);
    let newcomer = cluster.add();
    cluster.start(newcomer);
    let index = cluster.status(leader).unwrap().commit_index;
    cluster.wait_for_applied(&[newcomer], index, SOON);
    let reply = cluster.query(newcomer, "GET key19", true).unwrap();
    assert_eq!(reply.data, value(299));
    // It is a node like any other, through a restart too.
    cluster.kill(newcomer);
    write(&cluster, leader, 300..310);
    cluster.start(newcomer);
    let index = cluster.status(leader).unwrap().commit_index;
    cluster.wait_for_applied(&[newcomer], index, SOON);
    let reply = cluster.query(newcomer, "GET key9", true).unwrap();
    assert_eq!(reply.data, value(309));
}

#[test]
fn a_session_and_its_outcomes_live_in_the_snapshot() {
    let mut cluster = alone();
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    let session = cluster
        .block_on(
            cluster
                .client(1)
                .register_session(pb::RegisterSessionRequest::default()),
        )
        .unwrap()
        .into_inner()
        .session;
    let increment = |cluster: &Cluster| {
        let request = pb::PutEntryRequest {
            entry: "INCR counter".into(),
            session,
            sequence: 1,
            ..pb::PutEntryRequest::default()
        };
        let reply = cluster.block_on(cluster.client(1).put_entry(request));
        reply.unwrap().into_inner().data
    };
    assert_eq!(increment(&cluster), "1");
    for round in 0..3 {
        write(&cluster, 1, 0..200);
        cluster.eventually("the log begins behind the INCR", SOON, |cluster| {
            (cluster.status(1)?.first_index > session + 1).then_some(())
        });
        cluster.kill_all();
        cluster.start_all();
        cluster.wait_for_voters(1, SOON);
        assert_eq!(increment(&cluster), "1", "round {round}: a retry");
        let reply = cluster.query(1, "GET counter", false).unwrap();
        assert_eq!(reply.data, "1", "round {round}");
    }
    let log = cluster.log(1, Process::Raft);
    assert!(
        !log.contains("was given the snapshot"),
        "a durable one needs none"
    );
}

/// A counter in memory. Where `POISON` is one, it fails.
struct Counter {
    total: i64,
    fragile: Arc<AtomicBool>,
}

impl StateMachine for Counter {
    fn name(&self) -> &str {
        "counter"
    }
    fn execute(&mut self, _: &Entry, command: &[u8]) -> Outcome {
        assert!(
            command != b"POISON" || !self.fragile.load(Ordering::Acquire),
            "poison"
        );
        self.total += i64::try_from(command.len()).unwrap();
        Outcome::ok(self.total.to_string())
    }
    fn query(&self, _: &[u8]) -> Outcome {
        Outcome::ok(self.total.to_string())
    }
    fn snapshot_formats(&self) -> &'static [&'static str] {
        &["counter-1"]
    }
    fn snapshot(&self) -> Vec<u8> {
        self.total.to_be_bytes().to_vec()
    }
    fn restore(&self, _: &str, bytes: &[u8]) -> Result<Counter, String> {
        let bytes = bytes.try_into().map_err(|_| "8 bytes".to_owned())?;
        Ok(Counter {
            total: i64::from_be_bytes(bytes),
            fragile: self.fragile.clone(),
        })
    }
}

/// State machines in memory beside one node, one life after the other, as an init script would start them.
pub struct Machine {
    stop: Arc<AtomicBool>,
    end_life: tokio::sync::watch::Sender<u64>,
    lives: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Machine {
    pub fn start<M: StateMachine>(
        cluster: &Cluster,
        node: usize,
        new: impl Fn() -> M + Send + 'static,
    ) -> Machine {
        let (stop, lives) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (end_life, _) = tokio::sync::watch::channel(0);
        let address = std::net::SocketAddr::from((cluster.node(node).ip, 6005));
        let thread = std::thread::spawn({
            let (stop, lives) = (stop.clone(), lives.clone());
            let end_life = end_life.clone();
            move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                while !stop.load(Ordering::Acquire) {
                    lives.fetch_add(1, Ordering::AcqRel);
                    let mut ended = end_life.subscribe();
                    let shutdown = async move {
                        let _ = ended.changed().await;
                    };
                    let machine = Volatile::new(new());
                    let served = state_machine_sdk::serve(
                        machine,
                        Listen::Tcp(address),
                        Limits::default(),
                        shutdown,
                    );
                    // It may end by a panic in a command: the next life begins empty.
                    let _ = runtime.block_on(served);
                }
            }
        });
        Machine {
            stop,
            end_life,
            lives,
            thread: Some(thread),
        }
    }

    fn end_life(&self) {
        self.end_life.send_modify(|life| *life += 1);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.end_life();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn with_counter(fragile: &Arc<AtomicBool>) -> (Cluster, Machine) {
    let mut cluster = alone();
    let fragile = fragile.clone();
    let machine = Machine::start(&cluster, 1, move || Counter {
        total: 0,
        fragile: fragile.clone(),
    });
    cluster.start_process(1, Process::Member);
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    (cluster, machine)
}

fn total(cluster: &Cluster) -> i64 {
    let reply = cluster.query(1, "total", false).unwrap();
    String::from_utf8(reply.data.to_vec())
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_state_machine_in_memory_is_restored_from_the_snapshot() {
    let (mut cluster, machine) = with_counter(&Arc::default());
    let mut expected = 0;
    for round in 0..3 {
        for _ in 0..300 {
            cluster.put(1, &"y".repeat(1000)).unwrap();
            expected += 1000;
        }
        cluster.eventually("the log is cut off", SOON, |cluster| {
            (cluster.status(1)?.first_index > 200 * (round + 1)).then_some(())
        });
        if round == 1 {
            cluster.kill_process(1, Process::Raft);
        }
        machine.end_life();
        if round == 1 {
            cluster.start_process(1, Process::Raft);
            cluster.wait_for_voters(1, SOON);
        }
        cluster.put(1, "z").unwrap();
        expected += 1;
        assert_eq!(total(&cluster), expected, "round {round}");
    }
    assert!(machine.lives.load(Ordering::Acquire) >= 4);
    assert!(
        cluster
            .log(1, Process::Raft)
            .contains("was given the snapshot")
    );
}

#[test]
fn a_poison_entry_stops_the_state_machine_until_an_operator_skips_it() {
    let fragile = Arc::new(AtomicBool::new(true));
    let (mut cluster, machine) = with_counter(&fragile);
    cluster.put(1, "abc").unwrap();
    std::thread::scope(|scope| {
        let poison = scope.spawn(|| {
            let request = pb::PutEntryRequest {
                entry: "POISON".into(),
                timeout_ms: 30_000,
                ..pb::PutEntryRequest::default()
            };
            cluster.block_on(cluster.client(1).put_entry(request))
        });
        let alarm = cluster.eventually("an alarm names the entry", SOON, |cluster| {
            let alarms = cluster.status(1)?.alarms;
            alarms
                .into_iter()
                .find(|alarm| alarm.contains("raft-client skip"))
        });
        let index: u64 = alarm
            .split_once("fails at entry ")
            .and_then(|(_, rest)| rest.split_once(','))
            .and_then(|(index, _)| index.parse().ok())
            .unwrap();
        assert!(machine.lives.load(Ordering::Acquire) > 2);
        let skip = |index| {
            let request = pb::SkipRequest {
                index,
                timeout_ms: 20_000,
                ..pb::SkipRequest::default()
            };
            cluster.block_on(cluster.client(1).skip(request))
        };
        // Nothing else can be skipped: neither what is applied, nor what is sound.
        assert!(skip(index - 1).is_err());
        assert!(skip(index + 1000).is_err());
        assert!(skip(index).unwrap().into_inner().index > index);
        let reply = poison.join().unwrap().unwrap().into_inner();
        assert_eq!(reply.kind(), ResultKind::Rejected, "{:?}", reply.data);
        assert_eq!(reply.index, index);
    });
    assert_eq!(total(&cluster), 3);
    cluster.put(1, "abcd").unwrap();
    assert_eq!(total(&cluster), 7);
    // It is left out for good: in a later life of the state machine, of the daemon, and by a program that
    // was corrected.
    machine.end_life();
    cluster.put(1, "e").unwrap();
    assert_eq!(total(&cluster), 8);
    fragile.store(false, Ordering::Release);
    cluster.kill_process(1, Process::Raft);
    machine.end_life();
    cluster.start_process(1, Process::Raft);
    cluster.wait_for_voters(1, SOON);
    cluster.put(1, "f").unwrap();
    assert_eq!(total(&cluster), 9);
}

#[test]
fn a_state_machine_that_starts_empty_after_the_first_snapshot_is_restored() {
    let (cluster, machine) = with_counter(&Arc::default());
    // One snapshot only, and nothing behind it that could tell.
    let mut expected = 0;
    let covered = loop {
        cluster.put(1, &"y".repeat(1000)).unwrap();
        expected += 1000;
        let status = cluster.status(1).unwrap();
        if status.snapshot_index > 0 {
            break status.snapshot_index;
        }
    };
    machine.end_life();
    assert_eq!(total(&cluster), expected, "restored as of {covered}");
}
