//! A seeded world of members: a clock that jumps, links that lose, delay and are cut, processes
//! that crash, pause and restart. Every step checks the rules that no view may ever break.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use member_core::{
    ClusterId, Event, Identity, Incarnation, MAX_PACKET_BYTES, Member, NodeId, Options, Output,
    Packet, State,
};

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);

/// Dice of the world; xorshift64*, so that they are not the ones under test.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

pub struct Process {
    pub member: Option<Member>,
    pub node_id: NodeId,
    pub boot_epoch: u32,
    pub address: SocketAddr,
    pub introducers: Vec<SocketAddr>,
    pub paused_until: Duration,
    pub events: Vec<(Duration, Event)>,
    /// Own incarnation, the highest ever.
    pub incarnation: Incarnation,
    /// Its entry in the world's list of deadlines.
    due: Option<Duration>,
    ticked_at: Duration,
    ticks_now: u32,
    checked_version: u64,
    /// The greatest (incarnation, state) that this view ever showed of each member.
    shown: BTreeMap<NodeId, (Incarnation, State)>,
}

pub struct World {
    pub now: Duration,
    pub options: Options,
    pub processes: Vec<Process>,
    pub dice: Dice,
    pub loss_permille: u64,
    /// Directed links, by process, that carry nothing.
    pub cut: BTreeSet<(usize, usize)>,
    /// When each running process is due, soonest first.
    due: BTreeSet<(Duration, usize)>,
    mail: BTreeMap<(Duration, u64), (usize, SocketAddr, Vec<u8>)>,
    posted: u64,
    pub packets_sent: u64,
    pub bytes_sent: u64,
    pub largest_packet: usize,
    /// Hash of everything that happened, in order.
    pub trace: u64,
    pub check_rules: bool,
}

pub fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (host / 250) as u8, (host % 250 + 1) as u8], 6000))
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: SECOND,
            options: Options::default(),
            processes: Vec::new(),
            dice: Dice::new(seed + 1),
            loss_permille: 0,
            cut: BTreeSet::new(),
            due: BTreeSet::new(),
            mail: BTreeMap::new(),
            posted: 0,
            packets_sent: 0,
            bytes_sent: 0,
            largest_packet: 0,
            trace: 0,
            check_rules: true,
        }
    }

    /// A world of `count` members that start at once, all with process 0 as their introducer, and
    /// have found each other.
    pub fn settled(seed: u64, count: usize) -> Self {
        let mut world = Self::new(seed);
        for _ in 0..count {
            world.add(&[address(0)]);
        }
        let settled = world.run_until_settled(30 * SECOND);
        assert!(
            settled.is_some(),
            "seed {seed}: {count} members did not find each other"
        );
        // Beyond the first round of news.
        world.run(5 * SECOND);
        world
    }

    /// Starts a new process with a fresh disk at an address of its own; gives its number.
    pub fn add(&mut self, introducers: &[SocketAddr]) -> usize {
        let host = self.processes.len();
        let node_id = NodeId(u128::from(self.dice.next()) << 64 | u128::from(self.dice.next()));
        self.add_as(node_id, 1, address(host), introducers)
    }

    pub fn add_as(
        &mut self,
        node_id: NodeId,
        boot_epoch: u32,
        address: SocketAddr,
        introducers: &[SocketAddr],
    ) -> usize {
        let number = self.processes.len();
        self.processes.push(Process {
            member: None,
            node_id,
            boot_epoch: boot_epoch - 1,
            address,
            introducers: introducers.to_vec(),
            paused_until: Duration::ZERO,
            events: Vec::new(),
            incarnation: Incarnation::first_of(boot_epoch),
            due: None,
            ticked_at: Duration::ZERO,
            ticks_now: 0,
            checked_version: 0,
            shown: BTreeMap::new(),
        });
        self.start(number, Vec::new());
        number
    }

    /// Starts a process (again), with the next boot epoch.
    pub fn start(&mut self, number: usize, last_known: Vec<SocketAddr>) {
        let boot_nonce = self.dice.next();
        let seed = self.dice.next();
        let process = &mut self.processes[number];
        process.boot_epoch += 1;
        let identity = Identity {
            node_id: process.node_id,
            boot_epoch: process.boot_epoch,
            boot_nonce,
            address: process.address,
            name: format!("n{number}"),
        };
        let mut member = Member::new(identity, self.options.clone(), last_known, self.now, seed);
        member.set_introducers(self.now, process.introducers.clone());
        process.shown.clear();
        process.checked_version = 0;
        process.member = Some(member);
        self.drain(number);
    }

    pub fn crash(&mut self, number: usize) {
        self.processes[number].member = None;
        self.reschedule(number);
    }

    pub fn set_introducers(&mut self, number: usize, introducers: Vec<SocketAddr>) {
        let now = self.now;
        self.member_mut(number).set_introducers(now, introducers);
        self.drain(number);
    }

    fn reschedule(&mut self, number: usize) {
        let now = self.now;
        let process = &mut self.processes[number];
        if let Some(due) = process.due.take() {
            self.due.remove(&(due, number));
        }
        if let Some(member) = &process.member {
            let due = member.next_deadline().max(process.paused_until).max(now);
            process.due = Some(due);
            self.due.insert((due, number));
        }
    }

    pub fn pause(&mut self, number: usize, time: Duration) {
        self.processes[number].paused_until = self.now + time;
        self.reschedule(number);
    }

    pub fn leave(&mut self, number: usize) {
        let now = self.now;
        self.member_mut(number).leave(now);
        self.drain(number);
    }

    pub fn announce(&mut self, number: usize, cluster: Option<u128>) {
        let now = self.now;
        self.member_mut(number)
            .announce(now, 6004, cluster.map(ClusterId));
        self.drain(number);
    }

    /// Hands a process a datagram that no process has sent.
    pub fn inject(&mut self, number: usize, packet: &Packet) {
        let now = self.now;
        let bytes = packet.encode().unwrap();
        self.member_mut(number).handle(now, address(2000), &bytes);
        self.drain(number);
    }

    /// Cuts all links between two groups of processes, both ways.
    pub fn partition(&mut self, left: &[usize], right: &[usize]) {
        for a in left {
            for b in right {
                self.cut.insert((*a, *b));
                self.cut.insert((*b, *a));
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn member(&self, number: usize) -> &Member {
        self.processes[number].member.as_ref().unwrap()
    }

    pub fn member_mut(&mut self, number: usize) -> &mut Member {
        self.processes[number].member.as_mut().unwrap()
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.processes.len())
            .filter(|n| self.processes[*n].member.is_some())
            .collect()
    }

    /// What `observer` shows of `subject`; `None` when it shows nothing.
    pub fn state(&self, observer: usize, subject: usize) -> Option<State> {
        let node_id = self.processes[subject].node_id;
        let view = self.member(observer).view(self.now);
        view.members
            .iter()
            .find(|m| m.record.node_id == node_id)
            .map(|m| m.record.state)
    }

    /// Every running process shows exactly the running ones as alive, and all views are equal.
    pub fn is_settled(&self) -> bool {
        let running = self.running();
        let hash = running.first().map(|n| self.member(*n).view_hash());
        running.iter().all(|n| {
            let member = self.member(*n);
            member.me().state == State::Alive
                && Some(member.view_hash()) == hash
                && self.alive_in_view(*n) == running.len()
        })
    }

    pub fn alive_in_view(&self, number: usize) -> usize {
        let view = self.member(number).view(self.now);
        view.members
            .iter()
            .filter(|m| m.record.state == State::Alive)
            .count()
    }

    pub fn count(&self, number: usize, matches: impl Fn(&Event) -> bool) -> usize {
        self.processes[number]
            .events
            .iter()
            .filter(|(_, event)| matches(event))
            .count()
    }

    /// Deaths that views of running processes hold, of members that run.
    pub fn false_deaths(&self) -> usize {
        let failed = |event: &Event| matches!(event, Event::Failure(_));
        (0..self.processes.len())
            .map(|n| self.count(n, failed))
            .sum()
    }

    // ---- time ----

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until the condition holds, looked at every 10 ms; gives the time that took.
    pub fn run_until(
        &mut self,
        limit: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        loop {
            if condition(self) {
                return Some(self.now - begin);
            }
            if self.now - begin >= limit {
                return None;
            }
            self.run(10 * MS);
        }
    }

    pub fn run_until_settled(&mut self, limit: Duration) -> Option<Duration> {
        self.run_until(limit, Self::is_settled)
    }

    /// One delivery or deadline before `end`.
    fn step(&mut self, end: Duration) -> bool {
        let mail_at = self.mail.first_key_value().map(|((at, _), _)| *at);
        let deadline = self.due.first().copied();
        match (mail_at, deadline) {
            (Some(at), _) if at <= end && deadline.is_none_or(|(due, _)| at <= due) => {
                self.now = self.now.max(at);
                self.deliver();
            }
            (_, Some((due, number))) if due <= end => {
                self.now = due;
                let now = self.now;
                self.member_mut(number).tick(now);
                self.drain(number);
                let process = &mut self.processes[number];
                process.ticks_now = if process.ticked_at == now {
                    process.ticks_now + 1
                } else {
                    1
                };
                process.ticked_at = now;
                assert!(process.ticks_now <= 3, "ticks do not end: that would spin");
            }
            _ => return false,
        }
        true
    }

    fn deliver(&mut self) {
        let Some((_, (sender, to, bytes))) = self.mail.pop_first() else {
            return;
        };
        let from = self.processes[sender].address;
        let receivers: Vec<usize> = (0..self.processes.len())
            .filter(|n| self.processes[*n].address == to && self.processes[*n].member.is_some())
            .collect();
        for receiver in receivers {
            if self.cut.contains(&(sender, receiver)) {
                continue;
            }
            let paused_until = self.processes[receiver].paused_until;
            if paused_until > self.now {
                // Waits in the socket of the paused process.
                self.posted += 1;
                self.mail
                    .insert((paused_until, self.posted), (sender, to, bytes.clone()));
                continue;
            }
            let now = self.now;
            self.member_mut(receiver).handle(now, from, &bytes);
            self.drain(receiver);
        }
    }

    fn note(&mut self, value: u64) {
        self.trace = (self.trace ^ value)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(7);
    }

    fn drain(&mut self, number: usize) {
        while let Some(output) = self.member_mut(number).poll_output() {
            match output {
                Output::Send { to, bytes } => {
                    assert!(
                        bytes.len() <= MAX_PACKET_BYTES,
                        "a packet of {} bytes",
                        bytes.len()
                    );
                    self.largest_packet = self.largest_packet.max(bytes.len());
                    self.packets_sent += 1;
                    self.bytes_sent += bytes.len() as u64;
                    self.note(self.now.as_nanos() as u64);
                    for byte in &bytes {
                        self.note(u64::from(*byte));
                    }
                    if self.dice.below(1000) < self.loss_permille {
                        continue;
                    }
                    let delay = Duration::from_micros(200 + self.dice.below(2000));
                    self.posted += 1;
                    self.mail
                        .insert((self.now + delay, self.posted), (number, to, bytes));
                }
                Output::Event(Event::Heartbeat(_)) => {}
                Output::Event(event) => {
                    if let Event::BootEpochRaised(epoch) = event {
                        self.processes[number].boot_epoch = epoch;
                    }
                    self.processes[number].events.push((self.now, event));
                }
            }
        }
        self.reschedule(number);
        if self.check_rules {
            self.check_view(number);
        }
    }

    /// The rules that hold in every view at every instant.
    fn check_view(&mut self, number: usize) {
        let member = self.processes[number].member.as_ref().unwrap();
        if member.view_version() == self.processes[number].checked_version {
            return;
        }
        let view = member.view(self.now);
        self.processes[number].checked_version = view.version;
        let node_id = self.processes[number].node_id;
        for process in &mut self.processes {
            if process.node_id == node_id {
                process.incarnation = process.incarnation.max(view.me.incarnation);
            }
        }
        for pair in view.members.windows(2) {
            let place = |m: &member_core::ViewedMember| (m.record.pid(), m.record.node_id);
            assert!(place(&pair[0]) < place(&pair[1]), "ring order");
        }
        for shown in &view.members {
            let record = &shown.record;
            let now = (record.incarnation, record.state);
            let before = self.processes[number].shown.insert(record.node_id, now);
            assert!(
                before.is_none_or(|before| before <= now),
                "{before:?} became {now:?}"
            );
            let owners = self
                .processes
                .iter()
                .filter(|process| process.node_id == record.node_id);
            let highest = owners.map(|owner| owner.incarnation).max();
            assert!(
                highest.is_some_and(|highest| record.incarnation <= highest),
                "{record:?} was not said by its owner, which is at {highest:?}"
            );
            if let (Some(ours), Some(theirs)) =
                (view.me.metadata.cluster_id, record.metadata.cluster_id)
            {
                assert_eq!(ours, theirs, "a view holds a member of another cluster");
            }
        }
        let suspects: BTreeSet<NodeId> = view
            .members
            .iter()
            .filter(|m| m.record.state == State::Suspect)
            .map(|m| m.record.node_id)
            .collect();
        let suspicions: BTreeSet<NodeId> = view.suspicions.iter().map(|s| s.node_id).collect();
        assert_eq!(
            suspects, suspicions,
            "every suspect has a suspicion, and no one else"
        );
    }
}
