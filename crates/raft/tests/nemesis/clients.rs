//! Clients whose every call and answer is written down.
//!
//! There are three kinds. One uses the client's library, and takes it at its word. One sends each entry
//! once, outside of any session, to any node. One opens a session, and sends an entry through node after
//! node until it is answered or its patience ends. All read through any node. Keys are left for others
//! after a while, so that each has a history of its own that ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_client::{Client, ClientError, Options, parse_endpoints};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sim::history::{Action, Answer, Operation, Outcome};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wire::raft::raft_client::RaftClient;
use wire::raft::{self as pb, ErrorKind, PutEntryReply, QueryReply, ResultKind};
use wire::status::detail_of;

/// Of each generation there are so many keys of each kind, and a generation lasts so long.
const REGISTERS: usize = 4;
const COUNTERS: usize = 2;
const GENERATION: Duration = Duration::from_secs(15);

/// Between two operations of one client, in milliseconds.
const THINKING_MS: (u64, u64) = (5, 40);

/// For one attempt; the node is asked to answer a little sooner.
const ATTEMPT: Duration = Duration::from_millis(1500);
const ANSWER_MS: u32 = 1300;
const CONNECT: Duration = Duration::from_millis(300);

/// An entry of a session is sent again for so long, with such pauses.
const PATIENCE: Duration = Duration::from_secs(8);
const RETRY: Duration = Duration::from_millis(20);

/// What all clients were told.
#[derive(Default)]
pub struct Record {
    /// All that must be linearizable.
    pub operations: Vec<Operation>,
    /// Reads that asked for what the node has.
    pub stale: Vec<Operation>,
    /// Answers that no correct node gives.
    pub wrong: Vec<String>,
    /// Writes that were answered, and reads.
    pub written: u64,
    pub read: u64,
    /// Those of them whose answer named another node as leader than the one that was asked.
    pub followed: u64,
}

/// See the module. Dropping it ends the clients where they stand.
pub struct Clients {
    runtime: Runtime,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What all of them have.
pub struct Shared {
    begun: Instant,
    record: Mutex<Record>,
    /// Where nodes are; more may come.
    addresses: Mutex<Vec<SocketAddr>>,
}

impl Shared {
    /// The moment, in microseconds since the beginning.
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    fn generation(&self) -> u64 {
        self.begun.elapsed().as_secs() / GENERATION.as_secs()
    }

    /// The keys of a generation.
    fn keys(generation: u64) -> Vec<String> {
        let registers = (0..REGISTERS).map(|one| format!("r{generation}-{one}"));
        let counters = (0..COUNTERS).map(|one| format!("c{generation}-{one}"));
        registers.chain(counters).collect()
    }
}

/// How the clients of one number write.
#[derive(Clone, Copy)]
enum Manner {
    Library,
    Once,
    Session,
}

impl Clients {
    /// Starts so many of them. What they do follows from the seed, how they interleave does not.
    pub fn start(clients: u64, seed: u64, addresses: &[SocketAddr]) -> Clients {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            record: Mutex::default(),
            addresses: Mutex::new(addresses.to_vec()),
        });
        let stop = watch::channel(false).0;
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let manner = match number % 3 {
                0 => Manner::Library,
                1 => Manner::Once,
                _ => Manner::Session,
            };
            let one = One {
                number,
                random: StdRng::seed_from_u64(seed.wrapping_add(1 + number)),
                shared: shared.clone(),
                stop: stop.subscribe(),
                nodes: BTreeMap::new(),
                library: None,
                session: None,
                read: BTreeMap::new(),
                values: 0,
            };
            tasks.spawn_on(one.work(manner), runtime.handle());
        }
        Clients {
            runtime,
            shared,
            stop,
            tasks,
        }
    }

    /// A node came.
    pub fn add(&self, address: SocketAddr) {
        self.shared.addresses.lock().unwrap().push(address);
    }

    /// What they were told so far.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.shared.record()
    }

    /// No new operations; waits until everybody has the answer that they wait for.
    pub fn finish(&mut self, within: Duration) -> Result<(), String> {
        self.stop.send_replace(true);
        let tasks = &mut self.tasks;
        let ended = self.runtime.block_on(async {
            let all = async {
                while let Some(task) = tasks.join_next().await {
                    task.unwrap();
                }
            };
            timeout(within, all).await
        });
        ended.map_err(|_| format!("a client has no answer after {within:?}"))
    }

    /// Reads every key that there was, through one node and another, as a last client.
    pub fn read_all(&self, seed: u64, within: Duration) -> Result<(), String> {
        let mut one = One {
            number: 999,
            random: StdRng::seed_from_u64(seed),
            shared: self.shared.clone(),
            stop: self.stop.subscribe(),
            nodes: BTreeMap::new(),
            library: None,
            session: None,
            read: BTreeMap::new(),
            values: 0,
        };
        let read = async {
            for generation in 0..=self.shared.generation() {
                for key in Shared::keys(generation) {
                    while !one.get(&key, false).await {
                        sleep(RETRY).await;
                    }
                }
            }
        };
        let ended = self.runtime.block_on(async { timeout(within, read).await });
        ended.map_err(|_| format!("the keys could not be read within {within:?}"))
    }
}

struct One {
    number: u64,
    random: StdRng,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    /// Connections that stand.
    nodes: BTreeMap<SocketAddr, RaftClient<Channel>>,
    library: Option<Client>,
    /// Its id, and the next sequence.
    session: Option<(u64, u64)>,
    /// What this client read last of each key.
    read: BTreeMap<String, Bytes>,
    /// How many values it has written.
    values: u64,
}

/// What an attempt at a write came to.
enum Told {
    Reply(PutEntryReply),
    /// It was not appended, and never will be.
    No,
    Unknown,
}

impl One {
    async fn work(mut self, manner: Manner) {
        while !*self.stop.borrow() {
            let generation = self.shared.generation();
            let keys = Shared::keys(generation);
            let key = keys[self.random.random_range(0..keys.len())].clone();
            let draw = self.random.random_range(0..100);
            let counter = key.starts_with('c');
            match draw {
                0..45 if counter => {
                    let by = self.random.random_range(1..4);
                    self.write(manner, &key, Action::Increment(by)).await;
                }
                0..28 => {
                    let value = self.value();
                    self.write(manner, &key, Action::Put(value)).await;
                }
                28..42 => {
                    // Without anything read, one that cannot succeed.
                    let old = self.read.get(&key).cloned();
                    let old = old.unwrap_or_else(|| Bytes::from_static(b"nothing"));
                    let new = self.value();
                    self.write(manner, &key, Action::CompareAndSwap { old, new })
                        .await;
                }
                // A counter that is only added to has a sum that can be checked.
                42..47 if !counter => self.write(manner, &key, Action::Delete).await,
                47..57 => _ = self.get(&key, true).await,
                57..60 => self.list(generation).await,
                _ => _ = self.get(&key, false).await,
            }
            let (least, most) = THINKING_MS;
            let thinking = self.random.random_range(least..=most);
            sleep(Duration::from_millis(thinking)).await;
        }
    }

    /// One that nobody else writes.
    fn value(&mut self) -> Bytes {
        self.values += 1;
        format!("v{}.{}", self.number, self.values).into()
    }

    fn any(&mut self) -> SocketAddr {
        let addresses = self.shared.addresses.lock().unwrap();
        addresses[self.random.random_range(0..addresses.len())]
    }

    /// A connection to a node. None: there is none, and so nothing was sent.
    async fn node(&mut self, address: SocketAddr) -> Option<RaftClient<Channel>> {
        if let Some(node) = self.nodes.get(&address) {
            return Some(node.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let endpoint = endpoint.connect_timeout(CONNECT);
        let channel = timeout(CONNECT, endpoint.connect()).await.ok()?.ok()?;
        let node = RaftClient::new(channel);
        self.nodes.insert(address, node.clone());
        Some(node)
    }

    async fn write(&mut self, manner: Manner, key: &str, action: Action) {
        let entry: Bytes = match &action {
            Action::Put(value) => [b"PUT ", key.as_bytes(), b" ", value].concat().into(),
            Action::Delete => format!("DELETE {key}").into(),
            Action::CompareAndSwap { old, new } => [b"CAS ", key.as_bytes(), b" ", old, b" ", new]
                .concat()
                .into(),
            Action::Increment(by) => format!("INCR {key} {by}").into(),
            Action::Get | Action::Exists => return,
        };
        let invoked = self.shared.now();
        let told = match manner {
            Manner::Library => self.by_library(entry).await,
            Manner::Once => {
                let request = pb::PutEntryRequest {
                    entry,
                    timeout_ms: ANSWER_MS,
                    ..pb::PutEntryRequest::default()
                };
                let address = self.any();
                self.once(address, request).await
            }
            Manner::Session => self.in_session(entry).await,
        };
        let returned = self.shared.now();
        let number = matches!(action, Action::Increment(_));
        let outcome = match told {
            Told::Reply(reply) => match answer(reply.kind, &reply.data, number) {
                Ok(answer) => Outcome::Done {
                    returned,
                    answer,
                    index: reply.index,
                },
                Err(kind) => {
                    let sentence = format!("{action:?} of {key} was answered with kind {kind}");
                    self.shared.record().wrong.push(sentence);
                    Outcome::Unknown
                }
            },
            Told::No => Outcome::Refused,
            Told::Unknown => Outcome::Unknown,
        };
        let mut record = self.shared.record();
        record.written += u64::from(matches!(outcome, Outcome::Done { .. }));
        record.operations.push(Operation {
            client: self.number,
            key: Bytes::copy_from_slice(key.as_bytes()),
            action,
            invoked,
            outcome,
        });
    }

    async fn by_library(&mut self, entry: Bytes) -> Told {
        if self.library.is_none() {
            let addresses = self.shared.addresses.lock().unwrap();
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            self.library = Some(Client::new(Options {
                endpoints: parse_endpoints(&addresses.join(",")).unwrap(),
                timeout: ATTEMPT,
            }));
        }
        let Some(client) = &mut self.library else {
            return Told::No;
        };
        match client.put_entry(entry).await {
            Ok(reply) => Told::Reply(reply),
            Err(ClientError::OutcomeUnknown(_)) => Told::Unknown,
            // "It was not appended, and never will be."
            Err(_) => Told::No,
        }
    }

    async fn once(&mut self, address: SocketAddr, request: pb::PutEntryRequest) -> Told {
        let Some(mut node) = self.node(address).await else {
            return Told::No;
        };
        let told = match in_time(node.put_entry(request)).await {
            Ok(reply) => return Told::Reply(self.follow(address, reply)),
            Err(status) => match detail_of(&status).map(|detail| detail.kind()) {
                Some(kind) if never_appended(kind) => Told::No,
                _ => Told::Unknown,
            },
        };
        self.nodes.remove(&address);
        told
    }

    fn follow(&self, address: SocketAddr, reply: PutEntryReply) -> PutEntryReply {
        let led = reply
            .leader
            .as_ref()
            .is_some_and(|leader| is_at(leader, address));
        self.shared.record().followed += u64::from(!led);
        reply
    }

    /// The same request again and again, until an answer comes: it is executed once.
    async fn in_session(&mut self, entry: Bytes) -> Told {
        let until = Instant::now() + PATIENCE;
        while self.session.is_none() {
            let address = self.any();
            if let Some(mut node) = self.node(address).await {
                let request = pb::RegisterSessionRequest {
                    timeout_ms: ANSWER_MS,
                    ..Default::default()
                };
                match in_time(node.register_session(request)).await {
                    Ok(reply) => self.session = Some((reply.session, 1)),
                    Err(_) => _ = self.nodes.remove(&address),
                }
            }
            if Instant::now() > until {
                return Told::No;
            }
            sleep(RETRY).await;
        }
        let Some((session, sequence)) = self.session else {
            return Told::No;
        };
        let request = pb::PutEntryRequest {
            entry,
            session,
            sequence,
            acked_below: sequence,
            timeout_ms: ANSWER_MS,
            ..pb::PutEntryRequest::default()
        };
        let mut doubt = false;
        while Instant::now() < until {
            let address = self.any();
            match self.once(address, request.clone()).await {
                Told::Reply(reply) => {
                    self.session = Some((session, sequence + 1));
                    return Told::Reply(reply);
                }
                Told::No => {}
                Told::Unknown => doubt = true,
            }
            sleep(RETRY).await;
        }
        // The number is used up: who used it again would be answered for the entry that it was.
        self.session = None;
        if doubt { Told::Unknown } else { Told::No }
    }

    /// Whether it was answered.
    async fn get(&mut self, key: &str, stale: bool) -> bool {
        let invoked = self.shared.now();
        let Some(reply) = self.query(format!("GET {key}"), stale).await else {
            return false;
        };
        match answer(reply.kind, &reply.data, true) {
            Ok(answer) => {
                if let Answer::Value(value) = &answer {
                    self.read.insert(key.to_owned(), value.clone());
                }
                self.note_read(
                    key,
                    Action::Get,
                    invoked,
                    answer,
                    reply.applied_index,
                    stale,
                );
            }
            Err(kind) => {
                let sentence = format!("GET {key} was answered with kind {kind}");
                self.shared.record().wrong.push(sentence);
            }
        }
        true
    }

    /// What a LIST tells of the registers of a generation.
    async fn list(&mut self, generation: u64) {
        let invoked = self.shared.now();
        let query = format!("LIST r{generation}-");
        let Some(reply) = self.query(query, false).await else {
            return;
        };
        let listed: Vec<&[u8]> = reply.data.split(|byte| *byte == b'\n').collect();
        for key in Shared::keys(generation) {
            if key.starts_with('r') {
                let answer = if listed.contains(&key.as_bytes()) {
                    Answer::Done
                } else {
                    Answer::NotFound
                };
                self.note_read(
                    &key,
                    Action::Exists,
                    invoked,
                    answer,
                    reply.applied_index,
                    false,
                );
            }
        }
    }

    async fn query(&mut self, query: String, stale: bool) -> Option<QueryReply> {
        let address = self.any();
        let mut node = self.node(address).await?;
        let request = pb::QueryRequest {
            query: query.into(),
            stale,
            timeout_ms: ANSWER_MS,
            ..pb::QueryRequest::default()
        };
        match in_time(node.query(request)).await {
            Ok(reply) => {
                let led = reply
                    .leader
                    .as_ref()
                    .is_some_and(|leader| is_at(leader, address));
                self.shared.record().followed += u64::from(!led);
                Some(reply)
            }
            Err(_) => {
                self.nodes.remove(&address);
                None
            }
        }
    }

    fn note_read(
        &self,
        key: &str,
        action: Action,
        invoked: u64,
        answer: Answer,
        index: u64,
        stale: bool,
    ) {
        let operation = Operation {
            client: self.number,
            key: Bytes::copy_from_slice(key.as_bytes()),
            action,
            invoked,
            outcome: Outcome::Done {
                returned: self.shared.now(),
                answer,
                index,
            },
        };
        let mut record = self.shared.record();
        record.read += 1;
        if stale {
            record.stale.push(operation);
        } else {
            record.operations.push(operation);
        }
    }
}

/// One attempt.
async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(ATTEMPT, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn is_at(node: &pb::NodeReference, address: SocketAddr) -> bool {
    node.address == address.to_string()
}

/// What a result means; with `value`, its data are a value. Err: it means nothing that we asked for.
fn answer(kind: i32, data: &Bytes, value: bool) -> Result<Answer, i32> {
    match ResultKind::try_from(kind) {
        Ok(ResultKind::Ok) if value => Ok(Answer::Value(data.clone())),
        Ok(ResultKind::Ok) => Ok(Answer::Done),
        Ok(ResultKind::NotFound) => Ok(Answer::NotFound),
        Ok(ResultKind::Rejected) => Ok(Answer::Rejected),
        _ => Err(kind),
    }
}

/// Kinds whose promise is that the entry was not appended, and never will be.
fn never_appended(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NoLeader
            | ErrorKind::NotLeader
            | ErrorKind::TooLarge
            | ErrorKind::Overloaded
            | ErrorKind::NoCluster
            | ErrorKind::Invalid
            | ErrorKind::Founding
            | ErrorKind::LogFull
    )
}
