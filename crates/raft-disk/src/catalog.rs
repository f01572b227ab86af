//! Where each entry lies: the index that the writer keeps and readers share.
//!
//! It has one [`Run`] for some 64 KiB of log, and one more for each truncation and segment: 48 bytes
//! of memory for 64 KiB of disk.

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
}

/// All runs, in order of index and without gaps.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    runs: Vec<Run>,
    /// The last run may grow: nothing was truncated behind it.
    growing: bool,
    /// Grows with each truncation: a reader that sees it change reads again.
    pub truncations: u64,
}

impl Catalog {
    /// The entry `index` lies at these bytes of `segment`.
    pub(crate) fn append(&mut self, index: Index, segment: u64, start: u64, end: u64) {
        if self.growing
            && let Some(run) = self.runs.last_mut()
            && run.segment == segment
            && end - run.start <= RUN_BYTES
        {
            run.last = index;
            run.end = end;
            return;
        }
        self.runs.push(Run {
            first: index,
            last: index,
            segment,
            start,
            end,
        });
        self.growing = true;
    }

    /// Every entry from `index` on is gone.
    pub(crate) fn truncate_from(&mut self, index: Index) {
        let Some(last) = self.runs.last() else { return };
        if index > last.last {
            return;
        }
        let kept = self.runs.partition_point(|run| run.first < index);
        self.runs.truncate(kept);
        if let Some(run) = self.runs.last_mut() {
            run.last = run.last.min(index - 1);
        }
        self.growing = false;
        self.truncations += 1;
    }

    /// The run that holds `index`.
    pub(crate) fn find(&self, index: Index) -> Option<Run> {
        let next = self.runs.partition_point(|run| run.first <= index);
        let run = *self.runs.get(next.checked_sub(1)?)?;
        (run.last >= index).then_some(run)
    }

    pub(crate) fn last(&self) -> Index {
        self.runs.last().map_or(0, |run| run.last)
    }

    #[cfg(test)]
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }
}

/// The terms of the log's entries, and with them its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
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
    }

    pub(crate) fn last(&self) -> Position {
        match self.starts.last() {
            Some((_, term)) => Position {
                index: self.last,
                term: *term,
            },
            None => Position::ZERO,
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
        let mut model: Vec<(u64, u64, u64, Term)> = Vec::new();
        let (mut segment, mut at, mut term) = (1, 100, 1);
        for _ in 0..20_000 {
            match below(20) {
                0 => {
                    let from = 1 + below(model.len() as u64 + 2);
                    catalog.truncate_from(from);
                    terms.truncate_from(from);
                    model.truncate(from as usize - 1);
                    term += below(2);
                }
                1 => (segment, at) = (segment + 1, 100),
                _ => {
                    let length = 20 + below(9000);
                    model.push((segment, at, at + length, term));
                    let index = model.len() as Index;
                    catalog.append(index, segment, at, at + length);
                    terms.append(Position { index, term });
                    at += length + below(50);
                }
            }
            let last = model.last().map_or(Position::ZERO, |(.., term)| Position {
                index: model.len() as Index,
                term: *term,
            });
            assert_eq!((catalog.last(), terms.last()), (last.index, last));
            assert_eq!(catalog.find(0), None);
            assert_eq!(catalog.find(last.index + 1), None);
            for _ in 0..3 {
                let index = 1 + below(last.index.max(1));
                let Some((segment, start, end, _)) = model.get(index as usize - 1) else {
                    continue;
                };
                let run = catalog.find(index);
                let Some(run) = run else {
                    panic!("entry {index} is not found")
                };
                assert_eq!(run.segment, *segment);
                assert!((run.first..=run.last).contains(&index));
                assert!(run.start <= *start && *end <= run.end);
                assert!(run.end - run.start <= RUN_BYTES.max(end - start));
                assert_eq!(model[run.first as usize - 1].1, run.start);
            }
        }
        let entries = model.len();
        assert!(
            catalog.runs().len() * 2 < entries,
            "{} for {entries}",
            catalog.runs().len()
        );
    }
}
