//! The membership daemon of a node: reads its configuration, runs, and ends on SIGTERM.

use std::process::ExitCode;

use clap::Parser;
use member::{Daemon, logging};
use tokio::signal::unix::{SignalKind, signal};

/// Membership daemon of Leeky Raft: who is there, at which address, how healthy
#[derive(Debug, Parser)]
#[command(version)]
struct CommandLine {
    #[command(flatten)]
    config: config::Arguments,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = CommandLine::parse().config;
    let config = match arguments.load() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    if arguments.check_config {
        println!("{}", config.describe());
        return ExitCode::SUCCESS;
    }
    match run(&config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("member: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &config::Config) -> anyhow::Result<()> {
    let log_level = logging::start(config)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut daemon = Daemon::start(config, Some(log_level)).await?;
    tokio::select! {
        result = daemon.finished() => return result,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Without a leave the others find out by themselves: most often a restart follows at once.
    if config.leave_on_terminate {
        daemon.leave().await;
    }
    daemon.stop().await
}
