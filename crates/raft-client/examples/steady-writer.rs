//! One writer, one connection, one PUT after the other: what a client notices when something happens
//! to the nodes. `scripts/measure` runs it.
//!
//! For every acknowledged PUT it prints the microseconds since 1970 and the number that was put, for
//! every other one a line `- NUMBER` and the reason. It goes on until it is killed or nobody reads.
//!
//! `cargo run --release -p raft-client --example steady-writer -- ENDPOINTS [KEY]`

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raft_client::{Client, Options, parse_endpoints};

/// For one PUT, all of its retries included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A PUT that fails at once, because no node runs yet, is not tried again without a pause.
const PAUSE: Duration = Duration::from_millis(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(endpoints) = arguments.first() else {
        eprintln!("name the endpoints: steady-writer 127.77.0.1,127.77.0.2 [KEY]");
        return ExitCode::from(2);
    };
    let endpoints = match parse_endpoints(endpoints) {
        Ok(endpoints) => endpoints,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let key = arguments.get(1).map_or("steady", String::as_str);
    let mut client = Client::new(Options {
        endpoints,
        timeout: TIMEOUT,
    });
    let mut out = std::io::stdout();
    for number in 1u64.. {
        let entry = format!("PUT {key} {number}");
        let line = match client.put_entry(entry.into()).await {
            Ok(_) => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                format!("{} {number}", now.as_micros())
            }
            Err(error) => {
                tokio::time::sleep(PAUSE).await;
                format!("- {number} {error}")
            }
        };
        // Whoever measured has gone.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}
