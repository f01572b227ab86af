//! Exactly once (§6.3 of the dissertation; rule S2): which entries reach the state machine.
//!
//! The table is a function of the log: every replica that has applied the same entries holds the same
//! table. It is asked once for every entry, in order of index, before the entry is handed to the state
//! machine; so a retry that stands in the log a second time is recognised, and gets the outcome of
//! the first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::entry::{Command, Entry, Payload};
use crate::ids::Index;

/// Sessions that are kept. When one more is registered, the one that was idle for the longest
/// stretch of the log ends. A constant, not a setting: replicas that differed in it would diverge.
pub const MAX_SESSIONS: usize = 16_384;

/// Outcomes that one session may have unacknowledged. Beyond, the oldest is forgotten, and its
/// sequence counts as acknowledged. A constant for the same reason.
pub const SESSION_WINDOW: usize = 256;

/// What the state machine said of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// In a word.
    pub kind: OutcomeKind,
    /// The result, or a sentence.
    pub data: Bytes,
}

/// In a word: what the state machine said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutcomeKind {
    /// Applied; the data is the result.
    Ok,
    /// Refused, the state unchanged; the data is a sentence.
    Rejected,
    /// What was asked for is not there; the data is a sentence.
    NotFound,
    /// Applied before, and the outcome is no longer kept.
    AlreadyApplied,
}

/// Why an entry is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SessionRefusal {
    /// No such session: it has expired, or never was.
    #[error("the session has expired")]
    Expired,
    /// The client has acknowledged this sequence; it cannot be a retry that anyone waits for.
    #[error("the sequence was acknowledged before")]
    Stale,
}

/// What to do with an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Hand these bytes to the state machine, then [`SessionTable::record`] what it said.
    Execute(Bytes),
    /// It was executed at an earlier index: this is what came of it.
    Duplicate(Outcome),
    /// It is not executed.
    Refused(SessionRefusal),
    /// Nothing for the state machine.
    Nothing(AppliedKind),
}

/// What a waiter of an entry that is not for the state machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppliedKind {
    /// A session was opened; its id is the entry's index.
    Registered {
        /// The session.
        session: Index,
    },
    /// The session lives on.
    KeptAlive,
    /// The session that was to be kept alive is unknown.
    KeepAliveExpired,
    /// A no-op, a configuration, an expiry.
    Other,
}

/// All sessions, as of one index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionTable {
    sessions: BTreeMap<Index, Session>,
    /// (last activity, session), to find the idlest.
    by_activity: BTreeSet<(Index, Index)>,
    applied_index: Index,
    skipped: BTreeSet<Index>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Session {
    last_activity: Index,
    acked_below: u64,
    /// Sequence to outcome. None: executing; its outcome is recorded before the next entry is
    /// answered from it.
    outcomes: BTreeMap<u64, Option<Outcome>>,
}

impl SessionTable {
    /// The entry up to which the table has been told everything.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// Sessions that are open.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Whether the outcome that `entry` would be answered with is still to be recorded: the same
    /// command was admitted in the batch that is being executed. Execute that batch first.
    pub fn must_wait(&self, entry: &Entry) -> bool {
        let Payload::Command(command) = &entry.payload else {
            return false;
        };
        let session = self.sessions.get(&command.session);
        session.is_some_and(|session| session.outcomes.get(&command.sequence) == Some(&None))
    }

    /// Decides about the next entry, and takes note of it. To be called once for every index, in
    /// order, and not while [`SessionTable::must_wait`] says so.
    pub fn admit(&mut self, entry: &Entry) -> Admission {
        assert_eq!(
            entry.index,
            self.applied_index + 1,
            "every entry is admitted once, in order"
        );
        self.applied_index = entry.index;
        match &entry.payload {
            _ if self.skipped.contains(&entry.index) => Admission::Nothing(AppliedKind::Other),
            Payload::Command(command) => self.admit_command(command, entry.index),
            Payload::RegisterSession => {
                self.register(entry.index);
                Admission::Nothing(AppliedKind::Registered {
                    session: entry.index,
                })
            }
            Payload::KeepAlive {
                session,
                acked_below,
            } => {
                let kept = self.touch(*session, *acked_below, entry.index);
                let lives = AppliedKind::KeptAlive;
                Admission::Nothing(if kept {
                    lives
                } else {
                    AppliedKind::KeepAliveExpired
                })
            }
            Payload::ExpireSession {
                session,
                seen_activity,
            } => {
                // S3: void if the session was active after the leader looked.
                let idle = self.sessions.get(session);
                if idle.is_some_and(|session| session.last_activity <= *seen_activity) {
                    self.end(*session);
                }
                Admission::Nothing(AppliedKind::Other)
            }
            Payload::Skip { index } => {
                self.skipped.insert(*index);
                Admission::Nothing(AppliedKind::Other)
            }
            Payload::Noop
            | Payload::Founding { .. }
            | Payload::Configuration(_)
            | Payload::Dissolve => Admission::Nothing(AppliedKind::Other),
        }
    }

    fn admit_command(&mut self, command: &Command, index: Index) -> Admission {
        if command.session == 0 {
            return Admission::Execute(command.bytes.clone());
        }
        if !self.touch(command.session, command.acked_below, index) {
            return Admission::Refused(SessionRefusal::Expired);
        }
        let Some(session) = self.sessions.get_mut(&command.session) else {
            return Admission::Refused(SessionRefusal::Expired);
        };
        if command.sequence < session.acked_below {
            return Admission::Refused(SessionRefusal::Stale);
        }
        if let Some(known) = session.outcomes.get(&command.sequence) {
            let unknown = Outcome {
                kind: OutcomeKind::AlreadyApplied,
                data: Bytes::new(),
            };
            return Admission::Duplicate(known.clone().unwrap_or(unknown));
        }
        session.outcomes.insert(command.sequence, None);
        while session.outcomes.len() > SESSION_WINDOW {
            if let Some((oldest, _)) = session.outcomes.pop_first() {
                session.acked_below = session.acked_below.max(oldest + 1);
            }
        }
        Admission::Execute(command.bytes.clone())
    }

    /// Keeps what the state machine said of an entry that was to be executed.
    pub fn record(&mut self, session: Index, sequence: u64, outcome: Outcome) {
        if let Some(session) = self.sessions.get_mut(&session)
            && let Some(kept) = session.outcomes.get_mut(&sequence)
        {
            *kept = Some(outcome);
        }
    }

    fn register(&mut self, index: Index) {
        if self.sessions.len() >= MAX_SESSIONS
            && let Some((_, idlest)) = self.by_activity.first().copied()
        {
            self.end(idlest);
        }
        self.sessions.insert(
            index,
            Session {
                last_activity: index,
                ..Session::default()
            },
        );
        self.by_activity.insert((index, index));
    }

    fn touch(&mut self, id: Index, acked_below: u64, index: Index) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        self.by_activity.remove(&(session.last_activity, id));
        session.last_activity = index;
        self.by_activity.insert((index, id));
        if acked_below > session.acked_below {
            session.acked_below = acked_below;
            session.outcomes = session.outcomes.split_off(&acked_below);
        }
        true
    }

    fn end(&mut self, id: Index) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_activity.remove(&(session.last_activity, id));
        }
    }
}
