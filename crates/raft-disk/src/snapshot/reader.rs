//! Reading a snapshot: for the state machine, and for a peer.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::sessions::BadTable;
use raft_core::{SessionTable, SnapshotMeta};

use super::file::{File, Judged};
use super::{SnapshotError, SnapshotInfo};
use crate::disk::{Disk, Doing};

/// Reads one complete snapshot, from any thread. It holds the file: removing the snapshot, or
/// putting another in its place, changes nothing for it.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    file: File,
    judged: Judged,
}

impl SnapshotReader {
    /// Opens the file of a snapshot by its name on `disk`.
    pub(crate) fn on(disk: Arc<dyn Disk>, name: &str) -> Result<SnapshotReader, SnapshotError> {
        let file = disk.open(name).doing("open", &*disk, name)?;
        let name = name.to_owned();
        SnapshotReader::open(File { disk, name, file })
    }

    pub(super) fn open(file: File) -> Result<SnapshotReader, SnapshotError> {
        let judged = file.judge().map_err(|trouble| trouble.of(file.path()))?;
        Ok(SnapshotReader { file, judged })
    }

    /// What is known of it without reading it.
    pub fn info(&self) -> &SnapshotInfo {
        &self.judged.info
    }

    /// What it says to Raft.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.judged.head.meta
    }

    /// What the state machine calls the form of its bytes.
    pub fn format(&self) -> &str {
        &self.judged.head.format
    }

    /// What the daemon kept beside the state machine's bytes.
    pub fn sessions(&self) -> &Bytes {
        &self.judged.head.sessions
    }

    /// How many sessions are open in it.
    ///
    /// # Errors
    /// The bytes of its sessions are no session table.
    pub fn session_count(&self) -> Result<usize, BadTable> {
        Ok(SessionTable::decode(self.sessions().clone())?.len())
    }

    /// How many chunks of the state machine's bytes there are.
    pub fn chunk_count(&self) -> u64 {
        self.judged.layout.footer.chunks
    }

    /// Chunk `n`, from 0: intact, or an error. `None` behind the last.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`], or the disk refused.
    pub fn read_chunk(&self, n: u64) -> Result<Option<Bytes>, SnapshotError> {
        if n >= self.chunk_count() {
            return Ok(None);
        }
        let chunk = self.file.chunk(&self.judged, n);
        match chunk {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(trouble) => Err(trouble.of(self.file.path())),
        }
    }

    /// All chunks in order.
    pub fn chunks(&self) -> impl Iterator<Item = Result<Bytes, SnapshotError>> + '_ {
        (0..self.chunk_count()).filter_map(|n| self.read_chunk(n).transpose())
    }

    /// Reads everything, and says whether it is intact.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`], or the disk refused.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        self.chunks().try_for_each(|chunk| chunk.map(|_| ()))
    }

    /// The file's own bytes from `offset` on, at most `max` of them, for sending it as it is; none
    /// at its end. They are not checked here: the receiver does that.
    ///
    /// # Errors
    /// The disk refused, or the file is cut off.
    pub fn read_raw(&self, offset: u64, max: usize) -> Result<Bytes, SnapshotError> {
        let rest = self.judged.info.file_bytes.saturating_sub(offset);
        let length = rest.min(max as u64);
        self.file
            .bytes(
                offset.min(self.judged.info.file_bytes),
                length,
                self.judged.info.file_bytes,
            )
            .map_err(|trouble| trouble.of(self.file.path()))
    }
}
