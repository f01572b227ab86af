//! The checks that look at a whole run.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft_core::{Index, Payload};

use super::model::Model;
use super::{Checker, Wrong, sessions, wrong};
use crate::client::{Client, StaleRead};
use crate::history::{self, Action, Answer, Operation, Outcome, Verdict};
use crate::node::Server;

/// Situations that the search for an order may look at, for each key.
const CONFIGURATIONS: usize = 200_000;

/// Looks at everything once more.
///
/// # Errors
/// Something is wrong.
pub fn at_end(checker: &Checker, servers: &[&Server], clients: &[&Client]) -> Result<(), Wrong> {
    once(checker)?;
    sessions::run_what_is_new(checker)?;
    let reads: Vec<&[StaleRead]> = clients.iter().map(|client| &client.stale[..]).collect();
    states(checker, servers, &reads)?;
    for client in clients {
        if let Some(sentence) = &client.wrong {
            return wrong("exactly-once", sentence.clone());
        }
    }
    let histories = clients.iter().flat_map(|client| &client.history);
    let mut operations: Vec<Operation> = histories.cloned().collect();
    operations.sort_by_key(|operation| operation.invoked);
    acknowledged(checker, &operations)?;
    linearizable(&operations)
}

/// A request of a session runs once.
pub(super) fn once(checker: &Checker) -> Result<(), Wrong> {
    let mut ran = BTreeMap::new();
    for (index, applied) in &checker.ledger.applied {
        let entry = checker.ledger.entry(*index).map(|entry| &entry.payload);
        if let (Some(_), Some(Payload::Command(command))) = (&applied.command, entry)
            && command.session != 0
            && let Some(before) = ran.insert((command.session, command.sequence), *index)
        {
            let what = format!(
                "sequence {} of session {} ran at {before} and at {index}",
                command.sequence, command.session
            );
            return wrong("exactly-once", what);
        }
    }
    Ok(())
}

/// What the committed entries make of an empty store is what stale reads saw, and what is there at the end.
pub(super) fn states(
    checker: &Checker,
    servers: &[&Server],
    clients: &[&[StaleRead]],
) -> Result<(), Wrong> {
    let mut reads: BTreeMap<Index, Vec<&StaleRead>> = BTreeMap::new();
    for of_one in clients {
        let mut seen: BTreeMap<u64, Index> = BTreeMap::new();
        for read in *of_one {
            let last = seen.entry(read.nonce).or_default();
            if read.index < *last {
                let what = format!("stale reads as of {last}, and then as of {}", read.index);
                return wrong("monotone", what);
            }
            *last = read.index;
            reads.entry(read.index).or_default().push(read);
        }
    }
    let mut state = Model::default();
    for index in 0..=checker.ledger.len() {
        let applied = checker.ledger.applied.get(&index);
        if let Some(command) = applied.and_then(|applied| applied.command.as_ref()) {
            state.execute(command);
        }
        for read in reads.remove(&index).unwrap_or_default() {
            let expected = match state.pairs.get(&read.key) {
                Some(value) => Answer::Value(value.clone()),
                None => Answer::NotFound,
            };
            if read.answer != expected {
                let what = format!("{read:?}, where the log makes {expected:?}");
                return wrong("state", what);
            }
        }
    }
    if let Some((index, _)) = reads.first_key_value() {
        let what = format!("a stale read as of {index}, which is not committed");
        return wrong("state", what);
    }
    for server in servers {
        let pairs = server.parts.machine.pairs();
        if server.recorded() == Some(checker.ledger.len()) && pairs != state.pairs {
            let (id, expected) = (server.parts.id, &state.pairs);
            let what = format!("{id} holds {pairs:?}, and the log makes {expected:?} of it");
            return wrong("state", what);
        }
    }
    Ok(())
}

/// What a client was told to have happened is in the log, for good.
pub(super) fn acknowledged(checker: &Checker, operations: &[Operation]) -> Result<(), Wrong> {
    let applied = checker.ledger.applied.values();
    let commands: BTreeSet<&Bytes> = applied
        .filter_map(|applied| applied.command.as_ref())
        .collect();
    for operation in operations {
        if let Outcome::Done {
            answer: Answer::Done,
            ..
        } = &operation.outcome
            && let Action::Put(value) = &operation.action
        {
            let command = Bytes::from([b"PUT ", &operation.key[..], b" ", &value[..]].concat());
            if !commands.contains(&command) {
                let what = format!("acknowledged, and in no committed entry: {operation}");
                return wrong("committed-is-durable", what);
            }
        }
    }
    Ok(())
}

fn linearizable(operations: &[Operation]) -> Result<(), Wrong> {
    match history::check_within(operations, CONFIGURATIONS) {
        Verdict::Linearizable => Ok(()),
        Verdict::Violated(violation) => wrong("linearizability", violation.to_string()),
        // A limit that is reached is no success.
        Verdict::Undecided(keys) => wrong("linearizability", format!("undecided: {keys:?}")),
    }
}
