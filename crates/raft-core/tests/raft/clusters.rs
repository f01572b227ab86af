//! Whole clusters in a deterministic world: growth, failover, partitions, and chaos by seed.

use std::time::Duration;

use crate::world::{World, node};
use raft_core::{Event, Options, Refusal, RoleName};

const SECOND: Duration = Duration::from_secs(1);

fn milliseconds(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Nodes 1, 2, 3, 4, 5 and more give voters 1, 1, 3, 3, 5 and 5 (M2).
#[test]
fn voters_grow_in_pairs() {
    for (nodes, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (7, 5)] {
        let mut world = World::new(nodes, nodes);
        world.found(node(1));
        world.tell_members();
        world.run_for(SECOND * 10);
        let configuration = world
            .raft(world.leader().unwrap())
            .committed_configuration()
            .1;
        assert_eq!(configuration.voters.len(), voters, "{nodes} nodes");
        assert_eq!(configuration.members().len() as u64, nodes);
    }
}

/// F1: before a second node has entered the configuration nothing is accepted.
#[test]
fn a_founder_takes_entries_from_its_second_node_on() {
    let mut world = World::new(1, 1);
    world.found(node(1));
    assert!(world.run_until(SECOND * 3, |w| w.leader() == Some(node(1))));
    let early = world.put(node(1), "early");
    assert_eq!(world.answers.refused.get(&early), Some(&Refusal::Founding));
    world.add(node(2));
    world.tell_members();
    world.run_for(SECOND * 2);
    let late = world.put(node(1), "late");
    assert!(world.run_until(SECOND, |w| w.answers.acknowledged.contains_key(&late)));
}

#[test]
fn an_entry_is_committed_everywhere() {
    let mut world = World::cluster(3, 3);
    let leader = world.leader().unwrap();
    let request = world.put(leader, "PUT pizzatoppings peporoni");
    assert!(world.run_until(milliseconds(50), |w| {
        w.answers.acknowledged.contains_key(&request)
    }));
    assert!(
        world.run_until(milliseconds(50), World::agree),
        "followers hear of it at once"
    );
}

/// The target of the fast succession: a leader whose process is gone has a successor within 300 ms.
#[test]
fn a_killed_leader_is_succeeded_at_once() {
    for seed in 0..300 {
        let mut world = World::cluster(seed, if seed % 2 == 0 { 3 } else { 5 });
        world.run_for(SECOND * 4);
        let old = world.leader().unwrap();
        let before = world.now;
        world.kill(old);
        assert!(
            world.run_until(SECOND * 5, |w| w.leader().is_some_and(|l| l != old)),
            "seed {seed}: nobody succeeded"
        );
        let gap = world.now - before;
        assert!(gap < milliseconds(300), "seed {seed}: it took {gap:?}");
    }
}

/// E1: with equal logs, the order of succession keeps the vote from splitting.
#[test]
fn succession_does_not_split_the_vote() {
    let mut split = 0;
    for seed in 0..200 {
        let mut world = World::cluster(seed, 3);
        world.run_for(SECOND * 4);
        let old = world.leader().unwrap();
        world.events.clear();
        world.kill(old);
        world.run_until(SECOND * 5, |w| w.leader().is_some_and(|l| l != old));
        let elections = world.saw(|e| {
            matches!(
                e,
                Event::Election {
                    pre_vote: false,
                    ..
                }
            )
        });
        split += usize::from(elections > 1);
    }
    assert_eq!(
        split, 0,
        "{split} of 200 successions needed more than one election"
    );
}

/// E2 and E3: a stream that ends says nothing while the leader lives.
#[test]
fn a_flapping_link_deposes_nobody() {
    let mut world = World::cluster(7, 5);
    world.run_for(SECOND * 4);
    let leader = world.leader().unwrap();
    let term = world.raft(leader).term();
    let others: Vec<_> = world
        .nodes
        .keys()
        .copied()
        .filter(|n| *n != leader)
        .collect();
    for _ in 0..50 {
        for other in &others {
            world.input(*other, raft_core::Input::StreamEnded { peer: leader });
        }
        world.run_for(milliseconds(200));
    }
    assert_eq!(world.leader(), Some(leader));
    assert_eq!(world.raft(leader).term(), term);
}

/// A minority, leader included, acknowledges nothing and serves no linearizable read; after
/// healing all agree.
#[test]
fn a_minority_is_silent() {
    for seed in 0..50 {
        let mut world = World::cluster(seed, 5);
        let old = world.leader().unwrap();
        let friend = world.nodes.keys().copied().find(|n| *n != old).unwrap();
        world.partition(&[old, friend]);
        let lost = world.put(old, "minority");
        let read = world.read(old, SECOND * 2);
        let read_at_friend = world.read(friend, SECOND * 2);
        world.run_for(SECOND * 6);
        assert!(
            !world.answers.acknowledged.contains_key(&lost),
            "seed {seed}"
        );
        assert!(!world.answers.reads.contains_key(&read), "seed {seed}");
        assert!(
            !world.answers.reads.contains_key(&read_at_friend),
            "seed {seed}"
        );
        assert_ne!(world.raft(old).role(), RoleName::Leader, "check-quorum");
        let new = world.leader().unwrap();
        let kept = world.put(new, "majority");
        assert!(world.run_until(SECOND, |w| w.answers.acknowledged.contains_key(&kept)));
        world.heal();
        assert!(
            world.run_until(SECOND * 5, World::agree),
            "seed {seed}: no agreement"
        );
        assert_eq!(world.raft(old).leader(), world.leader());
    }
}

/// A node that was cut off comes back without disturbing the leader (pre-vote).
#[test]
fn a_returning_node_disturbs_nobody() {
    for seed in 0..30 {
        let mut world = World::cluster(seed, 3);
        let leader = world.leader().unwrap();
        let term = world.raft(leader).term();
        let away = world.nodes.keys().copied().find(|n| *n != leader).unwrap();
        world.partition(&[away]);
        world.run_for(SECOND * 8);
        world.heal();
        world.run_for(SECOND * 4);
        assert_eq!(
            (world.leader(), world.raft(leader).term()),
            (Some(leader), term)
        );
    }
}

/// All nodes lose power during writes, and start again.
#[test]
fn all_killed_at_once() {
    for seed in 0..100 {
        let mut world = World::cluster(seed, 5);
        for round in 0..5 {
            for number in 0..20 {
                if let Some(leader) = world.leader() {
                    world.put(leader, &format!("{round}-{number}"));
                }
                world.run_for(Duration::from_micros(300));
            }
            let ids: Vec<_> = world.nodes.keys().copied().collect();
            for id in &ids {
                world.kill(*id);
            }
            for id in &ids {
                world.start(*id);
            }
            assert!(
                world.run_until(SECOND * 10, |w| w.leader().is_some() && w.agree()),
                "seed {seed}: no leader after the restart"
            );
        }
        world.check_durable();
    }
}

/// Leadership is handed over without an election timeout, and no entry is lost on the way.
#[test]
fn leadership_is_handed_over() {
    for seed in 0..50 {
        let mut world = World::cluster(seed, 3);
        let old = world.leader().unwrap();
        world.put(old, "before");
        let before = world.now;
        world.input(old, raft_core::Input::Transfer { to: None });
        assert!(world.run_until(SECOND * 2, |w| w.leader().is_some_and(|l| l != old)));
        assert!(world.now - before < milliseconds(30), "seed {seed}");
        let new = world.leader().unwrap();
        let request = world.put(new, "after");
        assert!(world.run_until(SECOND, |w| w.answers.acknowledged.contains_key(&request)));
    }
}

/// M4: a dead voter is replaced by a spare, and comes back as a learner.
#[test]
fn a_dead_voter_is_replaced_by_a_spare() {
    let mut world = World::cluster(5, 4);
    world.run_for(SECOND * 2);
    let leader = world.leader().unwrap();
    let before = world.raft(leader).committed_configuration().1;
    let dead = before
        .voters
        .iter()
        .copied()
        .find(|n| *n != leader)
        .unwrap();
    world.kill(dead);
    world.tell_members();
    world.run_for(SECOND * 13);
    let after = world.raft(leader).committed_configuration().1;
    assert_eq!(after.voters.len(), 3);
    assert!(!after.voters.contains(&dead) && after.learners.contains(&dead));
    world.start(dead);
    assert!(world.run_until(SECOND * 3, World::agree));
}

/// M4: without a spare a dead voter stays a voter.
#[test]
fn without_a_spare_a_dead_voter_stays() {
    let mut world = World::cluster(6, 3);
    let leader = world.leader().unwrap();
    let dead = world.nodes.keys().copied().find(|n| *n != leader).unwrap();
    world.kill(dead);
    world.tell_members();
    world.run_for(SECOND * 60);
    assert!(
        world
            .raft(leader)
            .committed_configuration()
            .1
            .voters
            .contains(&dead)
    );
}

/// M1: leaves are gathered, voters go in pairs, and never below MinVoters.
#[test]
fn leaves_never_go_below_min_voters() {
    let mut world = World::cluster(8, 5);
    world.run_for(SECOND * 2);
    let leader = world.leader().unwrap();
    let leavers: Vec<_> = world
        .nodes
        .keys()
        .copied()
        .filter(|n| *n != leader)
        .collect();
    let requests: Vec<_> = leavers.iter().map(|n| world.leave(leader, *n)).collect();
    world.run_for(SECOND * 3);
    let after = world.raft(leader).committed_configuration().1;
    assert_eq!(after.voters.len(), 3, "{after:?}");
    let removed = requests
        .iter()
        .filter(|r| world.answers.leaves[r].0)
        .count();
    assert_eq!(
        removed, 2,
        "two went, two were kept: {:?}",
        world.answers.leaves
    );
    assert_eq!(after.removed.len(), 2);
}

/// M3: who left never comes back under the same id.
#[test]
fn a_removed_id_is_never_added_again() {
    let mut world = World::cluster(9, 5);
    world.run_for(SECOND * 2);
    let leader = world.leader().unwrap();
    let leaver = world.nodes.keys().copied().find(|n| *n != leader).unwrap();
    let request = world.leave(leader, leaver);
    assert!(world.run_until(SECOND * 5, |w| w.answers.leaves.contains_key(&request)));
    assert!(world.answers.leaves[&request].0);
    for _ in 0..10 {
        world.tell_members();
        world.run_for(SECOND);
    }
    let configuration = world.raft(leader).committed_configuration().1;
    assert!(!configuration.contains(leaver) && configuration.removed.contains(&leaver));
}

/// D5: a disk that went back in time is noticed when it opens a stream.
#[test]
fn a_disk_that_went_back_is_noticed() {
    let mut world = World::cluster(10, 3);
    let leader = world.leader().unwrap();
    let victim = world.nodes.keys().copied().find(|n| *n != leader).unwrap();
    let copy = world.disk(victim);
    for number in 0..20 {
        world.put(leader, &format!("{number}"));
        world.run_for(milliseconds(5));
    }
    world.run_for(SECOND);
    assert!(world.rolled_back.is_empty());
    world.roll_back(victim, copy);
    world.start(victim);
    world.run_for(SECOND);
    assert!(
        world.rolled_back.contains(&(leader, victim)),
        "{:?}",
        world.rolled_back
    );
}

/// D4: a leader whose disk hangs hands over; when it is the only one with a full log it still leads
/// in the end.
#[test]
fn a_leader_with_a_hanging_disk_hands_over() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 3);
        world.run_for(SECOND * 2);
        let old = world.leader().unwrap();
        world.nodes.get_mut(&old).unwrap().disk.stalled = true;
        world.put(old, "stalls the disk");
        assert!(
            world.run_until(SECOND * 8, |w| w.leader().is_some_and(|l| l != old)),
            "seed {seed}: the sick leader leads on"
        );
        let new = world.leader().unwrap();
        let request = world.put(new, "goes on");
        assert!(world.run_until(SECOND, |w| w.answers.acknowledged.contains_key(&request)));
        world.nodes.get_mut(&old).unwrap().disk.stalled = false;
        assert!(world.run_until(SECOND * 5, World::agree));
    }
}

/// A follower that is further behind than memory reaches is fed from the disk.
#[test]
fn a_follower_far_behind_catches_up_from_the_disk() {
    let options = Options {
        log_cache_bytes: 2_000,
        ..Options::default()
    };
    let mut world = World::cluster_with(11, 3, options);
    let leader = world.leader().unwrap();
    let away = world.nodes.keys().copied().find(|n| *n != leader).unwrap();
    world.kill(away);
    for number in 0..500 {
        world.put(leader, &format!("entry number {number}"));
        world.run_for(milliseconds(1));
    }
    world.start(away);
    assert!(world.run_until(SECOND * 5, World::agree));
    assert!(world.nodes[&away].committed > 500);
}

/// Kills, restarts, pauses, partitions, loss, duplication and configuration changes, by seed; the
/// checks in the world hold after every step. At the end the faults stop, and all must agree.
#[test]
fn chaos_by_seed() {
    let (first, count) = match std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => (seed, 1),
        None => (
            0,
            std::env::var("SEEDS")
                .ok()
                .and_then(|n| n.parse().ok())
                .unwrap_or(400),
        ),
    };
    let mut totals = [0_usize; 7];
    for seed in first..first + count {
        let result = std::panic::catch_unwind(|| chaos(seed));
        match result {
            Ok(counts) => totals
                .iter_mut()
                .zip(counts)
                .for_each(|(total, n)| *total += n),
            Err(cause) => {
                println!("replay: SEED={seed} cargo test --release -p raft-core --test raft chaos");
                std::panic::resume_unwind(cause);
            }
        }
    }
    let [
        acknowledged,
        reads,
        elections,
        truncations,
        changes,
        compactions,
        installs,
    ] = totals;
    println!(
        "{count} seeds: {acknowledged} acknowledged, {reads} reads, {elections} elections, \
         {truncations} truncations, {changes} configurations, {compactions} compactions, {installs} \
         snapshots installed"
    );
    if count > 1 {
        assert!(
            totals.iter().all(|total| *total > 100),
            "a kind of fault never occurred: {totals:?}"
        );
    }
}

fn chaos(seed: u64) -> [usize; 7] {
    let nodes = [3, 5, 4, 7][seed as usize % 4];
    let options = Options {
        snapshot_trailing_entries: [0, 3, 20][seed as usize % 3],
        log_cache_bytes: [64 << 20, 500][seed as usize % 2],
        ..Options::default()
    };
    let mut world = World::cluster_with(seed, nodes, options);
    world.loss_percent = [0, 2, 10][seed as usize % 3];
    world.duplicate_percent = [0, 5][seed as usize % 2];
    let mut ids: Vec<_> = world.nodes.keys().copied().collect();
    for _ in 0..250 {
        let id = ids[world.dice.below(ids.len() as u64) as usize];
        let down = world
            .nodes
            .values()
            .filter(|n| n.raft.is_none() || n.paused)
            .count();
        match world.dice.below(100) {
            0..=3 if world.nodes[&id].raft.is_some() && down < ids.len() / 2 => world.kill(id),
            4..=11 if world.nodes[&id].raft.is_none() => world.start(id),
            12..=13 => world.nodes.get_mut(&id).unwrap().paused = true,
            14..=18 => world.nodes.get_mut(&id).unwrap().paused = false,
            19..=20 => {
                let size = world.dice.below(ids.len() as u64) as usize;
                let start = world.dice.below(ids.len() as u64) as usize;
                let side: Vec<_> = ids.iter().cycle().skip(start).take(size).copied().collect();
                world.partition(&side);
            }
            21..=26 => world.heal(),
            27..=28 => {
                let stalled = &mut world.nodes.get_mut(&id).unwrap().disk.stalled;
                *stalled = !*stalled;
            }
            29 => world.input(id, raft_core::Input::Transfer { to: None }),
            30 => {
                let other = ids[world.dice.below(ids.len() as u64) as usize];
                world.cut.insert((id, other));
            }
            31 if world.retired.is_empty() => {
                if let Some(leader) = world.leader() {
                    world.leave(leader, id);
                }
            }
            32..=45 => {
                world.read(id, SECOND);
            }
            46..=50 => {
                let kept = world.dice.below(15);
                world.take_snapshot(id, kept);
            }
            51 if ids.len() < 9 => {
                // A newcomer: what it lacks may be in no log any more.
                let newcomer = node(ids.len() as u64 + 1);
                world.add(newcomer);
                ids.push(newcomer);
                world.tell_members();
            }
            _ => {
                if let Some(leader) = world.leader() {
                    world.put(leader, "x");
                }
            }
        }
        let pause = world.dice.below(200);
        world.run_for(milliseconds(pause));
    }
    world.heal();
    world.loss_percent = 0;
    for id in &ids {
        world.nodes.get_mut(id).unwrap().paused = false;
        world.nodes.get_mut(id).unwrap().disk.stalled = false;
        if world.nodes[id].raft.is_none() {
            world.start(*id);
        }
    }
    world.tell_members();
    let settled = world.run_until(SECOND * 30, |w| {
        w.leader().is_some_and(|leader| {
            let configuration = w.raft(leader).committed_configuration().1;
            let most = w.nodes[&leader].committed;
            most > 0
                && configuration
                    .members()
                    .iter()
                    .all(|member| w.nodes[member].committed == most)
        })
    });
    assert!(settled, "seed {seed}: no agreement after the faults ended");
    let leader = world.leader().unwrap();
    // A hand-over may still be under way: ask until somebody takes it.
    let mut taken = false;
    for _ in 0..100 {
        let leader = world.leader().unwrap_or(leader);
        let last = world.put(leader, "last");
        taken = world.run_until(milliseconds(100), |w| {
            w.answers.acknowledged.contains_key(&last)
        });
        if taken {
            break;
        }
    }
    assert!(
        taken,
        "seed {seed}: nothing is acknowledged after the faults ended"
    );
    world.check_durable();
    [
        world.answers.acknowledged.len(),
        world.answers.reads.len(),
        world.saw(|e| matches!(e, Event::BecameLeader { .. })),
        world.saw(|e| matches!(e, Event::EntryConflict { .. })),
        world.saw(|e| matches!(e, Event::ConfigurationAppended { .. })),
        world.saw(|e| matches!(e, Event::Compacted { .. })),
        world.installed,
    ]
}
