//! What a node is told once, when it starts.

use std::time::Duration;

/// Limits and times. The defaults are the seed's, where it had them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Shortest wait for a leader before a campaign (§5.2), and how long a voter that heard a leader
    /// refuses every candidate (E3).
    pub elect_timeout_min: Duration,
    /// Longest wait.
    pub elect_timeout_max: Duration,
    /// Between two heartbeats of a leader.
    pub heartbeat_interval: Duration,
    /// What one AppendEntries aims at. A single larger entry still goes alone.
    pub max_batch_bytes: usize,
    /// Most entries in one AppendEntries.
    pub max_batch_entries: usize,
    /// AppendEntries that may be under way to one peer.
    pub max_inflight_batches: usize,
    /// Bytes that may be under way to one peer.
    pub max_inflight_bytes: usize,
    /// A client's entry above this is refused.
    pub max_entry_bytes: usize,
    /// Uncommitted entries beyond which clients are told OVERLOADED.
    pub max_uncommitted_entries: usize,
    /// Bytes of uncommitted entries, likewise.
    pub max_uncommitted_bytes: usize,
    /// Bytes of entries held in memory; older ones are fetched from the disk when a peer needs them.
    pub log_cache_bytes: usize,
    /// Entries that are kept behind a snapshot, so that a peer that is a little behind needs no
    /// snapshot.
    pub snapshot_trailing_entries: u64,
    /// Committed entries that the state machine has not yet applied, beyond which clients are told
    /// OVERLOADED.
    pub max_unapplied_entries: u64,
    /// Voters that automation aims at; odd (M2).
    pub voters: usize,
    /// Voters that automation and graceful leaves never go below, once reached (M1).
    pub min_voters: usize,
    /// A voter out of the leader's contact for this long is replaced by a spare (M4).
    pub dead_server_timeout: Duration,
    /// A voter out of contact for this long is removed without a replacement.
    pub remove_server_timeout: Duration,
    /// A learner is promoted after it has kept up for this long.
    pub server_stabilization_time: Duration,
    /// Automatic changes of the configuration per hour.
    pub automatic_changes_per_hour: u32,
    /// Leaves that arrive within this time become one change (M1).
    pub leave_gathering_time: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            elect_timeout_min: Duration::from_millis(750),
            elect_timeout_max: Duration::from_millis(1500),
            heartbeat_interval: Duration::from_millis(375),
            max_batch_bytes: 1 << 20,
            max_batch_entries: 1024,
            max_inflight_batches: 64,
            max_inflight_bytes: 16 << 20,
            max_entry_bytes: 4 << 20,
            max_uncommitted_entries: 16_384,
            max_uncommitted_bytes: 64 << 20,
            log_cache_bytes: 64 << 20,
            snapshot_trailing_entries: 10_000,
            max_unapplied_entries: 100_000,
            voters: 5,
            min_voters: 3,
            dead_server_timeout: Duration::from_secs(10),
            remove_server_timeout: Duration::from_secs(72 * 3600),
            server_stabilization_time: Duration::from_millis(500),
            automatic_changes_per_hour: 60,
            leave_gathering_time: Duration::from_millis(300),
        }
    }
}
