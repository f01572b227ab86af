//! What the records of a log amount to, one after the other.

use std::sync::Arc;

use raft_core::{ClusterId, Configuration, HardState, Index, Payload, Position, SnapshotMeta};

use crate::catalog::{Catalog, Terms};
use crate::format::{Flaw, Record, SegmentHeader};
use crate::recover::Current;
use crate::row::{Held, Row};

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
        let last = self.terms.last();
        let at_vague_base = self.terms.base_is_vague && self.terms.starts.is_empty();
        if at_vague_base && header.last.index == last.index {
            // Here is the term that was missing.
            self.terms.reset(header.last);
        } else if header.last != last {
            return Err(Flaw::Damaged(
                "the segment does not begin where the log before it ends",
            ));
        }
        self.hard_state = header.hard_state.clone();
        self.row.push(Held {
            number: header.number,
            last: header.last.index,
            bytes,
        });
        Ok(())
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
            Record::Truncate(from) => {
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
