//! The command line: global options, and one verb per file.
//!
//! A verb turns words into one call of the [`Client`] and the answer into an [`Output`]; only
//! `main` reads the process's arguments and writes to its streams, but for `watch`, whose lines
//! cannot wait for its end.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use wire::raft::ResultKind;

use crate::client::{Client, Options};
use crate::endpoints::parse_endpoints;
use crate::error::ClientError;
use crate::exit_codes::{self, ExitCode};
use crate::request::MESSAGE_BYTES_MAX;

pub mod bench;
pub mod cas;
pub mod delete;
pub mod entry;
pub mod get;
pub mod health;
pub mod incr;
pub mod leader;
pub mod leave;
pub mod list;
pub mod put;
pub mod query;
pub mod skip;
pub mod snapshot;
pub mod status;
pub mod transfer;
pub mod watch;

/// Where a node is looked for when nothing is said.
pub const ENDPOINTS_DEFAULT: &str = "127.0.0.1:6004";

/// The longest `--timeout`.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// As much as is read from standard input, in bytes: what fits into a message beside its fields.
const STDIN_BYTES_MAX: u64 = MESSAGE_BYTES_MAX as u64 - 64 * 1024;

const EXAMPLES: &str = "\
Examples:
  raft-client PUT pizzatoppings peporoni peppr cheddar anchoves onn it
  raft-client GET pizzatoppings
  raft-client DELETE pizzatoppings
  raft-client CAS door open shut
  raft-client INCR visitors
  raft-client LIST pizza
  raft-client WATCH pizza
  raft-client PUT picture --stdin < picture.png
  raft-client entry any words that your state machine understands
  raft-client query any words that your state machine answers
  raft-client status
  docker kill $(raft-client leader)
  raft-client health
  raft-client leave worker-3
  raft-client transfer worker-2
  raft-client skip 4711
  raft-client snapshot save pizza.snapshot
  raft-client bench put --duration 30s
  raft-client --endpoints 127.0.0.1,127.0.0.2:6004 --timeout 10s GET pizzatoppings";

/// The client of Leeky Raft.
///
/// Puts entries into the replicated log and asks the replicated state machine. Any node will do:
/// the leader is found. Verbs may be written in capitals.
#[derive(Debug, Parser)]
#[command(name = "raft-client", version, arg_required_else_help = true)]
#[command(after_help = format!("{EXAMPLES}\n\nExit codes:\n{}", exit_codes::help()))]
pub struct CommandLine {
    /// Where nodes are: host[:port], several with commas; a name may have many addresses
    #[arg(long, global = true, value_name = "HOSTS", env = "RAFT_ENDPOINTS")]
    #[arg(default_value = ENDPOINTS_DEFAULT)]
    endpoints: String,

    /// For everything together: 5, 5s, 500ms. A WATCH that waits for changes has no end of its own
    #[arg(long, global = true, value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = duration)]
    timeout: Duration,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Put(put::Put),
    Get(get::Get),
    Delete(delete::Delete),
    Cas(cas::Cas),
    Incr(incr::Incr),
    List(list::List),
    Watch(watch::Watch),
    Entry(entry::Entry),
    Query(query::Query),
    Status(status::Status),
    Leader(leader::Leader),
    Health(health::Health),
    Leave(leave::Leave),
    Transfer(transfer::Transfer),
    Skip(skip::Skip),
    Snapshot(snapshot::Snapshot),
    Bench(bench::Bench),
}

/// What a verb has to show for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Byte for byte what goes to standard output.
    pub stdout: Vec<u8>,
    /// What goes to standard error.
    pub stderr: Vec<u8>,
    /// What the process exits with.
    pub code: ExitCode,
}

impl Output {
    /// Success, with one line for standard output.
    pub fn line(line: &[u8]) -> Self {
        Self {
            stdout: [line, b"\n"].concat(),
            stderr: Vec::new(),
            code: ExitCode::Ok,
        }
    }

    /// A "no" that is not a failure of the cluster, with one line for standard error.
    pub fn refusal(line: &[u8]) -> Self {
        let stderr = [line, b"\n"].concat();
        Self {
            stdout: Vec::new(),
            stderr,
            code: ExitCode::Refused,
        }
    }
}

impl CommandLine {
    /// Reads the arguments of the process, the program's name first.
    ///
    /// # Errors
    /// clap's, which also is how `--help` and `--version` end.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(lower_case_verb(arguments))
    }

    /// The client that the global options describe.
    ///
    /// # Errors
    /// [`ClientError::Usage`] for malformed endpoints.
    pub fn client(&self) -> Result<Client, ClientError> {
        let endpoints = self.endpoints.trim();
        // Compose files set a variable to nothing in order to unset it.
        let endpoints = if endpoints.is_empty() {
            ENDPOINTS_DEFAULT
        } else {
            endpoints
        };
        Ok(Client::new(Options {
            endpoints: parse_endpoints(endpoints)?,
            timeout: self.timeout,
        }))
    }

    /// Does what the verb says.
    ///
    /// # Errors
    /// Whatever the call ends in.
    pub async fn run(&self, client: &mut Client) -> Result<Output, ClientError> {
        match &self.verb {
            Verb::Put(put) => put.run(client).await,
            Verb::Get(get) => get.run(client).await,
            Verb::Delete(delete) => delete.run(client).await,
            Verb::Cas(cas) => cas.run(client).await,
            Verb::Incr(incr) => incr.run(client).await,
            Verb::List(list) => list.run(client).await,
            Verb::Watch(watch) => watch.run(client).await,
            Verb::Entry(entry) => entry.run(client).await,
            Verb::Query(query) => query.run(client).await,
            Verb::Status(status) => status.run(client).await,
            Verb::Leader(leader) => leader.run(client).await,
            Verb::Health(health) => health.run(client).await,
            Verb::Leave(leave) => leave.run(client).await,
            Verb::Transfer(transfer) => transfer.run(client).await,
            Verb::Skip(skip) => skip.run(client).await,
            Verb::Snapshot(snapshot) => snapshot.run(client).await,
            Verb::Bench(bench) => bench.run(client).await,
        }
    }
}

/// `raft-client PUT` is `raft-client put`: the first word that is neither an option nor an option's
/// value loses its capitals.
fn lower_case_verb(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const WITH_VALUE: [&str; 2] = ["--endpoints", "--timeout"];
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut place = 1;
    while let Some(word) = arguments.get(place).and_then(|word| word.to_str()) {
        if WITH_VALUE.contains(&word) {
            place += 2;
        } else if word.starts_with('-') {
            place += 1;
        } else {
            arguments[place] = word.to_ascii_lowercase().into();
            break;
        }
    }
    arguments
}

/// Reads a time as people write it: seconds without a unit, or `s`, or `ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || format!("{text:?} is no time: write 5, 5s, 0.5 or 500ms, at most an hour");
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds: f64 = number.trim().parse().map_err(|_| wanted())?;
    let time = Duration::try_from_secs_f64(seconds * unit).map_err(|_| wanted())?;
    if time.is_zero() || time > TIMEOUT_MAX {
        Err(wanted())
    } else {
        Ok(time)
    }
}

/// Words joined by single spaces, as bytes: they need not be UTF-8.
fn joined(words: &[&OsStr]) -> Vec<u8> {
    words
        .iter()
        .map(|word| word.as_bytes())
        .collect::<Vec<_>>()
        .join(&b' ')
}

/// All of standard input, up to what a message can hold.
fn standard_input() -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(STDIN_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ClientError::Io(format!("standard input cannot be read: {error}")))?;
    if bytes.len() as u64 > STDIN_BYTES_MAX {
        let sentence = format!("standard input is over {STDIN_BYTES_MAX} bytes");
        return Err(ClientError::TooLarge(sentence));
    }
    Ok(bytes)
}

/// A key of the key-value store: the entry's first word after the verb, so without white space.
fn key(word: &OsStr) -> Result<&OsStr, ClientError> {
    if word.is_empty() || word.as_bytes().iter().any(u8::is_ascii_whitespace) {
        let sentence = format!("{word:?} is no key: a key is one word, without white space");
        return Err(ClientError::Usage(sentence));
    }
    Ok(word)
}

/// What the state machine said, as output: a result to standard output, a "no" to standard error.
fn said(kind: ResultKind, data: &Bytes) -> Result<Output, ClientError> {
    match kind {
        ResultKind::Ok => Ok(Output::line(data)),
        ResultKind::Rejected | ResultKind::NotFound => Ok(Output::refusal(data)),
        ResultKind::AlreadyApplied => Err(ClientError::OutcomeUnknown(
            "the entry was applied, once, but its result is no longer known".to_owned(),
        )),
        ResultKind::Unspecified => Err(ClientError::Invalid(
            "the answer is of a kind that this raft-client does not know; a newer one may"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn read(line: &str) -> CommandLine {
        let words = format!("raft-client {line}");
        CommandLine::read(words.split(' ').map(OsString::from)).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn verbs_may_be_capitals_and_options_stand_anywhere() {
        for line in [
            "PUT k v",
            "Put k v",
            "--timeout 1 PUT k v",
            "--endpoints=a PUT k v",
        ] {
            assert!(matches!(read(line).verb, Verb::Put(_)), "{line}");
        }
        assert_eq!(
            read("GET k --timeout 500ms").timeout,
            Duration::from_millis(500)
        );
        assert!(matches!(read("--endpoints PUT GET PUT").verb, Verb::Get(_)));
    }

    #[test]
    fn the_words_of_a_value_are_taken_as_they_are() {
        let entry = |line: &str| match read(line).verb {
            Verb::Put(put) => String::from_utf8(put.entry().unwrap()).unwrap(),
            Verb::Entry(entry) => String::from_utf8(entry.bytes().unwrap()).unwrap(),
            Verb::Cas(cas) => String::from_utf8(cas.entry().unwrap()).unwrap(),
            Verb::Incr(incr) => String::from_utf8(incr.entry().unwrap()).unwrap(),
            Verb::List(list) => String::from_utf8(list.query().unwrap()).unwrap(),
            Verb::Watch(watch) => String::from_utf8(watch.query().unwrap()).unwrap(),
            _ => panic!("{line}"),
        };
        assert_eq!(
            entry("PUT k peporoni peppr onn it"),
            "PUT k peporoni peppr onn it"
        );
        assert_eq!(
            entry("put K V --stdin --timeout 3"),
            "PUT K V --stdin --timeout 3"
        );
        assert_eq!(entry("PUT k -1"), "PUT k -1");
        assert_eq!(entry("PUT k a  b"), "PUT k a  b");
        assert_eq!(entry("PUT k a -- b"), "PUT k a -- b");
        assert_eq!(entry("entry INCR x -y"), "INCR x -y");
        assert_eq!(entry("cas k -1 -2 --timeout 3"), "CAS k -1 -2");
        assert_eq!(entry("CAS k \" "), "CAS k \"\\\"\" \"\"");
        assert_eq!(entry("INCR k"), "INCR k");
        assert_eq!(entry("INCR k -5"), "INCR k -5");
        assert_eq!(entry("LIST"), "LIST");
        assert_eq!(entry("list piz --stale"), "LIST piz");
        assert_eq!(entry("LIST --after z"), "LIST after z");
        assert_eq!(entry("WATCH"), "WATCH");
        assert_eq!(entry("watch piz --from 7 --json"), "WATCH piz");
        assert_eq!(entry("LIST piz --after pizza"), "LIST piz after pizza");
    }

    #[test]
    fn what_is_no_key_is_refused_here() {
        for word in ["two words", "", "tab\tbed", "new\nline"] {
            assert!(key(OsStr::new(word)).is_err(), "{word:?}");
        }
        assert!(key(OsStr::from_bytes(b"\xff\xfe")).is_ok());
    }

    #[test]
    fn times_as_people_write_them() {
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "0", "-1", "s", "5m", "nan", "inf", "1e9", "3601"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_verb_has_an_example() {
        for verb in CommandLine::command().get_subcommands() {
            let used = |line: &str| {
                let words: Vec<&str> = line.split([' ', '(', ')']).collect();
                words.windows(2).any(|pair| {
                    pair[0] == "raft-client" && pair[1].eq_ignore_ascii_case(verb.get_name())
                })
            };
            assert!(EXAMPLES.lines().any(used), "{}", verb.get_name());
            let own = verb
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(own.lines().any(used), "{} --help", verb.get_name());
        }
    }

    #[test]
    fn the_flags_of_bench() {
        use crate::bench::{Limit, Operation, Through};
        let plan = |line: &str| match read(line).verb {
            Verb::Bench(bench) => bench.plan(false),
            _ => panic!("{line}"),
        };
        let usual = plan("bench put").unwrap();
        assert_eq!(usual.operation, Operation::Put { session: false });
        assert_eq!((usual.callers, usual.connections), (64, None));
        assert_eq!((usual.value_bytes, usual.keys), (256, 1000));
        assert_eq!(usual.limit, Limit::Time(Duration::from_secs(10)));
        assert_eq!(usual.warm_up, Duration::from_secs(1));
        assert_eq!((usual.through, usual.progress), (Through::Leader, false));
        let other =
            plan("BENCH GET --stale --fill --through any --operations 7 --warm-up 0 --progress");
        let other = other.unwrap();
        let (stale, fill) = (true, true);
        assert_eq!(other.operation, Operation::Get { stale, fill });
        assert_eq!(other.limit, Limit::Operations(7));
        assert_eq!((other.through, other.progress), (Through::Any, true));
        assert_eq!(other.warm_up, Duration::ZERO);
        for wrong in [
            "bench put --stale",
            "bench put --fill",
            "bench get --session",
            "bench put --callers 0",
            "bench put --connections 0",
            "bench put --keys 0",
            "bench put --operations 0",
            "bench put --value-size 100000000",
        ] {
            let error = plan(wrong).unwrap_err();
            assert!(matches!(error, ClientError::Usage(_)), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_result_of_an_unknown_kind_is_no_success() {
        assert!(said(ResultKind::Unspecified, &Bytes::new()).is_err());
        assert!(said(ResultKind::AlreadyApplied, &Bytes::new()).is_err());
    }
}
