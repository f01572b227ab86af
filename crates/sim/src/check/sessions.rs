//! Which entries are run, by a session table so plain that one sees that it is right (S2, S3, P5).

use std::collections::{BTreeMap, BTreeSet};

use raft_core::sessions::SESSION_WINDOW;
use raft_core::{Entry, Index, Payload};

use super::{Checker, Wrong, wrong};

#[derive(Default)]
struct Session {
    last_activity: Index,
    acked_below: u64,
    /// Sequences whose outcomes are kept.
    kept: BTreeSet<u64>,
}

/// The sessions as of one entry.
#[derive(Default)]
struct Table {
    sessions: BTreeMap<Index, Session>,
}

impl Table {
    fn touch(&mut self, session: Index, acked_below: u64, at: Index) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&session)?;
        session.last_activity = at;
        session.acked_below = session.acked_below.max(acked_below);
        let acked_below = session.acked_below;
        session.kept.retain(|sequence| *sequence >= acked_below);
        Some(session)
    }

    /// Whether the state machine is to run this one.
    fn runs(&mut self, entry: &Entry) -> bool {
        match &entry.payload {
            Payload::Command(command) if command.session == 0 => true,
            Payload::Command(command) => {
                let Some(session) = self.touch(command.session, command.acked_below, entry.index)
                else {
                    return false; // Expired.
                };
                if command.sequence < session.acked_below {
                    return false; // Stale.
                }
                let is_new = session.kept.insert(command.sequence);
                while session.kept.len() > SESSION_WINDOW {
                    if let Some(oldest) = session.kept.pop_first() {
                        session.acked_below = session.acked_below.max(oldest + 1);
                    }
                }
                is_new
            }
            Payload::RegisterSession => {
                let session = Session {
                    last_activity: entry.index,
                    ..Session::default()
                };
                self.sessions.insert(entry.index, session);
                false
            }
            Payload::KeepAlive {
                session,
                acked_below,
            } => {
                self.touch(*session, *acked_below, entry.index);
                false
            }
            Payload::ExpireSession {
                session,
                seen_activity,
            } => {
                let idle = self.sessions.get(session);
                if idle.is_some_and(|idle| idle.last_activity <= *seen_activity) {
                    self.sessions.remove(session);
                }
                false
            }
            _ => false,
        }
    }
}

/// What went to the state machines as commands is what the committed entries make of an empty table.
pub(super) fn run_what_is_new(checker: &Checker) -> Result<(), Wrong> {
    let skipped: BTreeSet<Index> = checker
        .ledger
        .committed_entries()
        .filter_map(named)
        .collect();
    let mut table = Table::default();
    for entry in checker.ledger.committed_entries() {
        let expected = table.runs(entry) && !skipped.contains(&entry.index);
        let Some(applied) = checker.ledger.applied.get(&entry.index) else {
            continue; // Nobody was there to tell.
        };
        if applied.command.is_some() != expected {
            let what = match expected {
                true => format!("{entry:?} is new, and was not run"),
                false => format!("{entry:?} was run, and was not to be"),
            };
            return wrong("sessions", what);
        }
    }
    Ok(())
}

/// The entry that an operator's order leaves out (P5).
fn named(entry: &Entry) -> Option<Index> {
    match entry.payload {
        Payload::Skip { index } => Some(index),
        _ => None,
    }
}
