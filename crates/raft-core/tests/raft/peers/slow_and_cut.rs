//! Clusters under one fault for long, as fuzzers of other implementations tell it: slow votes, leaders that
//! are cut off in turn, members that come and go.

use std::time::Duration;

use raft_core::*;

use crate::one::{SECOND, milliseconds, node};
use crate::world::World;

fn is_vote(message: &Message) -> bool {
    matches!(message, Message::RequestVote(_))
}

fn is_vote_reply(message: &Message) -> bool {
    matches!(message, Message::RequestVoteReply(_))
}

/// Leaders die one after another, and always somebody leads again, and takes entries.
fn succession_goes_on(mut world: World, seed: u64) {
    for round in 0..8 {
        let old = world.leader().unwrap();
        world.kill(old);
        assert!(
            world.run_until(SECOND * 20, |w| w.leader().is_some_and(|l| l != old)),
            "seed {seed}, round {round}"
        );
        world.write("goes on");
        world.start(old);
        world.run_for(SECOND);
        // What is late by now is refused: a leader is heard.
        let leads = |w: &World| w.leader().map(|leader| (leader, w.raft(leader).term()));
        let before = leads(&world);
        world.run_for(SECOND * 2);
        assert_eq!(leads(&world), before, "seed {seed}, round {round}");
    }
    assert!(world.run_until(SECOND * 5, World::agree), "seed {seed}");
    world.check_durable();
}

/// What one node asks takes half a second to arrive: its requests come into other elections, terms later.
#[test]
fn one_nodes_requests_for_votes_are_slow() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        world.run_for(SECOND * 2);
        world.detour = |from, _, message| {
            let slow = is_vote(message) && from == node(2);
            milliseconds(if slow { 500 } else { 0 })
        };
        succession_goes_on(world, seed);
    }
}

/// What one node answers takes half a second.
#[test]
fn one_nodes_votes_are_slow() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        world.run_for(SECOND * 2);
        world.detour = |from, _, message| {
            let slow = is_vote_reply(message) && from == node(2);
            milliseconds(if slow { 500 } else { 0 })
        };
        succession_goes_on(world, seed);
    }
}

/// Half a second passes before anybody hears of anybody's candidacy: elections take long, and end.
#[test]
fn all_requests_for_votes_are_slow() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 3);
        world.run_for(SECOND * 2);
        world.detour = |_, _, message| milliseconds(if is_vote(message) { 300 } else { 0 });
        succession_goes_on(world, seed);
    }
}

/// The leader is cut off, with one friend or none, and joined again, over and over, while clients write everywhere.
#[test]
fn leaders_are_cut_off_in_turn() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        world.run_for(SECOND);
        for round in 0..12 {
            let leader = world.leader().unwrap();
            let friend = world.others(leader)[world.dice.below(4) as usize];
            let size = 1 + world.dice.below(2) as usize;
            world.partition(&[leader, friend][..size]);
            for number in 0..20 {
                let ids: Vec<_> = world.nodes.keys().copied().collect();
                for id in ids {
                    world.put(id, &format!("{round}-{number}"));
                }
                world.run_for(milliseconds(150));
            }
            world.heal();
            assert!(
                world.run_until(SECOND * 5, |w| w.leader().is_some()),
                "seed {seed}"
            );
        }
        assert!(world.run_until(SECOND * 10, World::agree), "seed {seed}");
        assert!(world.answers.acknowledged.len() > 100);
        world.check_durable();
    }
}

/// Nothing fails: nobody but the first leader ever leads, and every entry is taken.
#[test]
fn nothing_happens_where_nothing_fails() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        world.run_for(SECOND * 5);
        world.events.clear();
        let leader = world.leader().unwrap();
        let requests: Vec<_> = (0..500)
            .map(|number| {
                world.run_for(Duration::from_millis(10));
                world.put(leader, &number.to_string())
            })
            .collect();
        world.run_for(SECOND);
        assert!(
            requests
                .iter()
                .all(|r| world.answers.acknowledged.contains_key(r))
        );
        let odd = world.saw(|e| {
            matches!(
                e,
                Event::Election { .. }
                    | Event::SteppedDown { .. }
                    | Event::EntryConflict { .. }
                    | Event::RetryAppendEntries { .. }
                    | Event::Nonsense { .. }
                    | Event::ElectTimeout { .. }
            )
        });
        assert_eq!(odd, 0, "seed {seed}");
    }
}

/// Nodes come one by one while clients write: each becomes a learner, pairs become voters, and nobody is lost.
#[test]
fn members_come_while_clients_write() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 3);
        for number in 4..=9 {
            world.add(node(number));
            world.tell_members();
            for _ in 0..10 {
                world.write("x");
                world.run_for(milliseconds(50));
            }
        }
        world.run_for(SECOND * 5);
        let configuration = world
            .raft(world.leader().unwrap())
            .committed_configuration()
            .1;
        assert_eq!(configuration.voters.len(), 5, "seed {seed}");
        assert_eq!(configuration.members().len(), 9, "seed {seed}");
        assert!(world.run_until(SECOND * 3, World::agree));
    }
}

/// Followers leave while clients write, and new nodes come in their place.
#[test]
fn members_come_and_go_while_clients_write() {
    for seed in 0..10 {
        let mut world = World::cluster(seed, 5);
        world.run_for(SECOND);
        for newcomer in 6..=10 {
            let leader = world.leader().unwrap();
            let voters = world.raft(leader).committed_configuration().1;
            let leaver = voters
                .voters
                .iter()
                .copied()
                .find(|v| *v != leader)
                .unwrap();
            world.leave(leader, leaver);
            world.add(node(newcomer));
            world.tell_members();
            for _ in 0..20 {
                world.write("x");
                world.run_for(milliseconds(100));
            }
            assert!(
                world.run_until(SECOND * 5, |w| w.retired.contains(&leaver)),
                "seed {seed}: {leaver} does not hear of it"
            );
            world.kill(leaver);
        }
        let configuration = world
            .raft(world.leader().unwrap())
            .committed_configuration()
            .1;
        assert!(configuration.voters.len() >= 3);
        assert_eq!(configuration.removed.len(), 5, "seed {seed}");
        assert!(world.run_until(SECOND * 5, World::agree), "seed {seed}");
        world.check_durable();
    }
}

/// A follower's disk hangs, for longer than any timeout, and then goes on: what waited is written in order, and
/// replication resumes without an election.
#[test]
fn a_followers_disk_hangs_and_goes_on() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 3);
        world.run_for(SECOND);
        let leader = world.leader().unwrap();
        let term = world.raft(leader).term();
        let slow = world.others(leader)[0];
        world.nodes.get_mut(&slow).unwrap().disk.stalled = true;
        for number in 0..50 {
            world.write(&number.to_string());
            world.run_for(milliseconds(100));
        }
        assert!(world.nodes[&slow].committed + 40 < world.nodes[&leader].committed);
        world.nodes.get_mut(&slow).unwrap().disk.stalled = false;
        assert!(world.run_until(SECOND * 2, World::agree), "seed {seed}");
        assert_eq!(world.raft(leader).term(), term, "seed {seed}");
        assert_eq!(world.leader(), Some(leader));
    }
}
