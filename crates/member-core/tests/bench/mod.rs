//! One member on a bench: packets of made-up peers go in, and what comes out is looked at.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use member_core::{
    Body, ClusterId, Event, Header, Identity, Incarnation, Member, Metadata, NodeId, Options,
    Output, Packet, Record, State, Update,
};

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);

/// Who the member on the bench is.
pub const ME: NodeId = NodeId(77);
pub const MY_NONCE: u64 = 5;
pub const MY_EPOCH: u32 = 3;

/// Most inputs that one run of the bench takes.
const MAX_STEPS: usize = 1_000_000;

pub fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, host], 6000))
}

pub fn incarnation(boot_epoch: u32, refutations: u32) -> Incarnation {
    Incarnation::from_wire(u64::from(boot_epoch) << 32 | u64::from(refutations)).unwrap()
}

/// A made-up member: says what the test wants.
#[derive(Debug, Clone)]
pub struct Peer {
    pub record: Record,
}

impl Peer {
    pub fn new(id: u8) -> Self {
        let metadata = Metadata {
            boot_nonce: 1000 + u64::from(id),
            address: address(id),
            raft_port: 0,
            raft_announced: false,
            name: format!("peer{id}"),
            cluster_id: None,
        };
        Self {
            record: Record {
                node_id: NodeId(u128::from(id)),
                incarnation: incarnation(1, 0),
                state: State::Alive,
                metadata,
            },
        }
    }

    pub fn in_cluster(id: u8, cluster: u128) -> Self {
        let mut peer = Self::new(id);
        peer.record.metadata.cluster_id = Some(ClusterId(cluster));
        peer
    }

    pub fn id(&self) -> NodeId {
        self.record.node_id
    }

    pub fn address(&self) -> SocketAddr {
        self.record.metadata.address
    }

    /// A packet of this peer to the member on the bench.
    pub fn packet(&self, body: Body, records: &[Record]) -> Packet {
        let header = Header {
            sender: self.record.node_id,
            incarnation: self.record.incarnation,
            boot_nonce: self.record.metadata.boot_nonce,
            cluster_id: self.record.metadata.cluster_id,
            target: Some(ME),
            view_hash: 0,
        };
        let updates = records.iter().cloned().map(update).collect();
        Packet {
            header,
            body,
            updates,
        }
    }
}

pub fn update(record: Record) -> Update {
    Update {
        record,
        accusers: BTreeSet::new(),
    }
}

pub struct Bench {
    pub member: Member,
    pub now: Duration,
    pub events: Vec<Event>,
    /// Everything that was sent: when, where to, what.
    pub sent: Vec<(Duration, SocketAddr, Packet)>,
    /// How many of those the peers have had their chance to answer.
    heeded: usize,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(MY_EPOCH, None)
    }

    pub fn in_cluster(cluster: u128) -> Self {
        Self::with(MY_EPOCH, Some(cluster))
    }

    pub fn with_options(options: Options) -> Self {
        Self::made(MY_EPOCH, options)
    }

    pub fn with(boot_epoch: u32, cluster: Option<u128>) -> Self {
        let mut bench = Self::made(boot_epoch, Options::default());
        if let Some(cluster) = cluster {
            let cluster = Some(ClusterId(cluster));
            bench.member.announce(bench.now, 6004, cluster);
            bench.collect();
        }
        bench
    }

    fn made(boot_epoch: u32, options: Options) -> Self {
        let identity = Identity {
            node_id: ME,
            boot_epoch,
            boot_nonce: MY_NONCE,
            address: address(77),
            name: "me".to_owned(),
        };
        let now = SECOND;
        let member = Member::new(identity, options, Vec::new(), now, 1);
        let mut bench = Self {
            member,
            now,
            events: Vec::new(),
            sent: Vec::new(),
            heeded: 0,
        };
        bench.collect();
        bench
    }

    /// A bench whose member knows these peers, with nothing left to tell them.
    pub fn knowing(cluster: Option<u128>, peers: &[Peer]) -> Self {
        let mut bench = Self::with(MY_EPOCH, cluster);
        for peer in peers {
            bench.give(peer, Body::Delta, std::slice::from_ref(&peer.record));
        }
        bench.run_with(3 * SECOND, peers);
        bench.forget();
        bench
    }

    /// Forgets what was sent and what happened so far.
    pub fn forget(&mut self) {
        self.sent.clear();
        self.heeded = 0;
        self.events.clear();
    }

    pub fn collect(&mut self) {
        while let Some(output) = self.member.poll_output() {
            match output {
                Output::Event(event) => self.events.push(event),
                Output::Send { to, bytes } => {
                    let packet = Packet::decode(&bytes);
                    assert!(packet.is_ok(), "nobody can read what it sends: {packet:?}");
                    self.sent.push((self.now, to, packet.unwrap()));
                }
            }
        }
    }

    pub fn give_packet(&mut self, from: SocketAddr, packet: &Packet) {
        let bytes = packet.encode().unwrap();
        self.member.handle(self.now, from, &bytes);
        self.collect();
    }

    pub fn give(&mut self, peer: &Peer, body: Body, records: &[Record]) {
        self.give_packet(peer.address(), &peer.packet(body, records));
    }

    /// Lets time pass; nobody answers.
    pub fn run(&mut self, time: Duration) {
        self.run_with(time, &[]);
    }

    /// Lets time pass, while these peers answer pings and heartbeats at once.
    pub fn run_with(&mut self, time: Duration, peers: &[Peer]) {
        let end = self.now + time;
        for _ in 0..MAX_STEPS {
            while let Some((_, to, packet)) = self.sent.get(self.heeded).cloned() {
                self.heeded += 1;
                let Some(peer) = peers.iter().find(|peer| peer.address() == to) else {
                    continue;
                };
                match packet.body {
                    Body::Ping { stamp, origin } => self.give(
                        peer,
                        Body::Ack {
                            echo: stamp,
                            origin,
                        },
                        &[],
                    ),
                    Body::Heartbeat { stamp, .. } => {
                        let body = Body::Heartbeat {
                            stamp: 1,
                            echo: stamp,
                        };
                        self.give(peer, body, &[]);
                    }
                    _ => {}
                }
            }
            let due = self.member.next_deadline();
            if due > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(due);
            self.member.tick(self.now);
            self.collect();
        }
        panic!("ticks do not end");
    }

    /// Lets time pass without the member: a pause of its process.
    pub fn sleep(&mut self, time: Duration) {
        self.now += time;
    }

    pub fn count(&self, matches: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| matches(event)).count()
    }

    pub fn sent_to(&self, to: SocketAddr) -> impl Iterator<Item = &Packet> {
        self.sent
            .iter()
            .filter(move |(_, address, _)| *address == to)
            .map(|(_, _, packet)| packet)
    }

    /// What the member shows of another one.
    pub fn shown(&self, node_id: NodeId) -> Option<Record> {
        let view = self.member.view(self.now);
        let members = view.members.into_iter().map(|member| member.record);
        members.into_iter().find(|record| record.node_id == node_id)
    }

    pub fn state(&self, node_id: NodeId) -> Option<State> {
        self.shown(node_id).map(|record| record.state)
    }
}
