//! `raft-client leave [node]`

use clap::Args;

use super::Output;
use crate::client::Client;
use crate::error::{ClientError, quoted};

/// Takes a node out of the cluster for good; exit code 1 when it is needed as a voter
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  raft-client leave worker-3")]
pub struct Leave {
    /// Its name, its address, or the beginning of its id; left out: the node at the only endpoint
    node: Option<String>,
}

impl Leave {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let node = match &self.node {
            Some(word) => client.node_called(word).await?,
            None => client.node_behind_endpoint().await?,
        };
        let name = quoted(&node.name);
        let reply = client.leave(node.node_id).await?;
        let sentence = quoted(&reply.sentence);
        if reply.removed {
            let sentence = if sentence.is_empty() {
                format!("{name} has left")
            } else {
                sentence
            };
            return Ok(Output::line(sentence.as_bytes()));
        }
        let sentence = if sentence.is_empty() {
            format!("{name} was kept as a voter")
        } else {
            sentence
        };
        Ok(Output::refusal(sentence.as_bytes()))
    }
}
