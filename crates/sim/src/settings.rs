//! What a run is: what its seed draws, and what may be asked for beside it.

use std::time::Duration;

use raft_core::Options;

use crate::client::Habits;
use crate::dice::Dice;
use crate::faults::Kind;
use crate::node::Tuning;
use crate::world::{Micros, Network};

/// What may be asked for. The default leaves everything to the seed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Simulated seconds with faults, at least.
    pub seconds: u64,
    /// Requests of clients, at least.
    pub operations: u64,
    /// Faults, at least.
    pub faults: u64,
    /// How many nodes found the cluster; none: as the seed says.
    pub nodes: Option<usize>,
    /// Faults of these kinds only; none: as the seed says.
    pub kinds: Option<Vec<Kind>>,
    /// Keep a trace that a person can read.
    pub trace: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seconds: 60,
            operations: 200,
            faults: 10,
            nodes: None,
            kinds: None,
            trace: false,
        }
    }
}

/// What a seed draws: no run has everything, so that what one fault hides another run shows (swarm testing).
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes in the beginning.
    pub nodes: usize,
    /// Nodes that may come later.
    pub spares: usize,
    /// How the network is at its best.
    pub network: Network,
    /// How nodes are built.
    pub tuning: Tuning,
    /// Their state machines outlive their processes.
    pub durable_machines: bool,
    /// The clients.
    pub clients: Vec<Habits>,
    /// Which faults there are.
    pub kinds: Vec<Kind>,
    /// Longest time between two faults.
    pub fault_gap: Micros,
    /// How often the member map is told.
    pub hint_gap: Micros,
    /// Of a thousand hints so many are wrong.
    pub wrong_hints: u64,
}

impl Plan {
    /// What that seed draws.
    pub fn draw(seed: u64, settings: &Settings) -> Plan {
        let mut dice = Dice::new(seed, "plan");
        let drawn = [3, 4, 5, 5, 5, 5, 5, 6, 7];
        let nodes = dice.pick(&drawn).copied().unwrap_or(5);
        let is_raw = dice.per_mille(350);
        let network = Network {
            delay: if dice.per_mille(300) {
                (1_000, 30_000)
            } else {
                (50, 1_000)
            },
            loss: if dice.per_mille(500) {
                0
            } else {
                dice.below(60)
            },
            duplication: dice.below(60),
            straggling: if dice.per_mille(600) {
                0
            } else {
                dice.below(10)
            },
            is_raw,
        };
        let kinds: Vec<Kind> = Kind::ALL
            .iter()
            .copied()
            .filter(|_| dice.per_mille(500))
            .collect();
        let kinds = if kinds.is_empty() {
            Kind::ALL.to_vec()
        } else {
            kinds
        };
        let count = dice.between(4, 7);
        let keys = dice.between(2, 6);
        let reads = dice.between(200, 600);
        let think = dice.between(300_000, 900_000);
        let clients = (0..count)
            .map(|_| Habits {
                in_session: dice.per_mille(650),
                think,
                patience: dice.between(700_000, 2_500_000),
                keys,
                reads,
            })
            .collect();
        Plan {
            nodes: settings.nodes.unwrap_or(nodes),
            spares: 2,
            network,
            tuning: tuning(&mut dice),
            durable_machines: dice.per_mille(500),
            clients,
            kinds: settings.kinds.clone().unwrap_or(kinds),
            fault_gap: dice.between(1_500_000, 6_000_000),
            hint_gap: dice.between(100_000, 2_000_000),
            wrong_hints: dice.below(100),
        }
    }
}

fn tuning(dice: &mut Dice) -> Tuning {
    let small = dice.per_mille(500);
    let log_cache_bytes = if dice.per_mille(400) { 1_500 } else { 1 << 20 };
    let options = Options {
        max_batch_entries: if small { 4 } else { 64 },
        max_inflight_batches: if small { 2 } else { 16 },
        log_cache_bytes,
        snapshot_trailing_entries: dice.below(60),
        voters: if dice.per_mille(200) { 3 } else { 5 },
        dead_server_timeout: Duration::from_secs(dice.between(4, 10)),
        remove_server_timeout: Duration::from_secs(if dice.per_mille(300) { 25 } else { 259_200 }),
        // The hour's budget is tried by tests of the core: here it would only make the end wait for hours.
        automatic_changes_per_hour: 1_000_000,
        max_uncommitted_entries: if dice.per_mille(200) { 8 } else { 1_024 },
        ..Options::default()
    };
    Tuning {
        options,
        segment_bytes: dice.between(2, 16) * 1024,
        sync: if dice.per_mille(250) {
            (2_000, 60_000)
        } else {
            (100, 3_000)
        },
        execute: (20, dice.between(100, 5_000)),
        snapshot_entries: dice.between(15, 150),
        kept_bytes: dice.between(0, 8) * 1024,
        part_bytes: 1024,
        session_timeout_ms: if dice.per_mille(200) {
            // Shorter than many a client thinks.
            dice.between(500, 2_500)
        } else {
            dice.between(8, 40) * 1_000
        },
        batch_entries: if small { 3 } else { 64 },
    }
}
