//! Watches of the program as it runs on a node.

use std::time::Duration;

use tonic::{Code, Status, Streaming};
use wire::state_machine::{WatchReply, WatchRequest};

use crate::node::{Client, PATIENCE, execute, handshake, own_address, start, synced};

async fn watch(
    client: &mut Client,
    query: &str,
    from_index: u64,
) -> Result<Streaming<WatchReply>, Status> {
    let request = WatchRequest {
        epoch: 1,
        from_index,
        query: query.to_owned().into(),
    };
    client.watch(request).await.map(tonic::Response::into_inner)
}

async fn next(watch: &mut Streaming<WatchReply>) -> (u64, Vec<String>) {
    let reply = tokio::time::timeout(PATIENCE, watch.message()).await;
    let reply = reply.unwrap().unwrap().unwrap();
    let text = |event: &bytes::Bytes| String::from_utf8(event.to_vec()).unwrap();
    (reply.index, reply.events.iter().map(text).collect())
}

fn told(index: u64, event: &str) -> (u64, Vec<String>) {
    (index, vec![event.to_owned()])
}

#[tokio::test]
async fn what_changes_a_key_is_told_and_what_changes_none_is_not() {
    let data = tempfile::tempdir().unwrap();
    let (_process, mut client) = start(data.path(), own_address()).await;
    handshake(&mut client, 1).await;
    let mut all = watch(&mut client, "WATCH", 0).await.unwrap();
    assert_eq!(next(&mut all).await, (0, vec![]));
    let mut of_a = watch(&mut client, "WATCH a", 4).await.unwrap();
    assert_eq!(next(&mut of_a).await, (3, vec![]));
    let commands: [&[u8]; 11] = [
        b"PUT a 1",
        b"CAS a 2 3",
        b"CAS a 1 \"a b\"",
        b"INCR ab 5",
        b"INCR a",
        b"DELETE nothing",
        b"",
        b"CAS none 1 2",
        b"DELETE a",
        b"DANCE",
        b"PUT b two  words",
    ];
    execute(&mut client, 1, 1, &commands).await.unwrap();
    for expected in [
        told(1, "PUT a 1"),
        told(3, "PUT a a b"),
        told(4, "PUT ab 5"),
        told(9, "DELETE a"),
        told(11, "PUT b two  words"),
    ] {
        assert_eq!(next(&mut all).await, expected);
    }
    assert_eq!(next(&mut of_a).await, told(4, "PUT ab 5"));
    assert_eq!(next(&mut of_a).await, told(9, "DELETE a"));
    assert_eq!(next(&mut of_a).await, (11, vec![]), "a mark of progress");
    let wrong = watch(&mut client, "WATCH a b", 0).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(
        wrong.message().contains("write WATCH, or WATCH prefix"),
        "{wrong}"
    );
}

#[tokio::test]
async fn the_history_begins_with_the_process_and_keeps_what_is_applied_again() {
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let (process, mut client) = start(data.path(), address).await;
    handshake(&mut client, 1).await;
    execute(&mut client, 1, 1, &[b"PUT k 1", b"PUT k 2"])
        .await
        .unwrap();
    synced(&mut client, 1, 2).await;
    // Not synced when the process dies: it comes once more, from the log.
    execute(&mut client, 1, 3, &[b"PUT k 3"]).await.unwrap();
    process.kill_9();
    let (_process, mut client) = start(data.path(), address).await;
    let applied = handshake(&mut client, 1).await.applied_index;
    assert_eq!(applied, 2);
    let refusal = watch(&mut client, "WATCH", 2).await.unwrap_err();
    assert_eq!(refusal.code(), Code::OutOfRange);
    assert!(
        refusal.message().contains("can be watched is 3"),
        "{refusal}"
    );
    let mut again = watch(&mut client, "WATCH", 3).await.unwrap();
    assert_eq!(next(&mut again).await, (2, vec![]));
    execute(&mut client, 1, 3, &[b"PUT k 3"]).await.unwrap();
    assert_eq!(next(&mut again).await, told(3, "PUT k 3"));
    let silence = tokio::time::timeout(Duration::from_millis(1200), again.message()).await;
    assert!(silence.is_err(), "told once: {silence:?}");
}
