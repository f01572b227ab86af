//! All mutants, as many at a time as the machine has processors.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

use anyhow::{Context, bail};
use raft_core::mutants::Mutant;

use crate::survivors::why;
use crate::trial::{HEALTHY, Verdict};

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

/// What there is to say at the end.
#[derive(Default)]
struct Sum {
    /// How often each checker noticed.
    tally: BTreeMap<String, usize>,
    /// Why the table is no success.
    defects: Vec<String>,
}

/// Prints the table, row by row as they come.
///
/// # Errors
/// A mutant survived that is not known to, or the healthy core did not.
pub fn print(arguments: &Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    println!("{:<8} {:<28} {:>6}  checker", "rule", "mutant", "seeds");
    let trials = trials(arguments);
    let mut sum = Sum::default();
    let threads = match arguments.threads {
        Some(threads) => threads.max(1),
        None => std::thread::available_parallelism()?.get(),
    };
    let next = AtomicUsize::new(0);
    let (tell, told) = channel();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 0..threads {
            let (tell, next, trials) = (tell.clone(), &next, &trials);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = trials.get(at) else {
                        return;
                    };
                    if tell.send((at, row(*mutant, arguments))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        let mut early = BTreeMap::new();
        let mut due = 0;
        for (at, row) in told {
            early.insert(at, row);
            while let Some(row) = early.remove(&due) {
                sum.add(&row?, arguments);
                due += 1;
            }
        }
        Ok(())
    })?;
    println!("\nwho noticed:");
    for (checker, times) in &sum.tally {
        println!("{times:>5}  {checker}");
    }
    let caught: usize = sum.tally.values().sum();
    let tried = trials.len() - 1;
    println!(
        "{caught} of {tried} mutants caught, {} more are known to survive, in {:.0} s",
        Mutant::ALL.iter().filter(|m| why(**m).is_some()).count(),
        begun.elapsed().as_secs_f32()
    );
    if !sum.defects.is_empty() {
        bail!("{}", sum.defects.join("; "));
    }
    Ok(())
}

impl Sum {
    fn add(&mut self, row: &Row, arguments: &Arguments) {
        let (rule, name) = names(row.mutant);
        let known = row.mutant.and_then(why);
        let (seeds, said) = match (&row.verdict, row.mutant) {
            (Verdict::Caught { seed, sentence, .. }, None) => {
                self.defects
                    .push(format!("a false alarm at seed {seed}: {sentence}"));
                (
                    seed - arguments.from + 1,
                    format!("FALSE ALARM: {sentence}"),
                )
            }
            (
                Verdict::Caught {
                    seed,
                    checker,
                    sentence,
                },
                Some(_),
            ) => {
                *self.tally.entry(checker.clone()).or_default() += 1;
                if known.is_some() {
                    self.defects
                        .push(format!("{name} is caught: take it off the list"));
                }
                (seed - arguments.from + 1, format!("{checker}: {sentence}"))
            }
            (Verdict::Survived { seeds }, None) => (*seeds, "healthy, no alarm".to_owned()),
            (Verdict::Survived { seeds }, Some(_)) => match known {
                Some(why) => (*seeds, format!("SURVIVES, as is known: {why}")),
                None => {
                    self.defects.push(format!("{name} survives"));
                    (
                        *seeds,
                        "SURVIVES: an open defect of the simulator".to_owned(),
                    )
                }
            },
        };
        let seconds = row.seconds;
        println!("{rule:<8} {name:<28} {seeds:>6}  {said} ({seconds:.1} s)");
    }
}

fn names(mutant: Option<Mutant>) -> (&'static str, &'static str) {
    mutant.map_or(("-", HEALTHY), |mutant| (mutant.rule(), mutant.name()))
}

/// The healthy core, and the mutants that were asked for.
fn trials(arguments: &Arguments) -> Vec<Option<Mutant>> {
    let wanted = |mutant: &Mutant| {
        let only = arguments.only.as_str();
        let named = mutant.name().starts_with(only) || mutant.rule().starts_with(only);
        named && (arguments.all || why(*mutant).is_none())
    };
    let mutants = Mutant::ALL.iter().copied().filter(wanted).map(Some);
    std::iter::once(None).chain(mutants).collect()
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
