//! The service as a daemon meets it: over gRPC, with calls that hang, hang up, and lie.

#![allow(clippy::unwrap_used)]
// The gate is held while calls are under way: that is what makes them hang.
#![allow(clippy::await_holding_lock)]

mod machines;
mod served;

use std::path::Path;
use std::time::{Duration, Instant};

use machines::{Counter, FORMAT, Ledger, OLD_FORMAT, Plain};
use served::{
    Client, PATIENCE, ask, batch, channel, data, entry, execute, handshake, hello, query, refused,
    started,
};
use state_machine_sdk::{Limits, Listen, QUERY_WAIT, ServeError, Volatile, serve};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wire::state_machine::{
    Entry, ExecuteRequest, HandshakeRequest, OutcomeKind, RestoreChunk, SnapshotRequest,
};

#[tokio::test]
async fn handshake_execute_query() {
    let (served, mut client) = started(Volatile::new(Counter::default()), Limits::default()).await;
    let hello = handshake(&mut client, 3).await.unwrap();
    assert_eq!(
        (hello.protocol, hello.applied_index, hello.applied_term),
        (1, 0, 0)
    );
    assert_eq!(
        (hello.name.as_str(), hello.version.as_str(), hello.durable),
        ("counter", "7", false)
    );
    assert_eq!(hello.cluster_id, wire::id_bytes(0xc1));
    assert_eq!(hello.snapshot_formats, [FORMAT, OLD_FORMAT]);
    assert!(hello.max_batch_bytes > 0 && hello.max_batch_entries > 0);

    let reply = execute(&mut client, batch(3, 1, &["", "5", "?"]))
        .await
        .unwrap();
    assert_eq!(
        (reply.epoch, reply.nonce, reply.applied_index),
        (3, hello.nonce, 3)
    );
    assert_eq!(
        reply.durable_index, 0,
        "a crash of a machine in memory leaves nothing"
    );
    assert_eq!(data(&reply), ["", "5", "send a whole number"]);
    let kinds = reply
        .outcomes
        .iter()
        .map(|outcome| (outcome.index, outcome.kind()));
    let expected = [
        (1, OutcomeKind::Ok),
        (2, OutcomeKind::Ok),
        (3, OutcomeKind::Rejected),
    ];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);

    let answer = query(&mut client, 3, 3).await.unwrap();
    assert_eq!(
        (answer.epoch, answer.nonce, answer.applied_index),
        (3, hello.nonce, 3)
    );
    assert_eq!(
        (answer.kind(), &answer.data[..]),
        (OutcomeKind::Ok, &b"5"[..])
    );
    let nothing = ask(&mut client, 3, 0, "nothing").await.unwrap();
    assert_eq!(nothing.kind(), OutcomeKind::NotFound);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_machine_in_memory_starts_at_0_with_each_process() {
    let (served, mut client) = started(Volatile::new(Counter::default()), Limits::default()).await;
    let first = handshake(&mut client, 7).await.unwrap();
    execute(&mut client, batch(7, 1, &["5"])).await.unwrap();
    served.stop().await.unwrap();

    let (served, mut client) = started(Volatile::new(Counter::default()), Limits::default()).await;
    // The epoch too: a daemon that started anew as well is not locked out.
    let second = handshake(&mut client, 1).await.unwrap();
    assert_eq!(second.applied_index, 0);
    assert_ne!(first.nonce, second.nonce);
    let replay = execute(&mut client, batch(1, 1, &["5", "1"]))
        .await
        .unwrap();
    assert_eq!(data(&replay), ["5", "6"]);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn malformed_calls_are_errors_and_harm_nobody() {
    let limits = Limits {
        max_batch_bytes: 100,
        max_batch_entries: 3,
        ..Limits::default()
    };
    let (served, mut client) = started(Ledger::default(), limits).await;

    for id in [&[][..], &[1; 15], &[1; 17], &[0; 16]] {
        let cluster_id = bytes::Bytes::copy_from_slice(id);
        let call = HandshakeRequest {
            cluster_id: cluster_id.clone(),
            ..hello(1)
        };
        let sentence = refused(
            client.handshake(call).await,
            Code::InvalidArgument,
            "MALFORMED",
        );
        assert!(sentence.contains("cluster_id"), "{sentence}");
        let call = HandshakeRequest {
            node_id: cluster_id,
            ..hello(1)
        };
        let sentence = refused(
            client.handshake(call).await,
            Code::InvalidArgument,
            "MALFORMED",
        );
        assert!(sentence.contains("node_id"), "{sentence}");
    }
    refused(
        client.handshake(hello(0)).await,
        Code::Aborted,
        "EPOCH_NOT_LARGER",
    );
    let call = HandshakeRequest {
        protocol_min: 2,
        protocol_max: 9,
        ..hello(1)
    };
    refused(
        client.handshake(call).await,
        Code::FailedPrecondition,
        "PROTOCOL",
    );
    handshake(&mut client, 1).await.unwrap();

    let bad: [&[Entry]; 7] = [
        &[entry(0, 1, "1")],
        &[entry(1, 0, "1")],
        &[entry(1, 1, "1"), entry(3, 1, "1")],
        &[entry(2, 1, "1"), entry(1, 1, "1")],
        &[entry(1, 2, "1"), entry(2, 1, "1")],
        &[entry(u64::MAX, 1, "1"), entry(0, 1, "1")],
        &[Entry {
            payload: None,
            ..entry(1, 1, "")
        }],
    ];
    for entries in bad {
        let call = ExecuteRequest {
            epoch: 1,
            results_floor: 0,
            entries: entries.to_vec(),
        };
        refused(
            client.execute(call).await,
            Code::InvalidArgument,
            "MALFORMED",
        );
    }
    let many = batch(1, 1, &["1"; 4]);
    refused(
        client.execute(many).await,
        Code::ResourceExhausted,
        "TOO_LARGE",
    );
    let large = batch(1, 1, &["1", &"2".repeat(100)]);
    refused(
        client.execute(large).await,
        Code::ResourceExhausted,
        "TOO_LARGE",
    );
    // Beyond what is even read.
    let huge = batch(1, 1, &[&"2".repeat(2 << 20)]);
    assert!(client.execute(huge).await.is_err());
    let far = batch(1, u64::MAX - 1, &["1"]);
    refused(
        client.execute(far).await,
        Code::FailedPrecondition,
        "OUT_OF_ORDER",
    );

    let reply = execute(&mut client, batch(1, 1, &["1"])).await.unwrap();
    assert_eq!(data(&reply), ["1"]);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_machine_without_snapshots_says_so() {
    let (served, mut client) = started(Volatile::new(Plain), Limits::default()).await;
    let hello = handshake(&mut client, 1).await.unwrap();
    assert!(hello.snapshot_formats.is_empty());
    let restore = tokio_stream::once(RestoreChunk::default());
    refused(
        client.restore(restore).await,
        Code::Unimplemented,
        "NO_SNAPSHOTS",
    );
    let snapshot = client
        .snapshot(SnapshotRequest::default())
        .await
        .map(|_| ());
    refused(snapshot, Code::Unimplemented, "NO_SNAPSHOTS");
    execute(&mut client, batch(1, 1, &["1"])).await.unwrap();
    served.stop().await.unwrap();
}

#[tokio::test]
async fn another_cluster_is_refused_with_both_ids() {
    let (served, mut client) = started(Ledger::default(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let call = HandshakeRequest {
        cluster_id: wire::id_bytes(0xc2),
        ..hello(2)
    };
    let sentence = refused(
        client.handshake(call).await,
        Code::FailedPrecondition,
        "OTHER_CLUSTER",
    );
    for id in [0xc1, 0xc2] {
        assert!(sentence.contains(&format!("{id:032x}")), "{sentence}");
    }
    let call = HandshakeRequest {
        node_id: wire::id_bytes(0xa2),
        ..hello(2)
    };
    refused(
        client.handshake(call).await,
        Code::FailedPrecondition,
        "OTHER_NODE",
    );
    execute(&mut client, batch(1, 1, &["1"])).await.unwrap();
    served.stop().await.unwrap();
}

/// Execute(1) hangs in the author's code, its daemon gives up and shakes hands anew: the second
/// epoch begins only when the first has stopped changing the state, and knows what it did.
#[tokio::test]
async fn a_batch_that_was_given_up_is_run_once_and_before_the_next_epoch() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();

    let gate = ledger.gate.lock().unwrap();
    let mut other = Client::new(channel(&served.socket).await);
    let mut hanging = tokio::spawn(async move { execute(&mut other, batch(1, 1, &["5"])).await });
    // Only a call that is under way is interesting; the gate holds it, so this must run out.
    tokio::time::timeout(Duration::from_millis(200), &mut hanging)
        .await
        .unwrap_err();
    hanging.abort();

    let mut new = Client::new(channel(&served.socket).await);
    let mut shaking = tokio::spawn(async move { (handshake(&mut new, 2).await, new) });
    tokio::time::timeout(Duration::from_millis(200), &mut shaking)
        .await
        .unwrap_err();
    drop(gate);
    let (hello, mut new) = shaking.await.unwrap();
    assert_eq!(
        hello.unwrap().applied_index,
        1,
        "the batch that hung is applied"
    );

    refused(
        execute(&mut client, batch(1, 2, &["5"])).await,
        Code::Aborted,
        "STALE_EPOCH",
    );
    refused(query(&mut client, 1, 0).await, Code::Aborted, "STALE_EPOCH");
    let replay = execute(&mut new, batch(2, 1, &["5", "1"])).await.unwrap();
    assert_eq!(data(&replay), ["5", "6"]);
    assert_eq!(ledger.state().counter, Counter(6));
    served.stop().await.unwrap();
}

/// An Execute of the old epoch that waits in the queue behind a handshake must not run after it.
#[tokio::test]
async fn a_waiting_batch_of_an_ended_epoch_is_refused_when_its_turn_comes() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let gate = ledger.gate.lock().unwrap();
    let call = |batch: ExecuteRequest| {
        let mut client = client.clone();
        tokio::spawn(async move { execute(&mut client, batch).await })
    };
    let mut first = call(batch(1, 1, &["1"]));
    tokio::time::timeout(Duration::from_millis(100), &mut first)
        .await
        .unwrap_err();
    let mut shaker = client.clone();
    let mut shaking = tokio::spawn(async move { handshake(&mut shaker, 2).await });
    tokio::time::timeout(Duration::from_millis(100), &mut shaking)
        .await
        .unwrap_err();
    let mut late = call(batch(1, 2, &["1"]));
    tokio::time::timeout(Duration::from_millis(100), &mut late)
        .await
        .unwrap_err();
    drop(gate);
    assert_eq!(first.await.unwrap().unwrap().applied_index, 1);
    assert_eq!(shaking.await.unwrap().unwrap().applied_index, 1);
    refused(late.await.unwrap(), Code::Aborted, "STALE_EPOCH");
    assert_eq!(ledger.state().counter, Counter(1));
    served.stop().await.unwrap();
}

#[tokio::test]
async fn queries_run_beside_a_batch_and_wait_for_their_index() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    refused(query(&mut client, 0, 0).await, Code::Aborted, "STALE_EPOCH");
    handshake(&mut client, 1).await.unwrap();
    execute(&mut client, batch(1, 1, &["1"])).await.unwrap();

    let gate = ledger.gate.lock().unwrap();
    let mut other = client.clone();
    let executing = tokio::spawn(async move { execute(&mut other, batch(1, 2, &["1"])).await });
    let mut other = client.clone();
    let mut waiting = tokio::spawn(async move { query(&mut other, 1, 2).await });
    tokio::time::timeout(Duration::from_millis(100), &mut waiting)
        .await
        .unwrap_err();
    // The one that asks for less is answered from the state before, while the batch hangs.
    let answer = query(&mut client, 1, 1).await.unwrap();
    assert_eq!((answer.applied_index, &answer.data[..]), (1, &b"1"[..]));
    drop(gate);
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!((answer.applied_index, &answer.data[..]), (2, &b"2"[..]));
    executing.await.unwrap().unwrap();

    let sentence = refused(query(&mut client, 1, 3).await, Code::Unavailable, "BEHIND");
    assert!(
        sentence.contains("entry 3 is not applied yet"),
        "{sentence}"
    );
    // One that waits when its epoch ends hears so at once.
    let mut other = client.clone();
    let mut waiting = tokio::spawn(async move { query(&mut other, 1, 3).await });
    tokio::time::timeout(Duration::from_millis(100), &mut waiting)
        .await
        .unwrap_err();
    handshake(&mut client, 2).await.unwrap();
    let answer = tokio::time::timeout(QUERY_WAIT / 2, waiting).await.unwrap();
    refused(answer.unwrap(), Code::Aborted, "STALE_EPOCH");
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_panic_of_a_durable_machine_is_reported_and_rolled_back() {
    let (served, mut client) = started(Ledger::default(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let result = execute(&mut client, batch(1, 1, &["1", "panic"])).await;
    let sentence = refused(result, Code::Internal, "PANICKED");
    assert!(
        sentence.contains("entry 2: a bug in the author's code"),
        "{sentence}"
    );
    refused(
        ask(&mut client, 1, 0, "panic").await,
        Code::Internal,
        "PANICKED",
    );
    assert_eq!(&query(&mut client, 1, 0).await.unwrap().data[..], b"0");
    let reply = execute(&mut client, batch(1, 1, &["1", ""])).await.unwrap();
    assert_eq!(data(&reply), ["1", ""]);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_panic_of_a_machine_in_memory_ends_it() {
    let (served, mut client) = started(Volatile::new(Counter::default()), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let result = execute(&mut client, batch(1, 1, &["panic"])).await;
    let sentence = refused(result, Code::Unavailable, "STOPPING");
    assert!(sentence.contains("panicked at entry 1"), "{sentence}");
    let ended = tokio::time::timeout(PATIENCE, served.ended)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(ended, Err(ServeError::Storage(_))), "{ended:?}");
}

#[tokio::test]
async fn a_failed_commit_is_not_acknowledged_and_ends_the_machine() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    ledger.fail_next_commit();
    let result = execute(&mut client, batch(1, 1, &["1"])).await;
    let sentence = refused(result, Code::Unavailable, "STOPPING");
    assert!(sentence.contains("no space left"), "{sentence}");
    let ended = tokio::time::timeout(PATIENCE, served.ended)
        .await
        .unwrap()
        .unwrap();
    assert!(ended.unwrap_err().to_string().contains("no space left"));
    assert_eq!(ledger.state().counter, Counter(0));
}

#[tokio::test]
async fn lazy_commits_are_synced_a_moment_later_and_at_the_end() {
    let ledger = Ledger::default();
    let limits = Limits {
        sync_after: Duration::from_millis(50),
        ..Limits::default()
    };
    let (served, mut client) = started(ledger.clone(), limits).await;
    handshake(&mut client, 1).await.unwrap();
    let binding = ledger.syncs();
    let reply = execute(&mut client, batch(1, 1, &["1"])).await.unwrap();
    assert_eq!(reply.durable_index, 0);
    let deadline = Instant::now() + PATIENCE;
    while ledger.syncs() == binding {
        assert!(Instant::now() < deadline, "never synced");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // An empty batch asks how far it is.
    let reply = execute(&mut client, batch(1, 2, &[])).await.unwrap();
    assert_eq!(reply.durable_index, 1);
    served.stop().await.unwrap();

    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    assert_eq!(handshake(&mut client, 1).await.unwrap().applied_index, 1);
    execute(&mut client, batch(1, 2, &["1"])).await.unwrap();
    served.stop().await.unwrap();
    ledger.crash();
    assert_eq!(
        ledger.state().counter,
        Counter(2),
        "stopping in order syncs"
    );
}

#[tokio::test]
async fn a_command_that_hangs_does_not_keep_the_server_from_ending() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let gate = ledger.gate.lock().unwrap();
    let mut hanging = tokio::spawn(async move { execute(&mut client, batch(1, 1, &["5"])).await });
    tokio::time::timeout(Duration::from_millis(100), &mut hanging)
        .await
        .unwrap_err();
    assert!(matches!(served.stop().await, Err(ServeError::StillBusy)));
    // The process would end here, and its connections with it.
    hanging.abort();
    drop(gate);
}

#[tokio::test]
async fn health_is_the_standard_one() {
    let (served, _client) = started(Ledger::default(), Limits::default()).await;
    let mut health = HealthClient::new(channel(&served.socket).await);
    for service in ["", "leeky.state_machine.v1.StateMachine"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = health.check(request).await.unwrap().into_inner().status;
        assert_eq!(status, 1, "{service:?} is not serving");
    }
    // A watch never ends by itself, and must not keep the process from ending.
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let _watch = health.watch(request).await.unwrap();
    served.stop().await.unwrap();
}

#[tokio::test]
async fn bytes_that_mean_nothing_close_their_connection_and_no_other() {
    let (served, mut client) = started(Ledger::default(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let junk: Vec<u8> = (0..5000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for prefix in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(&served.socket).await.unwrap();
        stream.write_all(prefix).await.unwrap();
        // The other side may hang up in the middle of it.
        let _ = stream.write_all(&junk).await;
    }
    execute(&mut client, batch(1, 1, &["1"])).await.unwrap();
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listen = Listen::Unix(socket.clone());
    let serve_until_now = || {
        serve(
            Ledger::default(),
            listen.clone(),
            Limits::default(),
            async {},
        )
    };

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    serve_until_now().await.unwrap();
    assert!(!socket.exists(), "the socket is removed at the end");

    let _in_use = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(
        serve_until_now().await,
        Err(ServeError::Listen { .. })
    ));
    std::fs::remove_file(&socket).unwrap();

    std::fs::write(&socket, "precious").unwrap();
    let error = serve_until_now().await.unwrap_err();
    assert!(error.to_string().contains("no socket"), "{error}");
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
}

#[test]
fn an_address_that_means_all_becomes_the_loopback_one() {
    let at = |ip: &str| Listen::at(ip.parse().unwrap(), 6005, None).to_string();
    assert_eq!(at("0.0.0.0"), "127.0.0.1:6005");
    assert_eq!(at("::"), "[::1]:6005");
    assert_eq!(at("127.62.1.1"), "127.62.1.1:6005");
    let socket = Listen::at("0.0.0.0".parse().unwrap(), 1, Some(Path::new("/run/sm")));
    assert_eq!(socket, Listen::Unix("/run/sm".into()));
}
