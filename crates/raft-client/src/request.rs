//! Every call there is, as a value, and the one function that carries them.
//!
//! Calls are values so that what retries, redirects and pins them ([`Client`](crate::Client)) knows
//! nothing of how they travel: one unary gRPC call each today, messages of one stream tomorrow.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use tonic::transport::Channel;
use wire::raft::raft_client::RaftClient;
use wire::raft::{
    LeaveReply, LeaveRequest, NodeReference, PutEntryReply, PutEntryRequest, QueryReply,
    QueryRequest, RegisterSessionReply, RegisterSessionRequest, SaveSnapshotRequest, SkipReply,
    SkipRequest, TransferLeadershipReply, TransferLeadershipRequest,
};

use crate::saving::SavedParts;

/// The largest message in either direction, in bytes. Above `MaxEntryBytes` with room to spare, so
/// that the daemon, which knows the limit, is the one to refuse.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is asked of a node.
#[derive(Debug, Clone)]
pub enum Request {
    /// Open a session.
    RegisterSession,
    /// Append an entry. A retry is the same value: the same session, the same sequence.
    PutEntry {
        /// The entry.
        entry: Bytes,
        /// The session that the cluster opened.
        session: u64,
        /// The entry's place in the session, from 1.
        sequence: u64,
    },
    /// Ask the state machine.
    Query {
        /// The query.
        query: Bytes,
        /// Be content with the node's own state as it is.
        stale: bool,
    },
    /// Hand leadership over.
    TransferLeadership {
        /// The node_id of the one to lead; empty: the leader chooses.
        to: Bytes,
    },
    /// Remove a node from the configuration for good.
    Leave {
        /// The node_id.
        node_id: Bytes,
    },
    /// Order that an entry is not to be run.
    Skip {
        /// Where the entry stands in the log.
        index: u64,
    },
    /// Send a snapshot.
    SaveSnapshot,
}

/// What a node answers.
#[derive(Debug)]
#[allow(missing_docs)] // Each is the reply to the request of its name.
pub enum Reply {
    RegisterSession(RegisterSessionReply),
    PutEntry(PutEntryReply),
    Query(QueryReply),
    TransferLeadership(TransferLeadershipReply),
    Leave(LeaveReply),
    Skip(SkipReply),
    SaveSnapshot(Box<SavedParts>),
}

impl Request {
    /// Doing it twice is doing it once: it may be sent again even when the first may have arrived.
    pub fn may_repeat(&self) -> bool {
        match self {
            // A session that nobody uses expires.
            Self::RegisterSession | Self::Query { .. } | Self::SaveSnapshot => true,
            // The cluster tells a repetition by (session, sequence).
            Self::PutEntry { .. } => true,
            Self::Leave { .. } => true,
            // An entry that is not run twice is not run.
            Self::Skip { .. } => true,
            // Without a name, the second hand-over would take leadership from whom the first gave it.
            Self::TransferLeadership { to } => !to.is_empty(),
        }
    }

    /// How long one node may take over one attempt. What may be repeated at another node leaves time
    /// for that; the rest has to be waited for.
    pub(crate) fn patience(&self) -> Duration {
        const ATTEMPT_DEADLINE: Duration = Duration::from_secs(2);
        match self {
            Self::RegisterSession | Self::Query { .. } | Self::PutEntry { .. } => ATTEMPT_DEADLINE,
            Self::Leave { .. } | Self::TransferLeadership { .. } | Self::Skip { .. } => {
                Duration::MAX
            }
            // The state has to be written down first, and who cannot do that says so soon.
            Self::SaveSnapshot => Duration::MAX,
        }
    }

    /// It changes something that a person would ask about: "was it done?"
    pub fn writes(&self) -> bool {
        match self {
            Self::RegisterSession | Self::Query { .. } | Self::SaveSnapshot => false,
            Self::PutEntry { .. }
            | Self::Leave { .. }
            | Self::TransferLeadership { .. }
            | Self::Skip { .. } => true,
        }
    }
}

impl Reply {
    /// The cluster that answered; empty when the reply does not carry it.
    pub fn cluster_id(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match self {
            Self::RegisterSession(reply) => &reply.cluster_id,
            Self::PutEntry(reply) => &reply.cluster_id,
            Self::Query(reply) => &reply.cluster_id,
            Self::SaveSnapshot(parts) => &parts.first.cluster_id,
            Self::TransferLeadership(_) | Self::Leave(_) | Self::Skip(_) => &NONE,
        }
    }

    /// The leader, as the node that answered knows it.
    pub fn leader(&self) -> Option<&NodeReference> {
        match self {
            Self::RegisterSession(reply) => reply.leader.as_ref(),
            Self::PutEntry(reply) => reply.leader.as_ref(),
            Self::Query(reply) => reply.leader.as_ref(),
            Self::TransferLeadership(reply) => reply.leader.as_ref(),
            Self::Leave(_) | Self::Skip(_) | Self::SaveSnapshot(_) => None,
        }
    }
}

/// The raft service of a node, with our limits.
pub(crate) fn service(channel: Channel) -> RaftClient<Channel> {
    RaftClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Sends a request and waits for its reply: the one place that knows how calls travel.
pub(crate) async fn exchange(
    channel: Channel,
    request: &Request,
    cluster_id: Bytes,
    timeout_ms: u32,
) -> Result<Reply, Status> {
    let mut raft = service(channel);
    let forwarded = false;
    Ok(match request.clone() {
        Request::RegisterSession => {
            let message = RegisterSessionRequest {
                cluster_id,
                forwarded,
                timeout_ms,
            };
            Reply::RegisterSession(raft.register_session(message).await?.into_inner())
        }
        Request::PutEntry {
            entry,
            session,
            sequence,
        } => {
            let message = PutEntryRequest {
                entry,
                session,
                sequence,
                // One entry at a time: all before this one are answered, or given up for good.
                acked_below: sequence,
                cluster_id,
                forwarded,
                timeout_ms,
            };
            Reply::PutEntry(raft.put_entry(message).await?.into_inner())
        }
        Request::Query { query, stale } => {
            let message = QueryRequest {
                query,
                cluster_id,
                stale,
                timeout_ms,
            };
            Reply::Query(raft.query(message).await?.into_inner())
        }
        Request::TransferLeadership { to } => {
            let message = TransferLeadershipRequest { to, forwarded };
            Reply::TransferLeadership(raft.transfer_leadership(message).await?.into_inner())
        }
        Request::Leave { node_id } => {
            let message = LeaveRequest { node_id, forwarded };
            Reply::Leave(raft.leave(message).await?.into_inner())
        }
        Request::Skip { index } => {
            let message = SkipRequest {
                index,
                cluster_id,
                forwarded,
                timeout_ms,
            };
            Reply::Skip(raft.skip(message).await?.into_inner())
        }
        Request::SaveSnapshot => {
            let message = SaveSnapshotRequest {
                cluster_id,
                timeout_ms,
            };
            let mut rest = raft.save_snapshot(message).await?.into_inner();
            let first = rest.message().await?;
            let first = first.ok_or_else(|| Status::unavailable("it sent nothing"))?;
            Reply::SaveSnapshot(Box::new(SavedParts { first, rest }))
        }
    })
}
