//! The rules of "In Search of an Understandable Consensus Algorithm" (extended version), one test
//! each, with one core on a bench. A voter's pre-vote (§9.6 of the dissertation) comes before each
//! election.
#![allow(clippy::unwrap_used)]

mod one;
mod recovered;

use std::collections::BTreeSet;

use one::{
    One, PRE_VOTE, VOTE, ack, answer, append, appends, ask, at, committed, configuration, durable,
    granted, heartbeat, heartbeats, milliseconds, node, outcome, put, read_ready, sent,
    vote_requests, voters,
};
use raft_core::message::AppendOutcome;
use raft_core::{
    Configuration, Effect, Entry, Input, MemberHint, Message, Options, Payload, Position, RoleName,
    Term,
};

// ---- §5.1 terms ----

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

// ---- §5.2 election ----

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

// ---- §5.3 replication ----

/// §5.3 (and §10.2.1 of the dissertation): a leader appends, and sends to all in parallel with its
/// own disk write.
#[test]
fn a_leader_appends_and_sends_at_once() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let last = one.raft.last();
    let effects = one.step(put(1, "x"));
    assert_eq!(one.queue.len(), 1, "one write is asked for");
    let sent: Vec<_> = appends(&effects)
        .into_iter()
        .map(|(to, a)| (to, a.previous))
        .collect();
    assert_eq!(sent, [(node(2), last), (node(3), last)]);
    assert!(
        matches!(effects.iter().find(|e| matches!(e, Effect::Accepted { .. })),
        Some(Effect::Accepted { position, .. }) if *position == at(last.index + 1, one.raft.term()))
    );
}

/// §5.3: committed once a majority holds it durably; the leader's own copy counts when its own disk
/// has it, and not before.
#[test]
fn an_entry_is_committed_by_a_majority_of_durable_copies() {
    let cases: &[(&[u64], &[u64], bool, bool)] = &[
        (&[1, 2, 3], &[], true, false),
        (&[1, 2, 3], &[2], true, true),
        (&[1, 2, 3], &[2], false, false),
        (&[1, 2, 3], &[2, 3], false, true),
        (&[1, 2, 3, 4, 5], &[2], true, false),
        (&[1, 2, 3, 4, 5], &[2, 3], true, true),
        (&[1, 2, 3, 4], &[2], true, false),
        (&[1], &[], true, true),
        (&[1], &[], false, false),
    ];
    for (numbers, acks, own, expected) in cases {
        let mut one = One::leader(1, numbers, &[1]);
        let index = one.raft.last().index + 1;
        one.step(put(1, "x"));
        let term = one.raft.term();
        for peer in *acks {
            one.hear_only(*peer, ack(term, index));
        }
        if *own {
            one.sync();
        }
        assert_eq!(
            one.raft.commit_index() == index,
            *expected,
            "{numbers:?} {acks:?} own {own}"
        );
    }
}

/// §5.3: a commit takes all preceding entries with it, earlier leaders' too.
#[test]
fn a_commit_takes_what_stands_before_it() {
    for terms in [&[1][..], &[1, 1, 2], &[1, 2, 2, 3]] {
        let mut one = One::new(1, &[1, 2, 3], terms);
        one.elect();
        assert_eq!(one.raft.commit_index(), 0);
        let last = one.raft.last().index;
        let effects = one.hear(2, ack(one.raft.term(), last));
        assert_eq!(committed(&effects), Some(terms.len() as u64 + 1));
    }
}

/// §5.3: followers learn of commits from the leader, as far as their logs are known to match.
#[test]
fn a_follower_commits_what_the_leader_committed() {
    for (commit, entries, expected) in
        [(1, &[2][..], 1), (2, &[2], 2), (9, &[2, 2], 3), (9, &[], 1)]
    {
        let mut one = One::new(1, &[1, 2, 3], &[1]);
        one.hear(2, append(2, at(1, 1), entries, commit));
        assert_eq!(one.raft.commit_index(), expected, "{commit} {entries:?}");
    }
    // Its own tail is not known to match: "index of last new entry".
    let mut one = One::new(1, &[1, 2, 3], &[1, 1, 1]);
    one.hear(2, append(2, at(1, 1), &[], 3));
    assert_eq!(one.raft.commit_index(), 1);
    one.hear(2, heartbeat(2, 3, &[]));
    assert_eq!(one.raft.commit_index(), 1);
}

/// §5.3, consistency check: the entry before must be there, with its term.
#[test]
fn a_follower_checks_where_the_logs_join() {
    let cases = [
        (at(0, 0), true),
        (at(1, 1), true),
        (at(2, 2), true),
        (at(2, 1), false),
        (at(3, 3), false),
        (at(9, 2), false),
    ];
    for (previous, joins) in cases {
        let mut one = One::new(1, &[1, 2, 3], &[1, 2]);
        let answer = outcome(&one.hear(2, append(3, previous, &[], 0))).unwrap();
        let expected = if joins {
            matches!(answer, AppendOutcome::Durable { index } if index == previous.index)
        } else {
            matches!(answer, AppendOutcome::Conflict { refused, .. } if refused == previous.index)
        };
        assert!(expected, "{previous:?}: {answer:?}");
        assert_eq!(one.terms(), [1, 2], "a check changes nothing");
    }
}

/// §5.3: conflicting entries go, with all that follow; what matches stays.
#[test]
fn a_conflict_is_overwritten_by_the_leaders_entries() {
    let cases: &[(Position, &[Term], &[Term])] = &[
        (at(2, 2), &[3], &[1, 2, 3]),
        (at(1, 1), &[3, 4], &[1, 3, 4]),
        (at(1, 1), &[2], &[1, 2]),
        (at(1, 1), &[3], &[1, 3]),
    ];
    for (previous, new, expected) in cases {
        let mut one = One::new(1, &[1, 2, 3], &[1, 2]);
        one.hear(2, append(5, *previous, new, 0));
        assert_eq!(one.terms(), *expected);
        assert_eq!(
            one.log.iter().map(|e| e.term).collect::<Vec<_>>(),
            *expected,
            "on the disk"
        );
    }
}

/// §5.3: AppendEntries is idempotent, and one that was overtaken shortens nothing.
#[test]
fn a_repeated_or_overtaken_append_changes_nothing() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, append(2, at(1, 1), &[2, 2, 2], 0));
    let effects = one.hear(2, append(2, at(1, 1), &[2], 0));
    assert_eq!(one.terms(), [1, 2, 2, 2]);
    assert_eq!(
        outcome(&effects),
        durable(4),
        "it says all that it has of this leader"
    );
}

/// §5.3: an acknowledgement leaves when the disk has the entries, not before.
#[test]
fn a_follower_acknowledges_what_is_durable() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    assert_eq!(
        outcome(&one.hear_only(2, append(1, at(1, 1), &[1, 1], 0))),
        durable(1)
    );
    assert_eq!(outcome(&one.sync()), durable(3));
}

/// §5.3, Log Matching and Leader Append-Only: the leader of figure 7 brings each of its followers
/// (a) to (f) to its own log, and touches nothing of its own.
#[test]
fn figure_7() {
    let leaders: &[Term] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [(&str, &[Term]); 6] = [
        ("a", &[1, 1, 1, 4, 4, 5, 5, 6, 6]),
        ("b", &[1, 1, 1, 4]),
        ("c", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
        ("d", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
        ("e", &[1, 1, 1, 4, 4, 4, 4]),
        ("f", &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
    ];
    for (name, terms) in followers {
        let mut leader = One::new(1, &[1, 2, 3], leaders);
        leader.hear(3, Message::HigherTerm { term: 7 });
        let mut to_follower = sent(&leader.elect());
        assert_eq!(leader.raft.term(), 8);
        let mut follower = One::new(2, &[1, 2, 3], terms);
        let (mut rounds, mut conflicts) = (0, 0);
        while !to_follower.is_empty() {
            rounds += 1;
            assert!(rounds < 20, "({name}) does not come to rest");
            let mut answers = Vec::new();
            for (to, message) in to_follower.drain(..) {
                if to == node(2) {
                    answers.extend(sent(&follower.hear(1, message)));
                }
            }
            for (_, message) in answers {
                conflicts += usize::from(matches!(&message, Message::AppendEntriesReply(reply)
                    if matches!(reply.outcome, AppendOutcome::Conflict { .. })));
                to_follower.extend(sent(&leader.hear(2, message)));
            }
        }
        assert_eq!(leader.terms(), [leaders, &[8]].concat(), "({name})");
        assert_eq!(follower.log, leader.log, "({name})");
        assert_eq!(follower.raft.commit_index(), 11, "({name})");
        assert!(
            conflicts <= 3,
            "({name}): back by terms, not by entries: {conflicts} conflicts"
        );
    }
}

/// §5.3: what is lost is sent again until it is stored.
#[test]
fn a_leader_sends_again_what_was_lost() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let (term, last) = (one.raft.term(), one.raft.last());
    one.put("lost on the way to 2");
    let mut again = Vec::new();
    for _ in 0..6 {
        one.wait(one.options.heartbeat_interval);
        for peer in [2, 3] {
            again.extend(appends(&one.hear(peer, one::heartbeat_reply(term, 0))));
        }
    }
    assert!(
        again
            .iter()
            .any(|(to, a)| *to == node(2) && a.previous == last && a.entries.len() == 1)
    );
}

// ---- §5.4 safety ----

/// §5.4.1: a vote only for a log that is at least as up-to-date: the later last term, then the
/// longer log. A pre-vote by the same rule.
#[test]
fn a_voter_compares_the_logs() {
    let cases: &[(&[Term], Position, bool)] = &[
        (&[1], at(1, 1), true),
        (&[1], at(2, 1), true),
        (&[1], at(1, 2), true),
        (&[1, 1], at(1, 1), false),
        (&[1, 1], at(1, 2), true),
        (&[1, 2], at(9, 1), false),
        (&[1, 2], at(2, 2), true),
        (&[1, 2, 2], at(2, 2), false),
        (&[1, 2, 2], at(2, 3), true),
    ];
    for (terms, last, expected) in cases {
        for kind in [PRE_VOTE, VOTE] {
            let mut one = One::new(1, &[1, 2, 3], terms);
            let answer = granted(&one.hear(2, ask(9, kind, *last)));
            assert_eq!(answer, Some(*expected), "{terms:?} asked with {last:?}");
        }
    }
}

/// §5.4.2: only entries of the leader's own term are committed by counting copies.
#[test]
fn only_the_present_term_is_committed_by_counting() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1, 2]);
    one.elect();
    let term = one.raft.term();
    for index in 1..=3 {
        one.hear(2, ack(term, index));
        one.hear(3, ack(term, index));
        assert_eq!(one.raft.commit_index(), 0);
    }
    one.hear(3, ack(term, 4));
    assert_eq!(one.raft.commit_index(), 4);
}

/// Figure 8: entry 2 of term 2 is on a majority in term 4 and still gets overwritten in (d); once
/// an entry of term 4 is, as in (e), S5 cannot win any more.
#[test]
fn figure_8() {
    let all = [1, 2, 3, 4, 5];
    // (c): S1 leads term 4 and copies entry 2 to S3; S2 has it since term 2.
    let mut s1 = One::new(1, &all, &[1, 2]);
    s1.hear(5, Message::HigherTerm { term: 3 });
    s1.elect();
    assert_eq!(s1.raft.term(), 4);
    s1.hear(2, ack(4, 2));
    s1.hear(3, ack(4, 2));
    assert_eq!(
        s1.raft.commit_index(),
        0,
        "on three of five, and not committed"
    );
    // (d): S3 votes for S5, whose last term is 3, and loses entry 2 to it.
    let mut s3 = One::new(3, &all, &[1, 2]);
    s3.hear(1, Message::HigherTerm { term: 4 });
    assert_eq!(granted(&s3.hear(5, ask(5, VOTE, at(2, 3)))), Some(true));
    s3.hear(5, append(5, at(1, 1), &[3], 0));
    assert_eq!(s3.terms(), [1, 3]);
    // (e): with S1's entry of term 4 on a majority, it is committed, and S5 gets no vote there.
    s1.hear(2, ack(4, 3));
    s1.hear(3, ack(4, 3));
    assert_eq!(s1.raft.commit_index(), 3);
    let mut s3 = One::new(3, &all, &[1, 2, 4]);
    assert_eq!(granted(&s3.hear(5, ask(5, VOTE, at(2, 3)))), Some(false));
}

// ---- §6 membership changes ----

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
    let message = raft_core::message::AppendEntries {
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

// ---- §8 clients ----

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
        read_ready(&one.hear(2, one::heartbeat_reply(term, round - 1))),
        None
    );
    let answered = read_ready(&one.hear(2, one::heartbeat_reply(term, round)));
    assert_eq!(answered, Some((5, one.raft.commit_index())));
}

/// §8: clients are told who leads.
#[test]
fn a_follower_names_the_leader() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    let leader = Some(node(2));
    assert_eq!(
        one::refused(&one.put("x")),
        Some(raft_core::Refusal::NotLeader { leader })
    );
}
