//! What the daemon's tasks may see of each other: a view of the driver's state, published after
//! every round, and the few things that others publish. Nobody but the driver touches `Raft`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::Config;
use raft_core::{Boot, ClusterId, Configuration, Index, NodeId, RoleName, Term};
use tokio::sync::watch;
use tonic::transport::Channel;
use wire::raft as pb;
use wire::state_machine::state_machine_client::StateMachineClient;

use crate::addresses::AddressBook;
use crate::comparison::Chains;
use crate::limits::MAX_PEERS;
use crate::metrics::Metrics;

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What this node does.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
}

/// The state machine, as the current epoch knows it (R3).
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The epoch; 0: none was ever opened.
    pub epoch: u64,
    /// The connection of the epoch. None between two epochs, and in quarantine.
    pub client: Option<StateMachineClient<Channel>>,
    /// The instance that answered the handshake.
    pub nonce: u64,
    /// What this epoch acknowledged as applied.
    pub applied: Index,
    /// "name version", for people.
    pub title: String,
    /// It can write its state down.
    pub takes_snapshots: bool,
}

/// Why the daemon ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was told to.
    Stopped,
    /// Its node id has left the cluster for good; the marker is written (M3).
    Retired(String),
    /// It cannot go on; the sentence says why.
    Failed(String),
}

/// Numbers that change with every round; each may be read at any time, none together with another
/// but for the claim.
#[derive(Debug, Default)]
pub struct Progress {
    commit: AtomicU64,
    last: AtomicU64,
    durable: AtomicU64,
    first: AtomicU64,
    snapshot: AtomicU64,
    claim: Mutex<(Term, Index)>,
    recorded: AtomicU64,
    has_entries: AtomicBool,
}

macro_rules! gauge {
    ($($(#[$doc:meta])* $name:ident, $set:ident;)+) => {
        impl Progress {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> u64 {
                    self.$name.load(Ordering::Acquire)
                }
                #[allow(missing_docs)]
                pub fn $set(&self, value: u64) {
                    self.$name.store(value, Ordering::Release);
                }
            )+
        }
    };
}
gauge! {
    /// The commit index.
    commit, set_commit;
    /// Where the log ends.
    last, set_last;
    /// Where the durable log ends.
    durable, set_durable;
    /// The first entry that is left in the log.
    first, set_first;
    /// The last entry that the newest snapshot covers.
    snapshot, set_snapshot;
    /// Everything up to here was applied and its outcomes are in the session table.
    recorded, set_recorded;
}

impl Progress {
    /// The durable term, and where the durable log ends, both as of one moment: what this node may
    /// claim of its disk (D5). One of them older than the other would look like a loss.
    pub fn claim(&self) -> (Term, Index) {
        *locked(&self.claim)
    }

    #[allow(missing_docs)]
    pub fn set_claim(&self, claim: (Term, Index)) {
        *locked(&self.claim) = claim;
    }

    /// Whether anything beyond the founding is in the log (F2).
    pub fn has_entries(&self) -> bool {
        self.has_entries.load(Ordering::Acquire)
    }

    #[allow(missing_docs)]
    pub fn set_has_entries(&self, value: bool) {
        self.has_entries.store(value, Ordering::Release);
    }
}

/// The configurations that the driver published last.
#[derive(Clone, Debug, Default)]
pub struct Configurations {
    /// Index of the latest one.
    pub index: Index,
    /// The latest in the log.
    pub latest: Arc<Configuration>,
    /// The latest that is committed.
    pub committed: Arc<Configuration>,
}

/// See the module.
pub struct Shared {
    /// This node.
    pub id: NodeId,
    /// Starts of `raft` on this data directory.
    pub boot: Boot,
    /// The daemon's configuration.
    pub config: Arc<Config>,
    /// Who leads.
    pub standing: watch::Sender<Standing>,
    /// The cluster that this node has bound: its founding entry is durable here (F4).
    pub cluster: watch::Sender<Option<ClusterId>>,
    /// The state machine.
    pub machine: watch::Sender<Machine>,
    /// Set once, when the daemon must end.
    pub ending: watch::Sender<Option<Ending>>,
    /// Becomes true when the daemon begins to stop: nothing new is begun.
    pub stopping: watch::Sender<bool>,
    /// Where the lobby stands: "lobby", "joining", "".
    pub founding: Mutex<String>,
    /// Indices.
    pub progress: Progress,
    /// Where the other nodes are.
    pub addresses: AddressBook,
    /// Counters and gauges for Prometheus.
    pub metrics: Metrics,
    log_cluster: Mutex<Option<ClusterId>>,
    /// Operators' orders in the log: the entry that each names, and where it stands (P5).
    skips: Mutex<BTreeMap<Index, Index>>,
    /// The entry on which the state machine fails; 0: there is none.
    poison: AtomicU64,
    configurations: Mutex<Configurations>,
    alarms: Mutex<BTreeMap<String, String>>,
    rolled_back: Mutex<BTreeSet<NodeId>>,
    /// Counts changes of who may be who it is: a removal was committed, or a disk rolled back.
    pub standings: watch::Sender<u64>,
    /// Who asked last what is on this node's disk.
    pub asked_by: watch::Sender<Option<IpAddr>>,
    /// Where `member` says that this node is.
    pub own_ip: Mutex<Option<IpAddr>>,
    /// What came of the newest entries (P4).
    pub chains: Chains,
    /// Why the state machine beside this node is not used any more (P4). Once set, it stays.
    pub quarantine: watch::Sender<Option<String>>,
}

/// A lock whose holder panicked is still a lock over a value that is whole: every critical section
/// here is a single assignment or insertion.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The state before the driver's first round.
    pub fn new(id: NodeId, boot: Boot, config: Arc<Config>, addresses: AddressBook) -> Shared {
        let standing = Standing {
            role: RoleName::Follower,
            term: 0,
            leader: None,
        };
        Shared {
            id,
            boot,
            config,
            standing: watch::Sender::new(standing),
            cluster: watch::Sender::new(None),
            machine: watch::Sender::new(Machine::default()),
            ending: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            founding: Mutex::new(String::new()),
            progress: Progress::default(),
            addresses,
            metrics: Metrics::default(),
            log_cluster: Mutex::default(),
            skips: Mutex::default(),
            poison: AtomicU64::new(0),
            configurations: Mutex::default(),
            alarms: Mutex::default(),
            rolled_back: Mutex::default(),
            standings: watch::Sender::new(0),
            asked_by: watch::Sender::new(None),
            own_ip: Mutex::default(),
            chains: Chains::default(),
            quarantine: watch::Sender::new(None),
        }
    }

    /// Who leads, now.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Whether this node leads, now.
    pub fn leads(&self) -> bool {
        self.standing().role == RoleName::Leader
    }

    /// The bound cluster, now.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        *self.cluster.borrow()
    }

    /// The cluster of the log, bound or about to be: what others are measured by. What this node
    /// says of itself is [`Shared::cluster_id`].
    pub fn log_cluster(&self) -> Option<ClusterId> {
        self.cluster_id().or_else(|| *locked(&self.log_cluster))
    }

    /// Publishes the cluster of the log.
    pub fn set_log_cluster(&self, cluster: Option<ClusterId>) {
        *locked(&self.log_cluster) = cluster;
    }

    /// The configurations, now.
    pub fn configurations(&self) -> Configurations {
        locked(&self.configurations).clone()
    }

    /// Publishes configurations.
    pub fn set_configurations(&self, configurations: Configurations) {
        let mut published = locked(&self.configurations);
        let removals = published.committed.removed != configurations.committed.removed;
        *published = configurations;
        drop(published);
        if removals {
            self.standings.send_modify(|count| *count += 1);
        }
    }

    /// Raises or clears (`None`) the alarm of that name. The name never shows; the sentence does.
    pub fn alarm(&self, name: impl Into<String>, sentence: Option<String>) {
        let name = name.into();
        let mut alarms = locked(&self.alarms);
        match sentence {
            None => {
                if alarms.remove(&name).is_some() {
                    tracing::info!(alarm = name, "an alarm is over");
                }
            }
            Some(sentence) => {
                if alarms.get(&name) != Some(&sentence) && alarms.len() < MAX_ALARMS {
                    tracing::warn!(alarm = name, "{sentence}");
                    alarms.insert(name, sentence);
                }
            }
        }
    }

    /// Where the first order to skip the entry at `index` stands, committed or not.
    pub fn skip_of(&self, index: Index) -> Option<Index> {
        locked(&self.skips).get(&index).copied()
    }

    /// The next entry at or behind `index` that an order names.
    pub fn next_skipped(&self, index: Index) -> Option<Index> {
        let skips = locked(&self.skips);
        skips.range(index..).next().map(|(skipped, _)| *skipped)
    }

    #[allow(missing_docs)]
    pub fn set_skips(&self, skips: BTreeMap<Index, Index>) {
        *locked(&self.skips) = skips;
    }

    /// The entry on which this node's state machine fails; 0: there is none.
    pub fn poison(&self) -> Index {
        self.poison.load(Ordering::Acquire)
    }

    #[allow(missing_docs)]
    pub fn set_poison(&self, index: Index) {
        self.poison.store(index, Ordering::Release);
    }

    /// `peer` reports less than it once did: its streams are refused from now on (D5).
    pub fn roll_back(&self, peer: NodeId) {
        let mut rolled_back = locked(&self.rolled_back);
        if rolled_back.len() < MAX_PEERS && rolled_back.insert(peer) {
            drop(rolled_back);
            let sentence = format!(
                "{} ({peer}) reports less than it did before: its disk has lost what it promised. It \
                 must take a new id",
                self.name_of(peer)
            );
            self.alarm(format!("rolled-back {peer}"), Some(sentence));
            self.standings.send_modify(|count| *count += 1);
        }
    }

    /// Whether `peer` has lost what its disk promised.
    pub fn is_rolled_back(&self, peer: NodeId) -> bool {
        locked(&self.rolled_back).contains(&peer)
    }

    /// What a person should look at.
    pub fn alarms(&self) -> Vec<String> {
        locked(&self.alarms).values().cloned().collect()
    }

    /// Ends the daemon. The first reason counts.
    pub fn end(&self, ending: Ending) {
        self.ending.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(ending);
            }
            first
        });
    }

    /// How others may refer to `node`: id, and name and address where they are known.
    pub fn reference(&self, node: NodeId) -> pb::NodeReference {
        if node == self.id {
            return self.own_reference();
        }
        let entry = self.addresses.get(node);
        pb::NodeReference {
            node_id: wire::id_bytes(node.0),
            name: entry
                .as_ref()
                .map(|entry| entry.name.clone())
                .unwrap_or_default(),
            address: entry
                .map(|entry| entry.address.to_string())
                .unwrap_or_default(),
        }
    }

    fn own_reference(&self) -> pb::NodeReference {
        let told = *locked(&self.own_ip);
        let config = &self.config;
        let ip = told.or(config.advertise_ip).unwrap_or(config.bind_ip);
        pb::NodeReference {
            node_id: wire::id_bytes(self.id.0),
            name: config.name.clone(),
            address: SocketAddr::new(ip, config.rpc_port).to_string(),
        }
    }

    /// The node's name, or the beginning of its id, for log lines.
    pub fn name_of(&self, node: NodeId) -> String {
        match self.addresses.get(node) {
            Some(entry) if !entry.name.is_empty() => entry.name,
            _ => format!("{:.8}", node.to_string()),
        }
    }

    /// The leader, for the answers to clients.
    pub fn leader_reference(&self) -> Option<pb::NodeReference> {
        self.standing().leader.map(|leader| self.reference(leader))
    }

    /// The bound cluster, as it travels; empty: none.
    pub fn cluster_bytes(&self) -> bytes::Bytes {
        self.cluster_id()
            .map(|cluster| wire::id_bytes(cluster.0))
            .unwrap_or_default()
    }
}

/// Alarms that are kept at the same time.
const MAX_ALARMS: usize = 64;
