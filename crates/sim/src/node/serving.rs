//! Requests of clients: entries, which go to the leader, and queries, which any node answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::waiters::Answer;
use raft_core::{Input, Payload, RequestId, RoleName, Time};

use super::applying::NOBODY;
use super::message::{Ask, Reply, Wire};
use super::process::Process;
use super::{Parts, Task, address_of};
use crate::party::Party;
use crate::world::{Address, Host, Micros};

/// Requests of one kind that wait at one node: more are turned away.
pub(crate) const MAX_WAITING: usize = 1_000;

/// An entry that waits for the next batch.
pub(super) struct Put {
    pub payload: Payload,
    pub in_session: bool,
    pub client: Address,
    pub number: u64,
}

/// A query on its way.
pub(super) struct Reading {
    client: Address,
    number: u64,
    query: Bytes,
    /// It may be asked once this is applied; none: not known yet.
    index: Option<u64>,
    deadline: Micros,
    /// It is at the state machine, in this epoch.
    asked_in: Option<u64>,
    /// What the epoch had acknowledged when it was asked early.
    asked_at: u64,
    /// What came of asking before the index was known.
    early: Option<Reply>,
}

#[derive(Default)]
pub(super) struct Serving {
    /// Passed on to the leader, by the number under which.
    forwarded: BTreeMap<u64, Forwarded>,
    next: u64,
    /// To be said with the next event.
    late: Vec<(Address, u64, Reply)>,
}

struct Forwarded {
    client: Address,
    number: u64,
    deadline: Micros,
}

impl Serving {
    pub fn len(&self) -> usize {
        self.forwarded.len()
    }
}

impl Process {
    pub fn reply(
        &mut self,
        host: &mut Host<'_, Party>,
        client: Address,
        number: u64,
        reply: Reply,
    ) {
        if client != NOBODY {
            host.call(client, Wire::Reply { number, reply });
        }
    }

    pub fn late_reply(&mut self, client: Address, number: u64, reply: Reply) {
        self.serving.late.push((client, number, reply));
    }

    pub fn called(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        from: Address,
        message: Wire,
    ) {
        for (client, number, reply) in std::mem::take(&mut self.serving.late) {
            self.reply(host, client, number, reply);
        }
        match message {
            Wire::Request {
                number,
                ask,
                patience,
                forwarded,
            } => self.request(parts, host, (from, number), ask, patience, forwarded),
            Wire::Reply { number, reply } => {
                if let Some(known) = self.serving.forwarded.remove(&number) {
                    self.reply(host, known.client, known.number, reply);
                }
            }
            Wire::Probe { to, boot, term } => {
                let leads = to == parts.id
                    && boot == self.claim().boot
                    && self.raft.role() == RoleName::Leader
                    && self.raft.term() == term;
                let answer = Wire::Probed {
                    peer: to,
                    boot,
                    term,
                    leads,
                };
                host.call(from, answer);
            }
            Wire::Probed {
                peer,
                boot,
                term,
                leads,
            } => {
                let input = Input::Probed {
                    peer,
                    boot,
                    term,
                    leads,
                };
                self.step(parts, host, input);
            }
            Wire::Challenge { to, number, asker } if to == parts.id => {
                let answer = Wire::Challenged {
                    from: parts.id,
                    number,
                    asker,
                    claim: self.claim(),
                };
                host.call(from, answer);
            }
            Wire::Challenged {
                from,
                number,
                asker,
                claim,
            } if asker == self.claim().boot => self.hello(parts, host, from, claim, Some(number)),
            Wire::TakeNewId { id } => self.told_to_take_new_id(parts, id),
            Wire::ReadLog {
                to,
                number,
                question,
            } => match to == parts.id {
                true => self.read_log(parts, host, from, number, question),
                false => {
                    let answer = None;
                    host.call(from, Wire::LogRead { number, answer });
                }
            },
            Wire::AskOffer {
                to,
                position,
                at_least,
            } if to == parts.id => {
                let offer = self.offer(position);
                host.call(from, Wire::Offered { offer });
                self.want_snapshot(parts, host, at_least);
            }
            Wire::Offered { offer } => self.offered(parts, host, from, offer),
            Wire::AskPart { to, offer, offset } if to == parts.id => {
                let bytes = self.read_part(parts, offer, offset);
                let part = Wire::Part {
                    offer,
                    offset,
                    bytes,
                };
                host.call(from, part);
            }
            Wire::Part {
                offer,
                offset,
                bytes,
            } => self.part(parts, host, from, (offer, offset), &bytes),
            _ => {}
        }
    }

    /// Nobody listens there.
    pub fn refused(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, message: Wire) {
        match message {
            Wire::Probe { to, boot, term } => {
                let input = Input::Probed {
                    peer: to,
                    boot,
                    term,
                    leads: false,
                };
                self.step(parts, host, input);
            }
            Wire::AskOffer { .. } | Wire::AskPart { .. } => {
                self.give_up_pull(parts, "nobody listens there");
            }
            Wire::Request { number, .. } => {
                if let Some(known) = self.serving.forwarded.remove(&number) {
                    self.reply(host, known.client, known.number, Reply::NotDone);
                }
            }
            _ => {}
        }
    }

    fn request(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        (client, number): (Address, u64),
        ask: Ask,
        patience: Micros,
        forwarded: bool,
    ) {
        let deadline = host.now() + patience;
        match ask {
            Ask::Query { query, stale } => {
                self.take_query(parts, host, (client, number), query, stale, deadline);
            }
            Ask::Put(payload) => {
                let full = self.puts.len() + self.waiters.len() >= MAX_WAITING;
                if self.leads() && !full {
                    let in_session = match &payload {
                        Payload::Command(command) => command.session != 0,
                        _ => true,
                    };
                    return self.puts.push(Put {
                        payload,
                        in_session,
                        client,
                        number,
                    });
                }
                let (now, boot) = (host.now(), self.claim().boot);
                let serving = &mut self.serving;
                serving.forwarded.retain(|_, known| known.deadline > now);
                match self.raft.leader().filter(|_| !forwarded && !full) {
                    Some(leader) if serving.forwarded.len() < MAX_WAITING => {
                        serving.next += 1;
                        // A late answer to an earlier process of this node must find nobody, and a wiped
                        // disk counts its boots anew.
                        let life = parts.id.0 as u64 & 0xffff;
                        let passed_on = (life << 48) | (boot << 32) | serving.next;
                        let known = Forwarded {
                            client,
                            number,
                            deadline,
                        };
                        serving.forwarded.insert(passed_on, known);
                        let request = Wire::Request {
                            number: passed_on,
                            ask: Ask::Put(payload),
                            patience,
                            forwarded: true,
                        };
                        host.call(address_of(leader), request);
                    }
                    _ => self.reply(host, client, number, Reply::NotDone),
                }
            }
        }
    }

    pub fn answer(
        &mut self,
        host: &mut Host<'_, Party>,
        client: Address,
        number: u64,
        answer: Answer,
    ) {
        let reply = match answer {
            Answer::Outcome(position, outcome) => Reply::Outcome(position, outcome),
            Answer::Registered(position) | Answer::KeptAlive(position) => Reply::Session(position),
            Answer::SessionExpired => Reply::SessionExpired,
            Answer::Stale => Reply::Stale,
            Answer::Refused(_) | Answer::LogFull(_) | Answer::Replaced => Reply::NotDone,
            Answer::Unknown => Reply::Unknown,
        };
        self.reply(host, client, number, reply);
    }

    // ---- queries ----

    fn take_query(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        (client, number): (Address, u64),
        query: Bytes,
        stale: bool,
        deadline: Micros,
    ) {
        let now = host.now();
        self.reads.retain(|_, reading| reading.deadline > now);
        if self.reads.len() >= MAX_WAITING {
            return self.reply(host, client, number, Reply::NoAnswer);
        }
        self.next_request += 1;
        let request = self.next_request;
        let reading = Reading {
            client,
            number,
            query,
            index: stale.then_some(0),
            deadline,
            asked_in: None,
            asked_at: 0,
            early: None,
        };
        self.reads.insert(request, reading);
        if stale {
            self.serve_ready_reads(parts, host);
        } else {
            self.ask_early(parts, host, request);
            let deadline = Time(deadline);
            self.step(parts, host, Input::ReadIndex { request, deadline });
        }
    }

    /// Asks the state machine while the index is still being confirmed, if it is not behind.
    fn ask_early(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, request: RequestId) {
        let commit_index = self.raft.commit_index();
        if let Some(epoch) = self.applying.epoch
            && epoch.at >= commit_index
            && let Some(reading) = self.reads.get_mut(&request)
        {
            reading.asked_at = epoch.at;
            reading.asked_in = Some(epoch.number);
            let wait = parts.draw(parts.tuning.execute);
            host.after(wait, Task::Query(request));
        }
    }

    pub fn read_ready(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        request: RequestId,
        index: u64,
    ) {
        let epoch = self.applying.epoch.map(|epoch| epoch.number);
        let Some(reading) = self.reads.get_mut(&request) else {
            return;
        };
        reading.index = Some(index);
        match reading.early.take() {
            Some(reply) if reading.asked_in == epoch && reading.asked_at >= index => {
                let (client, number) = (reading.client, reading.number);
                self.reads.remove(&request);
                self.reply(host, client, number, reply);
            }
            Some(_) => {
                reading.asked_in = None;
                self.serve_ready_reads(parts, host);
            }
            None => self.serve_ready_reads(parts, host),
        }
    }

    pub fn read_failed(&mut self, host: &mut Host<'_, Party>, request: RequestId) {
        if let Some(reading) = self.reads.remove(&request) {
            self.reply(host, reading.client, reading.number, Reply::NoAnswer);
        }
    }

    /// Asks the state machine whatever this epoch has come far enough for (R3).
    pub fn serve_ready_reads(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        let Some(epoch) = self.applying.epoch else {
            return;
        };
        for (request, reading) in &mut self.reads {
            let ready = reading.index.is_some_and(|index| index <= epoch.at);
            if ready && reading.asked_in != Some(epoch.number) {
                reading.asked_in = Some(epoch.number);
                let wait = parts.draw(parts.tuning.execute);
                host.after(wait, Task::Query(*request));
            }
        }
    }

    /// A query is at the state machine. What it answers in another epoch than it was asked in counts for
    /// nothing, and it is asked again.
    pub fn query(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, request: RequestId) {
        let Some(reading) = self.reads.get_mut(&request) else {
            return;
        };
        let epoch = self.applying.epoch;
        let Some(epoch) = epoch.filter(|epoch| reading.asked_in == Some(epoch.number)) else {
            return;
        };
        if parts.machine.nonce() != Some(epoch.nonce) {
            return; // The end of the epoch is told too.
        }
        match parts.machine.query(&reading.query) {
            Ok((index, outcome)) => {
                let reply = Reply::Answer {
                    index,
                    nonce: epoch.nonce,
                    outcome,
                };
                let (client, number) = (reading.client, reading.number);
                match reading.index {
                    None => {
                        reading.early = Some(reply);
                        return;
                    }
                    // It was asked before the index was known, and too early.
                    Some(wanted) if index < wanted => {
                        reading.asked_in = None;
                        return self.serve_ready_reads(parts, host);
                    }
                    Some(_) => {}
                }
                self.reads.remove(&request);
                self.reply(host, client, number, reply);
            }
            Err(reason) => parts.say(|| format!("a query failed: {reason}")),
        }
    }
}
