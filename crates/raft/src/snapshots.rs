//! Snapshots of the state machine: taken, kept, served to peers, pulled from the leader, given back to a
//! state machine that lacks what is in the log no more, saved by clients (§7; rules S4, W2, P3, P5).
//!
//! A snapshot is one index: the state machine's bytes, the session table, the configuration, the log's
//! time, all as of it. It is taken at the border of two batches of digest_commits, which goes on as soon
//! as the state machine has said of which index its bytes will be; the bytes follow beside it. The core
//! hears of a snapshot when it is complete and durable, and only then lets the log go.
//!
//! Bulk never stands in the way: a peer pulls over a connection of its own, disk and checksums are
//! worked on by threads that may block, and what is under way is bounded in number and bytes.

mod pull;
mod restore;
mod save;
mod serve;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::walk::Walk;
use raft_core::{Index, Position, SessionTable, SnapshotMeta};
use raft_disk::{SnapshotError, SnapshotInfo, SnapshotStore};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tonic::Streaming;
use wire::state_machine as machine;

use crate::ask::Ask;
use crate::disk::Disk;
use crate::limits::{
    KEPT_FOR_OTHERS, MAX_SAVES, MAX_SNAPSHOT_CHUNK_BYTES, MAX_SNAPSHOT_STREAMS, SNAPSHOT_BACKOFF,
    SNAPSHOT_PART_DEADLINE, SNAPSHOT_PARTS,
};
use crate::net::status_line;
use crate::peer_service::Streams;
use crate::room::Room;
use crate::say;
use crate::shared::{Shared, locked};
use serve::Served;

pub use save::SavedParts;

/// Names of alarms.
const TAKE_ALARM: &str = "snapshot";
const PULL_ALARM: &str = "snapshot-pull";
const DAMAGE_ALARM: &str = "snapshot-damaged";

/// See the module. A clone is another handle.
#[derive(Clone)]
pub struct Snapshots {
    store: SnapshotStore,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    disk: Disk,
    room: Arc<Room>,
    /// Who speaks to this node, and of which cluster.
    streams: Arc<Streams>,
    state: Arc<State>,
}

struct State {
    /// One is taken at a time.
    taking: Arc<Semaphore>,
    /// It is to be looked at once more whether one is due, though nothing was applied.
    look: Notify,
    /// After a failure: not before this.
    not_before: Mutex<Option<Instant>>,
    /// One is pulled at a time.
    pulling: Arc<Semaphore>,
    /// The last attempt to pull failed.
    pull_failed: AtomicBool,
    served: Mutex<Served>,
    /// So many are sent at a time.
    sending: Arc<Semaphore>,
    /// So many of them to clients.
    saving: Arc<Semaphore>,
    /// Somebody waits for a snapshot that reaches this index.
    wanted: AtomicU64,
    /// Told with every attempt to take one, once it is over: why it failed, if it did.
    attempts: watch::Sender<Option<String>>,
}

/// What is to be written as one snapshot.
pub struct Taken {
    /// What it says to Raft.
    pub meta: SnapshotMeta,
    /// The form of the state machine's bytes, in its own words.
    pub format: String,
    /// The session table as of the same index.
    pub sessions: Bytes,
    /// The first chunk, which has told the index.
    pub first: machine::SnapshotChunk,
    /// All others.
    pub rest: Streaming<machine::SnapshotChunk>,
}

impl Snapshots {
    /// The snapshots of `store`, which is in the same directory as the log of `disk`.
    pub fn new(
        store: SnapshotStore,
        shared: Arc<Shared>,
        inbox: mpsc::Sender<Ask>,
        disk: Disk,
        room: Arc<Room>,
        streams: Arc<Streams>,
    ) -> Snapshots {
        for damaged in store.damaged() {
            shared.alarm(DAMAGE_ALARM, Some(damaged.to_string()));
        }
        let state = State {
            taking: Arc::new(Semaphore::new(1)),
            look: Notify::new(),
            not_before: Mutex::default(),
            pulling: Arc::new(Semaphore::new(1)),
            pull_failed: AtomicBool::new(false),
            served: Mutex::default(),
            sending: Arc::new(Semaphore::new(MAX_SNAPSHOT_STREAMS)),
            saving: Arc::new(Semaphore::new(MAX_SAVES)),
            wanted: AtomicU64::new(0),
            attempts: watch::Sender::new(None),
        };
        Snapshots {
            store,
            shared,
            inbox,
            disk,
            room,
            streams,
            state: Arc::new(state),
        }
    }

    /// The newest complete one.
    pub fn newest(&self) -> Option<SnapshotInfo> {
        self.store.newest()
    }

    /// Everything up to here is in a durable snapshot, sessions and their outcomes included: what a state
    /// machine may forget the outcomes of (S1). 0: there is none.
    pub fn floor(&self) -> Index {
        self.newest().map_or(0, |newest| newest.meta.position.index)
    }

    /// The walk that goes on behind the newest snapshot, if that reaches beyond `recorded`.
    ///
    /// # Errors
    /// The snapshot cannot be read, or says something that cannot be.
    pub async fn walk_beyond(&self, recorded: Index) -> Result<Option<(Walk, Index)>, String> {
        let Some(newest) = self.newest() else {
            return Ok(None);
        };
        let position = newest.meta.position;
        if position.index <= recorded {
            return Ok(None);
        }
        let snapshots = self.clone();
        let read = spawn_blocking(move || {
            let reader = snapshots.store.reader(position);
            let reader = reader.map_err(|error| snapshots.unreadable(position, &error))?;
            let table = sessions_of(reader.meta(), reader.sessions())?;
            Ok::<_, String>(Walk::behind(table, reader.meta().log_time_ms))
        });
        Ok(Some((joined(read).await?, position.index)))
    }

    /// A snapshot of this node cannot be read. If it is damaged it counts as none from now on, and another
    /// one is fetched or taken in its place. Returns the sentence.
    fn unreadable(&self, position: Position, error: &SnapshotError) -> String {
        let sentence = error.to_string();
        // A sector that cannot be read is no better than one that reads wrong.
        if let SnapshotError::Damaged { .. } | SnapshotError::Disk(_) = error {
            self.store.give_up(position, sentence.clone());
            self.state.look.notify_one();
            say!(warn, "SNAPSHOT-X", "{sentence}");
            self.shared.alarm(DAMAGE_ALARM, Some(sentence.clone()));
        }
        sentence
    }

    // ---- taking ----

    /// Resolves when one may be due though nothing was applied: after a failure, or instead of a damaged one.
    pub async fn may_be_due(&self) {
        self.state.look.notified().await;
    }

    /// Whether it is time for another snapshot, now that everything up to `applied` is applied: when the
    /// log has grown by `SnapshotBytes` and by as much as a snapshot takes, so that no more is written
    /// for snapshots than for entries; or by `SnapshotEntries`, which a start would have to walk through.
    pub fn is_due(&self, applied: Index) -> bool {
        if self.state.taking.available_permits() == 0 {
            return false;
        }
        let (covered, bytes) = self.newest().map_or((0, 0), |newest| {
            (newest.meta.position.index, newest.file_bytes)
        });
        if self.is_wanted(covered, applied) {
            return true;
        }
        let backing_off = locked(&self.state.not_before).is_some_and(|at| Instant::now() < at);
        if backing_off {
            return false;
        }
        if covered + 1 < self.disk.first() {
            return true; // The newest was damaged, and the log begins behind it: nobody could be given it.
        }
        let config = &self.shared.config;
        let entries = applied.saturating_sub(covered);
        if entries == 0 {
            return false;
        }
        // Up to there, and not to the end of the log: a node that is behind has better things to do than to
        // write its state down again and again.
        let grown = self.disk.bytes_from(covered + 1);
        let grown = grown.saturating_sub(self.disk.bytes_from(applied + 1));
        grown >= config.snapshot_bytes.max(bytes)
            || (entries >= config.snapshot_entries && grown >= bytes / 4)
    }

    /// Writes a snapshot that the state machine has begun to tell, beside everything else.
    pub fn write(&self, taken: Taken) {
        let Ok(under_way) = self.state.taking.clone().try_acquire_owned() else {
            return;
        };
        let snapshots = self.clone();
        tokio::spawn(async move {
            let position = taken.meta.position;
            let began = Instant::now();
            let written = snapshots.write_all(taken).await;
            match written {
                Ok(info) => {
                    say!(
                        info,
                        "SNAPSHOT",
                        "taken as of {} [TERM={}]: {} bytes in {} ms",
                        position.index,
                        position.term,
                        info.file_bytes,
                        began.elapsed().as_millis()
                    );
                    snapshots.shared.alarm(TAKE_ALARM, None);
                    snapshots.forget_damage();
                    snapshots.complete(info.meta).await;
                    // Who is told, and wants a later one, finds that it may be taken.
                    drop(under_way);
                    snapshots.state.attempts.send_replace(None);
                }
                Err(reason) => {
                    drop(under_way);
                    snapshots.not_taken(&reason);
                }
            }
        });
    }

    /// A snapshot could not be taken: the log stays, and it is tried again later.
    pub fn not_taken(&self, reason: &str) {
        *locked(&self.state.not_before) = Some(Instant::now() + SNAPSHOT_BACKOFF);
        let state = self.state.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SNAPSHOT_BACKOFF).await;
            state.look.notify_one();
        });
        let sentence = format!("no snapshot could be taken, so the log grows on: {reason}");
        self.shared.alarm(TAKE_ALARM, Some(sentence));
        self.not_to_be_had(reason);
    }

    /// Removes what is older than the newest, unless a peer may come back for the rest of it.
    async fn retain(&self) {
        let keep = locked(&self.state.served).wanted();
        let store = self.store.clone();
        let removed = spawn_blocking(move || store.retain(&keep)).await;
        if let Ok(Err(failure)) = removed {
            say!(warn, "SNAPSHOT-X", "an old snapshot stays: {failure}");
        }
    }

    async fn complete(&self, snapshot: Arc<SnapshotMeta>) {
        self.retain().await;
        let room = self.shared.config.snapshot_bytes * KEPT_FOR_OTHERS;
        let keep_from = self.disk.index_within(room);
        let taken = Ask::SnapshotTaken {
            snapshot,
            keep_from,
        };
        let _ = self.inbox.send(taken).await;
    }

    /// A sound snapshot has taken the place of a damaged one.
    fn forget_damage(&self) {
        self.shared.alarm(DAMAGE_ALARM, None);
    }

    async fn write_all(&self, taken: Taken) -> Result<SnapshotInfo, String> {
        let Taken {
            meta,
            format,
            sessions,
            first,
            mut rest,
        } = taken;
        let position = meta.position;
        let store = self.store.clone();
        let room = self.room.clone();
        // The state has grown since, or shrunk; what comes beyond this asks for itself.
        room.check_disk(self.newest().map_or(0, |newest| newest.file_bytes))?;
        let (sender, mut chunks) = mpsc::channel::<Bytes>(SNAPSHOT_PARTS);
        let writing = spawn_blocking(move || {
            let begun = store.begin(Arc::new(meta), format, sessions);
            let mut writer = begun.map_err(|error| error.to_string())?;
            while let Some(chunk) = chunks.blocking_recv() {
                room.admit_to_disk(chunk.len() as u64)?;
                writer.append(&chunk).map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(writer)
        });
        let mut chunk = first;
        let mut number = 0;
        let told = loop {
            if let Err(reason) = check_chunk(&chunk, position, number) {
                break Err(reason);
            }
            let last = chunk.last;
            if sender.send(chunk.data).await.is_err() {
                break Ok(()); // The writer has failed, and says why.
            }
            if last {
                break Ok(());
            }
            number += 1;
            chunk = match tokio::time::timeout(SNAPSHOT_PART_DEADLINE, rest.message()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => {
                    break Err("the state machine ended before its last chunk".to_owned());
                }
                Ok(Err(status)) => break Err(status_line(&status)),
                Err(_) => break Err("the state machine took too long over a chunk".to_owned()),
            };
        };
        drop(sender);
        let writer = joined(writing).await;
        // Dropping the writer removes what there is.
        told?;
        let writer = writer?;
        joined(spawn_blocking(move || writer.finish())).await
    }
}

/// What a thread that may block came to, or a sentence.
async fn joined<T, E: Display>(work: JoinHandle<Result<T, E>>) -> Result<T, String> {
    let done = work.await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

/// Whether a chunk is the one that comes next, and intact.
fn check_chunk(
    chunk: &machine::SnapshotChunk,
    position: Position,
    number: u64,
) -> Result<(), String> {
    if (chunk.index, chunk.term) != (position.index, position.term) {
        return Err("the state machine's chunks are of different states".to_owned());
    }
    if chunk.data.len() > MAX_SNAPSHOT_CHUNK_BYTES {
        return Err(format!(
            "a chunk of the state machine has {} bytes; the most is {MAX_SNAPSHOT_CHUNK_BYTES}",
            chunk.data.len()
        ));
    }
    if chunk.chunk != number {
        return Err("the state machine's chunks are out of order".to_owned());
    }
    if crc32c::crc32c(&chunk.data) != chunk.crc32c {
        return Err("a chunk of the state machine fails its checksum".to_owned());
    }
    Ok(())
}

/// The session table of a snapshot, if it fits it.
fn sessions_of(meta: &SnapshotMeta, sessions: &Bytes) -> Result<SessionTable, String> {
    let table = SessionTable::decode(sessions.clone()).map_err(|error| error.to_string())?;
    if table.applied_index() != meta.position.index {
        return Err("its session table is of another index".to_owned());
    }
    Ok(table)
}
