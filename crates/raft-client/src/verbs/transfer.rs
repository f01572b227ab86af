//! `raft-client transfer [node]`

use clap::Args;

use super::Output;
use crate::client::Client;
use crate::error::{ClientError, quoted};

/// Hands leadership over, and prints the new leader's name
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  raft-client transfer worker-2")]
pub struct Transfer {
    /// Its name, its address, or the beginning of its id; left out: the leader chooses
    node: Option<String>,
}

impl Transfer {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let to = match &self.node {
            Some(word) => Some(client.node_called(word).await?.node_id),
            None => None,
        };
        let leader = client.transfer_leadership(to).await?;
        let name = leader
            .map(|leader| quoted(&leader.name))
            .unwrap_or_default();
        Ok(Output::line(name.as_bytes()))
    }
}
