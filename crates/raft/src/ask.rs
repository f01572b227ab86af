//! What the driver is asked or told: the inputs of the core, with whoever waits for the answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::repair;
use raft_core::{
    Boot, ClusterId, Entry, Index, MemberHint, Message, NodeId, Payload, PeerView, Refusal,
    SnapshotMeta, Term, Time,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::peers::LinkReport;
use crate::waiters::Answer;

/// What the driver is asked or told.
#[derive(Debug)]
pub enum Ask {
    /// A peer's message.
    Message {
        /// The sender, as its stream's Hello named it.
        from: NodeId,
        /// What it said.
        message: Message,
        /// Its place among the bytes that wait.
        permit: OwnedSemaphorePermit,
    },
    /// A peer opened a stream to this node.
    Hello {
        /// The peer.
        peer: NodeId,
        /// Its boot.
        boot: Boot,
        /// Its durable term.
        term: Term,
        /// Its durable index.
        durable_index: Index,
        /// The number of the challenge that it answers; none: the first word on a stream.
        challenged: Option<u64>,
    },
    /// A peer's AppendEntries stream ended without a goodbye (E2).
    StreamEnded {
        /// The peer.
        peer: NodeId,
    },
    /// A stream to a peer opened or ended.
    Link(LinkReport),
    /// A client's entry.
    Put {
        /// What it says.
        payload: Payload,
        /// Learns what became of it.
        reply: oneshot::Sender<Answer>,
    },
    /// A linearizable read.
    ReadIndex {
        /// Give up then.
        deadline: Instant,
        /// Learns the index to read at.
        reply: oneshot::Sender<Result<Index, Refusal>>,
    },
    /// An answer to a probe.
    Probed {
        /// Who was asked.
        peer: NodeId,
        /// About which boot.
        boot: Boot,
        /// About which term.
        term: Term,
        /// The answer.
        leads: bool,
    },
    /// Entries that were fetched from the disk.
    Fetched {
        /// For whom.
        peer: NodeId,
        /// The first index asked for.
        from: Index,
        /// What was read.
        entries: Vec<Entry>,
    },
    /// What the member map shows.
    Members(Vec<MemberHint>),
    /// The state machine answers, or has ceased to.
    StateMachineHealth {
        /// It does not answer.
        sick: bool,
    },
    /// The lobby's decision.
    Found {
        /// The cluster's name.
        cluster_id: ClusterId,
        /// For use as a single node.
        alone: bool,
    },
    /// A node leaves for good.
    Leave {
        /// Who.
        node: NodeId,
        /// Learns whether it was removed, and the sentence.
        reply: oneshot::Sender<(bool, String)>,
    },
    /// Another cluster was heard, and this one has no content (F2).
    GiveWay,
    /// Hand leadership over.
    Transfer {
        /// To whom; none: the fittest.
        to: Option<NodeId>,
    },
    /// What a snapshot as of this index says to Raft (S4).
    SnapshotMeta {
        /// The last entry that is applied.
        index: Index,
        /// Its log time.
        log_time_ms: u64,
        /// None: the entry is not in the log any more.
        reply: oneshot::Sender<Option<SnapshotMeta>>,
    },
    /// A snapshot of this node's state machine is complete.
    SnapshotTaken {
        /// What it says.
        snapshot: Arc<SnapshotMeta>,
        /// Entries before this take more room than they may.
        keep_from: Index,
    },
    /// The leader's snapshot is complete here.
    SnapshotReceived {
        /// What it says.
        snapshot: Arc<SnapshotMeta>,
        /// Dropped when the core has it. Until then no other one is fetched.
        taken: oneshot::Sender<()>,
    },
    /// What entries read from the disk are worth to a node whose log is damaged (D6).
    ReadLog {
        /// What it asks.
        question: repair::Question,
        /// What was read for it.
        entries: Vec<Entry>,
        /// Gets the answer.
        reply: oneshot::Sender<repair::Answer>,
    },
    /// What only the core knows.
    Inspect {
        /// Gets it.
        reply: oneshot::Sender<Inspection>,
    },
    /// The daemon is about to end.
    Stopping,
    /// Say goodbye to the peers and end.
    Stop {
        /// Answered when the peers have been told.
        done: oneshot::Sender<()>,
    },
}

/// What only the core knows.
#[derive(Debug)]
pub struct Inspection {
    /// The peers, as the leader sees them.
    pub peers: BTreeMap<NodeId, PeerView>,
    /// The clock that the views are in.
    pub now: Time,
    /// Log time right now (S3), if this node leads.
    pub log_time_ms: Option<u64>,
}
