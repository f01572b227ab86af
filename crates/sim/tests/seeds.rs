//! A few seeds, whole: they hold, and each goes the same way every time.
#![allow(clippy::unwrap_used)]

use sim::{Coverage, Settings};

fn traced(seed: u64) -> (Coverage, Vec<String>) {
    let settings = Settings {
        trace: true,
        ..Settings::default()
    };
    match sim::run_traced(seed, &settings) {
        Ok(run) => run,
        Err(failure) => panic!("{failure}"),
    }
}

/// What a run is told is the same to the letter, on whatever thread it runs and beside whatever else.
#[test]
fn the_same_seed_is_the_same_run() {
    let seeds = [3, 11, 12];
    let first: Vec<_> = seeds.iter().map(|seed| traced(*seed)).collect();
    let again = seeds.map(|seed| std::thread::spawn(move || traced(seed)));
    for (first, again) in first.iter().zip(again) {
        let again = again.join().unwrap();
        assert!(first.1.len() > 500, "the trace has {} lines", first.1.len());
        assert_eq!(first.1, again.1);
        assert_eq!(first.0, again.0);
    }
    assert_ne!(first[0].0.hash, first[1].0.hash);
}

/// Nobody looks: the run is the same.
#[test]
fn a_trace_changes_nothing() {
    let quiet = sim::run(7, &Settings::default()).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(quiet, traced(7).0);
}

/// What each seed promises.
#[test]
fn a_run_is_long_busy_and_faulty_enough() {
    for seed in 20..26 {
        let coverage =
            sim::run(seed, &Settings::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(
            coverage.simulated >= 60_000_000,
            "seed {seed}: {coverage:?}"
        );
        assert!(
            coverage.operations >= 200 && coverage.fault_count() >= 10,
            "{coverage:?}"
        );
        assert!(
            coverage.answered * 10 > coverage.operations * 8,
            "{coverage:?}"
        );
    }
}
