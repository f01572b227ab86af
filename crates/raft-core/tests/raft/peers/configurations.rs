//! Changes of the configuration, as the tests of other implementations tell them.

use raft_core::*;

use crate::few::Few;
use crate::one::*;
use crate::world::World;

fn joinable(numbers: &[u64]) -> Input {
    let hint = |number: &u64| MemberHint {
        node: node(*number),
        joinable: true,
    };
    Input::Members(numbers.iter().map(hint).collect())
}

/// A leader appends no configuration before an entry of its own term is committed: else two leaders in a row
/// could each change one server, and their majorities would not meet.
#[test]
fn a_new_leader_changes_nothing_before_its_no_op_is_committed() {
    let mut one = One::new(1, &[1, 2, 3], &[1]);
    // That the configuration is committed is known, and is not enough.
    one.hear(2, append(1, at(1, 1), &[], 1));
    assert_eq!(one.raft.commit_index(), 1);
    one.elect();
    one.settle(joinable(&[4]));
    let term = one.raft.term();
    for _ in 0..3 {
        one.wait(milliseconds(375));
        for peer in [2, 3] {
            one.hear(peer, heartbeat_reply(term, 0));
        }
    }
    assert_eq!(one.raft.configuration().0, 1);
    one.hear(2, ack(term, 2));
    one.wait(milliseconds(375));
    assert_eq!(one.raft.configuration().0, 3);
}

/// 1 begins a change that nobody hears of; 2 is elected, and makes another. What 1 began is rolled back with
/// its entry, and both end with the configuration that was committed.
#[test]
fn a_change_that_was_begun_alone_gives_way_to_the_one_that_is_committed() {
    let mut few = Few::led_by_1(3);
    few.part(&[1]);
    few.input(1, joinable(&[4]));
    few.deliver();
    assert!(few.one(1).raft.configuration().1.contains(node(4)));
    assert!(few.campaign(2));
    few.input(2, joinable(&[5]));
    few.heartbeat(2);
    few.heartbeat(2);
    few.heal();
    for _ in 0..3 {
        few.heartbeat(2);
    }
    for id in [1, 2, 3] {
        let (index, configuration) = few.one(id).raft.committed_configuration();
        assert!(index > 1, "{id}");
        assert!(configuration.contains(node(5)) && !configuration.contains(node(4)));
        assert_eq!(few.one(id).raft.configuration(), (index, configuration));
    }
}

/// A configuration that is smaller may have at once what the larger one still waited for.
#[test]
fn a_smaller_configuration_commits_what_waited_for_the_larger() {
    let mut one = One::leader(1, &[1, 2, 3, 4, 5], &[1]);
    let term = one.raft.term();
    for (request, leaver) in [(1, 4), (2, 5)] {
        one.settle(Input::Leave {
            request,
            node: node(leaver),
        });
    }
    for _ in 0..2 {
        one.wait(milliseconds(375));
        for peer in [2, 3, 4, 5] {
            one.hear(peer, heartbeat_reply(term, 0));
        }
    }
    let joint = one.raft.configuration();
    assert!(joint.1.is_joint());
    one.put("x");
    let waits = one.raft.last().index;
    // The entry and the joint configuration before it are on 2 and 1: enough for C_new, not for C_old.
    one.hear(2, ack(term, waits));
    assert!(one.raft.commit_index() < joint.0);
    // 3 has the joint one, not x. That ends it, and C_new alone decides over x: 1 and 2 are enough.
    one.hear(3, ack(term, joint.0));
    assert!(!one.raft.configuration().1.is_joint());
    assert_eq!(one.raft.commit_index(), waits);
}

/// A voter that is demoted votes and counts in its half until the joint configuration is left, and for
/// nothing from then on.
#[test]
fn a_demoted_voter_counts_until_the_joint_configuration_is_left() {
    let base = Configuration {
        outgoing: voters(&[1, 2, 3]),
        learners: voters(&[3]),
        ..configuration(&[1, 2, 4])
    };
    let mut one = One::with(1, base, &[1], Options::default());
    one.elect();
    let term = one.raft.term();
    one.hear(4, ack(term, 2));
    assert_eq!(one.raft.commit_index(), 0, "a majority of C_new alone");
    one.hear(3, ack(term, 2));
    assert_eq!(one.raft.commit_index(), 2);
    let (index, left) = one.raft.configuration();
    assert!(!left.is_joint() && left.learners == voters(&[3]));
    one.hear(3, ack(term, index));
    assert_eq!(one.raft.commit_index(), 2, "a learner's copy");
    one.hear(4, ack(term, index));
    assert_eq!(one.raft.commit_index(), index);
}

/// Two nodes come at once, and two voters go at once: each is one joint change.
#[test]
fn two_come_and_two_go_by_one_change_each() {
    let mut world = World::cluster(31, 3);
    world.run_for(SECOND);
    world.events.clear();
    for number in [4, 5] {
        world.add(node(number));
    }
    world.tell_members();
    assert!(world.run_until(SECOND * 10, |w| {
        let leader = w.leader().unwrap();
        w.raft(leader).committed_configuration().1.voters.len() == 5
    }));
    let joint = |world: &World| {
        world.saw(|e| matches!(e, Event::ConfigurationAppended { joint: true, .. }))
    };
    assert_eq!(joint(&world), 1, "both became voters together");
    world.events.clear();
    let leader = world.leader().unwrap();
    let leavers = world.others(leader);
    let requests = [0, 1].map(|n| world.leave(leader, leavers[n]));
    assert!(world.run_until(SECOND * 5, |w| {
        requests.iter().all(|r| w.answers.leaves.contains_key(r))
    }));
    assert_eq!(joint(&world), 1, "both left together");
    assert!(world.run_until(SECOND, |w| w.retired.len() == 2));
}

/// The leader itself leaves, and a spare takes its place: another one leads, the leaver retires, and no entry
/// that was acknowledged is lost on the way.
#[test]
fn a_leader_that_leaves_is_replaced_by_a_spare() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 4);
        world.run_for(SECOND * 2);
        let old = world.leader().unwrap();
        let spare = world.raft(old).committed_configuration().1.learners.clone();
        let kept = world.write("before");
        world.leave(old, old);
        assert!(
            world.run_until(SECOND * 8, |w| w.retired.contains(&old)),
            "seed {seed}: it stays"
        );
        assert!(world.run_until(SECOND * 5, |w| w.leader().is_some_and(|l| l != old)));
        world.write("after");
        let configuration = world
            .raft(world.leader().unwrap())
            .committed_configuration()
            .1;
        assert_eq!(configuration.voters.len(), 3, "seed {seed}");
        assert!(spare.is_subset(&configuration.voters));
        assert!(configuration.removed.contains(&old));
        assert_eq!(world.committed[&kept.index].term, kept.term);
    }
}

/// A voter that nobody reaches leaves by an operator's word. It comes back without having heard of it, asks
/// for votes, and disturbs nobody; it hears of its removal, or stays outside.
#[test]
fn a_partitioned_node_is_removed_and_disturbs_nobody() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 5);
        world.run_for(SECOND * 2);
        let leader = world.leader().unwrap();
        let gone: Vec<_> = world.others(leader)[..2].to_vec();
        world.partition(&gone);
        world.run_for(SECOND * 2);
        for node in &gone {
            world.leave(leader, *node);
        }
        assert!(
            world.run_until(SECOND * 5, |w| {
                let configuration = w.raft(leader).committed_configuration().1;
                !configuration.is_joint() && configuration.voters.len() == 3
            }),
            "seed {seed}: they were not removed"
        );
        let term = world.raft(leader).term();
        world.run_for(SECOND * 5);
        world.heal();
        for _ in 0..10 {
            world.write("goes on");
            world.run_for(milliseconds(500));
        }
        assert_eq!(world.leader(), Some(leader), "seed {seed}");
        assert_eq!(world.raft(leader).term(), term, "seed {seed}");
        for node in &gone {
            assert_ne!(world.raft(*node).role(), RoleName::Leader);
        }
    }
}

/// A change is under way when the cluster falls apart. Whichever side has both majorities ends it; the other
/// does nothing; after the healing there is one configuration, and nothing acknowledged is lost.
#[test]
fn a_change_during_a_partition_splits_nothing() {
    for seed in 0..60 {
        let mut world = World::cluster(seed, 3);
        world.run_for(SECOND);
        for number in [4, 5] {
            world.add(node(number));
        }
        world.tell_members();
        // The moment of the cut is another one for each seed: before, in and after the change.
        world.run_for(milliseconds(20 * seed));
        let leader = world.leader().unwrap();
        let friend = world.others(leader)[seed as usize % 4];
        world.partition(&[leader, friend]);
        for number in 0..20 {
            let ids: Vec<_> = world.nodes.keys().copied().collect();
            for id in ids {
                if world.raft(id).role() == RoleName::Leader {
                    world.put(id, &format!("{number} at {id}"));
                }
            }
            world.run_for(milliseconds(200));
        }
        world.heal();
        world.tell_members();
        assert!(
            world.run_until(SECOND * 20, |w| {
                w.agree()
                    && w.leader().is_some_and(|leader| {
                        let configuration = w.raft(leader).committed_configuration().1;
                        configuration.voters.len() == 5 && !configuration.is_joint()
                    })
            }),
            "seed {seed}"
        );
        world.check_durable();
    }
}

/// A node campaigns by the newest configuration in its log, though nothing of it is committed here: one that
/// was removed by it does not, and one that was added does (§6).
#[test]
fn who_campaigns_is_decided_by_the_log() {
    for (next, campaigns) in [(&[2, 3][..], false), (&[1, 2, 3], true)] {
        let base = configuration(if campaigns { &[2, 3] } else { &[1, 2, 3] });
        let mut one = One::with(1, base, &[1], Options::default());
        let payload = Payload::Configuration(configuration(next).into());
        let change = Entry {
            payload,
            ..entry(2, 1)
        };
        let append = message::AppendEntries {
            term: 1,
            previous: at(1, 1),
            entries: vec![change],
            commit_index: 0,
        };
        one.hear(2, Message::AppendEntries(append));
        let asked = !vote_requests(&one.wait(SECOND * 3)).is_empty();
        assert_eq!(asked, campaigns);
        assert_eq!(one.raft.commit_index(), 0);
        // It is the same after a crash: the log on the disk says so.
        let mut one = one.crash();
        let asked = !vote_requests(&one.wait(SECOND * 3)).is_empty();
        assert_eq!(asked, campaigns);
    }
}

/// Whoever is to leave, and is in no configuration, has left: that is the answer, and nothing is written for it.
#[test]
fn who_is_not_in_the_configuration_has_left() {
    let mut one = One::leader(1, &[1, 2, 3], &[1]);
    let last = one.raft.last();
    let leave = Input::Leave {
        request: 7,
        node: node(9),
    };
    let effects = one.settle(leave);
    let decided = |e: &Effect| {
        matches!(
            e,
            Effect::LeaveDecided {
                request: 7,
                removed: true,
                ..
            }
        )
    };
    assert!(effects.iter().any(decided));
    one.wait(SECOND);
    assert_eq!(one.raft.last(), last);
}
