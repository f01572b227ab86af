//! WATCH: what is changed, as it is changed.

use bytes::{Bytes, BytesMut};
use state_machine_sdk::{Event, Filter};

use super::{check_prefix, shown, split_word};

const USAGE: &str = "WATCH, or WATCH prefix";
const PUT: &[u8] = b"PUT ";
const DELETE: &[u8] = b"DELETE ";

/// That a key was set, in the words of the entry that would do it: `PUT key value`.
pub fn put_event(key: &[u8], value: &[u8]) -> Event {
    event(PUT, key, Some(value))
}

/// That a key was removed: `DELETE key`.
pub fn delete_event(key: &[u8]) -> Event {
    event(DELETE, key, None)
}

fn event(verb: &[u8], key: &[u8], value: Option<&[u8]>) -> Event {
    let length = verb.len() + key.len() + value.map_or(0, |value| 1 + value.len());
    let mut data = BytesMut::with_capacity(length);
    data.extend_from_slice(verb);
    data.extend_from_slice(key);
    if let Some(value) = value {
        data.extend_from_slice(b" ");
        data.extend_from_slice(value);
    }
    let data = data.freeze();
    // The key is not kept twice.
    let topic = data.slice(verb.len()..verb.len() + key.len());
    Event { topic, data }
}

/// Reads what is to be watched, and finds the events that are meant.
///
/// # Errors
/// A sentence for the client: what was wrong, and what would be right.
pub fn watch(query: &[u8]) -> Result<Filter, String> {
    let prefix = Bytes::copy_from_slice(parse_watch(query)?);
    Ok(Box::new(move |event| event.topic.starts_with(&prefix)))
}

/// What the keys that are watched begin with; it may be empty.
///
/// # Errors
/// As [`watch`].
pub fn parse_watch(query: &[u8]) -> Result<&[u8], String> {
    let (verb, prefix) = split_word(query);
    if !verb.eq_ignore_ascii_case(b"WATCH") {
        return Err(format!("{} cannot be watched: write {USAGE}", shown(query)));
    }
    let prefix = prefix.unwrap_or_default();
    check_prefix(USAGE, prefix)?;
    Ok(prefix)
}
