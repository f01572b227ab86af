//! Where the other nodes are: a cache on disk, so that `raft` finds them also while `member` is down.
//!
//! Gossip is the source. An address that only a peer's Hello shows is used when gossip has none.
//! The file is advice like all addresses: losing it costs nothing but a start with `member` down.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use raft_core::NodeId;
use serde::{Deserialize, Serialize};

use crate::limits::MAX_PEERS;
use crate::shared::locked;

/// Where a node's `raft` is reached, and what people call the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Its gRPC port.
    pub address: SocketAddr,
    /// Its name; empty when it never told.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    address: Address,
    /// Said by gossip, not only seen on a connection.
    firm: bool,
}

#[derive(Serialize, Deserialize)]
struct Line {
    node_id: String,
    address: SocketAddr,
    name: String,
}

/// See the module.
pub struct AddressBook {
    path: PathBuf,
    by_node: Mutex<BTreeMap<NodeId, Known>>,
}

impl AddressBook {
    /// Reads the cache at `path`. A file that is missing or damaged is an empty one.
    pub fn open(path: &Path) -> AddressBook {
        let lines: Vec<Line> = std::fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let by_node = lines
            .into_iter()
            .take(MAX_PEERS)
            .filter_map(|line| {
                let node = NodeId(u128::from_str_radix(&line.node_id, 16).ok()?);
                let address = Address {
                    address: line.address,
                    name: line.name,
                };
                Some((
                    node,
                    Known {
                        address,
                        firm: false,
                    },
                ))
            })
            .collect();
        AddressBook {
            path: path.to_owned(),
            by_node: Mutex::new(by_node),
        }
    }

    /// Where `node` is, if anyone ever said.
    pub fn get(&self, node: NodeId) -> Option<Address> {
        locked(&self.by_node)
            .get(&node)
            .map(|known| known.address.clone())
    }

    /// Everyone whose address is known.
    pub fn nodes(&self) -> Vec<NodeId> {
        locked(&self.by_node).keys().copied().collect()
    }

    /// Takes over what gossip says. Returns whether the cache must be saved.
    pub fn learn(&self, node: NodeId, address: Address) -> bool {
        let mut by_node = locked(&self.by_node);
        let full = by_node.len() >= MAX_PEERS;
        match by_node.get_mut(&node) {
            Some(known) => {
                known.firm = true;
                let changed = known.address != address;
                known.address = address;
                changed
            }
            None if full => false,
            None => {
                by_node.insert(
                    node,
                    Known {
                        address,
                        firm: true,
                    },
                );
                true
            }
        }
    }

    /// Takes over what a connection shows, unless gossip said something.
    pub fn notice(&self, node: NodeId, address: Address) {
        let mut by_node = locked(&self.by_node);
        let full = by_node.len() >= MAX_PEERS;
        match by_node.get_mut(&node) {
            Some(known) if !known.firm => known.address = address,
            Some(_) => {}
            None if full => {}
            None => {
                by_node.insert(
                    node,
                    Known {
                        address,
                        firm: false,
                    },
                );
            }
        }
    }

    /// Writes the cache: a new file, then its name. Blocks.
    ///
    /// # Errors
    /// As the system says; the old file then stays.
    pub fn save(&self) -> io::Result<()> {
        let lines: Vec<Line> = locked(&self.by_node)
            .iter()
            .map(|(node, known)| Line {
                node_id: node.to_string(),
                address: known.address.address,
                name: known.address.name.clone(),
            })
            .collect();
        let next = self.path.with_extension("next");
        std::fs::write(&next, serde_json::to_vec_pretty(&lines)?)?;
        std::fs::rename(&next, &self.path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(port: u16, name: &str) -> Address {
        Address {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            name: name.to_owned(),
        }
    }

    #[test]
    fn gossip_beats_what_a_connection_shows_and_both_outlive_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        let book = AddressBook::open(&path);
        book.notice(NodeId(1), at(1, "seen"));
        assert!(book.learn(NodeId(1), at(2, "told")));
        assert!(!book.learn(NodeId(1), at(2, "told")), "nothing new");
        book.notice(NodeId(1), at(3, "seen"));
        assert_eq!(book.get(NodeId(1)), Some(at(2, "told")));
        book.save().unwrap();
        let again = AddressBook::open(&path);
        assert_eq!(again.get(NodeId(1)), Some(at(2, "told")));
        assert_eq!(again.get(NodeId(2)), None);
    }

    #[test]
    fn a_damaged_cache_is_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        std::fs::write(&path, b"\xff{").unwrap();
        assert_eq!(AddressBook::open(&path).get(NodeId(1)), None);
    }
}
