//! Whatever is called, in whatever order: every call is answered, what was refused has changed nothing, and
//! the state is that of the calls that were not.

#![allow(clippy::unwrap_used)]

mod machines;
mod served;

use bytes::Bytes;
use machines::{Counter, FORMAT, LEDGER_FORMAT, Ledger};
use proptest::prelude::*;
use served::{Client, PATIENCE, Served, entry, execute, hello, started};
use state_machine_sdk::{DurableStateMachine, Limits, REASON_HEADER, Volatile};
use tokio::time::timeout;
use tonic::{Response, Status};
use wire::state_machine::entry::Payload;
use wire::state_machine::{
    Empty, Entry, ExecuteReply, ExecuteRequest, HandshakeRequest, QueryRequest, RestoreChunk,
    SnapshotRequest, WatchRequest,
};

/// Beyond all epochs and indices that are called with, but for the wildest.
const LATER: u64 = 1 << 40;

#[derive(Clone, Debug)]
enum Call {
    Handshake(HandshakeRequest),
    Execute(ExecuteRequest),
    /// On one stream.
    Executes(Vec<ExecuteRequest>),
    /// What comes next, so that something is applied.
    Next(Vec<&'static str>),
    Query(QueryRequest),
    Snapshot(SnapshotRequest),
    Restore(Vec<RestoreChunk>),
    /// A snapshot that can be taken, as of so many entries more.
    Install(u64, u64),
    Watch(WatchRequest),
}

/// Small ones often, so that things fit together now and then.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..6_u64, 1 => 0..LATER, 1 => (u64::MAX - 2)..=u64::MAX]
}

fn epoch() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..4_u64, 1 => 0..LATER]
}

fn id(right: u128) -> impl Strategy<Value = Bytes> {
    let any = prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let other = Just(wire::id_bytes(0xee));
    prop_oneof![12 => Just(wire::id_bytes(right)), 1 => any, 1 => other]
}

fn command() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["1", "-7", "99999999999999999999", "", "time", "set 4"])
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        1 => Just(None),
        2 => Just(Some(Payload::Empty(Empty {}))),
        6 => command().prop_map(|command| Some(Payload::Command(command.into()))),
    ];
    let numbers = (number(), number(), number());
    (numbers, payload).prop_map(|((index, term, log_time_ms), payload)| Entry {
        index,
        term,
        log_time_ms,
        payload,
    })
}

fn request() -> impl Strategy<Value = ExecuteRequest> {
    let entries = prop::collection::vec(any_entry(), 0..4);
    (epoch(), number(), number(), any::<bool>(), entries).prop_map(
        |(epoch, results_floor, first, joins, mut entries)| {
            if joins {
                for (entry, index) in entries.iter_mut().zip(first.min(LATER)..) {
                    (entry.index, entry.term) = (index, 1);
                }
            }
            ExecuteRequest {
                epoch,
                results_floor,
                entries,
            }
        },
    )
}

fn format() -> impl Strategy<Value = String> {
    prop::sample::select(vec![FORMAT, LEDGER_FORMAT, "", "counter-9"]).prop_map(str::to_owned)
}

fn chunk() -> impl Strategy<Value = RestoreChunk> {
    let numbers = (epoch(), number(), number(), 0..3_u64);
    let data = prop::sample::select(vec![&b""[..], b"counter 5", b"3\n", b"5", b"\xff\x00"]);
    (numbers, format(), data, any::<[bool; 2]>()).prop_map(
        |((epoch, index, term, chunk), format, data, [intact, last])| RestoreChunk {
            epoch,
            format,
            index,
            term,
            chunk,
            data: data.into(),
            crc32c: crc32c::crc32c(data) ^ u32::from(!intact),
            last,
        },
    )
}

fn call() -> impl Strategy<Value = Call> {
    let shake = (0..3_u32, 0..3_u32, id(0xc1), id(0xa1), epoch()).prop_map(
        |(protocol_min, protocol_max, cluster_id, node_id, epoch)| {
            Call::Handshake(HandshakeRequest {
                protocol_min,
                protocol_max,
                cluster_id,
                node_id,
                epoch,
            })
        },
    );
    let proper = epoch().prop_map(|epoch| Call::Handshake(hello(epoch)));
    let bytes = || prop::sample::select(vec![&b""[..], b"nothing", b"\xff\xfe"]);
    prop_oneof![
        1 => shake,
        3 => proper,
        3 => request().prop_map(Call::Execute),
        2 => prop::collection::vec(request(), 0..3).prop_map(Call::Executes),
        6 => prop::collection::vec(command(), 1..4).prop_map(Call::Next),
        2 => (epoch(), 0..6_u64, bytes()).prop_map(|(epoch, min_index, query)| {
            Call::Query(QueryRequest { epoch, min_index, query: query.into() })
        }),
        1 => (epoch(), format()).prop_map(|(epoch, format)| {
            Call::Snapshot(SnapshotRequest { epoch, format })
        }),
        2 => prop::collection::vec(chunk(), 0..3).prop_map(Call::Restore),
        1 => (1..5_u64, 0..9_u64).prop_map(|(more, value)| Call::Install(more, value)),
        1 => (epoch(), number(), bytes()).prop_map(|(epoch, from_index, query)| {
            Call::Watch(WatchRequest { epoch, from_index, query: query.into() })
        }),
    ]
}

/// What the calls that were answered come to.
#[derive(Default)]
struct Model {
    /// The latest that was opened; 0: none.
    epoch: u64,
    /// Cluster and node, by the first handshake.
    belongs: Option<(Bytes, Bytes)>,
    applied: u64,
    /// Of the entry at `applied`: terms never fall.
    term: u64,
    value: i64,
}

impl Model {
    fn next(&self, commands: &[&str]) -> ExecuteRequest {
        let entries = (self.applied + 1..).zip(commands);
        let entries = entries.map(|(index, command)| entry(index, self.term.max(1), command));
        ExecuteRequest {
            epoch: self.epoch,
            results_floor: 0,
            entries: entries.collect(),
        }
    }

    fn executed(&mut self, request: &ExecuteRequest, reply: &ExecuteReply) {
        assert_eq!(request.epoch, self.epoch, "a batch of another epoch");
        assert_eq!(reply.outcomes.len(), request.entries.len());
        for entry in &request.entries {
            if entry.index <= self.applied {
                continue;
            }
            assert_eq!(entry.index, self.applied + 1, "a gap");
            assert!(entry.term >= self.term, "a term that falls");
            (self.applied, self.term) = (entry.index, entry.term);
            let Some(Payload::Command(command)) = &entry.payload else {
                continue;
            };
            let text = std::str::from_utf8(command).unwrap();
            if let Some(number) = text.strip_prefix("set ") {
                self.value = number.parse().unwrap();
            } else if let Ok(step) = text.parse::<i64>() {
                self.value = self.value.saturating_add(step);
            }
        }
        assert_eq!(reply.applied_index, self.applied);
    }

    fn restored(&mut self, chunks: &[RestoreChunk]) {
        // What comes behind the last one is not read.
        let end = chunks.iter().position(|chunk| chunk.last);
        let chunks = end.map_or(chunks, |end| &chunks[..=end]);
        let first = &chunks[0];
        assert_eq!(first.epoch, self.epoch, "a snapshot of another epoch");
        if first.index <= self.applied {
            return; // It has come too late: nothing is given up for it.
        }
        assert!(
            chunks
                .iter()
                .all(|chunk| crc32c::crc32c(&chunk.data) == chunk.crc32c)
        );
        let bytes: Vec<u8> = chunks
            .iter()
            .flat_map(|chunk| chunk.data.to_vec())
            .collect();
        let text = String::from_utf8(bytes).unwrap();
        let number = text.trim().trim_start_matches("counter ");
        (self.applied, self.term) = (first.index, first.term);
        self.value = number.parse().unwrap();
    }
}

/// In time, and if it is refused then with a reason.
async fn answered<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Option<T> {
    match timeout(PATIENCE, call).await.expect("an answer in time") {
        Ok(response) => Some(response.into_inner()),
        Err(status) => {
            assert!(!status.message().is_empty(), "{status:?}");
            let reason = status.metadata().get(REASON_HEADER);
            assert!(
                reason.is_some() || status.code() == tonic::Code::Unimplemented,
                "{status:?}"
            );
            None
        }
    }
}

async fn make(client: &mut Client, model: &mut Model, format: &str, call: Call) {
    match call {
        Call::Handshake(request) => {
            let epoch = request.epoch;
            let from = (request.cluster_id.clone(), request.node_id.clone());
            if let Some(reply) = answered(client.handshake(request)).await {
                assert!(epoch > model.epoch, "an epoch that is not later");
                let belongs = model.belongs.get_or_insert_with(|| from.clone());
                assert_eq!(*belongs, from, "a daemon of another node");
                assert_eq!(reply.applied_index, model.applied);
                model.epoch = epoch;
            }
        }
        Call::Execute(request) => {
            if let Some(reply) = answered(client.execute(request.clone())).await {
                model.executed(&request, &reply);
            }
        }
        Call::Executes(requests) => {
            let stream = tokio_stream::iter(requests.clone());
            let Some(mut replies) = answered(client.execute_stream(stream)).await else {
                return;
            };
            let mut requests = requests.into_iter();
            while let Ok(Some(reply)) = timeout(PATIENCE, replies.message()).await.unwrap() {
                model.executed(&requests.next().unwrap(), &reply);
            }
        }
        Call::Next(commands) => {
            if model.applied >= LATER {
                return;
            }
            let request = model.next(&commands);
            let reply = answered(client.execute(request.clone())).await;
            match (reply, model.epoch) {
                (None, 0) => {}
                (reply, _) => model.executed(&request, &reply.expect("what comes next is taken")),
            }
        }
        Call::Query(request) => {
            let (epoch, min_index) = (request.epoch, request.min_index);
            if let Some(reply) = answered(client.query(request)).await {
                assert_eq!((epoch, reply.epoch), (model.epoch, model.epoch));
                assert_eq!(reply.applied_index, model.applied);
                assert!(min_index <= model.applied);
            }
        }
        Call::Snapshot(request) => {
            let Some(mut chunks) = answered(client.snapshot(request)).await else {
                return;
            };
            loop {
                match timeout(PATIENCE, chunks.message()).await.unwrap() {
                    Ok(Some(chunk)) => assert_eq!(chunk.index, model.applied),
                    Ok(None) => break,
                    // The one number that a counter cannot write down.
                    Err(status) => {
                        assert_eq!(model.value, 13, "{status:?}");
                        break;
                    }
                }
            }
        }
        Call::Restore(chunks) => {
            let call = client.restore(tokio_stream::iter(chunks.clone()));
            if let Some(reply) = answered(call).await {
                model.restored(&chunks);
                assert_eq!(reply.applied_index, model.applied);
            }
        }
        Call::Install(more, value) => {
            if model.applied >= LATER {
                return;
            }
            let text = match format {
                FORMAT => format!("counter {value}"),
                _ => format!("{value}\n"),
            };
            let chunk = RestoreChunk {
                epoch: model.epoch,
                format: format.to_owned(),
                index: model.applied + more,
                term: model.term.max(1),
                chunk: 0,
                crc32c: crc32c::crc32c(text.as_bytes()),
                data: text.into(),
                last: true,
            };
            let call = client.restore(tokio_stream::iter(vec![chunk.clone()]));
            match (answered(call).await, model.epoch) {
                (None, 0) => {}
                (reply, _) => {
                    reply.expect("a sound snapshot is taken");
                    model.restored(&[chunk]);
                }
            }
        }
        Call::Watch(request) => {
            answered(client.watch(request)).await;
        }
    }
}

async fn holds(machine: impl DurableStateMachine, format: &str, calls: Vec<Call>) {
    let (served, mut client): (Served, Client) = started(machine, Limits::default()).await;
    let mut model = Model::default();
    for call in calls {
        make(&mut client, &mut model, format, call).await;
    }
    // It is as well as ever, and its state is what the model says.
    let last = model.epoch.max(LATER) + 1;
    let mut hello = hello(last);
    if let Some((cluster_id, node_id)) = model.belongs.clone() {
        (hello.cluster_id, hello.node_id) = (cluster_id, node_id);
    }
    let reply = answered(client.handshake(hello)).await.unwrap();
    assert_eq!(reply.applied_index, model.applied);
    let read = QueryRequest {
        epoch: last,
        min_index: model.applied,
        query: Bytes::new(),
    };
    let read = answered(client.query(read)).await.unwrap();
    assert_eq!(read.data, model.value.to_string());
    if model.applied < LATER {
        model.epoch = last;
        let next = model.next(&["set 6"]);
        let reply = execute(&mut client, next).await.unwrap();
        assert_eq!(reply.applied_index, model.applied + 1);
    }
    served.stop().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_machine_in_memory_answers_every_call(calls in prop::collection::vec(call(), 1..24)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(holds(Volatile::new(Counter::default()), FORMAT, calls));
    }

    #[test]
    fn a_durable_machine_answers_every_call(calls in prop::collection::vec(call(), 1..24)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(holds(Ledger::default(), LEDGER_FORMAT, calls));
    }
}
