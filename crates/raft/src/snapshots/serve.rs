//! Serving this node's snapshots to peers that are further behind than the log reaches.

use bytes::Bytes;
use raft_core::{Index, Position};
use raft_disk::SnapshotOffer;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use wire::raft as pb;

use super::Snapshots;
use crate::limits::{
    MAX_SNAPSHOT_STREAMS, SNAPSHOT_PART_BYTES, SNAPSHOT_PART_DEADLINE, SNAPSHOT_PARTS,
    SNAPSHOT_SERVED,
};
use crate::shared::locked;

impl Snapshots {
    /// The snapshot at `position`, or the newest one. One as of `at_least` or later is taken, if there is none
    /// and so much is applied: where nobody writes, none would be due for ever.
    pub fn offer(&self, position: Option<Position>, at_least: Index) -> Option<SnapshotOffer> {
        if self.shared.quarantine.borrow().is_some() {
            return None; // Its state is not the others'.
        }
        let newest = self.newest();
        let covered = newest
            .as_ref()
            .map_or(0, |newest| newest.meta.position.index);
        if covered < at_least && at_least <= self.shared.progress.commit() {
            self.want(at_least);
        }
        let newest = newest?;
        let asked = position
            .filter(|position| *position != newest.meta.position)
            .and_then(|position| match self.store.reader(position) {
                Ok(reader) => Some(reader.info().offer()),
                Err(error) => {
                    self.unreadable(position, &error);
                    None
                }
            });
        Some(asked.unwrap_or_else(|| newest.offer()))
    }

    /// The parts of the file of `position` from `offset` on, while its checksum is the one that was
    /// offered. It is kept as long as a peer may come back for the rest.
    ///
    /// # Errors
    /// A sentence: it is not there any more, or too many peers pull at the same time.
    pub fn parts(
        &self,
        position: Position,
        checksum: u32,
        offset: u64,
    ) -> Result<ReceiverStream<Result<pb::SnapshotPart, tonic::Status>>, tonic::Status> {
        let permit = self
            .state
            .sending
            .clone()
            .try_acquire_owned()
            .map_err(|_| {
                tonic::Status::resource_exhausted(
                    "too many snapshots are being sent: come back shortly",
                )
            })?;
        let gone = || {
            tonic::Status::not_found(format!(
                "there is no snapshot as of entry {} of term {} here any more: ask for the newest",
                position.index, position.term
            ))
        };
        let (sender, receiver) = mpsc::channel(SNAPSHOT_PARTS);
        let reader = self.store.reader(position).map_err(|error| {
            self.unreadable(position, &error);
            gone()
        })?;
        if reader.info().checksum != checksum {
            return Err(gone());
        }
        if locked(&self.state.served).begin(position, offset) {
            self.verify(position);
        }
        let state = self.state.clone();
        spawn_blocking(move || {
            let whole = send_parts(&reader, offset, &sender, &permit, |offset, data| {
                pb::SnapshotPart { offset, data }
            });
            locked(&state.served).end(position, whole);
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// Somebody had all of this snapshot, and fetches it once more. It may have been lost there, or
    /// be damaged here: then it is served no more, and another one is taken.
    fn verify(&self, position: Position) {
        let snapshots = self.clone();
        spawn_blocking(move || {
            let read = snapshots.store.reader(position);
            if let Err(error) = read.and_then(|reader| reader.verify()) {
                snapshots.unreadable(position, &error);
            }
        });
    }
}

/// What peers pulled of late: it is kept as long as they may come back for the rest.
#[derive(Default)]
pub(super) struct Served(Vec<Serving>);

struct Serving {
    position: Position,
    at: Instant,
    /// So many streams of it are open.
    active: usize,
    /// Somebody was sent all of it.
    whole: bool,
}

impl Serving {
    fn is_wanted(&self) -> bool {
        self.active > 0 || self.at.elapsed() < SNAPSHOT_SERVED
    }
}

impl Served {
    /// A peer begins, or goes on. Returns whether it is time to look for damage.
    fn begin(&mut self, position: Position, offset: u64) -> bool {
        self.0.retain(Serving::is_wanted);
        let known = self.0.iter_mut().find(|known| known.position == position);
        if let Some(served) = known {
            served.at = Instant::now();
            served.active += 1;
            return offset == 0 && std::mem::take(&mut served.whole);
        }
        let idle = self.0.iter().position(|served| served.active == 0);
        if self.0.len() >= MAX_SNAPSHOT_STREAMS
            && let Some(idle) = idle
        {
            self.0.remove(idle);
        }
        self.0.push(Serving {
            position,
            at: Instant::now(),
            active: 1,
            whole: false,
        });
        false
    }

    /// A stream has ended.
    fn end(&mut self, position: Position, whole: bool) {
        let known = self.0.iter_mut().find(|known| known.position == position);
        if let Some(served) = known {
            served.at = Instant::now();
            served.active -= 1;
            served.whole |= whole;
        }
    }

    /// What must not be removed yet.
    pub(super) fn wanted(&self) -> Vec<Position> {
        let wanted = self.0.iter().filter(|served| served.is_wanted());
        wanted.map(|served| served.position).collect()
    }
}

/// Returns whether all of it was sent.
pub(super) fn send_parts<M: Send>(
    reader: &raft_disk::SnapshotReader,
    mut offset: u64,
    sender: &mpsc::Sender<Result<M, tonic::Status>>,
    _permit: &OwnedSemaphorePermit,
    message: impl Fn(u64, Bytes) -> M,
) -> bool {
    let runtime = Handle::current();
    while offset < reader.info().file_bytes {
        let (length, part) = match reader.read_raw(offset, SNAPSHOT_PART_BYTES) {
            Ok(data) if data.is_empty() => return false,
            Ok(data) => (data.len() as u64, Ok(message(offset, data))),
            Err(error) => (0, Err(tonic::Status::data_loss(error.to_string()))),
        };
        let failed = part.is_err();
        // The receiver's pace is ours, through the window of its stream; but its place is wanted by others.
        let sent = runtime.block_on(tokio::time::timeout(
            SNAPSHOT_PART_DEADLINE,
            sender.send(part),
        ));
        if failed || !matches!(sent, Ok(Ok(()))) {
            return false;
        }
        offset += length;
    }
    true
}
