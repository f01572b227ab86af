//! Watches as a daemon meets them: in order, each change once, and never in the way of a batch.

#![allow(clippy::unwrap_used)]

mod machines;
mod served;

use std::time::{Duration, Instant};

use machines::{Ledger, Plain};
use served::{
    Client, PATIENCE, Served, batch, channel, execute, handshake, query, refused, started,
};
use state_machine_sdk::{
    Entry, Event, Filter, INDEX_HEADER, Limits, MAX_WATCHES, Outcome, REASON_HEADER, StateMachine,
    Volatile,
};
use tonic::{Code, Status, Streaming};
use wire::state_machine::{RestoreChunk, WatchReply, WatchRequest};

/// Says what it is told: `say TOPIC TEXT`, `twice TOPIC TEXT`; all else is refused.
#[derive(Default)]
struct Journal {
    events: Vec<Event>,
}

impl StateMachine for Journal {
    fn name(&self) -> &str {
        "journal"
    }

    fn execute(&mut self, _: &Entry, command: &[u8]) -> Outcome {
        let text = String::from_utf8_lossy(command).into_owned();
        let words: Vec<&str> = text.splitn(3, ' ').collect();
        let times = match words[..] {
            ["say", ..] => 1,
            ["twice", ..] => 2,
            _ => return Outcome::rejected("say something"),
        };
        for time in 0..times {
            let data = format!("{}{}", words[2], "'".repeat(time));
            self.events.push(Event::new(words[1].to_owned(), data));
        }
        Outcome::ok("said")
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn query(&self, _: &[u8]) -> Outcome {
        Outcome::ok("")
    }

    fn watch(&self, query: &[u8]) -> Option<Result<Filter, String>> {
        Some(match query {
            b"" => Err("name a topic".to_owned()),
            b"panic" => panic!("a bug in the author's watch"),
            b"later" => Ok(Box::new(|_| panic!("a bug in the author's filter"))),
            topic => {
                let topic = topic.to_vec();
                Ok(Box::new(move |event| event.topic == topic))
            }
        })
    }

    fn snapshot_formats(&self) -> &'static [&'static str] {
        &["journal-1"]
    }

    fn restore(&self, _: &str, _: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }
}

async fn journal(limits: Limits) -> (Served, Client) {
    let (served, mut client) = started(Volatile::new(Journal::default()), limits).await;
    handshake(&mut client, 1).await.unwrap();
    (served, client)
}

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

async fn next(watch: &mut Streaming<WatchReply>) -> Result<(u64, Vec<String>), Status> {
    let reply = tokio::time::timeout(PATIENCE, watch.message());
    let reply = reply.await.unwrap()?.unwrap();
    let text = |event: &bytes::Bytes| String::from_utf8(event.to_vec()).unwrap();
    Ok((reply.index, reply.events.iter().map(text).collect()))
}

fn told(index: u64, events: &[&str]) -> (u64, Vec<String>) {
    (index, events.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn ended<T: std::fmt::Debug>(result: Result<T, Status>, reason: &str) -> u64 {
    let status = result.unwrap_err();
    let header = |name| status.metadata().get(name).unwrap().to_str().unwrap();
    assert_eq!(header(REASON_HEADER), reason, "{status}");
    header(INDEX_HEADER).parse().unwrap()
}

#[tokio::test]
async fn each_entry_is_told_once_in_order_and_whole() {
    let (_served, mut client) = journal(Limits::default()).await;
    let commands = ["", "say a one", "no"];
    execute(&mut client, batch(1, 1, &commands)).await.unwrap();
    // From now on: of what was before it hears nothing.
    let mut now = watch(&mut client, "a", 0).await.unwrap();
    assert_eq!(next(&mut now).await.unwrap(), told(3, &[]));
    // From the past, and from an index that is to come.
    let mut past = watch(&mut client, "a", 1).await.unwrap();
    assert_eq!(next(&mut past).await.unwrap(), told(0, &[]));
    assert_eq!(next(&mut past).await.unwrap(), told(2, &["one"]));
    let mut future = watch(&mut client, "a", 6).await.unwrap();
    assert_eq!(next(&mut future).await.unwrap(), told(5, &[]));
    let commands = ["twice a two", "say b three", "say a four"];
    execute(&mut client, batch(1, 4, &commands)).await.unwrap();
    for watch in [&mut now, &mut past] {
        assert_eq!(next(watch).await.unwrap(), told(4, &["two", "two'"]));
        assert_eq!(next(watch).await.unwrap(), told(6, &["four"]));
    }
    assert_eq!(next(&mut future).await.unwrap(), told(6, &["four"]));
}

#[tokio::test]
async fn the_first_reply_names_the_instance() {
    let (_served, mut client) = started(Volatile::new(Journal::default()), Limits::default()).await;
    let nonce = handshake(&mut client, 1).await.unwrap().nonce;
    let mut watch = watch(&mut client, "a", 0).await.unwrap();
    assert_eq!(watch.message().await.unwrap().unwrap().nonce, nonce);
}

#[tokio::test]
async fn who_asks_for_something_strange_is_refused() {
    let (_served, mut client) = journal(Limits::default()).await;
    let sentence = refused(
        watch(&mut client, "", 0).await,
        Code::InvalidArgument,
        "BAD_WATCH",
    );
    assert_eq!(sentence, "name a topic");
    refused(
        watch(&mut client, "panic", 0).await,
        Code::Internal,
        "PANICKED",
    );
    let mut later = watch(&mut client, "later", 0).await.unwrap();
    next(&mut later).await.unwrap();
    let stale = WatchRequest {
        epoch: 2,
        query: "a".into(),
        ..WatchRequest::default()
    };
    refused(client.watch(stale).await, Code::Aborted, "STALE_EPOCH");
    execute(&mut client, batch(1, 1, &["say a x"]))
        .await
        .unwrap();
    // The panic of a filter is the end of its watch, and of nothing else.
    assert_eq!(ended(next(&mut later).await, "WATCH_ENDED"), 1);
    query(&mut client, 1, 1).await.unwrap();

    let (_served, mut client) = started(Volatile::new(Plain), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    refused(
        watch(&mut client, "a", 0).await,
        Code::Unimplemented,
        "NO_WATCHES",
    );
}

#[tokio::test]
async fn what_is_no_longer_kept_is_refused_with_the_first_index_that_is() {
    let limits = Limits {
        watch_history_events: 2,
        ..Limits::default()
    };
    let (_served, mut client) = journal(limits).await;
    let commands = ["say a 1", "say a 2", "", "say a 4"];
    execute(&mut client, batch(1, 1, &commands)).await.unwrap();
    let refusal = watch(&mut client, "a", 1).await;
    let sentence = refusal.as_ref().unwrap_err().message().to_owned();
    assert!(
        sentence.contains("the first index that can be watched is 2"),
        "{sentence}"
    );
    assert_eq!(refusal.as_ref().unwrap_err().code(), Code::OutOfRange);
    assert_eq!(ended(refusal, "COMPACTED"), 2);
    let mut kept = watch(&mut client, "a", 2).await.unwrap();
    assert_eq!(next(&mut kept).await.unwrap(), told(1, &[]));
    assert_eq!(next(&mut kept).await.unwrap(), told(2, &["2"]));
    assert_eq!(next(&mut kept).await.unwrap(), told(4, &["4"]));
}

#[tokio::test]
async fn a_restore_is_a_new_beginning_for_those_who_watch_as_well() {
    let (_served, mut client) = journal(Limits::default()).await;
    execute(&mut client, batch(1, 1, &["say a 1"]))
        .await
        .unwrap();
    let mut before = watch(&mut client, "a", 1).await.unwrap();
    next(&mut before).await.unwrap();
    assert_eq!(next(&mut before).await.unwrap(), told(1, &["1"]));
    let chunk = RestoreChunk {
        epoch: 1,
        format: "journal-1".to_owned(),
        index: 10,
        term: 1,
        last: true,
        ..RestoreChunk::default()
    };
    client.restore(tokio_stream::iter([chunk])).await.unwrap();
    // What lies between is not known here: not a word of it is better than half of it.
    let end = next(&mut before).await;
    let sentence = end.as_ref().unwrap_err().message().to_owned();
    assert!(sentence.contains("replaced by a snapshot"), "{sentence}");
    assert_eq!(ended(end, "WATCH_ENDED"), 2);
    assert_eq!(ended(watch(&mut client, "a", 10).await, "COMPACTED"), 11);
    let mut after = watch(&mut client, "a", 11).await.unwrap();
    next(&mut after).await.unwrap();
    execute(&mut client, batch(1, 11, &["say a 11"]))
        .await
        .unwrap();
    assert_eq!(next(&mut after).await.unwrap(), told(11, &["11"]));
}

#[tokio::test]
async fn a_mark_tells_how_far_the_state_is_when_nothing_that_is_watched_changes() {
    let (_served, mut client) = journal(Limits::default()).await;
    let mut watch = watch(&mut client, "a", 0).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), told(0, &[]));
    let begun = Instant::now();
    execute(&mut client, batch(1, 1, &["", "say b 2"]))
        .await
        .unwrap();
    execute(&mut client, batch(1, 3, &[""])).await.unwrap();
    assert_eq!(
        next(&mut watch).await.unwrap(),
        told(3, &[]),
        "one for both"
    );
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    // Nothing moves: nothing is said.
    let silence = tokio::time::timeout(Duration::from_millis(1500), watch.message()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn a_new_epoch_ends_a_watch_and_names_the_index_to_go_on_from() {
    let (served, mut client) = journal(Limits::default()).await;
    let mut first = watch(&mut client, "a", 0).await.unwrap();
    next(&mut first).await.unwrap();
    execute(&mut client, batch(1, 1, &["", "say a 2"]))
        .await
        .unwrap();
    assert_eq!(next(&mut first).await.unwrap(), told(2, &["2"]));
    let mut other = Client::new(channel(&served.socket).await);
    handshake(&mut other, 2).await.unwrap();
    assert_eq!(ended(next(&mut first).await, "WATCH_ENDED"), 3);
    // So does the end of the process.
    let request = WatchRequest {
        epoch: 2,
        from_index: 2,
        query: "a".into(),
    };
    let mut second = other.watch(request).await.unwrap().into_inner();
    next(&mut second).await.unwrap();
    next(&mut second).await.unwrap();
    let stopped = tokio::spawn(served.stop());
    assert_eq!(ended(next(&mut second).await, "WATCH_ENDED"), 3);
    drop((second, other, client, first));
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_so_and_holds_nobody_up() {
    let limits = Limits {
        watch_wait: Duration::from_millis(300),
        ..Limits::default()
    };
    let (served, mut client) = journal(limits).await;
    // A connection of its own, as the daemon does it: what it does not read waits there.
    let mut other = Client::new(channel(&served.socket).await);
    let mut slow = watch(&mut other, "a", 0).await.unwrap();
    assert_eq!(next(&mut slow).await.unwrap(), told(0, &[]));
    let command = format!("say a {}", "x".repeat(1 << 20));
    let began = Instant::now();
    for index in 1..=24 {
        let call = execute(&mut client, batch(1, index, &[&command]));
        let reply = tokio::time::timeout(Duration::from_secs(5), call).await;
        assert_eq!(reply.unwrap().unwrap().applied_index, index);
        query(&mut client, 1, index).await.unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    tokio::time::sleep(Duration::from_millis(600)).await;
    // What was sent is read in order, and then comes the reason.
    let mut expected = 1;
    let resume = loop {
        match next(&mut slow).await {
            Ok((index, _)) => assert_eq!(index, expected),
            error => break ended(error, "SLOW_WATCHER"),
        }
        expected += 1;
    };
    assert_eq!(resume, expected);
    assert!(expected < 20, "it was cut long before the end: {expected}");
    // From there it goes on, for the history has it all.
    let mut again = watch(&mut other, "a", resume).await.unwrap();
    next(&mut again).await.unwrap();
    for index in resume..=24 {
        assert_eq!(next(&mut again).await.unwrap().0, index);
    }
}

#[tokio::test]
async fn who_is_overtaken_by_the_history_is_told_so_too() {
    let limits = Limits {
        watch_history_events: 3,
        ..Limits::default()
    };
    let (served, mut client) = journal(limits).await;
    let mut other = Client::new(channel(&served.socket).await);
    let mut slow = watch(&mut other, "a", 0).await.unwrap();
    next(&mut slow).await.unwrap();
    let command = format!("say a {}", "x".repeat(1 << 20));
    for index in 1..=24 {
        execute(&mut client, batch(1, index, &[&command]))
            .await
            .unwrap();
    }
    let mut expected = 1;
    let error = loop {
        match next(&mut slow).await {
            Ok((index, _)) => assert_eq!(index, expected),
            error => break error,
        }
        expected += 1;
    };
    let sentence = error.as_ref().unwrap_err().message().to_owned();
    assert!(
        sentence.contains("before index 22 are no longer kept"),
        "{sentence}"
    );
    assert_eq!(ended(error, "SLOW_WATCHER"), expected);
    assert_eq!(
        ended(watch(&mut other, "a", expected).await, "COMPACTED"),
        22
    );
}

#[tokio::test]
async fn what_was_rolled_back_is_never_told() {
    let (_served, mut client) = started(Ledger::default(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let mut watch = watch(&mut client, "", 0).await.unwrap();
    next(&mut watch).await.unwrap();
    let failed = execute(&mut client, batch(1, 1, &["5", "panic"])).await;
    refused(failed, Code::Internal, "PANICKED");
    execute(&mut client, batch(1, 1, &["7", "?", "2"]))
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), told(1, &["7"]));
    assert_eq!(next(&mut watch).await.unwrap(), told(3, &["9"]));
    // What comes a second time is not told a second time.
    execute(&mut client, batch(1, 2, &["?", "2", "1"]))
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), told(4, &["10"]));
}

#[tokio::test]
async fn a_durable_machine_remembers_nothing_of_before_its_start() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    execute(&mut client, batch(1, 1, &["5", "6"]))
        .await
        .unwrap();
    drop(client);
    served.stop().await.unwrap();
    let (_served, mut client) = started(ledger, Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    assert_eq!(ended(watch(&mut client, "", 2).await, "COMPACTED"), 3);
    watch(&mut client, "", 3).await.unwrap();
}

#[tokio::test]
async fn watches_have_a_limit_and_free_their_places() {
    let (_served, mut client) = journal(Limits::default()).await;
    let mut open = Vec::new();
    for _ in 0..MAX_WATCHES {
        open.push(watch(&mut client, "a", 0).await.unwrap());
    }
    refused(
        watch(&mut client, "a", 0).await,
        Code::ResourceExhausted,
        "OVERLOADED",
    );
    drop(open);
    let begun = Instant::now();
    while watch(&mut client, "a", 0).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "no place became free");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
