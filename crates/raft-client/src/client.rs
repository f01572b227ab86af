//! [`Client`]: one object for all calls. It finds a node, follows the leader, retries what may be
//! retried, and says what is known when the time is up.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use wire::raft::{ErrorKind, LeaveReply, NodeReference, PutEntryReply, QueryReply, SkipReply};

use crate::bench::Progress;
use crate::connection::{CONNECT_DEADLINE, ConnectError, Connections, connect, connect_deadline};
use crate::endpoints::{Endpoint, resolve};
use crate::error::ClientError;
use crate::failure::{Failure, Leader};
use crate::request::{Reply, Request, exchange};

/// So much sooner the daemon is asked to answer: its sentence says more than our silence.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

/// The pause after every address was tried once; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The longest that a daemon may ask us to stay away.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// With less time than this, or than a quarter of the whole, no further attempt is begun: it would
/// hardly be answered, and would only put a clear "no" in doubt.
const LAST_ATTEMPT_MIN: Duration = Duration::from_millis(100);

/// When no node has ever answered and every address refuses, waiting longer is of no use: a daemon
/// that restarts is back by then.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);

/// Nodes that disagree about who leads could send us round in circles.
const REDIRECTS_PER_ROUND_MAX: usize = 4;

/// At most so many addresses are named when none answered.
const TRIED_SHOWN_MAX: usize = 5;

/// Where to look for nodes and how long to try.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts and ports; each may resolve to many addresses.
    pub endpoints: Vec<Endpoint>,
    /// For one call of the client in all: every name, address, retry and redirect together.
    pub timeout: Duration,
}

/// What is told while a call is under way; the command line prints it to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The node that was asked does not lead; the call goes on at the one that does. Once per client.
    Redirect {
        /// The leader's name.
        name: String,
        /// Its address.
        address: SocketAddr,
    },
    /// A watch goes on at a node, since the one it was at has ended it.
    WatchMoved {
        /// The node.
        address: SocketAddr,
        /// The first index that was not told yet; 0: nothing was.
        from: u64,
        /// Why it was ended.
        reason: String,
    },
    /// How far a [`Client::bench`] is.
    Progress(Progress),
}

/// A client of one cluster.
///
/// Calls come one after another. The first [`Client::put_entry`] opens a session; within it every
/// entry has a number that its retries keep, so that an entry is applied at most once however often
/// it is sent. The cluster that answers first is pinned: the answer of another is an error.
pub struct Client {
    pub(crate) options: Options,
    pub(crate) connections: Connections,
    pub(crate) cluster_id: Bytes,
    pub(crate) leader: Option<Leader>,
    /// The address that answered last.
    pub(crate) home: Option<SocketAddr>,
    /// An address that is asked last: it answered, and then broke off.
    pub(crate) avoided: Option<SocketAddr>,
    /// A connection to the leader that is being opened beside the calls.
    approach: Option<(Leader, JoinHandle<Result<Channel, ConnectError>>)>,
    session: Option<Session>,
    redirected: bool,
    notices: Box<dyn FnMut(Notice) + Send>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    id: u64,
    next_sequence: u64,
}

/// What the attempts at one request have told so far.
#[derive(Default)]
struct Told {
    /// The most telling failure, with where it happened; of equals the latest.
    most: Option<(SocketAddr, Failure)>,
    /// The latest failure of each address of this round.
    round: Vec<(SocketAddr, Failure)>,
    unresolved: Vec<String>,
    /// A raft daemon took the connection, whatever it said.
    answered: bool,
    /// The latest failure after which the request may have been carried out.
    doubt: Option<(SocketAddr, Failure)>,
    retry_after: Duration,
}

impl Client {
    /// A client; nothing is connected before the first call.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            connections: Connections::default(),
            cluster_id: Bytes::new(),
            leader: None,
            home: None,
            avoided: None,
            approach: None,
            session: None,
            redirected: false,
            notices: Box::new(|_| {}),
        }
    }

    /// Tells notices to `notices`; without this they are dropped.
    pub fn on_notice(&mut self, notices: impl FnMut(Notice) + Send + 'static) {
        self.notices = Box::new(notices);
    }

    /// Appends an entry and returns what the state machine made of it.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] when the entry may have been appended and no definite answer
    /// came; any other error means that it was not, and never will be.
    pub async fn put_entry(&mut self, entry: Bytes) -> Result<PutEntryReply, ClientError> {
        let deadline = self.deadline();
        let session = self.open_session(deadline).await?;
        let sequence = session.next_sequence;
        self.session = Some(Session {
            next_sequence: sequence + 1,
            ..session
        });
        let request = Request::PutEntry {
            entry,
            session: session.id,
            sequence,
        };
        match self.perform(&request, deadline).await {
            Ok(Reply::PutEntry(reply)) => Ok(reply),
            Ok(_) => Err(mixed_up()),
            Err(error) => {
                if matches!(error, ClientError::SessionExpired(_)) {
                    self.session = None;
                }
                Err(error)
            }
        }
    }

    /// Asks the state machine. Linearizable; with `stale`, one node's state as it is.
    ///
    /// # Errors
    /// Any [`ClientError`] but those that speak of an entry.
    pub async fn query(&mut self, query: Bytes, stale: bool) -> Result<QueryReply, ClientError> {
        let deadline = self.deadline();
        match self
            .perform(&Request::Query { query, stale }, deadline)
            .await?
        {
            Reply::Query(reply) => Ok(reply),
            _ => Err(mixed_up()),
        }
    }

    /// Asks the leader to hand over to the node with this id, or to whom it chooses.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] when it may have been done.
    pub async fn transfer_leadership(
        &mut self,
        to: Option<Bytes>,
    ) -> Result<Option<NodeReference>, ClientError> {
        let deadline = self.deadline();
        let request = Request::TransferLeadership {
            to: to.unwrap_or_default(),
        };
        match self.perform(&request, deadline).await? {
            Reply::TransferLeadership(reply) => Ok(reply.leader),
            _ => Err(mixed_up()),
        }
    }

    /// Asks that the node with this id leave the configuration for good.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] when it may have been done, or may yet be.
    pub async fn leave(&mut self, node_id: Bytes) -> Result<LeaveReply, ClientError> {
        let deadline = self.deadline();
        match self.perform(&Request::Leave { node_id }, deadline).await? {
            Reply::Leave(reply) => Ok(reply),
            _ => Err(mixed_up()),
        }
    }

    /// Puts the order into the log that the entry at `index` is not to be run by any state machine
    /// (P5), and returns where the order stands.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] when the order may have been appended. An index means nothing
    /// without its log, so nothing is ordered unless all endpoints that answer are of one cluster.
    pub async fn skip(&mut self, index: u64) -> Result<SkipReply, ClientError> {
        let deadline = self.deadline();
        self.pin_by_survey(deadline).await?;
        match self.perform(&Request::Skip { index }, deadline).await? {
            Reply::Skip(reply) => Ok(reply),
            _ => Err(mixed_up()),
        }
    }

    /// Tells a notice to whoever listens.
    pub(crate) fn tell(&mut self, notice: Notice) {
        (self.notices)(notice);
    }

    pub(crate) fn deadline(&self) -> Instant {
        // An instant that far ahead may not exist on the clock; nobody waits a year for a node.
        const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
        Instant::now() + self.options.timeout.min(TIMEOUT_MAX)
    }

    fn last_attempt(&self) -> Duration {
        LAST_ATTEMPT_MIN.min(self.options.timeout / 4)
    }

    async fn open_session(&mut self, deadline: Instant) -> Result<Session, ClientError> {
        if let Some(session) = self.session {
            return Ok(session);
        }
        match self.perform(&Request::RegisterSession, deadline).await? {
            Reply::RegisterSession(reply) => {
                let session = Session {
                    id: reply.session,
                    next_sequence: 1,
                };
                self.session = Some(session);
                Ok(session)
            }
            _ => Err(mixed_up()),
        }
    }

    /// Round after round over all addresses, until one answers for good or the time is up.
    pub(crate) async fn perform(
        &mut self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Reply, ClientError> {
        let begun = Instant::now();
        let mut told = Told::default();
        let mut pause = PAUSE_MIN;
        loop {
            told.round.clear();
            if let Some(end) = self.round(request, deadline, &mut told).await {
                return end.or_else(|failure| self.give_up(request, told, Some(failure)));
            }
            let hopeless = !told.answered
                && told.unresolved.is_empty()
                && told.round.iter().all(|(_, failure)| failure.is_hopeless());
            let patience = if hopeless {
                deadline.min(begun + REFUSED_PATIENCE)
            } else {
                deadline
            };
            let wait = pause
                .mul_f64(rand::random_range(0.5..1.0))
                .max(told.retry_after);
            told.retry_after = Duration::ZERO;
            if Instant::now() + wait + self.last_attempt() >= patience {
                return self.give_up(request, told, None);
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Tries every address once. `None`: go on with the next round.
    async fn round(
        &mut self,
        request: &Request,
        deadline: Instant,
        told: &mut Told,
    ) -> Option<Result<Reply, (SocketAddr, Failure)>> {
        // Whoever answered last needs no names looked up.
        let mut queue = self.at_home().await;
        let (mut tried, mut resolved, mut redirects) = (queue.clone(), false, 0);
        loop {
            let enough = if told.most.is_some() {
                self.last_attempt()
            } else {
                Duration::ZERO
            };
            if Instant::now() + enough >= deadline {
                return None;
            }
            let Some(address) = queue.pop() else {
                if std::mem::replace(&mut resolved, true) {
                    return None;
                }
                queue = self.candidates(deadline, told).await;
                queue.retain(|address| !tried.contains(address));
                queue.reverse();
                continue;
            };
            tried.push(address);
            let failure = match self
                .attempt(address, request, deadline, queue.len() + 1)
                .await
            {
                Ok(reply) => return Some(Ok(reply)),
                Err(failure) => failure,
            };
            told.hear(request, address, &failure);
            let repeatable = request.may_repeat() || !failure.leaves_doubt();
            if failure.is_final() || !repeatable {
                return Some(Err((address, failure)));
            }
            if self
                .leader
                .as_ref()
                .is_some_and(|leader| leader.address == address)
            {
                self.leader = None;
            }
            self.home = self.home.filter(|home| *home != address);
            if let Some(leader) = failure.names_another(address)
                && redirects < REDIRECTS_PER_ROUND_MAX
            {
                redirects += 1;
                self.redirect(leader.clone(), deadline, &mut queue).await;
            }
        }
    }

    /// The leader if it is known, else the node that answered last.
    async fn at_home(&mut self) -> Vec<SocketAddr> {
        self.take_approach().await;
        self.leader
            .as_ref()
            .map(|leader| leader.address)
            .or(self.home)
            .into_iter()
            .collect()
    }

    /// What the endpoints resolve to at this moment: a container that came back has a new address.
    async fn candidates(&mut self, deadline: Instant, told: &mut Told) -> Vec<SocketAddr> {
        let left = deadline.saturating_duration_since(Instant::now());
        let resolved = resolve(&self.options.endpoints, left).await;
        told.unresolved = resolved.unresolved;
        let mut addresses = resolved.addresses;
        addresses.sort_by_key(|address| Some(*address) == self.avoided);
        addresses
    }

    /// Turns to the leader that a node named, if it can be reached; otherwise the queue stays, and
    /// one of the other nodes forwards.
    async fn redirect(&mut self, leader: Leader, deadline: Instant, queue: &mut Vec<SocketAddr>) {
        let left = deadline.saturating_duration_since(Instant::now());
        if self
            .connections
            .get(leader.address, connect_deadline(left, 1))
            .await
            .is_err()
        {
            return;
        }
        if !self.redirected {
            self.redirected = true;
            let (name, address) = (leader.name.clone(), leader.address);
            (self.notices)(Notice::Redirect { name, address });
        }
        queue.retain(|address| *address != leader.address);
        queue.push(leader.address);
        self.leader = Some(leader);
    }

    /// One request to one address. `candidates` addresses share the time that is left.
    async fn attempt(
        &mut self,
        address: SocketAddr,
        request: &Request,
        deadline: Instant,
        candidates: usize,
    ) -> Result<Reply, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let channel = self
            .connections
            .get(address, connect_deadline(left, candidates))
            .await
            .map_err(Failure::Connect)?;
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(request.patience());
        let ask = left.saturating_sub(ANSWER_MARGIN).max(left / 2);
        let ask_ms = u32::try_from(ask.as_millis()).unwrap_or(u32::MAX).max(1);
        let call = exchange(channel, request, self.cluster_id.clone(), ask_ms);
        match timeout(left, call).await {
            Err(_) => {
                // A node that hangs with the connection open would hang again.
                self.connections.close(address);
                Err(Failure::Silent)
            }
            Ok(Err(status)) => {
                let failure = Failure::from_status(&status);
                if let Failure::Refused(refusal) = &failure {
                    self.pin(address, &refusal.cluster_id)?;
                } else {
                    self.connections.close(address);
                }
                Err(failure)
            }
            Ok(Ok(reply)) => {
                self.pin(address, reply.cluster_id())?;
                self.home = Some(address);
                self.approach_leader(address, reply.leader());
                Ok(reply)
            }
        }
    }

    /// Keeps to the cluster that answered first (F3).
    pub(crate) fn pin(&mut self, address: SocketAddr, cluster_id: &Bytes) -> Result<(), Failure> {
        if cluster_id.is_empty() || *cluster_id == self.cluster_id {
            return Ok(());
        }
        if self.cluster_id.is_empty() {
            self.cluster_id = cluster_id.clone();
            return Ok(());
        }
        let sentence = format!(
            "{address} belongs to cluster {}, and the first answer came from cluster {}",
            hex(cluster_id),
            hex(&self.cluster_id)
        );
        Err(Failure::other_cluster(sentence))
    }

    /// Opens a connection to the leader beside the calls: the next one goes there if it is reachable
    /// by then, and none ever waits for an address that only the nodes can reach.
    fn approach_leader(&mut self, answered: SocketAddr, leader: Option<&NodeReference>) {
        let Some(leader) = Leader::from_reference(leader) else {
            return;
        };
        if leader.address == answered || self.connections.has(leader.address) {
            self.leader = Some(leader);
            return;
        }
        let known = self
            .approach
            .as_ref()
            .is_some_and(|(other, _)| *other == leader);
        if !known {
            let open = tokio::spawn(connect(leader.address, CONNECT_DEADLINE));
            self.approach = Some((leader, open));
        }
    }

    /// Takes the leader's connection over if it stands; forgets an attempt that failed.
    async fn take_approach(&mut self) {
        if !self
            .approach
            .as_ref()
            .is_some_and(|(_, open)| open.is_finished())
        {
            return;
        }
        if let Some((leader, open)) = self.approach.take()
            && let Ok(Ok(channel)) = open.await
        {
            self.connections.put(leader.address, channel);
            self.leader = Some(leader);
        }
    }

    /// The error for a request that has no answer: the failure that ended it, or what was told.
    fn give_up(
        &self,
        request: &Request,
        told: Told,
        end: Option<(SocketAddr, Failure)>,
    ) -> Result<Reply, ClientError> {
        let ended = end.or(told.most);
        if let Some((address, failure)) = told.doubt
            && request.writes()
        {
            let mut cause = format!("{address}: {}", failure.reason());
            if let Some((last_address, last)) = &ended
                && *last_address != address
                && !matches!(last, Failure::Connect(_))
            {
                cause.push_str(&format!("; then {last_address}: {}", last.reason()));
            }
            return Err(ClientError::OutcomeUnknown(cause));
        }
        match ended {
            Some((address, failure)) if !matches!(failure, Failure::Connect(_)) => {
                Err(failure.into_error(address))
            }
            _ => Err(nobody(
                &self.options.endpoints,
                &told.round,
                &told.unresolved,
            )),
        }
    }
}

impl Told {
    fn hear(&mut self, request: &Request, address: SocketAddr, failure: &Failure) {
        self.answered |= !matches!(failure, Failure::Connect(_) | Failure::Foreign(_));
        self.round.push((address, failure.clone()));
        if request.writes() && failure.leaves_doubt() {
            self.doubt = Some((address, failure.clone()));
        }
        if let Failure::Refused(refusal) = failure {
            self.retry_after = self
                .retry_after
                .max(refusal.retry_after)
                .min(RETRY_AFTER_MAX);
        }
        let weight = self.most.as_ref().map_or(0, |(_, most)| most.weight());
        if failure.weight() >= weight {
            self.most = Some((address, failure.clone()));
        }
    }
}

impl Failure {
    /// The leader that a node sends us to.
    fn names_another(&self, address: SocketAddr) -> Option<&Leader> {
        match self {
            Self::Refused(refusal) if refusal.kind == ErrorKind::NotLeader => refusal
                .leader
                .as_ref()
                .filter(|leader| leader.address != address),
            _ => None,
        }
    }
}

/// The error when no address gave a connection, with each reason.
pub(crate) fn nobody(
    endpoints: &[Endpoint],
    round: &[(SocketAddr, Failure)],
    unresolved: &[String],
) -> ClientError {
    let mut tried: Vec<String> = round
        .iter()
        .map(|(address, failure)| format!("{address} ({})", failure.reason()))
        .collect();
    tried.extend(unresolved.iter().cloned());
    if tried.is_empty() {
        let named = endpoints
            .iter()
            .map(|endpoint| format!("{endpoint} (no answer in time)"));
        tried.extend(named);
    }
    let more = tried.len().saturating_sub(TRIED_SHOWN_MAX);
    tried.truncate(TRIED_SHOWN_MAX);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    ClientError::NoNodeAnswered {
        tried: format!("{}{more}", tried.join(", ")),
    }
}

/// Bytes as hexadecimal digits, the way ids are shown.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// [`exchange`] answers each request with its own reply; this would be a mistake in it.
pub(crate) fn mixed_up() -> ClientError {
    ClientError::Invalid("a reply of another kind than the request".to_owned())
}
