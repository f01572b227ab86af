//! `raft-client INCR key [n]`

use std::ffi::{OsStr, OsString};

use clap::Args;

use super::{Output, joined, key, said};
use crate::client::Client;
use crate::error::ClientError;

/// Adds to the number that a key holds, and prints the sum; exit code 1 when it holds no number
#[derive(Debug, Args)]
#[command(after_help = "\
A key that is not there counts as 0. Numbers are whole ones of 64 bits.

Examples:
  raft-client INCR visitors
  raft-client INCR visitors -5")]
pub struct Incr {
    /// One word
    key: OsString,

    /// What is added; left out: 1
    #[arg(allow_negative_numbers = true)]
    n: Option<i64>,
}

impl Incr {
    pub(crate) fn entry(&self) -> Result<Vec<u8>, ClientError> {
        let n = self.n.map(|n| n.to_string());
        let mut words = vec![OsStr::new("INCR"), key(&self.key)?];
        words.extend(n.as_deref().map(OsStr::new));
        Ok(joined(&words))
    }

    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let reply = client.put_entry(self.entry()?.into()).await?;
        said(reply.kind(), &reply.data)
    }
}
