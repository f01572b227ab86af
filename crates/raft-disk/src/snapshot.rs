//! Snapshots: files that stand for the beginning of the log (§7).

mod file;
mod format;
mod reader;
mod receiver;
mod saving;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_core::{ClusterId, Index, Position, SnapshotMeta, Term, mutant};

use crate::disk::{Disk, Doing, Failure, is_full, remove};
use file::{File, Trouble};
use receiver::Receiving;

pub use reader::SnapshotReader;
pub use receiver::{SnapshotOffer, SnapshotReceiver};
pub use saving::{PART_SUFFIX, SaveError, Saving};
pub use writer::SnapshotWriter;

/// The longest chunk: what is checked, and held in memory, at once.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// The longest head of a snapshot: everything but the application's bytes, sessions above all.
pub const MAX_SNAPSHOT_HEAD_BYTES: u64 = 256 << 20;

/// The longest name of a format, in bytes.
pub const MAX_FORMAT_BYTES: usize = 1024;

/// A snapshot that is written or received is synced after so many bytes: the log, on the same disk,
/// never waits behind more than this.
pub const SNAPSHOT_SYNC_BYTES: u64 = 8 << 20;

const PREFIX: &str = "snapshot-";
const TAKING: &str = "snapshot-taking-";
const RECEIVING: &str = "snapshot-receiving-";

/// How snapshots are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Length of the chunks, from 1 to [`SNAPSHOT_CHUNK_BYTES`].
    pub chunk_bytes: usize,
    /// See [`SNAPSHOT_SYNC_BYTES`].
    pub sync_bytes: u64,
}

impl Default for SnapshotOptions {
    fn default() -> SnapshotOptions {
        SnapshotOptions {
            chunk_bytes: SNAPSHOT_CHUNK_BYTES,
            sync_bytes: SNAPSHOT_SYNC_BYTES,
        }
    }
}

/// A complete snapshot on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// What it says to Raft.
    pub meta: Arc<SnapshotMeta>,
    /// What the state machine calls the form of its bytes.
    pub format: String,
    /// Bytes of the state machine.
    pub application_bytes: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Checksum of the file as a whole. With position and length it names this very file: another
    /// node's snapshot of the same entries may have other bytes.
    pub checksum: u32,
}

/// Why a snapshot cannot be taken, read or received. The log is not touched by any of this.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no room. Nothing is harmed.
    #[error("no room for a snapshot: {0}. Free some space")]
    Full(Failure),
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] Failure),
    /// The bytes are not those that were written.
    #[error("the snapshot {path} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// Where in it the bad part begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// There is no such snapshot here (any more).
    #[error("there is no snapshot that ends with entry {} of term {}", .0.index, .0.term)]
    Missing(Position),
    /// More than a limit allows.
    #[error("{what} of {bytes} bytes; the most is {most}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// What was received is whole, and not for this node. It is gone.
    #[error("the snapshot that was received cannot be used here: {0}")]
    Unusable(String),
    /// What was received is not the snapshot that was offered. It is gone; it may be received anew.
    #[error("the snapshot that was received is not the one that was offered: {0}")]
    NotAsOffered(String),
    /// Bytes are still missing. What is there is kept, and may be gone on with.
    #[error("the snapshot has {received} of {offered} bytes")]
    Incomplete {
        /// How many there are.
        received: u64,
        /// How many there should be.
        offered: u64,
    },
    /// An earlier call failed, or another receiver took over: this one is of no more use.
    #[error("this snapshot was given up")]
    GivenUp,
    /// What no correct caller asks for.
    #[error("this cannot be a snapshot: {0}")]
    Invalid(&'static str),
}

/// A file that should be a complete snapshot and is none. It is ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} is damaged, and ignored ({what})")]
pub struct DamagedSnapshot {
    /// The file.
    pub path: String,
    /// Where its name says that it ends.
    pub position: Position,
    /// What is wrong with it.
    pub what: String,
}

/// The snapshots in one directory. A clone is another handle on the same ones; all are for use from
/// any thread, while the log beside them is written to.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    options: SnapshotOptions,
    /// Held while files come and go, which takes as long as the disk takes.
    changing: Mutex<()>,
    /// Never held over a word with the disk: whoever applies entries looks into it for every batch.
    kept: Mutex<Kept>,
    receiving: Mutex<Receiving>,
}

/// In order of index: the one that stands for most of the log is the last.
type Place = (Index, Term);

#[derive(Debug, Default)]
struct Kept {
    complete: BTreeMap<Place, SnapshotInfo>,
    damaged: Vec<DamagedSnapshot>,
}

fn place(position: Position) -> Place {
    (position.index, position.term)
}

impl SnapshotStore {
    /// Finds the snapshots on `disk`. Half-made ones are removed, except one that is being received
    /// and would be the newest: it may be gone on with ([`SnapshotStore::receive`]).
    ///
    /// Heads and footers are read, the rest is not: damage there shows when it is read. A file that
    /// fails is ignored, and told by [`SnapshotStore::damaged`]. Whether the log needs it,
    /// [`crate::LogStore::open`] says.
    ///
    /// # Errors
    /// The disk refused.
    pub fn open(disk: Arc<dyn Disk>, options: SnapshotOptions) -> Result<SnapshotStore, Failure> {
        let names = disk
            .list()
            .doing("list the directory of", &*disk, "snapshot")?;
        let survey = survey(&disk, &names)?;
        let newest = survey.complete.last().map(|info| info.meta.position.index);
        let wanted = names
            .iter()
            .filter_map(|name| Some((receiver::offer_of(name)?.position.index, name)))
            .filter(|(index, _)| newest.is_none_or(|newest| *index > newest))
            .max();
        for name in &names {
            let half_made = name.starts_with(TAKING) || name.starts_with(RECEIVING);
            if half_made && wanted.is_none_or(|(_, wanted)| wanted != name) {
                disk.remove(name).doing("remove", &*disk, name)?;
            }
        }
        disk.sync_dir()
            .doing("sync the directory of", &*disk, "snapshot")?;
        let complete = survey
            .complete
            .into_iter()
            .map(|info| (place(info.meta.position), info));
        let kept = Kept {
            complete: complete.collect(),
            damaged: survey.damaged,
        };
        let chunk_bytes = options.chunk_bytes.clamp(1, SNAPSHOT_CHUNK_BYTES);
        Ok(SnapshotStore {
            shared: Arc::new(Shared {
                disk,
                options: SnapshotOptions {
                    chunk_bytes,
                    ..options
                },
                changing: Mutex::default(),
                kept: Mutex::new(kept),
                receiving: Mutex::default(),
            }),
        })
    }

    /// The complete snapshot that stands for most of the log.
    pub fn newest(&self) -> Option<SnapshotInfo> {
        let kept = self.shared.kept();
        kept.complete.last_key_value().map(|(_, info)| info.clone())
    }

    /// Files that should be complete snapshots and are none.
    pub fn damaged(&self) -> Vec<DamagedSnapshot> {
        self.shared.kept().damaged.clone()
    }

    /// Bytes that the complete snapshots take on the disk.
    pub fn bytes_used(&self) -> u64 {
        let kept = self.shared.kept();
        kept.complete.values().map(|info| info.file_bytes).sum()
    }

    /// Begins to write a snapshot. `format` is what the state machine calls the form of its bytes,
    /// `sessions` what the daemon keeps beside them; both come back as they are.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`], [`SnapshotError::Full`], or the disk refused.
    pub fn begin(
        &self,
        meta: Arc<SnapshotMeta>,
        format: String,
        sessions: Bytes,
    ) -> Result<SnapshotWriter, SnapshotError> {
        SnapshotWriter::begin(self.shared.clone(), meta, format, sessions)
    }

    /// Opens the complete snapshot at `position`. Removing it meanwhile does not disturb the reader.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`], [`SnapshotError::Damaged`], or the disk refused.
    pub fn reader(&self, position: Position) -> Result<SnapshotReader, SnapshotError> {
        let known = self.shared.kept().complete.contains_key(&place(position));
        if !known {
            return Err(SnapshotError::Missing(position));
        }
        let name = snapshot_name(position);
        let disk = self.shared.disk.clone();
        let file = match disk.open(&name) {
            // It was removed a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SnapshotError::Missing(position));
            }
            opened => opened.doing("open", &*disk, &name)?,
        };
        SnapshotReader::open(File { disk, name, file })
    }

    /// The snapshot at `position` was found to be damaged when it was read ([`SnapshotError::Damaged`]):
    /// it counts as none from now on. The file stays until there is a newer one, or this very one
    /// anew.
    pub fn give_up(&self, position: Position, what: String) {
        let mut kept = self.shared.kept();
        if kept.complete.remove(&place(position)).is_some() {
            let path = self.shared.disk.path(&snapshot_name(position));
            kept.damaged.push(DamagedSnapshot {
                path,
                position,
                what,
            });
        }
    }

    /// Begins to receive the file of another node's snapshot, or goes on with it where the very same
    /// offer was left, be it in an earlier life of the process: [`SnapshotReceiver::offset`] says
    /// from where. A receiver of before is given up; so is what it has, if that was of another offer.
    ///
    /// Takes as long as it takes to read and write what is there already.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`] beyond `max_file_bytes`, [`SnapshotError::Full`], or the disk
    /// refused.
    pub fn receive(
        &self,
        offer: SnapshotOffer,
        cluster_id: ClusterId,
        max_file_bytes: u64,
    ) -> Result<SnapshotReceiver, SnapshotError> {
        SnapshotReceiver::begin(self.shared.clone(), offer, cluster_id, max_file_bytes)
    }

    /// The snapshot that was begun to be received, and not finished, and how many bytes of it are there:
    /// whoever still has that one can be asked for the rest.
    ///
    /// # Errors
    /// The disk refused.
    pub fn begun(&self) -> Result<Option<(SnapshotOffer, u64)>, Failure> {
        let disk = &*self.shared.disk;
        let names = disk
            .list()
            .doing("list the directory of", disk, RECEIVING)?;
        let begun = |name: &String| Some((receiver::offer_of(name)?, name.clone()));
        let Some((offer, name)) = names.iter().find_map(begun) else {
            return Ok(None);
        };
        let file = disk.open(&name).doing("open", disk, &name)?;
        let bytes = file.len().doing("read", disk, &name)?;
        Ok(Some((offer, bytes)))
    }

    /// Removes all snapshots but the newest and those that `keep` lists, damaged files that are
    /// older than the newest included.
    ///
    /// # Errors
    /// The disk refused to remove one; it is still there, and is tried again the next time.
    pub fn retain(&self, keep: &[Position]) -> Result<(), Failure> {
        let shared = &self.shared;
        let _changing = shared.changing();
        for (position, damaged) in shared.superfluous(keep) {
            // Nobody begins to read it any more.
            let known = shared.kept().complete.remove(&place(position));
            if let Err(failure) = remove(&*shared.disk, &snapshot_name(position)) {
                let mut kept = shared.kept();
                kept.complete
                    .extend(known.map(|info| (place(position), info)));
                return Err(failure);
            }
            if damaged {
                let mut kept = shared.kept();
                kept.damaged.retain(|other| other.position != position);
            }
        }
        Ok(())
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All files but the newest snapshot and those that `keep` lists: where each ends, and whether it is a
    /// damaged one, of which only those go that are older than the newest.
    fn superfluous(&self, keep: &[Position]) -> Vec<(Position, bool)> {
        let kept = self.kept();
        let Some(newest) = kept.complete.last_key_value().map(|(newest, _)| *newest) else {
            return Vec::new();
        };
        let complete = kept.complete.keys();
        let stale = complete
            .map(|(index, term)| Position {
                index: *index,
                term: *term,
            })
            .filter(|position| place(*position) != newest && !keep.contains(position))
            .map(|position| (position, false));
        let damaged = kept.damaged.iter().map(|damaged| damaged.position);
        let old = damaged
            .filter(|position| place(*position) < newest)
            .map(|position| (position, true));
        stale.chain(old).collect()
    }

    fn receiving(&self) -> MutexGuard<'_, Receiving> {
        self.receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that is complete and durable gets its name.
    fn publish(&self, half_made: &str, info: &SnapshotInfo) -> Result<(), Failure> {
        let disk = &*self.disk;
        let name = snapshot_name(info.meta.position);
        let _changing = self.changing();
        disk.rename(half_made, &name)
            .doing("rename", disk, half_made)?;
        if !mutant!(S4DirectoryNotSynced) {
            disk.sync_dir()
                .doing("sync the directory of", disk, &name)?;
        }
        let key = place(info.meta.position);
        let mut kept = self.kept();
        kept.damaged
            .retain(|damaged| place(damaged.position) != key);
        kept.complete.insert(key, info.clone());
        Ok(())
    }
}

/// Tells a full disk from one that refuses.
fn full_or_refused(failure: Failure) -> SnapshotError {
    if is_full(&failure.source) {
        SnapshotError::Full(failure)
    } else {
        SnapshotError::Disk(failure)
    }
}

/// Name of a complete snapshot.
pub(crate) fn snapshot_name(Position { index, term }: Position) -> String {
    format!("{PREFIX}{index:016x}-{term:016x}")
}

/// Where the complete snapshot of this name ends.
fn snapshot_position(name: &str) -> Option<Position> {
    let (index, term) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let position = Position {
        index: u64::from_str_radix(index, 16).ok()?,
        term: u64::from_str_radix(term, 16).ok()?,
    };
    // Only the name that we would have written: no other spelling of the same numbers.
    (snapshot_name(position) == name).then_some(position)
}

/// The highest index at which a snapshot among these files ends, by its name; 0 without one.
pub(crate) fn newest_named(names: &[String]) -> Index {
    let positions = names.iter().filter_map(|name| snapshot_position(name));
    positions.map(|position| position.index).max().unwrap_or(0)
}

/// All complete snapshots, by index, and what should be one.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub complete: Vec<SnapshotInfo>,
    pub damaged: Vec<DamagedSnapshot>,
}

/// Judges every file with the name of a complete snapshot by its head and footer.
pub(crate) fn survey(disk: &Arc<dyn Disk>, names: &[String]) -> Result<Survey, Failure> {
    let mut survey = Survey::default();
    for name in names {
        let Some(position) = snapshot_position(name) else {
            continue;
        };
        let file = File {
            disk: disk.clone(),
            name: name.clone(),
            file: disk.open(name).doing("open", &**disk, name)?,
        };
        let what = match file.judge() {
            Ok(judged) if judged.info.meta.position == position => {
                survey.complete.push(judged.info);
                continue;
            }
            Ok(_) => "it is another snapshot under this one's name".to_owned(),
            Err(Trouble::Flaw(offset, flaw)) => format!("at byte {offset}: {flaw}"),
            Err(Trouble::Disk(failure)) => return Err(failure),
        };
        survey.damaged.push(DamagedSnapshot {
            path: disk.path(name),
            position,
            what,
        });
    }
    survey
        .complete
        .sort_by_key(|info| place(info.meta.position));
    Ok(survey)
}
