//! Calls that do not wait for ever, and the end of those who make them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wire::raft::raft_client::RaftClient;

/// One attempt takes no longer; the node is asked to answer a little sooner.
const ATTEMPT: Duration = Duration::from_millis(1200);
pub const ANSWER_MS: u32 = 1000;

/// A client with a connection of its own, made when it is first needed. To be called within a runtime.
pub fn client(address: SocketAddr) -> RaftClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.connect_timeout(Duration::from_millis(500));
    RaftClient::new(endpoint.connect_lazy())
}

/// One attempt.
pub async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(ATTEMPT, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// Waits until all of them, who were told to stop, have the answer that they wait for.
pub fn await_all(runtime: &Runtime, tasks: &mut JoinSet<()>, within: Duration) {
    let ended = runtime.block_on(async {
        let all = async {
            while let Some(task) = tasks.join_next().await {
                task.unwrap();
            }
        };
        timeout(within, all).await
    });
    assert!(ended.is_ok(), "no answer after {within:?}");
}
