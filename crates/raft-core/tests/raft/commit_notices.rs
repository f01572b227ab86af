//! What a follower is told of the commit index: on AppendEntries while there are any, and once on its own
//! when there are none. Nothing is answered to that.

use crate::one::*;
use raft_core::{Index, NodeId};

fn notices_in(effects: &[raft_core::Effect]) -> Vec<(NodeId, Index)> {
    notices(effects)
        .into_iter()
        .map(|(to, _, commit_index)| (to, commit_index))
        .collect()
}

/// Who has acknowledged all there is is told at once, by one message; who has not is told with its own
/// acknowledgement, and nobody twice.
#[test]
fn who_has_everything_is_told_once() {
    let mut one = One::leader(1, &[1, 2, 3], &[1, 1]);
    let term = one.raft.term();
    one.put("a");
    let last = one.raft.last().index;
    let effects = one.hear(2, ack(term, last));
    assert_eq!(committed(&effects), Some(last));
    assert_eq!(notices_in(&effects), [(node(2), last)]);
    assert_eq!(heartbeats(&effects), [], "nobody is asked to answer");
    let effects = one.hear(3, ack(term, last));
    assert_eq!(notices_in(&effects), [(node(3), last)]);
    assert_eq!(notices_in(&one.hear(3, ack(term, last))), []);
}

/// While entries are under way to a peer nothing is said beside them: they carry what is committed, or
/// their acknowledgement brings the word.
#[test]
fn what_is_under_way_carries_it() {
    let mut one = One::leader(1, &[1, 2, 3], &[1, 1]);
    let term = one.raft.term();
    one.put("a");
    let first = one.raft.last().index;
    one.put("b");
    let effects = one.hear(2, ack(term, first));
    assert_eq!(committed(&effects), Some(first));
    assert_eq!(sent(&effects), [], "b is under way to both");
    let effects = one.put("c");
    let carried = appends(&effects)
        .into_iter()
        .map(|(_, append)| append.commit_index);
    assert!(carried.eq([first, first]));
    let last = one.raft.last().index;
    one.hear(3, ack(term, first));
    let effects = one.hear(2, ack(term, last));
    assert_eq!(notices_in(&effects), [(node(2), last)]);
}

/// Rule 5 of figure 2: the follower commits what it has of it, hands out what is durable, and says nothing.
#[test]
fn a_follower_obeys_and_does_not_answer() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1]);
    one.hear(1, append(1, at(2, 1), &[1, 1], 2));
    let effects = one.hear(1, notice(1, 3));
    assert_eq!(one.raft.commit_index(), 3);
    assert_eq!(committed(&effects), Some(3));
    assert_eq!(sent(&effects), []);
    // Beyond what was verified against this leader's log, its word is no news of this log.
    let effects = one.hear(1, notice(1, 9));
    assert_eq!(committed(&effects), Some(4));
    assert_eq!(one.raft.commit_index(), 4);
}

/// An entry of an earlier leader that this node holds unverified is not committed by a notice.
#[test]
fn what_was_not_verified_is_not_committed_by_it() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1, 1]);
    let effects = one.hear(1, notice(2, 3));
    assert_eq!(committed(&effects), None);
    assert_eq!(one.raft.commit_index(), 0);
    assert_eq!(
        one.raft.leader(),
        Some(node(1)),
        "it is the leader's word all the same"
    );
}

/// D1: what is committed and not durable here is handed out when it is.
#[test]
fn nothing_is_handed_out_before_it_is_durable_here() {
    let mut one = One::new(2, &[1, 2, 3], &[1]);
    one.hear_only(1, append(1, at(1, 1), &[1, 1], 1));
    let effects = one.hear_only(1, notice(1, 3));
    assert_eq!(committed(&effects), None);
    assert_eq!(committed(&one.sync()), Some(3));
}

/// A notice of an older term is answered with the newer one (E3), and changes nothing.
#[test]
fn an_old_leader_is_told_so() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1]);
    one.hear(3, append(3, at(2, 1), &[], 0));
    let effects = one.hear(1, notice(2, 2));
    assert!(sent(&effects).contains(&(node(1), higher_term(3))));
    assert_eq!(one.raft.commit_index(), 0);
}
