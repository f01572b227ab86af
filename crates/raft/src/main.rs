//! `raft`: parses, logs, runs.

use std::process::ExitCode;

use clap::Parser;
use raft::shared::Ending;
use raft::{logging, server};

/// The raft daemon of a node: elections, replication, the durable log. Clients use `raft-client`.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(flatten)]
    configuration: config::Arguments,
}

/// Most of a request is small pieces of memory, taken and given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// This node's id has left the cluster: started again, it takes a new one.
const RETIRED: u8 = 75;

fn main() -> ExitCode {
    if std::env::var_os("CLIENT").is_some_and(|client| client != "0" && !client.is_empty()) {
        let words: Vec<_> = std::env::args().skip(1).collect();
        eprintln!(
            "raft is only the daemon now. Say: raft-client entry {}",
            words.join(" ")
        );
        return ExitCode::from(2);
    }
    let command = Command::parse();
    let config = match command.configuration.load() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    if command.configuration.check_config {
        println!("{}", config.describe());
        return ExitCode::SUCCESS;
    }
    match start(config) {
        Ok(Ending::Stopped) => ExitCode::SUCCESS,
        Ok(Ending::Retired(sentence)) => {
            eprintln!("raft ends: {sentence}. Started again, it takes a new id");
            ExitCode::from(RETIRED)
        }
        Ok(Ending::Failed(sentence)) => {
            eprintln!("raft cannot go on: {sentence}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("raft cannot start: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn start(config: config::Config) -> anyhow::Result<Ending> {
    let level = logging::start(&config)?;
    let runtime = server::runtime()?;
    let ending = runtime.block_on(async {
        let shutdown = server::signals()?;
        server::run(config, level, shutdown).await
    });
    runtime.shutdown_timeout(raft::limits::FAREWELL);
    ending
}

/// An error with its causes, each said once: some name their cause in their own sentence.
fn sentence(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said.push_str(": ");
            said.push_str(&cause);
        }
    }
    said
}
