//! The handshake and the replay: whatever height a state machine comes back with, and whatever crashed at
//! whichever moment, every entry is applied once, in order, and a retry is told what came of the first
//! (P1, P2, S1). The state machine here is a script: it crashes when it is told to, and comes back as of
//! the height that it is told, as one does that has lost what it had not synced.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::raft as raft_pb;
use wire::state_machine::state_machine_server::{StateMachine, StateMachineServer};
use wire::state_machine::{self as pb, entry::Payload};

use crate::cluster::{Cluster, Process};
use crate::snapshots::{SOON, leader_of};

const FORMAT: &str = "history-1";

/// When the script crashes, or its daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Handshake,
    /// Nothing of the batch is applied.
    BeforeApply,
    /// All of it is, and nobody was told.
    AfterApply,
    /// Half of a snapshot was taken in; the state is as before.
    Restore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    StateMachine,
    Daemon,
    Both,
}

/// What the state machine comes back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Height {
    Empty,
    BelowSnapshot,
    AtSnapshot,
    AboveSnapshot,
    OneLess,
    All,
}

/// One entry that was applied, in order from index 1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Applied {
    term: u64,
    command: Option<Bytes>,
}

#[derive(Default)]
struct State {
    cluster: Bytes,
    history: Vec<Applied>,
    epoch: u64,
    nonce: u64,
    crash_at: Option<Moment>,
    restores: usize,
    wrong: Vec<String>,
}

/// Its service; every clone has the same state, which outlives the instances.
#[derive(Clone)]
struct Script {
    state: Arc<Mutex<State>>,
    crashed: Sender<()>,
}

impl Script {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// If this is the moment: says so, and never comes back. Whoever runs the script ends its process.
    async fn crash_if(&self, moment: Moment) {
        let now = {
            let mut state = self.state();
            let now = state.crash_at == Some(moment);
            if now {
                state.crash_at = None;
            }
            now
        };
        if now {
            self.crashed.send(()).unwrap();
            std::future::pending::<()>().await;
        }
    }
}

fn index_of(history: &[Applied]) -> u64 {
    history.len() as u64
}

/// What came of the entry at `index`: a retry must be told the same.
fn outcome(index: u64, command: Option<&Bytes>) -> pb::Outcome {
    let data = command.map(|_| Bytes::from(index.to_string()));
    pb::Outcome {
        index,
        kind: pb::OutcomeKind::Ok.into(),
        data: data.unwrap_or_default(),
    }
}

fn encode(history: &[Applied]) -> Bytes {
    let mut out = BytesMut::new();
    for applied in history {
        out.put_u64(applied.term);
        let command = applied.command.as_ref();
        out.put_u32(command.map_or(u32::MAX, |command| command.len() as u32));
        out.put_slice(command.map_or(&[], |command| &command[..]));
    }
    out.freeze()
}

fn decode(mut bytes: Bytes) -> Vec<Applied> {
    let mut history = Vec::new();
    while bytes.has_remaining() {
        let term = bytes.get_u64();
        let length = bytes.get_u32();
        let command = (length != u32::MAX).then(|| bytes.split_to(length as usize));
        history.push(Applied { term, command });
    }
    history
}

#[tonic::async_trait]
impl StateMachine for Script {
    async fn handshake(
        &self,
        request: Request<pb::HandshakeRequest>,
    ) -> Result<Response<pb::HandshakeReply>, Status> {
        self.crash_if(Moment::Handshake).await;
        let request = request.into_inner();
        let mut state = self.state();
        if request.epoch <= state.epoch {
            let wrong = format!("epoch {} after {}", request.epoch, state.epoch);
            state.wrong.push(wrong);
        }
        state.epoch = request.epoch;
        if state.cluster.is_empty() {
            state.cluster = request.cluster_id;
        }
        Ok(Response::new(pb::HandshakeReply {
            protocol: 1,
            nonce: state.nonce,
            applied_index: index_of(&state.history),
            applied_term: state.history.last().map_or(0, |last| last.term),
            durable: true,
            cluster_id: state.cluster.clone(),
            name: "script".to_owned(),
            snapshot_formats: vec![FORMAT.to_owned()],
            ..pb::HandshakeReply::default()
        }))
    }

    async fn execute(
        &self,
        request: Request<pb::ExecuteRequest>,
    ) -> Result<Response<pb::ExecuteReply>, Status> {
        self.crash_if(Moment::BeforeApply).await;
        let request = request.into_inner();
        let reply = {
            let mut state = self.state();
            if request.epoch != state.epoch {
                return Err(Status::aborted("an epoch of before"));
            }
            let mut outcomes = Vec::new();
            for entry in request.entries {
                let command = match entry.payload {
                    Some(Payload::Command(command)) => Some(command),
                    _ => None,
                };
                let term = entry.term;
                let applied = Applied { term, command };
                let known = index_of(&state.history);
                if entry.index <= known {
                    // It was sent before: as the very same, or something is wrong.
                    let before = &state.history[entry.index as usize - 1];
                    outcomes.push(outcome(entry.index, before.command.as_ref()));
                    if *before != applied {
                        let wrong = format!("entry {} was another one before", entry.index);
                        state.wrong.push(wrong);
                    }
                } else if entry.index == known + 1 {
                    outcomes.push(outcome(entry.index, applied.command.as_ref()));
                    state.history.push(applied);
                } else {
                    let wrong = format!("entry {} after {known}", entry.index);
                    state.wrong.push(wrong);
                    return Err(Status::failed_precondition("a gap"));
                }
            }
            let applied_index = index_of(&state.history);
            pb::ExecuteReply {
                epoch: request.epoch,
                nonce: state.nonce,
                outcomes,
                applied_index,
                durable_index: applied_index,
            }
        };
        self.crash_if(Moment::AfterApply).await;
        Ok(Response::new(reply))
    }

    type ExecuteStreamStream = ReceiverStream<Result<pb::ExecuteReply, Status>>;

    async fn execute_stream(
        &self,
        _: Request<Streaming<pb::ExecuteRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let wrong = "a stream of batches, which this one does not offer".to_owned();
        self.state().wrong.push(wrong);
        Err(Status::unimplemented("one by one"))
    }

    async fn query(
        &self,
        _: Request<pb::QueryRequest>,
    ) -> Result<Response<pb::QueryReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    type SnapshotStream = ReceiverStream<Result<pb::SnapshotChunk, Status>>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let state = self.state();
        let data = encode(&state.history);
        let chunk = pb::SnapshotChunk {
            index: index_of(&state.history),
            term: state.history.last().map_or(0, |last| last.term),
            chunk: 0,
            crc32c: crc32c::crc32c(&data),
            data,
            last: true,
        };
        sender.try_send(Ok(chunk)).unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn restore(
        &self,
        request: Request<Streaming<pb::RestoreChunk>>,
    ) -> Result<Response<pb::RestoreReply>, Status> {
        let mut chunks = request.into_inner();
        let mut bytes = BytesMut::new();
        let mut index = 0;
        while let Some(chunk) = chunks.message().await? {
            self.crash_if(Moment::Restore).await;
            index = chunk.index;
            bytes.extend_from_slice(&chunk.data);
        }
        let mut state = self.state();
        state.history = decode(bytes.freeze());
        state.restores += 1;
        if index_of(&state.history) != index {
            state
                .wrong
                .push(format!("a snapshot as of {index} is of another index"));
        }
        Ok(Response::new(pb::RestoreReply {
            applied_index: index,
        }))
    }

    type WatchStream = ReceiverStream<Result<pb::WatchReply, Status>>;

    async fn watch(
        &self,
        _: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nobody watches"))
    }
}

/// The instance before this one has closed its socket. But a child that this test binary has forked and
/// that has not become its program yet holds a copy of it, so the address may be taken for a moment.
async fn bind(address: std::net::SocketAddr) -> tokio::net::TcpListener {
    let free = async {
        loop {
            match tokio::net::TcpListener::bind(address).await {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                bound => return bound.unwrap(),
            }
        }
    };
    tokio::time::timeout(SOON, free)
        .await
        .expect("the address of the script becomes free")
}

/// The process of the script: ending its runtime is its kill -9.
struct Instance(Option<tokio::runtime::Runtime>);

impl Instance {
    fn start(cluster: &Cluster, node: usize, script: &Script) -> Instance {
        script.state().nonce += 1;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = std::net::SocketAddr::from((cluster.node(node).ip, 6005));
        let listener = runtime.block_on(bind(address));
        let service = StateMachineServer::new(script.clone()).max_decoding_message_size(64 << 20);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        runtime.spawn(server);
        Instance(Some(runtime))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Its connections are closed when this returns.
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

struct Scene {
    cluster: Cluster,
    /// The node whose state machine is the script.
    node: usize,
    script: Script,
    crashes: Receiver<()>,
    instance: Option<Instance>,
    /// Scripts beside the other nodes, which play no part.
    _others: Vec<Instance>,
    session: u64,
    sequence: u64,
    expected: Vec<Bytes>,
}

impl Scene {
    /// Beside the first of so many nodes.
    fn new(nodes: usize) -> Scene {
        let mut cluster = Cluster::new(nodes);
        for key in ["SNAPSHOT_BYTES", "SEGMENT_BYTES", "LOG_CACHE_BYTES"] {
            cluster.set(&format!("LEEKY_{key}"), "65536");
        }
        if nodes == 1 {
            cluster.set("LEEKY_FOUND_ALONE", "true");
        }
        let (crashed, crashes) = channel();
        let new = || Script {
            state: Arc::default(),
            crashed: crashed.clone(),
        };
        let (node, script) = (1, new());
        let instance = Instance::start(&cluster, node, &script);
        let others = cluster.numbers().filter(|number| *number != node);
        let others: Vec<Instance> = others
            .map(|number| Instance::start(&cluster, number, &new()))
            .collect();
        for number in cluster.numbers() {
            cluster.start_process(number, Process::Member);
            cluster.start_process(number, Process::Raft);
        }
        cluster.wait_for_voters(nodes, SOON);
        let leader = leader_of(&cluster);
        let request = raft_pb::RegisterSessionRequest::default();
        let registered = cluster.block_on(cluster.client(leader).register_session(request));
        let session = registered.unwrap().into_inner().session;
        Scene {
            cluster,
            node,
            script,
            crashes,
            instance: Some(instance),
            _others: others,
            session,
            sequence: 0,
            expected: Vec::new(),
        }
    }

    /// Puts the next command, again and again until it is acknowledged, and returns the outcome.
    fn put(&self, through: usize, sequence: u64) -> Bytes {
        let request = raft_pb::PutEntryRequest {
            entry: command(sequence),
            session: self.session,
            sequence,
            timeout_ms: 1_000,
            ..raft_pb::PutEntryRequest::default()
        };
        self.cluster
            .eventually(&format!("command {sequence} is done"), SOON, |cluster| {
                let mut client = cluster.client(through);
                let put = client.put_entry(request.clone());
                Some(cluster.block_on(put).ok()?.into_inner().data)
            })
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.expected.push(command(self.sequence));
        self.sequence
    }

    /// One cell of the matrix.
    fn play(&mut self, moment: Moment, actor: Actor, height: Height) {
        let through = match self.cluster.numbers().count() {
            1 => 1,
            _ => 2,
        };
        let cell = format!("{moment:?}, {actor:?}, {height:?}");
        // Something behind the snapshot.
        for _ in 0..2 {
            let sequence = self.next();
            self.put(through, sequence);
        }
        self.script.state().crash_at = Some(match moment {
            // These come about when the next instance is opened, or given a snapshot.
            Moment::Handshake | Moment::Restore => Moment::AfterApply,
            other => other,
        });
        let sequence = self.next();
        let (channel, session) = (self.cluster.channel(through), self.session);
        std::thread::scope(|scope| {
            let put = scope.spawn(move || put_until_done(channel, session, sequence));
            self.crash(actor, height);
            // A snapshot is given only to a state machine that lacks what it covers.
            let second = match moment {
                Moment::Handshake => true,
                Moment::Restore => needs_snapshot(height),
                _ => false,
            };
            if second {
                let restores = self.script.state().restores;
                self.script.state().crash_at = Some(moment);
                self.open(actor);
                self.crashes.recv_timeout(SOON).expect(&cell);
                self.end(actor);
                assert_eq!(self.script.state().restores, restores, "{cell}");
            }
            self.open(actor);
            put.join().unwrap();
        });
        // What was acknowledged is committed; not every node has heard so.
        let index = self.cluster.eventually("a status", SOON, |cluster| {
            let known = cluster.numbers().filter_map(|node| cluster.status(node));
            known.map(|status| status.commit_index).max()
        });
        // Not what the daemon knows to be applied: the state machine may be on its way there again.
        self.cluster
            .eventually("the script has all of it", SOON, |_| {
                let applied = index_of(&self.script.state().history);
                (applied >= index).then_some(())
            });
        self.check(&cell);
    }

    /// Waits for the moment, ends what is to end, and sets the height.
    fn crash(&mut self, actor: Actor, height: Height) {
        self.crashes
            .recv_timeout(SOON)
            .expect("it never came to the moment");
        let covered = self
            .cluster
            .status(self.node)
            .map_or(0, |status| status.snapshot_index);
        self.end(actor);
        let mut state = self.script.state();
        let all = state.history.len();
        let covered = covered as usize;
        let height = match height {
            Height::Empty => 0,
            Height::BelowSnapshot => covered.saturating_sub(1),
            Height::AtSnapshot => covered,
            Height::AboveSnapshot => covered + 1,
            Height::OneLess => all - 1,
            Height::All => all,
        };
        if actor != Actor::Daemon {
            state.history.truncate(height);
        }
    }

    fn end(&mut self, actor: Actor) {
        if actor != Actor::StateMachine {
            self.cluster.kill_process(self.node, Process::Raft);
        }
        // One that hangs is of no use to a new daemon either: it is ended as well, and keeps its state.
        drop(self.instance.take());
    }

    fn open(&mut self, actor: Actor) {
        self.instance = Some(Instance::start(&self.cluster, self.node, &self.script));
        if actor != Actor::StateMachine && !self.cluster.runs(self.node, Process::Raft) {
            self.cluster.start_process(self.node, Process::Raft);
        }
    }

    fn check(&self, cell: &str) {
        let state = self.script.state();
        assert_eq!(state.wrong, Vec::<String>::new(), "{cell}");
        let done = state
            .history
            .iter()
            .filter_map(|applied| applied.command.as_ref());
        let done: Vec<Bytes> = done.map(|command| command.slice(..20)).collect();
        let expected: Vec<Bytes> = self.expected.iter().map(|c| c.slice(..20)).collect();
        assert_eq!(done, expected, "{cell}");
    }
}

fn needs_snapshot(height: Height) -> bool {
    matches!(height, Height::Empty | Height::BelowSnapshot)
}

/// Unlike any other in its first 20 bytes, and long enough that a few are a snapshot.
fn command(sequence: u64) -> Bytes {
    format!("PUT key {sequence:012} {}", "x".repeat(6_000)).into()
}

fn put_until_done(channel: tonic::transport::Channel, session: u64, sequence: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let until = std::time::Instant::now() + SOON * 2;
    let mut client = raft_pb::raft_client::RaftClient::new(channel);
    loop {
        let request = raft_pb::PutEntryRequest {
            entry: command(sequence),
            session,
            sequence,
            timeout_ms: 2_000,
            ..raft_pb::PutEntryRequest::default()
        };
        match runtime.block_on(client.put_entry(request)) {
            Ok(_) => return,
            Err(status) => assert!(std::time::Instant::now() < until, "{sequence}: {status}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

const HEIGHTS: [Height; 6] = [
    Height::Empty,
    Height::BelowSnapshot,
    Height::AtSnapshot,
    Height::AboveSnapshot,
    Height::OneLess,
    Height::All,
];

fn matrix(scene: &mut Scene, moments: &[Moment]) {
    // So that there is a snapshot from the first cell on.
    while scene.cluster.status(scene.node).unwrap().snapshot_index == 0 {
        let sequence = scene.next();
        let through = leader_of(&scene.cluster);
        scene.put(through, sequence);
    }
    for moment in moments {
        for actor in [Actor::StateMachine, Actor::Both] {
            for height in HEIGHTS {
                scene.play(*moment, actor, height);
            }
        }
        // It keeps its state, whatever the daemon has lost.
        scene.play(*moment, Actor::Daemon, Height::All);
    }
    assert!(
        scene.script.state().restores > 4,
        "no snapshot was given back"
    );
}

const MOMENTS: [Moment; 4] = [
    Moment::Handshake,
    Moment::BeforeApply,
    Moment::AfterApply,
    Moment::Restore,
];

#[test]
fn every_height_at_every_crash_of_a_lone_node() {
    matrix(&mut Scene::new(1), &MOMENTS);
}

#[test]
fn every_height_at_every_crash_of_one_node_of_three() {
    matrix(&mut Scene::new(3), &MOMENTS);
}

/// P2: beyond the log, of another term, of another cluster: not used, with the sentence that says why; and
/// used again when it fits.
#[test]
fn a_state_that_does_not_fit_the_log_is_not_used() {
    let mut scene = Scene::new(1);
    let sequence = scene.next();
    scene.put(1, sequence);
    let sound = scene.script.state().history.clone();
    let ours = scene.script.state().cluster.clone();
    let term = sound.last().unwrap().term;
    let beyond = |applied: u64| {
        let none = Applied {
            term,
            command: None,
        };
        [sound.clone(), vec![none; applied as usize]].concat()
    };
    let mut other_term = sound.clone();
    other_term.last_mut().unwrap().term = term + 7;
    for (history, cluster, words) in [
        (beyond(9), ours.clone(), "this node's log ends at"),
        (other_term, ours.clone(), "its state is of another history"),
        (
            sound.clone(),
            Bytes::from(vec![9; 16]),
            "its state belongs to cluster",
        ),
    ] {
        scene.end(Actor::StateMachine);
        {
            let mut state = scene.script.state();
            state.history = history;
            state.cluster = cluster;
        }
        scene.open(Actor::StateMachine);
        scene.cluster.eventually(words, SOON, |cluster| {
            let alarms = cluster.status(1)?.alarms;
            alarms.into_iter().find(|alarm| alarm.contains(words))
        });
        scene.end(Actor::StateMachine);
        {
            let mut state = scene.script.state();
            state.history.clone_from(&sound);
            state.cluster.clone_from(&ours);
        }
        scene.open(Actor::StateMachine);
        let sequence = scene.next();
        scene.put(1, sequence);
        scene.check(words);
        scene
            .cluster
            .eventually("the alarm is over", SOON, |cluster| {
                cluster.status(1)?.alarms.is_empty().then_some(())
            });
    }
}
