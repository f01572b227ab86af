//! The schedules of the project's safety rules, as far as they concern the core: each breaks an
//! implementation that leaves the rule out.
#![allow(clippy::unwrap_used)]

mod one;
mod recovered;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use one::{
    One, PRE_VOTE, VOTE, ack, answer, append, appends, ask, at, challenges, command, committed,
    configuration, durable, granted, heartbeat, heartbeats, hello, milliseconds, node, outcome,
    put, read_ready, refused, rolled_back, sent, vote_requests, voters,
};
use raft_core::message::{Heartbeat, HeartbeatReply, RequestVote};
use raft_core::{
    ClusterId, Configuration, Effect, Entry, Event, Health, Input, MemberHint, Message, Options,
    Payload, Persisted, Position, Refusal, RoleName,
};
use world::World;

const SECOND: Duration = Duration::from_secs(1);

/// A follower of node 2 for long enough that its loss counts.
fn settled_follower(succession: &[u64]) -> One {
    let mut one = One::new(1, &[1, 2, 3, 4, 5], &[1]);
    for _ in 0..6 {
        one.hear(2, heartbeat(1, 0, succession));
        one.now = one.now + milliseconds(375);
    }
    one.hear(2, heartbeat(1, 0, succession));
    one
}

fn probes(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Probe { .. }))
        .count()
}

fn lose_leader(one: &mut One) -> Vec<Effect> {
    let probed = one.settle(Input::StreamEnded { peer: node(2) });
    assert_eq!(probes(&probed), 1);
    one.settle(Input::Probed {
        peer: node(2),
        boot: 1,
        term: 1,
        leads: false,
    })
}

// ---- E1 ----

/// E1: the heir at place k waits k x 20 ms and up to 5 ms more.
#[test]
fn e1_heirs_follow_in_order() {
    for (place, succession) in [&[1, 3, 4][..], &[3, 1, 4], &[3, 4, 1], &[3, 4, 5]]
        .iter()
        .enumerate()
    {
        let mut one = settled_follower(succession);
        lose_leader(&mut one);
        let before = one.now;
        one.wait_for_campaign();
        let waited = one.now - before;
        let least = milliseconds(20 * place as u64);
        assert!(
            waited >= least && waited <= least + milliseconds(6),
            "place {place}: {waited:?}"
        );
    }
}

/// E1: who granted anyone stays quiet for 50 ms.
#[test]
fn e1_who_granted_stays_quiet() {
    for kind in [PRE_VOTE, VOTE] {
        let mut one = settled_follower(&[1, 3]);
        lose_leader(&mut one);
        let effects = one.hear(3, ask(2, kind, at(1, 1)));
        if one.raft.role() != RoleName::Follower {
            continue; // Its spread was zero: it campaigned before.
        }
        assert_eq!(granted(&effects), Some(true));
        assert_eq!(vote_requests(&one.wait(milliseconds(49))), []);
    }
}

/// E1: a failed hinted election is tried again after 20-60 ms, at most 3 times.
#[test]
fn e1_a_failed_hinted_election_is_retried_three_times() {
    let mut one = settled_follower(&[1, 3]);
    lose_leader(&mut one);
    let mut tries = 0;
    let end = one.now + milliseconds(700);
    while one.now < end {
        let pause = (one.raft.next_deadline() - one.now).min(end - one.now);
        let effects = one.wait(pause);
        if !vote_requests(&effects).is_empty() {
            tries += 1;
            for voter in [3, 4, 5] {
                one.hear(voter, answer(2, PRE_VOTE, false));
            }
            let wait = one.raft.next_deadline() - one.now;
            assert!(
                tries == 4 || (wait >= milliseconds(20) && wait <= milliseconds(60)),
                "{wait:?}"
            );
        }
    }
    assert_eq!(tries, 4);
}

/// E1: freshest log first; a sick disk or state machine, or silence, stands behind every other.
#[test]
fn e1_the_order_of_succession() {
    let mut one = One::leader(1, &[1, 2, 3, 4, 5], &[1]);
    let term = one.raft.term();
    one.put("x");
    let last = one.raft.last().index;
    for (peer, index, sick) in [
        (2, last, true),
        (3, last - 1, false),
        (4, last, false),
        (5, last - 1, false),
    ] {
        one.hear(peer, ack(term, index));
        let health = Health {
            disk_sick: sick,
            state_machine_sick: false,
            stopping: false,
        };
        one.hear(
            peer,
            Message::HeartbeatReply(HeartbeatReply {
                term,
                round: 0,
                health,
            }),
        );
    }
    let effects = one.wait(one.options.heartbeat_interval);
    let expected: Vec<_> = [4, 3, 5, 2].into_iter().map(node).collect();
    assert_eq!(heartbeats(&effects)[0].1.succession, expected);
}

// ---- E2 ----

/// E2: an ended stream alone is no loss; a leader that answers "yes" is none; no answer for 30 ms is.
#[test]
fn e2_a_probe_decides() {
    let mut one = settled_follower(&[1]);
    let effects = one.settle(Input::StreamEnded { peer: node(2) });
    assert_eq!((probes(&effects), vote_requests(&effects).len()), (1, 0));
    one.settle(Input::Probed {
        peer: node(2),
        boot: 1,
        term: 1,
        leads: true,
    });
    assert_eq!(vote_requests(&one.wait(milliseconds(200))), []);
    one.settle(Input::StreamEnded { peer: node(2) });
    assert_eq!(vote_requests(&one.wait(milliseconds(29))), []);
    assert_eq!(
        vote_requests(&one.wait(milliseconds(10))).len(),
        4,
        "no answer is an answer"
    );
}

/// E2: an answer about another boot or term, or of another node, is not an answer.
#[test]
fn e2_an_answer_about_something_else_does_not_count() {
    for (peer, boot, term) in [(3, 1, 1), (2, 2, 1), (2, 1, 2)] {
        let mut one = settled_follower(&[1]);
        one.settle(Input::StreamEnded { peer: node(2) });
        one.settle(Input::Probed {
            peer: node(peer),
            boot,
            term,
            leads: false,
        });
        assert_eq!(vote_requests(&one.wait(milliseconds(20))), []);
    }
}

/// E2: any message of the leader clears the loss.
#[test]
fn e2_a_word_of_the_leader_clears_the_loss() {
    for message in [heartbeat(1, 0, &[3, 4, 1]), append(1, at(1, 1), &[], 0)] {
        let mut one = settled_follower(&[3, 4, 1]);
        lose_leader(&mut one);
        one.hear(2, message);
        assert_eq!(vote_requests(&one.wait(milliseconds(700))), []);
        assert_eq!(
            granted(&one.hear(3, ask(2, PRE_VOTE, at(1, 1)))),
            Some(false)
        );
    }
}

/// E2: only against a leader that was followed for ElectTimeoutMax, and once in that time.
#[test]
fn e2_a_use_needs_a_leader_of_some_standing() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[1]));
    one.now = one.now + milliseconds(500);
    assert_eq!(
        probes(&one.settle(Input::StreamEnded { peer: node(2) })),
        0,
        "followed for 0.5 s"
    );
    let mut one = settled_follower(&[3, 4, 1]);
    lose_leader(&mut one);
    one.hear(2, heartbeat(1, 0, &[3, 4, 1]));
    assert_eq!(
        probes(&one.settle(Input::StreamEnded { peer: node(2) })),
        0,
        "used just now"
    );
    assert_eq!(
        probes(&one.settle(Input::StreamEnded { peer: node(3) })),
        0,
        "not the leader"
    );
}

// ---- E3 ----

fn with_token(term: u64, token: u64) -> Message {
    let last = at(9, term - 1);
    Message::RequestVote(RequestVote {
        term,
        pre_vote: false,
        last,
        transfer_token: token,
    })
}

/// E3: a refusal because of a living leader adopts no term; it ends after ElectTimeoutMin, not after
/// the random timeout, or when the leader is lost, or for a transfer token.
#[test]
fn e3_refusal_while_a_leader_is_heard() {
    let mut one = settled_follower(&[3, 4, 1]);
    assert_eq!(granted(&one.hear(3, ask(9, VOTE, at(9, 8)))), Some(false));
    assert_eq!(one.raft.term(), 1);
    let mut late = settled_follower(&[3, 4, 1]);
    late.now = late.now + milliseconds(750);
    assert_eq!(
        granted(&late.step(Input::Message {
            from: node(3),
            message: ask(2, PRE_VOTE, at(9, 8))
        })),
        Some(true)
    );
    let mut lost = settled_follower(&[3, 4, 1]);
    lose_leader(&mut lost);
    assert_eq!(granted(&lost.hear(3, ask(2, VOTE, at(9, 8)))), Some(true));
    let mut handed = settled_follower(&[3, 4, 1]);
    assert_eq!(granted(&handed.hear(3, with_token(2, 77))), Some(true));
    let mut skipped = settled_follower(&[3, 4, 1]);
    assert_eq!(
        granted(&skipped.hear(3, with_token(5, 77))),
        Some(false),
        "not the next term"
    );
}

/// E3: a leader yields to its own token and to no other.
#[test]
fn e3_a_leader_yields_to_its_own_token() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let term = one.raft.term();
    assert_eq!(granted(&one.hear(2, with_token(term + 1, 77))), Some(false));
    let effects = one.settle(Input::Transfer { to: Some(node(2)) });
    let token = sent(&effects)
        .into_iter()
        .find_map(|(to, message)| match message {
            Message::TimeoutNow { token, .. } if to == node(2) => Some(token),
            _ => None,
        });
    let token = token.unwrap();
    assert_eq!(
        granted(&one.hear(3, with_token(term + 1, token ^ 2))),
        Some(false)
    );
    assert_eq!(one.raft.role(), RoleName::Leader);
    assert_eq!(
        granted(&one.hear(2, with_token(term + 1, token))),
        Some(true)
    );
    assert_eq!(
        (one.raft.role(), one.raft.term()),
        (RoleName::Follower, term + 1)
    );
}

/// E3: before anyone was handed over to, no token opens the leader's ear, zero least of all.
#[test]
fn e3_no_token_is_no_token() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let term = one.raft.term();
    assert_eq!(granted(&one.hear(2, with_token(term + 1, 0))), Some(false));
    assert_eq!(one.raft.role(), RoleName::Leader);
}

/// E3: a candidate that is stuck at a higher term tells the leader, and so is freed.
#[test]
fn e3_a_stuck_candidate_is_freed() {
    let mut candidate = One::new(1, &[1, 2, 3], &[1]);
    candidate.wait_for_campaign();
    candidate.hear(2, answer(2, PRE_VOTE, true));
    let told = sent(&candidate.hear(3, heartbeat(1, 0, &[])));
    assert_eq!(told, [(node(3), Message::HigherTerm { term: 2 })]);
    let mut leader = One::leader(3, &[1, 2, 3], &[1]);
    let higher = leader.raft.term() + 1;
    leader.hear(1, Message::HigherTerm { term: higher });
    assert_eq!(
        (leader.raft.role(), leader.raft.term()),
        (RoleName::Follower, higher)
    );
}

/// E3 with M3: nobody outside the configuration deposes a leader by a term.
#[test]
fn e3_a_stranger_deposes_nobody() {
    for message in [
        Message::HigherTerm { term: 9 },
        answer(9, VOTE, false),
        ack(9, 1),
    ] {
        let mut leader = One::leader(1, &[1, 2, 3], &[1]);
        leader.hear(77, message);
        assert_eq!(leader.raft.role(), RoleName::Leader);
    }
}

/// E3: check-quorum takes the role of a leader that a majority does not answer.
#[test]
fn e3_check_quorum_takes_the_role() {
    let mut one = One::leader(1, &[1, 2, 3, 4, 5], &[1]);
    let term = one.raft.term();
    for _ in 0..20 {
        one.wait(milliseconds(375));
        for peer in [2, 3] {
            one.hear(peer, one::heartbeat_reply(term, 0));
        }
        assert_eq!(one.raft.role(), RoleName::Leader, "two of four answer");
    }
    for _ in 0..6 {
        one.wait(milliseconds(375));
        one.hear(2, one::heartbeat_reply(term, 0));
    }
    assert_ne!(one.raft.role(), RoleName::Leader);
}

// ---- E5 ----

/// E5: after a start, a pre-vote within 150 ms; and who has heard no leader since its start grants.
#[test]
fn e5_a_cold_start_is_quick() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    let before = one.now;
    one.wait_for_campaign();
    assert!(one.now - before <= milliseconds(151));
    let mut voter = One::new(2, &[1, 2, 3], &[1]);
    assert_eq!(
        granted(&voter.hear(1, ask(2, PRE_VOTE, at(1, 1)))),
        Some(true)
    );
    let mut world = World::cluster(3, 3);
    let ids: Vec<_> = world.nodes.keys().copied().collect();
    for id in &ids {
        world.kill(*id);
    }
    for id in &ids {
        world.start(*id);
    }
    assert!(world.run_until(milliseconds(600), |w| w.leader().is_some()));
}

// ---- R1, R2 ----

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
        effects.extend(one.hear(2, one::heartbeat_reply(term, round)));
        effects.extend(one.hear(3, one::heartbeat_reply(term, round)));
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
    let effects = one.hear(2, one::heartbeat_reply(term, round_of(&effects)));
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
    let effects = one.hear(2, one::heartbeat_reply(term, first));
    assert_eq!(read_ready(&effects).unwrap().0, 5);
    let ready: Vec<_> = effects
        .iter()
        .filter(|e| matches!(e, Effect::ReadReady { .. }))
        .collect();
    assert_eq!(ready.len(), 1, "6 waits for the next round");
    let second = round_of(&effects);
    assert!(second > first);
    let effects = one.hear(2, one::heartbeat_reply(term, second));
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
        effects.extend(one.hear_only(peer, one::heartbeat_reply(term, 1)));
        effects.extend(one.hear_only(peer, ack(term, 2)));
    }
    assert_eq!(read_ready(&effects), None);
    assert_eq!(
        read_ready(&one.hear_only(4, one::heartbeat_reply(term, 1))),
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
    assert_eq!(
        read_ready(&one.hear(2, one::heartbeat_reply(old, round))),
        None
    );
    assert!(read_ready(&one.hear(2, one::heartbeat_reply(one.raft.term(), again))).is_some());
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

// ---- F1, F2, F4 ----

fn founder() -> One {
    let mut one = One::with(1, Configuration::default(), &[], Options::default());
    one.settle(Input::Found {
        cluster_id: ClusterId(7),
        alone: false,
    });
    assert_eq!(one.raft.role(), RoleName::Leader);
    one
}

/// F1: entries are taken from the moment that a second node has entered the configuration.
#[test]
fn f1_a_founder_alone_takes_no_entries() {
    let mut one = founder();
    assert_eq!(refused(&one.put("x")), Some(Refusal::Founding));
    one.settle(Input::Members(vec![MemberHint {
        node: node(2),
        joinable: true,
    }]));
    one.wait(milliseconds(400));
    assert_eq!(refused(&one.put("x")), None);
    let mut alone = One::with(1, Configuration::default(), &[], Options::default());
    alone.settle(Input::Found {
        cluster_id: ClusterId(7),
        alone: true,
    });
    assert_eq!(refused(&alone.put("x")), None);
}

/// F1: who has a log founds nothing.
#[test]
fn f1_founding_needs_an_empty_log() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    let effects = one.settle(Input::Found {
        cluster_id: ClusterId(7),
        alone: true,
    });
    assert_eq!((effects.len(), one.raft.cluster_id()), (0, None));
}

/// F2: giving way is a log entry, after which nothing is accepted, by no later leader either.
#[test]
fn f2_nothing_is_accepted_after_a_dissolve() {
    let mut one = founder();
    let effects = one.settle(Input::GiveWay);
    assert!(
        effects.contains(&Effect::Retired),
        "it is committed: {effects:?}"
    );
    assert_eq!(one.log.last().unwrap().payload, Payload::Dissolve);
    assert_eq!(refused(&one.put("x")), Some(Refusal::Dissolved));
    let before = one.raft.last();
    one.settle(Input::Members(vec![MemberHint {
        node: node(2),
        joinable: true,
    }]));
    one.wait(SECOND * 2);
    assert_eq!(one.raft.last(), before, "no membership either");
}

/// F2: it is legal only if no client or membership entry precedes it, committed or not.
#[test]
fn f2_a_cluster_with_content_does_not_give_way() {
    let mut one = founder();
    one.step(Input::Members(vec![MemberHint {
        node: node(2),
        joinable: true,
    }]));
    let before = one.raft.last();
    one.settle(Input::GiveWay);
    assert_eq!(one.raft.last(), before, "a membership entry");
    let mut alone = One::with(1, Configuration::default(), &[], Options::default());
    alone.settle(Input::Found {
        cluster_id: ClusterId(7),
        alone: true,
    });
    alone.step(put(1, "x"));
    let before = alone.raft.last();
    alone.settle(Input::GiveWay);
    assert_eq!(
        alone.raft.last(),
        before,
        "a client's entry, still being written"
    );
}

/// F4: a founding entry, once in the log, is never exchanged for another cluster's.
#[test]
fn f4_a_founding_entry_is_never_replaced() {
    let founding = |cluster| Payload::Founding {
        cluster_id: ClusterId(cluster),
        founder: node(2),
        alone: false,
    };
    let message = |term, payload| {
        let entries = vec![Entry {
            index: 1,
            term,
            log_time_ms: 0,
            payload,
        }];
        let previous = Position::ZERO;
        Message::AppendEntries(raft_core::message::AppendEntries {
            term,
            previous,
            entries,
            commit_index: 0,
        })
    };
    let mut one = One::with(1, Configuration::default(), &[], Options::default());
    one.hear(2, message(1, founding(7)));
    assert_eq!(one.raft.cluster_id(), Some(ClusterId(7)));
    one.hear(3, message(5, founding(8)));
    assert_eq!(one.raft.cluster_id(), Some(ClusterId(7)));
}

// ---- M1 - M6 ----

/// M1: leadership is not handed to a node that leaves, nor is it named an heir.
#[test]
fn m1_a_leaver_is_no_heir() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    one.step(Input::Leave {
        request: 1,
        node: node(2),
    });
    let effects = one.step(Input::Transfer { to: Some(node(2)) });
    assert!(
        sent(&effects)
            .iter()
            .all(|(_, m)| !matches!(m, Message::TimeoutNow { .. }))
    );
    let heartbeat = heartbeats(&one.wait(milliseconds(375)));
    assert!(
        heartbeat
            .iter()
            .all(|(_, h)| !h.succession.contains(&node(2))),
        "{heartbeat:?}"
    );
}

/// M1: leaves that come within 300 ms become one change, and MinVoters binds them.
#[test]
fn m1_leaves_are_gathered() {
    let mut one = One::leader(1, &[1, 2, 3, 4, 5], &[1]);
    let before = one.raft.last().index;
    for (request, leaver) in [(1, 2), (2, 3), (3, 4), (4, 5)] {
        one.settle(Input::Leave {
            request,
            node: node(leaver),
        });
        one.wait(milliseconds(60));
        one.all_ack();
        assert_eq!(one.raft.last().index, before, "too soon");
    }
    one.wait(milliseconds(500));
    let next = one.raft.configuration().1;
    assert!(next.is_joint());
    assert_eq!((next.voters.len(), next.removed.len()), (3, 2));
}

/// M1 and M5: a leaver stays up until the final configuration is committed. While the joint one is
/// in force its vote is still needed.
#[test]
fn m1_a_leaver_retires_when_the_final_configuration_is_committed() {
    let mut one = One::new(5, &[1, 2, 3, 4, 5], &[1]);
    let next = Configuration {
        removed: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    let joint = Configuration {
        outgoing: voters(&[1, 2, 3, 4, 5]),
        ..next.clone()
    };
    let change = |index: u64, next: &Configuration| {
        let payload = Payload::Configuration(next.clone().into());
        let entries = vec![Entry {
            index,
            term: 1,
            log_time_ms: 0,
            payload,
        }];
        let previous = at(index - 1, 1);
        Message::AppendEntries(raft_core::message::AppendEntries {
            term: 1,
            previous,
            entries,
            commit_index: index,
        })
    };
    let effects = one.hear(1, change(2, &joint));
    assert_eq!(committed(&effects), Some(2));
    assert!(
        !effects.contains(&Effect::Retired),
        "it still votes in C_old"
    );
    assert!(one.hear(1, change(3, &next)).contains(&Effect::Retired));
}

/// M5 and section 6: who leaves hears of the configuration without it, so that it neither campaigns
/// nor waits for ever.
#[test]
fn m5_a_leaver_hears_of_the_final_configuration() {
    let mut world = World::cluster(21, 5);
    world.run_for(SECOND * 2);
    let leader = world.leader().unwrap();
    let leaver = world.nodes.keys().copied().find(|n| *n != leader).unwrap();
    let request = world.leave(leader, leaver);
    assert!(world.run_until(SECOND * 3, |w| w.answers.leaves.contains_key(&request)));
    assert!(world.run_until(SECOND, |w| w.retired.contains(&leaver)));
}

/// M2: one voter more than an odd number stays a learner.
#[test]
fn m2_the_odd_node_out_is_a_learner() {
    let mut world = World::cluster(22, 4);
    world.run_for(SECOND * 5);
    let configuration = world
        .raft(world.leader().unwrap())
        .committed_configuration()
        .1;
    assert_eq!(
        (configuration.voters.len(), configuration.learners.len()),
        (3, 1)
    );
}

/// M3: a removed id is remembered by every configuration after it, and never joins again.
#[test]
fn m3_a_removed_id_never_joins_again() {
    let base = Configuration {
        removed: voters(&[4]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    one.all_ack();
    let hint = |number| MemberHint {
        node: node(number),
        joinable: true,
    };
    one.settle(Input::Members(vec![hint(4), hint(5)]));
    let next = one.raft.configuration().1;
    assert_eq!(
        (&next.learners, &next.removed),
        (&voters(&[5]), &voters(&[4]))
    );
}

/// M4: dead means no contact with the leader itself for 10 s, and not less.
#[test]
fn m4_dead_is_ten_seconds_without_contact() {
    let base = Configuration {
        learners: voters(&[4]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    one.all_ack();
    let (term, before) = (one.raft.term(), one.raft.configuration().0);
    let contact = one.raft.peers()[&node(3)].last_contact;
    while one.raft.configuration().0 == before {
        one.wait(milliseconds(375));
        for peer in [2, 4] {
            one.hear(peer, ack(term, one.raft.last().index));
            one.hear(peer, one::heartbeat_reply(term, 0));
        }
        assert!(one.now - contact < SECOND * 12, "nothing is done");
    }
    assert!(one.now - contact >= SECOND * 10, "{:?}", one.now - contact);
    let next = one.raft.configuration().1;
    assert_eq!(next.voters, voters(&[1, 2, 4]));
    assert!(next.learners.contains(&node(3)) && next.removed.is_empty());
}

/// M5: a leader that inherited a joint configuration ends it, once that and an entry of its own term
/// are committed, and not before.
#[test]
fn m5_an_inherited_joint_configuration_is_ended() {
    let base = Configuration {
        outgoing: voters(&[1, 2, 3]),
        ..configuration(&[1, 4, 5])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    one.wait(milliseconds(375));
    assert!(one.raft.configuration().1.is_joint());
    for peer in [2, 4] {
        one.hear(peer, ack(one.raft.term(), 2));
    }
    one.wait(milliseconds(375));
    assert_eq!(
        one.raft.configuration(),
        (3, configuration(&[1, 4, 5]).into())
    );
}

/// M5: votes are given by term and log, whatever the voter's own configuration says; only a voter in
/// its own latest configuration campaigns, by no clock and no order.
#[test]
fn m5_who_votes_and_who_campaigns() {
    let base = Configuration {
        learners: voters(&[1]),
        ..configuration(&[2, 3, 4])
    };
    let mut learner = One::with(1, base, &[1], Options::default());
    assert_eq!(
        granted(&learner.hear(77, ask(2, VOTE, at(1, 1)))),
        Some(true)
    );
    learner.hear(2, heartbeat(2, 0, &[1]));
    assert_eq!(
        vote_requests(&learner.hear(2, Message::TimeoutNow { term: 2, token: 3 })),
        []
    );
    assert_eq!(vote_requests(&learner.wait(SECOND * 20)), []);
    assert_eq!(learner.raft.role(), RoleName::Follower);
}

/// M6: a learner is promoted on what it acknowledged to this leader in this term.
#[test]
fn m6_no_promotion_without_own_acknowledgements() {
    let base = Configuration {
        learners: voters(&[4, 5]),
        ..configuration(&[1, 2, 3])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    let (term, last) = (one.raft.term(), one.raft.last().index);
    for _ in 0..8 {
        one.wait(milliseconds(375));
        for peer in [2, 3] {
            one.hear(peer, ack(term, last));
        }
        for peer in [2, 3, 4, 5] {
            one.hear(peer, one::heartbeat_reply(term, 0));
        }
        for peer in [4, 5] {
            one.hear(peer, ack(term - 1, last));
        }
    }
    assert_eq!(
        one.raft.configuration().1.voters.len(),
        3,
        "they never acknowledged"
    );
    for _ in 0..4 {
        one.wait(milliseconds(375));
        for peer in [2, 3, 4, 5] {
            one.hear(peer, ack(term, last));
            one.hear(peer, one::heartbeat_reply(term, 0));
        }
    }
    assert_eq!(one.raft.configuration().1.voters.len(), 5);
}

// ---- D1, D2, D4, D5 ----

/// D1: what others have committed goes to the state machine when it is durable here too.
#[test]
fn d1_nothing_is_handed_out_before_it_is_durable_here() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1]);
    let index = leader.raft.last().index + 1;
    leader.step(put(1, "x"));
    let mut effects = Vec::new();
    for peer in [2, 3] {
        effects.extend(leader.hear_only(peer, ack(leader.raft.term(), index)));
    }
    assert_eq!(
        (leader.raft.commit_index(), committed(&effects)),
        (index, None)
    );
    assert_eq!(committed(&leader.sync()), Some(index));
    let mut follower = One::new(1, &[1, 2, 3], &[1]);
    let effects = follower.hear_only(2, append(1, at(1, 1), &[1], 2));
    assert_eq!(committed(&effects), Some(1));
    assert_eq!(committed(&follower.sync()), Some(2));
}

/// D2: 3@2 is being written; a new leader truncates and queues 3@3; the late report of the first
/// write does not acknowledge the second.
#[test]
fn d2_a_report_of_an_older_generation_counts_for_nothing() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1]);
    one.hear(2, heartbeat(2, 0, &[]));
    one.hear_only(2, append(2, at(2, 1), &[2, 2], 0));
    let late = one.write_one();
    one.hear_only(3, append(3, at(2, 1), &[3, 3], 0));
    let effects = one.step(Input::Persisted(late));
    assert_eq!((outcome(&effects), one.raft.durable_index()), (None, 2));
    // Not even a report that names the new entries under the old generation.
    let lie = Persisted {
        last: at(4, 3),
        ..late
    };
    assert_eq!(outcome(&one.step(Input::Persisted(lie))), None);
    assert_eq!(outcome(&one.sync()), durable(4));
}

/// D2: truncation lowers the durable index, so that what replaces a durable entry is not counted.
#[test]
fn d2_truncation_lowers_the_durable_index() {
    let mut one = One::new(1, &[1, 2, 3], &[1, 1, 1]);
    one.hear_only(2, append(2, at(1, 1), &[2, 2], 0));
    assert_eq!(one.raft.durable_index(), 1);
    one.sync();
    assert_eq!(one.raft.durable_index(), 3);
    assert_eq!(
        one.log.iter().map(|e| e.term).collect::<Vec<_>>(),
        [1, 2, 2]
    );
}

/// A node that may not campaign forgets a leader that is silent for an election timeout all the same:
/// else it would send everybody there for ever. A word of the leader, and it is known again.
#[test]
fn a_learner_does_not_hold_on_to_a_silent_leader() {
    let base = Configuration {
        learners: voters(&[1]),
        ..configuration(&[2, 3, 4])
    };
    let mut learner = One::with(1, base, &[1], Options::default());
    learner.hear(2, heartbeat(1, 0, &[]));
    assert_eq!(learner.raft.leader(), Some(node(2)));
    learner.wait(milliseconds(600));
    assert_eq!(learner.raft.leader(), Some(node(2)));
    let effects = learner.wait(SECOND * 2);
    assert_eq!(learner.raft.leader(), None);
    assert!(vote_requests(&effects).is_empty());
    assert_eq!(learner.raft.term(), 1);
    assert!(vote_requests(&learner.wait(SECOND * 60)).is_empty());
    learner.hear(2, heartbeat(1, 0, &[]));
    assert_eq!(learner.raft.leader(), Some(node(2)));
}

/// A leader whose state machine stays silent hands over to one whose state machine answers; for a short
/// silence it does not, nor when nobody's answers.
#[test]
fn a_leader_beside_a_silent_state_machine_hands_over() {
    let told = |silent_ms: u64, sick: &[u64]| {
        let mut one = One::leader(1, &[1, 2, 3], &[1]);
        one.step(Input::StateMachineHealth { sick: true });
        let mut told = Vec::new();
        for round in 1..=40 {
            one.now = one.now + milliseconds(100);
            if round * 100 == silent_ms {
                one.step(Input::StateMachineHealth { sick: false });
            }
            let mut effects = one.step(Input::Tick);
            for peer in [2, 3] {
                let health = Health {
                    state_machine_sick: sick.contains(&peer),
                    ..Health::default()
                };
                let (term, round) = (one.raft.term(), 0);
                let reply = HeartbeatReply {
                    term,
                    round,
                    health,
                };
                effects.extend(one.hear_only(peer, Message::HeartbeatReply(reply)));
            }
            one.sync();
            for (to, message) in sent(&effects) {
                if matches!(message, Message::TimeoutNow { .. }) {
                    told.push((round, to));
                }
            }
        }
        assert_eq!(
            one.raft.role(),
            RoleName::Leader,
            "it is no sickness of the log"
        );
        told
    };
    let [(round, heir)] = told(0, &[2])[..] else {
        panic!("one is told, once in a while");
    };
    assert_eq!(heir, node(3));
    assert!((15..25).contains(&round), "{round}");
    assert_eq!(told(1_000, &[]), [], "it came back");
    assert_eq!(told(0, &[2, 3]), [], "nobody is better off");
}

/// D4: no write completed for ElectTimeoutMax: the leader hands over, else it steps down; one quick
/// sync heals.
#[test]
fn d4_a_sick_leader_hands_over_or_steps_down() {
    let keep_alive = |one: &mut One, ms: u64| {
        let mut effects = Vec::new();
        for _ in 0..ms / 100 {
            one.now = one.now + milliseconds(100);
            effects.extend(one.step(Input::Tick));
            for peer in [2, 3] {
                effects.extend(one.hear_only(peer, one::heartbeat_reply(one.raft.term(), 0)));
            }
        }
        effects
    };
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    one.step(put(1, "x"));
    let effects = keep_alive(&mut one, 1_400);
    assert!(!one.raft.health().disk_sick, "{effects:?}");
    let (term, last) = (one.raft.term(), one.raft.last().index);
    one.hear_only(2, ack(term, last));
    let effects = keep_alive(&mut one, 200);
    assert!(one.raft.health().disk_sick);
    assert!(
        sent(&effects)
            .iter()
            .any(|(_, m)| matches!(m, Message::TimeoutNow { .. }))
    );
    keep_alive(&mut one, 1_600);
    assert_eq!(one.raft.role(), RoleName::Follower, "nobody took over");
    one.sync();
    one.hear_only(2, heartbeat(term + 1, 0, &[]));
    one.now = one.now + milliseconds(10);
    one.sync();
    assert!(!one.raft.health().disk_sick, "one quick sync heals");
}

/// D4: the sick wait four times longer, and not for ever.
#[test]
fn d4_the_sick_campaign_late() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    one.step(Input::Message {
        from: node(2),
        message: append(1, at(1, 1), &[1], 0),
    });
    for _ in 0..20 {
        one.now = one.now + milliseconds(100);
        one.hear_only(2, heartbeat(1, 0, &[]));
    }
    assert!(one.raft.health().disk_sick);
    let wait = one.raft.next_deadline() - one.now;
    assert!(
        wait >= milliseconds(3_000) && wait <= milliseconds(6_000),
        "{wait:?}"
    );
}

/// D4: what a peer says of its boot is written down, but no promise rests on that: heartbeats of a
/// leader whose disk hangs, and its word to the heir, still leave.
#[test]
fn d4_a_greeting_holds_nothing_back() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let term = one.raft.term();
    one.step(hello(3, 2, term, 9, false));
    assert_eq!(one.queue.len(), 1, "it is written down");
    one.now = one.now + milliseconds(375);
    assert_eq!(heartbeats(&one.step(Input::Tick)).len(), 2);
}

/// D5: a voter that reports a lower boot or term than before, across this node's own crash too, or
/// less than it acknowledged in this term, is asked again on a fresh connection; if it says so again,
/// it has lost promises.
#[test]
fn d5_a_peer_that_reports_less_is_noticed() {
    let start = || {
        let mut one = One::new(1, &[1, 2, 3], &[1, 5]);
        one.settle(hello(2, 7, 5, 2, false));
        one.crash()
    };
    let lead = || One::leader(1, &[1, 2, 3], &[1]);
    let (term, last) = (lead().raft.term(), lead().raft.last().index);
    for (mut one, boot, term, index) in [
        (start(), 6, 5, 2),
        (start(), 8, 4, 2),
        (lead(), 8, term, last - 1),
    ] {
        let effects = one.settle(hello(2, boot, term, index, false));
        assert_eq!((challenges(&effects), rolled_back(&effects)), (1, false));
        assert!(rolled_back(&one.settle(hello(2, boot, term, index, true))));
    }
    for (mut one, boot, term, index) in [(start(), 8, 5, 0), (lead(), 8, term, last)] {
        let effects = one.settle(hello(2, boot, term, index, false));
        assert_eq!((challenges(&effects), rolled_back(&effects)), (0, false));
    }
}

/// D5: compared when a stream opens, never on a late packet. A Hello that was overtaken by what the
/// same process said on its other stream is no lost promise, and neither is an answer that was
/// overtaken by acknowledgements: it is compared with what was known when it was asked for.
#[test]
fn d5_an_overtaken_hello_is_no_rollback() {
    let mut leader = One::leader(1, &[1, 2, 3], &[1]);
    let (term, last) = (leader.raft.term(), leader.raft.last().index);
    leader.put("x");
    leader.hear(2, ack(term, last + 1));
    // Written on the second stream before the acknowledgement left on the first.
    let effects = leader.settle(hello(2, 1, term, last, false));
    assert_eq!((challenges(&effects), rolled_back(&effects)), (1, false));
    leader.put("y");
    leader.hear(2, ack(term, last + 2));
    assert!(!rolled_back(&leader.settle(hello(
        2,
        1,
        term,
        last + 1,
        true
    ))));
}

// ---- W1, W3 ----

/// W1: the same index may come to hold another entry, so an acceptance names index and term.
#[test]
fn w1_an_acceptance_names_index_and_term() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let old = one.raft.term();
    let effects = one.put("lost");
    let accepted = effects.iter().find_map(|effect| match effect {
        Effect::Accepted { position, .. } => Some(*position),
        _ => None,
    });
    let accepted = accepted.unwrap();
    let before = at(accepted.index - 1, old);
    let effects = one.hear(2, append(old + 1, before, &[old + 1], accepted.index));
    assert!(
        effects.contains(&Effect::SteppedDown),
        "what waits is unknown from here on"
    );
    assert_eq!(committed(&effects), Some(accepted.index));
    assert_ne!(one.raft.term_at(accepted.index), Some(accepted.term));
}

/// W3: every word of a valid term refreshes the timer, a refused append too.
#[test]
fn w3_a_refused_append_refreshes_the_timer() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    for _ in 0..10 {
        let effects = one.wait(milliseconds(700));
        assert_eq!(vote_requests(&effects), []);
        let refused = outcome(&one.hear(2, append(1, at(50, 1), &[1], 0)));
        assert!(matches!(
            refused,
            Some(raft_core::message::AppendOutcome::Conflict { .. })
        ));
    }
}

/// W3: heartbeats do not ride on the bulk stream.
#[test]
fn w3_heartbeats_are_no_bulk() {
    assert!(append(1, at(1, 1), &[], 0).is_bulk());
    assert!(!heartbeat(1, 0, &[]).is_bulk());
    let message = Heartbeat {
        term: 1,
        boot: 1,
        commit_index: 0,
        round: 0,
        succession: Vec::new(),
    };
    assert_eq!(heartbeat(1, 0, &[]), Message::Heartbeat(message));
}

/// Bounds: entries that no majority confirms are refused at a limit, and taken again after it.
#[test]
fn too_many_uncommitted_entries_are_refused() {
    let options = Options {
        max_uncommitted_entries: 10,
        ..Options::default()
    };
    let mut one = One::with(1, configuration(&[1, 2, 3]), &[1], options);
    one.elect();
    one.all_ack();
    let taken = (0..20).filter(|_| refused(&one.put("x")).is_none()).count();
    assert_eq!(taken, 10);
    assert_eq!(refused(&one.put("x")), Some(Refusal::Overloaded));
    one.all_ack();
    one.settle(Input::Applied {
        index: one.raft.commit_index(),
    });
    assert_eq!(refused(&one.put("x")), None);
    let many = vec![(); 3].into_iter().map(|()| command("y"));
    let proposals = many
        .zip(1..)
        .map(|(payload, request)| raft_core::Proposal { request, payload });
    let effects = one.settle(Input::PutEntries(proposals.collect()));
    let writes = effects
        .iter()
        .filter(|e| matches!(e, Effect::Persist(_)))
        .count();
    assert_eq!(
        (writes, appends(&effects).len()),
        (1, 2),
        "one batch: one write, one message each"
    );
    assert!(
        !effects
            .iter()
            .any(|e| matches!(e, Effect::Event(Event::Nonsense { .. })))
    );
}
