//! Reading entries back while the log is written to.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_core::{Entry, Index};

use crate::catalog::{Catalog, Run};
use crate::disk::{Disk, DiskFile, Doing, Failure};
use crate::format::{self, BATCH_HEADER_BYTES, Flaw, Item, Record};
use crate::segment::segment_name;

/// A read that is overtaken by so many truncations or compactions comes back empty.
const MOST_ATTEMPTS: usize = 16;

/// Segments that readers hold open: a process has a limited number of open files.
const MOST_OPEN_FILES: usize = 16;

/// What the writer shares with its readers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub catalog: Mutex<Catalog>,
    pub bytes_used: Arc<AtomicU64>,
    /// Why a segment that is not needed is still there.
    pub surplus: Mutex<Option<String>>,
    files: Mutex<OpenFiles>,
}

/// Segments that readers hold open.
#[derive(Debug, Default)]
struct OpenFiles {
    by_number: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// Those before this one are removed: to hold one open would keep its room taken.
    lowest: u64,
}

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, catalog: Catalog, bytes_used: u64) -> Shared {
        Shared {
            disk,
            catalog: Mutex::new(catalog),
            bytes_used: Arc::new(AtomicU64::new(bytes_used)),
            surplus: Mutex::default(),
            files: Mutex::default(),
        }
    }

    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, segment: u64) -> Result<Arc<dyn DiskFile>, Failure> {
        if let Some(file) = self.files().by_number.get(&segment) {
            return Ok(file.clone());
        }
        let name = segment_name(segment);
        let file = self.disk.open(&name).doing("open", &*self.disk, &name)?;
        let mut files = self.files();
        if segment >= files.lowest {
            if files.by_number.len() >= MOST_OPEN_FILES {
                // Readers go forward, so the oldest is the one that is needed least.
                files.by_number.pop_first();
            }
            files.by_number.insert(segment, file.clone());
        }
        Ok(file)
    }

    fn files(&self) -> MutexGuard<'_, OpenFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of all segments before this one. Whoever reads one just now may finish: the bytes
    /// are there as long as somebody holds the file.
    pub(crate) fn forget_before(&self, segment: u64) {
        let mut files = self.files();
        files.lowest = files.lowest.max(segment);
        files.by_number = files.by_number.split_off(&segment);
    }

    pub(crate) fn note_surplus(&self, why: Option<String>) {
        *self.surplus.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(crate) fn surplus(&self) -> Option<String> {
        self.surplus
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Why entries could not be read. The log goes on; only these entries are out of reach.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] Failure),
    /// The bytes are not those that were written.
    #[error("the log is damaged at byte {offset} of {path}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// Where in it the bad record begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Reads durable entries. Cheap to clone, and usable from any thread.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(crate) shared: Arc<Shared>,
}

impl LogReader {
    /// The entries from `from` to `to`, both included: as many as are durable, contiguous from
    /// `from` on, and stopping before `max_bytes` are exceeded (a first entry larger than that
    /// comes alone). Empty when `from` is not in the log, and so when it is before
    /// [`LogReader::first`]: a snapshot stands for such entries.
    ///
    /// An entry that was truncated before this was called is never returned, nor one that is
    /// truncated meanwhile. One that is compacted away meanwhile may be returned, or not.
    ///
    /// # Errors
    /// [`ReadError`]: the entries are there, and cannot be read.
    pub fn read(&self, from: Index, to: Index, max_bytes: usize) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        for _ in 0..MOST_ATTEMPTS {
            entries.clear();
            let before = self.changes();
            let read = self.read_once(from, to, max_bytes, &mut entries);
            let after = self.changes();
            match read {
                // What was read is still the log.
                Ok(()) if after.0 == before.0 => return Ok(entries),
                // Its file may be gone because nobody needs it any more.
                Err(error) if after == before => return Err(error),
                _ => {}
            }
        }
        Ok(Vec::new())
    }

    /// Truncations and compactions so far.
    fn changes(&self) -> (u64, u64) {
        let catalog = self.shared.catalog();
        (catalog.truncations, catalog.compactions)
    }

    /// The first index that can be read: entries before it are covered by a snapshot. One past
    /// [`LogReader::last`] when the log holds no entry.
    pub fn first(&self) -> Index {
        self.shared.catalog().first()
    }

    /// The last index that can be read; where the log begins when it holds no entry.
    pub fn last(&self) -> Index {
        self.shared.catalog().last()
    }

    /// Bytes of log from `index` on; of those in the same run of 64 KiB, the ones before it count as
    /// well. What a node that is at `index` has to be sent.
    pub fn bytes_from(&self, index: Index) -> u64 {
        self.shared.catalog().bytes_from(index)
    }

    /// The lowest index from which on the log takes at most `bytes`, to a run of 64 KiB; one past
    /// [`LogReader::last`] when there is none. What may be compacted if so much shall be kept.
    pub fn index_within(&self, bytes: u64) -> Index {
        self.shared.catalog().index_within(bytes)
    }

    /// Why segments that are not needed any more could not be removed the last time that it was
    /// tried; `None` when all is well. They are tried again at the next compaction, and the log is
    /// not harmed.
    pub fn surplus(&self) -> Option<String> {
        self.shared.surplus()
    }

    /// The newest entries, contiguous up to the last, that cost no more than `max_bytes`.
    pub(crate) fn tail(&self, max_bytes: usize) -> Result<Vec<Entry>, ReadError> {
        let mut newest_first = Vec::new();
        let mut cost = 0;
        let mut last = self.last();
        while let Some(run) = self.find(last) {
            let mut entries = Vec::new();
            self.read_run(&run, run.first..=last, usize::MAX, &mut entries)?;
            // A base that lies inside the run hides some of it.
            let first = self.first();
            for entry in entries.into_iter().rev() {
                if entry.index < first {
                    break;
                }
                cost += entry.cost_bytes();
                if cost > max_bytes {
                    newest_first.reverse();
                    return Ok(newest_first);
                }
                newest_first.push(entry);
            }
            last = run.first - 1;
        }
        newest_first.reverse();
        Ok(newest_first)
    }

    fn read_once(
        &self,
        from: Index,
        to: Index,
        max_bytes: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), ReadError> {
        let mut next = from;
        let mut budget = max_bytes;
        while next <= to
            && let Some(run) = self.find(next)
        {
            let last = run.last.min(to);
            let Some(rest) = self.read_run(&run, next..=last, budget, entries)? else {
                return Ok(());
            };
            budget = rest;
            next = last + 1;
        }
        Ok(())
    }

    fn find(&self, index: Index) -> Option<Run> {
        self.shared.catalog().find(index)
    }

    /// Appends the wanted entries of one run. Returns what is left of the budget, `None` when the
    /// next entry would exceed it.
    fn read_run(
        &self,
        run: &Run,
        wanted: RangeInclusive<Index>,
        mut budget: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<Option<usize>, ReadError> {
        let disk = &*self.shared.disk;
        let name = segment_name(run.segment);
        let damaged = |offset, flaw: Flaw| ReadError::Damaged {
            path: disk.path(&name),
            offset,
            what: flaw.to_string(),
        };
        let file = self.shared.file(run.segment)?;
        let mut bytes = vec![0; (run.end - run.start) as usize];
        let read = file
            .read_at(run.start, &mut bytes)
            .doing("read", disk, &name)?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        let (mut at, mut next) = (0, run.first);
        while next <= *wanted.end() {
            let offset = run.start + at as u64;
            match format::item(&bytes, at).map_err(|flaw| damaged(offset, flaw))? {
                Item::Padding => at += (format::align(offset + 1) - offset) as usize,
                Item::Batch => at += BATCH_HEADER_BYTES,
                Item::Record(Record::Entry(entry), length) => {
                    if entry.index != next {
                        return Err(damaged(offset, Flaw::Damaged("another entry is here")));
                    }
                    at += length;
                    next += 1;
                    if wanted.contains(&entry.index) {
                        let cost = entry.cost_bytes();
                        if cost > budget && !entries.is_empty() {
                            return Ok(None);
                        }
                        budget = budget.saturating_sub(cost);
                        entries.push(entry);
                    }
                }
                Item::Record(_, length) => at += length,
            }
        }
        Ok(Some(budget))
    }
}
