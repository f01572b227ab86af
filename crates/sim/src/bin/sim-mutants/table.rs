//! All mutants, as many at a time as the machine has processors.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use raft_core::mutants::Mutant;

use crate::survivors::why;
use crate::trial::{HEALTHY, Tally, Verdict};

/// How far to go.
#[derive(clap::Args)]
pub struct Arguments {
    /// Seeds for each mutant, until it is caught.
    #[arg(long, default_value_t = 60)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Mutants tried at a time; as many as there are processors, if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Those too that are known to survive.
    #[arg(long)]
    all: bool,
    /// Only mutants whose rule or name begins so.
    #[arg(long, default_value = "")]
    only: String,
}

struct Row {
    mutant: Option<Mutant>,
    verdict: Verdict,
    seconds: f32,
}

/// Prints the table.
///
/// # Errors
/// A mutant survived that is not known to, or the healthy core did not.
pub fn print(arguments: &Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    let rows = rows(arguments)?;
    println!("{:<8} {:<28} {:>6}  checker", "rule", "mutant", "seeds");
    let mut tally = Tally::new();
    let mut defects = Vec::new();
    for Row {
        mutant,
        verdict,
        seconds,
    } in &rows
    {
        let (rule, name) = names(*mutant);
        let known = mutant.and_then(why);
        let (seeds, checker) = match verdict {
            Verdict::Caught {
                seed,
                checker,
                sentence,
            } => {
                *tally.entry(checker.clone()).or_default() += 1;
                let tried = seed - arguments.from + 1;
                if mutant.is_none() {
                    defects.push(format!("a false alarm at seed {seed}: {sentence}"));
                } else if known.is_some() {
                    defects.push(format!("{name} is caught: take it off the list"));
                }
                (tried, format!("{checker}: {sentence}"))
            }
            Verdict::Survived { seeds } => {
                let said = match (mutant, known) {
                    (None, _) => "healthy, no alarm".to_owned(),
                    (Some(_), Some(why)) => format!("SURVIVES, as is known: {why}"),
                    (Some(_), None) => "SURVIVES: an open defect of the simulator".to_owned(),
                };
                if mutant.is_some() && known.is_none() {
                    defects.push(format!("{name} survives"));
                }
                (*seeds, said)
            }
        };
        println!("{rule:<8} {name:<28} {seeds:>6}  {checker} ({seconds:.1} s)");
    }
    println!("\nwho noticed:");
    for (checker, times) in &tally {
        println!("{times:>5}  {checker}");
    }
    let caught: usize = tally.values().sum();
    println!(
        "{caught} of {} mutants caught in {:.0} s",
        Mutant::ALL.len(),
        begun.elapsed().as_secs_f32()
    );
    if !defects.is_empty() {
        bail!("{}", defects.join("; "));
    }
    Ok(())
}

fn names(mutant: Option<Mutant>) -> (&'static str, &'static str) {
    mutant.map_or(("-", HEALTHY), |mutant| (mutant.rule(), mutant.name()))
}

fn rows(arguments: &Arguments) -> anyhow::Result<Vec<Row>> {
    let wanted = |mutant: &Mutant| {
        let only = arguments.only.as_str();
        let named = mutant.name().starts_with(only) || mutant.rule().starts_with(only);
        named && (arguments.all || why(*mutant).is_none())
    };
    let mutants = Mutant::ALL.iter().copied().filter(wanted).map(Some);
    let trials: Vec<Option<Mutant>> = std::iter::once(None).chain(mutants).collect();
    let threads = match arguments.threads {
        Some(threads) => threads.max(1),
        None => std::thread::available_parallelism()?.get(),
    };
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(mutant) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = row(*mutant, arguments);
                    if let Ok(mut rows) = rows.lock() {
                        rows.push(row);
                    }
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap_or_default();
    let mut rows = rows.into_iter().collect::<anyhow::Result<Vec<Row>>>()?;
    rows.sort_by_key(|row| row.mutant);
    Ok(rows)
}

fn row(mutant: Option<Mutant>, arguments: &Arguments) -> anyhow::Result<Row> {
    let begun = Instant::now();
    let (_, name) = names(mutant);
    let output = Command::new(std::env::current_exe()?)
        .args(["try", name])
        .arg(format!("--seeds={}", arguments.seeds))
        .arg(format!("--from={}", arguments.from))
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("{name} could not be tried"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    // Out of memory, or of stack: whoever breaks a rule so that the process dies is caught.
    let died = || Verdict::Caught {
        seed: arguments.from,
        checker: "process".to_owned(),
        sentence: format!("it died: {}", output.status),
    };
    let verdict = said.lines().last().and_then(Verdict::parse);
    Ok(Row {
        mutant,
        verdict: verdict.unwrap_or_else(died),
        seconds: begun.elapsed().as_secs_f32(),
    })
}
