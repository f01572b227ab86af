//! `raft-client GET key`

use std::ffi::{OsStr, OsString};

use clap::Args;

use super::query::ask;
use super::{Output, joined, key};
use crate::client::Client;
use crate::error::ClientError;

/// Prints the value of a key; exit code 1 when there is none
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  raft-client GET pizzatoppings")]
pub struct Get {
    /// One word
    key: OsString,

    /// Be content with one node's state as it is; the index that it is from goes to standard error
    #[arg(long)]
    stale: bool,
}

impl Get {
    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        ask(
            client,
            joined(&[OsStr::new("GET"), key(&self.key)?]),
            self.stale,
        )
        .await
    }
}
