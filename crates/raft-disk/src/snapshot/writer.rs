//! Writing a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{SnapshotMeta, mutant};

use super::file::File;
use super::format::{self, Footer, Head};
use super::{
    MAX_FORMAT_BYTES, MAX_SNAPSHOT_HEAD_BYTES, Shared, SnapshotError, SnapshotInfo, TAKING,
    full_or_refused,
};
use crate::disk::{Doing, Failure, Space};

/// A snapshot that is being written; from any thread, and at any pace. It is one when
/// [`SnapshotWriter::finish`] has said so; dropped before, it leaves nothing behind.
///
/// After an error it is of no more use.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<Shared>,
    file: File,
    head: Head,
    /// Where the next chunk goes.
    end: u64,
    synced: u64,
    checksum: u32,
    footer: Footer,
    /// What is not yet a chunk.
    buffer: Vec<u8>,
    failed: bool,
    finished: bool,
}

impl SnapshotWriter {
    pub(super) fn begin(
        shared: Arc<Shared>,
        meta: Arc<SnapshotMeta>,
        format: String,
        sessions: Bytes,
    ) -> Result<SnapshotWriter, SnapshotError> {
        if !format::is_possible(meta.position, meta.configuration_index) {
            return Err(SnapshotError::Invalid("it stands at an impossible place"));
        }
        let chunk_bytes = shared.options.chunk_bytes;
        let head = Head {
            meta,
            // At most SNAPSHOT_CHUNK_BYTES.
            chunk_bytes: u32::try_from(chunk_bytes).unwrap_or(u32::MAX),
            format,
            sessions,
        };
        let Some((bytes, checksum)) = head.encode() else {
            let (what, bytes, most) = match head.format.len() {
                long if long > MAX_FORMAT_BYTES => ("a name", long, MAX_FORMAT_BYTES as u64),
                _ => ("sessions", head.sessions.len(), MAX_SNAPSHOT_HEAD_BYTES),
            };
            let bytes = bytes as u64;
            return Err(SnapshotError::TooLarge { what, bytes, most });
        };
        let disk = shared.disk.clone();
        // Several may be written at the same time, and one may be left from a crash.
        let number = disk
            .random()
            .doing("find a random number for", &*disk, TAKING)?;
        let name = format!("{TAKING}{number:016x}.tmp");
        let file = disk
            .create(&name, 0, Space::Reserved)
            .doing("create", &*disk, &name)
            .map_err(full_or_refused)?;
        let mut writer = SnapshotWriter {
            shared,
            file: File { disk, name, file },
            head,
            end: 0,
            synced: 0,
            checksum,
            footer: Footer {
                chunks: 0,
                bytes: 0,
            },
            buffer: Vec::new(),
            failed: false,
            finished: false,
        };
        writer.write(&bytes).map_err(full_or_refused)?;
        Ok(writer)
    }

    /// Appends bytes of the state machine, any number of them. Of memory it takes one chunk.
    ///
    /// # Errors
    /// [`SnapshotError::Full`], or the disk refused.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.failed {
            return Err(SnapshotError::GivenUp);
        }
        let chunk_bytes = self.shared.options.chunk_bytes;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(chunk_bytes - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == chunk_bytes {
                self.write_chunk()?;
            }
        }
        Ok(())
    }

    /// Completes the snapshot. When this returns it survives a power cut, and the log may be
    /// compacted up to it.
    ///
    /// # Errors
    /// [`SnapshotError::Full`], or the disk refused: there is no snapshot then. (One whose name could
    /// not be made durable may turn up at the next opening, complete.)
    pub fn finish(mut self) -> Result<SnapshotInfo, SnapshotError> {
        if self.failed {
            return Err(SnapshotError::GivenUp);
        }
        if !self.buffer.is_empty() {
            self.write_chunk()?;
        }
        let (footer, checksum) = self.footer.encode(self.checksum);
        self.write(&footer).map_err(full_or_refused)?;
        self.sync().map_err(full_or_refused)?;
        let info = SnapshotInfo {
            meta: self.head.meta.clone(),
            format: self.head.format.clone(),
            application_bytes: self.footer.bytes,
            file_bytes: self.end,
            checksum,
        };
        self.shared.publish(&self.file.name, &info)?;
        self.finished = true;
        Ok(info)
    }

    fn write_chunk(&mut self) -> Result<(), SnapshotError> {
        let bytes = std::mem::take(&mut self.buffer);
        self.failed = true;
        let (head, checksum) = format::chunk_head(self.checksum, &bytes);
        self.write(&head).map_err(full_or_refused)?;
        self.write(&bytes).map_err(full_or_refused)?;
        self.checksum = checksum;
        self.footer.chunks += 1;
        self.footer.bytes += bytes.len() as u64;
        if self.end - self.synced >= self.shared.options.sync_bytes {
            self.sync().map_err(full_or_refused)?;
        }
        self.failed = false;
        self.buffer = bytes;
        self.buffer.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let File { disk, name, file } = &self.file;
        file.write_at(self.end, bytes)
            .doing("write", &**disk, name)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Not tried again when it fails: the file goes (D7).
    fn sync(&mut self) -> Result<(), Failure> {
        if mutant!(S4SnapshotNotSynced) {
            return Ok(());
        }
        let File { disk, name, file } = &self.file;
        file.sync().doing("sync", &**disk, name)?;
        self.synced = self.end;
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed now goes at the next opening.
            let _ = self.file.disk.remove(&self.file.name);
        }
    }
}
