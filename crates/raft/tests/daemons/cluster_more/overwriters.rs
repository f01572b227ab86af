//! Writers that put large values to few keys, again and again. Each has keys of its own, so the last
//! value of every key is known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use wire::raft::raft_client::RaftClient;
use wire::raft::{self as pb, ResultKind};

/// One attempt takes no longer.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Before what failed is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Keys; a multiple of the writers.
    pub keys: u64,
    /// The length of each value.
    pub value_bytes: u64,
    /// Writes in all; a multiple of the writers, and no fewer than there are keys.
    pub writes: u64,
    /// How many write at a time.
    pub writers: u64,
}

impl Plan {
    /// The key of a write, from 0.
    pub fn key(&self, write: u64) -> String {
        format!("key-{}", write % self.keys)
    }

    /// What it is set to.
    pub fn value(&self, write: u64) -> Bytes {
        let head = format!("{write} ");
        let rest = usize::try_from(self.value_bytes).unwrap() - head.len();
        (head + &"x".repeat(rest)).into()
    }

    /// The last write of each key.
    pub fn last(&self) -> std::ops::Range<u64> {
        self.writes - self.keys..self.writes
    }
}

/// See the module. Dropping it ends the writers where they stand.
pub struct Overwriters {
    plan: Plan,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    written: AtomicU64,
}

impl Overwriters {
    /// Starts the writers, which send to one node.
    pub fn start(plan: Plan, address: SocketAddr) -> Overwriters {
        assert!(plan.keys.is_multiple_of(plan.writers) && plan.writes.is_multiple_of(plan.writers));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for writer in 0..plan.writers {
            let work = write(plan, writer, address, shared.clone());
            tasks.spawn_on(work, runtime.handle());
        }
        Overwriters {
            plan,
            shared,
            _tasks: tasks,
            _runtime: runtime,
        }
    }

    /// Bytes of values whose write was acknowledged.
    pub fn bytes(&self) -> u64 {
        self.shared.written.load(SeqCst) * self.plan.value_bytes
    }
}

async fn write(plan: Plan, writer: u64, address: SocketAddr, shared: Arc<Shared>) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = RaftClient::new(endpoint.timeout(ATTEMPT).connect_lazy());
    for write in (writer..plan.writes).step_by(usize::try_from(plan.writers).unwrap()) {
        let entry = [
            format!("PUT {} ", plan.key(write)).as_bytes(),
            &plan.value(write),
        ]
        .concat();
        let request = pb::PutEntryRequest {
            entry: entry.into(),
            ..pb::PutEntryRequest::default()
        };
        // Putting it twice is putting it once: nobody else has this key.
        while !client
            .put_entry(request.clone())
            .await
            .is_ok_and(|reply| reply.into_inner().kind() == ResultKind::Ok)
        {
            tokio::time::sleep(RETRY).await;
        }
        shared.written.fetch_add(1, SeqCst);
    }
}
