//! `raft-client entry words...`

use std::ffi::{OsStr, OsString};

use clap::Args;

use super::{Output, joined, said, standard_input};
use crate::client::Client;
use crate::error::ClientError;

/// Puts an entry for any state machine into the log, and prints what it makes of it
#[derive(Debug, Args)]
#[command(after_help = "\
Words are joined by single spaces.

Examples:
  raft-client entry INCR visitors 1
  raft-client entry --stdin < entry.bin")]
pub struct Entry {
    /// Takes the entry from standard input, byte for byte
    #[arg(long, conflicts_with = "words")]
    stdin: bool,

    /// Any words
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "stdin"
    )]
    words: Vec<OsString>,
}

impl Entry {
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, ClientError> {
        if self.stdin {
            return standard_input();
        }
        let words: Vec<&OsStr> = self.words.iter().map(OsString::as_os_str).collect();
        Ok(joined(&words))
    }

    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let reply = client.put_entry(self.bytes()?.into()).await?;
        said(reply.kind(), &reply.data)
    }
}
