//! `<data>/member`: the identity of this node, made once and kept; who was known; and the lock that
//! keeps a second daemon out.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use member_core::{MAX_BOOT_EPOCH, NodeId};
use serde::{Deserialize, Serialize};

/// The folder of this daemon in the data directory.
const FOLDER: &str = "member";
/// Names the node id that this node must not use any more.
const RETIRED: &str = "retired";
const IDENTITY: &str = "identity.json";
const LAST_KNOWN: &str = "last-known-members";
const LOCK: &str = "lock";
/// Larger files are none of ours.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What must outlive the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredIdentity {
    /// 128 random bits, made once.
    pub node_id: NodeId,
    /// Starts on this data directory, this one included.
    pub boot_epoch: u32,
}

impl StoredIdentity {
    /// Whether a node can have this. What is read and what is written are held to the same range,
    /// so that no start refuses what an earlier one stored.
    fn is_in_range(self) -> bool {
        (1..MAX_BOOT_EPOCH).contains(&self.boot_epoch)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    node_id: String,
    boot_epoch: u32,
}

/// The folder, locked for as long as this lives.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    _lock: File,
}

impl Home {
    /// Opens and locks `<data>/member`, and makes it when it is not there. If `<data>/retired`
    /// names the node id in it, the folder is moved aside first, and the node starts as a new one.
    ///
    /// # Errors
    /// When another daemon runs on it, or it cannot be written.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let folder = data_dir.join(FOLDER);
        let home = Self::open_folder(&folder)?;
        let Some(retired) = read_retired(data_dir)? else {
            return Ok(home);
        };
        if home
            .read_identity()?
            .is_none_or(|identity| identity.node_id != retired)
        {
            return Ok(home);
        }
        let aside = free_name(data_dir, retired);
        fs::rename(&folder, &aside)
            .with_context(|| format!("cannot move {} to {}", folder.display(), aside.display()))?;
        sync_folder(data_dir)?;
        tracing::warn!(
            "[MEMBER] node id {retired} is retired: its folder is now {}, this node starts anew",
            aside.display()
        );
        Self::open_folder(&folder)
    }

    fn open_folder(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| {
            let folder = folder.display();
            format!("cannot create {folder}; make it writable or set DataDir to another directory")
        })?;
        let path = folder.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| {
                let path = path.display();
                format!("cannot open {path}; make it writable or set DataDir to another directory")
            })?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => bail!(
                "another member daemon already runs on {}; stop it or set DataDir to another directory",
                folder.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // Whoever had it locked may have moved the folder aside meanwhile.
        let is_current = fs::metadata(&path)
            .and_then(|current| Ok(current.ino() == lock.metadata()?.ino()))
            .unwrap_or(false);
        if !is_current {
            bail!(
                "{} changed while this daemon started; start it again",
                folder.display()
            );
        }
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    fn read_identity(&self) -> anyhow::Result<Option<StoredIdentity>> {
        let path = self.folder.join(IDENTITY);
        let Some(text) = read_text(&path)? else {
            return Ok(None);
        };
        let parse = || -> anyhow::Result<StoredIdentity> {
            let file: IdentityFile = serde_json::from_str(&text)?;
            let node_id = parse_node_id(&file.node_id).context("node_id is not 32 hex digits")?;
            let identity = StoredIdentity {
                node_id,
                boot_epoch: file.boot_epoch,
            };
            if !identity.is_in_range() {
                bail!("boot_epoch is out of range");
            }
            Ok(identity)
        };
        parse().map(Some).with_context(|| {
            format!(
                "{} is damaged; restore it, or move {} aside to start as a new node",
                path.display(),
                self.folder.display()
            )
        })
    }

    /// The identity for this start: the stored one with its boot epoch raised, or a new one. It is
    /// durable when this returns.
    ///
    /// # Errors
    /// When the stored one is damaged, has no epoch left, or cannot be replaced.
    pub fn begin_boot(&self) -> anyhow::Result<StoredIdentity> {
        let identity = match self.read_identity()? {
            Some(StoredIdentity {
                node_id,
                boot_epoch,
            }) => StoredIdentity {
                node_id,
                boot_epoch: boot_epoch + 1,
            },
            None => StoredIdentity {
                node_id: NodeId(rand::random()),
                boot_epoch: 1,
            },
        };
        self.store_identity(identity)?;
        Ok(identity)
    }

    /// Makes an identity durable: written aside, synced, renamed, and the folder synced.
    ///
    /// # Errors
    /// When the epoch is one that the next start would refuse, or the folder cannot be written; the
    /// old identity is still in force then.
    pub fn store_identity(&self, identity: StoredIdentity) -> anyhow::Result<()> {
        if !identity.is_in_range() {
            bail!(
                "the boot epochs of node {} are used up at {}; move {} aside to start as a new node",
                identity.node_id,
                identity.boot_epoch,
                self.folder.display()
            );
        }
        let file = IdentityFile {
            node_id: identity.node_id.to_string(),
            boot_epoch: identity.boot_epoch,
        };
        let mut text = serde_json::to_string_pretty(&file)?;
        text.push('\n');
        self.replace(IDENTITY, text.as_bytes())
    }

    /// Addresses of members from an earlier run. A damaged line is passed over: this is a hint.
    pub fn last_known(&self) -> Vec<SocketAddr> {
        let text = read_text(&self.folder.join(LAST_KNOWN))
            .ok()
            .flatten()
            .unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect()
    }

    /// Remembers members for the next run: an address and a name each.
    ///
    /// # Errors
    /// When the folder cannot be written; nothing is lost but the hint.
    pub fn store_last_known(&self, members: &[(SocketAddr, String)]) -> anyhow::Result<()> {
        let lines: String = members
            .iter()
            .map(|(address, name)| format!("{address} {name}\n"))
            .collect();
        self.replace(LAST_KNOWN, lines.as_bytes())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        let aside = self.folder.join(format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&aside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().with_context(|| {
            format!(
                "cannot write {}; see that the disk is writable and not full",
                path.display()
            )
        })
    }
}

fn read_text(path: &Path) -> anyhow::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(text))
}

fn read_retired(data_dir: &Path) -> anyhow::Result<Option<NodeId>> {
    let path = data_dir.join(RETIRED);
    let Some(text) = read_text(&path)? else {
        return Ok(None);
    };
    let node_id = parse_node_id(text.trim());
    if node_id.is_none() {
        tracing::warn!(
            "[MEMBER] {} does not hold a node id; it is ignored",
            path.display()
        );
    }
    Ok(node_id)
}

fn parse_node_id(text: &str) -> Option<NodeId> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex
        .then(|| u128::from_str_radix(text, 16).ok().map(NodeId))
        .flatten()
}

fn free_name(data_dir: &Path, retired: NodeId) -> PathBuf {
    let hex = retired.to_string();
    let base = format!("{FOLDER}.retired-{}", &hex[..8]);
    let plain = data_dir.join(&base);
    if !plain.exists() {
        return plain;
    }
    // The whole id cannot be taken: an id is retired once.
    data_dir.join(format!("{FOLDER}.retired-{hex}"))
}

fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot sync {}", folder.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_could_not_be_read_again_is_never_stored() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let first = home.begin_boot().unwrap();
        for boot_epoch in [0, MAX_BOOT_EPOCH, MAX_BOOT_EPOCH + 1, u32::MAX] {
            let identity = StoredIdentity {
                boot_epoch,
                ..first
            };
            assert!(home.store_identity(identity).is_err(), "{boot_epoch}");
            assert_eq!(home.read_identity().unwrap(), Some(first));
        }
        let next = StoredIdentity {
            boot_epoch: 2,
            ..first
        };
        assert_eq!(home.begin_boot().unwrap(), next);
    }

    #[test]
    fn a_node_without_any_epoch_left_says_so_and_keeps_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let last = StoredIdentity {
            boot_epoch: MAX_BOOT_EPOCH - 1,
            ..home.begin_boot().unwrap()
        };
        home.store_identity(last).unwrap();
        for _ in 0..2 {
            let refusal = format!("{:#}", home.begin_boot().unwrap_err());
            assert!(refusal.contains("used up"), "{refusal}");
            assert_eq!(home.read_identity().unwrap(), Some(last));
        }
    }
}
