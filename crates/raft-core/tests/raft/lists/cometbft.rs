//! The replay tests of CometBFT (`consensus/replay_test.go`): what a state machine beside the daemon may come
//! back with. They are in four modes each, which are the moments and heights of ours.
//!
//! | there | here |
//! |---|---|
//! | WALCrash | `a_group_cut_at_any_byte_happened_or_did_not`, `nothing_reported_is_lost_and_nothing_else_is_invented` |
//! | HandshakeReplayAll | `every_height_at_every_crash_of_a_lone_node`, `every_height_at_every_crash_of_one_node_of_three` |
//! | HandshakeReplaySome | `every_height_at_every_crash_of_a_lone_node`, `every_height_at_every_crash_of_one_node_of_three` |
//! | HandshakeReplayOne | `every_height_at_every_crash_of_a_lone_node`, `every_height_at_every_crash_of_one_node_of_three` |
//! | HandshakeReplayNone | `every_height_at_every_crash_of_a_lone_node`, `every_height_at_every_crash_of_one_node_of_three` |
//! | HandshakePanicsIfAppReturnsWrongAppHash | does not apply: a wrong outcome ends no daemon; it is found by comparison: `a_follower_that_went_astray_answers_no_more_and_goes_on_voting` |
