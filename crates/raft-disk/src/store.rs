//! The writer: one group of writes, one batch, one sync.

mod compaction;
mod opening;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_core::{ClusterId, HardState, Index, Payload, Persisted, Position, Write, mutant};

use crate::catalog::Terms;
use crate::disk::{Disk, DiskFile, Doing, Failure, is_full};
use crate::format::{self, BATCH_HEADER_BYTES, BatchHeader, SegmentHeader, Standing};
use crate::reader::{LogReader, Shared};
use crate::recover::Current;
use crate::row::{Held, Row};
use crate::segment::{LaidOut, Supplier, segment_name};

/// Default of [`Options::segment_bytes`]: large enough that a change of segment is rare, small
/// enough that many nodes fit on one machine (each holds one segment more than it uses).
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// Segments smaller than this are not made: header and one small batch must fit.
pub const MIN_SEGMENT_BYTES: u64 = 1 << 10;

/// A buffer that grew beyond this for one group is given back afterwards.
const BUFFER_KEPT_BYTES: usize = 16 << 20;

/// Sizes that a segment of its own for one large group is rounded up to.
const BLOCK_BYTES: u64 = 4096;

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment's file. A group of writes that is larger gets one of its own size.
    pub segment_bytes: u64,
    /// Entries to hand out in [`raft_core::Recovered::tail`], counted as [`raft_core::Entry::cost_bytes`].
    pub tail_cache_bytes: usize,
    /// Whether a thread lays out the next segment ahead of need. A simulation, which must do the
    /// same in every run, says no.
    pub lay_out_ahead: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: SEGMENT_BYTES,
            tail_cache_bytes: 64 << 20,
            lay_out_ahead: true,
        }
    }
}

/// Why writes were not stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no room. What was stored before is safe, and the same writes may be tried again, or
    /// fewer of them. Until then they are like writes under way: a crash leaves all or nothing.
    #[error("the disk is full: {0}. Free some space; the write is tried again")]
    Full(Arc<Failure>),
    /// The disk failed, now or earlier, and nobody knows what it holds: the log must be opened anew
    /// before anything else is stored (D7).
    #[error("the log takes no more writes since the disk failed: {0}")]
    Poisoned(Arc<Failure>),
    /// Writes that no correct caller makes. Nothing of them was stored.
    #[error("these writes do not fit the log: {0}")]
    Invalid(String),
}

/// The durable log, hard state included. One writer; readers come from [`LogStore::reader`].
#[derive(Debug)]
pub struct LogStore {
    disk: Arc<dyn Disk>,
    supplier: Supplier,
    shared: Arc<Shared>,
    row: Row,
    current: Option<Current>,
    terms: Terms,
    hard_state: HardState,
    cluster_id: Option<ClusterId>,
    sequence: u64,
    generation: u64,
    poisoned: Option<Arc<Failure>>,
    buffer: Vec<u8>,
    staged: Vec<Staged>,
}

/// What a group will have done to the catalog once it is durable; offsets are within the buffer.
#[derive(Debug)]
enum Staged {
    Reset(Position),
    Truncate(Index),
    Entry {
        position: Position,
        start: usize,
        end: usize,
    },
}

/// A batch in the buffer, whose header is still to come.
struct Batch {
    records: u32,
    /// Entries from here on are gone once it is stored.
    hidden_from: Option<Index>,
    /// It drops the log before it, and begins a segment of its own.
    resets: bool,
}

impl LogStore {
    /// Stores a group of writes durably: all of it or nothing. When this returns, everything up to
    /// and including the last of them survives a power cut.
    ///
    /// The sequences must follow each other, from 1 after each opening.
    ///
    /// Segments that hold nothing but entries up to [`Write::compact_to`], or that an install has
    /// dropped, are removed afterwards. That is a matter of room: if it fails the write has succeeded
    /// nevertheless, [`LogReader::surplus`] says why, and it is tried again with the next such write.
    /// Nothing goes that is not covered by a snapshot file on this disk (S4).
    ///
    /// # Errors
    /// See [`WriteError`] for what each leaves behind.
    pub fn write(&mut self, writes: &[Write]) -> Result<Persisted, WriteError> {
        if let Some(first) = &self.poisoned {
            return Err(WriteError::Poisoned(first.clone()));
        }
        self.check(writes)?;
        self.store(writes)?;
        self.compact(writes);
        if let Some(last) = writes.last() {
            self.sequence = last.sequence;
            self.generation = last.generation;
        }
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(Persisted {
            sequence: self.sequence,
            generation: self.generation,
            last: self.terms.last(),
        })
    }

    /// Stores a group that fits the log.
    fn store(&mut self, writes: &[Write]) -> Result<(), WriteError> {
        let batch = self.encode(writes);
        if batch.records > 0 {
            if let Some(index) = batch.hidden_from {
                // Readers must not see an entry that the core holds to be gone, not even while the
                // truncation is under way.
                self.shared.catalog().truncate_from(index);
            }
            let offset = self.store_batch(&batch).inspect_err(|error| {
                if let WriteError::Poisoned(failure) = error {
                    self.poisoned = Some(failure.clone());
                }
            })?;
            self.publish(offset, writes);
        }
        Ok(())
    }

    /// Notes in the log that everything so far is durable, without waiting for the disk: from then
    /// on damage to the last group can be told from a torn tail (D3). Worth its 96 bytes when
    /// nothing else is to be written for a while. Does nothing where it has been noted already, or
    /// where there is no room.
    pub fn mark(&mut self) {
        let standing = self.standing();
        let Some(current) = &mut self.current else {
            return;
        };
        let mut mark = [0; BATCH_HEADER_BYTES];
        if self.poisoned.is_some() || current.marked || !current.has_room_for(&mark) {
            return;
        }
        let checksum = current.seal(&mut mark, 0, standing);
        match current
            .file
            .write_at(current.end, &mark)
            .doing("write", &*self.disk, &current.name)
        {
            Ok(()) => {
                // It is not synced: the next batch does not vouch for it.
                current.end += BATCH_HEADER_BYTES as u64;
                current.checksum = checksum;
                current.marked = true;
            }
            Err(failure) if is_full(&failure.source) => {}
            // The next write says so.
            Err(failure) => self.poisoned = Some(Arc::new(failure)),
        }
    }

    /// A handle for reading entries, from any thread.
    pub fn reader(&self) -> LogReader {
        LogReader {
            shared: self.shared.clone(),
        }
    }

    /// Where the durable log ends.
    pub fn last(&self) -> Position {
        self.terms.last()
    }

    /// What stands just before the first entry: where the log was cut off behind a snapshot.
    pub fn base(&self) -> Position {
        self.terms.base
    }

    /// Bytes of the newest segment whose damage is told from a torn tail, by the durable word of a later
    /// batch (D3): its name, and where they are. For those who damage a disk on purpose.
    pub fn vouched(&self) -> Option<(&str, std::ops::Range<u64>)> {
        let current = self.current.as_ref()?;
        Some((&current.name, current.vouched.clone()))
    }

    /// What every batch says of the log before it (D6).
    fn standing(&self) -> Standing {
        Standing::new(self.terms.last(), &self.hard_state)
    }

    /// The cluster that the log's first entry names, or the snapshot that stands for it; `None`
    /// before the founding entry is durable.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// Bytes that the log's segments take on the disk. The one that waits to be used (at most
    /// [`Options::segment_bytes`]) is not counted.
    pub fn bytes_used(&self) -> u64 {
        self.shared.bytes_used.load(Ordering::Relaxed)
    }

    /// [`LogStore::bytes_used`], to be read elsewhere while the log is written to.
    pub fn usage(&self) -> Arc<AtomicU64> {
        self.shared.bytes_used.clone()
    }

    fn check(&self, writes: &[Write]) -> Result<(), WriteError> {
        let mut base = self.terms.base.index;
        let mut last = self.terms.last;
        let mut sequence = self.sequence;
        let mut bytes = 0usize;
        for write in writes {
            sequence += 1;
            if write.sequence != sequence {
                let found = write.sequence;
                let what = format!("write {found} comes where {sequence} is expected");
                return Err(WriteError::Invalid(what));
            }
            if let Some(meta) = &write.install {
                self.check_install(meta, base)?;
                base = meta.position.index;
                last = base;
            }
            if let Some(from) = write.truncate_from {
                if from <= base {
                    let what = format!("a truncation from index {from} behind a base at {base}");
                    return Err(WriteError::Invalid(what));
                }
                last = last.min(from - 1);
            }
            for entry in &write.entries {
                if entry.index != last + 1 {
                    let what = format!("entry {} comes behind entry {last}", entry.index);
                    return Err(WriteError::Invalid(what));
                }
                last = entry.index;
            }
            bytes = bytes.saturating_add(format::write_len(write));
        }
        if bytes > format::MAX_BATCH_BYTES {
            let what = format!(
                "{bytes} bytes at once; the most is {}",
                format::MAX_BATCH_BYTES
            );
            return Err(WriteError::Invalid(what));
        }
        Ok(())
    }

    /// Fills the buffer with a batch whose header is still to come.
    ///
    /// A group with an install in it is one batch as well: of what stands before the install, the
    /// hard state alone is left.
    fn encode(&mut self, writes: &[Write]) -> Batch {
        let LogStore { buffer, staged, .. } = self;
        buffer.clear();
        staged.clear();
        buffer.resize(BATCH_HEADER_BYTES, 0);
        let mut hard_states = 0;
        let mut latest = None;
        let mut hidden_from: Option<Index> = None;
        let mut resets = false;
        for write in writes {
            if let Some(hard_state) = &write.hard_state {
                format::put_hard_state_record(buffer, hard_state);
                hard_states += 1;
                latest = Some(hard_state);
            }
            if let Some(meta) = &write.install {
                buffer.truncate(BATCH_HEADER_BYTES);
                staged.clear();
                format::put_reset_record(buffer, meta.position, meta.log_time_ms);
                staged.push(Staged::Reset(meta.position));
                if let Some(hard_state) = latest {
                    format::put_hard_state_record(buffer, hard_state);
                    hard_states = 1;
                }
                hidden_from = Some(0);
                resets = true;
            }
            if let Some(from) = write.truncate_from {
                format::put_truncate_record(buffer, from);
                staged.push(Staged::Truncate(from));
                hidden_from = Some(hidden_from.map_or(from, |lowest| lowest.min(from)));
            }
            for entry in &write.entries {
                let start = buffer.len();
                format::put_entry_record(buffer, entry);
                let position = entry.position();
                staged.push(Staged::Entry {
                    position,
                    start,
                    end: buffer.len(),
                });
            }
        }
        buffer.resize(buffer.len().next_multiple_of(format::ALIGNMENT as usize), 0);
        // Each record takes at least 17 bytes of a batch of at most 1 GiB.
        let records = u32::try_from(staged.len() + hard_states).unwrap_or(u32::MAX);
        Batch {
            records,
            hidden_from,
            resets,
        }
    }

    /// Writes the batch in the buffer and returns where it lies in the current segment.
    fn store_batch(&mut self, batch: &Batch) -> Result<u64, WriteError> {
        let standing = self.standing();
        match &mut self.current {
            Some(current) if current.has_room_for(&self.buffer) && !batch.resets => {
                let checksum = current.seal(&mut self.buffer, batch.records, standing);
                let name = &*current.name;
                // Nothing that is durable lies behind `end`: half a batch there is a torn tail, and
                // the next one overwrites its beginning.
                current
                    .file
                    .write_at(current.end, &self.buffer)
                    .doing("write", &*self.disk, name)
                    .map_err(full_or_poisoned)?;
                sync(&*current.file)
                    .doing("sync", &*self.disk, name)
                    .map_err(poisoned)?;
                let offset = current.end;
                current.end += self.buffer.len() as u64;
                // That is what its header says.
                current.vouched.end = current.synced;
                current.synced = current.end;
                current.marked = false;
                current.checksum = checksum;
                Ok(offset)
            }
            _ => self.begin_segment(batch.records),
        }
    }

    /// Begins a segment with the batch in the buffer. It gets its name when both its header and the
    /// batch are durable, so a segment without them is a damaged one.
    fn begin_segment(&mut self, records: u32) -> Result<u64, WriteError> {
        let disk = self.disk.clone();
        let standing = self.standing();
        let (number, previous_end, previous_checksum) = match &mut self.current {
            Some(current) => {
                if current.synced < current.end {
                    // A mark: the new segment vouches for all of the old one.
                    let synced = current.file.sync();
                    synced
                        .doing("sync", &*disk, &current.name)
                        .map_err(poisoned)?;
                    current.synced = current.end;
                }
                (current.number + 1, current.end, current.checksum)
            }
            None => (1, 0, 0),
        };
        let name = segment_name(number);
        let generation = disk
            .random()
            .doing("find a random number for", &*disk, &name)
            .map_err(poisoned)?;
        let header = SegmentHeader {
            generation,
            number,
            last: self.terms.last(),
            previous_end,
            previous_checksum,
            hard_state: if mutant!(D7HardStateNotRepeated) {
                HardState::default()
            } else {
                self.hard_state.clone()
            },
        };
        let mut start = Vec::new();
        let checksum = header.encode(&mut start);
        if start.len() as u64 > format::MAX_SEGMENT_HEADER_BYTES {
            return Err(WriteError::Invalid(
                "the hard state is too large".to_owned(),
            ));
        }
        let offset = start.len() as u64;
        let first = BatchHeader {
            generation,
            offset,
            synced: offset,
            previous: checksum,
            count: records,
            standing,
            ..BatchHeader::default()
        };
        let checksum = first.seal(&mut self.buffer);
        start.extend_from_slice(&self.buffer);
        let bytes = (start.len() as u64).next_multiple_of(BLOCK_BYTES);
        let laid_out = self
            .supplier
            .take(bytes)
            .doing("create", &*disk, &name)
            .map_err(full_or_poisoned)?;
        let LaidOut {
            name: half_made,
            bytes,
            file,
        } = laid_out;
        let written = fill(&*disk, &half_made, &*file, &start);
        if let Err(failure) = written {
            // The file is given up whatever the error; if it cannot be removed now, the next
            // opening does it.
            let _ = disk.remove(&half_made);
            return Err(full_or_poisoned(failure));
        }
        disk.rename(&half_made, &name)
            .doing("rename", &*disk, &half_made)
            .map_err(poisoned)?;
        if !mutant!(D7DirectoryNotSynced) {
            disk.sync_dir()
                .doing("sync the directory of", &*disk, &name)
                .map_err(poisoned)?;
        }

        let name: Arc<str> = name.into();
        self.shared.bytes_used.fetch_add(bytes, Ordering::Relaxed);
        self.row.push(Held {
            number,
            last: header.last.index,
            bytes,
        });
        let end = start.len() as u64;
        self.current = Some(Current {
            number,
            name,
            file,
            generation,
            bytes,
            end,
            synced: end,
            marked: false,
            checksum,
            vouched: offset..offset,
        });
        Ok(offset)
    }

    /// The group is durable: from now on it is the log.
    fn publish(&mut self, offset: u64, writes: &[Write]) {
        let number = self.current.as_ref().map_or(0, |current| current.number);
        let mut catalog = self.shared.catalog();
        for staged in &self.staged {
            match *staged {
                Staged::Reset(base) => {
                    catalog.reset(base.index);
                    self.terms.reset(base);
                    self.row.keep_from(number);
                }
                Staged::Truncate(from) => {
                    catalog.truncate_from(from);
                    self.terms.truncate_from(from);
                }
                Staged::Entry {
                    position,
                    start,
                    end,
                } => {
                    let (start, end) = (offset + start as u64, offset + end as u64);
                    catalog.append(position.index, number, start, end);
                    self.terms.append(position);
                }
            }
        }
        drop(catalog);
        for write in writes {
            if let Some(hard_state) = &write.hard_state {
                self.hard_state.clone_from(hard_state);
            }
            if let Some(meta) = &write.install {
                self.cluster_id = Some(meta.cluster_id);
            }
            if write.truncate_from.is_some_and(|from| from <= 1) {
                self.cluster_id = None;
            }
            if let Some(first) = write.entries.first()
                && let Payload::Founding { cluster_id, .. } = &first.payload
            {
                self.cluster_id = Some(*cluster_id);
            }
        }
    }
}

impl Current {
    fn has_room_for(&self, batch: &[u8]) -> bool {
        self.end + batch.len() as u64 <= self.bytes
    }

    /// Completes a batch that goes to the end, and returns its checksum.
    fn seal(&self, batch: &mut [u8], count: u32, standing: Standing) -> u32 {
        let header = BatchHeader {
            generation: self.generation,
            offset: self.end,
            synced: self.synced,
            previous: self.checksum,
            count,
            standing,
            ..BatchHeader::default()
        };
        header.seal(batch)
    }
}

/// Never tried again when it fails (D7).
fn sync(file: &dyn DiskFile) -> io::Result<()> {
    if mutant!(D7NoSync) {
        return Ok(());
    }
    match file.sync() {
        Err(_) if mutant!(D7SyncTriedAgain) => file.sync(),
        synced => synced,
    }
}

fn fill(disk: &dyn Disk, name: &str, file: &dyn DiskFile, start: &[u8]) -> Result<(), Failure> {
    file.write_at(0, start).doing("write", disk, name)?;
    if mutant!(D7NamedBeforeDurable) {
        return Ok(());
    }
    file.sync().doing("sync", disk, name)
}

fn poisoned(failure: Failure) -> WriteError {
    WriteError::Poisoned(Arc::new(failure))
}

fn full_or_poisoned(failure: Failure) -> WriteError {
    if is_full(&failure.source) {
        WriteError::Full(Arc::new(failure))
    } else {
        WriteError::Poisoned(Arc::new(failure))
    }
}
