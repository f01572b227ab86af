//! What one datagram of a stranger can do, and what it cannot.

#![allow(clippy::unwrap_used)]

mod bench;
mod world;

use bench::{Bench, ME, MINUTE, MY_EPOCH, MY_NONCE, Peer, SECOND, address, incarnation};
use member_core::{Body, ClusterId, Event, MAX_BOOT_EPOCH, MAX_EPOCH_LEAP, Record, State};
use world::World;

fn raised_to(bench: &Bench) -> Vec<u32> {
    let raised = bench.events.iter().filter_map(|event| match event {
        Event::BootEpochRaised(epoch) => Some(*epoch),
        _ => None,
    });
    raised.collect()
}

/// What a stranger can say of the member on the bench: its id, nonce and address are in the gossip.
fn forged(bench: &Bench, state: State, nonce: u64, boot_epoch: u32, refutations: u32) -> Record {
    let mut record = bench.member.me().clone();
    record.state = state;
    record.metadata.boot_nonce = nonce;
    record.incarnation = incarnation(boot_epoch, refutations);
    record
}

#[test]
fn no_claim_far_above_is_believed_of_ourselves() {
    let stranger = Peer::new(9);
    for nonce in [MY_NONCE, 666] {
        for state in [State::Alive, State::Suspect, State::Dead, State::Left] {
            for epoch in [
                MAX_BOOT_EPOCH,
                MAX_BOOT_EPOCH - 1,
                MAX_BOOT_EPOCH / 2,
                MY_EPOCH + MAX_EPOCH_LEAP + 1,
            ] {
                let mut bench = Bench::new();
                let record = forged(&bench, state, nonce, epoch, 7);
                bench.give(&stranger, Body::Delta, &[record]);
                bench.run(30 * SECOND);
                assert_eq!(raised_to(&bench), [0; 0], "{state:?} of boot {epoch}");
                assert_eq!(bench.member.me().incarnation.boot_epoch(), MY_EPOCH);
                assert!(!bench.member.view(bench.now).superseded);
                assert_eq!(bench.member.counters().refused_leaps, 1);
            }
        }
    }
}

#[test]
fn no_packet_in_our_own_name_from_far_above_is_believed() {
    for body in [
        Body::Delta,
        Body::Ping {
            stamp: 1,
            origin: None,
        },
        Body::Ack {
            echo: 1,
            origin: None,
        },
    ] {
        let mut bench = Bench::new();
        let mut twin = Peer::new(9);
        twin.record = forged(&bench, State::Alive, 666, MAX_BOOT_EPOCH, 0);
        twin.record.metadata.address = address(9);
        bench.give(&twin, body, std::slice::from_ref(&twin.record));
        assert!(!bench.member.view(bench.now).superseded);
        bench.run(30 * SECOND);
        assert_eq!(raised_to(&bench), [0; 0]);
        assert_eq!(bench.member.me().incarnation.boot_epoch(), MY_EPOCH);
    }
}

#[test]
fn an_answer_to_what_was_never_asked_silences_nobody() {
    let mut bench = Bench::new();
    let mut twin = Peer::new(9);
    twin.record = forged(&bench, State::Alive, 666, MY_EPOCH + 1, 0);
    twin.record.metadata.address = address(9);
    // Its stamps are of the right size, but none of them was sent.
    for echo in [1, bench.now.as_micros() as u64] {
        let body = Body::Ack { echo, origin: None };
        bench.give(&twin, body, &[]);
        assert!(!bench.member.view(bench.now).superseded, "echo {echo}");
    }
    // What it claims is still looked into: it may be true of a restored disk.
    bench.run(5 * SECOND);
    assert_eq!(raised_to(&bench), [MY_EPOCH + 2]);
}

#[test]
fn a_second_process_that_answers_the_question_still_silences_the_earlier_boot() {
    let mut bench = Bench::new();
    let mut twin = Peer::new(9);
    twin.record = forged(&bench, State::Alive, 666, MY_EPOCH + 1, 0);
    twin.record.metadata.address = address(9);
    bench.give(&twin, Body::Delta, std::slice::from_ref(&twin.record));
    bench.run_with(10 * SECOND, std::slice::from_ref(&twin));
    assert!(bench.member.view(bench.now).superseded);
    let alarm = |event: &Event| {
        matches!(
            event,
            Event::Collision {
                superseded: true,
                ..
            }
        )
    };
    assert!(bench.count(alarm) > 0);
    // And for as long as it answers, through a pause of our own process too.
    bench.sleep(MINUTE);
    bench.run_with(10 * SECOND, std::slice::from_ref(&twin));
    assert!(bench.member.view(bench.now).superseded);
    assert_eq!(bench.count(|e| matches!(e, Event::CollisionOver)), 0);
    bench.run(20 * SECOND);
    assert!(!bench.member.view(bench.now).superseded);
    assert_eq!(raised_to(&bench), [MY_EPOCH + 2]);
}

#[test]
fn a_claim_that_can_be_true_is_exceeded_and_leaves_room_above() {
    let stranger = Peer::new(9);
    let highest = MY_EPOCH + MAX_EPOCH_LEAP;
    for nonce in [MY_NONCE, 666] {
        // The last step is as high as the others would follow at once.
        for claimed in [highest - 1, highest] {
            let mut bench = Bench::new();
            let record = forged(&bench, State::Dead, nonce, claimed, 7);
            bench.give(&stranger, Body::Delta, std::slice::from_ref(&record));
            bench.run(5 * SECOND);
            assert_eq!(raised_to(&bench), [highest], "{claimed} of nonce {nonce}");
            assert_eq!(bench.member.me().incarnation, incarnation(highest, 0));
            // Whoever took the claim for true repeats it, until it is exceeded.
            bench.give(&stranger, Body::Delta, std::slice::from_ref(&record));
            bench.run(5 * SECOND);
            assert!(bench.member.me().incarnation > record.incarnation);
        }
    }
    // At the end of all epochs nothing is believed that would leave no room for starts.
    let mut bench = Bench::with(MAX_BOOT_EPOCH - MAX_EPOCH_LEAP - 2, None);
    let record = forged(&bench, State::Dead, 666, MAX_BOOT_EPOCH - MAX_EPOCH_LEAP, 0);
    bench.give(&stranger, Body::Delta, &[record]);
    bench.run(5 * SECOND);
    assert_eq!(raised_to(&bench), [0; 0]);
}

#[test]
fn used_up_refutations_cost_one_epoch_in_the_time_of_a_challenge() {
    let stranger = Peer::new(9);
    let mut bench = Bench::new();
    for _ in 0..50 {
        let epoch = bench.member.me().incarnation.boot_epoch();
        let record = forged(&bench, State::Dead, MY_NONCE, epoch, u32::MAX);
        bench.give(&stranger, Body::Delta, &[record]);
        bench.run(SECOND / 10);
    }
    bench.run(5 * SECOND);
    let raised = raised_to(&bench);
    assert!((1..=3).contains(&raised.len()), "{raised:?}");
    assert_eq!(
        raised.last().copied(),
        Some(bench.member.me().incarnation.boot_epoch())
    );
}

#[test]
fn an_answer_costs_no_epoch_before_the_time_of_a_challenge_either() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        let mut twin = Peer::new(9);
        let epoch = bench.member.me().incarnation.boot_epoch();
        // The lower claim, so that it cannot silence us, but as high as one of this epoch can be.
        twin.record = forged(&bench, State::Alive, 1, epoch, u32::MAX);
        twin.record.metadata.address = address(9);
        let stranger = Peer::new(8);
        bench.give(&stranger, Body::Delta, std::slice::from_ref(&twin.record));
        bench.run_with(SECOND / 10, std::slice::from_ref(&twin));
    }
    let raised = raised_to(&bench);
    assert!((1..=2).contains(&raised.len()), "{raised:?}");
    assert!(!bench.member.view(bench.now).superseded);
}

#[test]
fn no_claim_far_above_is_believed_of_another_member() {
    let (peer, stranger) = (Peer::new(1), Peer::new(9));
    let peers = [peer.clone(), Peer::new(2)];
    for state in [State::Alive, State::Suspect, State::Dead, State::Left] {
        let mut bench = Bench::knowing(None, &peers);
        let mut record = peer.record.clone();
        record.state = state;
        record.incarnation = incarnation(2 + MAX_EPOCH_LEAP, 0);
        record.metadata.boot_nonce = 666;
        record.metadata.address = address(66);
        bench.give(&stranger, Body::Delta, &[record]);
        assert_eq!(bench.shown(peer.id()), Some(peer.record.clone()));
        assert_eq!(bench.member.counters().refused_leaps, 1);
        // It is heard, and its restarts are followed as before.
        bench.run_with(10 * SECOND, &peers);
        assert_eq!(bench.state(peer.id()), Some(State::Alive));
        let mut restarted = peer.clone();
        restarted.record.incarnation = incarnation(1 + MAX_EPOCH_LEAP, 0);
        restarted.record.metadata.boot_nonce = 2001;
        bench.give(
            &restarted,
            Body::Delta,
            std::slice::from_ref(&restarted.record),
        );
        assert_eq!(bench.shown(peer.id()), Some(restarted.record));
    }
}

#[test]
fn no_claim_far_above_an_epitaph_is_believed() {
    let (peer, stranger) = (Peer::new(1), Peer::new(9));
    let mut bench = Bench::knowing(None, std::slice::from_ref(&peer));
    bench.run(2 * member_core::FORGET_TIMEOUT - MINUTE);
    assert_eq!(
        bench.count(|e| matches!(e, Event::Forgotten(id) if *id == peer.id())),
        1
    );
    let mut record = peer.record.clone();
    record.incarnation = incarnation(2 + MAX_EPOCH_LEAP, 0);
    bench.give(&stranger, Body::Delta, std::slice::from_ref(&record));
    assert_eq!(bench.state(peer.id()), None);
    record.incarnation = incarnation(1 + MAX_EPOCH_LEAP, 0);
    bench.give(&stranger, Body::Delta, std::slice::from_ref(&record));
    assert_eq!(bench.state(peer.id()), Some(State::Alive));
}

#[test]
fn at_the_very_end_of_all_incarnations_everything_sent_can_still_be_read() {
    let mut bench = Bench::with(MAX_BOOT_EPOCH, None);
    let stranger = Peer::new(9);
    let record = forged(&bench, State::Dead, MY_NONCE, MAX_BOOT_EPOCH, u32::MAX);
    bench.give(&stranger, Body::Delta, &[stranger.record.clone(), record]);
    for port in 1..5 {
        bench.member.announce(bench.now, port, None);
        bench.run(5 * SECOND);
    }
    assert_eq!(bench.member.me().node_id, ME);
    assert!(bench.sent.len() > 5);
}

/// A forged packet to one process: it says that `subject` is dead since this incarnation.
fn accuse(world: &mut World, told: usize, subject: usize, nonce: Option<u64>, claimed: (u32, u32)) {
    let mut record = world.member(subject).me().clone();
    record.state = State::Dead;
    record.incarnation = incarnation(claimed.0, claimed.1);
    record.metadata.boot_nonce = nonce.unwrap_or(record.metadata.boot_nonce);
    let mut packet = Peer::new(9).packet(Body::Delta, &[record]);
    packet.header.target = None;
    world.inject(told, &packet);
}

#[test]
fn one_forged_packet_parts_nobody_whatever_it_claims_and_whoever_gets_it() {
    let highest = 1 + MAX_EPOCH_LEAP;
    for told in [0, 2] {
        for nonce in [None, Some(666)] {
            for claimed in [
                (1, 0),
                (1, u32::MAX),
                (2, 0),
                (highest - 1, u32::MAX),
                (highest, 0),
                (highest, u32::MAX),
                (highest + 1, 0),
                (MAX_BOOT_EPOCH, u32::MAX),
            ] {
                let what = format!("{claimed:?} of nonce {nonce:?}, told to {told}");
                let mut world = World::settled(3, 4);
                world.check_rules = false;
                accuse(&mut world, told, 2, nonce, claimed);
                world.run(10 * SECOND);
                assert!(world.run_until_settled(20 * SECOND).is_some(), "{what}");
                // Nor does it when its subject has made durable what it was led to.
                world.crash(2);
                world.start(2, Vec::new());
                assert!(world.run_until_settled(10 * SECOND).is_some(), "{what}");
            }
        }
    }
}

#[test]
fn a_member_that_is_said_to_be_of_another_cluster_hears_of_it_and_denies_it() {
    // An unbound member holds what a stranger said of a bound one, and tells it when it speaks.
    let peer = Peer::in_cluster(1, 0xA);
    let mut bench = Bench::knowing(None, std::slice::from_ref(&peer));
    let mut record = peer.record.clone();
    record.metadata.cluster_id = Some(ClusterId(0xB));
    bench.give(&Peer::new(9), Body::Delta, std::slice::from_ref(&record));
    assert_eq!(bench.shown(peer.id()), Some(record.clone()));
    bench.forget();
    bench.give(&peer, Body::Delta, std::slice::from_ref(&peer.record));
    let told = |bench: &Bench| {
        let updates = bench
            .sent_to(peer.address())
            .flat_map(|packet| &packet.updates);
        updates.filter(|update| update.record == record).count()
    };
    assert_eq!(told(&bench), 1);
    // The bound one, for its part, denies what is said of it.
    let mut bench = Bench::in_cluster(0xA);
    let before = bench.member.me().incarnation;
    let mut record = bench.member.me().clone();
    record.metadata.cluster_id = Some(ClusterId(0xB));
    bench.give(&Peer::new(9), Body::Delta, &[record]);
    assert!(bench.member.me().incarnation > before);
    assert_eq!(bench.count(|e| matches!(e, Event::Refuted(_))), 1);
}

#[test]
fn a_member_that_is_forged_to_have_gone_to_another_cluster_comes_back() {
    for seed in 0..5 {
        let mut world = World::settled(seed, 5);
        world.check_rules = false;
        for n in 0..5 {
            world.announce(n, Some(0xA));
        }
        world.run(5 * SECOND);
        let mut liar = Peer::in_cluster(9, 0xB);
        liar.record.node_id = world.processes[2].node_id;
        liar.record.metadata.boot_nonce = world.member(2).me().metadata.boot_nonce;
        let highest = 1 + MAX_EPOCH_LEAP;
        for (epoch, left) in [(2, true), (highest, true), (2 * highest, false)] {
            liar.record.incarnation = incarnation(epoch, u32::MAX);
            let mut packet = liar.packet(Body::Delta, &[]);
            packet.header.target = None;
            world.inject(0, &packet);
            let is_left = world.state(0, 2) == Some(State::Left);
            assert_eq!(is_left, left, "seed {seed}, epoch {epoch}");
            assert!(
                world.run_until_settled(10 * SECOND).is_some(),
                "seed {seed}"
            );
        }
    }
}
