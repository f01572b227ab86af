//! What nodes say to each other.
//!
//! ```text
//!   candidate ── RequestVote ──▶ voter        (pre_vote first: "would you?"; §9.6 of the dissertation)
//!   candidate ◀─ RequestVoteReply ── voter
//!   leader ── AppendEntries ──▶ follower      (bulk stream; pipelined)
//!   leader ◀─ AppendEntriesReply ── follower  (only of what is durable there)
//!   leader ── InstallSnapshot ──▶ follower    (an offer: the follower pulls it; §7)
//!   leader ── Heartbeat ──▶ everyone          (a stream of its own; carries commit, succession, round)
//!   leader ◀─ HeartbeatReply ── everyone
//!   leader ── CommitNotice ──▶ follower       (when no AppendEntries is about to say it; not answered)
//!   leader ── TimeoutNow ──▶ heir             (leadership transfer, §3.10)
//!   follower ── ReadIndex ──▶ leader          (§6.4)
//!   follower ◀─ ReadIndexReply ── leader
//!   anyone ── HigherTerm ──▶ a leader or candidate of an older term
//! ```
//!
//! Every message may be lost, doubled, delayed or reordered. None is trusted beyond its type: what
//! makes no sense is dropped and reported, never obeyed, and never a panic.

use crate::entry::Entry;
use crate::ids::{Boot, Index, NodeId, Position, Term};

/// One message. The sender's term rides in each: a higher one turns the receiver into a follower
/// (§5.1), with the exceptions of E3.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// "Vote for me" (§5.2), or with `pre_vote`: "would you?".
    RequestVote(RequestVote),
    /// The voter's answer.
    RequestVoteReply(RequestVoteReply),
    /// Entries, and where they join on (§5.3).
    AppendEntries(AppendEntries),
    /// What the follower has made durable, or where the logs part.
    AppendEntriesReply(AppendEntriesReply),
    /// "What you lack is in no log any more, but I hold a snapshot up to here" (§7). It is an offer:
    /// the bytes are pulled by the follower, beside all this, as often as it takes. It is answered
    /// like an AppendEntries, once the follower has it or all that it covers.
    InstallSnapshot {
        /// The leader's term.
        term: Term,
        /// The last entry that the snapshot covers.
        position: Position,
    },
    /// "I lead": the paper's empty AppendEntries.
    Heartbeat(Heartbeat),
    /// "I follow".
    HeartbeatReply(HeartbeatReply),
    /// "So much is committed": what the next AppendEntries would say, when there is none to send. It asks
    /// for nothing and is not answered; one that is lost is made good by the next heartbeat.
    CommitNotice {
        /// The leader's term.
        term: Term,
        /// What the receiver may take as committed: never beyond what it acknowledged.
        commit_index: Index,
    },
    /// "Campaign at once; I yield to you" (§3.10 of the dissertation).
    TimeoutNow {
        /// The leader's term.
        term: Term,
        /// Shows voters that the leader itself asked for this election (E3).
        token: u64,
    },
    /// A follower asks for an index that is safe to read at (§6.4 of the dissertation).
    ReadIndex {
        /// The follower's term.
        term: Term,
        /// Names the ask; never used again (R2).
        ask: u64,
    },
    /// Reads that waited on that ask may be served once this index is applied.
    ReadIndexReply {
        /// The leader's term.
        term: Term,
        /// The ask that is answered.
        ask: u64,
        /// The index.
        index: Index,
    },
    /// "You are behind": frees a candidate that is stuck at a higher term than its leader (E3).
    HigherTerm {
        /// The sender's term.
        term: Term,
    },
}

/// See [`Message::RequestVote`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestVote {
    /// The term of the election: the candidate's own, or for a pre-vote the one it would begin.
    pub term: Term,
    /// Ask only; nobody's state changes.
    pub pre_vote: bool,
    /// Where the candidate's log ends (§5.4.1).
    pub last: Position,
    /// The leader's transfer token; 0: none.
    pub transfer_token: u64,
}

/// See [`Message::RequestVoteReply`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestVoteReply {
    /// The voter's term.
    pub term: Term,
    /// Answers a pre-vote.
    pub pre_vote: bool,
    /// Whether the vote was given.
    pub granted: bool,
    /// The term that was asked for, so that a late answer counts for no other election.
    pub request_term: Term,
    /// The reason for a refusal was a living leader.
    pub hears_leader: bool,
}

/// See [`Message::AppendEntries`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The entry just before the first one sent.
    pub previous: Position,
    /// Contiguous from `previous.index + 1`.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub commit_index: Index,
}

/// See [`Message::AppendEntriesReply`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendEntriesReply {
    /// The follower's term.
    pub term: Term,
    /// What became of it.
    pub outcome: AppendOutcome,
}

/// What became of an AppendEntries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendOutcome {
    /// Everything up to here is durable at the follower and matches the leader's log.
    Durable {
        /// The last such index.
        index: Index,
    },
    /// The entry before the first one sent is not there, or of another term (§5.3).
    Conflict {
        /// The index that was looked at.
        refused: Index,
        /// The last place where the logs may agree: go on looking there, not one entry at a time.
        hint: Position,
    },
}

/// See [`Message::Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// Starts of the leader's daemon, so that a restarted one is told apart (E2).
    pub boot: Boot,
    /// What the receiver may take as committed: never beyond what it acknowledged.
    pub commit_index: Index,
    /// The round of read confirmation that an answer to this counts for (R2); 0: none.
    pub round: u64,
    /// Who succeeds, in order, when this leader is lost (E1).
    pub succession: Vec<NodeId>,
}

/// See [`Message::HeartbeatReply`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeartbeatReply {
    /// The follower's term.
    pub term: Term,
    /// The round of the heartbeat that is answered.
    pub round: u64,
    /// The follower's health, for the order of succession.
    pub health: Health,
}

/// How fit a node is to lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Health {
    /// Its disk has completed no write for ElectTimeoutMax while one is outstanding (D4).
    pub disk_sick: bool,
    /// Its state machine does not answer.
    pub state_machine_sick: bool,
    /// It is about to end (M1).
    pub stopping: bool,
}

impl Message {
    /// The sender's term; for a pre-vote the term asked about.
    pub fn term(&self) -> Term {
        match self {
            Message::RequestVote(message) => message.term,
            Message::RequestVoteReply(message) => message.term,
            Message::AppendEntries(message) => message.term,
            Message::AppendEntriesReply(message) => message.term,
            Message::Heartbeat(message) => message.term,
            Message::HeartbeatReply(message) => message.term,
            Message::InstallSnapshot { term, .. }
            | Message::CommitNotice { term, .. }
            | Message::TimeoutNow { term, .. }
            | Message::ReadIndex { term, .. }
            | Message::ReadIndexReply { term, .. }
            | Message::HigherTerm { term } => *term,
        }
    }

    /// Whether it belongs on the bulk stream. All else goes on the other, where it never queues
    /// behind bulk (W3).
    pub fn is_bulk(&self) -> bool {
        matches!(self, Message::AppendEntries(_))
            || (mutant!(W3HeartbeatsAreBulk) && matches!(self, Message::Heartbeat(_)))
    }
}
