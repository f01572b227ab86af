//! Answers that come late, and what must not count while a question is open: each test is a schedule
//! that once wedged a peer, condemned a healthy one, or believed a sick one.

use crate::one::*;
use raft_core::{
    Configuration, Effect, Event, Input, Message, NodeId, Options, Payload, Proposal, Refusal,
    RoleName,
};

/// §5.3: entries are being read from the disk for a peer, when a late acknowledgement shows that it has
/// them. What was read is not wanted any more; what follows must leave at once all the same.
#[test]
fn a_fetch_that_was_overtaken_does_not_wedge_the_peer() {
    let options = Options {
        log_cache_bytes: 0,
        ..Options::default()
    };
    let mut one = One::with(1, configuration(&[1, 2, 3]), &[1; 9], options);
    one.elect();
    let term = one.raft.term();
    one.hear(3, ack(term, one.raft.last().index));
    // Everything durable has left memory: peer 2 denies the newest entry, and older ones are fetched.
    let effects = one.hear(2, conflict(term, 9, at(4, 1)));
    let from = effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Fetch { from, .. } => Some(*from),
            _ => None,
        })
        .expect("it is read from the disk");
    assert_eq!(from, 5);
    one.hear(2, ack(term, 7));
    let entries = one.log[4..9].to_vec();
    let effects = one.settle(Input::Fetched {
        peer: node(2),
        from,
        entries,
    });
    let goes_on = effects
        .iter()
        .any(|effect| matches!(effect, Effect::Fetch { peer, from: 8, .. } if *peer == node(2)))
        || appends(&effects)
            .iter()
            .any(|(to, append)| *to == node(2) && append.previous.index == 7);
    assert!(goes_on, "nothing goes on for peer 2: {effects:?}");
}

/// D5: an acknowledgement overtakes the denial that was sent before it. Nobody is accused by a late word, and
/// the peer is fed again.
#[test]
fn an_overtaken_denial_accuses_nobody() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let (term, last) = (leader.raft.term(), leader.raft.last());
    leader.hear(2, ack(term, last.index));
    let effects = leader.hear(2, conflict(term, last.index, at(1, 1)));
    let accused = |effect: &Effect| matches!(effect, Effect::Event(Event::Nonsense { .. }));
    assert!(!effects.iter().any(accused), "{effects:?}");
    assert_eq!(
        appends(&effects),
        [],
        "nothing is under way, and nothing lost"
    );
    leader.settle(Input::Connected { peer: node(2) });
    let effects = leader.hear(2, conflict(term, last.index, at(1, 1)));
    assert!(!effects.iter().any(accused), "{effects:?}");
    assert_eq!(appends(&effects), [], "no hot loop of probes");
    leader.wait(Options::default().heartbeat_interval * 2);
    let effects = leader.hear(2, heartbeat_reply(term, 0));
    let [(to, append)] = &appends(&effects)[..] else {
        panic!("it is asked where the logs join: {effects:?}");
    };
    assert_eq!((*to, append.previous), (node(2), last));
}

/// D5: a peer acknowledged in this term over a stream that it had opened in an earlier one. A Hello of that
/// earlier term is less than the acknowledgement, though no Hello ever said more.
#[test]
fn an_acknowledgement_is_a_word_of_its_term() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.settle(hello(2, 1, term - 1, 1, false));
    leader.hear(2, ack(term, last));
    let effects = leader.settle(hello(2, 2, term - 1, 1, false));
    assert_eq!(challenges(&effects), 1, "{effects:?}");
    assert!(rolled_back(&leader.settle(hello(2, 2, term - 1, 1, true))));
}

/// D5: two hellos in a row seem to fall short, the second of even more. The answer to the first question
/// is no answer to the second: it was true when it was asked.
#[test]
fn an_answer_to_an_earlier_challenge_condemns_nobody() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1, 1]);
    let (term, early) = (leader.raft.term(), leader.raft.last().index);
    leader.settle(hello(2, 1, term, early, false));
    let effects = leader.settle(hello(2, 1, term, early - 1, false));
    assert_eq!(challenges(&effects), 1);
    leader.put("x");
    leader.hear(2, ack(term, early + 1));
    let effects = leader.settle(hello(2, 1, term, early, false));
    assert_eq!(challenges(&effects), 1, "the open question is asked again");
    // What its disk held when the first question reached it.
    let effects = leader.settle(hello(2, 1, term, early, true));
    assert!(!rolled_back(&effects));
}

/// D5: a peer that was doubted, and cleared, is doubted again. What it said to the first question is
/// no answer to the second: its disk may have gone back in between.
#[test]
fn an_answer_to_an_earlier_doubt_settles_no_later_one() {
    let answered = |term, index, number| Input::Hello {
        peer: node(2),
        boot: 1,
        term,
        durable_index: index,
        challenged: Some(number),
    };
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1, 1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.settle(hello(2, 1, term, last, false));
    let effects = leader.settle(hello(2, 1, term, last - 1, false));
    let first = challenge_number(&effects).unwrap();
    leader.settle(answered(term, last, first));
    let effects = leader.settle(hello(2, 1, term, last - 1, false));
    let second = challenge_number(&effects).unwrap();
    assert!(second > first);
    leader.put("x");
    leader.hear(2, ack(term, last + 1));
    let effects = leader.settle(answered(term, last, first));
    assert!(!rolled_back(&effects));
    assert_eq!(leader.raft.commit_index(), last, "it is still in doubt");
    leader.settle(answered(term, last + 1, second));
    assert_eq!(leader.raft.commit_index(), last + 1);
}

/// D5: the highest (boot, term) that a voter ever reported never falls on this disk, whatever order its
/// answers come in.
#[test]
fn a_late_answer_does_not_lower_what_is_remembered() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1]);
    one.settle(hello(2, 7, 5, 2, false));
    assert_eq!(challenges(&one.settle(hello(2, 6, 5, 2, false))), 1);
    one.settle(hello(2, 9, 6, 2, false));
    assert_eq!(one.hard_state.peers[&node(2)], (9, 6));
    assert!(!rolled_back(&one.settle(hello(2, 7, 5, 2, true))));
    assert_eq!(one.hard_state.peers[&node(2)], (9, 6));
}

/// D5: while a new term is being written, the log may have given way to the new leader's already: told
/// under the old term that would look like a loss. Nothing is claimed until both are durable.
#[test]
fn a_claim_names_term_and_index_of_one_moment() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1, 1, 1, 1]);
    assert_eq!(one.raft.durable_claim(), Some((1, 5)));
    one.hear_only(3, append(2, at(3, 1), &[2], 0));
    assert_eq!(one.raft.durable_claim(), None);
    one.sync();
    assert_eq!(one.raft.durable_claim(), Some((2, 4)));
}

/// D5: a node whose disk may have gone back is asked. Until it has answered, its acknowledgement commits
/// nothing; the answer makes it count, without its being sent again.
#[test]
fn a_suspect_commits_nothing() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.settle(hello(2, 1, term, last, false));
    let effects = leader.settle(hello(2, 1, term, last - 1, false));
    assert_eq!(challenges(&effects), 1);
    leader.put("x");
    leader.hear(2, ack(term, last + 1));
    assert_eq!(
        leader.raft.commit_index(),
        last,
        "it may have lost what it acks"
    );
    let effects = leader.settle(hello(2, 1, term, last + 1, true));
    assert!(!rolled_back(&effects));
    assert_eq!(leader.raft.commit_index(), last + 1);
}

/// D5: once condemned, it never counts again, though a stream of its may still be open.
#[test]
fn the_condemned_commit_nothing() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.settle(hello(2, 1, term, last - 1, false));
    assert!(rolled_back(&leader.settle(hello(
        2,
        1,
        term,
        last - 1,
        true
    ))));
    leader.put("x");
    leader.hear(2, ack(term, last + 1));
    assert_eq!(leader.raft.commit_index(), last);
    leader.hear(3, ack(term, last + 1));
    assert_eq!(
        leader.raft.commit_index(),
        last + 1,
        "the healthy are enough"
    );
}

/// D5, R2: a suspect confirms no read either.
#[test]
fn a_suspect_confirms_no_read() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.settle(hello(2, 1, term, last - 1, false));
    let deadline = leader.now + milliseconds(5000);
    let effects = leader.settle(Input::ReadIndex {
        request: 9,
        deadline,
    });
    let round = heartbeats(&effects)[0].1.round;
    assert_eq!(
        read_ready(&leader.hear(2, heartbeat_reply(term, round))),
        None
    );
    let effects = leader.settle(hello(2, 1, term, last, true));
    assert_eq!(read_ready(&effects), Some((9, last)), "{effects:?}");
}

/// D5: nor does it elect anyone, until it has answered.
#[test]
fn a_suspect_elects_nobody() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1]);
    one.settle(hello(2, 7, 1, 2, false));
    one.settle(hello(2, 6, 1, 2, false));
    one.wait_for_campaign();
    let term = one.raft.term() + 1;
    one.hear(2, answer(term, PRE_VOTE, true));
    assert_eq!(one.raft.role(), RoleName::PreCandidate);
    one.settle(hello(2, 7, 1, 2, true));
    one.sync();
    assert_eq!(one.raft.role(), RoleName::Candidate);
    one.settle(hello(2, 6, 1, 2, false));
    one.hear(2, answer(term, VOTE, true));
    assert_eq!(one.raft.role(), RoleName::Candidate);
    one.hear(3, answer(term, VOTE, true));
    assert_eq!(one.raft.role(), RoleName::Leader);
}

/// D5: the question or its answer may be lost while other streams go on: it is asked again, at the pace
/// of elections, for as long as the peer speaks.
#[test]
fn a_lost_challenge_is_asked_again() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.settle(hello(2, 1, term, last - 1, false));
    let mut asked = 0;
    for _ in 0..30 {
        leader.wait(milliseconds(100));
        asked += challenges(&leader.hear(2, heartbeat_reply(term, 0)));
        leader.hear(3, heartbeat_reply(term, 0));
    }
    assert_eq!(asked, 3, "3 s, at most once in 750 ms");
}

/// M5: the leader that appended C_new dies; its successor holds C_new uncommitted. Those whom it drops
/// are still fed, and told, or they would vote on for ever.
#[test]
fn an_inherited_final_configuration_reaches_those_it_drops() {
    let mut one = One::new(1, &[1, 2, 3, 4], &[1, 1]);
    let mut next = configuration(&[1, 2, 3]);
    next.removed = voters(&[4]);
    let append = raft_core::message::AppendEntries {
        term: 1,
        previous: at(2, 1),
        entries: vec![raft_core::Entry {
            index: 3,
            term: 1,
            log_time_ms: 0,
            payload: Payload::Configuration(next.into()),
        }],
        commit_index: 2,
    };
    one.hear(2, Message::AppendEntries(append));
    let effects = one.elect();
    let fed: Vec<NodeId> = appends(&effects).into_iter().map(|(to, _)| to).collect();
    assert!(fed.contains(&node(4)), "fed: {fed:?}");
    let (term, last) = (one.raft.term(), one.raft.last().index);
    one.hear(4, ack(term, last));
    one.hear(2, ack(term, last));
    let mut effects = one.hear(3, ack(term, last));
    effects.extend(one.sync());
    assert!(one.raft.commit_index() >= 3);
}

/// M1, M5: who was dropped hears, as a last word, that it is committed.
#[test]
fn the_dropped_hear_that_it_is_committed() {
    let mut one = One::leader(1, &[1, 2, 3, 4], &[1, 1]);
    one.settle(Input::Leave {
        request: 1,
        node: node(4),
    });
    let mut effects = Vec::new();
    for _ in 0..20 {
        effects.extend(one.wait(milliseconds(100)));
        let (term, last) = (one.raft.term(), one.raft.last().index);
        // The leaver is the first to acknowledge, so that only the last word can tell it.
        for peer in [4, 2, 3] {
            effects.extend(one.hear(peer, heartbeat_reply(term, 0)));
            effects.extend(one.hear(peer, ack(term, last)));
        }
    }
    let (index, configuration) = one.raft.committed_configuration();
    assert!(!configuration.contains(node(4)) && !configuration.is_joint());
    let told = notices(&effects)
        .into_iter()
        .filter(|(to, _, _)| *to == node(4))
        .map(|(_, _, commit_index)| commit_index)
        .max();
    assert!(told >= Some(index), "told {told:?}, committed at {index}");
}

/// M1, M5: also when they are the last to acknowledge it, which half of them are, and when the word is lost:
/// they are fed for an election timeout more, and then let go.
#[test]
fn the_dropped_hear_it_though_they_acknowledge_last() {
    let mut one = One::leader(1, &[1, 2, 3, 4], &[1, 1]);
    let term = one.raft.term();
    let others_answer = |one: &mut One| {
        for peer in [2, 3] {
            one.hear(peer, heartbeat_reply(term, 0));
            one.hear(peer, ack(term, one.raft.last().index));
        }
    };
    one.settle(Input::Leave {
        request: 1,
        node: node(4),
    });
    while one.raft.committed_configuration().1.contains(node(4)) {
        one.wait(milliseconds(100));
        if one.raft.configuration().1.contains(node(4)) {
            one.hear(4, ack(term, one.raft.last().index));
        }
        others_answer(&mut one);
    }
    let index = one.raft.committed_configuration().0;
    let told = notices(&one.hear(4, ack(term, index)));
    assert_eq!(told, [(node(4), term, index)]);
    // Once more, should that be lost.
    let effects = one.wait(milliseconds(400));
    let again = heartbeats(&effects).into_iter();
    let again = again.filter(|(to, beat)| *to == node(4) && beat.commit_index >= index);
    assert_eq!(again.count(), 1);
    let mut effects = Vec::new();
    for _ in 0..5 {
        effects = one.wait(milliseconds(400));
        others_answer(&mut one);
    }
    assert!(heartbeats(&effects).iter().all(|(to, _)| *to != node(4)));
    assert!(!one.raft.peers().contains_key(&node(4)));
    assert_eq!(one.raft.role(), RoleName::Leader);
}

/// M1: who is about to end is no heir, takes nothing over, and does not campaign; it votes on.
#[test]
fn who_is_about_to_end_takes_nothing_over() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let term = leader.raft.term();
    leader.hear(2, stopping_reply(term));
    let effects = leader.wait(milliseconds(400));
    assert_eq!(heartbeats(&effects)[0].1.succession, [node(3)]);

    let mut one = One::new(2, &[1, 2, 3], &[1, 1]);
    one.hear(1, heartbeat(1, 0, &[2, 3]));
    one.settle(Input::Stopping);
    let effects = one.hear(1, Message::TimeoutNow { term: 1, token: 5 });
    assert!(vote_requests(&effects).is_empty());
    assert!(vote_requests(&one.wait(milliseconds(10_000))).is_empty());
    assert_eq!(granted(&one.hear(3, ask(2, VOTE, at(2, 1)))), Some(true));
}

/// D4: a write that is larger than a batch may take its time; the same wait for a small one is sickness.
#[test]
fn a_large_write_is_no_sign_of_sickness() {
    for (bytes, sick) in [(100, true), (2 << 20, false)] {
        let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
        let text = "x".repeat(bytes);
        leader.step(put(1, &text));
        let term = leader.raft.term();
        let mut fell_sick = false;
        for _ in 0..20 {
            leader.now = leader.now + milliseconds(100);
            leader.step(Input::Tick);
            fell_sick |= leader.raft.health().disk_sick;
            for peer in [2, 3] {
                leader.hear_only(peer, heartbeat_reply(term, 0));
            }
        }
        assert_eq!(fell_sick, sick, "{bytes} bytes");
    }
}

/// What only the leader itself may append is refused from anyone else, in a release too.
#[test]
fn a_client_brings_no_configuration() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let last = leader.raft.last();
    for payload in [
        Payload::Noop,
        Payload::Dissolve,
        Payload::Configuration(Configuration::founding(node(9), true).into()),
        Payload::Founding {
            cluster_id: raft_core::ClusterId(7),
            founder: node(9),
            alone: true,
        },
    ] {
        let request = 1;
        let effects = leader.settle(Input::PutEntries(vec![Proposal { request, payload }]));
        assert_eq!(refused(&effects), Some(Refusal::NotForClients));
    }
    assert_eq!(leader.raft.last(), last);
}

/// R1: reads fail at their own deadlines, though these are not walked at every step.
#[test]
fn every_read_fails_at_its_own_deadline() {
    for leads in [true, false] {
        let mut one = if leads {
            One::leader(1, &[1, 2, 3], &[1, 1])
        } else {
            let mut one = One::new(2, &[1, 2, 3], &[1, 1]);
            one.hear(1, heartbeat(1, 0, &[2, 3]));
            one
        };
        let start = one.now;
        for (request, wait) in [(1, 300), (2, 100), (3, 200)] {
            let deadline = start + milliseconds(wait);
            one.settle(Input::ReadIndex { request, deadline });
        }
        let mut failed = Vec::new();
        for _ in 0..40 {
            for effect in one.wait(milliseconds(10)) {
                if let Effect::ReadFailed { request, .. } = effect {
                    failed.push((request, (one.now - start).as_millis()));
                }
            }
        }
        assert_eq!(failed, [(2, 100), (3, 200), (1, 300)], "leads: {leads}");
    }
}

/// D5: nor is it voted for, before or in the election, and the term of its request is not taken over.
#[test]
fn a_suspect_is_not_voted_for() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1]);
    one.settle(hello(3, 7, 1, 2, false));
    one.settle(hello(3, 6, 1, 2, false));
    for pre_vote in [PRE_VOTE, VOTE] {
        let effects = one.hear(3, ask(2, pre_vote, at(2, 1)));
        assert_eq!(granted(&effects), Some(false));
    }
    assert_eq!(one.raft.term(), 1);
    one.settle(hello(3, 7, 1, 2, true));
    for pre_vote in [PRE_VOTE, VOTE] {
        assert_eq!(
            granted(&one.hear(3, ask(2, pre_vote, at(2, 1)))),
            Some(true)
        );
    }
}

/// D5: nor is leadership handed to it, though it once acknowledged everything.
#[test]
fn a_suspect_is_no_heir() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.settle(hello(3, 1, term, last - 1, false));
    for to in [None, Some(node(3))] {
        let effects = leader.settle(Input::Transfer { to });
        let told = sent(&effects)
            .into_iter()
            .find_map(|(to, message)| matches!(message, Message::TimeoutNow { .. }).then_some(to));
        assert_ne!(told, Some(node(3)), "asked for {to:?}");
    }
}

/// D4: a small write that waits behind a large one has not waited for long.
#[test]
fn a_small_write_behind_a_large_one_is_not_late_at_birth() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1, 1]);
    let term = leader.raft.term();
    leader.step(put(1, &"x".repeat(2 << 20)));
    let wait = |leader: &mut One, ms: u64| {
        for _ in 0..ms / 100 {
            leader.now = leader.now + milliseconds(100);
            leader.step(Input::Tick);
            for peer in [2, 3] {
                leader.hear_only(peer, heartbeat_reply(term, 0));
            }
        }
    };
    wait(&mut leader, 2000);
    leader.step(put(2, "small"));
    wait(&mut leader, 1400);
    assert!(!leader.raft.health().disk_sick);
    wait(&mut leader, 200);
    assert!(leader.raft.health().disk_sick);
}

/// P5: an order to skip an entry is taken whatever else waits: it is the way out.
#[test]
fn an_order_to_skip_is_never_overload() {
    let options = Options {
        max_uncommitted_entries: 1,
        max_unapplied_entries: 1,
        ..Options::default()
    };
    let mut leader = One::with(1, configuration(&[1, 2, 3]), &[1, 1], options);
    leader.elect();
    leader.all_ack();
    assert_eq!(refused(&leader.put("x")), Some(Refusal::Overloaded));
    let skip = Proposal {
        request: 7,
        payload: Payload::Skip { index: 2 },
    };
    let effects = leader.settle(Input::PutEntries(vec![skip]));
    assert_eq!(refused(&effects), None);
    assert_eq!(
        leader.raft.skips().values().copied().collect::<Vec<_>>(),
        [2]
    );
}

/// P5: an order is known from the moment that it stands in the log, rolled back with it, and over a
/// restart.
#[test]
fn orders_to_skip_are_kept_as_the_log_is() {
    let mut one = One::new(2, &[1, 2, 3], &[1, 1, 1]);
    let order = raft_core::message::AppendEntries {
        term: 1,
        previous: at(3, 1),
        entries: vec![raft_core::Entry {
            index: 4,
            term: 1,
            log_time_ms: 0,
            payload: Payload::Skip { index: 3 },
        }],
        commit_index: 3,
    };
    one.hear(1, Message::AppendEntries(order));
    assert_eq!(one.raft.skips().iter().next(), Some((&4, &3)));
    let mut one = one.crash();
    assert_eq!(one.raft.skips().iter().next(), Some((&4, &3)));
    one.hear(3, append(2, at(3, 1), &[2], 3));
    assert!(one.raft.skips().is_empty());
}
