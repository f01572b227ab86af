//! `kill -9` of all nodes at once while clients write, ten times over: what was acknowledged is there,
//! and nothing was executed twice.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cluster::{Cluster, Process};
use crate::cluster_more::evidence::{
    Evidence, differences, evidence_of, executed_by_rule, executed_wrongly, holds, log_of, lost,
    retries,
};
use crate::cluster_more::writers::{Acknowledged, Writers};
use raft_core::{Command, Entry, Payload};

const NODES: usize = 5;
const WRITERS: usize = 6;
const ROUNDS: usize = 10;

/// A round's writers have each finished at least so many entries before the nodes are killed.
const WRITES_PER_ROUND: u64 = 10;

/// All that is waited for takes a small part of this on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn ten_times_all_nodes_are_killed_at_once_during_writes() {
    let mut cluster = Cluster::new(NODES);
    // Small, so that the kills hit changes of segment too.
    cluster.set("LEEKY_SEGMENT_BYTES", "65536");
    cluster.start_all();
    cluster.wait_for_voters(NODES, PATIENCE);
    let addresses: Vec<_> = cluster
        .numbers()
        .map(|number| cluster.address(number))
        .collect();
    let mut writers = Writers::start(WRITERS, &addresses);
    let mut checked = 0;
    for round in 1..=ROUNDS {
        let before = writers.book().done.clone();
        cluster.eventually("every writer gets on", PATIENCE, |_| {
            let book = writers.book();
            let mut pairs = book.done.iter().zip(&before);
            pairs
                .all(|(now, then)| now - then >= WRITES_PER_ROUND)
                .then_some(())
        });
        // Not waiting for anything: the nodes are to be hit at any moment of their work.
        std::thread::sleep(Duration::from_micros(rand::random_range(0..300_000)));
        cluster.kill_all();
        let acknowledged = writers.book().acknowledged.clone();
        majority_has(&cluster, &acknowledged[checked..], round);
        cluster.start_all();
        cluster.wait_for_voters(NODES, PATIENCE);
        let wrong = writers.read_back(&acknowledged[checked..]);
        assert!(wrong.is_empty(), "round {round}: {wrong:#?}");
        println!(
            "round {round}: {} acknowledged writes are there",
            acknowledged.len() - checked
        );
        checked = acknowledged.len();
    }
    writers.finish(PATIENCE);
    let nodes = stopped_in_order(&mut cluster);
    let book = writers.book();
    assert!(book.wrong.is_empty(), "{:#?}", book.wrong);
    let wrong = all_that_is_wrong(&nodes, &book.acknowledged);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let retries = retries(&nodes[0].log);
    assert!(retries > 0, "no entry came twice, so nothing was tested");
    println!(
        "{} acknowledgements of {} writes, {} attempts were refused; {} entries, {retries} retries \
         among them, none executed twice",
        book.acknowledged.len(),
        book.done.iter().sum::<u64>(),
        book.refused,
        nodes[0].log.len()
    );
}

/// An acknowledged entry was durable at a majority when it was acknowledged: all nodes are dead now,
/// and nobody had the time to copy it around.
fn majority_has(cluster: &Cluster, acknowledged: &[Acknowledged], round: usize) {
    let logs: Vec<_> = cluster
        .numbers()
        .map(|n| log_of(&cluster.node(n).data))
        .collect();
    for write in acknowledged {
        let holders = logs.iter().filter(|log| holds(log, write)).count();
        assert!(
            holders > NODES / 2,
            "round {round}: {holders} of {NODES} nodes have {write:?}"
        );
    }
}

/// Lets everybody apply everything, ends the state machines so that they store what they have, and
/// kills the rest.
fn stopped_in_order(cluster: &mut Cluster) -> Vec<Evidence> {
    let numbers: Vec<usize> = cluster.numbers().collect();
    let status = |cluster: &Cluster| cluster.status(1);
    let committed = cluster
        .eventually("a status", PATIENCE, status)
        .commit_index;
    cluster.wait_for_applied(&numbers, committed, PATIENCE);
    for number in &numbers {
        let ended = cluster.terminate(*number, Process::StateMachine, PATIENCE);
        assert_eq!(ended.code(), Some(0));
    }
    cluster.kill_all();
    let node = |number: &usize| cluster.node(*number);
    numbers
        .iter()
        .map(node)
        .map(|node| evidence_of(&node.name, &node.data))
        .collect()
}

fn all_that_is_wrong(nodes: &[Evidence], acknowledged: &[Acknowledged]) -> Vec<String> {
    let committed = acknowledged
        .iter()
        .map(|write| write.index)
        .max()
        .unwrap_or_default();
    let mut wrong = differences(nodes, committed);
    for node in nodes {
        wrong.extend(executed_wrongly(node));
        wrong.extend(lost(node, acknowledged));
        if node.executed.last() != executed_by_rule(&node.log).last() {
            wrong.push(format!(
                "{} has not executed all that it should have",
                node.name
            ));
        }
    }
    wrong
}

/// The checks above, shown that they find what they are for.
mod the_checks_themselves {
    use super::*;

    const SESSION: u64 = 1;

    fn write(sequence: u64, index: u64) -> Acknowledged {
        Acknowledged {
            session: SESSION,
            sequence,
            index,
            term: 1,
        }
    }

    /// A session, two writes, and the first one again.
    fn log() -> Vec<Entry> {
        let at = |index, payload| Entry {
            index,
            term: 1,
            log_time_ms: 0,
            payload,
        };
        let command = |sequence, index| {
            let bytes = write(sequence, index).entry().into();
            let command = Command {
                session: SESSION,
                sequence,
                acked_below: 1,
                bytes,
            };
            at(index, Payload::Command(command))
        };
        vec![
            at(1, Payload::RegisterSession),
            command(1, 2),
            command(2, 3),
            command(1, 4),
        ]
    }

    fn node(log: Vec<Entry>, executed: impl IntoIterator<Item = u64>) -> Evidence {
        Evidence {
            name: "n".to_owned(),
            log,
            executed: BTreeSet::from_iter(executed),
        }
    }

    fn wrong(node: Evidence, acknowledged: &[Acknowledged]) -> String {
        all_that_is_wrong(&[node], acknowledged).join("; ")
    }

    #[test]
    fn nothing_is_wrong_with_a_retry_that_was_recognised() {
        assert_eq!(retries(&log()), 1);
        assert_eq!(
            wrong(
                node(log(), [2, 3]),
                &[write(1, 2), write(1, 4), write(2, 3)]
            ),
            ""
        );
    }

    #[test]
    fn a_retry_that_was_executed_is_found() {
        let found = wrong(node(log(), [2, 3, 4]), &[]);
        assert!(
            found.contains("executed (1, 1) at 2 and again at 4"),
            "{found}"
        );
    }

    #[test]
    fn a_retry_that_was_executed_instead_of_the_first_is_found() {
        let found = wrong(node(log(), [3, 4]), &[write(1, 2)]);
        assert!(
            found.contains("skipped") && found.contains("against the rule"),
            "{found}"
        );
    }

    #[test]
    fn a_write_that_is_gone_is_found() {
        let mut shorter = log();
        shorter.truncate(2);
        let found = wrong(node(shorter, [2]), &[write(1, 2), write(2, 3)]);
        assert!(found.contains("n's log ends at 2, below 3"), "{found}");
        assert!(found.contains("not in its log"), "{found}");
        let found = wrong(node(log(), [2]), &[write(2, 3)]);
        assert!(found.contains("has not executed all"), "{found}");
    }

    #[test]
    fn an_entry_of_another_term_in_its_place_is_found() {
        let other = Acknowledged {
            term: 2,
            ..write(2, 3)
        };
        assert!(wrong(node(log(), [2, 3]), &[other]).contains("not in its log"));
    }

    #[test]
    fn logs_that_differ_are_found() {
        let mut other = log();
        other[2].term = 2;
        let nodes = [node(log(), [2, 3]), node(other, [2, 3])];
        assert_eq!(differences(&nodes, 2), Vec::<String>::new());
        assert_eq!(differences(&nodes, 3).len(), 1);
    }
}
