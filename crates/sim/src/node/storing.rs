//! Group commit, as the daemon's disk thread does it: whatever queued while the last sync ran is the
//! next group; a full disk is tried again, one write at a time; any other failure ends the process (D7).

use raft_core::Write;
use raft_disk::WriteError;

use super::process::{Process, Queue};
use super::{Ending, Note, Parts, Task};
use crate::party::Party;
use crate::world::{Host, Micros};

/// How long a full disk is left alone: the daemon's `FULL_RETRY`.
const FULL_RETRY: Micros = 500_000;

/// A disk that is idle for so long notes that all is durable: the daemon's `IDLE_MARK`.
const IDLE_MARK: Micros = 1_000_000;

/// What waits for the disk.
#[derive(Default)]
pub(super) struct Storing {
    pub queue: Queue<Write>,
    /// The group that is being written.
    group: Vec<Write>,
    /// Groups so far.
    written: u64,
    /// The disk was full: one write at a time.
    one_by_one: bool,
}

impl Process {
    pub(super) fn submit(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, write: Write) {
        self.storing.queue.push_back(write);
        if self.storing.group.is_empty() {
            self.begin_group(parts, host, 0);
        }
    }

    fn begin_group(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, more: Micros) {
        let storing = &mut self.storing;
        let most = if storing.one_by_one { 1 } else { usize::MAX };
        let count = storing.queue.len().min(most);
        storing.group.extend(storing.queue.drain(..count));
        if !storing.group.is_empty() {
            let stalled = parts.stalled_until.saturating_sub(host.world_time());
            let wait = parts.draw(parts.tuning.sync) + more;
            host.after(wait + stalled, Task::Stored);
        }
    }

    pub(super) fn stored(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let stalled = parts.stalled_until.saturating_sub(host.world_time());
        if stalled > 0 {
            return host.after(stalled, Task::Stored);
        }
        let group = std::mem::take(&mut self.storing.group);
        match self.store.write(&group) {
            Ok(report) => {
                self.storing.written += 1;
                self.storing.one_by_one = false;
                parts.note(Note::Stored(group));
                if self.storing.queue.is_empty() {
                    host.after(IDLE_MARK, Task::Mark(self.storing.written));
                }
                self.begin_group(parts, host, 0);
                self.report(parts, host, report);
            }
            Err(WriteError::Full(_)) => {
                parts.note(Note::Doubtful);
                parts.say(|| "the disk is full".to_owned());
                for write in group.into_iter().rev() {
                    self.storing.queue.push_front(write);
                }
                self.storing.one_by_one = true;
                self.begin_group(parts, host, FULL_RETRY);
            }
            Err(error @ WriteError::Poisoned(_)) => {
                parts.note(Note::Doubtful);
                parts.end(Ending::Failed(error.to_string()));
            }
            Err(error) => parts.note(Note::Wrong(error.to_string())),
        }
    }

    pub(super) fn mark(&mut self, written: u64) {
        if self.storing.written == written && self.storing.group.is_empty() {
            self.store.mark();
        }
    }

    /// The power is about to go: how far the group gets, the power says.
    pub(super) fn write_in_dying(&mut self, parts: &mut Parts) {
        let mut group = std::mem::take(&mut self.storing.group);
        if group.is_empty() {
            return;
        }
        group.extend(self.storing.queue.drain(..));
        if self.store.write(&group).is_ok() {
            parts.note(Note::Stored(group));
        } else {
            parts.note(Note::Doubtful);
        }
    }
}
