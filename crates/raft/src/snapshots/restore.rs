//! Giving a snapshot back to a state machine that lacks what is in the log no more.

use raft_core::{Index, Position};
use raft_disk::{SnapshotError, SnapshotStore};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use wire::state_machine as machine;

use super::Snapshots;
use crate::limits::{RESTORE_DEADLINE, SNAPSHOT_PART_DEADLINE, SNAPSHOT_PARTS};
use crate::net::status_line;
use crate::state_machine::Connection;

impl Snapshots {
    /// Gives the newest snapshot to a state machine. Takes as long as it takes, while chunk after chunk is
    /// taken in. Returns the index that the state machine is at afterwards.
    ///
    /// # Errors
    /// A sentence; the state machine is as it was.
    pub async fn restore(&self, connection: &mut Connection) -> Result<Index, String> {
        let newest = self.newest().ok_or("there is no snapshot any more")?;
        let position = newest.meta.position;
        let (sender, chunks) = mpsc::channel(SNAPSHOT_PARTS);
        let (progress, mut given) = watch::channel(0);
        let first = machine::RestoreChunk {
            epoch: connection.epoch,
            format: newest.format.clone(),
            index: position.index,
            term: position.term,
            ..machine::RestoreChunk::default()
        };
        let store = self.store.clone();
        let reading =
            spawn_blocking(move || give_chunks(&store, position, &first, &sender, &progress));
        let call = connection.client.restore(ReceiverStream::new(chunks));
        tokio::pin!(call);
        let mut all_given = false;
        let called = loop {
            let patience = if all_given {
                RESTORE_DEADLINE
            } else {
                SNAPSHOT_PART_DEADLINE
            };
            tokio::select! {
                called = &mut call => break called,
                moved = given.changed(), if !all_given => all_given = moved.is_err(),
                () = tokio::time::sleep(patience) => {
                    let what = if all_given { "all of it" } else { "a chunk of it" };
                    return Err(format!("{what} took longer than {} s", patience.as_secs()));
                }
            }
        };
        let read = reading.await.map_err(|error| error.to_string())?;
        read.map_err(|error| self.unreadable(position, &error))?;
        let reply = called.map_err(|status| status_line(&status))?.into_inner();
        if reply.applied_index != position.index {
            return Err(format!(
                "the state machine says that it is at entry {} after a snapshot as of {}",
                reply.applied_index, position.index
            ));
        }
        Ok(position.index)
    }
}

/// Reads chunk after chunk, and hands them over; dropping `progress` says that this was the last.
fn give_chunks(
    store: &SnapshotStore,
    position: Position,
    form: &machine::RestoreChunk,
    sender: &mpsc::Sender<machine::RestoreChunk>,
    progress: &watch::Sender<u64>,
) -> Result<(), SnapshotError> {
    let reader = store.reader(position)?;
    let count = reader.chunk_count();
    // An empty state is one empty chunk.
    for number in 0..count.max(1) {
        let data = reader.read_chunk(number)?.unwrap_or_default();
        let chunk = machine::RestoreChunk {
            chunk: number,
            crc32c: crc32c::crc32c(&data),
            data,
            last: number + 1 >= count,
            ..form.clone()
        };
        if sender.blocking_send(chunk).is_err() {
            break; // The call has ended, and says why.
        }
        progress.send_replace(number);
    }
    Ok(())
}
