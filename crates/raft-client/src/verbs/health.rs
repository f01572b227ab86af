//! `raft-client health`

use clap::Args;

use super::Output;
use crate::client::Client;
use crate::error::ClientError;

/// Exits with 0 if every endpoint serves (not: if there is a leader)
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  raft-client health")]
pub struct Health {}

impl Health {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let serving = client.health().await?;
        let lines = serving.iter().map(|address| format!("{address} SERVING"));
        Ok(Output::line(
            lines.collect::<Vec<_>>().join("\n").as_bytes(),
        ))
    }
}
