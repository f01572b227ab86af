//! What lies behind bad bytes: a witness that they were durable, and something intact to go on with.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{READ_BYTES, Segment};
use crate::disk::{Disk, DiskFile, Doing, Failure};
use crate::format::{self, BATCH_HEADER_BYTES, BatchHeader, SegmentHeader, Standing};

/// What lies behind the last intact batch.
pub(super) struct Rest {
    /// A batch states that the bad bytes were durable before it was written.
    pub(super) promised: bool,
    /// What is intact again behind the bad bytes.
    pub(super) behind: Option<Behind>,
    /// Behind this there are only zeros.
    pub(super) dirty_end: u64,
}

/// Something intact behind bad bytes: a whole batch, or the next segment.
pub(super) struct Behind {
    pub(super) at: u64,
    /// The checksum by which it knows what is before it.
    pub(super) previous: u32,
    /// How things stood there.
    pub(super) standing: Standing,
}

/// Looks at what lies behind `end`. With a next segment, that is intact, and nothing behind where it
/// says that this one ends is looked at.
pub(super) fn survey(
    disk: &dyn Disk,
    window: &mut Window,
    generation: u64,
    end: u64,
    next: Option<&SegmentHeader>,
) -> Result<Rest, Failure> {
    let mut rest = Rest {
        promised: false,
        behind: None,
        dirty_end: end,
    };
    let length = next.map_or(window.length, |next| next.previous_end.min(window.length));
    let mut at = end;
    while at < length {
        // A header at the very end of a piece is seen whole: pieces overlap by one header.
        let bytes = window.read(disk, at, READ_BYTES as u64)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            rest.dirty_end = at + last as u64 + 1;
            for place in (0..bytes.len()).step_by(format::ALIGNMENT as usize) {
                if let Some((header, _)) = BatchHeader::decode(&bytes[place..])
                    && header.generation == generation
                    && header.offset == at + place as u64
                    && header.offset > end
                    && header.synced <= header.offset
                {
                    rest.promised |= header.synced > end;
                    if rest.behind.is_none() && is_whole(disk, window, &header, length)? {
                        rest.behind = Some(Behind {
                            at: header.offset,
                            previous: header.previous,
                            standing: header.standing,
                        });
                    }
                    if rest.promised && rest.behind.is_some() {
                        return Ok(rest);
                    }
                }
            }
        }
        at += (READ_BYTES - format::align(BATCH_HEADER_BYTES as u64) as usize) as u64;
    }
    if let (None, Some(next)) = (&rest.behind, next)
        && next.previous_end > end
        && next.previous_end <= window.length
    {
        rest.behind = Some(Behind {
            at: next.previous_end,
            previous: next.previous_checksum,
            standing: Standing::new(next.last, &next.hard_state),
        });
    }
    Ok(rest)
}

/// Whether all of the batch is there, and ends before `length`.
fn is_whole(
    disk: &dyn Disk,
    window: &mut Window,
    header: &BatchHeader,
    length: u64,
) -> Result<bool, Failure> {
    if header.end() > length {
        return Ok(false);
    }
    let body_at = header.offset + BATCH_HEADER_BYTES as u64;
    let body = window.read(disk, body_at, u64::from(header.body_bytes))?;
    Ok(crc32c::crc32c(&body) == header.body_crc)
}

/// A part of a segment in memory that moves along.
pub(super) struct Window {
    name: Arc<str>,
    file: Arc<dyn DiskFile>,
    length: u64,
    base: u64,
    bytes: Bytes,
}

impl Window {
    pub(super) fn new(segment: &Segment) -> Window {
        Window {
            name: segment.name.clone(),
            file: segment.file.clone(),
            length: segment.length,
            base: 0,
            bytes: Bytes::new(),
        }
    }

    /// The bytes from `offset` on, fewer than `length` only at the end of the file.
    pub(super) fn read(
        &mut self,
        disk: &dyn Disk,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, Failure> {
        let length = length.min(self.length.saturating_sub(offset)) as usize;
        let inside = offset.checked_sub(self.base).map(|start| start as usize);
        if let Some(start) = inside
            && let Some(end) = start.checked_add(length)
            && end <= self.bytes.len()
        {
            return Ok(self.bytes.slice(start..end));
        }
        let rest = self.length.saturating_sub(offset);
        let wanted = (length.max(READ_BYTES) as u64).min(rest) as usize;
        let mut bytes = vec![0; wanted];
        let read = self
            .file
            .read_at(offset, &mut bytes)
            .doing("read", disk, &self.name)?;
        bytes.truncate(read);
        // A file shorter than it was a moment ago: somebody cuts it under our hands.
        if read < wanted {
            let source = io::ErrorKind::UnexpectedEof.into();
            return Err(Failure {
                action: "read",
                path: disk.path(&self.name),
                source,
            });
        }
        self.base = offset;
        self.bytes = bytes.into();
        Ok(self.bytes.slice(..length))
    }
}
