//! What is done to the cluster, one thing after the other and some at once, drawn from a seed; and the
//! evidence that it had an effect. What is struck and when follows from the seed; who leads at that
//! moment, and how the machine's other work interleaves, does not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use wire::raft::StatusReply;

use crate::cluster::{Cluster, PROCESSES, Process};
use crate::disk::{Hang, NodeDisk};
use crate::network;

/// How long a fault lasts, in milliseconds: as a rule, and those that are to be noticed by timers.
const SHORT_MS: (u64, u64) = (20, 900);
const LONG_MS: (u64, u64) = (2500, 5000);

/// Between two faults, in milliseconds.
const PAUSE_MS: (u64, u64) = (50, 800);

/// A disk hangs so long at a time, and breathes so long, in milliseconds; so often.
const HANG_MS: (u64, u64) = (150, 1800);
const BREATH_MS: (u64, u64) = (20, 250);
const HANGS: (u32, u32) = (2, 4);

/// The cluster is whole again within this when all faults are over, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node that is asked to leave is gone by then, or it was refused.
const LEAVES_WITHIN: Duration = Duration::from_secs(20);

/// What a `raft` ends with when its node is to come back as another one.
const RETIRED: i32 = 75;

const RAFT_PORT: u16 = 6004;

/// Voters once all nodes are there; as many as nodes.
pub const VOTERS: usize = 5;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`: the `raft` that leads; a process of any node; all of a node; all there is.
    KillLeader,
    KillRaft,
    KillMember,
    KillStateMachine,
    KillNode,
    KillEverything,
    /// SIGSTOP, for longer than an election takes: the node that leads; any node; or one process.
    PauseLeader,
    PauseNode,
    PauseProcess,
    /// Some nodes hear nothing of the others and they nothing of them; or only one of the two.
    Cut,
    CutOneWay,
    /// A disk hangs again and again.
    SlowDisk,
    /// Disks are full.
    FullDisk,
    /// A node leaves, and comes back as a new one.
    Leave,
    /// A node loses its disk, and comes back as a new one.
    Wipe,
    /// One more node.
    Join,
    /// Two faults of those above Leave at once.
    Mixed,
}

use Fault::*;

const ALL: [Fault; 17] = [
    KillLeader,
    KillRaft,
    KillMember,
    KillStateMachine,
    KillNode,
    KillEverything,
    PauseLeader,
    PauseNode,
    PauseProcess,
    Cut,
    CutOneWay,
    SlowDisk,
    FullDisk,
    Leave,
    Wipe,
    Join,
    Mixed,
];

/// Of these two are mixed.
const MIXED: usize = 13;

/// How often a fault was begun, and how often it was seen to have an effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub begun: u64,
    pub seen: u64,
}

/// A fault that lasts.
enum Active {
    Killed(Vec<(usize, Process)>),
    Paused(Vec<Pid>),
    Cut { dropped: u64, effective: bool },
    Hanging { hang: Hang, frozen: Duration },
    Full { nodes: Vec<usize>, effective: bool },
}

/// See the module.
pub struct Nemesis {
    random: StdRng,
    bag: Vec<Fault>,
    /// One for each node, in their order; empty: none could be made.
    pub disks: Vec<NodeDisk>,
    /// What cannot be done on this machine, and why.
    pub skipped: BTreeMap<Fault, &'static str>,
    /// What was done.
    pub counts: BTreeMap<Fault, Count>,
    /// Two of the same are never at work at once, nor what would undo the other.
    struck: BTreeSet<usize>,
}

impl Nemesis {
    /// Nothing is struck yet.
    pub fn new(seed: u64, disks: Vec<NodeDisk>, network: bool) -> Nemesis {
        let mut skipped = BTreeMap::new();
        if !network {
            for fault in [Cut, CutOneWay] {
                skipped.insert(fault, "no network namespace of its own (unshare, ip, nft)");
            }
        }
        if disks.is_empty() {
            skipped.insert(FullDisk, "no file system of its own (unshare, mount)");
        }
        if !disks.first().is_some_and(|disk| disk.freezes) {
            skipped.insert(
                SlowDisk,
                "no loop device to freeze (root, mkfs.ext4, fsfreeze)",
            );
        }
        Nemesis {
            random: StdRng::seed_from_u64(seed),
            bag: Vec::new(),
            disks,
            skipped,
            counts: BTreeMap::new(),
            struck: BTreeSet::new(),
        }
    }

    /// Strikes for so long, and until each kind has had its turn once. `done` counts what the clients
    /// get done; `joined` is told of a new node.
    pub fn rage(
        &mut self,
        cluster: &mut Cluster,
        time: Duration,
        done: impl Fn() -> u64,
        joined: impl Fn(&Cluster, usize),
    ) {
        let until = Instant::now() + time;
        let mut first_round = true;
        loop {
            if self.bag.is_empty() {
                self.bag = ALL.to_vec();
                self.bag.shuffle(&mut self.random);
                // What follows needs the last node; and once it is there it stays.
                self.bag
                    .retain(|fault| *fault != Join && !self.skipped.contains_key(fault));
                if cluster.numbers().count() < VOTERS {
                    self.bag.push(Join);
                } else {
                    first_round = false;
                }
            }
            if Instant::now() >= until && !first_round {
                return;
            }
            let fault = self.bag.pop().unwrap();
            // Not waiting for anything: the nodes are to be hit at any moment of their work.
            let pause = self.milliseconds(PAUSE_MS);
            std::thread::sleep(pause);
            let begun = Instant::now();
            let seen = match fault {
                Leave => self.leave(cluster),
                Wipe => self.wipe(cluster),
                Join => self.join(cluster, &joined),
                Mixed => self.mixed(cluster),
                other => self.one(cluster, other),
            };
            let count = self.counts.entry(fault).or_default();
            count.begun += 1;
            count.seen += u64::from(seen);
            let took = begun.elapsed();
            let level = done() + 10;
            cluster.eventually("the clients get on after a fault", PATIENCE, |_| {
                (done() >= level).then_some(())
            });
            println!("{fault:?}: {took:?}, seen: {seen}; {} answers", done());
            self.all_run(cluster);
        }
    }

    /// What never had an effect although it could.
    pub fn missed(&self) -> Vec<String> {
        ALL.iter()
            .filter(|fault| !self.skipped.contains_key(fault))
            .filter(|fault| self.counts.get(fault).is_none_or(|count| count.seen == 0))
            .map(|fault| {
                format!(
                    "{fault:?} never had an effect: {:?}",
                    self.counts.get(fault)
                )
            })
            .collect()
    }

    fn all_run(&self, cluster: &mut Cluster) {
        for node in cluster.numbers() {
            for process in PROCESSES {
                assert!(
                    cluster.runs(node, process),
                    "{process:?} of node {node} has ended, and nobody killed it"
                );
            }
        }
    }

    fn milliseconds(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_micros(self.random.random_range(least * 1000..=most * 1000))
    }

    /// How long a fault of that kind lasts.
    fn holds(&mut self, fault: Fault) -> Duration {
        let (short, long) = (self.milliseconds(SHORT_MS), self.milliseconds(LONG_MS));
        let seldom = self.random.random_ratio(1, 4);
        match fault {
            PauseLeader | PauseNode | Cut | CutOneWay | FullDisk => long,
            _ if seldom => long,
            _ => short,
        }
    }

    fn one(&mut self, cluster: &mut Cluster, fault: Fault) -> bool {
        self.struck.clear();
        let before = leader(cluster);
        let hold = self.holds(fault);
        let active = self.begin(cluster, fault, before.as_ref().map(|(node, _)| *node));
        std::thread::sleep(hold);
        let seen = self.end(cluster, active);
        match fault {
            KillLeader | PauseLeader => seen && succeeded(cluster, before),
            _ => seen,
        }
    }

    fn mixed(&mut self, cluster: &mut Cluster) -> bool {
        self.struck.clear();
        let mut faults = ALL[..MIXED].to_vec();
        faults.shuffle(&mut self.random);
        let skipped = &self.skipped;
        let kind = |fault: &Fault| match fault {
            KillLeader | KillRaft | KillMember | KillStateMachine | KillNode | KillEverything => 0,
            PauseLeader | PauseNode | PauseProcess => 1,
            Cut | CutOneWay => 2,
            SlowDisk => 3,
            _ => 4,
        };
        let first = faults.iter().find(|fault| !skipped.contains_key(fault));
        let first = *first.unwrap();
        let second = faults
            .iter()
            .find(|fault| kind(fault) != kind(&first) && !skipped.contains_key(fault));
        let second = *second.unwrap();
        let hold = self.holds(first);
        let at = leader(cluster).map(|(node, _)| node);
        let one = self.begin(cluster, first, at);
        std::thread::sleep(hold / 3);
        // Who led may not any more, and asking would take too long now.
        let other = self.begin(cluster, second, at);
        std::thread::sleep(hold);
        println!("mixed: {first:?} and {second:?}");
        // What was killed starts on a disk that has room.
        let (last, first) = if matches!(one, Active::Killed(_)) {
            (one, other)
        } else {
            (other, one)
        };
        let seen = self.end(cluster, first);
        self.end(cluster, last) && seen
    }

    /// All draws are made, whatever they are used for: the next fault is the same one then.
    fn begin(&mut self, cluster: &mut Cluster, fault: Fault, leader: Option<usize>) -> Active {
        let mut order: Vec<usize> = cluster.numbers().collect();
        order.shuffle(&mut self.random);
        let process = PROCESSES[self.random.random_range(0..PROCESSES.len())];
        let with_leader = self.random.random_bool(0.6);
        let few = self.random.random_range(1..=2);
        let times = self.random.random_range(HANGS.0..=HANGS.1);
        let (frozen, breath) = (self.milliseconds(HANG_MS), self.milliseconds(BREATH_MS));
        // What is paused already is not killed, and the other way round.
        order.retain(|node| !self.struck.contains(node));
        let leads = leader.filter(|node| order.contains(node));
        let any = order[0];
        let leading = leads.unwrap_or(any);
        if with_leader && let Some(leads) = leads {
            order.retain(|node| *node != leads);
            order.insert(0, leads);
        }
        let whole = |node: usize| PROCESSES.map(|process| (node, process)).to_vec();
        let active = match fault {
            KillLeader => kill(cluster, vec![(leading, Process::Raft)]),
            KillRaft => kill(cluster, vec![(any, Process::Raft)]),
            KillMember => kill(cluster, vec![(any, Process::Member)]),
            KillStateMachine => kill(cluster, vec![(any, Process::StateMachine)]),
            KillNode => kill(cluster, whole(any)),
            KillEverything => kill(cluster, order.iter().copied().flat_map(whole).collect()),
            PauseLeader => pause(cluster, whole(leading)),
            PauseNode => pause(cluster, whole(any)),
            PauseProcess => pause(cluster, vec![(any, process)]),
            Cut => cut(cluster, &order[..few], false),
            CutOneWay => cut(cluster, &order[..few], true),
            SlowDisk => Active::Hanging {
                hang: self.disks[order[0] - 1].hang(frozen, breath, times),
                frozen,
            },
            FullDisk => {
                let nodes = order[..few].to_vec();
                let full = nodes.iter().map(|node| self.disks[node - 1].fill_up());
                let effective = full.fold(true, |all, one| all && one);
                Active::Full { nodes, effective }
            }
            Leave | Wipe | Join | Mixed => unreachable!("{fault:?} does not last"),
        };
        match &active {
            Active::Killed(who) => self.struck.extend(who.iter().map(|(node, _)| node)),
            Active::Paused(_) => {
                self.struck.extend([leading, any]);
            }
            Active::Full { nodes, .. } => self.struck.extend(nodes),
            Active::Cut { .. } | Active::Hanging { .. } => {}
        }
        // All of them were killed: there must be something left to choose from.
        if self.struck.len() >= cluster.numbers().count() {
            self.struck.clear();
        }
        active
    }

    /// Ends a fault; whether it had an effect.
    fn end(&mut self, cluster: &mut Cluster, active: Active) -> bool {
        match active {
            Active::Killed(who) => {
                for (node, process) in who {
                    cluster.start_process(node, process);
                }
                true
            }
            Active::Paused(pids) => {
                let stopped = pids.iter().all(|pid| state(*pid) == Some('T'));
                for pid in pids {
                    kill_process(pid, Signal::CONT).unwrap();
                }
                stopped
            }
            Active::Cut { dropped, effective } => {
                let more = network::dropped() > dropped;
                network::heal();
                effective && more
            }
            Active::Hanging { hang, frozen } => hang.end() >= frozen / 2,
            Active::Full { nodes, effective } => {
                for node in nodes {
                    self.disks[node - 1].make_room();
                }
                effective
            }
        }
    }

    // ---- membership ----

    fn join(&mut self, cluster: &mut Cluster, joined: impl Fn(&Cluster, usize)) -> bool {
        let node = cluster.add();
        self.lay_out(cluster, node);
        cluster.start(node);
        let leader = cluster.wait_for_voters(VOTERS, PATIENCE);
        joined(cluster, node);
        leader > 0
    }

    /// Gives a node its disk, if it can have one.
    pub fn lay_out(&self, cluster: &mut Cluster, node: usize) {
        if let Some(disk) = self.disks.get(node - 1) {
            cluster.set_for(node, "LEEKY_DATA_DIR", &disk.path().display().to_string());
        }
    }

    fn leave(&mut self, cluster: &mut Cluster) -> bool {
        let node = self.random.random_range(cluster.numbers());
        cluster.wait_for_voters(VOTERS, PATIENCE);
        let Some(old) = id(cluster, node) else {
            return false;
        };
        // Those that it was before it lost its disk have the same name and address.
        let hex: String = old.iter().map(|byte| format!("{byte:02x}")).collect();
        let said = cluster.raft_client(&["leave", &hex]);
        let until = Instant::now() + LEAVES_WITHIN;
        while cluster.runs(node, Process::Raft) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        if cluster.runs(node, Process::Raft) {
            println!("leave of node {node} came to nothing: {said:?}");
            return false;
        }
        let ended = cluster.exited(node, Process::Raft, PATIENCE);
        cluster.kill(node);
        cluster.start(node);
        let back = self.back_as_another(cluster, node, &old);
        back && ended.code() == Some(RETIRED)
    }

    /// One at a time, and only when every node has all that was committed: the rest has copies.
    fn wipe(&mut self, cluster: &mut Cluster) -> bool {
        let node = self.random.random_range(cluster.numbers());
        whole(cluster);
        let Some(old) = id(cluster, node) else {
            return false;
        };
        cluster.kill(node);
        match self.disks.get(node - 1) {
            Some(disk) => disk.wipe(),
            None => {
                let data = cluster.node(node).data.clone();
                std::fs::remove_dir_all(&data).unwrap();
                std::fs::create_dir_all(&data).unwrap();
            }
        }
        cluster.start(node);
        self.back_as_another(cluster, node, &old)
    }

    /// Waits until the old one does not vote any more, and the new one does.
    fn back_as_another(&self, cluster: &Cluster, node: usize, old: &[u8]) -> bool {
        let new = cluster.eventually("it is back as another", PATIENCE, |cluster| {
            let new = id(cluster, node)?;
            let status = cluster.status(node)?;
            let standing = |id: &[u8]| {
                let of = |one: &&wire::raft::NodeStatus| {
                    one.node.as_ref().is_some_and(|node| node.node_id == id)
                };
                status.nodes.iter().find(of).map(|one| one.standing.clone())
            };
            let votes = |id: &[u8]| standing(id).is_some_and(|standing| standing == "voter");
            (!votes(old) && votes(&new) && !status.joint).then_some(new)
        });
        whole(cluster);
        new != old
    }
}

/// Waits until all nodes are voters and have what was committed when it began.
pub fn whole(cluster: &Cluster) {
    let leader = cluster.wait_for_voters(VOTERS, PATIENCE);
    let committed = cluster.eventually("a status", PATIENCE, |cluster| {
        Some(cluster.status(leader)?.commit_index)
    });
    cluster.eventually("everybody has what is committed", PATIENCE, |cluster| {
        let mut each = cluster.numbers().map(|node| cluster.status(node));
        each.all(|status| status.is_some_and(|status| status.applied_index >= committed))
            .then_some(())
    });
}

fn id(cluster: &Cluster, node: usize) -> Option<Vec<u8>> {
    Some(cluster.status(node)?.node?.node_id.to_vec())
}

/// Who leads by its own word, in the highest term, if anybody does.
fn leader(cluster: &Cluster) -> Option<(usize, StatusReply)> {
    cluster
        .numbers()
        .filter_map(|node| Some((node, cluster.status(node)?)))
        .filter(|(_, status)| status.role == "leader")
        .max_by_key(|(_, status)| status.term)
}

/// Whether there is a leader of a later term now.
fn succeeded(cluster: &Cluster, before: Option<(usize, StatusReply)>) -> bool {
    let Some((_, before)) = before else {
        return false;
    };
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        if leader(cluster).is_some_and(|(_, now)| now.term > before.term) {
            return true;
        }
    }
    false
}

fn kill(cluster: &mut Cluster, who: Vec<(usize, Process)>) -> Active {
    // All at once, as far as that goes, before the first is waited for.
    for (node, process) in &who {
        if let Some(pid) = pid(cluster, *node, *process) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    for (node, process) in &who {
        cluster.kill_process(*node, *process);
    }
    Active::Killed(who)
}

fn pause(cluster: &Cluster, who: Vec<(usize, Process)>) -> Active {
    let pids: Vec<Pid> = who
        .iter()
        .filter_map(|(node, process)| pid(cluster, *node, *process))
        .collect();
    for pid in &pids {
        kill_process(*pid, Signal::STOP).unwrap();
    }
    Active::Paused(pids)
}

fn pid(cluster: &Cluster, node: usize, process: Process) -> Option<Pid> {
    let pid = cluster.node(node).pid(process)?;
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// What Linux says a process does: `T` if it is stopped.
fn state(pid: Pid) -> Option<char> {
    let pid = pid.as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn cut(cluster: &Cluster, some: &[usize], one_way: bool) -> Active {
    let ip = |node: &usize| cluster.node(*node).ip;
    let others: Vec<usize> = cluster
        .numbers()
        .filter(|node| !some.contains(node))
        .collect();
    let mut pairs: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
    for one in some {
        for other in &others {
            pairs.push((ip(one), ip(other)));
            if !one_way {
                pairs.push((ip(other), ip(one)));
            }
        }
    }
    let (from, to) = (ip(&some[0]), ip(&others[0]));
    let before = network::reaches(from, to, RAFT_PORT);
    let dropped = network::dropped();
    network::cut(&pairs);
    let after = network::reaches(from, to, RAFT_PORT);
    Active::Cut {
        dropped,
        effective: before && !after,
    }
}
