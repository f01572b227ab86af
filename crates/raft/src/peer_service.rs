//! What other nodes say to this one.
//!
//! A stream begins with a Hello: which cluster, from whom, to whom. A mismatch is refused with both
//! ids, counted and logged. From then on the stream vouches for its sender. A second stream of the
//! same peer replaces the first; the end of an AppendEntries stream without a goodbye is news (E2).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use raft_core::{Boot, ClusterId, NodeId};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::raft::peer_server::Peer;
use wire::raft::{self as pb, ErrorDetail, ErrorKind, peer_message::Body};

use crate::addresses::Address;
use crate::ask::Ask;
use crate::comparison;
use crate::convert;
use crate::disk::Disk;
use crate::limits::{HELLO_DEADLINE, INBOUND_BYTES, MAX_PEERS, REFUSALS_LOGGED};
use crate::peers::Lane;
use crate::repair;
use crate::room::Room;
use crate::say;
use crate::shared::{Shared, locked};
use crate::snapshots::Snapshots;

/// Header of a refusal that the refused daemon acts on.
pub const REFUSAL_HEADER: &str = "leeky-refusal";

/// Its value when the refused node must take a new id: it was removed from the configuration for good
/// (M3), or has lost what its disk promised (D5).
pub const TAKE_A_NEW_ID: &str = "take-a-new-id";

/// See the module.
#[derive(Clone)]
pub struct PeerService {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    room: Arc<Room>,
    snapshots: Snapshots,
    disk: Disk,
    inbound_bytes: Arc<Semaphore>,
    streams: Arc<Streams>,
}

/// The streams that other nodes have open to this one.
#[derive(Default)]
pub struct Streams {
    by_peer: Mutex<HashMap<(NodeId, Lane), Inbound>>,
    serials: AtomicU64,
    /// When a refusal of an address was logged.
    refusals: Mutex<HashMap<IpAddr, Instant>>,
}

struct Inbound {
    serial: u64,
    boot: Boot,
    cluster: Option<ClusterId>,
    /// Sent when a newer stream of the same peer takes over.
    replaced: oneshot::Sender<Replaced>,
}

/// A newer stream of the same peer took over.
struct Replaced {
    /// By another start of the peer: the process behind this stream is gone.
    restarted: bool,
}

/// Why a stream ended.
enum End {
    Goodbye,
    Replaced(Replaced),
    Lost(String),
    Refused(Status),
    Stopping,
}

struct Greeting {
    peer: NodeId,
    boot: Boot,
    cluster: Option<ClusterId>,
    name: String,
    input: Ask,
}

impl PeerService {
    /// Hands what it hears to `inbox`.
    pub fn new(
        shared: Arc<Shared>,
        inbox: mpsc::Sender<Ask>,
        room: Arc<Room>,
        snapshots: Snapshots,
        streams: Arc<Streams>,
        disk: Disk,
    ) -> PeerService {
        PeerService {
            disk,
            shared,
            inbox,
            room,
            snapshots,
            inbound_bytes: Arc::new(Semaphore::new(INBOUND_BYTES)),
            streams,
        }
    }

    /// Whether a question means this node and its cluster.
    fn meant_for_us(&self, node_id: &[u8], cluster_id: &[u8]) -> Result<(), Status> {
        let node = self.asked_of(node_id, cluster_id)?;
        if node != self.shared.id {
            return Err(Status::failed_precondition(format!(
                "this is node {}, and node {node} was asked",
                self.shared.id
            )));
        }
        Ok(())
    }

    /// The node that a question names, if it names our cluster.
    fn asked_of(&self, node_id: &[u8], cluster_id: &[u8]) -> Result<NodeId, Status> {
        let invalid = |error: wire::BadId| Status::invalid_argument(error.to_string());
        let node = NodeId(wire::id_from_bytes("node_id", node_id).map_err(invalid)?);
        let cluster = ClusterId(wire::id_from_bytes("cluster_id", cluster_id).map_err(invalid)?);
        let ours = self.shared.cluster_id();
        if ours != Some(cluster) {
            return Err(other_cluster(ours, Some(cluster)));
        }
        Ok(node)
    }

    /// Serves one stream, on a task of its own: when the connection breaks, the call itself is
    /// dropped where it stands, and the news of the end must still be told.
    async fn serve(
        &self,
        lane: Lane,
        request: Request<Streaming<pb::PeerMessage>>,
    ) -> Result<Response<pb::PeerGoodbye>, Status> {
        let service = self.clone();
        let stream = tokio::spawn(async move { service.stream(lane, request).await });
        stream
            .await
            .map_err(|error| Status::internal(error.to_string()))?
    }

    async fn stream(
        self,
        lane: Lane,
        request: Request<Streaming<pb::PeerMessage>>,
    ) -> Result<Response<pb::PeerGoodbye>, Status> {
        let remote = request.remote_addr();
        let mut messages = request.into_inner();
        let greeting = self
            .greet(lane, &mut messages)
            .await
            .inspect_err(|status| self.refused(remote, status))?;
        let Greeting {
            peer,
            boot,
            cluster,
            name,
            input,
        } = greeting;
        self.notice(peer, name, remote);
        let (serial, mut replaced) = self.streams.register(peer, lane, boot, cluster)?;
        let _ = self.inbox.send(input).await;
        let mut stopping = self.shared.stopping.subscribe();
        let end = tokio::select! {
            end = self.listen(peer, lane, cluster, &mut messages) => end,
            status = self.loses_standing(peer), if cluster.is_some() => End::Refused(status),
            Ok(replaced) = &mut replaced => End::Replaced(replaced),
            _ = stopping.wait_for(|stopping| *stopping) => End::Stopping,
        };
        self.streams.remove(peer, lane, serial);
        self.ended(peer, lane, end).await
    }

    /// Counts a refusal, and logs it unless the same address was refused just before: whoever is
    /// refused tries again for ever.
    fn refused(&self, remote: Option<SocketAddr>, status: &Status) {
        self.shared.metrics.hellos_refused.inc();
        let ip = remote.map_or(IpAddr::from([0, 0, 0, 0]), |remote| unmapped(remote.ip()));
        let mut logged = locked(&self.streams.refusals);
        logged.retain(|_, at| at.elapsed() < REFUSALS_LOGGED);
        if logged.len() < MAX_PEERS && !logged.contains_key(&ip) {
            logged.insert(ip, Instant::now());
            let reason = status.message();
            say!(warn, "CONNERROR", "refused a stream from {ip}: {reason}");
        }
    }

    async fn ended(
        &self,
        peer: NodeId,
        lane: Lane,
        end: End,
    ) -> Result<Response<pb::PeerGoodbye>, Status> {
        let name = self.shared.name_of(peer);
        let news = match &end {
            End::Goodbye | End::Stopping | End::Refused(_) => false,
            End::Replaced(replaced) => replaced.restarted,
            End::Lost(reason) => {
                say!(
                    info,
                    "CONNERROR",
                    "stream {lane:?} from {name} ({peer}) ended: {reason}"
                );
                true
            }
        };
        if news && lane == Lane::Bulk {
            let _ = self.inbox.send(Ask::StreamEnded { peer }).await;
        }
        match end {
            End::Refused(status) => Err(status),
            _ => Ok(Response::new(pb::PeerGoodbye {})),
        }
    }

    /// Reads messages until the stream ends.
    async fn listen(
        &self,
        peer: NodeId,
        lane: Lane,
        cluster: Option<ClusterId>,
        messages: &mut Streaming<pb::PeerMessage>,
    ) -> End {
        loop {
            let message = match messages.message().await {
                Ok(Some(pb::PeerMessage {
                    body: Some(Body::Goodbye(_)),
                })) => return End::Goodbye,
                Ok(Some(message)) => message,
                Ok(None) => return End::Lost("it was closed without a goodbye".to_owned()),
                Err(status) => return End::Lost(crate::net::status_line(&status)),
            };
            let message = match convert::from_wire(message) {
                Ok(message) => message,
                Err(error) => {
                    self.shared.metrics.messages_refused.inc();
                    let name = self.shared.name_of(peer);
                    say!(
                        warn,
                        "RPC",
                        "a message of {name} ({peer}) was refused: {error}"
                    );
                    return End::Refused(Status::invalid_argument(error.to_string()));
                }
            };
            if let (Some(ours), theirs) = (self.shared.log_cluster(), cluster)
                && theirs.is_some_and(|theirs| theirs != ours)
            {
                return End::Refused(other_cluster(Some(ours), theirs));
            }
            let cost = convert::cost_bytes(&message);
            if lane == Lane::Bulk {
                // A full disk: the entries stay in the stream until there is room. Votes and
                // heartbeats have their own stream, and go on.
                self.room.wait(cost as u64, &self.shared).await;
            }
            let permits = u32::try_from(cost.min(INBOUND_BYTES)).unwrap_or(u32::MAX);
            let Ok(permit) = self.inbound_bytes.clone().acquire_many_owned(permits).await else {
                return End::Stopping;
            };
            let input = Ask::Message {
                from: peer,
                message,
                permit,
            };
            if self.inbox.send(input).await.is_err() {
                return End::Stopping;
            }
        }
    }

    /// The first message of a stream, checked.
    async fn greet(
        &self,
        lane: Lane,
        messages: &mut Streaming<pb::PeerMessage>,
    ) -> Result<Greeting, Status> {
        let first = tokio::time::timeout(HELLO_DEADLINE, messages.message())
            .await
            .map_err(|_| {
                Status::deadline_exceeded("no Hello came: a peer stream begins with one")
            })??;
        let Some(pb::PeerMessage {
            body: Some(Body::Hello(hello)),
        }) = first
        else {
            return Err(Status::invalid_argument(
                "a peer stream begins with a Hello",
            ));
        };
        let invalid = |error: wire::BadId| Status::invalid_argument(error.to_string());
        let peer = NodeId(wire::id_from_bytes("Hello.from", &hello.from).map_err(invalid)?);
        let to = NodeId(wire::id_from_bytes("Hello.to", &hello.to).map_err(invalid)?);
        let cluster = wire::optional_id_from_bytes("Hello.cluster_id", &hello.cluster_id)
            .map_err(invalid)?
            .map(ClusterId);
        if to != self.shared.id {
            return Err(Status::failed_precondition(format!(
                "this node is {}, not {to}: the address belongs to another node now",
                self.shared.id
            )));
        }
        if peer == self.shared.id {
            return Err(Status::failed_precondition(format!(
                "two nodes have the id {peer}: was a data directory copied?"
            )));
        }
        self.check_cluster(peer, lane, cluster)?;
        let input = Ask::Hello {
            peer,
            boot: hello.boot,
            term: hello.term,
            durable_index: hello.durable_index,
            challenged: None,
        };
        let name = hello.name.chars().take(MAX_NAME_CHARACTERS).collect();
        Ok(Greeting {
            peer,
            boot: hello.boot,
            cluster,
            name,
            input,
        })
    }

    /// Whether a node of that cluster may speak to this one.
    ///
    /// A node with an empty log listens to one cluster at a time: the first that speaks to it. A
    /// node without a cluster is heard only when this node's configuration names it: it is being
    /// taken in, and answers (F4).
    fn check_cluster(
        &self,
        peer: NodeId,
        lane: Lane,
        theirs: Option<ClusterId>,
    ) -> Result<(), Status> {
        let ours = self.shared.log_cluster();
        if ours.is_some() && ours == theirs {
            self.check_standing(peer)?;
        }
        let configurations = self.shared.configurations();
        match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours == theirs => Ok(()),
            (Some(_), None) if lane == Lane::Small && configurations.latest.contains(peer) => {
                Ok(())
            }
            (None, Some(theirs)) => match self.streams.cluster_heard() {
                Some(other) if other != theirs => Err(other_cluster(Some(other), Some(theirs))),
                _ => Ok(()),
            },
            _ => Err(other_cluster(ours, theirs)),
        }
    }

    /// Whether a node of this cluster may still be who it is.
    fn check_standing(&self, peer: NodeId) -> Result<(), Status> {
        if self.shared.configurations().committed.has_left(peer) {
            return Err(take_a_new_id(&format!(
                "node {peer} was removed from this cluster for good"
            )));
        }
        if self.shared.is_rolled_back(peer) {
            return Err(take_a_new_id(&format!(
                "node {peer} reports less than it did before: its disk has lost what it promised"
            )));
        }
        Ok(())
    }

    /// Resolves when the peer may no longer be who it is, so that it hears of it at once.
    async fn loses_standing(&self, peer: NodeId) -> Status {
        let mut standings = self.shared.standings.subscribe();
        loop {
            if let Err(status) = self.check_standing(peer) {
                return status;
            }
            if standings.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Remembers where the peer speaks from, for the case that gossip does not tell. The port can
    /// only be guessed: that of this node.
    fn notice(&self, peer: NodeId, name: String, remote: Option<SocketAddr>) {
        if let Some(ip) = remote.map(|remote| remote.ip()).map(unmapped) {
            let address = SocketAddr::new(ip, self.shared.config.rpc_port);
            self.shared
                .addresses
                .notice(peer, Address { address, name });
        }
    }
}

/// Characters of a peer's name that are kept.
const MAX_NAME_CHARACTERS: usize = 64;

fn take_a_new_id(sentence: &str) -> Status {
    let mut status = Status::failed_precondition(format!("{sentence}. It must take a new id"));
    let value = tonic::metadata::MetadataValue::from_static(TAKE_A_NEW_ID);
    status.metadata_mut().insert(REFUSAL_HEADER, value);
    status
}

fn unmapped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn other_cluster(ours: Option<ClusterId>, theirs: Option<ClusterId>) -> Status {
    let name = |cluster: Option<ClusterId>| {
        cluster.map_or_else(
            || "no cluster".to_owned(),
            |cluster| format!("cluster {cluster}"),
        )
    };
    let sentence = format!(
        "this node belongs to {}, the caller to {}",
        name(ours),
        name(theirs)
    );
    let cluster_id = ours
        .map(|cluster| wire::id_bytes(cluster.0))
        .unwrap_or_default();
    let kind = ErrorKind::OtherCluster.into();
    wire::status::kind_status(
        &sentence,
        ErrorDetail {
            kind,
            cluster_id,
            ..Default::default()
        },
    )
}

impl Streams {
    fn register(
        &self,
        peer: NodeId,
        lane: Lane,
        boot: Boot,
        cluster: Option<ClusterId>,
    ) -> Result<(u64, oneshot::Receiver<Replaced>), Status> {
        let mut by_peer = locked(&self.by_peer);
        if by_peer.len() >= 2 * MAX_PEERS && !by_peer.contains_key(&(peer, lane)) {
            return Err(Status::resource_exhausted(
                "too many nodes have a stream to this one",
            ));
        }
        let (replaced, receiver) = oneshot::channel();
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        let inbound = Inbound {
            serial,
            boot,
            cluster,
            replaced,
        };
        if let Some(old) = by_peer.insert((peer, lane), inbound) {
            let _ = old.replaced.send(Replaced {
                restarted: old.boot != boot,
            });
        }
        Ok((serial, receiver))
    }

    fn remove(&self, peer: NodeId, lane: Lane, serial: u64) {
        let mut by_peer = locked(&self.by_peer);
        if by_peer
            .get(&(peer, lane))
            .is_some_and(|inbound| inbound.serial == serial)
        {
            by_peer.remove(&(peer, lane));
        }
    }

    /// The cluster that speaks to this node now.
    pub fn cluster_heard(&self) -> Option<ClusterId> {
        locked(&self.by_peer)
            .values()
            .find_map(|inbound| inbound.cluster)
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn append_entries(
        &self,
        request: Request<Streaming<pb::PeerMessage>>,
    ) -> Result<Response<pb::PeerGoodbye>, Status> {
        self.serve(Lane::Bulk, request).await
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<pb::PeerMessage>>,
    ) -> Result<Response<pb::PeerGoodbye>, Status> {
        self.serve(Lane::Small, request).await
    }

    async fn probe(
        &self,
        request: Request<pb::ProbeRequest>,
    ) -> Result<Response<pb::ProbeReply>, Status> {
        let request = request.into_inner();
        let node = self.asked_of(&request.node_id, &request.cluster_id)?;
        let standing = self.shared.standing();
        let leads = node == self.shared.id
            && standing.role == raft_core::RoleName::Leader
            && standing.term == request.term
            && !*self.shared.stopping.borrow();
        Ok(Response::new(pb::ProbeReply {
            node_id: wire::id_bytes(self.shared.id.0),
            boot: self.shared.boot,
            term: standing.term,
            leads,
        }))
    }

    async fn offer_snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<pb::SnapshotOffer>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.node_id, &request.cluster_id)?;
        let asked = request.position.map(convert::from_position);
        let snapshots = self.snapshots.clone();
        let offer = tokio::task::spawn_blocking(move || snapshots.offer(asked, request.at_least));
        let offer = offer
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .ok_or_else(|| Status::not_found("there is no snapshot here"))?;
        Ok(Response::new(pb::SnapshotOffer {
            position: convert::position(offer.position),
            file_bytes: offer.file_bytes,
            checksum: offer.checksum,
        }))
    }

    type PullSnapshotStream = ReceiverStream<Result<pb::SnapshotPart, Status>>;

    async fn pull_snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::PullSnapshotStream>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.node_id, &request.cluster_id)?;
        let Some(position) = request.position.map(convert::from_position) else {
            return Err(Status::invalid_argument("a pull names its position"));
        };
        let snapshots = self.snapshots.clone();
        let parts = tokio::task::spawn_blocking(move || {
            snapshots.parts(position, request.checksum, request.offset)
        });
        let parts = parts
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(parts))
    }

    async fn read_log(
        &self,
        request: Request<pb::ReadLogRequest>,
    ) -> Result<Response<pb::ReadLogReply>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.node_id, &request.cluster_id)?;
        let question = repair::question(&request)?;
        let from = question.previous.index.saturating_add(1);
        let most = self.shared.config.max_batch_bytes;
        let entries = self.disk.read(from, question.anchor.index, most).await;
        let (reply, answer) = oneshot::channel();
        let ask = Ask::ReadLog {
            question,
            entries: entries.unwrap_or_default(),
            reply,
        };
        let stopping = || Status::unavailable("this daemon is stopping");
        self.inbox.send(ask).await.map_err(|_| stopping())?;
        let answer = answer.await.map_err(|_| stopping())?;
        Ok(Response::new(repair::answer_to_wire(&answer)))
    }

    async fn compare_outcomes(
        &self,
        request: Request<pb::CompareOutcomesRequest>,
    ) -> Result<Response<pb::CompareOutcomesReply>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.node_id, &request.cluster_id)?;
        Ok(Response::new(comparison::answer(&self.shared, &request)))
    }

    async fn discover(
        &self,
        request: Request<pb::DiscoverRequest>,
    ) -> Result<Response<pb::DiscoverReply>, Status> {
        let from = request.remote_addr().map(|remote| unmapped(remote.ip()));
        self.shared.asked_by.send_replace(from);
        let (term, durable_index) = self.shared.progress.claim();
        Ok(Response::new(pb::DiscoverReply {
            node_id: wire::id_bytes(self.shared.id.0),
            // A cluster that is being founded or joined counts: this disk is not empty any more.
            cluster_id: self
                .shared
                .log_cluster()
                .map(|cluster| wire::id_bytes(cluster.0))
                .unwrap_or_default(),
            boot: self.shared.boot,
            has_entries: self.shared.progress.has_entries(),
            term,
            durable_index,
        }))
    }
}
