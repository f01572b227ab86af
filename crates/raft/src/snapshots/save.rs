//! Saving: a client gets a snapshot of this node as a file, which holds all that was acknowledged before
//! it asked.

use std::sync::atomic::Ordering;

use raft_core::{Index, Position};
use raft_disk::{SnapshotError, SnapshotReader};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use wire::raft::{self as pb, ErrorKind};

use super::Snapshots;
use super::serve::send_parts;
use crate::convert;
use crate::limits::{MAX_SAVES, MAX_SNAPSHOT_STREAMS, SNAPSHOT_PARTS};
use crate::reads::{Failure, machine_in_use};

/// What a client is sent, part by part.
pub type SavedParts = ReceiverStream<Result<pb::SavedPart, Status>>;

impl Snapshots {
    /// The file of a snapshot as of `index` or later: the newest, or one that is taken now. All of it
    /// was checked before the first part leaves.
    ///
    /// # Errors
    /// A kind and a sentence: OVERLOADED; UNSUPPORTED when the state machine has no snapshots;
    /// STATE_MACHINE_DOWN; NO_SNAPSHOT when none could be taken, or none was there before `deadline`.
    pub async fn save(&self, index: Index, deadline: Instant) -> Result<SavedParts, Failure> {
        let overloaded = |most: usize, what: &str| {
            let sentence = format!("{most} snapshots are being {what} here: ask another node");
            move |_| (ErrorKind::Overloaded, sentence)
        };
        let saving = self.state.saving.clone().try_acquire_owned();
        let saving = saving.map_err(overloaded(MAX_SAVES, "saved"))?;
        let sending = self.state.sending.clone().try_acquire_owned();
        let sending = sending.map_err(overloaded(MAX_SNAPSHOT_STREAMS, "sent"))?;
        let reader = loop {
            let position = self.reaching(index, deadline).await?;
            if let Some(reader) = self.intact(position).await? {
                break reader;
            }
        };
        let (sender, parts) = mpsc::channel(SNAPSHOT_PARTS);
        spawn_blocking(move || {
            let first = first_part(&reader);
            send_parts(&reader, 0, &sender, &sending, |offset, data| {
                let rest = || pb::SavedPart::default();
                let head = if offset == 0 { first.clone() } else { rest() };
                pb::SavedPart {
                    offset,
                    data,
                    ..head
                }
            });
            drop(saving);
        });
        Ok(ReceiverStream::new(parts))
    }

    /// Waits until there is a snapshot as of `index` or later, and has one taken.
    async fn reaching(&self, index: Index, deadline: Instant) -> Result<Position, Failure> {
        let mut attempts = self.state.attempts.subscribe();
        loop {
            if let Some(sentence) = &*self.shared.quarantine.borrow() {
                return Err((ErrorKind::StateMachineDown, sentence.clone()));
            }
            let newest = self.newest().map(|newest| newest.meta.position);
            if let Some(position) = newest.filter(|position| position.index >= index) {
                return Ok(position);
            }
            self.check_machine(deadline).await?;
            self.want(index);
            let told = timeout_at(deadline, attempts.changed()).await;
            if !matches!(told, Ok(Ok(()))) {
                let sentence = format!("no snapshot as of entry {index} was there in time");
                return Err((ErrorKind::NoSnapshot, sentence));
            }
            if let Some(reason) = &*attempts.borrow_and_update() {
                let sentence = format!("no snapshot could be taken: {reason}");
                return Err((ErrorKind::NoSnapshot, sentence));
            }
        }
    }

    /// Whether there is a state machine that can write its state down.
    async fn check_machine(&self, deadline: Instant) -> Result<(), Failure> {
        let machine = machine_in_use(&self.shared, deadline).await?;
        if machine.borrow().takes_snapshots {
            return Ok(());
        }
        Err((
            ErrorKind::Unsupported,
            "the state machine beside this node has no snapshots: its state cannot be saved"
                .to_owned(),
        ))
    }

    /// The snapshot at `position`, all of it read once. None: it has gone, or was found to be damaged and
    /// counts as none from now on; there is another, or will be.
    async fn intact(&self, position: Position) -> Result<Option<SnapshotReader>, Failure> {
        let store = self.store.clone();
        let read = spawn_blocking(move || {
            let reader = store.reader(position)?;
            reader.verify()?;
            Ok::<_, SnapshotError>(reader)
        });
        let read = read.await.map_err(|error| error.to_string());
        match read.map_err(|sentence| (ErrorKind::NoSnapshot, sentence))? {
            Ok(reader) => Ok(Some(reader)),
            Err(SnapshotError::Missing(_)) => Ok(None),
            Err(error @ SnapshotError::Damaged { .. }) => {
                self.unreadable(position, &error);
                Ok(None)
            }
            Err(error) => Err((ErrorKind::NoSnapshot, error.to_string())),
        }
    }

    /// Somebody waits for a snapshot as of `index` or later, which is committed.
    pub(super) fn want(&self, index: Index) {
        self.state.wanted.fetch_max(index, Ordering::AcqRel);
        self.state.look.notify_one();
    }

    /// Somebody waits for a snapshot beyond `covered`, where the newest ends, and that can be taken now.
    pub(super) fn is_wanted(&self, covered: Index, applied: Index) -> bool {
        let wanted = self.state.wanted.load(Ordering::Acquire);
        wanted > covered && applied >= wanted
    }

    /// Who waits for a snapshot is told that there is none, and asks again if it is still wanted: an
    /// attempt after every batch would be of no use to anybody.
    pub(super) fn not_to_be_had(&self, reason: &str) {
        self.state.wanted.store(0, Ordering::Release);
        self.state.attempts.send_replace(Some(reason.to_owned()));
    }
}

/// What only the first part says.
fn first_part(reader: &SnapshotReader) -> pb::SavedPart {
    let offer = reader.info().offer();
    pb::SavedPart {
        position: convert::position(offer.position),
        file_bytes: offer.file_bytes,
        checksum: offer.checksum,
        cluster_id: wire::id_bytes(reader.meta().cluster_id.0),
        ..pb::SavedPart::default()
    }
}
