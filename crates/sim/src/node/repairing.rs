//! A node whose log is damaged in its middle (D6), as the daemon has it: it is not up. Until what is missing
//! was fetched from the others it says nothing and answers nothing; then it starts like any other. What may be
//! put back is decided by [`raft_core::repair`], and done by [`raft_disk::Wound`].

use std::sync::Arc;

use raft_core::repair::{Answer, Question, Repair, Step};
use raft_core::{Entry, NodeId};
use raft_disk::{Disk, RepairError, Wound};

use super::message::Wire;
use super::process::Process;
use super::{Ending, Note, Parts, Power, Task, address_of};
use crate::party::Party;
use crate::world::{Address, Event, Host, Micros};

/// A peer that has not answered within this is passed over.
const PATIENCE: Micros = 500_000;

/// Between two rounds: the daemon's `REPAIR_PAUSE`.
const PAUSE: Micros = 1_000_000;

/// Questions that one peer is asked in one round.
const MAX_QUESTIONS: u32 = 10_000;

/// Bytes of entries that one answer brings.
const ANSWER_BYTES: usize = 512;

/// A process that has found damage.
pub(super) struct Repairing {
    wound: Wound,
    /// Who may be asked, and who is next.
    peers: Vec<NodeId>,
    turn: usize,
    /// The peer that is being asked.
    asked: Option<(NodeId, Repair)>,
    questions: u32,
    /// Of the last question: an answer to an earlier one is late.
    number: u64,
    /// Since when, by the node's clock.
    pub since: Micros,
}

/// Whether the log can be opened anew.
pub(super) enum Progress {
    Goes,
    Mended,
}

impl Repairing {
    pub fn new(parts: &Parts, wound: Wound, host: &mut Host<'_, Party>) -> Repairing {
        let others = parts.known.iter().filter(|id| **id != parts.id);
        host.after(1_000, Task::Repair(0));
        Repairing {
            wound,
            peers: others.copied().collect(),
            turn: 0,
            asked: None,
            questions: 0,
            number: 0,
            since: host.now(),
        }
    }

    /// What the process does while it is not up.
    pub fn happen(
        &mut self,
        parts: &mut Parts,
        event: Event<Wire, Task>,
        host: &mut Host<'_, Party>,
    ) -> Progress {
        match event {
            Event::Task(Task::Repair(number)) if number == self.number => {
                self.ask_next(parts, host);
            }
            Event::Refused {
                message: Wire::ReadLog { number, .. },
                ..
            } if number == self.number => self.ask_next(parts, host),
            Event::Called {
                message: Wire::LogRead { number, answer },
                ..
            } if number == self.number => match answer {
                Some(answer) => return self.take(parts, host, answer),
                None => self.ask_next(parts, host),
            },
            _ => {}
        }
        Progress::Goes
    }

    fn ask_next(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>) {
        self.number += 1;
        self.questions = 0;
        let Some(peer) = self.peers.get(self.turn).copied() else {
            self.asked = None;
            self.turn = 0;
            return host.after(PAUSE, Task::Repair(self.number));
        };
        self.turn += 1;
        parts.say(|| format!("asks {peer} for what its log lacks"));
        self.asked = Some((peer, Repair::new(self.wound.lost().clone())));
        self.ask(host);
    }

    fn ask(&mut self, host: &mut Host<'_, Party>) {
        let Some((peer, repair)) = &self.asked else {
            return;
        };
        self.number += 1;
        self.questions += 1;
        let (to, number) = (*peer, self.number);
        let question = repair.question();
        let ask = Wire::ReadLog {
            to,
            number,
            question,
        };
        host.call(address_of(to), ask);
        host.after(PATIENCE, Task::Repair(number));
    }

    fn take(&mut self, parts: &mut Parts, host: &mut Host<'_, Party>, answer: Answer) -> Progress {
        let Some((peer, repair)) = &mut self.asked else {
            return Progress::Goes;
        };
        let disk = Power::on(&parts.disk);
        let peer = *peer;
        let done = match repair.take(answer) {
            Step::Ask if self.questions < MAX_QUESTIONS => {
                self.ask(host);
                return Progress::Goes;
            }
            Step::Ask => Err(RepairError::Invalid("no end of answers")),
            Step::Useless(why) => Err(RepairError::Invalid(why)),
            Step::Mend { joint, entries } => {
                parts.say(|| format!("{peer} has what is missing behind {joint:?}: {entries:?}"));
                self.wound.mend(&disk, joint, &entries)
            }
            Step::GiveUp { joint, entries } => {
                parts.say(|| format!("{peer} has others committed behind {joint:?}: {entries:?}"));
                let disk: Arc<dyn Disk> = Arc::new(disk);
                self.wound.give_up(disk, joint, entries)
            }
        };
        match done {
            Ok(()) => {
                parts.note(Note::Repaired);
                return Progress::Mended;
            }
            Err(RepairError::Invalid(why)) => {
                parts.say(|| format!("{peer} cannot help: {why}"));
                self.ask_next(parts, host);
            }
            Err(error) => parts.end(Ending::Failed(error.to_string())),
        }
        Progress::Goes
    }
}

impl Process {
    /// A peer's log is damaged: what this one has on its disk is read for it.
    pub fn read_log(
        &mut self,
        parts: &mut Parts,
        host: &mut Host<'_, Party>,
        from: Address,
        number: u64,
        question: Question,
    ) {
        let first = question.previous.index.saturating_add(1);
        let read = self.reader.read(first, question.anchor.index, ANSWER_BYTES);
        let wait = parts.draw(parts.tuning.sync);
        let task = Task::AnswerLog {
            to: from,
            number,
            question,
            entries: read.unwrap_or_default(),
        };
        host.after(wait, task);
    }

    /// And answered as of now.
    pub fn answer_log(
        &self,
        host: &mut Host<'_, Party>,
        to: Address,
        number: u64,
        question: &Question,
        entries: Vec<Entry>,
    ) {
        let answer = Some(self.raft.answer(question, entries));
        host.call(to, Wire::LogRead { number, answer });
    }
}
