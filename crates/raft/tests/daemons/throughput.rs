//! How fast, on this machine: prints figures, asserts nothing but success. Not run by default:
//! `cargo test --release -p raft --test daemons throughput -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::robustness::http_of;
use wire::raft as pb;

/// Puts for `seconds` from so many clients at once, each waiting for its answer; prints the rate
/// and the latencies.
fn load(cluster: &Cluster, node: usize, clients: usize, bytes: usize, seconds: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let channel = {
        let _guard = runtime.enter();
        cluster.channel(node)
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let mut raft = pb::raft_client::RaftClient::new(channel.clone());
            runtime.spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let value = "x".repeat(bytes);
                    let entry = format!("PUT key{client} {value}").into();
                    let request = pb::PutEntryRequest {
                        entry,
                        ..Default::default()
                    };
                    let began = Instant::now();
                    raft.put_entry(request).await.unwrap();
                    latencies.push(began.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut all: Vec<Duration> = tasks
        .into_iter()
        .flat_map(|task| runtime.block_on(task).unwrap())
        .collect();
    all.sort();
    println!(
        "{clients:>4} clients, {bytes:>6} bytes: {:>7.0} entries/s, median {:>8.2?}, 99 % {:>8.2?}, worst {:>8.2?}",
        all.len() as f64 / seconds as f64,
        all[all.len() / 2],
        all[all.len() * 99 / 100],
        all[all.len() - 1],
    );
}

#[test]
#[ignore = "takes half a minute and only prints"]
fn figures() {
    for nodes in [1, 3] {
        let mut cluster = Cluster::new(nodes);
        if nodes == 1 {
            cluster.set("LEEKY_FOUND_ALONE", "true");
        }
        cluster.start_all();
        let leader = cluster.wait_for_voters(nodes, Duration::from_secs(30));
        println!("{nodes} node(s), through the leader:");
        for (clients, bytes) in [(1, 100), (16, 100), (256, 100), (1024, 100), (16, 100_000)] {
            load(&cluster, leader, clients, bytes, 3);
        }
    }
}

/// digest_entries takes all that waits: many callers share one step, one write and one message to each
/// peer. A batch for each entry would be correct, and several times as dear.
#[test]
fn what_waits_is_one_batch() {
    let cluster = Cluster::started(3, 3);
    let leader = cluster.wait_for_voters(3, Duration::from_secs(30));
    let batches = || {
        let metrics = http_of(&cluster, leader, "GET /metrics");
        let figure = |name: &str| -> f64 {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().parse().unwrap()
        };
        (
            figure("leeky_raft_digest_entries_batch_sum "),
            figure("leeky_raft_digest_entries_batch_count "),
        )
    };
    let before = batches();
    load(&cluster, leader, 64, 100, 2);
    let after = batches();
    let (entries, count) = (after.0 - before.0, after.1 - before.1);
    assert!(entries > 100.0, "{entries} entries");
    assert!(
        entries / count > 3.0,
        "{entries} entries of 64 callers in {count} batches"
    );
}
