//! Leader election (§5.2, §5.4.1), with pre-vote (§9.6 of the dissertation), refusal while a leader
//! is heard, and the fast succession after a lost leader (rules E1-E5).
//!
//! Three clocks may start a campaign. The ordinary one is the paper's random election timeout. The
//! cold-start one runs in a node that has heard no leader since it started. The third runs when the
//! leader's process is known to be gone: its heirs follow in the order that it named, 20 ms apart,
//! so that they do not split the vote. All three begin with a pre-vote, which changes nothing at
//! anyone, so none of them can disturb a leader that a majority still hears.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{Boot, Index, NodeId, Term, Time};
use crate::io::{Effect, Event};
use crate::message::{Message, RequestVote, RequestVoteReply};
use crate::raft::{Raft, Role};

/// Between two places in the order of succession (E1).
const PLACE_DELAY: Duration = Duration::from_millis(20);
/// Spread on top of the place's delay.
const PLACE_SPREAD: Duration = Duration::from_millis(5);
/// A voter that granted anyone stays quiet this long (E1).
const QUIET_AFTER_GRANT: Duration = Duration::from_millis(50);
/// A hinted election that failed is tried again after a random time between these two.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(60);
/// A hinted election without an outcome counts as failed after this long.
const HINTED_PATIENCE: Duration = Duration::from_millis(100);
/// First try and three retries.
const HINTED_ATTEMPTS: u8 = 4;
/// An unanswered probe means that the leader is lost (E2).
const PROBE_PATIENCE: Duration = Duration::from_millis(30);
/// First pre-vote after a start (E5).
const COLD_START_SPREAD: Duration = Duration::from_millis(150);
/// Between two further ones, while nobody has heard a leader.
const COLD_RETRY_MIN: Duration = Duration::from_millis(100);
const COLD_RETRY_MAX: Duration = Duration::from_millis(250);
/// Why a candidate gets no vote while a leader lives (E3).
const HEARS_LEADER: &str = "a leader is heard";
/// Why a candidate that was asked whether its disk went back, and has not answered, gets no vote (D5).
const SUSPECT: &str = "its disk may have lost promises";
/// Cold-start pre-votes before the ordinary timer rules.
const COLD_ATTEMPTS: u8 = 10;

/// An election that this node has called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Campaign {
    votes: BTreeMap<NodeId, bool>,
    transfer_token: u64,
    hinted: bool,
}

/// What this node knows of the leader that it follows, and of the last one that it heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Following {
    /// Leader of the current term.
    leader: Option<NodeId>,
    since: Time,
    /// The last leader heard in any term.
    heard: Option<Heard>,
    /// This log matches that of the current term's leader up to here.
    pub(crate) verified_index: Index,
    /// An AppendEntries is not acknowledged in full yet.
    pub(crate) owes_acknowledgement: bool,
    pub(crate) acknowledged: Index,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Heard {
    leader: NodeId,
    boot: Boot,
    term: Term,
    at: Time,
    lost: bool,
}

/// Timers of elections, and the order of succession.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Succession {
    election_deadline: Time,
    cold_attempts_left: u8,
    order: Vec<NodeId>,
    probe: Option<(NodeId, Boot, Term, Time)>,
    last_use: Option<Time>,
    hinted: Option<Hinted>,
    quiet_until: Time,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hinted {
    attempts_left: u8,
    next_at: Time,
}

impl Following {
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    pub(crate) fn new_term(&mut self) {
        self.leader = None;
        self.verified_index = 0;
        self.owes_acknowledgement = false;
        self.acknowledged = 0;
    }

    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        change(&mut self.since);
        if let Some(heard) = &mut self.heard {
            change(&mut heard.at);
        }
    }

    pub(crate) fn set_leader(&mut self, leader: Option<NodeId>, _term: Term, now: Time) {
        if leader != self.leader {
            self.leader = leader;
            self.since = now;
        }
    }
}

impl Succession {
    pub(crate) fn for_each_time(&mut self, change: &mut dyn FnMut(&mut Time)) {
        change(&mut self.election_deadline);
        change(&mut self.quiet_until);
        if let Some((_, _, _, deadline)) = &mut self.probe {
            change(deadline);
        }
        if let Some(at) = &mut self.last_use {
            change(at);
        }
        if let Some(hinted) = &mut self.hinted {
            change(&mut hinted.next_at);
        }
    }

    /// From here on the ordinary timer rules.
    pub(crate) fn forget_cold_start(&mut self) {
        self.cold_attempts_left = 0;
    }
}

impl Raft {
    pub(crate) fn arm_cold_start(&mut self) {
        if mutant!(E5NoColdStart) {
            return self.arm_election_timer();
        }
        if self.is_last_resort() {
            return self.arm_election_timer();
        }
        self.succession.cold_attempts_left = COLD_ATTEMPTS;
        let wait = self.dice.between(Duration::ZERO, COLD_START_SPREAD);
        self.succession.election_deadline = self.now + wait;
    }

    pub(crate) fn arm_election_timer(&mut self) {
        let cold = self.following.heard.is_none() && self.succession.cold_attempts_left > 0;
        let wait = if cold {
            self.dice.between(COLD_RETRY_MIN, COLD_RETRY_MAX)
        } else {
            self.random_election_timeout()
        };
        self.succession.election_deadline = self.now + wait;
    }

    pub(crate) fn election_deadline(&self) -> Time {
        // A node that may not campaign has nothing to wait for, but that its leader is silent.
        let ordinary = if self.may_campaign() || self.following.leader.is_some() {
            self.succession.election_deadline
        } else {
            Time::NEVER
        };
        let hinted = self
            .succession
            .hinted
            .as_ref()
            .map_or(Time::NEVER, |hinted| hinted.next_at);
        let probe = self
            .succession
            .probe
            .map_or(Time::NEVER, |(_, _, _, deadline)| deadline);
        ordinary.min(hinted).min(probe)
    }

    /// Only a voter in its own latest configuration campaigns (M5), and none that is about to end (M1); but
    /// for the last resort.
    fn may_campaign(&self) -> bool {
        let stopping = self.stopping && !mutant!(M1StoppingCampaigns);
        let sick = self.disk.sick && mutant!(D4SickNeverCampaigns);
        let is_voter = self.configuration().1.is_voter(self.id) || self.is_last_resort();
        !self.retired && !stopping && !sick && (is_voter || mutant!(M5OutsiderCampaigns))
    }

    /// While a C_new without it is not known to be committed, who votes in C_old campaigns too (§4.2.2 of the
    /// dissertation). Else a leader that has appended it, and was cut off with it, could neither lead any more
    /// nor vote for anyone whose log is shorter, and C_old might need its vote. It does not count its own: a
    /// quorum is one of the latest configuration. It leads only until that is committed, so it lets all others
    /// go first.
    pub(crate) fn is_last_resort(&self) -> bool {
        if self.configuration().1.is_voter(self.id) {
            return false;
        }
        let before = self.configuration_in_doubt();
        before.is_some_and(|before| before.is_joint() && before.is_voter(self.id))
    }

    pub(crate) fn run_election_timers(&mut self) {
        if let Some((leader, boot, term, deadline)) = self.succession.probe
            && self.now >= deadline
        {
            self.on_probed(leader, boot, term, false);
        }
        if self
            .succession
            .hinted
            .as_ref()
            .is_some_and(|hinted| self.now >= hinted.next_at)
        {
            self.run_hinted_election();
        }
        if self.now < self.succession.election_deadline {
            return;
        }
        let term = self.term();
        if self.following.leader.is_some() {
            self.event(Event::ElectTimeout { term });
        }
        if !self.may_campaign() {
            // Whoever asks here is told that nobody leads, rather than sent to who is silent.
            self.following.set_leader(None, term, self.now);
        } else {
            self.succession.cold_attempts_left =
                self.succession.cold_attempts_left.saturating_sub(1);
            self.pre_campaign(false);
        }
    }

    /// A word from the leader of the current term.
    pub(crate) fn hear_leader(&mut self, leader: NodeId, boot: Option<Boot>) {
        let term = self.term();
        let known = self
            .following
            .heard
            .as_ref()
            .filter(|h| h.leader == leader && h.term == term);
        let boot = boot.or(known.map(|heard| heard.boot)).unwrap_or(0);
        self.following.heard = Some(Heard {
            leader,
            boot,
            term,
            at: self.now,
            lost: false,
        });
        if !mutant!(E2NotCleared) {
            self.succession.hinted = None;
            self.succession.probe = None;
        }
        self.succession.cold_attempts_left = 0;
        if !matches!(self.role, Role::Follower) || self.following.leader != Some(leader) {
            self.become_follower(term, Some(leader));
        }
        self.arm_election_timer();
    }

    pub(crate) fn set_succession(&mut self, order: &[NodeId]) {
        if self.succession.order != order {
            self.succession.order = order.to_vec();
        }
    }

    // ---- a lost leader (E2) ----

    pub(crate) fn on_stream_ended(&mut self, peer: NodeId) {
        let Some(heard) = &self.following.heard else {
            return;
        };
        let follows = self.following.leader == Some(peer)
            && heard.leader == peer
            && heard.term == self.term()
            && matches!(self.role, Role::Follower);
        let full_term = self.options.elect_timeout_max;
        let long_enough = self.now.since(self.following.since) >= full_term;
        let used = self
            .succession
            .last_use
            .is_some_and(|at| self.now.since(at) < full_term);
        let limited = (!long_enough || used) && !mutant!(E2NoLimit);
        if !follows || heard.lost || limited || self.succession.probe.is_some() {
            return;
        }
        let (boot, term) = (heard.boot, heard.term);
        self.succession.probe = Some((peer, boot, term, self.now + PROBE_PATIENCE));
        if mutant!(E2LostUnasked) {
            return self.on_probed(peer, boot, term, false);
        }
        self.effect(Effect::Probe { peer, boot, term });
    }

    pub(crate) fn on_probed(&mut self, peer: NodeId, boot: Boot, term: Term, leads: bool) {
        let Some((asked, asked_boot, asked_term, _)) = self.succession.probe else {
            return;
        };
        let other = (asked, asked_boot, asked_term) != (peer, boot, term);
        if other && !mutant!(E2AnyAnswer) {
            return;
        }
        let (peer, boot, term) = (asked, asked_boot, asked_term);
        self.succession.probe = None;
        let Some(heard) = &mut self.following.heard else {
            return;
        };
        if leads || (heard.leader, heard.boot, heard.term) != (peer, boot, term) {
            return;
        }
        heard.lost = true;
        self.succession.last_use = Some(self.now);
        let id = self.id;
        let heirs = self.succession.order.iter().filter(|heir| **heir != peer);
        let place = heirs
            .clone()
            .position(|heir| *heir == id)
            .unwrap_or(heirs.count());
        self.event(Event::LeaderLost {
            leader: peer,
            place,
        });
        if self.may_campaign() {
            let spread = self.dice.between(Duration::ZERO, PLACE_SPREAD);
            let place = if mutant!(E1NoOrder) { 0 } else { place };
            let delay = PLACE_DELAY * u32::try_from(place).unwrap_or(u32::MAX) + spread;
            self.succession.hinted = Some(Hinted {
                attempts_left: HINTED_ATTEMPTS,
                next_at: self.now + delay,
            });
        }
    }

    fn run_hinted_election(&mut self) {
        let (quiet_until, may_campaign) = (self.succession.quiet_until, self.may_campaign());
        let Some(hinted) = &mut self.succession.hinted else {
            return;
        };
        if hinted.attempts_left == 0 || !may_campaign {
            self.succession.hinted = None;
            return;
        }
        if quiet_until > self.now {
            hinted.next_at = quiet_until;
            return;
        }
        hinted.attempts_left -= 1;
        hinted.next_at = self.now + HINTED_PATIENCE;
        self.pre_campaign(true);
    }

    fn retry_hinted_election(&mut self) {
        let wait = self.dice.between(RETRY_MIN, RETRY_MAX);
        let now = self.now;
        if let Some(hinted) = &mut self.succession.hinted {
            hinted.next_at = now + wait;
        }
    }

    // ---- campaigns ----

    /// Asks who would vote for this node, changing nothing yet (§9.6 of the dissertation).
    fn pre_campaign(&mut self, hinted: bool) {
        if mutant!(PreVoteLeftOut) {
            return self.campaign(hinted, 0);
        }
        self.arm_election_timer();
        self.following.set_leader(None, self.term(), self.now);
        let term = self.term() + 1;
        self.event(Event::Election {
            term,
            pre_vote: true,
            hinted,
        });
        self.role = Role::PreCandidate(Campaign {
            hinted,
            ..Campaign::default()
        });
        self.request_votes(term, true, 0);
        self.count_vote(self.id, true);
    }

    /// Founding: there is nobody to ask.
    pub(crate) fn campaign_now(&mut self) {
        self.campaign(false, 0);
    }

    /// Begins an election (§5.2): a new term, a vote for itself, and a request to every other voter.
    /// Requests and the own vote both wait until term and vote are durable.
    fn campaign(&mut self, hinted: bool, transfer_token: u64) {
        self.arm_election_timer();
        let id = self.id;
        self.change_hard_state(|hard| {
            hard.current_term += 1;
            hard.voted_for = Some(id);
        });
        self.following.new_term();
        let term = self.term();
        self.event(Event::Election {
            term,
            pre_vote: false,
            hinted,
        });
        self.role = Role::Candidate(Campaign {
            hinted,
            transfer_token,
            votes: BTreeMap::new(),
        });
        self.request_votes(term, false, transfer_token);
    }

    fn request_votes(&mut self, term: Term, pre_vote: bool, transfer_token: u64) {
        let last = self.log.last();
        for voter in self.other_voters() {
            let request = RequestVote {
                term,
                pre_vote,
                last,
                transfer_token,
            };
            self.send(voter, Message::RequestVote(request));
        }
    }

    pub(crate) fn count_own_vote(&mut self) {
        let uncounted = matches!(&self.role, Role::Candidate(c) if !c.votes.contains_key(&self.id));
        if uncounted && (self.hard_state_is_durable() || mutant!(SpeakBeforeDurable)) {
            self.count_vote(self.id, true);
        }
    }

    fn count_vote(&mut self, from: NodeId, granted: bool) {
        let configuration = self.configuration().1;
        let (campaign, pre_vote) = match &mut self.role {
            Role::PreCandidate(campaign) => (campaign, true),
            Role::Candidate(campaign) => (campaign, false),
            _ => return,
        };
        campaign.votes.insert(from, granted);
        let votes = campaign.votes.values().filter(|granted| **granted);
        let votes = votes.count();
        let term = self.term() + Term::from(pre_vote);
        self.event(Event::Tally {
            term,
            pre_vote,
            from,
            granted,
            votes,
            needed: configuration.voters.len() / 2 + 1,
        });
        self.decide_campaign();
    }

    /// Ends the campaign, if the votes that are in decide it. A suspect's vote is not in (D5).
    pub(crate) fn decide_campaign(&mut self) {
        let configuration = self.configuration().1;
        let (campaign, pre_vote) = match &self.role {
            Role::PreCandidate(campaign) => (campaign, true),
            Role::Candidate(campaign) => (campaign, false),
            _ => return,
        };
        let votes = &campaign.votes;
        let (hinted, token) = (campaign.hinted, campaign.transfer_token);
        let won = configuration.is_quorum(|voter| {
            let granted = votes.get(&voter) == Some(&true)
                || (mutant!(RefusalCounts) && votes.contains_key(&voter))
                || (mutant!(QuorumOfTheLiving) && !votes.contains_key(&voter));
            granted && !self.is_suspect(voter)
        });
        let lost = !configuration.is_quorum(|voter| votes.get(&voter) != Some(&false));
        let term = self.term() + Term::from(pre_vote);
        if won && pre_vote {
            let now = self.now;
            if let Some(hinted) = &mut self.succession.hinted {
                hinted.next_at = now + HINTED_PATIENCE;
            }
            self.campaign(hinted, token);
        } else if won {
            self.become_leader();
        } else if lost {
            let reason = if pre_vote {
                "refused beforehand"
            } else {
                "refused by a majority"
            };
            self.event(Event::ElectionLost { term, reason });
            self.role = Role::Follower;
            // One that the ordinary timer began does not bring the place in the succession forward.
            if hinted {
                self.retry_hinted_election();
            }
        }
    }

    fn become_leader(&mut self) {
        let term = self.term();
        self.succession.hinted = None;
        self.succession.probe = None;
        self.succession.cold_attempts_left = 0;
        self.following.set_leader(Some(self.id), term, self.now);
        self.event(Event::BecameLeader { term });
        self.start_leading();
    }

    // ---- voting ----

    /// Whether candidates are refused because a leader lives, as far as this node can tell (E3).
    fn hears_leader(&self) -> bool {
        if mutant!(E3NoRefusal) {
            return false;
        }
        if matches!(self.role, Role::Leader(_)) {
            return true;
        }
        if mutant!(E5StartHearsLeader) && self.following.heard.is_none() {
            return self.succession.cold_attempts_left > 0;
        }
        self.following.heard.as_ref().is_some_and(|heard| {
            !heard.lost && self.now.since(heard.at) < self.options.elect_timeout_min
        })
    }

    pub(crate) fn on_request_vote(&mut self, from: NodeId, request: &RequestVote) {
        let current = self.term();
        let token_counts = match &self.role {
            // The leader trusts only the token that it gave out itself.
            Role::Leader(leading) => {
                leading.transfer_token() == Some(request.transfer_token) || mutant!(E3AnyToken)
            }
            _ => request.transfer_token != 0 && request.term == current + 1,
        };
        let refusal = if request.term < current || (request.pre_vote && request.term == current) {
            Some("its term is behind")
        } else if self.hears_leader() && (request.pre_vote || !token_counts) {
            Some(HEARS_LEADER)
        } else if self.is_suspect(from) {
            Some(SUSPECT)
        } else if !request.last.is_up_to_date(self.log.last()) && !mutant!(UpToDateIgnored) {
            Some("its log is behind")
        } else if mutant!(M5OwnConfigurationDecides) && !self.configuration().1.is_voter(from) {
            Some("it is no voter here")
        } else {
            None
        };
        if mutant!(E3TermBeforeRefusal) && request.term > current {
            self.become_follower(request.term, None);
        }
        if matches!(refusal, Some(HEARS_LEADER | SUSPECT)) || request.pre_vote {
            return self.answer_vote(from, request, refusal);
        }
        if request.term > self.term() {
            if matches!(self.role, Role::Leader(_)) {
                self.event(Event::SteppedDown {
                    term: current,
                    reason: "leadership handed over",
                });
            }
            self.become_follower(request.term, None);
        }
        let voted_for = self.hard_state().voted_for;
        let refusal = match refusal {
            None if voted_for.is_some_and(|voted| voted != from) && !mutant!(VoteTwice) => {
                Some("voted for another")
            }
            other => other,
        };
        if refusal.is_none() && voted_for.is_none() {
            self.change_hard_state(|hard| hard.voted_for = Some(from));
        }
        self.answer_vote(from, request, refusal);
    }

    fn answer_vote(&mut self, from: NodeId, request: &RequestVote, refusal: Option<&'static str>) {
        let granted = refusal.is_none();
        if granted && !mutant!(E1NotQuiet) {
            self.succession.quiet_until = self.now + QUIET_AFTER_GRANT;
            if !request.pre_vote {
                self.arm_election_timer();
            }
        }
        self.event(Event::Vote {
            candidate: from,
            term: request.term,
            pre_vote: request.pre_vote,
            granted,
            reason: refusal.unwrap_or("its log is up to date"),
        });
        let reply = RequestVoteReply {
            term: self.term(),
            pre_vote: request.pre_vote,
            granted,
            request_term: request.term,
            hears_leader: refusal == Some(HEARS_LEADER),
        };
        self.send(from, Message::RequestVoteReply(reply));
    }

    pub(crate) fn on_request_vote_reply(&mut self, from: NodeId, reply: &RequestVoteReply) {
        if reply.term > self.term() {
            // A leader is deposed by its members' terms only, see `on_message`.
            if !matches!(self.role, Role::Leader(_)) || self.others().contains(&from) {
                self.event(Event::MismatchTerm {
                    peer: from,
                    theirs: reply.term,
                    ours: self.term(),
                });
                self.become_follower(reply.term, None);
            }
            return;
        }
        let mine = match &self.role {
            Role::PreCandidate(_) => reply.pre_vote && reply.request_term == self.term() + 1,
            Role::Candidate(_) => {
                (!reply.pre_vote || mutant!(PreVoteCounts))
                    && (reply.request_term == self.term() || mutant!(StaleVoteCounts))
            }
            _ => false,
        };
        if mine {
            self.count_vote(from, reply.granted);
        }
    }

    /// The leader asks this node to take over at once (§3.10 of the dissertation).
    pub(crate) fn on_timeout_now(&mut self, from: NodeId, token: u64) {
        let asked_by_leader = self.following.leader == Some(from);
        if asked_by_leader && self.may_campaign() && matches!(self.role, Role::Follower) {
            self.campaign(false, token);
        }
    }
}
