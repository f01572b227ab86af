//! What a core is told, as far as a checker has to know of it.

use raft_core::{Boot, Index, Input, Message, NodeId, Raft, RequestId, RoleName, Term};

/// One input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing that a checker rests on.
    Other,
    /// The leader of a term speaks, and must be heard (W3).
    Leader {
        /// Up to here its log is shown to be this node's too, if it says so.
        shows: Option<Index>,
        /// Its term.
        term: Term,
    },
    /// A snapshot of the leader's is here.
    Snapshot {
        /// Its last entry.
        index: Index,
        /// The term that this node is in.
        term: Term,
    },
    /// Somebody asks for a vote, or whether there would be one.
    AsksVote {
        /// The term that this node leads; none: it does not.
        leads: Option<Term>,
        /// What shows that the leader wants it.
        token: u64,
    },
    /// Whether the leader leads (E2).
    Probed {
        /// Who was asked.
        of: (NodeId, Boot, Term),
        /// The answer.
        leads: bool,
    },
    /// A node answers the leader, in its term.
    Answer {
        /// Who.
        from: NodeId,
        /// Whether it is about to end, if it says so.
        stopping: Option<bool>,
    },
    /// Somebody wants to read.
    Read(RequestId),
    /// Somebody wants to leave.
    Leave {
        /// Names the wish.
        request: RequestId,
        /// Who.
        node: NodeId,
    },
}

impl Told {
    /// What `raft` is about to be told.
    pub fn of(raft: &Raft, input: &Input) -> Told {
        match input {
            Input::Message { from, message } => word(raft, *from, message),
            Input::Probed {
                peer,
                boot,
                term,
                leads,
            } => Told::Probed {
                of: (*peer, *boot, *term),
                leads: *leads,
            },
            Input::SnapshotReceived { snapshot } => Told::Snapshot {
                index: snapshot.position.index,
                term: raft.term(),
            },
            Input::ReadIndex { request, .. } => Told::Read(*request),
            Input::Leave { request, node } => Told::Leave {
                request: *request,
                node: *node,
            },
            _ => Told::Other,
        }
    }
}

fn word(raft: &Raft, from: NodeId, message: &Message) -> Told {
    let shows = match message {
        Message::RequestVote(request) => {
            let leads = raft.role() == RoleName::Leader;
            return Told::AsksVote {
                leads: leads.then(|| raft.term()),
                token: request.transfer_token,
            };
        }
        Message::AppendEntries(append) => {
            let previous = append.previous;
            let joins = previous.index <= raft.base().index
                || raft.term_at(previous.index) == Some(previous.term);
            // What a snapshot covers is committed, and so the same in the leader's log.
            let end = previous.index + append.entries.len() as Index;
            joins.then_some(end.max(raft.base().index))
        }
        Message::InstallSnapshot { position, .. } => Some(position.index),
        Message::Heartbeat(_) | Message::CommitNotice { .. } => None,
        Message::AppendEntriesReply(_) => return answer(raft, from, message.term(), None),
        Message::HeartbeatReply(reply) => {
            return answer(raft, from, reply.term, Some(reply.health.stopping));
        }
        _ => return Told::Other,
    };
    let (term, mine) = (message.term(), raft.term());
    // One leader in a term (§5.2): who leads it, or follows another, need not listen.
    let follows = raft.role() != RoleName::Leader && raft.leader().is_none_or(|l| l == from);
    if term > mine || (term == mine && follows) {
        Told::Leader { shows, term }
    } else {
        Told::Other
    }
}

fn answer(raft: &Raft, from: NodeId, term: Term, stopping: Option<bool>) -> Told {
    match raft.role() {
        RoleName::Leader if raft.term() == term => Told::Answer { from, stopping },
        _ => Told::Other,
    }
}
