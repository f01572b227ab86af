//! The callers, and the connections that they share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};
use wire::raft::raft_client::RaftClient;
use wire::raft::{
    ErrorKind, NodeReference, PutEntryRequest, QueryRequest, RegisterSessionRequest, ResultKind,
};

use super::tally::{Mishap, Tally};
use super::{Limit, Plan};
use crate::client::{Client, Options, nobody};
use crate::connection::{CONNECT_DEADLINE, ConnectError, connect};
use crate::error::ClientError;
use crate::failure::{Failure, Leader};
use crate::request::service;

/// So much sooner the daemon is asked to answer: its sentence says more than our silence.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

/// A caller whose call failed waits before its next one; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The longest that a daemon may ask a caller to stay away.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// Room in an entry for the verb and the longest key.
const ENTRY_HEAD_BYTES: usize = 32;

/// Opens a connection for the load.
pub(super) async fn open(address: SocketAddr) -> Result<Channel, ConnectError> {
    connect(address, CONNECT_DEADLINE).await
}

/// What one call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Put a key drawn at random.
    Put { session: bool },
    /// Get a key drawn at random.
    Get { stale: bool },
    /// Put every key in turn.
    Fill,
}

impl Work {
    fn writes(self) -> bool {
        match self {
            Self::Put { .. } | Self::Fill => true,
            Self::Get { .. } => false,
        }
    }
}

/// Where connections lead.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// To the leader; this is the one that led at the beginning.
    Leader(Leader),
    /// To every address in turn.
    Any,
}

/// A part of the whole: filling, warming up, measuring.
pub(super) struct Phase {
    name: &'static str,
    work: Work,
    keys: u64,
    limit: Limit,
    begun: OnceLock<Instant>,
    ended: OnceLock<Instant>,
    started: AtomicU64,
    tally: Mutex<Tally>,
}

impl Phase {
    pub(super) fn new(name: &'static str, work: Work, keys: u64, limit: Limit) -> Arc<Self> {
        Arc::new(Self {
            name,
            work,
            keys,
            limit,
            begun: OnceLock::new(),
            ended: OnceLock::new(),
            started: AtomicU64::new(0),
            tally: Mutex::new(Tally::new()),
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn begin(&self) -> Instant {
        *self.begun.get_or_init(Instant::now)
    }

    pub(super) fn end(&self) {
        self.ended.get_or_init(Instant::now);
    }

    /// What the operations took together: up to the end of the time, or to the last answer if that
    /// came later; a call that hangs beyond it does not thin out the others.
    pub(super) fn elapsed(&self) -> Duration {
        let begun = self.begin();
        let ended = self.ended.get().copied().unwrap_or_else(Instant::now);
        let last = self.tally().last();
        match self.limit {
            Limit::Operations(_) => ended.duration_since(begun),
            Limit::Time(time) => {
                let last = last.unwrap_or(begun).max(begun + time).min(ended);
                last.duration_since(begun)
            }
        }
    }

    /// The number of the next call; `None` when the phase is over.
    fn next(&self, now: Instant) -> Option<u64> {
        match self.limit {
            Limit::Time(time) => {
                let over = now >= self.begin() + time;
                (!over).then(|| self.started.fetch_add(1, Ordering::Relaxed))
            }
            Limit::Operations(operations) => {
                let number = self.started.fetch_add(1, Ordering::Relaxed);
                (number < operations).then_some(number)
            }
        }
    }

    fn key(&self, number: u64) -> u64 {
        match self.work {
            Work::Fill => number % self.keys,
            Work::Put { .. } | Work::Get { .. } => rand::random_range(0..self.keys),
        }
    }

    /// Never held across an await, and by one thread at a time: it costs nothing to speak of.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations that succeeded, and errors.
    pub(super) fn counts(&self) -> (u64, u64) {
        let tally = self.tally();
        (tally.operations(), tally.error_count())
    }

    /// Why nothing succeeded, if nothing did.
    pub(super) fn failure(&self) -> Option<ClientError> {
        self.tally().failure(self.work.writes())
    }
}

/// One connection as a caller has it; it is renewed for all callers that share it.
#[derive(Clone)]
struct Link {
    generation: u64,
    /// Where the connection leads.
    address: SocketAddr,
    /// The same, as nodes write it.
    address_text: Arc<str>,
    channel: Channel,
    /// Where the latest attempt at another connection led, if it failed.
    missed: Option<SocketAddr>,
}

impl Link {
    fn new(generation: u64, address: SocketAddr, channel: Channel) -> Self {
        Self {
            generation,
            address,
            address_text: address.to_string().into(),
            channel,
            missed: None,
        }
    }
}

/// What all callers share.
pub(super) struct Shared {
    timeout: Duration,
    cluster_id: Bytes,
    route: Route,
    addresses: Vec<SocketAddr>,
    links: Vec<AsyncMutex<Link>>,
    /// Looks for the leader when a connection to it is lost.
    finder: AsyncMutex<Client>,
    value: Bytes,
}

impl Shared {
    /// Opens all connections.
    ///
    /// # Errors
    /// [`ClientError::NoNodeAnswered`] when one of them leads nowhere.
    pub(super) async fn open(
        options: Options,
        cluster_id: Bytes,
        plan: &Plan,
        route: Route,
        addresses: Vec<SocketAddr>,
        connections: usize,
    ) -> Result<Self, ClientError> {
        let mut links = Vec::with_capacity(connections);
        for number in 0..connections {
            let candidates: Vec<SocketAddr> = match &route {
                Route::Leader(leader) => vec![leader.address],
                Route::Any => {
                    let turned = number % addresses.len();
                    let (before, from) = addresses.split_at(turned);
                    [from, before].concat()
                }
            };
            let link = first_open(&options, &candidates).await?;
            links.push(AsyncMutex::new(link));
        }
        let letters = (0..plan.value_bytes).map(|_| rand::random_range(b'a'..=b'z'));
        Ok(Self {
            timeout: options.timeout,
            cluster_id,
            route,
            addresses,
            links,
            finder: AsyncMutex::new(Client::new(options)),
            value: letters.collect(),
        })
    }

    pub(super) fn route_in_words(&self) -> String {
        match &self.route {
            Route::Leader(leader) => {
                format!("the leader, at first {} at {}", leader.name, leader.address)
            }
            Route::Any => match self.addresses.len() {
                1 => "one endpoint".to_owned(),
                addresses => format!("{addresses} endpoints"),
            },
        }
    }

    /// Another connection in the place of one that failed, or to another leader. Of all callers that
    /// see the same failure one does it, and the others get what it got.
    async fn renew(&self, slot: usize, seen: u64, to: Option<SocketAddr>) -> Option<Link> {
        let mut link = self.links.get(slot)?.lock().await;
        if link.generation != seen {
            return Some(link.clone());
        }
        let address = match (to, &self.route) {
            (Some(address), _) => address,
            (None, Route::Leader(_)) => self.leader().await.unwrap_or(link.address),
            (None, Route::Any) => {
                let now = link.missed.unwrap_or(link.address);
                let place = self.addresses.iter().position(|address| *address == now);
                let next = place.map_or(0, |place| (place + 1) % self.addresses.len().max(1));
                self.addresses.get(next).copied().unwrap_or(link.address)
            }
        };
        let generation = seen + 1;
        match open(address).await {
            Ok(channel) => *link = Link::new(generation, address, channel),
            // The old connection stays, and opens itself again if there is somebody to talk to.
            Err(_) => {
                link.generation = generation;
                link.missed = Some(address);
            }
        }
        Some(link.clone())
    }

    async fn leader(&self) -> Option<SocketAddr> {
        let leader = self.finder.lock().await.leader().await.ok()?;
        Leader::from_reference(Some(&leader)).map(|leader| leader.address)
    }
}

async fn first_open(options: &Options, candidates: &[SocketAddr]) -> Result<Link, ClientError> {
    let mut tried = Vec::new();
    for address in candidates {
        match open(*address).await {
            Ok(channel) => return Ok(Link::new(0, *address, channel)),
            Err(error) => tried.push((*address, Failure::Connect(error))),
        }
    }
    Err(nobody(&options.endpoints, &tried, &[]))
}

/// What a reply says beside its data.
struct Said {
    kind: ResultKind,
    data: Bytes,
    cluster_id: Bytes,
    leader: Option<NodeReference>,
}

/// One of those who call, again and again.
pub(super) struct Caller {
    shared: Arc<Shared>,
    slot: usize,
    link: Link,
    raft: RaftClient<Channel>,
    /// Its entry; the buffer is free again by the time a call is answered.
    entry: BytesMut,
    /// The id of its session, and the next sequence.
    session: Option<(u64, u64)>,
    pause: Duration,
}

impl Caller {
    pub(super) async fn new(shared: Arc<Shared>, number: usize) -> Self {
        let slot = number % shared.links.len();
        let link = shared.links[slot].lock().await.clone();
        let raft = service(link.channel.clone());
        let entry = BytesMut::with_capacity(ENTRY_HEAD_BYTES + shared.value.len());
        Self {
            shared,
            slot,
            link,
            raft,
            entry,
            session: None,
            pause: PAUSE_MIN,
        }
    }

    /// Calls until the phase is over.
    pub(super) async fn work(mut self, phase: Arc<Phase>) -> Self {
        let mut now = Instant::now();
        while let Some(number) = phase.next(now) {
            let begun = now;
            let end = self.call(phase.work, phase.key(number)).await;
            now = Instant::now();
            match end {
                Ok(found) => {
                    self.pause = PAUSE_MIN;
                    phase.tally().succeeded(now - begun, now, found);
                }
                Err(mishap) => {
                    phase.tally().failed(&mishap);
                    self.recover(mishap).await;
                    now = Instant::now();
                }
            }
        }
        self
    }

    /// One call. Ok: whether the key was there.
    async fn call(&mut self, work: Work, key: u64) -> Result<bool, Mishap> {
        let patience = self.shared.timeout;
        let said = match timeout(patience, self.exchange(work, key)).await {
            Err(_) => return Err(self.failed(Failure::Silent)),
            Ok(Err(status)) => return Err(self.failed(Failure::from_status(&status))),
            Ok(Ok(said)) => said,
        };
        if said.cluster_id != self.shared.cluster_id && !said.cluster_id.is_empty() {
            let sentence = format!("{} belongs to another cluster", self.link.address);
            return Err(self.failed(Failure::other_cluster(sentence)));
        }
        if let Some(leader) = &said.leader
            && matches!(self.shared.route, Route::Leader(_))
            && *leader.address != *self.link.address_text
        {
            self.follow(leader).await;
        }
        match (said.kind, work) {
            (ResultKind::Ok, _) => Ok(true),
            (ResultKind::NotFound, Work::Get { .. }) => Ok(false),
            (ResultKind::Rejected | ResultKind::NotFound, _) => Err(Mishap::Rejected(said.data)),
            (ResultKind::AlreadyApplied | ResultKind::Unspecified, _) => Err(Mishap::Strange),
        }
    }

    fn failed(&self, failure: Failure) -> Mishap {
        Mishap::Failed(self.link.address, failure)
    }

    async fn exchange(&mut self, work: Work, key: u64) -> Result<Said, Status> {
        let patience = self.shared.timeout;
        let ask = patience.saturating_sub(ANSWER_MARGIN).max(patience / 2);
        let timeout_ms = u32::try_from(ask.as_millis()).unwrap_or(u32::MAX).max(1);
        let cluster_id = self.shared.cluster_id.clone();
        match work {
            Work::Get { stale } => {
                let query = self.written(b"GET bench-", key, &Bytes::new());
                let message = QueryRequest {
                    query,
                    cluster_id,
                    stale,
                    timeout_ms,
                };
                let reply = self.raft.query(message).await.map(Response::into_inner)?;
                Ok(Said {
                    kind: reply.kind(),
                    data: reply.data,
                    cluster_id: reply.cluster_id,
                    leader: reply.leader,
                })
            }
            Work::Put { .. } | Work::Fill => {
                let within = matches!(work, Work::Put { session: true });
                let (session, sequence) = match within {
                    true => self.sequence(timeout_ms).await?,
                    false => (0, 0),
                };
                let value = self.shared.value.clone();
                let entry = self.written(b"PUT bench-", key, &value);
                let message = PutEntryRequest {
                    entry,
                    session,
                    sequence,
                    // One entry at a time: those before this one are answered, or given up.
                    acked_below: sequence,
                    cluster_id,
                    forwarded: false,
                    timeout_ms,
                };
                let reply = self.raft.put_entry(message).await?.into_inner();
                Ok(Said {
                    kind: reply.kind(),
                    data: reply.data,
                    cluster_id: reply.cluster_id,
                    leader: reply.leader,
                })
            }
        }
    }

    /// The session and the next sequence in it; the first one opens the session.
    async fn sequence(&mut self, timeout_ms: u32) -> Result<(u64, u64), Status> {
        let (session, sequence) = match self.session {
            Some(session) => session,
            None => {
                let message = RegisterSessionRequest {
                    cluster_id: self.shared.cluster_id.clone(),
                    forwarded: false,
                    timeout_ms,
                };
                let reply = self.raft.register_session(message).await?.into_inner();
                (reply.session, 1)
            }
        };
        self.session = Some((session, sequence + 1));
        Ok((session, sequence))
    }

    /// The entry, in the buffer of the one before.
    fn written(&mut self, head: &[u8], key: u64, value: &Bytes) -> Bytes {
        // Whoever sent the entry before has let go of it: this takes its memory back.
        self.entry.reserve(ENTRY_HEAD_BYTES + value.len());
        self.entry.put_slice(head);
        put_decimal(&mut self.entry, key);
        if !value.is_empty() || head.starts_with(b"PUT") {
            self.entry.put_u8(b' ');
        }
        self.entry.put_slice(value);
        self.entry.split().freeze()
    }

    /// Waits a little after a failure, and sees that there is a connection for the next call.
    async fn recover(&mut self, mishap: Mishap) {
        let Mishap::Failed(_, failure) = mishap else {
            return;
        };
        let mut wait = self.pause.mul_f64(rand::random_range(0.5..1.0));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        match &failure {
            Failure::Connect(_) | Failure::Silent | Failure::Broken(_) | Failure::Foreign(_) => {
                self.renew(None).await
            }
            Failure::Refused(refusal) => {
                wait = wait.max(refusal.retry_after.min(RETRY_AFTER_MAX));
                if refusal.kind == ErrorKind::SessionExpired {
                    self.session = None;
                }
                if refusal.kind == ErrorKind::NotLeader
                    && let Some(leader) = &refusal.leader
                {
                    self.renew(Some(leader.address)).await;
                }
            }
        }
        sleep(wait).await;
    }

    /// Turns to the leader that a reply names, unless that was tried in vain.
    async fn follow(&mut self, leader: &NodeReference) {
        let Some(leader) = Leader::from_reference(Some(leader)) else {
            return;
        };
        let (here, missed) = (self.link.address, self.link.missed);
        if leader.address != here && missed != Some(leader.address) {
            self.renew(Some(leader.address)).await;
        }
    }

    async fn renew(&mut self, to: Option<SocketAddr>) {
        let seen = self.link.generation;
        if let Some(link) = self.shared.renew(self.slot, seen, to).await {
            self.raft = service(link.channel.clone());
            self.link = link;
        }
    }
}

/// Decimal digits, without a string in between.
fn put_decimal(buffer: &mut BytesMut, number: u64) {
    let mut digits = [0; 20];
    let (mut rest, mut begin) = (number, digits.len());
    while begin > 0 {
        begin -= 1;
        // A remainder of ten fits a byte.
        digits[begin] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    buffer.put_slice(&digits[begin..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_decimal() {
        for number in [0, 7, 10, 999_999_999, u64::MAX] {
            let mut buffer = BytesMut::new();
            put_decimal(&mut buffer, number);
            assert_eq!(buffer, number.to_string().as_bytes());
        }
    }

    #[test]
    fn as_many_calls_as_operations_and_none_after_the_time() {
        let phase = Phase::new("put", Work::Fill, 3, Limit::Operations(4));
        let keys: Vec<u64> = std::iter::from_fn(|| phase.next(Instant::now()))
            .map(|number| phase.key(number))
            .collect();
        assert_eq!(keys, [0, 1, 2, 0]);
        let time = Duration::from_secs(1);
        let phase = Phase::new("put", Work::Put { session: false }, 3, Limit::Time(time));
        let begun = phase.begin();
        assert!(phase.next(begun).is_some());
        assert!(phase.next(begun + time).is_none());
    }

    #[test]
    fn a_call_that_hangs_beyond_the_time_does_not_thin_out_the_others() {
        let time = Duration::from_secs(2);
        let phase = Phase::new("put", Work::Put { session: false }, 3, Limit::Time(time));
        let begun = phase.begin();
        let took = Duration::from_millis(1);
        phase.tally().succeeded(took, begun + time / 2, true);
        phase.ended.get_or_init(|| begun + time * 3);
        assert_eq!(phase.elapsed(), time);
        let late = begun + time + took;
        phase.tally().succeeded(took, late, true);
        assert_eq!(phase.elapsed(), time + took);
    }
}
