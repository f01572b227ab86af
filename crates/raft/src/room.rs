//! Whether the log may grow: a full disk is an answer, not a death.
//!
//! A node that leads refuses client entries when the log has reached `MaxLogBytes`, or when the file
//! system has no more than the reserve left; elections and configuration changes may use the rest.
//!
//! A follower cannot refuse what the leader sends. It stops reading the AppendEntries streams while
//! there is no room: the entries wait with their sender, bounded by its limits, while this node goes
//! on voting and answering heartbeats, and looks once a second whether somebody made room. To the
//! leader it is a follower that lags. Should the disk fill up all the same, the disk's thread keeps
//! what it was given and tries again.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::limits::{DISK_RESERVE_BYTES, ROOM_INTERVAL, ROOM_MEASURED};
use crate::shared::{Shared, locked};

/// See the module.
pub struct Room {
    directory: PathBuf,
    max_log_bytes: u64,
    segment_bytes: u64,
    usage: OnceLock<Arc<AtomicU64>>,
    measured: Mutex<Measured>,
}

struct Measured {
    at: Option<Instant>,
    /// Bytes above the reserve, less what was admitted since.
    free: u64,
    total: u64,
    /// Admitted since the measurement.
    admitted: u64,
}

/// Name of the alarm while a follower waits for room.
const ROOM_ALARM: &str = "room";

impl Room {
    /// Room in the file system of `directory`.
    pub fn new(directory: PathBuf, max_log_bytes: u64, segment_bytes: u64) -> Room {
        let measured = Measured {
            at: None,
            free: 0,
            total: 0,
            admitted: 0,
        };
        Room {
            directory,
            max_log_bytes,
            segment_bytes,
            usage: OnceLock::new(),
            measured: Mutex::new(measured),
        }
    }

    /// Bytes that the log takes, kept up to date by the log.
    pub fn set_usage(&self, usage: Arc<AtomicU64>) {
        let _ = self.usage.set(usage);
    }

    fn log_bytes(&self) -> u64 {
        self.usage
            .get()
            .map_or(0, |usage| usage.load(Ordering::Relaxed))
    }

    /// Admits `bytes` to the log, or says why not.
    ///
    /// # Errors
    /// The sentence for whoever wanted to append.
    pub fn admit(&self, bytes: u64) -> Result<(), String> {
        let log = self.log_bytes();
        if log.saturating_add(bytes) > self.max_log_bytes {
            return Err(format!(
                "the log has {log} bytes, and MaxLogBytes is {}: it shrinks with the next snapshot, \
                 if the state machine supports them; otherwise raise it",
                self.max_log_bytes
            ));
        }
        self.admit_to_disk(bytes)
    }

    /// Admits `bytes` to the disk, for something other than the log, or says why not.
    ///
    /// # Errors
    /// The sentence for whoever wanted to write.
    pub fn admit_to_disk(&self, bytes: u64) -> Result<(), String> {
        let mut measured = locked(&self.measured);
        let old = measured.at.is_none_or(|at| at.elapsed() > ROOM_MEASURED);
        // Only a part of what is free: the state machine's file may grow on the same disk by several
        // bytes for each one that the log takes.
        if old || measured.admitted.saturating_add(bytes) > measured.free / 8 {
            self.measure(&mut measured);
        }
        if measured.admitted.saturating_add(bytes) > measured.free {
            return Err(format!(
                "the disk of {} is full but for the reserve of {} bytes: free some space",
                self.directory.display(),
                reserve(measured.total)
            ));
        }
        measured.admitted += bytes;
        Ok(())
    }

    /// Whether so many bytes fit on the disk right now, with nothing set aside for them.
    ///
    /// # Errors
    /// The sentence for whoever wanted to write.
    pub fn check_disk(&self, bytes: u64) -> Result<(), String> {
        self.admit_to_disk(0)?;
        let measured = locked(&self.measured);
        if measured.admitted.saturating_add(bytes) <= measured.free {
            return Ok(());
        }
        Err(format!(
            "{bytes} bytes do not fit on the disk of {}, which has {} above its reserve: free some space",
            self.directory.display(),
            measured.free.saturating_sub(measured.admitted)
        ))
    }

    fn measure(&self, measured: &mut Measured) {
        measured.at = Some(Instant::now());
        measured.admitted = 0;
        match rustix::fs::statvfs(&self.directory) {
            Ok(stat) => {
                let block = stat.f_frsize.max(1);
                measured.total = stat.f_blocks.saturating_mul(block);
                let available = stat.f_bavail.saturating_mul(block);
                measured.free = available.saturating_sub(reserve(measured.total));
            }
            // Who cannot be asked does not refuse: the disk itself still can.
            Err(_) => measured.free = self.segment_bytes,
        }
    }

    /// Waits until `bytes` fit on the disk. At once, unless the disk is full.
    pub async fn wait(&self, bytes: u64, shared: &Shared) {
        let Err(sentence) = self.admit_to_disk(bytes) else {
            return;
        };
        let sentence = format!("{sentence}. Until then this node takes no entries from its leader");
        shared.alarm(ROOM_ALARM, Some(sentence));
        while self.admit_to_disk(bytes).is_err() {
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
        shared.alarm(ROOM_ALARM, None);
    }
}

fn reserve(total: u64) -> u64 {
    DISK_RESERVE_BYTES.min(total / 16)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_log_stops_at_its_limit_with_a_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::new(directory.path().to_owned(), 1000, 64);
        let usage = Arc::new(AtomicU64::new(900));
        room.set_usage(usage.clone());
        room.admit(100).unwrap();
        assert!(room.admit(101).unwrap_err().contains("MaxLogBytes is 1000"));
        usage.store(1000, Ordering::Relaxed);
        assert!(room.admit(1).is_err());
    }

    #[test]
    fn more_than_the_disk_has_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::new(directory.path().to_owned(), u64::MAX, 64);
        room.admit(1).unwrap();
        assert!(
            room.admit(u64::MAX / 2)
                .unwrap_err()
                .contains("full but for the reserve")
        );
    }
}
