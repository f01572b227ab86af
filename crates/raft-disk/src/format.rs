//! The bytes of a segment. Pure: nothing here touches a disk.
//!
//! ```text
//! segment  = header batch* zeros
//! header   = magic version length generation number last_index last_term
//!            previous_end previous_checksum hard_state_length hard_state crc        (padded to 8)
//! batch    = magic length generation offset synced previous count body_crc
//!            flags following last_index last_term current_term voted_for crc
//!            record{count}                                                          (padded to 8)
//! record   = kind length crc content
//! ```
//!
//! All numbers are big-endian. What each check is for:
//!
//! * `crc` of a record: a reader that starts in the middle of a batch can trust what it reads.
//! * `body_crc`: the batch is there as a whole. One [`raft_core::Write`] is never divided between
//!   two batches, so it happens as a whole or not at all.
//! * `generation`, random for each segment, and `offset`, the batch's own: bytes that lie in the
//!   file for another reason (an older life of its blocks, a client's entry that looks like a batch)
//!   are no batch of this place.
//! * `previous`, the header checksum of the batch before: batches cannot be left out or exchanged.
//! * `synced`: everything in the segment below this offset was durable before this batch was
//!   written (D3). It turns "something is wrong here" into "this was lost after we promised it".
//! * `last`, `current_term`, `voted_for`: how things stood when the batch was written. When what lies
//!   before it is damaged, it says what must be known of it (D6).
//! * `following`: a batch that was put in the place of damaged ones is followed by what followed
//!   those, and says by which checksum that knows it.

use bytes::{Buf, BufMut, Bytes};
use raft_core::{Entry, HardState, Index, NodeId, Payload, Position, Term};

/// The format that this version writes, and the only one that it reads.
pub(crate) const VERSION: u32 = 2;

/// Batches begin at multiples of this.
pub(crate) const ALIGNMENT: u64 = 8;

/// Length of a batch's header.
pub(crate) const BATCH_HEADER_BYTES: usize = 96;

/// The longest batch: its length must fit its field with room to spare, and a reader's memory.
pub(crate) const MAX_BATCH_BYTES: usize = 1 << 30;

/// The longest header of a segment: it holds the hard state, with a mark for each voter ever met.
pub(crate) const MAX_SEGMENT_HEADER_BYTES: u64 = 16 << 20;

const SEGMENT_MAGIC: u64 = u64::from_be_bytes(*b"leekyLog");
const SEGMENT_FIXED_BYTES: usize = 72;
/// No kind of record equals its first byte, and neither does the zero of padding: whoever walks
/// through a segment knows what comes next.
const BATCH_MAGIC: u32 = u32::from_be_bytes([BATCH, b'b', b'a', b't']);
const BATCH: u8 = 0xB7;
const PADDING: u8 = 0;
const HARD_STATE: u8 = 1;
const TRUNCATE: u8 = 2;
const ENTRY: u8 = 3;
const RESET: u8 = 4;
const LOST: u8 = 5;
const RECORD_HEADER_BYTES: usize = 9;
const ENTRY_FIXED_BYTES: usize = 24;
const RESET_BYTES: usize = 24;
const LOST_BYTES: usize = 24;
const HAS_VOTED: u32 = 1;
const MENDS: u32 = 2;

/// What is wrong with some bytes, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// They are not what was written.
    Damaged(&'static str),
    /// They are intact, and this version cannot read them.
    Unknown(String),
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Flaw::Damaged(what) => f.write_str(what),
            Flaw::Unknown(what) => f.write_str(what),
        }
    }
}

/// The length that stands behind the magic number and the version with which a file begins.
pub(crate) fn head_length(
    start: &[u8],
    (our_magic, our_version): (u64, u32),
    cut_off: &'static str,
    foreign: &'static str,
) -> Result<u64, Flaw> {
    let mut fields = start;
    let (Ok(magic), Ok(version), Ok(length)) = (
        fields.try_get_u64(),
        fields.try_get_u32(),
        fields.try_get_u32(),
    ) else {
        return Err(Flaw::Damaged(cut_off));
    };
    if magic != our_magic {
        return Err(Flaw::Damaged(foreign));
    }
    // A flipped bit in the version or the length shows in the checksum, but a version that is not
    // ours may put it elsewhere.
    if version != our_version {
        return Err(Flaw::Unknown(format!(
            "format {version} is not the one that this version reads, {our_version}"
        )));
    }
    Ok(u64::from(length))
}

pub(crate) fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGNMENT)
}

/// The first record of a segment. A segment has its name only once this and its first batch are
/// durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub generation: u64,
    pub number: u64,
    /// Where the log ended when the segment began.
    pub last: Position,
    /// Where the data of the segment before ends, and its last checksum.
    pub previous_end: u64,
    pub previous_checksum: u32,
    /// Repeated at each start, so that no earlier segment is needed for it.
    pub hard_state: HardState,
}

impl SegmentHeader {
    /// Appends the header to `out` and returns its checksum, where the chain of batches begins.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        let hard_state = hard_state_len(&self.hard_state);
        let length = align((SEGMENT_FIXED_BYTES + hard_state + 4) as u64);
        out.put_u64(SEGMENT_MAGIC);
        out.put_u32(VERSION);
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        out.put_u64(self.generation);
        out.put_u64(self.number);
        out.put_u64(self.last.index);
        out.put_u64(self.last.term);
        out.put_u64(self.previous_end);
        out.put_u32(self.previous_checksum);
        out.put_u32(u32::try_from(hard_state).unwrap_or(u32::MAX));
        out.put_u64(0);
        put_hard_state(out, &self.hard_state);
        out.resize(start + length as usize - 4, 0);
        let checksum = crc32c::crc32c(&out[start..]);
        out.put_u32(checksum);
        checksum
    }

    /// How long the header is, from its first 16 bytes.
    pub(crate) fn length(start: &[u8]) -> Result<u64, Flaw> {
        let cut_off = "the header of the segment is cut off";
        let foreign = "this is no segment of a log";
        let length = head_length(start, (SEGMENT_MAGIC, VERSION), cut_off, foreign)?;
        if length % ALIGNMENT != 0
            || !(SEGMENT_FIXED_BYTES as u64 + 4..=MAX_SEGMENT_HEADER_BYTES).contains(&length)
        {
            return Err(Flaw::Damaged(
                "the length of the segment's header is impossible",
            ));
        }
        Ok(length)
    }

    /// Reads the whole header; also returns its checksum.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(SegmentHeader, u32), Flaw> {
        const DAMAGED: Flaw = Flaw::Damaged("the header of the segment fails its checksum");
        let content = bytes.len().checked_sub(4).ok_or(DAMAGED)?;
        let (content, mut tail) = bytes.split_at(content);
        let checksum = tail.try_get_u32().map_err(|_| DAMAGED)?;
        if content.len() < SEGMENT_FIXED_BYTES || crc32c::crc32c(content) != checksum {
            return Err(DAMAGED);
        }
        let (mut fixed, hard_state) = content.split_at(SEGMENT_FIXED_BYTES);
        fixed.advance(16);
        let header = SegmentHeader {
            generation: fixed.get_u64(),
            number: fixed.get_u64(),
            last: Position {
                index: fixed.get_u64(),
                term: fixed.get_u64(),
            },
            previous_end: fixed.get_u64(),
            previous_checksum: fixed.get_u32(),
            hard_state: {
                let length = fixed.get_u32() as usize;
                take_hard_state(hard_state.get(..length).ok_or(DAMAGED)?)?
            },
        };
        Ok((header, checksum))
    }
}

/// How things stand at some place of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Where the log ends.
    pub last: Position,
    /// What was promised (figure 2).
    pub current_term: Term,
    pub voted_for: Option<NodeId>,
}

impl Standing {
    pub(crate) fn new(last: Position, hard_state: &HardState) -> Standing {
        Standing {
            last,
            current_term: hard_state.current_term,
            voted_for: hard_state.voted_for,
        }
    }
}

/// What stands before the records of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Length of the body in bytes, padding included.
    pub body_bytes: u32,
    pub generation: u64,
    /// Where in the segment the batch begins.
    pub offset: u64,
    /// Everything in the segment below this was durable before the batch was written.
    pub synced: u64,
    /// Checksum of the header before, the segment's for the first batch.
    pub previous: u32,
    pub count: u32,
    pub body_crc: u32,
    /// The batch stands in the place of damaged ones: what follows it names this checksum.
    pub following: Option<u32>,
    /// How things stood before it.
    pub standing: Standing,
}

impl BatchHeader {
    /// Writes the header to the start of `out` and returns its checksum.
    pub(crate) fn encode(&self, out: &mut [u8]) -> u32 {
        let mut header = [0; BATCH_HEADER_BYTES];
        let mut fields = &mut header[..];
        fields.put_u32(BATCH_MAGIC);
        fields.put_u32(self.body_bytes);
        fields.put_u64(self.generation);
        fields.put_u64(self.offset);
        fields.put_u64(self.synced);
        fields.put_u32(self.previous);
        fields.put_u32(self.count);
        fields.put_u32(self.body_crc);
        let Standing {
            last,
            current_term,
            voted_for,
        } = self.standing;
        let has_voted = if voted_for.is_some() { HAS_VOTED } else { 0 };
        let mends = if self.following.is_some() { MENDS } else { 0 };
        fields.put_u32(has_voted | mends);
        fields.put_u32(self.following.unwrap_or(0));
        fields.put_u64(last.index);
        fields.put_u64(last.term);
        fields.put_u64(current_term);
        fields.put_u128(voted_for.map_or(0, |node| node.0));
        let checksum = crc32c::crc32c(&header[..BATCH_HEADER_BYTES - 4]);
        header[BATCH_HEADER_BYTES - 4..].copy_from_slice(&checksum.to_be_bytes());
        out[..BATCH_HEADER_BYTES].copy_from_slice(&header);
        checksum
    }

    /// Completes the batch in `batch`, whose body is there, and returns its checksum.
    pub(crate) fn seal(mut self, batch: &mut [u8]) -> u32 {
        let body = &batch[BATCH_HEADER_BYTES..];
        // Bounded by MAX_BATCH_BYTES, which is checked before anything is encoded.
        self.body_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        self.body_crc = crc32c::crc32c(body);
        self.encode(batch)
    }

    /// Reads a header; also returns its checksum. `None` when these bytes are none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(BatchHeader, u32)> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        let (mut fields, mut tail) = bytes.split_at(BATCH_HEADER_BYTES - 4);
        if fields.get_u32() != BATCH_MAGIC {
            return None;
        }
        let checksum = tail.get_u32();
        if crc32c::crc32c(&bytes[..BATCH_HEADER_BYTES - 4]) != checksum {
            return None;
        }
        let mut header = BatchHeader {
            body_bytes: fields.get_u32(),
            generation: fields.get_u64(),
            offset: fields.get_u64(),
            synced: fields.get_u64(),
            previous: fields.get_u32(),
            count: fields.get_u32(),
            body_crc: fields.get_u32(),
            following: None,
            standing: Standing::default(),
        };
        let flags = fields.get_u32();
        let following = fields.get_u32();
        header.following = (flags & MENDS != 0).then_some(following);
        header.standing = Standing {
            last: Position {
                index: fields.get_u64(),
                term: fields.get_u64(),
            },
            current_term: fields.get_u64(),
            voted_for: {
                let candidate = NodeId(fields.get_u128());
                (flags & HAS_VOTED != 0).then_some(candidate)
            },
        };
        Some((header, checksum))
    }

    /// Where the next batch begins.
    pub(crate) fn end(&self) -> u64 {
        self.offset
            .saturating_add(BATCH_HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    HardState(HardState),
    /// Every entry from this index on is gone.
    Truncate(Index),
    Entry(Entry),
    /// Every entry of the segments before is gone, and the log goes on behind a snapshot whose last
    /// entry stands here (§7). Always the first record of its segment.
    Reset {
        base: Position,
        log_time_ms: u64,
    },
    /// Every entry from `first` on is gone, and the log goes on behind `last`: what lay between was
    /// damaged, and is not needed, since a snapshot covers it or it is truncated further on (D6).
    Lost {
        first: Index,
        last: Position,
    },
}

/// What a walk through a segment meets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// Zeros up to the next aligned offset.
    Padding,
    /// The header of a batch; its records follow.
    Batch,
    /// A record, and its length.
    Record(Record, usize),
}

/// Length of an entry's record.
pub(crate) fn entry_len(payload: &Payload) -> usize {
    RECORD_HEADER_BYTES + ENTRY_FIXED_BYTES + payload.encoded_len()
}

fn hard_state_len(hard_state: &HardState) -> usize {
    8 + 1 + 16 + 4 + 32 * hard_state.peers.len()
}

/// Upper bound of the length of a write's records.
pub(crate) fn write_len(write: &raft_core::Write) -> usize {
    let hard_state = write
        .hard_state
        .as_ref()
        .map_or(0, |h| RECORD_HEADER_BYTES + hard_state_len(h));
    let truncate = RECORD_HEADER_BYTES + 8;
    let reset = RECORD_HEADER_BYTES + RESET_BYTES;
    write
        .entries
        .iter()
        .fold(hard_state + truncate + reset, |sum, entry| {
            sum.saturating_add(entry_len(&entry.payload))
        })
}

pub(crate) fn put_hard_state_record(out: &mut Vec<u8>, hard_state: &HardState) {
    let start = begin(out, HARD_STATE);
    put_hard_state(out, hard_state);
    seal(out, start);
}

pub(crate) fn put_truncate_record(out: &mut Vec<u8>, from: Index) {
    let start = begin(out, TRUNCATE);
    out.put_u64(from);
    seal(out, start);
}

pub(crate) fn put_reset_record(out: &mut Vec<u8>, base: Position, log_time_ms: u64) {
    let start = begin(out, RESET);
    out.put_u64(base.index);
    out.put_u64(base.term);
    out.put_u64(log_time_ms);
    seal(out, start);
}

pub(crate) fn put_lost_record(out: &mut Vec<u8>, first: Index, last: Position) {
    let start = begin(out, LOST);
    out.put_u64(first);
    out.put_u64(last.index);
    out.put_u64(last.term);
    seal(out, start);
}

pub(crate) fn put_entry_record(out: &mut Vec<u8>, entry: &Entry) {
    let start = begin(out, ENTRY);
    out.put_u64(entry.index);
    out.put_u64(entry.term);
    out.put_u64(entry.log_time_ms);
    entry.payload.encode(out);
    seal(out, start);
}

fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.put_u8(kind);
    out.put_u64(0);
    start
}

fn seal(out: &mut [u8], start: usize) {
    let length = out.len() - start - RECORD_HEADER_BYTES;
    // Bounded by MAX_BATCH_BYTES, which is checked before anything is encoded.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    let crc = record_crc(&out[start..start + 5], &out[start + RECORD_HEADER_BYTES..]);
    out[start + 5..start + 9].copy_from_slice(&crc.to_be_bytes());
}

fn record_crc(head: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), content)
}

/// Reads what begins at `at`. Payloads are slices of `bytes`, not copies.
pub(crate) fn item(bytes: &Bytes, at: usize) -> Result<Item, Flaw> {
    const SHORT: Flaw = Flaw::Damaged("a record is cut off");
    let rest = bytes.get(at..).ok_or(SHORT)?;
    match rest.first() {
        None => return Err(SHORT),
        Some(&PADDING) => return Ok(Item::Padding),
        Some(&BATCH) => {
            return match BatchHeader::decode(rest) {
                Some(_) => Ok(Item::Batch),
                None => Err(Flaw::Damaged("the header of a batch fails its checksum")),
            };
        }
        Some(_) => {}
    }
    let (head, rest) = rest.split_at_checked(RECORD_HEADER_BYTES).ok_or(SHORT)?;
    let mut fields = head;
    let kind = fields.get_u8();
    let length = fields.get_u32() as usize;
    let crc = fields.get_u32();
    let content = rest.get(..length).ok_or(SHORT)?;
    if record_crc(&head[..5], content) != crc {
        return Err(Flaw::Damaged("a record fails its checksum"));
    }
    let start = at + RECORD_HEADER_BYTES;
    let record = match kind {
        HARD_STATE => Record::HardState(take_hard_state(content)?),
        TRUNCATE if length == 8 => Record::Truncate((&mut &*content).get_u64()),
        RESET if length == RESET_BYTES => {
            let mut fields = content;
            Record::Reset {
                base: Position {
                    index: fields.get_u64(),
                    term: fields.get_u64(),
                },
                log_time_ms: fields.get_u64(),
            }
        }
        LOST if length == LOST_BYTES => {
            let mut fields = content;
            Record::Lost {
                first: fields.get_u64(),
                last: Position {
                    index: fields.get_u64(),
                    term: fields.get_u64(),
                },
            }
        }
        ENTRY if length >= ENTRY_FIXED_BYTES => {
            let mut fields = content;
            let payload = bytes.slice(start + ENTRY_FIXED_BYTES..start + length);
            Record::Entry(Entry {
                index: fields.get_u64(),
                term: fields.get_u64(),
                log_time_ms: fields.get_u64(),
                payload: Payload::decode(payload)
                    .map_err(|bad| Flaw::Unknown(format!("an entry cannot be read: {bad}")))?,
            })
        }
        other => return Err(Flaw::Unknown(format!("a record of unknown kind {other}"))),
    };
    Ok(Item::Record(record, RECORD_HEADER_BYTES + length))
}

fn put_hard_state(out: &mut Vec<u8>, hard_state: &HardState) {
    out.put_u64(hard_state.current_term);
    out.put_u8(u8::from(hard_state.voted_for.is_some()));
    out.put_u128(hard_state.voted_for.map_or(0, |node| node.0));
    out.put_u32(u32::try_from(hard_state.peers.len()).unwrap_or(u32::MAX));
    for (node, (boot, term)) in &hard_state.peers {
        out.put_u128(node.0);
        out.put_u64(*boot);
        out.put_u64(*term);
    }
}

fn take_hard_state(mut bytes: &[u8]) -> Result<HardState, Flaw> {
    const BAD: Flaw = Flaw::Damaged("a hard state has the wrong length");
    if bytes.remaining() < 29 {
        return Err(BAD);
    }
    let current_term = bytes.get_u64();
    let voted = bytes.get_u8() != 0;
    let candidate = NodeId(bytes.get_u128());
    let count = bytes.get_u32() as usize;
    if bytes.remaining() != count.saturating_mul(32) {
        return Err(BAD);
    }
    let peers = (0..count)
        .map(|_| (NodeId(bytes.get_u128()), (bytes.get_u64(), bytes.get_u64())))
        .collect();
    Ok(HardState {
        current_term,
        voted_for: voted.then_some(candidate),
        peers,
    })
}

#[cfg(test)]
mod tests;
