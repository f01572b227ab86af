//! The keys of the original Leeky Raft, Chord-ish and Chordish DeFiSh that are no keys here.
//!
//! Whoever brings an old `config.json` learns for each of them what replaced it, or why nothing did.
//! Keys that are still keys stand in [`KEYS`](crate::KEYS) instead.

/// What `Introducer` says when it holds a host, as the original's file had it.
pub(crate) const INTRODUCER_NAMED_A_HOST: &str =
    "must be true or false, and is a host: hosts are named in Introducers, a list";

/// Some keys of the original, and what became of them.
pub struct Gone {
    /// The keys as the original wrote them.
    pub names: &'static [&'static str],
    /// The key here that took over, if one did.
    pub renamed: Option<&'static str>,
    /// Completes the sentence that begins with the key.
    pub verdict: &'static str,
}

/// Every key of the original that is no key here.
pub const GONE: &[Gone] = &[
    Gone {
        names: &["Quorum"],
        renamed: None,
        verdict: "is not configurable: a majority of the voters in the configuration in the log, \
                  always; a smaller one lets two leaders be elected",
    },
    Gone {
        names: &["FilesystemRPCPort"],
        renamed: Some("StateMachinePort"),
        verdict: "is now named StateMachinePort: any state machine may listen there",
    },
    Gone {
        names: &["RaftRPCPort"],
        renamed: Some("RPCPort"),
        verdict: "is now named RPCPort: all daemons read one file",
    },
    Gone {
        names: &["Filedir"],
        renamed: Some("DataDir"),
        verdict: "is now named DataDir: log, identity and state lie there",
    },
    Gone {
        names: &["ServerPrefix"],
        renamed: Some("Introducers"),
        verdict: "is now named Introducers: a list of host names, each of which may resolve to \
                  many addresses (clients: --endpoints)",
    },
    Gone {
        names: &["MaxServerLookups"],
        renamed: None,
        verdict: "is gone: every address that a name of Introducers resolves to is asked",
    },
    Gone {
        names: &["Timescale"],
        renamed: None,
        verdict: "is gone: set ElectTimeoutMin, ElectTimeoutMax and HeartbeatInterval themselves",
    },
    Gone {
        names: &["RestoreWait", "RestoreTimeout"],
        renamed: None,
        verdict: "is gone: log and state are on disk, and a restarted node goes on where they end",
    },
    Gone {
        names: &["RPCMaxRetries", "RPCRetryInterval"],
        renamed: None,
        verdict: "is gone: peers reconnect for as long as both live, and a client retries until \
                  its --timeout",
    },
    Gone {
        names: &["RetryAttempts", "RetryInterval"],
        renamed: None,
        verdict: "is gone: nothing read it, and a client retries until its --timeout",
    },
    Gone {
        names: &["MemberRPCRetryInterval", "MemberRPCRetryMax"],
        renamed: None,
        verdict: "is gone: raft starts without member, from its own copy, and reconnects for as \
                  long as it runs",
    },
    Gone {
        names: &["MemberInterval"],
        renamed: None,
        verdict: "is gone: member tells raft of every change at once, nothing is polled",
    },
    Gone {
        names: &["Replicas"],
        renamed: None,
        verdict: "is gone: every voter and learner holds everything; Voters says how many vote",
    },
    Gone {
        names: &["Prefix"],
        renamed: None,
        verdict: "is gone: each line of the log names its daemon, and each line of raft the node's PID, which ONLINE says with its Name",
    },
    Gone {
        names: &["Logfile", "LogfileClient"],
        renamed: None,
        verdict: "is gone: daemons write their log to their output, and whoever starts them keeps it",
    },
    Gone {
        names: &[
            "LogHeartbeats",
            "LogHeartbeatsLead",
            "LogAppendEntries",
            "LogPutEntry",
            "LogTimers",
            "LogElections",
            "LogMembership",
            "LogGoroutines",
            "LogConnections",
            "LogConflictingEntries",
            "LogRestore",
            "LogDigestEntries",
            "LogDigestEntriesVerbose",
            "LogDigestCommits",
            "LogExecute",
            "LogFileReplication",
            "LogReads",
            "LogWrites",
            "LogDeletes",
            "LogPutAssign",
            "LogDelete",
            "LogGet",
            "LogLs",
            "LogStore",
        ],
        renamed: Some("LogLevel"),
        verdict: "is replaced by LogLevel, for example \"info,raft=debug\"; the events keep their \
                  names",
    },
];

/// What became of a key of the original; `None` for a name that it did not have either.
pub fn verdict(name: &str) -> Option<&'static str> {
    GONE.iter()
        .find(|gone| gone.names.contains(&name))
        .map(|gone| gone.verdict)
}
