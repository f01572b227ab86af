//! Gossip proposes, the log decides: what the configuration should be next, as a pure function.
//!
//! The rules are M1-M6. Consul's autopilot is the model: a node that joins becomes a learner, a
//! learner that has kept up becomes a voter, in pairs, so that the number of voters stays odd; a dead
//! voter is replaced by a spare, and removed without one only after a very long time. Every change
//! needs a majority of the old and of the new voters to be healthy by the leader's own measure, so
//! that automation never causes the loss of the quorum that it is there to protect.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::configuration::Configuration;
use crate::ids::NodeId;
use crate::options::Options;

/// Learners that one change adds at the most.
pub const MAX_JOINS_PER_CHANGE: usize = 64;

/// What the leader has measured of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Since its last answer to this leader; until it has answered, since it might have.
    pub silent_for: Duration,
    /// It has answered this leader. A new leader has not heard yet who is dead.
    pub answered: bool,
    /// How long it has kept up with the log without a break; none: it has not.
    pub caught_up_for: Option<Duration>,
    /// Its disk and state machine are well, by its own word.
    pub healthy: bool,
}

impl NodeView {
    /// It has answered this leader, and of late.
    fn answers(&self, view: &View<'_>) -> bool {
        self.answered && self.silent_for < view.options.elect_timeout_max
    }
}

/// All that the decision rests on.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The node that decides.
    pub leader: NodeId,
    /// The configuration in force: committed, and not joint.
    pub configuration: &'a Configuration,
    /// Every other node in it.
    pub nodes: &'a BTreeMap<NodeId, NodeView>,
    /// Nodes that the member map shows as alive and ready to join.
    pub joinable: &'a BTreeSet<NodeId>,
    /// Nodes that asked to leave, once the time for gathering is over.
    pub leaving: &'a BTreeSet<NodeId>,
    /// The limits.
    pub options: &'a Options,
    /// The hour's budget of automatic changes is not used up.
    pub automation: bool,
}

/// The configuration to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its voters; an odd number.
    pub voters: BTreeSet<NodeId>,
    /// Its learners.
    pub learners: BTreeSet<NodeId>,
    /// Nodes that leave for good with it.
    pub removed: BTreeSet<NodeId>,
    /// Leavers that have to stay voters (M1).
    pub kept: BTreeSet<NodeId>,
    /// For people and for the log entry.
    pub reason: String,
    /// Counts against the budget.
    pub automatic: bool,
}

/// The next change, if there is one to make. One that would not be safe waits, and holds up none that is:
/// it may be what the other needs.
pub fn reconcile(view: &View<'_>) -> Option<Plan> {
    let automatic = [plan_replacement, plan_removal, plan_promotion, plan_joins];
    let automatic = automatic.into_iter().filter(|_| view.automation);
    std::iter::once(plan_leaves as fn(&View<'_>) -> Option<Plan>)
        .chain(automatic)
        .filter_map(|plan| plan(view))
        .find(|plan| is_safe(view, plan))
}

fn plan_from(view: &View<'_>, reason: String) -> Plan {
    Plan {
        voters: view.configuration.voters.clone(),
        learners: view.configuration.learners.clone(),
        removed: BTreeSet::new(),
        kept: BTreeSet::new(),
        reason,
        automatic: true,
    }
}

/// M4: a majority of the old voters, and of the new ones, answers this leader.
fn is_safe(view: &View<'_>, plan: &Plan) -> bool {
    let answers = |node: NodeId| {
        node == view.leader || view.nodes.get(&node).is_some_and(|node| node.answers(view))
    };
    let next = Configuration {
        voters: plan.voters.clone(),
        ..Configuration::default()
    };
    let healthy = view.configuration.is_quorum(answers) && next.is_quorum(answers);
    let odd = plan.voters.len() % 2 == 1 || mutant!(M2EvenVoters);
    odd && (healthy || mutant!(M4NoHealthyMajority))
}

/// Learners fit to vote: kept up for long enough, in contact, well, and not about to go.
fn spares(view: &View<'_>) -> Vec<NodeId> {
    let fit = |node: &NodeId| {
        !view.leaving.contains(node)
            && view.nodes.get(node).is_some_and(|measured| {
                let stable = view.options.server_stabilization_time;
                measured.healthy
                    && measured.answers(view)
                    && (measured.caught_up_for.is_some_and(|time| time >= stable)
                        || mutant!(M6PromotedUnproven))
            })
    };
    view.configuration
        .learners
        .iter()
        .copied()
        .filter(fit)
        .collect()
}

/// Graceful leaves, gathered into one change (M1). Leavers are replaced by spares where there are
/// any; else the voters shrink in pairs, and never below `min_voters`.
fn plan_leaves(view: &View<'_>) -> Option<Plan> {
    let present = |node: &&NodeId| view.configuration.contains(**node);
    let leavers: BTreeSet<NodeId> = view.leaving.iter().filter(present).copied().collect();
    if leavers.is_empty() {
        return None;
    }
    let before = view.configuration.voters.len();
    let floor = if mutant!(M1NoFloor) {
        1
    } else {
        view.options.min_voters.min(before)
    };
    let mut plan = plan_from(view, format!("{} node(s) asked to leave", leavers.len()));
    plan.automatic = false;
    plan.voters.retain(|voter| !leavers.contains(voter));
    for spare in spares(view) {
        if plan.voters.len() < before {
            plan.voters.insert(spare);
        }
    }
    // The leader is the last one to be kept as a voter against its wish.
    let mut keepable: Vec<NodeId> = leavers
        .iter()
        .filter(|node| view.configuration.voters.contains(node))
        .copied()
        .collect();
    keepable.sort_unstable_by_key(|node| (*node == view.leader, *node));
    let mut keepable = keepable.into_iter();
    while plan.voters.len() < floor {
        plan.voters.insert(keepable.next()?);
    }
    if plan.voters.len().is_multiple_of(2) && !mutant!(M2EvenVoters) {
        if plan.voters.len() > floor {
            let quietest = quietest_voter(view, &plan.voters)?;
            plan.voters.remove(&quietest);
            plan.learners.insert(quietest);
        } else {
            plan.voters.insert(keepable.next()?);
        }
    }
    plan.kept = leavers.intersection(&plan.voters).copied().collect();
    plan.removed = leavers.difference(&plan.voters).copied().collect();
    let Plan {
        voters,
        removed,
        learners,
        ..
    } = &mut plan;
    learners.retain(|node| !removed.contains(node) && !voters.contains(node));
    Some(plan)
}

fn quietest_voter(view: &View<'_>, voters: &BTreeSet<NodeId>) -> Option<NodeId> {
    let silence = |node: &NodeId| view.nodes.get(node).map(|measured| measured.silent_for);
    voters
        .iter()
        .filter(|node| **node != view.leader)
        .max_by_key(|node| silence(node))
        .copied()
}

fn silent_voters(view: &View<'_>, limit: Duration) -> Vec<NodeId> {
    let silent = |voter: &NodeId| view.nodes.get(voter).is_some_and(|n| n.silent_for >= limit);
    view.configuration
        .voters
        .iter()
        .copied()
        .filter(silent)
        .collect()
}

/// A dead voter gives its vote to a spare and becomes a learner (M4).
fn plan_replacement(view: &View<'_>) -> Option<Plan> {
    let limit = if mutant!(M4DeadAtOnce) {
        view.options.elect_timeout_max
    } else {
        view.options.dead_server_timeout
    };
    let dead = silent_voters(view, limit);
    let swaps: Vec<_> = dead.into_iter().zip(spares(view)).collect();
    let (first, _) = swaps.first()?;
    let seconds = view.options.dead_server_timeout.as_secs_f32();
    let reason = format!(
        "{} silent voter(s) replaced, {first} first: no contact for {seconds} s",
        swaps.len()
    );
    let mut plan = plan_from(view, reason);
    for (dead, spare) in swaps {
        plan.voters.remove(&dead);
        if mutant!(M4ReplacedIsRemoved) {
            plan.removed.insert(dead);
        } else {
            plan.learners.insert(dead);
        }
        plan.voters.insert(spare);
        plan.learners.remove(&spare);
    }
    Some(plan)
}

/// What has been silent for days goes for good; voters in pairs, never below `min_voters`.
fn plan_removal(view: &View<'_>) -> Option<Plan> {
    let limit = view.options.remove_server_timeout;
    let hours = limit.as_secs() / 3600;
    let mut plan = plan_from(view, format!("removed after {hours} h without contact"));
    let gone = |node: &&NodeId| view.nodes.get(node).is_some_and(|n| n.silent_for >= limit);
    plan.removed = view
        .configuration
        .learners
        .iter()
        .filter(gone)
        .copied()
        .collect();
    let dead = silent_voters(view, limit);
    if let Some(first) = dead.first()
        && plan.voters.len() >= view.options.min_voters + 2
    {
        plan.voters.remove(first);
        plan.removed.insert(*first);
        if let Some(second) = dead.get(1) {
            plan.voters.remove(second);
            plan.removed.insert(*second);
        } else {
            let quietest = quietest_voter(view, &plan.voters)?;
            plan.voters.remove(&quietest);
            plan.learners.insert(quietest);
        }
    }
    let Plan {
        removed, learners, ..
    } = &mut plan;
    learners.retain(|node| !removed.contains(node));
    (!plan.removed.is_empty()).then_some(plan)
}

/// Spares become voters, in pairs, up to `voters` (M2).
fn plan_promotion(view: &View<'_>) -> Option<Plan> {
    let spares = spares(view);
    let now = view.configuration.voters.len();
    let within = (now + spares.len()).min(view.options.voters);
    let target = if within.is_multiple_of(2) && !mutant!(M2EvenVoters) {
        within.saturating_sub(1)
    } else {
        within
    };
    if target <= now {
        return None;
    }
    let mut plan = plan_from(view, format!("voters grow from {now} to {target}"));
    for spare in spares.into_iter().take(target - now) {
        plan.voters.insert(spare);
        plan.learners.remove(&spare);
    }
    Some(plan)
}

/// New nodes become learners. An id that left once never comes back (M3).
fn plan_joins(view: &View<'_>) -> Option<Plan> {
    let new = |node: &&NodeId| {
        !view.configuration.contains(**node)
            && (!view.configuration.removed.contains(node) || mutant!(M3RemovedReturns))
            && !view.leaving.contains(node)
    };
    let joining: Vec<NodeId> = view
        .joinable
        .iter()
        .filter(new)
        .take(MAX_JOINS_PER_CHANGE)
        .copied()
        .collect();
    if joining.is_empty() {
        return None;
    }
    let mut plan = plan_from(
        view,
        format!("{} node(s) joined as learners", joining.len()),
    );
    plan.learners.extend(joining);
    Some(plan)
}
