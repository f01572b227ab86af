//! # Log, hard state, snapshots and identity on a disk that is real or simulated
//!
//! What a node promised must survive a power cut; what it has lost it must notice. This crate keeps
//! both sides of that for one node. It knows nothing of networks, terms or quorums.
//!
//! ## In short
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use raft_disk::{Disk, DirectoryLock, DiskThread, Identity, LogStore, Options, RealDisk};
//! # use raft_disk::{SnapshotOptions, SnapshotStore};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (data, member) = (std::path::Path::new("/data"), None);
//! # let (rows, format, sessions) = (vec![b"row"], String::new(), bytes::Bytes::new());
//! let disk = RealDisk::open(data.join("raft"))?;            // makes the directory
//! let lock = DirectoryLock::acquire(disk.directory())?;     // one daemon for one directory
//! let disk: Arc<dyn Disk> = Arc::new(disk);
//! let mut identity = Identity::open_or_create(disk.clone(), member)?;   // before the log
//! let snapshots = SnapshotStore::open(disk.clone(), SnapshotOptions::default())?;
//! let (store, recovered) = LogStore::open(disk, Options::default())?;   // finds the newest itself
//! identity.settle(recovered.cluster_id)?;                   // identity and log belong together
//! let boot = identity.next_boot()?;
//! let (reader, used) = (store.reader(), store.usage());     // for peers that are behind; for limits
//! let thread = DiskThread::spawn(store, |report| { /* Input::Persisted */ })?;
//! // thread.submit(write)?; reader.read(from, to, max_bytes)?; identity.bind(cluster_id)?;
//!
//! # let Some(meta) = recovered.snapshot else { return Ok(()) };
//! let mut writer = snapshots.begin(meta, format, sessions)?;            // on any thread
//! for row in rows { writer.append(row)?; }
//! let info = writer.finish()?;          // durable: Write::compact_to may name its last entry
//! snapshots.retain(&[])?;               // older ones go
//! # Ok(()) }
//! ```
//!
//! | | |
//! |---|---|
//! | [`Disk`], [`DiskFile`] | one directory of files: [`RealDisk`], [`SimDisk`] |
//! | [`LogStore`] | `open`, `write` (a group, one sync), `reader`, `bytes_used` |
//! | [`LogReader`] | `read(from, to, max_bytes)` from any thread, while the log is written to; `first`, `last`, `bytes_from`, `index_within` |
//! | [`DiskThread`] | group commit: `submit` never waits; a report for each group; `shutdown` |
//! | [`SnapshotStore`] | `begin`, `newest`, `reader`, `receive`, `retain`, from any thread |
//! | [`SnapshotWriter`], [`SnapshotReader`] | a state machine's bytes in, and out again, chunk by chunk |
//! | [`SnapshotReceiver`] | another node's file, with cuts in between |
//! | [`Wound`] | what a damaged log lacks, and how it is put back |
//! | [`Saving`], [`restore`] | a snapshot's file outside of any node; a node that begins with one |
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
//! ## Snapshots
//!
//! A snapshot is one file beside the log, `snapshot-<index>-<term>`: what Raft must know in the place
//! of the entries up to there ([`raft_core::SnapshotMeta`]), what the daemon keeps for its sessions,
//! the bytes of the state machine in chunks, and an end that says that this is all. One chain of
//! checksums goes through it. It is written under another name, synced as it grows (the log, on the
//! same disk, must not wait behind gigabytes), and gets its name when all of it is durable. So a file
//! of that name whose head and end belong together is a complete snapshot; these two are checked when
//! the node starts, and the rest when it is read, chunk by chunk.
//!
//! **Compaction** (§7, S4). Segments at the beginning of the row whose entries a snapshot covers are
//! removed, whole, after the write that says so ([`raft_core::Write::compact_to`]). What is needed of
//! them later stands in the head of the segment that is then the first: the hard state, and where the
//! log ended when it began, which is the *base*. They go one by one, the oldest first: whatever a crash
//! leaves is an end of the row without a hole, and sound. The log checks for itself that a file which
//! covers them is there. A segment that cannot be removed is told ([`LogReader::surplus`]), harms
//! nothing, and waits for the next compaction, as do those behind it.
//!
//! **Install** (W2). A snapshot from elsewhere, of entries that the log lacks, takes the place of the
//! whole log. The switch is one batch: a group that holds an install begins a new segment with a
//! *reset*, the latest hard state, and what the group has behind the install. When the segment has
//! its name, the log is the new one; before, it is the old one. Old segments go afterwards, again the
//! oldest first, since the reset drops them whenever it is replayed behind them. Between the
//! snapshot's rename and the reset a crash leaves the new snapshot beside the old log. The opening
//! sees that the log does not hold the snapshot's last entry, and makes up for the reset, so that
//! either both have happened or none.
//!
//! **What refuses to start.** A log that begins behind a base is nothing without a snapshot that
//! covers the base: [`OpenError::WithoutSnapshot`] names what is missing. A damaged snapshot that the
//! log does not need is ignored, and told ([`SnapshotStore::damaged`]). A snapshot of another cluster
//! than the log's or than another snapshot's is refused.
//!
//! **Sending and receiving.** What is sent is the file as it is. Its position, length and checksum are
//! the offer, and name the very file: another node's snapshot of the same entries may hold other
//! bytes. A receiver writes to a file that bears the offer in its name, so that the same offer goes
//! on where it was cut, even after a power cut: then the intact chunks are found by their checksums,
//! and written once more (as with the log, what is read may be memory that was never stored). Another
//! offer begins anew; there is never more than one partial file. At the end everything is checked
//! before the file gets its name.
//!
//! **Save and restore** (P5). A saved snapshot is the same file, put elsewhere ([`Saving`]). A lost cluster
//! does not come back from it, its state does, as the beginning of a new cluster: [`restore`].
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
//!   anything bad in a segment that has a successor, and a segment that is missing in the middle (or
//!   at the beginning, where no snapshot covers it).
//! * Anything else bad is behind all such statements: a torn tail. It is overwritten with zeros before
//!   anything is appended, so that its remains cannot be read as something else later on.
//! * Each batch names its segment's random generation, its own offset, and the checksum of the batch
//!   before. Old bytes in a reused block, and entries whose content looks like a batch, are none.
//!
//! Damage is refused with an error that names file and offset, and where the intact log ends
//! ([`OpenError::Damaged`]); the files are left as they are.
//!
//! ## Repair
//!
//! What is intact behind damage is kept, and says what was lost (D6). Every batch states how things stood
//! before it: where the log ended, and what was promised (term and vote); the head of a segment says so
//! as well. So the first intact one behind the bad bytes tells both, whatever they were, and the log is
//! read on from there.
//!
//! * Often nothing of the log is lost: the bytes were a mark or a hard state, or entries that were
//!   truncated later on, or that a snapshot covers. The log opens, with the promises as they were.
//! * Otherwise a [`Wound`] says which entries are missing, and an *anchor*: the index and term of the last
//!   of them, or of one behind. [`raft_core::repair`] says what peers must answer. The log cannot be
//!   opened until then, so nothing can rest on what is left of it.
//! * [`Wound::mend`] puts the entries back where they were, as one batch as long as the damaged bytes. It
//!   always fits: they were there. What follows is not touched, so the new batch names the checksum by
//!   which that goes on. A crash in the middle of it leaves damaged bytes in the place of damaged bytes.
//! * [`Wound::give_up`] appends a group that truncates the log before the damage, and goes on with entries
//!   that are committed in their place. The power goes before it or after it.
//!
//! If the term changed within the damage, a truncation may be among what was lost, and what stands before
//! it may be stale. It is not guessed: the peer that holds the anchor shows up to where the log is intact.
//!
//! It stays refused when the head of a segment is damaged, when nothing intact comes behind the damage
//! in a segment that must have something, and when an entry is missing whose place a truncation reached
//! into, with nothing behind it. What a node remembers of its peers (D5) is as of before the damage.
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
//! fit where a large group does not. A snapshot that finds no room leaves nothing behind, and may be
//! taken again.
//!
//! ## Reading
//!
//! A [`LogReader`] finds entries by an index in memory: one place for every 64 KiB of log. It reads
//! durable entries only, checks each record's own checksum, and looks at the index again when it is
//! done: an entry that was truncated meanwhile is not returned. Bytes in a segment are never changed
//! while the log is open, so readers and the writer share nothing else. Before a segment is removed
//! the index forgets it; who has it open reads on, and who comes too late to open it looks again, and
//! finds that the log begins later.
//!
//! ## Limits
//!
//! A group has at most 1 GiB; one that is larger than a segment gets a segment of its own size. What
//! waits for the disk is bounded by [`MAX_QUEUED_WRITES`] and [`MAX_QUEUED_BYTES`], a group by
//! [`MAX_GROUP_BYTES`] and one write more. Memory: the largest recent group, the index, and one piece
//! of 1 MiB (or a whole batch, if larger) while the log is opened.
//!
//! A snapshot has chunks of at most [`SNAPSHOT_CHUNK_BYTES`], one of which is in memory at a time, and
//! a head of at most [`MAX_SNAPSHOT_HEAD_BYTES`], which is in memory as a whole. How long a file is
//! received, the caller says.
//!
//! ## What is left out
//!
//! When to take a snapshot, how much log to keep behind it for nodes that are behind, and which
//! snapshots to keep: that is the daemon's to say. Without snapshots the whole log is kept (P3), and
//! [`LogStore::bytes_used`] says how much that is. Damage in the middle of a snapshot is not looked
//! for before somebody reads it. A whole snapshot is sent even to a node that has an older one. The
//! repair of the head of a segment.

mod catalog;
mod disk;
mod format;
mod identity;
mod lock;
mod reader;
mod real;
mod recover;
mod replay;
pub mod restore;
pub mod retired;
mod row;
mod segment;
pub mod sim;
mod snapshot;
mod store;
mod thread;
mod wound;

pub use disk::{Disk, DiskFile, Failure, Space};
pub use identity::{IDENTITY_FILE, Identity, IdentityError};
pub use lock::{DirectoryLock, LOCK_FILE, LockError};
pub use reader::{LogReader, ReadError};
pub use real::RealDisk;
pub use recover::OpenError;
pub use sim::SimDisk;
pub use snapshot::{
    DamagedSnapshot, MAX_FORMAT_BYTES, MAX_SNAPSHOT_HEAD_BYTES, PART_SUFFIX, SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_SYNC_BYTES, SaveError, Saving, SnapshotError, SnapshotInfo, SnapshotOffer,
    SnapshotOptions, SnapshotReader, SnapshotReceiver, SnapshotStore, SnapshotWriter,
};
pub use store::{LogStore, MIN_SEGMENT_BYTES, Options, SEGMENT_BYTES, WriteError};
pub use thread::{
    DiskThread, FULL_RETRY, IDLE_MARK, MAX_GROUP_BYTES, MAX_QUEUED_BYTES, MAX_QUEUED_WRITES,
    SubmitError,
};
pub use wound::{RepairError, Wound};
