//! `sim run SEED`: the same run again.

use anyhow::bail;
use clap::Args;
use sim::Settings;

/// Lines of a trace that a failure shows.
const SHOWN: usize = 120;

/// See the module.
#[derive(Args)]
pub struct Arguments {
    /// The seed.
    seed: u64,
    /// Prints everything that happened.
    #[arg(long)]
    trace: bool,
    /// Simulated seconds with faults.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs the seed.
///
/// # Errors
/// It fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = Settings {
        trace: true,
        seconds: arguments.seconds,
        ..Settings::default()
    };
    match sim::run(arguments.seed, &settings) {
        Ok(coverage) => {
            println!("seed {} holds: {coverage:#?}", arguments.seed);
            Ok(())
        }
        Err(failure) => {
            let skipped = match arguments.trace {
                true => 0,
                false => failure.trace.len().saturating_sub(SHOWN),
            };
            for line in failure.trace.iter().skip(skipped) {
                println!("{line}");
            }
            bail!("{failure}")
        }
    }
}
