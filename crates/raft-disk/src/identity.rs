//! Who this node is: its id, the cluster that it belongs to, and how often it has started.
//!
//! The file `identity` is replaced as a whole, so that a crash leaves the old one or the new one.
//! It is text, for people who look; its last line is a checksum, for machines that must not guess.
//!
//! Identity and log belong together (D5). A node without its log has forgotten its votes and
//! acknowledgements, and under its old id it could break its promises. A log without an identity is
//! somebody's promises with nobody to keep them. Both refuse to start.

use std::fmt::Write as _;
use std::sync::Arc;

use raft_core::{Boot, ClusterId, NodeId, mutant};

use crate::disk::{Disk, Doing, Failure, read_small, replace};
use crate::segment::segment_number;
use crate::snapshot::newest_named;

/// Name of the file.
pub const IDENTITY_FILE: &str = "identity";

/// A longer file is not ours.
const MAX_IDENTITY_BYTES: u64 = 4096;

const TITLE: &str = "leeky-raft identity 1";

/// A node's durable identity. What it says is on disk.
#[derive(Clone, Debug)]
pub struct Identity {
    disk: Arc<dyn Disk>,
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    node_id: NodeId,
    cluster_id: Option<ClusterId>,
    boot: Boot,
}

/// Why a node cannot be who it should be.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// `member` and `raft` hold different ids: their folders do not belong together.
    #[error(
        "member says that this node is {member}, but {path} says {ours}: the two folders are of \
         different nodes. Put back the one that belongs here, or remove the whole data directory to \
         begin as a new node"
    )]
    OtherNode {
        /// The identity file.
        path: String,
        /// The id in it.
        ours: NodeId,
        /// The id that `member` reports.
        member: NodeId,
    },
    /// The log is gone, and with it everything that the node promised.
    #[error(
        "{path} says that this node belongs to cluster {cluster_id}, but its log is gone, and with it \
         what it promised. Restore the log beside it, or remove the whole data directory to begin as a \
         new node"
    )]
    WithoutLog {
        /// The identity file.
        path: String,
        /// The cluster.
        cluster_id: ClusterId,
    },
    /// There is a log, and nobody whose it is.
    #[error(
        "{path} is missing, although there is a log beside it. Restore the file, or remove the whole \
         data directory to begin as a new node"
    )]
    LogWithoutIdentity {
        /// The identity file.
        path: String,
    },
    /// The log is that of another cluster.
    #[error(
        "{path} says that this node belongs to cluster {ours}, but the log (or whoever asks) says \
         {other}. Put back the files that belong together"
    )]
    OtherCluster {
        /// The identity file.
        path: String,
        /// The cluster that is bound.
        ours: ClusterId,
        /// The other one.
        other: ClusterId,
    },
    /// A node's first start needs its `member`.
    #[error(
        "{path} does not exist yet: a new node learns its id from member, which does not answer"
    )]
    Unknown {
        /// The identity file.
        path: String,
    },
    /// The file is not what was written.
    #[error(
        "{path} is damaged ({what}). Restore it, or remove the whole data directory to begin as a new \
         node"
    )]
    Damaged {
        /// The identity file.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] Failure),
}

impl Identity {
    /// Reads the identity, or, on an empty disk, makes it with the id that `member` reports. `None`
    /// means that `member` does not answer: an existing identity does without it.
    ///
    /// To be called before the log is opened, so that there never is a log without an identity.
    ///
    /// # Errors
    /// [`IdentityError`]; nothing was changed.
    pub fn open_or_create(
        disk: Arc<dyn Disk>,
        member: Option<NodeId>,
    ) -> Result<Identity, IdentityError> {
        let path = disk.path(IDENTITY_FILE);
        let names = disk
            .list()
            .doing("list the directory of", &*disk, IDENTITY_FILE)?;
        let has_snapshot = newest_named(&names) > 0;
        let has_log = names.iter().any(|name| segment_number(name).is_some());
        let Some(content) = read(&*disk)? else {
            if has_log || has_snapshot {
                return Err(IdentityError::LogWithoutIdentity { path });
            }
            let Some(node_id) = member else {
                return Err(IdentityError::Unknown { path });
            };
            let content = Content {
                node_id,
                cluster_id: None,
                boot: 0,
            };
            replace(&*disk, IDENTITY_FILE, content.to_text().as_bytes())?;
            return Ok(Identity { disk, content });
        };
        if let Some(member) = member
            && member != content.node_id
        {
            return Err(IdentityError::OtherNode {
                path,
                ours: content.node_id,
                member,
            });
        }
        if let Some(cluster_id) = content.cluster_id
            && !has_log
            && !mutant!(D5StartsWithoutLog)
        {
            return Err(IdentityError::WithoutLog { path, cluster_id });
        }
        Ok(Identity { disk, content })
    }

    /// The id in the identity file, if there is one: enough to find out whether this node is the
    /// one that [`crate::retired`] names.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn node_id_on(disk: &dyn Disk) -> Result<Option<NodeId>, IdentityError> {
        Ok(read(disk)?.map(|content| content.node_id))
    }

    /// Whether the node of this folder belongs to no cluster, and there is no log: it has promised
    /// nothing to anybody.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn is_empty_on(disk: &dyn Disk) -> Result<bool, IdentityError> {
        let names = disk
            .list()
            .doing("list the directory of", disk, IDENTITY_FILE)?;
        let has_log = names.iter().any(|name| segment_number(name).is_some());
        let bound = read(disk)?.and_then(|content| content.cluster_id);
        Ok(bound.is_none() && !has_log)
    }

    /// The node.
    pub fn node_id(&self) -> NodeId {
        self.content.node_id
    }

    /// The cluster that it belongs to; `None` for an empty node.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.content.cluster_id
    }

    /// How often it has started: 0 before the first [`Identity::next_boot`].
    pub fn boot(&self) -> Boot {
        self.content.boot
    }

    /// Compares the identity with the cluster that the opened log names
    /// ([`raft_core::Recovered::cluster_id`]). A node that crashed between the founding entry and
    /// [`Identity::bind`] is bound now.
    ///
    /// # Errors
    /// They do not belong together, or the disk refused.
    pub fn settle(&mut self, log: Option<ClusterId>) -> Result<(), IdentityError> {
        match (self.content.cluster_id, log) {
            (_, Some(cluster_id)) => self.bind(cluster_id),
            (Some(_), None) if mutant!(D5StartsWithoutLog) => Ok(()),
            (Some(cluster_id), None) => {
                let path = self.disk.path(IDENTITY_FILE);
                Err(IdentityError::WithoutLog { path, cluster_id })
            }
            (None, None) => Ok(()),
        }
    }

    /// Binds the node to a cluster, durably; to be called once the founding entry is durable in the
    /// node's own log (F4). Binding it again to the same one changes nothing.
    ///
    /// # Errors
    /// It is bound to another, or the disk refused: then the node must stop, for nobody knows which
    /// of the two states is on disk.
    pub fn bind(&mut self, cluster_id: ClusterId) -> Result<(), IdentityError> {
        match self.content.cluster_id {
            Some(ours) if ours == cluster_id => Ok(()),
            Some(ours) if !mutant!(F4BoundAnew) => {
                let path = self.disk.path(IDENTITY_FILE);
                Err(IdentityError::OtherCluster {
                    path,
                    ours,
                    other: cluster_id,
                })
            }
            _ => self.store(Content {
                cluster_id: Some(cluster_id),
                ..self.content
            }),
        }
    }

    /// Counts this start, durably, and returns its number, from 1.
    ///
    /// # Errors
    /// The disk refused: the node must stop.
    pub fn next_boot(&mut self) -> Result<Boot, IdentityError> {
        let before = if mutant!(D5BootNotCounted) {
            0
        } else {
            self.content.boot
        };
        let boot = before.saturating_add(1);
        self.store(Content {
            boot,
            ..self.content
        })?;
        Ok(boot)
    }

    fn store(&mut self, content: Content) -> Result<(), IdentityError> {
        replace(&*self.disk, IDENTITY_FILE, content.to_text().as_bytes())?;
        self.content = content;
        Ok(())
    }
}

fn read(disk: &dyn Disk) -> Result<Option<Content>, IdentityError> {
    let Some(bytes) = read_small(disk, IDENTITY_FILE, MAX_IDENTITY_BYTES)? else {
        return Ok(None);
    };
    match Content::parse(&bytes) {
        Ok(content) => Ok(Some(content)),
        Err(what) => Err(IdentityError::Damaged {
            path: disk.path(IDENTITY_FILE),
            what,
        }),
    }
}

impl Content {
    fn to_text(self) -> String {
        let mut text = format!("{TITLE}\nnode {}\n", self.node_id);
        match self.cluster_id {
            Some(cluster_id) => text += &format!("cluster {cluster_id}\n"),
            None => text += "cluster none\n",
        }
        text += &format!("boot {}\n", self.boot);
        let checksum = crc32c::crc32c(text.as_bytes());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "checksum {checksum:08x}");
        text
    }

    /// Only what [`Content::to_text`] writes is taken.
    fn parse(bytes: &[u8]) -> Result<Content, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err("its first line is not the one of an identity that this version knows");
        }
        let mut field = |name: &str| {
            let (key, value) = lines.next()?.split_once(' ')?;
            (key == name).then_some(value)
        };
        let hex = |digits: &str| u128::from_str_radix(digits, 16).ok();
        let node = field("node").and_then(hex).ok_or("it names no node")?;
        let cluster_id = match field("cluster").ok_or("it names no cluster")? {
            "none" => None,
            digits => Some(ClusterId(hex(digits).ok_or("its cluster is no number")?)),
        };
        let boot = field("boot")
            .and_then(|n| n.parse().ok())
            .ok_or("it counts no boots")?;
        let content = Content {
            node_id: NodeId(node),
            cluster_id,
            boot,
        };
        // This compares the checksum, and everything else that could differ.
        if content.to_text() == text {
            Ok(content)
        } else {
            Err("it fails its checksum")
        }
    }
}
