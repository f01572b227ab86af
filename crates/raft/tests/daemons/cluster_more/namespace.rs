//! A network namespace of a test's own, in which pairs of addresses can be cut.
//!
//! The test runs itself once more, inside: there it has a loopback interface that nobody else sees,
//! and may drop packets on it. It needs `unshare`, `ip`, and `nft` or `iptables`; where the system
//! refuses one of them, there is nothing to test with, and the test says `SKIPPED: namespace`.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Set for the run inside.
const INSIDE: &str = "NAMESPACE_OF_THE_TEST";

/// A connection over loopback that takes longer does not come about.
const REACH: Duration = Duration::from_millis(500);

/// Whether this process is the one inside.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test of this name inside a namespace, and passes on how it ended.
pub fn run_inside(test: &str) {
    // Root needs no user namespace, and some systems allow it nothing in one.
    let ways: [&[&str]; 2] = [&["--net"], &["--net", "--user", "--map-root-user"]];
    let Some(way) = ways.into_iter().find(|way| offers_all(way)) else {
        // Past the test harness, which shows what a test prints only when it fails.
        let _ = writeln!(std::io::stderr(), "SKIPPED: namespace ({test})");
        return;
    };
    let output = Command::new("unshare")
        .args(way)
        .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "it failed inside of the namespace");
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(ran, "there is no test {test} to run inside");
}

fn offers_all(way: &[&str]) -> bool {
    let cut = Firewall::ALL
        .map(|firewall| firewall.command(&probe(), &probe()))
        .join(" || ");
    let script = format!("ip link set lo up && {{ {cut}; }}");
    let mut command = Command::new("unshare");
    command
        .args(way)
        .args(["sh", "-c", &script])
        .stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

fn probe() -> [Ipv4Addr; 1] {
    [Ipv4Addr::LOCALHOST]
}

#[derive(Clone, Copy)]
enum Firewall {
    Nft,
    Iptables,
}

impl Firewall {
    const ALL: [Firewall; 2] = [Firewall::Nft, Firewall::Iptables];

    /// Drops what arrives from one side at the other, in both directions: silence, no refusal.
    fn command(self, one: &[Ipv4Addr], other: &[Ipv4Addr]) -> String {
        let list = |side: &[Ipv4Addr]| {
            side.iter()
                .map(Ipv4Addr::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        let (one, other) = (list(one), list(other));
        match self {
            Firewall::Nft => format!(
                "nft 'table ip cut {{ chain input {{ type filter hook input priority 0; \
                 ip saddr {{ {one} }} ip daddr {{ {other} }} drop; \
                 ip saddr {{ {other} }} ip daddr {{ {one} }} drop; }}; }}'"
            ),
            Firewall::Iptables => format!(
                "{{ iptables -w -A INPUT -s {one} -d {other} -j DROP && \
                 iptables -w -A INPUT -s {other} -d {one} -j DROP; }}"
            ),
        }
    }
}

/// Two groups of addresses that hear nothing of each other, from now until [`Cut::heal`].
pub struct Cut {
    firewall: Firewall,
    one: Ipv4Addr,
    other: Ipv4Addr,
}

impl Cut {
    /// Cuts. Both addresses must listen on `port`: that the cut is real is checked.
    pub fn between(one: &[Ipv4Addr], other: &[Ipv4Addr], port: u16) -> Cut {
        assert!(is_inside(), "only a namespace of the test's own is cut");
        assert!(reaches(one[0], other[0], port), "there is nothing to cut");
        let firewall = Firewall::ALL
            .into_iter()
            .find(|firewall| shell(&firewall.command(one, other)))
            .expect("one of them worked when the namespace was tried");
        let cut = Cut {
            firewall,
            one: one[0],
            other: other[0],
        };
        assert!(!reaches(cut.one, cut.other, port) && !reaches(cut.other, cut.one, port));
        cut
    }

    /// Ends it.
    pub fn heal(self, port: u16) {
        let healed = match self.firewall {
            Firewall::Nft => shell("nft delete table ip cut"),
            Firewall::Iptables => shell("iptables -w -F INPUT"),
        };
        assert!(
            healed && reaches(self.one, self.other, port),
            "it does not heal"
        );
    }
}

fn shell(script: &str) -> bool {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    output.status.success()
}

/// Whether a TCP connection from one address to another comes about.
fn reaches(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::new(IpAddr::V4(from), 0).into())
        .unwrap();
    socket
        .connect_timeout(&SocketAddr::new(IpAddr::V4(to), port).into(), REACH)
        .is_ok()
}
