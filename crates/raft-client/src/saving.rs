//! Saving a snapshot: from any node, begun again at another one when a transfer is cut.

use std::net::SocketAddr;
use std::time::Duration;

use raft_core::{ClusterId, Position};
use raft_disk::{SaveError, Saving, SnapshotError, SnapshotInfo, SnapshotOffer};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Streaming;
use wire::raft::SavedPart;

use crate::client::{Client, mixed_up};
use crate::error::{ClientError, quoted};
use crate::failure::Failure;
use crate::request::{Reply, Request};

/// The next part of a snapshot comes within this, or the transfer is given up: a node waits no longer
/// for us either.
const PART_DEADLINE: Duration = Duration::from_secs(10);

/// The pause after a transfer that was cut.
const PAUSE: Duration = Duration::from_millis(100);

/// A snapshot that a node has begun to send.
#[derive(Debug)]
pub struct SavedParts {
    /// The part that says what is sent.
    pub first: SavedPart,
    /// All others.
    pub rest: Streaming<SavedPart>,
}

/// Why a transfer came to nothing.
enum Cut {
    /// Another node may do better.
    Elsewhere(String),
    /// What it is saved to refuses.
    Here(SaveError),
}

impl From<SaveError> for Cut {
    fn from(error: SaveError) -> Cut {
        match error {
            SaveError::Snapshot(
                error @ (SnapshotError::NotAsOffered(_) | SnapshotError::Incomplete { .. }),
            ) => Cut::Elsewhere(error.to_string()),
            other => Cut::Here(other),
        }
    }
}

impl Client {
    /// Saves a snapshot of any node: of all that was acknowledged before this is called, and perhaps of
    /// more. All of it was checked when this returns, and the file is durable and has its name. Writes
    /// to the disk, and waits for it.
    ///
    /// # Errors
    /// [`ClientError::NoSnapshot`] when no whole one came in time; [`ClientError::InTheWay`] and
    /// [`ClientError::Io`] when it cannot be written. Nothing was saved then.
    pub async fn save_snapshot(
        &mut self,
        saving: &mut Saving,
    ) -> Result<SnapshotInfo, ClientError> {
        let deadline = self.deadline();
        let mut lost: Option<String> = None;
        loop {
            let parts = match self.perform(&Request::SaveSnapshot, deadline).await {
                Ok(Reply::SaveSnapshot(parts)) => *parts,
                Ok(_) => return Err(mixed_up()),
                Err(error @ ClientError::OtherCluster(_)) => return Err(error),
                // That a transfer was cut says more than that there was no time for another.
                Err(error) => return Err(lost.map_or(error, ClientError::NoSnapshot)),
            };
            let from = self.answered_last();
            let reason = match receive(parts, saving, deadline).await {
                Ok(info) => return Ok(info),
                Err(Cut::Here(error)) => return Err(error.into()),
                Err(Cut::Elsewhere(reason)) => reason,
            };
            let reason = match from {
                Some(address) => {
                    self.avoid(address);
                    format!("the transfer from {address} was cut: {reason}")
                }
                None => reason,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= PAUSE {
                // That the time was up in the middle of another one says less than what cut the one before.
                let before = lost.filter(|_| left.is_zero());
                return Err(ClientError::NoSnapshot(before.unwrap_or(reason)));
            }
            lost = Some(reason);
            sleep(PAUSE).await;
        }
    }
}

/// One transfer, from its first byte to its last.
async fn receive(
    parts: SavedParts,
    saving: &mut Saving,
    deadline: Instant,
) -> Result<SnapshotInfo, Cut> {
    let SavedParts { first, mut rest } = parts;
    let (offer, cluster_id) = offered(&first).map_err(Cut::Elsewhere)?;
    saving.begin_again()?;
    let mut part = first;
    loop {
        let written = saving.written();
        let left = offer.file_bytes.saturating_sub(written);
        let length = part.data.len() as u64;
        if part.offset != written || length == 0 || length > left {
            let what = "it sent an empty part, or one of another place";
            return Err(Cut::Elsewhere(what.to_owned()));
        }
        saving.append(&part.data)?;
        if length == left {
            return Ok(saving.finish(&offer, cluster_id)?);
        }
        let until = deadline.min(Instant::now() + PART_DEADLINE);
        let so_far = || format!("after {} of {} bytes", written + length, offer.file_bytes);
        part = match timeout_at(until, rest.message()).await {
            Ok(Ok(Some(part))) => part,
            Ok(Ok(None)) => return Err(Cut::Elsewhere(format!("it ended {}", so_far()))),
            Ok(Err(status)) => {
                let reason = Failure::from_status(&status).reason();
                return Err(Cut::Elsewhere(format!("{reason}, {}", so_far())));
            }
            Err(_) => {
                let what = format!("no more came in time, {}", so_far());
                return Err(Cut::Elsewhere(what));
            }
        };
    }
}

/// What the first part says of all of them.
fn offered(first: &SavedPart) -> Result<(SnapshotOffer, ClusterId), String> {
    let position = first
        .position
        .ok_or("it does not say which snapshot it sends")?;
    let cluster_id = wire::id_from_bytes("cluster_id", &first.cluster_id);
    let cluster_id = cluster_id.map_err(|error| quoted(&error.to_string()))?;
    let offer = SnapshotOffer {
        position: Position {
            index: position.index,
            term: position.term,
        },
        file_bytes: first.file_bytes,
        checksum: first.checksum,
    };
    Ok((offer, ClusterId(cluster_id)))
}

impl Client {
    /// The address that answered the last call.
    fn answered_last(&self) -> Option<SocketAddr> {
        self.home
    }

    /// From now on this address is asked when no other one answers.
    fn avoid(&mut self, address: SocketAddr) {
        self.connections.close(address);
        self.home = None;
        self.leader = None;
        self.avoided = Some(address);
    }
}
