//! `raft-client PUT key value...`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use clap::Args;
use wire::raft::ResultKind;

use super::{Output, joined, key, said, standard_input};
use crate::client::Client;
use crate::error::ClientError;

/// What the key-value store says when the key was set. It does not repeat the value, which every node
/// would have to keep with the outcome; whoever sent it knows it.
const SET: &[u8] = b"Success!";

/// Sets a key of the key-value store to a value
#[derive(Debug, Args)]
#[command(after_help = "\
Words are joined by single spaces; everything after the first word of the value belongs to it.

Examples:
  raft-client PUT pizzatoppings peporoni peppr cheddar anchoves onn it
  raft-client PUT picture --stdin < picture.png
  raft-client PUT option -- --stdin")]
pub struct Put {
    /// One word
    key: OsString,

    /// Takes the value from standard input, byte for byte
    #[arg(long, conflicts_with = "value")]
    stdin: bool,

    /// Any words
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "stdin"
    )]
    value: Vec<OsString>,
}

impl Put {
    /// The entry: verb, key, and the value to the end as it is.
    pub(crate) fn entry(&self) -> Result<Vec<u8>, ClientError> {
        let mut words = vec![OsStr::new("PUT"), key(&self.key)?];
        if self.stdin {
            let mut entry = joined(&words);
            entry.push(b' ');
            entry.extend(standard_input()?);
            return Ok(entry);
        }
        words.extend(self.value.iter().map(OsString::as_os_str));
        Ok(joined(&words))
    }

    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let entry = Bytes::from(self.entry()?);
        let reply = client.put_entry(entry.clone()).await?;
        // Another state machine may say something else, and then that is what is printed.
        if reply.kind() == ResultKind::Ok && reply.data == SET {
            return Ok(Output::line(&self.sentence(&entry)));
        }
        said(reply.kind(), &reply.data)
    }

    fn sentence(&self, entry: &[u8]) -> Vec<u8> {
        let key = self.key.as_bytes();
        let value = entry.get("PUT ".len() + key.len() + " ".len()..);
        let value = value.unwrap_or_default();
        [b"Success! Set \"", key, b"\" to: \"", value, b"\""].concat()
    }
}
