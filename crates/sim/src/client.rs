//! Clients: one request at a time each, with or without a session, at any node; and what they were told.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::sessions::{Outcome as Said, OutcomeKind};
use raft_core::{Command, Index, Payload, Position};

use crate::dice::Dice;
use crate::history::{Action, Answer, Operation, Outcome};
use crate::node::Task;
use crate::node::message::{Ask, Reply, Wire};
use crate::party::Party;
use crate::world::{Address, Event, Host, Micros};

/// Tries of one request before a client gives up.
const MAX_TRIES: u32 = 12;

/// How long a client waits before it tries again what was certainly not done.
const PAUSE: Micros = 60_000;

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Opens a session, and repeats a request under the same sequence until it is answered.
    pub in_session: bool,
    /// Longest time between an answer and the next request.
    pub think: Micros,
    /// How long an answer is waited for.
    pub patience: Micros,
    /// Keys that are written to.
    pub keys: u64,
    /// Of a thousand requests so many only read.
    pub reads: u64,
}

/// A stale read: what the state at one index was said to be.
#[derive(Clone, Debug)]
pub struct StaleRead {
    /// The key.
    pub key: Bytes,
    /// As of which entry.
    pub index: Index,
    /// Which instance.
    pub nonce: u64,
    /// What it said.
    pub answer: Answer,
}

/// See the module.
pub struct Client {
    number: u64,
    servers: Vec<Address>,
    habits: Habits,
    dice: Dice,
    session: Option<Session>,
    asking: Option<Asking>,
    next_number: u64,
    thoughts: u64,
    made: u64,
    /// The last value that was seen of each key.
    seen: BTreeMap<Bytes, Bytes>,
    /// No new request is begun any more.
    pub stopped: bool,
    /// Whether words for the trace are wanted.
    pub tracing: bool,
    /// Words for the trace.
    pub lines: Vec<String>,
    /// What was asked, and what was told.
    pub history: Vec<Operation>,
    /// Stale reads.
    pub stale: Vec<StaleRead>,
    /// Sessions that were opened; answers that said that one has expired; repeated requests.
    pub counts: (u64, u64, u64),
    /// Something that must not be.
    pub wrong: Option<String>,
}

struct Session {
    id: Index,
    next_sequence: u64,
}

struct Asking {
    what: What,
    /// The requests that were sent for it: an answer to any of them counts.
    first: u64,
    last: u64,
    tries: u32,
    sequence: u64,
    /// A request may have been heard, and was not answered for certain.
    maybe_sent: bool,
    server: Address,
}

enum What {
    Register,
    /// In the history, at this place.
    Operation(usize),
    Stale(Bytes),
}

impl Client {
    /// One that has asked nothing yet.
    pub fn new(number: u64, seed: u64, servers: usize, habits: Habits) -> Client {
        Client {
            number,
            servers: (0..servers).collect(),
            habits,
            dice: Dice::new(seed, &format!("client {number}")),
            session: None,
            asking: None,
            next_number: 0,
            thoughts: 0,
            made: 0,
            seen: BTreeMap::new(),
            stopped: false,
            tracing: false,
            lines: Vec::new(),
            history: Vec::new(),
            stale: Vec::new(),
            counts: (0, 0, 0),
            wrong: None,
        }
    }

    /// Another node may be asked too.
    pub fn learn_of(&mut self, server: Address) {
        self.servers.push(server);
    }

    /// Whether it waits for an answer.
    pub fn is_waiting(&self) -> bool {
        self.asking.is_some()
    }

    /// See [`crate::world::Node::happen`].
    pub fn happen(&mut self, event: Event<Wire, Task>, host: &mut Host<'_, Party>) {
        match event {
            Event::Task(Task::Think(number)) if number == self.thoughts => match self.asking {
                Some(_) => self.send(host),
                None => self.begin(host),
            },
            Event::Task(Task::Late(number)) => self.late(host, number),
            Event::Called {
                message: Wire::Reply { number, reply },
                ..
            } => self.replied(host, number, reply),
            Event::Refused {
                message: Wire::Request { number, .. },
                ..
            } => self.replied(host, number, Reply::NotDone),
            _ => {}
        }
    }

    fn begin(&mut self, host: &mut Host<'_, Party>) {
        if self.stopped {
            return;
        }
        let what = if self.habits.in_session && self.session.is_none() {
            What::Register
        } else {
            self.choose(host.world_time())
        };
        let sequence = match (&what, &mut self.session) {
            (What::Operation(_), Some(session)) => {
                session.next_sequence += 1;
                session.next_sequence - 1
            }
            _ => 0,
        };
        let server = self.any_server();
        self.asking = Some(Asking {
            what,
            first: self.next_number + 1,
            last: 0,
            tries: 0,
            sequence,
            maybe_sent: false,
            server,
        });
        self.send(host);
    }

    fn any_server(&mut self) -> Address {
        self.dice.pick(&self.servers).copied().unwrap_or(0)
    }

    fn choose(&mut self, now: Micros) -> What {
        self.made += 1;
        let dice = &mut self.dice;
        let counter = dice.per_mille(250);
        let key = if counter {
            Bytes::from(format!("n{}", dice.below(2)))
        } else {
            Bytes::from(format!("k{}", dice.below(self.habits.keys)))
        };
        let value = Bytes::from(format!("c{}-{}", self.number, self.made));
        let action = if dice.per_mille(self.habits.reads) {
            if dice.per_mille(300) {
                return What::Stale(key);
            }
            Action::Get
        } else if counter {
            let by = i64::try_from(dice.between(1, 9)).unwrap_or(1);
            Action::Increment(by)
        } else {
            match (dice.below(10), self.seen.get(&key)) {
                (0..=2, Some(old)) => Action::CompareAndSwap {
                    old: old.clone(),
                    new: value,
                },
                (3, _) => Action::Delete,
                _ => Action::Put(value),
            }
        };
        self.history.push(Operation {
            client: self.number,
            key,
            action,
            invoked: now,
            outcome: Outcome::Unknown,
        });
        What::Operation(self.history.len() - 1)
    }

    fn send(&mut self, host: &mut Host<'_, Party>) {
        let Some(asking) = &mut self.asking else {
            return;
        };
        self.next_number += 1;
        let number = self.next_number;
        asking.last = number;
        asking.tries += 1;
        self.counts.2 += u64::from(asking.tries > 1);
        let server = asking.server;
        let ask = match &asking.what {
            What::Register => Ask::Put(Payload::RegisterSession),
            What::Stale(key) => Ask::Query {
                query: query_of(key),
                stale: true,
            },
            What::Operation(at) => {
                let operation = &self.history[*at];
                match bytes_of(&operation.key, &operation.action) {
                    None => Ask::Query {
                        query: query_of(&operation.key),
                        stale: false,
                    },
                    Some(bytes) => Ask::Put(Payload::Command(Command {
                        session: self.session.as_ref().map_or(0, |session| session.id),
                        sequence: asking.sequence,
                        acked_below: asking.sequence,
                        bytes,
                    })),
                }
            }
        };
        if self.tracing {
            let sequence = asking.sequence;
            let line = format!("asks {server}, number {number}, sequence {sequence}: {ask:?}");
            self.lines.push(line);
        }
        let patience = self.habits.patience;
        let request = Wire::Request {
            number,
            ask,
            patience,
            forwarded: false,
        };
        host.call(server, request);
        host.after(patience, Task::Late(number));
    }

    /// Whether what is asked may be asked again though it may have been heard.
    fn is_repeatable(&self) -> bool {
        match &self.asking {
            Some(asking) => match asking.what {
                What::Register | What::Stale(_) => true,
                What::Operation(at) => {
                    self.session.is_some() || matches!(self.history[at].action, Action::Get)
                }
            },
            None => false,
        }
    }

    fn late(&mut self, host: &mut Host<'_, Party>, number: u64) {
        if self
            .asking
            .as_ref()
            .is_some_and(|asking| asking.last == number)
        {
            self.not_known(host);
        }
    }

    /// The last request may have been heard.
    fn not_known(&mut self, host: &mut Host<'_, Party>) {
        let repeatable = self.is_repeatable();
        let server = self.any_server();
        let Some(asking) = &mut self.asking else {
            return;
        };
        asking.maybe_sent = true;
        asking.server = server;
        if repeatable && asking.tries < MAX_TRIES {
            self.send(host);
        } else {
            self.give_up(host);
        }
    }

    /// The last request was certainly not done.
    fn not_done(&mut self, host: &mut Host<'_, Party>) {
        let server = self.any_server();
        let Some(asking) = &mut self.asking else {
            return;
        };
        asking.server = server;
        if asking.tries < MAX_TRIES {
            // An answer to it that comes late changes nothing.
            asking.last = u64::MAX;
            self.wake_after(host, PAUSE);
        } else {
            self.give_up(host);
        }
    }

    fn give_up(&mut self, host: &mut Host<'_, Party>) {
        let Some(asking) = self.asking.take() else {
            return;
        };
        if let What::Operation(at) = asking.what {
            self.history[at].outcome = if asking.maybe_sent {
                Outcome::Unknown
            } else {
                Outcome::Refused
            };
        }
        self.think(host);
    }

    fn think(&mut self, host: &mut Host<'_, Party>) {
        if !self.stopped {
            let wait = self.dice.below(self.habits.think);
            self.wake_after(host, wait);
        }
    }

    /// Goes on after so long. What it wanted to go on with before is void: an answer may have come since.
    fn wake_after(&mut self, host: &mut Host<'_, Party>, wait: Micros) {
        self.thoughts += 1;
        host.after(wait, Task::Think(self.thoughts));
    }

    fn replied(&mut self, host: &mut Host<'_, Party>, number: u64, reply: Reply) {
        let Some(asking) = &self.asking else {
            return;
        };
        if number < asking.first {
            return; // To something that was over before.
        }
        let is_last = number == asking.last;
        if self.tracing {
            self.lines
                .push(format!("is told, number {number}: {reply:?}"));
        }
        match reply {
            Reply::NotDone | Reply::NoAnswer if is_last => self.not_done(host),
            Reply::Unknown if is_last => self.not_known(host),
            Reply::NotDone | Reply::NoAnswer | Reply::Unknown => {}
            Reply::Session(position) => {
                if matches!(asking.what, What::Register) {
                    self.asking = None;
                    self.counts.0 += 1;
                    self.session = Some(Session {
                        id: position.index,
                        next_sequence: 1,
                    });
                    self.think(host);
                }
            }
            Reply::SessionExpired => {
                self.session = None;
                self.counts.1 += 1;
                self.give_up(host);
            }
            Reply::Stale => {
                let sentence = "a request that nobody acknowledged was called stale";
                self.wrong = Some(sentence.to_owned());
            }
            Reply::Outcome(position, said) => self.done(host, position, &said),
            Reply::Answer {
                index,
                nonce,
                outcome,
            } => self.read(host, index, nonce, &outcome),
        }
    }

    fn done(&mut self, host: &mut Host<'_, Party>, position: Position, said: &Said) {
        let Some(Asking {
            what: What::Operation(at),
            ..
        }) = self.asking
        else {
            return;
        };
        if said.kind == OutcomeKind::AlreadyApplied {
            // It happened, and nobody knows what came of it.
            if let Some(asking) = &mut self.asking {
                asking.maybe_sent = true;
            }
            return self.give_up(host);
        }
        self.asking = None;
        let operation = &mut self.history[at];
        let answer = answer_to(&operation.action, said);
        if let (Action::Put(value) | Action::CompareAndSwap { new: value, .. }, Answer::Done) =
            (&operation.action, &answer)
        {
            self.seen.insert(operation.key.clone(), value.clone());
        }
        operation.outcome = Outcome::Done {
            returned: host.world_time(),
            answer,
            index: position.index,
        };
        self.think(host);
    }

    fn read(&mut self, host: &mut Host<'_, Party>, index: Index, nonce: u64, said: &Said) {
        let answer = answer_to(&Action::Get, said);
        let Some(asking) = self.asking.take() else {
            return;
        };
        match asking.what {
            What::Register => {}
            What::Stale(key) => self.stale.push(StaleRead {
                key,
                index,
                nonce,
                answer,
            }),
            What::Operation(at) => {
                let operation = &mut self.history[at];
                if let Answer::Value(value) = &answer {
                    self.seen.insert(operation.key.clone(), value.clone());
                }
                operation.outcome = Outcome::Done {
                    returned: host.world_time(),
                    answer,
                    index,
                };
            }
        }
        self.think(host);
    }
}

fn query_of(key: &Bytes) -> Bytes {
    Bytes::from([b"GET ", &key[..]].concat())
}

/// The entry that asks for it; none for a read.
fn bytes_of(key: &Bytes, action: &Action) -> Option<Bytes> {
    let key = String::from_utf8_lossy(key);
    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
    let entry = match action {
        Action::Put(value) => format!("PUT {key} {}", text(value)),
        Action::Delete => format!("DELETE {key}"),
        Action::CompareAndSwap { old, new } => format!("CAS {key} {} {}", text(old), text(new)),
        Action::Increment(by) => format!("INCR {key} {by}"),
        Action::Get | Action::Exists => return None,
    };
    Some(Bytes::from(entry))
}

fn answer_to(action: &Action, said: &Said) -> Answer {
    match (said.kind, action) {
        (OutcomeKind::Ok | OutcomeKind::AlreadyApplied, Action::Get | Action::Increment(_)) => {
            Answer::Value(said.data.clone())
        }
        (OutcomeKind::Ok | OutcomeKind::AlreadyApplied, _) => Answer::Done,
        (OutcomeKind::NotFound, _) => Answer::NotFound,
        (OutcomeKind::Rejected, _) => Answer::Rejected,
    }
}
