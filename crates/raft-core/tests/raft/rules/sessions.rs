//! S3: the time by which sessions expire; P2: what a state machine may have applied.

use raft_core::message::*;
use raft_core::walk::{Height, Walk};
use raft_core::*;

use crate::one::*;

/// S3: log time is the last log time and what passed on the leader's clock since its election, whatever that
/// clock shows: neither an hour ahead nor an hour behind is seen in the log.
#[test]
fn s3_log_time_goes_on_from_the_last_entry() {
    for clock in [0, 3_600_000_000, 86_400_000_000] {
        let mut one = One::new(1, &[1, 2, 3], &[1]);
        one.now = Time(clock).max(one.now);
        let entries = vec![Entry {
            log_time_ms: 50_000,
            ..entry(2, 1)
        }];
        one.hear(
            2,
            Message::AppendEntries(AppendEntries {
                term: 1,
                previous: at(1, 1),
                entries,
                commit_index: 0,
            }),
        );
        one.elect();
        let elected = one.now;
        assert_eq!(one.raft.log_time_ms(elected), Some(50_000));
        assert_eq!(one.raft.log_time_ms(elected + SECOND), Some(51_000));
        one.now = elected + milliseconds(250);
        one.put("x");
        let times: Vec<_> = one.log.iter().map(|entry| entry.log_time_ms).collect();
        assert_eq!(times, [0, 50_000, 50_000, 50_250]);
    }
}

/// P2: a state machine that has applied more than this node's log holds is left alone until the log has caught
/// up; one that ends with it, or within it, is gone on with.
#[test]
fn p2_a_state_beyond_the_log_is_not_taken() {
    let walk = Walk::default();
    assert_eq!(walk.height(61, 1, 60), Height::BeyondLog);
    assert_eq!(walk.height(60, 1, 60), Height::WithinLog);
    assert_eq!(walk.height(40, 1, 60), Height::WithinLog);
}
