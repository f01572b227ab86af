//! `raft-client LIST [prefix]`

use std::ffi::{OsStr, OsString};

use clap::Args;

use super::query::ask;
use super::{Output, joined, key};
use crate::client::Client;
use crate::error::ClientError;

/// Prints the keys, or those that begin so, one a line in the order of their bytes
#[derive(Debug, Args)]
#[command(after_help = "\
The state machine gives a bounded number of keys. If there are more, the last line has spaces in
it, which no key has: `-- more: LIST prefix after key`. With --after and that key it goes on.

Examples:
  raft-client LIST
  raft-client LIST pizza
  raft-client LIST pizza --after pizzatoppings")]
pub struct List {
    /// What the keys begin with; left out: all keys
    prefix: Option<OsString>,

    /// Only keys after this one
    #[arg(long, value_name = "KEY")]
    after: Option<OsString>,

    /// Be content with one node's state as it is; the index that it is from goes to standard error
    #[arg(long)]
    stale: bool,
}

impl List {
    pub(crate) fn query(&self) -> Result<Vec<u8>, ClientError> {
        let mut words = vec![OsStr::new("LIST")];
        if let Some(prefix) = self.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            words.push(key(prefix)?);
        }
        if let Some(after) = &self.after {
            words.extend([OsStr::new("after"), key(after)?]);
        }
        Ok(joined(&words))
    }

    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let mut output = ask(client, self.query()?, self.stale).await?;
        // No key is no line, and not an empty one.
        if output.stdout == b"\n" {
            output.stdout.clear();
        }
        Ok(output)
    }
}
