//! Terms and elections: §5.1 and §5.2.

use std::collections::BTreeSet;

use raft_core::message::*;
use raft_core::*;

use crate::one::*;

/// §5.1: whoever sees a higher term becomes a follower of it, whatever it is and whoever says it.
#[test]
fn a_higher_term_makes_a_follower() {
    let starts: [fn() -> One; 3] = [
        || One::new(1, &[1, 2, 3], &[1]),
        || {
            let mut candidate = One::new(1, &[1, 2, 3], &[1]);
            candidate.wait_for_campaign();
            candidate.hear(2, answer(2, PRE_VOTE, true));
            assert_eq!(candidate.raft.role(), RoleName::Candidate);
            candidate
        },
        || One::leader(1, &[1, 2, 3], &[1]),
    ];
    for start in starts {
        for message in [
            heartbeat(9, 0, &[]),
            append(9, at(1, 1), &[9], 0),
            answer(9, VOTE, false),
            Message::HigherTerm { term: 9 },
        ] {
            let mut one = start();
            one.hear(2, message);
            assert_eq!((one.raft.role(), one.raft.term()), (RoleName::Follower, 9));
            assert_eq!(one.hard_state.current_term, 9, "on the disk, too");
        }
    }
}

/// §5.1: a message of an older term changes nothing; its sender is told.
#[test]
fn a_stale_term_is_refused() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 5]);
    for message in [append(4, at(2, 5), &[4], 2), heartbeat(4, 2, &[])] {
        let effects = one.hear(2, message);
        assert_eq!(sent(&effects), [(node(2), Message::HigherTerm { term: 5 })]);
    }
    assert_eq!(granted(&one.hear(2, ask(4, VOTE, at(9, 4)))), Some(false));
    assert_eq!((one.terms(), one.raft.leader()), (vec![1, 5], None));
}

/// Figure 2, "updated on stable storage before responding to RPCs".
#[test]
fn nothing_is_said_in_a_term_before_it_is_on_the_disk() {
    let mut voter = One::new(1, &[1, 2, 3], &[1]);
    assert_eq!(sent(&voter.hear_only(2, ask(2, VOTE, at(1, 1)))), []);
    assert_eq!(granted(&voter.sync()), Some(true));
    let mut follower = One::new(1, &[1, 2, 3], &[1]);
    assert_eq!(sent(&follower.hear_only(2, heartbeat(2, 0, &[]))), []);
    assert_eq!(sent(&follower.sync()).len(), 1);
    let mut candidate = One::new(1, &[1, 2, 3], &[1]);
    candidate.wait_for_campaign();
    assert_eq!(sent(&candidate.hear_only(2, answer(2, PRE_VOTE, true))), []);
    let requests = vote_requests(&candidate.sync());
    assert_eq!(requests.len(), 2);
    assert_eq!(candidate.hard_state.voted_for, Some(node(1)));
}

/// §5.2: servers start up as followers, of nobody.
#[test]
fn it_starts_as_a_follower() {
    let one = One::new(1, &[1, 2, 3], &[1, 2]);
    assert_eq!(
        (one.raft.role(), one.raft.leader(), one.raft.term()),
        (RoleName::Follower, None, 2)
    );
}

/// §5.2: leaders send periodic heartbeats to all followers.
#[test]
fn a_leader_sends_heartbeats() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let interval = one.options.heartbeat_interval;
    let effects = one.wait(interval);
    let receivers: BTreeSet<_> = heartbeats(&effects).into_iter().map(|(to, _)| to).collect();
    assert_eq!(receivers, voters(&[2, 3]));
}

/// §5.2: who hears nothing over the election timeout calls an election: a new term, its own vote,
/// and a request to every other voter.
#[test]
fn a_follower_that_hears_nothing_calls_an_election() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    assert_eq!(sent(&one.wait(milliseconds(749))), []);
    let before = vote_requests(&one.wait_for_campaign());
    assert!(
        before
            .iter()
            .all(|(_, request)| request.pre_vote && request.term == 2)
    );
    assert_eq!(one.raft.term(), 1, "a pre-vote changes nothing");
    let requests = vote_requests(&one.hear(2, answer(2, PRE_VOTE, true)));
    let asked: BTreeSet<_> = requests.iter().map(|(to, _)| *to).collect();
    assert_eq!(asked, voters(&[2, 3]));
    assert!(
        requests
            .iter()
            .all(|(_, r)| !r.pre_vote && r.term == 2 && r.last == at(1, 1))
    );
    assert_eq!(one.hard_state.voted_for, Some(node(1)));
}

/// §5.2: election timeouts are random, from a fixed interval, so that votes rarely split.
#[test]
fn election_timeouts_are_spread() {
    let mut timeouts = BTreeSet::new();
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    for _ in 0..50 {
        one.hear(2, heartbeat(1, 0, &[]));
        let timeout = one.raft.next_deadline() - one.now;
        assert!(
            timeout >= one.options.elect_timeout_min && timeout <= one.options.elect_timeout_max
        );
        timeouts.insert(timeout.as_millis() / 50);
    }
    assert!(timeouts.len() > 7, "{timeouts:?}");
}

/// §5.2: a candidate wins with the votes of a majority, goes on waiting without, and gives up when
/// a majority refuses.
#[test]
fn a_majority_of_votes_elects() {
    use RoleName::{Candidate, Follower, Leader};
    let cases: &[(u64, &[bool], RoleName)] = &[
        (3, &[true], Leader),
        (3, &[false], Candidate),
        (3, &[false, false], Follower),
        (5, &[true], Candidate),
        (5, &[true, true], Leader),
        (5, &[false, false, true], Candidate),
        (5, &[false, false, false], Follower),
        (4, &[true], Candidate),
        (4, &[true, true], Leader),
        (4, &[true, false, false], Follower),
    ];
    for (count, votes, role) in cases {
        let numbers: Vec<u64> = (1..=*count).collect();
        let mut one = One::new(1, &numbers, &[1]);
        one.wait_for_campaign();
        for voter in 2..=*count {
            one.hear(voter, answer(2, PRE_VOTE, true));
        }
        for (voter, vote) in (2..).zip(*votes) {
            one.hear(voter, answer(2, VOTE, *vote));
        }
        assert_eq!(one.raft.role(), *role, "{count} voters, {votes:?}");
    }
    let mut alone = One::new(1, &[1], &[1]);
    alone.wait_for_campaign();
    assert_eq!(alone.raft.role(), Leader, "a single voter elects itself");
}

/// §5.2: the same voter's vote counts once, and a stranger's never.
#[test]
fn votes_are_counted_by_voter() {
    let mut one = One::new(1, &[1, 2, 3, 4, 5], &[1]);
    one.wait_for_campaign();
    for voter in [2, 3] {
        one.hear(voter, answer(2, PRE_VOTE, true));
    }
    for voter in [2, 2, 2, 77, 78] {
        one.hear(voter, answer(2, VOTE, true));
    }
    assert_eq!(one.raft.role(), RoleName::Candidate);
}

/// §5.2: at most one vote per term, first come, first served; the same candidate may ask again.
#[test]
fn one_vote_per_term() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    assert_eq!(granted(&one.hear(2, ask(2, VOTE, at(1, 1)))), Some(true));
    assert_eq!(granted(&one.hear(3, ask(2, VOTE, at(1, 1)))), Some(false));
    assert_eq!(granted(&one.hear(2, ask(2, VOTE, at(1, 1)))), Some(true));
    assert_eq!(
        granted(&one.hear(3, ask(3, VOTE, at(1, 1)))),
        Some(true),
        "a term, a vote"
    );
}

/// §5.2 and figure 2: the vote survives a crash.
#[test]
fn a_vote_survives_a_crash() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, ask(2, VOTE, at(1, 1)));
    let mut one = one.crash();
    assert_eq!(granted(&one.hear(3, ask(2, VOTE, at(1, 1)))), Some(false));
    assert_eq!(granted(&one.hear(2, ask(2, VOTE, at(1, 1)))), Some(true));
}

/// §5.2: a step down within the term does not give the vote back.
#[test]
fn a_step_down_keeps_the_vote() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let term = one.raft.term();
    one.wait(milliseconds(5_000));
    assert_ne!(one.raft.role(), RoleName::Leader, "nobody answered it");
    assert_eq!(one.raft.term(), term);
    assert_eq!(
        granted(&one.hear(3, ask(term, VOTE, at(9, term)))),
        Some(false)
    );
}

/// §5.2: a candidate that hears a leader of its term recognises it.
#[test]
fn a_candidate_falls_back_for_a_leader_of_its_term() {
    for message in [heartbeat(2, 0, &[]), append(2, at(1, 1), &[2], 0)] {
        let mut one = One::new(1, &[1, 2, 3], &[1]);
        one.wait_for_campaign();
        one.hear(2, answer(2, PRE_VOTE, true));
        one.hear(3, message);
        assert_eq!(
            (one.raft.role(), one.raft.leader()),
            (RoleName::Follower, Some(node(3)))
        );
    }
}

/// §5.2: after a split vote, a new election in a new term; late votes of the old one are void.
#[test]
fn a_split_vote_is_followed_by_another_election() {
    let mut one = One::new(1, &[1, 2, 3, 4, 5], &[1]);
    one.wait_for_campaign();
    for voter in [2, 3] {
        one.hear(voter, answer(2, PRE_VOTE, true));
    }
    one.hear(2, answer(2, VOTE, true));
    let mut requests = Vec::new();
    while one.raft.role() != RoleName::PreCandidate {
        let pause = one.raft.next_deadline() - one.now;
        requests = vote_requests(&one.wait(pause));
    }
    assert!(requests.iter().all(|(_, r)| r.pre_vote && r.term == 3));
    for voter in [2, 3] {
        one.hear(voter, answer(3, PRE_VOTE, true));
    }
    assert_eq!((one.raft.role(), one.raft.term()), (RoleName::Candidate, 3));
    for voter in [3, 4, 5] {
        one.hear(voter, answer(2, VOTE, true));
    }
    assert_eq!(
        one.raft.role(),
        RoleName::Candidate,
        "those were votes of term 2"
    );
}

/// §5.2: two leaders in one term cannot be, so the second is not obeyed.
#[test]
fn a_second_leader_in_one_term_is_not_obeyed() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, append(2, at(1, 1), &[2], 0));
    one.hear(3, append(2, at(1, 1), &[1], 0));
    assert_eq!(
        (one.raft.leader(), one.terms()),
        (Some(node(2)), vec![1, 2])
    );
}
