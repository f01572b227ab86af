//! # Log, hard state and identity on a disk that is real or simulated
//!
//! What a node promised must survive a power cut; what it has lost it must notice. This crate keeps
//! both sides of that for one node. It knows nothing of networks, terms or quorums.
//!
//! ## In short
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use raft_disk::{Disk, DirectoryLock, DiskThread, Identity, LogStore, Options, RealDisk};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (data, member) = (std::path::Path::new("/data"), None);
//! let disk = RealDisk::open(data.join("raft"))?;            // makes the directory
//! let lock = DirectoryLock::acquire(disk.directory())?;     // one daemon for one directory
//! let disk: Arc<dyn Disk> = Arc::new(disk);
//! let mut identity = Identity::open_or_create(disk.clone(), member)?;   // before the log
//! let (store, recovered) = LogStore::open(disk, Options::default())?;
//! identity.settle(recovered.cluster_id)?;                   // identity and log belong together
//! let boot = identity.next_boot()?;
//! let (reader, used) = (store.reader(), store.usage());     // for peers that are behind; for limits
//! let thread = DiskThread::spawn(store, |report| { /* Input::Persisted */ })?;
//! // thread.submit(write)?; reader.read(from, to, max_bytes)?; identity.bind(cluster_id)?;
//! # Ok(()) }
//! ```
//!
//! | | |
//! |---|---|
//! | [`Disk`], [`DiskFile`] | one directory of files: [`RealDisk`], [`SimDisk`] |
//! | [`LogStore`] | `open`, `write` (a group, one sync), `reader`, `bytes_used` |
//! | [`LogReader`] | `read(from, to, max_bytes)` from any thread, while the log is written to |
//! | [`DiskThread`] | group commit: `submit` never waits; a report for each group; `shutdown` |
//! | [`Identity`] | node id, cluster, boot counter |
//! | [`DirectoryLock`], [`retired`] | one daemon per directory; how a node changes its id |
//!
//! ## The log
//!
//! The log is a row of segments, `log-0000000000000001` and so on: files of zeros, laid out before
//! they are needed, into which batches are written one behind the other ([`store`](LogStore)). A
//! group of writes is one batch: one write to the file and one sync, however many requests waited
//! for it. Hard state, truncations and entries are records in the same batches, so their order is
//! the order in which they were asked for, and one sync covers them all.
//!
//! Zeros are written ahead because a sync that finds its blocks in place has only bytes to store: 50 %
//! more groups per second than a file that grows. A thread does it, because writing a whole segment
//! at once is a stall that elections would notice. When the thread is late, the next segment is
//! reserved without being written.
//!
//! A new segment is filled under another name: its header (which repeats the hard state), its first
//! batch, sync; only then comes the rename, and a sync of the directory. So whatever bears the name
//! of a segment has a durable header and a durable first batch, and its predecessor is durable to the
//! end. A file with the other name is no part of the log, and is removed when the log is opened.
//!
//! ## Torn, or damaged
//!
//! After a power cut the last batch may be there in part. That is no loss: nobody was told of it, and
//! it is dropped. After damage to a disk a batch may be bad that others rely on. That is a loss, and
//! a node that starts regardless breaks promises: it might vote for a leader that lacks an entry which
//! this very node helped to commit. Both look alike: a checksum that fails. What tells them apart (D3):
//!
//! * Each batch states up to where everything before it was durable when it was written. A bad
//!   batch below what a later one states is damage. So is a bad header or first batch of a segment,
//!   anything bad in a segment that has a successor, and a segment that is missing in the middle.
//! * Anything else bad is behind all such statements: a torn tail. It is overwritten with zeros before
//!   anything is appended, so that its remains cannot be read as something else later on.
//! * Each batch names its segment's random generation, its own offset, and the checksum of the batch
//!   before. Old bytes in a reused block, and entries whose content looks like a batch, are none.
//!
//! Damage is refused with an error that names file and offset, and where the intact log ends
//! ([`OpenError::Damaged`]); the files are left as they are.
//!
//! ### What cannot be told
//!
//! * Damage to the very last batch, with nothing behind it, looks like a torn tail, and the batch is
//!   dropped although it was promised. [`LogStore::mark`] makes this rare: when the disk has been idle
//!   for [`IDLE_MARK`], and at the end, [`DiskThread`] appends an empty batch, without a sync, that
//!   vouches for the last one. What remains is damage within the last second before a crash, and to a
//!   sector that holds the end of one batch and the beginning of the last.
//! * A whole end of the log that is missing (its last segments removed, an older image of the disk
//!   restored) is a shorter log, and a sound one. Peers remember what this node reported (D5); the
//!   disk does not.
//! * A disk that acknowledges a sync and loses the bytes is found out only when something behind them
//!   survived.
//!
//! ## When the disk fails
//!
//! A failed sync is never tried again on the same file (D7). The system may hold the bytes in memory,
//! count them as clean, and never store them; a second sync would succeed. So the store is poisoned:
//! every later write answers the first error, nothing else is written or reported, and the daemon
//! has to open the log anew. The opening itself faces the same question, since what it reads may be
//! memory that never reached the disk: it writes the end that no batch vouches for once more, and
//! syncs, before it says what it found.
//!
//! A full disk is another matter. It shows when a segment is made (or, on file systems that copy on
//! write, when a batch is written), before anything relies on the new bytes: the answer is
//! [`WriteError::Full`], what was stored is safe, and the same write may be tried again when there is
//! room. [`DiskThread`] does so every [`FULL_RETRY`], one write at a time, so that a vote may still
//! fit where a large group does not.
//!
//! ## Reading
//!
//! A [`LogReader`] finds entries by an index in memory: one place for every 64 KiB of log. It reads
//! durable entries only, checks each record's own checksum, and looks at the index again when it is
//! done: an entry that was truncated meanwhile is not returned. Bytes in a segment are never changed
//! while the log is open, so readers and the writer share nothing else.
//!
//! ## Limits
//!
//! A group has at most 1 GiB; one that is larger than a segment gets a segment of its own size. What
//! waits for the disk is bounded by [`MAX_QUEUED_WRITES`] and [`MAX_QUEUED_BYTES`], a group by
//! [`MAX_GROUP_BYTES`] and one write more. Memory: the largest recent group, the index, and one piece
//! of 1 MiB (or a whole batch, if larger) while the log is opened.
//!
//! ## What is left out
//!
//! Snapshots, and with them the removal of old segments: the whole log is kept (P3), and
//! [`LogStore::bytes_used`] says how much that is. Repair of a damaged log from peers (D6):
//! [`OpenError::Damaged`] says what it would begin with.

mod catalog;
mod disk;
mod format;
mod identity;
mod lock;
mod reader;
mod real;
mod recover;
pub mod retired;
mod segment;
pub mod sim;
mod store;
mod thread;

pub use disk::{Disk, DiskFile, Failure, Space};
pub use identity::{IDENTITY_FILE, Identity, IdentityError};
pub use lock::{DirectoryLock, LOCK_FILE, LockError};
pub use reader::{LogReader, ReadError};
pub use real::RealDisk;
pub use recover::OpenError;
pub use sim::SimDisk;
pub use store::{LogStore, MIN_SEGMENT_BYTES, Options, SEGMENT_BYTES, WriteError};
pub use thread::{
    DiskThread, FULL_RETRY, IDLE_MARK, MAX_GROUP_BYTES, MAX_QUEUED_BYTES, MAX_QUEUED_WRITES,
    SubmitError,
};
