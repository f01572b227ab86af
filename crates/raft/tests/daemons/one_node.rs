//! One node alone (`FoundAlone`): what was acknowledged is there after `kill -9`.

use std::time::Duration;

use crate::cluster::{Cluster, Process};
use wire::raft::ResultKind;

fn alone() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.set("LEEKY_FOUND_ALONE", "true");
    cluster.start_all();
    cluster.wait_for_voters(1, Duration::from_secs(20));
    cluster
}

#[test]
fn an_acknowledged_put_survives_kill_9_of_all_three_processes() {
    let mut cluster = alone();
    let words = [
        "PUT",
        "pizzatoppings",
        "peporoni",
        "peppr",
        "cheddar",
        "anchoves",
        "onn",
        "it",
    ];
    assert_eq!(
        cluster.says(&words),
        "Success! Set \"pizzatoppings\" to: \"peporoni peppr cheddar anchoves onn it\"\n"
    );
    for round in 0..3 {
        let acknowledged = format!("PUT round {round}");
        assert_eq!(
            cluster.put(1, &acknowledged).unwrap().kind(),
            ResultKind::Ok
        );
        cluster.kill_all();
        cluster.start_all();
        cluster.wait_for_voters(1, Duration::from_secs(20));
        let reply = cluster.query(1, "GET round", false).unwrap();
        assert_eq!(reply.data, round.to_string());
    }
    assert_eq!(
        cluster.says(&["GET", "pizzatoppings"]),
        "peporoni peppr cheddar anchoves onn it\n"
    );
    assert_eq!(cluster.status(1).unwrap().boot, 4);
}

#[test]
fn the_state_machine_may_crash_at_any_time_and_nothing_is_applied_twice_or_lost() {
    let mut cluster = alone();
    for round in 0..3 {
        cluster.put(1, &format!("PUT before {round}")).unwrap();
        cluster.kill_process(1, Process::StateMachine);
        // Replication goes on without it: the entry is committed, and answered once it is applied.
        let index = cluster.status(1).unwrap().commit_index;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cluster_put(&cluster, &format!("PUT during {round}")));
            cluster.eventually("it is committed", Duration::from_secs(5), |cluster| {
                (cluster.status(1)?.commit_index > index).then_some(())
            });
            assert!(!waiting.is_finished(), "answered without a state machine");
            let mut child = cluster.command(1, Process::StateMachine).spawn().unwrap();
            let reply = waiting.join().unwrap();
            let query = cluster.query(1, "GET during", false);
            let _ = child.kill();
            let _ = child.wait();
            assert_eq!(reply.unwrap().kind(), ResultKind::Ok);
            assert_eq!(query.unwrap().data, round.to_string());
        });
        cluster.start_process(1, Process::StateMachine);
        assert_eq!(
            cluster.query(1, "GET before", false).unwrap().data,
            round.to_string()
        );
    }
}

fn cluster_put(cluster: &Cluster, entry: &str) -> Result<wire::raft::PutEntryReply, tonic::Status> {
    cluster.put(1, entry)
}

#[test]
fn sigterm_ends_the_daemon_with_0_and_a_second_daemon_on_the_directory_is_refused() {
    let mut cluster = alone();
    let second = cluster.command(1, Process::Raft).status().unwrap();
    assert_eq!(second.code(), Some(1));
    assert!(
        cluster
            .log(1, Process::Raft)
            .contains("is in use by process")
    );
    assert!(cluster.runs(1, Process::Raft));
    let ended = cluster.terminate(1, Process::Raft, Duration::from_secs(10));
    assert_eq!(ended.code(), Some(0));
}
