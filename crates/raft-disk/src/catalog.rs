//! Where each entry lies: the index that the writer keeps and readers share.
//!
//! It has one [`Run`] for some 64 KiB of log, and one more for each truncation and segment: 48 bytes
//! of memory for 64 KiB of disk. Compaction takes runs off its front.

use std::collections::VecDeque;

use raft_core::{Index, Position, Term};

/// A run ends when it is longer than this.
pub(crate) const RUN_BYTES: u64 = 64 << 10;

/// Consecutive entries that lie one behind the other in one segment, with nothing but batch headers
/// and records of other kinds between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub first: Index,
    pub last: Index,
    pub segment: u64,
    /// Where the first entry's record begins, and where the last one's ends.
    pub start: u64,
    pub end: u64,
    /// Bytes of all runs before it, those included that are compacted away by now.
    before: u64,
}

impl Run {
    fn bytes_behind(&self) -> u64 {
        self.before + (self.end - self.start)
    }
}

/// All runs, in order of index and without gaps (but for damage, while a log is replayed).
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    runs: VecDeque<Run>,
    /// The last run may grow: nothing was truncated behind it.
    growing: bool,
    /// What lies at or before this index is covered by a snapshot, and not to be read here.
    base: Index,
    /// Grows with each truncation: a reader that sees it change reads again.
    pub truncations: u64,
    /// Grows with each compaction: a reader that failed since then looks again.
    pub compactions: u64,
}

impl Catalog {
    /// The entry `index` lies at these bytes of `segment`.
    pub(crate) fn append(&mut self, index: Index, segment: u64, start: u64, end: u64) {
        if self.growing
            && let Some(run) = self.runs.back_mut()
            && run.segment == segment
            && end - run.start <= RUN_BYTES
        {
            run.last = index;
            run.end = end;
            return;
        }
        let before = self.runs.back().map_or(0, Run::bytes_behind);
        self.runs.push_back(Run {
            first: index,
            last: index,
            segment,
            start,
            end,
            before,
        });
        self.growing = true;
    }

    /// Every entry from `index` on is gone.
    pub(crate) fn truncate_from(&mut self, index: Index) {
        let Some(last) = self.runs.back() else { return };
        if index > last.last {
            return;
        }
        let kept = self.runs.partition_point(|run| run.first < index);
        self.runs.truncate(kept);
        if let Some(run) = self.runs.back_mut() {
            run.last = run.last.min(index - 1);
        }
        self.growing = false;
        self.truncations += 1;
    }

    /// Entries that are to come next are damaged: whatever comes behind them is not in the same run.
    pub(crate) fn interrupt(&mut self) {
        self.growing = false;
    }

    /// Every entry is gone, and the log goes on behind `base`.
    pub(crate) fn reset(&mut self, base: Index) {
        self.runs.clear();
        self.growing = false;
        self.base = base;
        self.truncations += 1;
    }

    /// Entries up to `base` are no longer to be read.
    pub(crate) fn compact(&mut self, base: Index) {
        if base <= self.base {
            return;
        }
        self.base = base;
        self.compactions += 1;
        while self.runs.front().is_some_and(|run| run.last <= base) {
            self.runs.pop_front();
        }
    }

    /// The index of the first entry that lies in `segment` or behind it; none when there is no such
    /// entry.
    pub(crate) fn first_in(&self, segment: u64) -> Option<Index> {
        let place = self.runs.partition_point(|run| run.segment < segment);
        self.runs.get(place).map(|run| run.first)
    }

    /// The run that holds `index`.
    pub(crate) fn find(&self, index: Index) -> Option<Run> {
        if index <= self.base {
            return None;
        }
        let next = self.runs.partition_point(|run| run.first <= index);
        let run = *self.runs.get(next.checked_sub(1)?)?;
        (run.last >= index).then_some(run)
    }

    /// The first index that can be read; one past the end when there is none.
    pub(crate) fn first(&self) -> Index {
        self.base + 1
    }

    pub(crate) fn last(&self) -> Index {
        self.runs.back().map_or(self.base, |run| run.last)
    }

    /// Bytes of log from the run that holds `index` on.
    pub(crate) fn bytes_from(&self, index: Index) -> u64 {
        let place = self.runs.partition_point(|run| run.last < index);
        match (self.runs.get(place), self.runs.back()) {
            (Some(run), Some(last)) => last.bytes_behind() - run.before,
            _ => 0,
        }
    }

    /// The lowest index at which a run begins and from which on the log takes no more than `bytes`;
    /// one past the end when even the last run takes more.
    pub(crate) fn index_within(&self, bytes: u64) -> Index {
        let all = self.runs.back().map_or(0, Run::bytes_behind);
        let place = self.runs.partition_point(|run| all - run.before > bytes);
        let first = self
            .runs
            .get(place)
            .map_or(self.last() + 1, |run| run.first);
        first.max(self.first())
    }

    #[cfg(test)]
    pub(crate) fn runs(&self) -> &VecDeque<Run> {
        &self.runs
    }
}

/// Stands for the term of an entry that is damaged, while a log is replayed. No entry has it.
pub(crate) const UNKNOWN_TERM: Term = 0;

/// The terms of the log's entries, and with them its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// What stands just before the first entry.
    pub base: Position,
    /// The base's term is not known: the log was truncated to a place whose entry lay in a segment
    /// that has been removed. Only while a log is replayed.
    pub base_is_vague: bool,
    /// For each run of entries of one term: the first index and the term.
    pub starts: Vec<(Index, Term)>,
    pub last: Index,
}

impl Terms {
    pub(crate) fn append(&mut self, position: Position) {
        if self
            .starts
            .last()
            .is_none_or(|(_, term)| *term != position.term)
        {
            self.starts.push((position.index, position.term));
        }
        self.last = position.index;
    }

    pub(crate) fn truncate_from(&mut self, index: Index) {
        if index > self.last {
            return;
        }
        self.last = index.saturating_sub(1);
        let kept = self
            .starts
            .partition_point(|(first, _)| *first <= self.last);
        self.starts.truncate(kept);
        if self.last < self.base.index {
            self.base = Position {
                index: self.last,
                term: 0,
            };
            self.base_is_vague = self.last > 0;
        }
    }

    /// What comes next, up to `last`, is damaged: of all that only the last one's term is known.
    pub(crate) fn lose(&mut self, last: Position) {
        if self.last + 1 < last.index {
            self.starts.push((self.last + 1, UNKNOWN_TERM));
        }
        self.append(last);
    }

    /// The last entry is one that is damaged, and something behind it knows its term.
    pub(crate) fn know_last(&mut self, last: Position) {
        match self.starts.last_mut() {
            Some((first, term)) if *first == last.index => *term = last.term,
            _ => self.starts.push((last.index, last.term)),
        }
    }

    /// A snapshot covers everything up to `base`, damaged or not, and the log goes on behind it.
    pub(crate) fn cover(&mut self, base: Position) {
        let next = (base.index < self.last).then(|| self.term_at(base.index + 1));
        self.base = base;
        self.base_is_vague = false;
        self.last = self.last.max(base.index);
        self.starts.retain(|(first, _)| *first > base.index);
        if let Some(Some(term)) = next
            && self
                .starts
                .first()
                .is_none_or(|(first, _)| *first > base.index + 1)
        {
            self.starts.insert(0, (base.index + 1, term));
        }
    }

    /// The first entry at or behind `index` whose term is known.
    pub(crate) fn known_from(&self, index: Index) -> Option<Position> {
        let here = self.term_at(index).filter(|term| *term != UNKNOWN_TERM);
        if let Some(term) = here {
            return Some(Position { index, term });
        }
        let mut behind = self.starts.iter();
        let (index, term) = behind.find(|(first, term)| *first > index && *term != UNKNOWN_TERM)?;
        Some(Position {
            index: *index,
            term: *term,
        })
    }

    /// Every entry is gone, and the log goes on behind `base`.
    pub(crate) fn reset(&mut self, base: Position) {
        *self = Terms {
            base,
            last: base.index,
            ..Terms::default()
        };
    }

    /// The entry at `index` becomes the base; what lies before it is forgotten.
    pub(crate) fn compact(&mut self, index: Index) {
        let Some(term) = self.term_at(index) else {
            return;
        };
        if index <= self.base.index {
            return;
        }
        self.base = Position { index, term };
        self.base_is_vague = false;
        let over = self.starts.partition_point(|(first, _)| *first <= index);
        // The run that holds the base goes on behind it, or ends with it.
        let next = self
            .starts
            .get(over)
            .map_or(self.last + 1, |(first, _)| *first);
        self.starts.drain(..over);
        if next > index + 1 {
            self.starts.insert(0, (index + 1, term));
        }
    }

    /// Term of the entry at `index`, or of the base; none elsewhere.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return (!self.base_is_vague).then_some(self.base.term);
        }
        if index > self.last {
            return None;
        }
        let run = self.starts.partition_point(|(first, _)| *first <= index);
        self.starts.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Whether an entry with this index and term is here, or is the base.
    pub(crate) fn holds(&self, position: Position) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    pub(crate) fn last(&self) -> Position {
        match self.starts.last() {
            Some((_, term)) => Position {
                index: self.last,
                term: *term,
            },
            None => self.base,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the plainest of models: one place for each entry.
    #[test]
    fn every_entry_is_found_where_it_was_put() {
        let mut state = 7u64;
        let mut below = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut catalog = Catalog::default();
        let mut terms = Terms::default();
        let mut base = Position::ZERO;
        let mut model: Vec<(u64, u64, u64, Term)> = Vec::new();
        let (mut segment, mut at, mut term) = (1, 100, 1);
        for round in 0..20_000 {
            let last = base.index + model.len() as Index;
            match below(20) {
                0 => {
                    let from = base.index + 1 + below(model.len() as u64 + 2);
                    catalog.truncate_from(from);
                    terms.truncate_from(from);
                    model.truncate((from - base.index) as usize - 1);
                    term += below(2);
                }
                1 => (segment, at) = (segment + 1, 100),
                2 if below(9) == 0 => {
                    let index = base.index + below(model.len() as u64 + 1);
                    if let Some(gone) = (index - base.index).checked_sub(1) {
                        let (.., term) = model[gone as usize];
                        base = Position { index, term };
                        model.drain(..=gone as usize);
                    }
                    catalog.compact(index);
                    terms.compact(index);
                }
                3 if below(300) == 0 => {
                    let index = last + below(9);
                    base = Position { index, term };
                    model.clear();
                    catalog.reset(index);
                    terms.reset(base);
                    segment += 1;
                }
                _ => {
                    let length = 20 + below(9000);
                    model.push((segment, at, at + length, term));
                    let index = base.index + model.len() as Index;
                    catalog.append(index, segment, at, at + length);
                    terms.append(Position { index, term });
                    at += length + below(50);
                }
            }
            let last = model.last().map_or(base, |(.., term)| Position {
                index: base.index + model.len() as Index,
                term: *term,
            });
            assert_eq!((catalog.last(), terms.last()), (last.index, last));
            assert_eq!((catalog.first(), terms.base), (base.index + 1, base));
            assert_eq!(catalog.find(base.index), None);
            assert_eq!(catalog.find(last.index + 1), None);
            assert!(terms.holds(base) && terms.term_at(last.index + 1).is_none());
            let mut starts = Vec::new();
            if round % 16 == 0 {
                for (index, (.., term)) in (base.index + 1..).zip(&model) {
                    if starts.last().is_none_or(|(_, last)| last != term) {
                        starts.push((index, *term));
                    }
                }
                assert_eq!(terms.starts, starts);
            }
            for _ in 0..3 {
                let index = base.index + 1 + below((model.len() as u64).max(1));
                let place = |index: Index| (index - base.index) as usize - 1;
                let Some((segment, start, end, term)) = model.get(place(index)) else {
                    continue;
                };
                assert_eq!(terms.term_at(index), Some(*term));
                let Some(run) = catalog.find(index) else {
                    panic!("entry {index} is not found")
                };
                assert_eq!(run.segment, *segment);
                assert!((run.first..=run.last).contains(&index));
                assert!(run.start <= *start && *end <= run.end);
                assert!(run.end - run.start <= RUN_BYTES.max(end - start));
                if run.first > base.index {
                    assert_eq!(model[place(run.first)].1, run.start);
                }
                assert!(
                    catalog
                        .first_in(*segment)
                        .is_some_and(|first| first <= index)
                );
                // The entries themselves, and no more than a run and the gaps beside them.
                let least: u64 = model[place(index)..].iter().map(|(_, s, e, _)| e - s).sum();
                let bytes = catalog.bytes_from(index);
                assert!(bytes >= least, "{bytes} for {least}");
                let within = catalog.index_within(bytes);
                assert!(within <= index && within > base.index);
                assert!(catalog.bytes_from(within) <= bytes);
                assert!(catalog.index_within(bytes - 1) > within || within == base.index + 1);
            }
            assert_eq!(catalog.bytes_from(last.index + 1), 0);
            assert_eq!(catalog.index_within(0), last.index + 1);
        }
        let entries = model.len();
        assert!(
            catalog.runs().len() * 2 < entries,
            "{} for {entries}",
            catalog.runs().len()
        );
    }

    /// A log whose first segment goes back behind where it begins.
    #[test]
    fn a_truncation_behind_the_base_leaves_a_vague_one() {
        let mut terms = Terms::default();
        terms.reset(Position { index: 50, term: 3 });
        terms.append(Position { index: 51, term: 3 });
        terms.truncate_from(41);
        assert_eq!((terms.last().index, terms.base_is_vague), (40, true));
        assert_eq!(terms.term_at(40), None);
        assert!(!terms.holds(Position { index: 40, term: 0 }));
        terms.append(Position { index: 41, term: 4 });
        terms.compact(41);
        assert!(terms.holds(Position { index: 41, term: 4 }));
        assert_eq!((terms.starts.len(), terms.base_is_vague), (0, false));
        terms.truncate_from(1);
        assert!(terms.holds(Position::ZERO));
    }
}
