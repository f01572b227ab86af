//! What clients rely on: §8.

use raft_core::*;

use crate::one::*;

/// §8: a leader commits a no-op at the start of its term.
#[test]
fn a_new_leader_appends_a_no_op() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1]);
    let effects = one.elect();
    assert_eq!(
        one.log.last().map(|e| (e.index, &e.payload)),
        Some((3, &Payload::Noop))
    );
    assert_eq!(appends(&effects).len(), 2);
}

/// §8: a read is answered only after a majority has answered a heartbeat that was sent after it.
#[test]
fn a_read_waits_for_a_round_of_heartbeats() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let (term, deadline) = (one.raft.term(), one.now + milliseconds(1_000));
    let effects = one.settle(Input::ReadIndex {
        request: 5,
        deadline,
    });
    assert_eq!(read_ready(&effects), None);
    let round = heartbeats(&effects)[0].1.round;
    assert_eq!(
        read_ready(&one.hear(2, heartbeat_reply(term, round - 1))),
        None
    );
    let answered = read_ready(&one.hear(2, heartbeat_reply(term, round)));
    assert_eq!(answered, Some((5, one.raft.commit_index())));
}

/// §8: clients are told who leads.
#[test]
fn a_follower_names_the_leader() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    let leader = Some(node(2));
    assert_eq!(refused(&one.put("x")), Some(Refusal::NotLeader { leader }));
}
