//! Snapshots as a daemon meets them: over gRPC, with readers that are slow and senders that vanish.

#![allow(clippy::unwrap_used)]
// The gate is held while calls are under way: that is what makes them hang.
#![allow(clippy::await_holding_lock)]

mod machines;
mod served;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use machines::{Counter, FORMAT, LEDGER_FORMAT, Ledger, OLD_FORMAT};
use served::{
    Client, PATIENCE, batch, channel, data, execute, handshake, hello, query, refused, started,
};
use state_machine_sdk::{
    Durability, DurableStateMachine, Limits, SNAPSHOT_CHUNK_BYTES, ServeError, SnapshotWork,
    StorageError, TransactionWork, Volatile,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use wire::state_machine::{
    HandshakeRequest, RestoreChunk, RestoreReply, SnapshotChunk, SnapshotRequest,
};

/// More than the service, the sockets and the client take in before somebody has to wait.
const LARGE: usize = 64 << 20;

/// Shorter than any wait that is not meant to run out.
const PROMPT: Duration = Duration::from_secs(5);

fn impatient() -> Limits {
    Limits {
        chunk_wait: Duration::from_millis(300),
        ..Limits::default()
    }
}

async fn snapshot(
    client: &mut Client,
    epoch: u64,
    format: &str,
) -> Result<Streaming<SnapshotChunk>, Status> {
    let format = format.to_owned();
    let call = client.snapshot(SnapshotRequest { epoch, format });
    timeout(PROMPT, call)
        .await
        .unwrap()
        .map(tonic::Response::into_inner)
}

async fn next(stream: &mut Streaming<SnapshotChunk>) -> Result<Option<SnapshotChunk>, Status> {
    timeout(PROMPT, stream.message()).await.unwrap()
}

async fn rest(stream: &mut Streaming<SnapshotChunk>) -> Result<Vec<SnapshotChunk>, Status> {
    let mut chunks = Vec::new();
    while let Some(chunk) = next(stream).await? {
        chunks.push(chunk);
    }
    Ok(chunks)
}

async fn whole(client: &mut Client, epoch: u64, format: &str) -> Vec<SnapshotChunk> {
    let mut stream = snapshot(client, epoch, format).await.unwrap();
    rest(&mut stream).await.unwrap()
}

fn content(chunks: &[SnapshotChunk]) -> Vec<u8> {
    chunks
        .iter()
        .flat_map(|chunk| chunk.data.to_vec())
        .collect()
}

/// A chunk as a daemon sends it: only the first one says what the snapshot is.
fn chunk(number: u64, data: &[u8], last: bool) -> RestoreChunk {
    RestoreChunk {
        chunk: number,
        data: Bytes::copy_from_slice(data),
        crc32c: crc32c::crc32c(data),
        last,
        ..RestoreChunk::default()
    }
}

fn first(epoch: u64, format: &str, index: u64, data: &[u8]) -> RestoreChunk {
    RestoreChunk {
        epoch,
        format: format.to_owned(),
        index,
        term: 4,
        ..chunk(0, data, false)
    }
}

async fn restore(client: &mut Client, chunks: Vec<RestoreChunk>) -> Result<RestoreReply, Status> {
    let call = client.restore(tokio_stream::iter(chunks));
    timeout(PATIENCE, call)
        .await
        .unwrap()
        .map(tonic::Response::into_inner)
}

type Restoring = (
    mpsc::Sender<RestoreChunk>,
    JoinHandle<Result<RestoreReply, Status>>,
);

/// A restore of index 9 that has begun in epoch 1, and whose next chunks are still to be sent.
async fn restoring(client: &Client) -> Restoring {
    let (sender, receiver) = mpsc::channel(1);
    let mut client = client.clone();
    let call = tokio::spawn(async move {
        let call = client.restore(ReceiverStream::new(receiver));
        call.await.map(tonic::Response::into_inner)
    });
    sender
        .send(first(1, LEDGER_FORMAT, 9, b"8\n"))
        .await
        .unwrap();
    sender.send(chunk(1, b"...", false)).await.unwrap();
    (sender, call)
}

/// Waits until a restore has taken the lock: then a call of the same epoch hangs.
async fn lock_taken(client: &Client) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = client.clone();
        let ask = execute(&mut client, batch(1, 1, &[]));
        if timeout(Duration::from_millis(100), ask).await.is_err() {
            return;
        }
        assert!(Instant::now() < deadline, "the restore does not begin");
    }
}

#[tokio::test]
async fn what_one_machine_writes_another_one_reads_and_goes_on_with() {
    let (source, mut from) = started(Volatile::new(Counter::default()), Limits::default()).await;
    let formats = handshake(&mut from, 1).await.unwrap().snapshot_formats;
    assert_eq!(formats, [FORMAT, OLD_FORMAT]);
    let commands = ["5", "", "2"];
    execute(&mut from, batch(1, 1, &commands)).await.unwrap();
    let chunks = whole(&mut from, 1, FORMAT).await;
    for (number, chunk) in (0..).zip(&chunks) {
        assert_eq!((chunk.index, chunk.term, chunk.chunk), (3, 1, number));
        assert_eq!(chunk.crc32c, crc32c::crc32c(&chunk.data));
    }
    assert!(chunks.last().unwrap().last);
    assert_eq!(content(&chunks), b"counter 7");

    let (target, mut to) = started(Volatile::new(Counter::default()), Limits::default()).await;
    let nonce = handshake(&mut to, 1).await.unwrap().nonce;
    // Every chunk may say all of it, too.
    let sent = chunks.iter().map(|chunk| RestoreChunk {
        epoch: 1,
        format: FORMAT.to_owned(),
        index: chunk.index,
        term: chunk.term,
        chunk: chunk.chunk,
        data: chunk.data.clone(),
        crc32c: chunk.crc32c,
        last: chunk.last,
    });
    let reply = restore(&mut to, sent.collect()).await.unwrap();
    assert_eq!(reply.applied_index, 3);
    let answer = query(&mut to, 1, 3).await.unwrap();
    assert_eq!((answer.applied_index, &answer.data[..]), (3, &b"7"[..]));
    assert_eq!(whole(&mut to, 1, FORMAT).await, chunks);
    let hello = handshake(&mut to, 2).await.unwrap();
    assert_eq!(
        (hello.applied_index, hello.applied_term, hello.results_floor),
        (3, 1, 3)
    );
    assert_eq!(hello.nonce, nonce);
    let reply = execute(&mut to, batch(2, 4, &["1"])).await.unwrap();
    assert_eq!(data(&reply), ["8"]);
    source.stop().await.unwrap();
    target.stop().await.unwrap();
}

#[tokio::test]
async fn commands_and_queries_go_on_beside_a_snapshot_which_stays_as_of_its_index() {
    let ledger = Ledger::default();
    ledger.padding.store(LARGE, Ordering::Relaxed);
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    execute(&mut client, batch(1, 1, &["5"])).await.unwrap();
    // However long the state takes to be read: the first chunk is there.
    let gate = ledger.export_gate.lock().unwrap();
    let mut stream = snapshot(&mut client, 1, LEDGER_FORMAT).await.unwrap();
    let first = next(&mut stream).await.unwrap().unwrap();
    assert_eq!((first.index, first.term, first.chunk), (1, 1, 0));
    let commands = timeout(PROMPT, execute(&mut client, batch(1, 2, &["7"])));
    assert_eq!(data(&commands.await.unwrap().unwrap()), ["12"]);
    drop(gate);
    // Nobody reads on, so the writer waits, and still nobody waits for the writer.
    let commands = timeout(PROMPT, execute(&mut client, batch(1, 3, &["1"])));
    assert_eq!(data(&commands.await.unwrap().unwrap()), ["13"]);
    let answer = timeout(PROMPT, query(&mut client, 1, 3)).await.unwrap();
    assert_eq!(&answer.unwrap().data[..], b"13");
    assert!(
        !ledger.exported.load(Ordering::Relaxed),
        "it was all gathered"
    );
    let chunks = rest(&mut stream).await.unwrap();
    let content = content(&chunks);
    assert_eq!(content.len(), 2 + LARGE);
    assert!(content.starts_with(b"5\n"));
    assert!(chunks.iter().all(|chunk| chunk.index == 1));
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.data.len() <= SNAPSHOT_CHUNK_BYTES)
    );
    let last = chunks.iter().map(|chunk| chunk.last);
    assert_eq!(last.filter(|last| *last).count(), 1);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn one_snapshot_is_sent_at_a_time_and_one_that_is_given_up_makes_room() {
    let ledger = Ledger::default();
    ledger.padding.store(LARGE, Ordering::Relaxed);
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let mut running = snapshot(&mut client, 1, LEDGER_FORMAT).await.unwrap();
    next(&mut running).await.unwrap().unwrap();
    for _ in 0..2 {
        let second = snapshot(&mut client, 1, LEDGER_FORMAT).await;
        refused(second.map(|_| ()), Code::Unavailable, "SNAPSHOT_UNDER_WAY");
    }
    // The first one is none the worse for it.
    next(&mut running).await.unwrap().unwrap();
    drop(running);
    let mut again = snapshot(&mut client, 1, LEDGER_FORMAT).await.unwrap();
    let chunks = rest(&mut again).await.unwrap();
    assert_eq!(content(&chunks).len(), 2 + LARGE);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_given_up() {
    let ledger = Ledger::default();
    ledger.padding.store(LARGE, Ordering::Relaxed);
    let (served, mut client) = started(ledger.clone(), impatient()).await;
    handshake(&mut client, 1).await.unwrap();
    let mut slow = snapshot(&mut client, 1, LEDGER_FORMAT).await.unwrap();
    next(&mut slow).await.unwrap().unwrap();
    // Only a place that is free again lets the next one in.
    let mut other = Client::new(channel(&served.socket).await);
    let fast = whole(&mut other, 1, LEDGER_FORMAT).await;
    assert_eq!(content(&fast).len(), 2 + LARGE);
    let sentence = refused(rest(&mut slow).await, Code::DeadlineExceeded, "SLOW");
    assert!(sentence.contains("for 0.3 s"), "{sentence}");
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_epoch_ends_a_snapshot_and_may_have_its_own_at_once() {
    let ledger = Ledger::default();
    ledger.padding.store(LARGE, Ordering::Relaxed);
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let mut old = snapshot(&mut client, 1, LEDGER_FORMAT).await.unwrap();
    next(&mut old).await.unwrap().unwrap();
    let mut other = Client::new(channel(&served.socket).await);
    handshake(&mut other, 2).await.unwrap();
    let new = whole(&mut other, 2, LEDGER_FORMAT).await;
    assert_eq!(content(&new).len(), 2 + LARGE);
    refused(rest(&mut old).await, Code::Aborted, "STALE_EPOCH");
    served.stop().await.unwrap();
}

#[tokio::test]
async fn calls_that_make_no_sense_are_refused_and_harm_nobody() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), impatient()).await;
    let early = snapshot(&mut client, 0, LEDGER_FORMAT).await.map(|_| ());
    refused(early, Code::Aborted, "STALE_EPOCH");
    handshake(&mut client, 2).await.unwrap();
    execute(&mut client, batch(2, 1, &["5", "2"]))
        .await
        .unwrap();
    let state = ledger.state();
    for epoch in [0, 1, 3] {
        let stale = snapshot(&mut client, epoch, LEDGER_FORMAT)
            .await
            .map(|_| ());
        refused(stale, Code::Aborted, "STALE_EPOCH");
        let stale = vec![first(epoch, LEDGER_FORMAT, 9, b"8\n"), chunk(1, b"", true)];
        refused(
            restore(&mut client, stale).await,
            Code::Aborted,
            "STALE_EPOCH",
        );
    }
    for format in ["", FORMAT] {
        let foreign = snapshot(&mut client, 2, format).await.map(|_| ());
        refused(foreign, Code::FailedPrecondition, "FORMAT");
        let foreign = vec![first(2, format, 9, b"8\n"), chunk(1, b"", true)];
        let sentence = refused(
            restore(&mut client, foreign).await,
            Code::FailedPrecondition,
            "FORMAT",
        );
        assert!(sentence.contains(LEDGER_FORMAT), "{sentence}");
    }
    let begin = || first(2, LEDGER_FORMAT, 9, b"8\n");
    let large = vec![b'.'; SNAPSHOT_CHUNK_BYTES + 1];
    let cases = [
        (vec![], Code::DataLoss, "BAD_SNAPSHOT"),
        (vec![begin()], Code::DataLoss, "BAD_SNAPSHOT"),
        (vec![begin(), begin()], Code::DataLoss, "BAD_SNAPSHOT"),
        (
            vec![begin(), chunk(1, &large, true)],
            Code::ResourceExhausted,
            "TOO_LARGE",
        ),
        (
            vec![RestoreChunk {
                index: 0,
                ..begin()
            }],
            Code::InvalidArgument,
            "MALFORMED",
        ),
        (
            vec![RestoreChunk { term: 0, ..begin() }],
            Code::InvalidArgument,
            "MALFORMED",
        ),
        (
            vec![RestoreChunk {
                index: 1,
                ..begin()
            }],
            Code::FailedPrecondition,
            "AHEAD",
        ),
        (
            vec![RestoreChunk {
                index: 2,
                ..begin()
            }],
            Code::FailedPrecondition,
            "OTHER_HISTORY",
        ),
        (
            vec![
                begin(),
                RestoreChunk {
                    epoch: 1,
                    ..chunk(1, b"", true)
                },
            ],
            Code::Aborted,
            "STALE_EPOCH",
        ),
        (
            vec![
                begin(),
                RestoreChunk {
                    index: 8,
                    ..chunk(1, b"", true)
                },
            ],
            Code::DataLoss,
            "BAD_SNAPSHOT",
        ),
        (
            vec![
                begin(),
                RestoreChunk {
                    format: FORMAT.to_owned(),
                    ..chunk(1, b"", true)
                },
            ],
            Code::DataLoss,
            "BAD_SNAPSHOT",
        ),
    ];
    for (chunks, code, reason) in cases {
        refused(restore(&mut client, chunks).await, code, reason);
        assert_eq!(ledger.state(), state);
    }
    // A sender that says nothing holds the lock for a while, and one that says not even whose
    // snapshot it is holds nothing.
    for silent in [vec![], vec![begin()]] {
        let (sender, receiver) = mpsc::channel(2);
        for chunk in silent {
            sender.send(chunk).await.unwrap();
        }
        let call = timeout(PROMPT, client.restore(ReceiverStream::new(receiver)));
        refused(call.await.unwrap(), Code::DeadlineExceeded, "SLOW");
        drop(sender);
    }
    let reply = execute(&mut client, batch(2, 1, &["5", "2", "1"]))
        .await
        .unwrap();
    assert_eq!(data(&reply), ["5", "7", "8"]);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn the_index_that_is_there_already_is_a_success_that_changes_nothing() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    execute(&mut client, batch(1, 1, &["5"])).await.unwrap();
    let state = ledger.state();
    let mut same = vec![RestoreChunk {
        term: 1,
        ..first(1, LEDGER_FORMAT, 1, b"8\n")
    }];
    // More than the sockets take in: the answer comes before the end of what is sent.
    let piece = vec![b'.'; SNAPSHOT_CHUNK_BYTES];
    let many = (LARGE / SNAPSHOT_CHUNK_BYTES) as u64;
    same.extend((1..=many).map(|number| chunk(number, &piece, number == many)));
    let reply = restore(&mut client, same).await.unwrap();
    assert_eq!(reply.applied_index, 1);
    assert_eq!(ledger.state(), state);
    let reply = execute(&mut client, batch(1, 1, &["5", "1"]))
        .await
        .unwrap();
    assert_eq!(data(&reply), ["5", "6"], "the outcomes are kept");
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_restore_larger_than_any_window_is_taken_whole() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let mut chunks = vec![first(1, LEDGER_FORMAT, 9, b"8\n")];
    let piece = vec![b'.'; SNAPSHOT_CHUNK_BYTES];
    let many = (LARGE / SNAPSHOT_CHUNK_BYTES) as u64;
    chunks.extend((1..=many).map(|number| chunk(number, &piece, number == many)));
    assert_eq!(restore(&mut client, chunks).await.unwrap().applied_index, 9);
    assert_eq!(ledger.state().counter, Counter(8));
    served.stop().await.unwrap();
    ledger.crash();
    assert_eq!(ledger.state().counter, Counter(8), "it is on disk");
}

#[tokio::test]
async fn a_handshake_ends_a_restore_that_is_under_way_and_finds_the_old_state() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    execute(&mut client, batch(1, 1, &["5"])).await.unwrap();
    let state = ledger.state();
    let (_sender, call) = restoring(&client).await;
    lock_taken(&client).await;
    // Queries are answered from what is.
    let answer = timeout(PROMPT, query(&mut client, 1, 1)).await.unwrap();
    assert_eq!(&answer.unwrap().data[..], b"5");
    let mut other = Client::new(channel(&served.socket).await);
    let hello = timeout(PROMPT, handshake(&mut other, 2)).await.unwrap();
    assert_eq!(hello.unwrap().applied_index, 1);
    refused(call.await.unwrap(), Code::Aborted, "STALE_EPOCH");
    assert_eq!(ledger.state(), state);
    let reply = execute(&mut other, batch(2, 1, &["5", "2"])).await.unwrap();
    assert_eq!(data(&reply), ["5", "7"]);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_is_refused_ends_no_restore() {
    let ledger = Ledger::default();
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    let (sender, call) = restoring(&client).await;
    lock_taken(&client).await;
    let foreign = |cluster, epoch, protocol_min| HandshakeRequest {
        cluster_id: wire::id_bytes(cluster),
        protocol_min,
        protocol_max: protocol_min,
        ..hello(epoch)
    };
    for call in [
        foreign(0xc2, 9, 1),
        foreign(0xc1, 1, 1),
        foreign(0xc1, 9, 2),
    ] {
        let mut other = client.clone();
        let shaking = tokio::spawn(async move { other.handshake(call).await });
        // It waits for its turn, in which it will be refused.
        timeout(Duration::from_millis(200), shaking)
            .await
            .unwrap_err();
    }
    sender.send(chunk(2, b".", true)).await.unwrap();
    let reply = timeout(PROMPT, call).await.unwrap().unwrap();
    assert_eq!(reply.unwrap().applied_index, 9);
    assert_eq!(ledger.state().counter, Counter(8));
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_restore_whose_sender_hangs_up_lets_go_of_the_lock() {
    let ledger = Ledger::default();
    let (served, client) = started(ledger.clone(), Limits::default()).await;
    let mut other = Client::new(channel(&served.socket).await);
    handshake(&mut other, 1).await.unwrap();
    let state = ledger.state();
    let (_sender, call) = restoring(&client).await;
    lock_taken(&other).await;
    call.abort();
    let reply = timeout(PROMPT, execute(&mut other, batch(1, 1, &["5"])))
        .await
        .unwrap();
    assert_eq!(data(&reply.unwrap()), ["5"]);
    assert_eq!(state.counter, Counter(0));
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_what_is_under_way() {
    let ledger = Ledger::default();
    ledger.padding.store(LARGE, Ordering::Relaxed);
    let (served, mut client) = started(ledger.clone(), Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    execute(&mut client, batch(1, 1, &["5"])).await.unwrap();
    let mut stream = snapshot(&mut client, 1, LEDGER_FORMAT).await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    let (_sender, call) = restoring(&client).await;
    lock_taken(&client).await;
    let stopping = tokio::spawn(served.stop());
    // The connection may break before the reason has come through.
    let told = |status: Status| match status.code() {
        Code::Unavailable => _ = refused::<()>(Err(status), Code::Unavailable, "STOPPING"),
        _ => assert!(std::error::Error::source(&status).is_some(), "{status}"),
    };
    told(rest(&mut stream).await.unwrap_err());
    told(timeout(PROMPT, call).await.unwrap().unwrap().unwrap_err());
    drop(client);
    timeout(PROMPT, stopping).await.unwrap().unwrap().unwrap();
    ledger.crash();
    assert_eq!(
        ledger.state().counter,
        Counter(5),
        "stopping in order syncs"
    );
}

/// A ledger whose disk may be full.
struct Full {
    ledger: Ledger,
    full: Arc<AtomicBool>,
}

impl DurableStateMachine for Full {
    fn name(&self) -> &str {
        self.ledger.name()
    }

    fn room_for(&self, _: u64, _: u64) -> Result<(), String> {
        match self.full.load(Ordering::Relaxed) {
            true => Err("the pretended disk is full".to_owned()),
            false => Ok(()),
        }
    }

    fn transact(
        &self,
        durability: Durability,
        work: &mut TransactionWork<'_>,
    ) -> Result<(), StorageError> {
        self.ledger.transact(durability, work)
    }

    fn read(&self, work: &mut SnapshotWork<'_>) -> Result<(), StorageError> {
        self.ledger.read(work)
    }
}

#[tokio::test]
async fn a_last_sync_that_is_refused_is_no_silent_success() {
    let (ledger, full) = (Ledger::default(), Arc::new(AtomicBool::new(false)));
    let machine = Full {
        ledger: ledger.clone(),
        full: full.clone(),
    };
    let (served, mut client) = started(machine, Limits::default()).await;
    handshake(&mut client, 1).await.unwrap();
    execute(&mut client, batch(1, 1, &["5", "2"]))
        .await
        .unwrap();
    full.store(true, Ordering::Relaxed);
    let ended = served.stop().await.unwrap_err();
    let ServeError::NotSynced {
        durable_index,
        applied_index,
        ..
    } = ended
    else {
        panic!("{ended}");
    };
    assert_eq!((durable_index, applied_index), (0, 2));
    let sentence = ended.to_string();
    assert!(
        sentence.contains("the pretended disk is full"),
        "{sentence}"
    );
}
