//! What was changed of late, in memory, for those who watch.
//!
//! It begins at the applied index of the process's start, or of a restore, and forgets its oldest
//! entries when there are too many: all events of an entry go together. Nothing of a batch is in it
//! before the batch is committed.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Event, Limits};

/// What an event is reckoned to take beside its bytes.
const EVENT_OVERHEAD_BYTES: usize = 128;

/// What one entry changed: one event at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub index: u64,
    pub events: Vec<Event>,
}

impl Change {
    fn bytes(&self) -> usize {
        let bytes = |event: &Event| event.bytes().saturating_add(EVENT_OVERHEAD_BYTES);
        self.events
            .iter()
            .fold(0, |sum, event| sum.saturating_add(bytes(event)))
    }
}

/// Changes in order, and how far they reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub changes: Vec<Arc<Change>>,
    /// There are no other changes up to here.
    pub up_to: u64,
}

/// The index that was asked for is no longer kept; this is the first that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compacted(pub u64);

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    max_events: usize,
    max_bytes: usize,
    /// Everything from here on that is applied is kept.
    first: u64,
    applied: u64,
    /// How often the state has become another one.
    restores: u64,
    changes: VecDeque<Arc<Change>>,
    events: usize,
    bytes: usize,
}

impl History {
    /// An empty one, behind a state as of `applied`.
    pub fn new(limits: &Limits, applied: u64) -> Self {
        Self {
            max_events: limits.watch_history_events,
            max_bytes: limits.watch_history_bytes,
            first: applied.saturating_add(1),
            applied,
            restores: 0,
            changes: VecDeque::new(),
            events: 0,
            bytes: 0,
        }
    }

    /// The state is another one now, as of `applied`: how it came about is not known here.
    pub fn begin_again(&mut self, applied: u64) {
        self.changes.clear();
        (self.events, self.bytes) = (0, 0);
        (self.first, self.applied) = (applied.saturating_add(1), applied);
        self.restores = self.restores.saturating_add(1);
    }

    /// How often it has begun again.
    pub fn restores(&self) -> u64 {
        self.restores
    }

    /// The last index that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Takes what a committed batch up to `applied` changed. The newest change stays, however large.
    pub fn push(&mut self, changes: Vec<Change>, applied: u64) {
        self.applied = applied;
        for change in changes {
            self.events = self.events.saturating_add(change.events.len());
            self.bytes = self.bytes.saturating_add(change.bytes());
            self.changes.push_back(Arc::new(change));
        }
        while self.changes.len() > 1
            && (self.events > self.max_events || self.bytes > self.max_bytes)
        {
            let Some(oldest) = self.changes.pop_front() else {
                break;
            };
            self.events = self.events.saturating_sub(oldest.events.len());
            self.bytes = self.bytes.saturating_sub(oldest.bytes());
            self.first = oldest.index.saturating_add(1);
        }
    }

    /// At most `most` changes from index `from` on, which may be beyond the applied one.
    pub fn read(&self, from: u64, most: usize) -> Result<Piece, Compacted> {
        if from < self.first {
            return Err(Compacted(self.first));
        }
        let begin = self.changes.partition_point(|change| change.index < from);
        let changes: Vec<_> = self.changes.range(begin..).take(most).cloned().collect();
        let up_to = match changes.last() {
            Some(last) if begin.saturating_add(changes.len()) < self.changes.len() => last.index,
            _ => self.applied,
        };
        Ok(Piece { changes, up_to })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn history(events: usize, bytes: usize) -> History {
        let limits = Limits {
            watch_history_events: events,
            watch_history_bytes: bytes,
            ..Limits::default()
        };
        History::new(&limits, 10)
    }

    fn change(index: u64, events: usize, length: usize) -> Change {
        let event = Event::new("k", vec![b'x'; length]);
        Change {
            index,
            events: vec![event; events],
        }
    }

    fn indices(history: &History, from: u64, most: usize) -> Result<(Vec<u64>, u64), Compacted> {
        let piece = history.read(from, most)?;
        let indices = piece.changes.iter().map(|change| change.index).collect();
        Ok((indices, piece.up_to))
    }

    #[test]
    fn it_begins_behind_the_state_and_reaches_to_the_applied_index() {
        let mut history = history(100, 1 << 20);
        assert_eq!(indices(&history, 10, 9), Err(Compacted(11)));
        assert_eq!(indices(&history, 11, 9), Ok((vec![], 10)));
        history.push(vec![change(12, 1, 1), change(15, 1, 1)], 17);
        assert_eq!(indices(&history, 11, 9), Ok((vec![12, 15], 17)));
        assert_eq!(indices(&history, 13, 9), Ok((vec![15], 17)));
        assert_eq!(indices(&history, 16, 9), Ok((vec![], 17)));
        assert_eq!(indices(&history, 99, 9), Ok((vec![], 17)));
    }

    #[test]
    fn a_piece_reaches_no_further_than_its_last_change_when_there_are_more() {
        let mut history = history(100, 1 << 20);
        history.push(vec![change(12, 1, 1), change(15, 1, 1)], 17);
        assert_eq!(indices(&history, 11, 1), Ok((vec![12], 12)));
        assert_eq!(indices(&history, 13, 1), Ok((vec![15], 17)));
    }

    #[test]
    fn too_many_events_push_the_oldest_entries_out_whole() {
        let mut history = history(4, 1 << 20);
        history.push(vec![change(11, 2, 1), change(12, 2, 1)], 12);
        assert_eq!(indices(&history, 11, 9), Ok((vec![11, 12], 12)));
        history.push(vec![change(14, 1, 1)], 14);
        assert_eq!(indices(&history, 11, 9), Err(Compacted(12)));
        assert_eq!(indices(&history, 12, 9), Ok((vec![12, 14], 14)));
        // An entry over the limit alone is still told to who keeps up.
        history.push(vec![change(15, 5, 1)], 15);
        assert_eq!(indices(&history, 14, 9), Err(Compacted(15)));
        assert_eq!(indices(&history, 15, 9), Ok((vec![15], 15)));
    }

    #[test]
    fn too_many_bytes_do_so_too() {
        // Three of them fit exactly, topic included.
        let mut history = history(100, 3 * (1 + 1000 + EVENT_OVERHEAD_BYTES));
        for index in 11..=13 {
            history.push(vec![change(index, 1, 1000)], index);
        }
        assert_eq!(indices(&history, 11, 9).unwrap().0, [11, 12, 13]);
        history.push(vec![change(14, 1, 0)], 14);
        assert_eq!(indices(&history, 11, 9), Err(Compacted(12)));
        assert_eq!(indices(&history, 12, 9).unwrap().0, [12, 13, 14]);
        assert_eq!((history.events, history.changes.len()), (3, 3));
    }

    #[test]
    fn another_state_is_another_beginning() {
        let mut history = history(100, 1 << 20);
        history.push(vec![change(11, 1, 1)], 11);
        history.begin_again(40);
        assert_eq!(indices(&history, 40, 9), Err(Compacted(41)));
        assert_eq!(indices(&history, 41, 9), Ok((vec![], 40)));
        assert_eq!((history.events, history.bytes), (0, 0));
    }
}
