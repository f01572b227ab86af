//! The project's own safety rules. Each was found by a schedule that breaks the obvious implementation; the
//! tests are those schedules.
//!
//! | rule | here |
//! |---|---|
//! | E1 succession | `e1_heirs_follow_in_order`, `e1_who_granted_stays_quiet`, `e1_a_failed_hinted_election_is_retried_three_times`, `e1_another_election_that_fails_leaves_the_place`, `e1_the_order_of_succession`, `e1_who_was_not_heard_stands_last`, `succession_does_not_split_the_vote` |
//! | E2 when a leader is lost | `e2_a_probe_decides`, `e2_an_answer_about_something_else_does_not_count`, `e2_a_word_of_the_leader_clears_the_loss`, `e2_a_use_needs_a_leader_of_some_standing`, `a_flapping_link_deposes_nobody` |
//! | E3 refusal | `e3_refusal_while_a_leader_is_heard`, `e3_a_leader_yields_to_its_own_token`, `e3_no_token_is_no_token`, `e3_a_stuck_candidate_is_freed`, `e3_a_stranger_deposes_nobody`, `e3_check_quorum_takes_the_role` |
//! | E4 leases | does not apply: reads never rest on a lease (E4) |
//! | E5 cold start | `e5_a_cold_start_is_quick` |
//! | R1 | `r1_no_read_before_an_entry_of_the_term_is_committed`, `r1_a_read_that_waits_too_long_fails` |
//! | R2 | `r2_a_read_joins_no_round_that_was_sent_before_it`, `r2_voters_confirm_of_both_halves`, `r2_a_round_dies_with_the_term`, `r2_asks_are_never_reused`, `r2_an_ask_dies_with_the_term` |
//! | R3 | `queries_run_beside_a_batch_and_wait_for_their_index`, `only_the_latest_epoch_is_answered_and_a_handshake_opens_a_larger_one`, `reads_through_any_node_are_linearizable_while_leaders_die_and_hang` |
//! | F1 | `f1_a_founder_alone_takes_no_entries`, `f1_founding_needs_an_empty_log`, `f1_an_introducer_alone_never_founds`, `f1_it_founds_a_window_after_the_first_empty_answer`, `f1_a_cluster_heard_at_any_time_is_joined` |
//! | F2 | `f2_nothing_is_accepted_after_a_dissolve`, `f2_a_cluster_with_content_does_not_give_way`, `f2_content_never_gives_way_and_of_two_empty_ones_exactly_one_does` |
//! | F3 | `f3_workers_and_second_introducers_never_found`, `the_first_cluster_is_pinned_and_another_refused` |
//! | F4 | `f4_a_founding_entry_is_never_replaced`, `identity_and_log_belong_together` |
//! | M1 | `m1_a_leaver_is_no_heir`, `m1_an_heir_that_begins_to_leave_is_not_told`, `m1_an_heir_that_stops_gives_way_to_the_next`, `m1_without_any_heir_left_the_sound_lead_on`, `m1_leaves_are_gathered`, `m1_a_leaver_retires_when_the_final_configuration_is_committed`, `leaves_never_go_below_min_voters`, `the_dropped_hear_it_though_they_acknowledge_last` |
//! | M2 | `m2_the_odd_node_out_is_a_learner`, `m2_the_table_of_growth`, `voters_grow_in_pairs` |
//! | M3 | `m3_a_removed_id_never_joins_again`, `m3_removed_ids_never_join`, `m3_who_is_left_alone_asks`, `a_removed_id_is_never_added_again` |
//! | M4 | `m4_dead_is_ten_seconds_without_contact`, `m4_a_partition_of_15_seconds_removes_nobody`, `m4_a_change_needs_a_healthy_majority_of_both`, `m4_who_was_never_heard_is_not_healthy`, `m4_a_new_leader_counts_on_those_that_it_has_heard`, `m4_the_budget_binds_automation_only`, `m4_automatic_changes_have_a_budget` |
//! | M5 | `m5_an_inherited_joint_configuration_is_ended`, `m5_who_votes_and_who_campaigns`, `m5_a_leaver_campaigns_while_c_old_may_need_it`, `m5_a_leaver_that_was_killed_campaigns_too`, `m5_a_successor_that_was_killed_feeds_who_leaves`, `m5_a_leaver_hears_of_the_final_configuration`, `a_leader_that_is_not_in_c_new_steps_down_when_it_is_committed` |
//! | M6 | `m6_no_promotion_without_own_acknowledgements`, `m6_who_lacks_more_than_a_batch_is_no_spare` |
//! | D1 | `d1_nothing_is_handed_out_before_it_is_durable_here` |
//! | D2 | `d2_a_report_of_an_older_generation_counts_for_nothing`, `d2_truncation_lowers_the_durable_index` |
//! | D3 | `a_flipped_bit_is_noticed_except_in_the_last_group`, `old_records_in_a_reused_segment_do_not_count`, `a_segment_cut_at_any_byte_is_a_prefix_or_is_refused` |
//! | D4 | `d4_a_sick_leader_hands_over_or_steps_down`, `d4_the_sick_campaign_late`, `d4_the_sick_lead_when_nobody_else_can`, `d4_a_greeting_holds_nothing_back` |
//! | D5 | `d5_a_peer_that_reports_less_is_noticed`, `d5_an_overtaken_hello_is_no_rollback`, `a_disk_that_went_back_is_noticed` |
//! | D6 | `d6_a_shortened_log_never_votes`, `d6_only_entries_of_the_same_log_are_taken`, `d6_what_was_never_committed_gives_way_to_what_was`, `d6_a_stale_end_before_the_damage_is_found`, `d6_a_peer_that_has_cut_off_its_log_helps_as_far_as_it_goes`, `d6_nonsense_is_useless`, `a_bit_flipped_in_any_byte_is_noticed_and_mended_or_harmless`, `a_vote_outlives_the_repair`, `what_was_never_committed_gives_way`, `a_log_damaged_in_its_middle_is_repaired_from_the_others` |
//! | D7 | `a_failed_sync_poisons_the_log`, `what_a_failed_sync_left_is_not_trusted`, `what_an_opening_finds_is_durable_even_after_a_failed_sync` |
//! | S1 | `outcomes_at_or_below_the_floor_are_forgotten_and_the_floor_only_rises`, `a_durable_state_machine_counts_every_increment_once_whatever_is_killed`, `a_volatile_state_machine_counts_every_increment_once_whatever_is_killed` |
//! | S2 | `s2_an_unknown_session_has_expired`, `s2_a_retry_is_not_run_again`, `s2_sequences_may_commit_out_of_order`, `s2_what_is_acknowledged_is_stale`, `s2_an_expired_session_stays_expired` |
//! | S3 | `s3_log_time_goes_on_from_the_last_entry`, `s3_an_expiry_is_void_after_newer_activity`, `s3_those_who_were_idle_for_too_long_are_named` |
//! | S4 | `s4_the_log_is_cut_off_behind_a_snapshot`, `s4_a_snapshot_of_something_else_cuts_nothing`, `a_session_and_its_outcomes_live_in_the_snapshot` |
//! | P1 | `a_batch_that_was_given_up_is_run_once_and_before_the_next_epoch`, `a_gap_is_refused_whole`, `every_height_at_every_crash_of_a_lone_node` |
//! | P2 | `every_height_at_every_crash_of_one_node_of_three`, `a_state_that_does_not_fit_the_log_is_not_used`, `p2_a_state_beyond_the_log_is_not_taken` |
//! | P3 | `the_log_stops_at_its_limit_with_a_sentence`, `a_machine_without_snapshots_says_so`, `a_log_at_its_limit_refuses_writes_until_the_limit_is_raised` |
//! | P4 | `p4_a_majority_of_the_voters_decides`, `p4_the_chain_tells_where_outcomes_part`, `a_follower_that_went_astray_answers_no_more_and_goes_on_voting` |
//! | P5 | `p5_a_skipped_entry_is_not_run`, `p5_only_what_is_named_is_skipped`, `a_poison_entry_stops_the_state_machine_until_an_operator_skips_it` |
//! | Beside E1: a silent state machine | `a_leader_beside_a_silent_state_machine_hands_over`, `leadership_leaves_a_node_whose_state_machine_is_gone` |
//! | W1 | `w1_an_acceptance_names_index_and_term`, `an_entry_of_another_term_at_the_index_never_wakes_with_its_result` |
//! | W2 | `w2_an_install_is_one_switch`, `w2_an_install_keeps_the_vote`, `w2_a_log_that_holds_the_last_entry_stays`, `w2_stale_and_foreign_snapshots_are_ignored`, `w2_a_snapshot_that_contradicts_what_is_settled` |
//! | W3 | `w3_a_refused_append_refreshes_the_timer`, `w3_heartbeats_are_no_bulk` |
