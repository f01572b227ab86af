//! The repair of a log that is damaged in its middle, from what peers have (D6).
//!
//! A node whose log lacks entries that it may have acknowledged must not lead or vote by what is left of
//! it, nor acknowledge or apply what it cannot read. Here it does none of this because it is not up: there
//! is no [`Raft`] without a whole log. Until the log is repaired the node is to the others one that has
//! crashed, and that is always safe. What it had promised, term and vote, stands behind the damage as
//! well, and the log that it then starts with is the one that it had: nothing was forgotten meanwhile.
//!
//! **What is put back is what was there.** The log knows the index and term of an entry at or behind the
//! damage, the *anchor*. A peer whose log has an entry of this index and term has the same entries before
//! it (Log Matching, §5.3; figure 3), so it may give them: leader or not, committed or not. Its entries
//! are taken only while it holds the anchor.
//!
//! **What was never committed may go.** If a peer knows an entry as committed that cannot be in the
//! damaged log, because another term stands in its place, or because its term is higher than that of the
//! anchor behind it (terms never fall along a log), then nothing of the damaged log from there on was
//! committed (figure 3, State Machine Safety; §5.4.3), and no acknowledgement of it counts. The log is
//! truncated, and goes on with the peer's entries up to and including that one, which are committed too:
//! what this node had acknowledged of them it then holds again. To drop the lost entries alone would not
//! do: it might vote for a candidate without a committed one of them.
//!
//! **Otherwise it waits.** As long as no reachable peer can say either, some acknowledged entry may be in
//! this log only, or nowhere any more; the node says so, and asks again. A leader of a higher term settles
//! it with the first entry of its term that it commits; one of the same term holds the anchor itself.

use crate::entry::Entry;
use crate::ids::{Index, Position, Term};
use crate::raft::Raft;

/// More than this is not gathered: a damaged place is never longer than a segment, and what replaces it
/// must fit one batch.
pub const MAX_REPAIR_BYTES: usize = 512 << 20;

/// The intact beginning of a damaged log, as far as it is in entries: their terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Just before its first entry.
    pub base: Position,
    /// First index and term of every run of entries of one term, in order. A term of 0: not known.
    pub terms: Vec<(Index, Term)>,
    /// Its last index.
    pub last: Index,
}

impl Known {
    /// The entry at `index`, or the base. None elsewhere, and where the term is not known.
    fn at(&self, index: Index) -> Option<Position> {
        if index == self.base.index {
            return Some(self.base);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        let (_, term) = *self.terms.get(run.checked_sub(1)?)?;
        (term > 0).then_some(Position { index, term })
    }

    /// Whether this entry is in it, or is its base.
    pub fn holds(&self, position: Position) -> bool {
        self.at(position.index) == Some(position)
    }

    /// The last entry at or before `limit.index` whose term is at most `limit.term`, the base included.
    fn last_possible_match(&self, limit: Position) -> Option<Position> {
        let mut index = limit.index.min(self.last);
        for (first, term) in self.terms.iter().rev() {
            if *first > index {
                continue;
            }
            if *term > 0 && *term <= limit.term {
                return Some(Position { index, term: *term });
            }
            index = first - 1;
        }
        (index >= self.base.index && self.base.term <= limit.term).then_some(self.base)
    }
}

/// What a damaged log lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// What is intact before the damage. Its end may be stale: a truncation may be among what was lost.
    pub known: Known,
    /// The last entry that is missing.
    pub last: Index,
    /// An entry of this log whose index and term are known: the last missing one, or one behind it.
    pub anchor: Position,
}

/// What a peer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Entries are wanted from right behind this one, if the peer has it.
    pub previous: Position,
    /// And no further than to this index; whether the peer has this very entry matters most.
    pub anchor: Position,
}

/// What it answers, all of it as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its log has the anchor.
    pub holds_anchor: bool,
    /// Its log has the entry `previous`.
    pub holds_previous: bool,
    /// If it has not: nothing of its log behind this agrees with one that has `previous` (§5.3).
    pub hint: Position,
    /// Its entries behind `previous`, as many as it likes to send at once.
    pub entries: Vec<Entry>,
    /// What it knows to be committed.
    pub commit_index: Index,
    /// Where its log begins: what is before is in a snapshot only.
    pub base: Position,
}

impl Raft {
    /// Answers a node whose log is damaged. `entries` were read from this node's disk behind
    /// `question.previous`; those are given that are still what the log says.
    pub fn answer(&self, question: &Question, entries: Vec<Entry>) -> Answer {
        let Question { previous, anchor } = *question;
        let holds_previous = self.log.matches(previous);
        let genuine = (previous.index.saturating_add(1)..=anchor.index)
            .zip(entries)
            .take_while(|(index, entry)| {
                entry.index == *index && self.log.matches(entry.position())
            });
        Answer {
            holds_anchor: self.log.matches(anchor),
            holds_previous,
            hint: self.log.last_possible_match(previous),
            entries: match holds_previous {
                true => genuine.map(|(_, entry)| entry).collect(),
                false => Vec::new(),
            },
            commit_index: self.commit_index(),
            base: self.log.base(),
        }
    }
}

/// What comes of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The same peer is to be asked the next question.
    Ask,
    /// These are the missing entries, behind the intact entry `joint`: they are to be put back.
    Mend {
        /// What stands before them.
        joint: Position,
        /// Up to the last missing one.
        entries: Vec<Entry>,
    },
    /// Nothing behind `joint` but perhaps some of these was ever committed, and these are: the log is to
    /// be truncated there, and to go on with them.
    GiveUp {
        /// What stands before them.
        joint: Position,
        /// Committed, and at least one.
        entries: Vec<Entry>,
    },
    /// This peer cannot help now. For people.
    Useless(&'static str),
}

/// One peer's part in a repair: asks it until it has given what is needed, or cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    lost: Lost,
    joint: Position,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Repair {
    /// Begins to ask a peer.
    pub fn new(lost: Lost) -> Repair {
        // The intact beginning may reach behind what is missing, when a truncation was lost, too.
        let known = &lost.known;
        let limit = Position {
            index: known.last.min(lost.last),
            term: Term::MAX,
        };
        let joint = known.last_possible_match(limit).unwrap_or(known.base);
        Repair {
            lost,
            joint,
            entries: Vec::new(),
            bytes: 0,
        }
    }

    /// What to ask next.
    pub fn question(&self) -> Question {
        Question {
            previous: self.entries.last().map_or(self.joint, Entry::position),
            anchor: self.lost.anchor,
        }
    }

    /// Takes the answer to [`Repair::question`].
    pub fn take(&mut self, answer: Answer) -> Step {
        let previous = self.question().previous;
        if previous.index < answer.base.index {
            return self.join_at_base(answer.base);
        }
        if !answer.holds_previous {
            return self.look_further_back(previous, answer.hint);
        }
        let holds_anchor = answer.holds_anchor || mutant!(D6UnverifiedEntries);
        if holds_anchor && previous.index == self.lost.last {
            return self.mend();
        }
        let mut grown = false;
        let mut last = previous;
        for entry in answer.entries {
            if entry.index != last.index + 1 || entry.term < last.term {
                return Step::Useless("its entries are no row");
            }
            last = entry.position();
            let committed = last.index <= answer.commit_index || mutant!(D6UncommittedBelieved);
            if last.index > self.lost.anchor.index || !(holds_anchor || committed) {
                break;
            }
            self.bytes += entry.cost_bytes();
            if self.bytes > MAX_REPAIR_BYTES {
                return Step::Useless(
                    "it has more in the place of what is missing than can be stored",
                );
            }
            self.entries.push(entry);
            grown = true;
            if holds_anchor && last.index == self.lost.last {
                return self.mend();
            }
            if !holds_anchor && self.contradicts(last) {
                let (joint, entries) = (self.joint, std::mem::take(&mut self.entries));
                return Step::GiveUp { joint, entries };
            }
        }
        match grown {
            true => Step::Ask,
            false if holds_anchor => Step::Useless("it cannot read what is missing"),
            false => Step::Useless(
                "it has other entries in the place of what is missing, or none, and knows none of \
                 them as committed",
            ),
        }
    }

    fn mend(&mut self) -> Step {
        let (last, anchor) = (self.question().previous, self.lost.anchor);
        // Who holds the anchor holds nothing else. What says so and does not is broken.
        let leads_there = last.term <= anchor.term && (last.index < anchor.index || last == anchor);
        if !leads_there && !mutant!(D6UnverifiedEntries) {
            return Step::Useless("its entries do not lead to those that are intact here");
        }
        let (joint, entries) = (self.joint, std::mem::take(&mut self.entries));
        Step::Mend { joint, entries }
    }

    /// Whether an entry that is committed cannot be in the damaged log.
    fn contradicts(&self, committed: Position) -> bool {
        let anchor = self.lost.anchor;
        committed.term > anchor.term
            || (committed.index == anchor.index && committed.term != anchor.term)
    }

    /// What was asked for is in the peer's log no more.
    fn join_at_base(&mut self, base: Position) -> Step {
        let known = &self.lost.known;
        if self.entries.is_empty() && known.holds(base) && base.index <= self.lost.last {
            self.joint = base;
            return Step::Ask;
        }
        Step::Useless("it has what is missing in a snapshot only")
    }

    fn look_further_back(&mut self, previous: Position, hint: Position) -> Step {
        if !self.entries.is_empty() {
            return Step::Useless("its log has changed meanwhile");
        }
        let limit = Position {
            index: hint.index.min(previous.index.saturating_sub(1)),
            term: hint.term,
        };
        match self.lost.known.last_possible_match(limit) {
            Some(joint) if joint.index < previous.index => {
                self.joint = joint;
                Step::Ask
            }
            _ => Step::Useless("its log and this one have nothing in common"),
        }
    }
}
