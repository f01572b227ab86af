//! What went wrong elsewhere, in implementations that were thought to be done: 35 causes, collected from
//! their reports. Each names what happened; the test shows what happens here.
//!
//! | what happened | here |
//! |---|---|
//! | 1 a crash before save, send, commit, apply | `all_killed_at_once`, `every_height_at_every_crash_of_one_node_of_three`, `ten_times_all_nodes_are_killed_at_once_during_writes` |
//! | 2 a single node acknowledges before its disk | `an_entry_is_committed_by_a_majority_of_durable_copies`, `d1_nothing_is_handed_out_before_it_is_durable_here`, `an_acknowledged_put_survives_kill_9_of_all_three_processes` |
//! | 3 the applied index apart from the state | `a_crash_falls_back_to_a_prefix_with_its_own_outcomes_and_index`, `kill_9_among_writes_leaves_a_prefix` |
//! | 4 term and vote in two writes | `a_group_cut_at_any_byte_happened_or_did_not`, `nothing_reported_is_lost_and_nothing_else_is_invented` |
//! | 5 a vote forgotten within the term | `a_step_down_keeps_the_vote`, `a_vote_survives_a_crash` |
//! | 6 stale acknowledgements after a truncation | `d2_truncation_lowers_the_durable_index`, `entries_that_are_overwritten_while_the_disk_is_behind` |
//! | 7 a quorum by an optimisation | `a_quorum_is_what_the_definition_says` |
//! | 8 entries of an older term on a majority | `figure_8`, `leaders_die_with_entries_in_their_hands` |
//! | 9 a snapshot against the log, or a log cut off whole | `w2_a_log_that_holds_the_last_entry_stays`, `a_log_that_is_cut_off_whole`, `a_peer_behind_the_base_is_offered_the_snapshot` |
//! | 10 a stale configuration above the snapshot | `a_stale_configuration_above_the_snapshot_goes` |
//! | 11 a crash between snapshot and hard state | `a_start_from_a_snapshot_of_a_later_term`, `a_life_with_snapshots_ends_at_any_operation` |
//! | 12 snapshots in a row, contradicting ones, slow links | `w2_a_snapshot_that_contradicts_what_is_settled`, `receiving_goes_on_where_it_was_cut`, `another_offer_takes_the_place_of_the_first`, `a_snapshot_is_as_of_its_index_while_writes_go_on` |
//! | 13 single-step changes across leaders | `a_new_leader_changes_nothing_before_its_no_op_is_committed`, `a_change_that_was_begun_alone_gives_way_to_the_one_that_is_committed` |
//! | 14 a campaign with a configuration not applied | `who_campaigns_is_decided_by_the_log`, `a_configuration_is_effective_on_append_and_rolled_back` |
//! | 15 the leader, a cut-off node, an old id | `a_leader_that_leaves_is_replaced_by_a_spare`, `a_partitioned_node_is_removed_and_disturbs_nobody`, `a_removed_id_is_never_added_again` |
//! | 16 a change during a partition, kills and pauses | `a_change_during_a_partition_splits_nothing`, `chaos_by_seed` |
//! | 17 a full state after every failover and start | `r1_no_read_before_an_entry_of_the_term_is_committed`, `a_state_machine_in_memory_is_restored_from_the_snapshot`, `reads_through_any_node_are_linearizable_while_leaders_die_and_hang` |
//! | 18 a read at a minority or a sleeping leader | `a_minority_is_silent`, `a_leader_that_slept_serves_nothing_old`, `r2_asks_are_never_reused` |
//! | 19 lease reads and clocks | does not apply: reads never rest on a lease (E4) |
//! | 20 partial reachability, a high term that comes back | `a_follower_that_alone_does_not_hear_the_leader_deposes_nobody`, `a_returning_node_disturbs_nobody`, `e3_a_stuck_candidate_is_freed` |
//! | 21 the leader's disk hangs or is full | `d4_a_sick_leader_hands_over_or_steps_down`, `a_leader_with_a_hanging_disk_hands_over`, `a_full_disk_refuses_writes_and_goes_on_when_there_is_room` |
//! | 22 a follower's disk hangs, and goes on | `a_followers_disk_hangs_and_goes_on`, `a_follower_with_a_full_disk_lags_and_catches_up` |
//! | 23 a data directory wiped or rolled back | `a_disk_that_went_back_is_noticed`, `d5_a_peer_that_reports_less_is_noticed`, `the_condemned_commit_nothing` |
//! | 24 a power loss | `nothing_reported_is_lost_and_nothing_else_is_invented`, `an_opening_that_is_cut_short_harms_nothing` |
//! | 25 a flipped bit in a committed record | `a_flipped_bit_is_noticed_except_in_the_last_group`, `damage_is_named_and_left_as_it_is` |
//! | 26 a retry after a crash, a pause, an expiry, a restore | `s2_a_retry_is_not_run_again`, `s2_an_unknown_session_has_expired`, `a_session_and_its_outcomes_live_in_the_snapshot` |
//! | 27 the state machine dies, hangs, lies, is ahead, is empty | `every_height_at_every_crash_of_one_node_of_three`, `the_state_machine_may_crash_at_any_time_and_nothing_is_applied_twice_or_lost`, `a_state_machine_that_starts_empty_after_the_first_snapshot_is_restored` |
//! | 28 proposals without a quorum | `too_many_uncommitted_entries_are_refused`, `uncommitted_entries_are_bounded_in_bytes` |
//! | 29 failed, and there all the same | `w1_an_acceptance_names_index_and_term`, `at_step_down_only_what_is_uncommitted_and_repeatable_is_unknown`, `once_there_is_doubt_nothing_but_an_answer_ends_it` |
//! | 30 locks without fencing | does not apply: there are no locks |
//! | 31 mixed versions | does not apply: there is one version so far; pre-vote is always on |
//! | 32 a follower that catches up campaigns | `w3_a_refused_append_refreshes_the_timer` |
//! | 33 a commit after a later own flush | `an_entry_is_committed_by_a_majority_of_durable_copies` |
//! | 34 votes and acks before the disk | `nothing_is_said_in_a_term_before_it_is_on_the_disk`, `a_follower_acknowledges_what_is_durable` |
//! | 35 mixed faults, writes through followers | `chaos_by_seed`, `reads_through_any_node_are_linearizable_while_leaders_die_and_hang` |
