//! The log as the core sees it: every entry's term, and the newest entries themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::configuration::{Configuration, Configurations};
use crate::durable::Recovered;
use crate::entry::{Entry, Payload};
use crate::ids::{ClusterId, Index, Position, Term};

/// The log in memory.
///
/// Invariants: indices are contiguous from 1 to `last.index`; terms never fall (§5.3); `entries` are
/// the newest ones, contiguous up to `last`; an entry leaves memory only once it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
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
}

impl Log {
    pub(crate) fn new(recovered: &Recovered) -> Log {
        let mut configurations = Configurations::default();
        for (index, configuration) in &recovered.configurations {
            configurations.append(*index, configuration.clone());
        }
        let first_in_memory = recovered.last.index + 1 - recovered.tail.len() as Index;
        Log {
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
            dissolved_at: recovered
                .tail
                .iter()
                .find(|entry| entry.payload == Payload::Dissolve)
                .map(|entry| entry.index),
            last_log_time_ms: recovered.tail.last().map_or(0, |entry| entry.log_time_ms),
            entries: recovered.tail.iter().cloned().collect(),
        }
    }

    pub(crate) fn last(&self) -> Position {
        self.last
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

    /// Term of the entry at `index`; 0 before the first, none beyond the last.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == 0 {
            return Some(0);
        }
        if index > self.last.index {
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
    /// it can agree with a log that has `limit.term` at `limit.index` (§5.3, the fast way back).
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
        Position::ZERO
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last.index + 1, "the log has no gaps");
        assert!(
            entry.term >= self.last.term,
            "terms never fall along the log"
        );
        if entry.term > self.last.term {
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
            _ => {}
        }
        self.entries.push_back(entry);
    }

    /// Drops everything from `index` on; configurations roll back with it (§6). Entries that are no
    /// longer in memory are never truncated here by a correct leader: they were durable and old.
    pub(crate) fn truncate_from(&mut self, index: Index) {
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
            term: self.terms.last().map_or(0, |(_, term)| *term),
        };
        self.configurations.truncate_from(index);
        if self.dissolved_at.is_some_and(|at| at >= index) {
            self.dissolved_at = None;
        }
        if last_index == 0 {
            self.cluster_id = None;
        }
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
