//! One run: a world, faults, checkers, and then a while without faults in which everything must converge.

mod budget;
mod echo;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use raft_core::{ClusterId, Configuration, Input, NodeId, Raft, RoleName, Term};
use raft_disk::SimDisk;

use crate::check::{self, Checker, Wrong};
use crate::client::Client;
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::faults::Chore;
use crate::node::Server;
use crate::node::machine;
use crate::party::Party;
use crate::settings::{Plan, Settings};
use crate::world::{Address, Host, MAX_WAITING_EVENTS, Micros, NEVER, World};

/// The one cluster of every run.
pub const CLUSTER: ClusterId = ClusterId(0xc105_7e12);

/// Lines of a trace that are kept.
const TRACE_LINES: usize = 400_000;

/// How long the cluster may take to form.
const FORMING: Micros = 60_000_000;

/// The longest time with faults, when operations or faults are wanting.
const LONGEST: Micros = 400_000_000;

/// How long clients go on when there are no more faults.
const CALM: Micros = 15_000_000;

/// A node that has been gone for so long is known to be: no leader makes it a voter.
pub(crate) const KNOWN_TO_BE_GONE: Micros = 3_000_000;

/// How long the cluster may take to converge when there are no more faults.
const CONVERGING: Micros = 120_000_000;

/// A run that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Decides everything.
    pub seed: u64,
    /// Who found it.
    pub checker: &'static str,
    /// When, in microseconds of simulated time.
    pub at: Micros,
    /// What.
    pub sentence: String,
    /// What led to it, if it was asked for.
    pub trace: Vec<String>,
    /// What had happened until then.
    pub coverage: Coverage,
    /// Ids that were lost with their disks, of the budget.
    pub lost: usize,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "seed {}: {} at {}.{:06} s: {}",
            self.seed,
            self.checker,
            self.at / 1_000_000,
            self.at % 1_000_000,
            self.sentence
        )?;
        writeln!(
            f,
            "  nodes lost with their disks: {}, always fewer than half of the voters of each configuration",
            self.lost
        )?;
        write!(
            f,
            "  again: cargo run --release -p sim -- run {} --trace",
            self.seed
        )
    }
}

/// Runs one seed from beginning to end.
///
/// # Errors
/// A checker has found something, or an assertion of the code under test has failed.
pub fn run(seed: u64, settings: &Settings) -> Result<Coverage, Box<Failure>> {
    run_traced(seed, settings).map(|(coverage, _)| coverage)
}

/// The same, and what there is to tell of a run that holds, if a trace was asked for.
///
/// # Errors
/// See [`run`].
pub fn run_traced(seed: u64, settings: &Settings) -> Result<(Coverage, Vec<String>), Box<Failure>> {
    let mut run = Run::new(seed, settings);
    let ended = catch_unwind(AssertUnwindSafe(|| run.live()));
    run.close_books();
    let wrong = match ended {
        Ok(Ok(())) => return Ok((run.coverage, run.trace)),
        Ok(Err(wrong)) => wrong,
        Err(panic) => Wrong {
            checker: "panic",
            sentence: panic_message(&*panic),
        },
    };
    Err(Box::new(Failure {
        seed,
        checker: wrong.checker,
        at: run.world.now(),
        sentence: wrong.sentence,
        trace: run.trace,
        coverage: run.coverage,
        lost: run.former.len(),
    }))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("without a message").to_owned()
}

/// What a machine held at some time.
#[derive(Clone)]
pub(crate) struct Image {
    pub id: NodeId,
    pub disk: SimDisk,
    pub machine: machine::Image,
}

/// A run under way.
pub(crate) struct Run<'a> {
    settings: &'a Settings,
    pub plan: Plan,
    pub world: World<Party>,
    pub checker: Checker,
    pub coverage: Coverage,
    /// Of faults, chores and operators.
    pub dice: Dice,
    agenda: BTreeMap<(Micros, u64), Chore>,
    chores: u64,
    trace: Vec<String>,
    /// Places of nodes: those below.
    pub servers: usize,
    pub clients: Vec<Address>,
    /// Nodes that have ever started.
    pub begun: BTreeSet<Address>,
    /// Faults are made.
    pub faulty: bool,
    pub images: BTreeMap<Address, Image>,
    /// Of processes that do not run: their latest configurations.
    pub last_configurations: BTreeMap<Address, Arc<Configuration>>,
    /// Ids that nobody has any more.
    pub former: BTreeSet<NodeId>,
    /// When the last of them was lost.
    pub lost_at: Option<Micros>,
    /// Ids whose disks are damaged, or were put back in time: they may be lost at any moment.
    pub doomed: BTreeSet<NodeId>,
    /// Those of them of which nothing but the log is damaged: it may be repaired.
    pub wounded: BTreeSet<NodeId>,
    /// A cluster beside this one, of one node that gives way: its founder, and who looks at it.
    pub beside: Option<(NodeId, Checker)>,
    /// Nodes that say goodbye before they end.
    pub goodbyes: BTreeSet<Address>,
    /// The last term in which each was brought old votes.
    echoed: BTreeMap<NodeId, Term>,
    pub requests: u64,
    pub failed: Option<(&'static str, String)>,
}

impl<'a> Run<'a> {
    fn new(seed: u64, settings: &'a Settings) -> Run<'a> {
        let plan = Plan::draw(seed, settings);
        let mut world = World::new(seed, plan.network.clone());
        let servers = plan.nodes + plan.spares;
        let mut clocks = Dice::new(seed, "clocks");
        for at in 0..servers {
            let mut server = Server::new(at, seed, plan.tuning.clone(), plan.durable_machines);
            server.parts.tracing = settings.trace;
            let clock = clocks.between(1_000_000, 1_000_000_000);
            world.add(Party::Server(Box::new(server)), clock);
            world.kill(at);
        }
        let mut clients = Vec::new();
        for (number, habits) in plan.clients.iter().enumerate() {
            let client = Client::new(number as u64, seed, plan.nodes, *habits);
            let address = world.add(Party::Client(Box::new(client)), 0);
            if let Some(client) = world.node_mut(address).client_mut() {
                client.tracing = settings.trace;
            }
            clients.push(address);
        }
        let mut coverage = Coverage {
            nodes: plan.nodes as u64,
            ..Coverage::default()
        };
        if plan.network.is_raw {
            coverage.event("network without order");
        }
        Run {
            settings,
            plan,
            world,
            checker: Checker::default(),
            coverage,
            dice: Dice::new(seed, "faults"),
            agenda: BTreeMap::new(),
            chores: 0,
            trace: Vec::new(),
            servers,
            clients,
            begun: BTreeSet::new(),
            faulty: false,
            images: BTreeMap::new(),
            last_configurations: BTreeMap::new(),
            former: BTreeSet::new(),
            lost_at: None,
            doomed: BTreeSet::new(),
            wounded: BTreeSet::new(),
            beside: None,
            goodbyes: BTreeSet::new(),
            echoed: BTreeMap::new(),
            requests: 0,
            failed: None,
        }
    }

    fn close_books(&mut self) {
        let counts = self.world.counts;
        for (name, count) in [
            ("message lost", counts.lost),
            ("message doubled", counts.doubled),
            ("message straggled", counts.straggled),
        ] {
            if count > 0 {
                *self.coverage.events.entry(name).or_default() += count;
            }
        }
        self.coverage.simulated = self.world.now();
        for at in &self.clients {
            if let Some(client) = self.world.node(*at).client() {
                let asked = client.history.len() as u64;
                self.coverage.operations += asked;
                let answered = client.history.iter().filter(|o| o.answer().is_some());
                self.coverage.answered += answered.count() as u64;
                let (sessions, expired, repeated) = client.counts;
                for (name, count) in [
                    ("session opened", sessions),
                    ("session expired", expired),
                    ("request repeated", repeated),
                    ("stale read", client.stale.len() as u64),
                ] {
                    if count > 0 {
                        *self.coverage.events.entry(name).or_default() += count;
                    }
                }
            }
        }
    }

    // ---- the phases ----

    fn live(&mut self) -> Result<(), Wrong> {
        self.form()?;
        for client in self.clients.clone() {
            self.world.with(client, |_, host| {
                host.after(1_000, crate::node::Task::Think(0));
            });
        }
        self.faulty = true;
        self.later(1_000_000, Chore::Image);
        self.later(1_500_000, Chore::Fault);
        let began = self.world.now();
        let until = began + self.settings.seconds * 1_000_000;
        self.go_on(until, |_| false)?;
        self.go_on(began + LONGEST, |run| {
            run.coverage.fault_count() >= run.settings.faults
                && run.asked() >= run.settings.operations
        })?;
        self.converge()?;
        let servers = 0..self.servers;
        let nodes: Vec<&Server> = servers
            .filter_map(|at| self.world.node(at).server())
            .collect();
        let clients = self.clients.iter();
        let clients: Vec<&Client> = clients
            .filter_map(|at| self.world.node(*at).client())
            .collect();
        check::at_end(&self.checker, &nodes, &clients)
    }

    /// The nodes start, the first one founds, the others join.
    fn form(&mut self) -> Result<(), Wrong> {
        self.start_falsely()?;
        for at in 0..self.plan.nodes {
            self.begun.insert(at);
            self.start(at);
            self.later(10_000, Chore::Hints(at));
        }
        for at in self.plan.nodes..self.servers {
            self.later(10_000, Chore::Hints(at));
        }
        let found = Input::Found {
            cluster_id: CLUSTER,
            alone: false,
        };
        self.input(0, found);
        let voters = self.plan.nodes - 1 + self.plan.nodes % 2;
        let voters = voters.min(self.plan.tuning.options.voters);
        let formed = self.go_on(FORMING, |run| {
            run.leader_raft(|raft| {
                let (_, configuration) = raft.committed_configuration();
                configuration.voters.len() == voters && !configuration.is_joint()
            })
        })?;
        if formed {
            Ok(())
        } else {
            check::wrong("liveness", "the cluster did not form")
        }
    }

    /// No more faults: everything must come to one state.
    fn converge(&mut self) -> Result<(), Wrong> {
        self.faulty = false;
        self.world.heal();
        let network = self.world.network();
        network.loss = 0;
        network.straggling = 0;
        network.duplication = 0;
        for at in self.started() {
            self.world.drift_clock(at, 1_000_000);
            if let Some(server) = self.world.node_mut(at).server_mut() {
                server.parts.disk.set_capacity(None);
                server.parts.disk.clear_faults();
                server.parts.stalled_until = 0;
            }
            // What is damaged is found out at a start.
            let doomed = self.id(at).is_some_and(|id| self.doomed.contains(&id));
            if doomed {
                self.crash(at, true);
            }
            if !self.world.is_up(at) {
                self.later(100_000, Chore::Start(at));
            }
        }
        // What still waits to stop has no reason to any more.
        self.agenda.retain(|_, chore| {
            !matches!(
                chore,
                Chore::Gone(_) | Chore::Fault | Chore::Image | Chore::CalmNetwork
            )
        });
        for at in self.started() {
            if self.goodbyes.contains(&at) {
                self.crash(at, false);
                self.later(100_000, Chore::Start(at));
            }
        }
        // What a node lacks may only come with new entries, such as the next snapshot.
        let until = self.world.now() + CALM;
        self.go_on(until, |_| false)?;
        for client in self.clients.clone() {
            if let Some(client) = self.world.node_mut(client).client_mut() {
                client.stopped = true;
            }
        }
        let until = self.world.now() + CONVERGING;
        if self.go_on(until, |run| run.unsettled().is_none())? {
            self.prove_calm()?;
            self.take_course()?;
            return self.settle_again("the last course");
        }
        for at in self.started() {
            if let Some(raft) = self.raft(at) {
                let (role, term, last) = (raft.role(), raft.term(), raft.last());
                let (commit, (index, c)) = (raft.commit_index(), raft.configuration());
                let id = raft.id();
                self.say(at, || {
                    format!(
                        "{id:?} {role:?} of term {term}, {last:?}, commit {commit}, {index}: {c:?}"
                    )
                });
            }
        }
        let what = self.unsettled().unwrap_or_default();
        check::wrong("liveness", what)
    }

    /// After what was tried in the calm.
    pub fn settle_again(&mut self, tried: &str) -> Result<(), Wrong> {
        let until = self.world.now() + CONVERGING;
        self.go_on(until, |run| run.unsettled().is_none())?;
        match self.unsettled() {
            Some(what) => check::wrong("liveness", format!("after {tried}: {what}")),
            None => Ok(()),
        }
    }

    /// So much time, and whatever it brings.
    pub fn pass(&mut self, time: Micros) -> Result<(), Wrong> {
        let until = self.world.now() + time;
        self.go_on(until, |_| false).map(|_| ())
    }

    /// Why the cluster has not converged; none: it has.
    fn unsettled(&self) -> Option<String> {
        let Some(leader) = self.leader() else {
            return Some("nobody leads".to_owned());
        };
        let raft = self.raft(leader)?;
        let (index, configuration) = raft.configuration();
        if configuration.is_joint() || raft.committed_configuration().0 != index {
            return Some("the configuration is still changing".to_owned());
        }
        let commit_index = raft.commit_index();
        if raft.last().index != commit_index {
            return Some(format!(
                "{} of {} entries are committed",
                commit_index,
                raft.last().index
            ));
        }
        for at in self.started() {
            let server = self.world.node(at).server()?;
            let Some(raft) = server.raft() else {
                return Some(format!("node {at} does not run"));
            };
            if !configuration.contains(server.parts.id) {
                return Some(format!("node {at} is not in the configuration"));
            }
            if raft.commit_index() != commit_index || server.recorded() != Some(commit_index) {
                return Some(format!(
                    "node {at} has committed {} and applied {:?} of {commit_index}",
                    raft.commit_index(),
                    server.recorded()
                ));
            }
        }
        let waiting = self.clients.iter().find(|at| {
            let client = self.world.node(**at).client();
            client.is_some_and(Client::is_waiting)
        });
        waiting.map(|client| format!("client {client} waits for an answer"))
    }

    // ---- time ----

    /// Something is to be done after so long.
    pub fn later(&mut self, wait: Micros, chore: Chore) {
        self.chores += 1;
        let then = self.world.now() + wait;
        self.agenda.insert((then, self.chores), chore);
    }

    /// Goes on until then, or until it is so. Whether it is.
    pub fn go_on(&mut self, until: Micros, done: impl Fn(&Run<'_>) -> bool) -> Result<bool, Wrong> {
        let mut look = 0;
        loop {
            let chore = self
                .agenda
                .first_key_value()
                .map_or(NEVER, |((at, _), _)| *at);
            let next = self.world.next_at().min(chore);
            if next > until {
                self.world.wait_until(until);
                return Ok(done(self));
            }
            if chore <= next {
                self.world.wait_until(chore);
                if let Some((_, chore)) = self.agenda.pop_first() {
                    self.chore(chore);
                    self.look_at_all()?;
                }
            } else if let Some(at) = self.world.step() {
                self.look_at(at)?;
            }
            self.coverage.steps += 1;
            look += 1;
            if look % 32 == 0 && done(self) {
                return Ok(true);
            }
            if self.world.waiting_events() > MAX_WAITING_EVENTS {
                return check::wrong("limits", "the world drowns in events");
            }
        }
    }

    fn look_at_all(&mut self) -> Result<(), Wrong> {
        for at in 0..self.servers {
            self.look_at(at)?;
        }
        match self.failed.take() {
            Some((checker, what)) => check::wrong(checker, what),
            None => Ok(()),
        }
    }

    pub fn look_at(&mut self, at: Address) -> Result<(), Wrong> {
        let now = self.world.now();
        let tracing = self.settings.trace;
        let (trace, checker, coverage) = (&mut self.trace, &mut self.checker, &mut self.coverage);
        if let Some(client) = self.world.node_mut(at).client_mut()
            && tracing
        {
            trace.extend(client.lines.drain(..).map(|what| line(now, at, &what)));
        }
        let Some(server) = self.world.node_mut(at).server_mut() else {
            coverage.hash = mix(coverage.hash, now, at as u64);
            return Ok(());
        };
        let mut tell = |what: String| {
            if tracing && trace.len() < TRACE_LINES {
                trace.push(line(now, at, &what));
            }
        };
        let state = server.raft().map_or(0, |raft| {
            raft.commit_index() ^ (raft.term() << 32) ^ raft.last().index
        });
        coverage.hash = mix(mix(coverage.hash, now, at as u64), state, 7);
        let checker = match &mut self.beside {
            Some((id, beside)) if *id == server.parts.id => beside,
            _ => checker,
        };
        checker.after_step(server, coverage, &mut tell)?;
        let repaired = std::mem::take(&mut server.parts.repaired);
        if server.parts.ending.is_some() {
            self.look_after(at);
        } else if self.plan.network.is_raw {
            self.echo(at);
        }
        if repaired {
            self.is_whole(at);
        }
        Ok(())
    }

    /// A line for the trace.
    pub fn say(&mut self, at: Address, what: impl FnOnce() -> String) {
        if self.settings.trace && self.trace.len() < TRACE_LINES {
            self.trace.push(line(self.world.now(), at, &what()));
        }
    }

    // ---- who is there ----

    /// Has a node whose process runs do something.
    pub fn with_server(
        &mut self,
        at: Address,
        work: impl FnOnce(&mut Server, &mut Host<'_, Party>) -> bool,
    ) -> bool {
        if !self.world.is_up(at) || self.world.is_paused(at) {
            return false;
        }
        self.world.with(at, |party, host| match party.server_mut() {
            Some(server) => work(server, host),
            None => false,
        })
    }

    /// Hands the core of a node whose process runs an input.
    pub fn input(&mut self, at: Address, input: Input) -> bool {
        self.with_server(at, |server, host| {
            server.input(host, input);
            true
        })
    }

    /// The core of that node, if it has one now.
    pub fn raft(&self, at: Address) -> Option<&Raft> {
        self.world.node(at).server()?.raft()
    }

    /// Nodes that have ever started.
    pub fn started(&self) -> Vec<Address> {
        self.begun.iter().copied().collect()
    }

    /// Who that node is.
    pub fn id(&self, at: Address) -> Option<NodeId> {
        self.world.node(at).server().map(|server| server.parts.id)
    }

    /// Whether an id was ever in a committed configuration.
    pub fn in_ledger(&self, id: NodeId) -> bool {
        let last = self.checker.ledger.configuration_at(u64::MAX);
        last.is_some_and(|(_, configuration)| configuration.contains(id))
    }

    /// The leader of the highest term.
    pub fn leader(&self) -> Option<Address> {
        let leads = |at: &Address| -> Option<(u64, Address)> {
            let raft = self.raft(*at)?;
            (raft.role() == RoleName::Leader && !self.world.is_paused(*at))
                .then_some((raft.term(), *at))
        };
        self.begun.iter().filter_map(leads).max().map(|(_, at)| at)
    }

    fn leader_raft(&self, is: impl FnOnce(&Raft) -> bool) -> bool {
        self.leader().and_then(|at| self.raft(at)).is_some_and(is)
    }

    fn asked(&self) -> u64 {
        let clients = self.clients.iter();
        let asked = clients.filter_map(|at| self.world.node(*at).client());
        asked.map(|client| client.history.len() as u64).sum()
    }
}

fn line(now: Micros, at: Address, what: &str) -> String {
    format!(
        "{:>5}.{:06} [{at}] {what}",
        now / 1_000_000,
        now % 1_000_000
    )
}

fn mix(hash: u64, a: u64, b: u64) -> u64 {
    (hash ^ a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.rotate_left(17))
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .rotate_left(29)
}
