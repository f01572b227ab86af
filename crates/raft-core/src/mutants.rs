//! The check of the checks: this core with one rule taken out, so that a test or the simulator can show
//! that it would notice.
//!
//! Compiled only with the feature `mutants`, which no other crate turns on by default and nothing that is
//! shipped is built with. One build holds all mutants; which of them rules is chosen at run time, for the
//! whole process, by [`choose`]. In the code a rule is taken out by `mutant!(Name)`, which is plainly
//! `false` without the feature. The libraries that build on this one use the same macro, and have a
//! feature of the same name that turns on this one's.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Stands in every program that was built with the feature, and in no other: that is how a test knows
/// what must not be shipped.
pub const MARKER: &str = "leeky-raft-was-built-with-mutants";

/// 0: none, and all rules are in force. Else one more than the mutant's place in [`Mutant::ALL`].
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

/// From now on, everywhere in this process, this rule is out of force; with `None` all rules are in
/// force. Not to be called while a core or a disk is at work.
pub fn choose(mutant: Option<Mutant>) {
    let number = mutant.map_or(0, |mutant| mutant as usize + 1);
    CHOSEN.store(number, Ordering::Relaxed);
}

/// The one that [`choose`] was told.
pub fn chosen() -> Option<Mutant> {
    let number = CHOSEN.load(Ordering::Relaxed);
    assert!(number <= Mutant::ALL.len(), "{MARKER}: no such mutant");
    Some(Mutant::ALL[number.checked_sub(1)?])
}

/// Whether this mutant is the chosen one. To be asked through `mutant!`.
#[inline]
pub fn is_on(mutant: Mutant) -> bool {
    chosen() == Some(mutant)
}

macro_rules! mutants {
    ($($rule:literal { $(#[doc = $broken:literal] $name:ident,)+ })+) => {
        /// What can be broken, in the order of the rules. A name that begins with a rule's takes out that
        /// rule or a part of it; the others are the Raft paper's own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $($(#[doc = $broken] $name,)+)+
        }

        impl Mutant {
            /// Every mutant.
            pub const ALL: &[Mutant] = &[$($(Mutant::$name,)+)+];

            /// The name, as it stands in the code and is given on a command line.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Mutant::$name => stringify!($name),)+)+
                }
            }

            /// The rule that is out of force: one of the safety rules, or a section of the paper.
            pub fn rule(self) -> &'static str {
                match self {
                    $($(Mutant::$name => $rule,)+)+
                }
            }

            /// What is broken, in a sentence.
            pub fn what(self) -> &'static str {
                match self {
                    $($(Mutant::$name => $broken,)+)+
                }.trim()
            }
        }
    };
}

impl Mutant {
    /// The mutant of that name.
    pub fn parse(name: &str) -> Option<Mutant> {
        Mutant::ALL
            .iter()
            .copied()
            .find(|mutant| mutant.name() == name)
    }
}

mutants! {
    "§5.1" {
        /// A leader, candidate or follower goes on in its term when it hears of a higher one.
        HigherTermIgnored,
        /// A message of an earlier term is taken like one of the present term.
        StaleTermObeyed,
        /// A crash forgets the term.
        TermForgottenByCrash,
    }
    "§5.2" {
        /// A voter gives its vote to everyone who asks.
        VoteTwice,
        /// A crash forgets whom this node voted for.
        VoteForgottenByCrash,
        /// Who gives up its role within a term forgets its vote.
        VoteForgottenByStepDown,
        /// Votes and everything said in a new term leave before they are on the disk.
        SpeakBeforeDurable,
        /// Half of the voters, rounded down, count as a majority.
        QuorumOfHalf,
        /// Voters who do not answer a candidate are left out of the count.
        QuorumOfTheLiving,
        /// The vote of an earlier election counts in this one.
        StaleVoteCounts,
        /// A pre-vote counts as a vote.
        PreVoteCounts,
        /// Refusals are counted as votes.
        RefusalCounts,
    }
    "§5.3" {
        /// A follower takes entries behind one of another term, if only the index is there.
        LogMatchingByIndex,
        /// An entry that conflicts with the leader's is kept.
        ConflictKept,
        /// A follower drops what follows an entry that it has already.
        TruncateWithoutConflict,
        /// A follower acknowledges what is not yet on its disk.
        AckBeforeDurable,
        /// A follower acknowledges its whole log, whether the leader's is the same or not.
        AckUnverified,
        /// A follower commits what it holds, whether the leader's log is the same or not.
        CommitUnverified,
        /// A leader counts its own copy before its disk has it.
        OwnCopyBeforeDurable,
        /// A new leader believes that all others have what it has.
        MatchAssumed,
        /// What was sent and lost is never sent again.
        LostAppendNotRepeated,
        /// A leader takes a refused AppendEntries for an acknowledgement.
        ConflictAcknowledges,
    }
    "§5.4.1" {
        /// A voter does not compare the logs.
        UpToDateIgnored,
        /// The longer log is the newer one, whatever its last term.
        UpToDateByIndex,
        /// Logs that end in the same term are equally new, however long.
        UpToDateByTerm,
    }
    "§5.4.2" {
        /// A leader commits an entry of an earlier term by counting its copies.
        CommitOfEarlierTerm,
        /// A new leader appends no entry of its own.
        NoopLeftOut,
    }
    "§6" {
        /// A joint configuration needs the majority of the new voters only.
        JointNewHalfOnly,
        /// A joint configuration needs the majority of the old voters only.
        JointOldHalfOnly,
        /// The voters change at once, without a joint configuration.
        JointLeftOut,
        /// Copies of learners count like those of voters.
        LearnersCount,
        /// The configuration stays when its entry is truncated.
        ConfigurationNotRolledBack,
    }
    "§7" {
        /// A snapshot names the present term as that of its last entry.
        SnapshotOfPresentTerm,
        /// A snapshot names the latest configuration, though it stands behind what it covers.
        SnapshotOfLatestConfiguration,
    }
    "§9.6" {
        /// A candidate asks nobody beforehand: whoever returns raises the term.
        PreVoteLeftOut,
    }
    "E1" {
        /// All heirs campaign at once.
        E1NoOrder,
        /// Who granted a vote campaigns right behind it.
        E1NotQuiet,
    }
    "E2" {
        /// A leader is lost as soon as its stream ends, unasked.
        E2LostUnasked,
        /// A word of the leader does not end the succession.
        E2NotCleared,
        /// A leader may be lost as often as its stream ends.
        E2NoLimit,
        /// An answer about another leader, boot or term decides a probe.
        E2AnyAnswer,
    }
    "E3" {
        /// A voter that hears a leader grants votes all the same.
        E3NoRefusal,
        /// A voter that refuses for the leader's sake takes the candidate's term all the same.
        E3TermBeforeRefusal,
        /// A leader gives way to a token that it never gave out.
        E3AnyToken,
        /// A leader leads on though a majority does not answer.
        E3NoCheckQuorum,
        /// A lower-term leader is not told of the higher term.
        E3HigherTermNotTold,
        /// A node outside of the configuration deposes a leader by its term.
        E3StrangerDeposes,
    }
    "E5" {
        /// A node that starts waits like one that has lost its leader.
        E5NoColdStart,
        /// A node that starts refuses candidates as if it had heard a leader.
        E5StartHearsLeader,
    }
    "R1" {
        /// A leader answers reads before an entry of its term is committed.
        R1BeforeOwnTerm,
    }
    "R2" {
        /// A read joins the round that is under way.
        R2JoinsRound,
        /// A read on a follower joins the question that is under way.
        R2JoinsAsk,
        /// A leader answers reads without asking whether it leads.
        R2NoRound,
        /// The answer to an earlier question serves the present one.
        R2AnyAnswer,
        /// Questions of a follower bear the same number, again and again.
        R2AsksReused,
    }
    "F1" {
        /// A founder takes entries before a second node has entered its configuration.
        F1AloneTakesEntries,
    }
    "F2" {
        /// A cluster with content gives way.
        F2ContentGivesWay,
        /// Entries are accepted behind a Dissolve.
        F2AcceptsAfterDissolve,
    }
    "F4" {
        /// The founding entry is replaced by another leader's.
        F4FoundingReplaced,
        /// An identity that has bound a cluster is bound to another.
        F4BoundAnew,
    }
    "M1" {
        /// Graceful leaves go below MinVoters.
        M1NoFloor,
        /// Each leave is a change of its own, at once.
        M1NotGathered,
        /// Who is leaving or stopping inherits leadership.
        M1LeaverInherits,
        /// Who is about to end campaigns.
        M1StoppingCampaigns,
    }
    "M2" {
        /// Voters need not be odd.
        M2EvenVoters,
    }
    "M3" {
        /// A removed id is added again.
        M3RemovedReturns,
        /// A change forgets the ids that earlier ones removed.
        M3TombstonesForgotten,
        /// A snapshot forgets the ids that were removed.
        M3SnapshotWithoutTombstones,
    }
    "M4" {
        /// A change is made though no majority of old and new voters answers.
        M4NoHealthyMajority,
        /// A replaced voter is removed for good.
        M4ReplacedIsRemoved,
        /// A voter is dead after a short silence.
        M4DeadAtOnce,
        /// Automatic changes have no limit.
        M4NoBudget,
    }
    "M5" {
        /// Nobody ends a joint configuration.
        M5JointNotEnded,
        /// The next change begins before the last is committed.
        M5TwoChanges,
        /// A new leader changes the configuration before an entry of its own term is committed.
        M5ChangeBeforeOwnTerm,
        /// A leader outside of the new configuration leads on.
        M5OutsiderLeads,
        /// Who is no voter campaigns.
        M5OutsiderCampaigns,
        /// A voter grants only those whom its own configuration names.
        M5OwnConfigurationDecides,
    }
    "M6" {
        /// A learner is promoted without having acknowledged anything to this leader.
        M6PromotedUnproven,
    }
    "D1" {
        /// Committed entries go to the state machine before they are on this node's disk.
        D1AppliedBeforeDurable,
    }
    "D2" {
        /// A late report of the disk counts for entries that came after a truncation.
        D2LateReportCounts,
        /// A truncation does not lower what is known to be durable.
        D2DurableNotLowered,
    }
    "D3" {
        /// A bad record that a later batch vouches for is taken for a torn tail.
        D3NoWitness,
        /// A batch is taken though its checksum is wrong.
        D3ChecksumIgnored,
        /// A batch of another segment, or of an older life of its blocks, is taken.
        D3AnySegment,
        /// A torn tail is left in the file.
        D3TailKept,
    }
    "D4" {
        /// A leader whose disk hangs leads on.
        D4SickLeads,
        /// A node whose disk hangs never campaigns.
        D4SickNeverCampaigns,
        /// A node whose disk hangs campaigns like the others.
        D4SickInNoHurry,
        /// A disk that was sick once never heals.
        D4NeverHeals,
    }
    "D5" {
        /// A peer that reports less than before is believed.
        D5RollbackUnnoticed,
        /// What peers reported is forgotten by a crash.
        D5MarksForgotten,
        /// A peer whose disk may have gone back votes and acknowledges meanwhile.
        D5SuspectCounts,
        /// A late word of a peer condemns it, unasked.
        D5CondemnedUnasked,
        /// The starts of a node are not counted.
        D5BootNotCounted,
        /// An identity that has bound a cluster starts without its log.
        D5StartsWithoutLog,
    }
    "D6" {
        /// The promises behind the damage in a log are forgotten: term and vote.
        D6VoteForgotten,
        /// What is missing is taken from a peer whose log need not be this one's.
        D6UnverifiedEntries,
        /// What a peer has in the place of what is missing counts as committed.
        D6UncommittedBelieved,
    }
    "D7" {
        /// A group counts as stored without a sync.
        D7NoSync,
        /// A failed sync is tried again on the same file, and believed.
        D7SyncTriedAgain,
        /// The directory is not synced when a segment has got its name.
        D7DirectoryNotSynced,
        /// A segment gets its name before its content is on the disk.
        D7NamedBeforeDurable,
        /// What an opening reads is believed to be on the disk.
        D7CacheBelieved,
        /// A new segment does not repeat term and vote.
        D7HardStateNotRepeated,
    }
    "S1" {
        /// A state machine does not keep the outcomes above the floor.
        S1OutcomesNotKept,
        /// The applied index is not stored together with the state.
        S1IndexNotWithState,
    }
    "S2" {
        /// A retry in an expired session is run as if it were new.
        S2ExpiredRuns,
        /// A retry is run again.
        S2RetryRuns,
        /// Only the last sequence is remembered: what is lower counts as run.
        S2LastSequenceOnly,
        /// A sequence that the client has acknowledged is run again.
        S2StaleRuns,
        /// A retry in the batch that is being executed does not wait for its outcome.
        S2SameBatchNotAwaited,
        /// What the window lets go counts as new.
        S2WindowForgets,
    }
    "S3" {
        /// A new leader's log time begins anew.
        S3LogTimeBeginsAnew,
        /// A session ends though it was active meanwhile.
        S3ExpiresTheActive,
    }
    "S4" {
        /// A snapshot has no sessions.
        S4NoSessions,
        /// The log is cut off beyond the snapshot.
        S4CutBeyondSnapshot,
        /// A snapshot counts as complete before it is on the disk.
        S4SnapshotNotSynced,
        /// The directory is not synced when a snapshot has got its name.
        S4DirectoryNotSynced,
        /// A snapshot that was received is not checked.
        S4ReceivedUnchecked,
    }
    "P1" {
        /// A state machine applies entries with a gap before them.
        P1AnyOrder,
        /// A state machine runs entries that it has applied already.
        P1RunsAgain,
        /// A state machine obeys an earlier connection.
        P1AnyEpoch,
        /// What a state machine has lost is not sent to it again.
        P1LostNotSentAgain,
        /// A retry goes to the state machine as a command.
        P1RetryIsSent,
    }
    "P2" {
        /// A state machine that has more than this node's log is taken as it is.
        P2AheadIsTaken,
        /// A state machine that lacks what the log holds no more is taken as it is.
        P2BehindIsTaken,
    }
    "P4" {
        /// The word of a minority decides which outcome was right.
        P4MinorityDecides,
    }
    "P5" {
        /// An entry that an operator has skipped is run.
        P5SkippedRuns,
    }
    "W1" {
        /// A request is answered for another entry that took the index of its own.
        W1WokenByIndex,
    }
    "W2" {
        /// An older snapshot takes the place of a newer log.
        W2OlderInstalled,
        /// A log that contradicts a snapshot stays.
        W2ConflictingLogStays,
        /// The configuration of the log stays when a snapshot takes its place.
        W2ConfigurationStays,
        /// An install forgets the vote.
        W2VoteForgotten,
        /// What a crash left between a snapshot and the reset of its log is not made up for.
        W2HalfSwitch,
    }
    "W3" {
        /// A refused AppendEntries is no word of the leader.
        W3RefusedIsNoWord,
        /// Heartbeats go with the bulk.
        W3HeartbeatsAreBulk,
    }
    "§3.10" {
        /// The heir is told to take over before it has everything.
        TransferBeforeCaughtUp,
        /// A leader takes entries while it hands over.
        TransferTakesEntries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_chosen_by_its_name() {
        let before = chosen();
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::parse(mutant.name()), Some(*mutant));
            choose(Some(*mutant));
            assert_eq!(chosen(), Some(*mutant));
            assert!(is_on(*mutant));
        }
        choose(None);
        assert_eq!(chosen(), None);
        choose(before);
        assert_eq!(Mutant::parse("NoSuchRule"), None);
    }
}
