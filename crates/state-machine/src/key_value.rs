//! What the commands mean, as plain functions on a store.
//!
//! | entry | result |
//! | --- | --- |
//! | `PUT key value` | sets the key, and says so in one word |
//! | `DELETE key` | removes the key; not found when it is not there |
//! | `CAS key old new` | sets the key to `new` if its value is `old`; rejected if it is another one, not found when there is none |
//! | `INCR key [n]` | adds `n`, or 1, to the number in the key, and answers with the sum; a key that is not there counts as 0 |
//!
//! | query | answer |
//! | --- | --- |
//! | `GET key` | the value |
//! | `LIST [prefix]` | the keys that begin so, in order of their bytes, one a line |
//! | `LIST [prefix] after key` | those of them after a key |
//!
//! | watch | tells |
//! | --- | --- |
//! | `WATCH [prefix]` | every change of a key that begins so, as `PUT key value` or `DELETE key` |
//!
//! PUT, CAS and INCR are told as `PUT`, also when the value was the same before; what was refused or
//! not found is not told.
//!
//! The verb is one word, in upper or lower case. The key is one word of any bytes but white space.
//! The value of a PUT is everything after the single space that follows the key: any bytes, with
//! their spaces, or none. The two values of a CAS are single words, or JSON strings in double
//! quotes, so that they can be told apart: `CAS key "an old value" "a new one"`. Numbers are whole
//! ones of 64 bits, in decimal digits.
//!
//! A LIST gives [`MAX_LIST_KEYS`] keys and [`MAX_LIST_BYTES`] bytes at the most. If there are more, its
//! last line is no key, for it has spaces: `-- more: LIST prefix after key`, which is the query that
//! goes on. Each of the two is answered from the state of its own moment.

mod list;
mod operand;
#[cfg(test)]
mod tests;
mod watch;

use std::borrow::Cow;
use std::ops::Bound;

use bytes::Bytes;
use state_machine_sdk::Outcome;

pub use list::{MAX_LIST_BYTES, MAX_LIST_KEYS};
use operand::{number, two_operands};
pub use watch::{delete_event, parse_watch, put_event, watch};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;

/// What a PUT comes to. It does not repeat the value: an outcome is written to disk, sent back, and
/// kept in the table of sessions, and who sent the value knows it.
const SET: &[u8] = b"Success!";

/// How much of what a client sent is shown back to it in a sentence, in bytes.
const SHOWN_BYTES: usize = 40;

const VERBS: &str = "PUT key value, DELETE key, CAS key old new, INCR key [n], and as queries GET key, \
                     LIST [prefix], and as a watch WATCH [prefix]";
const INCR: &str = "INCR key [n]";

/// What an entry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// Sets a key to a value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value; it may be empty.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Sets a key to a value if it has a certain other one.
    CompareAndSwap {
        /// The key.
        key: &'a [u8],
        /// The value that it must have.
        old: Cow<'a, [u8]>,
        /// The value that it has afterwards.
        new: Cow<'a, [u8]>,
    },
    /// Adds to the number that a key has.
    Increment {
        /// The key.
        key: &'a [u8],
        /// What is added; it may be negative.
        by: i64,
    },
}

/// What a query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query<'a> {
    /// The value of a key.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// Keys, in order.
    List {
        /// What they begin with; it may be empty.
        prefix: &'a [u8],
        /// The key that they come after.
        after: Option<&'a [u8]>,
    },
}

/// Keys and their values, as a transaction sees them.
pub trait Store {
    /// What can go wrong with the storage.
    type Error;

    /// The value of a key.
    ///
    /// # Errors
    /// When the storage fails.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;

    /// Sets a key.
    ///
    /// # Errors
    /// When the storage fails.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Self::Error>;

    /// Removes a key, and tells whether it was there.
    ///
    /// # Errors
    /// When the storage fails.
    fn delete(&mut self, key: &[u8]) -> Result<bool, Self::Error>;
}

/// Keys and their values, as a query sees them.
pub trait View {
    /// What can go wrong with the storage.
    type Error;

    /// The value of a key.
    ///
    /// # Errors
    /// When the storage fails.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;

    /// Shows the keys from `from` on to `visit`, in order of their bytes, until it says false.
    ///
    /// # Errors
    /// When the storage fails.
    fn keys(
        &self,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), Self::Error>;
}

/// Applies one entry. One that is not understood is an outcome like any other, and every replica
/// comes to the same.
///
/// # Errors
/// Only when the store fails.
pub fn execute<S: Store>(store: &mut S, entry: &[u8]) -> Result<Outcome, S::Error> {
    match parse_command(entry) {
        Ok(Command::Put { key, value }) => {
            store.put(key, value)?;
            Ok(Outcome::Ok(Bytes::from_static(SET)))
        }
        Ok(Command::Delete { key }) => Ok(if store.delete(key)? {
            Outcome::Ok(said(&[b"Success! Deleted \"", key, b"\""]))
        } else {
            not_found(key)
        }),
        Ok(Command::CompareAndSwap { key, old, new }) => {
            let Some(present) = store.get(key)? else {
                return Ok(not_found(key));
            };
            if *present != *old {
                return Ok(Outcome::Rejected(format!(
                    "Key {} holds {}, and not {}: nothing was changed",
                    shown(key),
                    shown_and_measured(&present),
                    shown_and_measured(&old)
                )));
            }
            store.put(key, &new)?;
            Ok(Outcome::Ok(said(&[
                b"Success! Set \"",
                key,
                b"\" to: \"",
                &new,
                b"\"",
            ])))
        }
        Ok(Command::Increment { key, by }) => increment(store, key, by),
        Err(sentence) => Ok(Outcome::Rejected(sentence)),
    }
}

fn increment<S: Store>(store: &mut S, key: &[u8], by: i64) -> Result<Outcome, S::Error> {
    let present = store.get(key)?;
    let from = match &present {
        None => Some(0),
        Some(present) => number(present),
    };
    let Some(from) = from else {
        let present = present.unwrap_or_default();
        return Ok(Outcome::Rejected(format!(
            "Key {} holds {}, which is no whole number from {} to {}: nothing was changed",
            shown(key),
            shown_and_measured(&present),
            i64::MIN,
            i64::MAX
        )));
    };
    let Some(sum) = from.checked_add(by) else {
        return Ok(Outcome::Rejected(format!(
            "Key {} holds {from}, and with {by} added it would not be between {} and {}: nothing \
             was changed",
            shown(key),
            i64::MIN,
            i64::MAX
        )));
    };
    let sum = sum.to_string();
    store.put(key, sum.as_bytes())?;
    Ok(Outcome::ok(sum))
}

/// Answers one query.
///
/// # Errors
/// Only when the view does.
pub fn query<V: View>(view: &V, query: &[u8]) -> Result<Outcome, V::Error> {
    match parse_query(query) {
        Ok(Query::Get { key }) => Ok(view.get(key)?.map_or_else(|| not_found(key), Outcome::Ok)),
        Ok(Query::List { prefix, after }) => list::list(view, prefix, after),
        Err(sentence) => Ok(Outcome::Rejected(sentence)),
    }
}

/// Reads an entry.
///
/// # Errors
/// A sentence for the client: what was wrong, and what would be right.
pub fn parse_command(entry: &[u8]) -> Result<Command<'_>, String> {
    let (verb, rest) = split_word(entry);
    match verb.to_ascii_uppercase().as_slice() {
        b"PUT" => {
            let (key, value) = rest.map(split_word).unwrap_or_default();
            check_key("PUT key value", key)?;
            // Who leaves the value out has more likely forgotten it than meant to empty the key.
            let value = value.ok_or_else(|| {
                format!(
                    "there is no value for {}: write PUT key value; a space after the key and \
                     nothing else sets an empty value",
                    shown(key)
                )
            })?;
            Ok(Command::Put { key, value })
        }
        b"DELETE" => {
            let key = lone_key("DELETE key", rest)?;
            Ok(Command::Delete { key })
        }
        b"CAS" => {
            let (key, values) = rest.map(split_word).unwrap_or_default();
            check_key("CAS key old new", key)?;
            let (old, new) = two_operands(values.unwrap_or_default())?;
            Ok(Command::CompareAndSwap { key, old, new })
        }
        b"INCR" => {
            let (key, by) = rest.map(split_word).unwrap_or_default();
            check_key(INCR, key)?;
            let by = by.map_or(Ok(1), |by| {
                number(by).ok_or_else(|| {
                    format!(
                        "{} is no whole number from {} to {}: write {INCR}, such as INCR visits 5",
                        shown(by),
                        i64::MIN,
                        i64::MAX
                    )
                })
            })?;
            Ok(Command::Increment { key, by })
        }
        b"GET" | b"LIST" => {
            let verb = String::from_utf8_lossy(verb).to_ascii_uppercase();
            Err(format!(
                "{verb} reads and changes nothing, so it is a query and no entry: send it as a query"
            ))
        }
        b"WATCH" => Err(no_watch("entry")),
        _ => Err(unknown(verb)),
    }
}

/// Reads a query.
///
/// # Errors
/// A sentence for the client: what was wrong, and what would be right.
pub fn parse_query(query: &[u8]) -> Result<Query<'_>, String> {
    let (verb, rest) = split_word(query);
    match verb.to_ascii_uppercase().as_slice() {
        b"GET" => {
            let key = lone_key("GET key", rest)?;
            Ok(Query::Get { key })
        }
        b"LIST" => list::parse(rest.unwrap_or_default()),
        b"PUT" | b"DELETE" | b"CAS" | b"INCR" => {
            let verb = String::from_utf8_lossy(verb).to_ascii_uppercase();
            Err(format!(
                "{verb} changes the state, so it is an entry and no query: send it as an entry"
            ))
        }
        b"WATCH" => Err(no_watch("query")),
        _ => Err(unknown(verb)),
    }
}

fn no_watch(sent_as: &str) -> String {
    format!(
        "WATCH tells of changes as they come, so it is a watch and no {sent_as}: raft-client WATCH"
    )
}

/// The bytes up to the first space, and what follows that space, if there is one.
fn split_word(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |byte| *byte == b' ');
    (parts.next().unwrap_or_default(), parts.next())
}

fn lone_key<'a>(usage: &str, rest: Option<&'a [u8]>) -> Result<&'a [u8], String> {
    let key = rest.unwrap_or_default();
    check_key(usage, key)?;
    Ok(key)
}

fn check_key(usage: &str, key: &[u8]) -> Result<(), String> {
    if key.is_empty() {
        return Err(format!(
            "there is no key: write {usage}, with one space between the words"
        ));
    }
    if key.len() > MAX_KEY_BYTES {
        let length = key.len();
        return Err(format!(
            "the key has {length} bytes, and may have {MAX_KEY_BYTES}"
        ));
    }
    if key.iter().any(u8::is_ascii_whitespace) {
        return Err(format!(
            "the key {} has white space in it: write {usage}",
            shown(key)
        ));
    }
    Ok(())
}

/// The beginning of a key is shaped like one, or empty.
fn check_prefix(usage: &str, prefix: &[u8]) -> Result<(), String> {
    if prefix.len() > MAX_KEY_BYTES || prefix.iter().any(u8::is_ascii_whitespace) {
        return Err(format!(
            "no key begins with {}, for a key has no white space in it and {MAX_KEY_BYTES} bytes \
             at the most: write {usage}",
            shown(prefix)
        ));
    }
    Ok(())
}

fn unknown(verb: &[u8]) -> String {
    if verb.is_empty() {
        return format!("there is no verb at the beginning: this state machine knows {VERBS}");
    }
    format!(
        "the verb {} is unknown: this state machine knows {VERBS}",
        shown(verb)
    )
}

fn not_found(key: &[u8]) -> Outcome {
    Outcome::NotFound(format!(
        "Key \"{}\" was not found",
        String::from_utf8_lossy(key)
    ))
}

fn said(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

/// Bytes of a stranger, quoted, without control characters and not too long.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let cut = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
    let dots = if cut.len() < bytes.len() { "..." } else { "" };
    format!("\"{}{dots}\"", String::from_utf8_lossy(cut).escape_debug())
}

/// The same, with how much of it there is when not all of it is shown.
fn shown_and_measured(bytes: &[u8]) -> String {
    if bytes.len() <= SHOWN_BYTES {
        return shown(bytes);
    }
    format!("{} ({} bytes)", shown(bytes), bytes.len())
}
