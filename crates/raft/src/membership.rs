//! What the neighbouring `member` shows: who is there, at which address, with which cluster.
//!
//! It is advice. It feeds the address book and [`crate::hints`]; it never says who votes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use config::Config;
use raft_core::{ClusterId, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use wire::member::membership_client::MembershipClient;
use wire::member::{self as pb, MemberState};

use crate::addresses::Address;
use crate::limits::{
    CONNECT_DEADLINE, MAX_MESSAGE_BYTES, MEMBER_BACKOFF, MEMBER_DEADLINE, MEMBER_PATIENCE,
    MEMBER_REMINDER,
};
use crate::net;
use crate::say;
use crate::shared::{Ending, Shared, locked};

/// A node, as gossip shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Neither suspected, dead, nor gone.
    pub alive: bool,
    /// In a word, for people.
    pub health: &'static str,
    /// Its `raft` has announced itself.
    pub announced: bool,
    /// The cluster whose founding entry its log holds.
    pub cluster: Option<ClusterId>,
}

/// The member map, as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Since when `member` has not answered. None: it answers, or was not asked yet.
    pub silent_since: Option<Instant>,
    /// Every member known, this one included.
    pub nodes: BTreeMap<NodeId, Member>,
    /// This node is the first of its introducers (F3).
    pub first_introducer: bool,
}

impl View {
    /// Whether `member` has been silent for so long that a person should look. A restart of it, or a start of
    /// this node that is faster than that of its `member`, is no alarm.
    pub fn member_is_silent(&self) -> bool {
        self.silent_since
            .is_some_and(|since| since.elapsed() >= MEMBER_PATIENCE)
    }

    /// The node's health, in a word.
    pub fn health(&self, node: NodeId) -> &'static str {
        self.nodes
            .get(&node)
            .map_or("unknown", |member| member.health)
    }
}

/// Where `member` listens.
fn address(config: &Config) -> SocketAddr {
    let bind = config.bind_ip;
    let ip = if bind.is_unspecified() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        bind
    };
    SocketAddr::new(ip, config.member_rpc_port)
}

async fn connect(config: &Config) -> Result<MembershipClient<Channel>, String> {
    let stream = net::dial(address(config), config.bind_ip, CONNECT_DEADLINE)
        .await
        .map_err(|error| error.to_string())?;
    let channel = net::channel(stream)
        .await
        .map_err(|error| net::root_cause(&error))?;
    Ok(MembershipClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(MEMBER_DEADLINE, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(net::status_line(&status)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Waits for `member` to say who this node is. `retired`: an id that it must not be any more; a
/// `member` that still has it has not started anew yet.
pub async fn first_contact(config: &Config, retired: Option<NodeId>) -> NodeId {
    let mut wait = MEMBER_BACKOFF.0;
    let mut told: Option<Instant> = None;
    loop {
        let asked = async {
            let mut client = connect(config).await?;
            let reply = within(client.self_(pb::SelfRequest {})).await?;
            let id = wire::id_from_bytes("node_id", &reply.node_id).map_err(|e| e.to_string())?;
            match NodeId(id) {
                id if Some(id) == retired => Err(format!("it still has the retired id {id}")),
                id => Ok(id),
            }
        };
        match asked.await {
            Ok(id) => return id,
            Err(reason) => {
                if told.is_none_or(|told| told.elapsed() >= MEMBER_REMINDER) {
                    told = Some(Instant::now());
                    let address = address(config);
                    say!(
                        info,
                        "SELF",
                        "waiting for member at {address} to give this node its id: {reason}"
                    );
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MEMBER_BACKOFF.1);
    }
}

/// Whether `member` says, before `patience` is over, that this node is the first of its introducers (F3): their
/// names may take a moment to resolve.
pub async fn is_first_introducer(config: &Config, patience: Duration) -> bool {
    let says_so = async || {
        let mut client = connect(config).await?;
        let mut changes = within(client.watch(pb::WatchRequest {})).await?;
        while let Ok(Some(reply)) = changes.message().await {
            if reply.first_introducer {
                return Ok(());
            }
        }
        Err::<(), String>("it ended the stream".to_owned())
    };
    let mut wait = MEMBER_BACKOFF.0;
    let asked = async {
        while let Err(reason) = says_so().await {
            tracing::debug!("member does not say whether this node may found: {reason}");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(MEMBER_BACKOFF.1);
        }
    };
    tokio::time::timeout(patience, asked).await.is_ok()
}

/// Follows the member map for as long as the daemon runs.
pub async fn run(shared: Arc<Shared>, view: watch::Sender<Arc<View>>) {
    let mut wait = MEMBER_BACKOFF.0;
    let mut follower = Follower { shared, view };
    loop {
        let began = Instant::now();
        let Err(reason) = follower.follow().await;
        let fell_silent = follower.view.borrow().silent_since.is_none();
        if fell_silent {
            say!(
                warn,
                "CONNERROR",
                "member at {}: {reason}",
                address(&follower.shared.config)
            );
            let now = Some(Instant::now());
            follower
                .view
                .send_modify(|view| Arc::make_mut(view).silent_since = now);
        }
        if began.elapsed() > MEMBER_BACKOFF.1 {
            wait = MEMBER_BACKOFF.0;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MEMBER_BACKOFF.1);
    }
}

struct Follower {
    shared: Arc<Shared>,
    view: watch::Sender<Arc<View>>,
}

impl Follower {
    /// One connection: announces this daemon, then takes every change, until it breaks.
    async fn follow(&mut self) -> Result<std::convert::Infallible, String> {
        let mut client = connect(&self.shared.config).await?;
        let mut cluster = self.shared.cluster.subscribe();
        cluster.mark_unchanged();
        self.announce(&mut client).await?;
        let mut changes = within(client.watch(pb::WatchRequest {})).await?;
        loop {
            tokio::select! {
                change = changes.message() => match change {
                    Ok(Some(reply)) => self.take(reply).await?,
                    Ok(None) => return Err("it ended the stream".to_owned()),
                    Err(status) => return Err(net::status_line(&status)),
                },
                changed = cluster.changed() => {
                    changed.map_err(|error| error.to_string())?;
                    self.announce(&mut client).await?;
                }
            }
        }
    }

    async fn announce(&self, client: &mut MembershipClient<Channel>) -> Result<(), String> {
        let request = pb::AnnounceRequest {
            raft_port: self.shared.config.rpc_port.into(),
            cluster_id: self.shared.cluster_bytes(),
        };
        within(client.announce(request)).await.map(|_| ())
    }

    async fn take(&mut self, reply: pb::SelfReply) -> Result<(), String> {
        let us = wire::id_from_bytes("node_id", &reply.node_id).map_err(|e| e.to_string())?;
        let us = NodeId(us);
        if us != self.shared.id {
            self.shared.end(Ending::Failed(format!(
                "member says that this node is {us}, but the folder of raft says {}: the two folders \
                 are of different nodes. Put back the one that belongs here, or remove the whole data \
                 directory to begin as a new node",
                self.shared.id
            )));
            return Err("it is another node's".to_owned());
        }
        let mut next = View {
            first_introducer: reply.first_introducer,
            ..View::default()
        };
        let mut save = false;
        for node in reply.member_map {
            let Some((id, member, address)) = self.member(node) else {
                continue;
            };
            match address {
                Some(address) if id != us => save |= self.shared.addresses.learn(id, address),
                Some(address) => *locked(&self.shared.own_ip) = Some(address.address.ip()),
                None => {}
            }
            next.nodes.insert(id, member);
        }
        self.view.send_if_modified(|view| {
            let changed = **view != next;
            if changed {
                *view = Arc::new(next);
            }
            changed
        });
        if save {
            self.save().await;
        }
        Ok(())
    }

    /// A node of the map. None: it makes no sense, and is passed over.
    fn member(&self, node: pb::MemberNode) -> Option<(NodeId, Member, Option<Address>)> {
        let id = NodeId(wire::id_from_bytes("node_id", &node.node_id).ok()?);
        let cluster = wire::optional_id_from_bytes("cluster_id", &node.cluster_id).ok()?;
        let ours = id == self.shared.id;
        let (alive, health) = match node.state() {
            _ if ours => (true, "alive"),
            MemberState::Alive => (true, "alive"),
            MemberState::Suspect => (false, "suspect"),
            MemberState::Dead => (false, "dead"),
            MemberState::Left => (false, "left"),
            MemberState::Unspecified => (false, "unknown"),
        };
        let ip = node.ip.parse::<IpAddr>().ok();
        let port = u16::try_from(node.raft_port).ok().filter(|port| *port != 0);
        let port = if ours {
            Some(self.shared.config.rpc_port)
        } else {
            port
        };
        let address = ip.zip(port).map(|(ip, port)| Address {
            address: SocketAddr::new(ip, port),
            name: node.name.clone(),
        });
        let cluster = cluster.map(ClusterId);
        Some((
            id,
            Member {
                alive,
                health,
                announced: node.raft_announced,
                cluster,
            },
            address,
        ))
    }

    async fn save(&self) {
        let shared = self.shared.clone();
        let saved = tokio::task::spawn_blocking(move || shared.addresses.save()).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!("the addresses of the other nodes could not be saved: {error}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_member_that_stays_silent_is_an_alarm() {
        let mut view = View::default();
        assert!(!view.member_is_silent(), "it was not asked yet");
        let now = Instant::now();
        view.silent_since = Some(now);
        assert!(!view.member_is_silent(), "it may be starting");
        view.silent_since = Some(now.checked_sub(MEMBER_PATIENCE).unwrap());
        assert!(view.member_is_silent());
    }
}
