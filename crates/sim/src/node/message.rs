//! What goes over the simulated network.

use bytes::Bytes;
use raft_core::repair::{Answer, Question};
use raft_core::sessions::Outcome;
use raft_core::{Boot, Index, Message, NodeId, Payload, Position, Term};
use raft_disk::SnapshotOffer;

use crate::world::Micros;

/// What a daemon says of its disk (D5).
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Its starts.
    pub boot: Boot,
    /// Its durable term.
    pub term: Term,
    /// Its log is durable up to here.
    pub durable_index: Index,
}

/// One message between daemons, or between a client and a daemon.
#[derive(Clone, Debug)]
pub enum Wire {
    /// The first word on a stream.
    Hello {
        /// Who speaks.
        from: NodeId,
        /// Who is meant.
        to: NodeId,
        /// Of the speaker's disk.
        claim: Claim,
    },
    /// A word of the core.
    Raft {
        /// Who speaks.
        from: NodeId,
        /// Who is meant.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// The stream ends on purpose.
    Goodbye,
    /// "Your id is not to be used any more."
    TakeNewId {
        /// The id.
        id: NodeId,
    },
    /// "Do you lead this term?" (E2)
    Probe {
        /// Who is meant.
        to: NodeId,
        /// Which start of it.
        boot: Boot,
        /// The term.
        term: Term,
    },
    /// The answer.
    Probed {
        /// Who was asked.
        peer: NodeId,
        /// As in the question.
        boot: Boot,
        /// As in the question.
        term: Term,
        /// Yes.
        leads: bool,
    },
    /// "What does your disk hold now?" (D5)
    Challenge {
        /// Who is meant.
        to: NodeId,
        /// Names the question.
        number: u64,
        /// The start of who asks: an answer to an earlier one is void.
        asker: Boot,
    },
    /// The answer.
    Challenged {
        /// Who answers.
        from: NodeId,
        /// The question.
        number: u64,
        /// The start of who asked.
        asker: Boot,
        /// Of its disk.
        claim: Claim,
    },
    /// "What does your log have in the place of what mine lacks?" (D6)
    ReadLog {
        /// Who is meant.
        to: NodeId,
        /// Names the question.
        number: u64,
        /// What.
        question: Question,
    },
    /// The answer; none: whoever is there is another one, or is not up.
    LogRead {
        /// The question.
        number: u64,
        /// What the log has.
        answer: Option<Answer>,
    },
    /// "Which file would you send me?"
    AskOffer {
        /// Who is meant.
        to: NodeId,
        /// The snapshot that is wanted, or any newer.
        position: Position,
        /// One as of an earlier entry is of no use: another is to be taken.
        at_least: Index,
    },
    /// The answer; none: there is no such snapshot.
    Offered {
        /// The file.
        offer: Option<SnapshotOffer>,
    },
    /// "The next part, please."
    AskPart {
        /// Who is meant.
        to: NodeId,
        /// The file.
        offer: SnapshotOffer,
        /// From there.
        offset: u64,
    },
    /// The answer; no bytes: it is gone.
    Part {
        /// Of this file.
        offer: SnapshotOffer,
        /// From there.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// A client's request, or one that a daemon passes on.
    Request {
        /// The sender's name for it.
        number: u64,
        /// What is asked for.
        ask: Ask,
        /// How long an answer is of use.
        patience: Micros,
        /// It was passed on already.
        forwarded: bool,
    },
    /// The answer to a request.
    Reply {
        /// The request.
        number: u64,
        /// The answer.
        reply: Reply,
    },
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// An entry.
    Put(Payload),
    /// A query of the state machine.
    Query {
        /// In its words.
        query: Bytes,
        /// Of the state as it is at the node that is asked.
        stale: bool,
    },
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Applied, with this outcome.
    Outcome(Position, Outcome),
    /// A session is open, or was used.
    Session(Position),
    /// The session is unknown.
    SessionExpired,
    /// The sequence was acknowledged before.
    Stale,
    /// It was not appended, and never will be by this request. Try elsewhere.
    NotDone,
    /// It may be applied, or not.
    Unknown,
    /// What the state machine says.
    Answer {
        /// As of which entry.
        index: Index,
        /// Which instance.
        nonce: u64,
        /// What.
        outcome: Outcome,
    },
    /// The query could not be answered.
    NoAnswer,
}
