//! Receiving another node's snapshot, with cuts in between.
//!
//! The file that grows is named after the offer, so that nothing else must be remembered to go on
//! with it. After a restart nobody knows which of its bytes reached the disk: the chunks that are
//! there are checked by their chain, up to the first one that is not intact, and written once more,
//! since what is read may be memory that an earlier sync failed to store (D7).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{ClusterId, Position, SnapshotMeta, mutant};

use super::file::{File, Judged, Trouble};
use super::format::{self, CHUNK_HEAD_BYTES, MIN_FILE_BYTES};
use super::{RECEIVING, Shared, SnapshotError, SnapshotInfo, full_or_refused};
use crate::disk::{Doing, Failure, Space, remove};

/// A snapshot that another node has. The same offer means the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The last entry that it covers.
    pub position: Position,
    /// Length of its file.
    pub file_bytes: u64,
    /// Checksum of its file.
    pub checksum: u32,
}

impl SnapshotInfo {
    /// What to offer to a peer.
    pub fn offer(&self) -> SnapshotOffer {
        SnapshotOffer {
            position: self.meta.position,
            file_bytes: self.file_bytes,
            checksum: self.checksum,
        }
    }
}

fn partial_name(offer: &SnapshotOffer) -> String {
    let Position { index, term } = offer.position;
    let (bytes, checksum) = (offer.file_bytes, offer.checksum);
    format!("{RECEIVING}{index:016x}-{term:016x}-{bytes:016x}-{checksum:08x}.tmp")
}

/// The offer that a partial file of this name is of.
pub(super) fn offer_of(name: &str) -> Option<SnapshotOffer> {
    let digits = name.strip_prefix(RECEIVING)?.strip_suffix(".tmp")?;
    let mut fields = digits.split('-');
    let mut field = || u64::from_str_radix(fields.next()?, 16).ok();
    let offer = SnapshotOffer {
        position: Position {
            index: field()?,
            term: field()?,
        },
        file_bytes: field()?,
        checksum: u32::try_from(field()?).ok()?,
    };
    (partial_name(&offer) == name).then_some(offer)
}

/// The one partial file, if there is one in use.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    /// Only the receiver that was begun last may write.
    turn: u64,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    offer: SnapshotOffer,
    file: File,
    written: u64,
    synced: u64,
}

/// A snapshot that is being received. Dropped before it is finished, it can be gone on with:
/// [`crate::SnapshotStore::receive`] with the same offer.
#[derive(Debug)]
pub struct SnapshotReceiver {
    shared: Arc<Shared>,
    turn: u64,
    offer: SnapshotOffer,
    cluster_id: ClusterId,
    offset: u64,
}

impl SnapshotReceiver {
    pub(super) fn begin(
        shared: Arc<Shared>,
        offer: SnapshotOffer,
        cluster_id: ClusterId,
        max_file_bytes: u64,
    ) -> Result<SnapshotReceiver, SnapshotError> {
        if offer.file_bytes > max_file_bytes {
            return Err(SnapshotError::TooLarge {
                what: "a snapshot",
                bytes: offer.file_bytes,
                most: max_file_bytes,
            });
        }
        if offer.file_bytes < MIN_FILE_BYTES || !format::is_possible(offer.position, 0) {
            return Err(SnapshotError::Invalid(
                "it is too short, or of an impossible place",
            ));
        }
        let mut receiving = shared.receiving();
        receiving.turn += 1;
        let same = |partial: &Partial| partial.offer == offer;
        if !receiving.partial.as_ref().is_some_and(same) {
            receiving.partial = None;
            receiving.partial = Some(open_partial(&shared, offer, cluster_id)?);
        }
        let offset = receiving
            .partial
            .as_ref()
            .map_or(0, |partial| partial.written);
        let turn = receiving.turn;
        drop(receiving);
        Ok(SnapshotReceiver {
            shared,
            turn,
            offer,
            cluster_id,
            offset,
        })
    }

    /// Where in the file the next bytes belong.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The offer.
    pub fn offer(&self) -> &SnapshotOffer {
        &self.offer
    }

    /// Appends the next bytes of the file.
    ///
    /// # Errors
    /// [`SnapshotError::Full`]: the same bytes may be appended again when there is room.
    /// [`SnapshotError::NotAsOffered`]: more than was offered. Otherwise the disk refused, and it has
    /// to be received anew, from where the store says.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let shared = self.shared.clone();
        let mut receiving = shared.receiving();
        let partial = self.partial(&mut receiving)?;
        let left = self.offer.file_bytes - partial.written;
        if bytes.len() as u64 > left {
            let file = partial.file.clone();
            receiving.partial = None;
            remove(&*file.disk, &file.name)?;
            let what = format!("{} bytes where {left} are left", bytes.len());
            return Err(SnapshotError::NotAsOffered(what));
        }
        let File { disk, name, file } = &partial.file;
        if let Err(failure) = file
            .write_at(partial.written, bytes)
            .doing("write", &**disk, name)
        {
            let error = full_or_refused(failure);
            if !matches!(error, SnapshotError::Full(_)) {
                // Nobody knows what it holds now; whoever goes on with it looks.
                receiving.partial = None;
            }
            return Err(error);
        }
        partial.written += bytes.len() as u64;
        self.offset = partial.written;
        if partial.written - partial.synced >= shared.options.sync_bytes {
            sync(&mut receiving)?;
        }
        Ok(())
    }

    /// Checks all of it, and makes it one of the store's snapshots, durably, if `accept` takes what it says
    /// of the log, and the sessions. Reads the whole file. What is not accepted is gone: from the next
    /// start on, a complete snapshot would be taken for what stands before the log.
    ///
    /// # Errors
    /// [`SnapshotError::NotAsOffered`]: it is bad, and gone. [`SnapshotError::Unusable`]: it was not
    /// accepted, and is gone. [`SnapshotError::Incomplete`]: bytes are
    /// missing; what is there is kept. Otherwise the disk refused.
    pub fn finish(
        self,
        accept: impl FnOnce(&SnapshotMeta, &Bytes) -> Result<(), String>,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let mut receiving = self.shared.receiving();
        let partial = self.partial(&mut receiving)?;
        if partial.written != self.offer.file_bytes {
            return Err(SnapshotError::Incomplete {
                received: partial.written,
                offered: self.offer.file_bytes,
            });
        }
        let file = partial.file.clone();
        let judged = match self.verify(&file) {
            Ok(judged) => judged,
            Err(Trouble::Disk(failure)) => {
                receiving.partial = None;
                return Err(failure.into());
            }
            Err(Trouble::Flaw(offset, flaw)) => {
                receiving.partial = None;
                remove(&*file.disk, &file.name)?;
                let what = format!("at byte {offset}: {flaw}");
                return Err(SnapshotError::NotAsOffered(what));
            }
        };
        let Judged { head, info, .. } = judged;
        if let Err(what) = accept(&head.meta, &head.sessions) {
            receiving.partial = None;
            remove(&*file.disk, &file.name)?;
            return Err(SnapshotError::Unusable(what));
        }
        sync(&mut receiving)?;
        receiving.partial = None;
        self.shared.publish(&file.name, &info)?;
        Ok(info)
    }

    /// Removes what is there: nobody will go on with it.
    ///
    /// # Errors
    /// The disk refused.
    pub fn discard(self) -> Result<(), SnapshotError> {
        let mut receiving = self.shared.receiving();
        let name = self.partial(&mut receiving)?.file.name.clone();
        receiving.partial = None;
        Ok(remove(&*self.shared.disk, &name)?)
    }

    fn partial<'a>(&self, receiving: &'a mut Receiving) -> Result<&'a mut Partial, SnapshotError> {
        if receiving.turn != self.turn {
            return Err(SnapshotError::GivenUp);
        }
        receiving.partial.as_mut().ok_or(SnapshotError::GivenUp)
    }

    fn verify(&self, file: &File) -> Result<Judged, Trouble> {
        let judged = if mutant!(S4ReceivedUnchecked) {
            file.judge()?
        } else {
            file.verify()?
        };
        let info = &judged.info;
        let other = |what: String| Err(Trouble::Flaw(0, crate::format::Flaw::Unknown(what)));
        if info.offer() != self.offer {
            let Position { index, term } = info.meta.position;
            return other(format!(
                "it ends with entry {index} of term {term}, or differs"
            ));
        }
        if info.meta.cluster_id != self.cluster_id {
            return other(format!("it is of cluster {}", info.meta.cluster_id));
        }
        Ok(judged)
    }
}

/// A failed sync is final: the file goes (D7).
fn sync(receiving: &mut Receiving) -> Result<(), SnapshotError> {
    let Some(partial) = &mut receiving.partial else {
        return Err(SnapshotError::GivenUp);
    };
    let File { disk, name, file } = &partial.file;
    if !mutant!(S4SnapshotNotSynced)
        && let Err(failure) = file.sync().doing("sync", &**disk, name)
    {
        // If it cannot be removed either, whoever goes on with it writes all of it once more.
        let _ = disk.remove(name);
        receiving.partial = None;
        return Err(full_or_refused(failure));
    }
    partial.synced = partial.written;
    Ok(())
}

/// Opens the partial file of this offer, or begins it; any other goes.
fn open_partial(
    shared: &Shared,
    offer: SnapshotOffer,
    cluster_id: ClusterId,
) -> Result<Partial, SnapshotError> {
    let disk = shared.disk.clone();
    let name = partial_name(&offer);
    let names = disk.list().doing("list the directory of", &*disk, &name)?;
    for other in names {
        if other.starts_with(RECEIVING) && other != name {
            remove(&*disk, &other)?;
        }
    }
    let opened = match disk.open(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.doing("open", &*disk, &name)?),
    };
    let resumes = opened.is_some();
    let file = match opened {
        Some(file) => file,
        None => disk
            .create(&name, 0, Space::Reserved)
            .doing("create", &*disk, &name)
            .map_err(full_or_refused)?,
    };
    let mut partial = Partial {
        offer,
        file: File { disk, name, file },
        written: 0,
        synced: 0,
    };
    if resumes {
        resume(&mut partial, cluster_id, shared.options.sync_bytes)?;
    }
    Ok(partial)
}

/// Finds out how far the file is intact, writes that once more, and cuts off the rest.
fn resume(
    partial: &mut Partial,
    cluster_id: ClusterId,
    sync_bytes: u64,
) -> Result<(), SnapshotError> {
    let File { disk, name, file } = partial.file.clone();
    let length = partial.file.length()?.min(partial.offer.file_bytes);
    match partial.file.head(length) {
        Ok((head, bytes, checksum))
            if head.meta.position == partial.offer.position
                && head.meta.cluster_id == cluster_id =>
        {
            rewrite(partial, &bytes, sync_bytes).map_err(full_or_refused)?;
            let mut previous = checksum;
            while let Some((chunk, checksum)) =
                intact_chunk(partial, previous, head.chunk_bytes, length)?
            {
                previous = checksum;
                rewrite(partial, &chunk, sync_bytes).map_err(full_or_refused)?;
            }
        }
        Err(Trouble::Disk(failure)) => return Err(failure.into()),
        // Torn, or not what was offered: from the beginning.
        Ok(_) | Err(Trouble::Flaw(..)) => {}
    }
    file.set_len(partial.written)
        .doing("cut", &*disk, &name)
        .map_err(full_or_refused)
}

/// The chunk behind what was found so far, if it is whole and intact.
fn intact_chunk(
    partial: &Partial,
    previous: u32,
    chunk_bytes: u32,
    length: u64,
) -> Result<Option<(Bytes, u32)>, Failure> {
    let read = |bytes| match partial.file.bytes(partial.written, bytes, length) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Trouble::Flaw(..)) => Ok(None),
        Err(Trouble::Disk(failure)) => Err(failure),
    };
    let Some(head) = read(CHUNK_HEAD_BYTES)? else {
        return Ok(None);
    };
    let bytes = match format::read_chunk_head(&head) {
        Some((bytes, _)) if (1..=chunk_bytes).contains(&bytes) => u64::from(bytes),
        // The footer, or nothing of ours.
        _ => return Ok(None),
    };
    let Some(chunk) = read(CHUNK_HEAD_BYTES + bytes)? else {
        return Ok(None);
    };
    let checksum = format::check_chunk(previous, &chunk).ok();
    Ok(checksum.map(|checksum| (chunk, checksum)))
}

fn rewrite(partial: &mut Partial, bytes: &[u8], sync_bytes: u64) -> Result<(), Failure> {
    let File { disk, name, file } = &partial.file;
    file.write_at(partial.written, bytes)
        .doing("write", &**disk, name)?;
    partial.written += bytes.len() as u64;
    if partial.written - partial.synced >= sync_bytes {
        file.sync().doing("sync", &**disk, name)?;
        partial.synced = partial.written;
    }
    Ok(())
}
