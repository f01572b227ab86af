//! The simulator's command line.

use clap::{Parser, Subcommand};

mod verbs;

/// One seed decides everything.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Takes a small cluster of cores through every schedule.
    Explore(verbs::explore::Arguments),
    /// Runs one seed.
    Run(verbs::run::Arguments),
    /// Runs many seeds, and tells what they went through.
    Pool(verbs::pool::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().verb {
        Verb::Explore(arguments) => verbs::explore::run(&arguments),
        Verb::Run(arguments) => verbs::run::run(&arguments),
        Verb::Pool(arguments) => verbs::pool::run(&arguments),
    }
}
