//! Elections, as the tests of other implementations tell them.

use std::collections::BTreeSet;

use raft_core::message::*;
use raft_core::*;

use crate::few::Few;
use crate::one::*;
use crate::world::World;

/// The timeouts of a pre-candidate and of a candidate are as random as those of a follower.
#[test]
fn a_candidates_timeouts_are_spread() {
    for kind in [PRE_VOTE, VOTE] {
        let mut one = One::new(1, &[1, 2, 3], &[1]);
        let mut timeouts = BTreeSet::new();
        for _ in 0..50 {
            let term = one.raft.term();
            one.hear(2, heartbeat(term, 0, &[]));
            one.wait_for_campaign();
            if kind == VOTE {
                one.hear(2, answer(term + 1, PRE_VOTE, true));
                assert_eq!(one.raft.role(), RoleName::Candidate);
            }
            let timeout = one.raft.next_deadline() - one.now;
            assert!(timeout >= milliseconds(750) && timeout <= milliseconds(1_500));
            timeouts.insert(timeout.as_millis() / 50);
        }
        assert!(timeouts.len() > 7, "{timeouts:?}");
    }
}

/// Of five followers that lose their leader at the same moment, two rarely wake within 10 ms.
#[test]
fn timeouts_rarely_meet() {
    let mut met = 0;
    for round in 0..200 {
        let mut deadlines = Vec::new();
        for id in 1..=5 {
            let boot = round + 1;
            let recovered = crate::recovered::recovered(
                HardState::default(),
                Position::ZERO,
                None,
                &One::new(id, &[1, 2, 3, 4, 5], &[1]).log,
            );
            // The driver gives every node a seed of its own.
            let seed = round * 5 + id;
            let mut raft = Raft::new(node(id), boot, Options::default(), recovered, Time(0), seed);
            let (from, message) = (node(9), heartbeat(1, 0, &[]));
            raft.step(Time(0), Input::Message { from, message });
            deadlines.push(raft.next_deadline());
        }
        deadlines.sort_unstable();
        met += usize::from(deadlines[1] - deadlines[0] < milliseconds(10));
    }
    assert!(met < 40, "{met} of 200");
}

/// A candidate whose pre-vote or vote some do not hear wins with the rest, if they are a majority and its
/// log is good enough; and alone it stays what it is, without a new term.
#[test]
fn an_election_needs_a_majority_that_can_be_reached() {
    for (count, unreachable, wins) in [
        (3, &[][..], true),
        (3, &[3], true),
        (3, &[2, 3], false),
        (4, &[2], true),
        (4, &[2, 3], false),
        (5, &[2, 3], true),
        (5, &[2, 3, 4], false),
    ] {
        let mut few = Few::new(&vec![&[1][..]; count]);
        few.part(unreachable);
        assert_eq!(few.campaign(1), wins, "{count} without {unreachable:?}");
        assert_eq!(few.term(1), if wins { 2 } else { 1 });
    }
    let mut few = Few::new(&[&[1], &[1, 1], &[1, 1]]);
    assert!(!few.campaign(1), "both others have more");
    assert_eq!(few.term(1), 1, "and no term is spent on it");
}

/// Each node can lead when its turn comes: nothing of an earlier term, or of an earlier reign of its own,
/// stands in its way.
#[test]
fn everyone_can_lead_in_turn() {
    let mut few = Few::led_by_1(3);
    for round in 0..3 {
        for id in [2, 3, 1] {
            assert!(few.campaign(id), "{id} in round {round}");
            let index = few.put_and_deliver(id, "x");
            few.heartbeat(id);
            let commits: Vec<_> = (1..=3).map(|id| few.commit_index(id)).collect();
            assert_eq!(commits, [index; 3]);
        }
    }
}

/// 1 led term 1 and reached 2; 3 was elected in term 2 by 4 and 5, and wrote two entries that it could tell
/// nobody. 1 is refused in term 2, where 4 and 5 have voted; it asks in term 3, and is elected over a log
/// that is later and longer than its own. All come to its log.
#[test]
fn a_new_leader_overwrites_newer_logs_that_are_not_committed() {
    let mut few = Few::new(&[&[1, 1], &[1, 1], &[1, 2, 2], &[1], &[1]]);
    for voter in [4, 5] {
        let effects = few.one(voter).hear(3, ask(2, VOTE, at(1, 1)));
        assert_eq!(granted(&effects), Some(true));
    }
    assert!(!few.campaign(1), "2 alone is for it in term 2");
    assert!(few.campaign(1));
    assert_eq!(few.term(1), 3);
    few.heartbeat(1);
    for id in 1..=5 {
        assert_eq!(few.terms(id), [1, 1, 3], "{id}");
        assert_eq!(few.log(id), few.log(1));
        assert_eq!(few.commit_index(id), 3);
    }
}

fn in_role(role: RoleName) -> One {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    match role {
        RoleName::Follower => {}
        RoleName::Leader => one = One::leader(1, &[1, 2, 3], &[1]),
        _ => {
            one.wait_for_campaign();
            if role == RoleName::Candidate {
                one.hear(2, answer(2, PRE_VOTE, true));
            }
        }
    }
    one
}

/// Whoever is asked with a good log and a later term gives its vote, whatever it is doing; only a leader
/// that a majority hears does not (E3).
#[test]
fn a_vote_is_given_in_any_role() {
    for role in [
        RoleName::Follower,
        RoleName::PreCandidate,
        RoleName::Candidate,
        RoleName::Leader,
    ] {
        for kind in [PRE_VOTE, VOTE] {
            let mut one = in_role(role);
            assert_eq!(one.raft.role(), role);
            let term = one.raft.term();
            let yields = role != RoleName::Leader;
            let effects = one.hear(3, ask(term + 1, kind, at(9, term)));
            assert_eq!(granted(&effects), Some(yields), "{role:?}");
            let followed = yields && kind == VOTE;
            assert_eq!(one.raft.term(), term + Term::from(followed));
            if followed {
                assert_eq!(one.raft.role(), RoleName::Follower);
                assert_eq!(one.hard_state.voted_for, Some(node(3)));
            }
        }
    }
}

/// 1 and 3 do not hear each other. 1 wins with 2, which then refuses 3: it hears a leader. From the refusal 3
/// learns the term, spends none of its own, and follows as soon as it hears the leader.
#[test]
fn duelling_candidates() {
    let mut few = Few::new(&[&[1], &[1], &[1]]);
    few.cut(1, 3);
    let effects = few.one(3).wait_for_campaign();
    few.collect(3, effects);
    let of_3 = few.keep_back(|letter| letter.from == 3);
    assert!(few.campaign(1));
    few.post.extend(of_3);
    few.deliver();
    assert!(few.leads(1) && !few.leads(3));
    assert_eq!((few.term(2), few.term(3)), (2, 2));
    few.heal();
    few.heartbeat(1);
    few.heartbeat(1);
    assert_eq!(few.role(3), RoleName::Follower);
    assert_eq!((few.term(1), few.terms(3)), (2, few.terms(1)));
}

/// Two candidates of one term split four voters. Both ask again in a later term, and one wins.
#[test]
fn a_split_vote_of_four_is_settled_in_a_later_term() {
    let mut few = Few::new(&[&[1], &[1], &[1], &[1]]);
    let mut requests = Vec::new();
    for (id, friend) in [(1, 3), (2, 4)] {
        few.one(id).wait_for_campaign();
        for voter in [friend, 3 - id] {
            let effects = few.one(id).hear(voter, answer(2, PRE_VOTE, true));
            few.collect(id, effects);
        }
        assert_eq!(few.role(id), RoleName::Candidate);
        requests.extend(few.keep_back(|_| true));
    }
    // Each is the first to ask its friend.
    requests.sort_by_key(|letter| letter.to != letter.from + 2);
    few.post.extend(requests);
    few.deliver();
    assert!(!few.leads(1) && !few.leads(2), "two votes each");
    assert!(few.campaign(1));
    assert_eq!(few.term(1), 3);
}

/// A candidate hears that another won its term: it follows, and what it had alone gives way.
#[test]
fn a_candidate_concedes_with_its_log() {
    let mut few = Few::led_by_1(3);
    few.part(&[1]);
    few.put_and_deliver(1, "nobody hears this");
    assert!(few.campaign(3));
    let index = few.put_and_deliver(3, "everybody hears this");
    few.heal();
    few.heartbeat(3);
    few.heartbeat(3);
    assert_eq!(few.role(1), RoleName::Follower);
    assert_eq!(few.log(1), few.log(3));
    assert_eq!(few.commit_index(1), index);
}

/// A candidate's own vote counts when it is on its disk. If it has lost by then, or asks in a later term, the
/// late report makes it no leader.
#[test]
fn an_own_vote_that_is_durable_too_late_counts_for_nothing() {
    let candidate = || {
        let mut one = One::new(1, &[1, 2, 3], &[1]);
        one.wait_for_campaign();
        one.hear_only(2, answer(2, PRE_VOTE, true));
        assert_eq!((one.raft.role(), one.queue.len()), (RoleName::Candidate, 1));
        one
    };
    let mut one = candidate();
    one.hear_only(2, answer(2, VOTE, true));
    assert_eq!(
        one.raft.role(),
        RoleName::Candidate,
        "its own is not durable"
    );
    one.sync();
    assert_eq!(one.raft.role(), RoleName::Leader);
    let mut one = candidate();
    one.hear_only(3, heartbeat(2, 0, &[]));
    one.sync();
    assert_eq!(one.raft.role(), RoleName::Follower);
    one.hear(2, answer(2, VOTE, true));
    assert_eq!(one.raft.role(), RoleName::Follower);
    // The pre-candidate's own voice is no vote of the election that follows.
    let mut one = candidate();
    assert_eq!(one.raft.role(), RoleName::Candidate);
    one.sync();
    assert_eq!(one.raft.role(), RoleName::Candidate, "one vote of three");
}

/// 3 was away while leadership went on; then the leader dies. 3 asks with its old term, is refused, and learns
/// the newer one from the refusal: 1 and 3 are not stuck with each other, and either can be elected.
#[test]
fn a_node_of_a_smaller_term_does_not_block_the_election() {
    let mut few = Few::led_by_1(3);
    few.part(&[3]);
    few.input(1, Input::Transfer { to: Some(node(2)) });
    few.deliver();
    assert!(few.leads(2));
    assert_eq!((few.term(1), few.term(3)), (3, 2));
    few.heal();
    few.part(&[2]);
    assert!(!few.campaign(3), "its log is behind");
    assert_eq!(few.term(3), 3);
    assert!(few.campaign(1));
    few.heal();
    few.heartbeat(1);
    few.heartbeat(1);
    few.part(&[1]);
    assert!(few.campaign(3), "now it has all");
}

/// A node that was away long comes back, campaigns before it hears the leader, and is refused: the leader leads
/// on in its term.
#[test]
fn a_disruptive_follower_is_refused_and_follows() {
    let mut few = Few::led_by_1(3);
    few.part(&[3]);
    for _ in 0..5 {
        let effects = few.one(3).wait_for_campaign();
        few.collect(3, effects);
        few.deliver();
        few.heartbeat(1);
    }
    few.heal();
    let effects = few.one(3).wait_for_campaign();
    few.collect(3, effects);
    few.deliver();
    assert!(few.leads(1));
    assert_eq!((few.term(1), few.term(3)), (2, 2));
    few.heartbeat(1);
    assert_eq!(few.role(3), RoleName::Follower);
}

/// A learner becomes a voter: from then on it campaigns, and can win.
#[test]
fn a_promoted_learner_campaigns() {
    let base = Configuration {
        learners: voters(&[3]),
        ..configuration(&[1, 2])
    };
    let mut one = One::with(3, base, &[1], Options::default());
    one.hear(1, heartbeat(1, 0, &[]));
    assert_eq!(vote_requests(&one.wait(SECOND * 5)), []);
    let payload = Payload::Configuration(configuration(&[1, 2, 3]).into());
    let promotion = Entry {
        payload,
        ..entry(2, 1)
    };
    let append = AppendEntries {
        term: 1,
        previous: at(1, 1),
        entries: vec![promotion],
        commit_index: 2,
    };
    one.hear(1, Message::AppendEntries(append));
    one.elect();
    assert_eq!(one.raft.term(), 2);
}

/// A leader's own clocks never make it campaign, and no word of another makes it do so.
#[test]
fn a_leader_does_not_campaign() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let term = one.raft.term();
    for _ in 0..20 {
        let mut effects = one.wait(milliseconds(200));
        for peer in [2, 3] {
            effects.extend(one.hear(peer, heartbeat_reply(term, 0)));
            effects.extend(one.hear(peer, Message::TimeoutNow { term, token: 3 }));
        }
        assert_eq!(vote_requests(&effects), []);
    }
    assert_eq!((one.raft.role(), one.raft.term()), (RoleName::Leader, term));
}

/// Followers and candidates send no heartbeats.
#[test]
fn only_a_leader_sends_heartbeats() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[]));
    let mut effects = one.wait(SECOND * 3);
    assert_eq!(one.raft.role(), RoleName::PreCandidate);
    effects.extend(one.hear(2, answer(2, PRE_VOTE, true)));
    effects.extend(one.wait(milliseconds(700)));
    assert_eq!(one.raft.role(), RoleName::Candidate);
    assert_eq!(heartbeats(&effects), []);
}

/// A leader that adds a voter does not take its silence, before it had time to answer, for a lost majority.
#[test]
fn a_new_voter_is_given_time_to_answer() {
    let base = Configuration {
        learners: voters(&[2, 3]),
        ..configuration(&[1])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    one.wait(SECOND * 20);
    assert_eq!(one.raft.role(), RoleName::Leader, "it is a majority of one");
    let last = one.raft.last().index;
    let term = one.raft.term();
    for _ in 0..4 {
        for peer in [2, 3] {
            one.hear(peer, ack(term, last));
            one.hear(peer, heartbeat_reply(term, 0));
        }
        one.wait(milliseconds(375));
    }
    assert_eq!(one.raft.configuration().1.voters.len(), 3);
    one.wait(milliseconds(1_000));
    assert_eq!(one.raft.role(), RoleName::Leader, "they have 1.5 s");
    one.wait(milliseconds(2_000));
    assert_ne!(one.raft.role(), RoleName::Leader, "and no more");
}

/// One follower does not hear the leader, but all others: it asks in vain, for as long as that lasts, and the
/// leader leads on in its term (the outage of 2020 that began with such a switch).
#[test]
fn a_follower_that_alone_does_not_hear_the_leader_deposes_nobody() {
    for seed in 0..30 {
        let mut world = World::cluster(seed, 3);
        world.run_for(SECOND * 2);
        let leader = world.leader().unwrap();
        let term = world.raft(leader).term();
        let deaf = world.others(leader)[0];
        world.cut.insert((leader, deaf));
        world.cut.insert((deaf, leader));
        for number in 0..40 {
            world.put(leader, &format!("{number}"));
            world.run_for(milliseconds(500));
        }
        assert_eq!(world.leader(), Some(leader), "seed {seed}");
        assert_eq!(world.raft(leader).term(), term, "seed {seed}");
        assert!(world.answers.acknowledged.len() >= 40);
        world.heal();
        assert!(world.run_until(SECOND * 3, World::agree), "seed {seed}");
    }
}

/// A node whose disk is empty, and that was told of no cluster, has nobody to vote for and nobody to ask: it waits.
#[test]
fn a_node_of_no_cluster_waits() {
    let mut one = One::with(1, Configuration::default(), &[], Options::default());
    assert_eq!(
        one.raft.configuration(),
        (0, Configuration::default().into())
    );
    assert_eq!(one.wait(SECOND * 60), []);
    assert_eq!((one.raft.role(), one.raft.term()), (RoleName::Follower, 0));
}

/// A learner that comes with a higher term than the leader's tells it so. That costs an election, and no more:
/// the next leader is of a higher term still, and leads the learner as well.
#[test]
fn a_learner_of_a_higher_term_costs_one_election() {
    let base = Configuration {
        learners: voters(&[4]),
        ..configuration(&[1, 2, 3])
    };
    let ones = [1, 2, 3, 4].map(|id| One::with(id, base.clone(), &[1], Options::default()));
    let mut few = Few::of(ones);
    few.part(&[4]);
    assert!(few.campaign(1));
    few.one(4).hear(9, heartbeat(7, 0, &[]));
    few.heal();
    few.heartbeat(1);
    assert!(!few.leads(1));
    assert!(few.campaign(1) || few.campaign(1));
    let term = few.term(1);
    assert!(term > 7);
    for _ in 0..4 {
        few.heartbeat(1);
        assert_eq!((few.leads(1), few.term(1), few.term(4)), (true, term, term));
    }
    assert_eq!(few.terms(4), few.terms(1));
}
