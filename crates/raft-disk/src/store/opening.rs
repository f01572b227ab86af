//! Opening a log: what it held, for the core to start with.

use std::sync::Arc;

use raft_core::{Position, Recovered, SnapshotMeta, Write, mutant};

use super::{LogStore, MIN_SEGMENT_BYTES, Options, WriteError};
use crate::catalog::UNKNOWN_TERM;
use crate::disk::{Disk, Doing, Failure};
use crate::reader::{ReadError, Shared};
use crate::recover::{OpenError, WithLost, recover};
use crate::replay::Replay;
use crate::segment::Supplier;
use crate::wound::RepairError;

impl LogStore {
    /// Opens the log on `disk`, or begins one. Reads all of it, and the heads of the snapshots beside
    /// it, which it finds itself.
    ///
    /// A half-written group at its very end is dropped and overwritten. Everything else must be
    /// intact, or not be needed; where entries are missing, the error says which ([`crate::Wound`]). If the newest snapshot ends with an entry that the log does not hold, a crash came
    /// between the snapshot and the reset of the log behind it, and the reset is made up for, durably.
    ///
    /// # Errors
    /// [`OpenError`]; the log is then as it was (or, when the disk refused the reset, it is still to
    /// be made).
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(LogStore, Recovered), OpenError> {
        let (mut replay, snapshot) = recover(&disk, WithLost::Refuse)?;
        let beyond = snapshot
            .as_ref()
            .filter(|snapshot| !replay.holds(snapshot.position) && !mutant!(W2HalfSwitch));
        if let Some(snapshot) = beyond {
            replay.configurations.clear();
            replay.dissolved_at = None;
            replay.skips.clear();
            replay.base_log_time_ms = snapshot.log_time_ms;
        }
        let configurations = replay.configurations_with(snapshot.as_deref());
        let (skips, base_log_time_ms) =
            (std::mem::take(&mut replay.skips), replay.base_log_time_ms);
        let dissolved_at = replay.dissolved_at;
        let mut store = LogStore::assemble(disk, options, replay)?;
        if let Some(snapshot) = beyond {
            store.reset_behind(snapshot)?;
        }
        store.remove_surplus();
        let tail = store
            .reader()
            .tail(options.tail_cache_bytes)
            .map_err(unreadable)?;
        let last = store.last();
        // It may be too large for the tail.
        let last_entry = store.reader().read(last.index, last.index, 0);
        let entry_time = last_entry
            .map_err(unreadable)?
            .last()
            .map_or(0, |entry| entry.log_time_ms);
        let snapshot_time = snapshot.as_ref().map_or(0, |snapshot| snapshot.log_time_ms);
        let recovered = Recovered {
            hard_state: store.hard_state.clone(),
            cluster_id: store.cluster_id(),
            base: store.base(),
            snapshot,
            last_log_time_ms: entry_time.max(snapshot_time).max(base_log_time_ms),
            dissolved_at,
            skips,
            terms: store.terms.starts.clone(),
            last,
            configurations,
            tail,
        };
        Ok((store, recovered))
    }

    fn assemble(
        disk: Arc<dyn Disk>,
        options: Options,
        mut replay: Replay,
    ) -> Result<LogStore, OpenError> {
        let bytes = options.segment_bytes.max(MIN_SEGMENT_BYTES);
        let supplier = Supplier::new(disk.clone(), bytes, options.lay_out_ahead).doing(
            "start a thread for",
            &*disk,
            "log",
        )?;
        let catalog = std::mem::take(&mut replay.catalog);
        let shared = Arc::new(Shared::new(disk.clone(), catalog, replay.row.bytes()));
        Ok(LogStore {
            disk,
            supplier,
            shared,
            row: replay.row,
            current: replay.current,
            terms: replay.terms,
            hard_state: replay.hard_state,
            cluster_id: replay.cluster_id,
            sequence: 0,
            generation: 0,
            poisoned: None,
            buffer: Vec::new(),
            staged: Vec::new(),
        })
    }

    /// Appends a group that truncates a damaged log before the damage (D6).
    pub(crate) fn truncate_damaged(disk: Arc<dyn Disk>, write: Write) -> Result<(), RepairError> {
        let refused = |error: &dyn std::fmt::Display| RepairError::Log(error.to_string());
        let options = Options {
            lay_out_ahead: false,
            ..Options::default()
        };
        let (replay, _) = recover(&disk, WithLost::Accept).map_err(|error| refused(&error))?;
        let last = replay.terms.last();
        if last.term == UNKNOWN_TERM && last.index > replay.terms.base.index {
            return Err(refused(&"nobody knows how it ends"));
        }
        let mut store =
            LogStore::assemble(disk, options, replay).map_err(|error| refused(&error))?;
        store
            .check(std::slice::from_ref(&write))
            .and_then(|()| store.store(&[write]))
            .map_err(|error| refused(&error))
    }

    /// Drops the log, which goes on behind the snapshot (W2).
    fn reset_behind(&mut self, snapshot: &Arc<SnapshotMeta>) -> Result<(), OpenError> {
        let install = Write {
            sequence: 0,
            generation: 0,
            hard_state: None,
            install: Some(snapshot.clone()),
            truncate_from: None,
            entries: Vec::new(),
            compact_to: None,
        };
        self.store(&[install]).map_err(|error| match error {
            WriteError::Full(failure) | WriteError::Poisoned(failure) => OpenError::Disk(Failure {
                action: failure.action,
                path: failure.path.clone(),
                source: std::io::Error::new(failure.source.kind(), failure.source.to_string()),
            }),
            // Only a hard state that is too large for the head of a segment, which none ever was.
            WriteError::Invalid(what) => OpenError::Disk(Failure {
                action: "reset",
                path: what,
                source: std::io::ErrorKind::InvalidData.into(),
            }),
        })
    }
}

fn unreadable(error: ReadError) -> OpenError {
    match error {
        ReadError::Disk(failure) => OpenError::Disk(failure),
        ReadError::Damaged { path, offset, what } => OpenError::Damaged {
            path,
            offset,
            what,
            intact: Position::ZERO,
            wound: None,
        },
    }
}
