//! What the records of a log amount to, one after the other.

use std::sync::Arc;

use raft_core::{
    ClusterId, Configuration, HardState, Index, Payload, Position, SnapshotMeta, mutant,
};

use crate::catalog::{Catalog, Terms, UNKNOWN_TERM};
use crate::format::{Flaw, Record, SegmentHeader, Standing};
use crate::recover::Current;
use crate::row::{Held, Row};

/// Bytes of a segment that are damaged, between two batches that are not.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// Name of the segment.
    pub name: Arc<str>,
    pub generation: u64,
    pub start: u64,
    pub end: u64,
    /// Checksum of what is before them, and the one by which what is behind them goes on.
    pub previous: u32,
    pub following: u32,
    /// How things stood before them.
    pub before: Standing,
    /// What is wrong, and where, for people.
    pub offset: u64,
    pub what: String,
}

/// Entries that are damaged.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub first: Index,
    pub last: Index,
    /// Where the log ended behind the damage: at `last`, or further on and truncated since.
    pub end: Position,
    /// The damage, and the terms of what lies before it. None: it was mended, and these entries were not
    /// needed then.
    pub damage: Option<(Damage, Terms)>,
}

/// What replaying a log yields.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub hard_state: HardState,
    pub terms: Terms,
    pub configurations: Vec<(Index, Arc<Configuration>)>,
    pub cluster_id: Option<ClusterId>,
    pub dissolved_at: Option<Index>,
    /// Where each order to skip an entry stands, and which entry it names.
    pub skips: Vec<(Index, Index)>,
    /// Log time of the base, as far as a reset said it.
    pub base_log_time_ms: u64,
    pub catalog: Catalog,
    /// Entries that are damaged, in order: the log cannot be opened while there are any.
    pub lost: Vec<Lost>,
    /// The batch before stands in the place of damaged ones: what they promised is in what follows.
    pub mended: bool,
    /// The segments, in order.
    pub row: Row,
    pub current: Option<Current>,
}

impl Replay {
    /// A segment begins; what its header says must continue what was read so far.
    pub(crate) fn begin(&mut self, header: &SegmentHeader, bytes: u64) -> Result<(), Flaw> {
        check_base(header.last)?;
        if self.row.is_empty() && header.number > 1 {
            // Segments before it were removed: the log begins behind what they held.
            self.terms.reset(header.last);
            self.catalog.reset(header.last.index);
        }
        if !self.ends_with(header.last) {
            return Err(Flaw::Damaged(
                "the segment does not begin where the log before it ends",
            ));
        }
        self.hard_state = header.hard_state.clone();
        self.mended = false;
        self.row.push(Held {
            number: header.number,
            last: header.last.index,
            bytes,
        });
        Ok(())
    }

    /// Whether what was read so far ends there. Where the term of its last entry is missing, this is it.
    fn ends_with(&mut self, last: Position) -> bool {
        let ours = self.terms.last();
        let at_vague_base = self.terms.base_is_vague && self.terms.starts.is_empty();
        if at_vague_base && last.index == ours.index {
            self.terms.reset(last);
            return true;
        }
        if !self.lost.is_empty() && ours.term == UNKNOWN_TERM && ours.index == last.index {
            self.terms.know_last(last);
            return true;
        }
        ours == last
    }

    /// A batch begins; how things stood when it was written must be what was read so far.
    pub(crate) fn meet(&mut self, standing: &Standing) -> Result<(), Flaw> {
        if std::mem::take(&mut self.mended) {
            self.promise(standing);
        }
        let promised = Standing::new(standing.last, &self.hard_state);
        if !self.ends_with(standing.last) || (promised != *standing && !mutant!(D6VoteForgotten)) {
            return Err(Flaw::Damaged(
                "the batch does not go on where the log stands",
            ));
        }
        Ok(())
    }

    /// Bytes are damaged, and what is intact behind them says how things stood there.
    ///
    /// If the log ended then with an entry that stands before the damage, nothing of the log is lost,
    /// whatever else the bytes were. If it ended further on, in the same term, what is lost follows what
    /// stands before it: one leader's entries of one term are one row (§5.3). Otherwise the damage may
    /// have begun with a truncation, and nothing before it is certain.
    pub(crate) fn lose(&mut self, damage: Damage, standing: &Standing) -> Result<(), Flaw> {
        self.promise(standing);
        let (known, last) = (self.terms.clone(), standing.last);
        let before = known.last();
        check_base(last)?;
        if known.holds(last) && (last.term != UNKNOWN_TERM || last == known.base) {
            self.truncate(last.index + 1);
            // Nobody reads through the damaged bytes.
            self.catalog.interrupt();
            return Ok(());
        }
        let follows = before.term == last.term || known.starts.is_empty();
        let first = match follows && before.index < last.index {
            true => before.index + 1,
            false => known.base.index + 1,
        };
        if known.base_is_vague || last.index < first {
            return Err(Flaw::Damaged("it cannot be told what is lost with it"));
        }
        self.truncate(first);
        self.lost_from(first, last, Some((damage, known)));
        Ok(())
    }

    /// What was promised is what stands behind the damage.
    fn promise(&mut self, standing: &Standing) {
        if !mutant!(D6VoteForgotten) {
            self.hard_state.current_term = standing.current_term;
            self.hard_state.voted_for = standing.voted_for;
        }
    }

    fn lost_from(&mut self, first: Index, last: Position, damage: Option<(Damage, Terms)>) {
        self.catalog.interrupt();
        self.terms.lose(last);
        self.lost.push(Lost {
            first,
            last: last.index,
            end: last,
            damage,
        });
    }

    /// Every entry from here on is gone.
    fn truncate(&mut self, from: Index) {
        self.catalog.truncate_from(from);
        self.terms.truncate_from(from);
        if self.terms.base.index < self.catalog.first() - 1 {
            self.catalog.reset(self.terms.base.index);
        }
        let kept = self
            .configurations
            .partition_point(|(index, _)| *index < from);
        self.configurations.truncate(kept);
        if from <= 1 {
            self.cluster_id = None;
        }
        self.dissolved_at = self.dissolved_at.filter(|at| *at < from);
        self.skips.retain(|(at, _)| *at < from);
        for lost in &mut self.lost {
            lost.last = lost.last.min(from - 1);
        }
        self.lost.retain(|lost| lost.first <= lost.last);
    }

    /// What is damaged is no loss as far as a snapshot covers it, if the log is the snapshot's: either
    /// it holds the snapshot's last entry, or that one is damaged too. In the second case the log may be
    /// one that was about to give way to the snapshot, and what follows does not belong behind it; then
    /// no other log holds such an entry in its place, and it goes as every conflict does.
    pub(crate) fn cover(&mut self, snapshot: Position) {
        let term = self.terms.term_at(snapshot.index);
        if self.lost.is_empty() || term.is_none_or(|t| t != UNKNOWN_TERM && t != snapshot.term) {
            return;
        }
        for lost in &mut self.lost {
            lost.first = lost.first.max(snapshot.index + 1);
        }
        self.lost.retain(|lost| lost.first <= lost.last);
        self.terms.cover(snapshot);
        self.catalog.compact(snapshot.index);
        self.configurations
            .retain(|(index, _)| *index > snapshot.index);
    }

    /// One record of the segment that was begun last. `first`: the first one in it.
    pub(crate) fn apply(
        &mut self,
        record: Record,
        first: bool,
        segment: u64,
        start: u64,
        end: u64,
    ) -> Result<(), Flaw> {
        match record {
            Record::HardState(hard_state) => self.hard_state = hard_state,
            Record::Truncate(0) => return Err(Flaw::Damaged("a truncation from index 0")),
            Record::Truncate(from) => self.truncate(from),
            Record::Lost { first, last } => {
                check_base(last)?;
                if first == 0 || first > last.index || first > self.terms.last + 1 {
                    return Err(Flaw::Damaged("an impossible range of lost entries"));
                }
                self.truncate(first);
                self.lost_from(first, last, None);
            }
            Record::Reset { .. } if !first => {
                return Err(Flaw::Damaged("a reset that begins no segment"));
            }
            Record::Reset { base, log_time_ms } => {
                check_base(base)?;
                self.catalog.reset(base.index);
                self.terms.reset(base);
                self.configurations.clear();
                self.cluster_id = None;
                self.dissolved_at = None;
                self.skips.clear();
                self.lost.clear();
                self.base_log_time_ms = log_time_ms;
                self.row.keep_from(segment);
            }
            Record::Entry(entry) => {
                if entry.index != self.terms.last + 1 {
                    return Err(Flaw::Damaged("an entry does not follow the one before"));
                }
                check_base(entry.position())?;
                self.catalog.append(entry.index, segment, start, end);
                self.terms.append(entry.position());
                match entry.payload {
                    Payload::Founding {
                        cluster_id,
                        founder,
                        alone,
                    } => {
                        self.cluster_id = Some(cluster_id);
                        let first = Arc::new(Configuration::founding(founder, alone));
                        self.configurations.push((entry.index, first));
                    }
                    Payload::Configuration(configuration) => {
                        self.configurations.push((entry.index, configuration));
                    }
                    Payload::Dissolve => self.dissolved_at = Some(entry.index),
                    Payload::Skip { index } => self.skips.push((entry.index, index)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// To be called when everything was read. The term of the base may still be missing: the log
    /// goes back behind where its first segment begins. Its first entry then takes the place of the
    /// base, which a snapshot covers all the same: segments are removed only when one covers all
    /// that they, and the removed ones before them, could hold.
    pub(crate) fn settle_base(&mut self) {
        if self.terms.base_is_vague
            && let Some((first, _)) = self.terms.starts.first().copied()
        {
            self.terms.compact(first);
            self.catalog.compact(first);
        }
    }

    /// Whether the log, base included, holds this entry.
    pub(crate) fn holds(&self, position: Position) -> bool {
        self.terms.holds(position)
    }

    /// The snapshot speaks for what it covers: its configuration stands before those behind it.
    pub(crate) fn configurations_with(
        &self,
        snapshot: Option<&SnapshotMeta>,
    ) -> Vec<(Index, Arc<Configuration>)> {
        let Some(snapshot) = snapshot else {
            return self.configurations.clone();
        };
        let covered = (snapshot.configuration_index, snapshot.configuration.clone());
        let behind = self
            .configurations
            .iter()
            .filter(|(index, _)| *index > snapshot.configuration_index);
        std::iter::once(covered).chain(behind.cloned()).collect()
    }
}

/// No log gets there, and what counts one further must not wrap.
fn check_base(base: Position) -> Result<(), Flaw> {
    if base.index == Index::MAX {
        return Err(Flaw::Damaged("the last index that there is"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn header(number: u64, index: Index, term: u64) -> SegmentHeader {
        SegmentHeader {
            generation: 1,
            number,
            last: Position { index, term },
            previous_end: 0,
            previous_checksum: 0,
            hard_state: HardState::default(),
        }
    }

    /// Under sound checksums: what no log of ours says is refused, and nothing wraps.
    #[test]
    fn nonsense_is_refused() {
        let reset = |index| Record::Reset {
            base: Position { index, term: 1 },
            log_time_ms: 0,
        };
        let mut replay = Replay::default();
        assert!(replay.begin(&header(2, Index::MAX, 1), 9).is_err());
        assert!(replay.begin(&header(1, 5, 1), 9).is_err());
        replay.begin(&header(3, 5, 1), 9).unwrap();
        assert!(replay.begin(&header(4, 5, 2), 9).is_err());
        assert!(replay.apply(Record::Truncate(0), true, 3, 0, 9).is_err());
        assert!(replay.apply(reset(9), false, 3, 0, 9).is_err());
        assert!(replay.apply(reset(Index::MAX), true, 3, 0, 9).is_err());
        replay.apply(reset(Index::MAX - 1), true, 3, 0, 9).unwrap();
        let entry = raft_core::Entry {
            index: Index::MAX,
            term: 1,
            log_time_ms: 0,
            payload: Payload::Noop,
        };
        assert!(replay.apply(Record::Entry(entry), false, 3, 0, 9).is_err());
    }

    /// A log whose first segment goes back behind where it begins: the next header, or else the first
    /// entry, says where it does.
    #[test]
    fn a_vague_base_is_settled() {
        for with_header in [false, true] {
            let mut replay = Replay::default();
            replay.begin(&header(3, 50, 1), 9).unwrap();
            replay.apply(Record::Truncate(41), true, 3, 0, 9).unwrap();
            if with_header {
                assert!(replay.begin(&header(4, 39, 1), 9).is_err());
                replay.begin(&header(4, 40, 1), 9).unwrap();
            }
            for index in 41..45 {
                let entry = raft_core::Entry {
                    index,
                    term: 2,
                    log_time_ms: 0,
                    payload: Payload::Noop,
                };
                replay
                    .apply(Record::Entry(entry), false, 4, index, index + 1)
                    .unwrap();
            }
            replay.settle_base();
            let base = match with_header {
                true => Position { index: 40, term: 1 },
                false => Position { index: 41, term: 2 },
            };
            assert!(replay.holds(base));
            assert_eq!(replay.terms.base, base);
            assert_eq!(replay.catalog.first(), base.index + 1);
            assert!(replay.catalog.find(base.index).is_none());
        }
    }
}
