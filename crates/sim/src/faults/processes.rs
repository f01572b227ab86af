//! How processes end, and begin again.

use super::Chore;
use crate::node::{Ending, StartError};
use crate::run::Run;
use crate::world::{Address, Micros};

/// How long a log is repaired before an operator gives it up.
const REPAIR_PATIENCE: Micros = 15_000_000;

impl Run<'_> {
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
            self.lost_at = Some(now);
            self.doomed.remove(&id);
            self.wounded.remove(&id);
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
            Ok(()) => self.started_at(at, doomed),
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
            Err(StartError::Wounded(_)) => {}
            Err(StartError::Damaged(reason)) => {
                let what = format!("node {at} does not start: {reason}");
                self.failed.get_or_insert(("start", what));
            }
        }
    }

    /// It runs, or fetches first what its log lacks.
    fn started_at(&mut self, at: Address, doomed: bool) {
        self.coverage.event("start");
        let server = self.world.node(at).server();
        let is_damaged = server.is_some_and(|server| server.repairing_since().is_some());
        match (is_damaged, doomed) {
            (true, true) => self.coverage.event("damage found"),
            (true, false) => {
                let what = format!("the log of node {at} is damaged, and nobody has damaged it");
                self.failed.get_or_insert(("start", what));
            }
            (false, _) => self.is_whole(at),
        }
    }

    /// A log that has opened was read from end to end: what was damaged in it is put right, or is gone.
    pub(crate) fn is_whole(&mut self, at: Address) {
        if let Some(id) = self.id(at)
            && self.wounded.remove(&id)
        {
            self.doomed.remove(&id);
        }
    }

    /// Nobody could help for so long that an operator has the node begin anew.
    pub(super) fn give_up_repair(&mut self, at: Address) -> bool {
        let since = self
            .world
            .node(at)
            .server()
            .and_then(|server| server.repairing_since());
        let now = self.world.with(at, |_, host| host.now());
        if since.is_none_or(|since| now < since + REPAIR_PATIENCE) {
            return false;
        }
        self.coverage.event("repair given up");
        self.crash(at, false);
        self.begin_anew(at);
        self.later(100_000, Chore::Start(at));
        true
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
