//! Outcomes as records. Those of consecutive indices share one, under the key of the last of them: a
//! record for each would cost the storage as much as the commands themselves.

use bytes::{Buf, Bytes};

use crate::limits::OUTCOMES_RECORD_BYTES;
use crate::{Outcome, Snapshot, StorageError, Transaction};

/// Before the bytes of each outcome: the term of its entry, its kind, and how many bytes there are.
const PREFIX_BYTES: usize = 8 + 1 + 4;

/// Gathers the outcomes of one transaction, whose indices are consecutive.
#[derive(Default)]
pub(crate) struct Gathered {
    last: u64,
    bytes: Vec<u8>,
}

impl Gathered {
    /// Adds the outcome of the next index. What is there already is stored if it would be too much
    /// together, so only a single outcome can make a record larger than [`OUTCOMES_RECORD_BYTES`].
    pub fn push(
        &mut self,
        (index, term): (u64, u64),
        outcome: &Outcome,
        transaction: &mut dyn Transaction,
    ) -> Result<(), StorageError> {
        let data = outcome.data();
        let length = u32::try_from(data.len()).map_err(StorageError::new)?;
        let together = self.bytes.len().saturating_add(PREFIX_BYTES + data.len());
        if together > OUTCOMES_RECORD_BYTES {
            self.store(transaction)?;
        }
        let kind = match outcome {
            Outcome::Ok(_) => 1,
            Outcome::Rejected(_) => 2,
            Outcome::NotFound(_) => 3,
        };
        self.bytes.extend_from_slice(&term.to_be_bytes());
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(data);
        self.last = index;
        Ok(())
    }

    /// Stores what is there, if anything.
    pub fn store(&mut self, transaction: &mut dyn Transaction) -> Result<(), StorageError> {
        if !self.bytes.is_empty() {
            transaction.put_record(self.last, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

/// Finds outcomes of ascending indices in one snapshot, and reads each record once.
pub(crate) struct Recall<'a> {
    snapshot: &'a dyn Snapshot,
    held: Option<Record>,
}

impl<'a> Recall<'a> {
    pub fn new(snapshot: &'a dyn Snapshot) -> Self {
        Self {
            snapshot,
            held: None,
        }
    }

    /// The outcome at an index, with the term of its entry, if it is kept. The index is larger than
    /// that of the call before. It is never 0, so the header is no record of outcomes here.
    pub fn outcome(&mut self, index: u64) -> Result<Option<(u64, Outcome)>, StorageError> {
        // The held one is the first at or after an earlier index, so also at or after this one.
        if self.held.as_ref().is_none_or(|held| held.last < index) {
            self.held = match self.snapshot.record_from(index)? {
                Some((last, bytes)) => Some(Record::decode(last, bytes)?),
                None => None,
            };
        }
        Ok(self.held.as_ref().and_then(|held| held.outcome(index)))
    }
}

/// The outcomes of the indices up to `last`, with the terms of their entries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    last: u64,
    outcomes: Vec<(u64, Outcome)>,
}

impl Record {
    /// Reads what [`Gathered`] stored under the key `last`.
    ///
    /// # Errors
    /// When the bytes are not that.
    pub fn decode(last: u64, bytes: Vec<u8>) -> Result<Self, StorageError> {
        let damaged = || StorageError::new(format!("the outcomes up to entry {last} are damaged"));
        let mut bytes = Bytes::from(bytes);
        let mut outcomes = Vec::new();
        // None is as wrong as more than there are indices.
        while outcomes.is_empty() || !bytes.is_empty() {
            outcomes.push(next_outcome(&mut bytes).ok_or_else(damaged)?);
        }
        let count = u64::try_from(outcomes.len()).unwrap_or(u64::MAX);
        if count > last {
            return Err(damaged());
        }
        Ok(Self { last, outcomes })
    }

    fn outcome(&self, index: u64) -> Option<(u64, Outcome)> {
        // Counted from the end, for that is what the key says.
        let back = usize::try_from(self.last.checked_sub(index)?).ok()?;
        let at = self.outcomes.len().checked_sub(back.checked_add(1)?)?;
        self.outcomes.get(at).cloned()
    }
}

fn next_outcome(bytes: &mut Bytes) -> Option<(u64, Outcome)> {
    let term = bytes.try_get_u64().ok()?;
    let kind = bytes.try_get_u8().ok()?;
    let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    if length > bytes.len() {
        return None;
    }
    let data = bytes.split_to(length);
    let sentence = |data: Bytes| String::from_utf8(data.into()).ok();
    let outcome = match kind {
        1 => Outcome::Ok(data),
        2 => Outcome::Rejected(sentence(data)?),
        3 => Outcome::NotFound(sentence(data)?),
        _ => return None,
    };
    Some((term, outcome))
}
