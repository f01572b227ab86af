//! A watch that outlives the node it is at: what the state machine changes, each change once and in
//! order, from whichever node answers.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};
use wire::raft::{ErrorKind, WatchReply, WatchRequest};

use crate::client::{Client, Notice, nobody};
use crate::connection::connect_deadline;
use crate::endpoints::resolve;
use crate::error::ClientError;
use crate::failure::Failure;
use crate::request::service;

/// How long one node may take to open a watch.
const OPEN_DEADLINE: Duration = Duration::from_secs(2);

/// The pause after every address was tried once; it doubles up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// When no node has ever answered and every address refuses, waiting longer is of no use.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);

/// A watch that told something, or stood for so long, was a success: the time to find another node
/// begins anew with its end. A node that knows no leader keeps a watch for 3 s before it says so; this
/// is more, so that a cluster without a majority does not look like one that has nothing to tell.
const SETTLED: Duration = Duration::from_secs(10);

/// What one entry of the log changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Where the entry stands. Everything that is watched up to here has been told: who goes on later
    /// begins at the index after it.
    pub index: u64,
    /// The changes, in order, in the state machine's own words. Empty: a mark of progress.
    pub events: Vec<Bytes>,
}

/// A watch of one client, which can do nothing else meanwhile. Dropping it ends it.
pub struct Watch<'a> {
    client: &'a mut Client,
    query: Bytes,
    /// The first index that was not told yet; 0: from now on, whenever that is.
    next: u64,
    open: Option<Open>,
    /// Where it was last.
    last: Option<SocketAddr>,
    /// Why it is there no more.
    lost: Option<Failure>,
    give_up_at: Option<Instant>,
    /// The pause before the next node, when the one before took the watch on for nothing.
    pause: Duration,
}

struct Open {
    replies: Streaming<WatchReply>,
    address: SocketAddr,
    since: Instant,
}

/// What the attempts of one round came to.
#[derive(Default)]
struct Round {
    failures: Vec<(SocketAddr, Failure)>,
    unresolved: Vec<String>,
}

impl Client {
    /// Watches what `query` says, in the state machine's words, from index `from` on; 0: from now on.
    /// Nothing is sent before [`Watch::next`].
    pub fn watch(&mut self, query: Bytes, from: u64) -> Watch<'_> {
        Watch {
            client: self,
            query,
            next: from,
            open: None,
            last: None,
            lost: None,
            give_up_at: None,
            pause: Duration::ZERO,
        }
    }
}

impl Watch<'_> {
    /// Waits for the next change, or mark. When the node that it is at fails, it goes on at another one
    /// behind what was told last. It may be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// [`ClientError::Compacted`] when the index to go on from is kept by no node any more; any other
    /// when no node has taken the watch on within the client's timeout.
    pub async fn next(&mut self) -> Result<Changes, ClientError> {
        loop {
            let Some(open) = &mut self.open else {
                if let Some(first) = self.reopen().await? {
                    return Ok(first);
                }
                continue;
            };
            match open.replies.message().await {
                Ok(Some(reply)) => {
                    if let Some(changes) = self.hear(reply) {
                        self.succeeded();
                        return Ok(changes);
                    }
                }
                Ok(None) => self.lose(Failure::Broken("it ended the watch".to_owned())),
                Err(status) => self.lose(Failure::from_status(&status)),
            }
        }
    }

    /// The index that it would go on from: 0 as long as no node has answered a watch from now on.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// What is new in a reply. What was told before is not told again, whoever repeats it.
    fn hear(&mut self, reply: WatchReply) -> Option<Changes> {
        let WatchReply { index, events, .. } = reply;
        if index < self.next {
            return None;
        }
        self.next = index.saturating_add(1);
        Some(Changes { index, events })
    }

    fn lose(&mut self, failure: Failure) {
        if let Some(open) = self.open.take() {
            if !matches!(failure, Failure::Refused(_)) {
                self.client.connections.close(open.address);
            }
            if open.since.elapsed() >= SETTLED {
                self.succeeded();
            } else if self.give_up_at.is_some() {
                self.pause = (self.pause * 2).clamp(PAUSE.0, PAUSE.1);
            }
        }
        self.lost = Some(failure);
    }

    fn succeeded(&mut self) {
        self.give_up_at = None;
        self.pause = Duration::ZERO;
    }

    /// Round after round over all addresses, the one it was at last, until one takes the watch on. The
    /// mark that begins it is returned when it is news.
    async fn reopen(&mut self) -> Result<Option<Changes>, ClientError> {
        let begun = Instant::now();
        let deadline = self.client.deadline();
        let deadline = *self.give_up_at.get_or_insert(deadline);
        sleep(self.pause).await;
        if let (Some(failure), Some(address)) = (&self.lost, self.last)
            && Instant::now() >= deadline
        {
            return Err(failure.clone().into_error(address));
        }
        let mut pause = PAUSE.0;
        let mut compacted = None;
        loop {
            let mut round = Round::default();
            let addresses = self.addresses(deadline, &mut round).await;
            let count = addresses.len();
            for (place, address) in addresses.into_iter().enumerate() {
                match self.attempt(address, deadline, count - place).await {
                    Ok((first, replies)) => return Ok(self.opened(address, first, replies)),
                    Err(failure) if failure.is_final() => return Err(failure.into_error(address)),
                    Err(failure) => round.failures.push((address, failure)),
                }
            }
            // The end of the time may cut off in this round who said so in an earlier one.
            compacted = round.compacted().or(compacted);
            // Nobody has what is wanted, and nobody will have it later.
            if round.all_compacted() {
                return Err(self.give_up(round, compacted));
            }
            let hopeless = round.unresolved.is_empty()
                && round
                    .failures
                    .iter()
                    .all(|(_, failure)| failure.is_hopeless());
            let patience = match self.last {
                None if hopeless => deadline.min(begun + REFUSED_PATIENCE),
                _ => deadline,
            };
            let wait = pause.mul_f64(rand::random_range(0.5..1.0));
            if Instant::now() + wait >= patience {
                return Err(self.give_up(round, compacted));
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// What the endpoints resolve to at this moment, beginning behind the node that failed.
    async fn addresses(&self, deadline: Instant, round: &mut Round) -> Vec<SocketAddr> {
        let left = deadline.saturating_duration_since(Instant::now());
        let resolved = resolve(&self.client.options.endpoints, left).await;
        round.unresolved = resolved.unresolved;
        let mut addresses = resolved.addresses;
        let last = addresses
            .iter()
            .position(|address| Some(*address) == self.last);
        if let Some(last) = last {
            addresses.rotate_left(last + 1);
        }
        addresses
    }

    /// Asks one node. `candidates` addresses share the time that is left.
    async fn attempt(
        &mut self,
        address: SocketAddr,
        deadline: Instant,
        candidates: usize,
    ) -> Result<(WatchReply, Streaming<WatchReply>), Failure> {
        let client = &mut *self.client;
        let left = deadline.saturating_duration_since(Instant::now());
        let connected = client
            .connections
            .get(address, connect_deadline(left, candidates));
        let channel = connected.await.map_err(Failure::Connect)?;
        let request = WatchRequest {
            query: self.query.clone(),
            from_index: self.next,
            cluster_id: client.cluster_id.clone(),
        };
        let opened = async {
            let mut replies = service(channel).watch(request).await?.into_inner();
            let first = replies.message().await?;
            let first = first.ok_or_else(|| Status::unavailable("it ended the watch at once"))?;
            Ok::<_, Status>((first, replies))
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left.min(OPEN_DEADLINE), opened).await {
            Err(_) => {
                client.connections.close(address);
                Err(Failure::Silent)
            }
            Ok(Err(status)) => {
                let failure = Failure::from_status(&status);
                match &failure {
                    Failure::Refused(refusal) => client.pin(address, &refusal.cluster_id)?,
                    _ => client.connections.close(address),
                }
                Err(failure)
            }
            Ok(Ok((first, replies))) => {
                client.pin(address, &first.cluster_id)?;
                Ok((first, replies))
            }
        }
    }

    fn opened(
        &mut self,
        address: SocketAddr,
        first: WatchReply,
        replies: Streaming<WatchReply>,
    ) -> Option<Changes> {
        let since = Instant::now();
        let open = Open {
            replies,
            address,
            since,
        };
        self.open = Some(open);
        self.last = Some(address);
        if let Some(failure) = self.lost.take() {
            let (from, reason) = (self.next, failure.reason());
            self.client.tell(Notice::WatchMoved {
                address,
                from,
                reason,
            });
        }
        self.hear(first)
    }

    fn give_up(&mut self, round: Round, compacted: Option<(SocketAddr, Failure)>) -> ClientError {
        // Whatever ails the others, this the caller can do something about.
        if let Some((address, failure)) = compacted {
            return failure.into_error(address);
        }
        let most = round
            .failures
            .iter()
            .max_by_key(|(_, failure)| failure.weight());
        match most {
            Some((address, failure)) if !matches!(failure, Failure::Connect(_)) => {
                failure.clone().into_error(*address)
            }
            _ => {
                let endpoints = &self.client.options.endpoints;
                nobody(endpoints, &round.failures, &round.unresolved)
            }
        }
    }
}

impl Round {
    /// Every node there is has answered, and none keeps what is wanted. One that is away for a moment
    /// may be the one that does.
    fn all_compacted(&self) -> bool {
        let compacted = |(_, failure): &(SocketAddr, Failure)| compacted_before(failure).is_some();
        self.unresolved.is_empty()
            && !self.failures.is_empty()
            && self.failures.iter().all(compacted)
    }

    /// Of those who no longer keep what is wanted, the one who keeps most.
    fn compacted(&self) -> Option<(SocketAddr, Failure)> {
        let compacted = self
            .failures
            .iter()
            .filter(|(_, failure)| compacted_before(failure).is_some());
        compacted
            .min_by_key(|(_, failure)| compacted_before(failure))
            .cloned()
    }
}

/// The first index that a node keeps, when it no longer keeps the one that it was asked for.
fn compacted_before(failure: &Failure) -> Option<u64> {
    match failure {
        Failure::Refused(refusal) if refusal.kind == ErrorKind::WatchCompacted => {
            Some(refusal.index)
        }
        _ => None,
    }
}
