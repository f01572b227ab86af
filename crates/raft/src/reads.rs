//! Queries: what the state machine says without an entry in the log.
//!
//! A linearizable one asks the core for an index that is safe to read at (R1, R2), waits until the
//! current epoch has acknowledged that index, and then asks. When the epoch ends in between, it is
//! asked again in the next one (R3): another instance may answer only for itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{Index, Refusal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use wire::raft::ErrorKind;
use wire::state_machine as pb;

use crate::ask::Ask;
use crate::limits::MAX_WAITING_READS;
use crate::net;
use crate::shared::{Machine, Shared};

/// How long a client's call waits for a state machine that does not answer, before the client is sent to
/// another node. A restart of the state machine takes less.
pub const MACHINE_PATIENCE: Duration = Duration::from_millis(1000);

/// A query that failed in an epoch that goes on is tried again after this.
const QUERY_RETRY: Duration = Duration::from_millis(20);

/// An answer of more bytes does not wait for the confirmation of its index: nobody may come to confirm it.
const MAX_EARLY_BYTES: usize = 16 << 10;

/// Serves queries.
pub struct Reads {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    places: Semaphore,
}

/// What was asked for came to nothing.
pub type Failure = (ErrorKind, String);

impl Reads {
    /// Reads are confirmed by the driver behind `inbox`.
    pub fn new(shared: Arc<Shared>, inbox: mpsc::Sender<Ask>) -> Reads {
        Reads {
            shared,
            inbox,
            places: Semaphore::new(MAX_WAITING_READS),
        }
    }

    /// Asks the state machine. `stale`: of the state as it is here.
    ///
    /// # Errors
    /// A kind and a sentence.
    pub async fn query(
        &self,
        query: Bytes,
        stale: bool,
        deadline: Instant,
    ) -> Result<pb::QueryReply, Failure> {
        let _place = self.places.try_acquire().map_err(|_| {
            (
                ErrorKind::Overloaded,
                "too many reads wait here: try again shortly".to_owned(),
            )
        })?;
        let (index, early) = if stale {
            (0, None)
        } else {
            // A refused index ends both.
            let early = async { Ok(self.ask_early(&query, deadline).await) };
            tokio::try_join!(self.read_index(deadline), early)?
        };
        if let Some((applied, reply)) = early
            && applied >= index
            && self.is_current(reply.epoch)
        {
            return Ok(reply);
        }
        loop {
            let machine = self.machine_at(index, deadline).await?;
            match ask(&machine, index, query.clone(), deadline).await? {
                Ok(reply) => return Ok(reply),
                Err(reason) => tracing::debug!("a query is asked again: {reason}"),
            }
            // The epoch is over, or the answer was somebody else's.
            if Instant::now() + QUERY_RETRY >= deadline {
                return Err(late());
            }
            tokio::time::sleep(QUERY_RETRY).await;
        }
    }

    /// Asks the state machine while the index is still being confirmed: an answer out of a state that turns
    /// out to hold that index is as good as one that was asked for behind it. The state was read after the
    /// query arrived, and whether this was the leader's time is what the confirmation says (R2). Returns what
    /// the epoch had acknowledged before it was asked, and the answer. None: the state machine is behind, or
    /// did not answer, or said more than may wait for a confirmation; then it is asked in order.
    async fn ask_early(&self, query: &Bytes, deadline: Instant) -> Option<(Index, pb::QueryReply)> {
        let machine = self.shared.machine.borrow().clone();
        if machine.applied < self.shared.progress.commit() {
            return None;
        }
        let asked = ask(&machine, machine.applied, query.clone(), deadline).await;
        let reply = asked.ok()?.ok()?;
        (reply.data.len() <= MAX_EARLY_BYTES).then_some((machine.applied, reply))
    }

    /// Whether that epoch is still the one that answers (R3), and may (P4).
    fn is_current(&self, epoch: u64) -> bool {
        let machine = self.shared.machine.borrow();
        machine.epoch == epoch
            && machine.client.is_some()
            && self.shared.quarantine.borrow().is_none()
    }

    /// An index that holds everything which was acknowledged before this was asked (R2).
    ///
    /// # Errors
    /// A kind and a sentence: no leader confirmed it in time.
    pub async fn read_index(&self, deadline: Instant) -> Result<Index, Failure> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask::ReadIndex { deadline, reply };
        let asked = async {
            self.inbox.send(ask).await.ok()?;
            answer.await.ok()
        };
        // The core answers at the deadline itself; the margin only covers a core that has stopped.
        match tokio::time::timeout_at(deadline + QUERY_RETRY, asked).await {
            Ok(Some(Ok(index))) => Ok(index),
            Ok(Some(Err(refusal))) => Err(self.refused(&refusal)),
            Ok(None) => Err((ErrorKind::NoLeader, "this node is stopping".to_owned())),
            Err(_) => Err(self.refused(&Refusal::Deadline)),
        }
    }

    fn refused(&self, refusal: &Refusal) -> Failure {
        let kind = match refusal {
            Refusal::Overloaded => ErrorKind::Overloaded,
            Refusal::Founding => ErrorKind::Founding,
            Refusal::NotLeader { .. } => ErrorKind::NoLeader,
            _ if self.shared.standing().leader.is_none() => ErrorKind::NoLeader,
            _ => ErrorKind::NoQuorum,
        };
        let sentence = match kind {
            ErrorKind::NoLeader => {
                "no leader is known here: the read cannot be confirmed".to_owned()
            }
            ErrorKind::NoQuorum => {
                format!("the leader could not be confirmed by a majority in time: {refusal}")
            }
            _ => refusal.to_string(),
        };
        (kind, sentence)
    }

    /// Waits until the current epoch has acknowledged `index`.
    async fn machine_at(&self, index: Index, deadline: Instant) -> Result<Machine, Failure> {
        let mut machine = machine_in_use(&self.shared, deadline).await?;
        let ready = machine.wait_for(|m| m.client.is_none() || m.applied >= index);
        match tokio::time::timeout_at(deadline, ready).await {
            Ok(Ok(machine)) => Ok(machine.clone()),
            _ => Err((
                ErrorKind::StateMachineDown,
                format!("the state machine has not applied entry {index} in time"),
            )),
        }
    }
}

/// Waits for the state machine beside this node, while it is being started again, but no longer than until
/// `deadline`.
///
/// # Errors
/// STATE_MACHINE_DOWN.
pub async fn machine_in_use(
    shared: &Shared,
    deadline: Instant,
) -> Result<watch::Receiver<Machine>, Failure> {
    let mut machine = shared.machine.subscribe();
    let patience = (Instant::now() + MACHINE_PATIENCE).min(deadline);
    let in_use = machine.wait_for(|machine| machine.client.is_some());
    let in_use = tokio::time::timeout_at(patience, in_use).await;
    match in_use.map(|in_use| in_use.is_ok()) {
        Ok(true) => Ok(machine),
        _ => Err((
            ErrorKind::StateMachineDown,
            "the state machine beside this node does not answer".to_owned(),
        )),
    }
}

/// Asks this epoch of the state machine for an answer as of `index` or later.
///
/// # Errors
/// The outer one ends the query: it is refused, or it is too late. The inner one is a reason to ask again:
/// the epoch is over, or another one answered (R3).
async fn ask(
    machine: &Machine,
    index: Index,
    query: Bytes,
    deadline: Instant,
) -> Result<Result<pb::QueryReply, String>, Failure> {
    let Some(mut client) = machine.client.clone() else {
        return Ok(Err("the epoch is over".to_owned()));
    };
    let request = pb::QueryRequest {
        epoch: machine.epoch,
        min_index: index,
        query,
    };
    match tokio::time::timeout_at(deadline, client.query(request)).await {
        Err(_) => Err(late()),
        Ok(Ok(reply)) => {
            let reply = reply.into_inner();
            let ours = reply.epoch == machine.epoch && reply.nonce == machine.nonce;
            Ok(if ours {
                Ok(reply)
            } else {
                Err("the answer is of another epoch".to_owned())
            })
        }
        Ok(Err(status)) => {
            let reason = net::status_line(&status);
            if status.code() == tonic::Code::InvalidArgument {
                return Err((ErrorKind::Invalid, reason));
            }
            Ok(Err(reason))
        }
    }
}

fn late() -> Failure {
    (
        ErrorKind::StateMachineDown,
        "the state machine did not answer in time".to_owned(),
    )
}
