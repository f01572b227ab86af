//! The only way in and the only way out: [`Input`]s and [`Effect`]s.

use std::sync::Arc;

use crate::durable::{Persisted, SnapshotMeta, Write};
use crate::entry::{Entry, Payload};
use crate::ids::{Boot, ClusterId, Index, NodeId, Position, Term, Time};
use crate::message::{Health, Message};

/// The driver's name for a request, so that it finds who waits for it. The core only hands it back.
pub type RequestId = u64;

/// Something that happened outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time passed. Due at [`crate::Raft::next_deadline`]; earlier or later does no harm.
    Tick,
    /// Found a cluster: this node, whose disk is empty, becomes its only voter (F1). Ignored when
    /// the log is not empty.
    Found {
        /// The name of the cluster, drawn by the driver.
        cluster_id: ClusterId,
        /// For use as a single node: takes client entries at once.
        alone: bool,
    },
    /// A message arrived. The driver vouches for `from` (the stream's Hello named it).
    Message {
        /// The sender.
        from: NodeId,
        /// What it said.
        message: Message,
    },
    /// The disk's report.
    Persisted(Persisted),
    /// Everything that waited to be appended, in order of arrival: one batch.
    PutEntries(Vec<Proposal>),
    /// Somebody wants a linearizable read.
    ReadIndex {
        /// Comes back in [`Effect::ReadReady`] or [`Effect::ReadFailed`].
        request: RequestId,
        /// After this the answer is [`Effect::ReadFailed`].
        deadline: Time,
    },
    /// Answer to [`Effect::Fetch`]: contiguous entries, the first one at `from`. None: unreadable.
    Fetched {
        /// The peer that they are for.
        peer: NodeId,
        /// The first index asked for.
        from: Index,
        /// What was read.
        entries: Vec<Entry>,
    },
    /// A stream to `peer` was opened or re-opened: what was sent before may be lost.
    Connected {
        /// The peer.
        peer: NodeId,
    },
    /// `peer` opened a stream to this node, and said this of itself (D5).
    Hello {
        /// The peer.
        peer: NodeId,
        /// Its starts.
        boot: Boot,
        /// Its durable term.
        term: Term,
        /// Its log is durable up to here.
        durable_index: Index,
        /// The number of the [`Effect::Challenge`] that this answers; none: the first word on a stream.
        challenged: Option<u64>,
    },
    /// The AppendEntries stream from `peer` ended without a goodbye (E2).
    StreamEnded {
        /// The peer.
        peer: NodeId,
    },
    /// Answer to [`Effect::Probe`].
    Probed {
        /// The leader asked about.
        peer: NodeId,
        /// Its boot, as in the effect.
        boot: Boot,
        /// Its term, as in the effect.
        term: Term,
        /// "Yes, I lead this term", by that very id and boot. False: no, refused, or another one.
        leads: bool,
    },
    /// A snapshot of this node's own state machine is complete and durable on its disk (§7, S4).
    SnapshotTaken {
        /// What it says.
        snapshot: Arc<SnapshotMeta>,
        /// Entries before this index take more room than the log may have, and are let go if the
        /// snapshot covers them, whoever may still want them.
        keep_from: Index,
    },
    /// A snapshot that was pulled ([`Effect::PullSnapshot`]) is complete, verified and durable on this
    /// node's disk.
    SnapshotReceived {
        /// What it says.
        snapshot: Arc<SnapshotMeta>,
    },
    /// The state machine has applied everything up to here.
    Applied {
        /// The index.
        index: Index,
    },
    /// The state machine answers, or has ceased to. A leader beside one that stays silent hands over.
    StateMachineHealth {
        /// It does not answer.
        sick: bool,
    },
    /// This daemon is about to end. It goes on voting until it does, but neither campaigns nor is
    /// handed the leadership (M1).
    Stopping,
    /// What the member map shows of nodes that could take part: advice, nothing more (M1-M6).
    Members(Vec<MemberHint>),
    /// A node asks to leave for good, or an operator asks for it.
    Leave {
        /// Answered by [`Effect::LeaveDecided`].
        request: RequestId,
        /// Who leaves.
        node: NodeId,
    },
    /// Another cluster was heard, and this one has no content: give way to it (F2). Ignored unless
    /// this node leads and its log holds nothing but the founding.
    GiveWay,
    /// Hand leadership to `to`, or to the fittest voter (§3.10 of the dissertation).
    Transfer {
        /// Who shall lead.
        to: Option<NodeId>,
    },
}

/// What the member map says of a node, as far as the reconciler cares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberHint {
    /// The node.
    pub node: NodeId,
    /// It is alive, its disk is empty or of this cluster, and its `raft` has announced itself.
    pub joinable: bool,
}

/// A client's request to append.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Comes back in [`Effect::Accepted`] or [`Effect::Refused`].
    pub request: RequestId,
    /// A Command, RegisterSession, KeepAlive, ExpireSession or Skip.
    pub payload: Payload,
}

/// Something to be done outside. Effects are carried out in order, but none waits for another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Hand this to the disk.
    Persist(Write),
    /// Send this; all that it rests on is durable.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// Read entries for a peer that is further behind than memory reaches.
    Fetch {
        /// The peer.
        peer: NodeId,
        /// First index.
        from: Index,
        /// Last index wanted; fewer will do.
        to: Index,
        /// Stop after this many bytes.
        max_bytes: usize,
    },
    /// Fetch the leader's snapshot, verify it, make it durable, and answer with
    /// [`Input::SnapshotReceived`]. Asked for again as long as the leader offers it: what is under way
    /// goes on, and is resumed where it was cut.
    PullSnapshot {
        /// Who holds it.
        from: NodeId,
        /// The last entry that it covers.
        position: Position,
    },
    /// The log has given way to this snapshot, durably: what is not in the state machine has to be
    /// restored from it, session table and all (S4). Comes before the [`Effect::Committed`] that
    /// follows from it.
    SnapshotInstalled {
        /// What it says.
        snapshot: Arc<SnapshotMeta>,
    },
    /// Everything up to here is committed and durable in this node's own log: digest_commits may
    /// hand it to the state machine (D1).
    Committed {
        /// The index.
        index: Index,
    },
    /// The proposal stands in the log here. It is acknowledged when this index is applied with this
    /// term still in place (W1).
    Accepted {
        /// The request.
        request: RequestId,
        /// Where it stands.
        position: Position,
    },
    /// The proposal was not appended.
    Refused {
        /// The request.
        request: RequestId,
        /// Why.
        reason: Refusal,
    },
    /// This node no longer leads: what was accepted and not yet committed is *unknown* (W1).
    SteppedDown,
    /// The read may be served once `index` is applied here.
    ReadReady {
        /// The request.
        request: RequestId,
        /// The index.
        index: Index,
    },
    /// The read cannot be served.
    ReadFailed {
        /// The request.
        request: RequestId,
        /// Why.
        reason: Refusal,
    },
    /// Ask `peer`, on a fresh connection: "do you lead this term?" (E2)
    Probe {
        /// The leader.
        peer: NodeId,
        /// Its boot.
        boot: Boot,
        /// Its term.
        term: Term,
    },
    /// Answer to [`Input::Leave`].
    LeaveDecided {
        /// The request.
        request: RequestId,
        /// Removed for good; otherwise it stays a voter, and the sentence says why.
        removed: bool,
        /// For people.
        sentence: String,
    },
    /// `peer` reports less than it did before. Its word may have been overtaken on the way, so ask it
    /// afresh: on a new connection, for what its disk holds now. The answer is an [`Input::Hello`].
    Challenge {
        /// The peer.
        peer: NodeId,
        /// Names the question, so that an answer to an earlier one is known as such.
        number: u64,
    },
    /// `peer` reports less than it did before, and a fresh question confirmed it: its disk has lost
    /// promises. Refuse its streams, and tell it to take a new identity (D5).
    RolledBack {
        /// The peer.
        peer: NodeId,
    },
    /// This node's id was removed by a committed configuration, or its cluster dissolved: it takes
    /// a new identity (M3, F2).
    Retired,
    /// Something happened that a person may want to read.
    Event(Event),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Another node leads.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Not enough room: more waits already than the limits allow.
    #[error("too much is waiting")]
    Overloaded,
    /// Larger than `max_entry_bytes`.
    #[error("the entry has {bytes} bytes; the most is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Only the leader itself appends entries of this kind: no-ops, configurations, the founding and
    /// the end of a cluster.
    #[error("an entry of this kind is not a client's")]
    NotForClients,
    /// The cluster waits for its second node (F1).
    #[error("the cluster takes no entries before a second node has joined")]
    Founding,
    /// Leadership is being handed over.
    #[error("leadership is being handed over")]
    Transferring,
    /// The deadline passed first.
    #[error("no majority answered in time")]
    Deadline,
    /// The leadership that the answer rested on has ended.
    #[error("the leader changed meanwhile")]
    LeaderChanged,
    /// The cluster has given way to another (F2).
    #[error("the cluster was dissolved")]
    Dissolved,
}

/// What a person may want to read, with the seed's names where it had them. The driver logs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Event {
    /// ELECTTIMEOUT: no leader was heard in time.
    ElectTimeout { term: Term },
    /// ELECTION->: votes are asked for.
    Election {
        term: Term,
        pre_vote: bool,
        hinted: bool,
    },
    /// <-ELECTION: this node's answer to a candidate.
    Vote {
        candidate: NodeId,
        term: Term,
        pre_vote: bool,
        granted: bool,
        reason: &'static str,
    },
    /// CANDIDATE: a vote came in.
    Tally {
        term: Term,
        pre_vote: bool,
        from: NodeId,
        granted: bool,
        votes: usize,
        needed: usize,
    },
    /// CANDIDATE->LEADER.
    BecameLeader { term: Term },
    /// ELECTION-X / ENDELECTION: a campaign ended without success.
    ElectionLost { term: Term, reason: &'static str },
    /// Follows somebody, or nobody yet.
    BecameFollower { term: Term, leader: Option<NodeId> },
    /// Gave up leading.
    SteppedDown { term: Term, reason: &'static str },
    /// ENTRYCONFLICT: uncommitted entries of this log gave way to the leader's.
    EntryConflict { from: Index, to: Index },
    /// RETRYAPPENDENTRY: the logs part; the leader looks further back.
    RetryAppendEntries { peer: NodeId, next_index: Index },
    /// SNAPSHOT: a peer needs entries that are in the log no more.
    SnapshotOffered { peer: NodeId, index: Index },
    /// The log was cut off behind a snapshot.
    Compacted { index: Index },
    /// MISMATCHTERM: somebody is behind.
    MismatchTerm {
        peer: NodeId,
        theirs: Term,
        ours: Term,
    },
    /// The leader's process is gone (E2).
    LeaderLost { leader: NodeId, place: usize },
    /// A new configuration is in the log.
    ConfigurationAppended {
        index: Index,
        reason: String,
        joint: bool,
        voters: usize,
        learners: usize,
    },
    /// A change was not made: a configuration names no more nodes than
    /// [`crate::configuration::MAX_CONFIGURATION_NODES`], those that left for good included.
    ConfigurationFull { nodes: usize, tombstones: usize },
    /// A configuration is committed.
    ConfigurationCommitted { index: Index, joint: bool },
    /// A message that no correct node sends.
    Nonsense { peer: NodeId, what: &'static str },
    /// The disk has become sick, or well again (D4).
    DiskHealth { sick: bool },
    /// Leadership is being handed over.
    Transfer { to: NodeId, outcome: &'static str },
}

/// How this node stands, for status and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleName {
    /// Neither leads nor campaigns.
    Follower,
    /// Asks for pre-votes.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// What the leader knows of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerView {
    /// Everything up to here is durable there.
    pub match_index: Index,
    /// When it last answered; until it has, since when it might have. [`Time`] of this node.
    pub last_contact: Time,
    /// It has answered this leader in this term.
    pub answered: bool,
    /// Its health, by its own word.
    pub health: Health,
}
