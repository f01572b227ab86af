//! Reading the log back when it is opened: replay, and the judgement over its last bytes.
//!
//! Everything but the end of the last segment was durable before something that rests on it was
//! written, so it is intact or it is damaged (D3). Only there a batch may be half written. The bad
//! bytes are a torn tail, and dropped, unless a batch behind them states that they were durable.

mod survey;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{ClusterId, Index, Position, SnapshotMeta, mutant};

use crate::disk::{Disk, DiskFile, Doing, Failure};
use crate::format::{self, BATCH_HEADER_BYTES, BatchHeader, Flaw, Item, SegmentHeader, Standing};
use crate::replay::{Damage, Replay};
use crate::segment::{is_half_made, segment_name, segment_number};
use crate::snapshot::{self, Survey};
use crate::wound::Wound;
use survey::{Window, survey};

/// Files are read in pieces of at least this many bytes.
const READ_BYTES: usize = 1 << 20;

/// Enough of a segment to know how long its header is.
const HEADER_START_BYTES: usize = 16;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something that was durable is no longer what was written. Nothing was changed.
    #[error(
        "the log is damaged at byte {offset} of {path}: {what}. Its entries up to {} are intact. A \
         node must not start on a log that has lost what it promised: restore this file, or remove \
         the node's data directory and let it join as a new node", intact.index
    )]
    Damaged {
        /// The file.
        path: String,
        /// Where in it the first bad record begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
        /// The last entry before the damage (D6).
        intact: Position,
        /// What is intact behind the damage says what is lost: peers may have it. None: it does not.
        wound: Option<Box<Wound>>,
    },
    /// A whole segment is gone. Nothing was changed.
    #[error(
        "{path} is missing, although the log goes on after it. Restore it, or remove the node's data \
         directory and let it join as a new node"
    )]
    Missing {
        /// The file.
        path: String,
    },
    /// The log begins behind entries that only a snapshot can stand for, and there is none that does.
    /// Nothing was changed.
    #[error(
        "the log begins behind entry {base}, with {path}, and no complete snapshot covers what is \
         missing: {found}. Restore a file snapshot-* of this node that covers entry {base} beside it \
         (or the missing segments of the log), or remove the node's data directory and let it join as \
         a new node"
    )]
    WithoutSnapshot {
        /// The log's first segment.
        path: String,
        /// The last entry that must be covered.
        base: Index,
        /// What snapshots there are, for people.
        found: String,
    },
    /// Snapshots, or a snapshot and the log, are of different clusters. Nothing was changed.
    #[error(
        "{path} is a snapshot of cluster {snapshot}, but the log (or another snapshot) beside it is of \
         cluster {ours}. Put back the files that belong together"
    )]
    OtherCluster {
        /// The snapshot's file.
        path: String,
        /// Its cluster.
        snapshot: ClusterId,
        /// The other one.
        ours: ClusterId,
    },
    /// The bytes are intact, but of a kind that this version does not know. Nothing was changed.
    #[error("{path} was written by another version of the program (at byte {offset}: {what})")]
    Unknown {
        /// The file.
        path: String,
        /// Where.
        offset: u64,
        /// What is not known.
        what: String,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] Failure),
}

/// The segment that is written to.
#[derive(Debug)]
pub(crate) struct Current {
    pub number: u64,
    pub name: Arc<str>,
    pub file: Arc<dyn DiskFile>,
    pub generation: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Where the next batch goes.
    pub end: u64,
    /// Everything below this is durable.
    pub synced: u64,
    /// The last batch is a mark, which says nothing but that all before it is durable.
    pub marked: bool,
    /// Checksum of the last header.
    pub checksum: u32,
    /// Bytes that were written since the opening, and whose damage a later batch tells from a torn tail.
    pub vouched: Range<u64>,
}

struct Segment {
    name: Arc<str>,
    file: Arc<dyn DiskFile>,
    length: u64,
    header: SegmentHeader,
    header_bytes: u64,
    checksum: u32,
}

/// What is done with a log that lacks entries in its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithLost {
    Refuse,
    /// Only to be truncated before them.
    Accept,
}

/// Reads a log, judges it together with the snapshots beside it, and repairs its end. Only half-made
/// files are removed before everything is judged. Also returns the newest snapshot.
pub(crate) fn recover(
    shared: &Arc<dyn Disk>,
    with_lost: WithLost,
) -> Result<(Replay, Option<Arc<SnapshotMeta>>), OpenError> {
    let disk = &**shared;
    let mut numbers = Vec::new();
    let names = disk.list().doing("list the directory of", disk, "log")?;
    for name in &names {
        if is_half_made(name) {
            disk.remove(name).doing("remove", disk, name)?;
        } else if let Some(number) = segment_number(name) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    let survey = snapshot::survey(shared, &names)?;
    let mut replay = Replay::default();
    let mut segment: Option<Segment> = None;
    // It may begin with any: those before were covered by a snapshot, which is judged below.
    let first = numbers.first().copied().unwrap_or(1);
    for (expected, number) in (first..).zip(numbers) {
        if number != expected {
            return Err(OpenError::Missing {
                path: disk.path(&segment_name(expected)),
            });
        }
        // One segment ahead, because the next one says where this one ends.
        let next = open_segment(disk, number, replay.terms.last())?;
        if let Some(segment) = &segment {
            replay_segment(disk, segment, Some(&next.header), &mut replay)?;
        }
        segment = Some(next);
    }
    let mut end = None;
    if let Some(last) = &segment {
        end = Some(replay_segment(disk, last, None, &mut replay)?);
    }
    replay.settle_base();
    let snapshot = judge(disk, &mut replay, &survey, first)?;
    if let Some(snapshot) = &snapshot {
        replay.cover(snapshot.position);
        if !replay.holds(snapshot.position) {
            // The whole log is about to give way to it.
            replay.lost.clear();
        }
    }
    if let Some(refusal) = lost(disk, &replay, snapshot.as_deref())
        && with_lost == WithLost::Refuse
    {
        return Err(refusal);
    }
    if let (Some(last), Some(end)) = (&segment, &end) {
        finish(disk, last, end)?;
        replay.current = Some(Current {
            number: last.header.number,
            name: last.name.clone(),
            file: last.file.clone(),
            generation: last.header.generation,
            bytes: last.length,
            end: end.end,
            synced: end.end,
            marked: end.marked,
            checksum: end.checksum,
            vouched: end.end..end.end,
        });
    }
    Ok((replay, snapshot))
}

/// Why a log that lacks entries in its middle cannot be opened.
fn lost(disk: &dyn Disk, replay: &Replay, snapshot: Option<&SnapshotMeta>) -> Option<OpenError> {
    let lost = replay.lost.first()?;
    let intact = lost.first - 1;
    let Some((damage, _)) = &lost.damage else {
        let (path, what) = (
            disk.path("log"),
            "what once replaced a damaged batch is needed",
        );
        return Some(OpenError::Damaged {
            path,
            offset: 0,
            what: what.to_owned(),
            intact: Position {
                index: intact,
                term: replay.terms.term_at(intact).unwrap_or(0),
            },
            wound: None,
        });
    };
    Some(OpenError::Damaged {
        path: disk.path(&damage.name),
        offset: damage.offset,
        what: damage.what.clone(),
        intact: Position {
            index: intact,
            term: replay.terms.term_at(intact).unwrap_or(0),
        },
        wound: Wound::new(lost, &replay.terms, snapshot).map(Box::new),
    })
}

/// Whether log and snapshots belong together, and nothing is missing between them (S4). Returns the
/// newest snapshot.
fn judge(
    disk: &dyn Disk,
    replay: &mut Replay,
    survey: &Survey,
    first_segment: u64,
) -> Result<Option<Arc<SnapshotMeta>>, OpenError> {
    let newest = survey.complete.last().map(|newest| newest.meta.clone());
    let ours = replay
        .cluster_id
        .or(newest.as_ref().map(|newest| newest.cluster_id));
    for other in &survey.complete {
        if let Some(ours) = ours
            && other.meta.cluster_id != ours
        {
            return Err(OpenError::OtherCluster {
                path: disk.path(&snapshot::snapshot_name(other.meta.position)),
                snapshot: other.meta.cluster_id,
                ours,
            });
        }
    }
    replay.cluster_id = ours;
    let base = replay.terms.base.index;
    let covered = newest.as_ref().map_or(0, |newest| newest.position.index);
    if covered < base {
        let mut found: Vec<String> = survey.damaged.iter().map(|d| d.to_string()).collect();
        found.push(match covered {
            0 => "there is no intact one".to_owned(),
            covered => format!("the newest intact one ends with entry {covered}"),
        });
        return Err(OpenError::WithoutSnapshot {
            path: disk.path(&segment_name(first_segment)),
            base,
            found: found.join("; "),
        });
    }
    Ok(newest)
}

/// Opens a segment and reads its header. `intact` is where the log that was read so far ends.
fn open_segment(disk: &dyn Disk, number: u64, intact: Position) -> Result<Segment, OpenError> {
    let name: Arc<str> = segment_name(number).into();
    let wrong = |flaw| verdict(disk, &segment_name(number), 0, intact, flaw);
    let file = disk.open(&name).doing("open", disk, &name)?;
    let length = file.len().doing("read", disk, &name)?;
    let mut bytes = vec![0; HEADER_START_BYTES];
    let read = file.read_at(0, &mut bytes).doing("read", disk, &name)?;
    bytes.truncate(read);
    let header_bytes = SegmentHeader::length(&bytes).map_err(wrong)?;
    bytes.resize(header_bytes as usize, 0);
    let read = file.read_at(0, &mut bytes).doing("read", disk, &name)?;
    bytes.truncate(read);
    let (header, checksum) = SegmentHeader::decode(&bytes).map_err(wrong)?;
    if header.number != number {
        return Err(wrong(Flaw::Damaged(
            "it is another segment under this one's name",
        )));
    }
    Ok(Segment {
        name,
        file,
        length,
        header,
        header_bytes,
        checksum,
    })
}

fn verdict(disk: &dyn Disk, name: &str, offset: u64, intact: Position, flaw: Flaw) -> OpenError {
    let path = disk.path(name);
    match flaw {
        Flaw::Damaged(what) => OpenError::Damaged {
            path,
            offset,
            what: what.to_owned(),
            intact,
            wound: None,
        },
        Flaw::Unknown(what) => OpenError::Unknown { path, offset, what },
    }
}

/// How far a segment has been replayed.
struct End {
    /// Where the next batch would begin, and the checksum before it.
    end: u64,
    checksum: u32,
    /// The last batch states that everything below this was durable when it was written.
    synced: u64,
    marked: bool,
    /// From `end` up to here the file may hold something other than zeros.
    dirty_end: u64,
}

fn replay_segment(
    disk: &dyn Disk,
    segment: &Segment,
    next: Option<&SegmentHeader>,
    replay: &mut Replay,
) -> Result<End, OpenError> {
    let Segment {
        name,
        header,
        header_bytes,
        ..
    } = segment;
    let wrong = |replay: &Replay, offset, flaw| {
        verdict(disk, name, offset, replay.terms.last(), Flaw::Damaged(flaw))
    };
    replay
        .begin(header, segment.length)
        .map_err(|flaw| verdict(disk, name, 0, replay.terms.last(), flaw))?;
    let mut window = Window::new(segment);
    let mut end = End {
        end: *header_bytes,
        checksum: segment.checksum,
        synced: *header_bytes,
        marked: false,
        dirty_end: *header_bytes,
    };
    loop {
        if let Some(next) = next
            && end.end >= next.previous_end
        {
            if (end.end, end.checksum) != (next.previous_end, next.previous_checksum) {
                return Err(wrong(
                    replay,
                    end.end,
                    "the next segment continues another end",
                ));
            }
            break;
        }
        match read_batch(disk, &mut window, segment, &end)? {
            Ok((batch, checksum, body)) => {
                let first = end.end == *header_bytes;
                replay
                    .meet(&batch.standing)
                    .map_err(|flaw| verdict(disk, name, end.end, replay.terms.last(), flaw))?;
                replay_batch(header.number, first, &batch, &body, replay)
                    .map_err(|(at, flaw)| verdict(disk, name, at, replay.terms.last(), flaw))?;
                end.end = batch.end();
                end.synced = batch.synced;
                end.marked = batch.count == 0;
                end.checksum = batch.following.unwrap_or(checksum);
                replay.mended = batch.following.is_some();
            }
            Err(what) => {
                let rest = survey(disk, &mut window, header.generation, end.end, next)?;
                // A segment got its name after its first batch was durable, and its successor
                // after its last.
                let promised = next.is_some() || end.end == *header_bytes;
                if !promised && (!rest.promised || mutant!(D3NoWitness)) {
                    end.dirty_end = rest.dirty_end;
                    break;
                }
                let Some(behind) = rest.behind else {
                    return Err(wrong(replay, end.end, what));
                };
                let damage = Damage {
                    name: name.clone(),
                    generation: header.generation,
                    start: end.end,
                    end: behind.at,
                    previous: end.checksum,
                    following: behind.previous,
                    before: Standing::new(replay.terms.last(), &replay.hard_state),
                    offset: end.end,
                    what: what.to_owned(),
                };
                replay
                    .lose(damage, &behind.standing)
                    .map_err(|_| wrong(replay, end.end, what))?;
                (end.end, end.checksum) = (behind.at, behind.previous);
            }
        }
    }
    Ok(end)
}

type Batch = (BatchHeader, u32, Bytes);

/// The batch at the current end, or what is wrong there.
fn read_batch(
    disk: &dyn Disk,
    window: &mut Window,
    segment: &Segment,
    end: &End,
) -> Result<Result<Batch, &'static str>, Failure> {
    let offset = end.end;
    let bytes = window.read(disk, offset, BATCH_HEADER_BYTES as u64)?;
    let Some((header, checksum)) = BatchHeader::decode(&bytes) else {
        return Ok(Err("there is no intact header of a batch"));
    };
    let ours = header.generation == segment.header.generation || mutant!(D3AnySegment);
    if !ours || header.offset != offset {
        return Ok(Err("the batch belongs to another segment or place"));
    }
    let continues = header.previous == end.checksum || mutant!(D3AnySegment);
    if !continues || header.synced > offset {
        return Ok(Err("the batch does not continue the one before"));
    }
    let body_at = offset + BATCH_HEADER_BYTES as u64;
    let body = window.read(disk, body_at, u64::from(header.body_bytes))?;
    let sound = crc32c::crc32c(&body) == header.body_crc || mutant!(D3ChecksumIgnored);
    if body.len() != header.body_bytes as usize || !sound {
        return Ok(Err("the batch fails its checksum"));
    }
    Ok(Ok((header, checksum, body)))
}

fn replay_batch(
    segment: u64,
    first: bool,
    header: &BatchHeader,
    body: &Bytes,
    replay: &mut Replay,
) -> Result<(), (u64, Flaw)> {
    let start = header.offset + BATCH_HEADER_BYTES as u64;
    let mut at = 0;
    for _ in 0..header.count {
        let offset = start + at as u64;
        match format::item(body, at).map_err(|flaw| (offset, flaw))? {
            Item::Record(record, length) => {
                let first = first && at == 0;
                at += length;
                let end = start + at as u64;
                replay
                    .apply(record, first, segment, offset, end)
                    .map_err(|flaw| (offset, flaw))?;
            }
            Item::Padding | Item::Batch => {
                return Err((
                    offset,
                    Flaw::Damaged("the batch has fewer records than it says"),
                ));
            }
        }
    }
    Ok(())
}

/// Makes the end of the log what it seems to be, durably, before anybody relies on it.
///
/// * A torn tail is overwritten with zeros: none of its bytes may look like a batch later on.
/// * What no batch vouches for is written once more, as it is. A process that died, or whose sync
///   failed, may have left it in the page cache only, where it can count as clean: a mere sync
///   would store nothing (D7).
/// * So are the names of segments and snapshots, after a process that died before it synced them.
///   (Without a segment there is either no snapshot, or a reset behind it, which does the same.)
fn finish(disk: &dyn Disk, segment: &Segment, end: &End) -> Result<(), OpenError> {
    let (file, name) = (&segment.file, &*segment.name);
    let zeros = vec![0; (end.dirty_end - end.end).min(READ_BYTES as u64) as usize];
    let mut at = end.end;
    while at < end.dirty_end && !mutant!(D3TailKept) {
        let chunk = (end.dirty_end - at).min(READ_BYTES as u64);
        file.write_at(at, &zeros[..chunk as usize])
            .doing("write", disk, name)?;
        at += chunk;
    }
    let mut at = end.synced;
    let mut window = Window::new(segment);
    while at < end.end && !mutant!(D7CacheBelieved) {
        let bytes = window.read(disk, at, (end.end - at).min(READ_BYTES as u64))?;
        file.write_at(at, &bytes).doing("write", disk, name)?;
        at += bytes.len() as u64;
    }
    file.sync().doing("sync", disk, name)?;
    disk.sync_dir().doing("sync the directory of", disk, name)?;
    Ok(())
}
