//! Streams, calls and datagrams, and what becomes of them on the way.

use std::collections::VecDeque;

use super::{
    Address, CONNECT_DEADLINE, Event, Micros, NEVER, Node, RETRANSMISSION, StreamName,
    UNACKNOWLEDGED, Waiting, Wish, World,
};

/// The streams that a node has to each other: what is on one never waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Much.
    Bulk,
    /// Little.
    Small,
}

/// How the network is, everywhere.
#[derive(Clone, Debug)]
pub struct Network {
    /// Shortest and longest way of a message, in microseconds.
    pub delay: (Micros, Micros),
    /// Of a thousand messages so many are lost, or on a stream come late.
    pub loss: u64,
    /// Of a thousand datagrams, or raw messages, so many come twice.
    pub duplication: u64,
    /// Of a thousand messages so many take up to a second longer.
    pub straggling: u64,
    /// Streams do not keep order either, and lose and double messages.
    pub is_raw: bool,
}

/// What the network did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Messages that were lost, or came late because of it.
    pub lost: u64,
    /// Messages that came twice.
    pub doubled: u64,
    /// Messages that took much longer.
    pub straggled: u64,
    /// Messages that were sent.
    pub sent: u64,
    /// The most that were under way on one stream.
    pub most_on_stream: usize,
}

/// From one node to another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub cut_since: Option<Micros>,
    pub slower_by: Micros,
}

#[derive(Debug)]
pub(super) struct Stream<M> {
    pub serial: u64,
    open: bool,
    /// In order, with the time at which each arrives.
    under_way: VecDeque<(Micros, M)>,
    /// Nothing arrives before what was sent before it.
    last: Micros,
    pumping: bool,
    /// Since when nothing gets through.
    stuck_since: Option<Micros>,
}

impl<N: Node> World<N> {
    pub(super) fn carry_out(&mut self, from: Address, wish: Wish<N>) {
        match wish {
            Wish::After(wait, task) => {
                let life = self.slots[from].life;
                let then = self.now + wait;
                self.schedule(
                    then,
                    Waiting::Task {
                        at: from,
                        life,
                        task,
                    },
                );
            }
            Wish::Open(to, lane) => self.open_stream((from, to, lane)),
            Wish::Close(to, lane) => self.close_stream((from, to, lane)),
            Wish::Refuse(peer, lane) => {
                if self.streams.remove(&(peer, from, lane)).is_some() && self.slots[peer].up {
                    let life = self.slots[peer].life;
                    let then = self.now + self.delay(from, peer);
                    let stream = (peer, from, lane);
                    self.schedule(then, Waiting::Closed { stream, life });
                }
            }
            Wish::Send(to, lane, message) => self.send((from, to, lane), message),
            Wish::Call(to, message) => self.send_call(from, to, true, message),
            Wish::Datagram(to, message) => {
                let (loss, duplication) = (self.network.loss, self.network.duplication);
                if self.dice.per_mille(loss) {
                    self.counts.lost += 1;
                    return;
                }
                if self.dice.per_mille(duplication) {
                    self.counts.doubled += 1;
                    self.send_call(from, to, false, message.clone());
                }
                self.send_call(from, to, false, message);
            }
        }
    }

    /// How long a message takes from one to the other.
    fn delay(&mut self, from: Address, to: Address) -> Micros {
        let (least, most) = self.network.delay;
        let mut delay = self.dice.between(least, most);
        if self.network.straggling > 0 && self.dice.per_mille(self.network.straggling) {
            self.counts.straggled += 1;
            delay += self.dice.below(1_000_000);
        }
        if !self.links.is_empty() {
            delay += self.links.get(&(from, to)).map_or(0, |link| link.slower_by);
        }
        delay
    }

    fn open_stream(&mut self, stream: StreamName) {
        self.serials += 1;
        let serial = self.serials;
        let begun = Stream {
            serial,
            open: false,
            under_way: VecDeque::new(),
            last: 0,
            pumping: false,
            stuck_since: None,
        };
        if self.streams.insert(stream, begun).is_some() {
            self.end_incoming(stream);
        }
        let (from, to, _) = stream;
        let then = self.now + self.delay(from, to);
        let began = self.now;
        self.schedule(
            then,
            Waiting::Connect {
                stream,
                serial,
                began,
            },
        );
    }

    /// The first packet of a stream arrives, or does not.
    pub(super) fn connect(
        &mut self,
        stream: StreamName,
        serial: u64,
        began: Micros,
    ) -> Option<Address> {
        let (from, to, _) = stream;
        if self.streams.get(&stream)?.serial != serial {
            return None;
        }
        let loss = self.network.loss;
        if self.is_cut(from, to) || self.is_cut(to, from) || self.dice.per_mille(loss) {
            let again = self.now + RETRANSMISSION;
            if again < began + CONNECT_DEADLINE {
                let waiting = Waiting::Connect {
                    stream,
                    serial,
                    began,
                };
                self.schedule(again, waiting);
                return None;
            }
            self.streams.remove(&stream);
            let life = self.slots[from].life;
            self.schedule(began + CONNECT_DEADLINE, Waiting::Closed { stream, life });
            return None;
        }
        let back = self.now + self.delay(to, from);
        if self.slots[to].up {
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.open = true;
            }
            self.schedule(back, Waiting::Opened { stream, serial });
        } else {
            self.streams.remove(&stream);
            let life = self.slots[from].life;
            self.schedule(back, Waiting::Closed { stream, life });
        }
        None
    }

    fn close_stream(&mut self, stream: StreamName) {
        if self.streams.remove(&stream).is_some_and(|s| s.open) {
            self.end_incoming(stream);
        }
    }

    /// The receiver of a stream learns that it has ended.
    fn end_incoming(&mut self, stream: StreamName) {
        let (from, to, _) = stream;
        if self.slots[to].up {
            let life = self.slots[to].life;
            let then = if self.is_cut(from, to) {
                self.now + UNACKNOWLEDGED
            } else {
                self.now + self.delay(from, to)
            };
            self.schedule(then, Waiting::Ended { stream, life });
        }
    }

    /// The stream is reset; both ends learn of it, each when it can.
    pub(super) fn break_stream(&mut self, stream: StreamName, after: Micros) {
        let Some(broken) = self.streams.remove(&stream) else {
            return;
        };
        let (from, to, _) = stream;
        if self.slots[from].up {
            let life = self.slots[from].life;
            let then = if self.is_cut(to, from) {
                self.now + UNACKNOWLEDGED
            } else {
                self.now + after + self.delay(to, from)
            };
            self.schedule(then, Waiting::Closed { stream, life });
        }
        if broken.open {
            self.end_incoming(stream);
        }
    }

    fn send(&mut self, stream: StreamName, message: N::Message) {
        self.counts.sent += 1;
        let (from, to, _) = stream;
        let raw = self.network.is_raw;
        let mut arrives = self.now + self.delay(from, to);
        if self.network.loss > 0 && self.dice.per_mille(self.network.loss) {
            self.counts.lost += 1;
            if raw {
                return;
            }
            arrives += RETRANSMISSION;
        }
        let doubled = raw && self.dice.per_mille(self.network.duplication);
        let later = self.now + self.delay(from, to);
        let Some(open) = self.streams.get_mut(&stream).filter(|s| s.open) else {
            return;
        };
        let serial = open.serial;
        if raw {
            if doubled {
                self.counts.doubled += 1;
                let message = message.clone();
                let waiting = Waiting::Raw {
                    stream,
                    serial,
                    message,
                };
                self.schedule(later, waiting);
            }
            let waiting = Waiting::Raw {
                stream,
                serial,
                message,
            };
            return self.schedule(arrives, waiting);
        }
        arrives = arrives.max(open.last);
        open.last = arrives;
        open.under_way.push_back((arrives, message));
        self.counts.most_on_stream = self.counts.most_on_stream.max(open.under_way.len());
        if !open.pumping {
            open.pumping = true;
            self.schedule(arrives, Waiting::Pump { stream, serial });
        }
    }

    pub(super) fn arrive(
        &mut self,
        stream: StreamName,
        serial: u64,
        message: N::Message,
    ) -> Option<Address> {
        let (from, to, lane) = stream;
        let open = self
            .streams
            .get(&stream)
            .is_some_and(|s| s.serial == serial);
        if !open || self.is_cut(from, to) {
            return None;
        }
        let event = Event::Received {
            from,
            lane,
            message,
        };
        self.tell(to, event)
    }

    /// Lets the first message of a stream arrive, if it can get through.
    pub(super) fn pump(&mut self, name: StreamName, serial: u64) -> Option<Address> {
        let (from, to, lane) = name;
        let (now, cut) = (self.now, self.is_cut(from, to));
        let stream = self.streams.get_mut(&name).filter(|s| s.serial == serial)?;
        if cut {
            let since = *stream.stuck_since.get_or_insert(now);
            if now.saturating_sub(since) >= UNACKNOWLEDGED {
                self.break_stream(name, 0);
            } else {
                let then = now + RETRANSMISSION;
                self.schedule(
                    then,
                    Waiting::Pump {
                        stream: name,
                        serial,
                    },
                );
            }
            return None;
        }
        stream.stuck_since = None;
        let (_, message) = stream.under_way.pop_front()?;
        let next = stream.under_way.front().map_or(NEVER, |(at, _)| *at);
        stream.pumping = next != NEVER;
        if next != NEVER {
            self.schedule(
                next.max(now),
                Waiting::Pump {
                    stream: name,
                    serial,
                },
            );
        }
        let event = Event::Received {
            from,
            lane,
            message,
        };
        self.tell(to, event)
    }

    fn send_call(&mut self, from: Address, to: Address, refusable: bool, message: N::Message) {
        self.counts.sent += 1;
        let mut then = self.now + self.delay(from, to);
        if refusable && self.dice.per_mille(self.network.loss) {
            self.counts.lost += 1;
            then += RETRANSMISSION;
        }
        let life = self.slots[from].life;
        let waiting = Waiting::Call {
            from,
            to,
            life,
            refusable,
            message,
        };
        self.schedule(then, waiting);
    }

    pub(super) fn arrive_call(
        &mut self,
        from: Address,
        to: Address,
        life: u64,
        refusable: bool,
        message: N::Message,
    ) -> Option<Address> {
        if self.is_cut(from, to) || (refusable && self.is_cut(to, from)) {
            return None;
        }
        if self.slots[to].up {
            return self.tell(to, Event::Called { from, message });
        }
        if refusable {
            let then = self.now + self.delay(to, from);
            let waiting = Waiting::Refused {
                from,
                to,
                life,
                message,
            };
            self.schedule(then, waiting);
        }
        None
    }
}
