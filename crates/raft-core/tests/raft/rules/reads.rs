//! R1 and R2: linearizable reads.

use std::collections::BTreeSet;

use raft_core::message::*;
use raft_core::*;

use crate::one::*;

fn read(one: &mut One, request: u64) -> Vec<Effect> {
    let deadline = one.now + SECOND;
    one.settle(Input::ReadIndex { request, deadline })
}

fn round_of(effects: &[Effect]) -> u64 {
    heartbeats(effects)
        .last()
        .map_or(0, |(_, heartbeat)| heartbeat.round)
}

/// R1: a new leader that has not committed an entry of its term answers no read, its own or a
/// follower's, however many confirm that it leads.
#[test]
fn r1_no_read_before_an_entry_of_the_term_is_committed() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1, 1]);
    one.elect();
    let term = one.raft.term();
    let mut effects = read(&mut one, 5);
    effects.extend(one.hear(2, Message::ReadIndex { term, ask: 70 }));
    for round in 0..5 {
        effects.extend(one.hear(2, heartbeat_reply(term, round)));
        effects.extend(one.hear(3, heartbeat_reply(term, round)));
    }
    let replies = |effects: &[Effect]| {
        let messages = sent(effects);
        messages
            .iter()
            .filter(|(_, m)| matches!(m, Message::ReadIndexReply { .. }))
            .count()
    };
    assert_eq!((read_ready(&effects), replies(&effects)), (None, 0));
    let effects = one.hear(2, ack(term, 4));
    let effects = one.hear(2, heartbeat_reply(term, round_of(&effects)));
    assert_eq!((read_ready(&effects), replies(&effects)), (Some((5, 4)), 1));
}

/// R1: they wait with a deadline.
#[test]
fn r1_a_read_that_waits_too_long_fails() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    read(&mut one, 5);
    let effects = one.wait(SECOND);
    let reason = Refusal::Deadline;
    assert!(effects.contains(&Effect::ReadFailed { request: 5, reason }));
}

/// R2: a read that comes while a round is under way is not served by it.
#[test]
fn r2_a_read_joins_no_round_that_was_sent_before_it() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let term = one.raft.term();
    let first = round_of(&read(&mut one, 5));
    // Between the two reads something is written and acknowledged.
    one.put("x");
    let index = one.raft.last().index;
    one.hear(3, ack(term, index));
    let effects = read(&mut one, 6);
    assert!(
        heartbeats(&effects)
            .iter()
            .all(|(_, heartbeat)| heartbeat.round <= first)
    );
    let effects = one.hear(2, heartbeat_reply(term, first));
    assert_eq!(read_ready(&effects).unwrap().0, 5);
    let ready: Vec<_> = effects
        .iter()
        .filter(|e| matches!(e, Effect::ReadReady { .. }))
        .collect();
    assert_eq!(ready.len(), 1, "6 waits for the next round");
    let second = round_of(&effects);
    assert!(second > first);
    let effects = one.hear(2, heartbeat_reply(term, second));
    assert_eq!(read_ready(&effects), Some((6, index)));
}

/// R2: learners confirm nothing, nor do acknowledgements of entries; a joint configuration confirms
/// with both halves.
#[test]
fn r2_voters_confirm_of_both_halves() {
    let base = Configuration {
        outgoing: voters(&[1, 2, 3]),
        learners: voters(&[7, 8, 9]),
        ..configuration(&[1, 4, 5])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    let term = one.raft.term();
    one.step(Input::ReadIndex {
        request: 5,
        deadline: one.now + SECOND,
    });
    for peer in [2, 4] {
        one.hear_only(peer, ack(term, 2));
    }
    let mut effects = Vec::new();
    for peer in [7, 8, 9, 2, 3] {
        effects.extend(one.hear_only(peer, heartbeat_reply(term, 1)));
        effects.extend(one.hear_only(peer, ack(term, 2)));
    }
    assert_eq!(read_ready(&effects), None);
    assert_eq!(
        read_ready(&one.hear_only(4, heartbeat_reply(term, 1))),
        Some((5, 2))
    );
}

/// R2: a round dies with the term: an answer of the same leader's earlier term confirms nothing.
#[test]
fn r2_a_round_dies_with_the_term() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let old = one.raft.term();
    let round = round_of(&read(&mut one, 5));
    let effects = one.hear(2, Message::HigherTerm { term: old + 1 });
    let reason = Refusal::LeaderChanged;
    assert!(effects.contains(&Effect::ReadFailed { request: 5, reason }));
    one.elect();
    one.all_ack();
    let again = round_of(&read(&mut one, 6));
    assert_eq!(
        round, again,
        "the numbers begin anew, so the term must tell them apart"
    );
    assert_eq!(read_ready(&one.hear(2, heartbeat_reply(old, round))), None);
    assert!(read_ready(&one.hear(2, heartbeat_reply(one.raft.term(), again))).is_some());
}

fn asks(effects: &[Effect]) -> Vec<u64> {
    let messages = sent(effects).into_iter();
    messages
        .filter_map(|(_, m)| {
            if let Message::ReadIndex { ask, .. } = m {
                Some(ask)
            } else {
                None
            }
        })
        .collect()
}

/// R2: a follower's read joins no ask that has left already; a retry has a new name, and an answer to
/// the old one is void; no name comes back after a restart.
#[test]
fn r2_asks_are_never_reused() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    let first = asks(&read(&mut one, 5));
    assert_eq!((first.len(), asks(&read(&mut one, 6)).len()), (1, 0));
    let reply = |ask| Message::ReadIndexReply {
        term: 1,
        ask,
        index: 1,
    };
    let effects = one.hear(2, reply(first[0]));
    let ready = effects
        .iter()
        .filter(|e| matches!(e, Effect::ReadReady { .. }))
        .count();
    assert_eq!((read_ready(&effects), ready), (Some((5, 1)), 1));
    let second = asks(&effects);
    let retried = asks(&one.wait(milliseconds(250)));
    assert_eq!(retried.len(), 1, "no answer: it asks again");
    assert_eq!(
        read_ready(&one.hear(2, reply(second[0]))),
        None,
        "an answer to what was given up"
    );
    let mut one = one.crash();
    one.hear(2, heartbeat(1, 0, &[]));
    let reborn = asks(&read(&mut one, 7));
    let all: BTreeSet<_> = [first, second, retried, reborn]
        .concat()
        .into_iter()
        .collect();
    assert_eq!(all.len(), 4);
}

/// R2: an ask dies with its leader and its term.
#[test]
fn r2_an_ask_dies_with_the_term() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    let first = asks(&read(&mut one, 5))[0];
    let effects = one.hear(3, heartbeat(2, 0, &[]));
    let second = asks(&effects);
    assert_eq!(second.len(), 1, "the new leader is asked");
    for (from, term) in [(2, 1), (2, 2), (3, 2)] {
        let old = Message::ReadIndexReply {
            term,
            ask: first,
            index: 1,
        };
        assert_eq!(read_ready(&one.hear(from, old)), None);
    }
}
