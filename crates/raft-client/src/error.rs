//! What can go wrong, as a sentence for the person and a kind for the program.

use raft_disk::restore::RestoreError;
use raft_disk::{LockError, SaveError, SnapshotError};

use crate::exit_codes::ExitCode;

/// Why a call failed. Each kind has its own exit code and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The call itself makes no sense: a malformed endpoint, a key with white space.
    #[error("{0}")]
    Usage(String),
    /// No endpoint has a node behind it that talks. Nothing was written.
    #[error("No node answered at {tried}. Start one: scripts/cluster up 3")]
    NoNodeAnswered {
        /// The endpoints that were tried, each with the reason.
        tried: String,
    },
    /// Nodes answer, but know no leader. Nothing was written.
    #[error(
        "No leader was found in time: {0}. Nothing was written; raft-client status shows the nodes"
    )]
    NoLeader(String),
    /// A majority of the voters cannot be reached. Nothing was written.
    #[error(
        "No quorum: {0}. A majority of the voters must run; raft-client status shows the nodes"
    )]
    NoQuorum(String),
    /// The entry is over the cluster's limit. Nothing was written.
    #[error("Not accepted for its size: {0}. The limit is MaxEntryBytes in config.json")]
    TooLarge(String),
    /// Too much is waiting. Nothing was written.
    #[error("Overloaded: {0}. Nothing was written; try again later, or with a longer --timeout")]
    Overloaded(String),
    /// The cluster no longer knows the session. Nothing was written.
    #[error("The session has expired: {0}. Nothing was written; run the command again")]
    SessionExpired(String),
    /// The request was sent, and whether it was or will be carried out is not known.
    #[error(
        "The outcome is unknown: {0}. It may have been done, or may yet be: look before you repeat it"
    )]
    OutcomeUnknown(String),
    /// A node of another cluster than the first one answers at an endpoint.
    #[error("Another cluster: {0}. The endpoints must all belong to one cluster")]
    OtherCluster(String),
    /// The node has no cluster yet, or its cluster takes no entries yet. Nothing was written.
    #[error("No cluster yet: {0}. It takes entries once a second node has joined")]
    NoCluster(String),
    /// The state machine beside the node does not answer.
    #[error("The state machine is down: {0}. Its own log says why; raft goes on without it")]
    StateMachineDown(String),
    /// The log may not grow. Nothing was written.
    #[error(
        "The log is full: {0}. Nothing was written; make room on the disk, or raise MaxLogBytes"
    )]
    LogFull(String),
    /// The time ran out, and nothing was written.
    #[error(
        "No answer in time: {0}. A longer --timeout may help; raft-client status shows the nodes"
    )]
    TimedOut(String),
    /// What answers does not speak as this client does, or refuses what it says.
    #[error("Refused: {0}")]
    Invalid(String),
    /// The state machine refused all that it was asked. Nothing was changed.
    #[error("{0}")]
    Rejected(String),
    /// A node answers, and says that it does not serve.
    #[error("Not serving: {0}")]
    NotServing(String),
    /// The changes that a watch asks for are kept by no node any more.
    #[error("Compacted: {sentence}")]
    Compacted {
        /// The first index that can be watched.
        first: u64,
        /// What the node says.
        sentence: String,
    },
    /// No node has sent a whole snapshot. Nothing was saved.
    #[error("No snapshot: {0}. Nothing was saved; another node, or a longer --timeout, may help")]
    NoSnapshot(String),
    /// A file is no intact snapshot.
    #[error("Damaged: {0}. Use another copy of it")]
    Damaged(String),
    /// A file is where another one should be written.
    #[error("{0}")]
    InTheWay(String),
    /// Standard input or output failed, or a file.
    #[error("{0}")]
    Io(String),
}

impl ClientError {
    /// The code that the command line exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::Usage,
            Self::NoNodeAnswered { .. } => ExitCode::NoNodeAnswered,
            Self::NoLeader(_) => ExitCode::NoLeader,
            Self::NoQuorum(_) => ExitCode::NoQuorum,
            Self::TooLarge(_) => ExitCode::TooLarge,
            Self::Overloaded(_) => ExitCode::Overloaded,
            Self::SessionExpired(_) => ExitCode::SessionExpired,
            Self::OutcomeUnknown(_) => ExitCode::OutcomeUnknown,
            Self::OtherCluster(_) => ExitCode::OtherCluster,
            Self::NoCluster(_) => ExitCode::NoCluster,
            Self::StateMachineDown(_) => ExitCode::StateMachineDown,
            Self::LogFull(_) => ExitCode::LogFull,
            Self::TimedOut(_) => ExitCode::TimedOut,
            Self::Invalid(_) => ExitCode::Invalid,
            Self::Rejected(_) => ExitCode::Refused,
            Self::NotServing(_) => ExitCode::NotServing,
            Self::NoSnapshot(_) => ExitCode::NoSnapshot,
            Self::Damaged(_) => ExitCode::Damaged,
            Self::InTheWay(_) => ExitCode::InTheWay,
            Self::Io(_) => ExitCode::Io,
            Self::Compacted { .. } => ExitCode::Compacted,
        }
    }
}

impl From<SnapshotError> for ClientError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Damaged { .. } => Self::Damaged(error.to_string()),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<SaveError> for ClientError {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Snapshot(error) => error.into(),
            SaveError::Exists { path } => {
                Self::InTheWay(format!("{path} is there already. --force replaces it"))
            }
            other @ SaveError::Busy { .. } => Self::InTheWay(other.to_string()),
        }
    }
}

impl From<RestoreError> for ClientError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Snapshot(error) => error.into(),
            RestoreError::Save(error) => error.into(),
            RestoreError::Unusable { .. } => Self::Damaged(error.to_string()),
            RestoreError::InTheWay { .. }
            | RestoreError::NotEmpty { .. }
            | RestoreError::Running(LockError::Held { .. }) => Self::InTheWay(error.to_string()),
            RestoreError::Running(LockError::Disk(_)) | RestoreError::Identity(_) => {
                Self::Io(error.to_string())
            }
        }
    }
}

/// A sentence from elsewhere as it may go to a terminal: no control characters, bounded, and
/// without the full stop that the surrounding sentence adds.
pub(crate) fn quoted(sentence: &str) -> String {
    const SENTENCE_CHARACTERS_MAX: usize = 400;
    let start = sentence
        .trim()
        .trim_end_matches('.')
        .chars()
        .take(SENTENCE_CHARACTERS_MAX);
    start
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
