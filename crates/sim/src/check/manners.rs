//! How a node behaves in time, and towards whom: the rules of elections, of reads and of hand-overs (E1 to
//! E5, R2, D4, M1, W3, §3.10), judged by what it was told, what it says, and what its own clock showed.
//! What the core thinks of itself is not asked.

use std::collections::BTreeMap;

use raft_core::message::AppendOutcome;
use raft_core::{Boot, Event, Index, Input, Message, NodeId, Raft, RequestId, RoleName, Term};

use super::ledger::Ledger;
use super::{Wrong, wrong};
use crate::node::Told;
use crate::world::Micros;

/// ElectTimeoutMin and ElectTimeoutMax. No run has others.
const ELECT_TIMEOUT_MIN: Micros = 750_000;
const ELECT_TIMEOUT_MAX: Micros = 1_500_000;

/// Between two places in the order of succession (E1).
const PLACE_DELAY: Micros = 20_000;

/// Who granted anyone is quiet for so long (E1).
const QUIET: Micros = 50_000;

/// Attempts that one loss allows (E1).
const HINTED_ATTEMPTS: u32 = 4;

/// A probe that is not answered for so long is answered (E2).
pub(crate) const PROBE_PATIENCE: Micros = 30_000;

/// Leaves are gathered for so long (M1).
const GATHERING: Micros = 300_000;

/// How much longer the sick wait (D4).
const SICK_WAITS: Micros = 4;

/// What a core says when it refuses for its leader's sake (E3).
const HEARS_LEADER: &str = "a leader is heard";

/// All that a vote may be refused for: §5.1, E3, D5, §5.4.1, §5.2.
const REASONS: [&str; 5] = [
    "its term is behind",
    HEARS_LEADER,
    "its disk may have lost promises",
    "its log is behind",
    "voted for another",
];

/// All nodes, by the process that runs.
#[derive(Default)]
pub(super) struct Manners {
    nodes: BTreeMap<NodeId, Manner>,
}

/// What is remembered of one process.
#[derive(Default)]
struct Manner {
    /// What its clock showed at its last step; none: it has taken none.
    now: Option<Micros>,
    /// What it was told in that step.
    told: Option<Told>,
    /// When it last heard a leader.
    heard: Option<Micros>,
    /// Whom it follows, and since when.
    follows: Option<(NodeId, Micros)>,
    /// When it last granted anyone anything.
    granted: Option<Micros>,
    /// The question that is open, since when, and whether it was answered "no".
    probe: Option<((NodeId, Boot, Term), Micros, bool)>,
    /// The last question that was answered "no", and the same if another was asked since.
    last_no: Option<(NodeId, Boot, Term)>,
    late: Option<(NodeId, Boot, Term)>,
    /// A leader was lost, and none was heard since.
    loss: Option<Loss>,
    last_loss: Option<Micros>,
    /// Since when its disk hangs, and since when it leads.
    sick: Option<Micros>,
    leads: Option<Micros>,
    /// It has had no reason to campaign since.
    patient_since: Micros,
    /// In that term the leader's log was shown to be this one up to there.
    shown: (Term, Index),
    /// The last token that it gave out, and the term.
    token: Option<(Term, u64)>,
    /// It hands over, in that term, a log that ends there.
    hands_over: Option<(Term, Index)>,
    /// Reads that wait, and what was committed when each came.
    reads: BTreeMap<RequestId, Index>,
    /// Leaves that wait, of whom, and since when.
    leaves: BTreeMap<RequestId, (NodeId, Micros)>,
    /// Who has answered it since it leads: when last, and whether it is about to end.
    answers: BTreeMap<NodeId, (Micros, bool)>,
}

#[derive(Clone, Copy)]
struct Loss {
    at: Micros,
    place: u64,
    attempts: u32,
}

impl Manners {
    /// A process begins.
    pub fn begins(&mut self, id: NodeId) {
        self.nodes.insert(id, Manner::default());
    }

    /// The core is told something, at that time of its clock.
    pub fn told(&mut self, id: NodeId, now: Micros, told: Told, committed: Index) {
        let node = self.nodes.entry(id).or_default();
        if node.now.is_none() {
            node.patient_since = now;
        }
        (node.now, node.told) = (Some(now), Some(told));
        match told {
            Told::Leader { shows, term } => {
                node.heard = Some(now);
                node.patient_since = now;
                (node.loss, node.probe) = (None, None);
                node.show(term, shows.unwrap_or(0));
            }
            Told::Snapshot { index, term } => node.show(term, index),
            Told::Probed { of, leads } => {
                if let Some((asked, _, no)) = &mut node.probe
                    && *asked == of
                {
                    *no = !leads;
                }
                if !leads {
                    node.last_no = Some(of);
                }
            }
            Told::Read(request) => {
                node.reads.insert(request, committed);
            }
            Told::Leave { request, node: who } => {
                node.leaves.insert(request, (who, now));
            }
            Told::Answer { from, stopping } => {
                let known = node.answers.entry(from).or_default();
                *known = (now, stopping.unwrap_or(known.1));
            }
            Told::AsksVote { .. } | Told::Other => {}
        }
    }

    /// Whether that node has answered this leader, and of late.
    pub fn hears(&self, id: NodeId, from: NodeId) -> bool {
        let node = self.nodes.get(&id);
        let answer = node.and_then(|node| Some((node.now?, node.answers.get(&from)?.0)));
        answer.is_some_and(|(now, at)| now < at + ELECT_TIMEOUT_MAX)
    }

    /// It asks its leader whether it leads.
    pub fn probes(&mut self, id: NodeId, of: (NodeId, Boot, Term)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.probe = Some((of, node.now.unwrap_or(0), false));
            node.late = node.last_no.filter(|last| *last != of);
        }
    }

    /// See [`super::Checker::late_answer`].
    pub fn late_answer(&mut self, id: NodeId) -> Option<Input> {
        let (peer, boot, term) = self.nodes.get_mut(&id)?.late.take()?;
        Some(Input::Probed {
            peer,
            boot,
            term,
            leads: false,
        })
    }

    /// What its clock showed at its last step.
    pub fn clock(&self, id: NodeId) -> Micros {
        let node = self.nodes.get(&id);
        node.and_then(|node| node.now).unwrap_or(0)
    }

    /// A leave was decided, or refused.
    pub fn leave_decided(&mut self, id: NodeId, request: RequestId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.leaves.remove(&request);
        }
    }

    /// A read may be served as of that entry; none: it cannot be served.
    pub fn reads(
        &mut self,
        id: NodeId,
        request: RequestId,
        index: Option<Index>,
    ) -> Result<(), Wrong> {
        let node = self.nodes.get_mut(&id);
        let committed = node.and_then(|node| node.reads.remove(&request));
        match (index, committed) {
            (Some(index), Some(committed)) if index < committed => {
                let what = format!(
                    "{id} reads as of {index}, and {committed} was committed when it was asked (R2)"
                );
                wrong("reads", what)
            }
            _ => Ok(()),
        }
    }

    /// It says something to a peer.
    pub fn says(
        &mut self,
        (id, raft): (NodeId, &Raft),
        to: NodeId,
        message: &Message,
        heir_is_known: bool,
        ledger: &Ledger,
    ) -> Result<(), Wrong> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        match message {
            Message::AppendEntriesReply(reply) => match reply.outcome {
                // What waited for the disk may be of an earlier term.
                AppendOutcome::Durable { index }
                    if reply.term >= node.shown.0 && (reply.term, index) > node.shown =>
                {
                    let what = format!(
                        "{id} acknowledges {index} in term {}, and was shown (term, index) {:?}",
                        reply.term, node.shown
                    );
                    return wrong("durable-promises", what);
                }
                _ => {}
            },
            Message::TimeoutNow { term, token } => {
                node.token = Some((*term, *token));
                if heir_is_known && !ledger.holds(to, raft.last()) {
                    let what = format!("{id} hands over to {to}, which lacks {:?}", raft.last());
                    return wrong("hand-over", what);
                }
                if node.leaves.values().any(|(who, _)| *who == to) {
                    let what = format!("{id} hands over to {to}, which is leaving (M1)");
                    return wrong("hand-over", what);
                }
                if node.answers.get(&to).is_some_and(|(_, stopping)| *stopping) {
                    let what = format!("{id} hands over to {to}, which is about to end (M1)");
                    return wrong("hand-over", what);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The core tells of something that it has done.
    pub fn event(&mut self, id: NodeId, raft: Option<&Raft>, event: &Event) -> Result<(), Wrong> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let now = node.now.unwrap_or(0);
        let bad = match event {
            Event::Election {
                pre_vote, hinted, ..
            } => {
                node.patient_since = now;
                match (*pre_vote, *hinted) {
                    (true, true) => node.campaigns_as_heir(now),
                    (true, false) => node.campaigns_by_timer(now),
                    _ => None,
                }
            }
            Event::Vote {
                granted,
                reason,
                pre_vote,
                ..
            } => node.votes(now, (*granted, *pre_vote), reason, raft),
            Event::LeaderLost { leader, place } => node.loses(now, *leader, *place as u64),
            Event::BecameFollower { leader, .. } => {
                node.follows = leader.map(|leader| (leader, now));
                None
            }
            Event::BecameLeader { .. } => {
                (node.loss, node.leads) = (None, Some(now));
                node.answers.clear();
                None
            }
            Event::SteppedDown { .. } => {
                (node.leads, node.hands_over) = (None, None);
                node.patient_since = now;
                node.leaves.clear();
                None
            }
            Event::DiskHealth { sick } => {
                node.sick = sick.then_some(now);
                None
            }
            Event::Transfer { outcome, .. } => {
                match *outcome {
                    "begun" => node.hands_over = raft.map(|raft| (raft.term(), raft.last().index)),
                    "the heir was told" | "no such voter" => {}
                    _ => node.hands_over = None,
                }
                None
            }
            // What ends a joint configuration has its reason, and may be another leader's.
            Event::ConfigurationAppended {
                reason,
                joint: true,
                ..
            } => {
                let gathered = node.leaves.values().any(|(_, at)| now >= at + GATHERING);
                let early = reason.contains("asked to leave") && !gathered;
                early.then(|| "carries out a leave before it has gathered others (M1)".to_owned())
            }
            _ => None,
        };
        match bad {
            Some(what) => wrong("manners", format!("{id} {what}")),
            None => Ok(()),
        }
    }

    /// Looks at a core behind a step.
    pub fn look(&mut self, id: NodeId, raft: &Raft, is_voter: bool) -> Result<(), Wrong> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let Some(now) = node.now else { return Ok(()) };
        let leads = raft.role() == RoleName::Leader;
        if leads || !is_voter || raft.health().stopping {
            node.patient_since = now;
        }
        let last = raft.last().index;
        let sickened = node
            .sick
            .filter(|sick| node.leads.is_some_and(|since| *sick > since));
        let what = if now > node.patient_since + SICK_WAITS * ELECT_TIMEOUT_MAX {
            format!(
                "{id} has heard nobody since {}, and does not campaign (D4)",
                node.patient_since
            )
        } else if let Some(since) = sickened
            && leads
            && now > since + ELECT_TIMEOUT_MAX
        {
            format!("{id} leads on, and its disk hangs since {since} (D4)")
        } else if let Some((term, end)) = node.hands_over
            && leads
            && raft.term() == term
            && last > end
        {
            format!("{id} takes entry {last} while it hands over a log that ends at {end} (§3.10)")
        } else {
            return Ok(());
        };
        wrong("manners", format!("at {now}: {what}"))
    }
}

impl Manner {
    fn show(&mut self, term: Term, index: Index) {
        if term > self.shown.0 {
            self.shown = (term, index);
        } else if term == self.shown.0 {
            self.shown.1 = self.shown.1.max(index);
        }
    }

    fn hears_leader(&self, now: Micros) -> bool {
        let lately = |heard: Micros| now < heard + ELECT_TIMEOUT_MIN;
        self.loss.is_none() && self.heard.is_some_and(lately)
    }

    fn campaigns_as_heir(&mut self, now: Micros) -> Option<String> {
        let Some(loss) = &mut self.loss else {
            return Some("campaigns as an heir, and no leader is lost (E2)".to_owned());
        };
        loss.attempts += 1;
        if loss.attempts > HINTED_ATTEMPTS {
            return Some(format!("campaigns as an heir {} times (E1)", loss.attempts));
        }
        if now < loss.at + loss.place * PLACE_DELAY {
            let Loss { at, place, .. } = *loss;
            return Some(format!(
                "campaigns at {now}, in place {place} behind a loss at {at} (E1)"
            ));
        }
        let granted = self.granted.filter(|granted| now < granted + QUIET)?;
        Some(format!(
            "campaigns at {now}, and granted somebody at {granted} (E1)"
        ))
    }

    fn campaigns_by_timer(&self, now: Micros) -> Option<String> {
        let heard = self.heard?;
        let sick = self.sick.is_some_and(|since| since < heard);
        let wait = ELECT_TIMEOUT_MIN * if sick { SICK_WAITS } else { 1 };
        let sickness = if sick { ", and is sick (D4)" } else { "" };
        (now < heard + wait)
            .then(|| format!("campaigns at {now}, and heard its leader at {heard}{sickness} (W3)"))
    }

    fn votes(
        &mut self,
        now: Micros,
        (granted, pre_vote): (bool, bool),
        reason: &str,
        raft: Option<&Raft>,
    ) -> Option<String> {
        let Some(Told::AsksVote { leads, token }) = self.told else {
            return None;
        };
        if granted {
            self.granted = Some(now);
            self.patient_since = if pre_vote { self.patient_since } else { now };
        }
        if let Some(term) = leads
            && raft.is_some_and(|raft| raft.term() > term)
            && self.token != Some((term, token))
        {
            return Some(format!(
                "led term {term}, and gives way to the token {token}; the one that it gave out is {:?} (E3)",
                self.token
            ));
        }
        if !granted && !REASONS.contains(&reason) {
            return Some(format!(
                "refuses a vote for no reason that is one: {reason}"
            ));
        }
        let refuses = reason == HEARS_LEADER && leads.is_none() && !self.hears_leader(now);
        refuses.then(|| {
            let heard = self.heard;
            format!("refuses at {now} because of a leader, and heard one at {heard:?} (E3)")
        })
    }

    fn loses(&mut self, now: Micros, leader: NodeId, place: u64) -> Option<String> {
        let asked = self
            .probe
            .take()
            .filter(|((peer, _, _), at, no)| *peer == leader && (*no || now >= at + PROBE_PATIENCE))
            .is_some();
        let full_term = |since: Micros| now >= since + ELECT_TIMEOUT_MAX;
        let followed = self
            .follows
            .is_some_and(|(whom, since)| whom == leader && full_term(since));
        let unused = self.last_loss.is_none_or(full_term);
        self.last_loss = Some(now);
        self.loss = Some(Loss {
            at: now,
            place,
            attempts: 0,
        });
        let what = if !asked {
            "and nobody has said so"
        } else if !followed {
            "which it has not followed for long"
        } else if !unused {
            "and another was lost just before"
        } else {
            return None;
        };
        Some(format!("loses {leader} at {now}, {what} (E2)"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const LEADER: NodeId = NodeId(2);
    const QUESTION: (NodeId, Boot, Term) = (LEADER, 1, 1);

    fn word() -> Told {
        let (shows, term) = (None, 1);
        Told::Leader { shows, term }
    }

    /// It has heard its leader at 0, and followed it since.
    fn follower() -> Manners {
        let mut manners = Manners::default();
        manners.begins(ME);
        manners.told(ME, 0, word(), 0);
        let leader = Some(LEADER);
        let follows = Event::BecameFollower { term: 1, leader };
        manners.event(ME, None, &follows).unwrap();
        manners
    }

    /// It asks at that time, and is told "no" to that question.
    fn asks(manners: &mut Manners, now: Micros, of: (NodeId, Boot, Term)) {
        manners.told(ME, now, Told::Other, 0);
        manners.probes(ME, QUESTION);
        manners.told(ME, now, Told::Probed { of, leads: false }, 0);
    }

    fn loses(manners: &mut Manners, place: usize) -> Result<(), Wrong> {
        let leader = LEADER;
        manners.event(ME, None, &Event::LeaderLost { leader, place })
    }

    fn campaigns(manners: &mut Manners, now: Micros, hinted: bool) -> Result<(), Wrong> {
        manners.told(ME, now, Told::Other, 0);
        let (term, pre_vote) = (2, true);
        let election = Event::Election {
            term,
            pre_vote,
            hinted,
        };
        manners.event(ME, None, &election)
    }

    fn answers(manners: &mut Manners, now: Micros, granted: bool) -> Result<(), Wrong> {
        let (leads, token) = (None, 0);
        manners.told(ME, now, Told::AsksVote { leads, token }, 0);
        let reason = if granted { "up to date" } else { HEARS_LEADER };
        let vote = Event::Vote {
            candidate: NodeId(3),
            term: 2,
            pre_vote: true,
            granted,
            reason,
        };
        manners.event(ME, None, &vote)
    }

    #[test]
    fn a_leader_is_lost_when_it_says_so_and_has_led_for_long() {
        let lost = |standing, of| {
            let mut manners = follower();
            asks(&mut manners, standing, of);
            loses(&mut manners, 0)
        };
        assert!(lost(ELECT_TIMEOUT_MAX, QUESTION).is_ok());
        assert!(lost(ELECT_TIMEOUT_MAX - 1, QUESTION).is_err());
        assert!(lost(ELECT_TIMEOUT_MAX, (LEADER, 2, 1)).is_err());
        let mut manners = follower();
        assert!(loses(&mut manners, 0).is_err(), "nobody was asked");
        let mut manners = follower();
        for (now, once) in [(2_000_000, true), (3_499_999, false), (5_000_000, true)] {
            asks(&mut manners, now, QUESTION);
            assert_eq!(loses(&mut manners, 0).is_ok(), once, "{now}");
        }
    }

    #[test]
    fn heirs_wait_for_their_turn() {
        let lost = 2_000_000;
        let heir = |place| {
            let mut manners = follower();
            asks(&mut manners, lost, QUESTION);
            loses(&mut manners, place).unwrap();
            manners
        };
        assert!(campaigns(&mut heir(2), lost + 39_999, true).is_err());
        let mut third = heir(2);
        for attempt in 1..=5 {
            let held = campaigns(&mut third, lost + 40_000 * attempt, true);
            assert_eq!(held.is_ok(), attempt < 5, "attempt {attempt}");
        }
        let mut heard = heir(0);
        heard.told(ME, lost + 10, word(), 0);
        assert!(campaigns(&mut heard, lost + 20, true).is_err());
        for (wait, held) in [(QUIET - 1, false), (QUIET, true)] {
            let mut granted = heir(0);
            answers(&mut granted, lost + 1, true).unwrap();
            let ended = campaigns(&mut granted, lost + 1 + wait, true);
            assert_eq!(ended.is_ok(), held, "{wait}");
        }
    }

    #[test]
    fn timers_are_waited_for() {
        let wait = ELECT_TIMEOUT_MIN;
        assert!(campaigns(&mut follower(), wait - 1, false).is_err());
        assert!(campaigns(&mut follower(), wait, false).is_ok());
        let mut sick = follower();
        sick.event(ME, None, &Event::DiskHealth { sick: true })
            .unwrap();
        sick.told(ME, 10, word(), 0);
        assert!(campaigns(&mut sick, 10 + 4 * wait - 1, false).is_err());
        assert!(answers(&mut follower(), wait - 1, false).is_ok());
        assert!(answers(&mut follower(), wait, false).is_err());
    }

    #[test]
    fn a_read_misses_nothing_and_a_leave_waits_for_others() {
        for (index, held) in [(4, false), (5, true)] {
            let mut manners = follower();
            manners.told(ME, 1, Told::Read(7), 5);
            assert_eq!(manners.reads(ME, 7, Some(index)).is_ok(), held);
        }
        for (waited, held) in [(GATHERING - 1, false), (GATHERING, true)] {
            let mut manners = follower();
            let (request, node) = (7, NodeId(3));
            manners.told(ME, 1, Told::Leave { request, node }, 0);
            manners.told(ME, 1 + waited, Told::Other, 0);
            let appended = Event::ConfigurationAppended {
                index: 9,
                reason: "1 node(s) asked to leave".to_owned(),
                joint: true,
                voters: 3,
                learners: 0,
            };
            assert_eq!(manners.event(ME, None, &appended).is_ok(), held);
        }
    }

    #[test]
    fn an_answer_counts_for_a_while_and_in_its_time_as_leader() {
        let mut manners = follower();
        let from = NodeId(3);
        let answers = |manners: &mut Manners, now| {
            let stopping = Some(false);
            manners.told(ME, now, Told::Answer { from, stopping }, 0);
        };
        assert!(!manners.hears(ME, from), "never");
        answers(&mut manners, 10);
        for (wait, heard) in [(ELECT_TIMEOUT_MAX - 1, true), (ELECT_TIMEOUT_MAX, false)] {
            manners.told(ME, 10 + wait, Told::Other, 0);
            assert_eq!(manners.hears(ME, from), heard, "{wait}");
        }
        answers(&mut manners, 2_000_000);
        let leads = Event::BecameLeader { term: 9 };
        manners.event(ME, None, &leads).unwrap();
        assert!(!manners.hears(ME, from), "that was another leadership");
    }

    #[test]
    fn who_is_about_to_end_takes_nothing_over() {
        let raft = Raft::new(
            ME,
            1,
            Default::default(),
            Default::default(),
            raft_core::Time(1),
            1,
        );
        let (term, token) = (1, 7);
        for (stopping, held) in [(false, true), (true, false)] {
            let mut manners = follower();
            let (from, stopping) = (LEADER, Some(stopping));
            manners.told(ME, 10, Told::Answer { from, stopping }, 0);
            let word = Message::TimeoutNow { term, token };
            let ledger = Ledger::default();
            let said = manners.says((ME, &raft), from, &word, false, &ledger);
            assert_eq!(said.is_ok(), held);
        }
    }
}
