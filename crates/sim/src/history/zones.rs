//! A contradiction between two values, found without a search.
//!
//! What one operation only can have set is held for one stretch of time: once it is gone it does not come
//! back. (A delete, and an answer that there is no such key, are such a stretch each, of a moment.) Of all
//! that set or saw the value, one was over first, at `f`, and one was called last, at `s`: the stretch
//! begins no later than `f` and ends no earlier than `s`. So if `f < s` the key holds it from `f` to `s`
//! (Gibbons and Korach call that a zone), and nothing else may be seen or set for certain meanwhile: no
//! other value may have `s' > f` and `f' < s`.
//!
//! For keys that are only put and read, each value once, this is all there is to linearizability.

use std::collections::HashMap;

use super::store::{State, number};
use super::{Action, Answer, Operation, Outcome, Time};

/// What set and saw one value.
struct Zone<'a> {
    /// What can have set it, if that is known.
    setter: Option<&'a Operation>,
    /// Who was over first, and when.
    first: (&'a Operation, Time),
    /// Who was called last, and when.
    last: (&'a Operation, Time),
}

/// Operations on one key that cannot be reconciled, in the order of their calls: three to five of them.
/// None: this finds nothing.
pub(super) fn contradiction<'a>(operations: &[&'a Operation]) -> Option<Vec<&'a Operation>> {
    let zones = zones(operations);
    let early = zones.iter().find_map(|zone| {
        let setter = zone.setter?;
        (zone.first.1 < setter.invoked).then(|| vec![setter, zone.first.0])
    });
    let (mut held, moments): (Vec<Zone<'_>>, Vec<Zone<'_>>) = zones
        .into_iter()
        .partition(|zone| zone.first.1 < zone.last.1);
    held.sort_by_key(|zone| zone.first.1);
    let overlap = held
        .windows(2)
        .find(|pair| pair[1].first.1 < pair[0].last.1)
        .map(|pair| pair[0].members().chain(pair[1].members()).collect());
    let within = moments.iter().find_map(|moment| {
        let before = held.partition_point(|zone| zone.first.1 < moment.last.1);
        let zone = &held[before.checked_sub(1)?];
        (moment.first.1 < zone.last.1).then(|| zone.members().chain(moment.members()).collect())
    });
    let mut found: Vec<&Operation> = early.or(overlap).or(within)?;
    found.sort_by_key(|operation| operation.invoked);
    found.dedup_by(|one, other| std::ptr::eq(*one, *other));
    Some(found)
}

impl<'a> Zone<'a> {
    fn at(operation: &'a Operation, returned: Time) -> Zone<'a> {
        Zone {
            setter: None,
            first: (operation, returned),
            last: (operation, operation.invoked),
        }
    }

    fn members(&self) -> impl Iterator<Item = &'a Operation> {
        let all = [self.setter, Some(self.first.0), Some(self.last.0)];
        all.into_iter().flatten()
    }
}

fn zones<'a>(operations: &[&'a Operation]) -> Vec<Zone<'a>> {
    let mut setters: HashMap<State, Vec<&Operation>> = HashMap::new();
    let mut numbers_are_unsure = false;
    for operation in operations {
        let left = match &operation.outcome {
            Outcome::Refused => None,
            Outcome::Unknown => operation.action.leaves(&Answer::Done),
            Outcome::Done { answer, .. } => operation.action.leaves(answer),
        };
        if let Some(left) = left {
            setters.entry(left).or_default().push(operation);
        }
        let increment = matches!(operation.action, Action::Increment(_));
        numbers_are_unsure |= increment && operation.outcome == Outcome::Unknown;
    }
    let mut zones: HashMap<State, Zone<'_>> = HashMap::new();
    let mut moments = Vec::new();
    for operation in operations {
        let Outcome::Done {
            returned, answer, ..
        } = &operation.outcome
        else {
            continue;
        };
        let (needed, left) = (
            operation.action.needs(answer),
            operation.action.leaves(answer),
        );
        for state in [&needed, &left].into_iter().flatten() {
            let Some(value) = state else {
                moments.push(Zone::at(operation, *returned));
                continue;
            };
            let Some([setter]) = setters.get(state).map(Vec::as_slice) else {
                continue;
            };
            if numbers_are_unsure && number(value).is_some() {
                continue;
            }
            let zone = zones.entry(state.clone()).or_insert_with(|| Zone {
                setter: Some(setter),
                first: (operation, *returned),
                last: (setter, setter.invoked),
            });
            if *returned < zone.first.1 {
                zone.first = (operation, *returned);
            }
            if operation.invoked > zone.last.1 {
                zone.last = (operation, operation.invoked);
            }
        }
    }
    moments.extend(zones.into_values());
    // In an order that does not depend on the table's.
    moments.sort_by_key(|zone| (zone.first.1, zone.last.1));
    moments
}
