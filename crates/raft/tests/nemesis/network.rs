//! Links between nodes that are really cut, in a network namespace of the run's own.
//!
//! The program runs itself once more, inside: there it has a loopback interface that nobody else sees,
//! and may drop packets on it. It needs `unshare`, `ip` and `nft`; where the system refuses one of them,
//! links cannot be cut.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Set for the run inside.
const INSIDE: &str = "LEEKY_NEMESIS_INSIDE";

/// A connection over loopback that takes longer does not come about.
const REACH: Duration = Duration::from_millis(400);

const TABLE: &str = "table ip cut { set pairs { type ipv4_addr . ipv4_addr; }; chain input { type filter \
                     hook input priority 0; ip saddr . ip daddr @pairs counter drop; }; }";

/// Whether this process has a network of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program inside a network of its own, with more arguments. None: the system does not allow it.
pub fn run_inside(more: &[String]) -> Option<ExitCode> {
    // Root needs no user namespace, and some systems allow it nothing in one.
    let ways: [&[&str]; 2] = [&["--net"], &["--net", "--user", "--map-root-user"]];
    let enter = |way: &[&str], then: &str| {
        let script = format!("ip link set lo up && nft '{TABLE}' && {then}");
        let mut command = Command::new("unshare");
        command.args(way).args(["sh", "-c", &script, "sh"]);
        command
    };
    let way = ways.into_iter().find(|way| {
        let mut probe = enter(way, "nft list table ip cut");
        let output = probe.stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    })?;
    let status = enter(way, "exec \"$@\"")
        .arg(std::env::current_exe().ok()?)
        .args(std::env::args_os().skip(1))
        .args(more)
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status();
    let code = status.ok()?.code().unwrap_or(1);
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Drops what goes from the first address of each pair to the second.
pub fn cut(pairs: &[(Ipv4Addr, Ipv4Addr)]) {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(from, to)| format!("{from} . {to}"))
        .collect();
    let list = pairs.join(", ");
    nft(&format!("add element ip cut pairs {{ {list} }}"));
}

/// Ends all cuts.
pub fn heal() {
    nft("flush set ip cut pairs");
}

/// How many packets were dropped so far.
pub fn dropped() -> u64 {
    let said = nft("list chain ip cut input");
    let mut words = said.split_whitespace();
    words.find(|word| *word == "packets");
    words
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or_default()
}

fn nft(command: &str) -> String {
    let output = Command::new("nft").arg(command).output().unwrap();
    assert!(output.status.success(), "nft {command}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a TCP connection from one address to another comes about.
pub fn reaches(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let own = SocketAddr::new(IpAddr::V4(from), 0);
    socket.bind(&own.into()).is_ok()
        && socket
            .connect_timeout(&SocketAddr::new(IpAddr::V4(to), port).into(), REACH)
            .is_ok()
}
