//! Calls that only the leader can answer, from a node that does not lead.
//!
//! A connection to a leader is dialled when it is first needed and kept while it lives. What makes a
//! retry safe is decided per call: a refusal that says that nothing was appended may always be tried
//! again; a broken call may have arrived, and is tried again only where a second arrival does no harm
//! (W1).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_core::{Index, NodeId, RoleName};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};
use wire::raft::raft_client::RaftClient;
use wire::raft::{ErrorDetail, ErrorKind};
use wire::status::{detail_of, kind_status};

use crate::limits::{
    CONNECT_DEADLINE, FORWARD_RETRY, MAX_MESSAGE_BYTES, MAX_PEERS, RETRY_AFTER_MS,
};
use crate::net;
use crate::say;
use crate::shared::{Shared, locked};

/// See the module.
pub struct Forwarder {
    shared: Arc<Shared>,
    channels: Mutex<HashMap<NodeId, Channel>>,
}

/// Where a call is answered.
pub enum Route {
    /// This node leads.
    Here,
    /// That one does.
    There(NodeId),
}

/// What a broken call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A second arrival does no harm: try again.
    Retry,
    /// It must not arrive twice: the outcome is unknown.
    Unknown,
}

/// What a call came to that is neither an answer nor an error for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The leader appended nothing.
    Untouched,
    /// It may have arrived.
    MaybeSent,
}

/// How long a leader may take to answer beyond the deadline that it was given.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);

/// An error status with everything that may help the caller. `index`: what the kind says of it, or 0.
pub fn error_status(shared: &Shared, kind: ErrorKind, sentence: &str, index: Index) -> Status {
    let retry_after_ms = match kind {
        ErrorKind::NoLeader
        | ErrorKind::NotLeader
        | ErrorKind::Overloaded
        | ErrorKind::NoCluster
        | ErrorKind::Founding
        | ErrorKind::NoQuorum => RETRY_AFTER_MS,
        _ => 0,
    };
    let detail = ErrorDetail {
        kind: kind.into(),
        leader: shared.leader_reference(),
        retry_after_ms,
        cluster_id: shared.cluster_bytes(),
        index,
    };
    kind_status(sentence, detail)
}

impl Forwarder {
    /// No connections yet.
    pub fn new(shared: Arc<Shared>) -> Forwarder {
        Forwarder {
            shared,
            channels: Mutex::default(),
        }
    }

    /// An error status with everything that may help the caller.
    pub fn status(&self, kind: ErrorKind, sentence: &str) -> Status {
        error_status(&self.shared, kind, sentence, 0)
    }

    /// This node does not lead.
    pub fn not_leader(&self) -> Status {
        let sentence = match self.shared.standing().leader {
            Some(leader) => format!(
                "this node does not lead: {} does",
                self.shared.name_of(leader)
            ),
            None => "this node does not lead, and knows no leader".to_owned(),
        };
        self.status(ErrorKind::NotLeader, &sentence)
    }

    /// Waits until a leader is known.
    ///
    /// # Errors
    /// NO_LEADER at the deadline; NOT_LEADER at once for a request that was forwarded already.
    pub async fn route(&self, forwarded: bool, deadline: Instant) -> Result<Route, Status> {
        let standing = self.shared.standing();
        match (standing.role, standing.leader) {
            (RoleName::Leader, _) => return Ok(Route::Here),
            _ if forwarded => return Err(self.not_leader()),
            (_, Some(leader)) => return Ok(Route::There(leader)),
            (_, None) => {}
        }
        let mut standing = self.shared.standing.subscribe();
        let found = standing.wait_for(|standing| standing.leader.is_some());
        match tokio::time::timeout_at(deadline, found).await {
            Ok(Ok(standing)) if standing.role == RoleName::Leader => Ok(Route::Here),
            Ok(Ok(standing)) => Ok(standing.leader.map_or(Route::Here, Route::There)),
            _ => Err(self.status(
                ErrorKind::NoLeader,
                "no leader is known here: a majority of the voters must be up and reach each other",
            )),
        }
    }

    /// Makes one call at `leader`, with what is left of the time. [`Again`]: try again, perhaps
    /// elsewhere.
    ///
    /// # Errors
    /// The leader's own status, or that the outcome is unknown.
    pub async fn call<T, F>(
        &self,
        leader: NodeId,
        deadline: Instant,
        broken: Broken,
        call: impl FnOnce(RaftClient<Channel>, u32) -> F,
    ) -> Result<Result<Response<T>, Again>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = match self.channel(leader, deadline).await {
            Ok(channel) => channel,
            Err(reason) => {
                say!(
                    debug,
                    "CONNERROR",
                    "the leader {leader} cannot be reached: {reason}"
                );
                self.pause(leader, deadline).await;
                return Ok(Err(Again::Untouched));
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        let client = RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let answer = tokio::select! {
            answer = tokio::time::timeout_at(deadline + ANSWER_MARGIN, call(client, left_ms)) => {
                answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the leader did not answer")))
            }
            // A leader that hangs is succeeded long before the deadline.
            () = self.succeeded(leader), if broken == Broken::Retry => {
                Err(Status::unavailable("another node leads now"))
            }
        };
        let status = match answer {
            Ok(reply) => return Ok(Ok(reply)),
            Err(status) => status,
        };
        match detail_of(&status).map(|detail| detail.kind()) {
            Some(ErrorKind::NotLeader | ErrorKind::NoLeader) => {
                self.pause(leader, deadline).await;
                Ok(Err(Again::Untouched))
            }
            Some(ErrorKind::OutcomeUnknown) if broken == Broken::Retry => {
                self.pause(leader, deadline).await;
                Ok(Err(Again::MaybeSent))
            }
            Some(_) => Err(status),
            None => {
                locked(&self.channels).remove(&leader);
                let reason = net::status_line(&status);
                say!(
                    debug,
                    "CONNERROR",
                    "the call to the leader {leader} broke: {reason}"
                );
                match broken {
                    Broken::Retry => {
                        self.pause(leader, deadline).await;
                        Ok(Err(Again::MaybeSent))
                    }
                    Broken::Unknown => Err(self.status(
                        ErrorKind::OutcomeUnknown,
                        "the connection to the leader broke after the request had been sent: it may or \
                         may not have been carried out",
                    )),
                }
            }
        }
    }

    /// Another leader than this one is known.
    async fn succeeded(&self, leader: NodeId) {
        let mut standing = self.shared.standing.subscribe();
        let other = standing
            .wait_for(|now| now.leader.is_some_and(|now| now != leader))
            .await;
        drop(other);
    }

    /// Waits a moment, or until another leader is known.
    async fn pause(&self, leader: NodeId, deadline: Instant) {
        let until = (Instant::now() + FORWARD_RETRY).min(deadline);
        let _ = tokio::time::timeout_at(until, self.succeeded(leader)).await;
    }

    async fn channel(&self, node: NodeId, deadline: Instant) -> Result<Channel, String> {
        if let Some(channel) = locked(&self.channels).get(&node) {
            return Ok(channel.clone());
        }
        let address = self
            .shared
            .addresses
            .get(node)
            .ok_or("no address is known")?
            .address;
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(CONNECT_DEADLINE);
        let stream = net::dial(address, self.shared.config.bind_ip, left)
            .await
            .map_err(|error| format!("{address}: {error}"))?;
        let opened = net::channel(stream).await;
        let channel = opened.map_err(|error| net::root_cause(&error))?;
        let mut channels = locked(&self.channels);
        if channels.len() >= MAX_PEERS {
            channels.clear();
        }
        Ok(channels.entry(node).or_insert(channel).clone())
    }
}
