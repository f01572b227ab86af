//! The program under test, started as a node starts it, and a client that is the daemon's part.

use std::ffi::OsStr;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tonic::Status;
use tonic::transport::Channel;
use wire::state_machine::entry::Payload;
use wire::state_machine::state_machine_client::StateMachineClient;
use wire::state_machine::{
    Empty, Entry, ExecuteReply, ExecuteRequest, HandshakeReply, HandshakeRequest, OutcomeKind,
    QueryReply, QueryRequest,
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_state-machine");
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const CLUSTER: u128 = 0xc1;
pub const NODE: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
const PORT: u16 = 6005;

pub type Client = StateMachineClient<Channel>;

/// Each machine has a loopback address of its own: the tests of this program run side by side.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, 62, own, 1), PORT))
}

pub fn program(data: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear();
    command.args(["--set", &format!("DataDir={}", data.display())]);
    command.args(["--set", &format!("BindIp={}", address.ip())]);
    command
}

/// The program with its data on a tmpfs of its own, in namespaces of its own, if that may be had.
pub fn on_a_disk_of(bytes: usize, data: &Path, address: SocketAddr) -> Option<Command> {
    let inside = |words: &mut dyn Iterator<Item = &OsStr>| {
        let script = format!(r#"mount -t tmpfs -o size={bytes} tmpfs "$0" && exec "$@""#);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        command.arg(data).args(words);
        command
    };
    let probe = inside(&mut ["true".as_ref()].into_iter()).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let outside = program(data, address);
    Some(inside(
        &mut std::iter::once(PROGRAM.as_ref()).chain(outside.get_args()),
    ))
}

/// A running process; killed when the test is done with it, however that comes about.
pub struct Process(pub Child);

impl Process {
    pub fn kill_9(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM, and what the process made of it.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.ended()
    }

    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn start(data: &Path, address: SocketAddr) -> (Process, Client) {
    start_command(program(data, address), address).await
}

pub async fn start_command(mut command: Command, address: SocketAddr) -> (Process, Client) {
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match StateMachineClient::connect(format!("http://{address}")).await {
            Ok(client) => return (process, client.max_decoding_message_size(64 << 20)),
            Err(error) => {
                if let Some(status) = process.0.try_wait().unwrap() {
                    panic!("{status}: {}", process.stderr());
                }
                assert!(Instant::now() < deadline, "{error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn hello(epoch: u64) -> HandshakeRequest {
    HandshakeRequest {
        protocol_min: 1,
        protocol_max: 1,
        cluster_id: wire::id_bytes(CLUSTER),
        node_id: wire::id_bytes(NODE),
        epoch,
    }
}

pub async fn handshake(client: &mut Client, epoch: u64) -> HandshakeReply {
    client.handshake(hello(epoch)).await.unwrap().into_inner()
}

/// A batch in term 1 that begins at `first`; no bytes stand for an entry without a command.
pub fn batch(epoch: u64, first: u64, commands: &[&[u8]]) -> ExecuteRequest {
    let entries = (first..).zip(commands).map(|(index, command)| {
        let payload = if command.is_empty() {
            Payload::Empty(Empty {})
        } else {
            Payload::Command(command.to_vec().into())
        };
        Entry {
            index,
            term: 1,
            log_time_ms: 0,
            payload: Some(payload),
        }
    });
    ExecuteRequest {
        epoch,
        results_floor: 0,
        entries: entries.collect(),
    }
}

pub async fn execute(
    client: &mut Client,
    epoch: u64,
    first: u64,
    commands: &[&[u8]],
) -> Result<ExecuteReply, Status> {
    client
        .execute(batch(epoch, first, commands))
        .await
        .map(tonic::Response::into_inner)
}

pub async fn query(client: &mut Client, epoch: u64, query: &[u8]) -> QueryReply {
    let call = QueryRequest {
        epoch,
        min_index: 0,
        query: query.to_vec().into(),
    };
    client.query(call).await.unwrap().into_inner()
}

/// Waits until the process reports that everything up to `index` is on disk.
pub async fn synced(client: &mut Client, epoch: u64, index: u64) {
    let deadline = Instant::now() + PATIENCE;
    // An empty batch changes nothing and is answered with how far the disk is.
    while execute(client, epoch, index + 1, &[])
        .await
        .unwrap()
        .durable_index
        < index
    {
        assert!(Instant::now() < deadline, "never synced");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn outcomes(reply: &ExecuteReply) -> Vec<(OutcomeKind, &str)> {
    let text = |data| std::str::from_utf8(data).unwrap();
    reply
        .outcomes
        .iter()
        .map(|outcome| (outcome.kind(), text(&outcome.data)))
        .collect()
}

#[track_caller]
pub fn assert_failed(output: &Output, sentence: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("[STATEMACHINE]") && stderr.contains(sentence),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// Bytes that mean nothing, the same every time.
pub fn junk(length: u32) -> Vec<u8> {
    (0..length)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect()
}
