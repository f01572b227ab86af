//! The key-value store as a process: reads its configuration, opens its folder, serves.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use config::{Config, LogFormat};
use state_machine::directory;
use state_machine::storage::check_room;
use state_machine_sdk::{Limits, Listen, serve, termination};
use tracing::warn;
use tracing_subscriber::EnvFilter;

/// How often a start that waits for room on the disk looks again.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// The key-value store that a raft daemon replicates: PUT, GET, DELETE, CAS, INCR, LIST and WATCH
#[derive(Debug, Parser)]
#[command(name = "state-machine", version)]
struct CommandLine {
    #[command(flatten)]
    arguments: config::Arguments,
}

fn main() -> ExitCode {
    let arguments = CommandLine::parse().arguments;
    let config = match arguments.load() {
        Ok(config) => config,
        Err(errors) => {
            let _ = writeln!(io::stderr(), "{errors}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.check_config {
        // A reader that has seen enough, such as `head`, is no failure.
        let _ = writeln!(io::stdout(), "{}", config.describe());
        return ExitCode::SUCCESS;
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "[STATEMACHINE] {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> anyhow::Result<()> {
    log_to_stdout(config)?;
    // One thread for the network. The storage has threads of its own, and what a call does here is short:
    // the daemon's connection, and one more for each watch, share one thread, which spares them the
    // hand-over, and takes its tasks in order, so that answers which come together leave in one write.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("cannot start threads")?;
    let result = runtime.block_on(open_and_serve(config));
    // A command that hangs must not keep the process from ending.
    runtime.shutdown_background();
    result
}

async fn open_and_serve(config: &Config) -> anyhow::Result<()> {
    // Before anything else, so that a SIGTERM during a long start still ends the process in order.
    let termination = termination().context("cannot listen to signals")?;
    tokio::pin!(termination);
    tokio::select! {
        () = room(&config.data_dir) => {}
        () = &mut termination => return Ok(()),
    }
    // The lock lives as long as this function.
    let directory::Opened { store, lock: _lock } = directory::open(&config.data_dir)?;
    let listen = Listen::at(
        config.bind_ip,
        config.state_machine_port,
        config.state_machine_socket.as_deref(),
    );
    serve(store, listen, limits(config), termination).await?;
    Ok(())
}

/// Waits while the disk is full: a start that fails would only be tried again, and again.
async fn room(data_dir: &Path) {
    let mut told = false;
    while let Err(sentence) = check_room(data_dir, 0) {
        if !std::mem::replace(&mut told, true) {
            warn!("[STATEMACHINE] {sentence}. This state machine waits until there is room");
        }
        tokio::time::sleep(ROOM_INTERVAL).await;
    }
}

/// A batch holds at least one entry, however large, and the daemon fills it up to its own aim.
fn limits(config: &Config) -> Limits {
    let largest = config
        .max_entry_bytes
        .saturating_add(config.max_batch_bytes);
    let usual = Limits::default();
    let largest = u64::try_from(largest).unwrap_or(u64::MAX);
    Limits {
        max_batch_bytes: usual.max_batch_bytes.max(largest),
        ..usual
    }
}

fn log_to_stdout(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("LogLevel {:?} is no filter", config.log_level))?;
    // Internal errors would go to stderr, which may be as closed as stdout was.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false);
    let lines = lines
        .with_target(false)
        .with_ansi(io::stdout().is_terminal());
    let set = match config.log_format {
        LogFormat::Human => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    set.map_err(|error| anyhow::anyhow!("cannot set up the log: {error}"))
}
