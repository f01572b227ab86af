//! One attempt failed: what that says about the request, and what to do next.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status};
use wire::raft::ErrorKind;
use wire::status::detail_of;

use crate::connection::{ConnectError, deepest, never_connected};
use crate::error::{ClientError, quoted};

/// How one attempt at one address failed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// There was no connection: nothing left this process.
    Connect(ConnectError),
    /// Sent, and not answered within the attempt's time.
    Silent,
    /// Sent, and the connection ended before an answer.
    Broken(String),
    /// A raft daemon says no, and why.
    Refused(Box<Refusal>),
    /// Something answered that is no raft daemon, or one that does not know the call.
    Foreign(String),
}

/// The typed answer of a raft daemon.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) kind: ErrorKind,
    pub(crate) sentence: String,
    pub(crate) leader: Option<Leader>,
    pub(crate) retry_after: Duration,
    pub(crate) cluster_id: Bytes,
    /// What the kind says of it, or 0.
    pub(crate) index: u64,
}

/// Who leads and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
}

impl Leader {
    /// From a reply; `None` when there is none or its address is unusable.
    pub(crate) fn from_reference(reference: Option<&wire::raft::NodeReference>) -> Option<Self> {
        let reference = reference?;
        let address: SocketAddr = reference.address.parse().ok()?;
        let usable = !address.ip().is_unspecified() && address.port() > 0;
        usable.then(|| Self {
            name: quoted(&reference.name),
            address,
        })
    }
}

impl Failure {
    /// A node answers, and belongs to another cluster than the one that answered first.
    pub(crate) fn other_cluster(sentence: String) -> Self {
        Self::of_kind(ErrorKind::OtherCluster, sentence)
    }

    fn of_kind(kind: ErrorKind, sentence: String) -> Self {
        Self::Refused(Box::new(Refusal {
            kind,
            sentence,
            leader: None,
            retry_after: Duration::ZERO,
            cluster_id: Bytes::new(),
            index: 0,
        }))
    }

    /// Reads the status of a call that was sent.
    pub(crate) fn from_status(status: &Status) -> Self {
        if let Some(detail) = detail_of(status) {
            return Self::Refused(Box::new(Refusal {
                kind: detail.kind(),
                sentence: quoted(status.message()),
                leader: Leader::from_reference(detail.leader.as_ref()),
                retry_after: Duration::from_millis(detail.retry_after_ms),
                cluster_id: detail.cluster_id,
                index: detail.index,
            }));
        }
        if let Some(error) = never_connected(status) {
            return Self::Connect(error);
        }
        let sentence = match std::error::Error::source(status) {
            Some(source) => quoted(&deepest(source)),
            None => quoted(status.message()),
        };
        // A daemon that is too old for a call has no words for that.
        let sentence = if sentence.is_empty() {
            status.code().description().to_owned()
        } else {
            sentence
        };
        match status.code() {
            // tonic itself refuses a message over the limit, before anything was done with it.
            Code::OutOfRange => Self::of_kind(ErrorKind::TooLarge, sentence),
            Code::Unimplemented | Code::InvalidArgument | Code::Unauthenticated => {
                Self::Foreign(sentence)
            }
            _ => Self::Broken(sentence),
        }
    }

    /// The request may have been carried out, or may yet be.
    pub(crate) fn leaves_doubt(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Foreign(_) => false,
            Self::Silent | Self::Broken(_) => true,
            Self::Refused(refusal) => match refusal.kind {
                // The promise of these is that nothing was appended.
                ErrorKind::NoLeader
                | ErrorKind::NotLeader
                | ErrorKind::TooLarge
                | ErrorKind::Overloaded
                | ErrorKind::SessionExpired
                | ErrorKind::OtherCluster
                | ErrorKind::NoCluster
                | ErrorKind::Invalid
                | ErrorKind::Founding
                | ErrorKind::LogFull
                | ErrorKind::WatchCompacted
                | ErrorKind::WatchEnded
                | ErrorKind::NoSnapshot
                | ErrorKind::Unsupported => false,
                // These can come after the append; to say "failed" could prove a lie.
                ErrorKind::NoQuorum
                | ErrorKind::OutcomeUnknown
                | ErrorKind::StateMachineDown
                | ErrorKind::StaleSequence
                | ErrorKind::Unspecified => true,
            },
        }
    }

    /// No other attempt, here or elsewhere, would end better.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Silent | Self::Broken(_) | Self::Foreign(_) => false,
            Self::Refused(refusal) => match refusal.kind {
                ErrorKind::TooLarge
                | ErrorKind::SessionExpired
                | ErrorKind::OtherCluster
                | ErrorKind::Invalid
                | ErrorKind::StaleSequence
                | ErrorKind::LogFull
                | ErrorKind::Unsupported => true,
                ErrorKind::NoLeader
                | ErrorKind::NotLeader
                | ErrorKind::NoQuorum
                | ErrorKind::Overloaded
                | ErrorKind::OutcomeUnknown
                | ErrorKind::NoCluster
                | ErrorKind::StateMachineDown
                | ErrorKind::Founding
                | ErrorKind::WatchCompacted
                | ErrorKind::WatchEnded
                | ErrorKind::NoSnapshot
                | ErrorKind::Unspecified => false,
            },
        }
    }

    /// Waiting will not help, as far as one can tell: a machine answers, and no raft daemon does.
    pub(crate) fn is_hopeless(&self) -> bool {
        match self {
            Self::Connect(error) => error.refused,
            Self::Foreign(_) => true,
            Self::Silent | Self::Broken(_) | Self::Refused(_) => false,
        }
    }

    /// How much the failure tells: of several, the most telling one is reported.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            Self::Connect(_) => 0,
            Self::Foreign(_) => 1,
            Self::Silent | Self::Broken(_) => 2,
            Self::Refused(refusal) => match refusal.kind {
                // A node that waits to join says less than a node of a cluster.
                ErrorKind::NoCluster => 3,
                ErrorKind::NoLeader | ErrorKind::NotLeader => 4,
                _ => 5,
            },
        }
    }

    /// The failure as a few words after an address: `127.0.0.1:6004 (refused)`.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Connect(error) => error.reason.clone(),
            Self::Silent => "connected, but no answer in time".to_owned(),
            Self::Broken(sentence) => format!("the connection broke: {sentence}"),
            Self::Foreign(sentence) => format!("no raft daemon: {sentence}"),
            Self::Refused(refusal) => refusal.sentence.clone(),
        }
    }

    /// The error for the caller, when nothing was written.
    pub(crate) fn into_error(self, address: SocketAddr) -> ClientError {
        let mut told = self.reason();
        if !told.contains(&address.to_string()) {
            told = format!("{address} says: {told}");
        }
        match self {
            Self::Connect(error) => ClientError::NoNodeAnswered {
                tried: format!("{address} ({})", error.reason),
            },
            Self::Silent => ClientError::TimedOut(format!("{address} is silent")),
            Self::Broken(sentence) => {
                ClientError::TimedOut(format!("{address} broke the connection ({sentence})"))
            }
            Self::Foreign(sentence) => ClientError::Invalid(format!(
                "what listens at {address} is no raft daemon ({sentence}); the port of raft is 6004"
            )),
            Self::Refused(refusal) => match refusal.kind {
                ErrorKind::NoLeader | ErrorKind::NotLeader => ClientError::NoLeader(told),
                // Only what writes nothing gets here with an unknown outcome: no majority confirmed.
                ErrorKind::NoQuorum | ErrorKind::OutcomeUnknown => ClientError::NoQuorum(told),
                ErrorKind::TooLarge => ClientError::TooLarge(told),
                ErrorKind::Overloaded => ClientError::Overloaded(told),
                ErrorKind::SessionExpired => ClientError::SessionExpired(told),
                ErrorKind::OtherCluster => ClientError::OtherCluster(told),
                ErrorKind::NoCluster | ErrorKind::Founding => ClientError::NoCluster(told),
                ErrorKind::StateMachineDown => ClientError::StateMachineDown(told),
                ErrorKind::LogFull => ClientError::LogFull(told),
                ErrorKind::WatchCompacted => ClientError::Compacted {
                    first: refusal.index,
                    sentence: told,
                },
                ErrorKind::WatchEnded => ClientError::TimedOut(told),
                ErrorKind::NoSnapshot => ClientError::NoSnapshot(told),
                ErrorKind::Unsupported
                | ErrorKind::Invalid
                | ErrorKind::StaleSequence
                | ErrorKind::Unspecified => ClientError::Invalid(told),
            },
        }
    }
}
