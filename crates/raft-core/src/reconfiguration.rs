//! Changes of the configuration (§6; joint consensus, chapter 4 of the dissertation; M1-M6).
//!
//! One change is in flight at a time. A change of voters is appended as a joint configuration,
//! effective at once; when that is committed the leader appends C_new (M5, also a leader that
//! inherited the joint one). Nothing is proposed before an entry of the leader's own term is
//! committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::configuration::{Configuration, MAX_CONFIGURATION_NODES, MAX_REASON_BYTES};
use crate::entry::Payload;
use crate::ids::{Index, NodeId, Time};
use crate::io::{Effect, Event, Refusal, RequestId};
use crate::progress::Progress;
use crate::raft::{Raft, Role};
use crate::reconciler::{NodeView, Plan, View, reconcile};

/// Leave requests that may wait. One more is refused.
pub const MAX_WAITING_LEAVES: usize = 1024;

const BUDGET_PERIOD: Duration = Duration::from_secs(3600);

/// A leader's memory of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reconfiguring {
    leaves: BTreeMap<NodeId, Leaving>,
    /// Who left with a configuration that is committed, and until when it is still fed.
    departing: BTreeMap<NodeId, Time>,
    /// When the automatic changes of the last hour were made.
    automatic: VecDeque<Time>,
    /// Something has changed since the reconciler last looked.
    look_now: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Leaving {
    since: Time,
    requests: Vec<RequestId>,
    /// It has to stay a voter; it is told when the change that says so is committed.
    kept: bool,
}

impl Reconfiguring {
    pub(crate) fn is_leaving(&self, node: NodeId) -> bool {
        self.leaves.contains_key(&node)
    }

    pub(crate) fn waiting_requests(&self) -> Vec<RequestId> {
        self.leaves
            .values()
            .flat_map(|leaving| leaving.requests.clone())
            .collect()
    }

    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        for leaving in self.leaves.values_mut() {
            change(&mut leaving.since);
        }
        for until in self.departing.values_mut() {
            change(until);
        }
        for at in &mut self.automatic {
            change(at);
        }
    }

    /// Something has changed, or time has passed.
    pub(crate) fn look_again(&mut self) {
        self.look_now = true;
    }
}

impl Raft {
    /// A node asks to leave for good.
    pub(crate) fn leave(&mut self, request: RequestId, node: NodeId) {
        let now = self.now;
        if self.leading().is_none() {
            let reason = Refusal::NotLeader {
                leader: self.leader(),
            };
            return self.effect(Effect::Refused { request, reason });
        }
        if !self.configuration().1.contains(node) {
            let sentence = format!("{node} is not in the configuration");
            return self.effect(Effect::LeaveDecided {
                request,
                removed: true,
                sentence,
            });
        }
        let Some(leading) = self.leading() else {
            return;
        };
        let leaves = &mut leading.reconfiguring.leaves;
        let waiting: usize = leaves.values().map(|leaving| leaving.requests.len()).sum();
        if waiting >= MAX_WAITING_LEAVES {
            return self.effect(Effect::Refused {
                request,
                reason: Refusal::Overloaded,
            });
        }
        let fresh = || Leaving {
            since: now,
            requests: Vec::new(),
            kept: false,
        };
        leaves
            .entry(node)
            .or_insert_with(fresh)
            .requests
            .push(request);
        leading.reconfiguring.look_now = true;
    }

    /// Who has acknowledged the log up to here lacks no more than one batch.
    fn kept_up_index(&self) -> Index {
        let slack = self.options.max_batch_entries as u64;
        self.log.last().index.saturating_sub(slack)
    }

    /// A peer keeps up, or has fallen behind.
    pub(crate) fn note_catching_up(&mut self, peer: NodeId) {
        let (now, kept_up) = (self.now, self.kept_up_index());
        let Some(leading) = self.leading() else {
            return;
        };
        let Some(progress) = leading.progress.get_mut(&peer) else {
            return;
        };
        if progress.match_index < kept_up || progress.match_index == 0 {
            progress.caught_up_since = None;
        } else if progress.caught_up_since.is_none() {
            progress.caught_up_since = Some(now);
        }
        leading.reconfiguring.look_again();
    }

    /// Makes the next change, if it is time for one.
    pub(crate) fn reconfigure(&mut self) {
        let (commit_index, now) = (self.commit_index, self.now);
        let (index, configuration) = self.configuration();
        let Some(leading) = self.leading() else {
            return;
        };
        let known = commit_index >= leading.noop_index || mutant!(M5ChangeBeforeOwnTerm);
        let settled = known && (index <= commit_index || mutant!(M5TwoChanges));
        if !settled || leading.transfer.is_some() || self.log.dissolved_at.is_some() {
            return;
        }
        if configuration.is_joint() && mutant!(M5JointNotEnded) {
            return;
        }
        if configuration.is_joint() {
            return self.append_configuration(configuration.leave_joint());
        }
        let Some(leading) = self.leading() else {
            return;
        };
        if !std::mem::take(&mut leading.reconfiguring.look_now) {
            return;
        }
        if let Some(plan) = self.next_plan(&configuration) {
            if plan.automatic
                && let Some(leading) = self.leading()
            {
                leading.reconfiguring.automatic.push_back(now);
            }
            self.carry_out(&configuration, plan);
        }
    }

    fn next_plan(&mut self, configuration: &Configuration) -> Option<Plan> {
        let (now, options, leader) = (self.now, self.options.clone(), self.id);
        let joinable: BTreeSet<NodeId> = self
            .members
            .iter()
            .filter(|hint| hint.joinable)
            .map(|hint| hint.node)
            .collect();
        let kept_up = self.kept_up_index();
        let leading = self.leading()?;
        let nodes: BTreeMap<NodeId, NodeView> = leading
            .progress
            .iter()
            .map(|(node, peer)| (*node, node_view(peer, now, kept_up)))
            .collect();
        let changes = &mut leading.reconfiguring;
        while changes
            .automatic
            .front()
            .is_some_and(|at| now.since(*at) >= BUDGET_PERIOD)
        {
            changes.automatic.pop_front();
        }
        let gathered: BTreeSet<NodeId> = changes
            .leaves
            .iter()
            .filter(|(_, l)| {
                let gathered = now.since(l.since) >= options.leave_gathering_time;
                !l.kept && (gathered || mutant!(M1NotGathered))
            })
            .map(|(node, _)| *node)
            .collect();
        let waiting = changes.leaves.values().any(|leaving| !leaving.kept);
        // M1: no other change slips in while leaves are being gathered.
        if waiting && gathered.is_empty() {
            changes.look_now = true;
            return None;
        }
        reconcile(&View {
            leader,
            configuration,
            nodes: &nodes,
            joinable: &joinable,
            leaving: &changes.leaves.keys().copied().collect(),
            options: &options,
            automation: changes.automatic.len() < options.automatic_changes_per_hour as usize
                || mutant!(M4NoBudget),
        })
    }

    fn carry_out(&mut self, current: &Configuration, plan: Plan) {
        if let Some(leading) = self.leading() {
            for kept in &plan.kept {
                if let Some(leaving) = leading.reconfiguring.leaves.get_mut(kept) {
                    leaving.kept = true;
                }
            }
        }
        let voters_change = plan.voters != current.voters;
        if !voters_change && plan.removed.is_empty() && plan.learners == current.learners {
            return self.settle_leaves(); // Everyone who asked has to stay.
        }
        let mut reason = plan.reason;
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        let nodes = plan.voters.len() + plan.learners.len();
        let tombstones = current.removed.len() + plan.removed.len();
        if nodes.max(tombstones) > MAX_CONFIGURATION_NODES as usize {
            return self.event(Event::ConfigurationFull { nodes, tombstones });
        }
        self.append_configuration(Configuration {
            outgoing: if voters_change && !mutant!(JointLeftOut) {
                current.voters.clone()
            } else {
                BTreeSet::new()
            },
            voters: plan.voters,
            learners: plan.learners,
            removed: if mutant!(M3TombstonesForgotten) {
                plan.removed
            } else {
                current.removed.union(&plan.removed).copied().collect()
            },
            grown: current.grown || nodes > 1,
            reason,
        });
    }

    /// Appends a configuration; from this moment it decides (§6).
    fn append_configuration(&mut self, next: Configuration) {
        let next = Arc::new(next);
        let event = |index| Event::ConfigurationAppended {
            index,
            reason: next.reason.clone(),
            joint: next.is_joint(),
            voters: next.voters.len(),
            learners: next.learners.len(),
        };
        let index = self.append_as_leader(Payload::Configuration(next.clone()));
        self.event(event(index));
        let (now, members, id) = (self.now, next.members(), self.id);
        if let Some(leading) = self.leading() {
            for peer in members.into_iter().filter(|peer| *peer != id) {
                leading
                    .progress
                    .entry(peer)
                    .or_insert_with(|| Progress::new(index, now));
            }
        }
        self.heartbeat();
        self.replicate_to_all();
        // A smaller configuration may have what it needs already.
        self.advance_commit_index();
    }

    /// What follows once the latest configuration is committed.
    pub(crate) fn on_configuration_committed(&mut self) {
        let (index, configuration) = self.configuration();
        if index > self.commit_index || configuration.is_joint() || index == 0 {
            return;
        }
        self.settle_leaves();
        let until = self.now + self.options.elect_timeout_max;
        if let Some(leading) = self.leading() {
            let departing = &mut leading.reconfiguring.departing;
            for peer in leading.progress.keys() {
                if !configuration.contains(*peer) {
                    departing.entry(*peer).or_insert(until);
                }
            }
            leading.reconfiguring.look_again();
        }
        // M5: a leader that is not part of it has done its duty.
        let outside = !configuration.is_voter(self.id) && !mutant!(M5OutsiderLeads);
        if outside && matches!(self.role, Role::Leader(_)) {
            self.yield_role("it is no voter of the new configuration");
        }
    }

    /// Those who left are fed a while longer, so that they hear that the configuration without them is
    /// committed (M1), though they be slow, or a message be lost.
    pub(crate) fn let_go(&mut self) {
        let now = self.now;
        let Some(leading) = self.leading() else {
            return;
        };
        let progress = &mut leading.progress;
        leading.reconfiguring.departing.retain(|peer, until| {
            if now >= *until {
                progress.remove(peer);
            }
            now < *until
        });
    }

    fn settle_leaves(&mut self) {
        let configuration = self.configuration().1;
        let Some(leading) = self.leading() else {
            return;
        };
        let leaves = &mut leading.reconfiguring.leaves;
        let settled: Vec<NodeId> = leaves
            .iter()
            .filter(|(node, leaving)| leaving.kept || !configuration.contains(**node))
            .map(|(node, _)| *node)
            .collect();
        let mut decided = Vec::new();
        for node in settled {
            if let Some(leaving) = leaves.remove(&node) {
                decided.push((node, leaving));
            }
        }
        for (node, leaving) in decided {
            let removed = !configuration.contains(node);
            let sentence = if removed {
                format!("{node} left the configuration for good")
            } else {
                let voters = configuration.voters.len();
                format!("{node} stays a voter: {voters} voters are as few as this cluster allows")
            };
            for request in leaving.requests {
                let sentence = sentence.clone();
                self.effect(Effect::LeaveDecided {
                    request,
                    removed,
                    sentence,
                });
            }
        }
    }

    /// Another cluster was heard: this one gives way, if it has nothing to lose (F2). Whatever was
    /// appended before stands before the Dissolve entry, so an empty log up to here is enough.
    pub(crate) fn give_way(&mut self) {
        let settled = self.configuration().0 <= self.commit_index;
        let has_entries = self.log.has_entries && !mutant!(F2ContentGivesWay);
        if self.leading().is_none() || has_entries || !settled {
            return;
        }
        if self.log.dissolved_at.is_none() {
            self.append_as_leader(Payload::Dissolve);
            self.replicate_to_all();
        }
    }
}

/// Who fell silent says nothing that would end its time of keeping up: the log has gone on meanwhile.
fn node_view(peer: &Progress, now: Time, kept_up: Index) -> NodeView {
    let caught_up_since = peer.caught_up_since.filter(|_| peer.match_index >= kept_up);
    NodeView {
        silent_for: now.since(peer.last_contact),
        answered: peer.answered,
        caught_up_for: caught_up_since.map(|since| now.since(since)),
        healthy: !peer.health.disk_sick && !peer.health.state_machine_sick,
    }
}
