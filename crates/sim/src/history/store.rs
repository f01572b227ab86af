//! What one key of a correct store does.

use std::fmt;

use bytes::Bytes;

/// So much of a key or value is shown.
const SHOWN_BYTES: usize = 60;

/// What may be asked about a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Sets it.
    Put(Bytes),
    /// Removes it.
    Delete,
    /// Sets it to `new` if it holds `old`.
    CompareAndSwap {
        /// What it must hold.
        old: Bytes,
        /// What it holds then.
        new: Bytes,
    },
    /// Adds to a whole number. No key counts as 0.
    Increment(i64),
    /// Reads it.
    Get,
    /// Asks only whether it is there: what a LIST tells of each key.
    Exists,
}

/// What a store says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It was done; or, to [`Action::Exists`], it is there.
    Done,
    /// What GET read, or what INCR made of it.
    Value(Bytes),
    /// There is no such key.
    NotFound,
    /// The key holds something else, and nothing was changed.
    Rejected,
}

/// What a key holds. None: there is no such key.
pub(super) type State = Option<Bytes>;

/// What a correct store makes of an action, and says.
///
/// The search rests on this: given the answer, either the new state is the old one, or it does not
/// depend on the old one.
pub(super) fn execute(state: &State, action: &Action) -> (State, Answer) {
    match (action, state) {
        (Action::Put(value), _) => (Some(value.clone()), Answer::Done),
        (Action::Get, Some(value)) => (state.clone(), Answer::Value(value.clone())),
        (Action::Exists, Some(_)) => (state.clone(), Answer::Done),
        (Action::Delete, Some(_)) => (None, Answer::Done),
        (Action::CompareAndSwap { old, new }, Some(value)) if old == value => {
            (Some(new.clone()), Answer::Done)
        }
        (Action::CompareAndSwap { .. }, Some(_)) => (state.clone(), Answer::Rejected),
        (Action::Get | Action::Exists | Action::Delete | Action::CompareAndSwap { .. }, None) => {
            (None, Answer::NotFound)
        }
        (Action::Increment(by), _) => {
            let from = state.as_ref().map_or(Some(0), number);
            match from.and_then(|from| from.checked_add(*by)) {
                Some(sum) => {
                    let sum = Bytes::from(sum.to_string());
                    (Some(sum.clone()), Answer::Value(sum))
                }
                None => (state.clone(), Answer::Rejected),
            }
        }
    }
}

impl Action {
    /// Whether the state afterwards is the same whatever it was before.
    pub(super) fn overwrites(&self) -> bool {
        matches!(self, Action::Put(_) | Action::Delete)
    }

    /// Whether it changes nothing, whatever the key holds.
    pub(super) fn reads(&self) -> bool {
        matches!(self, Action::Get | Action::Exists)
    }

    /// Whether it has changed nothing, given its answer.
    pub(super) fn observes(&self, answer: &Answer) -> bool {
        self.reads() || matches!(answer, Answer::NotFound | Answer::Rejected)
    }

    /// What the key must have held for that answer, if it is one thing only. (A number may be written in
    /// several ways, so a sum says nothing of it.)
    pub(super) fn needs(&self, answer: &Answer) -> Option<State> {
        match (self, answer) {
            (_, Answer::NotFound) => Some(None),
            (Action::Get, Answer::Value(value)) => Some(Some(value.clone())),
            (Action::CompareAndSwap { old, .. }, Answer::Done) => Some(Some(old.clone())),
            _ => None,
        }
    }

    /// What the key holds after it, given its answer, if that is something that it has set.
    pub(super) fn leaves(&self, answer: &Answer) -> Option<State> {
        match (self, answer) {
            (_, Answer::NotFound | Answer::Rejected) | (Action::Get | Action::Exists, _) => None,
            (Action::Put(value) | Action::CompareAndSwap { new: value, .. }, _) => {
                Some(Some(value.clone()))
            }
            (Action::Delete, _) => Some(None),
            (Action::Increment(_), Answer::Value(sum)) => Some(Some(sum.clone())),
            (Action::Increment(_), Answer::Done) => None,
        }
    }

    /// It as a person would write it, with the key.
    pub(super) fn said_of(&self, key: &Bytes) -> String {
        let key = shown(key);
        match self {
            Action::Put(value) => format!("PUT {key} {}", shown(value)),
            Action::Delete => format!("DELETE {key}"),
            Action::CompareAndSwap { old, new } => {
                format!("CAS {key} {} {}", shown(old), shown(new))
            }
            Action::Increment(by) => format!("INCR {key} {by}"),
            Action::Get => format!("GET {key}"),
            Action::Exists => format!("EXISTS {key}"),
        }
    }

    /// The value that it sets by itself.
    pub(super) fn sets(&self) -> Option<&Bytes> {
        match self {
            Action::Put(value) | Action::CompareAndSwap { new: value, .. } => Some(value),
            Action::Delete | Action::Increment(_) | Action::Get | Action::Exists => None,
        }
    }
}

/// The whole number that a value is.
pub(super) fn number(value: &Bytes) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A key or a value, for people.
pub(super) fn shown(bytes: &[u8]) -> String {
    let cut = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
    let dots = if cut.len() < bytes.len() { "..." } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Done => write!(f, "done"),
            Answer::Value(value) => write!(f, "{}", shown(value)),
            Answer::NotFound => write!(f, "not found"),
            Answer::Rejected => write!(f, "rejected"),
        }
    }
}
