//! One mutant in a process of its own: it may hang or eat all memory, and others are tried beside it.

use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, anyhow};
use raft_core::mutants::{Mutant, choose};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sim::Settings;

/// A seed that takes longer hangs: a healthy one takes a fraction of a second.
const SEED_PATIENCE: Duration = Duration::from_secs(20);

/// Memory of one trial, in bytes. A mutant that needs more will not come to an end.
const MAX_MEMORY: u64 = 3 << 30;

/// Instead of a mutant: all rules are in force.
pub const HEALTHY: &str = "none";

/// Which mutant, and how far.
#[derive(clap::Args)]
pub struct Arguments {
    /// Its name, or `none`.
    mutant: String,
    /// Seeds to try.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
}

/// What came of a trial. Its text is one line, so that another process can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A checker noticed.
    Caught {
        /// The seed.
        seed: u64,
        /// The checker.
        checker: String,
        /// What it said.
        sentence: String,
    },
    /// So many seeds, and nobody noticed.
    Survived {
        /// Seeds that were tried.
        seeds: u64,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Caught {
                seed,
                checker,
                sentence,
            } => {
                let sentence = sentence.replace(['\n', '\t'], " ");
                write!(f, "caught\t{seed}\t{checker}\t{sentence}")
            }
            Verdict::Survived { seeds } => write!(f, "survived\t{seeds}"),
        }
    }
}

impl Verdict {
    /// Reads the line that [`Verdict`] was written as.
    pub fn parse(line: &str) -> Option<Verdict> {
        let fields: Vec<&str> = line.trim_end().split('\t').collect();
        Some(match fields[..] {
            ["caught", seed, checker, sentence] => Verdict::Caught {
                seed: seed.parse().ok()?,
                checker: checker.to_owned(),
                sentence: sentence.to_owned(),
            },
            ["survived", seeds] => Verdict::Survived {
                seeds: seeds.parse().ok()?,
            },
            _ => return None,
        })
    }
}

/// Tries seeds in order until one is caught, and prints the verdict.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mutant = match arguments.mutant.as_str() {
        HEALTHY => None,
        name => Some(Mutant::parse(name).with_context(|| format!("no mutant is called {name}"))?),
    };
    choose(mutant);
    let limit = Rlimit {
        current: Some(MAX_MEMORY),
        ..getrlimit(Resource::As)
    };
    setrlimit(Resource::As, limit)?;
    let seeds = arguments.from..arguments.from + arguments.seeds;
    println!("{}", verdict(seeds)?);
    Ok(())
}

/// The worker is left behind when it hangs; it ends with the process.
fn verdict(seeds: std::ops::Range<u64>) -> anyhow::Result<Verdict> {
    let (tell, told) = channel();
    let count = seeds.end - seeds.start;
    let first = seeds.start;
    let worker = std::thread::Builder::new().name("seeds".to_owned());
    worker.spawn(move || {
        for seed in seeds {
            if tell.send(sim::run(seed, &Settings::default())).is_err() {
                return;
            }
        }
    })?;
    for seed in first..first + count {
        match told.recv_timeout(SEED_PATIENCE) {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => {
                return Ok(Verdict::Caught {
                    seed,
                    checker: failure.checker.to_owned(),
                    sentence: failure.sentence.clone(),
                });
            }
            Err(RecvTimeoutError::Timeout) => {
                return Ok(Verdict::Caught {
                    seed,
                    checker: "hang".to_owned(),
                    sentence: format!("no end after {} s", SEED_PATIENCE.as_secs()),
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(anyhow!("the thread that ran seed {seed} died"));
            }
        }
    }
    Ok(Verdict::Survived { seeds: count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_survives_its_line() {
        let caught = Verdict::Caught {
            seed: 7,
            checker: "one leader".to_owned(),
            sentence: "two leaders in term 3".to_owned(),
        };
        for verdict in [caught, Verdict::Survived { seeds: 9 }] {
            assert_eq!(Verdict::parse(&verdict.to_string()), Some(verdict));
        }
        assert_eq!(Verdict::parse("caught\t7"), None);
        assert_eq!(Verdict::parse(""), None);
    }
}
