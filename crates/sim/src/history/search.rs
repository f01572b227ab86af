//! The search for an order in which one correct key could have given all the answers.
//!
//! A *configuration* is what was placed so far: a set of operations that were answered, a set of those
//! of unknown outcome, and what the key holds. From it, the next one to be placed may be any that was
//! called before the first answer of those that are not placed (Wing and Gong). A configuration that was
//! met before is not looked at again (Lowe).
//!
//! What keeps the search short, and why nothing is missed by it:
//!
//! - What only observes, given its answer, is placed as soon as it fits: placed later, in any order that
//!   there is, it can be moved to here.
//! - What is unknown is placed only when something that could be next does not fit. In any order that
//!   there is, one that stands before an answered operation which would have fitted without it can be
//!   moved behind that one, if that one only observes; otherwise it can be left out.
//! - Of several unknown ones that would do the same, the one that was called first is taken first.
//! - After an unknown one comes no other that overwrites it: the first could be left out.
//! - A value is not left behind while an answer waits that only that value explains, unless something is
//!   left that can set it again.
//! - Between two configurations with the same answered operations and the same value, the one that used
//!   up fewer of the unknown ones can do all that the other can.

use std::collections::HashMap;

use super::store::{State, execute, number};
use super::{Action, Answer, Operation, Time};

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is an order.
    Order,
    /// There is none.
    Nothing,
    /// The limit was reached before either was certain.
    Limit,
}

/// An operation with an answer.
struct Answered<'a> {
    invoked: Time,
    returned: Time,
    action: &'a Action,
    answer: &'a Answer,
}

/// An operation of which nobody knows.
struct Unknown<'a> {
    invoked: Time,
    action: &'a Action,
    /// The one that does the same and was called before it.
    same_before: Option<usize>,
}

#[derive(Clone)]
struct Configuration {
    placed: Placed,
    used: Used,
    state: State,
    /// The last one that was placed was unknown.
    after_unknown: bool,
}

/// Looks for an order of one key's operations, the key holding any of `starts` before. At most so many
/// configurations are looked at.
pub(super) fn search(operations: &[&Operation], starts: &[State], limit: usize) -> Found {
    let search = Search::new(operations);
    let mut seen = Seen::default();
    let mut open: Vec<Configuration> = starts
        .iter()
        .rev()
        .map(|state| Configuration {
            placed: Placed::default(),
            used: Used::new(search.unknown.len()),
            state: state.clone(),
            after_unknown: false,
        })
        .collect();
    while let Some(mut configuration) = open.pop() {
        search.place_observations(&mut configuration);
        if configuration.placed.first_missing == search.answered.len() {
            return Found::Order;
        }
        if !seen.is_new(&configuration) {
            continue;
        }
        if seen.count > limit {
            return Found::Limit;
        }
        let before = open.len();
        search.successors(&configuration, &mut open);
        // The most promising was found first, and is looked at first.
        open[before..].reverse();
        if open.len() > limit {
            return Found::Limit;
        }
    }
    Found::Nothing
}

struct Search<'a> {
    /// In the order of their calls.
    answered: Vec<Answered<'a>>,
    unknown: Vec<Unknown<'a>>,
    values: HashMap<State, Value>,
    /// With one of these, nobody knows which numbers the key may hold.
    unknown_increments: bool,
}

/// What has to do with one thing that the key may hold.
#[derive(Default)]
struct Value {
    /// The answered ones that fit nothing else.
    needed_by: Vec<usize>,
    /// The answered and the unknown ones that can set it.
    set_by: Vec<usize>,
    may_be_set_by: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(operations: &[&'a Operation]) -> Search<'a> {
        let mut answered = Vec::new();
        let mut unknown: Vec<Unknown<'_>> = Vec::new();
        let mut in_order = operations.to_vec();
        in_order.sort_by_key(|operation| operation.invoked);
        for operation in in_order {
            let (invoked, action) = (operation.invoked, &operation.action);
            match &operation.outcome {
                super::Outcome::Done {
                    returned, answer, ..
                } => answered.push(Answered {
                    invoked,
                    returned: *returned,
                    action,
                    answer,
                }),
                super::Outcome::Unknown if !action.reads() => {
                    let same_before = unknown.iter().rposition(|other| other.action == action);
                    unknown.push(Unknown {
                        invoked,
                        action,
                        same_before,
                    });
                }
                super::Outcome::Unknown | super::Outcome::Refused => {}
            }
        }
        let mut values: HashMap<State, Value> = HashMap::new();
        for (number, one) in answered.iter().enumerate() {
            if let Some(needed) = one.action.needs(one.answer) {
                values.entry(needed).or_default().needed_by.push(number);
            }
            if let Some(set) = one.action.leaves(one.answer) {
                values.entry(set).or_default().set_by.push(number);
            }
        }
        for (number, one) in unknown.iter().enumerate() {
            if let Some(set) = one.action.leaves(&Answer::Done) {
                values.entry(set).or_default().may_be_set_by.push(number);
            }
        }
        let increments = |one: &Unknown<'_>| matches!(one.action, Action::Increment(_));
        Search {
            unknown_increments: unknown.iter().any(increments),
            answered,
            unknown,
            values,
        }
    }

    /// Whether the key may hold something else from here on.
    fn may_leave(&self, state: &State, placed: &Placed, used: &Used) -> bool {
        let Some(value) = self.values.get(state) else {
            return true;
        };
        let missing = |number: &usize| !placed.contains(*number);
        !value.needed_by.iter().any(missing)
            || value.set_by.iter().any(missing)
            || value.may_be_set_by.iter().any(|one| !used.contains(*one))
            || self.unknown_increments && state.as_ref().and_then(number).is_some()
    }

    /// The answered operations that may be next, and the moment before which an operation must have been
    /// called for that.
    fn candidates(&self, placed: &Placed) -> (Vec<usize>, Time) {
        let mut candidates = Vec::new();
        let mut first_return = Time::MAX;
        for number in placed.first_missing..self.answered.len() {
            if placed.contains(number) {
                continue;
            }
            let operation = &self.answered[number];
            if operation.invoked > first_return {
                break;
            }
            first_return = first_return.min(operation.returned);
            candidates.push(number);
        }
        // The first answers may have come behind the calls of others.
        candidates.retain(|number| self.answered[*number].invoked <= first_return);
        (candidates, first_return)
    }

    fn place_observations(&self, configuration: &mut Configuration) {
        loop {
            let (candidates, _) = self.candidates(&configuration.placed);
            let fitting = candidates.into_iter().filter(|number| {
                let Answered { action, answer, .. } = self.answered[*number];
                action.observes(answer) && execute(&configuration.state, action).1 == *answer
            });
            let fitting: Vec<usize> = fitting.collect();
            if fitting.is_empty() {
                return;
            }
            for number in fitting {
                configuration.placed.insert(number);
            }
            configuration.after_unknown = false;
        }
    }

    fn successors(&self, configuration: &Configuration, found: &mut Vec<Configuration>) {
        let (mut candidates, first_return) = self.candidates(&configuration.placed);
        candidates.sort_by_key(|number| self.answered[*number].returned);
        let mut one_does_not_fit = false;
        for number in candidates {
            let Answered { action, answer, .. } = self.answered[number];
            let (state, given) = execute(&configuration.state, action);
            if given != *answer {
                one_does_not_fit = true;
                continue;
            }
            let mut placed = configuration.placed.clone();
            placed.insert(number);
            if state != configuration.state
                && !self.may_leave(&configuration.state, &placed, &configuration.used)
            {
                continue;
            }
            found.push(Configuration {
                placed,
                used: configuration.used.clone(),
                state,
                after_unknown: false,
            });
        }
        let Configuration { placed, used, .. } = configuration;
        if !one_does_not_fit || !self.may_leave(&configuration.state, placed, used) {
            return;
        }
        for (number, unknown) in self.unknown.iter().enumerate() {
            let waits = unknown.same_before.is_some_and(|same| !used.contains(same));
            let overwrites = configuration.after_unknown && unknown.action.overwrites();
            if unknown.invoked > first_return || used.contains(number) || waits || overwrites {
                continue;
            }
            let (state, _) = execute(&configuration.state, unknown.action);
            if state == configuration.state {
                continue;
            }
            let mut used = used.clone();
            used.insert(number);
            found.push(Configuration {
                placed: configuration.placed.clone(),
                used,
                state,
                after_unknown: true,
            });
        }
    }
}

const WORD: usize = u64::BITS as usize;

/// A set of answered operations that holds all of the first ones, and few others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Placed {
    first_missing: usize,
    /// Those from the word of the first missing one on; never ends with an empty word.
    words: Vec<u64>,
}

impl Placed {
    fn contains(&self, number: usize) -> bool {
        if number < self.first_missing {
            return true;
        }
        let place = number / WORD - self.first_missing / WORD;
        self.words
            .get(place)
            .is_some_and(|word| word & (1 << (number % WORD)) != 0)
    }

    fn insert(&mut self, number: usize) {
        let place = number / WORD - self.first_missing / WORD;
        if self.words.len() <= place {
            self.words.resize(place + 1, 0);
        }
        self.words[place] |= 1 << (number % WORD);
        let full = self.words.iter().take_while(|word| **word == u64::MAX);
        let full = full.count();
        self.words.drain(..full);
        let word = self.first_missing / WORD + full;
        let ones = self.words.first().map_or(0, |word| word.trailing_ones());
        self.first_missing = word * WORD + ones as usize;
    }
}

/// A set of unknown operations.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Used(Box<[u64]>);

impl Used {
    fn new(of: usize) -> Used {
        Used(vec![0; of.div_ceil(WORD)].into())
    }

    fn contains(&self, number: usize) -> bool {
        self.0[number / WORD] & (1 << (number % WORD)) != 0
    }

    fn insert(&mut self, number: usize) {
        self.0[number / WORD] |= 1 << (number % WORD);
    }

    fn is_part_of(&self, other: &Used) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|(one, other)| one & !other == 0)
    }
}

/// The configurations that were met: for the same answered operations and the same value, what was used,
/// and whether the last one was unknown.
#[derive(Default)]
struct Seen {
    met: HashMap<(Placed, State), Vec<(Used, bool)>>,
    count: usize,
}

impl Seen {
    /// Whether no other one that was met can do all that this one can. It is remembered.
    fn is_new(&mut self, configuration: &Configuration) -> bool {
        let Configuration {
            placed,
            used,
            state,
            after_unknown,
        } = configuration;
        let others = self.met.entry((placed.clone(), state.clone())).or_default();
        let covered = others
            .iter()
            .any(|(other, after)| (!after || *after_unknown) && other.is_part_of(used));
        if covered {
            return false;
        }
        others.push((used.clone(), *after_unknown));
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Placed;

    #[test]
    fn a_set_that_begins_full_is_the_same_however_it_was_filled() {
        let orders: [Vec<usize>; 3] = [
            (0..200).collect(),
            (0..200).rev().collect(),
            (0..200).step_by(2).chain((1..200).step_by(2)).collect(),
        ];
        for order in orders {
            let mut placed = Placed::default();
            for number in &order {
                assert!(!placed.contains(*number));
                placed.insert(*number);
                assert!(*number < placed.first_missing || placed.contains(*number));
            }
            assert_eq!(placed.first_missing, 200);
            assert_eq!(placed.words, [0xff], "{order:?}");
        }
    }
}
