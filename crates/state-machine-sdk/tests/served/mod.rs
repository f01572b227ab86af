//! A machine behind the service on a Unix socket, and a client that is the daemon's part.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use state_machine_sdk::{DurableStateMachine, Limits, Listen, REASON_HEADER, ServeError, serve};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use wire::state_machine::entry::Payload;
use wire::state_machine::state_machine_client::StateMachineClient;
use wire::state_machine::{
    Empty, Entry, ExecuteReply, ExecuteRequest, HandshakeReply, HandshakeRequest, QueryReply,
    QueryRequest,
};

pub type Client = StateMachineClient<Channel>;

/// Longer than anything here may take, shorter than a person's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Served {
    pub socket: PathBuf,
    pub stop: oneshot::Sender<()>,
    pub ended: JoinHandle<Result<(), ServeError>>,
    _directory: TempDir,
}

impl Served {
    pub async fn stop(self) -> Result<(), ServeError> {
        // It may have ended by itself.
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.ended)
            .await
            .unwrap()
            .unwrap()
    }
}

pub async fn started(machine: impl DurableStateMachine, limits: Limits) -> (Served, Client) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let (stop, stopped) = oneshot::channel();
    let listen = Listen::Unix(socket.clone());
    let ended = tokio::spawn(serve(machine, listen, limits, async {
        let _ = stopped.await;
    }));
    let client = Client::new(channel(&socket).await);
    (
        Served {
            socket,
            stop,
            ended,
            _directory: directory,
        },
        client,
    )
}

pub async fn channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn hello(epoch: u64) -> HandshakeRequest {
    HandshakeRequest {
        protocol_min: 1,
        protocol_max: 1,
        cluster_id: wire::id_bytes(0xc1),
        node_id: wire::id_bytes(0xa1),
        epoch,
    }
}

pub fn entry(index: u64, term: u64, command: &str) -> Entry {
    let payload = if command.is_empty() {
        Payload::Empty(Empty {})
    } else {
        Payload::Command(command.to_owned().into())
    };
    Entry {
        index,
        term,
        log_time_ms: index,
        payload: Some(payload),
    }
}

pub fn batch(epoch: u64, first: u64, commands: &[&str]) -> ExecuteRequest {
    let entries = (first..)
        .zip(commands)
        .map(|(index, command)| entry(index, 1, command));
    ExecuteRequest {
        epoch,
        results_floor: 0,
        entries: entries.collect(),
    }
}

pub async fn handshake(client: &mut Client, epoch: u64) -> Result<HandshakeReply, Status> {
    client
        .handshake(hello(epoch))
        .await
        .map(tonic::Response::into_inner)
}

pub async fn execute(client: &mut Client, batch: ExecuteRequest) -> Result<ExecuteReply, Status> {
    client.execute(batch).await.map(tonic::Response::into_inner)
}

pub async fn query(client: &mut Client, epoch: u64, min_index: u64) -> Result<QueryReply, Status> {
    ask(client, epoch, min_index, "").await
}

pub async fn ask(
    client: &mut Client,
    epoch: u64,
    min_index: u64,
    query: &str,
) -> Result<QueryReply, Status> {
    let query = query.to_owned().into();
    let call = client.query(QueryRequest {
        epoch,
        min_index,
        query,
    });
    call.await.map(tonic::Response::into_inner)
}

pub fn data(reply: &ExecuteReply) -> Vec<&str> {
    reply
        .outcomes
        .iter()
        .map(|outcome| std::str::from_utf8(&outcome.data).unwrap())
        .collect()
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str) -> String {
    let status = result.unwrap_err();
    let found = status
        .metadata()
        .get(REASON_HEADER)
        .map(|value| value.to_str().unwrap());
    assert_eq!((status.code(), found), (code, Some(reason)), "{status}");
    status.message().to_owned()
}
