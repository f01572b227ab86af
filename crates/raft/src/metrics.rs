//! Counters for Prometheus. Gauges are read from the shared state when somebody asks.

use std::fmt::Write as _;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use raft_core::RoleName;

use crate::shared::Shared;

/// What is counted while the daemon runs.
pub struct Metrics {
    registry: Registry,
    /// Client entries accepted into the log here.
    pub entries_accepted: Counter,
    /// Client entries refused.
    pub entries_refused: Counter,
    /// Entries in one batch of digest_entries.
    pub digest_entries_batch: Histogram,
    /// Entries in one Execute.
    pub digest_commits_batch: Histogram,
    /// Seconds from an entry's arrival to its answer, on the leader.
    pub put_seconds: Histogram,
    /// Times this node became leader.
    pub elections_won: Counter,
    /// Hellos refused.
    pub hellos_refused: Counter,
    /// Peer messages refused for their form.
    pub messages_refused: Counter,
    /// Peer messages dropped because a queue was full.
    pub messages_dropped: Counter,
    /// Epochs opened with the state machine.
    pub epochs: Counter,
    /// Damages to the log that were found at the start (D6).
    pub log_damages: Counter,
    /// Damages that were repaired since.
    pub log_repairs: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("leeky_raft"),
            entries_accepted: Counter::default(),
            entries_refused: Counter::default(),
            digest_entries_batch: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            digest_commits_batch: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            put_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 15)),
            elections_won: Counter::default(),
            hellos_refused: Counter::default(),
            messages_refused: Counter::default(),
            messages_dropped: Counter::default(),
            epochs: Counter::default(),
            log_damages: Counter::default(),
            log_repairs: Counter::default(),
        };
        let counters = [
            (
                "entries_accepted",
                "Client entries accepted into the log",
                &metrics.entries_accepted,
            ),
            (
                "entries_refused",
                "Client entries refused",
                &metrics.entries_refused,
            ),
            (
                "elections_won",
                "Times this node became leader",
                &metrics.elections_won,
            ),
            (
                "hellos_refused",
                "Peer streams refused by their Hello",
                &metrics.hellos_refused,
            ),
            (
                "messages_refused",
                "Malformed peer messages",
                &metrics.messages_refused,
            ),
            (
                "messages_dropped",
                "Messages dropped for a full queue",
                &metrics.messages_dropped,
            ),
            (
                "epochs",
                "Epochs opened with the state machine",
                &metrics.epochs,
            ),
            (
                "log_damages",
                "Damages to the log found at the start",
                &metrics.log_damages,
            ),
            (
                "log_repairs",
                "Damages to the log repaired at the start",
                &metrics.log_repairs,
            ),
        ];
        for (name, help, counter) in counters {
            metrics.registry.register(name, help, counter.clone());
        }
        let histograms = [
            (
                "digest_entries_batch",
                "Entries per batch",
                &metrics.digest_entries_batch,
            ),
            (
                "digest_commits_batch",
                "Entries per Execute",
                &metrics.digest_commits_batch,
            ),
            (
                "put_seconds",
                "Arrival to answer, on the leader",
                &metrics.put_seconds,
            ),
        ];
        for (name, help, histogram) in histograms {
            metrics.registry.register(name, help, histogram.clone());
        }
        metrics
    }
}

/// Everything, in Prometheus' text format.
pub fn render(shared: &Shared) -> String {
    let standing = shared.standing();
    let machine = shared.machine.borrow().clone();
    let configuration = shared.configurations().latest;
    let progress = &shared.progress;
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "# HELP leeky_raft_{name} {help}.\n# TYPE leeky_raft_{name} gauge\nleeky_raft_{name} {value}\n"
        );
    };
    gauge("term", "Current term", standing.term);
    gauge(
        "is_leader",
        "1 while this node leads",
        u64::from(standing.role == RoleName::Leader),
    );
    gauge(
        "has_leader",
        "1 while a leader is known",
        u64::from(standing.leader.is_some()),
    );
    gauge("last_index", "Where the log ends", progress.last());
    gauge(
        "durable_index",
        "Where the durable log ends",
        progress.durable(),
    );
    gauge("commit_index", "Commit index", progress.commit());
    gauge(
        "applied_index",
        "Applied by the state machine",
        machine.applied,
    );
    gauge(
        "state_machine_open",
        "1 while the state machine answers",
        u64::from(machine.client.is_some()),
    );
    gauge(
        "voters",
        "Voters in the latest configuration",
        configuration.voters.len() as u64,
    );
    gauge(
        "learners",
        "Learners in it",
        configuration.learners.len() as u64,
    );
    gauge(
        "alarms",
        "Sentences a person should look at",
        shared.alarms().len() as u64,
    );
    gauge("boot", "Starts of raft on this data directory", shared.boot);
    let _ = encode(&mut text, &shared.metrics.registry);
    text
}
