//! What clients asked of a key-value store, when, and what they were told; and whether one correct
//! store could have told them so.
//!
//! # Linearizability
//!
//! A history is linearizable if every operation can be given one moment between its call and its
//! answer, such that a store which executes them at those moments gives those very answers (Herlihy and
//! Wing). It may be checked key by key: a history is linearizable if and only if that of each key is.
//!
//! An operation that was *refused* has no moment at all: "failed" means never. One of which nobody
//! *knows* has one moment anywhere after its call, however much later, or none.
//!
//! [`check`] looks for a plain contradiction between two values first (`zones`), and then searches for an
//! order (`search`: Wing and Gong, with the memory that Lowe added and some rules that keep it short). The search is bounded by [`CONFIGURATIONS_MAX`]; a history that needs more is
//! [`Verdict::Undecided`], which is no success.
//!
//! # What else is checked
//!
//! [`plain`] has checks that need no search, and so have an answer for every history: values that nobody
//! wrote, acknowledged writes that are gone, sums of increments, indices that go back, stale reads.
//! They are weaker, and their sentences are easier to read.

mod explain;
pub mod plain;
mod search;
mod store;
#[cfg(test)]
mod tests;
mod zones;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

pub use store::{Action, Answer};

/// Moments of one clock that all clients of a history share; what its unit is does not matter here.
pub type Time = u64;

/// For one key, so many different situations are looked at and remembered. Each takes some hundred bytes.
pub const CONFIGURATIONS_MAX: usize = 1_000_000;

/// Of the writes that do not help, so many are shown.
const OTHERS_SHOWN_MAX: usize = 20;

/// What one client asked, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked. For the reader only: the checks do not use it.
    pub client: u64,
    /// What it was about.
    pub key: Bytes,
    /// What was to be done.
    pub action: Action,
    /// When it was sent, or a little sooner.
    pub invoked: Time,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a client knows of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Done {
        /// When the answer had come, or a little later.
        returned: Time,
        /// The answer.
        answer: Answer,
        /// The index of the log that came with it; 0: none. A write was executed there or sooner (the
        /// entry there may be a retry), a read saw the state as of just there.
        index: u64,
    },
    /// It did not happen, and never will.
    Refused,
    /// It may have happened, or may yet.
    Unknown,
}

/// What [`check`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One correct store could have given all the answers.
    Linearizable,
    /// No correct store could.
    Violated(Violation),
    /// Of these keys nobody knows, within the limit; those of all others are linearizable.
    Undecided(Vec<Bytes>),
}

/// A key whose answers no correct store gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: Bytes,
    /// Operations that cannot be reconciled: a small part of the history, in the order of their calls.
    pub contradiction: Vec<Operation>,
    /// Other writes that may have been executed at that time, as they were known then. Whether and when
    /// does not matter: none of them helps.
    pub others: Vec<Operation>,
    /// How many operations there are on that key.
    pub of: usize,
    /// The key may have held anything when these begin. Otherwise it was absent.
    pub any_start: bool,
}

/// Whether a history is linearizable. Every key is absent in the beginning.
pub fn check(history: &[Operation]) -> Verdict {
    check_within(history, CONFIGURATIONS_MAX)
}

/// The same with another limit than [`CONFIGURATIONS_MAX`].
pub fn check_within(history: &[Operation], configurations_max: usize) -> Verdict {
    let mut undecided = Vec::new();
    for (key, operations) in by_key(history) {
        if let Some(found) = zones::contradiction(&operations) {
            return Verdict::Violated(Violation {
                key: key.clone(),
                contradiction: found.into_iter().cloned().collect(),
                others: Vec::new(),
                of: operations.len(),
                any_start: true,
            });
        }
        match search::search(&operations, &[None], configurations_max) {
            search::Found::Order => {}
            search::Found::Limit => undecided.push(key.clone()),
            search::Found::Nothing => {
                return Verdict::Violated(explain::explain(key, &operations, configurations_max));
            }
        }
    }
    if undecided.is_empty() {
        Verdict::Linearizable
    } else {
        Verdict::Undecided(undecided)
    }
}

/// Each key's operations.
fn by_key(history: &[Operation]) -> BTreeMap<&Bytes, Vec<&Operation>> {
    let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    keys
}

impl Operation {
    /// When it was answered. None: it was not.
    pub fn returned(&self) -> Option<Time> {
        match self.outcome {
            Outcome::Done { returned, .. } => Some(returned),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// What it was answered.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Done { answer, .. } => Some(answer),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// The log's index that came with the answer, if one did.
    pub fn index(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Done { index, .. } => (index > 0).then_some(index),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    /// Whether it was over before the other one began.
    pub fn precedes(&self, other: &Operation) -> bool {
        self.returned()
            .is_some_and(|returned| returned < other.invoked)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>12} client {:<3} {}",
            self.invoked,
            self.client,
            self.action.said_of(&self.key)
        )?;
        match &self.outcome {
            Outcome::Done {
                returned,
                answer,
                index,
            } => {
                write!(f, " -> {answer}, at {returned}")?;
                match index {
                    0 => Ok(()),
                    _ => write!(f, " (entry {index})"),
                }
            }
            Outcome::Refused => write!(f, " -> refused"),
            Outcome::Unknown => write!(f, " -> unknown"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "key {}: no correct store gives these answers ({} of the {} operations; {})",
            store::shown(&self.key),
            self.contradiction.len(),
            self.of,
            if self.any_start {
                "whatever the key held before"
            } else {
                "the key was absent before"
            }
        )?;
        for operation in &self.contradiction {
            writeln!(f, "  {operation}")?;
        }
        if !self.others.is_empty() {
            writeln!(f, "  and of these writes none helps:")?;
        }
        for operation in self.others.iter().take(OTHERS_SHOWN_MAX) {
            writeln!(f, "  {operation}")?;
        }
        if self.others.len() > OTHERS_SHOWN_MAX {
            writeln!(f, "  ... and {} more", self.others.len() - OTHERS_SHOWN_MAX)?;
        }
        Ok(())
    }
}
