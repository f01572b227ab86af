//! A node: the real core on the real log, snapshots and identity, with the real key-value store in the
//! real engine beside it. What the daemon's tasks do with threads and sockets is done here with events;
//! what they decide is decided by the same values ([`raft_core::walk`], [`raft_core::waiters`]).
//!
//! | | |
//! |---|---|
//! | [`Server`] | a machine: its disk, its state machine, and the process if one runs |
//! | `process` | the daemon's driver: inputs to the core, effects to the world |
//! | `storing` | group commit, as the daemon's disk thread does it |
//! | `repairing` | a process whose log is damaged: it is not up |
//! | `applying` | digest_commits: epochs, batches, snapshots |
//! | `links`, `pulling`, `serving` | streams to peers, snapshots from peers, requests of clients |

mod applying;
mod links;
pub mod machine;
pub mod message;
mod power;
mod process;
mod pulling;
mod repairing;
mod serving;
mod storing;
mod told;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::repair::Question;
use raft_core::sessions::Outcome;
use raft_core::walk::Sent;
use raft_core::{
    Boot, ClusterId, Entry, Event as CoreEvent, HardState, Index, Input, Message, NodeId, Options,
    Position, Recovered, RequestId, SnapshotMeta, Term, Time, Write,
};
use raft_disk::{OpenError, SimDisk, SnapshotOptions, Wound};

use crate::dice::Dice;
use crate::party::Party;
use crate::world::{Address, Event, Host, Lane, Micros, NEVER};
use machine::Machine;
use message::Wire;
use power::Power;
use process::Process;
use repairing::{Progress, Repairing};
pub use told::Told;

/// How a node of this run is built, and how fast its parts are.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// The core's.
    pub options: Options,
    /// Size of a segment of the log.
    pub segment_bytes: u64,
    /// Shortest and longest time of a group commit.
    pub sync: (Micros, Micros),
    /// Shortest and longest time of a call of the state machine.
    pub execute: (Micros, Micros),
    /// A snapshot is taken after so many entries.
    pub snapshot_entries: u64,
    /// The log keeps about so many bytes behind a snapshot.
    pub kept_bytes: u64,
    /// Bytes of one part of a snapshot on its way to a peer.
    pub part_bytes: usize,
    /// A session that is idle for longer ends, in milliseconds of log time.
    pub session_timeout_ms: u64,
    /// Most entries of one call of the state machine.
    pub batch_entries: usize,
}

/// What a node reminds itself of.
#[derive(Debug)]
pub enum Task {
    /// The group commit is through.
    Stored,
    /// Nothing was written since.
    Mark(u64),
    /// Entries were read for a peer.
    Fetched {
        /// The peer.
        peer: NodeId,
        /// The first index.
        from: Index,
        /// What was read.
        entries: Vec<Entry>,
    },
    /// The state machine is to be reached.
    Connect(u32),
    /// A batch arrives at the state machine.
    Execute {
        /// Its epoch.
        epoch: u64,
        /// The entries.
        sent: Vec<Sent>,
        /// Outcomes up to here need not be kept.
        floor: Index,
    },
    /// Its answer arrives.
    Executed {
        /// The epoch.
        epoch: u64,
        /// Which instance answered.
        nonce: u64,
        /// What was sent.
        sent: Vec<Sent>,
        /// What came of it.
        outcomes: Result<Vec<Outcome>, String>,
    },
    /// The connection to that instance has ended.
    MachineGone(u64),
    /// The state machine stores what it has.
    MachineSync,
    /// A state machine's process begins.
    MachineStart,
    /// A query arrives at the state machine.
    Query(u64),
    /// A snapshot is written down.
    WriteSnapshot(Box<Taken>),
    /// The peer has not sent the next part in time.
    PullLate(u64),
    /// A stream is to be opened again.
    Reopen(NodeId, Lane),
    /// The next peer is to be asked for what the log lacks, unless an answer to that question came.
    Repair(u64),
    /// What a peer's log lacks was read for it.
    AnswerLog {
        /// Where it is.
        to: Address,
        /// Its name for the question.
        number: u64,
        /// The question.
        question: Question,
        /// What was read.
        entries: Vec<Entry>,
    },
    /// Idle sessions are to be looked for; members are to be asked; requests that wait are to be looked at.
    Sweep,
    /// A client's: it has thought, for the so-manyth time.
    Think(u64),
    /// A client's: this request was not answered.
    Late(u64),
}

/// A snapshot that is about to be written.
#[derive(Debug)]
pub struct Taken {
    meta: SnapshotMeta,
    sessions: Bytes,
    chunks: Vec<Bytes>,
}

/// What a checker may want to know of. Taken out after every step.
#[derive(Debug)]
pub enum Note {
    /// A process has begun with what its disk holds.
    Began {
        /// Of the log and the hard state.
        recovered: Box<Recovered>,
        /// Which start.
        boot: Boot,
    },
    /// A group of writes failed, or the power went while it was written: it may have happened.
    Doubtful,
    /// The core is about to be told something.
    Step {
        /// What the node's clock shows.
        now: Micros,
        /// What.
        told: Told,
    },
    /// A group is durable.
    Stored(Vec<Write>),
    /// A word of the core left.
    Sent {
        /// To whom.
        to: NodeId,
        /// What, if it is a promise.
        message: Message,
    },
    /// The core said that all up to there is committed and durable.
    Committed {
        /// Up to there.
        index: Index,
        /// What is new of it, as far as the log still has it.
        entries: Vec<Entry>,
    },
    /// The log gave way to a snapshot, or one was taken.
    Snapshot {
        /// What it says.
        meta: Arc<SnapshotMeta>,
        /// It came from a peer.
        installed: bool,
    },
    /// The state machine applied an entry.
    Applied {
        /// Which.
        position: Position,
        /// It went as a command.
        command: Option<Bytes>,
        /// What came of it.
        outcome: Outcome,
    },
    /// An epoch began.
    Epoch {
        /// The state machine had applied so much.
        applied: Index,
        /// It was given a snapshot first.
        restored: bool,
    },
    /// What the log lacked was fetched from a peer, and the log is about to be opened anew (D6).
    Repaired,
    /// The core asks a peer afresh whether its disk has lost promises, and counts nothing it says meanwhile (D5).
    Challenged(NodeId),
    /// It has answered that it has not.
    Trusted(NodeId),
    /// A request was answered with "applied before, and nobody knows what came of it".
    Forgotten(Position),
    /// The core has something to tell.
    Event(CoreEvent),
    /// A peer's disk has lost promises.
    RolledBack(NodeId),
    /// A leave was decided.
    LeaveDecided {
        /// Which.
        request: RequestId,
        /// The node is gone for good.
        removed: bool,
    },
    /// A leader is asked whether it leads (E2).
    Probe {
        /// Who, which start, which term.
        of: (NodeId, Boot, Term),
    },
    /// A read may be served, or cannot be.
    Read {
        /// Which.
        request: RequestId,
        /// As of which entry.
        index: Option<Index>,
    },
    /// Something that must not be.
    Wrong(String),
    /// Something for the trace.
    Say(String),
}

/// Why a process ends of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its id is not to be used any more.
    Retired,
    /// Its disk has failed (D7).
    Failed(String),
}

/// What a node has beside its process.
pub struct Parts {
    /// Where it is.
    pub address: Address,
    /// Who it is; drawn anew when it has lost what it promised.
    pub id: NodeId,
    /// The daemon's disk.
    pub disk: SimDisk,
    /// The state machine.
    pub machine: Machine,
    /// How it is built.
    pub tuning: Tuning,
    /// Until then no write is completed.
    pub stalled_until: Micros,
    /// For the checkers.
    pub notes: Vec<Note>,
    /// What the process ends of.
    pub ending: Option<Ending>,
    /// Whether words for the trace are wanted.
    pub tracing: bool,
    /// Nodes that it has ever heard of in a configuration: the daemon's book of addresses.
    pub known: BTreeSet<NodeId>,
    /// A damaged log was put right.
    pub repaired: bool,
    /// Until then the state machine is silent.
    pub machine_hangs_until: Micros,
    /// The next part of a snapshot that goes to a peer is garbled.
    pub garbles: bool,
    /// The highest index up to which its state machine was told that outcomes need not be kept (S1).
    pub told_floor: Index,
    dice: Dice,
    generation: u64,
}

impl Parts {
    fn draw(&mut self, (least, most): (Micros, Micros)) -> Micros {
        self.dice.between(least, most)
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            self.notes.push(Note::Say(what()));
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }
}

/// See the module.
pub struct Server {
    /// What outlives the process.
    pub parts: Parts,
    process: Option<Box<Process>>,
    repairing: Option<Box<Repairing>>,
}

/// The node with that id is there: gossip would tell.
pub fn address_of(id: NodeId) -> Address {
    usize::try_from(id.0 >> 64).unwrap_or(0)
}

fn id_at(address: Address, generation: u64) -> NodeId {
    NodeId(((address as u128) << 64) | u128::from(generation + 1))
}

/// Why a process did not begin.
#[derive(Debug)]
pub enum StartError {
    /// What it holds is damaged.
    Damaged(String),
    /// It is damaged, and the others may have what is missing (D6).
    Wounded(Box<Wound>),
    /// The disk refuses, for now.
    Disk(String),
}

impl Server {
    /// A machine whose disk is empty.
    pub fn new(address: Address, seed: u64, tuning: Tuning, durable: bool) -> Server {
        let mut dice = Dice::new(seed, &format!("node {address}"));
        Server {
            parts: Parts {
                address,
                id: id_at(address, 0),
                disk: SimDisk::new(dice.roll()),
                machine: Machine::new(durable),
                tuning,
                stalled_until: 0,
                notes: Vec::new(),
                ending: None,
                tracing: false,
                known: BTreeSet::new(),
                repaired: false,
                machine_hangs_until: 0,
                garbles: false,
                told_floor: 0,
                dice,
                generation: 0,
            },
            process: None,
            repairing: None,
        }
    }

    /// The core, while a process runs.
    pub fn raft(&self) -> Option<&raft_core::Raft> {
        self.process.as_ref().map(|process| &process.raft)
    }

    /// Up to where the outcomes of entries are recorded.
    pub fn recorded(&self) -> Option<Index> {
        self.process.as_ref().map(|process| process.recorded())
    }

    /// Requests of clients, queries and writes that wait: what must stay bounded.
    pub fn waiting(&self) -> usize {
        self.process.as_ref().map_or(0, |process| process.waiting())
    }

    /// The cluster that the identity is bound to, while a process runs.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.process.as_ref().and_then(|p| p.identity.cluster_id())
    }

    /// A process begins on what the disk holds.
    ///
    /// # Errors
    /// It does not.
    pub fn start(&mut self, host: &mut Host<'_, Party>) -> Result<(), StartError> {
        self.parts.ending = None;
        let process = match Process::open(&mut self.parts, host) {
            Err(StartError::Wounded(wound)) => {
                self.parts
                    .say(|| format!("its log lacks {:?}", wound.lost()));
                let repairing = Repairing::new(&self.parts, *wound, host);
                self.repairing = Some(Box::new(repairing));
                return Ok(());
            }
            opened => opened?,
        };
        self.process = Some(Box::new(process));
        if self.parts.machine.nonce().is_none() {
            self.start_machine(host);
        }
        host.after(1_000_000, Task::MachineSync);
        Ok(())
    }

    /// Since when its process fetches what its log lacks, by its own clock.
    pub fn repairing_since(&self) -> Option<Micros> {
        self.repairing.as_ref().map(|repairing| repairing.since)
    }

    /// Bytes of its newest segment that can be damaged without passing for a torn tail.
    pub fn vouched(&self) -> Option<(String, std::ops::Range<u64>)> {
        let (name, range) = self.process.as_ref()?.store.vouched()?;
        Some((name.to_owned(), range))
    }

    /// Whether its log is being repaired.
    pub fn is_repairing(&self) -> bool {
        self.repairing.is_some()
    }

    fn repair(&mut self, event: Event<Wire, Task>, host: &mut Host<'_, Party>) {
        let Some(mut repairing) = self.repairing.take() else {
            return;
        };
        match repairing.happen(&mut self.parts, event, host) {
            Progress::Goes => self.repairing = Some(repairing),
            Progress::Mended => match self.start(host) {
                Ok(()) => self.parts.repaired = self.process.is_some(),
                // It is started again, and says so again.
                Err(error) => self.parts.end(Ending::Failed(format!("{error:?}"))),
            },
        }
    }

    /// A state machine begins.
    pub fn start_machine(&mut self, host: &mut Host<'_, Party>) {
        if self.parts.machine.nonce().is_some() {
            return;
        }
        let nonce = self.parts.dice.roll();
        if let Err(reason) = self.parts.machine.start(nonce) {
            self.parts.note(Note::Wrong(format!(
                "the state machine cannot start: {reason}"
            )));
        }
        if let Some(process) = &mut self.process {
            process.reach_machine(&mut self.parts, host, 1_000);
        }
    }

    /// The state machine dies; it is started again a little later.
    pub fn crash_machine(&mut self, host: &mut Host<'_, Party>, back_after: Micros) {
        if let Some(nonce) = self.parts.machine.nonce() {
            self.parts.machine.crash();
            host.after(200, Task::MachineGone(nonce));
            host.after(back_after, Task::MachineStart);
        }
    }

    /// The process dies, in the middle of what its disk was doing. With `power` the machine does: what
    /// was not synced is lost, or torn.
    pub fn crash(&mut self, power: bool, dice: &mut Dice) {
        self.repairing = None;
        if let Some(mut process) = self.process.take() {
            process.die(&mut self.parts, dice);
        }
        if power {
            self.parts.disk.crash(dice.roll());
            self.parts.machine.crash();
        } else {
            self.parts.disk.kill();
        }
    }

    /// The node takes a new id; what it had is moved aside.
    pub fn begin_anew(&mut self) {
        let parts = &mut self.parts;
        parts.generation += 1;
        parts.id = id_at(parts.address, parts.generation);
        parts.disk = SimDisk::new(parts.dice.roll());
        parts.machine.wipe();
        parts.known.clear();
        parts.repaired = false;
        parts.told_floor = 0;
        parts.ending = None;
        // What the old id wrote at last is nobody's any more.
        parts.notes.clear();
    }

    /// Hands an input to the core, as an operator or the member map would.
    pub fn input(&mut self, host: &mut Host<'_, Party>, input: Input) {
        if let Some(process) = &mut self.process {
            process.step(&mut self.parts, host, input);
        }
    }

    /// Says goodbye to everyone.
    pub fn goodbye(&mut self, host: &mut Host<'_, Party>) {
        if let Some(process) = &mut self.process {
            process.goodbye(host);
        }
    }

    /// See [`crate::world::Node::deadline`].
    pub fn deadline(&self) -> Micros {
        match &self.process {
            Some(process) => process.raft.next_deadline().0,
            None => NEVER,
        }
    }

    /// See [`crate::world::Node::happen`].
    pub fn happen(&mut self, event: Event<Wire, Task>, host: &mut Host<'_, Party>) {
        match event {
            Event::Task(Task::MachineStart) => return self.start_machine(host),
            Event::Task(Task::MachineSync) => {
                self.parts.machine.sync();
                return host.after(2_000_000, Task::MachineSync);
            }
            _ => {}
        }
        if self.repairing.is_some() {
            return self.repair(event, host);
        }
        if let Some(process) = &mut self.process {
            process.happen(&mut self.parts, event, host);
        }
    }

    /// The hard state as the process has it.
    pub fn hard_state(&self) -> Option<&HardState> {
        self.raft().map(|raft| raft.hard_state())
    }

    /// The term, while a process runs.
    pub fn term(&self) -> Option<Term> {
        self.raft().map(|raft| raft.term())
    }
}

fn snapshot_options() -> SnapshotOptions {
    SnapshotOptions {
        chunk_bytes: 512,
        sync_bytes: 2048,
    }
}

fn time(host: &Host<'_, Party>) -> Time {
    Time(host.now())
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> StartError {
        match error {
            OpenError::Disk(failure) => StartError::Disk(failure.to_string()),
            OpenError::Damaged {
                wound: Some(wound), ..
            } => StartError::Wounded(wound),
            damaged => StartError::Damaged(damaged.to_string()),
        }
    }
}
