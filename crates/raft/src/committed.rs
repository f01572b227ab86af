//! Committed entries on their way from the driver to digest_commits.
//!
//! The driver hands over what it has in memory and never waits. When the state machine falls behind
//! by more than [`COMMITTED_BYTES`], the oldest are let go: they are read from the disk again.

use std::collections::VecDeque;
use std::sync::Mutex;

use raft_core::{Entry, Index};
use tokio::sync::watch;

use crate::limits::COMMITTED_BYTES;
use crate::shared::locked;

/// See the module.
pub struct Committed {
    /// Everything up to here is committed and durable in this node's own log (D1).
    pub index: watch::Sender<Index>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Default for Committed {
    fn default() -> Committed {
        Committed {
            index: watch::Sender::new(0),
            queue: Mutex::default(),
        }
    }
}

impl Committed {
    /// `entries`, as far as they are in memory, end somewhere at or before `index`, up to which all
    /// is committed and durable.
    pub fn hand_out(&self, entries: Vec<Entry>, index: Index) {
        locked(&self.queue).push(entries, COMMITTED_BYTES);
        self.index.send_replace(index);
    }

    /// Takes entries from `from` on, within the limits, but at least one. None: the entry at `from`
    /// is not in memory.
    pub fn take(&self, from: Index, max_entries: usize, max_bytes: usize) -> Option<Vec<Entry>> {
        locked(&self.queue).take(from, max_entries, max_bytes)
    }

    /// Gives back what was taken last and is not wanted yet.
    pub fn put_back(&self, entries: Vec<Entry>) {
        locked(&self.queue).put_back(entries);
    }

    /// The first index in memory, if there is any.
    pub fn first(&self) -> Option<Index> {
        locked(&self.queue).entries.front().map(|entry| entry.index)
    }
}

impl Queue {
    fn push(&mut self, entries: Vec<Entry>, bytes_max: usize) {
        let (Some(first), Some(last)) = (entries.first(), self.entries.back()) else {
            self.extend(entries, bytes_max);
            return;
        };
        if first.index != last.index + 1 {
            *self = Queue::default();
        }
        self.extend(entries, bytes_max);
    }

    fn extend(&mut self, entries: Vec<Entry>, bytes_max: usize) {
        for entry in entries {
            self.bytes += entry.cost_bytes();
            self.entries.push_back(entry);
        }
        while self.bytes > bytes_max {
            self.pop();
        }
    }

    fn put_back(&mut self, entries: Vec<Entry>) {
        for entry in entries.into_iter().rev() {
            if self
                .entries
                .front()
                .is_some_and(|first| first.index != entry.index + 1)
            {
                return; // The disk has it.
            }
            self.bytes += entry.cost_bytes();
            self.entries.push_front(entry);
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.cost_bytes();
        Some(entry)
    }

    fn take(&mut self, from: Index, max_entries: usize, max_bytes: usize) -> Option<Vec<Entry>> {
        while self.entries.front().is_some_and(|entry| entry.index < from) {
            self.pop();
        }
        if self.entries.front()?.index != from {
            return None;
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < max_entries
            && let Some(entry) = self.entries.front()
        {
            bytes += entry.cost_bytes();
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.extend(self.pop());
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raft_core::{Command, Payload};

    fn entries(range: std::ops::RangeInclusive<Index>) -> Vec<Entry> {
        range
            .map(|index| Entry {
                index,
                term: 1,
                log_time_ms: 0,
                payload: Payload::Command(Command {
                    session: 0,
                    sequence: 0,
                    acked_below: 0,
                    bytes: vec![0; 52].into(),
                }),
            })
            .collect()
    }

    fn indices(entries: &[Entry]) -> Vec<Index> {
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn a_lagging_reader_loses_the_oldest_and_is_told_so() {
        let mut queue = Queue::default();
        queue.push(entries(1..=5), 300);
        assert!(queue.take(1, 10, 1000).is_none(), "1 and 2 were let go");
        assert_eq!(indices(&queue.take(3, 10, 1000).unwrap()), [3, 4, 5]);
        assert!(queue.take(6, 10, 1000).is_none());
    }

    #[test]
    fn batches_keep_to_the_limits_but_always_move_on() {
        let mut queue = Queue::default();
        queue.push(entries(1..=5), 1000);
        assert_eq!(indices(&queue.take(1, 2, 1000).unwrap()), [1, 2]);
        assert_eq!(indices(&queue.take(3, 10, 200).unwrap()), [3, 4]);
        assert_eq!(indices(&queue.take(5, 10, 1).unwrap()), [5]);
    }

    #[test]
    fn a_gap_starts_anew() {
        let mut queue = Queue::default();
        queue.push(entries(1..=2), 1000);
        queue.push(entries(5..=6), 1000);
        assert!(queue.take(1, 10, 1000).is_none());
        assert_eq!(indices(&queue.take(5, 10, 1000).unwrap()), [5, 6]);
    }
}
