//! What the disks of stopped nodes say: the log, and which of its entries the state machine executed.
//!
//! Both are read from copies, since opening a log or a store repairs its end. The key-value store
//! keeps the outcome of every index that it was handed. A command's outcome is never empty, and that
//! of everything else (a no-op, a session, a retry that was recognised) always is: so the store
//! itself tells at which indices something was executed, whatever the daemon believes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use raft_core::sessions::{Admission, Outcome, OutcomeKind};
use raft_core::{Entry, Index, Payload, SessionTable};
use raft_disk::{LogStore, Options, RealDisk};
use state_machine::storage::KeyValueStore;
use state_machine_sdk::DurableStateMachine;

use super::writers::Acknowledged;

/// In a record of the store, before the bytes of each outcome: the term, a byte for the kind, and how
/// many bytes there are, in four. A record has the outcomes of consecutive indices up to its key.
const OUTCOME_PREFIX_BYTES: usize = 8 + 1 + 4;

/// One node's disk.
pub struct Evidence {
    /// The node's name.
    pub name: String,
    /// Its log, from index 1.
    pub log: Vec<Entry>,
    /// The indices at which its state machine executed a command.
    pub executed: BTreeSet<Index>,
}

/// A session and a sequence in it: what may be executed once.
pub type Request = (Index, u64);

/// Reads the durable log of a node that is stopped; `data` is its data directory.
pub fn log_of(data: &Path) -> Vec<Entry> {
    let copy = copy_of(&data.join("raft"));
    let options = Options {
        lay_out_ahead: false,
        ..Options::default()
    };
    let disk = RealDisk::open(copy.path()).unwrap();
    let (store, _) = LogStore::open(Arc::new(disk), options).unwrap();
    let log = store
        .reader()
        .read(1, store.last().index, usize::MAX)
        .unwrap();
    assert_eq!(
        log.last().map_or(0, |entry| entry.index),
        store.last().index,
        "all of it was read"
    );
    log
}

/// Opens the key-value store of a node that is stopped, as of its last synced commit, and shows it.
pub fn with_store_of<T>(data: &Path, look: impl FnOnce(&KeyValueStore) -> T) -> T {
    let copy = copy_of(&data.join("state-machine"));
    look(&KeyValueStore::open(&copy.path().join("state.redb")).unwrap())
}

/// All of a stopped node's evidence. The state machine must have been ended in order (SIGTERM), or
/// the store shows less than it executed.
pub fn evidence_of(name: &str, data: &Path) -> Evidence {
    let log = log_of(data);
    let mut executed = BTreeSet::new();
    with_store_of(data, |store| {
        store
            .read(&mut |snapshot| {
                let mut from = 1;
                while let Some((last, record)) = snapshot.record_from(from)? {
                    let lengths = lengths(&record);
                    for (back, length) in (0..).zip(lengths.iter().rev()) {
                        if *length > 0 {
                            executed.insert(last - back);
                        }
                    }
                    from = last + 1;
                }
                Ok(())
            })
            .unwrap();
    });
    Evidence {
        name: name.to_owned(),
        log,
        executed,
    }
}

/// How many bytes each outcome of a record has.
fn lengths(mut record: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while !record.is_empty() {
        let length = record[9..OUTCOME_PREFIX_BYTES].try_into().unwrap();
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap();
        lengths.push(length);
        record = &record[OUTCOME_PREFIX_BYTES + length..];
    }
    lengths
}

fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::Builder::new()
        .prefix("leeky-evidence-")
        .tempdir()
        .unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    copy
}

fn request_of(entry: &Entry) -> Option<Request> {
    match &entry.payload {
        Payload::Command(command) if command.session != 0 => {
            Some((command.session, command.sequence))
        }
        _ => None,
    }
}

/// How many entries of the log are retries of an earlier one: without any, nothing was tested.
pub fn retries(log: &[Entry]) -> usize {
    let mut seen = BTreeSet::new();
    log.iter()
        .filter_map(request_of)
        .filter(|request| !seen.insert(*request))
        .count()
}

/// The indices that the session table executes, and no others (S2).
pub fn executed_by_rule(log: &[Entry]) -> BTreeSet<Index> {
    let mut table = SessionTable::default();
    let mut executed = BTreeSet::new();
    for entry in log {
        if let Admission::Execute(_) = table.admit(entry) {
            executed.insert(entry.index);
            if let Some((session, sequence)) = request_of(entry) {
                let outcome = Outcome {
                    kind: OutcomeKind::Ok,
                    data: Default::default(),
                };
                table.record(entry.index, session, sequence, outcome);
            }
        }
    }
    executed
}

/// Where logs differ at or below `committed`. Nothing: they agree.
pub fn differences(nodes: &[Evidence], committed: Index) -> Vec<String> {
    let mut found = Vec::new();
    let upto = usize::try_from(committed).unwrap();
    for node in nodes {
        if node.log.len() < upto {
            found.push(format!(
                "{}'s log ends at {}, below {committed}",
                node.name,
                node.log.len()
            ));
            continue;
        }
        let pairs = node.log.iter().zip(&nodes[0].log).take(upto);
        if let Some((here, there)) = pairs.into_iter().find(|(here, there)| here != there) {
            found.push(format!(
                "{} has {here:?}, {} has {there:?}",
                node.name, nodes[0].name
            ));
        }
    }
    found
}

/// What speaks against "once": a request that was executed at two indices, or an index that was
/// executed against the session table's word.
pub fn executed_wrongly(node: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut first: BTreeMap<Request, Index> = BTreeMap::new();
    for entry in node
        .log
        .iter()
        .filter(|entry| node.executed.contains(&entry.index))
    {
        let Some(request) = request_of(entry) else {
            continue;
        };
        if let Some(before) = first.insert(request, entry.index) {
            found.push(format!(
                "{} executed {request:?} at {before} and again at {}",
                node.name, entry.index
            ));
        }
    }
    let rule = executed_by_rule(&node.log);
    let last = node.executed.last().copied().unwrap_or_default();
    for index in rule
        .symmetric_difference(&node.executed)
        .filter(|index| **index <= last)
    {
        let entry = &node.log[usize::try_from(*index - 1).unwrap()];
        let did = if rule.contains(index) {
            "skipped"
        } else {
            "executed"
        };
        found.push(format!("{} {did} {entry:?} against the rule", node.name));
    }
    found
}

/// What speaks against "every acknowledged write is there": one that is not in this log where the
/// reply said, or that was not executed at or before that index.
pub fn lost(node: &Evidence, acknowledged: &[Acknowledged]) -> Vec<String> {
    let executed: BTreeMap<Request, Index> = node
        .log
        .iter()
        .filter(|entry| node.executed.contains(&entry.index))
        .filter_map(|entry| Some((request_of(entry)?, entry.index)))
        .collect();
    let mut found = Vec::new();
    for write in acknowledged {
        if !holds(&node.log, write) {
            found.push(format!("{} has {write:?} not in its log", node.name));
        }
        let at = executed.get(&(write.session, write.sequence));
        if at.is_none_or(|index| *index > write.index) {
            found.push(format!("{} executed {write:?} at {at:?}", node.name));
        }
    }
    found
}

/// Whether the log has that write where its acknowledgement said.
pub fn holds(log: &[Entry], write: &Acknowledged) -> bool {
    let place = usize::try_from(write.index).unwrap() - 1;
    log.get(place).is_some_and(|entry| {
        entry.term == write.term
            && matches!(&entry.payload, Payload::Command(command)
                if (command.session, command.sequence) == (write.session, write.sequence)
                    && command.bytes == write.entry())
    })
}
