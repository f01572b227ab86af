//! A load generator: callers that each keep one call under way.
//!
//! The loop is closed: a caller sends its next call when the one before is answered. What is measured
//! is therefore how the cluster serves so many callers at a time, and not how long calls would queue
//! that come at a rate of their own: while the cluster stands still, nobody sends.
//!
//! The calls do not go through [`Client::put_entry`]: one that fails is counted and not repeated, and
//! its caller goes on with the next. The callers share a few connections, and write their entries
//! into buffers that they keep.

mod load;
mod processes;
mod report;
mod tally;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::client::{Client, Notice, nobody};
use crate::endpoints::resolve;
use crate::error::ClientError;
use crate::failure::Leader;

use load::{Caller, Phase, Route, Shared, Work};
use processes::Watched;
pub use report::{Latency, Report, Server, Usage};

/// At most so many callers. Each is a task with an entry of its own.
pub const CALLERS_MAX: usize = 4096;

/// At most so many connections.
pub const CONNECTIONS_MAX: usize = 256;

/// So many connections when nothing is said, if there are as many callers.
pub const CONNECTIONS_DEFAULT: usize = 8;

/// The largest value, in bytes. The daemon's own limit is MaxEntryBytes; it refuses what is over it.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What all callers together may hold in entries, in bytes.
const ENTRIES_BYTES_MAX: usize = 512 * 1024 * 1024;

/// At most so many keys.
pub const KEYS_MAX: u64 = 1_000_000_000;

/// How often it is told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What the callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Set one of the keys.
    Put {
        /// Within a session for each caller; without, the cluster cannot tell a repetition, which
        /// does not matter here: nothing is repeated, and a PUT that is done twice is done.
        session: bool,
    },
    /// Ask for one of the keys.
    Get {
        /// Be content with a node's own state as it is.
        stale: bool,
        /// Put every key once before anything is measured.
        fill: bool,
    },
}

/// Where the callers send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// To the leader, whoever leads at the moment.
    Leader,
    /// To all endpoints, each caller to one of them.
    Any,
}

/// How long it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// For so long. What is under way at its end is waited for, and counts.
    Time(Duration),
    /// For so many operations, those that fail included.
    Operations(u64),
}

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the callers do.
    pub operation: Operation,
    /// Where they send.
    pub through: Through,
    /// How many they are, from 1 to [`CALLERS_MAX`].
    pub callers: usize,
    /// How many connections they share, from 1 to [`CONNECTIONS_MAX`]; `None`:
    /// [`CONNECTIONS_DEFAULT`], or one for each address if they are more. Never more than callers.
    pub connections: Option<usize>,
    /// The length of a value, up to [`VALUE_BYTES_MAX`].
    pub value_bytes: usize,
    /// How many keys there are, from 1 to [`KEYS_MAX`]: `bench-0` and so on, drawn at random.
    pub keys: u64,
    /// How long.
    pub limit: Limit,
    /// For so long the same is done before, and not counted.
    pub warm_up: Duration,
    /// Tell a [`Notice::Progress`] every second.
    pub progress: bool,
}

impl Plan {
    /// Whether the numbers are within their limits.
    ///
    /// # Errors
    /// [`ClientError::Usage`] that names the number and its limits.
    pub fn check(&self) -> Result<(), ClientError> {
        let within = |what: &str, number: u64, least: u64, most: u64| {
            if (least..=most).contains(&number) {
                return Ok(());
            }
            Err(ClientError::Usage(format!(
                "{number} {what} make no sense: between {least} and {most}"
            )))
        };
        within("callers", self.callers as u64, 1, CALLERS_MAX as u64)?;
        let connections = self.connections.unwrap_or(1) as u64;
        within("connections", connections, 1, CONNECTIONS_MAX as u64)?;
        let value_bytes = self.value_bytes as u64;
        within("bytes of a value", value_bytes, 0, VALUE_BYTES_MAX as u64)?;
        within("keys", self.keys, 1, KEYS_MAX)?;
        if let Limit::Operations(operations) = self.limit {
            within("operations", operations, 1, u64::MAX)?;
        }
        if self.callers.saturating_mul(self.value_bytes) > ENTRIES_BYTES_MAX {
            return Err(ClientError::Usage(format!(
                "{} callers with {} bytes each are too much: {ENTRIES_BYTES_MAX} bytes in all",
                self.callers, self.value_bytes
            )));
        }
        Ok(())
    }

    fn work(&self) -> Work {
        match self.operation {
            Operation::Put { session } => Work::Put { session },
            Operation::Get { stale, .. } => Work::Get { stale },
        }
    }

    fn connections(&self, addresses: usize) -> usize {
        let connections = self
            .connections
            .unwrap_or_else(|| CONNECTIONS_DEFAULT.max(addresses));
        connections.min(self.callers).min(CONNECTIONS_MAX)
    }
}

/// What is told every second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// `fill`, `warm-up`, or what is measured.
    pub phase: &'static str,
    /// Since the phase began.
    pub elapsed: Duration,
    /// Since the last that was told.
    pub operations_per_second: u64,
    /// Since the phase began.
    pub errors: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (phase, seconds) = (self.phase, self.elapsed.as_secs_f64());
        let (rate, errors) = (self.operations_per_second, self.errors);
        write!(
            f,
            "{phase} {seconds:.0} s: {rate} operations/s, {errors} errors"
        )
    }
}

impl Client {
    /// Does what the plan says, and reports. The plan's timeout is for each call.
    ///
    /// # Errors
    /// Any error of a query before the load begins: nobody answers, nobody leads, no majority is
    /// there. Later, failures are counted; if nothing succeeds, [`Report::failure`] is the error.
    pub async fn bench(&mut self, plan: &Plan) -> Result<Report, ClientError> {
        plan.check()?;
        // Whoever answers this can answer the load; its cluster is the one that is pinned.
        let stale = matches!(plan.operation, Operation::Get { stale: true, .. });
        self.query(Bytes::from_static(b"GET bench-0"), stale)
            .await?;
        let mut notes = Vec::new();
        let addresses = self.bench_addresses().await?;
        let route = match plan.through {
            Through::Any => Route::Any,
            Through::Leader => self.leader_route(&mut notes).await?,
        };
        let connections = match &route {
            Route::Any => plan.connections(addresses.len()),
            Route::Leader(_) => plan.connections(1),
        };
        let mut watched = addresses.clone();
        if let Route::Leader(leader) = &route
            && !watched.contains(&leader.address)
        {
            watched.push(leader.address);
        }
        let mut watched = Watched::find(&watched);
        let options = self.options.clone();
        let cluster_id = self.cluster_id.clone();
        let shared = Shared::open(options, cluster_id, plan, route, addresses, connections).await?;
        let shared = Arc::new(shared);
        let mut callers: Vec<Caller> = Vec::with_capacity(plan.callers);
        for number in 0..plan.callers {
            callers.push(Caller::new(shared.clone(), number).await);
        }

        let fill = matches!(plan.operation, Operation::Get { fill: true, .. });
        if fill {
            let phase = Phase::new("fill", Work::Fill, plan.keys, Limit::Operations(plan.keys));
            callers = self.phase(plan, &phase, callers).await;
            if let Some(failure) = phase.failure() {
                return Err(failure);
            }
        }
        if !plan.warm_up.is_zero() {
            let limit = Limit::Time(plan.warm_up);
            let phase = Phase::new("warm-up", plan.work(), plan.keys, limit);
            callers = self.phase(plan, &phase, callers).await;
            if phase.failure().is_some() {
                // Nothing at all has succeeded: more of it would tell nothing new.
                notes.push("nothing succeeded in the warm-up, so nothing was measured".to_owned());
                let route = shared.route_in_words();
                return Ok(Report::new(
                    plan,
                    connections,
                    &route,
                    &phase,
                    &watched,
                    notes,
                ));
            }
        }
        let name = report::name_of(plan.operation);
        let phase = Phase::new(name, plan.work(), plan.keys, plan.limit);
        watched.begin();
        self.phase(plan, &phase, callers).await;
        watched.end();
        let route = shared.route_in_words();
        Ok(Report::new(
            plan,
            connections,
            &route,
            &phase,
            &watched,
            notes,
        ))
    }

    async fn bench_addresses(&self) -> Result<Vec<SocketAddr>, ClientError> {
        let resolved = resolve(&self.options.endpoints, self.options.timeout).await;
        if resolved.addresses.is_empty() {
            let none = nobody(&self.options.endpoints, &[], &resolved.unresolved);
            return Err(none);
        }
        Ok(resolved.addresses)
    }

    /// The leader, or all endpoints if the leader cannot be reached from here: they forward.
    async fn leader_route(&mut self, notes: &mut Vec<String>) -> Result<Route, ClientError> {
        let leader = self.leader().await?;
        let Some(leader) = Leader::from_reference(Some(&leader)) else {
            notes.push("the leader has no usable address: the endpoints forward".to_owned());
            return Ok(Route::Any);
        };
        match load::open(leader.address).await {
            Ok(_) => Ok(Route::Leader(leader)),
            Err(error) => {
                notes.push(format!(
                    "the leader {} at {} cannot be reached from here ({}): the endpoints forward",
                    leader.name, leader.address, error.reason
                ));
                Ok(Route::Any)
            }
        }
    }

    /// Lets all callers work until the phase is over, and tells every second how far it is.
    async fn phase(
        &mut self,
        plan: &Plan,
        phase: &Arc<Phase>,
        callers: Vec<Caller>,
    ) -> Vec<Caller> {
        let begun = phase.begin();
        let mut working: tokio::task::JoinSet<Caller> = callers
            .into_iter()
            .map(|caller| caller.work(phase.clone()))
            .collect();
        let mut done = Vec::with_capacity(plan.callers);
        let mut told = (begun, 0);
        let mut tick = tokio::time::interval_at(begun + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                end = working.join_next() => match end {
                    None => break,
                    // A caller that panicked is one caller less; the others go on.
                    Some(end) => done.extend(end.ok()),
                },
                _ = tick.tick(), if plan.progress => {
                    let now = Instant::now();
                    let (operations, errors) = phase.counts();
                    let since = now.duration_since(told.0).as_secs_f64();
                    let rate = (operations - told.1) as f64 / since.max(f64::MIN_POSITIVE);
                    told = (now, operations);
                    self.tell(Notice::Progress(Progress {
                        phase: phase.name(),
                        elapsed: now.duration_since(begun),
                        operations_per_second: rate as u64,
                        errors,
                    }));
                }
            }
        }
        phase.end();
        done
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(super) fn plan() -> Plan {
        Plan {
            operation: Operation::Put { session: false },
            through: Through::Leader,
            callers: 64,
            connections: None,
            value_bytes: 256,
            keys: 1000,
            limit: Limit::Time(Duration::from_secs(10)),
            warm_up: Duration::from_secs(1),
            progress: false,
        }
    }

    #[test]
    fn every_number_has_its_limits() {
        plan().check().unwrap();
        type Change = fn(&mut Plan);
        let broken: [(&str, Change); 9] = [
            ("0 callers", |plan| plan.callers = 0),
            ("4097 callers", |plan| plan.callers = CALLERS_MAX + 1),
            ("0 connections", |plan| plan.connections = Some(0)),
            ("257 connections", |plan| {
                plan.connections = Some(CONNECTIONS_MAX + 1);
            }),
            ("8388609 bytes", |plan| {
                plan.value_bytes = VALUE_BYTES_MAX + 1
            }),
            ("0 keys", |plan| plan.keys = 0),
            ("1000000001 keys", |plan| plan.keys = KEYS_MAX + 1),
            ("0 operations", |plan| plan.limit = Limit::Operations(0)),
            ("4096 callers with 8388608 bytes", |plan| {
                plan.callers = CALLERS_MAX;
                plan.value_bytes = VALUE_BYTES_MAX;
            }),
        ];
        for (named, change) in broken {
            let mut wrong = plan();
            change(&mut wrong);
            let error = wrong.check().unwrap_err();
            assert!(matches!(error, ClientError::Usage(_)), "{named}: {error}");
            assert!(error.to_string().starts_with(named), "{named}: {error}");
        }
    }

    #[test]
    fn connections_are_never_more_than_callers_and_reach_every_address() {
        let connections = |callers, connections, addresses| {
            let plan = Plan {
                callers,
                connections,
                ..plan()
            };
            plan.connections(addresses)
        };
        assert_eq!(connections(64, None, 1), 8);
        assert_eq!(connections(3, None, 1), 3);
        assert_eq!(connections(64, None, 11), 11);
        assert_eq!(connections(64, Some(2), 11), 2);
        assert_eq!(connections(1, Some(2), 11), 1);
    }
}
