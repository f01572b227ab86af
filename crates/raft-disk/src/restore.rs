//! A node that begins with the state of another cluster (P5).
//!
//! A cluster is lost, and a snapshot of it was saved. What comes back is its state, never the cluster:
//! nobody who promised anything is there any more. So the snapshot is *restored* as the beginning of a new
//! one: another cluster_id, one voter, nobody else known, all sessions expired. Entries keep their indices
//! and terms, and the log its time, so that what the state machine counts by never goes back.
//!
//! A person puts the snapshot into the data directory of a node that has never run ([`place`]), as
//! [`RESTORE_FILE`]. The daemon finds it when it starts ([`Restore::waiting`]) and carries these steps out, each
//! of which is durable before the next:
//!
//! 1. the identity, with the id that `member` gave, and of no cluster yet ([`crate::Identity`])
//! 2. the snapshot as that of the new cluster, under its own name beside the log to come
//!    ([`Restore::begin_anew`])
//! 3. the log behind it: [`crate::LogStore::open`] makes up for the reset by itself, and the identity is
//!    bound to what the log then says ([`crate::Identity::settle`])
//! 4. the file goes ([`Restore::finish`])
//!
//! A crash before the third leaves a node of no cluster and without a log: the first two are done again, with
//! another cluster_id, of which nobody has heard. A crash behind it leaves a node whose log begins exactly
//! behind the file's last entry, in another cluster than the file's: all is done, and the file goes. Beside
//! any other node the file does not belong, and that node does not start.

use std::io;
use std::path::Path;
use std::sync::Arc;

use raft_core::{
    ClusterId, Configuration, Index, MAX_INDEX, NodeId, Recovered, SessionTable, SnapshotMeta, Term,
};

use crate::disk::{Disk, Doing, Failure, remove};
use crate::identity::{Identity, IdentityError};
use crate::lock::{DirectoryLock, LOCK_FILE, LockError};
use crate::real::RealDisk;
use crate::snapshot::{
    SNAPSHOT_CHUNK_BYTES, SaveError, Saving, SnapshotError, SnapshotInfo, SnapshotOptions,
    SnapshotReader, SnapshotStore,
};

/// Name, in the data directory, of a snapshot that waits to be restored.
pub const RESTORE_FILE: &str = "restore.snapshot";

/// The folders of a node's processes in its data directory. What is in them makes it a node that has run.
const FOLDERS: [&str; 3] = ["member", "raft", "state-machine"];

/// The daemon's own, which must not run meanwhile.
const RAFT_FOLDER: &str = "raft";

/// Why a snapshot is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The data directory is that of a node that has run, or that is to be restored already.
    #[error(
        "{path} is in the way: a snapshot is restored into the data directory of a node that has \
         never run. Name another one, or remove what is in this one"
    )]
    InTheWay {
        /// What was found.
        path: String,
    },
    /// A daemon runs on the data directory.
    #[error(transparent)]
    Running(#[from] LockError),
    /// The snapshot is none that a cluster could begin with.
    #[error("{path} cannot be restored: {what}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file lies beside a node that it does not belong to.
    #[error(
        "{path} waits to be restored, but this node is not empty: a snapshot is restored into the data \
         directory of a node that has never run. Remove that file, and this node starts as it is"
    )]
    NotEmpty {
        /// The file.
        path: String,
    },
    /// It could not be written.
    #[error(transparent)]
    Save(SaveError),
    /// It is damaged, or the disk refused.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The node's identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<Failure> for RestoreError {
    fn from(failure: Failure) -> RestoreError {
        RestoreError::Snapshot(SnapshotError::Disk(failure))
    }
}

/// Checks all of the snapshot in `file`, and puts it into the data directory `data` (made if it is
/// missing), durably, for the daemon to restore at its first start there. What is there of a node is in
/// the way.
///
/// # Errors
/// [`RestoreError`]; the data directory holds what it held.
pub fn place(file: &Path, data: &Path) -> Result<SnapshotInfo, RestoreError> {
    let reader = SnapshotReader::of_file(file)?;
    reader.verify()?;
    check(&reader, &file.display().to_string())?;
    refuse_inhabited(data)?;
    RealDisk::open(data)?;
    // Held until the file has its name: a daemon that starts meanwhile would not see it.
    let raft = data.join(RAFT_FOLDER);
    let _lock = match raft.is_dir() {
        true => Some(DirectoryLock::acquire(&raft)?),
        false => None,
    };
    let waiting = data.join(RESTORE_FILE);
    let mut saving = Saving::begin(&waiting, false).map_err(in_the_way)?;
    loop {
        let bytes = reader.read_raw(saving.written(), SNAPSHOT_CHUNK_BYTES)?;
        if bytes.is_empty() {
            break;
        }
        saving.append(&bytes).map_err(in_the_way)?;
    }
    let info = reader.info();
    let placed = saving.finish(&info.offer(), info.meta.cluster_id);
    placed.map_err(in_the_way)
}

fn in_the_way(error: SaveError) -> RestoreError {
    match error {
        SaveError::Exists { path } => RestoreError::InTheWay { path },
        other => RestoreError::Save(other),
    }
}

/// Any file of any of the node's processes, but for the locks, which say nothing.
fn refuse_inhabited(data: &Path) -> Result<(), RestoreError> {
    for folder in FOLDERS.map(|folder| data.join(folder)) {
        let doing = |source| Failure {
            action: "look into",
            path: folder.display().to_string(),
            source,
        };
        let files = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files.map_err(doing)?,
        };
        let mut names = Vec::new();
        for file in files {
            names.push(file.map_err(doing)?.file_name());
        }
        names.sort();
        if let Some(name) = names.iter().find(|name| *name != LOCK_FILE) {
            let path = folder.join(name).display().to_string();
            return Err(RestoreError::InTheWay { path });
        }
    }
    Ok(())
}

/// Whether a log can go on behind it.
fn check(reader: &SnapshotReader, path: &str) -> Result<(), RestoreError> {
    let SnapshotMeta {
        position,
        log_time_ms,
        ..
    } = *reader.meta();
    let (index, term): (Index, Term) = (position.index, position.term);
    if [index, term, log_time_ms].iter().any(|it| *it > MAX_INDEX) {
        return Err(RestoreError::Unusable {
            path: path.to_owned(),
            what: "its index, term or time is one that no log ever comes to",
        });
    }
    Ok(())
}

/// A snapshot that waits to be restored. See the module for the order of the steps.
#[derive(Debug)]
pub struct Restore {
    data: Arc<dyn Disk>,
    reader: SnapshotReader,
}

impl Restore {
    /// The one in the data directory, if there is one.
    ///
    /// # Errors
    /// It is damaged, or the disk refused.
    pub fn waiting(data: Arc<dyn Disk>) -> Result<Option<Restore>, RestoreError> {
        let names = data
            .list()
            .doing("list the directory of", &*data, RESTORE_FILE)?;
        if !names.iter().any(|name| name == RESTORE_FILE) {
            return Ok(None);
        }
        let reader = SnapshotReader::on(data.clone(), RESTORE_FILE)?;
        check(&reader, &data.path(RESTORE_FILE))?;
        Ok(Some(Restore { data, reader }))
    }

    /// What is to be restored.
    pub fn info(&self) -> &SnapshotInfo {
        self.reader.info()
    }

    /// The file, for people.
    pub fn path(&self) -> String {
        self.data.path(RESTORE_FILE)
    }

    /// Makes the snapshot that of a new cluster, whose only voter is the node of `identity`, and stores it in
    /// that node's folder: the log that is opened next goes on behind it. Does nothing in the folder of a node
    /// that is not empty any more.
    ///
    /// # Errors
    /// The snapshot is damaged, there is no room, or the disk refused.
    pub fn begin_anew(
        &self,
        identity: &Identity,
        folder: Arc<dyn Disk>,
        options: SnapshotOptions,
        cluster_id: ClusterId,
    ) -> Result<(), RestoreError> {
        if !Identity::is_empty_on(&*folder)? {
            return Ok(());
        }
        let old = self.reader.meta();
        let meta = Arc::new(SnapshotMeta {
            position: old.position,
            cluster_id,
            log_time_ms: old.log_time_ms,
            configuration_index: old.position.index,
            configuration: Arc::new(first_configuration(old, identity.node_id())),
        });
        let sessions = SessionTable::empty_as_of(old.position.index).encode();
        let store = SnapshotStore::open(folder, options)?;
        let mut writer = store.begin(meta, self.reader.format().to_owned(), sessions)?;
        for chunk in self.reader.chunks() {
            writer.append(&chunk?)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Removes the file, durably, now that the log which was opened goes on behind it.
    ///
    /// # Errors
    /// [`RestoreError::NotEmpty`] when this is not the log that [`Restore::begin_anew`] began, or the
    /// disk refused.
    pub fn finish(self, log: &Recovered) -> Result<SnapshotInfo, RestoreError> {
        let info = self.reader.info().clone();
        let SnapshotMeta {
            position,
            cluster_id,
            ..
        } = *info.meta;
        let anew = log.cluster_id.is_some_and(|ours| ours != cluster_id);
        if !anew || log.base != position || log.last != position {
            return Err(RestoreError::NotEmpty { path: self.path() });
        }
        let data = &*self.data;
        remove(data, RESTORE_FILE)?;
        data.sync_dir()
            .doing("sync the directory of", data, RESTORE_FILE)?;
        Ok(info)
    }
}

/// The node alone. It takes entries at once: what F1 asks for, a second node that has been in, was so in
/// the cluster whose state this is. Who left that one for good left that one; all ids are new here.
fn first_configuration(old: &SnapshotMeta, node: NodeId) -> Configuration {
    let reason = format!(
        "restored from a snapshot of cluster {} as of entry {}",
        old.cluster_id, old.position.index
    );
    Configuration {
        reason,
        ..Configuration::founding(node, true)
    }
}
