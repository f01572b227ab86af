//! `raft-client query words...`

use std::ffi::{OsStr, OsString};

use clap::Args;

use super::{Output, joined, said};
use crate::client::Client;
use crate::error::ClientError;

/// Asks any state machine, without writing to the log, and prints its answer
#[derive(Debug, Args)]
#[command(after_help = "\
Words are joined by single spaces.

Examples:
  raft-client query COUNT visitors
  raft-client query --stale COUNT visitors")]
pub struct Query {
    /// Be content with one node's state as it is; the index that it is from goes to standard error
    #[arg(long)]
    stale: bool,

    /// Any words
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<OsString>,
}

impl Query {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let words: Vec<&OsStr> = self.words.iter().map(OsString::as_os_str).collect();
        ask(client, joined(&words), self.stale).await
    }
}

/// Asks, and for a stale answer tells how old it is.
pub(super) async fn ask(
    client: &mut Client,
    query: Vec<u8>,
    stale: bool,
) -> Result<Output, ClientError> {
    let reply = client.query(query.into(), stale).await?;
    let mut output = said(reply.kind(), &reply.data)?;
    if stale {
        let line = format!("[STALE] as of index {}\n", reply.applied_index);
        output.stderr.splice(0..0, line.into_bytes());
    }
    Ok(output)
}
