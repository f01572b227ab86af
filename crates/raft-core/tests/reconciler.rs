//! The reconciler is a pure function, so its promises are checked on whatever it may be shown: the
//! number of voters is odd, never below MinVoters once that is reached, no removed id comes back, and
//! a majority of the old and of the new voters is healthy (M1-M4).
#![allow(clippy::unwrap_used)]

#[cfg(feature = "mutants")]
mod a_mutant;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use raft_core::reconciler::{NodeView, Plan, View, reconcile};
use raft_core::{Configuration, NodeId, Options};

const LEADER: u64 = 1;

/// All that a decision rests on, owned.
#[derive(Clone, Debug)]
struct Scene {
    leader: u64,
    configuration: Configuration,
    nodes: BTreeMap<NodeId, NodeView>,
    joinable: BTreeSet<NodeId>,
    leaving: BTreeSet<NodeId>,
    options: Options,
    automation: bool,
}

impl Scene {
    fn plan(&self) -> Option<Plan> {
        reconcile(&View {
            leader: node(self.leader),
            configuration: &self.configuration,
            nodes: &self.nodes,
            joinable: &self.joinable,
            leaving: &self.leaving,
            options: &self.options,
            automation: self.automation,
        })
    }

    /// As the leader would carry it out, and bring it to its end.
    fn carry_out(&mut self, plan: &Plan) {
        let before = &self.configuration;
        self.configuration = Configuration {
            voters: plan.voters.clone(),
            learners: plan.learners.clone(),
            removed: before.removed.union(&plan.removed).copied().collect(),
            grown: true,
            ..Configuration::default()
        };
        let members = self.configuration.members();
        self.nodes.retain(|node, _| members.contains(node));
        for member in members {
            self.nodes.entry(member).or_insert(WELL);
        }
        self.nodes.remove(&node(self.leader));
        self.leaving.clear();
    }

    fn answers(&self, node: NodeId) -> bool {
        node == self::node(self.leader)
            || self
                .nodes
                .get(&node)
                .is_some_and(|n| n.answered && n.silent_for < self.options.elect_timeout_max)
    }
}

fn node(number: u64) -> NodeId {
    NodeId(u128::from(number))
}

fn set(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(node).collect()
}

const WELL: NodeView = NodeView {
    silent_for: Duration::ZERO,
    answered: true,
    caught_up_for: Some(Duration::from_secs(5)),
    healthy: true,
};

fn silent(seconds: u64) -> NodeView {
    NodeView {
        silent_for: Duration::from_secs(seconds),
        ..WELL
    }
}

/// A healthy cluster of these voters and learners, led by node 1.
fn scene(voters: impl IntoIterator<Item = u64>, learners: impl IntoIterator<Item = u64>) -> Scene {
    let configuration = Configuration {
        voters: set(voters),
        learners: set(learners),
        ..Configuration::default()
    };
    let others = configuration
        .members()
        .into_iter()
        .filter(|n| *n != node(LEADER));
    Scene {
        leader: LEADER,
        nodes: others.map(|n| (n, WELL)).collect(),
        configuration,
        joinable: BTreeSet::new(),
        leaving: BTreeSet::new(),
        options: Options::default(),
        automation: true,
    }
}

/// M2: nodes 1, 2, 3, 4, 5 and more give voters 1, 1, 3, 3, 5 and 5.
#[test]
fn m2_the_table_of_growth() {
    for (nodes, voters) in [
        (1, 1),
        (2, 1),
        (3, 3),
        (4, 3),
        (5, 5),
        (6, 5),
        (50, 5),
        (200, 5),
    ] {
        let mut scene = scene([1], []);
        scene.joinable = set(1..=nodes);
        for _ in 0..100 {
            let Some(plan) = scene.plan() else { break };
            assert!(plan.automatic);
            scene.carry_out(&plan);
        }
        assert_eq!(
            scene.plan(),
            None,
            "{nodes} nodes: it does not come to rest"
        );
        assert_eq!(scene.configuration.voters.len(), voters, "{nodes} nodes");
        assert_eq!(scene.configuration.members().len() as u64, nodes);
    }
}

/// M2: a learner votes once it has kept up for the stabilization time, is in contact and well.
#[test]
fn m2_only_fit_learners_are_promoted() {
    let time = |ms| Some(Duration::from_millis(ms));
    let cases = [
        (WELL, true),
        (
            NodeView {
                caught_up_for: None,
                ..WELL
            },
            false,
        ),
        (
            NodeView {
                caught_up_for: time(499),
                ..WELL
            },
            false,
        ),
        (
            NodeView {
                caught_up_for: time(500),
                ..WELL
            },
            true,
        ),
        (
            NodeView {
                silent_for: Duration::from_millis(1_500),
                ..WELL
            },
            false,
        ),
        (
            NodeView {
                healthy: false,
                ..WELL
            },
            false,
        ),
    ];
    for (view, promoted) in cases {
        let mut scene = scene([1], [2, 3]);
        scene.nodes.insert(node(3), view);
        let voters = scene.plan().map_or(1, |plan| plan.voters.len());
        assert_eq!(voters == 3, promoted, "{view:?}");
    }
}

/// M4: a dead voter gives way to a spare and becomes a learner; at 9.9 s it is not dead.
#[test]
fn m4_a_dead_voter_is_replaced_by_a_spare() {
    let mut scene = scene([1, 2, 3], [4]);
    scene.nodes.insert(node(3), silent(10));
    let plan = scene.plan().unwrap();
    assert_eq!((plan.voters, plan.learners), (set([1, 2, 4]), set([3])));
    assert!(plan.removed.is_empty() && plan.automatic);
    let almost = NodeView {
        silent_for: Duration::from_millis(9_999),
        ..WELL
    };
    scene.nodes.insert(node(3), almost);
    assert_eq!(scene.plan(), None);
    scene.nodes.insert(node(3), silent(10));
    scene.nodes.insert(node(4), silent(10));
    assert_eq!(scene.plan(), None, "the spare is dead as well");
}

/// M4: nothing is proposed while the healthy voters are no majority of the old or of the new.
#[test]
fn m4_a_change_needs_a_healthy_majority_of_both() {
    let mut old = scene([1, 2, 3, 4, 5], [6, 7, 8]);
    for dead in [3, 4, 5] {
        old.nodes.insert(node(dead), silent(60));
    }
    assert_eq!(old.plan(), None, "two of five: the old majority is gone");
    // A leave that would leave a majority of dead voters behind.
    let mut new = scene([1, 2, 3, 4, 5], []);
    new.nodes.insert(node(4), silent(5));
    new.nodes.insert(node(5), silent(5));
    new.leaving = set([1, 2]);
    assert_eq!(
        new.plan(),
        None,
        "3, 4 and 5 would be left, of which one answers"
    );
    // It waits, and who would make it safe may join meanwhile.
    new.joinable = set([9]);
    let plan = new.plan().unwrap();
    assert!(plan.automatic && plan.removed.is_empty());
    assert_eq!((plan.voters, plan.learners), (set(1..=5), set([9])));
}

/// M4: a new leader has not heard yet who is dead: only who has answered it is healthy.
#[test]
fn m4_who_was_never_heard_is_not_healthy() {
    let mut scene = scene([1, 2, 3, 4, 5], []);
    let unheard = NodeView {
        answered: false,
        ..WELL
    };
    scene.nodes.insert(node(4), unheard);
    scene.nodes.insert(node(5), unheard);
    scene.leaving = set([2, 3]);
    assert_eq!(scene.plan(), None, "4 and 5 may both be dead");
    scene.nodes.insert(node(4), WELL);
    assert_eq!(scene.plan().unwrap().voters, set([1, 4, 5]));
}

/// M4: the hour's budget stops automation; leaves go on.
#[test]
fn m4_the_budget_binds_automation_only() {
    let mut scene = scene([1, 2, 3], [4]);
    scene.automation = false;
    scene.nodes.insert(node(3), silent(60));
    scene.joinable = set([9]);
    assert_eq!(scene.plan(), None);
    scene.leaving = set([4]);
    let plan = scene.plan().unwrap();
    assert!(!plan.automatic && plan.removed == set([4]));
}

/// M4: without a spare a dead voter stays for 72 hours, and then goes in a pair, never below
/// MinVoters.
#[test]
fn m4_removal_takes_days_and_pairs() {
    let days = 72 * 3600;
    for (voters, silence, expected) in [
        (3, days, 3),
        (5, days - 1, 5),
        (5, days, 3),
        (7, days, 5),
        (1, days, 1),
    ] {
        let mut scene = scene(1..=voters, []);
        scene.options.voters = 7;
        if voters > 1 {
            scene.nodes.insert(node(2), silent(silence));
        }
        let after = scene.plan().map_or(voters as usize, |plan| {
            assert!(plan.removed == set([2]) && plan.voters.contains(&node(LEADER)));
            plan.voters.len()
        });
        assert_eq!(
            after, expected,
            "{voters} voters, one silent for {silence} s"
        );
    }
}

/// M1: leaves never go below MinVoters; who has to stay is said; the leader is the last to be kept.
#[test]
fn m1_leaves_stop_at_min_voters() {
    let cases: &[(u64, &[u64], usize, usize)] = &[
        (5, &[5], 3, 0),
        (5, &[4, 5], 3, 0),
        (5, &[3, 4, 5], 3, 1),
        (5, &[1, 2, 3, 4, 5], 3, 3),
        (3, &[3], 3, 1),
        (3, &[1, 2, 3], 3, 3),
        (1, &[1], 1, 1),
    ];
    for (voters, leavers, left, kept) in cases {
        let mut scene = scene(1..=*voters, []);
        scene.leaving = set(leavers.iter().copied());
        let plan = scene.plan().unwrap();
        assert_eq!(
            (plan.voters.len(), plan.kept.len()),
            (*left, *kept),
            "{voters}: {leavers:?}"
        );
    }
    let mut everyone = scene(1..=5, []);
    everyone.leaving = set(1..=5);
    let plan = everyone.plan().unwrap();
    assert!(
        plan.removed.contains(&node(LEADER)),
        "others are kept before the leader"
    );
}

/// M1: spares take the place of leavers.
#[test]
fn m1_spares_replace_leavers() {
    let mut scene = scene([1, 2, 3], [4, 5]);
    scene.leaving = set([2, 3]);
    let plan = scene.plan().unwrap();
    assert_eq!((plan.voters, plan.removed), (set([1, 4, 5]), set([2, 3])));
}

/// M3: removed ids never join, whatever the member map says; nor does one that is leaving.
#[test]
fn m3_removed_ids_never_join() {
    let mut scene = scene([1, 2, 3], []);
    scene.configuration.removed = set([4]);
    scene.joinable = set([4]);
    assert_eq!(scene.plan(), None);
    scene.joinable = set([4, 5]);
    assert_eq!(scene.plan().unwrap().learners, set([5]));
}

fn any_view() -> impl Strategy<Value = NodeView> {
    let silence = prop_oneof![
        4 => 0..1_500_u64,
        2 => 1_500..10_000_u64,
        2 => 10_000..60_000_u64,
        1 => Just(72 * 3_600_000_u64),
    ];
    let caught_up = prop_oneof![2 => (0..2_000_u64).prop_map(Some), 1 => Just(None)];
    let mostly = prop::bool::weighted(0.9);
    (silence, caught_up, mostly, mostly).prop_map(|(silent, caught_up, answered, healthy)| {
        NodeView {
            silent_for: Duration::from_millis(silent),
            answered,
            // Who keeps up has answered.
            caught_up_for: caught_up.filter(|_| answered).map(Duration::from_millis),
            healthy,
        }
    })
}

prop_compose! {
    fn any_scene()(
        pairs in 0..4_u64,
        learners in 0..5_u64,
        views in prop::collection::vec(any_view(), 12),
        joinable in prop::collection::btree_set(1..20_u64, 0..6),
        leaving in prop::collection::btree_set(1..14_u64, 0..5),
        removed in prop::collection::btree_set(14..20_u64, 0..4),
        voters in prop_oneof![Just(1_usize), Just(3), Just(5), Just(7)],
        min_voters in prop_oneof![Just(1_usize), Just(3), Just(5)],
        automation in prop::bool::weighted(0.8),
        leads in 0..12_u64,
    ) -> Scene {
        let count = 2 * pairs + 1;
        let mut scene = scene(1..=count, count + 1..=count + learners);
        // A leader is a voter; it has no view of itself.
        scene.leader = 1 + leads % count;
        for (member, view) in (1..=count + learners).zip(views) {
            scene.nodes.insert(node(member), view);
        }
        scene.nodes.remove(&node(scene.leader));
        scene.joinable = set(joinable);
        scene.leaving = set(leaving);
        scene.configuration.removed = set(removed);
        scene.automation = automation;
        scene.options = Options { voters, min_voters, ..Options::default() };
        scene
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// What holds of every plan.
    #[test]
    fn every_plan_keeps_the_rules(scene in any_scene()) {
        let Some(plan) = scene.plan() else { return Ok(()) };
        let before = &scene.configuration;
        let next = Configuration { voters: plan.voters.clone(), ..Configuration::default() };
        prop_assert_eq!(plan.voters.len() % 2, 1, "M2: {:?}", plan);
        let floor = scene.options.min_voters.min(before.voters.len());
        prop_assert!(plan.voters.len() >= floor, "M1: {:?}", plan);
        if plan.automatic && plan.voters.len() > before.voters.len() {
            prop_assert!(plan.voters.len() <= scene.options.voters, "M2: {:?}", plan);
        }
        let answers = |node: NodeId| scene.answers(node);
        prop_assert!(before.is_quorum(answers) && next.is_quorum(answers), "M4: {:?}", plan);
        prop_assert!(plan.voters.is_disjoint(&plan.learners), "{:?}", plan);
        let present: BTreeSet<_> = plan.voters.union(&plan.learners).copied().collect();
        prop_assert!(present.is_disjoint(&plan.removed) && present.is_disjoint(&before.removed),
            "M3: {:?}", plan);
        prop_assert!(plan.removed.is_subset(&before.members()));
        // Nobody vanishes without a word, and nobody votes who did not listen before.
        prop_assert!(before.members().difference(&plan.removed).all(|node| present.contains(node)));
        prop_assert!(plan.voters.is_subset(&before.members()), "M6: {:?}", plan);
        for new in plan.voters.difference(&before.voters) {
            prop_assert!(scene.answers(*new) && scene.nodes[new].healthy, "{:?}", plan);
        }
        if plan.automatic {
            prop_assert!(plan.kept.is_empty(), "no leave is decided: {:?}", plan);
            prop_assert!(scene.automation);
            prop_assert!(plan.voters.contains(&node(scene.leader)), "it does not unseat itself");
            let longest = scene.options.remove_server_timeout;
            let gone = |node: &NodeId| scene.nodes[node].silent_for >= longest;
            prop_assert!(plan.removed.iter().all(gone), "M4: {:?}", plan);
        } else {
            prop_assert!(plan.removed.is_subset(&scene.leaving), "{:?}", plan);
            let stay = scene.leaving.intersection(&plan.voters).copied().collect();
            prop_assert_eq!(&plan.kept, &stay);
        }
    }

    /// It comes to rest: no change is made and unmade for ever.
    #[test]
    fn it_comes_to_rest(mut scene in any_scene()) {
        for _ in 0..60 {
            let Some(plan) = scene.plan() else { return Ok(()) };
            let unchanged = plan.voters == scene.configuration.voters
                && plan.learners == scene.configuration.learners;
            scene.carry_out(&plan);
            if unchanged {
                prop_assert!(!plan.automatic, "{:?}", plan);
            }
        }
        prop_assert!(false, "it changes for ever: {:?}", scene);
    }
}
