//! The rules of the failure detector and of gossip, each by itself: what one member does, and when.

#![allow(clippy::unwrap_used)]

mod bench;

use std::collections::BTreeSet;
use std::time::Duration;

use bench::{Bench, ME, MS, Peer, SECOND, incarnation};
use member_core::{
    BUCKETS, Body, Event, FORGET_TIMEOUT, LEAVE_TIMEOUT, NodeId, Origin, Record, State, Update,
};

/// What a timer may be late by: the beat of something else that is due in between.
const TOLERANCE: Duration = Duration::from_millis(5);

fn assert_close(what: &str, time: Duration, expected: Duration) {
    let is_close = time + TOLERANCE >= expected && time <= expected + TOLERANCE;
    assert!(is_close, "{what} after {time:?}, not after {expected:?}");
}

/// Lets time pass until the condition holds, while `answering` answer; gives the time that took.
fn run_until(
    bench: &mut Bench,
    answering: &[Peer],
    limit: Duration,
    condition: impl Fn(&Bench) -> bool,
) -> Duration {
    let begin = bench.now;
    while !condition(bench) {
        assert!(bench.now - begin < limit, "not within {limit:?}");
        bench.run_with(MS, answering);
    }
    bench.now - begin
}

fn with_state(record: &Record, state: State) -> Record {
    Record {
        state,
        ..record.clone()
    }
}

fn count_sent(bench: &Bench, peer: &Peer, is_such: impl Fn(&Body) -> bool) -> usize {
    let packets = bench.sent_to(peer.address());
    packets.filter(|packet| is_such(&packet.body)).count()
}

/// The record of `subject` has been told to `peer`.
fn was_told(bench: &Bench, peer: &Peer, subject: &Peer) -> bool {
    let mut updates = bench.sent_to(peer.address()).flat_map(|p| &p.updates);
    updates.any(|update| update.record.node_id == subject.id())
}

// ---- refutation ----

#[test]
fn an_accusation_is_answered_at_once_by_a_higher_incarnation() {
    for state in [State::Suspect, State::Dead, State::Left] {
        let peer = Peer::new(1);
        let mut bench = Bench::knowing(None, std::slice::from_ref(&peer));
        let accused = with_state(bench.member.me(), state);
        bench.give(&peer, Body::Delta, std::slice::from_ref(&accused));
        bench.run(MS);
        let me = bench.member.me().clone();
        assert!(me.incarnation > accused.incarnation && me.state == State::Alive);
        let answered = bench.sent_to(peer.address()).any(|packet| {
            let mut updates = packet.updates.iter();
            updates.any(|update| update.record == me)
        });
        assert!(answered, "{state:?}");
        // An accusation of what is over by now is not worth another one.
        bench.give(&peer, Body::Delta, std::slice::from_ref(&accused));
        assert_eq!(bench.member.me(), &me);
    }
}

#[test]
fn whoever_answers_is_not_declared_dead_before_its_refutation_arrives() {
    let peers = [Peer::new(1), Peer::new(2), Peer::new(3)];
    let mut bench = Bench::knowing(None, &peers);
    let accusation = Update {
        record: with_state(&peers[0].record, State::Suspect),
        accusers: BTreeSet::from([peers[1].id(), peers[2].id()]),
    };
    let mut packet = peers[1].packet(Body::Delta, &[]);
    packet.updates.push(accusation);
    bench.give_packet(peers[1].address(), &packet);
    assert_eq!(bench.state(peers[0].id()), Some(State::Suspect));
    bench.run_with(20 * SECOND, &peers);
    assert_eq!(bench.state(peers[0].id()), Some(State::Suspect));
    bench.run_with(5 * SECOND, &peers[1..]);
    assert_eq!(bench.state(peers[0].id()), Some(State::Dead));
}

#[test]
fn the_accused_is_told_whoever_accuses_it_and_with_whatever_it_hears() {
    let peers = [Peer::new(1), Peer::new(2)];
    for state in [State::Suspect, State::Dead] {
        let mut bench = Bench::knowing(None, &peers);
        let record = with_state(&peers[0].record, state);
        bench.give(&peers[1], Body::Delta, &[record]);
        assert!(was_told(&bench, &peers[0], &peers[0]), "{state:?}");
        // Later again, whenever it speaks, though not with every packet.
        bench.run(SECOND);
        bench.forget();
        for _ in 0..10 {
            bench.give(&peers[0], Body::Delta, &[]);
        }
        let deltas = bench
            .sent_to(peers[0].address())
            .filter(|packet| packet.body == Body::Delta);
        let told = deltas.flat_map(|packet| &packet.updates);
        assert_eq!(told.filter(|u| u.record.state == state).count(), 1);
    }
}

#[test]
fn whoever_tells_of_the_dead_as_living_is_told_better() {
    let peers = [Peer::new(1), Peer::new(2), Peer::new(3)];
    let mut bench = Bench::knowing(None, &peers);
    let dead = with_state(&peers[0].record, State::Dead);
    bench.give(&peers[1], Body::Delta, std::slice::from_ref(&dead));
    bench.run(SECOND);
    bench.forget();
    let alive = std::slice::from_ref(&peers[0].record);
    bench.give(&peers[2], Body::Delta, alive);
    let is_answered = bench
        .sent_to(peers[2].address())
        .filter(|packet| packet.body == Body::Delta)
        .any(|packet| packet.updates.iter().any(|update| update.record == dead));
    assert!(is_answered);
}

// ---- digests ----

fn digest(reply: bool) -> Body {
    Body::Digest {
        reply,
        buckets: Box::new([1; BUCKETS]),
    }
}

#[test]
fn differing_views_are_compared_now_and_then() {
    let peer = Peer::new(1);
    let mut bench = Bench::knowing(None, std::slice::from_ref(&peer));
    bench.run(SECOND);
    bench.forget();
    let is_digest = |body: &Body| matches!(body, Body::Digest { reply: false, .. });
    for _ in 0..10 {
        bench.give(&peer, Body::Delta, &[]);
    }
    assert_eq!(count_sent(&bench, &peer, is_digest), 1);
    bench.sleep(SECOND / 4);
    bench.give(&peer, Body::Delta, &[]);
    assert_eq!(count_sent(&bench, &peer, is_digest), 2);
    // Equal views are not.
    bench.sleep(SECOND / 4);
    let mut packet = peer.packet(Body::Delta, &[]);
    packet.header.view_hash = bench.member.view_hash();
    bench.give_packet(peer.address(), &packet);
    assert_eq!(count_sent(&bench, &peer, is_digest), 2);
}

#[test]
fn a_digest_is_answered_by_what_differs_and_by_one_digest() {
    let peers = [Peer::new(1), Peer::new(2)];
    let mut bench = Bench::knowing(None, &peers);
    let is_digest = |body: &Body| matches!(body, Body::Digest { .. });
    bench.give(&peers[0], digest(false), &[]);
    assert!(was_told(&bench, &peers[0], &peers[1]));
    assert_eq!(
        count_sent(&bench, &peers[0], |body| matches!(
            body,
            Body::Digest { reply: true, .. }
        )),
        1
    );
    bench.forget();
    bench.give(&peers[0], digest(true), &[]);
    assert!(was_told(&bench, &peers[0], &peers[1]));
    assert_eq!(
        count_sent(&bench, &peers[0], is_digest),
        0,
        "it would not end"
    );
}

#[test]
fn in_the_end_digests_bring_everything_though_each_answer_is_bounded() {
    let mut bench = Bench::new();
    let records: Vec<Record> = (0..500)
        .map(|n| Record {
            node_id: NodeId(1000 + n),
            ..Peer::new(1).record
        })
        .collect();
    let peer = Peer::new(1);
    for some in records.chunks(8) {
        bench.give(&peer, Body::Delta, some);
    }
    let mut told = BTreeSet::new();
    let mut rounds = 0;
    while told.len() < records.len() {
        assert!(
            rounds < 100,
            "only {} of {} told",
            told.len(),
            records.len()
        );
        rounds += 1;
        bench.forget();
        bench.give(&peer, digest(true), &[]);
        assert!(bench.sent.len() <= member_core::MAX_DELTA_PACKETS + 1);
        for packet in bench.sent_to(peer.address()) {
            let ids = packet.updates.iter().map(|update| update.record.node_id);
            told.extend(ids.filter(|id| id.0 >= 1000));
        }
    }
}

#[test]
fn who_is_hidden_is_not_told_by_digest() {
    let peers = [Peer::new(1), Peer::new(2)];
    let mut bench = Bench::knowing(None, &peers);
    let dead = with_state(&peers[1].record, State::Dead);
    bench.give(&peers[0], Body::Delta, &[dead]);
    bench.run_with(15 * SECOND, &peers[..1]);
    assert_eq!(bench.state(peers[1].id()), None);
    bench.forget();
    bench.give(&peers[0], digest(false), &[]);
    assert!(!was_told(&bench, &peers[0], &peers[1]));
}

// ---- fences ----

#[test]
fn an_unbound_member_passes_nothing_from_one_cluster_to_another() {
    let (a, b) = (Peer::in_cluster(1, 0xA), Peer::in_cluster(2, 0xB));
    let peers = [a.clone(), b.clone()];
    let mut bench = Bench::new();
    let introducers = peers.each_ref().map(Peer::address).to_vec();
    bench.member.set_introducers(bench.now, introducers);
    for peer in &peers {
        bench.give(
            peer,
            Body::Join { stamp: 1 },
            std::slice::from_ref(&peer.record),
        );
    }
    bench.run_with(5 * SECOND, &peers);
    for peer in &peers {
        bench.give(peer, digest(false), &[]);
        bench.give(peer, Body::Join { stamp: 1 }, &[]);
    }
    // Not when the news is that somebody is gone, and not in answer to who has it wrong either.
    bench.give(&a, Body::Delta, &[with_state(&a.record, State::Suspect)]);
    bench.give(&b, Body::Delta, &[with_state(&a.record, State::Alive)]);
    bench.run_with(SECOND, &peers[1..]);
    bench.give(&b, Body::Delta, &[with_state(&a.record, State::Dead)]);
    bench.give(&b, Body::Delta, &[with_state(&a.record, State::Alive)]);
    bench.run_with(20 * SECOND, &peers[1..]);
    for (to, of) in [(&b, &a), (&a, &b)] {
        for packet in bench.sent_to(to.address()) {
            let tells = packet.updates.iter().any(|u| u.record.node_id == of.id());
            assert!(!tells, "{packet:?}");
        }
    }
    assert_eq!(bench.state(b.id()), Some(State::Alive));
}

#[test]
fn a_bound_member_takes_nothing_of_another_cluster() {
    let (ours, other) = (Peer::in_cluster(1, 0xA), Peer::in_cluster(2, 0xB));
    let unbound = Peer::new(3);
    let mut bench = Bench::in_cluster(0xA);
    bench.give(&other, Body::Delta, std::slice::from_ref(&ours.record));
    assert_eq!(bench.state(ours.id()), None, "not even what it could hold");
    assert_eq!(bench.member.counters().refused_other_cluster, 1);
    bench.give(
        &unbound,
        Body::Delta,
        &[other.record.clone(), ours.record.clone()],
    );
    assert_eq!(bench.state(other.id()), None);
    assert_eq!(bench.member.counters().refused_foreign_records, 1);
    assert_eq!(bench.state(ours.id()), Some(State::Alive));
}

#[test]
fn a_late_packet_from_another_cluster_moves_nobody_there() {
    // It was bound to another cluster once, and has been of this one since.
    let mut peer = Peer::in_cluster(1, 0xA);
    let mut late = Peer::in_cluster(1, 0xB);
    late.record.incarnation = incarnation(2, 1);
    peer.record.incarnation = incarnation(2, 2);
    let mut bench = Bench::knowing(Some(0xA), std::slice::from_ref(&peer));
    bench.give(&late, Body::Delta, &[]);
    assert_eq!(bench.state(peer.id()), Some(State::Alive));
    assert_eq!(bench.member.counters().refused_other_cluster, 1);
}

#[test]
fn what_is_meant_for_another_node_is_refused() {
    let peer = Peer::new(1);
    let mut bench = Bench::new();
    let mut packet = peer.packet(
        Body::Ping {
            stamp: 1,
            origin: None,
        },
        std::slice::from_ref(&peer.record),
    );
    packet.header.target = Some(NodeId(78));
    bench.give_packet(peer.address(), &packet);
    assert_eq!(bench.state(peer.id()), None);
    assert_eq!(bench.sent_to(peer.address()).count(), 0);
    assert_eq!(bench.member.counters().refused_other_target, 1);
}

#[test]
fn an_earlier_boot_is_not_heard() {
    let peer = Peer::new(1);
    let mut restarted = peer.clone();
    restarted.record.incarnation = incarnation(2, 0);
    restarted.record.metadata.boot_nonce = 4711;
    let mut bench = Bench::knowing(None, std::slice::from_ref(&restarted));
    let stranger = Peer::new(5);
    bench.give(&peer, Body::Delta, std::slice::from_ref(&stranger.record));
    assert_eq!(bench.state(stranger.id()), None);
    assert_eq!(bench.member.counters().refused_stale_boot, 1);
    assert!(
        was_told(&bench, &peer, &restarted),
        "it may be a restored disk"
    );
}

// ---- silence, deafness, suspicion ----

#[test]
fn a_silent_neighbour_is_probed_suspected_and_dead_at_the_stated_times() {
    let peer = Peer::new(1);
    let mut bench = Bench::knowing(None, std::slice::from_ref(&peer));
    bench.give(&peer, Body::Delta, &[]);
    let is_ping = |body: &Body| matches!(body, Body::Ping { .. });
    let time = run_until(&mut bench, &[], 9 * SECOND, |b| {
        count_sent(b, &peer, is_ping) > 0
    });
    assert_close("probed", time, 2500 * MS);
    let time = run_until(&mut bench, &[], 9 * SECOND, |b| {
        b.state(peer.id()) == Some(State::Suspect)
    });
    assert_close("suspected", time, 1000 * MS);
    // There is nobody who could confirm.
    let time = run_until(&mut bench, &[], 9 * SECOND, |b| {
        b.state(peer.id()) == Some(State::Dead)
    });
    assert_close("dead", time, 1500 * MS);
    let time = run_until(&mut bench, &[], 20 * SECOND, |b| {
        b.state(peer.id()).is_none()
    });
    assert_close("hidden", time, 12 * SECOND);
    let is_forgotten = |bench: &Bench| bench.count(|e| matches!(e, Event::Forgotten(_)));
    bench.run(FORGET_TIMEOUT - 10 * MS);
    assert_eq!(is_forgotten(&bench), 0);
    bench.run(20 * MS);
    assert_eq!(is_forgotten(&bench), 1);
}

#[test]
fn the_times_follow_the_options() {
    let mut options = member_core::Options {
        fail_timeout: Duration::from_millis(1200),
        cleanup_timeout: Duration::from_secs(3),
        ..member_core::Options::default()
    };
    for gossip_interval in [SECOND, 100 * MS] {
        options.gossip_interval = gossip_interval;
        let peer = Peer::new(1);
        let mut bench = Bench::with_options(options.clone());
        bench.give(&peer, Body::Delta, std::slice::from_ref(&peer.record));
        let time = run_until(&mut bench, &[], 9 * SECOND, |b| {
            b.state(peer.id()) == Some(State::Dead)
        });
        assert_close("dead", time, SECOND);
        let time = run_until(&mut bench, &[], 9 * SECOND, |b| {
            b.state(peer.id()).is_none()
        });
        assert_close("hidden", time, 3 * SECOND);
        // Heartbeats keep up with the timers: never less than one in a sixth of the fail timeout.
        let live = Peer::new(2);
        bench.give(&live, Body::Delta, std::slice::from_ref(&live.record));
        bench.forget();
        bench.run_with(2 * SECOND, std::slice::from_ref(&live));
        let beats = count_sent(&bench, &live, |body| matches!(body, Body::Heartbeat { .. }));
        assert!(beats >= 9, "{beats} heartbeats");
    }
}

#[test]
fn a_heartbeat_of_one_that_is_not_watched_is_answered_too() {
    let (mut bench, watched, unwatched) = with_unwatched();
    let body = Body::Heartbeat { stamp: 99, echo: 0 };
    bench.give(&unwatched[0], body.clone(), &[]);
    bench.give(&watched[0], body, &[]);
    let is_ack = |body: &Body| matches!(body, Body::Ack { echo: 99, .. });
    assert_eq!(count_sent(&bench, &unwatched[0], is_ack), 1);
    // Who is watched hears it from the next heartbeat.
    assert_eq!(count_sent(&bench, &watched[0], is_ack), 0);
}

/// Speaks for a second, and shows no sign of having heard anything.
fn speak_only(bench: &mut Bench, peer: &Peer, others: &[Peer]) {
    let body = Body::Heartbeat { stamp: 1, echo: 0 };
    bench.give(peer, body, &[]);
    bench.run_with(SECOND, others);
}

#[test]
fn a_neighbour_that_speaks_and_hears_nothing_is_accused() {
    let peer = Peer::new(1);
    let mut bench = Bench::knowing(None, std::slice::from_ref(&peer));
    let accused = |bench: &Bench| bench.member.counters().accusations > 0;
    for _ in 0..4 {
        speak_only(&mut bench, &peer, &[]);
        assert!(!accused(&bench));
    }
    for _ in 0..3 {
        speak_only(&mut bench, &peer, &[]);
    }
    assert!(accused(&bench));
}

/// A bench with a peer that has just been suspected by the member alone, while the others answer.
fn suspecting(others: &[Peer]) -> (Bench, Peer) {
    let peer = Peer::new(1);
    let all: Vec<Peer> = others.iter().chain([&peer]).cloned().collect();
    let mut bench = Bench::knowing(None, &all);
    run_until(&mut bench, others, 9 * SECOND, |b| {
        b.state(peer.id()) == Some(State::Suspect)
    });
    assert_eq!(bench.member.counters().accusations, 1);
    (bench, peer)
}

#[test]
fn a_suspicion_that_nobody_confirms_waits_three_times_as_long() {
    let others = [Peer::new(2), Peer::new(3)];
    let is_dead = |peer: &Peer| {
        let id = peer.id();
        move |b: &Bench| b.state(id) == Some(State::Dead)
    };
    let (mut bench, peer) = suspecting(&others);
    let time = run_until(&mut bench, &others, 9 * SECOND, is_dead(&peer));
    assert_close("dead alone", time, 4500 * MS);

    // Confirmed by another watcher, which therefore passes it on.
    let (mut bench, peer) = suspecting(&others);
    bench.run_with(SECOND, &others);
    let mut packet = others[0].packet(Body::Delta, &[]);
    packet.updates.push(Update {
        record: with_state(&peer.record, State::Suspect),
        accusers: BTreeSet::from([others[0].id()]),
    });
    bench.forget();
    bench.give_packet(others[0].address(), &packet);
    bench.run_with(300 * MS, &others);
    let both = BTreeSet::from([ME, others[0].id()]);
    let is_passed_on = bench
        .sent_to(others[1].address())
        .flat_map(|packet| &packet.updates)
        .any(|update| update.accusers == both);
    assert!(is_passed_on);
    let time = run_until(&mut bench, &others, 9 * SECOND, is_dead(&peer));
    assert_close("dead confirmed", time + 300 * MS, 500 * MS);

    // Where nobody could confirm there is nothing to wait for.
    let (mut bench, peer) = suspecting(&[]);
    let time = run_until(&mut bench, &[], 9 * SECOND, is_dead(&peer));
    assert_close("dead of two", time, 1500 * MS);
}

/// A bench with more peers than are watched; those watched, and those not.
fn with_unwatched() -> (Bench, Vec<Peer>, Vec<Peer>) {
    let peers: Vec<Peer> = (1..=10).map(Peer::new).collect();
    let mut bench = Bench::knowing(None, &peers);
    bench.run_with(SECOND, &peers);
    let is_beat = |body: &Body| matches!(body, Body::Heartbeat { .. });
    let (watched, unwatched): (Vec<Peer>, Vec<Peer>) = peers
        .into_iter()
        .partition(|peer| count_sent(&bench, peer, is_beat) > 0);
    assert_eq!(watched.len(), 2 * member_core::WATCHERS_PER_SIDE);
    bench.forget();
    (bench, watched, unwatched)
}

#[test]
fn members_that_nobody_here_watches_are_probed_now_and_then() {
    let (mut bench, watched, unwatched) = with_unwatched();
    let peers: Vec<Peer> = watched.iter().chain(&unwatched).cloned().collect();
    bench.run_with(20 * SECOND, &peers);
    let is_ping = |body: &Body| matches!(body, Body::Ping { .. });
    let pings = unwatched
        .iter()
        .map(|peer| count_sent(&bench, peer, is_ping));
    assert!((3..=5).contains(&pings.sum::<usize>()));
}

#[test]
fn where_a_neighbour_is_suspected_the_next_one_is_asked_at_once() {
    let (mut bench, watched, unwatched) = with_unwatched();
    let suspect = with_state(&watched[0].record, State::Suspect);
    bench.give(&watched[1], Body::Delta, &[suspect]);
    let is_ping = |body: &Body| matches!(body, Body::Ping { .. });
    let mut pings = unwatched
        .iter()
        .map(|peer| count_sent(&bench, peer, is_ping));
    assert!(pings.any(|count| count == 1));
}

#[test]
fn after_a_pause_of_its_own_a_member_probes_nobody_for_three_intervals() {
    let peer = Peer::new(1);
    let mut bench = Bench::knowing(None, std::slice::from_ref(&peer));
    bench.sleep(20 * SECOND);
    bench.member.tick(bench.now);
    bench.collect();
    bench.forget();
    let is_ping = |body: &Body| matches!(body, Body::Ping { .. });
    let time = run_until(&mut bench, &[], 9 * SECOND, |b| {
        count_sent(b, &peer, is_ping) > 0
    });
    assert_close("probed", time, 3 * SECOND);
}

// ---- indirect probes ----

#[test]
fn a_silent_neighbour_is_asked_for_through_others_and_their_word_counts() {
    let (peer, others) = (Peer::new(1), [Peer::new(2), Peer::new(3)]);
    let all = [peer.clone(), others[0].clone(), others[1].clone()];
    let mut bench = Bench::knowing(None, &all);
    let mut answered = 0;
    for _ in 0..20_000 {
        bench.run_with(MS, &others);
        // One of the others reaches it, whenever it is asked to.
        let asked = bench.sent_to(others[0].address()).filter_map(|packet| {
            let Body::PingReq { stamp, subject } = packet.body else {
                return None;
            };
            (subject == peer.id()).then_some(stamp)
        });
        if let Some(echo) = asked.last() {
            let subject = peer.id();
            bench.give(&others[0], Body::Relayed { echo, subject }, &[]);
            bench.forget();
            answered += 1;
        }
    }
    assert!(answered >= 3, "{answered}");
    assert_eq!(bench.member.counters().accusations, 0);
    // It does no longer.
    bench.run_with(20 * SECOND, &others);
    assert_eq!(bench.state(peer.id()), None);
    assert!(bench.member.counters().accusations > 0);
}

#[test]
fn a_relay_pings_for_the_asker_and_tells_it_the_answer() {
    let (asker, subject) = (Peer::new(1), Peer::new(2));
    let peers = [asker.clone(), subject.clone()];
    let mut bench = Bench::knowing(None, &peers);
    let request = Body::PingReq {
        stamp: 99,
        subject: subject.id(),
    };
    bench.give(&asker, request, &[]);
    let on_behalf = Some(Origin {
        node_id: asker.id(),
        stamp: 99,
    });
    let pings = |body: &Body| matches!(body, Body::Ping { origin, .. } if *origin == on_behalf);
    assert_eq!(count_sent(&bench, &subject, pings), 1);
    bench.run_with(MS, &peers);
    let relayed = Body::Relayed {
        echo: 99,
        subject: subject.id(),
    };
    assert_eq!(count_sent(&bench, &asker, |body| *body == relayed), 1);
}

// ---- leaving ----

#[test]
fn a_leave_is_said_again_to_those_who_did_not_answer_until_its_time_is_over() {
    let peers = [Peer::new(1), Peer::new(2), Peer::new(3)];
    let mut bench = Bench::knowing(None, &peers);
    bench.member.leave(bench.now);
    bench.collect();
    let leaves = |bench: &Bench, peer: &Peer| {
        count_sent(bench, peer, |body| matches!(body, Body::Leave { .. }))
    };
    assert!(peers.iter().all(|peer| leaves(&bench, peer) == 1));
    let echo = bench.now.as_micros() as u64 + 1;
    bench.give(&peers[0], Body::Ack { echo, origin: None }, &[]);
    let done = |bench: &Bench| bench.count(|e| matches!(e, Event::LeaveDone { .. }));
    bench.run(LEAVE_TIMEOUT - MS);
    assert_eq!(done(&bench), 0);
    assert_eq!(peers.each_ref().map(|peer| leaves(&bench, peer)), [1, 5, 5]);
    bench.run(2 * MS);
    assert_eq!(
        bench.count(|e| *e == Event::LeaveDone { acknowledged: 1 }),
        1
    );
    bench.forget();
    bench.run(60 * SECOND);
    assert_eq!(bench.sent.len(), 0, "it is gone");
    assert_eq!(done(&bench), 0);
}
