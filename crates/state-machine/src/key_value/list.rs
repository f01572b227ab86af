//! LIST: keys in order, a bounded number at a time.

use std::ops::Bound;

use state_machine_sdk::Outcome;

use super::{Query, View, check_key, check_prefix};

/// Keys in one answer.
pub const MAX_LIST_KEYS: usize = 1000;

/// Bytes of one answer, but for its last line.
pub const MAX_LIST_BYTES: usize = 1 << 20;

const USAGE: &str = "LIST, LIST prefix, LIST after key, or LIST prefix after key";

/// Reads what follows the verb.
///
/// # Errors
/// A sentence for the client.
pub(super) fn parse(words: &[u8]) -> Result<Query<'_>, String> {
    let mut split = words.split(|byte| *byte == b' ');
    let words = [split.next(), split.next(), split.next(), split.next()];
    let (prefix, after) = match words {
        [prefix, None, ..] => (prefix.unwrap_or_default(), None),
        [Some(word), Some(key), None, _] if is_after(word) => (&b""[..], Some(key)),
        [Some(prefix), Some(word), Some(key), None] if is_after(word) => (prefix, Some(key)),
        _ => return Err(format!("these words mean nothing together: write {USAGE}")),
    };
    if let Some(after) = after {
        check_key(USAGE, after)?;
    }
    check_prefix(USAGE, prefix)?;
    Ok(Query::List { prefix, after })
}

fn is_after(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"after")
}

/// The keys, one a line, and if there are more of them a last line that says how to go on.
pub(super) fn list<V: View>(
    view: &V,
    prefix: &[u8],
    after: Option<&[u8]>,
) -> Result<Outcome, V::Error> {
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let (mut lines, mut count, mut more) = (Vec::new(), 0, false);
    let mut last = 0;
    view.keys(from, &mut |key| {
        if !key.starts_with(prefix) {
            return false;
        }
        more = count == MAX_LIST_KEYS || lines.len() + 1 + key.len() > MAX_LIST_BYTES;
        if more {
            return false;
        }
        if count > 0 {
            lines.push(b'\n');
        }
        last = lines.len();
        lines.extend_from_slice(key);
        count += 1;
        true
    })?;
    if more {
        let last = lines.get(last..).unwrap_or_default().to_vec();
        lines.extend_from_slice(b"\n-- more: LIST ");
        if !prefix.is_empty() {
            lines.extend_from_slice(prefix);
            lines.push(b' ');
        }
        lines.extend_from_slice(b"after ");
        lines.extend_from_slice(&last);
    }
    Ok(Outcome::ok(lines))
}
