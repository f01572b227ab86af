//! `raft-client skip index`

use clap::Args;

use super::Output;
use crate::client::Client;
use crate::error::ClientError;

/// Orders every node to pass over the entry at an index, on which all state machines fail
#[derive(Debug, Args)]
#[command(after_help = "\
Every node gives every entry of the log to its state machine, in order. A poison entry is one on
which the state machine fails on every node, as often as it is tried: it crashes, or it never
answers. No node gets past it, so nothing that was written after it takes effect anywhere. An
alarm in `raft-client status` names the index of such an entry.

Starting the state machine again does not help, and a node must not leave the entry out on its own,
or the nodes would differ. `skip` puts an order into the log that all of them follow: the entry at
that index is not run. Its effect never happens, on any node, and whoever wrote it is told that it
was refused. If a state machine can be mended instead, the entry need not be lost. An entry that
has been run already stays as it is, whatever the order says.

Example:
  raft-client skip 4711")]
pub struct Skip {
    /// The index that the alarm names, from 1
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    index: u64,
}

impl Skip {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let reply = client.skip(self.index).await?;
        let sentence = format!(
            "The order not to run entry {} stands at index {}",
            self.index, reply.index
        );
        Ok(Output::line(sentence.as_bytes()))
    }
}
