//! The node's disk, as the driver and digest_commits use it: writes go to the disk's own thread,
//! reads to threads that may block, and a failure ends the daemon (D7).

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use config::Config;
use raft_core::{ClusterId, Entry, Index, NodeId, Persisted, Position, Recovered, Write};
use raft_disk::restore::Restore;
use raft_disk::{
    DirectoryLock, DiskThread, Identity, LogReader, LogStore, RealDisk, SnapshotOptions,
    SnapshotStore, WriteError, retired,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::say;
use crate::shared::{Ending, Shared, locked};

/// The folder of `raft` in the data directory.
pub const FOLDER: &str = "raft";

/// Name of the alarm while the disk is full.
const FULL_ALARM: &str = "disk-full";

/// The directory of this daemon, locked, before anybody knows which node it is.
pub struct Directory {
    disk: Arc<RealDisk>,
    _lock: DirectoryLock,
    /// The id that this data directory had before, and may not take again.
    pub retired: Option<NodeId>,
}

impl Directory {
    /// Locks `<data>/raft`, moving it aside first when it is that of a retired node.
    ///
    /// # Errors
    /// Another daemon has it, or the disk refused.
    pub fn open(config: &Config) -> anyhow::Result<Directory> {
        let data = &config.data_dir;
        let (disk, lock) = Directory::lock(data)?;
        let retired = retired::read(data)?;
        let ours = Identity::node_id_on(&*disk)?;
        if let (Some(retired), Some(ours)) = (retired, ours)
            && retired == ours
        {
            // The lock goes along with the folder and is let go with it.
            retired::move_aside(data, FOLDER, ours)?;
            drop(lock);
            tracing::info!("node {ours} was retired: its folder was moved aside");
            let (disk, lock) = Directory::lock(data)?;
            return Ok(Directory {
                disk,
                _lock: lock,
                retired: Some(retired),
            });
        }
        Ok(Directory {
            disk,
            _lock: lock,
            retired,
        })
    }

    fn lock(data: &Path) -> anyhow::Result<(Arc<RealDisk>, DirectoryLock)> {
        let disk = RealDisk::open(data.join(FOLDER))?;
        let lock = DirectoryLock::acquire(disk.directory())?;
        Ok((Arc::new(disk), lock))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.disk.directory()
    }

    /// The folder, as the log sees it.
    pub fn disk(&self) -> Arc<RealDisk> {
        self.disk.clone()
    }

    /// The id that this folder has, if it has one.
    ///
    /// # Errors
    /// The identity file cannot be read.
    pub fn node_id(&self) -> anyhow::Result<Option<NodeId>> {
        Ok(Identity::node_id_on(&*self.disk)?)
    }

    /// The path of a snapshot that waits to be restored here, while this node is empty (P5).
    ///
    /// # Errors
    /// It is damaged, or the disk refused.
    pub fn to_restore(&self, config: &Config) -> anyhow::Result<Option<String>> {
        let waiting = waiting(config)?.map(|waiting| waiting.path());
        let is_empty = Identity::is_empty_on(&*self.disk)?;
        Ok(waiting.filter(|_| is_empty))
    }
}

fn waiting(config: &Config) -> anyhow::Result<Option<Restore>> {
    let data = RealDisk::read_only(&config.data_dir);
    Ok(Restore::waiting(Arc::new(data))?)
}

/// A log that was opened, and whose it is.
pub struct Opened {
    /// Who this node is, how often it started.
    pub identity: Identity,
    /// The log.
    pub store: LogStore,
    /// What it held.
    pub recovered: Recovered,
    /// The snapshots beside it.
    pub snapshots: SnapshotStore,
}

/// Opens identity and log, and counts this start. `member` is the id that the neighbour reports.
///
/// # Errors
/// Sentences for people: what is damaged or does not belong together, and what to do.
pub fn open(
    directory: &Directory,
    config: &Config,
    member: Option<NodeId>,
) -> anyhow::Result<Opened> {
    let mut identity = Identity::open_or_create(directory.disk.clone(), member)?;
    let options = raft_disk::Options {
        segment_bytes: config.segment_bytes,
        tail_cache_bytes: config.log_cache_bytes,
        lay_out_ahead: true,
    };
    let restore = waiting(config)?;
    if let Some(restore) = &restore {
        let cluster = ClusterId(rand::random());
        let folder = directory.disk.clone();
        restore.begin_anew(&identity, folder, SnapshotOptions::default(), cluster)?;
    }
    let snapshots = SnapshotStore::open(directory.disk.clone(), SnapshotOptions::default())?;
    let (store, recovered) = LogStore::open(directory.disk.clone(), options)?;
    identity.settle(recovered.cluster_id)?;
    if let Some(restore) = restore {
        let old = restore.finish(&recovered)?.meta;
        say!(
            info,
            "RESTORE",
            "a new cluster begins with the state of cluster {} as of {} [TERM={}]",
            old.cluster_id,
            old.position.index,
            old.position.term
        );
    }
    identity.next_boot()?;
    Ok(Opened {
        identity,
        store,
        recovered,
        snapshots,
    })
}

/// See the module.
#[derive(Clone)]
pub struct Disk {
    thread: Arc<DiskThread>,
    reader: LogReader,
    identity: Arc<Mutex<Identity>>,
    shared: Arc<Shared>,
    usage: Arc<AtomicU64>,
}

impl Disk {
    /// Starts the disk's thread. Its reports arrive in the receiver; the last one covers all.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        identity: Identity,
        store: LogStore,
        shared: Arc<Shared>,
    ) -> anyhow::Result<(Disk, watch::Receiver<Persisted>)> {
        let nothing = Persisted {
            sequence: 0,
            generation: 0,
            last: Position::ZERO,
        };
        let (sender, receiver) = watch::channel(nothing);
        let (reader, usage) = (store.reader(), store.usage());
        let told = shared.clone();
        let report = move |report: Result<Persisted, WriteError>| match report {
            Ok(persisted) => {
                told.alarm(FULL_ALARM, None);
                sender.send_replace(persisted);
            }
            Err(full @ WriteError::Full(_)) => told.alarm(FULL_ALARM, Some(full.to_string())),
            Err(error) => told.end(Ending::Failed(error.to_string())),
        };
        let thread = DiskThread::spawn(store, report).context("cannot start the disk's thread")?;
        let identity = Arc::new(Mutex::new(identity));
        let disk = Disk {
            thread: Arc::new(thread),
            reader,
            identity,
            shared,
            usage,
        };
        Ok((disk, receiver))
    }

    /// Queues a write. Never waits.
    pub fn submit(&self, write: Write) {
        if let Err(error) = self.thread.submit(write) {
            // What was promised to the core cannot be stored: only a new start can tell what was.
            self.shared.end(Ending::Failed(error.to_string()));
        }
    }

    /// Reads durable entries on a thread that may block: contiguous from `from`, perhaps fewer than
    /// asked for. An error is told as an alarm, and reads as nothing.
    pub fn read(&self, from: Index, to: Index, max_bytes: usize) -> JoinHandle<Vec<Entry>> {
        let (reader, shared) = (self.reader.clone(), self.shared.clone());
        tokio::task::spawn_blocking(move || match reader.read(from, to, max_bytes) {
            Ok(entries) => entries,
            Err(error) => {
                shared.alarm("log-read", Some(error.to_string()));
                Vec::new()
            }
        })
    }

    /// The last index that can be read.
    pub fn last(&self) -> Index {
        self.reader.last()
    }

    /// The first entry that the log holds.
    pub fn first(&self) -> Index {
        self.reader.first()
    }

    /// Bytes of the log from `index` on, more or less.
    pub fn bytes_from(&self, index: Index) -> u64 {
        self.reader.bytes_from(index)
    }

    /// The lowest index from which on the log takes at most so many bytes.
    pub fn index_within(&self, bytes: u64) -> Index {
        self.reader.index_within(bytes)
    }

    /// Binds the node to its cluster, on a thread that may block.
    pub fn bind(&self, cluster_id: ClusterId) -> impl Future<Output = Result<(), String>> + use<> {
        let identity = self.identity.clone();
        let bound = tokio::task::spawn_blocking(move || {
            locked(&identity)
                .bind(cluster_id)
                .map_err(|error| error.to_string())
        });
        async move { bound.await.map_err(|error| error.to_string())? }
    }

    /// Bytes that the log takes on the disk.
    pub fn usage(&self) -> Arc<AtomicU64> {
        self.usage.clone()
    }
}

/// Writes the marker by which both daemons of this node take a new identity at their next start.
///
/// # Errors
/// The disk refused.
pub fn retire(config: &Config, node: NodeId) -> anyhow::Result<()> {
    Ok(retired::write(&config.data_dir, node)?)
}
