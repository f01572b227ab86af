//! `raft-client leader`

use clap::Args;

use super::Output;
use crate::client::Client;
use crate::error::{ClientError, quoted};

/// Prints the leader's name, and nothing else
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  docker kill $(raft-client leader)")]
pub struct Leader {}

impl Leader {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let leader = client.leader().await?;
        Ok(Output::line(quoted(&leader.name).as_bytes()))
    }
}
