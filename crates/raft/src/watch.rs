//! Watches: what the state machine beside this node changes, told as it is applied.
//!
//! What is applied is committed, so every node tells the same, in the same order, and any node may
//! serve: a watch that ends here goes on elsewhere from the index that its end names.
//!
//! A watch belongs to one epoch of the state machine (R3) and ends with it. It has a connection of its
//! own to the state machine: on the one of the epoch, a client that reads slowly would hold Execute up.
//! Its calls carry the epoch all the same, and its first reply the nonce, so another instance never
//! answers. The state machine alone knows what it has told; its progress marks are passed on.
//!
//! What waits for a client is bounded in bytes, and its place is taken until nothing of it is left. Who
//! does not read for [`WATCH_WAIT`] is cut: what waits is dropped, and the end names the index that the
//! client has got to.

mod queue;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use raft_core::{ClusterId, Index};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};
use wire::raft::{self as pb, ErrorKind};
use wire::state_machine as machine;

use crate::forward::error_status;
use crate::limits::{FAREWELL, MAX_WATCH_STUMPS, MAX_WATCHES, WATCH_LEADERLESS, WATCH_WAIT};
use crate::net;
use crate::reads::{MACHINE_PATIENCE, machine_in_use};
use crate::say;
use crate::shared::{Machine, Shared};
use crate::state_machine;

use self::queue::{NotTaken, Told, queue};

/// The state machine's word for why it refused, and the index that goes with it.
const REASON_HEADER: &str = "leeky-reason";
const INDEX_HEADER: &str = "leeky-index";

/// Opens watches.
pub struct Watches {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    stumps: Arc<Semaphore>,
}

/// The replies of one watch, for its client. Dropping them ends it.
pub struct Replies {
    shared: Arc<Shared>,
    queue: queue::Receiver,
}

impl Stream for Replies {
    type Item = Result<pb::WatchReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let told = ready!(Pin::new(&mut self.queue).poll_next(cx));
        Poll::Ready(told.map(|told| match told {
            Told::Reply(reply) => Ok(reply),
            Told::End { why, next } => {
                let sentence = format!(
                    "the watch has ended at this node: {why}. Everything before index {next} was \
                     told, and it can go on from there"
                );
                Err(error_status(
                    &self.shared,
                    ErrorKind::WatchEnded,
                    &sentence,
                    next,
                ))
            }
        }))
    }
}

/// A watch that stands.
struct Relay {
    shared: Arc<Shared>,
    epoch: u64,
    from: Streaming<machine::WatchReply>,
    to: queue::Sender,
    stumps: Arc<Semaphore>,
    /// Everything before this index was passed on.
    next: Index,
}

/// Why a watch ends.
enum Why {
    /// The client is told.
    Over(String),
    NotTaken(NotTaken),
}

impl Watches {
    /// No watch is open.
    pub fn new(shared: Arc<Shared>) -> Watches {
        Watches {
            shared,
            places: Arc::new(Semaphore::new(MAX_WATCHES)),
            stumps: Arc::new(Semaphore::new(MAX_WATCH_STUMPS)),
        }
    }

    /// Opens a watch. Its first reply is there when this returns.
    ///
    /// # Errors
    /// WATCH_COMPACTED with the first index that can be watched; UNSUPPORTED when the state machine has
    /// no watches; INVALID when it does not understand the query; TOO_LARGE when that is over
    /// MaxEntryBytes; OVERLOADED; NO_LEADER; STATE_MACHINE_DOWN.
    pub async fn open(
        &self,
        mut request: pb::WatchRequest,
        cluster: ClusterId,
        deadline: Instant,
    ) -> Result<Replies, Status> {
        let (length, limit) = (request.query.len(), self.shared.config.max_entry_bytes);
        if length > limit {
            let sentence = format!("the query has {length} bytes, and MaxEntryBytes is {limit}");
            return Err(self.status(ErrorKind::TooLarge, &sentence, 0));
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let sentence = format!("{MAX_WATCHES} watches are open here: ask another node");
            self.status(ErrorKind::Overloaded, &sentence, 0)
        })?;
        let patience = (Instant::now() + MACHINE_PATIENCE).min(deadline);
        self.led(patience).await?;
        let machine = machine_in_use(&self.shared, patience).await;
        let machine = machine.map_err(|(kind, sentence)| self.status(kind, &sentence, 0))?;
        let machine = machine.borrow().clone();
        if request.from_index == 0 {
            request.from_index = self.behind_all_known(&machine);
        }
        let (asked_from, epoch) = (request.from_index, machine.epoch);
        let opened = timeout_at(deadline, self.ask(&machine, request)).await;
        let (first, from) = opened.unwrap_or_else(|_| {
            let sentence = "the state machine did not answer in time";
            Err(self.status(ErrorKind::StateMachineDown, sentence, 0))
        })?;
        let strange = first.nonce != machine.nonce || !first.events.is_empty();
        if strange || first.index.saturating_add(1) != asked_from {
            let sentence = "the state machine began the watch with something else than a mark of this \
                            instance and of the index before the first one";
            return Err(self.status(ErrorKind::StateMachineDown, sentence, 0));
        }
        say!(debug, "WATCH", "from {} on", first.index.saturating_add(1));
        let next = first.index.saturating_add(1);
        let (to, queue) = queue(place, next, WATCH_WAIT);
        let relay = Relay {
            shared: self.shared.clone(),
            epoch,
            from,
            to,
            stumps: self.stumps.clone(),
            next,
        };
        let first = pb::WatchReply {
            index: first.index,
            events: Vec::new(),
            cluster_id: wire::id_bytes(cluster.0),
        };
        tokio::spawn(relay.run(first));
        let shared = self.shared.clone();
        Ok(Replies { shared, queue })
    }

    /// Waits, but not long, until every watch has ended and its client was told.
    pub async fn drained(&self) {
        let all = u32::try_from(MAX_WATCHES).unwrap_or(u32::MAX);
        // What is not told now is not told: the client finds out from its connection.
        let _ = timeout(FAREWELL, self.places.acquire_many(all)).await;
    }

    fn status(&self, kind: ErrorKind, sentence: &str, index: Index) -> Status {
        error_status(&self.shared, kind, sentence, index)
    }

    /// A node that knows no leader may be cut off, and nothing would be heard of at it.
    async fn led(&self, patience: Instant) -> Result<(), Status> {
        let mut standing = self.shared.standing.subscribe();
        let led = standing.wait_for(|now| now.leader.is_some());
        match timeout_at(patience, led).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let sentence = "no leader is known here, and news may be missing: ask another node";
                Err(self.status(ErrorKind::NoLeader, sentence, 0))
            }
        }
    }

    /// Behind all that is known to be committed: what this node has yet to catch up with is no news.
    fn behind_all_known(&self, machine: &Machine) -> Index {
        let known = self.shared.progress.commit().max(machine.applied);
        known.saturating_add(1)
    }

    async fn ask(
        &self,
        machine: &Machine,
        request: pb::WatchRequest,
    ) -> Result<(machine::WatchReply, Streaming<machine::WatchReply>), Status> {
        let down = |sentence: &str| self.status(ErrorKind::StateMachineDown, sentence, 0);
        let client = state_machine::connect_beside(&self.shared).await;
        let mut client = client.map_err(|reason| down(&reason))?;
        let request = machine::WatchRequest {
            epoch: machine.epoch,
            from_index: request.from_index,
            query: request.query,
        };
        let refused = |status: Status| self.refused(&status);
        let mut replies = client.watch(request).await.map_err(refused)?.into_inner();
        match replies.message().await.map_err(refused)? {
            Some(first) => Ok((first, replies)),
            None => Err(down("the state machine ended the watch at once")),
        }
    }

    /// What the state machine's refusal means to the client.
    fn refused(&self, status: &Status) -> Status {
        let kind = match status.code() {
            Code::Unimplemented => ErrorKind::Unsupported,
            Code::OutOfRange if word(status, REASON_HEADER) == "COMPACTED" => {
                ErrorKind::WatchCompacted
            }
            Code::InvalidArgument => ErrorKind::Invalid,
            Code::ResourceExhausted => ErrorKind::Overloaded,
            _ => ErrorKind::StateMachineDown,
        };
        let sentence = match word(status, REASON_HEADER) {
            // Who wrote it never heard of watches.
            "" if kind == ErrorKind::Unsupported => "this state machine has no watches".to_owned(),
            _ => net::status_line(status),
        };
        let index = word(status, INDEX_HEADER).parse().unwrap_or(0);
        self.status(kind, &sentence, index)
    }
}

fn word<'a>(status: &'a Status, header: &str) -> &'a str {
    let value = status.metadata().get(header);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

impl Relay {
    /// Passes on what comes until something ends it, and says what.
    async fn run(mut self, first: pb::WatchReply) {
        let shared = self.shared.clone();
        let why = tokio::select! {
            biased;
            why = over(&shared, self.epoch) => Why::Over(why),
            why = self.pass_on(first) => why,
        };
        let (sentence, patience) = match why {
            Why::Over(sentence) => (sentence, WATCH_WAIT),
            Why::NotTaken(why) => (why.to_string(), Duration::ZERO),
        };
        say!(debug, "WATCH-X", "before {}: {sentence}", self.next);
        // What the state machine has for it is of no use any more; what waits for the client is.
        let Relay {
            mut to,
            stumps,
            from,
            ..
        } = self;
        drop(from);
        to.end(sentence);
        if timeout(patience, to.gone()).await.is_err() {
            to.cut(&stumps);
        }
    }

    async fn pass_on(&mut self, first: pb::WatchReply) -> Why {
        if let Err(why) = self.to.push(first).await {
            return Why::NotTaken(why);
        }
        loop {
            let reply = tokio::select! {
                () = self.to.gone() => return Why::NotTaken(NotTaken::Gone),
                reply = self.from.message() => match reply {
                    Ok(Some(reply)) => reply,
                    Ok(None) => {
                        return Why::Over("the state machine ended it without a word".to_owned());
                    }
                    Err(status) => return Why::Over(net::status_line(&status)),
                },
            };
            // A mark may repeat what was told; an event may not.
            let marks = u64::from(reply.events.is_empty());
            if reply.index.saturating_add(marks) < self.next {
                return Why::Over(format!(
                    "the state machine told of index {} after index {}, and its indices must rise",
                    reply.index,
                    self.next.saturating_sub(1)
                ));
            }
            let next = reply.index.saturating_add(1);
            let reply = pb::WatchReply {
                index: reply.index,
                events: reply.events,
                cluster_id: bytes::Bytes::new(),
            };
            if let Err(why) = self.to.push(reply).await {
                return Why::NotTaken(why);
            }
            self.next = next;
        }
    }
}

/// Comes back when no watch of this epoch may go on here, with the reason.
async fn over(shared: &Shared, epoch: u64) -> String {
    let mut machine = shared.machine.subscribe();
    let (mut stopping, mut ending) = (shared.stopping.subscribe(), shared.ending.subscribe());
    let why = tokio::select! {
        _ = machine.wait_for(|now| now.epoch != epoch || now.client.is_none()) => {
            "the epoch of the state machine is over"
        }
        _ = stopping.wait_for(|stopping| *stopping) => "the node stops",
        _ = ending.wait_for(Option::is_some) => "the node stops, or has left the cluster",
        () = leaderless(shared) => "no leader is known here, and news may be missing",
    };
    why.to_owned()
}

/// Comes back when no leader was known for [`WATCH_LEADERLESS`]: a node that is cut off would look as if
/// nothing happened.
async fn leaderless(shared: &Shared) {
    let mut standing = shared.standing.subscribe();
    loop {
        let lost = standing.wait_for(|now| now.leader.is_none()).await;
        // The sender is gone with the daemon.
        if lost.map(drop).is_err() {
            return;
        }
        let found = standing.wait_for(|now| now.leader.is_some());
        if timeout(WATCH_LEADERLESS, found).await.map(drop).is_err() {
            return;
        }
    }
}
