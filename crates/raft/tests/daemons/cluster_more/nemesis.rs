//! Faults at random: `kill -9` of daemons and state machines, one after the other. What is struck and
//! when is drawn from a seed, which is printed; who leads at that moment, and how the machine's other
//! work interleaves, is not in it, so the same seed gives the same faults and not the same run.
//!
//! `LEEKY_NEMESIS_SECONDS` says how long (the tests have their own short default), and
//! `LEEKY_NEMESIS_SEED` which seed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::volatile::Machines;
use crate::cluster::{Cluster, PROCESSES, Process};

/// After a fault the cluster gets on again within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two faults, and how long what was struck stays down, in milliseconds.
const PAUSE_MS: (u64, u64) = (20, 400);
const DOWN_MS: (u64, u64) = (0, 300);
/// One in so many stays down for longer, up to this.
const LONG_DOWN_ONE_IN: u32 = 5;
const LONG_DOWN_MS: u64 = 1500;

/// After every other fault so much must be done before the next one: it strikes a cluster that works.
/// The others strike one that is still recovering.
const DONE_BETWEEN: u64 = 5;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The `raft` that leads.
    Leader,
    /// The `raft` of any node.
    Raft,
    /// The `member` of any node.
    Member,
    /// The state machine of any node.
    StateMachine,
    /// All processes of a node.
    Node,
    /// All processes of all nodes.
    Everything,
}

/// Each of them comes once before any comes again.
const FAULTS: [Fault; 6] = [
    Fault::Leader,
    Fault::Raft,
    Fault::Member,
    Fault::StateMachine,
    Fault::Node,
    Fault::Everything,
];

/// How long the faults go on: `LEEKY_NEMESIS_SECONDS`, or `usual`.
pub fn seconds(usual: u64) -> Duration {
    let told = std::env::var("LEEKY_NEMESIS_SECONDS").ok();
    Duration::from_secs(told.map_or(usual, |told| told.parse().unwrap()))
}

/// `LEEKY_NEMESIS_SEED`, or another one each time. It is printed.
pub fn seed() -> u64 {
    let told = std::env::var("LEEKY_NEMESIS_SEED").ok();
    let seed = told.map_or_else(rand::random, |told| told.parse().unwrap());
    println!("the same faults again: LEEKY_NEMESIS_SEED={seed}");
    seed
}

/// See the module.
pub struct Nemesis {
    random: StdRng,
    bag: Vec<Fault>,
    /// In the place of the shipped state machines, if there are any.
    machines: Option<Machines>,
    /// How often each was struck.
    pub struck: BTreeMap<Fault, u64>,
}

impl Nemesis {
    /// Nothing is struck yet. `machines`: the nodes' state machines are not the shipped ones.
    pub fn new(seed: u64, machines: Option<Machines>) -> Nemesis {
        Nemesis {
            random: StdRng::seed_from_u64(seed),
            bag: Vec::new(),
            machines,
            struck: BTreeMap::new(),
        }
    }

    /// Starts all nodes.
    pub fn start_all(&mut self, cluster: &mut Cluster) {
        for node in cluster.numbers() {
            for process in PROCESSES {
                self.start(cluster, node, process);
            }
        }
    }

    /// Strikes for so long, as often as it comes to. `done` counts what the clients get done.
    pub fn rage(&mut self, cluster: &mut Cluster, time: Duration, done: impl Fn() -> u64) {
        let until = Instant::now() + time;
        let mut number = 0;
        while Instant::now() < until {
            let pause = self.milliseconds(PAUSE_MS);
            // Not waiting for anything: the nodes are to be hit at any moment of their work.
            std::thread::sleep(pause);
            self.strike(cluster);
            number += 1;
            if number % 2 == 0 {
                let level = done() + DONE_BETWEEN;
                cluster.eventually("the clients get on after a fault", PATIENCE, |_| {
                    (done() >= level).then_some(())
                });
            }
        }
    }

    /// What did not happen, of what a run of that length should have had.
    pub fn missed(&self, time: Duration) -> Vec<String> {
        let mut missed: Vec<String> = FAULTS
            .iter()
            .filter(|fault| !self.struck.contains_key(fault))
            .map(|fault| format!("{fault:?} was never killed"))
            .collect();
        let (planned, struck) = (planned(time), self.strikes());
        if struck < planned {
            missed.push(format!("{struck} faults where {planned} were planned"));
        }
        missed
    }

    /// How often anything was struck.
    pub fn strikes(&self) -> u64 {
        self.struck.values().sum()
    }

    fn strike(&mut self, cluster: &mut Cluster) {
        if self.bag.is_empty() {
            self.bag = FAULTS.to_vec();
            self.bag.shuffle(&mut self.random);
        }
        let fault = self.bag.pop().unwrap();
        // All draws are made, whatever they are used for: the next fault is the same one then.
        let any = self.random.random_range(cluster.numbers());
        let down = self.down();
        let killed: Vec<(usize, Process)> = match fault {
            Fault::Leader => vec![(leader(cluster).unwrap_or(any), Process::Raft)],
            Fault::Raft => vec![(any, Process::Raft)],
            Fault::Member => vec![(any, Process::Member)],
            Fault::StateMachine => vec![(any, Process::StateMachine)],
            Fault::Node => PROCESSES.map(|process| (any, process)).to_vec(),
            Fault::Everything => cluster
                .numbers()
                .flat_map(|node| PROCESSES.map(|process| (node, process)))
                .collect(),
        };
        for node in cluster.numbers() {
            for process in PROCESSES {
                assert!(
                    self.runs(cluster, node, process),
                    "{process:?} of node {node} has ended, and nobody killed it"
                );
            }
        }
        for (node, process) in &killed {
            self.kill(cluster, *node, *process);
        }
        std::thread::sleep(down);
        for (node, process) in &killed {
            self.start(cluster, *node, *process);
        }
        *self.struck.entry(fault).or_default() += 1;
    }

    fn down(&mut self) -> Duration {
        let (usual, longer) = (
            self.milliseconds(DOWN_MS),
            self.milliseconds((0, LONG_DOWN_MS)),
        );
        if self.random.random_ratio(1, LONG_DOWN_ONE_IN) {
            longer
        } else {
            usual
        }
    }

    fn milliseconds(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_micros(self.random.random_range(least * 1000..=most * 1000))
    }

    fn start(&mut self, cluster: &mut Cluster, node: usize, process: Process) {
        match &mut self.machines {
            Some(machines) if process == Process::StateMachine => machines.start(cluster, node),
            _ => cluster.start_process(node, process),
        }
    }

    fn kill(&mut self, cluster: &mut Cluster, node: usize, process: Process) {
        match &mut self.machines {
            Some(machines) if process == Process::StateMachine => machines.kill(node),
            _ => cluster.kill_process(node, process),
        }
    }

    fn runs(&mut self, cluster: &mut Cluster, node: usize, process: Process) -> bool {
        match &mut self.machines {
            Some(machines) if process == Process::StateMachine => machines.runs(node),
            _ => cluster.runs(node, process),
        }
    }
}

/// A fault takes a second on a busy machine; a run with fewer than half as many was no run.
pub fn planned(time: Duration) -> u64 {
    (time.as_secs() / 2).max(FAULTS.len() as u64)
}

/// Who leads by its own word, if anybody does.
pub fn leader(cluster: &Cluster) -> Option<usize> {
    cluster.numbers().find(|node| {
        cluster
            .status(*node)
            .is_some_and(|status| status.role == "leader")
    })
}
