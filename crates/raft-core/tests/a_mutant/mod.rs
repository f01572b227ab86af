//! The check of the checks: `LEEKY_MUTANT=NAME cargo test --features mutants -- --test-threads 1` runs the
//! tests with one rule taken out, to see which of them notice. The one test here comes first, by its name.

use raft_core::mutants::{Mutant, choose};

/// No test: it chooses the mutant for those that follow.
#[test]
fn is_chosen_by_the_environment() {
    if let Ok(name) = std::env::var("LEEKY_MUTANT") {
        let mutant = Mutant::parse(&name);
        assert!(mutant.is_some(), "no mutant is called {name}");
        choose(mutant);
    }
}
