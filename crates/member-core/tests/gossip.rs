//! What a member says when, and when it falls silent again.

#![allow(clippy::unwrap_used)]

mod bench;
mod world;

use bench::{Bench, MINUTE, MS, Peer, SECOND};
use member_core::{Body, ClusterId, Event, State};
use world::World;

fn deltas(bench: &Bench) -> usize {
    let sent = bench.sent.iter();
    sent.filter(|(_, _, packet)| packet.body == Body::Delta)
        .count()
}

#[test]
fn what_nobody_else_has_to_hear_is_not_gossiped() {
    // Two members: the other one knows that it lives.
    let peer = Peer::new(1);
    let mut bench = Bench::new();
    bench.give(&peer, Body::Delta, std::slice::from_ref(&peer.record));
    bench.run_with(5 * SECOND, std::slice::from_ref(&peer));
    assert_eq!(bench.state(peer.id()), Some(State::Alive));
    bench.forget();
    bench.run_with(MINUTE, std::slice::from_ref(&peer));
    assert_eq!(deltas(&bench), 0);
    // One member of each of two clusters: neither may hear of the other.
    let peers = [Peer::in_cluster(1, 0xA), Peer::in_cluster(2, 0xB)];
    let mut bench = Bench::knowing(None, &peers);
    bench.run_with(MINUTE, &peers);
    assert_eq!(bench.member.alive_count(), 3);
    assert_eq!(deltas(&bench), 0);
    // Nobody is left to be told that the last other one is dead.
    let mut bench = Bench::knowing(None, std::slice::from_ref(&peer));
    bench.run(10 * SECOND);
    assert_eq!(bench.state(peer.id()), Some(State::Dead));
    bench.forget();
    bench.run(SECOND);
    assert_eq!(deltas(&bench), 0);
}

#[test]
fn a_settled_pair_only_exchanges_heartbeats() {
    let mut world = World::settled(1, 2);
    world.run(10 * SECOND);
    let before = world.packets_sent;
    world.run(20 * SECOND);
    assert!(
        world.packets_sent - before <= 2 * 21,
        "{}",
        world.packets_sent - before
    );
}

type Call = fn(&mut Bench);

/// What the calls are that a daemon may make first after its process stood still.
fn first_calls() -> Vec<(&'static str, Call)> {
    vec![
        ("tick", |b| b.member.tick(b.now)),
        ("announce", |b| b.member.announce(b.now, 6004, None)),
        ("announce again", |b| b.member.announce(b.now, 6005, None)),
        ("introducers", |b| {
            b.member.set_introducers(b.now, vec![bench::address(9)]);
        }),
    ]
}

#[test]
fn a_pause_is_noticed_by_whatever_is_called_first() {
    for (name, call) in first_calls() {
        let peers = [Peer::new(1), Peer::new(2), Peer::new(3)];
        let mut bench = Bench::knowing(None, &peers);
        bench.member.announce(bench.now, 6005, None);
        bench.run_with(10 * SECOND, &peers);
        bench.forget();
        bench.sleep(20 * SECOND);
        call(&mut bench);
        bench.collect();
        let paused =
            |event: &Event| matches!(event, Event::Paused { late_ms } if *late_ms > 18_000);
        assert_eq!(bench.count(paused), 1, "{name}");
        // The answers of the others lie in the socket; before they are read nobody is accused.
        bench.run(500 * MS);
        assert_eq!(bench.member.counters().accusations, 0, "{name}");
        bench.run_with(20 * SECOND, &peers);
        assert_eq!(bench.member.counters().accusations, 0, "{name}");
        assert_eq!(bench.member.counters().pauses, 1, "{name}: noticed once");
    }
}

#[test]
fn two_restored_disks_do_not_set_each_other_off() {
    for seed in 0..5 {
        let mut world = World::settled(seed, 3);
        for _ in 0..3 {
            for n in [1, 2] {
                world.crash(n);
                world.start(n, Vec::new());
            }
            world.run(5 * SECOND);
        }
        for n in [1, 2] {
            world.crash(n);
            world.processes[n].boot_epoch = 1;
            world.start(n, Vec::new());
        }
        let before = world.packets_sent;
        world.run(3 * SECOND);
        let sent = world.packets_sent - before;
        assert!(sent <= 300, "seed {seed}: {sent} packets in three seconds");
        assert!(
            world.run_until_settled(20 * SECOND).is_some(),
            "seed {seed}"
        );
    }
}

#[test]
fn two_members_that_both_know_better_do_not_answer_each_others_answers() {
    for seed in 0..5 {
        let mut world = World::new(seed);
        world.check_rules = false;
        let pair = [world.add(&[]), world.add(&[])];
        // Each was told, by one who remembers, of a later boot of the other.
        for (told, of) in [(0, 1), (1, 0)] {
            let mut record = world.member(pair[of]).me().clone();
            record.incarnation = bench::incarnation(4, 0);
            record.metadata.boot_nonce = 4711;
            let mut packet = Peer::new(9).packet(Body::Delta, &[record]);
            packet.header.target = None;
            world.inject(pair[told], &packet);
        }
        let before = world.packets_sent;
        world.run(3 * SECOND);
        let sent = world.packets_sent - before;
        assert!(sent <= 100, "seed {seed}: {sent} packets in three seconds");
        assert!(
            world.run_until_settled(20 * SECOND).is_some(),
            "seed {seed}"
        );
    }
}

#[test]
fn a_member_that_binds_to_another_cluster_has_left_and_is_not_dead() {
    for seed in 0..5 {
        for count in [3, 5, 12] {
            let mut world = World::settled(seed, count);
            for n in 1..count {
                world.announce(n, Some(0xA));
            }
            world.run(5 * SECOND);
            assert!((1..count).all(|n| world.alive_in_view(n) == count));
            world.announce(0, Some(0xB));
            assert_eq!(world.alive_in_view(0), 1);
            let gone = |w: &World| (1..count).all(|n| w.state(n, 0) == Some(State::Left));
            let time = world.run_until(10 * SECOND, gone);
            assert!(time.is_some(), "seed {seed}, {count} members");
            world.run(MINUTE);
            for n in 0..count {
                assert_eq!(world.count(n, |e| matches!(e, Event::Failure(_))), 0);
                assert_eq!(world.count(n, |e| matches!(e, Event::Suspected { .. })), 0);
                let left = world.count(n, |e| matches!(e, Event::Leave(_)));
                assert_eq!(left, usize::from(n > 0), "seed {seed}, {count} members");
                let alive = if n == 0 { 1 } else { count - 1 };
                assert_eq!(world.alive_in_view(n), alive);
            }
            // Its restart, which at first is bound to nothing, is taken for what it is.
            world.crash(0);
            world.start(0, vec![world::address(1)]);
            world.run(5 * SECOND);
            assert_eq!(world.alive_in_view(1), count);
        }
    }
}

#[test]
fn old_news_does_not_bring_back_a_member_of_another_cluster() {
    let mut other = Peer::new(1);
    let unbound = other.record.clone();
    other.record.metadata.cluster_id = Some(ClusterId(0xB));
    other.record.incarnation = bench::incarnation(1, 1);
    let mut bench = Bench::knowing(None, std::slice::from_ref(&other));
    assert_eq!(bench.state(other.id()), Some(State::Alive));
    bench.member.announce(bench.now, 6004, Some(ClusterId(0xA)));
    bench.collect();
    assert_eq!(bench.state(other.id()), None);
    let bound = Peer::in_cluster(2, 0xA);
    bench.give(&bound, Body::Delta, std::slice::from_ref(&unbound));
    assert_eq!(bench.state(other.id()), None);
    // It may come back by itself, when it is bound no more.
    let mut anew = unbound;
    anew.incarnation = bench::incarnation(2, 0);
    bench.give(&bound, Body::Delta, std::slice::from_ref(&anew));
    assert_eq!(bench.state(other.id()), Some(State::Alive));
}

#[test]
fn at_binding_nothing_is_kept_of_members_of_other_clusters() {
    let (other, unbound) = (Peer::in_cluster(1, 0xB), Peer::new(2));
    let peers = [other.clone(), unbound.clone()];
    let mut bench = Bench::knowing(None, &peers);
    let mut suspect = other.record.clone();
    suspect.state = State::Suspect;
    bench.give(&unbound, Body::Delta, &[suspect]);
    assert_eq!(bench.member.view(bench.now).suspicions.len(), 1);
    bench.member.announce(bench.now, 6004, Some(ClusterId(0xA)));
    bench.collect();
    assert_eq!(bench.member.view(bench.now).suspicions, []);
    assert_eq!(bench.member.counters().refused_foreign_records, 1);
    bench.forget();
    bench.run_with(10 * SECOND, &peers);
    assert_eq!(bench.sent_to(other.address()).count(), 0);
    assert_eq!(bench.member.counters().accusations, 0);
}

#[test]
fn an_acknowledgement_from_before_the_leave_does_not_end_it() {
    let peers = [Peer::new(1), Peer::new(2)];
    let mut bench = Bench::knowing(None, &peers);
    let before = bench.now.as_micros() as u64;
    bench.sleep(MS);
    bench.member.leave(bench.now);
    bench.collect();
    let done = |event: &Event| matches!(event, Event::LeaveDone { .. });
    for echo in [0, 1, before] {
        for peer in &peers {
            bench.give(peer, Body::Ack { echo, origin: None }, &[]);
        }
    }
    assert_eq!(bench.count(done), 0);
    for peer in &peers {
        let leave = bench
            .sent_to(peer.address())
            .find_map(|packet| match packet.body {
                Body::Leave { stamp } => Some(stamp),
                _ => None,
            });
        let echo = leave.unwrap();
        bench.give(peer, Body::Ack { echo, origin: None }, &[]);
    }
    assert_eq!(
        bench.count(|e| matches!(e, Event::LeaveDone { acknowledged: 2 })),
        1
    );
}
