//! E1 to E5: who leads next, and who is refused.

use raft_core::message::*;
use raft_core::*;

use crate::one::*;
use crate::world::World;

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

/// E1: the ordinary timer may run out while an heir waits for its turn. That its election fails does not bring
/// the turn forward.
#[test]
fn e1_another_election_that_fails_leaves_the_place() {
    let mut one = settled_follower(&[3, 4, 5]);
    let timer = one.raft.next_deadline();
    let before = milliseconds(1);
    one.wait(timer - one.now - before);
    lose_leader(&mut one);
    let lost = one.now;
    assert!(!vote_requests(&one.wait(before)).is_empty(), "the timer");
    for voter in [3, 4, 5] {
        one.hear(voter, answer(2, PRE_VOTE, false));
    }
    one.wait_for_campaign();
    let waited = one.now - lost;
    let place = milliseconds(60)..=milliseconds(66);
    assert!(place.contains(&waited), "{waited:?}");
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
        one.hear(peer, health_reply(term, health));
    }
    let effects = one.wait(one.options.heartbeat_interval);
    let expected: Vec<_> = [4, 3, 5, 2].into_iter().map(node).collect();
    assert_eq!(heartbeats(&effects)[0].1.succession, expected);
}

/// E1: who has not answered this leader may be dead: it stands behind the sick, until it answers.
#[test]
fn e1_who_was_not_heard_stands_last() {
    let mut one = One::new(1, &[1, 2, 3, 4], &[1]);
    one.elect();
    let (term, last) = (one.raft.term(), one.raft.last().index);
    for peer in [2, 4] {
        one.hear(peer, ack(term, last));
    }
    let health = Health {
        state_machine_sick: true,
        ..Health::default()
    };
    one.hear(4, health_reply(term, health));
    let order = |one: &mut One| {
        let effects = one.wait(one.options.heartbeat_interval);
        heartbeats(&effects)[0].1.succession.clone()
    };
    assert_eq!(order(&mut one), [2, 4, 3].map(node));
    for peer in [2, 3] {
        one.hear(peer, ack(term, last));
    }
    assert_eq!(order(&mut one), [2, 3, 4].map(node));
}

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
            one.hear(peer, heartbeat_reply(term, 0));
        }
        assert_eq!(one.raft.role(), RoleName::Leader, "two of four answer");
    }
    for _ in 0..6 {
        one.wait(milliseconds(375));
        one.hear(2, heartbeat_reply(term, 0));
    }
    assert_ne!(one.raft.role(), RoleName::Leader);
}

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
