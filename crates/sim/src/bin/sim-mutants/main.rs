//! The check of the checks: the simulator with one rule taken out at a time. Whoever is not caught names a
//! fault that this simulator would not find.
//!
//! A program of its own, built with the feature `mutants`: what is shipped, and `sim` itself, have none of
//! this in them.

mod survivors;
mod table;
mod trial;

use clap::Parser;
use raft_core::mutants::Mutant;

/// Takes out one rule after the other, and tells whether the simulator notices.
#[derive(Parser)]
enum Verb {
    /// What can be taken out.
    List,
    /// For each mutant: how many seeds until it is caught, and by which checker.
    Table(table::Arguments),
    /// One mutant, or none: the row that it has in the table.
    Try(trial::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Verb::parse() {
        Verb::List => {
            for mutant in Mutant::ALL {
                println!(
                    "{:<8} {:<28} {}",
                    mutant.rule(),
                    mutant.name(),
                    mutant.what()
                );
            }
            Ok(())
        }
        Verb::Table(arguments) => table::print(&arguments),
        Verb::Try(arguments) => trial::run(&arguments),
    }
}
