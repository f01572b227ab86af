//! Replication and flow control, as the tests of other implementations tell them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use raft_core::message::*;
use raft_core::*;

use crate::few::Few;
use crate::one::*;

/// What was sent to this peer: where each AppendEntries begins, and how many entries it brings.
fn sent_to(effects: &[Effect], peer: u64) -> Vec<(Index, usize)> {
    appends(effects)
        .into_iter()
        .filter(|(to, _)| *to == node(peer))
        .map(|(_, append)| (append.previous.index, append.entries.len()))
        .collect()
}

/// While a leader does not know where the logs join, one AppendEntries is under way, however much comes in
/// meanwhile. Its answer opens the way: what waited leaves at once, and all that follows without waiting.
#[test]
fn a_probe_is_one_append_and_its_answer_opens_the_pipeline() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    let effects = one.elect();
    assert_eq!(sent_to(&effects, 2), [(1, 1)]);
    for _ in 0..5 {
        let effects = one.put("x");
        assert_eq!(sent_to(&effects, 2), [], "the probe is not answered");
        assert_eq!(sent_to(&effects, 3), []);
    }
    let term = one.raft.term();
    assert_eq!(sent_to(&one.hear(2, ack(term, 2)), 2), [(2, 5)]);
    for index in 7..10 {
        assert_eq!(sent_to(&one.put("x"), 2), [(index, 1)]);
    }
    assert_eq!(sent_to(&one.put("x"), 3), [], "3 has not answered");
}

/// A lost probe is sent again once the peer has answered heartbeats without it; an answer that comes sooner
/// doubles nothing.
#[test]
fn a_lost_probe_is_sent_again() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.elect();
    let term = one.raft.term();
    assert_eq!(sent_to(&one.hear(2, heartbeat_reply(term, 0)), 2), []);
    let mut again = Vec::new();
    for _ in 0..3 {
        one.wait(milliseconds(375));
        again.extend(sent_to(&one.hear(2, heartbeat_reply(term, 0)), 2));
        one.hear(3, heartbeat_reply(term, 0));
    }
    assert_eq!(again, [(1, 1)], "once in two heartbeats");
}

/// What is under way to one peer is bounded by number. Each acknowledgement makes room for as many as it
/// covers, none for what it covers already, and others are not held up.
#[test]
fn a_pipeline_is_bounded_by_number() {
    let options = Options {
        max_inflight_batches: 4,
        ..Options::default()
    };
    let mut one = One::with(1, configuration(&[1, 2, 3]), &[1], options);
    one.elect();
    one.all_ack();
    let (term, base) = (one.raft.term(), one.raft.last().index);
    let mut sent = Vec::new();
    for number in 1..=10 {
        let effects = one.put("x");
        sent.extend(sent_to(&effects, 2));
        one.hear(3, ack(term, base + number));
    }
    let expected: Vec<_> = (base..base + 4).map(|index| (index, 1)).collect();
    assert_eq!(sent, expected, "four are under way, and no more");
    // Two are acknowledged: two more leave. The first takes all that waited.
    let effects = one.hear(2, ack(term, base + 2));
    assert_eq!(sent_to(&effects, 2), [(base + 4, 6)]);
    assert_eq!(sent_to(&one.put("x"), 2), [(base + 10, 1)]);
    assert_eq!(sent_to(&one.put("x"), 2), [], "full again");
    for old in [base, base + 1, base + 2] {
        assert_eq!(sent_to(&one.hear(2, ack(term, old)), 2), [], "nothing new");
    }
    assert_eq!(sent_to(&one.hear(2, ack(term, base + 3)), 2).len(), 1);
}

/// It is bounded by bytes as well.
#[test]
fn a_pipeline_is_bounded_by_bytes() {
    let options = Options {
        max_inflight_bytes: 1_000,
        ..Options::default()
    };
    let mut one = One::with(1, configuration(&[1, 2, 3]), &[1], options);
    one.elect();
    one.all_ack();
    let (term, base) = (one.raft.term(), one.raft.last().index);
    let text = "x".repeat(400);
    let sent: Vec<_> = (0..6).map(|_| sent_to(&one.put(&text), 2).len()).collect();
    assert_eq!(sent, [1, 1, 1, 0, 0, 0], "as long as there is room at all");
    assert_eq!(
        sent_to(&one.hear(2, ack(term, base + 3)), 2),
        [(base + 3, 3)]
    );
}

/// A full pipeline that goes unanswered is taken for lost: the peer is asked anew where the logs join.
#[test]
fn a_full_pipeline_that_is_lost_is_sent_again() {
    let options = Options {
        max_inflight_batches: 2,
        ..Options::default()
    };
    let mut one = One::with(1, configuration(&[1, 2, 3]), &[1], options);
    one.elect();
    one.all_ack();
    let (term, base) = (one.raft.term(), one.raft.last().index);
    for _ in 0..5 {
        one.put("x");
    }
    assert_eq!(sent_to(&one.hear(2, heartbeat_reply(term, 0)), 2), []);
    let mut again = Vec::new();
    for _ in 0..2 {
        one.wait(milliseconds(375));
        again.extend(sent_to(&one.hear(2, heartbeat_reply(term, 0)), 2));
    }
    assert_eq!(again, [(base, 5)]);
}

/// A stream that is new has lost what the old one carried: it begins with one AppendEntries, right behind what
/// is acknowledged.
#[test]
fn a_new_stream_begins_with_a_probe() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let base = one.raft.last().index;
    for _ in 0..3 {
        one.put("x");
    }
    let effects = one.settle(Input::Connected { peer: node(2) });
    assert_eq!(sent_to(&effects, 2), [(base, 3)]);
    assert_eq!(sent_to(&one.put("x"), 2), []);
}

/// Two AppendEntries change places on the way; the follower denies the second, which came first, and takes
/// the first. The late denial reaches the leader after the acknowledgement, and moves it back behind nothing
/// that is acknowledged.
#[test]
fn a_denial_that_was_overtaken_moves_nothing_back() {
    let mut few = Few::led_by_1(2);
    few.put(1, "first");
    let first = few.keep_back(|_| true).remove(0);
    few.put(1, "second");
    let second = few.keep_back(|_| true).remove(0);
    few.hand_over(second);
    let denial = few.keep_back(|_| true).remove(0);
    few.hand_over(first);
    few.deliver();
    assert_eq!(few.commit_index(1), 3);
    few.input(1, Input::Connected { peer: node(2) });
    few.keep_back(|_| true);
    few.hand_over(denial);
    for letter in &few.post {
        if let Message::AppendEntries(append) = &letter.message {
            assert!(append.previous.index >= 3, "{append:?}");
        }
    }
    few.deliver();
    few.heartbeat(1);
    few.heartbeat(1);
    few.heartbeat(1);
    assert_eq!(few.commit_index(1), 4);
    assert_eq!(few.log(1), few.log(2));
}

/// The first AppendEntries of each case is denied; where the leader goes on tells how fast it finds the place
/// where the logs part: by terms, and from what both know.
#[test]
fn the_place_where_logs_part_is_found_by_terms() {
    // The leader's log, the follower's, and where the second AppendEntries begins.
    let cases: &[(&[Term], &[Term], Index)] = &[
        // The follower's tail is of one term that the leader does not have.
        (
            &[1, 2, 2, 4, 4, 4, 4],
            &[1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
            3,
        ),
        (
            &[1, 2, 2, 3, 4, 4, 4, 5],
            &[1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
            4,
        ),
        // The leader's tail is of one term that the follower does not have.
        (&[1, 1, 1, 1], &[1, 2, 2, 4], 1),
        (&[1, 1, 1, 1, 1, 1], &[1, 2, 2, 4], 1),
        (&[1, 1, 1, 1], &[1, 2, 2, 4, 4, 4], 1),
        // The follower is only shorter.
        (&[1, 1, 1, 4, 5], &[1, 1, 1, 4], 4),
        // Both tails are of many terms: each step leaves a whole one behind.
        (&[1, 3, 3, 3, 5, 5, 5, 5, 5], &[1, 2, 2, 2, 4, 4, 6, 6], 4),
        (&[1, 3, 3, 3, 3, 3, 3, 3, 7], &[1, 2, 2, 4, 4, 6, 6, 6], 8),
    ];
    for (leader, follower, expected) in cases {
        let mut one = One::new(1, &[1, 2, 3], leader);
        one.hear(3, Message::HigherTerm { term: 8 });
        let first = appends(&one.elect());
        let first = first.into_iter().find(|(to, _)| *to == node(2)).unwrap();
        let mut two = One::new(2, &[1, 2, 3], follower);
        let answer = sent(&two.hear(1, Message::AppendEntries(first.1)));
        let denial = answer.into_iter().next().unwrap().1;
        let effects = one.hear(2, denial);
        let (next, _) = sent_to(&effects, 2)[0];
        assert_eq!(next, *expected, "{leader:?} and {follower:?}");
    }
}

/// A heartbeat tells a peer of no commit beyond what that peer acknowledged, and whoever is told of less than
/// it knows forgets nothing.
#[test]
fn a_heartbeat_tells_what_the_peer_can_commit() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let (term, last) = (one.raft.term(), one.raft.last().index);
    one.put("x");
    one.put("y");
    one.hear(2, ack(term, last + 2));
    assert_eq!(one.raft.commit_index(), last + 2);
    let told = heartbeats(&one.wait(milliseconds(375)));
    let told = |peer| {
        let of_peer = |(to, heartbeat): &(NodeId, Heartbeat)| {
            (*to == node(peer)).then_some(heartbeat.commit_index)
        };
        told.iter().find_map(of_peer)
    };
    assert_eq!((told(2), told(3)), (Some(last + 2), Some(last)));
    let mut one = One::new(2, &[1, 2, 3], &[1]);
    one.hear(1, append(1, at(1, 1), &[1, 1], 3));
    one.hear(1, heartbeat(1, 1, &[]));
    one.hear(1, append(1, at(1, 1), &[1], 2));
    assert_eq!(one.raft.commit_index(), 3);
}

/// A peer that has everything, but missed the word that it is committed, is told by the next heartbeat.
#[test]
fn a_lagging_commit_index_is_told_by_the_next_heartbeat() {
    let mut few = Few::led_by_1(3);
    let index = few.put(1, "x");
    let to_2 = few.keep_back(|letter| letter.to == 2);
    few.deliver();
    assert_eq!(few.commit_index(1), index, "with 3");
    for letter in to_2 {
        few.hand_over(letter);
    }
    let acks = few.keep_back(|letter| letter.from == 2);
    for letter in acks {
        few.hand_over(letter);
    }
    few.keep_back(|letter| letter.to == 2);
    assert!(few.commit_index(2) < index, "the word was lost");
    few.heartbeat(1);
    assert_eq!(few.commit_index(2), index);
}

/// A learner receives, acknowledges, is told what is committed, and counts for nothing.
#[test]
fn a_learner_gets_the_log_and_does_not_count() {
    let base = Configuration {
        learners: voters(&[3]),
        ..configuration(&[1, 2])
    };
    let ones = [1, 2, 3].map(|id| One::with(id, base.clone(), &[1], Options::default()));
    let mut few = Few::of(ones);
    assert!(few.campaign(1));
    few.part(&[2]);
    let index = few.put_and_deliver(1, "x");
    assert_eq!(few.last(3).index, index, "the learner has it");
    assert!(few.commit_index(1) < index, "and that commits nothing");
    few.heal();
    for _ in 0..3 {
        few.heartbeat(1);
    }
    assert!((1..=3).all(|id| few.commit_index(id) >= index));
}

/// A leader that was cut off comes back: its AppendEntries of the older term change nothing, at the followers
/// and at the new leader, and it is told of the newer term.
#[test]
fn an_older_leader_is_told_and_changes_nothing() {
    let mut few = Few::led_by_1(3);
    few.put(1, "on its way for a long time");
    let old = few.keep_back(|_| true);
    few.part(&[1]);
    assert!(few.campaign(2));
    few.put_and_deliver(2, "new");
    let logs = [few.terms(2), few.terms(3)];
    few.heal();
    for letter in old {
        for to in [2, 3] {
            few.hand_over(crate::few::Letter {
                to,
                ..letter.clone()
            });
        }
    }
    assert_eq!([few.terms(2), few.terms(3)], logs);
    few.deliver();
    assert!(few.leads(2) && !few.leads(1));
    assert_eq!(few.term(1), few.term(2));
}

/// A leader's own disk is late: the report comes when it leads no more, or leads again. It commits nothing
/// that a majority does not hold, and the new reign begins from what is really there.
#[test]
fn a_leaders_own_write_that_is_reported_after_its_term() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let (term, last) = (one.raft.term(), one.raft.last().index);
    one.step(put(1, "x"));
    one.hear_only(2, heartbeat(term + 1, 0, &[]));
    one.hear_only(3, ack(term, last + 1));
    assert_eq!(one.raft.role(), RoleName::Follower);
    let effects = one.sync();
    assert_eq!(committed(&effects), None);
    assert_eq!(one.raft.commit_index(), last);
    // It is overwritten while the disk is late again, and the same index is its own once more.
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    one.step(put(1, "x"));
    let late = one.write_one();
    one.hear_only(2, append(term + 1, at(last, term), &[term + 1], 0));
    let effects = one.step(Input::Persisted(late));
    assert_eq!((outcome(&effects), one.raft.durable_index()), (None, last));
    one.sync();
    one.elect();
    let last = one.raft.last().index;
    one.step(put(2, "y"));
    one.hear_only(2, ack(one.raft.term(), last));
    assert_eq!(one.raft.commit_index(), last, "the no-op, and not y");
    one.sync();
    assert_eq!(one.raft.commit_index(), last);
}

/// 1 receives entries of a leader, while its disk is behind; a second leader overwrites them, and a third the
/// second's; the indices are the same all along. The disk reports the first write, then the others: nothing
/// is acknowledged before it is what the disk will keep.
#[test]
fn entries_that_are_overwritten_while_the_disk_is_behind() {
    let mut one = One::new(1, &[1, 2, 3, 4, 5, 6, 7], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    one.hear_only(2, append(1, at(1, 1), &[1, 1], 0));
    one.hear_only(3, append(2, at(1, 1), &[2, 2], 0));
    one.hear_only(4, heartbeat(3, 0, &[]));
    one.hear_only(4, append(3, at(1, 1), &[3, 3], 0));
    assert_eq!(one.terms(), [1, 3, 3]);
    let mut acknowledged = Vec::new();
    while one.queue.len() > 1 {
        acknowledged.extend(outcome(&one.sync_one()));
        let durable = one.raft.durable_index();
        assert_eq!(durable, 1, "a write of an older history");
    }
    let beginning = AppendOutcome::Durable { index: 1 };
    assert!(acknowledged.iter().all(|outcome| *outcome == beginning));
    assert_eq!(outcome(&one.sync()), durable(3));
    assert_eq!(
        one.log.iter().map(|e| e.term).collect::<Vec<_>>(),
        [1, 3, 3]
    );
}

/// Entries that no majority confirms are bounded in bytes. One that is larger than all that is left is taken
/// while nothing waits, and a new leader counts what it inherited.
#[test]
fn uncommitted_entries_are_bounded_in_bytes() {
    let options = Options {
        max_uncommitted_bytes: 3_000,
        ..Options::default()
    };
    let mut one = One::with(1, configuration(&[1, 2, 3]), &[1], options);
    one.elect();
    one.all_ack();
    let text = "x".repeat(1_000);
    let taken = |one: &mut One| {
        (0..9)
            .filter(|_| refused(&one.put(&text)).is_none())
            .count()
    };
    assert_eq!(taken(&mut one), 3);
    assert_eq!(refused(&one.put("small")), Some(Refusal::Overloaded));
    one.all_ack();
    assert_eq!(taken(&mut one), 3, "all is confirmed: as much again");
    // The role is lost and won again, the entries are still there.
    one.hear(
        2,
        Message::HigherTerm {
            term: one.raft.term() + 1,
        },
    );
    one.elect();
    assert_eq!(refused(&one.put("small")), Some(Refusal::Overloaded));
    one.all_ack();
    let huge = "x".repeat(100_000);
    assert_eq!(refused(&one.put(&huge)), None, "alone it goes");
}

/// §5.3: the commit index by its definition, found by trying every index.
fn naive_commit_index(halves: &[BTreeSet<NodeId>], reached: impl Fn(NodeId) -> Index) -> Index {
    let committed = |index: &Index| {
        halves.iter().all(|half| {
            let copies = half.iter().filter(|voter| reached(**voter) >= *index);
            2 * copies.count() > half.len()
        })
    };
    (0..=50).rev().find(committed).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The quorum's index, and its vote, are those of the definition, joint or not.
    #[test]
    fn a_quorum_is_what_the_definition_says(
        new in proptest::collection::btree_set(1_u64..12, 1..8),
        old in proptest::collection::btree_set(1_u64..12, 0..8),
        reached in proptest::collection::vec(0_u64..50, 12),
    ) {
        let set = |numbers: &BTreeSet<u64>| numbers.iter().copied().map(node).collect::<BTreeSet<_>>();
        let configuration = Configuration {
            voters: set(&new),
            outgoing: set(&old),
            ..Configuration::default()
        };
        let halves: Vec<_> = [set(&new), set(&old)].into_iter().filter(|half| !half.is_empty()).collect();
        let of = |id: NodeId| reached[usize::try_from(id.0).unwrap()];
        let expected = naive_commit_index(&halves, of);
        prop_assert_eq!(configuration.quorum_index(of), expected);
        for index in [expected, expected + 1] {
            let is_quorum = configuration.is_quorum(|voter| of(voter) >= index);
            prop_assert_eq!(is_quorum, index == expected);
        }
    }
}
