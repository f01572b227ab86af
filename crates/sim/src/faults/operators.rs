//! What operators do, and what the member map says.

use raft_core::{Input, MemberHint, NodeId};

use super::{Chore, Kind};
use crate::run::Run;
use crate::world::Address;

impl Run<'_> {
    pub(super) fn stop(&mut self, at: Address) -> bool {
        self.with_server(at, |server, host| {
            server.input(host, Input::Stopping);
            server.input(host, Input::Transfer { to: None });
            true
        });
        let wait = self.dice.between(50, 600) * 1_000;
        self.goodbyes.insert(at);
        self.later(wait, Chore::Gone(at));
        let back = wait + self.dice.between(50, 5_000) * 1_000;
        self.later(back, Chore::Start(at));
        true
    }

    pub(super) fn operate(&mut self, kind: Kind) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        // Who goes takes a vote along that the rest may be about to need.
        if kind == Kind::Leave && !self.doomed.is_empty() {
            return false;
        }
        let ids: Vec<NodeId> = self
            .started()
            .iter()
            .filter_map(|at| self.id(*at))
            .collect();
        let node = self.dice.pick(&ids).copied();
        let Some(node) = node else { return false };
        let input = match kind {
            Kind::Leave => {
                self.requests += 1;
                let request = self.requests;
                Input::Leave { request, node }
            }
            _ => Input::Transfer {
                to: self.dice.per_mille(700).then_some(node),
            },
        };
        self.input(leader, input)
    }

    pub(super) fn join(&mut self) -> bool {
        let waiting = (0..self.servers).find(|at| !self.begun.contains(at));
        let Some(at) = waiting else { return false };
        self.begun.insert(at);
        self.start(at);
        for client in self.clients.clone() {
            if let Some(client) = self.world.node_mut(client).client_mut() {
                client.learn_of(at);
            }
        }
        true
    }

    /// Tells a node what the member map shows: late, and now and then wrong.
    pub(crate) fn hint(&mut self, at: Address) {
        let wait = self
            .dice
            .between(self.plan.hint_gap / 2, self.plan.hint_gap);
        self.later(wait, Chore::Hints(at));
        if self.give_up_repair(at) {
            return;
        }
        if !self.faulty && self.is_orphan(at) {
            self.coverage.event("orphan");
            self.crash(at, false);
            self.begin_anew(at);
            self.later(100_000, Chore::Start(at));
            return;
        }
        let mut hints = Vec::new();
        for other in self.started() {
            let wrong = self.faulty && self.dice.per_mille(self.plan.wrong_hints);
            if let Some(node) = self.id(other) {
                let joinable = self.world.is_up(other) != wrong;
                hints.push(MemberHint { node, joinable });
            }
        }
        // An id that was given up is still in somebody's memory.
        if self.faulty && self.dice.per_mille(self.plan.wrong_hints) {
            hints.extend(self.former.iter().next_back().map(|node| MemberHint {
                node: *node,
                joinable: self.in_ledger(*node),
            }));
        }
        self.input(at, Input::Members(hints));
    }

    /// A newcomer that was removed before it had heard of the cluster: nobody tells it, and it has nobody to
    /// ask, so an operator has to give it another id.
    fn is_orphan(&self, at: Address) -> bool {
        let server = self.world.node(at).server();
        let removed = |id: NodeId| {
            let last = self.checker.ledger.configuration_at(u64::MAX);
            last.is_some_and(|(_, configuration)| configuration.removed.contains(&id))
        };
        server.is_some_and(|server| {
            let knows_nothing = server
                .raft()
                .is_some_and(|raft| raft.cluster_id().is_none());
            knows_nothing && removed(server.parts.id)
        })
    }
}
