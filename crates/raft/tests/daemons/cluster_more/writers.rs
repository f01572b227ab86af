//! Writers that put entry after entry, each in a session of its own, and send every entry until it is
//! acknowledged, whatever happens to the nodes: always with the same session and sequence, through
//! any node, and often through two nodes at once. All of an entry's copies reach the log sooner or
//! later, and one of them may be executed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;
use wire::raft::raft_client::RaftClient;
use wire::raft::{self as pb, ErrorKind, PutEntryReply, ResultKind};
use wire::status::detail_of;

use super::calls::{ANSWER_MS, await_all, client, in_time};

/// Between two attempts at the same entry.
const RETRY: Duration = Duration::from_millis(5);

/// Between two entries of one writer: the logs that are compared in the end stay readable.
const PAUSE: Duration = Duration::from_millis(2);

/// A read that fails is tried again elsewhere, and after this it counts as refused for good.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// So many reads at a time.
const READERS: usize = 8;

/// An entry whose write was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The session's id.
    pub session: u64,
    /// Its place in the session.
    pub sequence: u64,
    /// Where it stands, as the reply says.
    pub index: u64,
    /// In which term, as the reply says.
    pub term: u64,
}

impl Acknowledged {
    /// The key that it sets, which no other entry sets.
    pub fn key(&self) -> String {
        key(self.session, self.sequence)
    }

    /// The value.
    pub fn value(&self) -> String {
        value(self.session, self.sequence)
    }

    /// The entry, as it was sent.
    pub fn entry(&self) -> String {
        entry(self.session, self.sequence)
    }
}

fn key(session: u64, sequence: u64) -> String {
    format!("key-{session}-{sequence}")
}

fn value(session: u64, sequence: u64) -> String {
    format!("value {sequence} of session {session}")
}

fn entry(session: u64, sequence: u64) -> String {
    format!(
        "PUT {} {}",
        key(session, sequence),
        value(session, sequence)
    )
}

/// What the writers have seen.
#[derive(Default)]
pub struct Book {
    /// In the order of the answers. An entry that was sent twice at once may be in it twice.
    pub acknowledged: Vec<Acknowledged>,
    /// For each writer, how many of its entries are done.
    pub done: Vec<u64>,
    /// Answers that no correct cluster gives.
    pub wrong: Vec<String>,
    /// Answers other than an acknowledgement.
    pub refused: u64,
}

/// See the module. Dropping it ends the writers where they stand.
pub struct Writers {
    runtime: Runtime,
    nodes: Vec<RaftClient<Channel>>,
    book: Arc<Mutex<Book>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Starts so many writers. They register their sessions as soon as somebody answers.
    pub fn start(writers: usize, addresses: &[SocketAddr]) -> Writers {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let book = Book {
            done: vec![0; writers],
            ..Book::default()
        };
        // Connections of their own: what one writer breaks is nothing to the others.
        let clients = |runtime: &Runtime| {
            let _guard = runtime.enter();
            addresses.iter().map(|at| client(*at)).collect()
        };
        let mut started = Writers {
            nodes: clients(&runtime),
            runtime,
            book: Arc::new(Mutex::new(book)),
            stop: watch::channel(false).0,
            tasks: JoinSet::new(),
        };
        for number in 0..writers {
            let writer = Writer {
                number,
                nodes: clients(&started.runtime),
                book: started.book.clone(),
                stop: started.stop.subscribe(),
            };
            started
                .tasks
                .spawn_on(writer.run(), started.runtime.handle());
        }
        started
    }

    /// What they have seen so far.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// No new entries; waits until every one that was begun is acknowledged.
    pub fn finish(&mut self, within: Duration) {
        self.stop.send_replace(true);
        await_all(&self.runtime, &mut self.tasks, within);
    }

    /// Reads all these keys, linearizably, through any node. Returns what is wrong.
    pub fn read_back(&self, writes: &[Acknowledged]) -> Vec<String> {
        let mut tasks = JoinSet::new();
        for part in writes.chunks(writes.len().div_ceil(READERS).max(1)) {
            let (part, nodes) = (part.to_vec(), self.nodes.clone());
            let reading = async move {
                let mut wrong = Vec::new();
                for write in part {
                    match read(&nodes, &write.key()).await {
                        Ok(found) if found == write.value().as_bytes() => {}
                        Ok(found) => {
                            let found = String::from_utf8_lossy(&found).into_owned();
                            wrong.push(format!("{write:?} was acknowledged, and reads {found:?}"));
                        }
                        Err(error) => wrong.push(format!("{write:?} cannot be read: {error}")),
                    }
                }
                wrong
            };
            tasks.spawn_on(reading, self.runtime.handle());
        }
        self.runtime.block_on(tasks.join_all()).concat()
    }
}

fn any(nodes: &[RaftClient<Channel>]) -> RaftClient<Channel> {
    nodes[rand::random_range(0..nodes.len())].clone()
}

/// The value of a key, or the bytes of whatever sentence came instead.
async fn read(nodes: &[RaftClient<Channel>], key: &str) -> Result<Vec<u8>, Status> {
    let deadline = Instant::now() + READ_DEADLINE;
    loop {
        let request = pb::QueryRequest {
            query: format!("GET {key}").into(),
            timeout_ms: ANSWER_MS,
            ..pb::QueryRequest::default()
        };
        match in_time(any(nodes).query(request)).await {
            Ok(reply) => return Ok(reply.data.to_vec()),
            Err(status) if Instant::now() > deadline => return Err(status),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

struct Writer {
    number: usize,
    nodes: Vec<RaftClient<Channel>>,
    book: Arc<Mutex<Book>>,
    stop: watch::Receiver<bool>,
}

impl Writer {
    async fn run(self) {
        let session = self.register().await;
        let mut sequence = 1;
        while let Some(session) = session
            && !*self.stop.borrow()
        {
            self.put(session, sequence).await;
            sequence += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A session that was opened without an answer is never used; nobody minds.
    async fn register(&self) -> Option<u64> {
        while !*self.stop.borrow() {
            let request = pb::RegisterSessionRequest {
                timeout_ms: ANSWER_MS,
                ..Default::default()
            };
            if let Ok(reply) = in_time(any(&self.nodes).register_session(request)).await {
                return Some(reply.session);
            }
            tokio::time::sleep(RETRY).await;
        }
        None
    }

    /// Sends one entry until it is acknowledged.
    async fn put(&self, session: u64, sequence: u64) {
        let request = pb::PutEntryRequest {
            entry: entry(session, sequence).into(),
            session,
            sequence,
            acked_below: sequence,
            timeout_ms: ANSWER_MS,
            ..pb::PutEntryRequest::default()
        };
        loop {
            let (mut one, mut other) = (any(&self.nodes), any(&self.nodes));
            let answers = if rand::random_bool(0.3) {
                let both = tokio::join!(
                    in_time(one.put_entry(request.clone())),
                    in_time(other.put_entry(request.clone()))
                );
                vec![both.0, both.1]
            } else {
                vec![in_time(one.put_entry(request.clone())).await]
            };
            if self.note(&request, answers) {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Writes the answers down; says whether the entry is done.
    fn note(
        &self,
        request: &pb::PutEntryRequest,
        answers: Vec<Result<PutEntryReply, Status>>,
    ) -> bool {
        let mut book = self.book.lock().unwrap();
        let mut done = false;
        for answer in answers {
            done |= note(&mut book, request, answer);
        }
        book.done[self.number] += u64::from(done);
        done
    }
}

/// Writes an answer down; says whether it is an acknowledgement.
fn note(
    book: &mut Book,
    request: &pb::PutEntryRequest,
    answer: Result<PutEntryReply, Status>,
) -> bool {
    let (session, sequence) = (request.session, request.sequence);
    match answer {
        Ok(reply) => {
            // A retry is answered with the outcome of the first, to the byte.
            if reply.kind() != ResultKind::Ok || reply.data != "Success!" {
                book.wrong.push(format!(
                    "({session}, {sequence}) was answered with {reply:?}"
                ));
            }
            let (index, term) = (reply.index, reply.term);
            book.acknowledged.push(Acknowledged {
                session,
                sequence,
                index,
                term,
            });
            true
        }
        Err(status) => {
            book.refused += 1;
            // The session was acknowledged, and no later sequence was ever sent.
            if let Some(ErrorKind::SessionExpired | ErrorKind::StaleSequence) =
                detail_of(&status).map(|detail| detail.kind())
            {
                book.wrong
                    .push(format!("({session}, {sequence}) was refused: {status}"));
            }
            false
        }
    }
}
