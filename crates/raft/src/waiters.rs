//! Requests that wait for their entry to be applied.
//!
//! A waiter is woken by the index *and the term* of its entry (W1): an entry of another term at the
//! same index is somebody else's, and says that the awaited one will never be committed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use raft_core::sessions::Outcome;
use raft_core::{Index, Position, Refusal, Term};
use tokio::sync::oneshot;

use crate::shared::locked;

/// What became of a client's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The state machine's word, now or when the entry was first applied.
    Outcome(Position, Outcome),
    /// The session is open; its id is the index.
    Registered(Position),
    /// The session is in use.
    KeptAlive(Position),
    /// The session is unknown, or has expired: nothing was applied.
    SessionExpired,
    /// Below what the client acknowledged: nothing was applied now.
    Stale,
    /// It was not appended.
    Refused(Refusal),
    /// The log may not grow. It was not appended.
    LogFull(String),
    /// Another entry is committed in its place: it will never be applied.
    Replaced,
    /// It was appended, and whether it will be committed is not known.
    Unknown,
}

struct Waiter {
    /// Safe to try again elsewhere, so that an early "unknown" helps the client on.
    in_session: bool,
    reply: oneshot::Sender<Answer>,
}

/// See the module. Bounded by [`Waiting`], whose place each request holds.
#[derive(Default)]
pub struct Waiters {
    by_position: Mutex<BTreeMap<(Index, Term), Waiter>>,
    gave_up: AtomicUsize,
}

impl Waiters {
    /// `reply` is answered when the entry at `position` is applied.
    pub fn wait(&self, position: Position, in_session: bool, reply: oneshot::Sender<Answer>) {
        let waiter = Waiter { in_session, reply };
        locked(&self.by_position).insert((position.index, position.term), waiter);
    }

    /// The entry at `position` was applied, and came to `answer`.
    pub fn wake(&self, position: Position, answer: impl FnOnce() -> Answer) {
        let mut answer = Some(answer);
        let mut by_position = locked(&self.by_position);
        while let Some(first) = by_position.first_entry()
            && first.key().0 <= position.index
        {
            let ((index, term), waiter) = first.remove_entry();
            let word = match answer.take_if(|_| (index, term) == (position.index, position.term)) {
                Some(answer) => answer(),
                None => Answer::Replaced,
            };
            // Whoever gave up waiting is not told.
            let _ = waiter.reply.send(word);
        }
    }

    /// What stands up to `index` came with a snapshot: whether the entries that are waited for are among
    /// it is not known.
    pub fn passed(&self, index: Index) {
        let unknown: Vec<Waiter> = locked(&self.by_position)
            .extract_if(..(index + 1, 0), |_, _| true)
            .map(|(_, waiter)| waiter)
            .collect();
        for waiter in unknown {
            let _ = waiter.reply.send(Answer::Unknown);
        }
    }

    /// This node no longer leads. Whoever waits in a session for an entry beyond `committed` is told
    /// that its outcome is unknown, and asks again with the same sequence. The others may not ask
    /// again, so they wait on: the entry may still be committed, and then they learn it.
    pub fn stepped_down(&self, committed: Index) {
        let unknown: Vec<Waiter> = locked(&self.by_position)
            .extract_if((committed + 1, 0).., |_, waiter| waiter.in_session)
            .map(|(_, waiter)| waiter)
            .collect();
        for waiter in unknown {
            let _ = waiter.reply.send(Answer::Unknown);
        }
    }

    /// Somebody gave up. Once as many did as are still waiting, they are forgotten: what is kept
    /// stays in proportion to who waits, and each is looked at a bounded number of times.
    pub fn gave_up(&self) {
        let mut by_position = locked(&self.by_position);
        let gave_up = self.gave_up.fetch_add(1, Ordering::Relaxed) + 1;
        if gave_up * 2 >= by_position.len() {
            by_position.retain(|_, waiter| !waiter.reply.is_closed());
            self.gave_up.store(0, Ordering::Relaxed);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        locked(&self.by_position).len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    fn at(index: Index, term: Term) -> Position {
        Position { index, term }
    }

    fn waiting(waiters: &Waiters, position: Position) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        waiters.wait(position, true, reply);
        answer
    }

    #[test]
    fn an_entry_of_another_term_at_the_index_never_wakes_with_its_result() {
        let waiters = Waiters::default();
        let mut old = waiting(&waiters, at(5, 1));
        let mut new = waiting(&waiters, at(5, 3));
        let mut later = waiting(&waiters, at(6, 3));
        waiters.wake(at(5, 3), || Answer::Registered(at(5, 3)));
        assert_eq!(old.try_recv().unwrap(), Answer::Replaced);
        assert_eq!(new.try_recv().unwrap(), Answer::Registered(at(5, 3)));
        assert!(later.try_recv().is_err());
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn at_step_down_only_what_is_uncommitted_and_repeatable_is_unknown() {
        let waiters = Waiters::default();
        let mut committed = waiting(&waiters, at(5, 1));
        let mut uncommitted = waiting(&waiters, at(6, 1));
        let (reply, mut alone) = oneshot::channel();
        waiters.wait(at(7, 1), false, reply);
        waiters.stepped_down(5);
        assert!(committed.try_recv().is_err());
        assert_eq!(uncommitted.try_recv().unwrap(), Answer::Unknown);
        assert!(alone.try_recv().is_err());
        waiters.wake(at(7, 1), || Answer::Stale);
        assert_eq!(alone.try_recv().unwrap(), Answer::Stale);
    }

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
