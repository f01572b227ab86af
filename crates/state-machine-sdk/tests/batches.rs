//! Batches on one stream: what holds for Execute holds for each of them, and nothing runs behind one that
//! was refused.

#![allow(clippy::unwrap_used)]

mod machines;
mod served;

use machines::Counter;
use served::{Client, PATIENCE, batch, data, execute, handshake, query, refused, started};
use state_machine_sdk::{Limits, Volatile};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use wire::state_machine::{ExecuteReply, ExecuteRequest};

struct Batches {
    requests: mpsc::Sender<ExecuteRequest>,
    replies: Streaming<ExecuteReply>,
}

impl Batches {
    async fn open(client: &mut Client) -> Batches {
        let (requests, outgoing) = mpsc::channel(8);
        let replies = client.execute_stream(ReceiverStream::new(outgoing)).await;
        Batches {
            requests,
            replies: replies.unwrap().into_inner(),
        }
    }

    async fn reply(&mut self) -> Result<Option<ExecuteReply>, Status> {
        let reply = tokio::time::timeout(PATIENCE, self.replies.message());
        reply.await.unwrap()
    }

    async fn execute(&mut self, batch: ExecuteRequest) -> Result<ExecuteReply, Status> {
        self.requests.send(batch).await.unwrap();
        self.reply().await.map(Option::unwrap)
    }
}

#[tokio::test]
async fn each_is_answered_in_its_turn() {
    let (served, mut client) = started(Volatile::new(Counter::default()), Limits::default()).await;
    let hello = handshake(&mut client, 3).await.unwrap();
    assert!(hello.execute_stream);
    let mut batches = Batches::open(&mut client).await;
    let reply = batches.execute(batch(3, 1, &["", "5"])).await.unwrap();
    assert_eq!(
        (reply.epoch, reply.nonce, reply.applied_index),
        (3, hello.nonce, 2)
    );
    assert_eq!(data(&reply), ["", "5"]);
    // By the call, by the stream: it is one state.
    execute(&mut client, batch(3, 3, &["1"])).await.unwrap();
    let reply = batches
        .execute(batch(3, 2, &["5", "1", "2"]))
        .await
        .unwrap();
    assert_eq!(data(&reply), ["5", "6", "8"]);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn the_epoch_of_each_is_checked() {
    let (served, mut client) = started(Volatile::new(Counter::default()), Limits::default()).await;
    handshake(&mut client, 3).await.unwrap();
    let mut batches = Batches::open(&mut client).await;
    batches.execute(batch(3, 1, &["5"])).await.unwrap();
    handshake(&mut client, 4).await.unwrap();
    let late = batches.execute(batch(3, 2, &["5"])).await;
    refused(late, Code::Aborted, "STALE_EPOCH");
    let answer = query(&mut client, 4, 1).await.unwrap();
    assert_eq!((answer.applied_index, &answer.data[..]), (1, &b"5"[..]));
    served.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_runs_behind_one_that_was_refused() {
    let (served, mut client) = started(Volatile::new(Counter::default()), Limits::default()).await;
    handshake(&mut client, 3).await.unwrap();
    let mut batches = Batches::open(&mut client).await;
    // A daemon would wait for the answer to the first; one that does not gets no entry run twice.
    batches.requests.send(batch(3, 2, &["5"])).await.unwrap();
    batches.requests.send(batch(3, 1, &["5"])).await.unwrap();
    refused(
        batches.reply().await,
        Code::FailedPrecondition,
        "OUT_OF_ORDER",
    );
    assert_eq!(batches.reply().await.unwrap(), None, "the stream is over");
    let answer = query(&mut client, 3, 0).await.unwrap();
    assert_eq!(answer.applied_index, 0);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn one_that_waits_does_not_hold_up_the_end() {
    let (served, mut client) = started(Volatile::new(Counter::default()), Limits::default()).await;
    handshake(&mut client, 3).await.unwrap();
    let mut batches = Batches::open(&mut client).await;
    batches.execute(batch(3, 1, &["5"])).await.unwrap();
    let stopped = tokio::spawn(served.stop());
    assert_eq!(
        batches.reply().await.unwrap(),
        None,
        "it is closed, not broken off"
    );
    stopped.await.unwrap().unwrap();
}
