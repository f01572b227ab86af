//! The core in every schedule of small clusters: no property is broken, and what was to be reached is.
//! `cargo run --release -p sim -- explore` goes further.
#![allow(clippy::unwrap_used)]

use sim::explore::{Bounds, MAX_IN_FLIGHT, Report, explore};

/// Where a space is larger than this, only what lies nearest is looked at here.
const STATES: usize = 300_000;

fn sound(bounds: Bounds, reached: &[&str]) -> Report {
    let report = explore(&bounds);
    println!("{report}");
    assert_eq!(report.violation, None);
    assert_eq!(report.overflowed, 0);
    for what in reached {
        assert!(report.reached.contains_key(what), "never reached: {what}");
    }
    report
}

#[test]
fn leaders_that_follow_each_other() {
    let bounds = Bounds::figure_8().with_states(1_000_000);
    let report = sound(bounds, &["elections won", "commits", "truncations"]);
    assert!(report.states >= 1_000_000);
}

#[test]
fn elections_with_slow_disks_and_a_crash() {
    let report = sound(Bounds::elections(), &["elections won", "commits"]);
    assert!(report.exhausted);
}

#[test]
fn messages_that_are_late_and_double() {
    let report = sound(Bounds::delays(), &["elections won", "commits"]);
    assert!(report.exhausted);
}

#[test]
fn entries_and_crashes_in_the_middle_of_a_write() {
    let bounds = Bounds::replication().with_states(STATES);
    sound(bounds, &["elections won", "commits", "truncations"]);
}

#[test]
fn three_voters_become_one() {
    let reached = [
        "joint ones committed",
        "configurations committed",
        "nodes retired",
        "truncations",
    ];
    assert!(sound(Bounds::shrinking(), &reached).exhausted);
}

#[test]
fn one_voter_becomes_three() {
    let bounds = Bounds::growing().with_states(STATES);
    sound(
        bounds,
        &["joint ones committed", "configurations committed"],
    );
}

#[test]
fn a_read_beside_changing_leaders() {
    let bounds = Bounds::reading().with_states(STATES);
    sound(bounds, &["reads answered or lost", "elections won"]);
}

#[test]
fn a_leader_that_hands_over() {
    assert!(sound(Bounds::handing_over(), &["elections won", "commits"]).exhausted);
}

#[test]
fn the_same_bounds_find_the_same() {
    let bounds = Bounds::growing().with_states(20_000);
    let (one, other) = (explore(&bounds), explore(&bounds));
    let found = |report: &Report| {
        let Report {
            states,
            node_states,
            transitions,
            depth,
            ..
        } = *report;
        let counts = (report.actions.clone(), report.reached.clone());
        (states, node_states, transitions, depth, counts)
    };
    assert_eq!(found(&one), found(&other));
}

#[test]
fn a_bound_is_changed_by_its_name() {
    let bounds = Bounds::figure_8().with("campaigns", "2").unwrap();
    assert_eq!(bounds.campaigns, 2);
    let fewer = explore(&bounds).states;
    assert!(fewer < 100_000, "{fewer} states with two campaigns");
    for (name, value) in [
        ("campaigns", "many"),
        ("campaigns", "256"),
        ("nodes", "0"),
        ("nodes", "9"),
        ("colour", "1"),
        ("in-flight", &(MAX_IN_FLIGHT + 1).to_string()),
    ] {
        assert!(
            Bounds::figure_8().with(name, value).is_err(),
            "{name}={value}"
        );
    }
}
