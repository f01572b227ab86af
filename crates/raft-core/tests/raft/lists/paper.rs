//! The Raft paper (extended version) and Ongaro's dissertation, rule by rule.
//!
//! | rule | here |
//! |---|---|
//! | Figure 2, persistent state | `nothing_is_said_in_a_term_before_it_is_on_the_disk`, `a_vote_survives_a_crash` |
//! | Figure 3, Election Safety | `one_vote_per_term`, `votes_are_counted_by_voter`, `a_second_leader_in_one_term_is_not_obeyed` |
//! | Figure 3, Leader Append-Only | `figure_7` |
//! | Figure 3, Log Matching | `a_follower_checks_where_the_logs_join`, `figure_7` |
//! | Figure 3, Leader Completeness | `a_voter_compares_the_logs`, `figure_8` |
//! | Figure 3, State Machine Safety | `chaos_by_seed` |
//! | §5.1 terms | `a_higher_term_makes_a_follower`, `a_stale_term_is_refused` |
//! | §5.2 servers start as followers | `it_starts_as_a_follower` |
//! | §5.2 heartbeats | `a_leader_sends_heartbeats`, `only_a_leader_sends_heartbeats` |
//! | §5.2 election timeout | `a_follower_that_hears_nothing_calls_an_election` |
//! | §5.2 a candidate wins, loses to another, or times out | `a_majority_of_votes_elects`, `a_candidate_falls_back_for_a_leader_of_its_term`, `a_split_vote_is_followed_by_another_election` |
//! | §5.2 one vote per term | `one_vote_per_term`, `a_step_down_keeps_the_vote` |
//! | §5.2 randomised timeouts | `election_timeouts_are_spread`, `timeouts_rarely_meet` |
//! | §5.3 append, send in parallel | `a_leader_appends_and_sends_at_once` |
//! | §5.3 committed by a majority, with all before | `an_entry_is_committed_by_a_majority_of_durable_copies`, `a_commit_takes_what_stands_before_it` |
//! | §5.3 followers learn what is committed | `a_follower_commits_what_the_leader_committed` |
//! | §5.3 consistency check | `a_follower_checks_where_the_logs_join` |
//! | §5.3 conflicting entries | `a_conflict_is_overwritten_by_the_leaders_entries`, `a_repeated_or_overtaken_append_changes_nothing` |
//! | §5.3 back by terms | `the_place_where_logs_part_is_found_by_terms` |
//! | §5.3 retried until all store it | `a_leader_sends_again_what_was_lost` |
//! | §5.4.1 election restriction | `a_voter_compares_the_logs` |
//! | §5.4.2 entries of previous terms | `only_the_present_term_is_committed_by_counting`, `figure_8` |
//! | §5.5 crashes of followers and candidates | `a_follower_that_was_away_agrees_again`, `a_repeated_or_overtaken_append_changes_nothing` |
//! | §5.6 timing and availability | `a_killed_leader_is_succeeded_at_once` |
//! | §6 joint consensus, both majorities | `a_joint_election_needs_both_majorities`, `a_joint_commit_needs_both_majorities` |
//! | §6 the latest configuration in the log | `a_configuration_is_effective_on_append_and_rolled_back`, `who_campaigns_is_decided_by_the_log` |
//! | §6 C_new after C_old,new | `m5_an_inherited_joint_configuration_is_ended` |
//! | §6 new servers without a vote first | `a_new_server_is_a_learner_first`, `a_learner_gets_the_log_and_does_not_count` |
//! | §6 the leader may leave | `a_leader_that_is_not_in_c_new_steps_down_when_it_is_committed` |
//! | §6 removed servers disturb nobody | `a_vote_is_refused_while_a_leader_is_heard`, `a_partitioned_node_is_removed_and_disturbs_nobody` |
//! | §7 a snapshot takes the place of the log | `s4_the_log_is_cut_off_behind_a_snapshot`, `a_start_from_a_snapshot` |
//! | §7 InstallSnapshot, followers | `w2_an_install_is_one_switch`, `w2_a_log_that_holds_the_last_entry_stays` |
//! | §7 a follower that is too far behind | `a_peer_behind_the_base_is_offered_the_snapshot`, `a_slow_node_is_restored_and_counts` |
//! | §8 clients find the leader | `a_follower_names_the_leader` |
//! | §8 exactly once | `s2_a_retry_is_not_run_again`, `every_sequence_is_run_at_most_once` |
//! | §8 a no-op at the start of a term | `a_new_leader_appends_a_no_op` |
//! | §8 reads exchange heartbeats first | `a_read_waits_for_a_round_of_heartbeats` |
//! | Dissertation §3.10 leadership transfer | `there_and_back_again`, `a_slow_heir_gets_the_log_first`, `an_heir_that_does_not_take_over_is_given_up` |
//! | Dissertation §4.1, the bug of 2015 | `a_new_leader_changes_nothing_before_its_no_op_is_committed`, `one_change_at_a_time` |
//! | Dissertation §4.2.1 catching up | `m6_no_promotion_without_own_acknowledgements`, `m2_only_fit_learners_are_promoted` |
//! | Dissertation §4.2.2 removing the leader | `a_leader_that_leaves_is_replaced_by_a_spare` |
//! | Dissertation §4.2.3 disruptive servers | `a_disruptive_follower_is_refused_and_follows` |
//! | Dissertation §4.3 arbitrary changes | `two_come_and_two_go_by_one_change_each` |
//! | Dissertation §5 compaction | `s4_the_log_is_cut_off_behind_a_snapshot`, `all_are_killed_with_snapshots_of_different_age` |
//! | Dissertation §6.3 sessions | `s2_an_unknown_session_has_expired`, `s3_an_expiry_is_void_after_newer_activity`, `the_idlest_session_ends_when_there_are_too_many` |
//! | Dissertation §6.4 ReadIndex, followers too | `r1_no_read_before_an_entry_of_the_term_is_committed`, `r2_asks_are_never_reused` |
//! | Dissertation §6.4.1 leases | does not apply: reads never rest on a lease (E4) |
//! | Dissertation §9.6 pre-vote | `a_follower_that_hears_nothing_calls_an_election`, `a_returning_node_disturbs_nobody` |
//! | Dissertation §10.2.1 writing in parallel | `a_leader_appends_and_sends_at_once`, `a_leaders_own_write_that_is_reported_after_its_term` |
//! | Dissertation §10.2.2 batching and pipelining | `a_probe_is_one_append_and_its_answer_opens_the_pipeline`, `too_many_uncommitted_entries_are_refused` |
