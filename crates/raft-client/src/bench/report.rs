//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::load::Phase;
use super::processes::Watched;
use super::{Operation, Plan, Through};
use crate::error::ClientError;

/// How long the operations that succeeded took, in microseconds, to three digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // Each is the share of operations that were no slower.
pub struct Latency {
    pub mean: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub max: u64,
}

/// What a process used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Usage {
    /// CPU time while it was measured, all threads together.
    pub cpu_seconds: f64,
    /// Resident memory at the end.
    pub resident_bytes: u64,
}

/// A process of a node on this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Server {
    /// Its name.
    pub process: String,
    /// Its number.
    pub pid: u32,
    /// One of the addresses that it listens at.
    pub address: String,
    /// What it used.
    #[serde(flatten)]
    pub usage: Usage,
}

/// The whole of a measurement.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `put` or `get`.
    pub operation: &'static str,
    /// One node's own state was enough.
    pub stale: bool,
    /// Within sessions.
    pub session: bool,
    /// `leader` or `any`, as it was asked for.
    pub through: &'static str,
    /// Callers, each with one call under way.
    pub callers: usize,
    /// Connections that they shared.
    pub connections: usize,
    /// The length of a value that is put.
    pub value_bytes: usize,
    /// How many keys there were.
    pub keys: u64,
    /// How long it was measured.
    pub seconds: f64,
    /// Operations that succeeded.
    pub operations: u64,
    /// Those of them that asked for a key that is not there.
    pub not_found: u64,
    /// Operations that succeeded, for each second.
    pub operations_per_second: f64,
    /// Operations that failed, by what went wrong.
    pub errors: BTreeMap<&'static str, u64>,
    /// Of the operations that succeeded; none if none did.
    pub latency_us: Option<Latency>,
    /// What this process used; none where it cannot be seen.
    pub client: Option<Usage>,
    /// The processes of the nodes on this machine.
    pub servers: Vec<Server>,
    /// What a person should know beside the numbers.
    pub notes: Vec<String>,
    /// Where the calls went, in words.
    #[serde(skip)]
    route: String,
    /// If nothing succeeded, why.
    #[serde(skip)]
    pub failure: Option<ClientError>,
}

pub(super) fn name_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Put { .. } => "put",
        Operation::Get { .. } => "get",
    }
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        connections: usize,
        route: &str,
        phase: &Phase,
        watched: &Watched,
        mut notes: Vec<String>,
    ) -> Self {
        let seconds = phase.elapsed().as_secs_f64();
        let failure = phase.failure();
        let tally = phase.tally();
        let (servers, unseen) = watched.servers();
        notes.extend(unseen);
        let operations = tally.operations();
        if operations > 0 && tally.not_found() == operations {
            notes.push("no key was there: --fill puts them before it is measured".to_owned());
        }
        Self {
            operation: name_of(plan.operation),
            stale: matches!(plan.operation, Operation::Get { stale: true, .. }),
            session: matches!(plan.operation, Operation::Put { session: true }),
            through: match plan.through {
                Through::Leader => "leader",
                Through::Any => "any",
            },
            callers: plan.callers,
            connections,
            value_bytes: plan.value_bytes,
            keys: plan.keys,
            seconds,
            operations,
            not_found: tally.not_found(),
            operations_per_second: operations as f64 / seconds.max(f64::MIN_POSITIVE),
            errors: tally.errors().clone(),
            latency_us: tally.latency(),
            client: watched.client(),
            servers,
            notes,
            route: route.to_owned(),
            failure,
        }
    }

    /// The report as a person reads it, with a line feed at the end of every line.
    pub fn text(&self) -> String {
        let mut lines = vec![("what", self.what())];
        let rate = self.operations_per_second;
        let seconds = self.seconds;
        let mut operations = format!("{} in {seconds:.1} s: {rate:.0}/s", self.operations);
        if self.not_found > 0 {
            // Writing to a String cannot fail.
            let _ = write!(
                operations,
                "; {} of them for a key that is not there",
                self.not_found
            );
        }
        lines.push(("operations", operations));
        lines.push(("errors", self.errors_in_words()));
        if let Some(latency) = &self.latency_us {
            lines.push(("latency", latency.text()));
        }
        if let Some(client) = &self.client {
            lines.push(("client", client.text(seconds)));
        }
        if !self.servers.is_empty() {
            let all = Usage {
                cpu_seconds: self.servers.iter().map(|s| s.usage.cpu_seconds).sum(),
                resident_bytes: self.servers.iter().map(|s| s.usage.resident_bytes).sum(),
            };
            lines.push(("servers", all.text(seconds)));
        }
        for server in &self.servers {
            let who = format!("{} {}", server.process, server.pid);
            let used = server.usage.text(seconds);
            lines.push(("", format!("{used}  {who} at {}", server.address)));
        }
        lines.extend(self.notes.iter().map(|note| ("note", note.clone())));
        let mut text = String::new();
        for (head, line) in lines {
            let _ = writeln!(text, "{}", format!("{head:<11} {line}").trim_end());
        }
        text
    }

    fn what(&self) -> String {
        let mut what = format!(
            "{} by {}, over {} to {}",
            self.operation,
            counted(self.callers, "caller"),
            counted(self.connections, "connection"),
            self.route
        );
        if self.operation == "put" {
            let _ = write!(what, "; {} bytes", self.value_bytes);
        }
        let keys = usize::try_from(self.keys).unwrap_or(usize::MAX);
        let _ = write!(what, "; {}", counted(keys, "key"));
        if self.session {
            what.push_str("; within sessions");
        }
        if self.stale {
            what.push_str("; stale");
        }
        what
    }

    fn errors_in_words(&self) -> String {
        let all: u64 = self.errors.values().sum();
        if all == 0 {
            return "none".to_owned();
        }
        let kinds: Vec<String> = self
            .errors
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        format!("{all}: {}", kinds.join(", "))
    }
}

impl Latency {
    fn text(&self) -> String {
        let named = [
            ("mean", self.mean),
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("max", self.max),
        ];
        let parts = named.map(|(name, us)| format!("{name} {}", time(us)));
        parts.join("  ")
    }
}

impl Usage {
    fn text(&self, seconds: f64) -> String {
        let cores = self.cpu_seconds / seconds.max(f64::MIN_POSITIVE);
        let mib = self.resident_bytes as f64 / f64::from(1 << 20);
        format!(
            "{:.2} s of CPU ({cores:.2} cores), {mib:.0} MiB",
            self.cpu_seconds
        )
    }
}

fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Microseconds in the unit that suits them, with three digits.
fn time(us: u64) -> String {
    let (number, unit) = match us {
        0..1000 => return format!("{us} us"),
        1000..1_000_000 => (us as f64 / 1e3, "ms"),
        _ => (us as f64 / 1e6, "s"),
    };
    let decimals = match number {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let usage = |cpu_seconds, mib: u64| Usage {
            cpu_seconds,
            resident_bytes: mib << 20,
        };
        let server = |process: &str, pid, cpu, mib| Server {
            process: process.to_owned(),
            pid,
            address: "127.77.0.1:6004".to_owned(),
            usage: usage(cpu, mib),
        };
        Report {
            operation: "put",
            stale: false,
            session: false,
            through: "leader",
            callers: 64,
            connections: 1,
            value_bytes: 256,
            keys: 1000,
            seconds: 10.0,
            operations: 123_456,
            not_found: 0,
            operations_per_second: 12_345.6,
            errors: [("no-leader", 2), ("overloaded", 1)].into(),
            latency_us: Some(Latency {
                mean: 5123,
                p50: 950,
                p90: 12_345,
                p99: 123_456,
                p99_9: 999_999,
                max: 1_234_567,
            }),
            client: Some(usage(2.5, 12)),
            servers: vec![server("raft", 7, 5.0, 40), server("member", 8, 0.25, 9)],
            notes: vec!["the machine is small".to_owned()],
            route: "the leader, node-1 at 127.77.0.1:6004".to_owned(),
            failure: None,
        }
    }

    #[test]
    fn the_report_in_words() {
        let expected = "\
what        put by 64 callers, over 1 connection to the leader, node-1 at 127.77.0.1:6004; 256 bytes; 1000 keys
operations  123456 in 10.0 s: 12346/s
errors      3: 2 no-leader, 1 overloaded
latency     mean 5.12 ms  p50 950 us  p90 12.3 ms  p99 123 ms  p99.9 1000 ms  max 1.23 s
client      2.50 s of CPU (0.25 cores), 12 MiB
servers     5.25 s of CPU (0.53 cores), 49 MiB
            5.00 s of CPU (0.50 cores), 40 MiB  raft 7 at 127.77.0.1:6004
            0.25 s of CPU (0.03 cores), 9 MiB  member 8 at 127.77.0.1:6004
note        the machine is small
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn a_report_without_successes_is_short() {
        let report = Report {
            operation: "get",
            stale: true,
            operations: 0,
            operations_per_second: 0.0,
            not_found: 0,
            errors: BTreeMap::new(),
            latency_us: None,
            client: None,
            servers: Vec::new(),
            notes: Vec::new(),
            ..report()
        };
        let expected = "\
what        get by 64 callers, over 1 connection to the leader, node-1 at 127.77.0.1:6004; 1000 keys; stale
operations  0 in 10.0 s: 0/s
errors      none
";
        assert_eq!(report.text(), expected);
    }
}
