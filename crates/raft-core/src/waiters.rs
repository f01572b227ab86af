//! Requests that wait for their entry to be applied.
//!
//! A waiter is woken by the index *and the term* of its entry (W1): an entry of another term at the
//! same index is somebody else's, and says that the awaited one will never be committed.

use std::collections::BTreeMap;

use crate::ids::{Index, Position, Term};
use crate::io::Refusal;
use crate::sessions::Outcome;

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

/// Who waits, each with what it takes to tell him: a channel in a daemon, a name in a simulation.
#[derive(Clone, Debug)]
pub struct Waiters<Reply> {
    by_position: BTreeMap<(Index, Term), Waiter<Reply>>,
}

#[derive(Clone, Debug)]
struct Waiter<Reply> {
    /// Safe to try again elsewhere, so that an early "unknown" helps the client on.
    in_session: bool,
    reply: Reply,
}

impl<Reply> Default for Waiters<Reply> {
    fn default() -> Waiters<Reply> {
        Waiters {
            by_position: BTreeMap::new(),
        }
    }
}

impl<Reply> Waiters<Reply> {
    /// `reply` waits until the entry at `position` is applied.
    pub fn wait(&mut self, position: Position, in_session: bool, reply: Reply) {
        let waiter = Waiter { in_session, reply };
        self.by_position
            .insert((position.index, position.term), waiter);
    }

    /// The entry at `position` was applied, and came to `answer`. Tells who waited for it, and whoever
    /// waited for another entry there or before that it gave way.
    pub fn wake(
        &mut self,
        position: Position,
        answer: impl FnOnce() -> Answer,
        mut tell: impl FnMut(Reply, Answer),
    ) {
        let mut answer = Some(answer);
        while let Some(first) = self.by_position.first_entry()
            && first.key().0 <= position.index
        {
            let ((index, term), waiter) = first.remove_entry();
            let waited_for = |_: &mut _| {
                let same_term = term == position.term || mutant!(W1WokenByIndex);
                index == position.index && same_term
            };
            let word = match answer.take_if(waited_for) {
                Some(answer) => answer(),
                None => Answer::Replaced,
            };
            tell(waiter.reply, word);
        }
    }

    /// What stands up to `index` came with a snapshot: whether the entries that are waited for are among
    /// it is not known. Returns who is to be told so.
    pub fn passed(&mut self, index: Index) -> Vec<Reply> {
        self.by_position
            .extract_if(..(index + 1, 0), |_, _| true)
            .map(|(_, waiter)| waiter.reply)
            .collect()
    }

    /// This node no longer leads. Whoever waits in a session for an entry beyond `committed` is to be told
    /// that its outcome is unknown, and asks again with the same sequence. The others may not ask
    /// again, so they wait on: the entry may still be committed, and then they learn it.
    pub fn stepped_down(&mut self, committed: Index) -> Vec<Reply> {
        self.by_position
            .extract_if((committed + 1, 0).., |_, waiter| waiter.in_session)
            .map(|(_, waiter)| waiter.reply)
            .collect()
    }

    /// Forgets those who wait no more.
    pub fn retain(&mut self, mut waits: impl FnMut(&Reply) -> bool) {
        self.by_position.retain(|_, waiter| waits(&waiter.reply));
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.by_position.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.by_position.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(index: Index, term: Term) -> Position {
        Position { index, term }
    }

    #[test]
    fn an_entry_of_another_term_at_the_index_never_wakes_with_its_result() {
        let mut waiters = Waiters::default();
        waiters.wait(at(5, 1), true, "old");
        waiters.wait(at(5, 3), true, "new");
        waiters.wait(at(6, 3), true, "later");
        let mut told = Vec::new();
        waiters.wake(
            at(5, 3),
            || Answer::Registered(at(5, 3)),
            |who, answer| told.push((who, answer)),
        );
        let expected = [
            ("old", Answer::Replaced),
            ("new", Answer::Registered(at(5, 3))),
        ];
        assert_eq!(told, expected);
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn at_step_down_only_what_is_uncommitted_and_repeatable_is_unknown() {
        let mut waiters = Waiters::default();
        waiters.wait(at(5, 1), true, "committed");
        waiters.wait(at(6, 1), true, "uncommitted");
        waiters.wait(at(7, 1), false, "alone");
        assert_eq!(waiters.stepped_down(5), ["uncommitted"]);
        assert_eq!(waiters.passed(6), ["committed"]);
        let mut told = Vec::new();
        waiters.wake(at(7, 1), || Answer::Stale, |who, _| told.push(who));
        assert_eq!(told, ["alone"]);
        assert!(waiters.is_empty());
    }
}
