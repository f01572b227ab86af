//! Watches against nodes that die, repeat themselves, and no longer know.
#![allow(clippy::unwrap_used)]

mod fake;

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::{Fake, OTHER_CLUSTER, nobody, raft_client, refusal, refusal_at, run, told};
use raft_client::{Changes, Client, ClientError, Notice, Options, Watch, parse_endpoints};
use tokio::io::{AsyncBufReadExt, BufReader};
use wire::raft::{ErrorKind, WatchReply};

const PATIENCE: Duration = Duration::from_secs(20);

fn client(nodes: &[&Fake], timeout_ms: u64) -> Client {
    let endpoints: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
    Client::new(Options {
        endpoints: parse_endpoints(&endpoints.join(",")).unwrap(),
        timeout: Duration::from_millis(timeout_ms),
    })
}

async fn next(watch: &mut Watch<'_>) -> Result<Changes, ClientError> {
    tokio::time::timeout(PATIENCE, watch.next()).await.unwrap()
}

fn changes(index: u64, events: &[&str]) -> Changes {
    let events = events
        .iter()
        .map(|event| event.to_string().into())
        .collect();
    Changes { index, events }
}

#[tokio::test]
async fn it_goes_on_at_another_node_behind_what_was_told_last() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    first.will_tell(vec![told(9, &[]), told(12, &["a", "b"]), told(15, &[])]);
    // One that repeats itself: nothing is doubled.
    second.will_tell(vec![told(12, &["b"]), told(15, &["?"]), told(17, &["c"])]);
    let mut client = client(&[&first, &second], 5000);
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = notices.clone();
    client.on_notice(move |notice| kept.lock().unwrap().push(notice));
    let mut watch = client.watch("WATCH".into(), 0);
    assert_eq!(next(&mut watch).await.unwrap(), changes(9, &[]));
    assert_eq!(next(&mut watch).await.unwrap(), changes(12, &["a", "b"]));
    assert_eq!(next(&mut watch).await.unwrap(), changes(15, &[]));
    assert_eq!(first.watched_from(), [0]);
    drop(first);
    assert_eq!(next(&mut watch).await.unwrap(), changes(17, &["c"]));
    assert_eq!(watch.next_index(), 18);
    assert_eq!(second.watched_from(), [16], "behind the mark");
    let pinned = second.node.watched.lock().unwrap()[0].cluster_id.clone();
    assert_eq!(pinned, fake::CLUSTER.as_slice());
    let notices = notices.lock().unwrap();
    assert!(
        matches!(&notices[..], [Notice::WatchMoved { address, from: 16, .. }]
            if *address == second.address),
        "{notices:?}"
    );
}

#[tokio::test]
async fn a_node_that_ends_a_watch_is_asked_last() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let ended = || Err(refusal_at(ErrorKind::WatchEnded, 6));
    first.will_tell(vec![told(4, &[]), told(5, &["a"]), ended()]);
    second.will_tell(vec![told(5, &[]), told(6, &["b"]), ended()]);
    first.will_tell(vec![told(6, &[]), told(7, &["c"])]);
    let mut client = client(&[&first, &second], 5000);
    let mut watch = client.watch("WATCH".into(), 5);
    for index in [4, 5, 6, 7] {
        // A first mark that says nothing new is not told.
        let expected = match index {
            4 => continue,
            5 => changes(5, &["a"]),
            6 => changes(6, &["b"]),
            _ => changes(7, &["c"]),
        };
        assert_eq!(next(&mut watch).await.unwrap(), expected);
    }
    assert_eq!(
        (first.watched_from(), second.watched_from()),
        (vec![5, 7], vec![6])
    );
}

#[tokio::test]
async fn compacted_is_the_answer_only_when_no_node_knows_more() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    first.will_tell(vec![Err(refusal_at(ErrorKind::WatchCompacted, 30))]);
    second.will_tell(vec![
        told(4, &[]),
        told(5, &["a"]),
        Err(refusal_at(ErrorKind::WatchEnded, 6)),
    ]);
    first.will_tell(vec![Err(refusal_at(ErrorKind::WatchCompacted, 30))]);
    second.will_tell(vec![Err(refusal_at(ErrorKind::WatchCompacted, 20))]);
    let mut client = client(&[&first, &second], 5000);
    let mut watch = client.watch("WATCH".into(), 5);
    assert_eq!(next(&mut watch).await.unwrap(), changes(5, &["a"]));
    let error = next(&mut watch).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Compacted { first: 20, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn compacted_is_not_the_answer_while_a_node_that_may_know_more_is_away() {
    for away in [ErrorKind::StateMachineDown, ErrorKind::Overloaded] {
        let (first, second) = (Fake::start().await, Fake::start().await);
        for _ in 0..1000 {
            first.will_tell(vec![Err(refusal_at(ErrorKind::WatchCompacted, 30))]);
        }
        second
            .will_tell(vec![Err(refusal_at(away, 0))])
            .will_tell(vec![told(4, &[]), told(5, &["a"])]);
        let mut client = client(&[&first, &second], 5000);
        let mut watch = client.watch("WATCH".into(), 5);
        assert_eq!(next(&mut watch).await.unwrap(), changes(5, &["a"]));
    }
    // The one that is away stays away: then it is the answer.
    let (first, second) = (Fake::start().await, Fake::start().await);
    for _ in 0..1000 {
        first.will_tell(vec![Err(refusal_at(ErrorKind::WatchCompacted, 30))]);
    }
    let begun = std::time::Instant::now();
    let mut client = client(&[&first, &second], 700);
    drop(second);
    let error = next(&mut client.watch("WATCH".into(), 5)).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, ClientError::Compacted { first: 30, .. }),
        "{error:?}"
    );
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

/// The end of the time cuts off whoever is being asked: what it said before is the answer all the same.
#[tokio::test]
async fn compacted_is_the_answer_when_the_time_ends_in_a_question() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    first.will_tell(vec![Err(refusal_at(ErrorKind::WatchCompacted, 30))]);
    let mut client = client(&[&first, &second], 700);
    drop(second);
    let error = next(&mut client.watch("WATCH".into(), 5)).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, ClientError::Compacted { first: 30, .. }),
        "{error:?}"
    );
    assert!(first.watched_from().len() > 1, "it was asked again");
}

#[tokio::test]
async fn a_watch_that_stands_for_a_while_and_tells_nothing_is_no_success() {
    let node = Fake::start().await;
    *node.node.watch_stands.lock().unwrap() = Duration::from_millis(1200);
    for _ in 0..1000 {
        node.will_tell(vec![
            told(4, &[]),
            Err(refusal_at(ErrorKind::WatchEnded, 5)),
        ]);
    }
    let mut client = client(&[&node], 2000);
    let begun = std::time::Instant::now();
    let error = next(&mut client.watch("WATCH".into(), 5))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_watch_that_nobody_serves_ends_in_time_with_what_was_told() {
    let node = Fake::start().await;
    for _ in 0..1000 {
        node.will_tell(vec![
            told(4, &[]),
            Err(refusal_at(ErrorKind::WatchEnded, 5)),
        ]);
    }
    let mut one = client(&[&node], 700);
    let error = next(&mut one.watch("WATCH".into(), 5)).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");
    assert!(
        node.watched_from().len() < 200,
        "{}",
        node.watched_from().len()
    );

    let node = Fake::start().await;
    node.will_tell(vec![Err(refusal(ErrorKind::Unsupported, "no watches"))]);
    let mut one = client(&[&node], 5000);
    let error = next(&mut one.watch("WATCH".into(), 5)).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error:?}");

    let node = Fake::start().await;
    node.will_tell(vec![told(4, &[]), told(5, &["a"])]);
    let mut one = client(&[&node], 500);
    let mut watch = one.watch("WATCH".into(), 5);
    next(&mut watch).await.unwrap();
    drop(node);
    let error = next(&mut watch).await.unwrap_err();
    assert!(
        matches!(error, ClientError::NoNodeAnswered { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn two_clusters_are_never_mixed_up() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    first.will_tell(vec![told(4, &[]), told(5, &["a"])]);
    let other = WatchReply {
        cluster_id: OTHER_CLUSTER.to_vec().into(),
        ..told(6, &["stranger"]).unwrap()
    };
    second.will_tell(vec![Ok(other)]);
    let mut client = client(&[&first, &second], 5000);
    let mut watch = client.watch("WATCH".into(), 5);
    next(&mut watch).await.unwrap();
    drop(first);
    let error = next(&mut watch).await.unwrap_err();
    assert!(matches!(error, ClientError::OtherCluster(_)), "{error:?}");
}

#[tokio::test]
async fn the_verb_prints_a_line_for_each_change_and_ends_at_the_count() {
    let node = Fake::start().await;
    let replies = || {
        vec![
            told(6, &[]),
            told(7, &["PUT pizza ham and eggs", "DELETE pizza"]),
            told(9, &["PUT pizza\u{7f}s 1\n2"]),
            told(10, &["PUT never shown"]),
        ]
    };
    node.will_tell(replies()).will_tell(replies());
    let endpoint = node.address.to_string();
    let ran = run(
        &endpoint,
        &["WATCH", "pizza", "--from", "7", "--count", "3"],
    )
    .await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let lines = "7 PUT pizza ham and eggs\n7 DELETE pizza\n9 PUT pizza\\u{7f}s 1\\n2\n";
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), lines);
    let ran = run(&endpoint, &["watch", "--json", "--count", "1"]).await;
    let line = "{\"index\":7,\"kind\":\"PUT\",\"key\":\"pizza\",\"value\":\"ham and eggs\"}\n";
    assert_eq!(
        (ran.code, String::from_utf8(ran.stdout).unwrap().as_str()),
        (0, line)
    );
    let watched = node.node.watched.lock().unwrap();
    assert_eq!(watched[0].query, "WATCH pizza");
    assert_eq!((watched[0].from_index, watched[1].from_index), (7, 0));
    assert_eq!(watched[1].query, "WATCH");
}

#[tokio::test]
async fn compacted_has_an_exit_code_of_its_own_and_ctrl_c_is_quiet() {
    let node = Fake::start().await;
    node.will_tell(vec![Err(refusal_at(ErrorKind::WatchCompacted, 30))]);
    let endpoint = node.address.to_string();
    let ran = run(&endpoint, &["WATCH", "--from", "7"]).await;
    assert_eq!((ran.code, ran.stdout.len()), (18, 0));
    assert!(ran.stderr.starts_with("Compacted: "), "{}", ran.stderr);
    let ran = run(&nobody().to_string(), &["WATCH"]).await;
    assert_eq!(ran.code, 3, "{}", ran.stderr);

    node.will_tell(vec![told(6, &[]), told(7, &["PUT k v"])]);
    let child = raft_client(&endpoint)
        .arg("WATCH")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    // It is there while the watch goes on.
    assert_eq!(line.unwrap().unwrap().unwrap(), "7 PUT k v");
    let pid = child.id().unwrap().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(kill.unwrap().success());
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap().unwrap();
    assert_eq!(
        (output.status.code(), &output.stderr[..]),
        (Some(0), &b""[..])
    );
}
