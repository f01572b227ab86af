//! The smallest disk that can lose what was not written: no bytes, only what they mean.

use std::collections::VecDeque;

use raft_core::{Entry, HardState, Payload, Persisted, Position, Recovered, SnapshotMeta, Write};
use std::sync::Arc;

/// What is durable, and what was handed over and is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    pub hard_state: HardState,
    /// What the log begins behind, on every node alike.
    pub snapshot: Arc<SnapshotMeta>,
    /// Contiguous behind the snapshot.
    pub entries: Vec<Entry>,
    pub queue: VecDeque<Write>,
}

impl Disk {
    pub fn new(snapshot: Arc<SnapshotMeta>) -> Disk {
        Disk {
            hard_state: HardState {
                current_term: snapshot.position.term,
                ..HardState::default()
            },
            snapshot,
            entries: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    pub fn last(&self) -> Position {
        let base = self.snapshot.position;
        self.entries.last().map_or(base, Entry::position)
    }

    /// Completes the oldest writes that wait, and reports the last of them.
    pub fn persist(&mut self, writes: usize) -> Option<Persisted> {
        let mut done = None;
        for write in self
            .queue
            .drain(..writes.min(self.queue.len()))
            .collect::<Vec<_>>()
        {
            done = Some((write.sequence, write.generation));
            self.apply(write);
        }
        done.map(|(sequence, generation)| Persisted {
            sequence,
            generation,
            last: self.last(),
        })
    }

    fn apply(&mut self, write: Write) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        self.entries.extend(write.entries);
    }

    /// The parts of all that waits: a crash may come between any two of them.
    pub fn parts(&self) -> usize {
        let parts = |write: &Write| {
            usize::from(write.hard_state.is_some())
                + usize::from(write.truncate_from.is_some())
                + write.entries.len()
        };
        self.queue.iter().map(parts).sum()
    }

    /// A crash: so many parts of what waited reached the disk, and nobody was told.
    pub fn crash(&mut self, mut parts: usize) {
        let mut reached = |is_there: bool| {
            let reached = is_there && parts > 0;
            parts -= usize::from(reached);
            reached
        };
        for mut write in std::mem::take(&mut self.queue) {
            if !reached(write.hard_state.is_some()) {
                write.hard_state = None;
            }
            if !reached(write.truncate_from.is_some()) {
                write.truncate_from = None;
            }
            write.entries.retain(|_| reached(true));
            self.apply(write);
        }
    }

    /// What a start finds.
    pub fn recover(&self) -> Recovered {
        let snapshot = &self.snapshot;
        let mut recovered = Recovered {
            hard_state: self.hard_state.clone(),
            cluster_id: Some(snapshot.cluster_id),
            base: snapshot.position,
            snapshot: Some(snapshot.clone()),
            last_log_time_ms: snapshot.log_time_ms,
            last: self.last(),
            configurations: vec![(snapshot.configuration_index, snapshot.configuration.clone())],
            tail: self.entries.clone(),
            ..Recovered::default()
        };
        let mut term = 0;
        for entry in &self.entries {
            if entry.term > term {
                term = entry.term;
                recovered.terms.push((entry.index, term));
            }
            recovered.last_log_time_ms = recovered.last_log_time_ms.max(entry.log_time_ms);
            if let Payload::Configuration(next) = &entry.payload {
                recovered.configurations.push((entry.index, next.clone()));
            }
        }
        recovered
    }
}
