//! The key-value store on disk: one `redb` file, and one transaction for everything.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Bound;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};
use state_machine_sdk::{
    Durability, DurableStateMachine, Entry, Event, Filter, Finish, Outcome, Snapshot, SnapshotWork,
    StorageError, Transaction, TransactionWork, TransferError,
};
use tracing::debug;

use crate::key_value::{self, Store, shown};
use crate::snapshot;

const VALUES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("values");
const RECORDS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("records");

/// Bytes of memory for pages of the file. The system's own cache holds the rest.
const CACHE_BYTES: usize = 128 << 20;

/// Room on the file system, in bytes, that is never counted on: the file also grows by what is
/// rewritten. A smaller file system keeps a 64th of itself. It is less than what `raft` leaves free
/// when it stops to take entries, so that what it has taken can still be applied.
const RESERVE_BYTES: u64 = 16 << 20;

/// Room that a byte of a command is reckoned to take: it stands in the value and in the outcome, and
/// each is rounded up to pages.
const ROOM_PER_BYTE: u64 = 4;

/// Room that an entry is reckoned to take beside its bytes: pages of the trees, written anew.
const ROOM_PER_ENTRY: u64 = 4096;

/// The key-value store, in its file.
pub struct KeyValueStore {
    database: Database,
    folder: PathBuf,
}

/// Whether the file system of `folder` has `bytes` beside the reserve.
///
/// # Errors
/// A sentence that names the folder.
pub fn check_room(folder: &Path, bytes: u64) -> Result<(), String> {
    // Who cannot be asked does not refuse: the disk itself still can.
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        return Ok(());
    };
    let block = stat.f_frsize.max(1);
    let total = stat.f_blocks.saturating_mul(block);
    let free = stat.f_bavail.saturating_mul(block);
    let wanted = RESERVE_BYTES.min(total / 64).saturating_add(bytes);
    if free >= wanted {
        return Ok(());
    }
    let folder = folder.display();
    Err(format!(
        "the disk of {folder} is full: {free} bytes are free, and {wanted} are wanted"
    ))
}

impl KeyValueStore {
    /// Opens the file, or makes an empty one. After a crash the store is as of its last synced
    /// commit.
    ///
    /// # Errors
    /// When the file cannot be made, written, or understood.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        // The storage takes some kinds of damage for a mistake of its own, and panics.
        catch_unwind(|| Self::open_undamaged(path)).unwrap_or_else(|_| {
            Err(StorageError::new(
                "the file is damaged: move the folder it is in aside, and the state is built anew \
                 from the log",
            ))
        })
    }

    fn open_undamaged(path: &Path) -> Result<Self, StorageError> {
        let mut builder = Database::builder();
        let database = builder
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(StorageError::new)?;
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let store = Self { database, folder };
        // The tables are made now, so that no reader ever finds them missing, and a disk that
        // cannot be written is found out at the start.
        store.transact(Durability::Synced, &mut |_| Ok(Finish::Commit))?;
        Ok(store)
    }
}

struct Tables<'t> {
    values: Table<'t, &'static [u8], &'static [u8]>,
    records: Table<'t, u64, &'static [u8]>,
    /// What was changed since it was last asked.
    events: Vec<Event>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, StorageError> {
        Ok(Self {
            values: transaction.open_table(VALUES).map_err(StorageError::new)?,
            records: transaction.open_table(RECORDS).map_err(StorageError::new)?,
            events: Vec::new(),
        })
    }
}

fn end(transaction: WriteTransaction, finish: Finish) -> Result<(), StorageError> {
    match finish {
        Finish::Commit => transaction.commit().map_err(StorageError::new),
        Finish::RollBack => transaction.abort().map_err(StorageError::new),
    }
}

impl Store for Tables<'_> {
    type Error = StorageError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let value = self.values.get(key).map_err(StorageError::new)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        debug!(
            "[STATEMACHINE] [PUT] {} ({} bytes)",
            shown(key),
            value.len()
        );
        self.values.insert(key, value).map_err(StorageError::new)?;
        self.events.push(key_value::put_event(key, value));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, StorageError> {
        let found = self
            .values
            .remove(key)
            .map_err(StorageError::new)?
            .is_some();
        let event = if found { "DELETE" } else { "DELETE-X" };
        debug!("[STATEMACHINE] [{event}] {}", shown(key));
        if found {
            self.events.push(key_value::delete_event(key));
        }
        Ok(found)
    }
}

impl Transaction for Tables<'_> {
    fn execute(&mut self, _entry: &Entry, command: &[u8]) -> Result<Outcome, StorageError> {
        key_value::execute(self, command)
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn put_record(&mut self, key: u64, value: &[u8]) -> Result<(), StorageError> {
        self.records.insert(key, value).map_err(StorageError::new)?;
        Ok(())
    }

    fn remove_records(&mut self, first: u64, last: u64) -> Result<(), StorageError> {
        // A range that ends before it begins is no range, and would panic in there.
        if first <= last {
            self.records
                .retain_in(first..=last, |_, _| false)
                .map_err(StorageError::new)?;
        }
        Ok(())
    }
}

/// One read transaction: the state as of one commit.
struct View(ReadTransaction);

impl key_value::View for View {
    type Error = StorageError;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let values = self.0.open_table(VALUES).map_err(StorageError::new)?;
        let value = values.get(key).map_err(StorageError::new)?;
        let event = if value.is_some() { "GET" } else { "GET-X" };
        debug!("[STATEMACHINE] [{event}] {}", shown(key));
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn keys(
        &self,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), StorageError> {
        let values = self.0.open_table(VALUES).map_err(StorageError::new)?;
        let pairs = values
            .range::<&[u8]>((from, Bound::Unbounded))
            .map_err(StorageError::new)?;
        for pair in pairs {
            let (key, _) = pair.map_err(StorageError::new)?;
            if !visit(key.value()) {
                break;
            }
        }
        Ok(())
    }
}

impl Snapshot for View {
    fn query(&self, query: &[u8]) -> Result<Outcome, StorageError> {
        key_value::query(self, query)
    }

    fn record_from(&self, key: u64) -> Result<Option<(u64, Vec<u8>)>, StorageError> {
        let records = self.0.open_table(RECORDS).map_err(StorageError::new)?;
        let first = records.range(key..).map_err(StorageError::new)?.next();
        let first = first.transpose().map_err(StorageError::new)?;
        Ok(first.map(|(key, record)| (key.value(), record.value().to_vec())))
    }
}

impl DurableStateMachine for KeyValueStore {
    fn name(&self) -> &str {
        "key-value"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn room_for(&self, entries: u64, bytes: u64) -> Result<(), String> {
        let entries = entries.saturating_mul(ROOM_PER_ENTRY);
        let bytes = bytes.saturating_mul(ROOM_PER_BYTE);
        check_room(&self.folder, entries.saturating_add(bytes))
    }

    fn transact(
        &self,
        durability: Durability,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), StorageError> {
        let mut transaction = self.database.begin_write().map_err(StorageError::new)?;
        match durability {
            Durability::Lazy => {
                transaction
                    .set_durability(redb::Durability::None)
                    .map_err(StorageError::new)?;
            }
            // With the allocator's state in the file, opening it after a crash takes no scan of
            // the whole of it.
            Durability::Synced => transaction.set_quick_repair(true),
        }
        let finish = work(&mut Tables::open(&transaction)?)?;
        end(transaction, finish)
    }

    fn read(&self, work: &mut SnapshotWork<'_>) -> Result<(), StorageError> {
        let transaction = self.database.begin_read().map_err(StorageError::new)?;
        work(&View(transaction))
    }

    fn watch(&self, query: &[u8]) -> Option<Result<Filter, String>> {
        Some(key_value::watch(query))
    }

    fn snapshot_formats(&self) -> &'static [&'static str] {
        &[snapshot::FORMAT]
    }

    fn export(
        &self,
        work: &mut SnapshotWork<'_>,
        out: &mut dyn Write,
    ) -> Result<(), TransferError> {
        let view = View(self.database.begin_read().map_err(StorageError::new)?);
        work(&view)?;
        let values = view.0.open_table(VALUES).map_err(StorageError::new)?;
        let mut encoder = snapshot::Encoder::begin(out)?;
        for pair in values.iter().map_err(StorageError::new)? {
            let (key, value) = pair.map_err(StorageError::new)?;
            encoder.pair(key.value(), value.value())?;
        }
        Ok(encoder.end()?)
    }

    fn import(
        &self,
        _format: &str,
        source: &mut dyn Read,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), TransferError> {
        let mut transaction = self.database.begin_write().map_err(StorageError::new)?;
        transaction.set_quick_repair(true);
        let imported = replace(&transaction, source, work);
        let finish = *imported.as_ref().unwrap_or(&Finish::RollBack);
        // Of two errors the one of the storage counts: it ends the process.
        end(transaction, finish)?;
        imported.map(|_| ())
    }
}

/// Puts the state that `source` has in the place of the one there is. Pages that do not fit into
/// the cache go to the file at once, where nothing points to them before the commit.
fn replace(
    transaction: &WriteTransaction,
    source: &mut dyn Read,
    work: &mut TransactionWork<'_>,
) -> Result<Finish, TransferError> {
    transaction
        .delete_table(VALUES)
        .map_err(StorageError::new)?;
    let mut tables = Tables::open(transaction)?;
    let mut source = BufReader::new(source);
    snapshot::decode(&mut source, &mut |key, value| {
        let inserted = tables.values.insert(key, value);
        inserted.map_err(StorageError::new)?;
        Ok(())
    })?;
    if source.fill_buf()?.is_empty() {
        return Ok(work(&mut tables)?);
    }
    Err(TransferError::Content(
        "there are bytes after the end of the snapshot".to_owned(),
    ))
}
