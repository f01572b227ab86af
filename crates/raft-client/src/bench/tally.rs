//! What came of the calls: counts, latencies, and the most telling failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::time::Instant;
use wire::raft::ErrorKind;

use super::report::Latency;
use crate::error::{ClientError, quoted};
use crate::failure::Failure;

/// The longest latency that is told from longer ones, in microseconds: the longest `--timeout`.
const LATENCY_US_MAX: u64 = 3600 * 1_000_000;

/// Decimal digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;

/// Why a call does not count as an operation.
#[derive(Debug, Clone)]
pub(super) enum Mishap {
    /// The call failed, and may have been carried out all the same.
    Failed(SocketAddr, Failure),
    /// The state machine says no.
    Rejected(Bytes),
    /// The answer is of a kind that says neither yes nor no.
    Strange,
}

impl Mishap {
    /// One or two words, the same in every version: reports are compared by them.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::Strange => "strange-answer",
            Self::Failed(_, failure) => match failure {
                Failure::Connect(_) => "no-connection",
                Failure::Silent => "no-answer",
                Failure::Broken(_) => "connection-broke",
                Failure::Foreign(_) => "no-raft-daemon",
                Failure::Refused(refusal) => label_of(refusal.kind),
            },
        }
    }

    /// What the command ends with, if nothing but this happened.
    fn into_error(self, writes: bool) -> ClientError {
        match self {
            Self::Failed(address, failure) if writes && failure.leaves_doubt() => {
                ClientError::OutcomeUnknown(format!("{address}: {}", failure.reason()))
            }
            Self::Failed(address, failure) => failure.into_error(address),
            Self::Rejected(sentence) => ClientError::Rejected(format!(
                "the state machine refused every operation, at last with: {}",
                quoted(&String::from_utf8_lossy(&sentence))
            )),
            Self::Strange => ClientError::Invalid(
                "the answers are of a kind that this raft-client does not know".to_owned(),
            ),
        }
    }

    /// Of several, the most telling one is what the command ends with.
    fn weight(&self) -> u8 {
        match self {
            Self::Failed(_, failure) => failure.weight(),
            Self::Rejected(_) | Self::Strange => u8::MAX,
        }
    }
}

fn label_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NoLeader => "no-leader",
        ErrorKind::NotLeader => "not-leader",
        ErrorKind::NoQuorum => "no-quorum",
        ErrorKind::TooLarge => "too-large",
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::SessionExpired => "session-expired",
        ErrorKind::OutcomeUnknown => "outcome-unknown",
        ErrorKind::OtherCluster => "other-cluster",
        ErrorKind::NoCluster => "no-cluster",
        ErrorKind::StateMachineDown => "state-machine-down",
        ErrorKind::Invalid => "invalid",
        ErrorKind::StaleSequence => "stale-sequence",
        ErrorKind::Founding => "founding",
        ErrorKind::LogFull => "log-full",
        ErrorKind::WatchCompacted => "watch-compacted",
        ErrorKind::WatchEnded => "watch-ended",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::NoSnapshot => "no-snapshot",
        ErrorKind::Unspecified => "unspecified",
    }
}

/// The counts of one phase.
#[derive(Debug)]
pub(super) struct Tally {
    latency: Option<Histogram<u64>>,
    operations: u64,
    not_found: u64,
    errors: BTreeMap<&'static str, u64>,
    /// When the last operation that succeeded was answered.
    last: Option<Instant>,
    most: Option<Mishap>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            // The bounds are constants that the histogram accepts; a test holds it to that.
            latency: Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS).ok(),
            operations: 0,
            not_found: 0,
            errors: BTreeMap::new(),
            last: None,
            most: None,
        }
    }

    pub(super) fn succeeded(&mut self, took: Duration, now: Instant, found: bool) {
        self.operations += 1;
        self.not_found += u64::from(!found);
        self.last = Some(now);
        if let Some(latency) = &mut self.latency {
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            latency.saturating_record(us.max(1));
        }
    }

    pub(super) fn failed(&mut self, mishap: &Mishap) {
        *self.errors.entry(mishap.label()).or_default() += 1;
        let weight = self.most.as_ref().map_or(0, Mishap::weight);
        if mishap.weight() >= weight {
            self.most = Some(mishap.clone());
        }
    }

    /// Operations that succeeded.
    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    /// Those of them that asked for a key that is not there.
    pub(super) fn not_found(&self) -> u64 {
        self.not_found
    }

    pub(super) fn errors(&self) -> &BTreeMap<&'static str, u64> {
        &self.errors
    }

    pub(super) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    pub(super) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// `None` when nothing succeeded.
    pub(super) fn latency(&self) -> Option<Latency> {
        let latency = self
            .latency
            .as_ref()
            .filter(|latency| !latency.is_empty())?;
        Some(Latency {
            mean: latency.mean().round() as u64,
            p50: latency.value_at_quantile(0.5),
            p90: latency.value_at_quantile(0.9),
            p99: latency.value_at_quantile(0.99),
            p99_9: latency.value_at_quantile(0.999),
            max: latency.max(),
        })
    }

    /// The error that the whole ends in: only if nothing succeeded.
    pub(super) fn failure(&self, writes: bool) -> Option<ClientError> {
        if self.operations > 0 {
            return None;
        }
        let none = || ClientError::TimedOut("not one operation ended".to_owned());
        let most = self.most.clone();
        Some(most.map_or_else(none, |mishap| mishap.into_error(writes)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(kind: ErrorKind) -> Mishap {
        let status = wire::status::kind_status(
            "because",
            wire::raft::ErrorDetail {
                kind: kind.into(),
                ..Default::default()
            },
        );
        let address = "127.0.0.1:6004".parse().unwrap();
        Mishap::Failed(address, Failure::from_status(&status))
    }

    #[test]
    fn latencies_are_what_was_recorded_to_three_digits() {
        let mut tally = Tally::new();
        assert_eq!(tally.latency(), None);
        for us in 1..=1000 {
            tally.succeeded(Duration::from_micros(us * 10), Instant::now(), true);
        }
        let latency = tally.latency().unwrap();
        let near = |seen: u64, exact: u64| seen.abs_diff(exact) * 1000 <= exact;
        for (seen, exact) in [
            (latency.mean, 5005),
            (latency.p50, 5000),
            (latency.p90, 9000),
            (latency.p99, 9900),
            (latency.p99_9, 9990),
            (latency.max, 10_000),
        ] {
            assert!(near(seen, exact), "{seen} for {exact}");
        }
        // Nothing is too short or too long to be counted.
        tally.succeeded(Duration::ZERO, Instant::now(), true);
        tally.succeeded(Duration::from_secs(100_000), Instant::now(), true);
        assert_eq!(tally.operations(), 1002);
        assert!(near(tally.latency().unwrap().max, LATENCY_US_MAX));
    }

    #[test]
    fn errors_count_by_kind_and_the_most_telling_one_is_the_end() {
        let mut tally = Tally::new();
        for kind in [
            ErrorKind::NoLeader,
            ErrorKind::Overloaded,
            ErrorKind::NoLeader,
        ] {
            tally.failed(&of(kind));
        }
        let counts: Vec<(&str, u64)> = tally.errors().iter().map(|(k, n)| (*k, *n)).collect();
        assert_eq!(counts, [("no-leader", 2), ("overloaded", 1)]);
        assert_eq!(tally.error_count(), 3);
        let failure = tally.failure(true).unwrap();
        assert!(matches!(failure, ClientError::Overloaded(_)), "{failure}");
        tally.succeeded(Duration::from_millis(1), Instant::now(), false);
        assert!(tally.failure(true).is_none());
        assert_eq!((tally.operations(), tally.not_found()), (1, 1));
    }

    #[test]
    fn a_put_without_an_answer_may_have_been_done_and_a_get_has_not() {
        let mut tally = Tally::new();
        tally.failed(&Mishap::Failed(
            "127.0.0.1:6004".parse().unwrap(),
            Failure::Silent,
        ));
        let failure = |writes| tally.failure(writes).unwrap();
        assert!(matches!(failure(true), ClientError::OutcomeUnknown(_)));
        assert!(matches!(failure(false), ClientError::TimedOut(_)));
    }

    #[test]
    fn labels_are_distinct() {
        let kinds = (0..=14).map(|kind| ErrorKind::try_from(kind).unwrap());
        let labels: std::collections::BTreeSet<&str> = kinds.map(label_of).collect();
        assert_eq!(labels.len(), 15);
    }
}
