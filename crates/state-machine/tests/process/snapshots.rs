//! Snapshots of the program as it runs on a node: large ones, killed ones, damaged ones.

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use wire::state_machine::{
    OutcomeKind, RestoreChunk, RestoreReply, SnapshotChunk, SnapshotRequest,
};

use crate::node::{
    Client, PATIENCE, batch, execute, handshake, on_a_disk_of, outcomes, own_address, query, start,
    start_command, synced,
};

const FORMAT: &str = "leeky-kv-1";
const CHUNK: usize = 1 << 20;
const VALUE: usize = 1000;

async fn snapshot(client: &mut Client, epoch: u64) -> Vec<SnapshotChunk> {
    let format = FORMAT.to_owned();
    let call = client.snapshot(SnapshotRequest { epoch, format });
    let mut stream = call.await.unwrap().into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        chunks.push(chunk);
    }
    chunks
}

fn content(chunks: &[SnapshotChunk]) -> Vec<u8> {
    let parts = chunks.iter().map(|chunk| chunk.data.to_vec());
    parts.collect::<Vec<_>>().concat()
}

/// Sends chunks of a restore of `index` in term 2, and counts them.
struct Sender {
    chunks: mpsc::Sender<RestoreChunk>,
    reply: JoinHandle<Result<RestoreReply, Status>>,
    epoch: u64,
    index: u64,
    number: u64,
    rest: Vec<u8>,
}

impl Sender {
    fn begin(client: &Client, epoch: u64, index: u64) -> Self {
        let (chunks, receiver) = mpsc::channel(1);
        let mut client = client.clone();
        let reply = tokio::spawn(async move {
            let call = client.restore(ReceiverStream::new(receiver));
            call.await.map(tonic::Response::into_inner)
        });
        Self {
            chunks,
            reply,
            epoch,
            index,
            number: 0,
            rest: Vec::new(),
        }
    }

    /// False when nobody takes chunks any more.
    async fn chunk(&mut self, data: Vec<u8>, last: bool) -> bool {
        let chunk = RestoreChunk {
            epoch: self.epoch,
            format: FORMAT.to_owned(),
            index: self.index,
            term: 2,
            chunk: self.number,
            crc32c: crc32c::crc32c(&data),
            data: Bytes::from(data),
            last,
        };
        self.number += 1;
        self.chunks.send(chunk).await.is_ok()
    }

    /// Puts bytes into chunks.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        let mut taken = true;
        while taken && self.rest.len() >= CHUNK {
            let after = self.rest.split_off(CHUNK);
            let chunk = std::mem::replace(&mut self.rest, after);
            taken = self.chunk(chunk, false).await;
        }
        taken
    }

    async fn end(mut self) -> Result<RestoreReply, Status> {
        let rest = std::mem::take(&mut self.rest);
        self.chunk(rest, true).await;
        tokio::time::timeout(PATIENCE, self.reply)
            .await
            .unwrap()
            .unwrap()
    }

    /// Writes the first `count` of the pairs `key-00000000`, ...; the store that they make has as
    /// many bytes as they do, and somewhat more.
    async fn pairs(&mut self, count: u64) -> bool {
        self.write(b"leeky-kv-1\n").await;
        for number in 0..count {
            let key = format!("key-{number:08}");
            let lengths = [
                (key.len() as u32).to_be_bytes(),
                (VALUE as u32).to_be_bytes(),
            ];
            let pair = [&lengths.concat(), key.as_bytes(), &value(number)].concat();
            if !self.write(&pair).await {
                return false;
            }
        }
        true
    }

    async fn finish_pairs(mut self, count: u64) -> Result<RestoreReply, Status> {
        self.write(&0_u32.to_be_bytes()).await;
        self.write(&count.to_be_bytes()).await;
        self.end().await
    }
}

fn value(number: u64) -> Vec<u8> {
    let mut value = number
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_be_bytes()
        .to_vec();
    value.resize(VALUE, b'v');
    value
}

fn kilobytes(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_store_moves_from_one_process_to_another_to_the_byte() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_source, mut from) = start(here.path(), own_address()).await;
    assert_eq!(handshake(&mut from, 1).await.snapshot_formats, [FORMAT]);
    let commands: [&[u8]; 6] = [
        b"PUT k a value",
        b"",
        b"PUT e ",
        b"INCR n 41",
        b"PUT gone x",
        b"DELETE gone",
    ];
    execute(&mut from, 1, 1, &commands).await.unwrap();
    let chunks = snapshot(&mut from, 1).await;
    assert!(
        chunks
            .iter()
            .all(|chunk| (chunk.index, chunk.term) == (6, 1))
    );

    let address = own_address();
    let (target, mut to) = start(there.path(), address).await;
    handshake(&mut to, 1).await;
    // What was there is gone, outcomes and all.
    execute(&mut to, 1, 1, &[b"PUT other 1", b"PUT k 2"])
        .await
        .unwrap();
    let mut sender = Sender::begin(&to, 1, 60);
    for chunk in &chunks {
        assert!(sender.chunk(chunk.data.to_vec(), chunk.last).await);
    }
    let reply = sender.reply.await.unwrap().unwrap();
    assert_eq!(reply.applied_index, 60);
    assert_eq!(content(&snapshot(&mut to, 1).await), content(&chunks));
    // It is on disk as soon as it is answered.
    target.kill_9();
    let (_target, mut to) = start(there.path(), address).await;
    let hello = handshake(&mut to, 1).await;
    assert_eq!(
        (hello.applied_index, hello.applied_term, hello.results_floor),
        (60, 2, 60)
    );
    assert_eq!(content(&snapshot(&mut to, 1).await), content(&chunks));
    let mut next = batch(1, 61, &[b"INCR n", b"CAS k \"a value\" another"]);
    next.entries.iter_mut().for_each(|entry| entry.term = 2);
    let reply = to.execute(next).await.unwrap().into_inner();
    assert_eq!(outcomes(&reply)[0].1, "42");
    assert_eq!(outcomes(&reply)[1].1, r#"Success! Set "k" to: "another""#);
    let listed = query(&mut to, 1, b"LIST").await;
    assert_eq!(&listed.data[..], b"e\nk\nn");
    let one = query(&mut to, 1, b"GET other").await;
    assert_eq!(&one.data[..], br#"Key "other" was not found"#);
}

/// Writes go on while a snapshot is read, which is as of its index all the same.
#[tokio::test]
async fn a_snapshot_is_as_of_its_index_while_writes_go_on() {
    const PAIRS: u64 = 20_000;
    let data = tempfile::tempdir().unwrap();
    let (_process, mut client) = start(data.path(), own_address()).await;
    handshake(&mut client, 1).await;
    let mut sender = Sender::begin(&client, 1, 10);
    assert!(sender.pairs(PAIRS).await);
    sender.finish_pairs(PAIRS).await.unwrap();
    let before = content(&snapshot(&mut client, 1).await);

    let format = FORMAT.to_owned();
    let call = client.snapshot(SnapshotRequest { epoch: 1, format });
    let mut stream = call.await.unwrap().into_inner();
    let mut chunks = vec![stream.message().await.unwrap().unwrap()];
    assert_eq!((chunks[0].index, chunks[0].data.len()), (10, 0));
    let mut index = 10;
    // From the first chunk on, which has nothing of the state yet.
    loop {
        let put = format!("PUT key-{:08} changed", PAIRS - index);
        let mut next = batch(1, index + 1, &[put.as_bytes(), b"DELETE key-00019999"]);
        next.entries.iter_mut().for_each(|entry| entry.term = 2);
        client.execute(next).await.unwrap();
        index += 2;
        let Some(chunk) = stream.message().await.unwrap() else {
            break;
        };
        chunks.push(chunk);
    }
    assert!(index > 20, "nothing ran beside it");
    assert!(chunks.iter().all(|chunk| chunk.index == 10));
    assert!(content(&chunks) == before, "it is of no one moment");
    assert!(content(&snapshot(&mut client, 1).await) != before);
}

/// The process needs the cache of the storage, and no more, for a state that is larger than that.
#[tokio::test]
async fn a_large_state_is_restored_and_read_without_being_held_in_memory() {
    const PAIRS: u64 = 400_000;
    /// The cache, once for each of the two threads that may have worked on it and that the allocator keeps
    /// memory for, and somewhat for everything else; the state has more bytes.
    const LIMIT_KILOBYTES: u64 = 330 << 10;
    let data = tempfile::tempdir().unwrap();
    let (process, mut client) = start(data.path(), own_address()).await;
    handshake(&mut client, 1).await;
    let began = Instant::now();
    let mut sender = Sender::begin(&client, 1, 10);
    assert!(sender.pairs(PAIRS).await);
    sender.finish_pairs(PAIRS).await.unwrap();
    let restored = began.elapsed();
    let memory = kilobytes(process.0.id(), "VmHWM");
    let format = FORMAT.to_owned();
    let began = Instant::now();
    let call = client.snapshot(SnapshotRequest { epoch: 1, format });
    let mut stream = call.await.unwrap().into_inner();
    let mut length = 0;
    while let Some(chunk) = stream.message().await.unwrap() {
        length += chunk.data.len();
    }
    assert_eq!(length as u64, 11 + PAIRS * (8 + 12 + VALUE as u64) + 12);
    let with_snapshot = kilobytes(process.0.id(), "VmHWM");
    let file = fs::metadata(data.path().join("state-machine/state.redb")).unwrap();
    println!(
        "{} MiB: restored in {restored:?} with {} MiB of memory, sent in {:?} with {} MiB, a file \
         of {} MiB",
        length >> 20,
        memory >> 10,
        began.elapsed(),
        with_snapshot >> 10,
        file.len() >> 20
    );
    assert!(with_snapshot < LIMIT_KILOBYTES, "{with_snapshot} kB");

    // One that is to replace it is given up in the middle: the next handshake does not wait long.
    let mut sender = Sender::begin(&client, 1, 20);
    assert!(sender.pairs(PAIRS / 2).await);
    let began = Instant::now();
    let hello = handshake(&mut client, 2).await;
    println!("a restore was given up in {:?}", began.elapsed());
    assert_eq!(hello.applied_index, 10);
    let refused = sender.finish_pairs(PAIRS / 2).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{}", refused.message());
    let middle = query(&mut client, 2, b"GET key-00200000").await;
    assert_eq!(middle.data, value(PAIRS / 2));
    // And one that is not.
    let began = Instant::now();
    let mut sender = Sender::begin(&client, 2, 20);
    assert!(sender.pairs(PAIRS / 2).await);
    sender.finish_pairs(PAIRS / 2).await.unwrap();
    let replaced = began.elapsed();
    let gone = query(&mut client, 2, b"GET key-00200000").await;
    assert_eq!(gone.kind(), OutcomeKind::NotFound);
    let memory = kilobytes(process.0.id(), "VmHWM");
    println!("it was replaced in {replaced:?} with {} MiB", memory >> 10);
    assert!(memory < LIMIT_KILOBYTES, "{memory} kB");
}

/// Kill -9 at some moments of a restore, its commit among them: what is found is the old state or
/// the new one.
#[tokio::test]
async fn kill_9_within_a_restore_leaves_the_old_state_or_the_new() {
    const ROUNDS: u32 = 5;
    /// More than the cache, so that the file was written to long before the end.
    const PAIRS: u64 = 160_000;
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let (mut old, mut new) = (0, 0);
    for round in 0..ROUNDS {
        let (process, mut client) = start(data.path(), address).await;
        let hello = handshake(&mut client, 1).await;
        let base = hello.applied_index;
        let mut put = batch(1, base + 1, &[b"PUT old 1"]);
        put.entries[0].term = 2;
        client.execute(put).await.unwrap();
        synced(&mut client, 1, base + 1).await;
        let before = content(&snapshot(&mut client, 1).await);

        let index = base + 100;
        let mut sender = Sender::begin(&client, 1, index);
        // All of it, or a part: the end is where the commit is.
        let pairs = PAIRS * u64::from(round + 1) / u64::from(ROUNDS - 1);
        assert!(sender.pairs(pairs.min(PAIRS)).await);
        if round + 2 >= ROUNDS {
            let ending = tokio::spawn(sender.finish_pairs(PAIRS));
            // In the middle of the commit, as far as that can be met, and after its answer.
            let moment = Duration::from_millis(if round + 1 == ROUNDS { 20_000 } else { 30 });
            let _ = tokio::time::timeout(moment, ending).await;
        }
        process.kill_9();

        let (process, mut client) = start(data.path(), address).await;
        let hello = handshake(&mut client, 1).await;
        let after = snapshot(&mut client, 1).await;
        match hello.applied_index {
            found if found == index => {
                new += 1;
                let bytes = after
                    .iter()
                    .map(|chunk| chunk.data.len() as u64)
                    .sum::<u64>();
                assert_eq!(bytes, 11 + PAIRS * (8 + 12 + VALUE as u64) + 12);
                assert_eq!(hello.results_floor, index);
            }
            found => {
                old += 1;
                assert_eq!(found, base + 1);
                assert!(
                    content(&after) == before,
                    "neither the old state nor the new"
                );
            }
        }
        assert!(process.terminate().success());
    }
    assert!(
        old > 0 && new > 0,
        "{old} old ones and {new} new ones show little"
    );
}

#[tokio::test]
async fn a_snapshot_that_is_none_is_refused_and_the_store_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let (_process, mut client) = start(data.path(), own_address()).await;
    handshake(&mut client, 1).await;
    execute(&mut client, 1, 1, &[b"PUT k v"]).await.unwrap();
    let good = content(&snapshot(&mut client, 1).await);
    let bad = [
        b"".to_vec(),
        b"leeky-kv-1".to_vec(),
        [b"leeky-kv-9", &good[10..]].concat(),
        good[..good.len() - 1].to_vec(),
        [&good[..], b"!"].concat(),
        [&good[..11], &crate::node::junk(100_000)].concat(),
    ];
    for bytes in bad {
        let mut sender = Sender::begin(&client, 1, 9);
        sender.write(&bytes).await;
        let refused = sender.end().await.unwrap_err();
        assert_eq!(refused.code(), Code::DataLoss, "{}", refused.message());
        assert_eq!(content(&snapshot(&mut client, 1).await), good);
        assert_eq!(&query(&mut client, 1, b"GET k").await.data[..], b"v");
    }
    // The outcomes of before are still there, and the next entry is.
    let reply = execute(&mut client, 1, 1, &[b"PUT k v", b"DELETE k"])
        .await
        .unwrap();
    assert_eq!(outcomes(&reply)[1].1, r#"Success! Deleted "k""#);
}

/// The storage must not meet the end of the disk in the middle of its transaction.
#[tokio::test]
async fn a_restore_that_the_disk_has_no_room_for_is_refused_and_a_smaller_one_is_taken() {
    const DISK_BYTES: usize = 300 << 20;
    /// More than the disk has.
    const PAIRS: u64 = 400_000;
    const FEW: u64 = 10_000;
    let data = tempfile::tempdir().unwrap();
    let address = own_address();
    let Some(command) = on_a_disk_of(DISK_BYTES, data.path(), address) else {
        println!("SKIPPED: namespace");
        return;
    };
    let (_process, mut client) = start_command(command, address).await;
    handshake(&mut client, 1).await;
    execute(&mut client, 1, 1, &[b"PUT k before"])
        .await
        .unwrap();
    for _ in 0..2 {
        let mut sender = Sender::begin(&client, 1, 10);
        assert!(!sender.pairs(PAIRS).await, "all of it was taken");
        let refused = sender.end().await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::ResourceExhausted,
            "{}",
            refused.message()
        );
        assert!(
            refused.message().contains("is full"),
            "{}",
            refused.message()
        );
        assert_eq!(&query(&mut client, 1, b"GET k").await.data[..], b"before");
    }
    let mut sender = Sender::begin(&client, 1, 10);
    assert!(sender.pairs(FEW).await);
    sender.finish_pairs(FEW).await.unwrap();
    assert_eq!(
        query(&mut client, 1, b"GET key-00000001").await.data,
        value(1)
    );
}
