//! Reading a snapshot's file, and judging it.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, CHUNK_HEAD_BYTES, FOOTER_BYTES, Footer, HEAD_START_BYTES, Head, Layout};
use super::{SnapshotError, SnapshotInfo};
use crate::disk::{Disk, DiskFile, Doing, Failure};
use crate::format::Flaw;

/// Why bytes could not be had, or are not what they should be.
pub(super) enum Trouble {
    /// Where, and what.
    Flaw(u64, Flaw),
    Disk(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Disk(failure)
    }
}

impl Trouble {
    /// For whoever wanted to read the file of this path.
    pub(super) fn of(self, path: String) -> SnapshotError {
        match self {
            Trouble::Flaw(offset, what) => SnapshotError::Damaged {
                path,
                offset,
                what: what.to_string(),
            },
            Trouble::Disk(failure) => SnapshotError::Disk(failure),
        }
    }
}

/// An open file of a snapshot, complete or not.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub disk: Arc<dyn Disk>,
    pub name: String,
    pub file: Arc<dyn DiskFile>,
}

impl File {
    pub(super) fn path(&self) -> String {
        self.disk.path(&self.name)
    }

    pub(super) fn length(&self) -> Result<u64, Failure> {
        self.file.len().doing("read", &*self.disk, &self.name)
    }

    /// Exactly these bytes. `most` is the length of the file: nothing is allocated for bytes that
    /// are not there.
    pub(super) fn bytes(&self, offset: u64, length: u64, most: u64) -> Result<Bytes, Trouble> {
        const SHORT: Flaw = Flaw::Damaged("it is cut off");
        if offset.checked_add(length).is_none_or(|end| end > most) {
            return Err(Trouble::Flaw(offset, SHORT));
        }
        // No file in memory is larger than memory.
        let wanted = usize::try_from(length).map_err(|_| Trouble::Flaw(offset, SHORT))?;
        let mut bytes = vec![0; wanted];
        let read = self
            .file
            .read_at(offset, &mut bytes)
            .doing("read", &*self.disk, &self.name)?;
        if read < wanted {
            return Err(Trouble::Flaw(offset, SHORT));
        }
        Ok(bytes.into())
    }

    /// The head, its bytes, and its checksum.
    pub(super) fn head(&self, most: u64) -> Result<(Head, Bytes, u32), Trouble> {
        let wrong = |flaw| Trouble::Flaw(0, flaw);
        let start = self.bytes(0, HEAD_START_BYTES, most)?;
        let length = Head::length(&start).map_err(wrong)?;
        let bytes = self.bytes(0, length, most)?;
        let (head, checksum) = Head::decode(&bytes).map_err(wrong)?;
        Ok((head, bytes, checksum))
    }

    /// Checks head and footer against each other; what lies between is not read.
    pub(super) fn judge(&self) -> Result<Judged, Trouble> {
        let length = self.length()?;
        let (head, head_bytes, head_checksum) = self.head(length)?;
        let at = length.saturating_sub(FOOTER_BYTES);
        let wrong = |flaw| Trouble::Flaw(at, flaw);
        let (footer, checksum) =
            Footer::decode(&self.bytes(at, FOOTER_BYTES, length)?).map_err(wrong)?;
        let layout = Layout {
            head_bytes: head_bytes.len() as u64,
            chunk_bytes: u64::from(head.chunk_bytes),
            footer,
        };
        if !layout.fits(length) {
            return Err(wrong(Flaw::Damaged("its parts do not fill it")));
        }
        let judged = Judged {
            info: SnapshotInfo {
                meta: head.meta.clone(),
                format: head.format.clone(),
                application_bytes: footer.bytes,
                file_bytes: length,
                checksum,
            },
            head,
            head_checksum,
            layout,
        };
        let last = self.checksum_before(&judged, footer.chunks)?;
        judged.layout.check(last, checksum).map_err(wrong)?;
        Ok(judged)
    }

    /// The checksum that chunk `n` (or the footer) goes on from, as the file says it.
    fn checksum_before(&self, judged: &Judged, n: u64) -> Result<u32, Trouble> {
        let Some(before) = n.checked_sub(1) else {
            return Ok(judged.head_checksum);
        };
        let (offset, _) = judged.layout.chunk(before);
        let head = self.bytes(offset, CHUNK_HEAD_BYTES, judged.info.file_bytes)?;
        let (_, checksum) = format::read_chunk_head(&head)
            .ok_or(Trouble::Flaw(offset, Flaw::Damaged("it is cut off")))?;
        Ok(checksum)
    }

    /// Chunk `n`, of those that there are, and its checksum.
    pub(super) fn chunk(&self, judged: &Judged, n: u64) -> Result<(Bytes, u32), Trouble> {
        let previous = self.checksum_before(judged, n)?;
        let (offset, length) = judged.layout.chunk(n);
        let chunk = self.bytes(offset, length, judged.info.file_bytes)?;
        let checksum =
            format::check_chunk(previous, &chunk).map_err(|flaw| Trouble::Flaw(offset, flaw))?;
        Ok((chunk.slice(CHUNK_HEAD_BYTES as usize..), checksum))
    }

    /// Reads and checks everything.
    pub(super) fn verify(&self) -> Result<Judged, Trouble> {
        let judged = self.judge()?;
        for n in 0..judged.layout.footer.chunks {
            self.chunk(&judged, n)?;
        }
        Ok(judged)
    }
}

/// What head and footer of a complete file say.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub info: SnapshotInfo,
    pub head: Head,
    pub head_checksum: u32,
    pub layout: Layout,
}
