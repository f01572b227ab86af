//! A world for any kind of node: a clock, a network, and what can go wrong with both. It knows nothing
//! of what the nodes are.
//!
//! Time is a number of microseconds that only this module moves. Whatever is to happen stands in one
//! queue, in order of time and then of arrival, so that the same seed gives the same run. A node is
//! handed one event at a time, says through its [`Host`] what it wants, and is never called from within.
//!
//! | | |
//! |---|---|
//! | streams | ordered, as TCP is: what is lost comes late, and what is behind it too; what is under way when one is reset is lost. With [`Network::is_raw`] each message may be lost, doubled and overtaken, which is more than any transport does |
//! | calls | one message that arrives or not; who listens to nobody is found out at once |
//! | datagrams | lost, doubled, overtaken |
//! | clocks | of each node its own: it drifts, jumps, stands still |
//! | processes | run, are stopped for a while (everything that comes waits for them), or are gone |

mod clock;
mod network;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::dice::Dice;
use clock::Clock;
pub use network::{Lane, Network};
use network::{Link, Stream};

/// A point in the world's time, or a span of it, in microseconds.
pub type Micros = u64;

/// Never.
pub const NEVER: Micros = Micros::MAX;

/// A node's place in the world.
pub type Address = usize;

/// Events that wait, of all nodes together: more is a flood, which no node may cause.
pub const MAX_WAITING_EVENTS: usize = 200_000;

/// A connection whose other end is silent for so long, while data is under way, is given up.
const UNACKNOWLEDGED: Micros = 3_000_000;

/// A connection that does not come about within this fails.
const CONNECT_DEADLINE: Micros = 1_000_000;

/// Lost bytes of a stream are sent again after this.
const RETRANSMISSION: Micros = 200_000;

/// What a node is to the world.
pub trait Node: Sized {
    /// What nodes send to each other.
    type Message: Clone;
    /// What a node wants to be reminded of.
    type Task;

    /// Takes one event; `host` carries out what comes of it.
    fn happen(&mut self, event: Event<Self::Message, Self::Task>, host: &mut Host<'_, Self>);

    /// When [`Event::Timer`] is due, on the node's own clock.
    fn deadline(&self) -> Micros;
}

/// What happens to a node.
#[derive(Debug)]
pub enum Event<M, T> {
    /// Its deadline has come.
    Timer,
    /// What it wanted to be reminded of.
    Task(T),
    /// A message on a stream.
    Received {
        /// The sender.
        from: Address,
        /// Which stream.
        lane: Lane,
        /// What it says.
        message: M,
    },
    /// A call or a datagram.
    Called {
        /// The sender.
        from: Address,
        /// What it says.
        message: M,
    },
    /// A call found nobody: it certainly was not heard.
    Refused {
        /// Who was called.
        to: Address,
        /// What it said.
        message: M,
    },
    /// The stream to `peer` stands.
    Opened {
        /// The other end.
        peer: Address,
        /// Which stream.
        lane: Lane,
    },
    /// The stream to `peer` has ended, or did not come about.
    Closed {
        /// The other end.
        peer: Address,
        /// Which stream.
        lane: Lane,
    },
    /// The stream that `peer` had opened has ended.
    Ended {
        /// The other end.
        peer: Address,
        /// Which stream.
        lane: Lane,
    },
}

/// What a node can do in the world, while it takes an event.
pub struct Host<'a, N: Node> {
    world_time: Micros,
    now: Micros,
    out: &'a mut Vec<Wish<N>>,
}

enum Wish<N: Node> {
    Open(Address, Lane),
    Close(Address, Lane),
    Refuse(Address, Lane),
    Send(Address, Lane, N::Message),
    Call(Address, N::Message),
    Datagram(Address, N::Message),
    After(Micros, N::Task),
}

impl<N: Node> Host<'_, N> {
    /// The node's own clock.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// The world's clock, for those who take notes; a node must not look at it.
    pub fn world_time(&self) -> Micros {
        self.world_time
    }

    /// Opens a stream. [`Event::Opened`] or [`Event::Closed`] follows.
    pub fn open(&mut self, peer: Address, lane: Lane) {
        self.out.push(Wish::Open(peer, lane));
    }

    /// Closes a stream; nothing more is heard of it.
    pub fn close(&mut self, peer: Address, lane: Lane) {
        self.out.push(Wish::Close(peer, lane));
    }

    /// Ends the stream that `peer` has opened, which it is told.
    pub fn refuse(&mut self, peer: Address, lane: Lane) {
        self.out.push(Wish::Refuse(peer, lane));
    }

    /// Sends on a stream that stands. On one that does not, the message is lost.
    pub fn send(&mut self, peer: Address, lane: Lane, message: N::Message) {
        self.out.push(Wish::Send(peer, lane, message));
    }

    /// Sends one message on a connection of its own.
    pub fn call(&mut self, to: Address, message: N::Message) {
        self.out.push(Wish::Call(to, message));
    }

    /// Sends a datagram.
    pub fn datagram(&mut self, to: Address, message: N::Message) {
        self.out.push(Wish::Datagram(to, message));
    }

    /// Asks for [`Event::Task`] after so long. It dies with the process.
    pub fn after(&mut self, wait: Micros, task: N::Task) {
        self.out.push(Wish::After(wait, task));
    }
}

/// What stands in the queue.
enum Waiting<N: Node> {
    Task {
        at: Address,
        life: u64,
        task: N::Task,
    },
    Raw {
        stream: StreamName,
        serial: u64,
        message: N::Message,
    },
    Pump {
        stream: StreamName,
        serial: u64,
    },
    Connect {
        stream: StreamName,
        serial: u64,
        began: Micros,
    },
    Opened {
        stream: StreamName,
        serial: u64,
    },
    Closed {
        stream: StreamName,
        life: u64,
    },
    Ended {
        stream: StreamName,
        life: u64,
    },
    Call {
        from: Address,
        to: Address,
        life: u64,
        refusable: bool,
        message: N::Message,
    },
    Refused {
        from: Address,
        to: Address,
        life: u64,
        message: N::Message,
    },
    Resume {
        at: Address,
        life: u64,
    },
    Held {
        at: Address,
        life: u64,
        event: Event<N::Message, N::Task>,
    },
}

/// From, to, which.
type StreamName = (Address, Address, Lane);

struct Slot<N: Node> {
    node: N,
    up: bool,
    /// Counts processes: what was meant for an earlier one is void.
    life: u64,
    clock: Clock,
    /// The node's deadline, in the world's time.
    deadline: Micros,
    paused_until: Option<Micros>,
    held: VecDeque<Event<N::Message, N::Task>>,
}

/// See the module.
pub struct World<N: Node> {
    now: Micros,
    slots: Vec<Slot<N>>,
    links: BTreeMap<(Address, Address), Link>,
    streams: BTreeMap<StreamName, Stream<N::Message>>,
    network: Network,
    dice: Dice,
    queue: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    /// What the queue names, by place.
    waiting: Vec<Option<Waiting<N>>>,
    free: Vec<usize>,
    next: u64,
    serials: u64,
    wishes: Vec<Wish<N>>,
    /// What the network did.
    pub counts: network::Counts,
}

impl<N: Node> World<N> {
    /// A world without nodes. `seed` decides what the network does.
    pub fn new(seed: u64, network: Network) -> World<N> {
        World {
            now: 0,
            slots: Vec::new(),
            links: BTreeMap::new(),
            streams: BTreeMap::new(),
            network,
            dice: Dice::new(seed, "network"),
            queue: BinaryHeap::new(),
            waiting: Vec::new(),
            free: Vec::new(),
            next: 0,
            serials: 0,
            wishes: Vec::new(),
            counts: network::Counts::default(),
        }
    }

    /// Adds a node whose process runs, with a clock of its own that shows `clock` now.
    pub fn add(&mut self, node: N, clock: Micros) -> Address {
        self.slots.push(Slot {
            node,
            up: true,
            life: 1,
            clock: Clock::new(self.now, clock),
            deadline: NEVER,
            paused_until: None,
            held: VecDeque::new(),
        });
        self.slots.len() - 1
    }

    /// The world's time.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// How the network is; it may be changed at any time.
    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The node there.
    pub fn node(&self, at: Address) -> &N {
        &self.slots[at].node
    }

    /// The node there, to be looked into or changed from outside, as a disk fails without asking.
    pub fn node_mut(&mut self, at: Address) -> &mut N {
        &mut self.slots[at].node
    }

    /// Whether its process is there, paused or not.
    pub fn is_up(&self, at: Address) -> bool {
        self.slots[at].up
    }

    /// Whether its process is there and stopped.
    pub fn is_paused(&self, at: Address) -> bool {
        self.slots[at].paused_until.is_some()
    }

    /// Has the node do something now, as if an event had come.
    pub fn with<T>(&mut self, at: Address, work: impl FnOnce(&mut N, &mut Host<'_, N>) -> T) -> T {
        let mut wishes = std::mem::take(&mut self.wishes);
        let slot = &mut self.slots[at];
        let mut host = Host {
            world_time: self.now,
            now: slot.clock.local(self.now),
            out: &mut wishes,
        };
        let done = work(&mut slot.node, &mut host);
        slot.deadline = slot.clock.world(slot.node.deadline()).max(self.now);
        for wish in wishes.drain(..) {
            self.carry_out(at, wish);
        }
        self.wishes = wishes;
        done
    }

    // ---- what can go wrong ----

    /// The process is gone. Its connections are reset, as far as that can be told.
    pub fn kill(&mut self, at: Address) {
        let slot = &mut self.slots[at];
        slot.up = false;
        slot.life += 1;
        slot.deadline = NEVER;
        slot.paused_until = None;
        slot.held.clear();
        let of_it: Vec<StreamName> = self
            .streams
            .keys()
            .filter(|(from, to, _)| *from == at || *to == at)
            .copied()
            .collect();
        for stream in of_it {
            self.break_stream(stream, 0);
        }
    }

    /// A process begins; the node is told by [`World::with`].
    pub fn start(&mut self, at: Address) {
        let slot = &mut self.slots[at];
        slot.up = true;
        slot.life += 1;
    }

    /// The process is stopped until then: nothing reaches it, its clock goes on, its connections stand.
    pub fn pause(&mut self, at: Address, until: Micros) {
        let slot = &mut self.slots[at];
        if slot.up && slot.paused_until.is_none() {
            slot.paused_until = Some(until);
            let life = slot.life;
            self.schedule(until, Waiting::Resume { at, life });
        }
    }

    /// The node's clock is ahead by so much from now on.
    pub fn jump_clock(&mut self, at: Address, by: Micros) {
        let now = self.now;
        self.slots[at].clock.jump(now, by);
        self.look_at_deadline(at);
    }

    /// The node's clock goes at this rate from now on, in parts of a million; 0: it stands still.
    pub fn drift_clock(&mut self, at: Address, rate: u64) {
        let now = self.now;
        self.slots[at].clock.drift(now, rate);
        self.look_at_deadline(at);
    }

    /// Whether that node's clock does not go at all.
    pub fn clock_stands(&self, at: Address) -> bool {
        self.slots[at].clock.stands()
    }

    fn look_at_deadline(&mut self, at: Address) {
        let slot = &mut self.slots[at];
        if slot.up {
            slot.deadline = slot.clock.world(slot.node.deadline()).max(self.now);
        }
    }

    /// Nothing goes from `from` to `to` any more, until [`World::heal`].
    pub fn cut(&mut self, from: Address, to: Address) {
        let now = self.now;
        self.link(from, to).cut_since.get_or_insert(now);
    }

    /// Everything gets through again, at its usual speed.
    pub fn heal(&mut self) {
        self.links.clear();
    }

    /// Everything gets through again between these two.
    pub fn heal_link(&mut self, from: Address, to: Address) {
        self.links.remove(&(from, to));
    }

    /// Everything from `from` to `to` takes so much longer.
    pub fn slow_down(&mut self, from: Address, to: Address, by: Micros) {
        self.link(from, to).slower_by = by;
    }

    /// Whether nothing gets through from `from` to `to`.
    pub fn is_cut(&self, from: Address, to: Address) -> bool {
        self.links
            .get(&(from, to))
            .is_some_and(|link| link.cut_since.is_some())
    }

    /// Resets the streams from `from` to `to`, though both processes live.
    pub fn reset(&mut self, from: Address, to: Address) -> bool {
        let mut any = false;
        for lane in [Lane::Bulk, Lane::Small] {
            if self.streams.contains_key(&(from, to, lane)) {
                self.break_stream((from, to, lane), 0);
                any = true;
            }
        }
        any
    }

    fn link(&mut self, from: Address, to: Address) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    // ---- time ----

    /// When the next thing happens.
    pub fn next_at(&self) -> Micros {
        let queued = self.queue.peek().map_or(NEVER, |Reverse((at, _, _))| *at);
        queued.min(self.next_timer().0)
    }

    fn next_timer(&self) -> (Micros, Address) {
        let mut first = (NEVER, 0);
        for (at, slot) in self.slots.iter().enumerate() {
            if slot.deadline < first.0 && slot.paused_until.is_none() {
                first = (slot.deadline, at);
            }
        }
        first
    }

    /// Events that wait.
    pub fn waiting_events(&self) -> usize {
        self.queue.len()
    }

    /// Lets time pass until then, if nothing happens before.
    pub fn wait_until(&mut self, then: Micros) {
        self.now = self.now.max(then.min(self.next_at()));
    }

    /// Lets the next thing happen. Returns the node that was concerned, if any was.
    pub fn step(&mut self) -> Option<Address> {
        let (timer, at) = self.next_timer();
        let queued = self.queue.peek().map_or(NEVER, |Reverse((at, _, _))| *at);
        if timer == NEVER && queued == NEVER {
            return None;
        }
        if timer < queued {
            self.now = self.now.max(timer);
            self.tell(at, Event::Timer);
            return Some(at);
        }
        let Reverse((then, _, place)) = self.queue.pop()?;
        self.now = self.now.max(then);
        let waiting = self.waiting[place].take();
        self.free.push(place);
        waiting.and_then(|waiting| self.come(waiting))
    }

    fn schedule(&mut self, then: Micros, waiting: Waiting<N>) {
        let place = match self.free.pop() {
            Some(place) => {
                self.waiting[place] = Some(waiting);
                place
            }
            None => {
                self.waiting.push(Some(waiting));
                self.waiting.len() - 1
            }
        };
        self.next += 1;
        self.queue.push(Reverse((then, self.next, place)));
    }

    /// Hands an event to a node; to one that is stopped, later.
    fn tell(&mut self, at: Address, event: Event<N::Message, N::Task>) -> Option<Address> {
        let slot = &mut self.slots[at];
        if !slot.up {
            return None;
        }
        if slot.paused_until.is_some() {
            slot.held.push_back(event);
            return None;
        }
        self.with(at, |node, host| node.happen(event, host));
        Some(at)
    }

    fn lives(&self, at: Address, life: u64) -> bool {
        self.slots[at].up && self.slots[at].life == life
    }

    fn come(&mut self, waiting: Waiting<N>) -> Option<Address> {
        match waiting {
            Waiting::Task { at, life, task } if self.lives(at, life) => {
                self.tell(at, Event::Task(task))
            }
            Waiting::Held { at, life, event } if self.lives(at, life) => self.tell(at, event),
            Waiting::Resume { at, life } if self.lives(at, life) => {
                let slot = &mut self.slots[at];
                slot.paused_until = None;
                let held: Vec<_> = slot.held.drain(..).collect();
                for event in held {
                    let now = self.now;
                    self.schedule(now, Waiting::Held { at, life, event });
                }
                self.look_at_deadline(at);
                None
            }
            Waiting::Raw {
                stream,
                serial,
                message,
            } => self.arrive(stream, serial, message),
            Waiting::Pump { stream, serial } => self.pump(stream, serial),
            Waiting::Connect {
                stream,
                serial,
                began,
            } => self.connect(stream, serial, began),
            Waiting::Opened { stream, serial } => {
                let (from, peer, lane) = stream;
                let open = self
                    .streams
                    .get(&stream)
                    .is_some_and(|s| s.serial == serial);
                open.then(|| self.tell(from, Event::Opened { peer, lane }))?
            }
            Waiting::Closed { stream, life } if self.lives(stream.0, life) => {
                let (from, peer, lane) = stream;
                self.tell(from, Event::Closed { peer, lane })
            }
            Waiting::Ended { stream, life } if self.lives(stream.1, life) => {
                let (peer, to, lane) = stream;
                self.tell(to, Event::Ended { peer, lane })
            }
            Waiting::Call {
                from,
                to,
                life,
                refusable,
                message,
            } => self.arrive_call(from, to, life, refusable, message),
            Waiting::Refused {
                from,
                to,
                life,
                message,
            } if self.lives(from, life) => self.tell(from, Event::Refused { to, message }),
            _ => None,
        }
    }
}
