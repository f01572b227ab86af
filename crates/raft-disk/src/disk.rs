//! What a disk is to this crate: one directory of files.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// One directory of files: a real one ([`crate::RealDisk`]) or a simulated one ([`crate::SimDisk`]).
///
/// Nothing is promised to survive a power cut before it was synced: a file's bytes by
/// [`DiskFile::sync`], its name by [`Disk::sync_dir`]. A name carries no directory part.
pub trait Disk: Debug + Send + Sync {
    /// The names of all files, in order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new file of `bytes` zero bytes. Fails when the name is taken, and with
    /// [`io::ErrorKind::StorageFull`] when there is no room. Neither bytes nor name are synced.
    fn create(&self, name: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in place of whatever had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// A number that nobody can guess (a simulated disk: the next one of its seed).
    fn random(&self) -> io::Result<u64>;

    /// How a person would find the file.
    fn path(&self, name: &str) -> String;
}

/// An open file. Shared by the writer and any number of readers.
pub trait DiskFile: Debug + Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `into` from `offset` on, up to the end of the file; returns how many bytes there were.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. After an error any part of them may be in the file.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable. An error is final: what was written since the last
    /// success may be lost, even if a later call says otherwise (D7).
    fn sync(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

/// How a new file gets its zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// By writing them: slow to make; a later sync has nothing but bytes to store.
    Written,
    /// By reserving room, which takes no time; each sync of fresh parts costs a little more.
    Reserved,
}

/// Whether an error says that there is no room, rather than that something is broken.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// What was being done to which file when the disk refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct Failure {
    /// A verb: "write", "sync".
    pub action: &'static str,
    /// The file.
    pub path: String,
    /// What the system said.
    pub source: io::Error,
}

/// Names the file in an error.
pub(crate) trait Doing<T> {
    fn doing(self, action: &'static str, disk: &dyn Disk, name: &str) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &'static str, disk: &dyn Disk, name: &str) -> Result<T, Failure> {
        self.map_err(|source| Failure {
            action,
            path: disk.path(name),
            source,
        })
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove(disk: &dyn Disk, name: &str) -> Result<(), Failure> {
    match disk.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing("remove", disk, name)
        }
        _ => Ok(()),
    }
}

/// Puts `bytes` in place of the file `name`, durably: after a crash the file has the old content or
/// the new one, whole.
pub(crate) fn replace(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let half_made = format!("{name}.tmp");
    remove(disk, &half_made)?;
    let file = disk
        .create(&half_made, bytes.len() as u64, Space::Reserved)
        .doing("create", disk, &half_made)?;
    file.write_at(0, bytes).doing("write", disk, &half_made)?;
    file.sync().doing("sync", disk, &half_made)?;
    disk.rename(&half_made, name)
        .doing("rename", disk, &half_made)?;
    disk.sync_dir().doing("sync the directory of", disk, name)
}

/// The whole content of a small file; `None` when there is no such file.
pub(crate) fn read_small(
    disk: &dyn Disk,
    name: &str,
    most: u64,
) -> Result<Option<Vec<u8>>, Failure> {
    let file = match disk.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.doing("open", disk, name)?,
    };
    let length = file.len().doing("read", disk, name)?.min(most);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = file.read_at(0, &mut bytes).doing("read", disk, name)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}
