//! A nemesis on real daemons: they are killed, paused, cut off from each other, their disks hang and are
//! full, nodes leave, lose everything and come, one by one and at once, while clients write and read
//! through all of them. What the clients were told must be linearizable. Nothing is said about how long
//! anything takes, but that a cluster which is left alone gets on again.
//!
//! `scripts/nemesis --help` tells how it is run. `cargo test` does not run it by itself.
#![allow(clippy::unwrap_used)]

mod clients;
#[path = "../daemons/cluster/mod.rs"]
mod cluster;
mod disk;
mod faults;
mod network;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sim::history::{self, Verdict};

use clients::{Clients, Record};
use cluster::Cluster;
use disk::NodeDisk;
use faults::{Nemesis, VOTERS};

/// Nodes in the beginning; one more joins.
const NODES: usize = VOTERS - 1;
/// Voters of that many nodes.
const FIRST_VOTERS: usize = 3;

const CLIENTS: u64 = 12;

/// When all faults are over, everything is as it should be within this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Fewer answered writes or reads for each second are no run.
const WRITTEN_PER_SECOND: u64 = 5;
const READ_PER_SECOND: u64 = 5;

#[derive(Parser)]
#[command(name = "scripts/nemesis", args_override_self = true)]
struct Arguments {
    /// How long; longer if not every kind of fault has had its turn by then
    #[arg(long, default_value_t = 3)]
    minutes: u64,
    /// What decides the faults and their order [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Fail if this machine does not allow some kind of fault, instead of skipping it
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let seed = *arguments.seed.get_or_insert_with(rand::random);
    if !network::is_inside() {
        println!(
            "the same faults again: scripts/nemesis --minutes {} --seed {seed}",
            arguments.minutes
        );
        let seed = ["--seed".to_owned(), seed.to_string()];
        if let Some(code) = network::run_inside(&seed) {
            return code;
        }
    }
    run(&arguments, seed)
}

fn run(arguments: &Arguments, seed: u64) -> ExitCode {
    let begun = Instant::now();
    let mut cluster = Cluster::new(NODES);
    // So that snapshots are taken and sent, and files of the log come and go; and a node that lost its disk
    // is replaced soon.
    for (key, value) in [
        ("LEEKY_SNAPSHOT_BYTES", "131072"),
        ("LEEKY_SNAPSHOT_ENTRIES", "1000"),
        ("LEEKY_SEGMENT_BYTES", "131072"),
        ("LEEKY_LOG_CACHE_BYTES", "65536"),
        ("LEEKY_DEAD_SERVER_TIMEOUT", "6000"),
        ("LEEKY_AUTOMATIC_CHANGES_PER_HOUR", "10000"),
    ] {
        cluster.set(key, value);
    }
    let disks: Vec<NodeDisk> = (1..=VOTERS)
        .map_while(|node| NodeDisk::new(&cluster.folder().join(format!("disk{node}"))))
        .collect();
    let disks = if disks.len() == VOTERS {
        disks
    } else {
        Vec::new()
    };
    let mut nemesis = Nemesis::new(seed, disks, network::is_inside());
    for (fault, why) in &nemesis.skipped {
        println!("SKIPPED: {fault:?}: {why}");
    }
    if arguments.all && !nemesis.skipped.is_empty() {
        println!("FAILED: all kinds of faults were asked for");
        return ExitCode::FAILURE;
    }
    for node in cluster.numbers() {
        nemesis.lay_out(&mut cluster, node);
    }
    cluster.start_all();
    cluster.wait_for_voters(FIRST_VOTERS, PATIENCE);
    let addresses: Vec<_> = cluster
        .numbers()
        .map(|node| cluster.address(node))
        .collect();
    let mut clients = Clients::start(CLIENTS, seed, &addresses);

    let mut wrong: Vec<String> = Vec::new();
    let time = Duration::from_secs(arguments.minutes * 60);
    // Whatever does not come about ends the run, and what was told until then is checked all the same.
    let done = || {
        let record = clients.record();
        record.written + record.read
    };
    let joined = |cluster: &Cluster, node| clients.add(cluster.address(node));
    let raged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        nemesis.rage(&mut cluster, time, done, joined);
        faults::whole(&cluster);
    }));
    if raged.is_err() {
        wrong.push("the faults ended before their time, see above".to_owned());
    }
    wrong.extend(clients.finish(PATIENCE).err());
    if raged.is_ok() {
        wrong.extend(clients.read_all(seed, PATIENCE).err());
        wrong.extend(differences(&cluster, &clients.record()));
    }
    let record = std::mem::take(&mut *clients.record());
    drop(clients);
    wrong.extend(judged(&record));
    wrong.extend(nemesis.missed());
    let seconds = begun.elapsed().as_secs();
    let wanted = (WRITTEN_PER_SECOND * seconds, READ_PER_SECOND * seconds);
    if record.written < wanted.0 || record.read < wanted.1 || record.followed == 0 {
        wrong.push(format!(
            "{} answered writes and {} reads, {} through followers: this was no run",
            record.written, record.read, record.followed
        ));
    }
    for (fault, count) in &nemesis.counts {
        println!(
            "{fault:?}: {} times, seen {} times",
            count.begun, count.seen
        );
    }
    println!(
        "{} operations, {} stale reads; {} writes answered, {} reads, {} through followers; {} unknown, {} \
         refused; {seconds} s",
        record.operations.len(),
        record.stale.len(),
        record.written,
        record.read,
        record.followed,
        outcomes(&record, &history::Outcome::Unknown),
        outcomes(&record, &history::Outcome::Refused),
    );
    if wrong.is_empty() {
        println!("PASSED: linearizable, nothing lost, nothing doubled (seed {seed})");
        return ExitCode::SUCCESS;
    }
    for sentence in &wrong {
        println!("WRONG: {sentence}");
    }
    keep(cluster, &nemesis, &record);
    println!("FAILED (seed {seed})");
    ExitCode::FAILURE
}

fn outcomes(record: &Record, outcome: &history::Outcome) -> usize {
    let all = record.operations.iter();
    all.filter(|one| one.outcome == *outcome).count()
}

/// What is wrong with what the clients were told.
fn judged(record: &Record) -> Vec<String> {
    let mut wrong = record.wrong.clone();
    match history::check(&record.operations) {
        Verdict::Linearizable => {}
        Verdict::Violated(violation) => wrong.push(violation.to_string()),
        Verdict::Undecided(keys) => wrong.push(format!("undecided within the limit: {keys:?}")),
    }
    wrong.extend(history::plain::check(&record.operations));
    wrong.extend(history::plain::check_stale(
        &record.operations,
        &record.stale,
    ));
    wrong
}

/// Where the nodes do not hold the same, once nobody writes any more.
fn differences(cluster: &Cluster, record: &Record) -> Vec<String> {
    let all: Vec<usize> = cluster.numbers().collect();
    cluster.wait_for_applied(&all, 1, PATIENCE);
    let keys: BTreeSet<_> = record.operations.iter().map(|one| &one.key).collect();
    let mut wrong = Vec::new();
    for key in keys {
        let query = format!("GET {}", String::from_utf8_lossy(key));
        let held = all.iter().map(|node| {
            let reply = cluster.eventually(&query, PATIENCE, |cluster| {
                cluster.query(*node, &query, true).ok()
            });
            (reply.kind, reply.data)
        });
        let held: Vec<_> = held.collect();
        if held.iter().any(|one| *one != held[0]) {
            wrong.push(format!("{query}: the nodes hold {held:?}"));
        }
    }
    wrong
}

/// Leaves logs, disks and history where they can be looked at, and says where.
fn keep(mut cluster: Cluster, nemesis: &Nemesis, record: &Record) {
    cluster.kill_all();
    let folder = cluster.keep();
    for (disk, node) in nemesis.disks.iter().zip(1..) {
        let copy = folder.join(format!("n{node}-data"));
        let copied = std::process::Command::new("cp")
            .args(["-a", "--sparse=always"])
            .arg(disk.path())
            .arg(&copy)
            .status();
        if !copied.is_ok_and(|status| status.success()) {
            println!(
                "the disk of node {node} could not be copied to {}",
                copy.display()
            );
        }
    }
    let mut text = String::new();
    for (title, operations) in [("", &record.operations), ("stale reads\n", &record.stale)] {
        let mut operations: Vec<_> = operations.iter().collect();
        operations.sort_by_key(|one| one.invoked);
        text.push_str(title);
        for operation in operations {
            let _ = writeln!(text, "{operation}");
        }
    }
    std::fs::write(folder.join("history.txt"), text).unwrap();
    println!("logs, disks and history.txt are in {}", folder.display());
}
