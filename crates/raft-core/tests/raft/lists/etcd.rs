//! The tests of etcd's raft, as of August 2026: those after the paper (`raft_paper_test.go`), those of the
//! implementation (`raft_test.go`, and with it `raft_flow_control_test.go` and `raft_snap_test.go`), and the
//! interaction files. Each name there begins with `Test`.
//!
//! ## raft_paper_test.go
//!
//! | there | here |
//! |---|---|
//! | FollowerUpdateTermFromMessage | `a_higher_term_makes_a_follower` |
//! | CandidateUpdateTermFromMessage | `a_higher_term_makes_a_follower` |
//! | LeaderUpdateTermFromMessage | `a_higher_term_makes_a_follower` |
//! | RejectStaleTermMessage | `a_stale_term_is_refused` |
//! | StartAsFollower | `it_starts_as_a_follower` |
//! | LeaderBcastBeat | `a_leader_sends_heartbeats` |
//! | FollowerStartElection | `a_follower_that_hears_nothing_calls_an_election` |
//! | CandidateStartNewElection | `a_split_vote_is_followed_by_another_election` |
//! | LeaderElectionInOneRoundRPC | `a_majority_of_votes_elects`, `votes_are_counted_by_voter` |
//! | FollowerVote | `one_vote_per_term`, `a_vote_survives_a_crash` |
//! | CandidateFallback | `a_candidate_falls_back_for_a_leader_of_its_term` |
//! | FollowerElectionTimeoutRandomized | `election_timeouts_are_spread` |
//! | CandidateElectionTimeoutRandomized | `a_candidates_timeouts_are_spread` |
//! | FollowersElectionTimeoutNonconflict | `timeouts_rarely_meet` |
//! | CandidatesElectionTimeoutNonconflict | `timeouts_rarely_meet`, `a_candidates_timeouts_are_spread` |
//! | LeaderStartReplication | `a_leader_appends_and_sends_at_once` |
//! | LeaderCommitEntry | `an_entry_is_committed_by_a_majority_of_durable_copies`, `an_entry_is_committed_everywhere` |
//! | LeaderAcknowledgeCommit | `an_entry_is_committed_by_a_majority_of_durable_copies` |
//! | LeaderCommitPrecedingEntries | `a_commit_takes_what_stands_before_it` |
//! | FollowerCommitEntry | `a_follower_commits_what_the_leader_committed` |
//! | FollowerCheckMsgApp | `a_follower_checks_where_the_logs_join` |
//! | FollowerAppendEntries | `a_conflict_is_overwritten_by_the_leaders_entries`, `a_repeated_or_overtaken_append_changes_nothing` |
//! | LeaderSyncFollowerLog | `figure_7` |
//! | VoteRequest | `a_follower_that_hears_nothing_calls_an_election` |
//! | Voter | `a_voter_compares_the_logs` |
//! | LeaderOnlyCommitsLogFromCurrentTerm | `only_the_present_term_is_committed_by_counting`, `figure_8` |
//!
//! ## raft_test.go
//!
//! | there | here |
//! |---|---|
//! | ProgressLeader | `an_entry_is_committed_by_a_majority_of_durable_copies` |
//! | ProgressResumeByHeartbeatResp | `a_lost_probe_is_sent_again` |
//! | ProgressPaused | `a_probe_is_one_append_and_its_answer_opens_the_pipeline` |
//! | ProgressFlowControl | `a_pipeline_is_bounded_by_number`, `a_pipeline_is_bounded_by_bytes` |
//! | UncommittedEntryLimit | `too_many_uncommitted_entries_are_refused`, `uncommitted_entries_are_bounded_in_bytes` |
//! | LeaderElection | `an_election_needs_a_majority_that_can_be_reached` |
//! | LeaderElectionPreVote | `an_election_needs_a_majority_that_can_be_reached` |
//! | LearnerElectionTimeout | `m5_who_votes_and_who_campaigns`, `a_learner_does_not_hold_on_to_a_silent_leader` |
//! | LearnerPromotion | `a_promoted_learner_campaigns`, `m6_no_promotion_without_own_acknowledgements` |
//! | LearnerCanVote | `m5_who_votes_and_who_campaigns` |
//! | LeaderCycle | `everyone_can_lead_in_turn` |
//! | LeaderCyclePreVote | `everyone_can_lead_in_turn` |
//! | LeaderElectionOverwriteNewerLogs | `a_new_leader_overwrites_newer_logs_that_are_not_committed` |
//! | LeaderElectionOverwriteNewerLogsPreVote | `a_new_leader_overwrites_newer_logs_that_are_not_committed` |
//! | VoteFromAnyState | `a_vote_is_given_in_any_role` |
//! | PreVoteFromAnyState | `a_vote_is_given_in_any_role` |
//! | LogReplication | `an_entry_is_committed_everywhere`, `everyone_can_lead_in_turn` |
//! | LearnerLogReplication | `a_learner_gets_the_log_and_does_not_count` |
//! | SingleNodeCommit | `an_entry_is_committed_by_a_majority_of_durable_copies` |
//! | CannotCommitWithoutNewTermEntry | `only_the_present_term_is_committed_by_counting` |
//! | CommitWithoutNewTermEntry | `a_commit_takes_what_stands_before_it` |
//! | DuelingCandidates | `duelling_candidates`, `a_split_vote_of_four_is_settled_in_a_later_term` |
//! | DuelingPreCandidates | `duelling_candidates` |
//! | CandidateConcede | `a_candidate_concedes_with_its_log` |
//! | SingleNodeCandidate | `a_majority_of_votes_elects` |
//! | SingleNodePreCandidate | `a_majority_of_votes_elects` |
//! | OldMessages | `an_older_leader_is_told_and_changes_nothing` |
//! | Proposal | `followers_fail_one_after_another`, `too_many_are_away_to_agree` |
//! | ProposalByProxy | `a_follower_names_the_leader`, `a_write_through_any_node_reaches_the_leader_and_is_read_from_any_node` |
//! | Commit | `a_quorum_is_what_the_definition_says`, `only_the_present_term_is_committed_by_counting` |
//! | PastElectionTimeout | `election_timeouts_are_spread` |
//! | StepIgnoreOldTermMsg | `a_stale_term_is_refused` |
//! | HandleMsgApp | `a_follower_checks_where_the_logs_join`, `a_conflict_is_overwritten_by_the_leaders_entries`, `a_follower_commits_what_the_leader_committed` |
//! | HandleHeartbeat | `a_heartbeat_tells_what_the_peer_can_commit`, `a_follower_commits_what_the_leader_committed` |
//! | HandleHeartbeatResp | `a_leader_sends_again_what_was_lost`, `a_lost_probe_is_sent_again` |
//! | RaftFreesReadOnlyMem | `answered_reads_leave_nothing_behind` |
//! | MsgAppRespWaitReset | `a_probe_is_one_append_and_its_answer_opens_the_pipeline` |
//! | RecvMsgVote | `a_voter_compares_the_logs` |
//! | RecvMsgPreVote | `a_voter_compares_the_logs` |
//! | StateTransition | does not apply: roles change inside the core only; that no input leads to an impossible change is `no_input_makes_a_panic_or_a_deadline_that_stays` |
//! | AllServerStepdown | `a_higher_term_makes_a_follower` |
//! | CandidateResetTermMsgHeartbeat | `a_disruptive_follower_is_refused_and_follows`, `e3_a_stuck_candidate_is_freed` |
//! | CandidateResetTermMsgApp | `a_candidate_falls_back_for_a_leader_of_its_term`, `e3_a_stuck_candidate_is_freed` |
//! | CandidateSelfVoteAfterLostElection | `an_own_vote_that_is_durable_too_late_counts_for_nothing` |
//! | CandidateSelfVoteAfterLostElectionPreVote | `an_own_vote_that_is_durable_too_late_counts_for_nothing` |
//! | CandidateDeliversPreCandidateSelfVoteAfterBecomingCandidate | `an_own_vote_that_is_durable_too_late_counts_for_nothing` |
//! | LeaderMsgAppSelfAckAfterTermChange | `a_leaders_own_write_that_is_reported_after_its_term` |
//! | LeaderStepdownWhenQuorumActive | `e3_check_quorum_takes_the_role` |
//! | LeaderStepdownWhenQuorumLost | `e3_check_quorum_takes_the_role` |
//! | LeaderSupersedingWithCheckQuorum | `e3_refusal_while_a_leader_is_heard`, `a_vote_is_refused_while_a_leader_is_heard` |
//! | LeaderElectionWithCheckQuorum | `e3_refusal_while_a_leader_is_heard`, `e5_a_cold_start_is_quick` |
//! | FreeStuckCandidateWithCheckQuorum | `e3_a_stuck_candidate_is_freed` |
//! | NonPromotableVoterWithCheckQuorum | `m5_who_votes_and_who_campaigns` |
//! | DisruptiveFollower | `a_disruptive_follower_is_refused_and_follows` |
//! | DisruptiveFollowerPreVote | `a_disruptive_follower_is_refused_and_follows`, `a_returning_node_disturbs_nobody` |
//! | ReadOnlyOptionSafe | `a_read_waits_for_a_round_of_heartbeats`, `r2_a_read_joins_no_round_that_was_sent_before_it` |
//! | ReadOnlyWithLearner | `a_learner_asks_for_reads_too` |
//! | ReadOnlyOptionLease | does not apply: reads never rest on a lease (E4) |
//! | ReadOnlyForNewLeader | `r1_no_read_before_an_entry_of_the_term_is_committed` |
//! | ReadOnlyDuplicateRequest | `an_ask_that_is_doubled_serves_its_reads_once` |
//! | LeaderAppResp | `the_place_where_logs_part_is_found_by_terms`, `a_denial_that_was_overtaken_moves_nothing_back` |
//! | BcastBeat | `a_heartbeat_tells_what_the_peer_can_commit` |
//! | RecvMsgBeat | `a_leader_sends_heartbeats`, `only_a_leader_sends_heartbeats` |
//! | LeaderIncreaseNext | `a_probe_is_one_append_and_its_answer_opens_the_pipeline` |
//! | SendAppendForProgressProbe | `a_probe_is_one_append_and_its_answer_opens_the_pipeline` |
//! | SendAppendForProgressReplicate | `a_probe_is_one_append_and_its_answer_opens_the_pipeline` |
//! | SendAppendForProgressSnapshot | `a_peer_behind_the_base_is_offered_the_snapshot` |
//! | RecvMsgUnreachable | `a_new_stream_begins_with_a_probe` |
//! | Restore | `w2_an_install_is_one_switch` |
//! | RestoreWithLearner | `a_snapshot_brings_its_configuration` |
//! | RestoreWithVotersOutgoing | `a_snapshot_brings_its_configuration` |
//! | RestoreVoterToLearner | `a_snapshot_brings_its_configuration` |
//! | RestoreLearnerPromotion | `a_snapshot_brings_its_configuration` |
//! | LearnerReceiveSnapshot | `a_snapshot_brings_its_configuration` |
//! | RestoreIgnoreSnapshot | `w2_stale_and_foreign_snapshots_are_ignored`, `w2_a_log_that_holds_the_last_entry_stays` |
//! | ProvideSnap | `a_peer_behind_the_base_is_offered_the_snapshot` |
//! | IgnoreProvidingSnap | `a_peer_that_is_a_little_behind_needs_no_snapshot` |
//! | RestoreFromSnapMsg | does not apply: it is empty there; the message is `an_offer_of_what_is_here_is_acknowledged` |
//! | SlowNodeRestore | `a_slow_node_is_restored_and_counts` |
//! | StepConfig | `a_new_server_is_a_learner_first` |
//! | StepIgnoreConfig | `one_change_at_a_time`, `a_client_brings_no_configuration` |
//! | NewLeaderPendingConfig | `m5_an_inherited_joint_configuration_is_ended`, `a_new_leader_changes_nothing_before_its_no_op_is_committed` |
//! | AddNode | `voters_grow_in_pairs` |
//! | AddLearner | `a_new_server_is_a_learner_first` |
//! | AddNodeCheckQuorum | `a_new_voter_is_given_time_to_answer` |
//! | RemoveNode | `m1_leaves_are_gathered`, `leaves_never_go_below_min_voters` |
//! | RemoveLearner | `every_plan_keeps_the_rules`, `m1_leaves_stop_at_min_voters` |
//! | Promotable | `m5_who_votes_and_who_campaigns`, `who_campaigns_is_decided_by_the_log` |
//! | RaftNodes | does not apply: it looks at the order of a list; ours are ordered sets by their type |
//! | CampaignWhileLeader | `a_leader_does_not_campaign` |
//! | PreCampaignWhileLeader | `a_leader_does_not_campaign` |
//! | CommitAfterRemoveNode | `a_smaller_configuration_commits_what_waited_for_the_larger` |
//! | LeaderTransferToUpToDateNode | `there_and_back_again` |
//! | LeaderTransferToUpToDateNodeFromFollower | `a_follower_hands_nothing_over` |
//! | LeaderTransferWithCheckQuorum | `there_and_back_again`, `e3_a_leader_yields_to_its_own_token` |
//! | LeaderTransferToSlowFollower | `a_slow_heir_gets_the_log_first` |
//! | LeaderTransferAfterSnapshot | `an_heir_behind_the_log_gets_a_snapshot_first` |
//! | LeaderTransferToSelf | `nobody_but_a_voter_is_an_heir` |
//! | LeaderTransferToNonExistingNode | `nobody_but_a_voter_is_an_heir` |
//! | LeaderTransferTimeout | `an_heir_that_does_not_take_over_is_given_up` |
//! | LeaderTransferIgnoreProposal | `an_heir_that_does_not_take_over_is_given_up` |
//! | LeaderTransferReceiveHigherTermVote | `a_higher_term_ends_a_hand_over` |
//! | LeaderTransferRemoveNode | `no_change_begins_during_a_hand_over`, `nobody_but_a_voter_is_an_heir` |
//! | LeaderTransferDemoteNode | `no_change_begins_during_a_hand_over`, `nobody_but_a_voter_is_an_heir` |
//! | LeaderTransferBack | `there_and_back_again` |
//! | LeaderTransferSecondTransferToAnotherNode | `a_second_order_to_another_heir_takes_the_first_ones_place`, `orders_in_turn_share_one_time` |
//! | LeaderTransferSecondTransferToSameNode | `a_second_order_to_the_same_heir_changes_nothing` |
//! | TransferNonMember | `m5_who_votes_and_who_campaigns` |
//! | NodeWithSmallerTermCanCompleteElection | `a_node_of_a_smaller_term_does_not_block_the_election` |
//! | PreVoteWithSplitVote | `a_split_vote_of_four_is_settled_in_a_later_term`, `succession_does_not_split_the_vote` |
//! | PreVoteWithCheckQuorum | `a_minority_is_silent`, `there_is_a_leader_where_there_is_a_majority` |
//! | LearnerCampaign | `m5_who_votes_and_who_campaigns` |
//! | PreVoteMigrationCanCompleteElection | does not apply: pre-vote is always on, there is no node without it |
//! | PreVoteMigrationWithFreeStuckPreCandidate | does not apply: pre-vote is always on, there is no node without it |
//! | ConfChangeCheckBeforeCampaign | `who_campaigns_is_decided_by_the_log`, `a_configuration_is_effective_on_append_and_rolled_back` |
//! | ConfChangeV2CheckBeforeCampaign | `who_campaigns_is_decided_by_the_log`, `a_joint_election_needs_both_majorities` |
//! | FastLogRejection | `the_place_where_logs_part_is_found_by_terms`, `an_append_that_begins_before_the_base` |
//! | LogReplicationWithReorderedMessage | `a_denial_that_was_overtaken_moves_nothing_back` |
//!
//! ## raft_flow_control_test.go and raft_snap_test.go
//!
//! | there | here |
//! |---|---|
//! | MsgAppFlowControlFull | `a_pipeline_is_bounded_by_number` |
//! | MsgAppFlowControlMoveForward | `a_pipeline_is_bounded_by_number` |
//! | MsgAppFlowControlRecvHeartbeat | `a_full_pipeline_that_is_lost_is_sent_again` |
//! | SendingSnapshotSetPendingSnapshot | `a_peer_behind_the_base_is_offered_the_snapshot`, `what_stands_behind_a_snapshot_under_way_is_kept` |
//! | PendingSnapshotPauseReplication | `a_peer_behind_the_base_is_offered_the_snapshot` |
//! | SnapshotFailure | does not apply: the follower pulls, and resumes where it was cut: `receiving_goes_on_where_it_was_cut` |
//! | SnapshotSucceed | `a_peer_behind_the_base_is_offered_the_snapshot` |
//! | SnapshotAbort | `an_acknowledgement_below_the_snapshot_is_answered_by_another_offer` |
//!
//! ## Interaction files
//!
//! | there | here |
//! |---|---|
//! | async_storage_writes | `nothing_is_said_in_a_term_before_it_is_on_the_disk`, `d1_nothing_is_handed_out_before_it_is_durable_here` |
//! | async_storage_writes_append_aba_race | `entries_that_are_overwritten_while_the_disk_is_behind`, `d2_a_report_of_an_older_generation_counts_for_nothing` |
//! | campaign | `a_follower_that_hears_nothing_calls_an_election` |
//! | campaign_learner_must_vote | `m5_who_votes_and_who_campaigns` |
//! | checkquorum | `e3_check_quorum_takes_the_role` |
//! | confchange_disable_validation | does not apply: the validation cannot be turned off |
//! | confchange_v1_add_single | `a_new_server_is_a_learner_first` |
//! | confchange_v1_remove_leader | `a_leader_that_is_not_in_c_new_steps_down_when_it_is_committed` |
//! | confchange_v1_remove_leader_stepdown | `a_leader_that_is_not_in_c_new_steps_down_when_it_is_committed` |
//! | confchange_v2_add_double_auto | `two_come_and_two_go_by_one_change_each` |
//! | confchange_v2_add_double_implicit | `two_come_and_two_go_by_one_change_each` |
//! | confchange_v2_add_single_auto | does not apply: every change of voters is joint: `m5_an_inherited_joint_configuration_is_ended` |
//! | confchange_v2_add_single_explicit | does not apply: a joint configuration always ends by itself: `m5_an_inherited_joint_configuration_is_ended` |
//! | confchange_v2_replace_leader | `a_leader_that_leaves_is_replaced_by_a_spare` |
//! | confchange_v2_replace_leader_stepdown | `a_leader_that_leaves_is_replaced_by_a_spare` |
//! | forget_leader | does not apply: nobody orders a follower to forget; when it does so by itself is `a_learner_does_not_hold_on_to_a_silent_leader` |
//! | forget_leader_prevote_checkquorum | does not apply: likewise; what lets votes through early is `e2_a_probe_decides` |
//! | forget_leader_read_only_lease_based | does not apply: reads never rest on a lease (E4) |
//! | heartbeat_resp_recovers_from_probing | `a_lost_probe_is_sent_again` |
//! | lagging_commit | `a_lagging_commit_index_is_told_by_the_next_heartbeat` |
//! | prevote | `duelling_candidates` |
//! | prevote_checkquorum | `e3_refusal_while_a_leader_is_heard` |
//! | probe_and_replicate | `figure_7`, `the_place_where_logs_part_is_found_by_terms` |
//! | replicate_pause | `a_pipeline_is_bounded_by_number`, `a_full_pipeline_that_is_lost_is_sent_again` |
//! | single_node | `an_entry_is_committed_by_a_majority_of_durable_copies`, `a_majority_of_votes_elects` |
//! | slow_follower_after_compaction | `a_peer_that_is_a_little_behind_needs_no_snapshot`, `a_slow_node_is_restored_and_counts` |
//! | snapshot_succeed_via_app_resp | `a_peer_behind_the_base_is_offered_the_snapshot` |
//! | snapshot_succeed_via_app_resp_behind | `an_acknowledgement_below_the_snapshot_is_answered_by_another_offer` |
//! | joint_autoleave | `m5_an_inherited_joint_configuration_is_ended` |
//! | joint_idempotency | `every_plan_keeps_the_rules`, `it_comes_to_rest` |
//! | joint_learners_next | `a_demoted_voter_counts_until_the_joint_configuration_is_left` |
//! | joint_safety | `one_change_at_a_time`, `every_plan_keeps_the_rules` |
//! | simple_idempotency | `it_comes_to_rest` |
//! | simple_promote_demote | `m4_dead_is_ten_seconds_without_contact`, `m6_no_promotion_without_own_acknowledgements` |
//! | simple_safety | does not apply: there are no changes without a joint configuration, but of learners: `one_change_at_a_time` |
//! | update | does not apply: a configuration holds ids only; addresses are the member map's |
//! | zero | does not apply: an id of 0 has no meaning of its own here |
//! | joint_commit (quorum) | `a_quorum_is_what_the_definition_says`, `a_joint_commit_needs_both_majorities` |
//! | joint_vote (quorum) | `a_quorum_is_what_the_definition_says`, `a_joint_election_needs_both_majorities` |
//! | majority_commit (quorum) | `a_quorum_is_what_the_definition_says` |
//! | majority_vote (quorum) | `a_quorum_is_what_the_definition_says`, `a_majority_of_votes_elects` |
