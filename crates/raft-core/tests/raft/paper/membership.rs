//! Membership changes: §6.

use raft_core::message::*;
use raft_core::*;

use crate::one::*;

fn joint(new: &[u64], old: &[u64], learners: &[u64]) -> Configuration {
    Configuration {
        outgoing: voters(old),
        learners: voters(learners),
        ..configuration(new)
    }
}

/// §6: a joint configuration elects with both majorities only.
#[test]
fn a_joint_election_needs_both_majorities() {
    for (votes, wins) in [
        (&[2, 3][..], false),
        (&[4, 5], false),
        (&[2, 4], false),
        (&[2, 4, 5], true),
    ] {
        let base = joint(&[4, 5, 6], &[1, 2, 3], &[]);
        let mut one = One::with(1, base, &[1], Options::default());
        one.wait_for_campaign();
        for voter in 2..=6 {
            one.hear(voter, answer(2, PRE_VOTE, true));
        }
        for voter in votes {
            one.hear(*voter, answer(2, VOTE, true));
        }
        assert_eq!(
            one.raft.role() == RoleName::Leader,
            wins,
            "votes of {votes:?}"
        );
    }
}

/// §6: so does a joint commit; a leader outside C_new counts for C_old alone, learners for nothing.
#[test]
fn a_joint_commit_needs_both_majorities() {
    let cases: &[(&[u64], bool)] = &[
        (&[2, 3], false),
        (&[4, 5, 6], false),
        (&[2, 4], false),
        (&[2, 4, 7, 8], false),
        (&[2, 4, 5], true),
    ];
    for (acks, expected) in cases {
        let base = joint(&[4, 5, 6], &[1, 2, 3], &[7, 8]);
        let mut one = One::with(1, base, &[1], Options::default());
        one.elect();
        for peer in *acks {
            one.hear_only(*peer, ack(one.raft.term(), 2));
        }
        assert_eq!(one.raft.commit_index() == 2, *expected, "acks of {acks:?}");
    }
}

/// §6: a server uses the latest configuration in its log, committed or not, and goes back to the one
/// before when that entry is truncated.
#[test]
fn a_configuration_is_effective_on_append_and_rolled_back() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    let without_me = configuration(&[2, 3, 4]);
    let payload = Payload::Configuration(without_me.clone().into());
    let message = AppendEntries {
        term: 2,
        previous: at(1, 1),
        entries: vec![Entry {
            index: 2,
            term: 2,
            log_time_ms: 0,
            payload,
        }],
        commit_index: 0,
    };
    one.hear(2, Message::AppendEntries(message));
    assert_eq!(*one.raft.configuration().1, without_me);
    assert_eq!(
        sent(&one.wait(milliseconds(10_000))),
        [],
        "no voter, no campaign"
    );
    one.hear(3, append(3, at(1, 1), &[3], 0));
    assert_eq!(*one.raft.configuration().1, configuration(&[1, 2, 3]));
    one.wait_for_campaign();
}

/// §6: C_old,new is appended first; when it is committed, C_new; a leader outside it then steps
/// down, not sooner.
#[test]
fn a_leader_that_is_not_in_c_new_steps_down_when_it_is_committed() {
    let base = joint(&[2, 3, 4], &[1, 2, 3], &[]);
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    let term = one.raft.term();
    for peer in [2, 3, 4] {
        one.hear(peer, ack(term, 2));
    }
    one.wait(milliseconds(400));
    assert_eq!(one.raft.configuration().0, 3, "C_new is in the log");
    assert_eq!(*one.raft.configuration().1, configuration(&[2, 3, 4]));
    one.hear(2, ack(term, 3));
    assert_eq!(
        one.raft.role(),
        RoleName::Leader,
        "its own copy does not count: one of three"
    );
    one.hear(3, ack(term, 3));
    assert_eq!(
        (one.raft.role(), one.raft.commit_index()),
        (RoleName::Follower, 3)
    );
}

/// §6: new servers join as non-voting members first.
#[test]
fn a_new_server_is_a_learner_first() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let hint = |number| MemberHint {
        node: node(number),
        joinable: true,
    };
    one.settle(Input::Members(vec![hint(4), hint(5)]));
    let next = one.raft.configuration().1;
    assert_eq!(
        (&next.voters, &next.learners),
        (&voters(&[1, 2, 3]), &voters(&[4, 5]))
    );
}

/// §6: one change at a time.
#[test]
fn one_change_at_a_time() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let hint = |number| MemberHint {
        node: node(number),
        joinable: true,
    };
    one.settle(Input::Members(vec![hint(4)]));
    let first = one.raft.configuration().0;
    one.settle(Input::Members(vec![hint(4), hint(5)]));
    assert_eq!(
        one.raft.configuration().0,
        first,
        "the first is not committed"
    );
    one.all_ack();
    one.wait(milliseconds(400));
    assert!(one.raft.configuration().1.learners.contains(&node(5)));
}

/// §6: removed servers do not disturb: a vote is refused, and the term not adopted, while a leader
/// is heard.
#[test]
fn a_vote_is_refused_while_a_leader_is_heard() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    one.now = one.now + milliseconds(749);
    for kind in [PRE_VOTE, VOTE] {
        assert_eq!(granted(&one.hear(9, ask(7, kind, at(9, 6)))), Some(false));
    }
    assert_eq!(one.raft.term(), 1);
    let mut leader = One::leader(1, &[1, 2, 3], &[1]);
    assert_eq!(
        granted(&leader.hear(3, ask(7, VOTE, at(9, 6)))),
        Some(false)
    );
    assert_eq!(leader.raft.role(), RoleName::Leader);
}
