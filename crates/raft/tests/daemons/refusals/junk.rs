//! Bytes without sense on every port, while a writer goes on.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::writer::{SOON, all_live, while_writing};
use crate::cluster::Cluster;

const TCP_PORTS: [u16; 6] = [6000, 6001, 6002, 6003, 6004, 6005];
const GOSSIP_PORT: u16 = 6000;
const SEEDS: u64 = 8;

/// Datagrams of each sort for each node.
const DATAGRAMS: usize = 300;

/// Connections that are opened to each port, say something and then nothing more.
const HELD_PER_PORT: usize = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where this test listens for the gossip of its cluster, to see what true packets look like.
const EAVESDROPPER: Ipv4Addr = Ipv4Addr::new(127, 71, 6, 1);

const CALLS: [&str; 8] = [
    "/leeky.raft.v1.Raft/PutEntry",
    "/leeky.raft.v1.Raft/Query",
    "/leeky.raft.v1.Raft/Leave",
    "/leeky.raft.v1.Peer/AppendEntries",
    "/leeky.raft.v1.Peer/Heartbeat",
    "/leeky.member.v1.Membership/Announce",
    "/leeky.state_machine.v1.StateMachine/Execute",
    "/leeky.state_machine.v1.StateMachine/Handshake",
];

/// The same bytes for the same seed (SplitMix64).
struct Junk(u64);

impl Junk {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The beginning of a gRPC call.
fn call(stream: u32, path: &str) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(u8::try_from(text.len()).unwrap());
        out.extend(text.as_bytes());
    };
    // ":method: POST" and ":scheme: http" stand in HPACK's own table; the rest is spelled out.
    let mut headers = vec![0x83, 0x86, 0x04];
    text(&mut headers, path);
    headers.push(0x01);
    text(&mut headers, "node");
    headers.extend([0x0f, 0x10]);
    text(&mut headers, "application/grpc");
    headers.push(0x00);
    text(&mut headers, "te");
    text(&mut headers, "trailers");
    frame(HEADERS, END_HEADERS, stream, &headers)
}

/// A connection's beginning, and a call whose message claims to have so many bytes.
fn message_of(path: &str, claimed: u32, bytes: &[u8]) -> Vec<u8> {
    let mut all = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &call(1, path)].concat();
    let mut message = vec![0];
    message.extend(claimed.to_be_bytes());
    message.extend(bytes);
    for part in message.chunks(16_000) {
        all.extend(frame(DATA, 0, 1, part));
    }
    all
}

/// What one connection says, from the seed.
fn nonsense(junk: &mut Junk) -> Vec<Vec<u8>> {
    let path = CALLS[junk.below(CALLS.len())];
    let length = 1 + junk.below(20_000);
    let bytes = junk.bytes(length);
    let claimed = u32::try_from(bytes.len()).unwrap();
    let settings = frame(SETTINGS, 0, 0, &[]);
    let frames: Vec<u8> = (0..40)
        .flat_map(|_| {
            let [kind, flags, stream] = [11, 256, 5].map(|limit| junk.below(limit));
            let length = junk.below(300);
            frame(kind as u8, flags as u8, stream as u32, &junk.bytes(length))
        })
        .collect();
    let resets: Vec<u8> = (0..200)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            [
                call(stream, path),
                frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            ]
            .concat()
        })
        .collect();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(500);
    vec![
        bytes.clone(),
        [PREFACE, &bytes].concat(),
        [PREFACE, &settings, &frames].concat(),
        [PREFACE, &settings, &resets].concat(),
        [PREFACE, &settings.repeat(500), &pings].concat(),
        message_of(path, u32::MAX, &bytes),
        message_of(path, i32::MAX as u32, &bytes),
        message_of(path, 17 << 20, &bytes),
        [
            message_of(path, claimed, &bytes),
            frame(DATA, END_STREAM, 1, &[]),
        ]
        .concat(),
        [
            b"GET /metrics HTTP/1.1\r\nA: ",
            &*b"a".repeat(200_000),
            b"\r\n\r\n",
        ]
        .concat(),
        [
            b"PUT /log-level HTTP/1.1\r\nHost: n\r\nContent-Length: 20000\r\n\r\n",
            &*bytes,
        ]
        .concat(),
        b"POST /log-level HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"PUT /log-level HTTP/1.1\r\nHost: n\r\nContent-Length: 6\r\n\r\n\xff\xfe\xfd=[]".to_vec(),
    ]
}

/// Says it, listens for a moment and hangs up. The other end may do so first.
fn say(address: SocketAddr, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, SOON) else {
        return;
    };
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(30)))
        .unwrap();
    if stream.write_all(bytes).is_ok() {
        let _ = stream.read(&mut [0; 4096]);
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// A connection that stays: half a message, and then nothing.
fn hold(address: SocketAddr, number: usize) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, SOON).ok()?;
    let half = match number % 4 {
        0 => Vec::new(),
        1 => PREFACE[..10].to_vec(),
        2 => [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(),
        _ => message_of(CALLS[number % CALLS.len()], 16 << 20, &[0; 60_000]),
    };
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let _ = stream.write_all(&half);
    Some(stream)
}

/// Packets that a member has sent.
fn overheard(socket: &UdpSocket) -> Vec<Vec<u8>> {
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut packets = Vec::new();
    let deadline = Instant::now() + SOON;
    while packets.len() < 3 && Instant::now() < deadline {
        let mut packet = vec![0; 65_536];
        if let Ok(length) = socket.recv(&mut packet) {
            packet.truncate(length);
            packets.push(packet);
        }
    }
    assert!(!packets.is_empty(), "no member has asked to be let in");
    packets
}

/// A true packet with something wrong in it.
fn bent(junk: &mut Junk, packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let at = junk.below(packet.len());
    match junk.below(5) {
        0 => packet.truncate(at),
        1 => packet[at] ^= 1 << junk.below(8),
        2 => packet[at] = 0xff,
        3 => {
            let length = junk.below(1400);
            packet.extend(junk.bytes(length));
        }
        _ => packet[at..].fill(0xff),
    }
    packet
}

fn datagrams(ip: IpAddr, junk: &mut Junk, packets: &[Vec<u8>]) {
    let socket = UdpSocket::bind((EAVESDROPPER, 0)).unwrap();
    let to = SocketAddr::new(ip, GOSSIP_PORT);
    for length in [0, 1, 65_507] {
        let _ = socket.send_to(&junk.bytes(length), to);
    }
    for _ in 0..DATAGRAMS {
        let length = junk.below(1500);
        let _ = socket.send_to(&junk.bytes(length), to);
        let packet = &packets[junk.below(packets.len())];
        let _ = socket.send_to(packet, to);
        let _ = socket.send_to(&bent(junk, packet), to);
    }
}

#[test]
fn nonsense_on_every_port_kills_nobody_and_loses_nothing() {
    let eavesdropper = UdpSocket::bind((EAVESDROPPER, GOSSIP_PORT)).unwrap();
    let mut cluster = Cluster::new(3);
    let introducers = format!("{},{EAVESDROPPER}", cluster.node(1).ip);
    cluster.set("LEEKY_INTRODUCERS", &introducers);
    cluster.start_all();
    cluster.wait_for_voters(3, SOON);
    let packets = overheard(&eavesdropper);

    let ips: Vec<IpAddr> = cluster
        .numbers()
        .map(|n| cluster.node(n).ip.into())
        .collect();
    let mut held = Vec::new();
    let writes = while_writing(&cluster, "junk", || {
        let places = ips
            .iter()
            .flat_map(|ip| TCP_PORTS.map(|port| SocketAddr::new(*ip, port)));
        held = places
            .flat_map(|address| (0..HELD_PER_PORT).filter_map(move |n| hold(address, n)))
            .collect();
        std::thread::scope(|scope| {
            for (number, ip) in ips.iter().enumerate() {
                let packets = &packets;
                scope.spawn(move || {
                    for seed in 0..SEEDS {
                        let mut junk = Junk(seed * 1000 + number as u64);
                        datagrams(*ip, &mut junk, packets);
                        for port in TCP_PORTS {
                            for bytes in nonsense(&mut junk) {
                                say(SocketAddr::new(*ip, port), &bytes);
                            }
                        }
                    }
                });
            }
        });
    });
    assert!(
        held.len() >= 3 * 5 * HELD_PER_PORT,
        "{} connections",
        held.len()
    );
    all_live(&mut cluster);
    println!(
        "{} of {} writes were acknowledged",
        writes.acknowledged(),
        writes.tried()
    );
    assert!(writes.acknowledged() > 0);
    writes.are_all_there(&cluster);
    // With all those connections still open, every port serves.
    cluster.wait_for_voters(3, SOON);
    for ip in ips {
        for port in [6001, 6003] {
            assert_eq!(page(SocketAddr::new(ip, port), "/livez"), "HTTP/1.1 200 OK");
        }
    }
    drop(held);
}

/// The first line of the answer.
fn page(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap().to_owned()
}
