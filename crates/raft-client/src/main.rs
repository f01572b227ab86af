//! The command line of Leeky Raft: see the library for what it does.

use std::io::{self, Write};
use std::process::ExitCode;

use raft_client::verbs::{CommandLine, Output};
use raft_client::{ClientError, Notice};

fn main() -> ExitCode {
    let command_line = match CommandLine::read(std::env::args_os()) {
        Ok(command_line) => command_line,
        Err(error) => error.exit(),
    };
    // One call after another: a health check every few seconds should not start a thread per core.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(ClientError::Io(format!("cannot start: {error}")))),
    };
    let outcome = runtime.block_on(run(&command_line));
    // A name that is still being looked up is no reason to stay.
    runtime.shutdown_background();
    end(outcome)
}

async fn run(command_line: &CommandLine) -> Result<Output, ClientError> {
    let mut client = command_line.client()?;
    client.on_notice(|notice| match notice {
        Notice::Redirect { name, address } => {
            // That a notice cannot be shown must not end the call.
            let _ = writeln!(io::stderr(), "[REDIRECT] the leader is {name} at {address}");
        }
        Notice::WatchMoved {
            address,
            from,
            reason,
        } => {
            let _ = writeln!(
                io::stderr(),
                "[WATCH] going on from index {from} at {address}, for {reason}"
            );
        }
        Notice::Progress(progress) => {
            let _ = writeln!(io::stderr(), "[BENCH] {progress}");
        }
    });
    command_line.run(&mut client).await
}

fn end(outcome: Result<Output, ClientError>) -> ExitCode {
    let output = match outcome {
        Ok(output) => output,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            return error.exit_code().into();
        }
    };
    let _ = io::stderr().write_all(&output.stderr);
    match io::stdout()
        .write_all(&output.stdout)
        .and_then(|()| io::stdout().flush())
    {
        Ok(()) => output.code.into(),
        Err(error) => {
            let error = ClientError::Io(format!("standard output cannot be written: {error}"));
            let _ = writeln!(io::stderr(), "{error}");
            error.exit_code().into()
        }
    }
}
