//! The row of segments on the disk, and the removal of those at its beginning.
//!
//! Segments go in their order, the oldest first, so that a crash at any point leaves the end of the
//! row, without a hole: a log that begins with a later segment. Every such end is sound. Until the
//! last of them is gone the log only holds more than it needs: after a compaction, entries that the
//! snapshot covers; after a reset, a whole log that the reset, which is replayed behind it, drops.
//! (The other way round, a crash would leave a hole, and a hole means that something was lost.)

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use raft_core::Index;

use crate::disk::{Failure, remove};
use crate::reader::Shared;
use crate::segment::segment_name;

/// A segment on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub number: u64,
    /// Index of the last entry when it was begun.
    pub last: Index,
    /// Length of the file.
    pub bytes: u64,
}

/// All segments, in order.
#[derive(Debug, Default)]
pub(crate) struct Row {
    held: VecDeque<Held>,
    /// The log needs nothing before this one.
    keep_from: u64,
}

impl Row {
    pub(crate) fn push(&mut self, held: Held) {
        self.held.push_back(held);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What the files take together.
    pub(crate) fn bytes(&self) -> u64 {
        self.held.iter().map(|held| held.bytes).sum()
    }

    /// The log needs nothing that lies before this segment.
    pub(crate) fn keep_from(&mut self, segment: u64) {
        self.keep_from = self.keep_from.max(segment);
    }

    /// The segment that the log begins with.
    pub(crate) fn first_kept(&self) -> u64 {
        self.keep_from
    }

    /// Whether there are segments that the log does not need.
    pub(crate) fn has_surplus(&self) -> bool {
        self.held
            .front()
            .is_some_and(|held| held.number < self.keep_from)
    }

    /// The segment that the log may begin with once all entries up to `index` are covered; none when
    /// that is the one it begins with now.
    ///
    /// When a segment was begun, the log ended at `last`. So nothing before that segment has a
    /// higher index: entries there that count are at or before `last`, and those that do not were
    /// truncated since. If `last` is covered, all before the segment is. (Truncations need no more
    /// thought: covered means committed, and no truncation goes there any more. One from before the
    /// commit may have gone behind `last` inside the segment itself: the replay knows.)
    pub(crate) fn begin_for(&self, index: Index) -> Option<u64> {
        // `last` may fall from one segment to the next; the latest one that will do is wanted.
        let covered = |held: &&Held| held.last <= index && held.number > self.keep_from;
        let begin = self.held.iter().skip(1).rev().find(covered)?;
        Some(begin.number)
    }

    /// Removes what the log does not need. Stops at the first file that cannot be removed: one
    /// behind it must not go before it.
    pub(crate) fn remove_surplus(&mut self, shared: &Shared) -> Result<(), Failure> {
        while let Some(held) = self.held.front()
            && held.number < self.keep_from
        {
            remove(&*shared.disk, &segment_name(held.number))?;
            shared.bytes_used.fetch_sub(held.bytes, Ordering::Relaxed);
            self.held.pop_front();
        }
        Ok(())
    }
}
