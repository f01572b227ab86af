//! A directory of the operating system as a [`Disk`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::disk::{Disk, DiskFile, Failure, Space};

/// Zeros are written in pieces of this many bytes.
const ZERO_CHUNK_BYTES: usize = 1 << 20;

/// A directory of the operating system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    directory: PathBuf,
    read_only: bool,
}

#[derive(Debug)]
pub(crate) struct RealFile(pub File);

impl RealDisk {
    /// Uses `directory`, and makes it first if it is missing.
    ///
    /// # Errors
    /// A [`Failure`] that names the directory.
    pub fn open(directory: impl Into<PathBuf>) -> Result<RealDisk, Failure> {
        let directory = directory.into();
        make_directory(&directory).map_err(|source| Failure {
            action: "use the directory",
            path: directory.display().to_string(),
            source,
        })?;
        Ok(RealDisk {
            directory,
            read_only: false,
        })
    }

    /// Uses a directory as it is, to look at what is there: its files are opened for reading alone,
    /// so that files which may not be written to can be read.
    pub fn read_only(directory: impl Into<PathBuf>) -> RealDisk {
        RealDisk {
            directory: directory.into(),
            read_only: true,
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Makes a directory and its parents, each durable in its own parent.
fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directory(parent)?;
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !directory.is_dir() => {
            Err(error)
        }
        _ => sync_directory(parent),
    }
}

/// Makes names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in std::fs::read_dir(&self.directory)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = file?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.directory.join(name))?;
        let filled = match space {
            Space::Written => write_zeros(&file, bytes),
            Space::Reserved => reserve(&file, bytes),
        };
        match filled {
            Ok(()) => Ok(Arc::new(RealFile(file))),
            Err(error) => {
                // Half a file is of no use, least of all on a full disk. That it cannot be removed
                // would say less than the error at hand.
                let _ = self.remove(name);
                Err(error)
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.directory.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }

    fn random(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        let chunk = (bytes - at).min(ZERO_CHUNK_BYTES as u64);
        file.write_all_at(&zeros[..chunk as usize], at)?;
        at += chunk;
    }
    Ok(())
}

fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Not every file system can reserve.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => write_zeros(file, bytes),
        other => Ok(other?),
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}
