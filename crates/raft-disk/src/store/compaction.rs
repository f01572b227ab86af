//! The log and the snapshots beside it: what may go, and what may take its place.

use raft_core::{Index, Position, SnapshotMeta, Write};

use super::{LogStore, WriteError};
use crate::disk::Doing;
use crate::snapshot::{newest_named, snapshot_name};

impl LogStore {
    /// Lets go of what the group says is covered by a snapshot, and removes what is not needed.
    pub(super) fn compact(&mut self, writes: &[Write]) {
        let covered = writes.iter().filter_map(|write| write.compact_to).max();
        if let Some(covered) = covered
            && self.row.begin_for(covered).is_some()
        {
            match self.disk.list().doing("list", &*self.disk, "log") {
                Ok(names) => self.begin_behind(covered.min(newest_named(&names))),
                Err(failure) => self.shared.note_surplus(Some(failure.to_string())),
            }
        }
        if covered.is_some() || writes.iter().any(|write| write.install.is_some()) {
            self.remove_surplus();
        }
    }

    /// The log may begin with the last segment that leaves nothing out behind `covered`.
    fn begin_behind(&mut self, covered: Index) {
        let Some(begin) = self.row.begin_for(covered) else {
            return;
        };
        self.row.keep_from(begin);
        let mut catalog = self.shared.catalog();
        let first = catalog.first_in(begin).unwrap_or(self.terms.last + 1);
        // First no reader finds them any more; then they go.
        catalog.compact(first - 1);
        self.terms.compact(first - 1);
    }

    /// Removes segments that are not needed.
    pub(super) fn remove_surplus(&mut self) {
        if self.row.has_surplus() {
            self.shared.forget_before(self.row.first_kept());
            let removed = self.row.remove_surplus(&self.shared);
            self.shared
                .note_surplus(removed.err().map(|failure| failure.to_string()));
        }
    }

    /// Whether the log may go on behind this snapshot, having `base`.
    pub(super) fn check_install(&self, meta: &SnapshotMeta, base: Index) -> Result<(), WriteError> {
        let Position { index, .. } = meta.position;
        if index <= base || index == Index::MAX {
            let what = format!("a snapshot up to entry {index} in a log that begins behind {base}");
            return Err(WriteError::Invalid(what));
        }
        if let Some(ours) = self.cluster_id
            && ours != meta.cluster_id
        {
            let theirs = meta.cluster_id;
            let what = format!("a snapshot of cluster {theirs} in a log of cluster {ours}");
            return Err(WriteError::Invalid(what));
        }
        // Without the file the log could never be opened again.
        let name = snapshot_name(meta.position);
        match self.disk.open(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let path = self.disk.path(&name);
                Err(WriteError::Invalid(format!("there is no {path}")))
            }
            _ => Ok(()),
        }
    }
}
