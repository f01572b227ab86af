//! Every limit and deadline of the service, in one place.

use std::time::Duration;

/// Bytes of commands that one Execute may carry, unless [`Limits`] says otherwise: twice the
/// largest entry of a daemon with its defaults.
pub const MAX_BATCH_BYTES: u64 = 8 << 20;

/// Entries that one Execute may carry, unless [`Limits`] says otherwise.
pub const MAX_BATCH_ENTRIES: u32 = 4096;

/// Bytes of one outcome. A larger one is replaced by a sentence. All replicas must agree on what an
/// outcome is, so this is no setting.
pub const MAX_OUTCOME_BYTES: usize = 64 << 20;

/// Bytes of one record of outcomes, unless a single outcome is larger: those of one batch share a
/// record up to here. It is what one look at a small outcome may have to read.
pub const OUTCOMES_RECORD_BYTES: usize = 1 << 20;

/// What a message may weigh beyond its commands: numbers, tags and lengths of its entries.
pub const MESSAGE_MARGIN_BYTES: usize = 1 << 20;

/// How long a Handshake or an Execute waits for the batch before it to end. Shorter than that the
/// daemon would be told "busy" over every slow disk; longer, and it would learn nothing.
pub const EXECUTE_WAIT: Duration = Duration::from_secs(10);

/// How long a Query waits for the index that it asks for. A daemon asks only when that index was
/// acknowledged, so a wait is rare and short.
pub const QUERY_WAIT: Duration = Duration::from_secs(2);

/// Queries that run at the same time; the others wait.
pub const MAX_QUERIES: usize = 32;

/// Queries that are here at the same time, running or waiting; more are refused.
pub const MAX_WAITING_QUERIES: usize = 4096;

/// Calls that one connection may have open.
pub const MAX_STREAMS: u32 = 1024;

/// How long after a lazy commit the next synced one follows. No timer runs when all is synced.
pub const SYNC_AFTER: Duration = Duration::from_secs(2);

/// Entries after which a commit is synced at once, however recent the last one was.
pub const SYNC_AFTER_ENTRIES: u64 = 65_536;

/// Bytes of commands after which a commit is synced at once. It bounds how long that sync takes.
pub const SYNC_AFTER_BYTES: u64 = 32 << 20;

/// Bytes of one chunk of a snapshot, in either direction.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// Chunks of a snapshot that wait for a slow reader; after that the state is not read on.
pub const SNAPSHOT_WAITING_CHUNKS: usize = 4;

/// How long one chunk of a snapshot may wait for its reader, and how long a restore waits for its
/// next one. A reader that is gone must not hold the view of an old state for ever, nor a sender
/// that is gone the lock.
pub const SNAPSHOT_CHUNK_WAIT: Duration = Duration::from_secs(10);

/// How long a Snapshot waits for the one before it, which may be one that the daemon has just given
/// up, to end. Then it is refused: one is sent at a time.
pub const SNAPSHOT_TURN_WAIT: Duration = Duration::from_secs(1);

/// Of the bytes of a restore, so many are reckoned not to be seen yet by who measures the disk.
pub const RESTORE_ROOM_BYTES: u64 = 32 << 20;

/// Bytes of a snapshot that a machine in memory reads: it needs them in one piece.
pub const MAX_VOLATILE_SNAPSHOT_BYTES: u64 = 4 << 30;

/// Watches that are open at the same time; more are refused.
pub const MAX_WATCHES: usize = 512;

/// Events that are kept for who watches from an index in the past, unless [`Limits`] says otherwise.
pub const WATCH_HISTORY_EVENTS: usize = 65_536;

/// Bytes of those events, unless [`Limits`] says otherwise. The newest entry's stay, however large.
pub const WATCH_HISTORY_BYTES: usize = 32 << 20;

/// Replies of one watch that wait for its reader.
pub const WATCH_WAITING_REPLIES: usize = 1024;

/// Bytes of events in them. A reply that is larger waits alone.
pub const WATCH_WAITING_BYTES: usize = 4 << 20;

/// How long a reply of a watch waits for room. Then the reader is too slow, and the watch ends; it may
/// go on from the same index as long as the history has it.
pub const WATCH_WAIT: Duration = Duration::from_secs(10);

/// How often who watches is told how far the state is, while nothing that is watched changes.
pub const WATCH_MARK_INTERVAL: Duration = Duration::from_secs(1);

/// Entries of the history that one look at it takes, which holds up who applies.
pub const WATCH_PIECE: usize = 256;

/// How long the calls that are open may take to end once the process is told to stop.
pub const SHUTDOWN_WAIT: Duration = Duration::from_secs(2);

/// How long the last batch and the last sync may take after that.
pub const SHUTDOWN_SYNC_WAIT: Duration = Duration::from_secs(5);

/// What one Execute may carry, which the daemon is told at the handshake, and some waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of commands. It must be no less than the largest entry that the daemon accepts.
    pub max_batch_bytes: u64,
    /// Entries.
    pub max_batch_entries: u32,
    /// How long after a lazy commit the next synced one follows.
    pub sync_after: Duration,
    /// Entries after which a commit is synced at once.
    pub sync_after_entries: u64,
    /// How long one chunk of a snapshot may wait, in either direction.
    pub chunk_wait: Duration,
    /// Events of the past that may be watched. Each entry's go together.
    pub watch_history_events: usize,
    /// Bytes of those events, topics and data, and some more for each.
    pub watch_history_bytes: usize,
    /// How long one reply of a watch may wait for its reader.
    pub watch_wait: Duration,
    /// How often a watch tells how far the state is.
    pub watch_mark_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch_bytes: MAX_BATCH_BYTES,
            max_batch_entries: MAX_BATCH_ENTRIES,
            sync_after: SYNC_AFTER,
            sync_after_entries: SYNC_AFTER_ENTRIES,
            chunk_wait: SNAPSHOT_CHUNK_WAIT,
            watch_history_events: WATCH_HISTORY_EVENTS,
            watch_history_bytes: WATCH_HISTORY_BYTES,
            watch_wait: WATCH_WAIT,
            watch_mark_interval: WATCH_MARK_INTERVAL,
        }
    }
}
