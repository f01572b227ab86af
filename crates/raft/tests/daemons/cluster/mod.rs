//! A cluster of real processes on loopback addresses, for the tests of this crate.
//!
//! Node `i` (from 1) has the address 127.a.b.i, a folder of its own in a temporary directory, and
//! three processes whose output goes to files there. Everything is killed when the [`Cluster`] is
//! dropped; when the test has failed, the folder stays and its path is printed.
//!
//! Nothing sleeps for a fixed time: [`Cluster::eventually`] waits for a condition, with a deadline.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};
use wire::raft::raft_client::RaftClient;
use wire::raft::{self as pb, StatusReply};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A single call of the harness takes no longer.
const CALL: Duration = Duration::from_secs(5);

/// One of a node's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// Gossip.
    Member,
    /// The daemon under test.
    Raft,
    /// The key-value store.
    StateMachine,
}

/// All three.
pub const PROCESSES: [Process; 3] = [Process::Member, Process::Raft, Process::StateMachine];

impl Process {
    fn binary(self) -> &'static str {
        match self {
            Process::Member => "member",
            Process::Raft => "raft",
            Process::StateMachine => "state-machine",
        }
    }
}

/// See the module.
pub struct Cluster {
    directory: Option<tempfile::TempDir>,
    subnet: (u8, u8),
    settings: BTreeMap<String, String>,
    nodes: Vec<Node>,
    runtime: tokio::runtime::Runtime,
}

/// One node.
pub struct Node {
    /// `n1`, `n2`, ...
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its data directory.
    pub data: PathBuf,
    settings: BTreeMap<String, String>,
    processes: BTreeMap<Process, Child>,
}

/// The path of one of the workspace's programs. They are built when one is missing.
pub fn program(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let folder = Path::new(env!("CARGO_BIN_EXE_raft"))
        .parent()
        .unwrap()
        .to_owned();
    BUILT.call_once(|| {
        let all = ["member", "raft", "state-machine", "raft-client"];
        if all.iter().all(|program| folder.join(program).exists()) {
            return;
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--bins"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success(), "the programs could not be built");
    });
    folder.join(name)
}

impl Cluster {
    /// Lays out so many nodes, and starts none. The first is the introducer.
    pub fn new(nodes: usize) -> Cluster {
        let subnet = free_subnet();
        let directory = tempfile::Builder::new().prefix("leeky-").tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut cluster = Cluster {
            directory: Some(directory),
            subnet,
            settings: BTreeMap::new(),
            nodes: Vec::new(),
            runtime,
        };
        for _ in 0..nodes {
            cluster.add();
        }
        cluster
    }

    /// A cluster that runs: every node is up and sees `voters` voters.
    pub fn started(nodes: usize, voters: usize) -> Cluster {
        let mut cluster = Cluster::new(nodes);
        cluster.start_all();
        cluster.wait_for_voters(voters, Duration::from_secs(30));
        cluster
    }

    /// Lays out one more node; returns its number.
    pub fn add(&mut self) -> usize {
        let number = self.nodes.len() + 1;
        let ip = Ipv4Addr::new(
            127,
            self.subnet.0,
            self.subnet.1,
            u8::try_from(number).unwrap(),
        );
        let name = format!("n{number}");
        let data = self.folder().join(&name);
        std::fs::create_dir_all(&data).unwrap();
        self.nodes.push(Node {
            name,
            ip,
            data,
            settings: BTreeMap::new(),
            processes: BTreeMap::new(),
        });
        number
    }

    /// The folder of everything.
    pub fn folder(&self) -> PathBuf {
        self.directory.as_ref().unwrap().path().to_owned()
    }

    /// Leaves the folder of everything where it is, for people to look at.
    pub fn keep(mut self) -> PathBuf {
        self.kill_all();
        self.directory.take().unwrap().keep()
    }

    /// Sets a key of the configuration, by its environment name, for what is started later.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
    }

    /// The same for one node only.
    pub fn set_for(&mut self, node: usize, key: &str, value: &str) {
        self.node_mut(node)
            .settings
            .insert(key.to_owned(), value.to_owned());
    }

    /// A node, by its number from 1.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    /// The numbers of all nodes.
    pub fn numbers(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.nodes.len()
    }

    // ---- processes ----

    /// Starts every node.
    pub fn start_all(&mut self) {
        for number in self.numbers() {
            self.start(number);
        }
    }

    /// Starts a node's three processes.
    pub fn start(&mut self, number: usize) {
        for process in PROCESSES {
            self.start_process(number, process);
        }
    }

    /// Starts one process of a node.
    pub fn start_process(&mut self, number: usize, process: Process) {
        let child = self.command(number, process).spawn().unwrap();
        let before = self.node_mut(number).processes.insert(process, child);
        assert!(
            before.is_none(),
            "{process:?} of node {number} runs already"
        );
    }

    /// The command that starts a process, with its output going to the node's files.
    pub fn command(&self, number: usize, process: Process) -> Command {
        let node = self.node(number);
        let introducer = self.node(1).ip.to_string();
        let log = || {
            File::options()
                .create(true)
                .append(true)
                .open(node.log(process))
                .unwrap()
        };
        let mut command = Command::new(program(process.binary()));
        for (name, _) in std::env::vars() {
            if name.starts_with("LEEKY_") || ["CONFIG", "INTRODUCER", "CLIENT"].contains(&&*name) {
                command.env_remove(name);
            }
        }
        command
            .env("LEEKY_DATA_DIR", &node.data)
            .env("LEEKY_NAME", &node.name)
            .env("LEEKY_BIND_IP", node.ip.to_string())
            .env("LEEKY_INTRODUCERS", introducer)
            .env(
                "LEEKY_INTRODUCER",
                if number == 1 { "true" } else { "false" },
            )
            .envs(&self.settings)
            .envs(&node.settings)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log());
        command
    }

    /// `kill -9` for all of a node's processes.
    pub fn kill(&mut self, number: usize) {
        for process in PROCESSES {
            self.kill_process(number, process);
        }
    }

    /// `kill -9` for every node, as fast as it goes: a power cut, but for what the kernel holds.
    pub fn kill_all(&mut self) {
        for node in &self.nodes {
            for child in node.processes.values() {
                let _ = kill_process(Pid::from_child(child), Signal::KILL);
            }
        }
        for number in self.numbers() {
            self.kill(number);
        }
    }

    /// `kill -9` for one process.
    pub fn kill_process(&mut self, number: usize, process: Process) {
        if let Some(mut child) = self.node_mut(number).processes.remove(&process) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal to all of a node's processes: [`Signal::STOP`] pauses it, [`Signal::CONT`]
    /// lets it go on.
    pub fn signal(&self, number: usize, signal: Signal) {
        for child in self.node(number).processes.values() {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    }

    /// SIGTERM for one process; waits for its end.
    pub fn terminate(&mut self, number: usize, process: Process, within: Duration) -> ExitStatus {
        let child = self.node(number).processes.get(&process).unwrap();
        kill_process(Pid::from_child(child), Signal::TERM).unwrap();
        self.exited(number, process, within)
    }

    /// Waits for the end of a process that ends by itself.
    pub fn exited(&mut self, number: usize, process: Process, within: Duration) -> ExitStatus {
        let mut child = self.node_mut(number).processes.remove(&process).unwrap();
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{process:?} of node {number} did not end within {within:?}");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether a process still runs.
    pub fn runs(&mut self, number: usize, process: Process) -> bool {
        match self.node_mut(number).processes.get_mut(&process) {
            Some(child) => child.try_wait().unwrap().is_none(),
            None => false,
        }
    }

    // ---- calls ----

    /// Where a node's `raft` listens.
    pub fn address(&self, number: usize) -> SocketAddr {
        SocketAddr::from((self.node(number).ip, 6004))
    }

    /// All of them, as `raft-client --endpoints` takes them.
    pub fn endpoints(&self) -> String {
        let addresses: Vec<String> = self
            .numbers()
            .map(|number| self.address(number).to_string())
            .collect();
        addresses.join(",")
    }

    /// Runs something asynchronous.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A channel to a node, opened at the first call.
    pub fn channel(&self, number: usize) -> Channel {
        let _guard = self.runtime.enter();
        Endpoint::from_shared(format!("http://{}", self.address(number)))
            .unwrap()
            .connect_timeout(Duration::from_secs(1))
            .timeout(CALL)
            .connect_lazy()
    }

    /// A client of one node.
    pub fn client(&self, number: usize) -> RaftClient<Channel> {
        RaftClient::new(self.channel(number))
    }

    /// The node's own view. None: it does not answer.
    pub fn status(&self, number: usize) -> Option<StatusReply> {
        let mut client = self.client(number);
        self.block_on(async move {
            let asked = tokio::time::timeout(CALL, client.status(pb::StatusRequest {}));
            Some(asked.await.ok()?.ok()?.into_inner())
        })
    }

    /// Puts one entry through one node, outside of any session.
    pub fn put(&self, number: usize, entry: &str) -> Result<pb::PutEntryReply, tonic::Status> {
        let request = pb::PutEntryRequest {
            entry: entry.to_owned().into(),
            timeout_ms: 4000,
            ..pb::PutEntryRequest::default()
        };
        let mut client = self.client(number);
        self.block_on(async move { Ok(client.put_entry(request).await?.into_inner()) })
    }

    /// Asks one node, linearizably unless `stale`.
    pub fn query(
        &self,
        number: usize,
        query: &str,
        stale: bool,
    ) -> Result<pb::QueryReply, tonic::Status> {
        let request = pb::QueryRequest {
            query: query.to_owned().into(),
            stale,
            timeout_ms: 4000,
            ..pb::QueryRequest::default()
        };
        let mut client = self.client(number);
        self.block_on(async move { Ok(client.query(request).await?.into_inner()) })
    }

    /// Runs `raft-client` against all nodes.
    pub fn raft_client(&self, words: &[&str]) -> Output {
        Command::new(program("raft-client"))
            .env("RAFT_ENDPOINTS", self.endpoints())
            .args(words)
            .output()
            .unwrap()
    }

    /// What `raft-client` prints; it must succeed.
    pub fn says(&self, words: &[&str]) -> String {
        let output = self.raft_client(words);
        assert!(output.status.success(), "raft-client {words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    // ---- conditions ----

    /// Waits until `condition` gives something.
    pub fn eventually<T>(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut(&Cluster) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = condition(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {within:?}: {what}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until every node that runs sees the same leader and so many voters, outside of any
    /// change. Returns the leader's number.
    pub fn wait_for_voters(&self, voters: usize, within: Duration) -> usize {
        self.eventually(
            &format!("{voters} voters and a leader"),
            within,
            |cluster| {
                let mut leaders = Vec::new();
                for node in cluster.nodes.iter().filter(|node| node.is_up()) {
                    let status = cluster.status(node.number())?;
                    let counted = status
                        .nodes
                        .iter()
                        .filter(|n| n.standing == "voter")
                        .count();
                    if status.joint || counted != voters || status.cluster_id.is_empty() {
                        return None;
                    }
                    leaders.push(status.leader?.node_id);
                }
                leaders.dedup();
                match &leaders[..] {
                    [leader] => cluster.number_of(leader),
                    _ => None,
                }
            },
        )
    }

    /// Waits for a leader that a node of `among` sees, other than `not`.
    pub fn wait_for_leader(&self, among: &[usize], not: Option<usize>, within: Duration) -> usize {
        self.eventually("a leader", within, |cluster| {
            among.iter().find_map(|number| {
                let status = cluster.status(*number)?;
                (status.role == "leader" && Some(*number) != not).then_some(*number)
            })
        })
    }

    /// Waits until the nodes have applied everything up to the same index, and that is no less than
    /// `index`.
    pub fn wait_for_applied(&self, among: &[usize], index: u64, within: Duration) {
        self.eventually(&format!("everybody applied {index}"), within, |cluster| {
            let applied: Option<Vec<u64>> = among
                .iter()
                .map(|n| Some(cluster.status(*n)?.applied_index))
                .collect();
            let applied = applied?;
            let same = applied.iter().all(|one| *one == applied[0]);
            (same && applied[0] >= index).then_some(())
        });
    }

    /// The number of the node with that id, as it says itself.
    pub fn number_of(&self, node_id: &[u8]) -> Option<usize> {
        self.numbers().find(|number| {
            self.node(*number).is_up()
                && self
                    .status(*number)
                    .and_then(|status| status.node)
                    .is_some_and(|node| node.node_id == node_id)
        })
    }

    /// What a process has said so far.
    pub fn log(&self, number: usize, process: Process) -> String {
        std::fs::read_to_string(self.node(number).log(process)).unwrap_or_default()
    }
}

impl Node {
    /// Whether its `raft` was started and not killed.
    pub fn is_up(&self) -> bool {
        self.processes.contains_key(&Process::Raft)
    }

    fn number(&self) -> usize {
        usize::from(self.ip.octets()[3])
    }

    /// The process's id.
    pub fn pid(&self, process: Process) -> Option<u32> {
        self.processes.get(&process).map(Child::id)
    }

    fn log(&self, process: Process) -> PathBuf {
        self.data
            .with_extension(process.binary())
            .with_extension(format!("{}.log", process.binary()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in self.numbers() {
            // A paused process dies of SIGKILL too.
            self.kill(number);
        }
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            let kept = directory.keep();
            eprintln!("the nodes' folders and logs stay in {}", kept.display());
        }
    }
}

/// A subnet of loopback addresses that nobody uses now. Tests run side by side, in one process and
/// in several.
fn free_subnet() -> (u8, u8) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let draw = std::process::id()
            .wrapping_mul(2_654_435_761)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(40_503));
        let subnet = (
            u8::try_from(100 + (draw >> 8) % 100).unwrap(),
            (draw % 250) as u8,
        );
        let first = Ipv4Addr::new(127, subnet.0, subnet.1, 1);
        // The member's port too: a cluster that was just killed may still hold one of them.
        if [6000, 6004]
            .iter()
            .all(|port| TcpListener::bind((first, *port)).is_ok())
        {
            return subnet;
        }
    }
    panic!("no free subnet of loopback addresses");
}
