//! The log as the core sees it: where it begins, every entry's term, and the newest entries themselves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::configuration::{Configuration, Configurations};
use crate::durable::{Recovered, SnapshotMeta};
use crate::entry::{Entry, Payload};
use crate::ids::{ClusterId, Index, Position, Term};

/// The log in memory.
///
/// Invariants: indices are contiguous behind `base` up to `last.index`; terms never fall (§5.3);
/// `entries` are the newest ones, contiguous up to `last`; an entry leaves memory only once it is
/// durable; what is at or before `base` is committed, and covered by `snapshot` (§7).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    /// Just before the first entry that is left.
    base: Position,
    /// The newest snapshot that this node's disk holds complete.
    snapshot: Option<Arc<SnapshotMeta>>,
    /// First index and term of every run of entries of one term, in order.
    terms: Vec<(Index, Term)>,
    last: Position,
    entries: VecDeque<Entry>,
    bytes: usize,
    pub(crate) configurations: Configurations,
    cluster_id: Option<ClusterId>,
    /// Something other than the founding and leaders' first entries is or was in the log (F2).
    pub(crate) has_entries: bool,
    /// Index of a Dissolve entry, after which nothing is accepted (F2).
    pub(crate) dissolved_at: Option<Index>,
    last_log_time_ms: u64,
    /// Operators' orders in the log: where each stands, and which entry it names (P5).
    skips: BTreeMap<Index, Index>,
}

impl Log {
    pub(crate) fn new(recovered: &Recovered) -> Log {
        let mut configurations = Configurations::default();
        for (index, configuration) in &recovered.configurations {
            configurations.append(*index, configuration.clone());
        }
        let first_in_memory = recovered.last.index + 1 - recovered.tail.len() as Index;
        Log {
            base: recovered.base,
            snapshot: recovered.snapshot.clone(),
            terms: recovered.terms.clone(),
            last: recovered.last,
            bytes: recovered.tail.iter().map(Entry::cost_bytes).sum(),
            configurations,
            cluster_id: recovered.cluster_id,
            has_entries: first_in_memory > 1
                || recovered
                    .tail
                    .iter()
                    .any(|entry| counts_as_content(&entry.payload)),
            dissolved_at: recovered.dissolved_at,
            last_log_time_ms: recovered.last_log_time_ms,
            skips: recovered.skips.iter().copied().collect(),
            entries: recovered.tail.iter().cloned().collect(),
        }
    }

    pub(crate) fn last(&self) -> Position {
        self.last
    }

    /// Just before the first entry that is left.
    pub(crate) fn base(&self) -> Position {
        self.base
    }

    /// The newest complete snapshot.
    pub(crate) fn snapshot(&self) -> Option<&Arc<SnapshotMeta>> {
        self.snapshot.as_ref()
    }

    pub(crate) fn skips(&self) -> &BTreeMap<Index, Index> {
        &self.skips
    }

    pub(crate) fn last_log_time_ms(&self) -> u64 {
        self.last_log_time_ms
    }

    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// First index that is still in memory; one past the end when none is.
    pub(crate) fn first_in_memory(&self) -> Index {
        self.last.index + 1 - self.entries.len() as Index
    }

    /// Term of the entry at `index`, that at the base included; none before it and beyond the last.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last.index {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Whether an entry with this index and term is here.
    pub(crate) fn matches(&self, position: Position) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The last place at or before `limit.index` whose term is at most `limit.term`: nothing behind
    /// it can agree with a log that has `limit.term` at `limit.index` (§5.3, the fast way back). The
    /// place before all entries, when that lies before the base: what was there is not known any more.
    pub(crate) fn last_possible_match(&self, limit: Position) -> Position {
        let mut index = limit.index.min(self.last.index);
        for (first, term) in self.terms.iter().rev() {
            if *first > index {
                continue;
            }
            if *term <= limit.term {
                return Position { index, term: *term };
            }
            index = first - 1;
        }
        if index >= self.base.index && self.base.term <= limit.term {
            self.base
        } else {
            Position::ZERO
        }
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last.index + 1, "the log has no gaps");
        assert!(
            entry.term >= self.last.term,
            "terms never fall along the log"
        );
        if entry.term > self.last.term || self.terms.is_empty() {
            self.terms.push((entry.index, entry.term));
        }
        self.last = entry.position();
        self.last_log_time_ms = self.last_log_time_ms.max(entry.log_time_ms);
        self.bytes += entry.cost_bytes();
        self.has_entries |= counts_as_content(&entry.payload);
        match &entry.payload {
            Payload::Founding {
                cluster_id,
                founder,
                alone,
            } => {
                self.cluster_id = Some(*cluster_id);
                let first = Configuration::founding(*founder, *alone);
                self.configurations.append(entry.index, Arc::new(first));
            }
            Payload::Configuration(configuration) => {
                self.configurations
                    .append(entry.index, configuration.clone());
            }
            Payload::Dissolve => self.dissolved_at = Some(entry.index),
            Payload::Skip { index } => {
                self.skips.insert(entry.index, *index);
            }
            _ => {}
        }
        self.entries.push_back(entry);
    }

    /// Drops everything from `index` on; configurations roll back with it (§6). Entries that are no
    /// longer in memory are never truncated here by a correct leader: they were durable and old.
    pub(crate) fn truncate_from(&mut self, index: Index) {
        assert!(
            index > self.base.index,
            "what a snapshot covers is never truncated"
        );
        while let Some(entry) = self.entries.back() {
            if entry.index < index {
                break;
            }
            self.bytes -= entry.cost_bytes();
            self.entries.pop_back();
        }
        while self.terms.last().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop();
        }
        let last_index = index - 1;
        self.last = Position {
            index: last_index,
            term: self.terms.last().map_or(self.base.term, |(_, term)| *term),
        };
        if !mutant!(ConfigurationNotRolledBack) {
            self.configurations.truncate_from(index);
        }
        self.skips.split_off(&index);
        if self.dissolved_at.is_some_and(|at| at >= index) {
            self.dissolved_at = None;
        }
        if last_index == 0 {
            self.cluster_id = None;
        }
    }

    /// A complete snapshot is on the disk, and its last entry is in this log.
    pub(crate) fn set_snapshot(&mut self, snapshot: Arc<SnapshotMeta>) {
        self.snapshot = Some(snapshot);
    }

    /// Lets everything up to `index` go: a snapshot covers it (§7).
    pub(crate) fn compact(&mut self, index: Index) {
        let Some(term) = self.term_at(index) else {
            return;
        };
        self.base = Position { index, term };
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.index <= index)
        {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.cost_bytes();
            }
        }
        let gone = self.terms.partition_point(|(first, _)| *first <= index + 1);
        self.terms.drain(..gone.saturating_sub(1));
        match self.terms.first_mut() {
            _ if index == self.last.index => self.terms.clear(),
            Some((first, _)) => *first = (*first).max(index + 1),
            None => {}
        }
        self.configurations.forget_before(index);
        self.skips.retain(|_, skipped| *skipped > index);
    }

    /// The whole log gives way to a snapshot, and goes on behind it (§7, W2).
    pub(crate) fn install(&mut self, snapshot: Arc<SnapshotMeta>) {
        self.base = snapshot.position;
        self.last = snapshot.position;
        self.terms.clear();
        self.entries.clear();
        self.bytes = 0;
        self.skips.clear();
        if !mutant!(W2ConfigurationStays) {
            self.configurations = Configurations::default();
            let (index, configuration) = (snapshot.configuration_index, &snapshot.configuration);
            self.configurations.append(index, configuration.clone());
        }
        self.cluster_id = Some(snapshot.cluster_id);
        self.has_entries = true;
        self.dissolved_at = None;
        self.last_log_time_ms = self.last_log_time_ms.max(snapshot.log_time_ms);
        self.snapshot = Some(snapshot);
    }

    /// Entries from `from` to `to` at most, until `max_bytes` are reached (but always one).
    /// None when `from` is no longer in memory.
    pub(crate) fn slice(
        &self,
        from: Index,
        to: Index,
        max_bytes: usize,
        max_entries: usize,
    ) -> Option<Vec<Entry>> {
        let offset = from.checked_sub(self.first_in_memory())?;
        let mut bytes = 0;
        let mut slice = Vec::new();
        for entry in self
            .entries
            .range(usize::try_from(offset).ok()?.min(self.entries.len())..)
        {
            bytes += entry.cost_bytes();
            let full = bytes > max_bytes || slice.len() >= max_entries;
            if entry.index > to || (full && !slice.is_empty()) {
                break;
            }
            slice.push(entry.clone());
        }
        Some(slice)
    }

    /// Lets durable entries go until at most `budget` bytes are in memory.
    pub(crate) fn evict(&mut self, budget: usize, durable_index: Index) {
        while self.bytes > budget {
            match self.entries.front() {
                Some(entry) if entry.index <= durable_index => {
                    self.bytes -= entry.cost_bytes();
                    self.entries.pop_front();
                }
                _ => break,
            }
        }
    }

    /// What the entries from `from` on count for, as far as they are in memory.
    pub(crate) fn cost_from(&self, from: Index) -> usize {
        self.entries
            .iter()
            .rev()
            .take_while(|e| e.index >= from)
            .map(Entry::cost_bytes)
            .sum()
    }
}

fn counts_as_content(payload: &Payload) -> bool {
    !matches!(
        payload,
        Payload::Noop | Payload::Founding { .. } | Payload::Dissolve
    )
}
