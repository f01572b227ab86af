//! The library against nodes that say anything at all: every call ends in time, what is told of an entry is
//! true, and each entry has a number of its own.
#![allow(clippy::unwrap_used)]

mod fake;

use std::time::{Duration, Instant};

use bytes::Bytes;
use fake::{CLUSTER, Fake, OTHER_CLUSTER, Step, nobody};
use proptest::prelude::*;
use raft_client::{Client, ClientError, Options, parse_endpoints};
use tonic::{Code, Status};
use wire::raft::{ErrorDetail, ErrorKind, NodeReference, ResultKind};
use wire::status::kind_status;

/// For one call.
const TIMEOUT: Duration = Duration::from_millis(300);

/// A call that lasts longer than that has forgotten its deadline.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a node says to one call.
#[derive(Clone, Debug)]
enum Says {
    Result(i32),
    /// A kind with its detail.
    Kind(i32, String, Leader, u64),
    /// A status as a proxy has it, or anybody.
    Bare(i32, Vec<u8>),
    Nothing,
    OtherCluster,
}

#[derive(Clone, Copy, Debug)]
enum Leader {
    None,
    Itself,
    TheOther,
    Nobody,
    Nonsense,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Put,
    Query(bool),
    Leave,
    Transfer,
    Skip,
}

fn leader() -> impl Strategy<Value = Leader> {
    prop::sample::select(vec![
        Leader::None,
        Leader::Itself,
        Leader::TheOther,
        Leader::Nobody,
        Leader::Nonsense,
    ])
}

fn says() -> impl Strategy<Value = Says> {
    let sentence = prop::sample::select(vec!["", "because", "\u{1b}[31m\r\n\0", "ünïcode"]);
    prop_oneof![
        3 => (-1..8).prop_map(Says::Result),
        6 => (-1..40, sentence, leader(), any::<u64>())
            .prop_map(|(kind, sentence, leader, number)| {
                Says::Kind(kind, sentence.to_owned(), leader, number)
            }),
        3 => (1..17, prop::collection::vec(any::<u8>(), 0..30))
            .prop_map(|(code, detail)| Says::Bare(code, detail)),
        1 => Just(Says::Nothing),
        1 => Just(Says::OtherCluster),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => Just(Call::Put),
        2 => any::<bool>().prop_map(Call::Query),
        1 => Just(Call::Leave),
        1 => Just(Call::Transfer),
        1 => Just(Call::Skip),
    ]
}

fn reference(leader: Leader, itself: &Fake, other: &Fake) -> Option<NodeReference> {
    let address = match leader {
        Leader::None => return None,
        Leader::Itself => itself.address.to_string(),
        Leader::TheOther => other.address.to_string(),
        Leader::Nobody => nobody().to_string(),
        Leader::Nonsense => "\u{1b}[2J:99999".to_owned(),
    };
    Some(NodeReference {
        node_id: Bytes::from_static(b"short"),
        name: "\r\n".to_owned(),
        address,
    })
}

/// How it is said, and whether an entry may stand behind it for all that anybody knows.
fn step(says: &Says, itself: &Fake, other: &Fake) -> (Step, bool) {
    match says {
        Says::Result(kind) => {
            let kind = ResultKind::try_from(*kind).unwrap_or(ResultKind::Unspecified);
            (Step::Say(kind, b"said"), false)
        }
        Says::Kind(kind, sentence, leader, number) => {
            let detail = ErrorDetail {
                kind: *kind,
                cluster_id: Bytes::from_static(&CLUSTER),
                leader: reference(*leader, itself, other),
                retry_after_ms: *number % 20,
                index: *number,
            };
            let unknown = *kind == ErrorKind::OutcomeUnknown as i32;
            (Step::Refuse(kind_status(sentence, detail)), unknown)
        }
        Says::Bare(code, detail) => {
            let code = Code::from_i32(*code);
            let detail = Bytes::from(detail.clone());
            let doubtful = matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled);
            let doubtful = doubtful && detail.is_empty();
            let status = Status::with_details(code, "a proxy says so", detail);
            (Step::Refuse(status), doubtful)
        }
        Says::Nothing => (Step::Hang, true),
        Says::OtherCluster => (Step::SayFrom(OTHER_CLUSTER), false),
    }
}

async fn holds(said: [Vec<Says>; 2], calls: Vec<Call>) {
    let nodes = [Fake::start().await, Fake::start().await];
    // As nodes of one cluster do, they give no session twice.
    *nodes[1].node.registered.lock().unwrap() = 1_000;
    let mut doubtful = [Vec::new(), Vec::new()];
    for (at, said) in said.iter().enumerate() {
        for says in said {
            let (step, doubt) = step(says, &nodes[at], &nodes[1 - at]);
            nodes[at].will(step);
            doubtful[at].push(doubt);
        }
    }
    let endpoints = format!("{},{}", nodes[0].address, nodes[1].address);
    let mut client = Client::new(Options {
        endpoints: parse_endpoints(&endpoints).unwrap(),
        timeout: TIMEOUT,
    });
    let only_puts = calls.iter().all(|call| matches!(call, Call::Put));
    for (number, call) in calls.into_iter().enumerate() {
        let entry = Bytes::from(format!("PUT k {number}"));
        let begun = Instant::now();
        let ended = match call {
            Call::Put => client.put_entry(entry.clone()).await.map(drop),
            Call::Query(stale) => client.query("GET k".into(), stale).await.map(drop),
            Call::Leave => client.leave(Bytes::from_static(&[7; 16])).await.map(drop),
            Call::Transfer => client.transfer_leadership(None).await.map(drop),
            Call::Skip => client.skip(3).await.map(drop),
        };
        assert!(
            begun.elapsed() < PATIENCE,
            "{call:?} took {:?}",
            begun.elapsed()
        );
        if let Err(error) = &ended {
            assert!(!error.to_string().trim().is_empty(), "{error:?}");
        }
        // A definite error is true of all attempts.
        let in_doubt = nodes.iter().zip(&doubtful).any(|(node, doubtful)| {
            let mut attempts = node.entries().into_iter().zip(doubtful);
            attempts.any(|(sent, doubt)| *doubt && sent == entry)
        });
        if only_puts && in_doubt {
            let told = matches!(ended, Ok(()) | Err(ClientError::OutcomeUnknown(_)));
            assert!(told, "{ended:?}, and entry {number} may stand somewhere");
        }
    }
    // A number stands for one entry, however often it was sent, and to whom.
    let mut numbered = std::collections::BTreeMap::new();
    for node in &nodes {
        for (number, entry) in node.sessions().into_iter().zip(node.entries()) {
            let known = numbered.entry(number).or_insert_with(|| entry.clone());
            assert_eq!(*known, entry, "{number:?} stands for two entries");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_call_ends_and_tells_the_truth(
        first in prop::collection::vec(says(), 0..8),
        second in prop::collection::vec(says(), 0..8),
        calls in prop::collection::vec(call(), 1..6),
        only_puts in any::<bool>(),
    ) {
        let puts = calls.iter().map(|call| if only_puts { Call::Put } else { *call });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(holds([first, second], puts.collect()));
    }
}
