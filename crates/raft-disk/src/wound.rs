//! The repair of a log that is damaged in its middle (D6).
//!
//! Two things can be done, and both leave a log that opens like any other. [`Wound::mend`] writes what
//! was lost into the place of the damaged bytes, where it has room: it was there. [`Wound::give_up`]
//! appends a group that truncates the log before the damage, when what was lost there was never
//! committed. A crash in the middle of the first leaves damaged bytes where there were damaged bytes
//! before, in the middle of the second a torn tail: the same damage is found again.

use std::sync::Arc;

use raft_core::repair::{Known, Lost};
use raft_core::{Entry, Index, Position, SnapshotMeta, Write};

use crate::catalog::Terms;
use crate::disk::{Disk, DiskFile, Doing, Failure};
use crate::format::{self, BATCH_HEADER_BYTES, BatchHeader};
use crate::replay::{self, Damage};

/// Entries that are damaged in the middle of a log, and all that is needed to put them back.
#[derive(Clone, Debug)]
pub struct Wound {
    lost: Lost,
    damage: Damage,
    /// Where the log ended behind the damage.
    end: Position,
}

/// Why a damaged log could not be repaired with what peers have said. Nothing was changed, unless the
/// disk refused.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// These are not the entries that are missing.
    #[error("the entries that were given are not those that are missing: {0}")]
    Invalid(&'static str),
    /// The disk refused. The same may be tried again once the log was opened anew.
    #[error(transparent)]
    Disk(#[from] Failure),
    /// The log could not be written to.
    #[error("the log could not be truncated before the damage: {0}")]
    Log(String),
}

impl Wound {
    /// None: nothing behind the damage is certain enough to know the missing entries by.
    pub(crate) fn new(
        lost: &replay::Lost,
        terms: &Terms,
        snapshot: Option<&SnapshotMeta>,
    ) -> Option<Wound> {
        let (damage, before) = lost.damage.as_ref()?;
        let anchor = terms.known_from(lost.last)?;
        // What it covers is no more to be looked for.
        let covered = snapshot.map(|snapshot| snapshot.position);
        let covered =
            covered.filter(|covered| *covered == terms.base && lost.first == covered.index + 1);
        let known = match covered.filter(|covered| covered.index > before.last) {
            Some(covered) => Known {
                base: covered,
                terms: Vec::new(),
                last: covered.index,
            },
            None => Known {
                base: before.base,
                terms: before.starts.clone(),
                last: before.last,
            },
        };
        Some(Wound {
            lost: Lost {
                known,
                last: lost.last,
                anchor,
            },
            damage: damage.clone(),
            end: lost.end,
        })
    }

    /// What is missing, in the terms of Raft.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// Writes the missing entries into the place of the damaged bytes, durably: those from right behind
    /// `joint`, the last entry that counts before them, to the last missing one. The log is to be opened
    /// anew afterwards, and may show another wound.
    ///
    /// # Errors
    /// See [`RepairError`].
    pub fn mend(
        &self,
        disk: &dyn Disk,
        joint: Position,
        entries: &[Entry],
    ) -> Result<(), RepairError> {
        let ends = entries.last().map_or(joint.index, |entry| entry.index);
        let row = (joint.index + 1..).zip(entries);
        if ends != self.lost.last || row.clone().any(|(index, entry)| entry.index != index) {
            return Err(RepairError::Invalid("they are not the missing row"));
        }
        let buffer = self.batch(joint, entries)?;
        let name = &*self.damage.name;
        let file = disk.open(name).doing("open", disk, name)?;
        self.keep_what_follows(disk, &*file)?;
        file.write_at(self.damage.start, &buffer)
            .doing("write", disk, name)?;
        file.sync().doing("sync", disk, name)?;
        Ok(())
    }

    /// The promises that were damaged stand in what follows only, and it may be in memory only: a mark,
    /// or what a process left that died before its sync. If the power took it and left the mended batch,
    /// nothing would show that there had been others. So it is made durable first; with a mere sync the
    /// system may believe that it is (D7).
    fn keep_what_follows(&self, disk: &dyn Disk, file: &dyn DiskFile) -> Result<(), Failure> {
        let name = &*self.damage.name;
        let read = |length: usize| {
            let mut bytes = vec![0; length];
            let read = file.read_at(self.damage.end, &mut bytes);
            read.doing("read", disk, name).map(|read| {
                bytes.truncate(read);
                bytes
            })
        };
        // None: the next segment follows, and only its name may not be durable.
        if let Some((header, _)) = BatchHeader::decode(&read(BATCH_HEADER_BYTES)?) {
            let batch = read(BATCH_HEADER_BYTES + header.body_bytes as usize)?;
            file.write_at(self.damage.end, &batch)
                .doing("write", disk, name)?;
        }
        file.sync().doing("sync", disk, name)?;
        disk.sync_dir().doing("sync the directory of", disk, name)
    }

    /// A batch as long as the damaged bytes.
    fn batch(&self, joint: Position, entries: &[Entry]) -> Result<Vec<u8>, RepairError> {
        let Damage { before, .. } = &self.damage;
        let mut buffer = vec![0; BATCH_HEADER_BYTES];
        let mut count = 0;
        let rest = self.lost.last < self.end.index;
        if joint.index > before.last.index {
            format::put_lost_record(&mut buffer, before.last.index + 1, joint);
            count += 1;
        } else if joint.index < before.last.index && !(entries.is_empty() && rest) {
            format::put_truncate_record(&mut buffer, joint.index + 1);
            count += 1;
        }
        for entry in entries {
            format::put_entry_record(&mut buffer, entry);
            count += 1;
        }
        if rest {
            format::put_lost_record(&mut buffer, self.lost.last + 1, self.end);
            count += 1;
        }
        if count == 0 {
            return Err(RepairError::Invalid("nothing would be put back"));
        }
        let room = (self.damage.end - self.damage.start) as usize;
        if buffer.len() > room {
            return Err(RepairError::Invalid("they take more room than they had"));
        }
        buffer.resize(room, 0);
        let header = BatchHeader {
            generation: self.damage.generation,
            offset: self.damage.start,
            synced: self.damage.start,
            previous: self.damage.previous,
            count,
            following: Some(self.damage.following),
            standing: *before,
            ..BatchHeader::default()
        };
        header.seal(&mut buffer);
        Ok(buffer)
    }

    /// Truncates the log behind `joint`, which lies before the damage, and goes on with `entries`, all of
    /// it durably and at once: what was lost was never committed, and these are. The log is to be opened
    /// anew afterwards.
    ///
    /// # Errors
    /// See [`RepairError`].
    pub fn give_up(
        &self,
        disk: Arc<dyn Disk>,
        joint: Position,
        entries: Vec<Entry>,
    ) -> Result<(), RepairError> {
        let from: Index = joint.index + 1;
        let row = (from..).zip(&entries);
        if entries.is_empty() || row.clone().any(|(index, entry)| entry.index != index) {
            return Err(RepairError::Invalid("they are no row"));
        }
        if !self.lost.known.holds(joint) {
            return Err(RepairError::Invalid("they do not join the log"));
        }
        let write = Write {
            sequence: 1,
            generation: 1,
            hard_state: None,
            install: None,
            truncate_from: Some(from),
            entries,
            compact_to: None,
        };
        crate::LogStore::truncate_damaged(disk, write)
    }
}
