//! The state machine's folder in the node's data directory: made, locked, and moved aside when it
//! belongs to an identity that the node has given up.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use state_machine_sdk::bound_node_id;
use tracing::info;

use crate::storage::KeyValueStore;

/// The state machine's folder, in the data directory.
pub const FOLDER: &str = "state-machine";

/// The store, in that folder.
pub const STORE_FILE: &str = "state.redb";

/// The marker in the data directory that names, in hexadecimal digits, the node_id that the node
/// has given up.
pub const RETIRED_MARKER: &str = "retired";

const LOCK_FILE: &str = "lock";

/// How many digits of a retired node_id are in the name of its folder: enough to tell it apart.
const RETIRED_DIGITS: usize = 8;

/// How many folders of the same retired id are told apart before a person should tidy up.
const RETIRED_FOLDERS: u32 = 100;

/// Why the folder cannot be used, in a sentence for whoever started the process.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refuses.
    #[error("cannot {action} {path}: {reason}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// Another process has the folder.
    #[error(
        "{0} is in use by another state machine: stop that one, or give this node a DataDir of its \
         own"
    )]
    InUse(PathBuf),
    /// The store cannot be opened.
    #[error("cannot open {path}: {reason}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What the storage says.
        reason: String,
    },
    /// The marker says nothing that can be understood.
    #[error(
        "{path} should name the node_id that was given up, in hexadecimal digits, and holds {found:?}"
    )]
    Marker {
        /// The marker.
        path: PathBuf,
        /// The beginning of what it holds.
        found: String,
    },
}

/// The store, and the lock that keeps every other process away for as long as this value lives.
pub struct Opened {
    /// The store, ready to be served.
    pub store: KeyValueStore,
    /// Held, not read: the system lets go of it when the process ends, however it ends.
    pub lock: File,
}

/// Makes, locks and opens the state machine's folder in `data_dir`. When the state in it belongs to
/// the node_id that the marker names, the folder is moved aside first and an empty one is opened.
///
/// # Errors
/// [`DirectoryError`], when the process cannot start on this folder.
pub fn open(data_dir: &Path) -> Result<Opened, DirectoryError> {
    let folder = data_dir.join(FOLDER);
    let opened = open_folder(data_dir, &folder)?;
    let Some(retired) = retired_node_id(data_dir)? else {
        return Ok(opened);
    };
    let bound = bound_node_id(&opened.store)
        .map_err(|reason| store_error(&folder.join(STORE_FILE), reason))?;
    if bound != Some(retired) {
        return Ok(opened);
    }
    // The store is closed before it moves; the lock moves with its folder.
    let Opened { store, lock } = opened;
    drop(store);
    let aside = free_name(data_dir, retired)?;
    fs::rename(&folder, &aside).map_err(|reason| cannot("move aside", &folder, reason))?;
    sync_folder(data_dir)?;
    drop(lock);
    info!(
        "[STATEMACHINE] [RETIRED] node {retired:032x} was given up: its state is now in {}, and \
         this one starts empty",
        aside.display()
    );
    open_folder(data_dir, &folder)
}

fn open_folder(data_dir: &Path, folder: &Path) -> Result<Opened, DirectoryError> {
    fs::create_dir_all(folder).map_err(|reason| cannot("make", folder, reason))?;
    let lock_path = folder.join(LOCK_FILE);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|reason| cannot("write", &lock_path, reason))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DirectoryError::InUse(folder.to_owned())),
        Err(TryLockError::Error(reason)) => return Err(cannot("lock", &lock_path, reason)),
    }
    let path = folder.join(STORE_FILE);
    let store = KeyValueStore::open(&path).map_err(|reason| store_error(&path, reason))?;
    // A file that is not in its synced folder is gone after a power cut, however synced it is.
    sync_folder(folder)?;
    sync_folder(data_dir)?;
    Ok(Opened { store, lock })
}

fn retired_node_id(data_dir: &Path) -> Result<Option<u128>, DirectoryError> {
    let path = data_dir.join(RETIRED_MARKER);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(reason) => return Err(cannot("read", &path, reason)),
    };
    let text = String::from_utf8_lossy(&bytes);
    match u128::from_str_radix(text.trim(), 16) {
        Ok(node_id) => Ok(Some(node_id)),
        Err(_) => Err(DirectoryError::Marker {
            path,
            found: text.chars().take(40).collect(),
        }),
    }
}

fn free_name(data_dir: &Path, retired: u128) -> Result<PathBuf, DirectoryError> {
    let digits = format!("{retired:032x}");
    let prefix = digits.get(..RETIRED_DIGITS).unwrap_or(&digits);
    let first = data_dir.join(format!("{FOLDER}.retired-{prefix}"));
    let more = (2..=RETIRED_FOLDERS)
        .map(|number| data_dir.join(format!("{FOLDER}.retired-{prefix}-{number}")));
    let mut names = std::iter::once(first.clone()).chain(more);
    names
        .find(|name| matches!(name.try_exists(), Ok(false)))
        .ok_or_else(|| {
            cannot(
                "find a free name beside",
                &first,
                io::ErrorKind::AlreadyExists.into(),
            )
        })
}

fn sync_folder(folder: &Path) -> Result<(), DirectoryError> {
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(|reason| cannot("sync", folder, reason))
}

fn cannot(action: &'static str, path: &Path, reason: io::Error) -> DirectoryError {
    DirectoryError::Io {
        action,
        path: path.to_owned(),
        reason,
    }
}

fn store_error(path: &Path, reason: impl ToString) -> DirectoryError {
    DirectoryError::Store {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
