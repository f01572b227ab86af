//! Log replication: §5.3.

use raft_core::message::*;
use raft_core::*;

use crate::one::*;

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
            again.extend(appends(&one.hear(peer, heartbeat_reply(term, 0))));
        }
    }
    assert!(
        again
            .iter()
            .any(|(to, a)| *to == node(2) && a.previous == last && a.entries.len() == 1)
    );
}
