//! What clients ask. Any node answers every call; what only the leader can do is forwarded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::sessions::{Outcome, OutcomeKind};
use raft_core::{ClusterId, Command, NodeId, Payload, Position, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use wire::raft::raft_server::Raft;
use wire::raft::{self as pb, ErrorKind};

use crate::ask::Ask;
use crate::forward::{Again, Broken, Forwarder, Route};
use crate::limits::{LEAVE_WAIT, MAX_CLIENT_WAIT, MAX_SAVE_WAIT, SAVE_CONFIRM, TRANSFER_DEADLINE};
use crate::membership::View;
use crate::reads::Reads;
use crate::say;
use crate::shared::Shared;
use crate::snapshots::{SavedParts, Snapshots};
use crate::status;
use crate::waiters::{Answer, Waiters, Waiting};
use crate::watch::{Replies, Watches};

/// See the module.
pub struct ClientService {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    forwarder: Forwarder,
    reads: Reads,
    waiting: Waiting,
    waiters: Arc<Waiters>,
    watches: Watches,
    snapshots: Snapshots,
    view: tokio::sync::watch::Receiver<Arc<View>>,
}

/// What an entry came to, when it came to something.
enum Done {
    Outcome(Position, Outcome),
    Session(Position),
}

impl ClientService {
    /// Answers clients out of the daemon's parts.
    pub fn new(
        shared: Arc<Shared>,
        inbox: mpsc::Sender<Ask>,
        waiters: Arc<Waiters>,
        snapshots: Snapshots,
        view: tokio::sync::watch::Receiver<Arc<View>>,
    ) -> ClientService {
        let config = &shared.config;
        ClientService {
            forwarder: Forwarder::new(shared.clone()),
            reads: Reads::new(shared.clone(), inbox.clone()),
            waiting: Waiting::new(config.max_waiting_entries, config.max_waiting_bytes),
            inbox,
            waiters,
            watches: Watches::new(shared.clone()),
            snapshots,
            view,
            shared,
        }
    }

    /// Waits, but not long, until every watch has ended: they do when the daemon stops.
    pub async fn watches_ended(&self) {
        self.watches.drained().await;
    }

    fn deadline(&self, timeout_ms: u32) -> Instant {
        self.deadline_within(timeout_ms, MAX_CLIENT_WAIT)
    }

    fn deadline_within(&self, timeout_ms: u32, most: Duration) -> Instant {
        let wait = match timeout_ms {
            0 => self.shared.config.rpc_timeout,
            ms => Duration::from_millis(ms.into()).min(most),
        };
        Instant::now() + wait
    }

    fn refuse<T>(&self, kind: ErrorKind, sentence: &str) -> Result<T, Status> {
        Err(self.forwarder.status(kind, sentence))
    }

    /// Whether the client means this cluster (F3), and whether there is one. A node that follows or
    /// leads already is about to bind its cluster; that is waited for.
    async fn check_cluster(&self, pinned: &Bytes, deadline: Instant) -> Result<ClusterId, Status> {
        let pinned = wire::optional_id_from_bytes("cluster_id", pinned).map_err(|error| {
            self.forwarder
                .status(ErrorKind::Invalid, &error.to_string())
        })?;
        if self.shared.cluster_id().is_none() && self.shared.standing().leader.is_some() {
            let mut cluster = self.shared.cluster.subscribe();
            let bound = cluster.wait_for(Option::is_some);
            // The deadline passing is answered below.
            let _ = tokio::time::timeout_at(deadline, bound).await;
        }
        match (self.shared.cluster_id(), pinned) {
            (None, _) => self.refuse(
                ErrorKind::NoCluster,
                "this node belongs to no cluster yet: it waits to found one or to be taken in",
            ),
            (Some(ours), Some(pinned)) if ours.0 != pinned => self.refuse(
                ErrorKind::OtherCluster,
                &format!(
                    "this node belongs to cluster {ours}; the client has spoken to cluster {}",
                    ClusterId(pinned)
                ),
            ),
            (Some(ours), _) => Ok(ours),
        }
    }

    /// Appends at this node, which leads, and waits for what becomes of it.
    async fn append(&self, payload: Payload, deadline: Instant) -> Result<Done, Status> {
        let arrived = Instant::now();
        let Some(_place) = self.waiting.take(payload.encoded_len()) else {
            return self.refuse(
                ErrorKind::Overloaded,
                "too much waits already: try again shortly",
            );
        };
        let (reply, answer) = oneshot::channel();
        let asked = async {
            // The driver may be busy; the deadline covers that too.
            self.inbox.send(Ask::Put { payload, reply }).await.ok()?;
            answer.await.ok()
        };
        let answer = match tokio::time::timeout_at(deadline, asked).await {
            Ok(answer) => answer.unwrap_or(Answer::Unknown),
            Err(_) => {
                self.waiters.gave_up();
                say!(
                    info,
                    "PUTENTRY-X",
                    "timed out: no majority acknowledged it, or it was not applied in time"
                );
                Answer::Unknown
            }
        };
        self.shared
            .metrics
            .put_seconds
            .observe(arrived.elapsed().as_secs_f64());
        self.answered(answer)
    }

    fn answered(&self, answer: Answer) -> Result<Done, Status> {
        match answer {
            Answer::Outcome(position, outcome) => Ok(Done::Outcome(position, outcome)),
            Answer::Registered(position) | Answer::KeptAlive(position) => {
                Ok(Done::Session(position))
            }
            Answer::SessionExpired => self.refuse(
                ErrorKind::SessionExpired,
                "the session is unknown here or has expired: the entry was not applied. Open a new \
                 session",
            ),
            Answer::Stale => self.refuse(
                ErrorKind::StaleSequence,
                "the client has acknowledged this sequence, or sent so many behind it that its outcome is no \
                 longer kept: it was not applied again",
            ),
            Answer::LogFull(sentence) => self.refuse(ErrorKind::LogFull, &sentence),
            Answer::Replaced => self.refuse(
                ErrorKind::NotLeader,
                "the leader changed and the entry was dropped before it was committed: it was not \
                 applied",
            ),
            Answer::Unknown => self.refuse(
                ErrorKind::OutcomeUnknown,
                "the entry was taken, and it is not known whether it will be applied. Within a \
                 session, ask again with the same sequence",
            ),
            Answer::Refused(refusal) => Err(self.refused(&refusal)),
        }
    }

    fn refused(&self, refusal: &Refusal) -> Status {
        let kind = match refusal {
            Refusal::NotLeader { .. } => return self.forwarder.not_leader(),
            Refusal::Overloaded => ErrorKind::Overloaded,
            Refusal::TooLarge { .. } => ErrorKind::TooLarge,
            Refusal::Founding => ErrorKind::Founding,
            Refusal::NotForClients => ErrorKind::Invalid,
            Refusal::Deadline => ErrorKind::NoQuorum,
            Refusal::Transferring | Refusal::LeaderChanged => ErrorKind::NotLeader,
            Refusal::Dissolved => ErrorKind::OtherCluster,
        };
        self.forwarder.status(kind, &refusal.to_string())
    }

    fn check_entry(&self, entry: &Bytes) -> Result<(), Status> {
        let limit = self.shared.config.max_entry_bytes;
        if entry.is_empty() {
            return self.refuse(
                ErrorKind::Invalid,
                "the entry is empty: there is nothing to put",
            );
        }
        if entry.len() > limit {
            let sentence = format!(
                "the entry has {} bytes, and MaxEntryBytes is {limit}: nothing was put",
                entry.len()
            );
            return self.refuse(ErrorKind::TooLarge, &sentence);
        }
        Ok(())
    }

    fn put_reply(&self, cluster: ClusterId, done: Done) -> pb::PutEntryReply {
        let (position, outcome) = match done {
            Done::Outcome(position, outcome) => (position, outcome),
            Done::Session(position) => (
                position,
                Outcome {
                    kind: OutcomeKind::Ok,
                    data: Bytes::new(),
                },
            ),
        };
        let kind = match outcome.kind {
            OutcomeKind::Ok => pb::ResultKind::Ok,
            OutcomeKind::Rejected => pb::ResultKind::Rejected,
            OutcomeKind::NotFound => pb::ResultKind::NotFound,
            OutcomeKind::AlreadyApplied => pb::ResultKind::AlreadyApplied,
        };
        pb::PutEntryReply {
            kind: kind.into(),
            data: outcome.data,
            index: position.index,
            term: position.term,
            cluster_id: wire::id_bytes(cluster.0),
            leader: self.shared.leader_reference(),
        }
    }

    fn out_of_time<T>(&self, sent: bool) -> Result<T, Status> {
        if sent {
            return self.refuse(
                ErrorKind::OutcomeUnknown,
                "the request was sent to a leader that did not answer: it may or may not have been \
                 carried out",
            );
        }
        self.refuse(
            ErrorKind::NoLeader,
            "no leader could be reached in time: nothing was done",
        )
    }

    async fn transferred(&self, deadline: Instant) -> Result<(), Status> {
        let mut standing = self.shared.standing.subscribe();
        let us = self.shared.id;
        let other = standing.wait_for(|now| now.leader.is_some_and(|leader| leader != us));
        match tokio::time::timeout_at(deadline, other).await {
            Ok(Ok(_)) => Ok(()),
            _ => self.refuse(
                ErrorKind::NoQuorum,
                "leadership was not taken over in time: this node leads on, or nobody does",
            ),
        }
    }
}

/// Runs a call at the leader: `here` when this node leads, `there` at another one, until it is
/// answered or the time is up.
macro_rules! at_leader {
    ($self:ident, $request:ident, $deadline:ident, $broken:expr, $method:ident, $here:expr) => {{
        let mut sent = false;
        loop {
            match $self.forwarder.route($request.forwarded, $deadline).await? {
                Route::Here => break $here,
                Route::There(leader) => {
                    say!(
                        debug,
                        "PUTENTRY->",
                        "REDIRECTING {} to {leader}",
                        stringify!($method)
                    );
                    let mut request = $request.clone();
                    request.forwarded = true;
                    let called = $self
                        .forwarder
                        .call(
                            leader,
                            $deadline,
                            $broken,
                            |mut client, left_ms| async move {
                                set_timeout(&mut request, left_ms);
                                client.$method(request).await
                            },
                        )
                        .await?;
                    match called {
                        Ok(reply) => break Ok(reply),
                        Err(again) => sent |= again == Again::MaybeSent,
                    }
                }
            }
            if Instant::now() >= $deadline {
                break $self.out_of_time(sent);
            }
        }
    }};
}

/// Requests that carry the caller's patience.
trait Patience {
    fn timeout_ms(&mut self) -> Option<&mut u32>;
}

macro_rules! patience {
    ($($request:ident),+; $($without:ident),+) => {
        $(impl Patience for pb::$request {
            fn timeout_ms(&mut self) -> Option<&mut u32> {
                Some(&mut self.timeout_ms)
            }
        })+
        $(impl Patience for pb::$without {
            fn timeout_ms(&mut self) -> Option<&mut u32> {
                None
            }
        })+
    };
}
patience!(PutEntryRequest, RegisterSessionRequest, KeepAliveRequest, SkipRequest;
          TransferLeadershipRequest, LeaveRequest);

fn set_timeout(request: &mut impl Patience, left_ms: u32) {
    if let Some(timeout_ms) = request.timeout_ms() {
        *timeout_ms = left_ms;
    }
}

#[tonic::async_trait]
impl Raft for ClientService {
    async fn put_entry(
        &self,
        request: Request<pb::PutEntryRequest>,
    ) -> Result<Response<pb::PutEntryReply>, Status> {
        let request = request.into_inner();
        let deadline = self.deadline(request.timeout_ms);
        say!(
            debug,
            "PUTENTRY",
            "BEGINNING: {} bytes, session {} sequence {}",
            request.entry.len(),
            request.session,
            request.sequence
        );
        let cluster = self.check_cluster(&request.cluster_id, deadline).await?;
        self.check_entry(&request.entry)?;
        if request.session != 0 && request.sequence == 0 {
            return self.refuse(ErrorKind::Invalid, "sequences of a session begin with 1");
        }
        let broken = if request.session == 0 {
            Broken::Unknown
        } else {
            Broken::Retry
        };
        at_leader!(self, request, deadline, broken, put_entry, {
            let payload = Payload::Command(Command {
                session: request.session,
                sequence: request.sequence,
                acked_below: request.acked_below,
                // Copied: a slice would pin the whole buffer that it was received in for as long as the log
                // keeps the entry in memory, and that is many times its size.
                bytes: Bytes::copy_from_slice(&request.entry),
            });
            let done = self.append(payload, deadline).await?;
            Ok(Response::new(self.put_reply(cluster, done)))
        })
    }

    async fn query(
        &self,
        request: Request<pb::QueryRequest>,
    ) -> Result<Response<pb::QueryReply>, Status> {
        let request = request.into_inner();
        let deadline = self.deadline(request.timeout_ms);
        let cluster = self.check_cluster(&request.cluster_id, deadline).await?;
        self.check_entry(&request.query)?;
        let reply = self
            .reads
            .query(request.query, request.stale, deadline)
            .await
            .map_err(|(kind, sentence)| self.forwarder.status(kind, &sentence))?;
        use wire::state_machine::OutcomeKind as Kind;
        let kind = match reply.kind() {
            Kind::Ok => pb::ResultKind::Ok,
            Kind::NotFound => pb::ResultKind::NotFound,
            Kind::Rejected | Kind::AlreadyApplied | Kind::Unspecified => pb::ResultKind::Rejected,
        };
        Ok(Response::new(pb::QueryReply {
            kind: kind.into(),
            data: reply.data,
            applied_index: reply.applied_index,
            cluster_id: wire::id_bytes(cluster.0),
            leader: self.shared.leader_reference(),
        }))
    }

    async fn register_session(
        &self,
        request: Request<pb::RegisterSessionRequest>,
    ) -> Result<Response<pb::RegisterSessionReply>, Status> {
        let request = request.into_inner();
        let deadline = self.deadline(request.timeout_ms);
        let cluster = self.check_cluster(&request.cluster_id, deadline).await?;
        // A session that nobody learns of is idle, and ends when its place is wanted.
        at_leader!(self, request, deadline, Broken::Retry, register_session, {
            match self.append(Payload::RegisterSession, deadline).await? {
                Done::Session(position) => Ok(Response::new(pb::RegisterSessionReply {
                    session: position.index,
                    cluster_id: wire::id_bytes(cluster.0),
                    leader: self.shared.leader_reference(),
                })),
                Done::Outcome(..) => Err(Status::internal("a session was answered like an entry")),
            }
        })
    }

    async fn keep_alive(
        &self,
        request: Request<pb::KeepAliveRequest>,
    ) -> Result<Response<pb::KeepAliveReply>, Status> {
        let request = request.into_inner();
        let deadline = self.deadline(request.timeout_ms);
        let cluster = self.check_cluster(&request.cluster_id, deadline).await?;
        at_leader!(self, request, deadline, Broken::Retry, keep_alive, {
            let payload = Payload::KeepAlive {
                session: request.session,
                acked_below: request.acked_below,
            };
            self.append(payload, deadline).await?;
            Ok(Response::new(pb::KeepAliveReply {
                cluster_id: wire::id_bytes(cluster.0),
            }))
        })
    }

    async fn skip(
        &self,
        request: Request<pb::SkipRequest>,
    ) -> Result<Response<pb::SkipReply>, Status> {
        let request = request.into_inner();
        let deadline = self.deadline(request.timeout_ms);
        self.check_cluster(&request.cluster_id, deadline).await?;
        at_leader!(self, request, deadline, Broken::Retry, skip, {
            let (index, poison) = (request.index, self.shared.poison());
            if index != poison || index == 0 {
                let sentence = match poison {
                    0 => "the leader's state machine fails at no entry: there is nothing to \
                          skip"
                        .to_owned(),
                    poison => format!(
                        "only the entry at which the leader's state machine fails can be skipped, \
                         and that is entry {poison}"
                    ),
                };
                return self.refuse(ErrorKind::Invalid, &sentence);
            }
            match self.append(Payload::Skip { index }, deadline).await? {
                Done::Outcome(position, _) | Done::Session(position) => {
                    let index = position.index;
                    Ok(Response::new(pb::SkipReply { index }))
                }
            }
        })
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusReply>, Status> {
        let view = self.view.borrow().clone();
        Ok(Response::new(
            status::status(&self.shared, &self.inbox, &view).await,
        ))
    }

    type SaveSnapshotStream = SavedParts;

    async fn save_snapshot(
        &self,
        request: Request<pb::SaveSnapshotRequest>,
    ) -> Result<Response<SavedParts>, Status> {
        let request = request.into_inner();
        let deadline = self.deadline_within(request.timeout_ms, MAX_SAVE_WAIT);
        let confirm = deadline.min(Instant::now() + SAVE_CONFIRM);
        self.check_cluster(&request.cluster_id, confirm).await?;
        let saved = async {
            let index = self.reads.read_index(confirm).await?;
            self.snapshots.save(index, deadline).await
        };
        let parts = saved
            .await
            .map_err(|(kind, sentence)| self.forwarder.status(kind, &sentence))?;
        Ok(Response::new(parts))
    }

    async fn transfer_leadership(
        &self,
        request: Request<pb::TransferLeadershipRequest>,
    ) -> Result<Response<pb::TransferLeadershipReply>, Status> {
        let request = request.into_inner();
        let deadline = Instant::now() + TRANSFER_DEADLINE;
        self.check_cluster(&Bytes::new(), deadline).await?;
        let to = wire::optional_id_from_bytes("to", &request.to)
            .map_err(|error| {
                self.forwarder
                    .status(ErrorKind::Invalid, &error.to_string())
            })?
            .map(NodeId);
        if let Some(to) = to
            && !self.shared.configurations().latest.is_voter(to)
        {
            let sentence = format!("{to} is no voter of this cluster: it cannot lead");
            return self.refuse(ErrorKind::Invalid, &sentence);
        }
        // Whoever leads next must not be asked to hand over once more: a transfer to anybody is made once.
        let broken = match to {
            Some(_) => Broken::Retry,
            None => Broken::Unknown,
        };
        at_leader!(self, request, deadline, broken, transfer_leadership, {
            if to != Some(self.shared.id) {
                let _ = self.inbox.send(Ask::Transfer { to }).await;
                self.transferred(deadline).await?;
            }
            let leader = self.shared.leader_reference();
            Ok(Response::new(pb::TransferLeadershipReply { leader }))
        })
    }

    async fn leave(
        &self,
        request: Request<pb::LeaveRequest>,
    ) -> Result<Response<pb::LeaveReply>, Status> {
        let mut request = request.into_inner();
        let deadline = Instant::now() + LEAVE_WAIT;
        self.check_cluster(&Bytes::new(), deadline).await?;
        let node = wire::optional_id_from_bytes("node_id", &request.node_id)
            .map_err(|error| {
                self.forwarder
                    .status(ErrorKind::Invalid, &error.to_string())
            })?
            .map_or(self.shared.id, NodeId);
        request.node_id = wire::id_bytes(node.0);
        at_leader!(self, request, deadline, Broken::Retry, leave, {
            let (reply, answer) = oneshot::channel();
            let asked = async {
                self.inbox.send(Ask::Leave { node, reply }).await.ok()?;
                answer.await.ok()
            };
            match tokio::time::timeout_at(deadline, asked).await {
                Ok(Some((removed, sentence))) => {
                    Ok(Response::new(pb::LeaveReply { removed, sentence }))
                }
                _ => self.refuse(
                    ErrorKind::OutcomeUnknown,
                    "the leave was not decided in time: ask again, it does no harm",
                ),
            }
        })
    }

    type WatchStream = Replies;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Replies>, Status> {
        let request = request.into_inner();
        let deadline = self.deadline(0);
        let cluster = self.check_cluster(&request.cluster_id, deadline).await?;
        let replies = self.watches.open(request, cluster, deadline).await;
        replies.map(Response::new)
    }
}
