//! What the tests of refusals share: a writer that goes on meanwhile, what it was promised, whether
//! all daemons live, and a process that must end by itself.

use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wire::raft::ResultKind;

use crate::cluster::{Cluster, PROCESSES, Process};

/// Everything that takes a moment on an idle machine is done within this on a busy one.
pub const SOON: Duration = Duration::from_secs(30);

/// More memory than a daemon may ever have held, in KiB: well above its budgets (64 MiB of messages,
/// 64 MiB of log, 128 MiB of pages), far below what a length that a stranger states can name.
const MEMORY_KIB_MAX: u64 = 512 << 10;

/// The writes of one test: which keys were promised.
pub struct Writes {
    prefix: &'static str,
    acknowledged: Vec<usize>,
    tried: usize,
}

/// Runs `work` while a writer puts key after key through one node after the other.
pub fn while_writing(cluster: &Cluster, prefix: &'static str, work: impl FnOnce()) -> Writes {
    /// However `work` ends, the writer must.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writes = Writes {
                prefix,
                acknowledged: Vec::new(),
                tried: 0,
            };
            while !done.load(Ordering::Relaxed) {
                writes.put_one(cluster);
            }
            writes
        });
        {
            let _stop = Stop(&done);
            work();
        }
        writer.join().unwrap()
    })
}

impl Writes {
    /// A series of writes that are made one by one.
    pub fn new(prefix: &'static str) -> Writes {
        Writes {
            prefix,
            acknowledged: Vec::new(),
            tried: 0,
        }
    }

    /// Tries the next key. What is refused or unknown is no promise.
    pub fn put_one(&mut self, cluster: &Cluster) {
        self.tried += 1;
        let key = self.tried;
        let node = 1 + key % cluster.numbers().count();
        let put = cluster.put(node, &format!("PUT {}{key} value {key}", self.prefix));
        if put.is_ok_and(|reply| reply.kind() == ResultKind::Ok) {
            self.acknowledged.push(key);
        }
    }

    /// How many were promised.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// How many were tried.
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// Every promised write can be read, through one node after the other.
    pub fn are_all_there(&self, cluster: &Cluster) {
        for key in &self.acknowledged {
            let node = 1 + (key + 1) % cluster.numbers().count();
            let query = format!("GET {}{key}", self.prefix);
            let read = cluster.eventually(&query, SOON, |cluster| {
                cluster.query(node, &query, false).ok()
            });
            assert_eq!(read.data, format!("value {key}"), "{query} at node {node}");
        }
    }
}

/// Every daemon runs, none of its tasks has panicked, and its memory did not explode.
pub fn all_live(cluster: &mut Cluster) {
    for number in cluster.numbers() {
        for process in PROCESSES {
            assert!(
                cluster.runs(number, process),
                "{process:?} of node {number} has ended"
            );
            let log = cluster.log(number, process);
            let panic = log.lines().find(|line| line.contains("panicked at"));
            assert_eq!(panic, None, "{process:?} of node {number}");
            let memory = memory_kib(cluster, number, process);
            assert!(
                memory < MEMORY_KIB_MAX,
                "{process:?} of node {number} held {memory} KiB"
            );
        }
    }
}

/// The most memory that a process has held, in KiB.
fn memory_kib(cluster: &Cluster, number: usize, process: Process) -> u64 {
    let pid = cluster.node(number).pid(process).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs a command that must end by itself, and returns what it said.
pub fn ended(command: &mut Command) -> Output {
    /// Kills a process that does not end, also when the test fails before.
    struct Killed(Option<Child>);
    impl Drop for Killed {
        fn drop(&mut self) {
            if let Some(child) = &mut self.0 {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    let spawned = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(Some(spawned));
    let deadline = Instant::now() + SOON;
    loop {
        let running = child.0.as_mut().unwrap();
        if running.try_wait().unwrap().is_some() {
            return child.0.take().unwrap().wait_with_output().unwrap();
        }
        assert!(Instant::now() < deadline, "{command:?} does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a program said to people, without the last line's end.
pub fn sentence(output: &Output) -> String {
    String::from_utf8(output.stderr.clone())
        .unwrap()
        .trim_end()
        .to_owned()
}

/// A cluster of one node.
pub fn alone() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    cluster.start_all();
    cluster.wait_for_voters(1, SOON);
    cluster
}

/// An id as log lines and sentences show it.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
