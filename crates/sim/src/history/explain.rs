//! From a key that no correct store explains, the part that a person can read.

use bytes::Bytes;

use super::search::{Found, search};
use super::store::{State, number};
use super::{Answer, Operation, Outcome, Time, Violation};

/// Single operations are left out one by one only from a window no larger than this.
const THINNED_MAX: usize = 200;

/// The smallest window that was found of operations which cannot be reconciled. All of what is left out
/// only makes it easier for a store, so the window alone is proof.
pub(super) fn explain(key: &Bytes, operations: &[&Operation], limit: usize) -> Violation {
    let refused = |window: &[Operation], starts: &[State]| {
        let window: Vec<&Operation> = window.iter().collect();
        search(&window, starts, limit) == Found::Nothing
    };
    let absent = [None];
    let mut window = shortest(operations, |window| refused(window, &absent));
    let starts = any_start(&window);
    let mut any = false;
    if let Some(later) = latest_start(&window, |window| refused(window, &starts)) {
        window = later;
        any = true;
    }
    let starts: &[State] = if any { &starts } else { &absent };
    window.sort_by_key(|operation| operation.invoked);
    let mut needed = window.clone();
    if window.len() <= THINNED_MAX {
        thin_out(&mut needed, |window| refused(window, starts));
    }
    needed.retain(|operation| operation.returned().is_some());
    window.retain(|operation| {
        let writes = operation.outcome != Outcome::Refused && !operation.action.reads();
        writes && !needed.contains(operation)
    });
    Violation {
        key: key.clone(),
        contradiction: needed,
        others: window,
        of: operations.len(),
        any_start: any,
    }
}

/// What had happened by the earliest moment at which it was too late.
fn shortest(operations: &[&Operation], refused: impl Fn(&[Operation]) -> bool) -> Vec<Operation> {
    let mut moments: Vec<Time> = operations.iter().filter_map(|one| one.returned()).collect();
    moments.sort_unstable();
    let at = |moment: Time| until(operations, moment);
    let (mut low, mut high) = (0, moments.len() - 1);
    while low < high {
        let middle = (low + high) / 2;
        if refused(&at(moments[middle])) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    at(moments[high])
}

/// A history as it stood at a moment: who had no answer yet does not know.
fn until(operations: &[&Operation], moment: Time) -> Vec<Operation> {
    let begun = operations.iter().filter(|one| one.invoked <= moment);
    let answers = |one: &Operation| one.returned().is_some_and(|at| at <= moment);
    begun.map(|one| with_answer_if(one, answers)).collect()
}

/// It does not know, where it has an answer and it is not so.
fn with_answer_if(operation: &Operation, so: impl Fn(&Operation) -> bool) -> Operation {
    let mut operation = operation.clone();
    if operation.returned().is_some() && !so(&operation) {
        operation.outcome = Outcome::Unknown;
    }
    operation
}

/// The window without the answers that had come by the latest moment after which it is still refused, and
/// without what was over before all of the rest began, whatever the key held then. None: its beginning is
/// needed.
fn latest_start(
    window: &[Operation],
    refused: impl Fn(&[Operation]) -> bool,
) -> Option<Vec<Operation>> {
    let mut moments: Vec<Time> = window.iter().filter_map(Operation::returned).collect();
    moments.sort_unstable();
    let after = |moment: Time| -> Vec<Operation> {
        let answers = |one: &Operation| one.returned().is_some_and(|at| at > moment);
        let left = window.iter().filter(|one| answers(one));
        let begins = left.map(|one| one.invoked).min();
        // What is over, but not before all of the rest began, may have happened in between: that it was
        // answered is all that is forgotten of it.
        let later = window.iter();
        let later = later.filter(|one| one.returned().is_none() || one.returned() >= begins);
        later.map(|one| with_answer_if(one, answers)).collect()
    };
    let mut found = None;
    let (mut low, mut high) = (0, moments.len());
    while low < high {
        let middle = (low + high) / 2;
        let later = after(moments[middle]);
        if refused(&later) {
            found = Some(later);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    found
}

/// All that the key could hold, as far as the window can tell the difference.
fn any_start(window: &[Operation]) -> Vec<State> {
    let mut values: Vec<Bytes> = vec![
        Bytes::from_static(b"anything else"),
        Bytes::from_static(b"0"),
    ];
    for operation in window {
        values.extend(operation.action.sets().cloned());
        if let super::Action::CompareAndSwap { old, .. } = &operation.action {
            values.push(old.clone());
        }
        if let Some(Answer::Value(value)) = operation.answer() {
            values.push(value.clone());
            if let super::Action::Increment(by) = operation.action
                && let Some(before) = number(value).and_then(|sum| sum.checked_sub(by))
            {
                values.push(Bytes::from(before.to_string()));
            }
        }
    }
    values.sort();
    values.dedup();
    std::iter::once(None)
        .chain(values.into_iter().map(Some))
        .collect()
}

/// Leaves out what is not needed for the contradiction. What only observed may be left out, and so may
/// an operation that never happened; of any other it may be forgotten that it was answered.
fn thin_out(window: &mut Vec<Operation>, refused: impl Fn(&[Operation]) -> bool) {
    window.retain(|operation| operation.outcome != Outcome::Refused);
    let mut number = window.len();
    while number > 0 {
        number -= 1;
        let operation = window[number].clone();
        let Some(answer) = operation.answer() else {
            continue;
        };
        if operation.action.observes(answer) {
            window.remove(number);
            if !refused(window) {
                window.insert(number, operation);
            }
        } else {
            window[number].outcome = Outcome::Unknown;
            if !refused(window) {
                window[number] = operation;
            }
        }
    }
}
