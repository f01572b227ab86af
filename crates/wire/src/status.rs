//! Errors on the wire: a gRPC status whose details say which error it is.
//!
//! The sentence is for people and may change at any time; the [`ErrorKind`] is for programs. A
//! daemon makes every error with [`error_status`], a client reads it with [`detail_of`].

use prost::Message;
use tonic::{Code, Status};

use crate::raft::{ErrorDetail, ErrorKind};

/// The gRPC code that goes with a kind of error: the one place that decides it.
///
/// Codes are what software that knows nothing of [`ErrorDetail`] (proxies, generic clients) acts
/// on: `Unavailable` and `ResourceExhausted` may be tried again as they are, the others may not.
pub fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NoLeader
        | ErrorKind::NoQuorum
        | ErrorKind::StateMachineDown
        | ErrorKind::NoCluster
        | ErrorKind::NoSnapshot
        | ErrorKind::Founding
        | ErrorKind::WatchEnded => Code::Unavailable,
        ErrorKind::NotLeader
        | ErrorKind::SessionExpired
        | ErrorKind::StaleSequence
        | ErrorKind::OtherCluster => Code::FailedPrecondition,
        ErrorKind::TooLarge | ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Overloaded | ErrorKind::LogFull => Code::ResourceExhausted,
        ErrorKind::WatchCompacted => Code::OutOfRange,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::OutcomeUnknown | ErrorKind::Unspecified => Code::Unknown,
    }
}

/// An error status: a code, a sentence for people, and the detail for programs.
///
/// Most callers want [`kind_status`], which picks the code.
pub fn error_status(code: Code, sentence: &str, detail: ErrorDetail) -> Status {
    Status::with_details(code, sentence, detail.encode_to_vec().into())
}

/// [`error_status`] with the code that belongs to the detail's kind.
pub fn kind_status(sentence: &str, detail: ErrorDetail) -> Status {
    error_status(code_of(detail.kind()), sentence, detail)
}

/// The detail that a daemon put into a status.
///
/// `None` when there is none, when it does not decode, or when its kind is unspecified or newer
/// than this program: the status was then made by something else (a proxy, tonic itself), and
/// only its code can be relied on.
pub fn detail_of(status: &Status) -> Option<ErrorDetail> {
    if status.details().is_empty() {
        return None;
    }
    let detail = ErrorDetail::decode(status.details()).ok()?;
    (detail.kind() != ErrorKind::Unspecified).then_some(detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::raft::NodeReference;

    #[test]
    fn a_detail_survives_the_journey_inside_a_status() {
        let detail = ErrorDetail {
            kind: ErrorKind::NotLeader.into(),
            leader: Some(NodeReference {
                node_id: vec![7; 16].into(),
                name: "raft-3".into(),
                address: "127.0.0.3:6004".into(),
            }),
            retry_after_ms: 25,
            cluster_id: vec![9; 16].into(),
            index: 7,
        };
        let status = kind_status("raft-1 does not lead: ask raft-3", detail.clone());
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "raft-1 does not lead: ask raft-3");
        assert_eq!(detail_of(&status).unwrap(), detail);
    }

    #[test]
    fn a_status_of_something_else_has_no_detail() {
        assert_eq!(detail_of(&Status::unavailable("proxy")), None);
        let junk = Status::with_details(Code::Unavailable, "junk", vec![0xff, 0x01].into());
        assert_eq!(detail_of(&junk), None);
        let newer = ErrorDetail {
            kind: 999,
            ..Default::default()
        };
        assert_eq!(detail_of(&kind_status("from the future", newer)), None);
    }
}
