//! What is done to the nodes, when, and what is put right again.
//!
//! Faults that the rules call undetectable, and those that cost a node its promises, stay within a budget
//! (`Run::may_lose`): whatever is lost, of each configuration in force a majority keeps its disks.

use raft_core::{Input, MemberHint, NodeId};
use raft_disk::sim::{Fault, Operation};

use crate::node::{Ending, StartError};
use crate::run::{Image, KNOWN_TO_BE_GONE, Run};
use crate::world::{Address, Lane, Micros};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Kill,
    PowerCut,
    PowerCutOfAll,
    Pause,
    Partition,
    OneWayCut,
    SlowLink,
    StreamReset,
    BadNetwork,
    DiskStall,
    DiskFull,
    DiskError,
    BitFlip,
    Wipe,
    RollBack,
    ClockJump,
    ClockDrift,
    ClockStop,
    MachineCrash,
    GracefulStop,
    Transfer,
    Leave,
    Join,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 23] = [
        Kind::Kill,
        Kind::PowerCut,
        Kind::PowerCutOfAll,
        Kind::Pause,
        Kind::Partition,
        Kind::OneWayCut,
        Kind::SlowLink,
        Kind::StreamReset,
        Kind::BadNetwork,
        Kind::DiskStall,
        Kind::DiskFull,
        Kind::DiskError,
        Kind::BitFlip,
        Kind::Wipe,
        Kind::RollBack,
        Kind::ClockJump,
        Kind::ClockDrift,
        Kind::ClockStop,
        Kind::MachineCrash,
        Kind::GracefulStop,
        Kind::Transfer,
        Kind::Leave,
        Kind::Join,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "process killed",
            Kind::PowerCut => "power cut",
            Kind::PowerCutOfAll => "power cut of all nodes",
            Kind::Pause => "process paused",
            Kind::Partition => "partition",
            Kind::OneWayCut => "one-way cut",
            Kind::SlowLink => "slow link",
            Kind::StreamReset => "stream reset",
            Kind::BadNetwork => "bad network",
            Kind::DiskStall => "disk stall",
            Kind::DiskFull => "disk full",
            Kind::DiskError => "disk error",
            Kind::BitFlip => "bit flip",
            Kind::Wipe => "disk wiped",
            Kind::RollBack => "disk back in time",
            Kind::ClockJump => "clock jump",
            Kind::ClockDrift => "clock drift",
            Kind::ClockStop => "clock stopped",
            Kind::MachineCrash => "state machine crash",
            Kind::GracefulStop => "graceful stop",
            Kind::Transfer => "leadership transfer",
            Kind::Leave => "node leaves",
            Kind::Join => "node joins",
        }
    }
}

/// What is to be done at a certain time.
#[derive(Clone, Debug)]
pub(crate) enum Chore {
    /// The next fault.
    Fault,
    /// The member map is told to that node.
    Hints(Address),
    /// A process is started.
    Start(Address),
    /// A process that was told to stop is gone.
    Gone(Address),
    /// Everything gets through again.
    HealNetwork,
    /// The network is as it was.
    CalmNetwork,
    /// There is room again.
    RoomAgain(Address),
    /// The clock is right again.
    ClockRight(Address),
    /// An image of a machine is made.
    Image,
}

impl Run<'_> {
    /// Does what the time has come for.
    pub(crate) fn chore(&mut self, chore: Chore) {
        match chore {
            Chore::Fault => self.next_fault(),
            Chore::Hints(at) => self.hint(at),
            Chore::Start(at) => self.start(at),
            Chore::Gone(at) => self.crash(at, false),
            Chore::HealNetwork => self.world.heal(),
            Chore::CalmNetwork => *self.world.network() = self.plan.network.clone(),
            Chore::RoomAgain(at) => {
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    server.parts.disk.set_capacity(None);
                }
            }
            Chore::ClockRight(at) => self.world.drift_clock(at, 1_000_000),
            Chore::Image => self.make_image(),
        }
    }

    fn next_fault(&mut self) {
        if !self.faulty {
            return;
        }
        let gap = self
            .dice
            .between(self.plan.fault_gap / 4, self.plan.fault_gap);
        self.later(gap, Chore::Fault);
        let kinds = self.plan.kinds.clone();
        // What the budget or the moment forbids makes room for another one.
        for _ in 0..8 {
            let at = self.victim();
            if let Some(kind) = self.dice.pick(&kinds).copied()
                && self.make(kind, at)
            {
                self.say(at, || format!("FAULT {}", kind.name()));
                self.coverage.fault(kind.name());
                return;
            }
        }
    }

    /// Some node, the leader more often than others.
    fn victim(&mut self) -> Address {
        match self.leader() {
            Some(leader) if self.dice.per_mille(400) => leader,
            _ => {
                let started = self.started();
                self.dice.pick(&started).copied().unwrap_or(0)
            }
        }
    }

    fn make(&mut self, kind: Kind, at: Address) -> bool {
        let up = self.world.is_up(at);
        let span = |run: &mut Run<'_>, low: u64, high: u64| run.dice.between(low, high) * 1_000;
        match kind {
            Kind::Kill | Kind::PowerCut => {
                if !up {
                    return false;
                }
                self.crash(at, kind == Kind::PowerCut);
                let back = if self.dice.per_mille(500) {
                    span(self, 5, 300)
                } else {
                    span(self, 300, 9_000)
                };
                self.later(back, Chore::Start(at));
            }
            Kind::PowerCutOfAll => {
                for at in self.started() {
                    if self.world.is_up(at) {
                        self.crash(at, true);
                        let back = span(self, 50, 1_500);
                        self.later(back, Chore::Start(at));
                    }
                }
            }
            Kind::Pause => {
                let until = self.world.now() + span(self, 50, 6_000);
                self.world.pause(at, until);
                return up;
            }
            Kind::Partition => self.partition(),
            Kind::OneWayCut => self.cut_one_way(at),
            Kind::SlowLink => self.slow_down(at),
            Kind::StreamReset => return self.reset(at),
            Kind::BadNetwork => {
                let (loss, duplication) = (self.dice.between(50, 300), self.dice.below(300));
                let network = self.world.network();
                network.loss = loss;
                network.duplication = duplication;
                network.straggling = 50;
                let calm = span(self, 1_000, 6_000);
                self.later(calm, Chore::CalmNetwork);
            }
            Kind::ClockJump => {
                let by = span(self, 100, 20_000);
                self.world.jump_clock(at, by);
            }
            Kind::ClockDrift | Kind::ClockStop => {
                let known = self.world.now() >= self.lost_at + KNOWN_TO_BE_GONE;
                if kind == Kind::ClockStop && !known && !self.former.is_empty() {
                    return false;
                }
                let rate = match kind {
                    Kind::ClockStop => 0,
                    _ => self.dice.between(700_000, 1_400_000),
                };
                self.world.drift_clock(at, rate);
                let right = span(self, 500, 8_000);
                self.later(right, Chore::ClockRight(at));
            }
            Kind::GracefulStop => return up && self.stop(at),
            Kind::Transfer | Kind::Leave => return self.operate(kind),
            Kind::Join => return self.join(),
            Kind::MachineCrash => {
                let back = span(self, 5, 3_000);
                return self.with_server(at, |server, host| {
                    server.crash_machine(host, back);
                    true
                });
            }
            _ => return self.make_on_disk(kind, at),
        }
        true
    }

    // ---- disks ----

    fn make_on_disk(&mut self, kind: Kind, at: Address) -> bool {
        match kind {
            Kind::DiskStall => {
                let until = self.world.now() + self.dice.between(200, 6_000) * 1_000;
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    server.parts.stalled_until = until;
                }
                true
            }
            Kind::DiskFull => {
                let more = self.dice.below(3_000);
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    let used = server.parts.disk.used();
                    server.parts.disk.set_capacity(Some(used + more));
                }
                let wait = self.dice.between(500, 6_000) * 1_000;
                self.later(wait, Chore::RoomAgain(at));
                true
            }
            Kind::DiskError => {
                let operations = [
                    Operation::Write,
                    Operation::Sync,
                    Operation::Create,
                    Operation::Rename,
                    Operation::SyncDir,
                ];
                let operation = self.dice.pick(&operations).copied();
                let fault = Fault {
                    operation: operation.unwrap_or(Operation::Sync),
                    after: self.dice.below(4),
                    error: std::io::ErrorKind::Other,
                    written: usize::try_from(self.dice.below(300)).unwrap_or(0),
                };
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    server.parts.disk.inject(fault);
                }
                true
            }
            Kind::BitFlip => self.flip(at),
            Kind::Wipe => {
                if !self.may_lose(at) {
                    return false;
                }
                if self.world.is_up(at) {
                    self.crash(at, true);
                    let back = self.dice.between(50, 3_000) * 1_000;
                    self.later(back, Chore::Start(at));
                }
                self.begin_anew(at);
                true
            }
            Kind::RollBack => self.roll_back(at),
            _ => false,
        }
    }

    /// Flips a bit where it will be noticed: in a segment that has a successor, or in a snapshot. (In the
    /// very last batch it would look like a torn tail, which nobody can tell apart.)
    fn flip(&mut self, at: Address) -> bool {
        if !self.may_lose(at) {
            return false;
        }
        let Some(server) = self.world.node(at).server() else {
            return false;
        };
        let disk = server.parts.disk.clone();
        let names = raft_disk::Disk::list(&disk).unwrap_or_default();
        let segments: Vec<&String> = names.iter().filter(|n| is_segment(n)).collect();
        let older = segments.len().saturating_sub(1);
        let snapshots = names.iter().filter(|name| is_snapshot(name));
        let targets: Vec<&String> = segments.into_iter().take(older).chain(snapshots).collect();
        let Some(name) = self.dice.pick(&targets).map(|name| (*name).clone()) else {
            return false;
        };
        let length = disk.contents(&name).map_or(0, |bytes| bytes.len() as u64);
        let used = disk.contents(&name).map_or(0, |bytes| {
            bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last as u64)
        });
        let offset = self.dice.below(used.max(1).min(length.max(1)));
        let bit = u8::try_from(self.dice.below(8)).unwrap_or(0);
        disk.flip(&name, offset, bit);
        self.doom(at);
        self.say(at, || format!("bit {bit} of byte {offset} of {name}"));
        true
    }

    fn make_image(&mut self) {
        let wait = self.dice.between(1_000, 8_000) * 1_000;
        self.later(wait, Chore::Image);
        let at = self.victim();
        if let Some(server) = self.world.node(at).server() {
            let image = Image {
                id: server.parts.id,
                disk: server.parts.disk.fork(),
                machine: server.parts.machine.image(),
            };
            self.images.insert(at, image);
        }
    }

    /// The machine is as it was when its image was made.
    fn roll_back(&mut self, at: Address) -> bool {
        let Some(image) = self.images.get(&at).cloned() else {
            return false;
        };
        if !self.may_lose(at) || !self.may_roll_back(at, &image) {
            return false;
        }
        if self.world.is_up(at) {
            self.crash(at, true);
            let back = self.dice.between(50, 3_000) * 1_000;
            self.later(back, Chore::Start(at));
        }
        let seed = self.dice.roll();
        if let Some(server) = self.world.node_mut(at).server_mut() {
            server.parts.disk = image.disk.fork();
            server.parts.disk.crash(seed);
            server.parts.machine.restore_image(&image.machine);
        }
        self.doom(at);
        true
    }

    // ---- network ----

    fn partition(&mut self) {
        let started = self.started();
        let side: Vec<Address> = started
            .iter()
            .copied()
            .filter(|_| self.dice.per_mille(400))
            .collect();
        for a in &started {
            for b in &started {
                if side.contains(a) != side.contains(b) {
                    self.world.cut(*a, *b);
                }
            }
        }
        self.heal_later();
    }

    fn cut_one_way(&mut self, at: Address) {
        let outward = self.dice.per_mille(500);
        for other in self.started() {
            if other != at && self.dice.per_mille(600) {
                if outward {
                    self.world.cut(at, other);
                } else {
                    self.world.cut(other, at);
                }
            }
        }
        self.heal_later();
    }

    fn slow_down(&mut self, at: Address) {
        for other in self.started() {
            if other != at && self.dice.per_mille(600) {
                let by = self.dice.between(5, 900) * 1_000;
                self.world.slow_down(at, other, by);
                if self.dice.per_mille(500) {
                    self.world.slow_down(other, at, by);
                }
            }
        }
        self.heal_later();
    }

    fn heal_later(&mut self) {
        let wait = self.dice.between(200, 9_000) * 1_000;
        self.later(wait, Chore::HealNetwork);
    }

    fn reset(&mut self, at: Address) -> bool {
        let mut any = false;
        for other in self.started() {
            if other != at && self.dice.per_mille(500) {
                any |= self.world.reset(at, other);
            }
        }
        any
    }

    // ---- operators and the member map ----

    fn stop(&mut self, at: Address) -> bool {
        self.with_server(at, |server, host| {
            server.input(host, Input::Stopping);
            server.input(host, Input::Transfer { to: None });
            true
        });
        let wait = self.dice.between(50, 600) * 1_000;
        self.goodbyes.insert(at);
        self.later(wait, Chore::Gone(at));
        let back = wait + self.dice.between(50, 5_000) * 1_000;
        self.later(back, Chore::Start(at));
        true
    }

    fn operate(&mut self, kind: Kind) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        // Who goes takes a vote along that the rest may be about to need.
        if kind == Kind::Leave && !self.doomed.is_empty() {
            return false;
        }
        let ids: Vec<NodeId> = self
            .started()
            .iter()
            .filter_map(|at| self.id(*at))
            .collect();
        let node = self.dice.pick(&ids).copied();
        let Some(node) = node else { return false };
        let input = match kind {
            Kind::Leave => {
                self.requests += 1;
                let request = self.requests;
                Input::Leave { request, node }
            }
            _ => Input::Transfer {
                to: self.dice.per_mille(700).then_some(node),
            },
        };
        self.with_server(leader, |server, host| {
            server.input(host, input);
            true
        })
    }

    fn join(&mut self) -> bool {
        let waiting = (0..self.servers).find(|at| !self.begun.contains(at));
        let Some(at) = waiting else { return false };
        self.begun.insert(at);
        self.start(at);
        for client in self.clients.clone() {
            if let Some(client) = self.world.node_mut(client).client_mut() {
                client.learn_of(at);
            }
        }
        true
    }

    /// Tells a node what the member map shows: late, and now and then wrong.
    pub(crate) fn hint(&mut self, at: Address) {
        let wait = self
            .dice
            .between(self.plan.hint_gap / 2, self.plan.hint_gap);
        self.later(wait, Chore::Hints(at));
        if !self.faulty && self.is_orphan(at) {
            self.coverage.event("orphan");
            self.crash(at, false);
            self.begin_anew(at);
            self.later(100_000, Chore::Start(at));
            return;
        }
        let mut hints = Vec::new();
        for other in self.started() {
            let wrong = self.faulty && self.dice.per_mille(self.plan.wrong_hints);
            if let Some(node) = self.id(other) {
                let joinable = self.world.is_up(other) != wrong;
                hints.push(MemberHint { node, joinable });
            }
        }
        // An id that was given up is still in somebody's memory.
        if self.faulty && self.dice.per_mille(self.plan.wrong_hints) {
            hints.extend(self.former.iter().next_back().map(|node| MemberHint {
                node: *node,
                joinable: self.in_ledger(*node),
            }));
        }
        self.with_server(at, |server, host| {
            server.input(host, Input::Members(hints));
            true
        });
    }

    /// A newcomer that was removed before it had heard of the cluster: nobody tells it, and it has nobody to
    /// ask, so an operator has to give it another id.
    fn is_orphan(&self, at: Address) -> bool {
        let server = self.world.node(at).server();
        let removed = |id: NodeId| {
            let last = self.checker.ledger.configuration_at(u64::MAX);
            last.is_some_and(|(_, configuration)| configuration.removed.contains(&id))
        };
        server.is_some_and(|server| {
            let knows_nothing = server
                .raft()
                .is_some_and(|raft| raft.cluster_id().is_none());
            knows_nothing && removed(server.parts.id)
        })
    }

    // ---- processes ----

    /// The process dies. With `power` the machine does.
    pub(crate) fn crash(&mut self, at: Address, power: bool) {
        if !self.world.is_up(at) {
            return;
        }
        if self.goodbyes.remove(&at) {
            self.with_server(at, |server, host| {
                server.goodbye(host);
                true
            });
        }
        self.world.kill(at);
        let dice = &mut self.dice;
        if let Some(server) = self.world.node_mut(at).server_mut() {
            if let Some(raft) = server.raft() {
                let configuration = raft.configuration().1;
                self.last_configurations.insert(at, configuration);
            }
            server.crash(power, dice);
        }
    }

    /// The node takes a new id.
    pub(crate) fn begin_anew(&mut self, at: Address) {
        self.images.remove(&at);
        self.last_configurations.remove(&at);
        let now = self.world.now();
        if let Some(server) = self.world.node_mut(at).server_mut() {
            let id = server.parts.id;
            server.begin_anew();
            self.former.insert(id);
            self.lost_at = now;
            self.doomed.remove(&id);
            self.coverage.event("new id");
        }
    }

    /// A process is started, if none runs.
    pub(crate) fn start(&mut self, at: Address) {
        if self.world.is_up(at) {
            return;
        }
        self.world.start(at);
        let started = self.world.with(at, |party, host| match party.server_mut() {
            Some(server) => server.start(host),
            None => Ok(()),
        });
        let doomed = self.id(at).is_some_and(|id| self.doomed.contains(&id));
        match started {
            Ok(()) => self.coverage.event("start"),
            Err(StartError::Damaged(reason)) if doomed => {
                self.say(at, || format!("does not start: {reason}"));
                self.coverage.event("damage found");
                self.give_up_start(at);
                self.begin_anew(at);
                self.later(50_000, Chore::Start(at));
            }
            Err(StartError::Disk(reason)) => {
                self.say(at, || format!("does not start: {reason}"));
                self.give_up_start(at);
                self.later(300_000, Chore::Start(at));
            }
            Err(StartError::Damaged(reason)) => {
                let what = format!("node {at} does not start: {reason}");
                self.failed.get_or_insert(("start", what));
            }
        }
    }

    fn give_up_start(&mut self, at: Address) {
        self.world.kill(at);
        let dice = &mut self.dice;
        if let Some(server) = self.world.node_mut(at).server_mut() {
            server.crash(false, dice);
        }
    }

    /// A process that has ended of itself is started again by whoever watches over it.
    pub(crate) fn look_after(&mut self, at: Address) {
        let server = self.world.node(at).server();
        let Some(ending) = server.and_then(|server| server.parts.ending.clone()) else {
            return;
        };
        self.say(at, || format!("ends: {ending:?}"));
        self.crash(at, false);
        if let Ending::Retired = ending {
            self.coverage.event("retired");
            self.begin_anew(at);
        } else {
            self.coverage.event("disk failed");
        }
        let wait: Micros = self.dice.between(20, 400) * 1_000;
        self.later(wait, Chore::Start(at));
    }
}

fn is_segment(name: &str) -> bool {
    name.strip_prefix("log-")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_snapshot(name: &str) -> bool {
    name.strip_prefix("snapshot-").is_some_and(|rest| {
        rest.bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_hexdigit())
    })
}

/// The lanes, for those who go through them.
pub const LANES: [Lane; 2] = [Lane::Bulk, Lane::Small];
