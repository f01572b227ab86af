//! The library against nodes that hang, break, redirect and belong elsewhere.
#![allow(clippy::unwrap_used)]

mod fake;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fake::{
    Fake, NO_HOST, OTHER_CLUSTER, Step, black_hole, nobody, not_leader, reference, refusal,
};
use raft_client::{Client, ClientError, Notice, Options, parse_endpoints};
use tonic::Status;
use wire::raft::{ErrorKind, ResultKind};

const ENTRY: Bytes = Bytes::from_static(b"PUT k v");

fn client_of(endpoints: &str, timeout_ms: u64) -> Client {
    Client::new(Options {
        endpoints: parse_endpoints(endpoints).unwrap(),
        timeout: Duration::from_millis(timeout_ms),
    })
}

fn client(nodes: &[&Fake], timeout_ms: u64) -> Client {
    let endpoints: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
    client_of(&endpoints.join(","), timeout_ms)
}

fn notices_of(client: &mut Client) -> Arc<Mutex<Vec<Notice>>> {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = notices.clone();
    client.on_notice(move |notice| kept.lock().unwrap().push(notice));
    notices
}

#[tokio::test]
async fn one_session_and_ascending_sequences() {
    let node = Fake::start().await;
    let mut client = client(&[&node], 5000);
    for _ in 0..3 {
        assert_eq!(client.put_entry(ENTRY).await.unwrap().data, "done");
    }
    assert_eq!(node.sessions(), [(41, 1), (41, 2), (41, 3)]);
    let puts = node.node.puts.lock().unwrap();
    assert!(
        puts.iter()
            .all(|put| put.acked_below == put.sequence && !put.forwarded)
    );
    assert!(
        puts.iter()
            .all(|put| put.cluster_id == fake::CLUSTER.as_slice())
    );
    assert!(puts.iter().all(|put| (1..5000).contains(&put.timeout_ms)));
}

#[tokio::test]
async fn a_retry_keeps_session_and_sequence_whatever_went_wrong() {
    let node = Fake::start().await;
    node.will(Step::Refuse(refusal(
        ErrorKind::OutcomeUnknown,
        "stepped down",
    )))
    .will(Step::Refuse(Status::unavailable("the connection broke")))
    .will(Step::Refuse(refusal(ErrorKind::NoQuorum, "no majority")))
    .will(Step::Refuse(refusal(ErrorKind::NoLeader, "no leader")))
    .will(Step::Refuse(refusal(ErrorKind::StateMachineDown, "down")));
    let mut client = client(&[&node], 5000);
    assert_eq!(
        client.put_entry(ENTRY).await.unwrap().kind(),
        ResultKind::Ok
    );
    assert_eq!(node.sessions(), [(41, 1); 6]);
    client.put_entry(ENTRY).await.unwrap();
    assert_eq!(node.sessions().last(), Some(&(41, 2)));
}

#[tokio::test]
async fn a_node_that_hangs_leaves_time_for_another() {
    let (hanging, well) = (Fake::start().await, Fake::start().await);
    hanging.will(Step::Hang);
    let mut client = client(&[&hanging, &well], 5000);
    let begun = Instant::now();
    client.put_entry(ENTRY).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(hanging.sessions(), [(41, 1)]);
    assert_eq!(
        well.sessions(),
        [(41, 1)],
        "the same session at the other node"
    );
}

#[tokio::test]
async fn registering_may_be_repeated_freely_and_leaves_no_doubt() {
    let node = Fake::start().await;
    let unknown = || Step::Refuse(refusal(ErrorKind::OutcomeUnknown, "no majority confirmed"));
    node.node.registrations.lock().unwrap().push_back(unknown());
    let mut first = client(&[&node], 5000);
    first.put_entry(ENTRY).await.unwrap();
    assert_eq!(node.sessions(), [(41, 1)]);

    node.node
        .registrations
        .lock()
        .unwrap()
        .extend((0..100).map(|_| unknown()));
    let error = client(&[&node], 1000).put_entry(ENTRY).await.unwrap_err();
    assert!(matches!(error, ClientError::NoQuorum(_)), "{error}");
    assert_eq!(node.sessions().len(), 1, "no entry left");
}

#[tokio::test]
async fn once_there_is_doubt_nothing_but_an_answer_ends_it() {
    for doubtful in [
        Step::Refuse(refusal(ErrorKind::OutcomeUnknown, "stepped down")),
        Step::Refuse(Status::internal("broken")),
        Step::Hang,
    ] {
        let node = Fake::start().await;
        node.will(doubtful);
        // "Nothing was appended" of a later attempt says nothing of the first.
        for _ in 0..100 {
            node.will(Step::Refuse(refusal(ErrorKind::NoLeader, "no leader")));
        }
        let error = client(&[&node], 2500).put_entry(ENTRY).await.unwrap_err();
        assert!(matches!(error, ClientError::OutcomeUnknown(_)), "{error}");
    }
    let node = Fake::start().await;
    node.will(Step::Refuse(refusal(
        ErrorKind::OutcomeUnknown,
        "stepped down",
    )))
    .will(Step::Refuse(refusal(ErrorKind::SessionExpired, "gone")));
    let error = client(&[&node], 1000).put_entry(ENTRY).await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown(_)), "{error}");
}

#[tokio::test]
async fn a_kind_that_promises_nothing_was_appended_is_reported_as_it_is() {
    use ErrorKind::*;
    type Check = fn(&ClientError) -> bool;
    let cases: [(ErrorKind, bool, Check); 8] = [
        (NoLeader, true, |error| {
            matches!(error, ClientError::NoLeader(_))
        }),
        (TooLarge, false, |error| {
            matches!(error, ClientError::TooLarge(_))
        }),
        (Overloaded, true, |error| {
            matches!(error, ClientError::Overloaded(_))
        }),
        (SessionExpired, false, |error| {
            matches!(error, ClientError::SessionExpired(_))
        }),
        (NoCluster, true, |error| {
            matches!(error, ClientError::NoCluster(_))
        }),
        (Founding, true, |error| {
            matches!(error, ClientError::NoCluster(_))
        }),
        (LogFull, false, |error| {
            matches!(error, ClientError::LogFull(_))
        }),
        (Invalid, false, |error| {
            matches!(error, ClientError::Invalid(_))
        }),
    ];
    for (kind, again, check) in cases {
        let node = Fake::start().await;
        for _ in 0..100 {
            node.will(Step::Refuse(refusal(kind, "the daemon's sentence.")));
        }
        let error = client(&[&node], 1000).put_entry(ENTRY).await.unwrap_err();
        assert!(check(&error), "{kind:?}: {error}");
        assert!(
            error.to_string().contains("the daemon's sentence"),
            "{error}"
        );
        assert_eq!(node.sessions().len() > 1, again, "{kind:?}");
    }
}

#[tokio::test]
async fn a_query_fails_with_what_the_nodes_say() {
    for (kind, number) in [(ErrorKind::NoQuorum, 5), (ErrorKind::StateMachineDown, 12)] {
        let node = Fake::start().await;
        for _ in 0..100 {
            node.will(Step::Refuse(refusal(kind, "so it is")));
        }
        let error = client(&[&node], 1000)
            .query(ENTRY, false)
            .await
            .unwrap_err();
        assert_eq!(error.exit_code().number(), number, "{error}");
    }
}

#[tokio::test]
async fn overload_is_waited_out_as_long_as_the_node_asks() {
    let node = Fake::start().await;
    let detail = wire::raft::ErrorDetail {
        kind: ErrorKind::Overloaded.into(),
        retry_after_ms: 300,
        ..Default::default()
    };
    node.will(Step::Refuse(wire::status::kind_status(
        "too much is waiting",
        detail,
    )));
    let begun = Instant::now();
    client(&[&node], 5000).put_entry(ENTRY).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(node.sessions(), [(41, 1), (41, 1)]);
}

#[tokio::test]
async fn the_leader_is_followed_and_announced_once() {
    let (follower, leader) = (Fake::start().await, Fake::start().await);
    for _ in 0..3 {
        follower.will(Step::Refuse(not_leader(leader.reference("leader"))));
    }
    let mut client = client(&[&follower], 5000);
    let notices = notices_of(&mut client);
    client.put_entry(ENTRY).await.unwrap();
    client.put_entry(ENTRY).await.unwrap();
    assert_eq!(follower.sessions(), [(41, 1)]);
    assert_eq!(leader.sessions(), [(41, 1), (41, 2)]);
    let redirect = Notice::Redirect {
        name: "leader".to_owned(),
        address: leader.address,
    };
    assert_eq!(*notices.lock().unwrap(), [redirect]);
}

#[tokio::test]
async fn a_leader_out_of_reach_leaves_the_endpoint_to_forward() {
    let node = Fake::start().await;
    node.will(Step::Refuse(not_leader(reference("leader", nobody()))));
    let mut client = client(&[&node], 5000);
    let notices = notices_of(&mut client);
    client.put_entry(ENTRY).await.unwrap();
    assert_eq!(node.sessions(), [(41, 1), (41, 1)]);
    assert!(notices.lock().unwrap().is_empty());
}

#[tokio::test]
async fn two_nodes_that_send_to_each_other_do_not_keep_us_busy() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    for _ in 0..10_000 {
        one.will(Step::Refuse(not_leader(two.reference("two"))));
        two.will(Step::Refuse(not_leader(one.reference("one"))));
    }
    let mut client = client(&[&one, &two], 1000);
    let notices = notices_of(&mut client);
    let error = client.put_entry(ENTRY).await.unwrap_err();
    assert!(matches!(error, ClientError::NoLeader(_)), "{error}");
    assert_eq!(notices.lock().unwrap().len(), 1, "announced once");
    let attempts = one.sessions().len() + two.sessions().len();
    assert!(attempts < 100, "{attempts} attempts in a second");
}

#[tokio::test]
async fn the_leader_named_in_a_reply_is_used_without_being_waited_for() {
    let (follower, leader) = (Fake::start().await, Fake::start().await);
    *follower.node.leader.lock().unwrap() = Some(leader.reference("leader"));
    *leader.node.leader.lock().unwrap() = Some(leader.reference("leader"));
    let mut client = client(&[&follower], 5000);
    let notices = notices_of(&mut client);
    let deadline = Instant::now() + Duration::from_secs(5);
    while leader.sessions().is_empty() {
        assert!(Instant::now() < deadline, "the leader was never used");
        client.put_entry(ENTRY).await.unwrap();
    }
    assert!(notices.lock().unwrap().is_empty(), "this is no redirect");
    drop(leader);
    // The leader is gone: the next entry goes through the endpoint again.
    *follower.node.leader.lock().unwrap() = None;
    client.put_entry(ENTRY).await.unwrap();
}

#[tokio::test]
async fn the_first_cluster_is_pinned_and_another_refused() {
    let node = Fake::start().await;
    node.will(Step::Say(ResultKind::Ok, b"v"))
        .will(Step::SayFrom(OTHER_CLUSTER));
    let mut client = client(&[&node], 5000);
    client.query(ENTRY, false).await.unwrap();
    let error = client.query(ENTRY, false).await.unwrap_err();
    assert!(matches!(error, ClientError::OtherCluster(_)), "{error}");
    let told = error.to_string();
    assert!(
        told.contains("c1c1c1c1") && told.contains("c2c2c2c2"),
        "{told}"
    );
    let asked = node.node.queries.lock().unwrap();
    assert_eq!(
        (asked[0].cluster_id.len(), &asked[1].cluster_id[..]),
        (0, &fake::CLUSTER[..])
    );
}

#[tokio::test]
async fn an_error_of_another_cluster_is_refused_too() {
    let (ours, other) = (Fake::start().await, Fake::start().await);
    ours.will(Step::Say(ResultKind::Ok, b"v"))
        .will(Step::Refuse(Status::unavailable("broken")));
    let detail = wire::raft::ErrorDetail {
        kind: ErrorKind::NoLeader.into(),
        cluster_id: Bytes::copy_from_slice(&OTHER_CLUSTER),
        ..Default::default()
    };
    other.will(Step::Refuse(wire::status::kind_status("no leader", detail)));
    let mut client = client(&[&ours, &other], 5000);
    client.query(ENTRY, false).await.unwrap();
    let error = client.query(ENTRY, false).await.unwrap_err();
    assert!(matches!(error, ClientError::OtherCluster(_)), "{error}");
}

#[tokio::test]
async fn dead_addresses_and_names_cost_little() {
    let node = Fake::start().await;
    let (hole, _kept) = black_hole().await;
    let endpoints = format!("{hole},{},{NO_HOST},{}", nobody(), node.address);
    let begun = Instant::now();
    client_of(&endpoints, 5000).put_entry(ENTRY).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn many_dead_addresses_share_the_time() {
    let mut holes = Vec::new();
    for _ in 0..8 {
        holes.push(black_hole().await);
    }
    let node = Fake::start().await;
    let mut endpoints: Vec<String> = holes.iter().map(|(hole, _)| hole.to_string()).collect();
    endpoints.push(node.address.to_string());
    client_of(&endpoints.join(","), 2000)
        .put_entry(ENTRY)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_entry_that_never_left_was_not_written() {
    let node = Fake::start().await;
    let mut client = client(&[&node], 3000);
    client.put_entry(ENTRY).await.unwrap();
    drop(node);
    // The client sees the connection end before it puts again.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let error = client.put_entry(ENTRY).await.unwrap_err();
    assert!(
        matches!(error, ClientError::NoNodeAnswered { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_there_is_told_with_every_reason_before_the_time_is_up() {
    let (one, two) = (nobody(), nobody());
    let begun = Instant::now();
    let error = client_of(&format!("{one},{two}"), 5000)
        .put_entry(ENTRY)
        .await
        .unwrap_err();
    let expected = format!(
        "No node answered at {one} (refused), {two} (refused). Start one: scripts/cluster up 3"
    );
    assert_eq!(error.to_string(), expected);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_daemon_that_is_just_starting_is_waited_for() {
    let address = nobody();
    let call =
        tokio::spawn(async move { client_of(&address.to_string(), 5000).put_entry(ENTRY).await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    let _node = Fake::start_at(address).await;
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_transfer_to_anyone_is_not_repeated_and_one_by_name_is() {
    let node = Fake::start().await;
    node.will(Step::Refuse(Status::internal("broken")));
    let error = client(&[&node], 2000)
        .transfer_leadership(None)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown(_)), "{error}");
    assert_eq!(node.node.transfers.lock().unwrap().len(), 1);
    node.will(Step::Refuse(Status::internal("broken")));
    let to = Some(Bytes::from_static(&[7; 16]));
    client(&[&node], 2000)
        .transfer_leadership(to)
        .await
        .unwrap();
    assert_eq!(node.node.transfers.lock().unwrap().len(), 3);
}
