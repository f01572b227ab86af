//! Words, JSON strings and numbers among the words of a command.

use std::borrow::Cow;

use super::shown;

/// As it stands in the command, or decoded.
type Value<'a> = Cow<'a, [u8]>;

/// A whole number of 64 bits in decimal digits, with or without a sign.
pub(super) fn number(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The two values of a CAS, with one space between them, and nothing after them.
///
/// # Errors
/// A sentence for the client.
pub(super) fn two_operands(bytes: &[u8]) -> Result<(Value<'_>, Value<'_>), String> {
    let read = || -> Result<_, String> {
        let (old, rest) = operand(bytes)?;
        let rest = rest.ok_or("the second of the two values is missing")?;
        let (new, rest) = operand(rest)?;
        match rest {
            None => Ok((old, new)),
            Some(rest) => Err(format!(
                "there is something after the two values, {}",
                shown(rest)
            )),
        }
    };
    read().map_err(|what| {
        format!(
            "{what}: write CAS key old new, each of the two values one word, or a JSON string in \
             double quotes, as in CAS key \"an old value\" \"a new one\""
        )
    })
}

/// One value, and what follows the space after it, if there is one.
fn operand(bytes: &[u8]) -> Result<(Value<'_>, Option<&[u8]>), String> {
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        let (word, rest) = super::split_word(bytes);
        if word.is_empty() {
            return Err("a value is missing".to_owned());
        }
        if word.iter().any(u8::is_ascii_whitespace) {
            return Err(format!("the value {} has white space in it", shown(word)));
        }
        return Ok((Cow::Borrowed(word), rest));
    };
    let (value, rest) = unquote(quoted)?;
    match rest.split_first() {
        None => Ok((Cow::Owned(value), None)),
        Some((b' ', rest)) => Ok((Cow::Owned(value), Some(rest))),
        Some(_) => Err(format!(
            "there is something between the closing quote and the next space, {}",
            shown(rest)
        )),
    }
}

/// The inside of a JSON string, and what follows its closing quote. Bytes that are no UTF-8 pass as
/// they are, as they do in a PUT.
fn unquote(bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut value = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [] => return Err("a string has no closing quote".to_owned()),
            [b'"', after @ ..] => return Ok((value, after)),
            [b'\\', after @ ..] => {
                let (character, after) = escape(after)?;
                value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            [0..0x20, ..] => {
                return Err(
                    "a string has a control character in it; write it as \\n, \\t, \\r or \
                            \\u0000"
                        .to_owned(),
                );
            }
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
        }
    }
}

/// The character that the bytes after a backslash stand for, and what follows.
fn escape(bytes: &[u8]) -> Result<(char, &[u8]), String> {
    let unknown = || {
        "a string has a backslash that begins no escape; a backslash itself is written as two"
            .to_owned()
    };
    let (kind, rest) = bytes.split_first().ok_or_else(unknown)?;
    let character = match kind {
        b'"' | b'\\' | b'/' => char::from(*kind),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            return unicode(rest).ok_or_else(|| {
                "a string has a \\u that is not followed by the four hexadecimal digits of a \
             character, or by those of a pair of surrogates"
                    .to_owned()
            });
        }
        _ => return Err(unknown()),
    };
    Ok((character, rest))
}

/// What follows `\u`: one unit of UTF-16, or two with another `\u` between them.
fn unicode(bytes: &[u8]) -> Option<(char, &[u8])> {
    let (high, rest) = unit(bytes)?;
    if let Some(character) = char::from_u32(high.into()) {
        return Some((character, rest));
    }
    let (low, rest) = unit(rest.strip_prefix(b"\\u")?)?;
    let character = char::decode_utf16([high, low]).next()?.ok()?;
    Some((character, rest))
}

fn unit(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = bytes.split_first_chunk::<4>()?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}
