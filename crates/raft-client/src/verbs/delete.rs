//! `raft-client DELETE key`

use std::ffi::{OsStr, OsString};

use clap::Args;

use super::{Output, joined, key, said};
use crate::client::Client;
use crate::error::ClientError;

/// Deletes a key of the key-value store; exit code 1 when there is none
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  raft-client DELETE pizzatoppings")]
pub struct Delete {
    /// One word
    key: OsString,
}

impl Delete {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let entry = joined(&[OsStr::new("DELETE"), key(&self.key)?]);
        let reply = client.put_entry(entry.into()).await?;
        said(reply.kind(), &reply.data)
    }
}
