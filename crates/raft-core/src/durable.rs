//! What must be on disk, and how the disk answers.
//!
//! The core asks for [`Write`]s and is told [`Persisted`]. Nothing that rests on a write leaves the
//! core before its report came back: votes, acknowledgements, everything said in a new term. A
//! driver cannot get the order wrong, because it never holds a message that must still wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::configuration::Configuration;
use crate::entry::Entry;
use crate::ids::{Boot, ClusterId, Index, NodeId, Position, Term};

/// What a node must remember across a crash, besides its log (figure 2, "persistent state").
/// One atomic record: a crash leaves the old one or the new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// Latest term that this node has seen.
    pub current_term: Term,
    /// Whom it voted for in that term.
    pub voted_for: Option<NodeId>,
    /// The highest (boot, term) that each other voter ever reported: a node that later reports less
    /// has lost its disk's promises (D5).
    pub peers: BTreeMap<NodeId, (Boot, Term)>,
}

/// One request to the disk. Requests are carried out in order; several may share one sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// Grows by one with every write of this boot, from 1.
    pub sequence: u64,
    /// Grows with every truncation and snapshot install of this boot (D2).
    pub generation: u64,
    /// To be stored first, if there is one.
    pub hard_state: Option<HardState>,
    /// Then the whole log is dropped, and goes on behind this snapshot, which the disk holds complete
    /// (§7, W2). Only asked for when the log does not hold the snapshot's last entry.
    pub install: Option<Arc<SnapshotMeta>>,
    /// Then every entry from this index on is dropped.
    pub truncate_from: Option<Index>,
    /// Then these are appended: contiguous, right behind what is there.
    pub entries: Vec<Entry>,
    /// At last, entries up to this index may be removed: a snapshot that covers them is held (§7, S4).
    /// Advice about room, not about truth: the disk may keep as many of them as suits it.
    pub compact_to: Option<Index>,
}

/// What a snapshot says in the place of the entries that it covers, as far as Raft itself needs it
/// (§7, figure 13): everything as of its last entry (S4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotMeta {
    /// The last entry that the snapshot covers.
    pub position: Position,
    /// The cluster whose log it is.
    pub cluster_id: ClusterId,
    /// Log time of that entry, in milliseconds (S3).
    pub log_time_ms: u64,
    /// Index of the latest configuration at or before that entry.
    pub configuration_index: Index,
    /// That configuration; the ids that left for good are part of it (M3).
    pub configuration: Arc<Configuration>,
}

/// The disk's report: everything up to and including the write `sequence` is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persisted {
    /// The last write that is durable.
    pub sequence: u64,
    /// The generation of that write. A report of an older generation says nothing of the log (D2).
    pub generation: u64,
    /// Where the durable log ends.
    pub last: Position,
}

/// What a disk held when it was opened: a node's memory when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recovered {
    /// The hard state; the default on an empty disk.
    pub hard_state: HardState,
    /// The cluster that the founding entry names; none while the log is empty.
    pub cluster_id: Option<ClusterId>,
    /// What stands just before the first entry of the log: [`Position::ZERO`], or where it was cut off
    /// behind a snapshot. Never beyond the snapshot's own position.
    pub base: Position,
    /// The newest complete snapshot that the disk holds.
    pub snapshot: Option<Arc<SnapshotMeta>>,
    /// Log time of the last entry (or of the snapshot, when none is behind it), in milliseconds (S3).
    pub last_log_time_ms: u64,
    /// Index of a Dissolve entry, after which nothing is accepted (F2).
    pub dissolved_at: Option<Index>,
    /// Operators' orders not to run an entry: the index of each, and the index that it names (P5).
    pub skips: Vec<(Index, Index)>,
    /// For each run of entries of one term behind the base: the first index and the term, in order.
    pub terms: Vec<(Index, Term)>,
    /// Where the log ends; the base when it has no entries.
    pub last: Position,
    /// Every configuration in the log (the founding entry's included), with its index, in order, and
    /// before them that of the snapshot.
    pub configurations: Vec<(Index, Arc<Configuration>)>,
    /// The newest entries, contiguous up to `last`, as many as the caller's cache may hold.
    pub tail: Vec<Entry>,
}
