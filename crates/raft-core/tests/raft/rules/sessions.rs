//! S3: the time by which sessions expire.

use raft_core::message::*;
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
