//! P4: who went astray is decided by a majority of voters, or not at all.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "mutants")]
mod a_mutant;

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{Agreement, Configuration, NodeId};

fn nodes(numbers: &[u128]) -> BTreeSet<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn of(voters: &[u128], outgoing: &[u128], said: &[(u128, u64)]) -> Agreement {
    let configuration = Configuration {
        voters: nodes(voters),
        outgoing: nodes(outgoing),
        learners: nodes(&[8, 9]),
        ..Configuration::default()
    };
    let said: BTreeMap<NodeId, u64> = said.iter().map(|(n, hash)| (NodeId(*n), *hash)).collect();
    Agreement::of(&configuration, &said)
}

#[test]
fn p4_a_majority_of_the_voters_decides() {
    use Agreement::{Agreed, Open, Torn};
    let three: &[u128] = &[1, 2, 3];
    assert_eq!(of(three, &[], &[]), Open);
    assert_eq!(of(three, &[], &[(1, 7)]), Open, "one alone is no majority");
    assert_eq!(of(three, &[], &[(1, 7), (2, 7)]), Agreed(7));
    assert_eq!(of(three, &[], &[(1, 6), (2, 7)]), Open, "the third decides");
    assert_eq!(of(three, &[], &[(1, 6), (2, 7), (3, 7)]), Agreed(7));
    assert_eq!(of(three, &[], &[(1, 5), (2, 6), (3, 7)]), Torn);
    // Learners are judged, and do not judge.
    assert_eq!(of(three, &[], &[(1, 7), (8, 7), (9, 7)]), Open);
    assert_eq!(of(three, &[], &[(1, 7), (2, 7), (8, 6)]), Agreed(7));
    // Half is not a majority.
    let four: &[u128] = &[1, 2, 3, 4];
    assert_eq!(of(four, &[], &[(1, 6), (2, 6), (3, 7), (4, 7)]), Torn);
    assert_eq!(of(four, &[], &[(1, 6), (2, 6), (3, 7)]), Open);
    assert_eq!(of(&[1], &[], &[(1, 7)]), Agreed(7));
    assert_eq!(of(&[1, 2], &[], &[(1, 6), (2, 7)]), Torn);
}

#[test]
fn p4_while_one_configuration_gives_way_to_another_both_must_agree() {
    use Agreement::{Agreed, Open, Torn};
    let (new, old): (&[u128], &[u128]) = (&[1, 2, 3], &[3, 4, 5]);
    assert_eq!(of(new, old, &[(1, 7), (2, 7), (3, 7)]), Open);
    assert_eq!(of(new, old, &[(1, 7), (2, 7), (3, 7), (4, 7)]), Agreed(7));
    let said = [(1, 7), (2, 7), (3, 6), (4, 6), (5, 6)];
    assert_eq!(of(new, old, &said), Torn);
}
