//! Two of five nodes are cut off, the leader among them: they acknowledge nothing and serve no
//! linearizable read, the other three go on, and in the end all five agree.
//!
//! Once the two are stopped and continued, as a machine that is suspended; once they run on in a
//! network that is really cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::cluster_more::evidence::{Evidence, differences, log_of};
use crate::cluster_more::namespace::{self, Cut};
use rustix::process::Signal;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wire::raft::raft_client::RaftClient;
use wire::raft::{self as pb, ErrorKind, ResultKind};
use wire::status::detail_of;

const NODES: usize = 5;

/// All that is waited for takes a small part of this on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node is asked to answer within this while the network is cut.
const SHORT_MS: u32 = 700;

/// Values that the majority writes meanwhile.
const VALUES: u64 = 20;

/// What is asked of a cut-off node, over and over.
const ATTEMPTS: usize = 5;

#[test]
fn two_of_five_are_stopped_and_go_on_as_if_nothing_had_been() {
    let cluster = Cluster::started(NODES, NODES);
    let (minority, majority) = sides(&cluster);
    let mut register = Register::open(&cluster, &majority);
    register.set(0);
    for number in &minority {
        cluster.signal(*number, Signal::STOP);
    }
    // The new leader, elected by the others, acknowledges this one.
    register.set(1);
    let sent = Barrier::new(minority.len() + 1);
    let answers = std::thread::scope(|scope| {
        let asked: Vec<_> = minority
            .iter()
            .map(|number| {
                let (cluster, sent) = (&cluster, &sent);
                scope.spawn(move || ask_both(cluster, *number, sent))
            })
            .collect();
        // Their kernels took the requests. The nodes find them when they go on, and one of them has
        // not heard yet that it does not lead.
        sent.wait();
        goes_on(&mut register, 2);
        assert!(
            asked.iter().all(|asked| !asked.is_finished()),
            "a stopped node has answered"
        );
        for number in &minority {
            cluster.signal(*number, Signal::CONT);
        }
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect::<Vec<_>>()
    });
    all_agree(&cluster, VALUES);
    for (number, answers) in minority.iter().zip(answers) {
        println!(
            "node {number}, which was stopped: PUT {:?}, GET {:?}",
            answers.put, answers.read
        );
        if let Ok(value) = answers.read {
            // 1 was acknowledged before the read began.
            let value: u64 = value.parse().unwrap();
            assert!(
                (1..=VALUES).contains(&value),
                "node {number} served an old value, {value}"
            );
        }
        let written = values(&cluster, &late_key(*number));
        if answers.put == Said::Acknowledged {
            assert_eq!(written, Some("late".to_owned()), "it was acknowledged");
        }
        if answers.put == Said::No {
            assert_eq!(written, None, "it was refused");
        }
    }
}

#[test]
fn two_of_five_are_cut_off_by_the_network_and_run_on() {
    if !namespace::is_inside() {
        return namespace::run_inside(
            "partitions::two_of_five_are_cut_off_by_the_network_and_run_on",
        );
    }
    let mut cluster = Cluster::started(NODES, NODES);
    let (minority, majority) = sides(&cluster);
    let addresses = |numbers: &[usize]| -> Vec<Ipv4Addr> {
        numbers
            .iter()
            .map(|number| cluster.node(*number).ip)
            .collect()
    };
    let mut register = Register::open(&cluster, &majority);
    register.set(0);
    let cut = Cut::between(&addresses(&minority), &addresses(&majority), 6004);
    let over = AtomicBool::new(false);
    let told = std::thread::scope(|scope| {
        let hammered: Vec<_> = minority
            .iter()
            .map(|number| {
                let (cluster, over) = (&cluster, &over);
                scope.spawn(move || hammer(cluster, *number, over))
            })
            .collect();
        goes_on(&mut register, 1);
        // Long enough that the gossip notices too: nobody loses his vote over it.
        cluster.eventually(
            "the majority's members miss the others",
            PATIENCE,
            |cluster| {
                let seen = cluster.status(majority[0])?.nodes;
                let missed = seen.iter().filter(|node| node.health != "alive").count();
                (missed == minority.len()).then_some(())
            },
        );
        over.store(true, Ordering::Relaxed);
        hammered
            .into_iter()
            .map(|hammered| hammered.join().unwrap())
            .collect::<Vec<_>>()
    });
    for (number, told) in minority.iter().zip(&told) {
        println!("node {number}, cut off: {told:?}");
        assert_eq!(told.acknowledged, 0, "node {number} acknowledged a write");
        assert_eq!(told.read, 0, "node {number} served a linearizable read");
        assert!(told.refused.len() + told.unknown.len() >= ATTEMPTS && told.not_read >= ATTEMPTS);
        assert_eq!(
            held_by(&cluster, *number, "register"),
            Some("0".to_owned()),
            "as it was"
        );
    }
    cut.heal(6004);
    all_agree(&cluster, VALUES);
    for told in told {
        for key in told.refused {
            assert_eq!(values(&cluster, &key), None, "{key} was refused");
        }
        for key in told.unknown {
            values(&cluster, &key);
        }
    }
    let status = |cluster: &Cluster| cluster.status(1);
    let committed = cluster
        .eventually("a status", PATIENCE, status)
        .commit_index;
    cluster.kill_all();
    let logs: Vec<Evidence> = cluster
        .numbers()
        .map(|number| cluster.node(number))
        .map(|node| Evidence {
            name: node.name.clone(),
            log: log_of(&node.data),
            executed: BTreeSet::new(),
        })
        .collect();
    assert_eq!(differences(&logs, committed), Vec::<String>::new());
}

/// The leader and one more node, and the three others.
fn sides(cluster: &Cluster) -> (Vec<usize>, Vec<usize>) {
    let leader = cluster.wait_for_voters(NODES, PATIENCE);
    let other = leader % NODES + 1;
    cluster
        .numbers()
        .partition(|number| [leader, other].contains(number))
}

/// The three write and read, and each reads what was written last.
fn goes_on(register: &mut Register<'_>, first: u64) {
    for value in first..=VALUES {
        register.set(value);
        for number in register.nodes {
            let read = register.read(*number);
            assert_eq!(read, value.to_string(), "node {number}, of the majority");
        }
    }
}

/// All five have the same leader, term and commit index, have applied it, and hold the same value.
fn all_agree(cluster: &Cluster, value: u64) {
    cluster.wait_for_voters(NODES, PATIENCE);
    cluster.eventually("all five agree", PATIENCE, |cluster| {
        let mut seen = BTreeSet::new();
        for number in cluster.numbers() {
            let status = cluster.status(number)?;
            let indices = [status.last_index, status.commit_index, status.applied_index];
            if indices.iter().any(|index| *index != indices[0]) {
                return None;
            }
            seen.insert((status.leader?.node_id, status.term, indices));
        }
        (seen.len() == 1).then_some(())
    });
    assert_eq!(values(cluster, "register"), Some(value.to_string()));
    for number in cluster.numbers() {
        assert_eq!(read(cluster, number), value.to_string(), "node {number}");
    }
}

/// The register, linearizably, from a node that must answer.
fn read(cluster: &Cluster, number: usize) -> String {
    cluster.eventually("a read", PATIENCE, |cluster| {
        let reply = cluster.query(number, "GET register", false).ok()?;
        Some(String::from_utf8(reply.data.to_vec()).unwrap())
    })
}

/// What a node by itself holds under a key.
fn held_by(cluster: &Cluster, number: usize, key: &str) -> Option<String> {
    let query = format!("GET {key}");
    let reply = cluster.eventually("a stale read", PATIENCE, |cluster| {
        cluster.query(number, &query, true).ok()
    });
    (reply.kind() == ResultKind::Ok).then(|| String::from_utf8(reply.data.to_vec()).unwrap())
}

/// What every node by itself holds under a key, which must be the same.
fn values(cluster: &Cluster, key: &str) -> Option<String> {
    let held: BTreeMap<Option<String>, Vec<usize>> =
        cluster.numbers().fold(BTreeMap::new(), |mut held, number| {
            held.entry(held_by(cluster, number, key))
                .or_default()
                .push(number);
            held
        });
    assert_eq!(held.len(), 1, "{key}: {held:?}");
    held.into_keys().next().unwrap()
}

/// What a node said of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Acknowledged,
    /// It was not appended, and never will be.
    No,
    /// Nothing definite.
    Unknown,
}

fn said(answer: &Result<pb::PutEntryReply, Status>) -> Said {
    match answer {
        Ok(_) => Said::Acknowledged,
        Err(status) => match detail_of(status).map(|detail| detail.kind()) {
            Some(ErrorKind::OutcomeUnknown) | None => Said::Unknown,
            Some(_) => Said::No,
        },
    }
}

/// One key that one writer sets, through nodes that must get it done. In a session: a value that was
/// sent twice does not come back later.
struct Register<'a> {
    cluster: &'a Cluster,
    nodes: &'a [usize],
    session: u64,
    sequence: u64,
}

impl<'a> Register<'a> {
    fn open(cluster: &'a Cluster, nodes: &'a [usize]) -> Register<'a> {
        let session = cluster.eventually("a session", PATIENCE, |cluster| {
            let mut client = cluster.client(nodes[0]);
            let request = pb::RegisterSessionRequest::default();
            let answer = cluster.block_on(async move { client.register_session(request).await });
            Some(answer.ok()?.into_inner().session)
        });
        Register {
            cluster,
            nodes,
            session,
            sequence: 0,
        }
    }

    fn set(&mut self, value: u64) {
        self.sequence += 1;
        let request = pb::PutEntryRequest {
            entry: format!("PUT register {value}").into(),
            session: self.session,
            sequence: self.sequence,
            acked_below: self.sequence,
            timeout_ms: 2000,
            ..pb::PutEntryRequest::default()
        };
        let mut next = self.nodes.iter().cycle();
        self.cluster
            .eventually(&format!("{value} is acknowledged"), PATIENCE, |cluster| {
                let mut client = cluster.client(*next.next()?);
                let request = request.clone();
                cluster
                    .block_on(async move { client.put_entry(request).await })
                    .ok()
            });
    }

    fn read(&self, number: usize) -> String {
        read(self.cluster, number)
    }
}

fn late_key(number: usize) -> String {
    format!("late-{number}")
}

struct Answers {
    put: Said,
    read: Result<String, Status>,
}

/// Sends a PUT and a GET to a node that is stopped, over connections that are open already, and
/// waits for both answers.
fn ask_both(cluster: &Cluster, number: usize, sent: &Barrier) -> Answers {
    let timeout_ms = u32::try_from(PATIENCE.as_millis()).unwrap();
    let put = pb::PutEntryRequest {
        entry: format!("PUT {} late", late_key(number)).into(),
        timeout_ms,
        ..pb::PutEntryRequest::default()
    };
    let query = pb::QueryRequest {
        query: "GET register".into(),
        timeout_ms,
        ..pb::QueryRequest::default()
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address(number))).unwrap();
    let (put, read) = cluster.block_on(async move {
        let channel: Channel = endpoint.connect().await.unwrap();
        let (mut one, mut other) = (RaftClient::new(channel.clone()), RaftClient::new(channel));
        let (tell, both_are_sent) = tokio::sync::oneshot::channel();
        // The three are begun in this order.
        let answers = tokio::spawn(async move {
            tokio::join!(one.put_entry(put), other.query(query), async {
                tell.send(())
            })
        });
        both_are_sent.await.unwrap();
        tokio::task::block_in_place(|| sent.wait());
        // The nodes answer in time, whatever they answer.
        let (put, read, _) = tokio::time::timeout(PATIENCE * 2, answers)
            .await
            .unwrap()
            .unwrap();
        (put, read)
    });
    let put = said(&put.map(tonic::Response::into_inner));
    let read = read.map(|reply| String::from_utf8(reply.into_inner().data.to_vec()).unwrap());
    Answers { put, read }
}

/// What a node that is cut off said.
#[derive(Debug, Default)]
struct Told {
    acknowledged: usize,
    /// Keys whose entries were refused for good, and those of which it said nothing definite.
    refused: Vec<String>,
    unknown: Vec<String>,
    read: usize,
    not_read: usize,
}

/// Writes to a node and reads from it, over and over, until `over`, and a few times at least.
fn hammer(cluster: &Cluster, number: usize, over: &AtomicBool) -> Told {
    let mut told = Told::default();
    let mut client = cluster.client(number);
    for attempt in 1.. {
        if over.load(Ordering::Relaxed) && attempt > ATTEMPTS {
            break;
        }
        let key = format!("cut-off-{number}-{attempt}");
        let put = pb::PutEntryRequest {
            entry: format!("PUT {key} anything").into(),
            timeout_ms: SHORT_MS,
            ..pb::PutEntryRequest::default()
        };
        let query = pb::QueryRequest {
            query: "GET register".into(),
            timeout_ms: SHORT_MS,
            ..pb::QueryRequest::default()
        };
        let mut other = client.clone();
        let begun = Instant::now();
        let (put, read) =
            cluster.block_on(async { tokio::join!(client.put_entry(put), other.query(query)) });
        match said(&put.map(tonic::Response::into_inner)) {
            Said::Acknowledged => told.acknowledged += 1,
            Said::No => told.refused.push(key),
            Said::Unknown => told.unknown.push(key),
        }
        match read {
            Ok(_) => told.read += 1,
            Err(_) => told.not_read += 1,
        }
        // A node that refuses at once is not asked without a pause.
        std::thread::sleep(Duration::from_millis(100).saturating_sub(begun.elapsed()));
    }
    told
}
