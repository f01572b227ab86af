//! Snapshots as plain code: one index, written out of one view, and read back in one transaction.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Engine, Failure, locked, panic_message};
use crate::chunks::{Incoming, Next, Outgoing, Send};
use crate::header::{HEADER_KEY, Header};
use crate::limits::RESTORE_ROOM_BYTES;
use crate::refusal::Refusal;
use crate::{DurableStateMachine, Finish, StorageError, TransferError};

/// What a restore is about, as its first chunk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The epoch that it belongs to.
    pub epoch: u64,
    /// What the bytes are written in.
    pub format: String,
    /// The last entry that the state holds.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Sends the state as of the latest commit, chunk by chunk. The first one goes out, with the index,
/// when the view is open and before anything of the state is read. It returns the index.
///
/// # Errors
/// `send` refused, or the machine failed.
pub fn export(machine: &dyn DurableStateMachine, send: &Send<'_>) -> Result<u64, Failure> {
    let (position, refusal) = (Cell::new(None), Cell::new(None));
    let mut outgoing = Outgoing::new(send, &position, &refusal);
    let run = AssertUnwindSafe(|| {
        machine.export(
            &mut |snapshot| {
                let header = Header::read(snapshot)?;
                let found = (header.applied_index, header.applied_term);
                position.set(Some(found));
                // An error of the storage it is not, and the first write finds it.
                refusal.set(Outgoing::announce(send, found).err());
                Ok(())
            },
            &mut outgoing,
        )
    });
    let exported = match catch_unwind(run) {
        Ok(exported) => exported,
        Err(panic) => Err(TransferError::Content(format!(
            "its code panicked: {}",
            panic_message(&*panic)
        ))),
    };
    let exported = exported.and_then(|()| Ok(outgoing.finish()?));
    match (exported, refusal.take(), position.get()) {
        (Err(TransferError::Storage(error)), _, _) => Err(error.into()),
        (_, Some(refusal), _) => Err(refusal.into()),
        (Err(error), None, _) => Err(Refusal::SnapshotFailed(error.to_string()).into()),
        (Ok(()), None, Some((index, _))) => Ok(index),
        (Ok(()), None, None) => {
            Err(StorageError::new("the storage did not run the read that it was given").into())
        }
    }
}

impl Engine {
    /// Refuses a call that is not of the latest epoch.
    ///
    /// # Errors
    /// It is of another one.
    pub fn check_epoch(&self, given: u64) -> Result<(), Refusal> {
        if (given == self.epoch || mutant!(P1AnyEpoch)) && given != 0 {
            return Ok(());
        }
        let latest = self.epoch;
        Err(Refusal::StaleEpoch { given, latest })
    }

    /// Replaces state, applied index and term by a snapshot's, and forgets the outcomes: all of
    /// that, or nothing. A snapshot of the applied index changes nothing. The binding stays.
    ///
    /// # Errors
    /// It is older than the state, or in an unknown format, or broken; or the machine failed.
    pub fn restore<'a>(&mut self, call: &Restore, next: &'a mut Next<'a>) -> Result<(), Failure> {
        self.check_epoch(call.epoch)?;
        let applied = self.header.applied_index;
        if call.index < applied {
            let index = call.index;
            return Err(Refusal::Ahead { index, applied }.into());
        }
        if call.index == applied {
            let (applied_term, given_term) = (self.header.applied_term, call.term);
            if applied_term == given_term {
                return Ok(());
            }
            let index = applied;
            return Err(Refusal::OtherHistory {
                index,
                applied_term,
                given_term,
            }
            .into());
        }
        let formats = self.machine.snapshot_formats();
        if !formats.contains(&call.format.as_str()) {
            return Err(Refusal::format(&call.format, formats).into());
        }
        let header = Header {
            applied_index: call.index,
            applied_term: call.term,
            results_floor: self.header.results_floor.max(call.index),
            ..self.header
        };
        self.replace(call, header, next)?;
        self.header = header;
        locked(&self.history).begin_again(header.applied_index);
        self.all_is_synced();
        Ok(())
    }

    fn replace<'a>(
        &self,
        call: &Restore,
        header: Header,
        next: &'a mut Next<'a>,
    ) -> Result<(), Failure> {
        // Before the storage runs out of room in the middle of its transaction, which would end it.
        let room = |received: u64| {
            let room = self.machine.room_for(0, received.min(RESTORE_ROOM_BYTES));
            room.map_err(Refusal::NoRoom)
        };
        let incoming = Incoming::new((call.index, call.term), next, &room);
        let mut committed = false;
        let imported = self
            .machine
            .import(&call.format, &mut &incoming, &mut |transaction| {
                if incoming.finish().is_err() {
                    return Ok(Finish::RollBack);
                }
                transaction.remove_records(HEADER_KEY + 1, u64::MAX)?;
                transaction.put_record(HEADER_KEY, &header.encode())?;
                committed = true;
                Ok(Finish::Commit)
            });
        match (imported, incoming.refusal()) {
            (Err(TransferError::Storage(error)), _) => Err(error.into()),
            (_, Some(refusal)) => Err(refusal.into()),
            (Err(error), None) if committed => Err(StorageError::new(error).into()),
            (Err(error), None) => Err(Refusal::BadSnapshot(error.to_string()).into()),
            (Ok(()), None) if committed => Ok(()),
            (Ok(()), None) => Err(StorageError::new(
                "the storage did not run the end of the transaction that it was given",
            )
            .into()),
        }
    }
}
