//! A snapshot's file outside of any node: saved, and looked at.
//!
//! The file is the very one that a node keeps, byte for byte. It grows under another name, and gets its
//! own when all of it is durable and was checked: whatever the process dies of, no half of a snapshot
//! bears the name that a person gave.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::ClusterId;

use super::file::{File, Trouble};
use super::{SnapshotError, SnapshotInfo, SnapshotOffer, SnapshotReader, full_or_refused};
use crate::disk::{DiskFile, Failure};
use crate::real::{RealDisk, RealFile, sync_directory};

/// What is appended to the name of a file while it grows.
pub const PART_SUFFIX: &str = ".part";

/// Whoever had the growing file may have finished it, or removed it, while it was being opened: then
/// it is opened anew, so often at the most.
const MOST_ATTEMPTS: u32 = 100;

/// Why a file was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// There is something of that name.
    #[error("{path} is there already, and was left as it is")]
    Exists {
        /// The file.
        path: String,
    },
    /// Another process saves to the same name.
    #[error("{path} is being written by another process: wait for that one, or name another file")]
    Busy {
        /// The file that grows.
        path: String,
    },
    /// The bytes, or the disk.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl SnapshotReader {
    /// Opens a snapshot's file wherever it lies. Nothing is written to it.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] by what its head and its end say, or the disk refused.
    pub fn of_file(path: &Path) -> Result<SnapshotReader, SnapshotError> {
        let (directory, name) = place_of(path)?;
        SnapshotReader::on(Arc::new(RealDisk::read_only(directory)), &name)
    }
}

/// The directory, and the name in it.
fn place_of(path: &Path) -> Result<(PathBuf, String), Failure> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(failure("use", path)(io::ErrorKind::InvalidInput.into()));
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((directory.to_owned(), name.to_owned()))
}

fn failure(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
    let path = path.display().to_string();
    move |source| Failure {
        action,
        path,
        source,
    }
}

/// A snapshot that is being saved to a file. Dropped before [`Saving::finish`] has succeeded, it leaves
/// nothing behind; a process that is killed leaves `<file>.part`, which the next one uses again.
#[derive(Debug)]
pub struct Saving {
    path: PathBuf,
    part: PathBuf,
    directory: PathBuf,
    replace: bool,
    /// Locked: nobody else writes to it, or renames it.
    file: Arc<RealFile>,
    written: u64,
    finished: bool,
}

impl Saving {
    /// Begins to save to `path`. `replace`: what is there may give way, once all of this is durable.
    ///
    /// # Errors
    /// [`SaveError::Exists`], [`SaveError::Busy`], or the disk refused.
    pub fn begin(path: &Path, replace: bool) -> Result<Saving, SaveError> {
        let (directory, name) = place_of(path).map_err(SnapshotError::Disk)?;
        if !replace {
            refuse_existing(path)?;
        }
        let part = directory.join(name + PART_SUFFIX);
        let file = open_and_lock(&part)?;
        let saving = Saving {
            path: path.to_owned(),
            part,
            directory,
            replace,
            file: Arc::new(RealFile(file)),
            written: 0,
            finished: false,
        };
        saving.cut().map_err(SnapshotError::Disk)?;
        Ok(saving)
    }

    /// How many bytes there are.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends the next bytes of the file.
    ///
    /// # Errors
    /// [`SnapshotError::Full`], or the disk refused.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        self.file
            .write_at(self.written, bytes)
            .map_err(failure("write", &self.part))
            .map_err(full_or_refused)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Begins again with an empty file.
    ///
    /// # Errors
    /// The disk refused.
    pub fn begin_again(&mut self) -> Result<(), SaveError> {
        self.written = 0;
        Ok(self.cut().map_err(SnapshotError::Disk)?)
    }

    /// Checks all of it, and gives the file its name, durably.
    ///
    /// # Errors
    /// [`SnapshotError::Incomplete`]; [`SnapshotError::NotAsOffered`] when it is damaged, or another
    /// snapshot, or of another cluster: it may be begun again. [`SaveError::Exists`] when the name was
    /// taken meanwhile. Otherwise the disk refused.
    pub fn finish(
        &mut self,
        offer: &SnapshotOffer,
        cluster_id: ClusterId,
    ) -> Result<SnapshotInfo, SaveError> {
        if self.written < offer.file_bytes {
            return Err(SaveError::Snapshot(SnapshotError::Incomplete {
                received: self.written,
                offered: offer.file_bytes,
            }));
        }
        let (directory, name) = place_of(&self.part).map_err(SnapshotError::Disk)?;
        let file = File {
            disk: Arc::new(RealDisk::read_only(directory)),
            name,
            file: self.file.clone(),
        };
        let info = match file.verify() {
            Ok(judged) => judged.info,
            Err(Trouble::Disk(failure)) => return Err(SnapshotError::Disk(failure).into()),
            Err(Trouble::Flaw(offset, flaw)) => {
                let what = format!("at byte {offset}: {flaw}");
                return Err(SnapshotError::NotAsOffered(what).into());
            }
        };
        if info.offer() != *offer || info.meta.cluster_id != cluster_id {
            let what = format!(
                "it is as of entry {} of cluster {}, or differs",
                info.meta.position.index, info.meta.cluster_id
            );
            return Err(SnapshotError::NotAsOffered(what).into());
        }
        self.publish()?;
        Ok(info)
    }

    fn publish(&mut self) -> Result<(), SaveError> {
        // Not tried again when it fails: the file goes (D7).
        let synced = self.file.sync().map_err(failure("sync", &self.part));
        synced.map_err(full_or_refused)?;
        if !self.replace {
            refuse_existing(&self.path)?;
        }
        fs::rename(&self.part, &self.path)
            .map_err(failure("rename", &self.part))
            .map_err(SnapshotError::Disk)?;
        self.finished = true;
        sync_directory(&self.directory)
            .map_err(failure("sync the directory of", &self.path))
            .map_err(SnapshotError::Disk)?;
        Ok(())
    }

    fn cut(&self) -> Result<(), Failure> {
        self.file.set_len(0).map_err(failure("write", &self.part))
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if !self.finished {
            // What stays is taken up by the next one.
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn refuse_existing(path: &Path) -> Result<(), SaveError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(SnapshotError::Disk(failure("look for", path)(error)).into()),
        Ok(_) => Err(SaveError::Exists {
            path: path.display().to_string(),
        }),
    }
}

/// The growing file, for this process alone.
fn open_and_lock(part: &Path) -> Result<fs::File, SaveError> {
    for _ in 0..MOST_ATTEMPTS {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(part)
            .map_err(failure("create", part))
            .map_err(full_or_refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(source)) => {
                return Err(SnapshotError::Disk(failure("lock", part)(source)).into());
            }
        }
        // Whoever had it may have given it its name meanwhile: then this is a finished file.
        let inode = file.metadata().map(|data| data.ino());
        let inode = inode
            .map_err(failure("read", part))
            .map_err(SnapshotError::Disk)?;
        if fs::symlink_metadata(part).is_ok_and(|data| data.ino() == inode) {
            return Ok(file);
        }
    }
    Err(SaveError::Busy {
        path: part.display().to_string(),
    })
}
