//! The labs of MIT's course 6.5840: election, agreement, persistence, compaction.
//!
//! | there | here |
//! |---|---|
//! | InitialElection | `a_leader_leads_on_while_nothing_fails` |
//! | ReElection | `there_is_a_leader_where_there_is_a_majority` |
//! | ManyElections | `ever_new_partitions_of_seven` |
//! | BasicAgree | `an_entry_is_committed_everywhere` |
//! | RPCBytes | `each_entry_is_sent_to_each_peer_once` |
//! | FollowerFailure | `followers_fail_one_after_another` |
//! | LeaderFailure | `leaders_fail_one_after_another` |
//! | FailAgree | `a_follower_that_was_away_agrees_again` |
//! | FailNoAgree | `too_many_are_away_to_agree` |
//! | ConcurrentStarts | `many_clients_at_once` |
//! | Rejoin | `a_leader_that_wrote_alone_rejoins` |
//! | Backup | `the_way_back_over_wrong_logs_is_short` |
//! | Count | `few_messages_do` |
//! | Persist1 | `kills_of_all_and_of_each` |
//! | Persist2 | `three_of_five_are_up_at_a_time` |
//! | Persist3 | `an_acknowledged_entry_survives_with_either_holder` |
//! | Figure8 | `leaders_die_with_entries_in_their_hands` |
//! | UnreliableAgree | `agreement_over_an_unreliable_network` |
//! | Figure8Unreliable | `leaders_are_cut_off_over_an_unreliable_network` |
//! | ReliableChurn | `churn_over_a_reliable_network` |
//! | UnreliableChurn | `churn_over_an_unreliable_network` |
//! | SnapshotBasic | `snapshots_while_all_is_well` |
//! | SnapshotInstall | `who_was_cut_off_is_brought_back_by_a_snapshot` |
//! | SnapshotInstallUnreliable | `who_was_cut_off_is_brought_back_over_an_unreliable_network` |
//! | SnapshotInstallCrash | `who_was_killed_is_brought_back_by_a_snapshot` |
//! | SnapshotInstallUnCrash | `who_was_killed_is_brought_back_over_an_unreliable_network` |
//! | SnapshotAllCrash | `all_are_killed_with_snapshots_of_different_age` |
//! | SnapshotInit | `a_start_behind_a_snapshot` |
