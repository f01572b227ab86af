//! The bytes of a snapshot's file. Pure: nothing here touches a disk.
//!
//! ```text
//! file   = head chunk* footer
//! head   = magic version length index term cluster_id log_time_ms configuration_index chunk_bytes
//!          configuration_length format_length sessions_length configuration format sessions crc
//! chunk  = length crc bytes
//! footer = 0 chunks bytes crc magic
//! ```
//!
//! All numbers are big-endian. There is one chain of checksums from the head to the footer: each
//! `crc` goes on from the one before it, over what lies between, so that no piece can be changed,
//! left out, exchanged or taken from another snapshot. The last one is the checksum of the whole.
//! Every chunk but the last has `chunk_bytes`, so that any of them is found without reading those
//! before it, and the last one's checksum is found from the footer: head and footer can be checked
//! against each other without reading what lies between.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use raft_core::{ClusterId, Configuration, Index, Position, SnapshotMeta};

use super::{MAX_FORMAT_BYTES, MAX_SNAPSHOT_HEAD_BYTES, SNAPSHOT_CHUNK_BYTES};
use crate::format::{Flaw, head_length};

/// The format that this version writes, and the only one that it reads.
const VERSION: u32 = 1;

const MAGIC: u64 = u64::from_be_bytes(*b"leekySnp");
const END_MAGIC: u64 = u64::from_be_bytes(*b"leekyEnd");
const FIXED_BYTES: usize = 80;

/// Enough of a file to know how long its head is.
pub(crate) const HEAD_START_BYTES: u64 = 16;
/// What stands before a chunk's bytes.
pub(crate) const CHUNK_HEAD_BYTES: u64 = 8;
pub(crate) const FOOTER_BYTES: u64 = 32;
/// The shortest file.
pub(crate) const MIN_FILE_BYTES: u64 = FIXED_BYTES as u64 + 4 + FOOTER_BYTES;

/// What a file begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub meta: Arc<SnapshotMeta>,
    pub chunk_bytes: u32,
    pub format: String,
    pub sessions: Bytes,
}

impl Head {
    /// How long [`Head::encode`]'s bytes are; none when that is more than a head may have.
    pub(crate) fn encoded_len(&self) -> Option<u32> {
        let length = (FIXED_BYTES as u64 + 4)
            .checked_add(self.meta.configuration.encoded_len() as u64)?
            .checked_add(self.format.len() as u64)?
            .checked_add(self.sessions.len() as u64)?;
        let fits = length <= MAX_SNAPSHOT_HEAD_BYTES && self.format.len() <= MAX_FORMAT_BYTES;
        u32::try_from(length).ok().filter(|_| fits)
    }

    /// The head's bytes, and its checksum, where the chain begins; none when it is too long.
    pub(crate) fn encode(&self) -> Option<(Vec<u8>, u32)> {
        let length = self.encoded_len()?;
        let meta = &self.meta;
        let mut out = Vec::with_capacity(length as usize);
        out.put_u64(MAGIC);
        out.put_u32(VERSION);
        out.put_u32(length);
        out.put_u64(meta.position.index);
        out.put_u64(meta.position.term);
        out.put_u128(meta.cluster_id.0);
        out.put_u64(meta.log_time_ms);
        out.put_u64(meta.configuration_index);
        out.put_u32(self.chunk_bytes);
        out.put_u32(u32::try_from(meta.configuration.encoded_len()).ok()?);
        out.put_u32(u32::try_from(self.format.len()).ok()?);
        out.put_u32(u32::try_from(self.sessions.len()).ok()?);
        meta.configuration.encode(&mut out);
        out.put_slice(self.format.as_bytes());
        out.put_slice(&self.sessions);
        let checksum = crc32c::crc32c(&out);
        out.put_u32(checksum);
        Some((out, checksum))
    }

    /// How long the head is, from its first [`HEAD_START_BYTES`].
    pub(crate) fn length(start: &[u8]) -> Result<u64, Flaw> {
        let (cut_off, foreign) = ("the head is cut off", "this is no snapshot");
        let length = head_length(start, (MAGIC, VERSION), cut_off, foreign)?;
        if !(FIXED_BYTES as u64 + 4..=MAX_SNAPSHOT_HEAD_BYTES).contains(&length) {
            return Err(Flaw::Damaged("the length of the head is impossible"));
        }
        Ok(length)
    }

    /// Reads a whole head; also returns its checksum.
    pub(crate) fn decode(bytes: &Bytes) -> Result<(Head, u32), Flaw> {
        const DAMAGED: Flaw = Flaw::Damaged("the head fails its checksum");
        const LENGTHS: Flaw = Flaw::Damaged("the lengths in the head do not fit");
        let end = bytes.len().checked_sub(4).ok_or(DAMAGED)?;
        let checksum = bytes.slice(end..).get_u32();
        let mut content = bytes.slice(..end);
        if content.len() < FIXED_BYTES || crc32c::crc32c(&content) != checksum {
            return Err(DAMAGED);
        }
        let mut fixed = content.split_to(FIXED_BYTES);
        fixed.advance(HEAD_START_BYTES as usize);
        let position = Position {
            index: fixed.get_u64(),
            term: fixed.get_u64(),
        };
        let cluster_id = ClusterId(fixed.get_u128());
        let log_time_ms = fixed.get_u64();
        let configuration_index = fixed.get_u64();
        let chunk_bytes = fixed.get_u32();
        let mut part = |length: u32| {
            let length = length as usize;
            (length <= content.len()).then(|| content.split_to(length))
        };
        let mut configuration = part(fixed.get_u32()).ok_or(LENGTHS)?;
        let format = part(fixed.get_u32()).ok_or(LENGTHS)?;
        let sessions = part(fixed.get_u32()).ok_or(LENGTHS)?;
        if !content.is_empty() || format.len() > MAX_FORMAT_BYTES {
            return Err(LENGTHS);
        }
        if !(1..=SNAPSHOT_CHUNK_BYTES).contains(&(chunk_bytes as usize)) {
            return Err(Flaw::Damaged("the length of its chunks is impossible"));
        }
        if !is_possible(position, configuration_index) {
            return Err(Flaw::Damaged("it stands at an impossible place"));
        }
        let configuration = Configuration::decode(&mut configuration)
            .ok()
            .filter(|_| configuration.is_empty())
            .ok_or(Flaw::Damaged("its configuration cannot be read"))?;
        let head = Head {
            meta: Arc::new(SnapshotMeta {
                position,
                cluster_id,
                log_time_ms,
                configuration_index,
                configuration: Arc::new(configuration),
            }),
            chunk_bytes,
            format: String::from_utf8(format.to_vec())
                .map_err(|_| Flaw::Damaged("the name of its format is no text"))?,
            sessions,
        };
        Ok((head, checksum))
    }
}

/// Whether a snapshot may end here, with a configuration from there.
pub(crate) fn is_possible(position: Position, configuration_index: Index) -> bool {
    (1..Index::MAX).contains(&position.index) && configuration_index <= position.index
}

/// The head of a chunk with these bytes behind the checksum `previous`, and the chunk's own.
pub(crate) fn chunk_head(previous: u32, bytes: &[u8]) -> ([u8; CHUNK_HEAD_BYTES as usize], u32) {
    // A chunk has at most SNAPSHOT_CHUNK_BYTES.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let checksum = chunk_checksum(previous, length, bytes);
    let mut head = [0; CHUNK_HEAD_BYTES as usize];
    head[..4].copy_from_slice(&length);
    head[4..].copy_from_slice(&checksum.to_be_bytes());
    (head, checksum)
}

/// Length and checksum in the head of a chunk.
pub(crate) fn read_chunk_head(head: &[u8]) -> Option<(u32, u32)> {
    let mut fields = head;
    Some((fields.try_get_u32().ok()?, fields.try_get_u32().ok()?))
}

fn chunk_checksum(previous: u32, length: [u8; 4], bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(previous, &length), bytes)
}

/// Checks a whole chunk, head included; returns its checksum.
pub(crate) fn check_chunk(previous: u32, chunk: &[u8]) -> Result<u32, Flaw> {
    const DAMAGED: Flaw = Flaw::Damaged("a chunk fails its checksum");
    let (head, bytes) = chunk
        .split_at_checked(CHUNK_HEAD_BYTES as usize)
        .ok_or(DAMAGED)?;
    let (length, checksum) = read_chunk_head(head).ok_or(DAMAGED)?;
    if length as usize != bytes.len()
        || chunk_checksum(previous, length.to_be_bytes(), bytes) != checksum
    {
        return Err(DAMAGED);
    }
    Ok(checksum)
}

/// What a file ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub chunks: u64,
    /// Bytes of the application in them.
    pub bytes: u64,
}

impl Footer {
    /// The footer's bytes behind the checksum `previous`, and the checksum of the whole.
    pub(crate) fn encode(self, previous: u32) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(FOOTER_BYTES as usize);
        // Where a chunk would have its length: there is none without bytes.
        out.put_u32(0);
        out.put_u64(self.chunks);
        out.put_u64(self.bytes);
        let checksum = crc32c::crc32c_append(previous, &out);
        out.put_u32(checksum);
        out.put_u64(END_MAGIC);
        (out, checksum)
    }

    /// Reads a footer; also returns the checksum of the whole, which [`Layout::check`] checks.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Footer, u32), Flaw> {
        const DAMAGED: Flaw = Flaw::Damaged("it has no intact end");
        if bytes.len() != FOOTER_BYTES as usize {
            return Err(DAMAGED);
        }
        let mut fields = bytes;
        let zero = fields.get_u32();
        let footer = Footer {
            chunks: fields.get_u64(),
            bytes: fields.get_u64(),
        };
        let checksum = fields.get_u32();
        if zero != 0 || fields.get_u64() != END_MAGIC {
            return Err(DAMAGED);
        }
        Ok((footer, checksum))
    }
}

/// Where everything lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub head_bytes: u64,
    pub chunk_bytes: u64,
    pub footer: Footer,
}

impl Layout {
    /// Whether head, chunks and footer fill a file of this length.
    pub(crate) fn fits(&self, file_bytes: u64) -> bool {
        let Footer { chunks, bytes } = self.footer;
        let length = chunks
            .checked_mul(CHUNK_HEAD_BYTES)
            .and_then(|heads| heads.checked_add(bytes))
            .and_then(|length| length.checked_add(self.head_bytes + FOOTER_BYTES));
        chunks == bytes.div_ceil(self.chunk_bytes) && length == Some(file_bytes)
    }

    /// Where chunk `n`, of those that there are, begins, and how long it is, head included.
    pub(crate) fn chunk(&self, n: u64) -> (u64, u64) {
        let offset = self.head_bytes + n * (CHUNK_HEAD_BYTES + self.chunk_bytes);
        let bytes = (self.footer.bytes - n * self.chunk_bytes).min(self.chunk_bytes);
        (offset, CHUNK_HEAD_BYTES + bytes)
    }

    /// Whether the footer belongs behind a chunk (or head) of the checksum `previous`.
    pub(crate) fn check(&self, previous: u32, checksum: u32) -> Result<(), Flaw> {
        if self.footer.encode(previous).1 == checksum {
            Ok(())
        } else {
            Err(Flaw::Damaged("its end fails its checksum"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use raft_core::NodeId;

    use super::*;

    fn head() -> impl Strategy<Value = Head> {
        let sessions = prop::collection::vec(any::<u8>(), 0..60);
        let numbers = (1..u64::MAX, any::<[u64; 2]>(), any::<u128>());
        let names = (
            "[a-z]{0,9}",
            prop::collection::btree_set(any::<u128>(), 0..4),
        );
        (numbers, names, sessions, 1..=SNAPSHOT_CHUNK_BYTES as u32).prop_map(
            |((index, [term, log_time_ms], cluster), (format, voters), sessions, chunk_bytes)| {
                let configuration = Configuration {
                    voters: voters.into_iter().map(NodeId).collect(),
                    reason: format.clone(),
                    ..Configuration::default()
                };
                Head {
                    meta: Arc::new(SnapshotMeta {
                        position: Position { index, term },
                        cluster_id: ClusterId(cluster),
                        log_time_ms,
                        configuration_index: index / 2,
                        configuration: Arc::new(configuration),
                    }),
                    chunk_bytes,
                    format,
                    sessions: sessions.into(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn heads_come_back_and_changed_ones_do_not(
            head in head(), place in any::<prop::sample::Index>(),
        ) {
            let (mut bytes, checksum) = head.encode().unwrap();
            prop_assert_eq!(Head::length(&bytes).unwrap(), bytes.len() as u64);
            prop_assert_eq!(Head::decode(&bytes.clone().into()).unwrap(), (head, checksum));
            let cut = Bytes::copy_from_slice(&bytes[..place.index(bytes.len())]);
            prop_assert!(Head::decode(&cut).is_err());
            let bit = place.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Head::decode(&bytes.into()).is_err());
        }

        /// Any bytes are something, or nothing: never a panic.
        #[test]
        fn any_bytes_can_be_read(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Head::length(&bytes);
            let _ = check_chunk(1, &bytes);
            let _ = read_chunk_head(&bytes);
            let _ = Footer::decode(&bytes);
            // Lengths that lie, under a checksum that does not.
            let checksum = crc32c::crc32c(&bytes);
            bytes.put_u32(checksum);
            let _ = Head::decode(&bytes.into());
        }

        /// Whatever a footer says: a layout that fits its file stays inside it.
        #[test]
        fn a_layout_that_fits_stays_inside(
            head_bytes in 84..MAX_SNAPSHOT_HEAD_BYTES, chunk_bytes in 1u64..=1 << 20,
            bytes in prop_oneof![0u64..1 << 40, any::<u64>()], chunks in any::<u64>(), lie in any::<bool>(),
        ) {
            let chunks = if lie { chunks } else { bytes.div_ceil(chunk_bytes) };
            let layout = Layout { head_bytes, chunk_bytes, footer: Footer { chunks, bytes } };
            let fields = [chunks.checked_mul(8), Some(bytes), Some(head_bytes), Some(32)];
            let length = fields.into_iter().try_fold(0u64, |sum, field| sum.checked_add(field?));
            prop_assert_eq!(layout.fits(length.unwrap_or(7)), !lie && length.is_some());
            if layout.fits(length.unwrap_or(7)) && chunks > 0 {
                let (offset, last) = layout.chunk(chunks - 1);
                prop_assert_eq!(offset + last + 32, length.unwrap());
            }
        }
    }
}
