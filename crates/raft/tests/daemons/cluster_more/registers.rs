//! Registers with one writer each, and readers that check every answer at once.
//!
//! A writer puts 1, 2, 3, ... to its key, in a session, and sends each number until it is acknowledged.
//! So the order of a key's writes is known, and a linearizable read is one that
//! - returns no less than the highest number whose write was acknowledged before the read began,
//! - returns no less than what any read returned that ended before this one began, through whichever
//!   node, of whichever client,
//! - returns no more than the highest number whose write was begun before the read ended.
//!
//! For registers with one writer this is not only necessary: values in that order can be placed between
//! the writes as linearizability asks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::Channel;
use wire::raft::raft_client::RaftClient;
use wire::raft::{self as pb, ResultKind};

use super::calls::{ANSWER_MS, await_all, client, in_time};

/// Before what failed is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// Between two writes of one writer. Readers never wait.
const PAUSE: Duration = Duration::from_millis(2);

/// More sentences than this say nothing new.
const WRONG_MAX: usize = 20;

/// One key, as its writer and its readers know it.
#[derive(Default)]
struct Register {
    /// The highest number that was ever sent.
    begun: AtomicU64,
    /// The highest number whose write was answered.
    acknowledged: AtomicU64,
    /// The highest number that a read has returned.
    seen: AtomicU64,
}

/// The reads through one node.
#[derive(Default)]
pub struct Reads {
    /// Answered while the node said that it leads.
    pub leading: AtomicU64,
    /// Answered while it said that another one leads, or nobody.
    pub following: AtomicU64,
    /// Not answered.
    pub refused: AtomicU64,
}

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Keys, and so writers.
    pub registers: usize,
    /// Readers of each node; they read all keys.
    pub readers_per_node: usize,
}

struct Shared {
    registers: Vec<Register>,
    reads: Vec<Reads>,
    wrong: Mutex<Vec<String>>,
}

/// See the module. Dropping it ends everybody where they stand.
pub struct Registers {
    runtime: Runtime,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Registers {
    /// Starts writers and readers. Each node is an address and its node_id.
    pub fn start(plan: Plan, nodes: &[(SocketAddr, Bytes)]) -> Registers {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            registers: (0..plan.registers).map(|_| Register::default()).collect(),
            reads: nodes.iter().map(|_| Reads::default()).collect(),
            wrong: Mutex::default(),
        });
        let stop = watch::channel(false).0;
        let mut tasks = JoinSet::new();
        let _guard = runtime.enter();
        for register in 0..plan.registers {
            let nodes = nodes.iter().map(|(at, _)| client(*at)).collect();
            let stop = stop.subscribe();
            tasks.spawn(write(shared.clone(), register, nodes, stop));
        }
        for (node, (address, id)) in nodes.iter().enumerate() {
            for _ in 0..plan.readers_per_node {
                let stop = stop.subscribe();
                let reader = (node, id.clone(), client(*address));
                tasks.spawn(read(shared.clone(), reader, stop));
            }
        }
        drop(_guard);
        Registers {
            runtime,
            shared,
            stop,
            tasks,
        }
    }

    /// Writes that were acknowledged.
    pub fn written(&self) -> u64 {
        let each = self.shared.registers.iter();
        each.map(|one| one.acknowledged.load(SeqCst)).sum()
    }

    /// Reads that were answered, by any node.
    pub fn read(&self) -> u64 {
        let each = self.reads().iter();
        each.map(|one| one.leading.load(SeqCst) + one.following.load(SeqCst))
            .sum()
    }

    /// The reads through each node.
    pub fn reads(&self) -> &[Reads] {
        &self.shared.reads
    }

    /// What no linearizable register does.
    pub fn wrong(&self) -> Vec<String> {
        self.shared.wrong.lock().unwrap().clone()
    }

    /// Nothing new; waits until everybody has the answer that they wait for.
    pub fn finish(&mut self, within: Duration) {
        self.stop.send_replace(true);
        await_all(&self.runtime, &mut self.tasks, within);
    }
}

async fn write(
    shared: Arc<Shared>,
    register: usize,
    nodes: Vec<RaftClient<Channel>>,
    stop: watch::Receiver<bool>,
) {
    let any = || nodes[rand::random_range(0..nodes.len())].clone();
    let session = loop {
        let request = pb::RegisterSessionRequest {
            timeout_ms: ANSWER_MS,
            ..Default::default()
        };
        match in_time(any().register_session(request)).await {
            Ok(reply) => break reply.session,
            Err(_) if *stop.borrow() => return,
            Err(_) => sleep(RETRY).await,
        }
    };
    let known = &shared.registers[register];
    for number in 1.. {
        if *stop.borrow() {
            return;
        }
        known.begun.store(number, SeqCst);
        let request = pb::PutEntryRequest {
            entry: format!("PUT register-{register} {number}").into(),
            session,
            sequence: number,
            acked_below: number,
            timeout_ms: ANSWER_MS,
            ..pb::PutEntryRequest::default()
        };
        while in_time(any().put_entry(request.clone())).await.is_err() {
            sleep(RETRY).await;
        }
        known.acknowledged.store(number, SeqCst);
        sleep(PAUSE).await;
    }
}

async fn read(
    shared: Arc<Shared>,
    (node, id, client): (usize, Bytes, RaftClient<Channel>),
    stop: watch::Receiver<bool>,
) {
    let reads = &shared.reads[node];
    while !*stop.borrow() {
        let register = rand::random_range(0..shared.registers.len());
        let known = &shared.registers[register];
        let (acknowledged, seen) = (known.acknowledged.load(SeqCst), known.seen.load(SeqCst));
        let request = pb::QueryRequest {
            query: format!("GET register-{register}").into(),
            timeout_ms: ANSWER_MS,
            ..pb::QueryRequest::default()
        };
        let Ok(reply) = in_time(client.clone().query(request)).await else {
            reads.refused.fetch_add(1, SeqCst);
            sleep(RETRY).await;
            continue;
        };
        let begun = known.begun.load(SeqCst);
        let leading = reply.leader.is_some_and(|leader| leader.node_id == id);
        let number = match reply.kind.try_into() {
            Ok(ResultKind::NotFound) => Some(0),
            Ok(ResultKind::Ok) => number(&reply.data),
            _ => None,
        };
        let wrong = match number {
            None => Some("is no number".to_owned()),
            Some(number) => wrong(number, acknowledged, seen, begun),
        };
        if let Some(wrong) = wrong {
            let role = if leading { "leads" } else { "follows" };
            let mut all = shared.wrong.lock().unwrap();
            if all.len() < WRONG_MAX {
                all.push(format!(
                    "register {register}, read at node {} which {role}, at entry {}: {:?} {wrong}",
                    node + 1,
                    reply.applied_index,
                    reply.data
                ));
            }
        }
        known.seen.fetch_max(number.unwrap_or_default(), SeqCst);
        let answered = if leading {
            &reads.leading
        } else {
            &reads.following
        };
        answered.fetch_add(1, SeqCst);
    }
}

fn number(data: &[u8]) -> Option<u64> {
    std::str::from_utf8(data).ok()?.parse().ok()
}

/// What is wrong with a read of that number.
fn wrong(number: u64, acknowledged: u64, seen: u64, begun: u64) -> Option<String> {
    match () {
        () if number < acknowledged => Some(format!(
            "although {acknowledged} was acknowledged before the read began"
        )),
        () if number < seen => Some(format!(
            "although another read had returned {seen} before this one began"
        )),
        () if number > begun => Some(format!("although nobody has written more than {begun}")),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_read_stays_between_what_was_known_before_and_what_was_begun() {
        let right = |number| super::wrong(number, 3, 4, 6).is_none();
        let all: Vec<u64> = (0..9).filter(|number| right(*number)).collect();
        assert_eq!(all, [4, 5, 6]);
        assert!(super::wrong(4, 5, 4, 6).is_some(), "less than acknowledged");
    }
}
