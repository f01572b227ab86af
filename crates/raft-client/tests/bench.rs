//! `raft-client bench` against nodes that count.
#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::BTreeMap;

use fake::{CLUSTER, Fake, OTHER_CLUSTER, Ran, Step, nobody, refusal, run};
use serde_json::Value;
use tonic::Status;
use wire::raft::{ErrorKind, ResultKind, StatusReply};

/// A node that leads, and says so.
async fn leader() -> Fake {
    let node = Fake::start().await;
    leads(&node, &node);
    node
}

fn leads(node: &Fake, leader: &Fake) {
    let reference = leader.reference("anna");
    *node.node.leader.lock().unwrap() = Some(reference.clone());
    *node.node.status.lock().unwrap() = StatusReply {
        leader: Some(reference),
        cluster_id: CLUSTER.to_vec().into(),
        ..Default::default()
    };
}

fn json(ran: &Ran) -> Value {
    let text = String::from_utf8_lossy(&ran.stdout);
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn errors(report: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(report["errors"].clone()).unwrap()
}

const PUT: [&str; 10] = [
    "bench",
    "put",
    "--warm-up",
    "0",
    "--operations",
    "500",
    "--callers",
    "16",
    "--json",
    "--value-size",
];

#[tokio::test]
async fn what_is_reported_is_what_the_node_has_counted() {
    let node = leader().await;
    // The query that comes first, then the load.
    node.will(Step::Say(ResultKind::NotFound, b"no key"))
        .will(Step::Refuse(refusal(ErrorKind::Overloaded, "too much")))
        .will(Step::Refuse(refusal(ErrorKind::Overloaded, "too much")))
        .will(Step::Refuse(refusal(ErrorKind::NoLeader, "an election")))
        .will(Step::Say(ResultKind::Rejected, b"no such verb"))
        .will(Step::Refuse(Status::unavailable("broken")));
    let endpoint = node.address.to_string();
    let ran = run(&endpoint, &[&PUT[..], &["10", "--keys", "3"]].concat()).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let report = json(&ran);
    let expected = [
        ("connection-broke", 1),
        ("no-leader", 1),
        ("overloaded", 2),
        ("rejected", 1),
    ];
    let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
    assert_eq!(errors(&report), expected.into());
    assert_eq!(report["operations"], 495);
    assert_eq!(
        (&report["operation"], &report["callers"]),
        (&"put".into(), &16.into())
    );
    assert_eq!(
        (&report["connections"], &report["through"]),
        (&8.into(), &"leader".into())
    );

    let puts = node.node.puts.lock().unwrap();
    assert_eq!(
        puts.len(),
        500,
        "every operation is one call, and none is repeated"
    );
    for put in puts.iter() {
        assert_eq!((put.session, put.sequence, put.forwarded), (0, 0, false));
        assert_eq!(put.cluster_id, CLUSTER.as_slice(), "the cluster is pinned");
        assert!((4000..5000).contains(&put.timeout_ms), "{}", put.timeout_ms);
        let entry = String::from_utf8(put.entry.to_vec()).unwrap();
        let words: Vec<&str> = entry.split(' ').collect();
        assert_eq!(
            (words.len(), words[0], words[2].len()),
            (3, "PUT", 10),
            "{entry}"
        );
        assert!(
            ["bench-0", "bench-1", "bench-2"].contains(&words[1]),
            "{entry}"
        );
    }
    assert_eq!(*node.node.registered.lock().unwrap(), 0);
    let latency = &report["latency_us"];
    let quantiles: Vec<u64> = ["p50", "p90", "p99", "p99_9", "max"]
        .iter()
        .map(|name| latency[name].as_u64().unwrap())
        .collect();
    assert!(quantiles.is_sorted() && quantiles[0] > 0, "{latency}");
    assert!(report["operations_per_second"].as_f64().unwrap() > 0.0);
    if cfg!(target_os = "linux") {
        // The nodes are threads of this very process.
        let own = std::process::id();
        assert_eq!(report["servers"][0]["pid"], own, "{report}");
        assert!(report["client"]["resident_bytes"].as_u64().unwrap() > 0);
    }
}

#[tokio::test]
async fn with_sessions_every_caller_counts_its_own() {
    let node = leader().await;
    let endpoint = node.address.to_string();
    let ran = run(&endpoint, &[&PUT[..], &["0", "--session"]].concat()).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(json(&ran)["operations"], 500);
    assert_eq!(*node.node.registered.lock().unwrap(), 16);
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for (session, sequence) in node.sessions() {
        let before = last.insert(session, sequence).unwrap_or_default();
        assert_eq!(sequence, before + 1, "session {session}");
    }
    assert_eq!((last.len(), last.values().sum::<u64>()), (16, 500));
    let puts = node.node.puts.lock().unwrap();
    assert!(puts.iter().all(|put| put.acked_below == put.sequence));
}

#[tokio::test]
async fn gets_ask_and_fill_puts_every_key_first() {
    let node = leader().await;
    let endpoint = node.address.to_string();
    let words = "bench get --fill --keys 40 --operations 100 --warm-up 0 --json";
    let words: Vec<&str> = words.split(' ').collect();
    let ran = run(&endpoint, &words).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report = json(&ran);
    assert_eq!(
        (&report["operations"], &report["stale"]),
        (&100.into(), &false.into())
    );
    let mut keys: Vec<Vec<u8>> = node.entries();
    keys.sort();
    keys.dedup();
    assert_eq!((node.entries().len(), keys.len()), (40, 40));
    let queries = node.node.queries.lock().unwrap().clone();
    assert_eq!(queries.len(), 101, "one comes before the load");
    assert!(
        queries
            .iter()
            .all(|query| query.query.starts_with(b"GET bench-") && !query.stale)
    );

    for _ in 0..11 {
        node.will(Step::Say(ResultKind::NotFound, b"no key"));
    }
    let words = [
        "bench",
        "get",
        "--operations",
        "10",
        "--warm-up",
        "0",
        "--stale",
    ];
    let ran = run(&endpoint, &words).await;
    let text = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(ran.code, 0, "an answer is an answer: {text}");
    assert!(
        text.contains("; 10 of them for a key that is not there\n") && text.contains("--fill"),
        "{text}"
    );
    let queries = node.node.queries.lock().unwrap();
    assert!(queries[101..].iter().all(|query| query.stale));
}

#[tokio::test]
async fn the_load_goes_to_the_leader_or_to_all_and_follows_a_new_one() {
    let (one, two) = (leader().await, Fake::start().await);
    leads(&two, &one);
    let endpoints = format!("{},{}", two.address, one.address);
    let load = ["bench", "put", "--operations", "200", "--warm-up", "0"];
    let ran = run(&endpoints, &load).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!((one.entries().len(), two.entries().len()), (200, 0));

    let ran = run(&endpoints, &[&load[..], &["--through", "any"]].concat()).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let (at_one, at_two) = (one.entries().len() - 200, two.entries().len());
    assert_eq!(at_one + at_two, 200);
    assert!(at_one > 20 && at_two > 20, "{at_one} and {at_two}");

    // Who led says in its replies who leads now.
    *one.node.leader.lock().unwrap() = Some(two.reference("bert"));
    *two.node.leader.lock().unwrap() = Some(two.reference("bert"));
    let (before_one, before_two) = (one.entries().len(), two.entries().len());
    let ran = run(&endpoints, &load).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let (at_one, at_two) = (
        one.entries().len() - before_one,
        two.entries().len() - before_two,
    );
    assert_eq!(at_one + at_two, 200);
    assert!(at_one <= 64 && at_two >= 136, "{at_one} and {at_two}");
}

#[tokio::test]
async fn nothing_succeeds_and_the_exit_code_says_why() {
    let words = ["bench", "put", "--operations", "5", "--callers", "1"];
    let ran = run(&nobody().to_string(), &words).await;
    assert_eq!((ran.code, ran.stdout.len()), (3, 0), "{}", ran.stderr);
    assert!(
        ran.stderr.starts_with("No node answered at "),
        "{}",
        ran.stderr
    );

    let node = leader().await;
    let refuse = |kind| Step::Refuse(refusal(kind, "because"));
    let endpoint = node.address.to_string();
    for (kind, code) in [
        (ErrorKind::LogFull, 13),
        (ErrorKind::NoQuorum, 9),
        (ErrorKind::NoLeader, 4),
    ] {
        node.will(Step::Say(ResultKind::Ok, b"v"));
        for _ in 0..5 {
            node.will(refuse(kind));
        }
        let ran = run(
            &endpoint,
            &[&words[..], &["--warm-up", "0", "--json"]].concat(),
        )
        .await;
        assert_eq!(ran.code, code, "{kind:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("because"), "{}", ran.stderr);
        let report = json(&ran);
        assert_eq!(
            (&report["operations"], &report["latency_us"]),
            (&0.into(), &Value::Null)
        );
        assert_eq!(errors(&report).values().sum::<u64>(), 5);
    }

    // A warm-up in which nothing succeeds is the end of it.
    node.will(Step::Say(ResultKind::Ok, b"v"));
    for _ in 0..1000 {
        node.will(Step::Say(ResultKind::Rejected, b"PUT is no verb"));
    }
    let ran = run(&endpoint, &[&words[..], &["--warm-up", "20ms"]].concat()).await;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("PUT is no verb"), "{}", ran.stderr);
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("nothing succeeded in the warm-up"), "{text}");
}

#[tokio::test]
async fn a_node_of_another_cluster_does_not_count() {
    let node = leader().await;
    node.will(Step::Say(ResultKind::Ok, b"v"))
        .will(Step::SayFrom(OTHER_CLUSTER));
    let ran = run(&node.address.to_string(), &[&PUT[..], &["1"]].concat()).await;
    let report = json(&ran);
    assert_eq!(errors(&report), [("other-cluster".to_owned(), 1)].into());
    assert_eq!(report["operations"], 499);
}

#[tokio::test]
async fn progress_is_told_when_it_is_asked_for() {
    let node = leader().await;
    let words = "bench put --callers 1 --warm-up 0 --duration 1200ms --progress";
    let words: Vec<&str> = words.split(' ').collect();
    let ran = run(&node.address.to_string(), &words).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let line = ran.stderr.trim_end();
    assert!(
        line.starts_with("[BENCH] put 1 s: ") && line.ends_with(" 0 errors"),
        "{line}"
    );
}
