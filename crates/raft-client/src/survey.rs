//! What the nodes say of themselves: every node is asked, not one node about the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use wire::raft::{NodeReference, StatusReply, StatusRequest};

use crate::client::{Client, hex, nobody};
use crate::connection::{CONNECT_DEADLINE, connect};
use crate::endpoints::resolve;
use crate::error::{ClientError, quoted};
use crate::failure::Failure;
use crate::request::service;

/// How long one node may take to tell its status, connecting apart.
const STATUS_DEADLINE: Duration = Duration::from_secs(1);

/// At most so many nodes are asked in one survey, whatever they claim to know of.
const NODES_ASKED_MAX: usize = 2000;

/// At most so many are asked at the same time.
const ASKED_AT_ONCE_MAX: usize = 64;

/// Nodes name nodes that name nodes; after so many steps everyone reachable has been asked.
const ROUNDS_MAX: usize = 4;

/// How long to wait before asking again who leads.
const LEADER_PAUSE: Duration = Duration::from_millis(100);

/// One row of the status table: one node, in its own words where it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// Its name; empty when nobody knows it.
    pub node: String,
    /// Its identity in hexadecimal; empty when nobody knows it.
    pub node_id: String,
    /// Where it was asked.
    pub address: String,
    /// Whether it answered; what is below is otherwise what others say, or zero.
    pub answered: bool,
    /// Follower, candidate, leader, or where it stands before it has a cluster.
    pub role: String,
    /// Its current term.
    pub term: u64,
    /// The name of the leader that it follows; empty: none.
    pub leader: String,
    /// Its commit index.
    pub commit: u64,
    /// The index up to which its state machine has applied.
    pub applied: u64,
    /// Voter, learner or none, by the leader's configuration.
    pub standing: String,
    /// By the member map; and why it did not answer, if so.
    pub health: String,
}

/// Everything that a survey found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// The cluster in hexadecimal; empty: no node has one yet.
    pub cluster_id: String,
    /// The name of the leader with the highest term; empty: none.
    pub leader: String,
    /// One row per node, by address.
    pub nodes: Vec<NodeRow>,
    /// What a person should look at, each with the node that says it.
    pub alarms: Vec<String>,
}

/// Everything that was heard, before it becomes rows.
#[derive(Default)]
struct Heard {
    asked: BTreeSet<SocketAddr>,
    answers: Vec<(SocketAddr, StatusReply)>,
    silent: BTreeMap<SocketAddr, Failure>,
    unresolved: Vec<String>,
}

impl Client {
    /// Asks all endpoints, and every node that they know of, for their status.
    ///
    /// Works without a leader and without a quorum.
    ///
    /// # Errors
    /// [`ClientError::NoNodeAnswered`] when not a single node answers.
    pub async fn status(&mut self) -> Result<Survey, ClientError> {
        let heard = self.survey(ROUNDS_MAX, self.deadline()).await?;
        Ok(summary(&heard))
    }

    /// The leader, as the endpoints know it; of several the one with the highest term.
    ///
    /// # Errors
    /// [`ClientError::NoLeader`] when none appears within the timeout.
    pub async fn leader(&mut self) -> Result<NodeReference, ClientError> {
        let deadline = self.deadline();
        let mut asked = None;
        loop {
            let heard = match (self.survey(1, deadline).await, &asked) {
                (Ok(heard), _) => heard,
                // The time was up in the middle of a round: what counts is what the one before it heard.
                (Err(_), Some(asked)) if Instant::now() + LEADER_PAUSE >= deadline => {
                    return Err(ClientError::NoLeader(format!("{asked} know none")));
                }
                (Err(error), _) => return Err(error),
            };
            if let Some(leader) = leader_of(&heard.answers) {
                return Ok(leader.clone());
            }
            let addresses = heard.answers.iter().map(|(address, _)| address.to_string());
            let names = addresses.collect::<Vec<_>>().join(", ");
            if Instant::now() + LEADER_PAUSE >= deadline {
                return Err(ClientError::NoLeader(format!("{names} know none")));
            }
            asked = Some(names);
            sleep(LEADER_PAUSE).await;
        }
    }

    /// The identity of the node that a person calls by its name, its address, or the beginning of
    /// its id.
    ///
    /// # Errors
    /// [`ClientError::Usage`] when no node or several nodes are called so.
    pub async fn node_called(&mut self, word: &str) -> Result<NodeReference, ClientError> {
        const ID_DIGITS_MIN: usize = 6;
        let heard = self.survey(ROUNDS_MAX, self.deadline()).await?;
        let mut nodes = BTreeMap::new();
        for (_, answer) in &heard.answers {
            let others = answer.nodes.iter().filter_map(|status| status.node.clone());
            let known = answer.node.clone().into_iter().chain(others);
            nodes.extend(known.map(|node| (node.node_id.clone(), node)));
        }
        let called = |node: &&NodeReference| {
            let by_id = word.len() >= ID_DIGITS_MIN && hex(&node.node_id).starts_with(word);
            let host = node.address.rsplit_once(':').map_or("", |(host, _)| host);
            node.name == word || node.address == word || host == word || by_id
        };
        let found: Vec<&NodeReference> = nodes.values().filter(called).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => {
                let names: Vec<String> = nodes.values().map(|node| quoted(&node.name)).collect();
                let names = names.join(", ");
                Err(ClientError::Usage(format!(
                    "No node is called {word}; there are {names}"
                )))
            }
            _ => Err(ClientError::Usage(format!(
                "Several nodes are called {word}; name one by its address or id"
            ))),
        }
    }

    /// The node behind the only endpoint.
    ///
    /// # Errors
    /// [`ClientError::Usage`] when there are several endpoints: which of them would be chance.
    pub async fn node_behind_endpoint(&mut self) -> Result<NodeReference, ClientError> {
        let heard = self.survey(1, self.deadline()).await?;
        match heard.answers.as_slice() {
            [(_, answer)] if heard.asked.len() == 1 => answer
                .node
                .clone()
                .ok_or_else(|| ClientError::Invalid("the node does not say who it is".to_owned())),
            _ => Err(ClientError::Usage(
                "There are several endpoints: say which node is meant, by its name".to_owned(),
            )),
        }
    }

    /// Pins the cluster that the endpoints belong to.
    ///
    /// # Errors
    /// [`ClientError::OtherCluster`] when they belong to several.
    pub(crate) async fn pin_by_survey(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let heard = self.survey(1, deadline).await?;
        for (address, answer) in &heard.answers {
            self.pin(*address, &answer.cluster_id)
                .map_err(|failure| failure.into_error(*address))?;
        }
        Ok(())
    }

    /// Asks every address of every endpoint whether it serves: the standard gRPC health check.
    ///
    /// # Errors
    /// [`ClientError::NotServing`] when one does not, [`ClientError::NoNodeAnswered`] when one is
    /// not there.
    pub async fn health(&mut self) -> Result<Vec<SocketAddr>, ClientError> {
        let deadline = self.deadline();
        let resolved = resolve(&self.options.endpoints, self.options.timeout).await;
        if let Some(first) = resolved.unresolved.first() {
            return Err(ClientError::NoNodeAnswered {
                tried: first.clone(),
            });
        }
        for address in &resolved.addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            let channel = connect(*address, left.min(STATUS_DEADLINE))
                .await
                .map_err(|error| Failure::Connect(error).into_error(*address))?;
            let mut health = HealthClient::new(channel);
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = timeout(left, health.check(HealthCheckRequest::default())).await;
            match answer {
                Err(_) => return Err(Failure::Silent.into_error(*address)),
                Ok(Err(status)) => return Err(Failure::from_status(&status).into_error(*address)),
                Ok(Ok(reply)) if reply.get_ref().status() == ServingStatus::Serving => {}
                Ok(Ok(reply)) => {
                    let state = reply.get_ref().status().as_str_name();
                    return Err(ClientError::NotServing(format!("{address} says {state}")));
                }
            }
        }
        Ok(resolved.addresses)
    }

    /// Asks the endpoints, then whom they name, and so on for `rounds` steps.
    async fn survey(&mut self, rounds: usize, deadline: Instant) -> Result<Heard, ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let resolved = resolve(&self.options.endpoints, left).await;
        let mut heard = Heard {
            unresolved: resolved.unresolved,
            ..Heard::default()
        };
        let mut next = resolved.addresses;
        for _ in 0..rounds {
            next.retain(|address| !heard.asked.contains(address));
            next.truncate(NODES_ASKED_MAX.saturating_sub(heard.asked.len()));
            if next.is_empty() || Instant::now() >= deadline {
                break;
            }
            heard.asked.extend(next.iter().copied());
            ask_all(&next, deadline, &mut heard).await;
            next = heard.named_and_not_heard();
        }
        if heard.answers.is_empty() {
            let round: Vec<(SocketAddr, Failure)> = heard.silent.into_iter().collect();
            return Err(nobody(&self.options.endpoints, &round, &heard.unresolved));
        }
        Ok(heard)
    }
}

impl Heard {
    /// The addresses of nodes that others named and that have not answered under any address.
    fn named_and_not_heard(&self) -> Vec<SocketAddr> {
        let heard: BTreeSet<&Bytes> = self
            .answers
            .iter()
            .filter_map(|(_, answer)| answer.node.as_ref())
            .map(|node| &node.node_id)
            .collect();
        let mut addresses = BTreeSet::new();
        for (_, answer) in &self.answers {
            let named = answer
                .nodes
                .iter()
                .filter_map(|status| status.node.as_ref());
            for node in named.filter(|node| !heard.contains(&node.node_id)) {
                addresses.extend(node.address.parse::<SocketAddr>());
            }
        }
        addresses.into_iter().collect()
    }
}

async fn ask_all(addresses: &[SocketAddr], deadline: Instant, heard: &mut Heard) {
    let mut waiting = addresses.iter().copied();
    let mut asking = JoinSet::new();
    loop {
        while asking.len() < ASKED_AT_ONCE_MAX
            && let Some(address) = waiting.next()
        {
            asking.spawn(async move { (address, ask(address, deadline).await) });
        }
        match asking.join_next().await {
            None => break,
            Some(Ok((address, Ok(answer)))) => heard.answers.push((address, answer)),
            Some(Ok((address, Err(failure)))) => {
                heard.silent.insert(address, failure);
            }
            // A task that ended without an answer: its row says that there was none.
            Some(Err(_)) => {}
        }
    }
    heard.answers.sort_by_key(|(address, _)| *address);
}

async fn ask(address: SocketAddr, deadline: Instant) -> Result<StatusReply, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let channel: Channel = connect(address, left.min(CONNECT_DEADLINE))
        .await
        .map_err(Failure::Connect)?;
    let left = deadline
        .saturating_duration_since(Instant::now())
        .min(STATUS_DEADLINE);
    match timeout(left, service(channel).status(StatusRequest {})).await {
        Err(_) => Err(Failure::Silent),
        Ok(Err(status)) => Err(Failure::from_status(&status)),
        Ok(Ok(reply)) => Ok(reply.into_inner()),
    }
}

/// The answer to believe about the others: the one of the highest term, the leader's own if it is
/// there.
fn best_view(answers: &[(SocketAddr, StatusReply)]) -> Option<&StatusReply> {
    answers
        .iter()
        .map(|(_, answer)| answer)
        .max_by_key(|answer| {
            let own = answer.node.as_ref().map(|node| &node.node_id);
            let leads =
                own.is_some() && own == answer.leader.as_ref().map(|leader| &leader.node_id);
            (answer.term, leads, answer.commit_index)
        })
}

fn leader_of(answers: &[(SocketAddr, StatusReply)]) -> Option<&NodeReference> {
    let naming = answers.iter().filter(|(_, answer)| {
        answer
            .leader
            .as_ref()
            .is_some_and(|leader| !leader.name.is_empty())
    });
    naming
        .max_by_key(|(_, answer)| answer.term)
        .and_then(|(_, answer)| answer.leader.as_ref())
}

fn summary(heard: &Heard) -> Survey {
    let view = best_view(&heard.answers);
    let cluster_id = heard
        .answers
        .iter()
        .map(|(_, answer)| &answer.cluster_id)
        .find(|cluster_id| !cluster_id.is_empty())
        .cloned()
        .unwrap_or_default();
    let mut rows: BTreeMap<Bytes, NodeRow> = BTreeMap::new();
    let mut alarms = Vec::new();
    // The endpoint through which a node was asked says less than the address that it gives itself.
    for (address, answer) in &heard.answers {
        let Some(node) = &answer.node else { continue };
        let name = quoted(&node.name);
        for alarm in &answer.alarms {
            alarms.push(format!("{name}: {}", quoted(alarm)));
        }
        if !answer.cluster_id.is_empty() && answer.cluster_id != cluster_id {
            let other = hex(&answer.cluster_id);
            alarms.push(format!(
                "{name} at {address} belongs to another cluster, {other}"
            ));
        }
        rows.insert(node.node_id.clone(), own_row(*address, node, answer, view));
    }
    for (_, answer) in &heard.answers {
        for node in answer
            .nodes
            .iter()
            .filter_map(|status| status.node.as_ref())
        {
            rows.entry(node.node_id.clone())
                .or_insert_with(|| absent_row(node, view, heard));
        }
    }
    let mut nodes: Vec<NodeRow> = rows.into_values().collect();
    let shown: BTreeSet<String> = nodes.iter().map(|row| row.address.clone()).collect();
    for (address, failure) in &heard.silent {
        if !shown.contains(&address.to_string()) {
            nodes.push(NodeRow {
                address: address.to_string(),
                health: failure.reason(),
                ..NodeRow::unknown()
            });
        }
    }
    nodes.sort_by_key(|row| (row.address.parse::<SocketAddr>().ok(), row.node.clone()));
    alarms.extend(
        heard
            .unresolved
            .iter()
            .map(|endpoint| format!("no node at {endpoint}")),
    );
    let mut told = BTreeSet::new();
    alarms.retain(|alarm| told.insert(alarm.clone()));
    Survey {
        cluster_id: hex(&cluster_id),
        leader: leader_of(&heard.answers)
            .map(|leader| quoted(&leader.name))
            .unwrap_or_default(),
        nodes,
        alarms,
    }
}

impl NodeRow {
    fn unknown() -> Self {
        Self {
            node: String::new(),
            node_id: String::new(),
            address: String::new(),
            answered: false,
            role: String::new(),
            term: 0,
            leader: String::new(),
            commit: 0,
            applied: 0,
            standing: String::new(),
            health: String::new(),
        }
    }
}

/// Standing and health of a node in the view of another.
fn seen(view: Option<&StatusReply>, node_id: &Bytes) -> (String, String) {
    let status = view
        .into_iter()
        .flat_map(|view| &view.nodes)
        .find(|status| {
            status
                .node
                .as_ref()
                .is_some_and(|node| node.node_id == *node_id)
        });
    status.map_or((String::new(), String::new()), |status| {
        (quoted(&status.standing), quoted(&status.health))
    })
}

fn own_row(
    address: SocketAddr,
    node: &NodeReference,
    answer: &StatusReply,
    view: Option<&StatusReply>,
) -> NodeRow {
    let (mut standing, mut health) = seen(view, &node.node_id);
    if standing.is_empty() {
        (standing, health) = seen(Some(answer), &node.node_id);
    }
    let founding = !answer.founding.is_empty();
    let address = if node.address.is_empty() {
        address.to_string()
    } else {
        quoted(&node.address)
    };
    NodeRow {
        node: quoted(&node.name),
        node_id: hex(&node.node_id),
        address,
        answered: true,
        role: quoted(if founding {
            &answer.founding
        } else {
            &answer.role
        }),
        term: answer.term,
        leader: answer
            .leader
            .as_ref()
            .map(|leader| quoted(&leader.name))
            .unwrap_or_default(),
        commit: answer.commit_index,
        applied: answer.applied_index,
        standing,
        health: if health.is_empty() {
            "alive".to_owned()
        } else {
            health
        },
    }
}

/// A node that others name and that does not answer itself.
fn absent_row(node: &NodeReference, view: Option<&StatusReply>, heard: &Heard) -> NodeRow {
    let (standing, health) = seen(view, &node.node_id);
    let address: Option<SocketAddr> = node.address.parse().ok();
    let reason = address
        .and_then(|address| heard.silent.get(&address))
        .map_or("not asked".to_owned(), Failure::reason);
    let health = if health.is_empty() {
        reason
    } else {
        format!("{health}, {reason}")
    };
    NodeRow {
        node: quoted(&node.name),
        node_id: hex(&node.node_id),
        address: quoted(&node.address),
        standing,
        health,
        ..NodeRow::unknown()
    }
}
