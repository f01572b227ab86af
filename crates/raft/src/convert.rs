//! Between the wire's types and the core's. What comes in is refused, with a typed error, when it is
//! out of bounds; the core only ever sees well-formed messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::message::{
    AppendEntries, AppendEntriesReply, AppendOutcome, Heartbeat, HeartbeatReply, RequestVote,
    RequestVoteReply,
};
use raft_core::{BadPayload, Entry, Health, Index, Message, NodeId, Payload, Position, Term};
use wire::BadId;
use wire::raft::{self as pb, peer_message::Body};

/// A message that is not obeyed because of its form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// It has no body, or one that this version does not know.
    #[error("a message without a body that this version knows")]
    Empty,
    /// A Hello or a goodbye in the place of a message.
    #[error("a {0} in the middle of a stream")]
    Misplaced(&'static str),
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An identity of the wrong length.
    #[error(transparent)]
    Id(#[from] BadId),
    /// The entries do not follow one another.
    #[error("entry {found} stands where {expected} belongs")]
    Gap {
        /// The index that belongs there.
        expected: Index,
        /// The index that stands there.
        found: Index,
    },
    /// Entries of a batch have terms that fall, or exceed the leader's.
    #[error("entry {index} has term {term}, which cannot be")]
    Term {
        /// Its index.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// An entry's payload does not decode.
    #[error(transparent)]
    Payload(#[from] BadPayload),
    /// More nodes than any succession may name.
    #[error("a succession of {0} nodes")]
    Succession(usize),
}

/// Nodes that a heartbeat's order of succession may name.
const MAX_SUCCESSION: usize = 1024;

/// Entries on their way to several peers: each is encoded once per round of the driver.
#[derive(Default)]
pub struct EncodedEntries {
    by_index: BTreeMap<Index, (Term, Bytes)>,
}

impl EncodedEntries {
    /// Forgets everything: the next round begins.
    pub fn clear(&mut self) {
        self.by_index.clear();
    }

    fn payload(&mut self, entry: &Entry) -> Bytes {
        match self.by_index.get(&entry.index) {
            Some((term, bytes)) if *term == entry.term => bytes.clone(),
            _ => {
                let bytes = entry.payload.to_bytes();
                self.by_index
                    .insert(entry.index, (entry.term, bytes.clone()));
                bytes
            }
        }
    }
}

/// A place in the log, as it travels.
pub fn position(position: Position) -> Option<pb::Position> {
    Some(pb::Position {
        index: position.index,
        term: position.term,
    })
}

fn take_position(field: &'static str, from: Option<pb::Position>) -> Result<Position, BadMessage> {
    from.map(from_position).ok_or(BadMessage::Missing(field))
}

/// And back.
pub fn from_position(position: pb::Position) -> Position {
    Position {
        index: position.index,
        term: position.term,
    }
}

/// The core's message, as it travels.
pub fn to_wire(message: Message, encoded: &mut EncodedEntries) -> pb::PeerMessage {
    let body = match message {
        Message::RequestVote(m) => Body::RequestVote(pb::RequestVote {
            term: m.term,
            pre_vote: m.pre_vote,
            last: position(m.last),
            transfer_token: m.transfer_token,
        }),
        Message::RequestVoteReply(m) => Body::RequestVoteReply(pb::RequestVoteReply {
            term: m.term,
            pre_vote: m.pre_vote,
            granted: m.granted,
            request_term: m.request_term,
            hears_leader: m.hears_leader,
        }),
        Message::AppendEntries(m) => Body::AppendEntries(pb::AppendEntries {
            term: m.term,
            previous: position(m.previous),
            entries: m
                .entries
                .iter()
                .map(|entry| entry_to_wire(entry, encoded))
                .collect(),
            commit_index: m.commit_index,
        }),
        Message::AppendEntriesReply(m) => Body::AppendEntriesReply(reply_to_wire(m)),
        Message::Heartbeat(m) => Body::Heartbeat(pb::Heartbeat {
            term: m.term,
            commit_index: m.commit_index,
            round: m.round,
            succession: m
                .succession
                .iter()
                .map(|node| wire::id_bytes(node.0))
                .collect(),
            boot: m.boot,
        }),
        Message::HeartbeatReply(m) => Body::HeartbeatReply(pb::HeartbeatReply {
            term: m.term,
            round: m.round,
            disk_sick: m.health.disk_sick,
            state_machine_sick: m.health.state_machine_sick,
            stopping: m.health.stopping,
        }),
        Message::CommitNotice { term, commit_index } => {
            Body::CommitNotice(pb::CommitNotice { term, commit_index })
        }
        Message::InstallSnapshot { term, position } => Body::InstallSnapshot(pb::InstallSnapshot {
            term,
            position: self::position(position),
        }),
        Message::TimeoutNow { term, token } => Body::TimeoutNow(pb::TimeoutNow {
            term,
            transfer_token: token,
        }),
        Message::ReadIndex { term, ask } => Body::ReadIndex(pb::ReadIndex { term, ask }),
        Message::ReadIndexReply { term, ask, index } => {
            Body::ReadIndexReply(pb::ReadIndexReply { term, ask, index })
        }
        Message::HigherTerm { term } => Body::HigherTerm(pb::HigherTerm { term }),
    };
    pb::PeerMessage { body: Some(body) }
}

/// One entry, as it travels.
pub fn entry_to_wire(entry: &Entry, encoded: &mut EncodedEntries) -> pb::LogEntry {
    pb::LogEntry {
        index: entry.index,
        term: entry.term,
        log_time_ms: entry.log_time_ms,
        payload: encoded.payload(entry),
    }
}

fn reply_to_wire(reply: AppendEntriesReply) -> pb::AppendEntriesReply {
    match reply.outcome {
        AppendOutcome::Durable { index } => pb::AppendEntriesReply {
            term: reply.term,
            success: true,
            index,
            hint: None,
        },
        AppendOutcome::Conflict { refused, hint } => pb::AppendEntriesReply {
            term: reply.term,
            success: false,
            index: refused,
            hint: position(hint),
        },
    }
}

/// The peer's message, for the core.
///
/// # Errors
/// [`BadMessage`] when no correct node would send it.
pub fn from_wire(message: pb::PeerMessage) -> Result<Message, BadMessage> {
    let message = match message.body.ok_or(BadMessage::Empty)? {
        Body::Hello(_) => return Err(BadMessage::Misplaced("Hello")),
        Body::Goodbye(_) => return Err(BadMessage::Misplaced("goodbye")),
        Body::RequestVote(m) => Message::RequestVote(RequestVote {
            term: m.term,
            pre_vote: m.pre_vote,
            last: take_position("RequestVote.last", m.last)?,
            transfer_token: m.transfer_token,
        }),
        Body::RequestVoteReply(m) => Message::RequestVoteReply(RequestVoteReply {
            term: m.term,
            pre_vote: m.pre_vote,
            granted: m.granted,
            request_term: m.request_term,
            hears_leader: m.hears_leader,
        }),
        Body::AppendEntries(m) => Message::AppendEntries(take_append_entries(m)?),
        Body::AppendEntriesReply(m) => Message::AppendEntriesReply(AppendEntriesReply {
            term: m.term,
            outcome: if m.success {
                AppendOutcome::Durable { index: m.index }
            } else {
                AppendOutcome::Conflict {
                    refused: m.index,
                    hint: take_position("AppendEntriesReply.hint", m.hint)?,
                }
            },
        }),
        Body::Heartbeat(m) => Message::Heartbeat(take_heartbeat(m)?),
        Body::HeartbeatReply(m) => Message::HeartbeatReply(HeartbeatReply {
            term: m.term,
            round: m.round,
            health: Health {
                disk_sick: m.disk_sick,
                state_machine_sick: m.state_machine_sick,
                stopping: m.stopping,
            },
        }),
        Body::CommitNotice(m) => Message::CommitNotice {
            term: m.term,
            commit_index: m.commit_index,
        },
        Body::InstallSnapshot(m) => Message::InstallSnapshot {
            term: m.term,
            position: take_position("InstallSnapshot.position", m.position)?,
        },
        Body::TimeoutNow(m) => Message::TimeoutNow {
            term: m.term,
            token: m.transfer_token,
        },
        Body::ReadIndex(m) => Message::ReadIndex {
            term: m.term,
            ask: m.ask,
        },
        Body::ReadIndexReply(m) => Message::ReadIndexReply {
            term: m.term,
            ask: m.ask,
            index: m.index,
        },
        Body::HigherTerm(m) => Message::HigherTerm { term: m.term },
    };
    Ok(message)
}

fn take_append_entries(m: pb::AppendEntries) -> Result<AppendEntries, BadMessage> {
    let previous = take_position("AppendEntries.previous", m.previous)?;
    let mut entries = Vec::with_capacity(m.entries.len());
    let mut last = previous;
    for entry in m.entries {
        let expected = last.index.saturating_add(1);
        if entry.index != expected {
            return Err(BadMessage::Gap {
                expected,
                found: entry.index,
            });
        }
        if entry.term < last.term || entry.term > m.term {
            return Err(BadMessage::Term {
                index: entry.index,
                term: entry.term,
            });
        }
        last = Position {
            index: entry.index,
            term: entry.term,
        };
        entries.push(Entry {
            index: entry.index,
            term: entry.term,
            log_time_ms: entry.log_time_ms,
            payload: Payload::decode(entry.payload)?,
        });
    }
    Ok(AppendEntries {
        term: m.term,
        previous,
        entries,
        commit_index: m.commit_index,
    })
}

fn take_heartbeat(m: pb::Heartbeat) -> Result<Heartbeat, BadMessage> {
    if m.succession.len() > MAX_SUCCESSION {
        return Err(BadMessage::Succession(m.succession.len()));
    }
    let succession = m
        .succession
        .iter()
        .map(|id| wire::id_from_bytes("succession", id).map(NodeId))
        .collect::<Result<_, _>>()?;
    Ok(Heartbeat {
        term: m.term,
        boot: m.boot,
        commit_index: m.commit_index,
        round: m.round,
        succession,
    })
}

/// Bytes of a message that count against [`crate::limits::INBOUND_BYTES`].
pub fn cost_bytes(message: &Message) -> usize {
    match message {
        Message::AppendEntries(append) => {
            append.entries.iter().map(Entry::cost_bytes).sum::<usize>() + SMALL_MESSAGE_BYTES
        }
        _ => SMALL_MESSAGE_BYTES,
    }
}

/// What a message without entries counts for.
const SMALL_MESSAGE_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raft_core::Command;

    fn round_trip(message: Message) {
        let wire = to_wire(message.clone(), &mut EncodedEntries::default());
        assert_eq!(from_wire(wire).unwrap(), message);
    }

    fn entry(index: Index, term: Term) -> Entry {
        let payload = Payload::Command(Command {
            session: 7,
            sequence: 8,
            acked_below: 9,
            bytes: Bytes::from_static(b"PUT pizzatoppings peporoni"),
        });
        Entry {
            index,
            term,
            log_time_ms: 12,
            payload,
        }
    }

    #[test]
    fn every_kind_of_message_survives_the_journey() {
        let last = Position { index: 3, term: 2 };
        round_trip(Message::RequestVote(RequestVote {
            term: 4,
            pre_vote: true,
            last,
            transfer_token: 5,
        }));
        round_trip(Message::RequestVoteReply(RequestVoteReply {
            term: 4,
            pre_vote: true,
            granted: true,
            request_term: 4,
            hears_leader: true,
        }));
        round_trip(Message::AppendEntries(AppendEntries {
            term: 4,
            previous: last,
            entries: vec![entry(4, 2), entry(5, 4)],
            commit_index: 3,
        }));
        for outcome in [
            AppendOutcome::Durable { index: 5 },
            AppendOutcome::Conflict {
                refused: 5,
                hint: last,
            },
        ] {
            round_trip(Message::AppendEntriesReply(AppendEntriesReply {
                term: 4,
                outcome,
            }));
        }
        round_trip(Message::Heartbeat(Heartbeat {
            term: 4,
            boot: 1,
            commit_index: 2,
            round: 3,
            succession: vec![NodeId(1), NodeId(2)],
        }));
        let health = Health {
            disk_sick: true,
            state_machine_sick: false,
            stopping: true,
        };
        round_trip(Message::HeartbeatReply(HeartbeatReply {
            term: 4,
            round: 3,
            health,
        }));
        round_trip(Message::CommitNotice {
            term: 4,
            commit_index: 7,
        });
        round_trip(Message::TimeoutNow { term: 4, token: 9 });
        round_trip(Message::InstallSnapshot {
            term: 4,
            position: Position { index: 8, term: 3 },
        });
        round_trip(Message::ReadIndex { term: 4, ask: 9 });
        round_trip(Message::ReadIndexReply {
            term: 4,
            ask: 9,
            index: 1,
        });
        round_trip(Message::HigherTerm { term: 4 });
    }

    #[test]
    fn what_no_correct_node_sends_is_refused() {
        let append = |entries| {
            Message::AppendEntries(AppendEntries {
                term: 4,
                previous: Position { index: 3, term: 2 },
                entries,
                commit_index: 0,
            })
        };
        let refused = |entries| {
            from_wire(to_wire(append(entries), &mut EncodedEntries::default())).unwrap_err()
        };
        assert_eq!(
            refused(vec![entry(5, 2)]),
            BadMessage::Gap {
                expected: 4,
                found: 5
            }
        );
        assert_eq!(
            refused(vec![entry(4, 1)]),
            BadMessage::Term { index: 4, term: 1 }
        );
        assert_eq!(
            refused(vec![entry(4, 5)]),
            BadMessage::Term { index: 4, term: 5 }
        );
        assert_eq!(
            from_wire(pb::PeerMessage { body: None }).unwrap_err(),
            BadMessage::Empty
        );
        let hello = pb::PeerMessage {
            body: Some(Body::Hello(pb::Hello::default())),
        };
        assert_eq!(
            from_wire(hello).unwrap_err(),
            BadMessage::Misplaced("Hello")
        );
        let vote = Body::RequestVote(pb::RequestVote::default());
        let vote = pb::PeerMessage { body: Some(vote) };
        assert_eq!(
            from_wire(vote).unwrap_err(),
            BadMessage::Missing("RequestVote.last")
        );
    }

    #[test]
    fn an_entry_for_several_peers_is_encoded_once() {
        let mut encoded = EncodedEntries::default();
        let first = encoded.payload(&entry(1, 1));
        let second = encoded.payload(&entry(1, 1));
        assert_eq!(first.as_ptr(), second.as_ptr());
        let mut other = entry(1, 2);
        other.payload = Payload::Noop;
        assert_eq!(encoded.payload(&other), Payload::Noop.to_bytes());
    }
}
