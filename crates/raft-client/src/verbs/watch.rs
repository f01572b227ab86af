//! `raft-client WATCH [prefix]`

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::{Output, joined, key};
use crate::client::{Client, hex};
use crate::error::ClientError;
use crate::exit_codes::ExitCode;

/// Prints every change of the keys that begin so, as it is applied, one a line
#[derive(Debug, Args)]
#[command(after_help = "\
A line is the index of the entry in the log and what it did: `17 PUT key value` or `18 DELETE key`
(CAS and INCR are told as PUT). Control characters are escaped; --json has the bytes as they are.
Each change is told once and in the order of the log. When a node dies the watch goes on at another
endpoint where it was; if none is found within --timeout, it ends with the exit code for that.

The nodes keep the changes of late only. To miss nothing, read first and watch from the index after:
an index that is no longer kept is exit code 18. Ctrl-C ends a watch.

Examples:
  raft-client WATCH
  raft-client WATCH pizza --from 4711
  raft-client watch pizza --json --count 10")]
pub struct Watch {
    /// What the keys begin with; left out: all keys
    prefix: Option<OsString>,

    /// Begin with the changes of this index of the log; 0 is from now on, as far as the node knows
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,

    /// One JSON object a line: index, kind, key, and with PUT value (key_hex, value_hex: no UTF-8)
    #[arg(long)]
    json: bool,

    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// One change as JSON. Of a text and its `_hex` one is there: bytes need not be UTF-8.
#[derive(Default, Serialize)]
struct Line<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    /// What another state machine than the key-value store said.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_hex: Option<String>,
}

impl Watch {
    pub(crate) fn query(&self) -> Result<Vec<u8>, ClientError> {
        let mut words = vec![OsStr::new("WATCH")];
        if let Some(prefix) = self.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            words.push(key(prefix)?);
        }
        Ok(joined(&words))
    }

    pub(super) async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut watch = client.watch(self.query()?.into(), self.from);
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let changes = tokio::select! {
                biased;
                _ = &mut interrupted => return Ok(nothing()),
                changes = watch.next() => changes?,
            };
            for event in &changes.events {
                let written = self.show(changes.index, event);
                match written {
                    // Who has seen enough, such as `head`, is no failure.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(nothing()),
                    Err(error) => {
                        let sentence = format!("standard output cannot be written: {error}");
                        return Err(ClientError::Io(sentence));
                    }
                    Ok(()) => left -= 1,
                }
                if left == 0 {
                    return Ok(nothing());
                }
            }
        }
    }

    /// Writes one line, now: whoever reads it acts on it.
    fn show(&self, index: u64, event: &Bytes) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(&self.line(index, event))?;
        out.flush()
    }

    fn line(&self, index: u64, event: &[u8]) -> Vec<u8> {
        if self.json {
            // Numbers and strings only: there is nothing that could fail.
            let mut line = serde_json::to_vec(&Line::of(index, event)).unwrap_or_default();
            line.push(b'\n');
            return line;
        }
        let text = String::from_utf8_lossy(event);
        let mut line = format!("{index} ");
        for c in text.chars() {
            if c.is_control() {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        line.into_bytes()
    }
}

impl<'a> Line<'a> {
    fn of(index: u64, event: &'a [u8]) -> Self {
        let mut line = Self {
            index,
            ..Self::default()
        };
        if let Some(put) = event.strip_prefix(b"PUT ") {
            let mut words = put.splitn(2, |byte| *byte == b' ');
            let (key, value) = (words.next().unwrap_or_default(), words.next());
            line.kind = Some("PUT");
            (line.key, line.key_hex) = text_or_hex(key);
            (line.value, line.value_hex) = text_or_hex(value.unwrap_or_default());
        } else if let Some(key) = event.strip_prefix(b"DELETE ") {
            line.kind = Some("DELETE");
            (line.key, line.key_hex) = text_or_hex(key);
        } else {
            (line.event, line.event_hex) = text_or_hex(event);
        }
        line
    }
}

fn text_or_hex(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(hex(bytes))),
    }
}

/// All that there is to say was said already.
fn nothing() -> Output {
    Output {
        stdout: Vec::new(),
        stderr: Vec::new(),
        code: ExitCode::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: bool, event: &[u8]) -> String {
        let watch = Watch {
            prefix: None,
            from: 0,
            json,
            count: None,
        };
        String::from_utf8_lossy(&watch.line(7, event)).into_owned()
    }

    #[test]
    fn one_change_is_one_line() {
        assert_eq!(line(false, b"PUT k two words"), "7 PUT k two words\n");
        assert_eq!(
            line(false, b"PUT k a\nb\x1b[2J"),
            "7 PUT k a\\nb\\u{1b}[2J\n"
        );
        assert_eq!(line(false, b"DELETE k"), "7 DELETE k\n");
    }

    #[test]
    fn json_has_the_bytes_as_they_are() {
        assert_eq!(
            line(true, b"PUT k a\nb c"),
            "{\"index\":7,\"kind\":\"PUT\",\"key\":\"k\",\"value\":\"a\\nb c\"}\n"
        );
        assert_eq!(
            line(true, b"PUT \xff \xfe"),
            "{\"index\":7,\"kind\":\"PUT\",\"key_hex\":\"ff\",\"value_hex\":\"fe\"}\n"
        );
        assert_eq!(
            line(true, b"DELETE k"),
            "{\"index\":7,\"kind\":\"DELETE\",\"key\":\"k\"}\n"
        );
        assert_eq!(
            line(true, b"PUT k "),
            "{\"index\":7,\"kind\":\"PUT\",\"key\":\"k\",\"value\":\"\"}\n"
        );
        assert_eq!(line(true, b"+5"), "{\"index\":7,\"event\":\"+5\"}\n");
    }
}
