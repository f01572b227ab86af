//! What the commands mean, as plain functions on a store.
//!
//! An entry is `PUT key value` or `DELETE key`, a query is `GET key`. The verb is one word, in
//! upper or lower case. The key is one word of any bytes but white space. The value is everything
//! after the single space that follows the key: any bytes, with their spaces, or none.

use bytes::Bytes;
use state_machine_sdk::Outcome;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;

/// How much of what a client sent is shown back to it in a sentence, in bytes.
const SHOWN_BYTES: usize = 40;

const VERBS: &str = "PUT key value, DELETE key, and as a query GET key";

/// What an entry asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

/// Keys and their values, as a transaction sees them.
pub trait Store {
    /// What can go wrong with the storage.
    type Error;

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

/// Applies one entry. One that is not understood is an outcome like any other, and every replica
/// comes to the same.
///
/// # Errors
/// Only when the store fails.
pub fn execute<S: Store>(store: &mut S, entry: &[u8]) -> Result<Outcome, S::Error> {
    match parse_command(entry) {
        Ok(Command::Put { key, value }) => {
            store.put(key, value)?;
            Ok(Outcome::Ok(said(&[
                b"Success! Set \"",
                key,
                b"\" to: \"",
                value,
                b"\"",
            ])))
        }
        Ok(Command::Delete { key }) => Ok(if store.delete(key)? {
            Outcome::Ok(said(&[b"Success! Deleted \"", key, b"\""]))
        } else {
            not_found(key)
        }),
        Err(sentence) => Ok(Outcome::Rejected(sentence)),
    }
}

/// Answers one query with the value that `get` finds.
///
/// # Errors
/// Only when `get` does.
pub fn query<E>(
    query: &[u8],
    get: impl FnOnce(&[u8]) -> Result<Option<Bytes>, E>,
) -> Result<Outcome, E> {
    match parse_query(query) {
        Ok(key) => Ok(get(key)?.map_or_else(|| not_found(key), Outcome::Ok)),
        Err(sentence) => Ok(Outcome::Rejected(sentence)),
    }
}

/// Reads an entry.
///
/// # Errors
/// A sentence for the client: what was wrong, and what would be right.
pub fn parse_command(entry: &[u8]) -> Result<Command<'_>, String> {
    let (verb, rest) = split_word(entry);
    if verb.eq_ignore_ascii_case(b"PUT") {
        let (key, value) = rest.map(split_word).unwrap_or_default();
        check_key("PUT key value", key)?;
        // Who leaves the value out has more likely forgotten it than meant to empty the key.
        let value = value.ok_or_else(|| {
            format!(
                "there is no value for {}: write PUT key value; a space after the key and nothing \
                 else sets an empty value",
                shown(key)
            )
        })?;
        Ok(Command::Put { key, value })
    } else if verb.eq_ignore_ascii_case(b"DELETE") {
        let key = lone_key("DELETE key", rest)?;
        Ok(Command::Delete { key })
    } else if verb.eq_ignore_ascii_case(b"GET") {
        Err(
            "GET reads and changes nothing, so it is a query and no entry: send it as a query"
                .to_owned(),
        )
    } else {
        Err(unknown(verb))
    }
}

/// Reads a query: the key that is asked for.
///
/// # Errors
/// A sentence for the client: what was wrong, and what would be right.
pub fn parse_query(query: &[u8]) -> Result<&[u8], String> {
    let (verb, rest) = split_word(query);
    if verb.eq_ignore_ascii_case(b"GET") {
        lone_key("GET key", rest)
    } else if verb.eq_ignore_ascii_case(b"PUT") || verb.eq_ignore_ascii_case(b"DELETE") {
        let verb = String::from_utf8_lossy(verb).to_ascii_uppercase();
        Err(format!(
            "{verb} changes the state, so it is an entry and no query: send it as an entry"
        ))
    } else {
        Err(unknown(verb))
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    struct Map(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Store for Map {
        type Error = Infallible;

        fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
            self.0.insert(key.to_vec(), value.to_vec());
            Ok(())
        }

        fn delete(&mut self, key: &[u8]) -> Result<bool, Infallible> {
            Ok(self.0.remove(key).is_some())
        }
    }

    impl Map {
        fn run(&mut self, entry: &[u8]) -> Outcome {
            execute(self, entry).unwrap()
        }

        fn ask(&self, asked: &[u8]) -> Outcome {
            let get = |key: &[u8]| Ok::<_, Infallible>(self.0.get(key).cloned().map(Bytes::from));
            query(asked, get).unwrap()
        }
    }

    fn ok(text: &str) -> Outcome {
        Outcome::ok(text.to_owned())
    }

    #[track_caller]
    fn rejected(outcome: Outcome) -> String {
        match outcome {
            Outcome::Rejected(sentence) => sentence,
            other => panic!("expected a rejection, found {other:?}"),
        }
    }

    #[test]
    fn results_are_exact() {
        let mut map = Map::default();
        assert_eq!(
            map.run(b"PUT pizzatoppings peporoni peppr cheddar anchoves onn it"),
            ok(r#"Success! Set "pizzatoppings" to: "peporoni peppr cheddar anchoves onn it""#)
        );
        assert_eq!(
            map.ask(b"GET pizzatoppings"),
            ok("peporoni peppr cheddar anchoves onn it")
        );
        assert_eq!(
            map.ask(b"GET pizza"),
            Outcome::not_found(r#"Key "pizza" was not found"#)
        );
        assert_eq!(
            map.run(b"DELETE pizzatoppings"),
            ok(r#"Success! Deleted "pizzatoppings""#)
        );
        let gone = Outcome::not_found(r#"Key "pizzatoppings" was not found"#);
        assert_eq!(map.run(b"DELETE pizzatoppings"), gone);
        assert_eq!(map.ask(b"get pizzatoppings"), gone);
        assert_eq!(map.run(b"put k v"), ok(r#"Success! Set "k" to: "v""#));
        assert_eq!(map.run(b"delete k"), ok(r#"Success! Deleted "k""#));
    }

    #[test]
    fn a_value_is_every_byte_after_the_space_after_the_key() {
        let mut map = Map::default();
        for value in [
            &b""[..],
            b" ",
            b"  two  ",
            b"a\nb\r\n\0",
            b"\xff\xfe",
            b"\"quoted\"",
        ] {
            let outcome = map.run(&[b"PUT k ", value].concat());
            let said = [b"Success! Set \"k\" to: \"", value, b"\""].concat();
            assert_eq!(outcome, Outcome::ok(said));
            assert_eq!(map.ask(b"GET k"), Outcome::ok(value.to_vec()));
        }
        let key = "k\u{e9}\u{1F355}".as_bytes();
        map.run(&[b"PUT ", key, b" x"].concat());
        assert_eq!(map.ask(&[b"GET ", key].concat()), ok("x"));
        let key = b"\xff\xfe";
        map.run(&[b"PUT ", &key[..], b" y"].concat());
        assert_eq!(map.ask(&[b"GET ", &key[..]].concat()), ok("y"));
    }

    #[test]
    fn what_is_not_understood_is_a_sentence_and_changes_nothing() {
        let mut map = Map::default();
        map.run(b"PUT k v");
        let before = map.clone();
        let cases: [(&[u8], &str); 17] = [
            (b"", "no verb"),
            (b" PUT k v", "no verb"),
            (b"PUSH k v", "the verb \"PUSH\" is unknown"),
            (b"PUTk v", "the verb \"PUTk\" is unknown"),
            (b"PUT\tk\tv", "the verb \"PUT\\tk\\tv\" is unknown"),
            (b"\xff\xfe k v", "the verb \"\u{fffd}\u{fffd}\" is unknown"),
            (b"\x1b[2J k", "the verb \"\\u{1b}[2J\" is unknown"),
            (b"PUT", "there is no key"),
            (b"PUT ", "there is no key"),
            (b"PUT  v", "there is no key"),
            (b"PUT k", "there is no value for \"k\""),
            (b"PUT a\tb v", "white space"),
            (b"DELETE", "there is no key"),
            (b"DELETE ", "there is no key"),
            (b"DELETE k ", "white space"),
            (b"DELETE k v", "white space"),
            (b"GET k", "send it as a query"),
        ];
        for (entry, part) in cases {
            let sentence = rejected(map.run(entry));
            assert!(sentence.contains(part), "{sentence}");
            if part.contains("unknown") || part.contains("verb") {
                for verb in ["PUT key value", "DELETE key", "GET key"] {
                    assert!(sentence.contains(verb), "{sentence}");
                }
            }
        }
        for (asked, part) in [
            (&b"PUT k v"[..], "PUT changes the state"),
            (b"delete k", "DELETE changes the state"),
            (b"", "no verb"),
            (b"LIST", "the verb \"LIST\" is unknown"),
            (b"GET", "there is no key"),
            (b"GET a b", "white space"),
        ] {
            let sentence = rejected(map.ask(asked));
            assert!(sentence.contains(part), "{sentence}");
        }
        assert_eq!(map, before);
    }

    #[test]
    fn limits_of_the_key_and_of_what_is_shown() {
        let mut map = Map::default();
        let longest = vec![b'k'; MAX_KEY_BYTES];
        assert!(matches!(
            map.run(&[b"PUT ", &longest[..], b" v"].concat()),
            Outcome::Ok(_)
        ));
        let longer = vec![b'k'; MAX_KEY_BYTES + 1];
        for entry in [
            [b"PUT ", &longer[..], b" v"].concat(),
            [b"DELETE ", &longer[..]].concat(),
        ] {
            let sentence = rejected(map.run(&entry));
            assert_eq!(sentence, "the key has 4097 bytes, and may have 4096");
        }
        let sentence = rejected(map.run(&vec![b'x'; 1 << 20]));
        assert!(sentence.len() < 300, "{} bytes", sentence.len());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_only_understood_ones_change_anything(
            entry in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                "(PUT|put|DELETE|GET|gEt|)[ \t]{0,2}[a-c\u{e9}]{0,3}[ \n]{0,2}.{0,5}"
                    .prop_map(String::into_bytes),
            ],
        ) {
            let mut map = Map::default();
            map.run(b"PUT a 1");
            let before = map.clone();
            let outcome = map.run(&entry);
            if matches!(outcome, Outcome::Rejected(_) | Outcome::NotFound(_)) {
                prop_assert_eq!(&map, &before);
            }
            let _ = map.ask(&entry);
        }

        #[test]
        fn what_was_put_is_what_is_got(key in "[^ \t\n\r\u{c}]{1,20}", value: Vec<u8>) {
            let mut map = Map::default();
            let put = [b"PUT ", key.as_bytes(), b" ", &value].concat();
            prop_assert!(matches!(map.run(&put), Outcome::Ok(_)));
            let got = map.ask(&[b"GET ", key.as_bytes()].concat());
            prop_assert_eq!(got, Outcome::Ok(value.into()));
        }
    }
}
