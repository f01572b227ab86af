//! One daemon for one data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::disk::Failure;

/// Name of the file.
pub const LOCK_FILE: &str = "lock";

/// An exclusive lock on a directory. It ends with the process, however that ends.
#[derive(Debug)]
pub struct DirectoryLock {
    // Held, not read: closing the file gives the lock up.
    _file: File,
}

/// Why a directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{directory} is in use by {}: a node's data belongs to one daemon. Stop the other one, or \
         give this one a data directory of its own", holder(*pid)
    )]
    Held {
        /// The directory.
        directory: String,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] Failure),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

impl DirectoryLock {
    /// Locks a directory, which must exist, for this process.
    ///
    /// # Errors
    /// Another process holds it, or the disk refused.
    pub fn acquire(directory: &Path) -> Result<DirectoryLock, LockError> {
        let path = directory.join(LOCK_FILE);
        let failure = |action| {
            let path = path.display().to_string();
            move |source| {
                LockError::Disk(Failure {
                    action,
                    path,
                    source,
                })
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failure("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The pid only helps to find the holder: without it the sentence still stands.
                let _ = file.take(32).read_to_string(&mut text);
                let directory = directory.display().to_string();
                return Err(LockError::Held {
                    directory,
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failure("lock")(source)),
        }
        file.set_len(0).map_err(failure("write"))?;
        file.seek(SeekFrom::Start(0)).map_err(failure("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failure("write"))?;
        Ok(DirectoryLock { _file: file })
    }
}
