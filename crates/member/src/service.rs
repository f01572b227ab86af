//! The gRPC service `Membership`, for the node's other processes and for people.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request as Call, Response, Status};
use wire::is_local;
use wire::member::membership_server::Membership;
use wire::member::{
    AnnounceReply, AnnounceRequest, LeaveReply, LeaveRequest, SelfReply, SelfRequest, WatchRequest,
};

use crate::convert::{Own, self_reply};
use crate::driver::{Published, Request};

/// Changes within this time reach a watcher as one.
const COALESCE: Duration = Duration::from_millis(100);

/// The service.
#[derive(Clone)]
pub(crate) struct MembershipService {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) published: watch::Receiver<Published>,
    pub(crate) origin: Instant,
    pub(crate) own: Own,
    pub(crate) own_ip: IpAddr,
    /// The daemon ends when this is cancelled.
    pub(crate) shutdown: CancellationToken,
}

impl MembershipService {
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Status> {
        let (sender, receiver) = oneshot::channel();
        let ending = || Status::unavailable("this member is ending");
        self.requests
            .send(request(sender))
            .await
            .map_err(|_| ending())?;
        receiver.await.map_err(|_| ending())
    }

    /// What changes this node is for its own processes alone.
    fn check_is_local<T>(&self, name: &str, call: &Call<T>) -> Result<(), Status> {
        match call.remote_addr() {
            Some(caller) if is_local(caller.ip(), self.own_ip) => Ok(()),
            _ => Err(Status::permission_denied(format!(
                "{name} is answered to processes of this node only; call it there"
            ))),
        }
    }
}

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn self_(&self, _: Call<SelfRequest>) -> Result<Response<SelfReply>, Status> {
        tracing::debug!("[MEMBER] [RPC] Self");
        let (published, _) = self.ask(Request::Inspect).await?;
        Ok(Response::new(self_reply(
            &published,
            &self.own,
            self.origin.elapsed(),
        )))
    }

    type WatchStream = ReceiverStream<Result<SelfReply, Status>>;

    async fn watch(&self, _: Call<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        tracing::debug!("[MEMBER] [RPC] Watch");
        let (sender, receiver) = mpsc::channel(1);
        let mut published = self.published.clone();
        published.mark_changed();
        let (own, origin, shutdown) = (self.own.clone(), self.origin, self.shutdown.clone());
        tokio::spawn(async move {
            let follow = async {
                while published.changed().await.is_ok() {
                    let reply = {
                        let published = published.borrow_and_update();
                        self_reply(&published, &own, origin.elapsed())
                    };
                    if sender.send(Ok(reply)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(COALESCE).await;
                }
            };
            tokio::select! {
                () = follow => {}
                () = sender.closed() => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn announce(
        &self,
        call: Call<AnnounceRequest>,
    ) -> Result<Response<AnnounceReply>, Status> {
        self.check_is_local("Announce", &call)?;
        let request = call.into_inner();
        tracing::debug!("[MEMBER] [RPC] Announce {request:?}");
        let raft_port = u16::try_from(request.raft_port)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Status::invalid_argument("raft_port must be from 1 to 65535"))?;
        let cluster_id = wire::optional_id_from_bytes("cluster_id", &request.cluster_id)
            .map_err(|error| Status::invalid_argument(error.to_string()))?
            .map(member_core::ClusterId);
        self.ask(|done| Request::Announce {
            raft_port,
            cluster_id,
            done,
        })
        .await?;
        Ok(Response::new(AnnounceReply {}))
    }

    async fn leave(&self, call: Call<LeaveRequest>) -> Result<Response<LeaveReply>, Status> {
        self.check_is_local("Leave", &call)?;
        tracing::info!("[MEMBER] [RPC] Leave");
        let acknowledged = self.ask(Request::Leave).await?;
        // The answer still leaves: the server ends gracefully.
        self.shutdown.cancel();
        Ok(Response::new(LeaveReply {
            acknowledged: acknowledged as u32,
        }))
    }
}
