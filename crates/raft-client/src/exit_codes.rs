//! The exit codes of the command line, in one table.

/// What `raft-client` exits with. Scripts may rely on the numbers: they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The table below is the documentation of each.
pub enum ExitCode {
    Ok = 0,
    Refused = 1,
    Usage = 2,
    NoNodeAnswered = 3,
    NoLeader = 4,
    NoQuorum = 5,
    TooLarge = 6,
    Overloaded = 7,
    SessionExpired = 8,
    OutcomeUnknown = 9,
    OtherCluster = 10,
    NoCluster = 11,
    StateMachineDown = 12,
    LogFull = 13,
    TimedOut = 14,
    Invalid = 15,
    NotServing = 16,
    Io = 17,
    Compacted = 18,
    NoSnapshot = 19,
    Damaged = 20,
    InTheWay = 21,
}

impl ExitCode {
    /// The number that the shell sees.
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// One exit code: what it means, and whether the entry can have been written.
pub struct Meaning {
    /// The code.
    pub code: ExitCode,
    /// What happened.
    pub meaning: &'static str,
    /// What became of the entry, if one was to be put.
    pub written: &'static str,
}

const fn meaning(code: ExitCode, meaning: &'static str, written: &'static str) -> Meaning {
    Meaning {
        code,
        meaning,
        written,
    }
}

/// Every exit code, in order.
pub const EXIT_CODES: &[Meaning] = &[
    meaning(ExitCode::Ok, "done", "once"),
    meaning(
        ExitCode::Refused,
        "not found, or refused by the state machine (or a leave by MinVoters)",
        "nothing changed",
    ),
    meaning(ExitCode::Usage, "the command line makes no sense", "no"),
    meaning(
        ExitCode::NoNodeAnswered,
        "no node answered at any endpoint",
        "no",
    ),
    meaning(ExitCode::NoLeader, "no leader was found in time", "no"),
    meaning(
        ExitCode::NoQuorum,
        "a majority of the voters cannot be reached",
        "no",
    ),
    meaning(ExitCode::TooLarge, "the entry is over MaxEntryBytes", "no"),
    meaning(
        ExitCode::Overloaded,
        "too much is waiting; try again later",
        "no",
    ),
    meaning(
        ExitCode::SessionExpired,
        "the cluster no longer knows the session",
        "no",
    ),
    meaning(
        ExitCode::OutcomeUnknown,
        "sent, and no definite answer came",
        "perhaps, at most once",
    ),
    meaning(
        ExitCode::OtherCluster,
        "the endpoints belong to different clusters",
        "no",
    ),
    meaning(
        ExitCode::NoCluster,
        "the node has no cluster yet, or it waits for a second node",
        "no",
    ),
    meaning(
        ExitCode::StateMachineDown,
        "the state machine does not answer",
        "no",
    ),
    meaning(
        ExitCode::LogFull,
        "the log may not grow: disk full, or MaxLogBytes reached",
        "no",
    ),
    meaning(
        ExitCode::TimedOut,
        "no definite answer within --timeout",
        "no",
    ),
    meaning(
        ExitCode::Invalid,
        "the entry is empty, the request was refused as malformed, or no raft answers there",
        "no",
    ),
    meaning(
        ExitCode::NotServing,
        "health: a node answers that it does not serve",
        "-",
    ),
    meaning(
        ExitCode::Io,
        "standard input or output failed, or a file",
        "as it was at that moment",
    ),
    meaning(
        ExitCode::Compacted,
        "watch: the changes from that index on are no longer kept; the sentence names the first that are",
        "-",
    ),
    meaning(
        ExitCode::NoSnapshot,
        "snapshot save: no node could take one, or send all of it, in time",
        "-",
    ),
    meaning(
        ExitCode::Damaged,
        "snapshot: the file is no intact snapshot; the sentence names the byte",
        "-",
    ),
    meaning(
        ExitCode::InTheWay,
        "snapshot: the file to save to exists, or the directory to restore to is not empty",
        "-",
    ),
];

/// The error codes of the original's replies, 0 to 11, and what stands for each here.
pub const SEED_CODES: &[(&str, &str)] = &[
    ("NONE", "exit code 0"),
    (
        "MISMATCHTERM",
        "between nodes only: a reply of a higher term, and the sender steps down",
    ),
    (
        "MISMATCHLOGTERM",
        "between nodes only: AppendEntries is refused with a hint, and repaired",
    ),
    (
        "MISSINGLOGENTRY",
        "between nodes only: AppendEntries is refused with a hint, and repaired",
    ),
    (
        "CONFLICTINGENTRY",
        "between nodes only: the follower's uncommitted entry gives way",
    ),
    (
        "ALREADYVOTED",
        "between nodes only: a vote that is not granted",
    ),
    (
        "OUTDATEDLOGTERM",
        "between nodes only: a vote that is not granted",
    ),
    (
        "OUTDATEDLOGLENGTH",
        "between nodes only: a vote that is not granted",
    ),
    (
        "OUTDATEDRESPONSE",
        "between nodes only: replies of an older term are passed over",
    ),
    ("CONNERROR", "exit code 3; 9 if the entry may have left"),
    ("FILENOTFOUND", "exit code 1"),
    (
        "LEADERREDIRECT",
        "the node forwards, or the client follows; exit code 4 without a leader",
    ),
];

/// Markdown: the exit codes, then the original's error codes.
///
/// README shows exactly this between `<!-- exit codes -->` and `<!-- /exit codes -->`.
pub fn table() -> String {
    let mut text = String::from("| Code | Meaning | Was an entry written? |\n|---|---|---|\n");
    for Meaning {
        code,
        meaning,
        written,
    } in EXIT_CODES
    {
        text.push_str(&format!("| {} | {meaning} | {written} |\n", code.number()));
    }
    text.push_str("\n| Code of the seed | Here |\n|---|---|\n");
    for (number, (name, here)) in SEED_CODES.iter().enumerate() {
        text.push_str(&format!("| {number} {name} | {here} |\n"));
    }
    text
}

/// The exit codes as `--help` shows them.
pub fn help() -> String {
    let lines = EXIT_CODES
        .iter()
        .map(|Meaning { code, meaning, .. }| format!("  {:>2}  {meaning}", code.number()));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_distinct_and_in_the_table_at_its_number() {
        for (place, row) in EXIT_CODES.iter().enumerate() {
            assert_eq!(usize::from(row.code.number()), place);
        }
        // The last variant: one that is added after it and forgotten in the table shows here.
        let last = ExitCode::InTheWay.number();
        assert_eq!(EXIT_CODES.len(), usize::from(last) + 1);
        assert_eq!(SEED_CODES.len(), 12);
    }
}
