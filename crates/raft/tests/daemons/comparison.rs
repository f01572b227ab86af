//! A state machine that does not go the way of the others is found, and not listened to any more (P4).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use state_machine_sdk::{Entry, Outcome, StateMachine};
use wire::raft::ErrorKind;

use crate::cluster::{Cluster, Process};
use crate::snapshots::{Machine, SOON, leader_of};

/// Longer than the leader takes to look.
const COMPARED: Duration = Duration::from_secs(30);

/// Counts bytes, and for each command so many more.
struct Drifting {
    total: usize,
    drifts: Arc<AtomicUsize>,
}

impl StateMachine for Drifting {
    fn name(&self) -> &str {
        "drifting"
    }
    fn execute(&mut self, _: &Entry, command: &[u8]) -> Outcome {
        self.total += command.len() + self.drifts.load(Ordering::Acquire);
        Outcome::ok(self.total.to_string())
    }
    fn query(&self, _: &[u8]) -> Outcome {
        Outcome::ok(self.total.to_string())
    }
}

struct Three {
    cluster: Cluster,
    drifts: Vec<Arc<AtomicUsize>>,
    _machines: Vec<Machine>,
}

impl Three {
    fn start() -> Three {
        let mut cluster = Cluster::new(3);
        let drifts: Vec<Arc<AtomicUsize>> = (0..3).map(|_| Arc::default()).collect();
        let mut machines = Vec::new();
        for (number, drifts) in cluster.numbers().zip(&drifts) {
            let drifts = drifts.clone();
            machines.push(Machine::start(&cluster, number, move || Drifting {
                total: 0,
                drifts: drifts.clone(),
            }));
        }
        for number in cluster.numbers() {
            cluster.start_process(number, Process::Member);
            cluster.start_process(number, Process::Raft);
        }
        cluster.wait_for_voters(3, SOON);
        Three {
            cluster,
            drifts,
            _machines: machines,
        }
    }

    fn drift(&self, number: usize, by: usize) {
        self.drifts[number - 1].store(by, Ordering::Release);
    }

    fn alarm(&self, number: usize, words: &str) -> String {
        self.cluster
            .eventually("an alarm is raised", COMPARED, |cluster| {
                let alarms = cluster.status(number)?.alarms;
                alarms.into_iter().find(|alarm| alarm.contains(words))
            })
    }

    fn others(&self, number: usize) -> Vec<usize> {
        self.cluster.numbers().filter(|n| *n != number).collect()
    }
}

const ASTRAY: &str = "does not go the way of the others";

#[test]
fn a_follower_that_went_astray_answers_no_more_and_goes_on_voting() {
    let three = Three::start();
    let cluster = &three.cluster;
    let leader = leader_of(cluster);
    let astray = three.others(leader)[0];
    cluster.put(leader, "abc").unwrap();
    three.drift(astray, 1);
    cluster.put(leader, "abc").unwrap();
    three.alarm(astray, ASTRAY);
    let refused = cluster.query(astray, "total", true).unwrap_err();
    let kind = wire::status::detail_of(&refused).unwrap().kind();
    assert_eq!(kind, ErrorKind::StateMachineDown, "{refused}");
    // Its vote and its log count: with the third one down it is the majority.
    let third = three.others(leader)[1];
    cluster.signal(third, rustix::process::Signal::STOP);
    cluster.put(leader, "abc").unwrap();
    assert_eq!(cluster.query(leader, "total", false).unwrap().data, "9");
    cluster.signal(third, rustix::process::Signal::CONT);
    let alarms = cluster.status(leader).unwrap().alarms;
    assert!(alarms.is_empty(), "{alarms:?}");
}

#[test]
fn a_leader_that_went_astray_hands_over() {
    let three = Three::start();
    let cluster = &three.cluster;
    let astray = leader_of(cluster);
    cluster.put(astray, "abc").unwrap();
    three.drift(astray, 1);
    cluster.put(astray, "abc").unwrap();
    three.alarm(astray, ASTRAY);
    let heir = cluster.wait_for_leader(&three.others(astray), Some(astray), SOON);
    cluster.put(heir, "abc").unwrap();
    assert_eq!(cluster.query(heir, "total", false).unwrap().data, "9");
}

#[test]
fn without_a_majority_there_is_an_alarm_and_nobody_is_silenced() {
    let three = Three::start();
    let cluster = &three.cluster;
    let leader = leader_of(cluster);
    let [one, two] = three.others(leader)[..] else {
        panic!("three nodes")
    };
    three.drift(one, 1);
    three.drift(two, 2);
    cluster.put(leader, "abc").unwrap();
    three.alarm(leader, "nobody can say which is right");
    for (number, total) in [(leader, "3"), (one, "4"), (two, "5")] {
        let reply = cluster.query(number, "total", true).unwrap();
        assert_eq!(reply.data, total);
    }
}
