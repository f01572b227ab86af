//! Histories, good and bad; and histories made from a real execution, compared with all orders there are.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::store::{State, execute};
use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(value: &str) -> Action {
    Action::Put(bytes(value))
}

fn cas(old: &str, new: &str) -> Action {
    let (old, new) = (bytes(old), bytes(new));
    Action::CompareAndSwap { old, new }
}

fn value(value: &str) -> Answer {
    Answer::Value(bytes(value))
}

fn at_index(
    invoked: Time,
    returned: Time,
    action: Action,
    answer: Answer,
    index: u64,
) -> Operation {
    Operation {
        client: 0,
        key: bytes("k"),
        action,
        invoked,
        outcome: Outcome::Done {
            returned,
            answer,
            index,
        },
    }
}

fn done(invoked: Time, returned: Time, action: Action, answer: Answer) -> Operation {
    at_index(invoked, returned, action, answer, 0)
}

fn without_answer(invoked: Time, action: Action, outcome: Outcome) -> Operation {
    Operation {
        outcome,
        ..done(invoked, invoked, action, Done)
    }
}

fn unknown(invoked: Time, action: Action) -> Operation {
    without_answer(invoked, action, Outcome::Unknown)
}

#[track_caller]
fn is_good(history: &[Operation]) {
    assert_eq!(check(history), Verdict::Linearizable);
    assert_eq!(plain::check(history), Vec::<String>::new());
}

#[track_caller]
fn is_bad(history: &[Operation]) -> Violation {
    match check(history) {
        Verdict::Violated(violation) => violation,
        other => panic!("{other:?}: {history:#?}"),
    }
}

use Answer::{Done, NotFound, Rejected};

#[test]
fn what_overlaps_may_have_either_order() {
    for read in ["a", "b"] {
        is_good(&[
            done(0, 1, put("a"), Done),
            done(2, 9, put("b"), Done),
            done(3, 8, Action::Get, value(read)),
        ]);
    }
    // One that ends at the moment at which the other begins is not before it.
    is_good(&[
        done(0, 5, Action::Get, value("a")),
        done(5, 9, put("a"), Done),
    ]);
}

/// A stale read in the middle of others, of a value that is written so often before.
fn stale_read(written: u64) -> Vec<Operation> {
    let older = (0..written).map(|at| done(at, at, put("a"), Done));
    let middle = [
        done(12, 13, put("b"), Done),
        done(14, 15, Action::Get, value("a")),
        unknown(14, put("c")),
        without_answer(14, put("d"), Outcome::Refused),
    ];
    let newer = (20..25).map(|at| done(at, at, Action::Get, value("b")));
    older.chain(middle).chain(newer).collect()
}

#[test]
fn a_stale_read_is_refused_and_shown_with_what_it_missed() {
    let history = stale_read(1);
    let violation = is_bad(&history);
    assert_eq!(violation.of, 10);
    assert_eq!(violation.contradiction[..3], history[..3]);
    assert_eq!(violation.contradiction.len(), 4);
    let said = plain::check(&history);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("cannot be reconciled"), "{}", said[0]);
}

#[test]
fn what_only_a_search_finds_is_shown_with_what_matters_too() {
    let history = stale_read(3);
    assert_eq!(plain::check(&history), Vec::<String>::new());
    let violation = is_bad(&history);
    assert_eq!((violation.of, violation.any_start), (12, true));
    assert_eq!(violation.contradiction, history[3..5]);
    assert_eq!(violation.others, history[5..6]);
    let shown = violation.to_string();
    assert_eq!(shown.lines().count(), 5, "{shown}");
}

#[test]
fn two_readers_do_not_see_a_write_come_and_go() {
    let history = [
        done(0, 1, put("a"), Done),
        done(2, 20, put("b"), Done),
        done(3, 4, Action::Get, value("b")),
        done(5, 6, Action::Get, value("a")),
    ];
    assert_eq!(is_bad(&history).key, bytes("k"));
}

#[test]
fn a_write_that_was_acknowledged_is_there_in_the_end() {
    let end = |answer| done(50, 51, Action::Get, answer);
    let history = |answer| {
        [
            done(0, 1, put("a"), Done),
            done(2, 3, put("b"), Done),
            end(answer),
        ]
    };
    is_good(&history(value("b")));
    is_bad(&history(value("a")));
    is_bad(&history(NotFound));
    assert_eq!(plain::check(&history(value("a"))).len(), 1);
}

#[test]
fn nobody_reads_what_nobody_wrote_or_not_yet() {
    let history = [
        done(0, 1, Action::Get, value("b")),
        done(2, 3, put("b"), Done),
    ];
    is_bad(&history);
    let said = plain::check(&history);
    assert!(said[0].contains("nobody had written"), "{said:?}");
}

#[test]
fn refused_means_never_and_unknown_means_any_time_or_never_but_once() {
    let history = |outcome: Outcome, reads: &[&str]| {
        let mut history = vec![
            done(0, 1, put("a"), Done),
            without_answer(2, put("b"), outcome),
        ];
        for (number, read) in (0..).zip(reads) {
            let at = 100 + 10 * number;
            history.push(done(at, at + 1, Action::Get, value(read)));
        }
        history
    };
    for good in [&["a"] as &[&str], &["a", "a", "b", "b"], &["b"]] {
        is_good(&history(Outcome::Unknown, good));
    }
    is_bad(&history(Outcome::Unknown, &["b", "a"]));
    is_bad(&history(Outcome::Refused, &["a", "b"]));
    let said = plain::check(&history(Outcome::Refused, &["b"]));
    assert!(said[0].contains("nobody had written"), "{said:?}");
    // Not before it was called, however unknown.
    is_bad(&[
        done(0, 1, Action::Get, value("b")),
        unknown(2, put("b")),
        done(3, 4, Action::Get, value("b")),
    ]);
}

#[test]
fn an_increment_is_done_once() {
    let history = |sum: &str| {
        [
            done(0, 1, Action::Increment(1), value("1")),
            unknown(2, Action::Increment(1)),
            unknown(2, Action::Increment(1)),
            done(3, 4, Action::Increment(1), value(sum)),
        ]
    };
    for good in ["2", "3", "4"] {
        is_good(&history(good));
    }
    is_bad(&history("5"));
    let mut lost = history("2").to_vec();
    lost.push(done(5, 6, Action::Get, value("1")));
    is_bad(&lost);
    let said = plain::check(&lost);
    assert!(said[0].contains("2 was acknowledged"), "{said:?}");
    let mut twice = history("2").to_vec();
    twice.push(done(3, 4, Action::Increment(1), value("2")));
    is_bad(&twice);
    let said = plain::check(&twice);
    assert!(said[0].contains("the same sum"), "{said:?}");
}

#[test]
fn of_two_swaps_from_the_same_value_one_fails() {
    let history = |second| {
        [
            done(0, 1, put("a"), Done),
            done(2, 9, cas("a", "b"), Done),
            done(2, 9, cas("a", "c"), second),
        ]
    };
    is_good(&history(Rejected));
    is_bad(&history(Done));
    is_bad(&history(NotFound));
}

#[test]
fn a_key_is_deleted_once_and_listed_while_it_is_there() {
    let history = |second, listed| {
        [
            done(0, 1, put("a"), Done),
            done(2, 9, Action::Delete, Done),
            done(2, 9, Action::Delete, second),
            done(10, 11, Action::Exists, listed),
        ]
    };
    is_good(&history(NotFound, NotFound));
    is_bad(&history(Done, NotFound));
    is_bad(&history(NotFound, Done));
}

#[test]
fn an_unknown_write_explains_a_rejected_swap() {
    is_good(&[
        done(0, 1, put("a"), Done),
        unknown(2, put("b")),
        done(3, 4, cas("a", "c"), Rejected),
        done(5, 6, Action::Get, value("b")),
    ]);
    is_bad(&[
        done(0, 1, put("a"), Done),
        unknown(2, put("b")),
        done(3, 4, cas("a", "c"), Rejected),
        done(5, 6, Action::Get, value("a")),
    ]);
}

#[test]
fn reads_do_not_go_back_in_the_log_even_on_other_keys() {
    let mut other = at_index(2, 3, Action::Get, NotFound, 6);
    other.key = bytes("other");
    let mut history = vec![at_index(0, 1, put("a"), Done, 7), other];
    assert_eq!(check(&history), Verdict::Linearizable);
    assert_eq!(plain::check(&history).len(), 1);
    history[1].invoked = 1;
    assert_eq!(plain::check(&history), Vec::<String>::new());
}

#[test]
fn stale_reads_are_old_and_in_order() {
    let history = [
        at_index(0, 1, put("a"), Done, 5),
        at_index(2, 3, put("b"), Done, 8),
        at_index(4, 5, put("c"), Done, 9),
        unknown(4, put("b2")),
    ];
    let stale = |reads: &[(u64, &str)]| {
        let reads: Vec<Operation> = reads
            .iter()
            .map(|(index, read)| at_index(20, 21, Action::Get, value(read), *index))
            .collect();
        plain::check_stale(&history, &reads)
    };
    let nothing = Vec::<String>::new();
    assert_eq!(stale(&[(9, "c"), (8, "b"), (5, "a"), (7, "a")]), nothing);
    for wrong in [
        vec![(8, "a")],
        vec![(6, "b"), (7, "a")],
        vec![(8, "b"), (8, "b2")],
        vec![(5, "d")],
    ] {
        assert!(!stale(&wrong).is_empty(), "{wrong:?}");
    }
}

#[test]
fn keys_do_not_depend_on_each_other() {
    let mut history = vec![done(0, 1, put("a"), Done)];
    let mut other = done(2, 3, Action::Get, NotFound);
    other.key = bytes("other");
    history.push(other.clone());
    is_good(&history);
    other.key = bytes("k");
    history.push(other);
    assert_eq!(is_bad(&history).key, bytes("k"));
}

#[test]
fn what_takes_too_long_is_undecided_and_not_fine() {
    // Writes side by side, and a read that none of them explains.
    let mut history: Vec<Operation> = (0..20)
        .map(|n| done(0, 100, put(&n.to_string()), Done))
        .collect();
    history.push(done(0, 100, Action::Get, value("other")));
    let undecided = check_within(&history, 100);
    assert_eq!(undecided, Verdict::Undecided(vec![bytes("k")]));
    assert_eq!(plain::check(&history).len(), 1);
}

/// What a made history has.
#[derive(Clone, Copy, Debug)]
struct Shape {
    operations: usize,
    /// So many operations are about at the same time.
    concurrent: u64,
    unknown: usize,
    /// Each value is written once, as a nemesis does it.
    distinct: bool,
}

/// Between the moments at which two operations are executed.
const STEP: Time = 100;

/// A history of one key from a real execution: each operation has its moment, and its call and answer
/// around it.
fn made(seed: u64, shape: Shape) -> Vec<Operation> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut state: State = None;
    let mut recent = vec![bytes("0"), bytes("1")];
    let mut history = Vec::new();
    for number in 0..shape.operations {
        let moment = STEP * (number as u64 + shape.concurrent);
        let reach = STEP * shape.concurrent / 2;
        let mut some = |distinct: bool| {
            let fresh = bytes(&format!("v{number}"));
            if distinct {
                return fresh;
            }
            recent.push(fresh);
            recent[recent.len().saturating_sub(3)..]
                .choose(&mut random)
                .unwrap()
                .clone()
        };
        let (one, other) = (some(shape.distinct), some(false));
        let current = state.clone().unwrap_or_else(|| other.clone());
        let action = match random.random_range(0..10) {
            0..3 => Action::Put(one),
            3 => Action::Delete,
            4 => Action::CompareAndSwap {
                old: current,
                new: one,
            },
            5 => Action::CompareAndSwap {
                old: other,
                new: one,
            },
            6 => Action::Increment(random.random_range(1..3)),
            7 => Action::Exists,
            _ => Action::Get,
        };
        let known = random.random_range(0..shape.operations) >= shape.unknown;
        let happens = known || random.random_bool(0.5);
        let (next, answer) = execute(&state, &action);
        if happens {
            state = next;
        }
        let invoked = moment - random.random_range(0..=reach);
        let returned = moment + random.random_range(0..=reach);
        history.push(if known {
            done(invoked, returned, action, answer)
        } else {
            let never = !happens && random.random_bool(0.3);
            let outcome = if never {
                Outcome::Refused
            } else {
                Outcome::Unknown
            };
            without_answer(invoked, action, outcome)
        });
    }
    history
}

/// Whether there is an order, by trying all of them.
fn by_all_orders(history: &[Operation], state: &State, placed: &mut Vec<bool>) -> bool {
    let missing =
        |placed: &[bool]| -> Vec<usize> { (0..history.len()).filter(|n| !placed[*n]).collect() };
    let left = missing(placed);
    if left.iter().all(|n| history[*n].answer().is_none()) {
        return true;
    }
    left.iter().any(|number| {
        let operation = &history[*number];
        let late = left.iter().any(|n| history[*n].precedes(operation));
        if late || operation.outcome == Outcome::Refused {
            return false;
        }
        let (next, answer) = execute(state, &operation.action);
        if operation.answer().is_some_and(|given| *given != answer) {
            return false;
        }
        placed[*number] = true;
        let found = by_all_orders(history, &next, placed);
        placed[*number] = false;
        found
    })
}

/// Changes one answer.
fn falsify(history: &mut [Operation], seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let number = random.random_range(0..history.len());
    if let Outcome::Done { answer, .. } = &mut history[number].outcome {
        let answers = [
            Done,
            NotFound,
            Rejected,
            value("0"),
            value("1"),
            value("v2"),
        ];
        *answer = answers.choose(&mut random).unwrap().clone();
    }
}

/// What overlaps with a part of the contradiction may have happened within it, and is not left out.
#[test]
fn what_is_told_of_a_contradiction_is_one() {
    for (seed, concurrent) in [(5397073483580630340, 6), (6167132800665251107, 6)] {
        let shape = Shape {
            operations: 300,
            concurrent,
            unknown: 12,
            distinct: true,
        };
        an_impossible_answer_is_found(seed, shape);
    }
}

/// One answer among those of a real store is falsified, and what is told names it.
fn an_impossible_answer_is_found(seed: u64, shape: Shape) {
    let mut history = made(seed, shape);
    let reads: Vec<usize> = (0..history.len())
        .filter(|n| history[*n].action == Action::Get && history[*n].answer().is_some())
        .collect();
    let number = reads[reads.len() / 2];
    if let Outcome::Done { answer, .. } = &mut history[number].outcome {
        *answer = value("what nobody wrote");
    }
    let Verdict::Violated(violation) = check(&history) else {
        panic!("not found");
    };
    let told = violation.contradiction.contains(&history[number]);
    assert!(told, "{violation}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_really_executed_is_accepted(seed: u64, concurrent in 1u64..40, distinct: bool) {
        let shape = Shape { operations: 300, concurrent, unknown: 12, distinct };
        let history = made(seed, shape);
        prop_assert_eq!(check(&history), Verdict::Linearizable);
        prop_assert_eq!(plain::check(&history), Vec::<String>::new());
    }

    #[test]
    fn a_small_history_is_judged_as_by_all_orders(
        seed: u64, operations in 2usize..8, concurrent in 1u64..8, unknown in 0usize..4, distinct: bool, falsified: bool
    ) {
        let mut history = made(seed, Shape { operations, concurrent, unknown, distinct });
        if falsified {
            falsify(&mut history, seed);
        }
        let expected = by_all_orders(&history, &None, &mut vec![false; operations]);
        let verdict = check(&history);
        prop_assert_eq!(verdict == Verdict::Linearizable, expected, "{:#?}", history);
        if expected {
            // They are only necessary.
            prop_assert_eq!(plain::check(&history), Vec::<String>::new());
        }
        if let Verdict::Violated(violation) = verdict {
            prop_assert!(!violation.contradiction.is_empty());
        }
    }

    #[test]
    fn one_impossible_answer_among_many_is_found(seed: u64, concurrent in 1u64..20) {
        let shape = Shape { operations: 300, concurrent, unknown: 12, distinct: true };
        an_impossible_answer_is_found(seed, shape);
    }
}

/// Prints how long it takes: `cargo test --release -p sim sizes -- --nocapture`.
#[test]
fn sizes_that_a_nemesis_makes_are_decided() {
    for (operations, concurrent, unknown) in [
        (5000, 4, 50),
        (5000, 16, 50),
        (5000, 40, 20),
        (20_000, 8, 200),
    ] {
        let shape = Shape {
            operations,
            concurrent,
            unknown,
            distinct: true,
        };
        let begun = Instant::now();
        let mut history = made(1, shape);
        assert_eq!(check(&history), Verdict::Linearizable, "{shape:?}");
        let good = begun.elapsed();
        read_late(&mut history, 3 * STEP * concurrent);
        let verdict = check(&history);
        let bad = begun.elapsed() - good;
        println!("{shape:?}: good {good:?}, bad {bad:?}");
        let Verdict::Violated(violation) = verdict else {
            panic!("{shape:?}: {verdict:?}");
        };
        println!("{violation}");
    }
}

/// Near the end, a read returns what was overwritten so long before.
fn read_late(history: &mut [Operation], before: Time) {
    let read = |operation: &&mut Operation| {
        operation.action == Action::Get && operation.answer().is_some()
    };
    let values: Vec<(Time, Bytes)> = history
        .iter()
        .filter_map(|one| Some((one.returned()?, one.action.sets()?.clone(), one.answer()?)))
        .filter(|(.., answer)| **answer == Done)
        .map(|(at, value, _)| (at, value))
        .collect();
    let last = history.iter_mut().rev().find(read).unwrap();
    let old = values
        .iter()
        .rev()
        .find(|(at, _)| at + before < last.invoked);
    let old = old.unwrap().1.clone();
    if let Outcome::Done { answer, .. } = &mut last.outcome {
        *answer = Answer::Value(old);
    }
}
