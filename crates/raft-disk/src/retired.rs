//! How a node changes its id.
//!
//! A node that was removed, or whose cluster gave way to another, takes a new id and starts empty
//! (M3, F2). Several daemons keep folders under the old one, and any of them may die half-way. So
//! one durable marker, `<data>/retired`, names the old id; each daemon that finds its own identity
//! named there moves its folder aside when it starts. The marker stays: it cannot name a later id.

use std::io;
use std::path::{Path, PathBuf};

use raft_core::NodeId;

use crate::disk::{Failure, read_small, replace};
use crate::real::{RealDisk, sync_directory};

/// Name of the marker in the data directory.
pub const RETIRED_FILE: &str = "retired";

/// A longer file is not ours.
const MAX_MARKER_BYTES: u64 = 256;

/// Folders of one name that are moved aside under one id: one, unless people copy things back.
const MOST_FOLDERS: u32 = 1000;

/// Why the marker is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RetiredError {
    /// It names no node.
    #[error(
        "{path} should hold the id of a retired node, 32 hexadecimal digits, and does not. Remove it \
         if this node was not retired"
    )]
    Unreadable {
        /// The marker.
        path: String,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] Failure),
}

/// Marks the id as retired, durably.
///
/// # Errors
/// The disk refused.
pub fn write(data: &Path, id: NodeId) -> Result<(), RetiredError> {
    let disk = RealDisk::open(data)?;
    Ok(replace(&disk, RETIRED_FILE, format!("{id}\n").as_bytes())?)
}

/// The id that is retired, if any.
///
/// # Errors
/// [`RetiredError`].
pub fn read(data: &Path) -> Result<Option<NodeId>, RetiredError> {
    let disk = RealDisk::open(data)?;
    let Some(bytes) = read_small(&disk, RETIRED_FILE, MAX_MARKER_BYTES)? else {
        return Ok(None);
    };
    let id = std::str::from_utf8(&bytes)
        .ok()
        .map(str::trim)
        .filter(|digits| {
            digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        })
        .and_then(|digits| u128::from_str_radix(digits, 16).ok());
    match id {
        Some(id) => Ok(Some(NodeId(id))),
        None => Err(RetiredError::Unreadable {
            path: data.join(RETIRED_FILE).display().to_string(),
        }),
    }
}

/// Moves `<data>/<folder>` of the retired node `id` to `<data>/<folder>-retired-<id>`, durably, and
/// returns where it is now; `None` when there is no such folder.
///
/// # Errors
/// The disk refused.
pub fn move_aside(data: &Path, folder: &str, id: NodeId) -> Result<Option<PathBuf>, RetiredError> {
    let from = data.join(folder);
    let failure = |source| Failure {
        action: "move aside",
        path: from.display().to_string(),
        source,
    };
    if !from.try_exists().map_err(failure)? {
        return Ok(None);
    }
    let plain = format!("{folder}-retired-{id}");
    let to = (1..=MOST_FOLDERS)
        .map(|n| {
            if n == 1 {
                data.join(&plain)
            } else {
                data.join(format!("{plain}-{n}"))
            }
        })
        .find(|to| !to.exists())
        .ok_or_else(|| failure(io::ErrorKind::AlreadyExists.into()))?;
    std::fs::rename(&from, &to).map_err(failure)?;
    sync_directory(data).map_err(failure)?;
    Ok(Some(to))
}
