//! Tables of what is understood, what is not, and what is said about it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Map(BTreeMap<Vec<u8>, Vec<u8>>);

impl Store for Map {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Ok(self.0.get(key).cloned().map(Bytes::from))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        self.0.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, Infallible> {
        Ok(self.0.remove(key).is_some())
    }
}

impl View for Map {
    type Error = Infallible;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
        Store::get(self, key)
    }

    fn keys(
        &self,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), Infallible> {
        let mut keys = self.0.range::<[u8], _>((from, Bound::Unbounded));
        keys.all(|(key, _)| visit(key));
        Ok(())
    }
}

impl Map {
    fn run(&mut self, entry: &[u8]) -> Outcome {
        execute(self, entry).unwrap()
    }

    fn ask(&self, asked: &[u8]) -> Outcome {
        query(self, asked).unwrap()
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
        ok("Success!")
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
    assert_eq!(map.run(b"put k v"), ok("Success!"));
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
        assert_eq!(outcome, ok("Success!"));
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
            for verb in [
                "PUT key value",
                "DELETE key",
                "CAS key old new",
                "INCR key [n]",
                "GET key",
                "LIST [prefix]",
                "WATCH [prefix]",
            ] {
                assert!(sentence.contains(verb), "{sentence}");
            }
        }
    }
    for (asked, part) in [
        (&b"PUT k v"[..], "PUT changes the state"),
        (b"delete k", "DELETE changes the state"),
        (b"", "no verb"),
        (b"SCAN", "the verb \"SCAN\" is unknown"),
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
            "(CAS|INCR|LIST)( a| after|) {0,2}[1\"\\\\nuD8-]{0,8} {0,2}.{0,5}"
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

/// Each entry on a store in which `k` is `old` and `n` is `7`, and what it comes to.
#[test]
fn cas_sets_a_key_only_from_the_value_that_it_names() {
    let set = |value: &str| ok(&format!("Success! Set \"k\" to: \"{value}\""));
    let holds = |rest: &str| {
        Outcome::rejected(format!(
            "Key \"k\" holds \"old\", and not {rest}: nothing was changed"
        ))
    };
    let missing = Outcome::not_found("Key \"m\" was not found");
    let cases: [(&str, Outcome, &str); 16] = [
        ("CAS k old new", set("new"), "new"),
        ("cas k old new", set("new"), "new"),
        (r#"CAS k "old" new"#, set("new"), "new"),
        (r#"CAS k old "two words""#, set("two words"), "two words"),
        (r#"CAS k old """#, set(""), ""),
        (
            r#"CAS k old "\"\\\/\b\f\n\r\t""#,
            set("\"\\/\u{8}\u{c}\n\r\t"),
            "\"\\/\u{8}\u{c}\n\r\t",
        ),
        (
            r#"CAS k old "\u00e9\u00E9\ud83c\uDF55""#,
            set("\u{e9}\u{e9}\u{1F355}"),
            "\u{e9}\u{e9}\u{1F355}",
        ),
        (r#"CAS k "\u006fld" a"b"#, set("a\"b"), "a\"b"),
        ("CAS k old old", set("old"), "old"),
        ("CAS k Old new", holds("\"Old\""), "old"),
        ("CAS k ol new", holds("\"ol\""), "old"),
        (r#"CAS k "" new"#, holds("\"\""), "old"),
        (r#"CAS k "old " new"#, holds("\"old \""), "old"),
        ("CAS m old new", missing.clone(), "old"),
        (r#"CAS m "" new"#, missing, "old"),
        ("CAS k new old", holds("\"new\""), "old"),
    ];
    for (entry, outcome, after) in cases {
        let mut map = Map::default();
        map.run(b"PUT k old");
        assert_eq!(map.run(entry.as_bytes()), outcome, "{entry}");
        assert_eq!(map.ask(b"GET k"), ok(after), "{entry}");
        assert_eq!(map.0.len(), 1, "{entry}");
    }
    // Bytes that are no UTF-8, bare and quoted, and in the sentence.
    let mut map = Map::default();
    map.run(b"PUT k \xff \xfe");
    assert!(matches!(
        map.run(b"CAS k \"\xff \xfe\" \xfd"),
        Outcome::Ok(_)
    ));
    assert_eq!(map.ask(b"GET k"), Outcome::ok(&b"\xfd"[..]));
    let sentence = rejected(map.run(b"CAS k \xfe x"));
    assert!(
        sentence.contains("holds \"\u{fffd}\", and not \"\u{fffd}\""),
        "{sentence}"
    );
    // However long the two are, the sentence is not, and tells them apart.
    let long = "x".repeat(1 << 20);
    map.run(format!("PUT k {long}").as_bytes());
    let sentence = rejected(map.run(format!("CAS k {long}x new").as_bytes()));
    assert!(sentence.contains("(1048576 bytes), and not"), "{sentence}");
    assert!(sentence.contains("(1048577 bytes): nothing"), "{sentence}");
    assert!(sentence.len() < 300, "{sentence}");
}

#[test]
fn incr_counts_in_64_bits_and_no_further() {
    let (least, most) = (i64::MIN.to_string(), i64::MAX.to_string());
    let (least, most) = (least.as_str(), most.as_str());
    let (down, up) = (format!("INCR n {least}"), format!("INCR n {most}"));
    // What is in the key before, the entry, and the sum.
    let cases: [(Option<&str>, &str, &str); 14] = [
        (None, "INCR n", "1"),
        (None, "incr n", "1"),
        (None, "INCR n 0", "0"),
        (None, "INCR n -5", "-5"),
        (Some("7"), "INCR n", "8"),
        (Some("7"), "INCR n 5", "12"),
        (Some("7"), "INCR n +5", "12"),
        (Some("7"), "INCR n 005", "12"),
        (Some("+7"), "INCR n -7", "0"),
        (Some("-7"), "INCR n 14", "7"),
        (Some("-1"), &down, ""),
        (Some("0"), &down, least),
        (Some(most), "INCR n 0", most),
        (Some(least), &up, "-1"),
    ];
    for (before, entry, sum) in cases {
        let mut map = Map::default();
        if let Some(before) = before {
            map.run(format!("PUT n {before}").as_bytes());
        }
        let outcome = map.run(entry.as_bytes());
        if sum.is_empty() {
            let sentence = rejected(outcome);
            assert!(sentence.contains("would not be between"), "{sentence}");
            assert_eq!(map.ask(b"GET n"), ok(before.unwrap()));
        } else {
            assert_eq!(outcome, ok(sum), "{entry} on {before:?}");
            assert_eq!(map.ask(b"GET n"), ok(sum));
        }
    }
    let mut map = Map::default();
    map.run(format!("PUT n {most}").as_bytes());
    let sentence = rejected(map.run(b"INCR n"));
    assert!(
        sentence.starts_with(&format!("Key \"n\" holds {most}, and with 1 added")),
        "{sentence}"
    );
    for value in [
        "",
        " 7",
        "7 ",
        "7.0",
        "0x7",
        "seven",
        "9223372036854775808",
        &"9".repeat(1000),
    ] {
        map.run(format!("PUT n {value}").as_bytes());
        let before = map.clone();
        let sentence = rejected(map.run(b"INCR n"));
        assert!(
            sentence.contains("which is no whole number from"),
            "{sentence}"
        );
        assert!(sentence.len() < 300, "{sentence}");
        assert_eq!(map, before);
    }
}

#[test]
fn what_the_new_verbs_do_not_understand_teaches_them() {
    let mut map = Map::default();
    map.run(b"PUT k old");
    let before = map.clone();
    let cases: [(&str, &str); 29] = [
        ("CAS", "there is no key: write CAS key old new"),
        ("CAS  old new", "there is no key: write CAS key old new"),
        ("CAS k", "a value is missing"),
        ("CAS k ", "a value is missing"),
        ("CAS k old", "the second of the two values is missing"),
        ("CAS k old ", "a value is missing"),
        ("CAS k  old new", "a value is missing"),
        ("CAS k old  new", "a value is missing"),
        (
            "CAS k old new more",
            "something after the two values, \"more\"",
        ),
        ("CAS k old new ", "something after the two values, \"\""),
        ("CAS k old\tnew x", "white space"),
        ("CAS a\tk old new", "white space"),
        ("CAS k \"old new", "no closing quote"),
        (
            "CAS k \"old\"new",
            "between the closing quote and the next space, \"new\"",
        ),
        (
            "CAS k old \"new\"s",
            "between the closing quote and the next space, \"s\"",
        ),
        ("CAS k old \"a\nb\"", "control character"),
        ("CAS k old \"\\", "backslash"),
        ("CAS k old \"\\x\"", "backslash"),
        ("CAS k old \"\\u12\"", "four hexadecimal digits"),
        ("CAS k old \"\\u+123\"", "four hexadecimal digits"),
        ("CAS k old \"\\ud83c\"", "four hexadecimal digits"),
        ("CAS k old \"\\ud83c\\u0041\"", "four hexadecimal digits"),
        ("CAS k old \"\\udf55\"", "four hexadecimal digits"),
        ("INCR", "there is no key: write INCR key [n]"),
        ("INCR n ", "\"\" is no whole number"),
        ("INCR n 1 2", "\"1 2\" is no whole number"),
        (
            "INCR n 9223372036854775808",
            "\"9223372036854775808\" is no whole number",
        ),
        ("INCR a\tn", "white space"),
        ("LIST", "LIST reads and changes nothing, so it is a query"),
    ];
    for (entry, part) in cases {
        let sentence = rejected(map.run(entry.as_bytes()));
        assert!(sentence.contains(part), "{entry:?}: {sentence}");
        if entry.starts_with("CAS k") {
            let help = "write CAS key old new, each of the two values one word";
            assert!(sentence.contains(help), "{sentence}");
        }
        assert_eq!(map, before, "{entry:?}");
    }
    for verb in ["CAS k old new", "incr n"] {
        let sentence = rejected(map.ask(verb.as_bytes()));
        assert!(
            sentence.contains("it is an entry and no query"),
            "{sentence}"
        );
    }
}

#[test]
fn list_gives_the_keys_that_begin_so_in_order() {
    let mut map = Map::default();
    assert_eq!(map.ask(b"LIST"), ok(""));
    for key in [
        "b", "user:2", "user:10", "user:1", "after", "afters", "\u{e9}", "use",
    ] {
        map.run(format!("PUT {key} a value").as_bytes());
    }
    let cases = [
        (
            "LIST",
            "after\nafters\nb\nuse\nuser:1\nuser:10\nuser:2\n\u{e9}",
        ),
        (
            "LIST ",
            "after\nafters\nb\nuse\nuser:1\nuser:10\nuser:2\n\u{e9}",
        ),
        ("list user:", "user:1\nuser:10\nuser:2"),
        ("LIST user:1", "user:1\nuser:10"),
        ("LIST user:3", ""),
        ("LIST \u{e9}", "\u{e9}"),
        ("LIST after", "after\nafters"),
        ("LIST after use", "user:1\nuser:10\nuser:2\n\u{e9}"),
        (
            "LIST after after",
            "afters\nb\nuse\nuser:1\nuser:10\nuser:2\n\u{e9}",
        ),
        ("LIST after after after", "afters"),
        ("LIST user: after user:10", "user:2"),
        ("LIST user: AFTER user:1", "user:10\nuser:2"),
        ("LIST user: after a", "user:1\nuser:10\nuser:2"),
        ("LIST user: after z", ""),
        ("LIST user: after user:2", ""),
    ];
    for (asked, keys) in cases {
        assert_eq!(map.ask(asked.as_bytes()), ok(keys), "{asked}");
    }
    let wrong = [
        "LIST user: b",
        "LIST user: after",
        "LIST user: after ",
        "LIST  after",
        "LIST after b c",
        "LIST user: after b c",
        "LIST a\tb",
        &format!("LIST {}", "k".repeat(MAX_KEY_BYTES + 1)),
    ];
    for asked in wrong {
        let sentence = rejected(map.ask(asked.as_bytes()));
        assert!(
            sentence.contains("LIST prefix after key"),
            "{asked}: {sentence}"
        );
    }
}

/// Follows the last line for as long as there is one, as a client does.
fn listed(map: &Map, mut asked: String) -> (Vec<String>, usize) {
    let (mut keys, mut answers) = (Vec::new(), 0);
    loop {
        let Outcome::Ok(answer) = map.ask(asked.as_bytes()) else {
            panic!("{asked} is not understood");
        };
        answers += 1;
        assert!(answer.len() <= MAX_LIST_BYTES + 3 * MAX_KEY_BYTES);
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        let mut lines = answer.lines().map(str::to_owned).collect::<Vec<_>>();
        let more = lines.pop_if(|last| last.contains(' '));
        assert!(lines.len() <= MAX_LIST_KEYS);
        keys.extend(lines);
        match more {
            Some(more) => asked = more.strip_prefix("-- more: ").unwrap().to_owned(),
            None => return (keys, answers),
        }
    }
}

#[test]
fn a_long_list_comes_in_parts_and_each_says_how_to_go_on() {
    // As many keys as one answer has, and one more; and keys so long that bytes are the limit.
    for (count, length, prefix, answers) in [
        (MAX_LIST_KEYS, 8, "", 1),
        (MAX_LIST_KEYS + 1, 8, "", 2),
        (2 * MAX_LIST_KEYS + 5, 8, "k", 3),
        (600, 4000, "k", 3),
    ] {
        let mut map = Map::default();
        let key = |number: usize| format!("k{number:0width$}", width = length - 1);
        for number in 0..count {
            map.0.insert(key(number).into_bytes(), Vec::new());
        }
        map.0.insert(b"z".to_vec(), Vec::new());
        let mut expected = (0..count).map(key).collect::<Vec<_>>();
        let mut answers = answers;
        if prefix.is_empty() {
            expected.push("z".to_owned());
            answers = if count == MAX_LIST_KEYS { 2 } else { answers };
        }
        let (keys, asked) = listed(&map, format!("LIST {prefix}"));
        assert!(
            keys == expected,
            "{} of {} keys",
            keys.len(),
            expected.len()
        );
        assert_eq!(asked, answers, "for {count} keys of {length} bytes");
    }
}

#[test]
fn an_event_is_the_entry_that_would_do_it_and_its_topic_is_the_key() {
    let put = put_event(b"k", b"two  words\n");
    assert_eq!(
        (&put.topic[..], &put.data[..]),
        (&b"k"[..], &b"PUT k two  words\n"[..])
    );
    let mut map = Map::default();
    assert!(matches!(map.run(&put.data), Outcome::Ok(_)));
    assert_eq!(map.ask(b"GET k"), ok("two  words\n"));
    let empty = put_event(b"e", b"");
    assert!(
        matches!(map.run(&empty.data), Outcome::Ok(_)),
        "a value may be empty"
    );
    let delete = delete_event(b"k");
    assert_eq!(
        (&delete.topic[..], &delete.data[..]),
        (&b"k"[..], &b"DELETE k"[..])
    );
    assert_eq!(map.run(&delete.data), ok("Success! Deleted \"k\""));
}

#[test]
fn a_watch_wants_the_keys_that_begin_so() {
    let wants = |query: &str, key: &str| {
        let filter = watch(query.as_bytes()).unwrap();
        (
            filter(&put_event(key.as_bytes(), b"x")),
            filter(&delete_event(key.as_bytes())),
        )
    };
    for (query, key, wanted) in [
        ("WATCH", "any", true),
        ("WATCH ", "any", true),
        ("watch piz", "pizza", true),
        ("WATCH pizza", "pizza", true),
        ("WATCH pizza", "pizz", false),
        ("WATCH pizza", "a-pizza", false),
        // The verb of the event is none of its key.
        ("WATCH PUT", "k", false),
    ] {
        assert_eq!(wants(query, key), (wanted, wanted), "{query:?} {key:?}");
    }
    let long = format!("WATCH {}", "k".repeat(MAX_KEY_BYTES + 1));
    for wrong in [
        "",
        "GET k",
        "LIST",
        "WATCHES",
        "WATCH a b",
        "WATCH  a",
        "WATCH a\tb",
        &long,
    ] {
        let sentence = watch(wrong.as_bytes()).err().unwrap_or_default();
        assert!(
            sentence.contains("write WATCH, or WATCH prefix"),
            "{wrong:?}: {sentence:?}"
        );
    }
    // And it is neither an entry nor a query.
    assert!(rejected(Map::default().run(b"WATCH k")).contains("a watch and no entry"));
    assert!(rejected(Map::default().ask(b"WATCH k")).contains("a watch and no query"));
}
