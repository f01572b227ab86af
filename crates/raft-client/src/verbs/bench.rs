//! `raft-client bench put|get`

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Output, duration};
use crate::bench::{self, Limit, Operation, Plan};
use crate::client::Client;
use crate::error::ClientError;
use crate::exit_codes::ExitCode;

/// Measures the key-value store under load: operations a second, latencies, what the servers use
///
/// Every caller sends its next call when the one before is answered (a closed loop), so the load
/// stops while the cluster does. A call that fails is counted and not repeated. Latencies are of
/// the calls that succeed. The keys are bench-0, bench-1 and so on, and stay there afterwards.
#[derive(Debug, Args)]
#[command(after_help = "\
PUTs are sent without a session unless --session is given: no call is repeated here, and a PUT
that is done twice has done what it would do once. With sessions each caller opens its own.
--timeout is for each call. CPU and memory of the servers are told where their processes are on
this machine, outside of containers, and this user's; CPU time is that of the measured part alone.

Examples:
  raft-client bench put
  raft-client bench get --fill --duration 30s
  raft-client bench get --stale --through any
  raft-client bench put --callers 256 --value-size 1024 --operations 100000 --json")]
pub struct Bench {
    /// What every call does
    #[arg(ignore_case = true)]
    what: What,

    /// How many call at the same time
    #[arg(long, value_name = "N", default_value_t = 64)]
    callers: usize,

    /// Connections that they share; as a rule 8, or one to each endpoint with --through any
    #[arg(long, value_name = "N")]
    connections: Option<usize>,

    /// Length of a value that is put
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    value_size: usize,

    /// How many keys there are; each call draws one
    #[arg(long, value_name = "N", default_value_t = 1000)]
    keys: u64,

    /// How long it is measured
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,

    /// How many calls are measured, instead of a time
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    operations: Option<u64>,

    /// For so long the same is done before, and not measured; 0: not at all
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time_or_none)]
    warm_up: Duration,

    /// Where the calls go: to the leader, or spread over all endpoints, of which followers forward
    #[arg(long, value_name = "WHERE", default_value = "leader")]
    through: Through,

    /// get: be content with a node's own state as it is
    #[arg(long)]
    stale: bool,

    /// get: put every key once before it is measured
    #[arg(long)]
    fill: bool,

    /// put: within a session for each caller
    #[arg(long)]
    session: bool,

    /// Shows every second how it goes, also where standard error is no terminal
    #[arg(long)]
    progress: bool,

    /// The report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Set keys
    Put,
    /// Ask for keys
    Get,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Through {
    /// The leader, whoever leads at the moment
    Leader,
    /// All endpoints
    Any,
}

impl Bench {
    /// What the flags ask for.
    pub(crate) fn plan(&self, terminal: bool) -> Result<Plan, ClientError> {
        let usage = |sentence: &str| Err(ClientError::Usage(sentence.to_owned()));
        let operation = match self.what {
            What::Put if self.stale || self.fill => {
                return usage("--stale and --fill are for bench get");
            }
            What::Get if self.session => return usage("--session is for bench put"),
            What::Put => Operation::Put {
                session: self.session,
            },
            What::Get => Operation::Get {
                stale: self.stale,
                fill: self.fill,
            },
        };
        let plan = Plan {
            operation,
            through: match self.through {
                Through::Leader => bench::Through::Leader,
                Through::Any => bench::Through::Any,
            },
            callers: self.callers,
            connections: self.connections,
            value_bytes: self.value_size,
            keys: self.keys,
            limit: self
                .operations
                .map_or(Limit::Time(self.duration), Limit::Operations),
            warm_up: self.warm_up,
            progress: self.progress || terminal,
        };
        plan.check()?;
        Ok(plan)
    }

    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let plan = self.plan(std::io::stderr().is_terminal())?;
        let report = Box::pin(client.bench(&plan)).await?;
        let text = if self.json {
            let json = serde_json::to_string_pretty(&report);
            json.map_err(|error| ClientError::Io(error.to_string()))? + "\n"
        } else {
            report.text()
        };
        let (stderr, code) = match &report.failure {
            None => (String::new(), ExitCode::Ok),
            Some(failure) => (format!("{failure}\n"), failure.exit_code()),
        };
        Ok(Output {
            stdout: text.into_bytes(),
            stderr: stderr.into_bytes(),
            code,
        })
    }
}

fn time_or_none(text: &str) -> Result<Duration, String> {
    match text.trim_end_matches(['m', 's']) {
        "0" => Ok(Duration::ZERO),
        _ => duration(text),
    }
}
