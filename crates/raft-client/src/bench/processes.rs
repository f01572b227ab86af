//! What the nodes' processes use of this machine, read from `/proc`.
//!
//! A node's `raft` is the process that listens at an endpoint. Its `member` and state machine are the
//! processes that listen at the same address on other ports, and are called so or are of the same
//! process group. What cannot be seen (another machine, a container, another user's process, no
//! `/proc`) is said in a sentence; it is never an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::report::{Server, Usage};

/// Names of a node's other processes; one of another name is known by its process group.
const COMPANIONS: [&str; 2] = ["member", "state-machine"];

/// At most so many open files are looked at, of all processes together.
const FILES_MAX: usize = 1_000_000;

/// At most so many processes are watched.
const PROCESSES_MAX: usize = 4096;

/// The `st` of a socket that listens, in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A process that listens somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    pid: u32,
    name: String,
    group: u32,
    address: SocketAddr,
}

/// The processes of the nodes, and what they used.
pub(super) struct Watched {
    processes: Vec<Listener>,
    notes: Vec<String>,
    before: BTreeMap<u32, Usage>,
    after: BTreeMap<u32, Usage>,
    own_before: Option<Usage>,
    own_after: Option<Usage>,
}

impl Watched {
    /// Looks for whoever serves at these addresses.
    pub(super) fn find(addresses: &[SocketAddr]) -> Self {
        let (processes, notes) = match listeners() {
            Ok(listeners) => nodes(addresses, &listeners, is_here),
            Err(sentence) => (Vec::new(), vec![sentence]),
        };
        Self {
            processes,
            notes,
            before: BTreeMap::new(),
            after: BTreeMap::new(),
            own_before: None,
            own_after: None,
        }
    }

    /// What is used from now on counts.
    pub(super) fn begin(&mut self) {
        self.own_before = usage("self");
        self.before = self.usages();
    }

    /// Up to here.
    pub(super) fn end(&mut self) {
        self.after = self.usages();
        self.own_after = usage("self");
    }

    fn usages(&self) -> BTreeMap<u32, Usage> {
        let pids = self.processes.iter().map(|process| process.pid);
        pids.filter_map(|pid| Some((pid, usage(&pid.to_string())?)))
            .collect()
    }

    /// What this process used.
    pub(super) fn client(&self) -> Option<Usage> {
        difference(self.own_before.as_ref()?, self.own_after.as_ref()?)
    }

    /// What the nodes used, and what cannot be told of them.
    pub(super) fn servers(&self) -> (Vec<Server>, Vec<String>) {
        let mut notes = self.notes.clone();
        let mut servers = Vec::new();
        for process in &self.processes {
            let before = self.before.get(&process.pid);
            let used = before.and_then(|before| difference(before, self.after.get(&process.pid)?));
            match used {
                Some(usage) => servers.push(Server {
                    process: process.name.clone(),
                    pid: process.pid,
                    address: process.address.to_string(),
                    usage,
                }),
                None if self.after.is_empty() && self.before.is_empty() => {}
                None => notes.push(format!(
                    "{} (process {}) ended while it was measured",
                    process.name, process.pid
                )),
            }
        }
        (servers, notes)
    }
}

fn difference(before: &Usage, after: &Usage) -> Option<Usage> {
    let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
    // A process that had the same number later began again from nothing.
    (cpu_seconds >= 0.0).then_some(Usage {
        cpu_seconds,
        resident_bytes: after.resident_bytes,
    })
}

/// The processes of the nodes at these addresses, and a sentence for what is not to be seen.
fn nodes(
    addresses: &[SocketAddr],
    listeners: &[Listener],
    is_here: impl Fn(IpAddr) -> bool,
) -> (Vec<Listener>, Vec<String>) {
    let mut found: Vec<Listener> = Vec::new();
    let mut unseen = Vec::new();
    for endpoint in addresses {
        let serves = |listener: &&Listener| {
            let (here, there) = (listener.address.ip().to_canonical(), endpoint.ip());
            let same = here == there.to_canonical() || here.is_unspecified();
            listener.address.port() == endpoint.port() && same
        };
        let raft = listeners.iter().find(serves);
        let Some(raft) = raft.filter(|_| is_here(endpoint.ip())) else {
            unseen.push(endpoint.to_string());
            continue;
        };
        let companion = |listener: &&Listener| {
            let related =
                COMPANIONS.contains(&listener.name.as_str()) || listener.group == raft.group;
            listener.pid != raft.pid && listener.address.ip() == raft.address.ip() && related
        };
        let node = std::iter::once(raft).chain(listeners.iter().filter(companion));
        for process in node {
            if !found.iter().any(|known| known.pid == process.pid) {
                found.push(process.clone());
            }
        }
    }
    found.truncate(PROCESSES_MAX);
    let mut notes = Vec::new();
    if !unseen.is_empty() {
        notes.push(format!(
            "what the processes behind {} use is not to be seen from here: they do not run, \
             or on another machine, in a container, or as another user",
            unseen.join(", ")
        ));
    }
    (found, notes)
}

/// Whether an address is this machine's: only then can one bind it. Nothing is sent.
fn is_here(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Every process that listens on TCP, as far as this user may look.
fn listeners() -> Result<Vec<Listener>, String> {
    let mut sockets: BTreeMap<u64, SocketAddr> = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(text) = fs::read_to_string(table) {
            sockets.extend(text.lines().filter_map(listening_socket));
        }
    }
    let none = || {
        "what the servers use is not to be seen from here: this machine has no /proc/net/tcp"
            .to_owned()
    };
    if sockets.is_empty() && !Path::new("/proc/net/tcp").exists() {
        return Err(none());
    }
    let mut files = 0;
    let mut listeners = Vec::new();
    for process in fs::read_dir("/proc").map_err(|_| none())?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Another user's process does not show its files.
        let Ok(open) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let mut listens = BTreeSet::new();
        for file in open.flatten().take(FILES_MAX - files) {
            files += 1;
            let target = fs::read_link(file.path()).unwrap_or_default();
            let inode = target.to_str().and_then(inode_of);
            listens.extend(inode.and_then(|inode| sockets.get(&inode)));
        }
        if listens.is_empty() {
            continue;
        }
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let Some(stat) = Stat::read(&stat) else {
            continue;
        };
        listeners.extend(listens.into_iter().map(|address| Listener {
            pid,
            name: stat.name.to_owned(),
            group: stat.group,
            address,
        }));
    }
    Ok(listeners)
}

fn inode_of(target: &str) -> Option<u64> {
    target
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// One line of `/proc/net/tcp`: the inode and the address of a socket that listens.
fn listening_socket(line: &str) -> Option<(u64, SocketAddr)> {
    let mut words = line.split_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    if state != LISTEN {
        return None;
    }
    let inode = words.nth(5)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((inode, SocketAddr::new(ip_of(ip)?, port)))
}

/// Words of 32 bits in hexadecimal, each in the order of this machine's bytes.
fn ip_of(digits: &str) -> Option<IpAddr> {
    let word = |place: usize| {
        let digits = digits.get(place * 8..place * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match digits.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (place, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(place)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// What is wanted of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat<'a> {
    name: &'a str,
    group: u32,
    /// In user mode and for it in the kernel, all threads together.
    cpu_ticks: u64,
}

impl<'a> Stat<'a> {
    fn read(text: &'a str) -> Option<Self> {
        // The name may have spaces and brackets of its own: its end is the last bracket.
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self {
            name,
            group: u32::try_from(number(2)?).ok()?,
            cpu_ticks: number(11)?.saturating_add(number(12)?),
        })
    }
}

fn usage(pid: &str) -> Option<Usage> {
    let folder = Path::new("/proc").join(pid);
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let ticks = Stat::read(&stat)?.cpu_ticks;
    Some(Usage {
        cpu_seconds: ticks as f64 * tick().as_secs_f64(),
        resident_bytes: resident_bytes(&status)?,
    })
}

/// `VmRSS` of `/proc/PID/status`, which is in KiB.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The unit of CPU time in `/proc`. The kernel tells it to every process that it starts.
fn tick() -> Duration {
    const AT_CLKTCK: usize = 17;
    const TICKS_USUAL: u32 = 100;
    const WORD: usize = size_of::<usize>();
    let vector = fs::read("/proc/self/auxv").unwrap_or_default();
    let words: Vec<usize> = vector
        .as_chunks::<WORD>()
        .0
        .iter()
        .map(|word| usize::from_ne_bytes(*word))
        .collect();
    let (pairs, _) = words.as_chunks::<2>();
    let told = pairs.iter().find(|[key, _]| *key == AT_CLKTCK);
    let ticks = told.and_then(|[_, ticks]| u32::try_from(*ticks).ok());
    Duration::from_secs(1) / ticks.filter(|ticks| *ticks > 0).unwrap_or(TICKS_USUAL)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn listener(pid: u32, name: &str, group: u32, address: &str) -> Listener {
        Listener {
            pid,
            name: name.to_owned(),
            group,
            address: address.parse().unwrap(),
        }
    }

    fn pids(addresses: &[&str], listeners: &[Listener], here: bool) -> (Vec<u32>, Vec<String>) {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let (found, notes) = nodes(&addresses, listeners, |_| here);
        (found.iter().map(|process| process.pid).collect(), notes)
    }

    #[test]
    fn a_node_is_whoever_listens_at_its_address_and_belongs_to_it() {
        let listeners = [
            listener(1, "raft", 10, "127.77.0.1:6003"),
            listener(1, "raft", 10, "127.77.0.1:6004"),
            listener(2, "member", 20, "127.77.0.1:6002"),
            listener(3, "my-machine", 10, "127.77.0.1:6005"),
            listener(4, "database", 40, "127.77.0.1:5432"),
            listener(5, "member", 20, "127.77.0.2:6002"),
            listener(6, "raft", 60, "127.77.0.3:7004"),
        ];
        let (found, notes) = pids(&["127.77.0.1:6004"], &listeners, true);
        assert_eq!((found, notes.len()), (vec![1, 2, 3], 0));
        let (found, notes) = pids(&["127.77.0.3:6004", "127.77.0.3:7004"], &listeners, true);
        assert_eq!(found, [6]);
        assert!(notes[0].contains("127.77.0.3:6004 use"), "{notes:?}");
    }

    #[test]
    fn a_listener_on_every_address_serves_those_of_this_machine_alone() {
        let listeners = [
            listener(1, "raft", 10, "0.0.0.0:6004"),
            listener(2, "state-machine", 20, "0.0.0.0:6005"),
            listener(3, "raft", 10, "[::]:7004"),
        ];
        let (found, notes) = pids(&["127.0.0.1:6004"], &listeners, true);
        assert_eq!((found, notes.len()), (vec![1, 2], 0));
        assert_eq!(pids(&["127.0.0.1:7004"], &listeners, true).0, [3]);
        let (found, notes) = pids(&["192.0.2.1:6004"], &listeners, false);
        assert_eq!((found.len(), notes.len()), (0, 1));
        assert!(is_here("127.0.0.1".parse().unwrap()));
        assert!(!is_here("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn lines_of_proc() {
        let line = |local: &str, state: &str| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0"
            )
        };
        let four = u32::from_ne_bytes([127, 77, 0, 1]);
        let read = listening_socket(&line(&format!("{four:08X}:1774"), "0A"));
        assert_eq!(read, Some((4711, "127.77.0.1:6004".parse().unwrap())));
        let last = u32::from_ne_bytes([0, 0, 0, 1]);
        let six = format!("{:024}{last:08X}:1774", 0);
        let read = listening_socket(&line(&six, "0A"));
        assert_eq!(read, Some((4711, "[::1]:6004".parse().unwrap())));
        assert_eq!(listening_socket(&line("0100007F:1774", "01")), None);
        for nonsense in [
            "",
            "  sl  local_address rem_address   st",
            "0: x:y z 0A a b c d e f",
        ] {
            assert_eq!(listening_socket(nonsense), None, "{nonsense}");
        }
        let stat = "7 (a (b) c) S 1 5 5 0 -1 4194560 1 2 3 4 30 12 0 0 20 0 9 0 1 2 3";
        let expected = Stat {
            name: "a (b) c",
            group: 5,
            cpu_ticks: 42,
        };
        assert_eq!(Stat::read(stat), Some(expected));
        assert_eq!(Stat::read("7 (a"), None);
        assert_eq!(
            resident_bytes("VmPeak:\t 9 kB\nVmRSS:\t  12 kB\n"),
            Some(12288)
        );
        assert_eq!(inode_of("socket:[12]"), Some(12));
        assert_eq!(inode_of("pipe:[12]"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_found_by_its_own_listener() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut watched = Watched::find(&[address]);
        let own = std::process::id();
        assert!(watched.processes.iter().any(|found| found.pid == own));
        watched.begin();
        watched.end();
        let (servers, notes) = watched.servers();
        let server = servers.iter().find(|server| server.pid == own).unwrap();
        assert!(server.usage.resident_bytes > 0, "{server:?}");
        assert!(watched.client().is_some());
        assert!(notes.is_empty(), "{notes:?}");
    }
}
