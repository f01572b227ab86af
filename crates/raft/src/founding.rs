//! The lobby: how a node without a cluster comes to one (F1-F4).
//!
//! A node whose disk is empty founds a cluster only if it may (it is an introducer, and the first of
//! its list), another empty node has answered, and for `DiscoveryWindow` since then nobody bore a
//! cluster. `FoundAlone` is the exception, for single-node use. Everybody else waits to be taken in:
//! the leader of a cluster finds the empty nodes by gossip and speaks to them.
//!
//! Once a cluster was heard of, this process founds no more: whoever bore it may be away for longer
//! than any window. Not excluded: all holders of a cluster silent for the whole window. The two
//! clusters then refuse each other, with an alarm; and one that is empty gives way (F2).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use config::Config;
use raft_core::{ClusterId, RoleName};
use tokio::net::lookup_host;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::ask::Ask;
use crate::discover::{Disk, discover, discover_at};
use crate::limits::{
    DISCOVER_DEADLINE, DISCOVER_INTERVAL, MAX_DISCOVERED, OTHERS_INTERVAL, RESTORE_PATIENCE,
    UNANNOUNCED_WINDOWS,
};
use crate::membership::{self, View};
use crate::say;
use crate::shared::{Shared, locked};

/// What the lobby knows. Time is what passed since it opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lobby {
    introducer: bool,
    alone: bool,
    window: Duration,
    first_introducer: bool,
    first_empty: Option<Duration>,
    unannounced: bool,
    heard: Option<ClusterId>,
}

/// What the lobby decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Wait, because of this.
    Lobby(&'static str),
    /// Wait for the leader of the cluster that was heard, or of any.
    Joining,
    /// Found a cluster now.
    Found {
        /// For use as a single node.
        alone: bool,
    },
}

impl Lobby {
    /// Opens for a node whose disk is empty.
    pub fn new(introducer: bool, alone: bool, window: Duration) -> Lobby {
        Lobby {
            introducer,
            alone,
            window,
            first_introducer: false,
            first_empty: None,
            unannounced: false,
            heard: None,
        }
    }

    /// `member` says whether this node is the first of its introducers (F3), and whether somebody
    /// is alive of whose disk nothing is known yet.
    pub fn see_members(&mut self, first_introducer: bool, unannounced: bool) {
        self.first_introducer = first_introducer;
        self.unannounced = unannounced;
    }

    /// Another node answered that its disk is empty.
    pub fn see_empty(&mut self, now: Duration) {
        self.first_empty.get_or_insert(now);
    }

    /// A node or packet bore a cluster.
    pub fn see_cluster(&mut self, cluster: ClusterId) {
        self.heard.get_or_insert(cluster);
    }

    /// What to do now.
    pub fn decide(&self, now: Duration) -> Verdict {
        if self.heard.is_some() {
            return Verdict::Joining;
        }
        if self.alone {
            return Verdict::Found { alone: true };
        }
        if !self.introducer {
            return Verdict::Joining;
        }
        if !self.first_introducer {
            return Verdict::Lobby("only the first introducer of the list may found a cluster");
        }
        let Some(since) = self.first_empty.map(|first| now.saturating_sub(first)) else {
            return Verdict::Lobby("waiting for a second empty node before a cluster is founded");
        };
        if since < self.window {
            return Verdict::Lobby("listening for a cluster before one is founded");
        }
        if self.unannounced && since < self.window * UNANNOUNCED_WINDOWS {
            return Verdict::Lobby("waiting for a node that has not said what is on its disk");
        }
        Verdict::Found { alone: false }
    }

    /// Whether asking the others what is on their disks can change anything.
    pub fn asks(&self) -> bool {
        self.introducer && self.first_introducer && self.heard.is_none()
    }
}

/// Which of two clusters gives way: an empty one to one with content, and of two empty ones the
/// larger id. One with content never does (F2).
pub fn gives_way(
    ours: ClusterId,
    ours_has_entries: bool,
    theirs: ClusterId,
    theirs_has_entries: bool,
) -> bool {
    ours != theirs && !ours_has_entries && (theirs_has_entries || ours > theirs)
}

/// Waits in the lobby until this node belongs to a cluster.
pub async fn run(
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    mut view: watch::Receiver<Arc<View>>,
) {
    let config = shared.config.clone();
    let mut lobby = Lobby::new(
        config.introducer,
        config.found_alone,
        config.discovery_window,
    );
    let opened = Instant::now();
    let mut bound = shared.cluster.subscribe();
    let mut founded = false;
    let mut said = String::new();
    while bound.borrow().is_none() {
        let now = view.borrow_and_update().clone();
        look(&mut lobby, &shared, &now);
        if lobby.asks() && !founded {
            ask_everyone(&mut lobby, &shared, &now, opened).await;
        }
        match lobby.decide(opened.elapsed()) {
            Verdict::Found { alone } if !founded => {
                founded = true;
                let cluster_id = ClusterId(rand::random());
                say!(info, "SELF", "founding cluster {cluster_id}");
                let _ = inbox.send(Ask::Found { cluster_id, alone }).await;
            }
            Verdict::Found { .. } => {}
            Verdict::Joining => tell(&shared, "joining", "waiting to be taken in", &mut said),
            Verdict::Lobby(why) => tell(&shared, "lobby", why, &mut said),
        }
        let again = async {
            if lobby.asks() && !founded {
                tokio::time::sleep(DISCOVER_INTERVAL).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = bound.changed() => {}
            changed = view.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = again => {}
        }
    }
    locked(&shared.founding).clear();
}

/// Whether this node may begin a cluster with the snapshot that waits at `path` (P5): who may found one
/// may. No second node is waited for: whoever put the file there has said that a cluster is to begin.
///
/// # Errors
/// A sentence for whoever put it there.
pub async fn may_restore(config: &Config, path: &str) -> anyhow::Result<()> {
    let allowed = config.found_alone
        || (config.introducer && membership::is_first_introducer(config, RESTORE_PATIENCE).await);
    if allowed {
        return Ok(());
    }
    anyhow::bail!(
        "{path} waits to be restored, and only the first introducer, or a node with FoundAlone, may begin \
         a cluster: put it into that node's data directory, or remove it and this node waits to be taken in"
    )
}

fn tell(shared: &Shared, standing: &str, why: &str, said: &mut String) {
    *locked(&shared.founding) = format!("{standing}: {why}");
    if said != why {
        say!(info, "SELF", "{standing}: {why}");
        *said = why.to_owned();
    }
}

fn look(lobby: &mut Lobby, shared: &Shared, view: &View) {
    let others = || view.nodes.iter().filter(|(node, _)| **node != shared.id);
    lobby.see_members(
        view.first_introducer,
        others().any(|(_, member)| member.alive && !member.announced),
    );
    for cluster in others().filter_map(|(_, member)| member.cluster) {
        lobby.see_cluster(cluster);
    }
}

async fn ask_everyone(lobby: &mut Lobby, shared: &Shared, view: &View, opened: Instant) {
    let asked = view
        .nodes
        .iter()
        .filter(|(node, member)| **node != shared.id && member.alive && member.announced)
        .take(MAX_DISCOVERED)
        .map(|(node, _)| discover(shared, *node));
    for answer in futures_util::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
    {
        match answer.cluster {
            Some(cluster) => lobby.see_cluster(cluster),
            None => lobby.see_empty(opened.elapsed()),
        }
    }
}

/// Name of the alarm while another cluster is heard.
const OTHER_CLUSTER_ALARM: &str = "other-cluster";

/// Once this node belongs to a cluster: looks for others, says so, and lets an empty cluster that
/// this node leads give way (F2).
///
/// Members of two clusters refuse each other's gossip. So the leader of an empty cluster asks the
/// configured introducers now and then, and asks back whoever asks. One with content never gives
/// way, and need not look.
pub async fn watch_for_others(shared: Arc<Shared>, inbox: mpsc::Sender<Ask>) {
    let mut bound = shared.cluster.subscribe();
    let Ok(ours) = bound
        .wait_for(Option::is_some)
        .await
        .map(|cluster| *cluster)
    else {
        return;
    };
    let Some(ours) = ours else { return };
    let mut asked_by = shared.asked_by.subscribe();
    let mut wait = OTHERS_INTERVAL.0;
    while !shared.progress.has_entries() {
        if shared.standing().role == RoleName::Leader {
            let asker = *asked_by.borrow_and_update();
            for address in strangers(&shared, asker).await {
                if let Some(disk) = discover_at(&shared, address).await {
                    meet(&shared, &inbox, ours, &disk, address).await;
                }
            }
        }
        tokio::time::sleep(OTHERS_INTERVAL.0).await;
        let asked = asked_by.changed();
        let _ = tokio::time::timeout(wait.saturating_sub(OTHERS_INTERVAL.0), asked).await;
        wait = (wait * 2).min(OTHERS_INTERVAL.1);
    }
    shared.alarm(OTHER_CLUSTER_ALARM, None);
}

/// Where a node of another cluster may be.
async fn strangers(shared: &Shared, asker: Option<IpAddr>) -> BTreeSet<SocketAddr> {
    let port = shared.config.rpc_port;
    let mut strangers = BTreeSet::new();
    for (host, _) in shared.config.introducer_addresses() {
        let found = tokio::time::timeout(DISCOVER_DEADLINE, lookup_host((host, port))).await;
        if let Ok(Ok(addresses)) = found {
            strangers.extend(addresses.take(MAX_DISCOVERED));
        }
    }
    strangers.extend(asker.map(|ip| SocketAddr::new(ip, port)));
    strangers.into_iter().take(MAX_DISCOVERED).collect()
}

async fn meet(
    shared: &Shared,
    inbox: &mpsc::Sender<Ask>,
    ours: ClusterId,
    disk: &Disk,
    address: SocketAddr,
) {
    let Some(theirs) = disk.cluster.filter(|theirs| *theirs != ours) else {
        return;
    };
    shared.alarm(
        OTHER_CLUSTER_ALARM,
        Some(format!(
            "the node at {address} belongs to cluster {theirs}, and this one to {ours}: the two \
             refuse each other. Give the nodes of one of them empty data directories"
        )),
    );
    if gives_way(
        ours,
        shared.progress.has_entries(),
        theirs,
        disk.has_entries,
    ) {
        say!(
            warn,
            "SELF",
            "this cluster is empty and gives way to cluster {theirs}"
        );
        let _ = inbox.send(Ask::GiveWay).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WINDOW: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn introducer() -> Lobby {
        let mut lobby = Lobby::new(true, false, WINDOW);
        lobby.see_members(true, false);
        lobby
    }

    #[test]
    fn f1_an_introducer_alone_never_founds() {
        let lobby = introducer();
        assert!(matches!(lobby.decide(at(1_000_000)), Verdict::Lobby(_)));
    }

    #[test]
    fn f1_it_founds_a_window_after_the_first_empty_answer() {
        let mut lobby = introducer();
        lobby.see_empty(at(1000));
        lobby.see_empty(at(2500));
        assert!(matches!(lobby.decide(at(2999)), Verdict::Lobby(_)));
        assert_eq!(lobby.decide(at(3000)), Verdict::Found { alone: false });
    }

    #[test]
    fn f1_a_cluster_heard_at_any_time_is_joined() {
        let mut lobby = introducer();
        lobby.see_empty(at(0));
        lobby.see_cluster(ClusterId(7));
        assert_eq!(lobby.decide(at(1_000_000)), Verdict::Joining);
        assert!(!lobby.asks());
    }

    #[test]
    fn f3_workers_and_second_introducers_never_found() {
        let mut worker = Lobby::new(false, false, WINDOW);
        worker.see_members(true, false);
        worker.see_empty(at(0));
        assert_eq!(worker.decide(at(1_000_000)), Verdict::Joining);
        let mut second = Lobby::new(true, false, WINDOW);
        second.see_members(false, false);
        second.see_empty(at(0));
        assert!(matches!(second.decide(at(1_000_000)), Verdict::Lobby(_)));
    }

    #[test]
    fn a_node_that_has_not_said_what_it_holds_is_waited_for_but_not_for_ever() {
        let mut lobby = introducer();
        lobby.see_empty(at(0));
        lobby.see_members(true, true);
        assert!(matches!(lobby.decide(at(9999)), Verdict::Lobby(_)));
        assert_eq!(lobby.decide(at(10_000)), Verdict::Found { alone: false });
    }

    #[test]
    fn found_alone_founds_at_once_unless_a_cluster_was_heard() {
        let mut lobby = Lobby::new(false, true, WINDOW);
        assert_eq!(lobby.decide(at(0)), Verdict::Found { alone: true });
        lobby.see_cluster(ClusterId(7));
        assert_eq!(lobby.decide(at(0)), Verdict::Joining);
    }

    #[test]
    fn f2_content_never_gives_way_and_of_two_empty_ones_exactly_one_does() {
        let (small, large) = (ClusterId(1), ClusterId(2));
        assert!(!gives_way(large, true, small, true));
        assert!(!gives_way(large, true, small, false));
        assert!(gives_way(small, false, large, true));
        assert!(gives_way(large, false, small, false));
        assert!(!gives_way(small, false, large, false));
        assert!(!gives_way(small, false, small, true), "one's own cluster");
    }
}
