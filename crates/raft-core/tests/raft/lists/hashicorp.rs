//! The tests of hashicorp/raft, as of June 2026 (`raft_test.go` and `fuzzy/`). Each name there begins with
//! `TestRaft_`. Much of it is about a library with stores and transports of one's own; what is left of that is
//! the daemon's here.
//!
//! | there | here |
//! |---|---|
//! | StartStop | `it_starts_as_a_follower`, `sigterm_ends_the_daemon_with_0_and_a_second_daemon_on_the_directory_is_refused` |
//! | AfterShutdown | does not apply: a value needs no shutting down; a daemon that stops refuses what comes: `sigterm_hands_leadership_over_before_the_daemon_ends` |
//! | LiveBootstrap | `f1_a_founder_alone_takes_no_entries`, `a_founder_takes_entries_from_its_second_node_on` |
//! | LiveBootstrap_From_NonVoter | `f3_workers_and_second_introducers_never_found` |
//! | RecoverCluster_NoState | `what_no_log_can_go_on_behind_is_not_restored` |
//! | RecoverCluster | `a_cluster_that_is_lost_comes_back_from_what_was_saved` |
//! | HasExistingState | `f1_founding_needs_an_empty_log`, `an_empty_node_is_known` |
//! | SingleNode | `an_entry_is_committed_by_a_majority_of_durable_copies`, `an_acknowledged_put_survives_kill_9_of_all_three_processes` |
//! | TripleNode | `an_entry_is_committed_everywhere` |
//! | LeaderFail | `a_killed_leader_is_succeeded_at_once` |
//! | BehindFollower | `a_follower_that_was_away_agrees_again` |
//! | ApplyNonLeader | `a_follower_names_the_leader` |
//! | ApplyConcurrent | `many_clients_at_once`, `what_waits_is_one_batch` |
//! | ApplyConcurrent_Timeout | `too_many_uncommitted_entries_are_refused` |
//! | JoinNode | `voters_grow_in_pairs` |
//! | JoinNode_ConfigStore | `a_configuration_is_effective_on_append_and_rolled_back`, `who_campaigns_is_decided_by_the_log` |
//! | RemoveFollower | `leaves_never_go_below_min_voters` |
//! | RemoveLeader | `a_leader_that_leaves_is_replaced_by_a_spare` |
//! | RemoveLeader_NoShutdown | `a_leader_that_is_not_in_c_new_steps_down_when_it_is_committed`, `m5_a_leaver_hears_of_the_final_configuration` |
//! | RemoveFollower_SplitCluster | `m4_a_change_needs_a_healthy_majority_of_both`, `a_change_during_a_partition_splits_nothing` |
//! | AddKnownPeer | `it_comes_to_rest` |
//! | RemoveUnknownPeer | `who_is_not_in_the_configuration_has_left`, `leave_names_a_node_by_what_people_call_it` |
//! | SnapshotRestore | `a_start_from_a_snapshot` |
//! | RestoreSnapshotOnStartup_Monotonic | does not apply: the log is our own, and always contiguous: `a_start_behind_a_snapshot` |
//! | RestoreSnapshotOnStartup_CommitTrackingLogs | does not apply: what is committed is not stored: `a_start_from_a_snapshot` |
//! | RestoreCommittedLogs | does not apply: what is committed is not stored; it is learnt anew: `all_killed_at_once` |
//! | RestoreCommittedLogs_IncompatibleLogStore | does not apply: there is one kind of log |
//! | SnapshotRestore_Progress | does not apply: it looks at a progress bar |
//! | NoRestoreOnStart | `a_restore_beside_a_node_that_is_not_empty_is_refused` |
//! | SnapshotRestore_PeerChange | `a_snapshot_brings_its_configuration` |
//! | AutoSnapshot | `what_is_kept_is_bounded_by_the_state_and_a_cut_transfer_goes_on` |
//! | UserSnapshot | `a_cluster_that_is_lost_comes_back_from_what_was_saved` |
//! | UserRestore | `a_cluster_that_is_lost_comes_back_from_what_was_saved`, `a_restore_cut_anywhere_is_repeated_or_has_happened` |
//! | SendSnapshotFollower | `a_slow_node_is_restored_and_counts` |
//! | SendSnapshotAndLogsFollower | `a_follower_that_is_far_behind_catches_up_by_snapshot_while_writes_go_on` |
//! | ReJoinFollower | `a_dead_voter_is_replaced_by_a_spare`, `a_removed_id_is_never_added_again` |
//! | LeaderLeaseExpire | `e3_check_quorum_takes_the_role` |
//! | Barrier | does not apply: there is no such call; a linearizable read waits in the same way: `a_read_waits_for_a_round_of_heartbeats` |
//! | VerifyLeader | `a_read_waits_for_a_round_of_heartbeats` |
//! | VerifyLeader_Single | `a_leader_alone_confirms_itself` |
//! | VerifyLeader_Fail | `a_leader_that_slept_serves_nothing_old`, `r2_a_round_dies_with_the_term` |
//! | VerifyLeader_PartialConnect | `a_minority_is_silent` |
//! | NotifyCh | `the_events_of_raft_are_found` |
//! | AppendEntry | `a_follower_checks_where_the_logs_join` |
//! | PreVoteMixedCluster | does not apply: pre-vote is always on, there is no node without it |
//! | PreVoteAvoidElectionWithPartition | `a_returning_node_disturbs_nobody`, `a_disruptive_follower_is_refused_and_follows` |
//! | VotingGrant_WhenLeaderAvailable | `a_vote_is_refused_while_a_leader_is_heard` |
//! | ProtocolVersion_RejectRPC | does not apply: there is one version of the protocol so far; streams that make no sense are refused: `hellos_that_make_no_sense_are_refused` |
//! | ProtocolVersion_Upgrade_1_2 | does not apply: there is one version of the protocol so far |
//! | ProtocolVersion_Upgrade_2_3 | does not apply: there is one version of the protocol so far |
//! | LeaderID_Propagated | `a_leader_leads_on_while_nothing_fails` |
//! | LeadershipTransferInProgress | `an_heir_that_does_not_take_over_is_given_up`, `a_second_order_to_the_same_heir_changes_nothing` |
//! | LeadershipTransferPickServer | `the_fittest_voter_is_the_heir` |
//! | LeadershipTransfer | `leadership_is_handed_over` |
//! | LeadershipTransferWithOneNode | `nobody_but_a_voter_is_an_heir` |
//! | LeadershipTransferWithWrites | `leadership_goes_round_while_clients_write` |
//! | LeadershipTransferWithSevenNodes | `leadership_goes_round_while_clients_write` |
//! | LeadershipTransferToInvalidID | `nobody_but_a_voter_is_an_heir` |
//! | LeadershipTransferToInvalidAddress | does not apply: an heir is named by its id; who cannot be reached is `an_heir_that_does_not_take_over_is_given_up` |
//! | LeadershipTransferToBehindServer | `a_slow_heir_gets_the_log_first` |
//! | LeadershipTransferToItself | `nobody_but_a_voter_is_an_heir` |
//! | LeadershipTransferLeaderRejectsClientRequests | `an_heir_that_does_not_take_over_is_given_up` |
//! | LeadershipTransferLeaderReplicationTimeout | `an_heir_that_does_not_take_over_is_given_up` |
//! | LeadershipTransferIgnoresNonvoters | `nobody_but_a_voter_is_an_heir` |
//! | LeadershipTransferStopRightAway | `sigterm_hands_leadership_over_before_the_daemon_ends` |
//! | GetConfigurationNoBootstrap | `a_node_of_no_cluster_waits` |
//! | LogStoreIsMonotonic | does not apply: there is one kind of log |
//! | CacheLogWithStoreError | `a_failed_sync_poisons_the_log`, `a_failed_disk_ends_the_thread` |
//! | ReloadConfig | does not apply: times are read once, at the start |
//! | ReloadConfigValidates | does not apply: times are read once, at the start: `values_that_do_not_fit_together_are_refused` |
//! | InstallSnapshot_InvalidPeers | `what_no_correct_node_sends_is_refused`, `heads_come_back_and_changed_ones_do_not` |
//! | VoteNotGranted_WhenNodeNotInCluster | does not apply: a vote is given by term and log, whatever the voter's own configuration says (M5): `m5_who_votes_and_who_campaigns`; a leader is not disturbed: `e3_a_stranger_deposes_nobody` |
//! | ClusterCanRegainStability_WhenNonVoterWithHigherTermJoin | `a_learner_of_a_higher_term_costs_one_election`, `e3_a_stranger_deposes_nobody` |
//! | FollowerRemovalNoElection | `a_partitioned_node_is_removed_and_disturbs_nobody` |
//! | runFollower_State_Transition | `m5_who_votes_and_who_campaigns`, `a_follower_that_hears_nothing_calls_an_election` |
//! | runFollower_ReloadTimeoutConfigs | does not apply: times are read once, at the start |
//! | PreVote_ShouldNotRejectLeader | does not apply: whoever leads asks for no votes: `a_leader_does_not_campaign` |
//! | PreVote_ShouldRejectNonLeader | `a_vote_is_refused_while_a_leader_is_heard` |
//! | FuzzyLeadershipTransfer (fuzzy) | `leadership_goes_round_while_clients_write` |
//! | AddMembership (fuzzy) | `members_come_while_clients_write` |
//! | AddRemoveNodesNotLeader (fuzzy) | `members_come_and_go_while_clients_write` |
//! | RemoveLeader (fuzzy) | `a_leader_that_leaves_is_replaced_by_a_spare` |
//! | RemovePartitionedNode (fuzzy) | `a_partitioned_node_is_removed_and_disturbs_nobody` |
//! | LeaderPartitions (fuzzy) | `leaders_are_cut_off_in_turn` |
//! | NoIssueSanity (fuzzy) | `nothing_happens_where_nothing_fails` |
//! | SlowSendVote (fuzzy) | `one_nodes_requests_for_votes_are_slow`, `all_requests_for_votes_are_slow` |
//! | SlowRecvVote (fuzzy) | `one_nodes_votes_are_slow` |
