//! Handing leadership over, as the tests of other implementations tell it.

use raft_core::*;

use crate::few::Few;
use crate::one::*;
use crate::snapshots;
use crate::world::World;

fn outcomes(effects: &[Effect]) -> Vec<&'static str> {
    let outcome = |effect: &Effect| match effect {
        Effect::Event(Event::Transfer { outcome, .. }) => Some(*outcome),
        _ => None,
    };
    effects.iter().filter_map(outcome).collect()
}

fn transfer_to(one: &mut One, heir: u64) -> Vec<Effect> {
    let to = Some(node(heir));
    one.settle(Input::Transfer { to })
}

/// 2 has everything but the newest entry; 3 has that too.
fn leader_with_2_behind() -> One {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    one.put("x");
    one.hear(3, ack(one.raft.term(), one.raft.last().index));
    one
}

/// An heir that has everything is told at once, and leads without any timeout; handed back likewise.
#[test]
fn there_and_back_again() {
    let mut few = Few::led_by_1(3);
    let before: Vec<_> = (1..=3).map(|id| few.one(id).now).collect();
    for heir in [2, 3, 1, 3] {
        let leader = (1..=3).find(|id| few.leads(*id)).unwrap();
        few.input(
            leader,
            Input::Transfer {
                to: Some(node(heir)),
            },
        );
        few.deliver();
        assert!(few.leads(heir) && !few.leads(leader), "{leader} to {heir}");
    }
    let after: Vec<_> = (1..=3).map(|id| few.one(id).now).collect();
    assert_eq!(before, after, "no clock had to move");
    assert_eq!(few.term(1), 6);
}

/// An heir that is behind gets the log first, and is told when it has acknowledged all of it.
#[test]
fn a_slow_heir_gets_the_log_first() {
    let mut one = leader_with_2_behind();
    let (term, last) = (one.raft.term(), one.raft.last().index);
    assert_eq!(heirs(&transfer_to(&mut one, 2)), []);
    assert_eq!(heirs(&one.hear(2, ack(term, last - 1))), []);
    assert_eq!(heirs(&one.hear(2, ack(term, last))), [node(2)]);
    assert_eq!(heirs(&one.hear(2, ack(term, last))), [], "told once");
}

/// One that is behind the leader's log gets a snapshot first, what stands behind that, and then the word.
#[test]
fn an_heir_behind_the_log_gets_a_snapshot_first() {
    let mut one = snapshots::leader(snapshots::no_trail(), 10);
    one.snapshot_at(one.raft.commit_index(), Index::MAX);
    let position = one.raft.base();
    one.hear(
        2,
        Message::HigherTerm {
            term: one.raft.term() + 1,
        },
    );
    one.elect();
    let (term, last) = (one.raft.term(), one.raft.last().index);
    one.hear(2, ack(term, last));
    assert_eq!(heirs(&transfer_to(&mut one, 3)), []);
    let denial = conflict(term, position.index, Position::ZERO);
    let effects = one.hear(3, denial);
    let offered = |(to, message): &(NodeId, Message)| {
        *to == node(3) && matches!(message, Message::InstallSnapshot { .. })
    };
    assert!(sent(&effects).iter().any(offered));
    assert_eq!(heirs(&effects), []);
    assert_eq!(heirs(&one.hear(3, ack(term, position.index))), []);
    assert_eq!(heirs(&one.hear(3, ack(term, last))), [node(3)]);
}

/// The leader itself, a stranger, a learner and a voter that is on its way out are no heirs: it leads on, and
/// takes entries.
#[test]
fn nobody_but_a_voter_is_an_heir() {
    let base = Configuration {
        outgoing: voters(&[1, 2, 3]),
        learners: voters(&[4]),
        ..configuration(&[1, 2])
    };
    for heir in [1, 9, 4, 3] {
        let mut one = One::with(1, base.clone(), &[1], Options::default());
        one.elect();
        let effects = transfer_to(&mut one, heir);
        assert_eq!(
            (outcomes(&effects), told(&effects)),
            (vec!["no such voter"], vec![])
        );
        assert_eq!(refused(&one.put("x")), None, "{heir}");
    }
    let mut alone = One::new(1, &[1], &[1]);
    alone.wait_for_campaign();
    let effects = alone.settle(Input::Transfer { to: None });
    assert_eq!(outcomes(&effects), ["no such voter"]);
    assert_eq!(alone.raft.role(), RoleName::Leader);
}

/// While leadership is handed over nothing is taken. An heir that does not take over is given up after
/// ElectTimeoutMax, and the leader leads on.
#[test]
fn an_heir_that_does_not_take_over_is_given_up() {
    let mut one = leader_with_2_behind();
    let (term, last) = (one.raft.term(), one.raft.last().index);
    transfer_to(&mut one, 2);
    assert_eq!(refused(&one.put("y")), Some(Refusal::Transferring));
    let keep = |one: &mut One, ms: u64| {
        let mut effects = one.wait(milliseconds(ms));
        effects.extend(one.hear(3, heartbeat_reply(term, 0)));
        effects
    };
    for _ in 0..2 {
        assert_eq!(outcomes(&keep(&mut one, 700)), [""; 0]);
        assert_eq!(refused(&one.put("y")), Some(Refusal::Transferring));
    }
    let effects = keep(&mut one, 100);
    assert_eq!(outcomes(&effects), ["given up: the heir did not take over"]);
    assert_eq!(refused(&one.put("y")), None);
    assert_eq!(heirs(&one.hear(2, ack(term, last))), [], "it is too late");
}

/// An order that is repeated does not begin anew: however often it is given, entries wait for no longer than
/// ElectTimeoutMax, and the token that the heir has is good.
#[test]
fn a_second_order_to_the_same_heir_changes_nothing() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let term = one.raft.term();
    let first = told(&transfer_to(&mut one, 2));
    assert_eq!(first.len(), 1);
    assert_eq!(told(&transfer_to(&mut one, 2)), [], "it was told");
    let mut given_up = None;
    for round in 1..=8 {
        let effects = one.wait(milliseconds(250));
        one.hear(3, heartbeat_reply(term, 0));
        if !outcomes(&effects).is_empty() {
            given_up = given_up.or(Some(round));
        }
        if given_up.is_none() {
            transfer_to(&mut one, 2);
        }
    }
    assert_eq!(given_up, Some(6), "1.5 s after the first order");
    let mut one = One::leader(1, &[1, 2], &[1]);
    let (_, token) = told(&transfer_to(&mut one, 2))[0];
    transfer_to(&mut one, 2);
    let request = message::RequestVote {
        term: one.raft.term() + 1,
        pre_vote: false,
        last: one.raft.last(),
        transfer_token: token,
    };
    assert_eq!(
        granted(&one.hear(2, Message::RequestVote(request))),
        Some(true)
    );
}

/// A second order, to another heir, takes the place of the first: the first heir is not told any more, and
/// what it was told before does not depose the leader.
#[test]
fn a_second_order_to_another_heir_takes_the_first_ones_place() {
    let mut one = leader_with_2_behind();
    let (term, last) = (one.raft.term(), one.raft.last().index);
    assert_eq!(heirs(&transfer_to(&mut one, 2)), []);
    assert_eq!(heirs(&transfer_to(&mut one, 3)), [node(3)]);
    assert_eq!(heirs(&one.hear(2, ack(term, last))), []);
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let (_, token) = told(&transfer_to(&mut one, 2))[0];
    transfer_to(&mut one, 3);
    let request = message::RequestVote {
        term: one.raft.term() + 1,
        pre_vote: false,
        last: one.raft.last(),
        transfer_token: token,
    };
    assert_eq!(
        granted(&one.hear(2, Message::RequestVote(request))),
        Some(false)
    );
    assert_eq!(one.raft.role(), RoleName::Leader);
}

/// Orders that name one heir and the other in turn share the time of the first: entries wait for no longer.
#[test]
fn orders_in_turn_share_one_time() {
    let mut one = leader_with_2_behind();
    let term = one.raft.term();
    for round in 0..6 {
        transfer_to(&mut one, 2 + round % 2);
        assert_eq!(refused(&one.put("y")), Some(Refusal::Transferring));
        one.wait(milliseconds(250));
        one.hear(3, heartbeat_reply(term, 0));
    }
    assert_eq!(refused(&one.put("y")), None, "1.5 s after the first order");
}

/// A higher term ends the hand-over with the leadership: nothing of it is left when the same node leads again.
#[test]
fn a_higher_term_ends_a_hand_over() {
    let mut one = leader_with_2_behind();
    transfer_to(&mut one, 2);
    let higher = one.raft.term() + 1;
    let effects = one.hear(3, Message::HigherTerm { term: higher });
    assert_eq!(outcomes(&effects), ["this node leads no more"]);
    assert_eq!(one.raft.role(), RoleName::Follower);
    one.elect();
    assert_eq!(heirs(&one.all_ack()), []);
    assert_eq!(refused(&one.put("y")), None);
}

/// No change of the configuration begins while leadership is handed over: neither is the heir removed under
/// its feet, nor does the successor find more than it must. It begins when the hand-over has failed.
#[test]
fn no_change_begins_during_a_hand_over() {
    let mut one = leader_with_2_behind();
    let term = one.raft.term();
    transfer_to(&mut one, 2);
    let before = one.raft.configuration().0;
    let hint = MemberHint {
        node: node(4),
        joinable: true,
    };
    one.settle(Input::Members(vec![hint]));
    for _ in 0..3 {
        one.wait(milliseconds(400));
        one.hear(3, heartbeat_reply(term, 0));
    }
    assert_eq!(one.raft.configuration().0, before);
    for _ in 0..3 {
        one.wait(milliseconds(400));
        one.hear(3, heartbeat_reply(term, 0));
    }
    assert!(one.raft.configuration().1.learners.contains(&node(4)));
}

/// Who does not lead hands nothing over.
#[test]
fn a_follower_hands_nothing_over() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    one.hear(2, heartbeat(1, 0, &[1, 3]));
    assert_eq!(transfer_to(&mut one, 3), []);
    assert_eq!(one.raft.leader(), Some(node(2)));
}

/// Without a name, the fittest is the heir: the one with the most of the log, if it is well.
#[test]
fn the_fittest_voter_is_the_heir() {
    let mut one = leader_with_2_behind();
    assert_eq!(heirs(&one.settle(Input::Transfer { to: None })), [node(3)]);
    let mut one = leader_with_2_behind();
    let health = Health {
        disk_sick: true,
        ..Health::default()
    };
    let (term, last) = (one.raft.term(), one.raft.last().index);
    one.hear(3, health_reply(term, health));
    assert_eq!(heirs(&one.settle(Input::Transfer { to: None })), []);
    assert_eq!(heirs(&one.hear(2, ack(term, last))), [node(2)]);
}

/// Leadership goes round and round among seven voters while clients write: what is acknowledged stays, what
/// is refused is told so, and nothing hangs.
#[test]
fn leadership_goes_round_while_clients_write() {
    let options = Options {
        voters: 7,
        ..Options::default()
    };
    for seed in 0..5 {
        let mut world = World::cluster_with(seed, 7, options.clone());
        world.run_for(SECOND * 2);
        let mut leaders = std::collections::BTreeSet::new();
        for round in 0..40 {
            let ids: Vec<_> = world.nodes.keys().copied().collect();
            let leader = world.leader().unwrap();
            leaders.insert(leader);
            let heir = ids[world.dice.below(7) as usize];
            world.input(leader, Input::Transfer { to: Some(heir) });
            for number in 0..10 {
                if let Some(leader) = world.leader() {
                    world.put(leader, &format!("{round}-{number}"));
                }
                world.run_for(milliseconds(5));
            }
            assert!(world.run_until(SECOND, |w| w.leader().is_some()));
        }
        world.run_for(SECOND);
        assert!(leaders.len() >= 5, "seed {seed}: {leaders:?}");
        let answers = &world.answers;
        assert!(answers.acknowledged.len() > 200, "seed {seed}");
        let open = |request: &u64| {
            let refused = answers.refused.contains_key(request);
            !refused && !answers.acknowledged.contains_key(request)
        };
        let open = answers.accepted.keys().filter(|request| open(request));
        let open = open.count();
        assert!(
            open < 100,
            "seed {seed}: {open} neither acknowledged nor refused"
        );
        world.check_durable();
    }
}
