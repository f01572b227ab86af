//! What is done to the nodes, when, and what is put right again.
//!
//! Faults that the rules call undetectable, and those that cost a node its promises, stay within a budget
//! (`Run::may_lose`): whatever is lost, of each configuration in force a majority keeps its disks.

mod disks;
mod operators;
mod processes;

pub(crate) use disks::is_snapshot;

use crate::run::{KNOWN_TO_BE_GONE, Run};
use crate::world::{Address, Lane};

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
    LogLost,
    RollBack,
    ClockJump,
    ClockDrift,
    ClockStop,
    MachineCrash,
    MachineHangs,
    GarbledPart,
    GracefulStop,
    Transfer,
    Leave,
    Join,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 26] = [
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
        Kind::LogLost,
        Kind::RollBack,
        Kind::ClockJump,
        Kind::ClockDrift,
        Kind::ClockStop,
        Kind::MachineCrash,
        Kind::MachineHangs,
        Kind::GarbledPart,
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
            Kind::LogLost => "log lost",
            Kind::RollBack => "disk back in time",
            Kind::ClockJump => "clock jump",
            Kind::ClockDrift => "clock drift",
            Kind::ClockStop => "clock stopped",
            Kind::MachineCrash => "state machine crash",
            Kind::MachineHangs => "state machine hangs",
            Kind::GarbledPart => "snapshot part garbled",
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
                let now = self.world.now();
                let is_news = self.lost_at.is_some_and(|at| now < at + KNOWN_TO_BE_GONE);
                if kind == Kind::ClockStop && is_news {
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
            Kind::MachineHangs => {
                let until = self.world.now() + span(self, 500, 4_000);
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    server.parts.machine_hangs_until = until;
                }
            }
            Kind::GarbledPart => {
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    server.parts.garbles = true;
                }
            }
            _ => return self.make_on_disk(kind, at),
        }
        true
    }

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
}

/// The lanes, for those who go through them.
pub const LANES: [Lane; 2] = [Lane::Bulk, Lane::Small];
