//! `sim pool --seeds N`: many seeds, and what they went through.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::bail;
use clap::Args;
use sim::faults::Kind;
use sim::{Coverage, Failure, Settings};

/// What must have happened in some seed, or the pool proves less than it says.
const MUST_HAPPEN: &[&str] = &[
    "clone put back",
    "compaction",
    "configuration change",
    "crash within an install",
    "damage found",
    "deaf voter",
    "disk failed",
    "election",
    "election lost",
    "entry conflict",
    "false start",
    "hinted election",
    "joint configuration",
    "leader lost",
    "leave",
    "log repaired",
    "log wounded",
    "message doubled",
    "message lost",
    "message straggled",
    "network without order",
    "new id",
    "poison entry",
    "request repeated",
    "retired",
    "rollback detected",
    "session expired",
    "session opened",
    "session tried",
    "sick disk",
    "snapshot",
    "snapshot install",
    "snapshot offered",
    "stale read",
    "state machine ahead",
    "state machine restored",
    "step-down",
    "suspect",
    "transfer",
    "truncation",
    "two leaders died",
    "unheard heir",
];

/// A pool that is smaller than this need not have seen everything.
const ENOUGH: u64 = 1_000;

/// See the module.
#[derive(Args)]
pub struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Failures that are printed before the pool is given up.
    #[arg(long, default_value_t = 5)]
    failures: usize,
}

#[derive(Default)]
struct Table {
    /// By kind: in how many seeds, and how often.
    kinds: BTreeMap<&'static str, (u64, u64)>,
    seeds: u64,
    simulated: u64,
    steps: u64,
    operations: u64,
    answered: u64,
    fewest: Option<(u64, u64, u64)>,
    failures: Vec<Failure>,
}

impl Table {
    fn add(&mut self, coverage: &Coverage) {
        self.seeds += 1;
        self.simulated += coverage.simulated;
        self.steps += coverage.steps;
        self.operations += coverage.operations;
        self.answered += coverage.answered;
        let seconds = coverage.simulated / 1_000_000;
        let (s, o, f) = self.fewest.unwrap_or((u64::MAX, u64::MAX, u64::MAX));
        let faults = coverage.fault_count();
        self.fewest = Some((s.min(seconds), o.min(coverage.operations), f.min(faults)));
        for (kind, count) in coverage.faults.iter().chain(&coverage.events) {
            let (seeds, times) = self.kinds.entry(*kind).or_default();
            *seeds += 1;
            *times += count;
        }
    }
}

/// Runs the seeds.
///
/// # Errors
/// A seed fails, or something never happened.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from + arguments.seeds;
    let table = Mutex::new(Table::default());
    let began = Instant::now();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| work(&next, end, &table, arguments.failures));
        }
    });
    let _ = std::panic::take_hook();
    let table = table
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    print(&table, began.elapsed().as_secs_f64(), arguments.threads);
    for failure in &table.failures {
        println!("{failure}\n");
    }
    if !table.failures.is_empty() {
        bail!("{} of {} seeds fail", table.failures.len(), table.seeds);
    }
    let kinds = Kind::ALL.iter().map(|kind| kind.name());
    let missing: Vec<&str> = kinds
        .chain(MUST_HAPPEN.iter().copied())
        .filter(|kind| !table.kinds.contains_key(kind))
        .collect();
    if !missing.is_empty() && arguments.seeds >= ENOUGH {
        bail!("never happened: {}", missing.join(", "));
    }
    Ok(())
}

fn work(next: &AtomicU64, end: u64, table: &Mutex<Table>, failures: usize) {
    let settings = Settings::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let ran = sim::run(seed, &settings);
        let mut table = table
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match ran {
            Ok(coverage) => table.add(&coverage),
            Err(failure) => {
                table.add(&failure.coverage);
                table.failures.push(*failure);
                if table.failures.len() >= failures {
                    next.store(end, Ordering::Relaxed);
                }
            }
        }
    }
}

fn print(table: &Table, seconds: f64, threads: usize) {
    println!("{:>28} {:>8} {:>10}", "", "seeds", "times");
    for (kind, (seeds, times)) in &table.kinds {
        println!("{kind:>28} {seeds:>8} {times:>10}");
    }
    let simulated = table.simulated as f64 / 1e6;
    let (least, operations, faults) = table.fewest.unwrap_or_default();
    println!(
        "{} seeds, {simulated:.0} simulated seconds in {seconds:.1} s: {:.0} simulated seconds per second \
         and thread, {:.0} steps per simulated second",
        table.seeds,
        simulated / seconds / threads as f64,
        table.steps as f64 / simulated
    );
    println!(
        "{} operations, {} of them answered; in each seed at least {least} s, {operations} operations, \
         {faults} faults",
        table.operations, table.answered
    );
}
