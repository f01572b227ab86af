//! Checks that need no search: each is necessary, none of them is enough. They look at all of a history,
//! and have an answer always.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::store::{number, shown};
use super::{Action, Answer, Operation, Outcome, by_key, zones};

/// Of each kind of fault so many are told.
const TOLD_MAX: usize = 5;

/// All of them, on operations that ask for linearizability. Nothing: none has found anything.
pub fn check(history: &[Operation]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, operations) in by_key(history) {
        let key = shown(key);
        let mut tell = |found: Vec<String>| {
            let sentences = found.into_iter().take(TOLD_MAX);
            wrong.extend(sentences.map(|sentence| format!("key {key}: {sentence}")));
        };
        tell(from_nowhere(&operations, &operations));
        tell(
            zones::contradiction(&operations).map_or_else(Vec::new, |found| {
                vec![format!("these cannot be reconciled:{}", listed(&found))]
            }),
        );
        tell(wrong_sums(&operations));
    }
    wrong.extend(indices_that_go_back(history).into_iter().take(TOLD_MAX));
    wrong
}

/// Reads that did not ask for linearizability: each key's history is that of `history`. A stale read
/// returns what somebody wrote, nothing that was overwritten for certain at the index that it names, and
/// at one index all say the same.
pub fn check_stale(history: &[Operation], stale: &[Operation]) -> Vec<String> {
    let mut wrong = Vec::new();
    let written = by_key(history);
    for (key, reads) in by_key(stale) {
        let key_shown = shown(key);
        let empty = Vec::new();
        let operations = written.get(key).unwrap_or(&empty);
        let mut found = from_nowhere(operations, &reads);
        found.extend(two_at_one_index(&reads));
        found.extend(stale_backwards(operations, &reads));
        let sentences = found.into_iter().take(TOLD_MAX);
        wrong.extend(sentences.map(|sentence| format!("key {key_shown}: {sentence}")));
    }
    wrong
}

fn listed(operations: &[&Operation]) -> String {
    let lines = operations
        .iter()
        .map(|operation| format!("\n  {operation}"));
    lines.collect()
}

/// Values that nobody can have written by the time they were read.
fn from_nowhere(operations: &[&Operation], reads: &[&Operation]) -> Vec<String> {
    let mut first: HashMap<&Bytes, u64> = HashMap::new();
    let mut increments = false;
    for operation in operations {
        if operation.outcome == Outcome::Refused {
            continue;
        }
        increments |= matches!(operation.action, Action::Increment(_));
        if let Some(value) = operation.action.sets() {
            let first = first.entry(value).or_insert(operation.invoked);
            *first = operation.invoked.min(*first);
        }
    }
    let read = reads.iter().filter_map(|operation| {
        let (Action::Get, Some(Answer::Value(value))) = (&operation.action, operation.answer())
        else {
            return None;
        };
        let written = first
            .get(value)
            .is_some_and(|at| operation.returned().is_some_and(|returned| *at <= returned));
        let sum = increments && number(value).is_some();
        (!written && !sum).then(|| format!("nobody had written what this read:\n  {operation}"))
    });
    read.collect()
}

/// Who may have set each value. Where numbers are added to, nobody knows.
fn writers<'a>(operations: &[&'a Operation]) -> HashMap<&'a Bytes, Vec<&'a Operation>> {
    let mut writers: HashMap<&Bytes, Vec<&Operation>> = HashMap::new();
    for operation in operations {
        if matches!(operation.action, Action::Increment(_)) {
            return HashMap::new();
        }
        if let Some(value) = operation.action.sets()
            && operation.outcome != Outcome::Refused
            && !matches!(
                operation.answer(),
                Some(Answer::Rejected | Answer::NotFound)
            )
        {
            writers.entry(value).or_default().push(operation);
        }
    }
    writers
}

/// A key that is only added to, and never downwards, has at every read at least the sum of what was
/// acknowledged before, and at most that of what was called before its end; and no two additions end at
/// the same sum.
fn wrong_sums(operations: &[&Operation]) -> Vec<String> {
    let mut additions: Vec<(&Operation, i128)> = Vec::new();
    let mut reads = Vec::new();
    for operation in operations {
        match operation.action {
            Action::Increment(by) if by > 0 => additions.push((operation, by.into())),
            Action::Get => reads.push(operation),
            Action::Exists => {}
            _ => return Vec::new(),
        }
    }
    additions.retain(|(operation, _)| operation.outcome != Outcome::Refused);
    let mut found = Vec::new();
    let mut sums: BTreeMap<i128, &Operation> = BTreeMap::new();
    for (operation, _) in &additions {
        if let Some(Answer::Value(sum)) = operation.answer()
            && let Some(sum) = number(sum)
            && let Some(other) = sums.insert(sum.into(), operation)
        {
            found.push(format!("two have the same sum:\n  {other}\n  {operation}"));
        }
    }
    let mut by_call: Vec<(u64, i128)> = Vec::new();
    let mut by_answer: Vec<(u64, i128)> = Vec::new();
    for (operation, by) in &additions {
        by_call.push((operation.invoked, *by));
        if let Some(returned) = operation.returned() {
            by_answer.push((returned, *by));
        }
    }
    let (by_call, by_answer) = (running_sums(by_call), running_sums(by_answer));
    for read in reads {
        let sum = match read.answer() {
            Some(Answer::Value(value)) => number(value).map(i128::from),
            Some(Answer::NotFound) => Some(0),
            _ => continue,
        };
        let returned = read.returned().unwrap_or_default();
        let least = sum_where(&by_answer, |at| at < read.invoked);
        let most = sum_where(&by_call, |at| at <= returned);
        if sum.is_none_or(|sum| sum < least || sum > most) {
            found.push(format!(
                "{least} was acknowledged before this read, and {most} was asked for by its end:\n  {read}"
            ));
        }
    }
    found
}

fn running_sums(mut steps: Vec<(u64, i128)>) -> Vec<(u64, i128)> {
    steps.sort_unstable();
    let mut sum = 0;
    for (_, step) in &mut steps {
        sum += *step;
        *step = sum;
    }
    steps
}

fn sum_where(sums: &[(u64, i128)], holds: impl Fn(u64) -> bool) -> i128 {
    let count = sums.partition_point(|(at, _)| holds(*at));
    count.checked_sub(1).map_or(0, |last| sums[last].1)
}

/// A linearizable read sees an index no lower than that of anything that was answered before it was
/// called, on whichever key and at whichever node.
fn indices_that_go_back(history: &[Operation]) -> Vec<String> {
    let mut answered: Vec<(u64, &Operation)> = history
        .iter()
        .filter_map(|one| Some((one.index()?, one)))
        .collect();
    answered.sort_by_key(|(_, one)| one.returned());
    let mut highest: Vec<(u64, &Operation)> = Vec::with_capacity(answered.len());
    for (index, operation) in &answered {
        let last = highest.last().copied().unwrap_or((0, operation));
        let higher = if *index > last.0 {
            (*index, *operation)
        } else {
            last
        };
        highest.push(higher);
    }
    let mut found = Vec::new();
    for (index, read) in answered.iter().filter(|(_, one)| one.action.reads()) {
        let before = answered.partition_point(|(_, one)| one.precedes(read));
        if let Some((higher, earlier)) = before.checked_sub(1).map(|last| highest[last])
            && higher > *index
        {
            found.push(format!(
                "the second saw an older state than the first had seen:\n  {earlier}\n  {read}"
            ));
        }
    }
    found
}

fn two_at_one_index(reads: &[&Operation]) -> Vec<String> {
    let mut at: BTreeMap<u64, &Operation> = BTreeMap::new();
    let mut found = Vec::new();
    for read in reads {
        if let (Action::Get, Some(index)) = (&read.action, read.index()) {
            let first = at.entry(index).or_insert(read);
            if first.answer() != read.answer() {
                found.push(format!("at one index there are two:\n  {first}\n  {read}"));
            }
        }
    }
    found
}

/// Stale reads in the order of their indices: the values, where each is written once, come in the order
/// in which they were written, as far as that is certain.
fn stale_backwards(operations: &[&Operation], reads: &[&Operation]) -> Vec<String> {
    let writers = writers(operations);
    // What is certainly executed by some index: an acknowledged write, or what a read has seen.
    let mut seen: Vec<(u64, &Operation, &Operation)> = Vec::new();
    let mut returned: Vec<(u64, &Operation, &Operation)> = Vec::new();
    for operation in operations {
        if let (Some(_), Some(index)) = (operation.action.sets(), operation.index())
            && operation.answer() == Some(&Answer::Done)
        {
            seen.push((index, operation, operation));
        }
    }
    for read in reads {
        if let (Action::Get, Some(Answer::Value(value)), Some(index)) =
            (&read.action, read.answer(), read.index())
            && let Some([writer]) = writers.get(value).map(Vec::as_slice)
        {
            seen.push((index, writer, read));
            returned.push((index, writer, read));
        }
    }
    seen.sort_by_key(|(index, ..)| *index);
    let mut latest: Vec<(&Operation, &Operation)> = Vec::with_capacity(seen.len());
    for (_, writer, by) in &seen {
        let last = latest.last().copied().unwrap_or((writer, by));
        let later = if writer.invoked > last.0.invoked {
            (*writer, *by)
        } else {
            last
        };
        latest.push(later);
    }
    let mut found = Vec::new();
    for (index, writer, read) in returned {
        let upto = seen.partition_point(|(other, ..)| *other <= index);
        if let Some((later, by)) = upto.checked_sub(1).map(|last| latest[last])
            && writer.precedes(later)
        {
            let mut all = vec![writer, later, by, read];
            all.dedup();
            found.push(format!(
                "a stale read returned what was overwritten at its index:{}",
                listed(&all)
            ));
        }
    }
    found
}
