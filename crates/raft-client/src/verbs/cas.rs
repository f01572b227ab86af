//! `raft-client CAS key old new`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Args;

use super::{Output, joined, key, said};
use crate::client::Client;
use crate::error::ClientError;

/// Sets a key to a new value if it holds the old one; exit code 1 when it holds another, or none
#[derive(Debug, Args)]
#[command(after_help = "\
A value of several words is one argument of the shell, in the shell's quotes. In the log it is a
JSON string: CAS door \"wide open\" shut.

Examples:
  raft-client CAS door open shut
  raft-client CAS door 'wide open' shut")]
pub struct Cas {
    /// One word
    key: OsString,

    /// The value that it must hold
    #[arg(allow_hyphen_values = true)]
    old: OsString,

    /// The value that it is to hold then
    #[arg(allow_hyphen_values = true)]
    new: OsString,
}

impl Cas {
    /// The entry, with each value as one word or as a JSON string.
    pub(crate) fn entry(&self) -> Result<Vec<u8>, ClientError> {
        let (old, new) = (operand(&self.old), operand(&self.new));
        let words = [OsStr::new("CAS"), key(&self.key)?];
        let values = [OsStr::from_bytes(&old), OsStr::from_bytes(&new)];
        Ok(joined(&[words, values].concat()))
    }

    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let reply = client.put_entry(self.entry()?.into()).await?;
        said(reply.kind(), &reply.data)
    }
}

/// A value as it is, if the state machine takes it for one word; else in double quotes.
fn operand(value: &OsStr) -> Vec<u8> {
    let bytes = value.as_bytes();
    let word = !bytes.is_empty()
        && !bytes.starts_with(b"\"")
        && !bytes.iter().any(u8::is_ascii_whitespace);
    if word {
        return bytes.to_vec();
    }
    let mut quoted = vec![b'"'];
    for byte in bytes {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            0..0x20 => quoted.extend(format!("\\u{byte:04x}").bytes()),
            // Bytes that are no UTF-8 are none in a PUT either, and come through.
            _ => quoted.push(*byte),
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_no_words_become_json_strings() {
        let shown = |value: &[u8]| operand(OsStr::from_bytes(value));
        assert_eq!(shown(b"shut"), b"shut");
        assert_eq!(
            shown(b"a\"b\\c"),
            b"a\"b\\c",
            "a quote within a word is a letter"
        );
        assert_eq!(shown(b""), b"\"\"");
        assert_eq!(shown(b"wide open"), b"\"wide open\"");
        assert_eq!(shown(b"\"quoted\""), b"\"\\\"quoted\\\"\"");
        assert_eq!(shown(b"a\\ \"\n"), b"\"a\\\\ \\\"\\u000a\"");
        assert_eq!(shown(b"\xff \xfe"), b"\"\xff \xfe\"");
        for value in ["", "wide open", "\"\\\n\t\u{1}", "\"", "\u{e9} \u{1f355}"] {
            let quoted = operand(OsStr::new(value));
            let read: Option<String> = serde_json::from_slice(&quoted).ok();
            assert_eq!(read.as_deref(), Some(value), "as any JSON reader reads it");
        }
    }
}
