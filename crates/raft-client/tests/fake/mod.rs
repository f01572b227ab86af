//! A node that says what a test tells it to, and remembers what it was asked.
#![allow(dead_code)] // Each test file uses its own part.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use wire::raft::raft_server::{Raft, RaftServer};
use wire::raft::*;
use wire::status::kind_status;

pub const CLUSTER: [u8; 16] = [0xc1; 16];
pub const OTHER_CLUSTER: [u8; 16] = [0xc2; 16];

/// How a node answers one call.
pub enum Step {
    /// The state machine's result.
    Say(ResultKind, &'static [u8]),
    /// An error status.
    Refuse(Status),
    /// No answer, ever.
    Hang,
    /// An answer in the name of another cluster.
    SayFrom([u8; 16]),
}

#[derive(Default)]
pub struct Node {
    /// What is answered to PutEntry and Query, in order; afterwards "done".
    pub steps: Mutex<VecDeque<Step>>,
    pub registrations: Mutex<VecDeque<Step>>,
    pub puts: Mutex<Vec<PutEntryRequest>>,
    pub queries: Mutex<Vec<QueryRequest>>,
    pub registered: Mutex<u64>,
    pub left: Mutex<Vec<LeaveRequest>>,
    pub transfers: Mutex<Vec<TransferLeadershipRequest>>,
    pub skips: Mutex<Vec<SkipRequest>>,
    pub watched: Mutex<Vec<WatchRequest>>,
    /// What each watch is told, in order; an error ends it, and without one it goes on for ever.
    pub watches: Mutex<VecDeque<Vec<Result<WatchReply, Status>>>>,
    /// How long a watch stands before it is told an error.
    pub watch_stands: Mutex<Duration>,
    /// What is streamed to each call of SaveSnapshot, in order; afterwards there is no snapshot.
    pub saves: Mutex<VecDeque<Vec<Result<SavedPart, Status>>>>,
    /// The last of them comes to no end.
    pub last_save_hangs: Mutex<bool>,
    pub saved: Mutex<Vec<SaveSnapshotRequest>>,
    /// Named in replies.
    pub leader: Mutex<Option<NodeReference>>,
    pub status: Mutex<StatusReply>,
    /// So often it is told; none: always.
    pub statuses_left: Mutex<Option<usize>>,
}

/// A node on a thread of its own, so that dropping it breaks its connections as a kill would.
pub struct Fake {
    pub address: SocketAddr,
    pub node: Arc<Node>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let node = Arc::new(Node::default());
        let service = RaftServer::new(Service(node.clone()))
            .max_decoding_message_size(16 * 1024 * 1024)
            .max_encoding_message_size(16 * 1024 * 1024);
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let (reporter, health) = tonic_health::server::health_reporter();
            reporter.set_serving::<RaftServer<Service>>().await;
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let server = Server::builder().add_service(service).add_service(health);
            tokio::select! {
                _ = stopped => {}
                end = server.serve_with_incoming(incoming) => end.unwrap(),
            }
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(serve);
        });
        Self {
            address,
            node,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn will(&self, step: Step) -> &Self {
        self.node.steps.lock().unwrap().push_back(step);
        self
    }

    /// The next watch is told this.
    pub fn will_tell(&self, replies: Vec<Result<WatchReply, Status>>) -> &Self {
        self.node.watches.lock().unwrap().push_back(replies);
        self
    }

    /// The indices that watches asked from.
    pub fn watched_from(&self) -> Vec<u64> {
        let watched = self.node.watched.lock().unwrap();
        watched.iter().map(|watch| watch.from_index).collect()
    }

    pub fn sessions(&self) -> Vec<(u64, u64)> {
        let puts = self.node.puts.lock().unwrap();
        puts.iter().map(|put| (put.session, put.sequence)).collect()
    }

    pub fn entries(&self) -> Vec<Vec<u8>> {
        self.node
            .puts
            .lock()
            .unwrap()
            .iter()
            .map(|put| put.entry.to_vec())
            .collect()
    }

    pub fn reference(&self, name: &str) -> NodeReference {
        reference(name, self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A reference whose node_id is made of the name's first letter.
pub fn reference(name: &str, address: SocketAddr) -> NodeReference {
    let node_id = vec![name.as_bytes()[0]; 16].into();
    NodeReference {
        node_id,
        name: name.to_owned(),
        address: address.to_string(),
    }
}

pub fn refusal(kind: ErrorKind, sentence: &str) -> Status {
    let cluster_id = Bytes::copy_from_slice(&CLUSTER);
    kind_status(
        sentence,
        ErrorDetail {
            kind: kind.into(),
            cluster_id,
            ..Default::default()
        },
    )
}

/// A reply of a watch; without events it is a mark.
pub fn told(index: u64, events: &[&str]) -> Result<WatchReply, Status> {
    Ok(WatchReply {
        index,
        events: events
            .iter()
            .map(|event| Bytes::from(event.to_string()))
            .collect(),
        cluster_id: Bytes::copy_from_slice(&CLUSTER),
    })
}

/// An error that names an index.
pub fn refusal_at(kind: ErrorKind, index: u64) -> Status {
    let detail = ErrorDetail {
        kind: kind.into(),
        cluster_id: Bytes::copy_from_slice(&CLUSTER),
        index,
        ..Default::default()
    };
    kind_status(&format!("because, at {index}"), detail)
}

pub fn not_leader(leader: NodeReference) -> Status {
    let detail = ErrorDetail {
        kind: ErrorKind::NotLeader.into(),
        leader: Some(leader),
        cluster_id: Bytes::copy_from_slice(&CLUSTER),
        ..Default::default()
    };
    kind_status("this node does not lead", detail)
}

pub struct Service(Arc<Node>);

impl Service {
    async fn step(
        &self,
        steps: &Mutex<VecDeque<Step>>,
    ) -> Result<(ResultKind, Bytes, Bytes), Status> {
        let step = steps.lock().unwrap().pop_front();
        let ours = Bytes::copy_from_slice(&CLUSTER);
        match step {
            None => Ok((ResultKind::Ok, Bytes::from_static(b"done"), ours)),
            Some(Step::Say(kind, data)) => Ok((kind, Bytes::from_static(data), ours)),
            Some(Step::SayFrom(cluster)) => {
                let cluster_id = Bytes::copy_from_slice(&cluster);
                Ok((ResultKind::Ok, Bytes::from_static(b"done"), cluster_id))
            }
            Some(Step::Refuse(status)) => Err(status),
            Some(Step::Hang) => std::future::pending().await,
        }
    }

    fn leader(&self) -> Option<NodeReference> {
        self.0.leader.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl Raft for Service {
    async fn put_entry(
        &self,
        request: Request<PutEntryRequest>,
    ) -> Result<Response<PutEntryReply>, Status> {
        self.0.puts.lock().unwrap().push(request.into_inner());
        let (kind, data, cluster_id) = self.step(&self.0.steps).await?;
        let leader = self.leader();
        Ok(Response::new(PutEntryReply {
            kind: kind.into(),
            data,
            index: 9,
            term: 1,
            cluster_id,
            leader,
        }))
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<QueryReply>, Status> {
        self.0.queries.lock().unwrap().push(request.into_inner());
        let (kind, data, cluster_id) = self.step(&self.0.steps).await?;
        let leader = self.leader();
        Ok(Response::new(QueryReply {
            kind: kind.into(),
            data,
            applied_index: 17,
            cluster_id,
            leader,
        }))
    }

    async fn register_session(
        &self,
        _: Request<RegisterSessionRequest>,
    ) -> Result<Response<RegisterSessionReply>, Status> {
        let (_, _, cluster_id) = self.step(&self.0.registrations).await?;
        let leader = self.leader();
        let mut registered = self.0.registered.lock().unwrap();
        *registered += 1;
        let session = 40 + *registered;
        Ok(Response::new(RegisterSessionReply {
            session,
            cluster_id,
            leader,
        }))
    }

    async fn keep_alive(
        &self,
        _: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveReply>, Status> {
        Ok(Response::new(KeepAliveReply::default()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let falls_silent = match &mut *self.0.statuses_left.lock().unwrap() {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if falls_silent {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(self.0.status.lock().unwrap().clone()))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipReply>, Status> {
        self.0.transfers.lock().unwrap().push(request.into_inner());
        self.step(&self.0.steps).await?;
        Ok(Response::new(TransferLeadershipReply {
            leader: self.leader(),
        }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveReply>, Status> {
        self.0.left.lock().unwrap().push(request.into_inner());
        let (kind, data, _) = self.step(&self.0.steps).await?;
        let sentence = String::from_utf8(data.to_vec()).unwrap();
        Ok(Response::new(LeaveReply {
            removed: kind == ResultKind::Ok,
            sentence,
        }))
    }

    async fn skip(&self, request: Request<SkipRequest>) -> Result<Response<SkipReply>, Status> {
        self.0.skips.lock().unwrap().push(request.into_inner());
        self.step(&self.0.steps).await?;
        Ok(Response::new(SkipReply { index: 42 }))
    }

    type SaveSnapshotStream = Pin<Box<dyn Stream<Item = Result<SavedPart, Status>> + Send>>;

    async fn save_snapshot(
        &self,
        request: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        self.0.saved.lock().unwrap().push(request.into_inner());
        let (parts, is_last) = {
            let mut saves = self.0.saves.lock().unwrap();
            (saves.pop_front(), saves.is_empty())
        };
        match parts {
            Some(parts) => {
                let hangs = is_last && *self.0.last_save_hangs.lock().unwrap();
                let parts = tokio_stream::iter(parts);
                Ok(Response::new(if hangs {
                    Box::pin(parts.chain(tokio_stream::pending()))
                } else {
                    Box::pin(parts)
                }))
            }
            None => Err(refusal(ErrorKind::NoSnapshot, "there is none")),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchReply, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.0.watched.lock().unwrap().push(request.into_inner());
        let replies = self.0.watches.lock().unwrap().pop_front();
        let replies = tokio_stream::iter(replies.unwrap_or_default());
        let stands = *self.0.watch_stands.lock().unwrap();
        let replies = replies.then(move |reply| async move {
            if reply.is_err() {
                tokio::time::sleep(stands).await;
            }
            reply
        });
        let for_ever = replies.chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(for_ever)))
    }
}

/// The command line, as a process.
pub fn raft_client(endpoints: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft-client"));
    command.env("RAFT_ENDPOINTS", endpoints).kill_on_drop(true);
    command
}

/// Its output, standard error as text.
pub struct Ran {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub async fn run(endpoints: &str, words: &[&str]) -> Ran {
    raft_client(endpoints)
        .args(words)
        .output()
        .await
        .unwrap()
        .into()
}

/// A host that has no address, which no name service needs to be asked about: a name of 64 letters
/// is against the rules.
pub const NO_HOST: &str = "aaaaaaaabbbbbbbbccccccccddddddddeeeeeeeeffffffffgggggggghhhhhhhh";

/// An address that answers nothing at all, like that of a container that is gone: a listener whose
/// queue is full. It lasts as long as what is returned with it.
pub async fn black_hole() -> (SocketAddr, Box<dyn std::any::Any>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    let patience = Duration::from_millis(100);
    for _ in 0..16 {
        let connect = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(patience, connect).await {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_) => return (address, Box::new((socket, waiting))),
        }
    }
    panic!("the queue of {address} does not fill");
}

/// An address of this machine where nothing listens.
pub fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
