//! Whole clusters of members in a seeded world, told as stories.

#![allow(clippy::unwrap_used)]

mod world;

use std::time::Duration;

use member_core::{Event, FORGET_TIMEOUT, State};
use world::{HOUR, MINUTE, MS, SECOND, World, address};

const FAIL_TIMEOUT: Duration = Duration::from_secs(6);
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(12);

fn all_show(world: &World, subject: usize, state: State) -> bool {
    let observers = world.running().into_iter().filter(|n| *n != subject);
    observers
        .into_iter()
        .all(|n| world.state(n, subject) == Some(state))
}

fn failed(event: &Event) -> bool {
    matches!(event, Event::Failure(_))
}

#[test]
fn five_members_find_each_other_in_a_second() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        for _ in 0..5 {
            world.add(&[address(0)]);
        }
        let time = world.run_until_settled(10 * SECOND);
        assert!(
            time.is_some_and(|time| time <= SECOND),
            "seed {seed}: {time:?}"
        );
        assert!((0..5).all(|n| world.member(n).view(world.now).joined));
    }
}

#[test]
fn thirty_members_find_each_other_even_when_every_tenth_packet_is_lost() {
    for seed in 0..5 {
        let mut world = World::new(seed);
        world.loss_permille = 100;
        for _ in 0..30 {
            world.add(&[address(0)]);
        }
        let time = world.run_until_settled(30 * SECOND);
        assert!(
            time.is_some_and(|time| time <= 5 * SECOND),
            "seed {seed}: {time:?}"
        );
    }
}

#[test]
fn two_hundred_members_find_each_other() {
    let mut world = World::new(1);
    for _ in 0..200 {
        world.add(&[address(0)]);
    }
    let time = world.run_until_settled(30 * SECOND);
    assert!(time.is_some_and(|time| time <= 15 * SECOND), "{time:?}");
    // A quiet hour later nothing is told any more but heartbeats.
    world.run(20 * SECOND);
    let before = world.bytes_sent;
    world.run(20 * SECOND);
    let bytes_per_second = (world.bytes_sent - before) / 20 / 200;
    assert!(
        bytes_per_second < 1000,
        "{bytes_per_second} bytes per second and member"
    );
}

/// Takes minutes: `cargo test --release -p member-core -- --ignored --nocapture`.
#[test]
#[ignore = "long"]
fn a_thousand_members_find_each_other_and_a_death() {
    const COUNT: usize = 1000;
    let mut world = World::new(1);
    world.check_rules = false;
    for _ in 0..COUNT {
        world.add(&[address(0)]);
    }
    let mut joined = Duration::ZERO;
    while !(0..COUNT).all(|n| world.member(n).alive_count() == COUNT) {
        assert!(joined < 15 * SECOND, "not all know all after {joined:?}");
        world.run(250 * MS);
        joined += 250 * MS;
    }
    println!(
        "{COUNT} joined in {joined:?}; {} bytes each",
        world.bytes_sent / COUNT as u64
    );
    world.run(5 * SECOND);
    assert_eq!(world.false_deaths(), 0);
    world.crash(500);
    let mut found = Duration::ZERO;
    while world.running().iter().any(|n| world.count(*n, failed) == 0) {
        assert!(
            found < 10 * SECOND,
            "not all know of the death after {found:?}"
        );
        world.run(100 * MS);
        found += 100 * MS;
    }
    println!("one death known everywhere after {found:?}");
    assert_eq!(world.false_deaths(), COUNT - 1);
}

#[test]
fn a_crash_is_found_everywhere_within_the_fail_timeout() {
    for (count, seeds) in [(2, 20), (3, 20), (5, 20), (30, 5)] {
        for seed in 0..seeds {
            let mut world = World::settled(seed, count);
            let phase = Duration::from_millis(world.dice.below(1000));
            world.run(phase);
            let victim = world.dice.below(count as u64) as usize;
            world.crash(victim);
            let time = world.run_until(20 * SECOND, |w| all_show(w, victim, State::Dead));
            assert!(
                time.is_some_and(|time| time <= FAIL_TIMEOUT),
                "{count} members, seed {seed}: {time:?}"
            );
            let others_failed = world.false_deaths();
            assert_eq!(
                others_failed,
                count - 1,
                "seed {seed}: only the victim is dead"
            );
        }
    }
}

#[test]
fn a_crash_is_found_when_every_tenth_packet_is_lost() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 5);
        world.loss_permille = 100;
        world.run(5 * SECOND);
        world.crash(2);
        let time = world.run_until(20 * SECOND, |w| all_show(w, 2, State::Dead));
        assert!(
            time.is_some_and(|time| time <= FAIL_TIMEOUT + SECOND),
            "seed {seed}: {time:?}"
        );
    }
}

#[test]
fn members_that_crash_together_are_found_together() {
    for seed in 0..5 {
        let mut world = World::settled(seed, 30);
        let victims: Vec<usize> = (0..10).map(|n| n * 3).collect();
        for victim in &victims {
            world.crash(*victim);
        }
        let time = world.run_until(30 * SECOND, |w| {
            victims.iter().all(|n| all_show(w, *n, State::Dead))
        });
        assert!(
            time.is_some_and(|time| time <= 3 * FAIL_TIMEOUT),
            "seed {seed}: {time:?}"
        );
        world.run(30 * SECOND);
        assert!(world.is_settled(), "seed {seed}");
        assert_eq!(
            world.false_deaths(),
            10 * 20,
            "seed {seed}: the living stay alive"
        );
    }
}

#[test]
fn nobody_dies_when_every_tenth_packet_is_lost() {
    for (count, seeds) in [(3, 5), (5, 5), (30, 3)] {
        for seed in 0..seeds {
            let mut world = World::settled(seed, count);
            world.loss_permille = 100;
            world.run(10 * MINUTE);
            assert_eq!(world.false_deaths(), 0, "{count} members, seed {seed}");
            world.loss_permille = 0;
            assert!(
                world.run_until_settled(10 * SECOND).is_some(),
                "{count}, seed {seed}"
            );
        }
    }
}

#[test]
fn a_member_that_one_other_cannot_reach_stays_alive() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 5);
        world.partition(&[1], &[3]);
        world.run(5 * MINUTE);
        assert_eq!(world.false_deaths(), 0, "seed {seed}");
        // The others vouch for it, so that it is not even suspected.
        let suspected = |e: &Event| matches!(e, Event::Suspected { .. });
        assert!(
            (0..5).all(|n| world.count(n, suspected) == 0),
            "seed {seed}"
        );
    }
}

#[test]
fn a_member_that_hears_nothing_is_found_though_it_speaks() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 5);
        for n in [0, 1, 2, 4] {
            world.cut.insert((n, 3));
        }
        let time = world.run_until(60 * SECOND, |w| {
            [0, 1, 2, 4]
                .iter()
                .all(|n| w.state(*n, 3) == Some(State::Dead))
        });
        assert!(
            time.is_some_and(|time| time <= 2 * FAIL_TIMEOUT),
            "seed {seed}: {time:?}"
        );
        world.heal();
        assert!(
            world.run_until_settled(30 * SECOND).is_some(),
            "seed {seed}"
        );
    }
}

#[test]
fn a_partition_heals_by_itself() {
    for seed in 0..5 {
        for (left, length) in [
            (5, 30 * SECOND),
            (5, 10 * MINUTE),
            (1, MINUTE),
            (9, 2 * HOUR),
        ] {
            let mut world = World::settled(seed, 10);
            let (a, b): (Vec<_>, Vec<_>) = (0..10).partition(|n| *n < left);
            world.partition(&a, &b);
            world.run(length);
            for n in &a {
                assert_eq!(world.alive_in_view(*n), left, "seed {seed}: member {n}");
            }
            world.heal();
            let time = world.run_until_settled(60 * SECOND);
            assert!(
                time.is_some_and(|time| time <= 30 * SECOND),
                "seed {seed}, {left} of 10 for {length:?}: {time:?}"
            );
        }
    }
}

#[test]
fn old_news_does_not_resurrect_the_dead() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 6);
        // Member 5 is cut off, and with it the news that 4 is dead.
        world.partition(&[5], &[0, 1, 2, 3, 4]);
        world.run(100 * MS);
        world.crash(4);
        world.run(MINUTE);
        world.heal();
        assert!(
            world.run_until_settled(30 * SECOND).is_some(),
            "seed {seed}"
        );
        let dead = world.processes[4].node_id;
        for n in [0, 1, 2, 3] {
            let died_at = world.processes[n]
                .events
                .iter()
                .find_map(|(at, event)| match event {
                    Event::Failure(record) if record.node_id == dead => Some(*at),
                    _ => None,
                });
            let died_at = died_at.unwrap();
            let revived = world.processes[n].events.iter().any(|(at, event)| {
                *at > died_at
                    && matches!(event, Event::Revived(r) | Event::Learned(r) if r.node_id == dead)
            });
            assert!(!revived, "seed {seed}: member {n} took old news for new");
        }
    }
}

#[test]
fn a_forgotten_member_comes_back_only_by_itself() {
    let mut world = World::settled(7, 4);
    world.check_rules = false;
    world.partition(&[3], &[0, 1, 2]);
    world.run(FORGET_TIMEOUT + MINUTE);
    let gone = world.processes[3].node_id;
    assert!(world.count(0, |e| matches!(e, Event::Forgotten(id) if *id == gone)) == 1);
    // It never restarted, and its incarnation is the one that was buried.
    world.heal();
    assert!(world.run_until_settled(MINUTE).is_some());
    assert!(world.count(3, |e| matches!(e, Event::Refuted(_))) >= 1);
}

#[test]
fn a_dead_member_is_shown_until_the_cleanup_timeout() {
    let mut world = World::settled(3, 3);
    world.crash(2);
    let dead = world.run_until(10 * SECOND, |w| w.state(0, 2) == Some(State::Dead));
    assert!(dead.is_some());
    let shown = world
        .run_until(MINUTE, |w| w.state(0, 2).is_none())
        .unwrap();
    assert!(
        shown <= CLEANUP_TIMEOUT + 20 * MS && shown >= CLEANUP_TIMEOUT - 20 * MS,
        "{shown:?}"
    );
    assert_eq!(world.count(0, |e| matches!(e, Event::FailureClean(_))), 1);
}

#[test]
fn a_restart_is_a_rejoin_whether_or_not_it_was_missed() {
    for seed in 0..10 {
        for down in [50 * MS, 3 * SECOND, 10 * SECOND, MINUTE, 2 * HOUR] {
            let mut world = World::settled(seed, 5);
            world.crash(2);
            world.run(down);
            world.start(2, Vec::new());
            let time = world.run_until_settled(MINUTE);
            assert!(
                time.is_some_and(|time| time <= 5 * SECOND),
                "seed {seed}, down {down:?}: {time:?}"
            );
            let view = world.member(2).view(world.now);
            assert!(view.rejoin, "seed {seed}, down {down:?}");
            assert!(world.count(0, |e| matches!(e, Event::Join { rejoin: true, .. })) >= 1);
            assert_eq!(view.me.incarnation.boot_epoch(), 2);
        }
    }
}

#[test]
fn a_member_may_come_back_at_another_address_and_another_may_take_its_old_one() {
    for seed in 0..5 {
        let mut world = World::settled(seed, 5);
        world.crash(2);
        world.crash(3);
        // They swap their addresses.
        world.processes[2].address = address(3);
        world.processes[3].address = address(2);
        world.start(2, Vec::new());
        world.start(3, Vec::new());
        assert!(
            world.run_until_settled(30 * SECOND).is_some(),
            "seed {seed}"
        );
        let view = world.member(0).view(world.now);
        let id = world.processes[2].node_id;
        let moved = view
            .members
            .iter()
            .find(|m| m.record.node_id == id)
            .unwrap();
        assert_eq!(moved.record.metadata.address, address(3));
        world.run(MINUTE);
        assert!(world.is_settled());
        assert_eq!(world.false_deaths(), 0, "seed {seed}");
    }
}

#[test]
fn a_leave_is_acknowledged_and_is_no_death() {
    for seed in 0..10 {
        for loss_permille in [0, 100] {
            let mut world = World::settled(seed, 5);
            world.loss_permille = loss_permille;
            world.leave(1);
            let time = world.run_until(5 * SECOND, |w| all_show(w, 1, State::Left));
            assert!(
                time.is_some_and(|time| time <= 2 * SECOND),
                "seed {seed}: {time:?}"
            );
            let done =
                |e: &Event| matches!(e, Event::LeaveDone { acknowledged } if *acknowledged >= 2);
            assert!(
                world
                    .run_until(2 * SECOND, |w| w.count(1, done) == 1)
                    .is_some()
            );
            world.crash(1);
            world.run(5 * MINUTE);
            assert_eq!(world.false_deaths(), 0, "seed {seed}");
            assert!(world.is_settled());
            // And it may come back.
            world.start(1, Vec::new());
            assert!(
                world.run_until_settled(10 * SECOND).is_some(),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_leave_is_repeated_until_it_is_acknowledged() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 5);
        world.loss_permille = 300;
        world.leave(1);
        world.run(2 * SECOND);
        let done = |e: &Event| matches!(e, Event::LeaveDone { acknowledged } if *acknowledged >= 2);
        assert_eq!(world.count(1, done), 1, "seed {seed}");
    }
}

#[test]
fn a_lone_member_leaves_at_once() {
    let mut world = World::new(0);
    world.add(&[address(0)]);
    world.run(SECOND);
    world.leave(0);
    assert_eq!(
        world.count(0, |e| matches!(e, Event::LeaveDone { acknowledged: 0 })),
        1
    );
}

#[test]
fn two_clusters_never_merge_not_even_through_an_unbound_member() {
    for seed in 0..5 {
        let mut world = World::new(seed);
        for n in 0..6 {
            world.add(&[address(if n < 3 { 0 } else { 3 })]);
        }
        world.run(3 * SECOND);
        for n in 0..6 {
            world.announce(n, Some(if n < 3 { 0xAAAA } else { 0xBBBB }));
        }
        world.run(3 * SECOND);
        // One without a cluster talks to both; and two are told of the other cluster's members.
        let unbound = world.add(&[address(0), address(3)]);
        let (a, b) = (world.processes[1].address, world.processes[4].address);
        world.set_introducers(1, vec![b]);
        world.set_introducers(4, vec![a]);
        world.run(5 * MINUTE);
        for n in 0..6 {
            assert_eq!(
                world.alive_in_view(n),
                4,
                "seed {seed}: three of its own and the unbound"
            );
        }
        assert_eq!(
            world.alive_in_view(unbound),
            7,
            "seed {seed}: the unbound member sees all"
        );
        assert!(world.member(1).counters().refused_other_cluster > 0);
        assert_eq!(world.false_deaths(), 0, "seed {seed}");
        // Once it is bound, it belongs to one only.
        world.announce(unbound, Some(0xBBBB));
        world.run(MINUTE);
        assert_eq!(world.alive_in_view(unbound), 4);
        assert_eq!(world.alive_in_view(5), 4);
        assert_eq!(world.alive_in_view(0), 3);
    }
}

#[test]
fn what_a_member_announces_reaches_everybody() {
    let mut world = World::settled(2, 5);
    world.announce(3, Some(0xC1));
    let id = world.processes[3].node_id;
    let time = world.run_until(5 * SECOND, |w| {
        w.running().iter().all(|n| {
            let view = w.member(*n).view(w.now);
            let subject = view
                .members
                .iter()
                .find(|m| m.record.node_id == id)
                .unwrap();
            let metadata = &subject.record.metadata;
            metadata.raft_announced && metadata.raft_port == 6004 && metadata.cluster_id.is_some()
        })
    });
    assert!(time.is_some_and(|time| time <= 500 * MS), "{time:?}");
    let incarnation = world.member(3).me().incarnation;
    world.announce(3, Some(0xC1));
    assert_eq!(
        world.member(3).me().incarnation,
        incarnation,
        "saying it again changes nothing"
    );
}

#[test]
fn of_two_processes_with_one_identity_the_later_boot_speaks() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 4);
        let id = world.processes[2].node_id;
        // A copy of the disk of 2 is started elsewhere, and counts one boot more.
        let copy = world.add_as(id, 2, address(9), &[address(0)]);
        world.run(20 * SECOND);
        assert!(world.member(2).view(world.now).superseded, "seed {seed}");
        assert!(
            !world.member(copy).view(world.now).superseded,
            "seed {seed}"
        );
        let alarm = |e: &Event| matches!(e, Event::Collision { .. });
        assert!(
            world.count(2, alarm) > 0 && world.count(copy, alarm) > 0,
            "seed {seed}"
        );
        for n in [0, 1, 3] {
            assert_eq!(world.alive_in_view(n), 4, "seed {seed}");
        }
        // The copy is stopped: the original speaks again, above what the copy said.
        world.crash(copy);
        assert!(world.run_until_settled(MINUTE).is_some(), "seed {seed}");
        assert_eq!(world.count(2, |e| matches!(e, Event::CollisionOver)), 1);
        assert!(world.member(2).me().incarnation.boot_epoch() > 2);
    }
}

#[test]
fn of_two_processes_with_one_identity_and_boot_only_one_speaks() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 4);
        let id = world.processes[2].node_id;
        let copy = world.add_as(id, 1, address(9), &[address(0)]);
        world.run(30 * SECOND);
        let silent = [2, copy].map(|n| world.member(n).view(world.now).superseded);
        assert!(silent[0] != silent[1], "seed {seed}: {silent:?}");
        world.run(5 * MINUTE);
        for n in [0, 1, 3] {
            assert_eq!(world.alive_in_view(n), 4, "seed {seed}");
        }
    }
}

#[test]
fn a_disk_restored_from_an_older_image_goes_above_what_the_others_remember() {
    for seed in 0..5 {
        for at_once in [true, false] {
            let mut world = World::settled(seed, 4);
            for _ in 0..3 {
                world.crash(2);
                world.start(2, Vec::new());
                world.run(5 * SECOND);
            }
            world.crash(2);
            if !at_once {
                world.run(MINUTE);
            }
            world.processes[2].boot_epoch = 1;
            world.start(2, Vec::new());
            assert!(
                world.run_until_settled(30 * SECOND).is_some(),
                "seed {seed}, {at_once}"
            );
            assert!(
                world.processes[2].boot_epoch > 4,
                "seed {seed}: told to make it durable"
            );
            assert_eq!(world.count(2, |e| matches!(e, Event::Collision { .. })), 0);
        }
    }
}

#[test]
fn a_paused_member_accuses_nobody_when_it_wakes() {
    for seed in 0..10 {
        for pause in [2 * SECOND, 5 * SECOND, 30 * SECOND, 10 * MINUTE] {
            let mut world = World::settled(seed, 5);
            world.pause(1, pause);
            world.run(pause + 20 * SECOND);
            assert!(world.is_settled(), "seed {seed}, {pause:?}");
            assert_eq!(
                world.count(1, failed),
                0,
                "seed {seed}, {pause:?}: it accused the others"
            );
            assert!(world.count(1, |e| matches!(e, Event::Paused { .. })) >= 1);
        }
    }
}

#[test]
fn all_members_restart_without_any_introducer() {
    for seed in 0..5 {
        let mut world = World::settled(seed, 5);
        let known: Vec<_> = (0..5).map(address).collect();
        for n in 0..5 {
            world.crash(n);
            world.processes[n].introducers.clear();
        }
        world.run(MINUTE);
        for n in 0..5 {
            world.start(n, known.clone());
        }
        let time = world.run_until_settled(30 * SECOND);
        assert!(
            time.is_some_and(|time| time <= 5 * SECOND),
            "seed {seed}: {time:?}"
        );
    }
}

#[test]
fn an_introducer_that_lost_its_disk_is_found_by_those_it_once_let_in() {
    for seed in 0..5 {
        let mut world = World::settled(seed, 5);
        world.crash(0);
        world.run(MINUTE);
        // A new node at the introducer's address, which knows no one but itself.
        let fresh = member_core::NodeId(0xF0F0 + u128::from(seed));
        world.add_as(fresh, 1, address(0), &[address(0)]);
        let time = world.run_until_settled(MINUTE);
        assert!(
            time.is_some_and(|time| time <= 15 * SECOND),
            "seed {seed}: {time:?}"
        );
    }
}

#[test]
fn a_member_whose_introducer_is_late_keeps_asking() {
    let mut world = World::new(5);
    world.add(&[address(1)]);
    world.run(10 * MINUTE);
    assert!(!world.member(0).view(world.now).joined);
    world.add(&[]);
    let time = world.run_until_settled(MINUTE);
    assert!(time.is_some_and(|time| time <= 7 * SECOND), "{time:?}");
}

#[test]
fn an_orphan_joins_again() {
    let mut world = World::settled(5, 3);
    world.crash(1);
    world.crash(2);
    world.run(MINUTE);
    assert_eq!(world.count(0, |e| matches!(e, Event::Orphaned)), 1);
    world.start(1, Vec::new());
    assert!(world.run_until_settled(30 * SECOND).is_some());
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let trace = |seed| {
        let mut world = World::settled(seed, 8);
        world.loss_permille = 100;
        world.crash(3);
        world.run(30 * SECOND);
        world.start(3, Vec::new());
        world.run(30 * SECOND);
        world.trace
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn members_are_values() {
    let world = World::settled(4, 5);
    let copy = world.member(2).clone();
    assert_eq!(&copy, world.member(2));
    assert_ne!(&copy, world.member(3));
}
