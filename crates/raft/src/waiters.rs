//! Requests that wait for their entry to be applied: [`raft_core::waiters`] for tasks, and how many may
//! wait.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use raft_core::waiters::Answer;
use raft_core::{Index, Position, waiters};
use tokio::sync::oneshot;

use crate::shared::locked;

/// See the module. Bounded by [`Waiting`], whose place each request holds.
#[derive(Default)]
pub struct Waiters {
    waiting: Mutex<waiters::Waiters<oneshot::Sender<Answer>>>,
    gave_up: AtomicUsize,
}

impl Waiters {
    /// `reply` is answered when the entry at `position` is applied.
    pub fn wait(&self, position: Position, in_session: bool, reply: oneshot::Sender<Answer>) {
        locked(&self.waiting).wait(position, in_session, reply);
    }

    /// The entry at `position` was applied, and came to `answer`.
    pub fn wake(&self, position: Position, answer: impl FnOnce() -> Answer) {
        // Whoever gave up waiting is not told.
        locked(&self.waiting).wake(position, answer, |reply, answer| drop(reply.send(answer)));
    }

    /// What stands up to `index` came with a snapshot: whether the entries that are waited for are among
    /// it is not known.
    pub fn passed(&self, index: Index) {
        unknown(locked(&self.waiting).passed(index));
    }

    /// This node no longer leads: see [`waiters::Waiters::stepped_down`].
    pub fn stepped_down(&self, committed: Index) {
        unknown(locked(&self.waiting).stepped_down(committed));
    }

    /// Somebody gave up. Once as many did as are still waiting, they are forgotten: what is kept
    /// stays in proportion to who waits, and each is looked at a bounded number of times.
    pub fn gave_up(&self) {
        let mut waiting = locked(&self.waiting);
        let gave_up = self.gave_up.fetch_add(1, Ordering::Relaxed) + 1;
        if gave_up * 2 >= waiting.len() {
            waiting.retain(|reply| !reply.is_closed());
            self.gave_up.store(0, Ordering::Relaxed);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        locked(&self.waiting).len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn unknown(replies: Vec<oneshot::Sender<Answer>>) {
    for reply in replies {
        let _ = reply.send(Answer::Unknown);
    }
}

/// Places for client entries: `MaxWaitingEntries` of them, `MaxWaitingBytes` together.
pub struct Waiting {
    entries_max: usize,
    bytes_max: usize,
    entries: AtomicUsize,
    bytes: AtomicUsize,
}

/// A place, given back when it is dropped.
pub struct Place<'a> {
    waiting: &'a Waiting,
    bytes: usize,
}

impl Waiting {
    /// So many places.
    pub fn new(entries_max: usize, bytes_max: usize) -> Waiting {
        Waiting {
            entries_max,
            bytes_max,
            entries: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// A place for an entry of so many bytes; none when too much waits already.
    pub fn take(&self, bytes: usize) -> Option<Place<'_>> {
        let place = Place {
            waiting: self,
            bytes,
        };
        let entries = self.entries.fetch_add(1, Ordering::Relaxed);
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = entries < self.entries_max && total.saturating_add(bytes) <= self.bytes_max;
        // Dropping the place undoes the count.
        fits.then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.entries.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_limited_by_number_and_bytes_and_are_given_back() {
        let waiting = Waiting::new(2, 100);
        let first = waiting.take(60).unwrap();
        assert!(waiting.take(41).is_none(), "too many bytes");
        let second = waiting.take(40).unwrap();
        assert!(waiting.take(0).is_none(), "too many entries");
        drop((first, second));
        assert!(waiting.take(100).is_some());
    }
}
