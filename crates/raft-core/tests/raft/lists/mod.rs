//! Which rule, and which test of another implementation, became which test of ours.
//!
//! | list | what it is |
//! |---|---|
//! | [`paper`] | the Raft paper and the dissertation, rule by rule |
//! | [`rules`] | the project's safety rules |
//! | [`etcd`] | etcd's raft: after the paper, of the implementation, interaction files |
//! | [`course`] | the labs of MIT's course 6.5840 |
//! | [`hashicorp`] | hashicorp/raft, and its fuzzers |
//! | [`cometbft`] | replay beside a state machine of another process |
//! | [`scenarios`] | 35 things that went wrong elsewhere |
//!
//! Nothing is copied: each story is told anew, against this core, by what it is about. One test here may
//! answer several names there, where they differ in what cannot differ here: a mode that is always on, a
//! step that is always taken. What does not apply has its reason. The tests stand anywhere in the
//! workspace: what is the disk's, the daemon's or the state machine's business is tested there.
//!
//! The lists are checked, so that they say what is there: every name has a test or a reason, every test that
//! is named exists, and no test among the [`peers`](crate::peers)' is forgotten here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

mod cometbft;
mod course;
mod etcd;
mod hashicorp;
mod paper;
mod rules;
mod scenarios;

const NOT_HERE: &str = "does not apply: ";

/// Every list with the number of its names: none gets lost by itself.
const LISTS: [(&str, usize, &str); 7] = [
    ("paper", 50, include_str!("paper.rs")),
    ("rules", 38, include_str!("rules.rs")),
    ("etcd", 26 + 118 + 3 + 5 + 41, include_str!("etcd.rs")),
    ("course", 28, include_str!("course.rs")),
    ("hashicorp", 78 + 9, include_str!("hashicorp.rs")),
    ("cometbft", 6, include_str!("cometbft.rs")),
    ("scenarios", 35, include_str!("scenarios.rs")),
];

/// The rows of a list: a name, and what is said of it.
fn rows(text: &str) -> Vec<(&str, &str)> {
    let rows = text.lines().filter_map(|line| {
        let cells = line.strip_prefix("//! | ")?.strip_suffix(" |")?;
        cells.split_once(" | ").filter(|(_, ours)| *ours != "here")
    });
    rows.collect()
}

/// What stands between backticks.
fn tests_in(said: &str) -> impl Iterator<Item = &str> {
    said.split('`').skip(1).step_by(2)
}

/// The names of all tests below this directory.
fn tests_below(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                let mut words = line.split("fn ");
                if let (true, true, Some(rest)) = (is_test, words.next().is_some(), words.next()) {
                    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                    names.insert(rest[..end.unwrap_or(rest.len())].to_owned());
                    is_test = false;
                }
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            }
        }
    }
}

fn all_tests(below: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests_below(&here.join(below), &mut names);
    names
}

#[test]
fn every_name_in_a_list_has_a_test_or_a_reason() {
    for (list, count, text) in LISTS {
        let rows = rows(text);
        assert_eq!(rows.len(), count, "names in {list}");
        let mut seen = BTreeMap::new();
        for (name, said) in rows {
            *seen.entry(name).or_insert(0) += 1;
            let reason = said.strip_prefix(NOT_HERE).is_some_and(|r| r.len() > 10);
            assert!(
                reason || said.starts_with('`') && tests_in(said).next().is_some(),
                "{list}: {name} has neither a test nor a reason"
            );
        }
        assert!(seen.values().all(|n| *n == 1), "{list} names one twice");
    }
}

#[test]
fn every_test_that_a_list_names_exists() {
    let all = all_tests("..");
    assert!(all.len() > 500, "{} tests were found", all.len());
    for (list, _, text) in LISTS {
        for (name, said) in rows(text) {
            for test in tests_in(said) {
                assert!(all.contains(test), "{list}: {name}: there is no {test}");
            }
        }
    }
}

#[test]
fn every_test_among_the_peers_is_in_a_list() {
    let lists = LISTS.iter().flat_map(|(_, _, text)| rows(text));
    let named: BTreeSet<&str> = lists.flat_map(|(_, said)| tests_in(said)).collect();
    for directory in ["tests/raft/peers", "tests/raft/rules", "tests/raft/paper"] {
        for test in all_tests(directory) {
            assert!(named.contains(test.as_str()), "{test} is in no list");
        }
    }
}
