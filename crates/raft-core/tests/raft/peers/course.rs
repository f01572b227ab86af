//! Whole clusters, as the labs of a well-known course tell it: election, agreement, persistence and
//! compaction, with links that fail, lose, double and delay. The world's own checks hold at every step.

use std::collections::BTreeSet;
use std::time::Duration;

use raft_core::*;

use crate::one::{SECOND, milliseconds};
use crate::world::World;

/// All of `count` nodes are voters.
fn voters(seed: u64, count: u64) -> World {
    let options = Options {
        voters: count as usize,
        snapshot_trailing_entries: 0,
        ..Options::default()
    };
    let mut world = World::cluster_with(seed, count, options);
    world.run_for(SECOND);
    world
}

/// Who leads, and can reach a majority. Another one of an older term may still take itself for the leader.
fn leader_of_a_majority(world: &World) -> Option<NodeId> {
    let ids: Vec<_> = world.nodes.keys().copied().collect();
    let reaches = |a: NodeId| {
        let reached = ids.iter().filter(|b| !world.cut.contains(&(a, **b)));
        2 * reached.count() > ids.len()
    };
    let mut leaders = Vec::new();
    for id in ids.iter().filter(|id| reaches(**id)) {
        if let Some(raft) = &world.nodes[id].raft
            && raft.role() == RoleName::Leader
        {
            leaders.push((raft.term(), *id));
        }
    }
    leaders.into_iter().max().map(|(_, id)| id)
}

fn another_leads(world: &mut World, old: NodeId) -> NodeId {
    let another = |w: &World| leader_of_a_majority(w).filter(|leader| *leader != old);
    assert!(
        world.run_until(SECOND * 10, |w| another(w).is_some()),
        "nobody succeeds {old}"
    );
    another(world).unwrap()
}

fn acknowledged(world: &World, request: u64) -> bool {
    world.answers.acknowledged.contains_key(&request)
}

/// Kills whoever is still up of these, and starts them all.
fn restart_all(world: &mut World, ids: &[NodeId]) {
    for id in ids {
        world.kill(*id);
    }
    for id in ids {
        world.start(*id);
    }
}

/// Every node that is up has the same committed entries, and goes on.
fn agrees_in_the_end(world: &mut World, seed: u64) {
    world.heal();
    world.write("the last word");
    assert!(world.run_until(SECOND * 20, World::agree), "seed {seed}");
    world.check_durable();
}

// ---- election ----

/// A leader is elected, and leads on in its term as long as nothing fails.
#[test]
fn a_leader_leads_on_while_nothing_fails() {
    for count in [1, 3, 5, 7] {
        let mut world = voters(count, count);
        let leader = world.leader().unwrap();
        let term = world.raft(leader).term();
        world.run_for(SECOND * 60);
        assert_eq!(leader_of_a_majority(&world), Some(leader));
        for node in world.nodes.values() {
            let raft = node.raft.as_ref().unwrap();
            assert_eq!((raft.term(), raft.leader()), (term, Some(leader)));
        }
    }
}

/// The leader is cut off: another is elected. It comes back: nothing happens. Two of three are cut off: nobody
/// leads. One comes back: somebody does.
#[test]
fn there_is_a_leader_where_there_is_a_majority() {
    for seed in 0..30 {
        let mut world = voters(seed, 3);
        let first = world.leader().unwrap();
        world.partition(&[first]);
        let second = another_leads(&mut world, first);
        world.run_for(SECOND * 3);
        let term = world.raft(second).term();
        world.heal();
        world.run_for(SECOND * 3);
        assert_eq!(leader_of_a_majority(&world), Some(second), "seed {seed}");
        assert_eq!(world.raft(second).term(), term, "seed {seed}");
        let third = world.others(second)[0];
        let last = world.others(second)[1];
        world.partition(&[second]);
        world.partition(&[third]);
        world.run_for(SECOND * 4);
        let leads = |id: NodeId| world.raft(id).role() == RoleName::Leader;
        assert!(!leads(second) && !leads(third) && !leads(last));
        world.heal();
        world.partition(&[second]);
        let somebody = world.run_until(SECOND * 5, |w| leader_of_a_majority(w).is_some());
        assert!(somebody, "seed {seed}");
    }
}

/// Again and again three of seven are cut off; the other four always have a leader, and one only.
#[test]
fn ever_new_partitions_of_seven() {
    let mut world = voters(1, 7);
    let ids: Vec<_> = world.nodes.keys().copied().collect();
    for round in 0..20 {
        world.heal();
        let mut away = BTreeSet::new();
        while away.len() < 3 {
            away.insert(ids[world.dice.below(7) as usize]);
        }
        for id in &away {
            world.partition(&[*id]);
        }
        let mut joined = ids.iter().filter(|id| !away.contains(id));
        let follow_one = world.run_until(SECOND * 10, |w| {
            let leader = leader_of_a_majority(w);
            let follows = |id: &NodeId| w.raft(*id).leader() == leader;
            leader.is_some() && joined.clone().all(follows)
        });
        assert!(follow_one, "round {round}");
        let leader = joined.next().map(|id| world.raft(*id).leader());
        let term = |w: &World| w.raft(leader.unwrap().unwrap()).term();
        let before = term(&world);
        world.run_for(SECOND * 3);
        assert_eq!(term(&world), before, "round {round}: it leads on");
    }
    agrees_in_the_end(&mut world, 1);
}

// ---- agreement ----

/// Each entry goes to each peer once, however large, and with little beside it.
#[test]
fn each_entry_is_sent_to_each_peer_once() {
    let mut world = voters(1, 3);
    // In order, as streams are: what overtakes is denied, and sent again.
    world.delay_us = (300, 1);
    world.write("begin");
    world.run_for(SECOND);
    let before = world.sent_bytes;
    let text = "x".repeat(5_000);
    for _ in 0..5 {
        world.write(&text);
    }
    // And without waiting for one before the next.
    let leader = world.leader().unwrap();
    for _ in 0..5 {
        world.put(leader, &text);
        world.run_for(Duration::from_micros(200));
    }
    world.run_for(SECOND);
    let sent = world.sent_bytes - before;
    assert!(
        sent < 10 * 2 * 5_000 + 10_000,
        "{sent} bytes for 2 x 50 000"
    );
    assert!(sent >= 10 * 2 * 5_000);
}

/// In idle times there are heartbeats and no more; agreement on many entries at once takes few messages.
#[test]
fn few_messages_do() {
    let mut world = voters(2, 3);
    world.write("begin");
    world.run_for(SECOND);
    let before = world.sent;
    world.run_for(SECOND * 10);
    let idle = world.sent - before;
    assert!(idle <= 4 * 28, "{idle} in ten idle seconds");
    let before = world.sent;
    let leader = world.leader().unwrap();
    let requests: Vec<_> = (0..50).map(|n| world.put(leader, &n.to_string())).collect();
    let all = |w: &World| requests.iter().all(|r| acknowledged(w, *r));
    assert!(world.run_until(SECOND, all));
    let busy = world.sent - before;
    assert!(busy <= 50 * 8, "{busy} for 50 entries");
}

/// Followers fail one after another: with one gone it goes on, with two of three gone nothing is acknowledged.
#[test]
fn followers_fail_one_after_another() {
    for seed in 0..20 {
        let mut world = voters(seed, 3);
        let leader = world.leader().unwrap();
        let [first, second] = world.others(leader)[..] else {
            panic!("three nodes");
        };
        world.partition(&[first]);
        world.write("two are enough");
        world.partition(&[second]);
        let request = world.put(leader, "one is not");
        world.run_for(SECOND * 4);
        assert!(!acknowledged(&world, request), "seed {seed}");
        assert!(world.committed.len() as Index > world.nodes[&first].committed);
        agrees_in_the_end(&mut world, seed);
    }
}

/// Leaders fail one after another, each with an entry that nobody else has.
#[test]
fn leaders_fail_one_after_another() {
    for seed in 0..20 {
        let mut world = voters(seed, 5);
        let mut lost = Vec::new();
        for _ in 0..2 {
            let leader = world.leader().unwrap();
            world.partition(&[leader]);
            lost.push(world.put(leader, "nobody hears this"));
            let next = another_leads(&mut world, leader);
            let request = world.put(next, "a majority hears this");
            assert!(world.run_until(SECOND, |w| acknowledged(w, request)));
        }
        agrees_in_the_end(&mut world, seed);
        assert!(lost.iter().all(|request| !acknowledged(&world, *request)));
    }
}

/// A follower is away while entries are committed, and has them all soon after it came back.
#[test]
fn a_follower_that_was_away_agrees_again() {
    for seed in 0..20 {
        let mut world = voters(seed, 3);
        let away = world.others(world.leader().unwrap())[0];
        world.partition(&[away]);
        for number in 0..20 {
            world.write(&number.to_string());
            world.run_for(milliseconds(100));
        }
        world.heal();
        let last = world.write("all three");
        assert!(world.run_until(SECOND * 2, World::agree), "seed {seed}");
        assert!(world.nodes[&away].committed >= last.index);
    }
}

/// Three of five are away: nothing is committed, and what was taken meanwhile is not believed to be. They come
/// back: it goes on, and the logs are one.
#[test]
fn too_many_are_away_to_agree() {
    for seed in 0..20 {
        let mut world = voters(seed, 5);
        let leader = world.leader().unwrap();
        for away in world.others(leader)[..3].to_vec() {
            world.partition(&[away]);
        }
        let request = world.put(leader, "taken, and not committed");
        world.run_for(SECOND * 3);
        assert!(!acknowledged(&world, request), "seed {seed}");
        agrees_in_the_end(&mut world, seed);
    }
}

/// Many clients at once, one entry each: all are acknowledged, each at a place of its own.
#[test]
fn many_clients_at_once() {
    for seed in 0..20 {
        let mut world = voters(seed, 3);
        let leader = world.leader().unwrap();
        let requests: Vec<_> = (0..50).map(|n| world.put(leader, &n.to_string())).collect();
        let all = |w: &World| requests.iter().all(|r| acknowledged(w, *r));
        assert!(world.run_until(SECOND, all), "seed {seed}");
        let places: BTreeSet<_> = requests
            .iter()
            .map(|request| world.answers.acknowledged[request].index)
            .collect();
        assert_eq!(places.len(), 50);
    }
}

/// A leader writes alone, is succeeded, and comes back just when its successor is cut off with entries of its
/// own: neither's lonely entries are ever committed.
#[test]
fn a_leader_that_wrote_alone_rejoins() {
    for seed in 0..30 {
        let mut world = voters(seed, 3);
        world.write("101");
        let first = world.leader().unwrap();
        world.partition(&[first]);
        let mut alone = vec![world.put(first, "102"), world.put(first, "103")];
        let second = another_leads(&mut world, first);
        let kept = world.put(second, "104");
        assert!(world.run_until(SECOND, |w| acknowledged(w, kept)));
        world.heal();
        world.partition(&[second]);
        alone.push(world.put(second, "105"));
        // Only the third can follow: the first has not heard what the second committed.
        let third = |id: &NodeId| *id != first && *id != second;
        assert!(world.run_until(SECOND * 10, |w| {
            leader_of_a_majority(w).as_ref().is_some_and(third)
        }));
        agrees_in_the_end(&mut world, seed);
        assert!(
            alone.iter().all(|request| !acknowledged(&world, *request)),
            "seed {seed}"
        );
    }
}

/// Again and again a leader with one friend writes much that is never committed, and others elect one of their
/// own. In the end the logs are one, and the way back was short: by terms, not by entries.
#[test]
fn the_way_back_over_wrong_logs_is_short() {
    for seed in 0..10 {
        let mut world = voters(seed, 5);
        for _ in 0..4 {
            let leader = world.leader().unwrap();
            let friend = world.others(leader)[world.dice.below(4) as usize];
            world.partition(&[leader, friend]);
            for number in 0..50 {
                world.put(leader, &number.to_string());
            }
            // Neither side has more than three: the majority's leader writes alone, too.
            let next = another_leads(&mut world, leader);
            world.partition(&[next]);
            for number in 0..50 {
                world.put(next, &number.to_string());
            }
            world.run_for(milliseconds(100));
            world.heal();
            assert!(world.run_until(SECOND * 10, |w| leader_of_a_majority(w).is_some()));
        }
        agrees_in_the_end(&mut world, seed);
        let back = world.saw(|e| matches!(e, Event::RetryAppendEntries { .. }));
        assert!(back < 100, "seed {seed}: {back} steps back");
    }
}

// ---- persistence ----

/// All are killed, or one after another; each time all that was acknowledged is there, and it goes on.
#[test]
fn kills_of_all_and_of_each() {
    for seed in 0..20 {
        let mut world = voters(seed, 3);
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        world.write("11");
        restart_all(&mut world, &ids);
        world.write("12");
        let leader = world.leader().unwrap();
        world.restart(leader);
        world.write("13");
        let leader = world.leader().unwrap();
        world.kill(leader);
        world.write("14, without it");
        world.start(leader);
        let follower = world.others(world.leader().unwrap())[0];
        world.kill(follower);
        world.write("15");
        world.start(follower);
        agrees_in_the_end(&mut world, seed);
    }
}

/// Five nodes, of which three are up at a time, in ever new threes, with writes in between.
#[test]
fn three_of_five_are_up_at_a_time() {
    for seed in 0..20 {
        let mut world = voters(seed, 5);
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        for round in 0..5 {
            world.write(&format!("{round}: all"));
            let up = |n: usize| ids[(round + n) % 5];
            world.kill(up(0));
            world.kill(up(1));
            world.write(&format!("{round}: three"));
            restart_all(&mut world, &[up(2), up(3), up(4)]);
            world.write(&format!("{round}: the same three, started anew"));
            world.kill(up(2));
            world.start(up(0));
            world.start(up(1));
            world.write(&format!("{round}: two of them and two others"));
            world.start(up(2));
        }
        agrees_in_the_end(&mut world, seed);
    }
}

/// Leader and a follower are killed while the third is cut off; the leader's start and the third make a majority,
/// and the entry that the dead two acknowledged is there.
#[test]
fn an_acknowledged_entry_survives_with_either_holder() {
    for seed in 0..30 {
        let mut world = voters(seed, 3);
        let leader = world.leader().unwrap();
        let [follower, third] = world.others(leader)[..] else {
            panic!("three nodes");
        };
        world.partition(&[third]);
        let kept = world.write("on two of three");
        world.kill(leader);
        world.kill(follower);
        world.heal();
        let back = if seed % 2 == 0 { leader } else { follower };
        world.start(back);
        world.write("with the third");
        let has_it = |w: &World| w.nodes[&third].committed >= kept.index;
        assert!(world.run_until(SECOND, has_it), "seed {seed}");
        assert_eq!(world.raft(third).term_at(kept.index), Some(kept.term));
        world.start(if back == leader { follower } else { leader });
        agrees_in_the_end(&mut world, seed);
    }
}

/// Figure 8, by seed: leaders are killed right after they took an entry, before or after others have it, and come
/// back when only two of five are left. What was once committed is never another.
#[test]
fn leaders_die_with_entries_in_their_hands() {
    for seed in 0..40 {
        let mut world = voters(seed, 5);
        world.write("begin");
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        for _ in 0..60 {
            if let Some(leader) = leader_of_a_majority(&world) {
                world.put(leader, "in its hands");
                let pause = world.dice.below(2_000);
                world.run_for(Duration::from_micros(pause));
                world.kill(leader);
            }
            let up = |world: &World| {
                let up = |id: &&NodeId| world.nodes[id].raft.is_some();
                ids.iter().filter(up).count()
            };
            while up(&world) < 3 {
                let id = ids[world.dice.below(5) as usize];
                if world.nodes[&id].raft.is_none() {
                    world.start(id);
                }
            }
            let pause = world.dice.below(300);
            world.run_for(milliseconds(pause));
        }
        for id in &ids {
            if world.nodes[id].raft.is_none() {
                world.start(*id);
            }
        }
        agrees_in_the_end(&mut world, seed);
        let elections = world.saw(|e| matches!(e, Event::BecameLeader { .. }));
        assert!(elections > 5, "seed {seed}: {elections} elections");
    }
}

/// A network that loses every tenth message, doubles every twentieth and lets some arrive after all others.
fn unreliable(world: &mut World) {
    world.loss_percent = 10;
    world.duplicate_percent = 5;
    world.delay_us = (50, 27_000);
}

/// Agreement over such a network, with many clients at once.
#[test]
fn agreement_over_an_unreliable_network() {
    for seed in 0..20 {
        let mut world = voters(seed, 5);
        unreliable(&mut world);
        for round in 0..20 {
            world.write(&format!("{round}"));
            for number in 0..5 {
                if let Some(leader) = world.leader() {
                    world.put(leader, &format!("{round}-{number}"));
                }
            }
        }
        agrees_in_the_end(&mut world, seed);
        assert!(world.answers.acknowledged.len() >= 80, "seed {seed}");
    }
}

/// Leaders are cut off with entries in their hands, over such a network, and come back when too few are left.
#[test]
fn leaders_are_cut_off_over_an_unreliable_network() {
    for seed in 0..30 {
        let mut world = voters(seed, 5);
        unreliable(&mut world);
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        let mut away = BTreeSet::new();
        for _ in 0..80 {
            if let Some(leader) = leader_of_a_majority(&world) {
                world.put(leader, "x");
                if world.dice.chance(50) {
                    away.insert(leader);
                }
            }
            while away.len() > 2 {
                let back = ids[world.dice.below(5) as usize];
                away.remove(&back);
            }
            world.heal();
            for id in &away {
                world.partition(&[*id]);
            }
            let pause = world.dice.below(400);
            world.run_for(milliseconds(pause));
        }
        world.loss_percent = 0;
        agrees_in_the_end(&mut world, seed);
    }
}

/// Nodes are cut off, killed, started and joined again without end, while clients write. `unreliable_too`: over a
/// network that loses, doubles and delays as well.
fn churn(seed: u64, unreliable_too: bool) {
    let mut world = voters(seed, 5);
    if unreliable_too {
        unreliable(&mut world);
    }
    let ids: Vec<_> = world.nodes.keys().copied().collect();
    for _ in 0..60 {
        let id = ids[world.dice.below(5) as usize];
        match world.dice.below(10) {
            0..=1 => world.partition(&[id]),
            2..=3 => world.heal(),
            4 => {
                if world.nodes[&id].raft.is_some() {
                    world.kill(id);
                }
            }
            _ => {
                let dead = |id: &&NodeId| world.nodes[*id].raft.is_none();
                if let Some(id) = ids.iter().copied().find(|id| dead(&id)) {
                    world.start(id);
                }
            }
        }
        for id in &ids {
            let raft = world.nodes[id].raft.as_ref();
            if raft.is_some_and(|raft| raft.role() == RoleName::Leader) {
                world.put(*id, "churn");
            }
        }
        let pause = world.dice.below(700);
        world.run_for(milliseconds(pause));
    }
    world.loss_percent = 0;
    for id in &ids {
        if world.nodes[id].raft.is_none() {
            world.start(*id);
        }
    }
    agrees_in_the_end(&mut world, seed);
    let acknowledged = world.answers.acknowledged.len();
    assert!(acknowledged > 10, "seed {seed}: {acknowledged}");
}

#[test]
fn churn_over_a_reliable_network() {
    for seed in 0..30 {
        churn(seed, false);
    }
}

#[test]
fn churn_over_an_unreliable_network() {
    for seed in 0..30 {
        churn(seed, true);
    }
}

// ---- compaction ----

/// What happens to one node while the others write, and take snapshots that cover all they wrote.
enum Fault {
    None,
    CutOff,
    Killed,
}

fn snapshots_while(fault: &Fault, unreliable_too: bool) {
    let mut installed = 0;
    for seed in 0..20 {
        let mut world = voters(seed, 3);
        if unreliable_too {
            unreliable(&mut world);
        }
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        for round in 0..6 {
            let victim = ids[round % 3];
            match fault {
                Fault::None => {}
                Fault::CutOff => world.partition(&[victim]),
                Fault::Killed => world.kill(victim),
            }
            for number in 0..15 {
                world.write(&format!("{round}-{number}"));
            }
            // Long enough away that nothing is kept for it any more.
            world.run_for(SECOND * 2);
            for id in ids.iter().filter(|id| **id != victim) {
                world.take_snapshot(*id, 0);
            }
            match fault {
                Fault::None => {}
                Fault::CutOff => world.heal(),
                Fault::Killed => world.start(victim),
            }
            world.write("all three again");
            assert!(world.run_until(SECOND * 10, World::agree), "seed {seed}");
        }
        installed += world.installed;
        agrees_in_the_end(&mut world, seed);
    }
    if matches!(fault, Fault::None) {
        return;
    }
    assert!(installed > 20, "{installed}: snapshots were hardly needed");
}

#[test]
fn snapshots_while_all_is_well() {
    snapshots_while(&Fault::None, false);
}

#[test]
fn who_was_cut_off_is_brought_back_by_a_snapshot() {
    snapshots_while(&Fault::CutOff, false);
}

#[test]
fn who_was_cut_off_is_brought_back_over_an_unreliable_network() {
    snapshots_while(&Fault::CutOff, true);
}

#[test]
fn who_was_killed_is_brought_back_by_a_snapshot() {
    snapshots_while(&Fault::Killed, false);
}

#[test]
fn who_was_killed_is_brought_back_over_an_unreliable_network() {
    snapshots_while(&Fault::Killed, true);
}

/// All are killed at once, again and again, each with another snapshot and another rest of the log.
#[test]
fn all_are_killed_with_snapshots_of_different_age() {
    for seed in 0..20 {
        let mut world = voters(seed, 3);
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        for round in 0..8 {
            for number in 0..5 {
                world.write(&format!("{round}-{number}"));
                let id = ids[world.dice.below(3) as usize];
                let kept = world.dice.below(4);
                world.take_snapshot(id, kept);
            }
            restart_all(&mut world, &ids);
        }
        agrees_in_the_end(&mut world, seed);
    }
}

/// A start from a snapshot and no log at all: what is volatile begins at the snapshot, not at zero, and the first
/// entry after it stands behind it.
#[test]
fn a_start_behind_a_snapshot() {
    for seed in 0..20 {
        let mut world = voters(seed, 3);
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        for number in 0..10 {
            world.write(&number.to_string());
        }
        world.run_until(SECOND * 2, World::agree);
        for id in &ids {
            world.take_snapshot(*id, 0);
        }
        world.run_for(SECOND);
        restart_all(&mut world, &ids);
        let first = world.write("behind it");
        restart_all(&mut world, &ids);
        let second = world.write("behind that");
        assert!(second.index > first.index);
        for id in &ids {
            let base = world.raft(*id).base().index;
            assert!(base > 0, "seed {seed}");
            assert!(world.nodes[id].committed >= base);
        }
        agrees_in_the_end(&mut world, seed);
    }
}
