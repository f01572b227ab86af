//! The streams to the other nodes: two per peer, each on a connection of its own, so that a
//! heartbeat never waits behind bulk (W3), not even inside a socket.
//!
//! A stream is opened when there is something to send, and a leader keeps the bulk stream to every
//! member open: its end is how the members learn that the leader's process is gone (E2). Whatever
//! was on a stream that ended may be lost, and the core is told so ([`Input::Connected`]) when the
//! next one stands. Nothing here waits: the driver calls [`Links::send`], tasks do the rest.
//!
//! [`Input::Connected`]: raft_core::Input::Connected

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raft_core::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use wire::raft::peer_client::PeerClient;
use wire::raft::{self as pb, peer_message::Body};

use crate::ask::Ask;
use crate::limits::{
    BULK_QUEUE_MARGIN, CONNECT_DEADLINE, FAREWELL, MAX_MESSAGE_BYTES, MAX_PEERS, OPENING_QUEUE,
    PEER_BACKOFF, SMALL_QUEUE, STREAM_SETTLED,
};
use crate::net;
use crate::peer_service::{REFUSAL_HEADER, TAKE_A_NEW_ID};
use crate::say;
use crate::shared::{Ending, Shared};

/// The two streams to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// AppendEntries.
    Bulk,
    /// Everything else.
    Small,
}

/// What a stream's task tells the driver.
#[derive(Debug)]
pub enum LinkReport {
    /// The stream stands; messages go into `sender`.
    Opened {
        /// The peer.
        peer: NodeId,
        /// Which stream.
        lane: Lane,
        /// Which attempt, so that a late report of an earlier one counts for nothing.
        serial: u64,
        /// Feeds the stream.
        sender: mpsc::Sender<pb::PeerMessage>,
    },
    /// The stream ended, or could not be opened.
    Closed {
        /// The peer.
        peer: NodeId,
        /// Which stream.
        lane: Lane,
        /// Which attempt.
        serial: u64,
        /// Why, for people.
        reason: String,
        /// The peer says that this node must take a new id (M3, D5).
        new_id: bool,
    },
}

enum State {
    Idle,
    Opening {
        task: JoinHandle<()>,
    },
    Open {
        task: JoinHandle<()>,
        sender: mpsc::Sender<pb::PeerMessage>,
        since: Instant,
    },
}

struct Link {
    state: State,
    serial: u64,
    failures: u32,
    /// Small messages that wait for the stream.
    waiting: VecDeque<pb::PeerMessage>,
    /// A bulk message found the queue full and was dropped.
    lost: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        match &self.state {
            State::Opening { task } | State::Open { task, .. } => task.abort(),
            State::Idle => {}
        }
    }
}

/// All streams out of this node. Owned by the driver.
pub struct Links {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    links: BTreeMap<(NodeId, Lane), Link>,
    serial: u64,
    /// Bulk streams that are kept open: the members, while this node leads.
    kept: BTreeSet<NodeId>,
}

impl Links {
    /// No streams yet; reports will go to `inbox`.
    pub fn new(shared: Arc<Shared>, inbox: mpsc::Sender<Ask>) -> Links {
        Links {
            shared,
            inbox,
            links: BTreeMap::new(),
            serial: 0,
            kept: BTreeSet::new(),
        }
    }

    /// Whose bulk streams are kept open from now on.
    pub fn keep(&mut self, members: BTreeSet<NodeId>) {
        self.kept = members;
        for peer in self.kept.clone() {
            self.link(peer, Lane::Bulk);
        }
    }

    /// Opens the small stream to each of `members`, if it is not open: its Hello asks whether this
    /// node still belongs to them.
    pub fn knock(&mut self, members: &BTreeSet<NodeId>) {
        for peer in members {
            self.link(*peer, Lane::Small);
        }
    }

    /// Sends, or queues, or drops: a message may always be lost.
    pub fn send(&mut self, to: NodeId, lane: Lane, message: pb::PeerMessage) {
        let dropped = self.shared.metrics.messages_dropped.clone();
        let Some(link) = self.link(to, lane) else {
            dropped.inc();
            return;
        };
        match &link.state {
            State::Open { sender, .. } => match sender.try_send(message) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    dropped.inc();
                    link.lost = lane == Lane::Bulk;
                }
            },
            State::Opening { .. } | State::Idle => {
                // Bulk is sent anew when the stream stands; small messages would be missed.
                if lane == Lane::Small {
                    if link.waiting.len() >= OPENING_QUEUE {
                        link.waiting.pop_front();
                        dropped.inc();
                    }
                    link.waiting.push_back(message);
                }
            }
        }
    }

    /// The link, with a task that opens it if nobody does. None: too many peers.
    fn link(&mut self, peer: NodeId, lane: Lane) -> Option<&mut Link> {
        if peer == self.shared.id
            || (self.links.len() >= 2 * MAX_PEERS && !self.links.contains_key(&(peer, lane)))
        {
            return None;
        }
        let link = self.links.entry((peer, lane)).or_insert_with(|| Link {
            state: State::Idle,
            serial: 0,
            failures: 0,
            waiting: VecDeque::new(),
            lost: false,
        });
        if matches!(link.state, State::Idle) {
            self.serial += 1;
            link.serial = self.serial;
            let stream = OutgoingStream {
                shared: self.shared.clone(),
                inbox: self.inbox.clone(),
                peer,
                lane,
                serial: self.serial,
            };
            let task = tokio::spawn(stream.run(backoff(link.failures)));
            link.state = State::Opening { task };
        }
        Some(link)
    }

    /// `peer` has just spoken: an attempt that waits for it to come back need not wait any longer.
    pub fn hurry(&mut self, peer: NodeId) {
        for lane in [Lane::Bulk, Lane::Small] {
            if let Some(link) = self.links.get_mut(&(peer, lane))
                && link.failures > 0
                && let State::Opening { task } = &link.state
            {
                task.abort();
                link.failures = 0;
                link.state = State::Idle;
                self.link(peer, lane);
            }
        }
    }

    /// Takes a task's report. Some: a bulk stream stands that did not before, and what was sent to
    /// the peer earlier may be lost.
    pub fn report(&mut self, report: LinkReport) -> Option<NodeId> {
        match report {
            LinkReport::Opened {
                peer,
                lane,
                serial,
                sender,
            } => {
                let link = self
                    .links
                    .get_mut(&(peer, lane))
                    .filter(|l| l.serial == serial)?;
                let previous = std::mem::replace(&mut link.state, State::Idle);
                let (State::Opening { task } | State::Open { task, .. }) = previous else {
                    return None;
                };
                for message in link.waiting.drain(..) {
                    // The queue is larger than what waited.
                    let _ = sender.try_send(message);
                }
                link.lost = false;
                link.state = State::Open {
                    task,
                    sender,
                    since: Instant::now(),
                };
                (lane == Lane::Bulk).then_some(peer)
            }
            LinkReport::Closed {
                peer,
                lane,
                serial,
                reason,
                new_id,
            } => {
                let link = self
                    .links
                    .get_mut(&(peer, lane))
                    .filter(|l| l.serial == serial)?;
                let settled = matches!(&link.state, State::Open { since, .. }
                    if since.elapsed() >= STREAM_SETTLED);
                link.failures = if settled {
                    0
                } else {
                    link.failures.saturating_add(1)
                };
                let failures = link.failures;
                link.state = State::Idle;
                if failures <= 1 {
                    let name = self.shared.name_of(peer);
                    say!(
                        info,
                        "CONNERROR",
                        "stream {lane:?} to {name} ({peer}) ended: {reason}"
                    );
                } else {
                    say!(
                        debug,
                        "CONNERROR",
                        "stream {lane:?} to {peer}, attempt {failures}: {reason}"
                    );
                }
                if new_id {
                    let name = self.shared.name_of(peer);
                    self.shared
                        .end(Ending::Retired(format!("{name} ({peer}) says: {reason}")));
                }
                // Small messages that waited through a failed attempt are old; the next heartbeat
                // or campaign opens the stream again.
                let link = self.links.get_mut(&(peer, lane))?;
                link.waiting.clear();
                if lane == Lane::Bulk && self.kept.contains(&peer) {
                    self.link(peer, lane);
                }
                None
            }
        }
    }

    /// Peers whose full bulk queue has room again after a message was dropped.
    pub fn recovered(&mut self) -> Vec<NodeId> {
        let mut recovered = Vec::new();
        for ((peer, _), link) in &mut self.links {
            if let State::Open { sender, .. } = &link.state
                && link.lost
                && sender.capacity() > sender.max_capacity() / 2
            {
                link.lost = false;
                recovered.push(*peer);
            }
        }
        recovered
    }

    /// Says goodbye on every stream, so that the ends are not taken for a death (E2), and waits a
    /// moment for the peers to hear it.
    pub async fn goodbye(&mut self) {
        self.kept.clear();
        let mut tasks = Vec::new();
        for link in self.links.values_mut() {
            if let State::Open { task, sender, .. } =
                std::mem::replace(&mut link.state, State::Idle)
            {
                let goodbye = pb::PeerMessage {
                    body: Some(Body::Goodbye(pb::PeerGoodbye {})),
                };
                let _ = sender.try_send(goodbye);
                tasks.push(task);
            }
        }
        let all = futures_util::future::join_all(tasks);
        let _ = tokio::time::timeout(FAREWELL, all).await;
    }
}

/// Nothing before the first attempt, then twice as long each time, with a random part so that
/// nodes do not call in step.
fn backoff(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let full = PEER_BACKOFF
        .0
        .saturating_mul(1 << failures.min(10))
        .min(PEER_BACKOFF.1);
    full.mul_f64(0.75 + 0.25 * rand::random::<f64>())
}

/// One attempt at one stream, and its life.
struct OutgoingStream {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    peer: NodeId,
    lane: Lane,
    serial: u64,
}

impl OutgoingStream {
    async fn run(self, wait: Duration) {
        tokio::time::sleep(wait).await;
        let (reason, new_id) = match self.connect().await {
            Err(reason) => (reason, false),
            Ok(client) => self.stream(client).await,
        };
        let OutgoingStream {
            peer, lane, serial, ..
        } = self;
        let closed = LinkReport::Closed {
            peer,
            lane,
            serial,
            reason,
            new_id,
        };
        let _ = self.inbox.send(Ask::Link(closed)).await;
    }

    async fn connect(&self) -> Result<PeerClient<Channel>, String> {
        if self.shared.leads() {
            // A founder that is about to bind its cluster: without one its Hello would be refused.
            let mut cluster = self.shared.cluster.subscribe();
            let bound = cluster.wait_for(Option::is_some);
            let _ = tokio::time::timeout(CONNECT_DEADLINE, bound).await;
        }
        connect(&self.shared, self.peer, CONNECT_DEADLINE).await
    }

    /// Opens the stream and stays until it ends. Returns why it did.
    async fn stream(&self, mut client: PeerClient<Channel>) -> (String, bool) {
        let capacity = match self.lane {
            Lane::Bulk => self.shared.config.max_inflight_batches + BULK_QUEUE_MARGIN,
            Lane::Small => SMALL_QUEUE,
        };
        let (sender, receiver) = mpsc::channel(capacity);
        // Room for one message at least: the channel is new.
        let _ = sender.try_send(pb::PeerMessage {
            body: Some(Body::Hello(self.hello())),
        });
        let OutgoingStream {
            peer, lane, serial, ..
        } = *self;
        let opened = Ask::Link(LinkReport::Opened {
            peer,
            lane,
            serial,
            sender,
        });
        if self.inbox.send(opened).await.is_err() {
            return ("the daemon stops".to_owned(), false);
        }
        let messages = ReceiverStream::new(receiver);
        let ended = match self.lane {
            Lane::Bulk => client.append_entries(messages).await,
            Lane::Small => client.heartbeat(messages).await,
        };
        match ended {
            Ok(_) => ("it was closed on purpose".to_owned(), false),
            Err(status) => (net::status_line(&status), says_new_id(&status)),
        }
    }

    fn hello(&self) -> pb::Hello {
        let (term, durable_index) = self.shared.progress.claim();
        pb::Hello {
            cluster_id: self.shared.cluster_bytes(),
            from: wire::id_bytes(self.shared.id.0),
            to: wire::id_bytes(self.peer.0),
            boot: self.shared.boot,
            term,
            durable_index,
            name: self.shared.config.name.clone(),
        }
    }
}

fn says_new_id(status: &Status) -> bool {
    status
        .metadata()
        .get(REFUSAL_HEADER)
        .is_some_and(|value| value.as_bytes() == TAKE_A_NEW_ID.as_bytes())
}

/// A fresh connection to `peer`'s gRPC port.
///
/// # Errors
/// A sentence: no address is known, or what the system said.
pub async fn connect(
    shared: &Shared,
    peer: NodeId,
    deadline: Duration,
) -> Result<PeerClient<Channel>, String> {
    let address = shared
        .addresses
        .get(peer)
        .ok_or("no address is known")?
        .address;
    connect_to(shared, address, deadline).await
}

/// A fresh connection to whoever listens at `address`.
///
/// # Errors
/// A sentence: what the system said.
pub async fn connect_to(
    shared: &Shared,
    address: SocketAddr,
    deadline: Duration,
) -> Result<PeerClient<Channel>, String> {
    let connected = async {
        let stream = net::dial(address, shared.config.bind_ip, deadline)
            .await
            .map_err(|error| format!("{address}: {error}"))?;
        net::channel(stream)
            .await
            .map_err(|error| format!("{address}: {}", net::root_cause(&error)))
    };
    let channel = tokio::time::timeout(deadline, connected)
        .await
        .map_err(|_| format!("{address}: no answer in {} ms", deadline.as_millis()))??;
    Ok(PeerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}
