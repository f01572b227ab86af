//! Real daemons on addresses of the loopback network.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::transport::Channel;
use wire::member::membership_client::MembershipClient;
use wire::member::{
    AnnounceRequest, LeaveRequest, MemberState, SelfReply, SelfRequest, WatchRequest,
};

const GOSSIP_PORT: u16 = 6000;
const HTTP_PORT: u16 = 6001;
const RPC_PORT: u16 = 6002;
/// Everything here takes milliseconds, unless other programs keep the machine busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// The nodes of one test: each test has a network of its own, 127.61.x.0.
struct Nodes {
    network: u8,
    folder: TempDir,
}

struct Daemon {
    child: Child,
    ip: String,
    log: PathBuf,
}

impl Nodes {
    fn new(network: u8) -> Self {
        Self {
            network,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn ip(&self, number: u8) -> String {
        format!("127.61.{}.{number}", self.network)
    }

    fn data_dir(&self, number: u8) -> PathBuf {
        self.folder.path().join(format!("n{number}"))
    }

    /// Timers are five times faster than the defaults.
    fn command(&self, number: u8, settings: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_member"));
        command.env_remove("CONFIG");
        let own = [
            format!("DataDir={}", self.data_dir(number).display()),
            format!("BindIp={}", self.ip(number)),
            format!("Name=n{number}"),
            format!("Introducers={}", self.ip(1)),
            "GossipInterval=200".to_owned(),
            "FailTimeout=1200".to_owned(),
            "CleanupTimeout=2400".to_owned(),
            "LogLevel=info,member=debug".to_owned(),
        ];
        for setting in own
            .iter()
            .map(String::as_str)
            .chain(settings.iter().copied())
        {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null());
        command
    }

    fn start(&self, number: u8, settings: &[&str]) -> Daemon {
        let log = self.folder.path().join(format!("n{number}.log"));
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut command = self.command(number, settings);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Daemon {
            child: command.spawn().unwrap(),
            ip: self.ip(number),
            log,
        }
    }

    /// Runs a daemon that is expected to end by itself; gives its exit code and what it said.
    fn run(&self, number: u8, settings: &[&str]) -> (Option<i32>, String) {
        let output = self.command(number, settings).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Daemon {
    async fn client(&self) -> MembershipClient<Channel> {
        let address = format!("http://{}:{RPC_PORT}", self.ip);
        let begin = Instant::now();
        loop {
            match MembershipClient::connect(address.clone()).await {
                Ok(client) => return client,
                Err(error) if begin.elapsed() > PATIENCE => panic!("{error}\n{}", self.story()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn myself(&self) -> SelfReply {
        self.client()
            .await
            .self_(SelfRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    /// Waits until what the daemon shows fulfils the condition.
    async fn until(&self, what: &str, condition: impl Fn(&SelfReply) -> bool) -> SelfReply {
        let mut watch = self
            .client()
            .await
            .watch(WatchRequest {})
            .await
            .unwrap()
            .into_inner();
        let wait = async {
            loop {
                let reply = watch.message().await.unwrap().expect("the stream goes on");
                if condition(&reply) {
                    return reply;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(reply) => reply,
            Err(_) => panic!("not seen: {what}\n{}", self.story()),
        }
    }

    async fn until_logged(&self, text: &str) {
        let begin = Instant::now();
        while !self.log().contains(text) {
            assert!(
                begin.elapsed() < PATIENCE,
                "{text:?} not in the log:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The log for people who have to find out why a test failed.
    fn story(&self) -> String {
        let log = self.log();
        let lines = log.lines().filter(|line| !line.contains("[HEARTBEAT]"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "it does not end\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect((self.ip.as_str(), HTTP_PORT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// CPU time used so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn count(reply: &SelfReply, state: MemberState) -> usize {
    reply
        .member_map
        .iter()
        .filter(|member| member.state() == state)
        .count()
}

fn state_of(reply: &SelfReply, name: &str) -> Option<MemberState> {
    reply
        .member_map
        .iter()
        .find(|member| member.name == name)
        .map(|member| member.state())
}

#[tokio::test]
async fn three_daemons_find_a_death_and_take_the_dead_one_back() {
    let nodes = Nodes::new(1);
    let first = nodes.start(1, &[]);
    let second = nodes.start(2, &[]);
    let mut third = nodes.start(3, &[]);
    for daemon in [&first, &second, &third] {
        let reply = daemon
            .until("3 alive", |r| r.joined && count(r, MemberState::Alive) == 3)
            .await;
        assert_eq!(reply.m, 64);
        assert_eq!(reply.node_id.len(), 16);
        assert_eq!(reply.boot_epoch, 1);
        assert_eq!(reply.finger_table.len(), 64);
        let pids: Vec<u64> = reply.member_map.iter().map(|member| member.pid).collect();
        assert!(pids.is_sorted(), "ring order");
        let ips: Vec<&str> = reply
            .member_map
            .iter()
            .map(|member| member.ip.as_str())
            .collect();
        assert!(
            (1..=3).all(|n| ips.contains(&nodes.ip(n).as_str())),
            "{ips:?}"
        );
    }
    assert!(first.myself().await.first_introducer);
    assert!(!second.myself().await.first_introducer);
    let third_id = third.myself().await.node_id;

    third.kill();
    let (died, died_too) = tokio::join!(
        first.until("n3 dead", |r| state_of(r, "n3") == Some(MemberState::Dead)),
        second.until("n3 dead", |r| state_of(r, "n3") == Some(MemberState::Dead)),
    );
    assert!(died.suspicion_map.is_empty() && died_too.suspicion_map.is_empty());
    for daemon in [&first, &second] {
        daemon
            .until("n3 hidden", |r| state_of(r, "n3").is_none())
            .await;
    }

    // Back without any introducer: the members of the run before are enough.
    let third = nodes.start(3, &["Introducers=127.61.1.250"]);
    let reply = third
        .until("3 alive", |r| count(r, MemberState::Alive) == 3)
        .await;
    assert_eq!((reply.node_id, reply.boot_epoch), (third_id, 2));
    third.until("rejoin", |r| r.rejoin).await;
    for daemon in [&first, &second] {
        daemon
            .until("3 alive", |r| count(r, MemberState::Alive) == 3)
            .await;
    }
    for name in [
        "[ONLINE]",
        "[JOIN]",
        "Identified as rejoin",
        "[JOINREPLY] sent",
        "[HEARTBEAT]",
        "[SUSPECT]",
        "[FAILURE]",
        "[FAILURECLEAN]",
        "[RPC]",
    ] {
        let lines = first.log() + &second.log();
        assert!(
            lines.contains(&format!("[MEMBER] {name}")) || lines.contains(name),
            "{name}"
        );
    }
    third.until_logged("[JOINREPLY] received").await;
    third.until_logged("[REJOIN]").await;
}

#[tokio::test]
async fn nothing_that_arrives_ends_a_daemon() {
    let nodes = Nodes::new(2);
    let mut first = nodes.start(1, &[]);
    let second = nodes.start(2, &[]);
    first
        .until("2 alive", |r| count(r, MemberState::Alive) == 2)
        .await;

    let socket = UdpSocket::bind("127.61.2.9:0").unwrap();
    let gossip: SocketAddr = format!("{}:{GOSSIP_PORT}", first.ip).parse().unwrap();
    let mut dice = 0x9e37_79b9_u64;
    let mut random_bytes = |length: usize| -> Vec<u8> {
        std::iter::repeat_with(|| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 56) as u8
        })
        .take(length)
        .collect()
    };
    for datagram in ["", "x", "1", "2", "3", "3//junk", "2//5//1", "9"] {
        socket.send_to(datagram.as_bytes(), gossip).unwrap();
    }
    for length in 0..1500 {
        let mut bytes = random_bytes(length);
        if length % 2 == 0 && length > 4 {
            bytes[..3].copy_from_slice(b"LR\x01");
        }
        socket.send_to(&bytes, gossip).unwrap();
    }
    for port in [HTTP_PORT, RPC_PORT] {
        for length in [1, 24, 1000, 100_000] {
            let mut stream = TcpStream::connect((first.ip.as_str(), port)).unwrap();
            // The daemon may hang up in the middle.
            let _ = stream.write_all(&random_bytes(length));
        }
        let mut preface = TcpStream::connect((first.ip.as_str(), port)).unwrap();
        let _ = preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let _ = preface.write_all(&random_bytes(5000));
    }
    assert!(first.http("GET /livez HTTP/1.0\r\n\r\n").contains("200 OK"));
    assert_eq!(count(&first.myself().await, MemberState::Alive), 2);
    assert!(
        first.child.try_wait().unwrap().is_none(),
        "still the same process"
    );
    first.until_logged("[NOACTION]").await;
    let lines = first.log().matches("[NOACTION]").count();
    assert!(
        lines < 100,
        "{lines} lines: a flood of packets must not flood the log"
    );
    let metrics = first.http("GET /metrics HTTP/1.0\r\n\r\n");
    // The socket may drop a part of the flood.
    let refused = metrics
        .lines()
        .find(|line| line.contains("refused_total{reason=\"malformed\"}"));
    let refused: u64 = refused
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(refused > 50, "{metrics}");
    assert!(
        metrics.contains("leeky_member_members{state=\"alive\"} 2"),
        "{metrics}"
    );
    drop(second);
}

#[tokio::test]
async fn a_daemon_without_free_descriptors_gossips_on_and_recovers() {
    let nodes = Nodes::new(12);
    let mut first = nodes.start(1, &[]);
    let second = nodes.start(2, &[]);
    first
        .until("2 alive", |r| count(r, MemberState::Alive) == 2)
        .await;
    let pid = rustix::process::Pid::from_child(&first.child);
    let few = rustix::process::Rlimit {
        current: Some(30),
        maximum: Some(30),
    };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, few).unwrap();
    let connect = |port: u16| TcpStream::connect((first.ip.as_str(), port)).unwrap();
    let hoard: Vec<TcpStream> = (0..80)
        .map(|n| connect([HTTP_PORT, RPC_PORT][n % 2]))
        .collect();
    // More than two fail timeouts without a word by TCP.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let reply = second.myself().await;
    assert_eq!(count(&reply, MemberState::Alive), 2, "gossip goes on");
    drop(hoard);
    assert_eq!(count(&first.myself().await, MemberState::Alive), 2);
    assert!(first.child.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn a_second_daemon_on_one_data_directory_is_refused() {
    let nodes = Nodes::new(3);
    let first = nodes.start(1, &[]);
    let id = first.myself().await.node_id;
    let (code, said) = nodes.run(1, &["BindIp=127.61.3.9"]);
    assert_eq!(code, Some(1));
    let folder = nodes.data_dir(1).join("member");
    assert!(
        said.contains("already runs on") && said.contains(folder.to_str().unwrap()),
        "{said}"
    );
    assert_eq!(first.myself().await.node_id, id, "the first one goes on");
}

#[tokio::test]
async fn what_cannot_start_says_why_in_one_sentence() {
    let nodes = Nodes::new(4);
    let (code, said) = nodes.run(1, &["DataDir=/dev/null/data"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("/dev/null/data/member") && said.contains("DataDir"),
        "{said}"
    );
    assert_eq!(said.trim().lines().count(), 1, "{said}");

    let _taken = UdpSocket::bind((nodes.ip(2), GOSSIP_PORT)).unwrap();
    let (code, said) = nodes.run(2, &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("127.61.4.2:6000") && said.contains("MemberGossipPort"),
        "{said}"
    );

    let (code, said) = nodes.run(3, &["GosipInterval=1"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("GossipInterval"), "the nearest name: {said}");

    std::fs::create_dir_all(nodes.data_dir(4).join("member")).unwrap();
    std::fs::write(
        nodes.data_dir(4).join("member/identity.json"),
        "{\"node_id\": \"12",
    )
    .unwrap();
    let (code, said) = nodes.run(4, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("identity.json is damaged"), "{said}");
}

#[tokio::test]
async fn a_retired_node_starts_anew_and_keeps_its_old_folder_aside() {
    let nodes = Nodes::new(5);
    let mut daemon = nodes.start(1, &[]);
    let old = daemon.myself().await.node_id;
    daemon.kill();

    // A marker that names somebody else is nobody's business.
    let marker = nodes.data_dir(1).join("retired");
    std::fs::write(&marker, format!("{:032x}\n", 7)).unwrap();
    let mut daemon = nodes.start(1, &[]);
    assert_eq!(daemon.myself().await.node_id, old);
    daemon.kill();

    let hex: String = old.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&marker, format!("{hex}\n")).unwrap();
    let daemon = nodes.start(1, &[]);
    let reply = daemon.myself().await;
    assert_ne!(reply.node_id, old);
    assert_eq!(reply.boot_epoch, 1);
    let aside = nodes
        .data_dir(1)
        .join(format!("member.retired-{}", &hex[..8]));
    assert!(read(&aside.join("identity.json")).contains(&hex));
    assert!(marker.exists(), "raft needs the marker too");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn a_leave_by_rpc_is_heard_and_ends_the_daemon() {
    let nodes = Nodes::new(6);
    let first = nodes.start(1, &[]);
    let second = nodes.start(2, &[]);
    let mut third = nodes.start(3, &[]);
    first
        .until("3 alive", |r| count(r, MemberState::Alive) == 3)
        .await;
    third
        .until("3 alive", |r| count(r, MemberState::Alive) == 3)
        .await;
    let reply = third
        .client()
        .await
        .leave(LeaveRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.acknowledged, 2);
    assert_eq!(third.exit_code().await, Some(0));
    for daemon in [&first, &second] {
        daemon
            .until("n3 left", |r| state_of(r, "n3") == Some(MemberState::Left))
            .await;
        assert!(daemon.log().contains("[MEMBER] [LEAVE] n3"));
        assert!(!daemon.log().contains("[FAILURE]"));
    }
}

#[tokio::test]
async fn sigterm_is_quick_and_silent_unless_leaving_is_configured() {
    let nodes = Nodes::new(7);
    let first = nodes.start(1, &[]);
    let mut silent = nodes.start(2, &[]);
    let mut polite = nodes.start(3, &["LeaveOnTerminate=true"]);
    // Somebody watches them, which must not hold them up.
    let mut watch = silent
        .client()
        .await
        .watch(WatchRequest {})
        .await
        .unwrap()
        .into_inner();
    first
        .until("3 alive", |r| count(r, MemberState::Alive) == 3)
        .await;
    polite
        .until("3 alive", |r| count(r, MemberState::Alive) == 3)
        .await;
    let begin = Instant::now();
    silent.terminate();
    assert_eq!(silent.exit_code().await, Some(0));
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    while let Ok(Some(_)) = watch.message().await {}
    first
        .until("n2 dead", |r| state_of(r, "n2") == Some(MemberState::Dead))
        .await;
    polite.terminate();
    assert_eq!(polite.exit_code().await, Some(0));
    first
        .until("n3 left", |r| state_of(r, "n3") == Some(MemberState::Left))
        .await;
    first.until_logged("[ORPHANED]").await;
}

#[tokio::test]
async fn what_raft_announces_is_seen_by_the_others() {
    let nodes = Nodes::new(8);
    let first = nodes.start(1, &[]);
    let second = nodes.start(2, &[]);
    first
        .until("2 alive", |r| count(r, MemberState::Alive) == 2)
        .await;
    let mut client = second.client().await;
    let announce = |raft_port, cluster_id: Vec<u8>| AnnounceRequest {
        raft_port,
        cluster_id: cluster_id.into(),
    };
    client.announce(announce(6004, Vec::new())).await.unwrap();
    let reply = first
        .until("announced", |r| {
            r.member_map.iter().any(|m| m.raft_announced)
        })
        .await;
    let member = reply
        .member_map
        .iter()
        .find(|member| member.name == "n2")
        .unwrap();
    assert!(member.raft_announced && member.raft_port == 6004 && member.cluster_id.is_empty());
    client.announce(announce(6004, vec![7; 16])).await.unwrap();
    let bound = |r: &SelfReply| r.member_map.iter().any(|m| m.cluster_id == vec![7; 16]);
    let later = first.until("bound", bound).await;
    assert!(later.view_version > reply.view_version);
    for wrong in [
        announce(0, Vec::new()),
        announce(70_000, Vec::new()),
        announce(1, vec![1; 3]),
    ] {
        let refused = client.announce(wrong).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}

#[tokio::test]
async fn two_daemons_with_one_identity_raise_an_alarm() {
    let nodes = Nodes::new(9);
    let first = nodes.start(1, &[]);
    let mut second = nodes.start(2, &[]);
    first
        .until("2 alive", |r| count(r, MemberState::Alive) == 2)
        .await;
    second.kill();
    let copy = nodes.data_dir(3).join("member");
    std::fs::create_dir_all(&copy).unwrap();
    let identity = "identity.json";
    std::fs::copy(
        nodes.data_dir(2).join("member").join(identity),
        copy.join(identity),
    )
    .unwrap();
    let second = nodes.start(2, &[]);
    second
        .until("2 alive", |r| count(r, MemberState::Alive) == 2)
        .await;
    let third = nodes.start(3, &[]);
    second.until_logged("[COLLISION] another process").await;
    third.until_logged("[COLLISION] another process").await;
    let silent = |daemon: &Daemon| daemon.log().contains("this one is silent");
    assert!(
        silent(&second) != silent(&third),
        "exactly one of them is silent"
    );
}

/// A forged packet that says `record`, as anybody can send it.
fn forged(record: member_core::Record) -> Vec<u8> {
    let header = member_core::Header {
        sender: member_core::NodeId(9),
        incarnation: member_core::Incarnation::first_of(1),
        boot_nonce: 9,
        cluster_id: None,
        target: None,
        view_hash: 0,
    };
    let packet = member_core::Packet {
        header,
        body: member_core::Body::Delta,
        updates: vec![member_core::Update {
            record,
            accusers: std::collections::BTreeSet::new(),
        }],
    };
    packet.encode().unwrap()
}

#[tokio::test]
async fn forged_claims_of_a_daemon_leave_it_an_identity_with_which_it_starts_again() {
    let nodes = Nodes::new(13);
    let first = nodes.start(1, &[]);
    let mut second = nodes.start(2, &[]);
    first
        .until("2 alive", |r| count(r, MemberState::Alive) == 2)
        .await;
    let node_id = second.myself().await.node_id;
    let socket = UdpSocket::bind("127.61.13.9:0").unwrap();
    let gossip: SocketAddr = format!("{}:{GOSSIP_PORT}", second.ip).parse().unwrap();
    let highest = 1 + member_core::MAX_EPOCH_LEAP;
    for epoch in [member_core::MAX_BOOT_EPOCH, highest + 1, highest] {
        let record = member_core::Record {
            node_id: member_core::NodeId(u128::from_be_bytes(node_id[..].try_into().unwrap())),
            incarnation: member_core::Incarnation::first_of(epoch),
            state: member_core::State::Dead,
            metadata: member_core::Metadata {
                boot_nonce: 666,
                address: "127.61.13.8:6000".parse().unwrap(),
                raft_port: 0,
                raft_announced: false,
                name: "n2".to_owned(),
                cluster_id: None,
            },
        };
        socket.send_to(&forged(record), gossip).unwrap();
    }
    second
        .until("the believable one followed", |r| {
            r.boot_epoch == u64::from(highest)
        })
        .await;
    second.until_logged("refused a claim").await;
    second.kill();
    let identity = nodes.data_dir(2).join("member").join("identity.json");
    let identity = std::fs::read_to_string(identity).unwrap();
    let durable = format!("\"boot_epoch\": {highest}");
    assert!(identity.contains(&durable), "{identity}");
    let second = nodes.start(2, &[]);
    let reply = second
        .until("2 alive", |r| count(r, MemberState::Alive) == 2)
        .await;
    assert_eq!(reply.node_id, node_id);
    assert_eq!(reply.boot_epoch, u64::from(highest) + 1);
    first
        .until("2 alive, one restarted", |r| {
            let is_new = |n: &wire::member::MemberNode| {
                n.node_id == node_id && n.incarnation >> 32 == u64::from(highest) + 1
            };
            count(r, MemberState::Alive) == 2 && r.member_map.iter().any(is_new)
        })
        .await;
}

#[tokio::test]
async fn the_log_level_changes_while_it_runs() {
    let nodes = Nodes::new(10);
    let daemon = nodes.start(1, &["LogLevel=warn"]);
    daemon.myself().await;
    let put = |body: &str| {
        let length = body.len();
        format!("PUT /log-level HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    assert!(!daemon.log().contains("[RPC]"));
    assert!(daemon.http(&put("debug")).contains("200 OK"));
    daemon.myself().await;
    daemon.until_logged("[RPC] Self").await;
    assert!(daemon.http(&put("member=loud")).contains("400 Bad Request"));
}

#[tokio::test]
async fn an_idle_daemon_uses_almost_no_cpu() {
    let nodes = Nodes::new(11);
    // With the default timers.
    let settings = [
        "GossipInterval=1000",
        "FailTimeout=6000",
        "CleanupTimeout=12000",
        "LogLevel=info",
    ];
    let daemons: Vec<Daemon> = (1..=5).map(|n| nodes.start(n, &settings)).collect();
    for daemon in &daemons {
        daemon
            .until("5 alive", |r| count(r, MemberState::Alive) == 5)
            .await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before: Vec<Duration> = daemons.iter().map(Daemon::cpu).collect();
    let time = Duration::from_secs(10);
    tokio::time::sleep(time).await;
    for (daemon, before) in daemons.iter().zip(before) {
        let used = daemon.cpu() - before;
        assert!(
            used < time / 50,
            "{used:?} of CPU in {time:?}\n{}",
            daemon.log()
        );
        eprintln!("{}: {used:?} of CPU in {time:?}", daemon.ip);
    }
}
