//! The connection to the state machine beside this node.
//!
//! One connection is one epoch, opened by a Handshake and never mended (R3): whatever fails or takes
//! too long ends it, and the next connection begins with a larger epoch. An epoch number is the
//! daemon's boot and a count, so that it grows over restarts too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use raft_core::ClusterId;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use wire::state_machine::state_machine_client::StateMachineClient;
use wire::state_machine::{self as pb};

use crate::limits::{CONNECT_DEADLINE, EXECUTE_DEADLINE, HANDSHAKE_DEADLINE, MAX_MESSAGE_BYTES};
use crate::net;
use crate::shared::Shared;

/// The version of the protocol that this daemon speaks.
const PROTOCOL: u32 = 1;

/// An open epoch.
pub struct Connection {
    /// For calls of this epoch.
    pub client: StateMachineClient<Channel>,
    /// Resolves when the connection has ended.
    pub ended: oneshot::Receiver<()>,
    /// The epoch.
    pub epoch: u64,
    /// What the state machine said of itself.
    pub hello: pb::HandshakeReply,
    /// The stream of batches, from the first batch on, if the state machine offers it.
    batches: Option<Batches>,
}

/// Both ends of an ExecuteStream.
struct Batches {
    /// One batch at a time: the one before it is answered.
    requests: mpsc::Sender<pb::ExecuteRequest>,
    replies: Streaming<pb::ExecuteReply>,
}

/// Why a batch was not applied.
#[derive(Debug)]
pub struct ExecuteFailure {
    /// For people.
    pub reason: String,
    /// The state machine failed, died or hung over these very entries, as far as one can tell (P5).
    pub over_the_entries: bool,
}

/// Whether a failed call may be the fault of its entries: not when the state machine refused and goes on,
/// for want of room or of time, or since the call was not of its epoch.
fn blames_entries(status: &Status) -> bool {
    use tonic::Code;
    match status.code() {
        Code::ResourceExhausted
        | Code::Aborted
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::Unimplemented => false,
        Code::Unavailable => status
            .metadata()
            .get("leeky-reason")
            .is_none_or(|reason| reason != "BUSY"),
        _ => true,
    }
}

impl ExecuteFailure {
    fn over_the_entries(reason: String) -> ExecuteFailure {
        ExecuteFailure {
            reason,
            over_the_entries: true,
        }
    }

    fn of_form(reason: &str) -> ExecuteFailure {
        ExecuteFailure {
            reason: reason.to_owned(),
            over_the_entries: false,
        }
    }
}

/// Why there is no epoch.
#[derive(Debug)]
pub enum NoEpoch {
    /// It does not answer, or not in time.
    Unreachable(String),
    /// It answers, and must not be used (P2).
    Quarantine(String),
}

/// The epoch's number: larger than any of an earlier start, or of an earlier count.
pub fn epoch_number(boot: u64, count: u32) -> u64 {
    (boot << 32) | u64::from(count)
}

/// Where the state machine listens, for people.
pub fn place(shared: &Shared) -> String {
    match &shared.config.state_machine_socket {
        Some(path) => path.display().to_string(),
        None => tcp_address(shared).to_string(),
    }
}

fn tcp_address(shared: &Shared) -> SocketAddr {
    let bind = shared.config.bind_ip;
    let ip = if bind.is_unspecified() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        bind
    };
    SocketAddr::new(ip, shared.config.state_machine_port)
}

/// Connects and shakes hands.
///
/// # Errors
/// [`NoEpoch`].
pub async fn open(shared: &Shared, cluster: ClusterId, epoch: u64) -> Result<Connection, NoEpoch> {
    let (channel, ended) = tokio::time::timeout(CONNECT_DEADLINE, connect(shared))
        .await
        .map_err(|_| NoEpoch::Unreachable("no answer".to_owned()))?
        .map_err(NoEpoch::Unreachable)?;
    let mut client = StateMachineClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let request = pb::HandshakeRequest {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        cluster_id: wire::id_bytes(cluster.0),
        node_id: wire::id_bytes(shared.id.0),
        epoch,
    };
    let hello = tokio::time::timeout(HANDSHAKE_DEADLINE, client.handshake(request))
        .await
        .map_err(|_| NoEpoch::Unreachable("it did not answer the handshake in time".to_owned()))?
        .map_err(|status| match status.code() {
            tonic::Code::FailedPrecondition => NoEpoch::Quarantine(status.message().to_owned()),
            _ => NoEpoch::Unreachable(net::status_line(&status)),
        })?
        .into_inner();
    check(&hello, cluster)?;
    Ok(Connection {
        client,
        ended,
        epoch,
        hello,
        batches: None,
    })
}

fn check(hello: &pb::HandshakeReply, cluster: ClusterId) -> Result<(), NoEpoch> {
    if hello.protocol != PROTOCOL {
        return Err(NoEpoch::Quarantine(format!(
            "it speaks version {} of the protocol, and this daemon speaks {PROTOCOL}",
            hello.protocol
        )));
    }
    let theirs = wire::optional_id_from_bytes("HandshakeReply.cluster_id", &hello.cluster_id)
        .map_err(|error| NoEpoch::Quarantine(error.to_string()))?;
    match theirs {
        Some(theirs) if theirs != cluster.0 => Err(NoEpoch::Quarantine(format!(
            "its state belongs to cluster {}, and this node to cluster {cluster}: give it an empty \
             data directory",
            ClusterId(theirs)
        ))),
        _ => Ok(()),
    }
}

async fn connect(shared: &Shared) -> Result<(Channel, oneshot::Receiver<()>), String> {
    let connected = match &shared.config.state_machine_socket {
        Some(path) => {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| error.to_string())?;
            net::watched_channel(stream).await
        }
        None => {
            let stream = net::dial(tcp_address(shared), shared.config.bind_ip, CONNECT_DEADLINE)
                .await
                .map_err(|error| error.to_string())?;
            net::watched_channel(stream).await
        }
    };
    connected.map_err(|error| net::root_cause(&error))
}

/// Another connection, for calls of an epoch that is open already: one of many streams whose reader may
/// be slow must not take the room of Execute. It shakes no hands, so only what carries the epoch is
/// answered on it.
///
/// # Errors
/// A sentence: it does not answer.
pub async fn connect_beside(shared: &Shared) -> Result<StateMachineClient<Channel>, String> {
    let connected = tokio::time::timeout(CONNECT_DEADLINE, connect(shared)).await;
    // Whoever reads from it learns of its end there.
    let (channel, _ended) = connected.map_err(|_| "no answer".to_owned())??;
    Ok(StateMachineClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

impl Connection {
    /// Sends one batch, and checks the form of the answer. Whatever goes wrong ends the epoch.
    ///
    /// # Errors
    /// A sentence, and whether these entries may be to blame.
    pub async fn execute(
        &mut self,
        entries: Vec<pb::Entry>,
        results_floor: u64,
    ) -> Result<pb::ExecuteReply, ExecuteFailure> {
        let wanted: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
        let last = wanted.last().copied().unwrap_or_default();
        let request = pb::ExecuteRequest {
            epoch: self.epoch,
            results_floor,
            entries,
        };
        let call = tokio::time::timeout(EXECUTE_DEADLINE, self.call_execute(request));
        let reply = call
            .await
            .map_err(|_| {
                let reason = format!("Execute took longer than {} s", EXECUTE_DEADLINE.as_secs());
                ExecuteFailure::over_the_entries(reason)
            })?
            .map_err(|status| ExecuteFailure {
                over_the_entries: blames_entries(&status),
                reason: net::status_line(&status),
            })?;
        if reply.epoch != self.epoch || reply.nonce != self.hello.nonce {
            return Err(ExecuteFailure::of_form(
                "another instance of the state machine answered",
            ));
        }
        let given = reply.outcomes.iter().map(|outcome| outcome.index);
        if !given.eq(wanted) || reply.applied_index < last {
            return Err(ExecuteFailure::of_form(
                "the answer to Execute does not fit the entries",
            ));
        }
        Ok(reply)
    }

    /// By the stream, which costs a third of the writes and wake-ups of a call, or by a call.
    async fn call_execute(
        &mut self,
        request: pb::ExecuteRequest,
    ) -> Result<pb::ExecuteReply, Status> {
        if !self.hello.execute_stream {
            return Ok(self.client.execute(request).await?.into_inner());
        }
        let replies = match &mut self.batches {
            Some(batches) => {
                // There is room. A stream that has ended says why instead of a reply.
                let _ = batches.requests.try_send(request);
                &mut batches.replies
            }
            none => {
                let (requests, outgoing) = mpsc::channel(1);
                // Before the call, for some servers say nothing at all before their first reply.
                let _ = requests.try_send(request);
                let outgoing = ReceiverStream::new(outgoing);
                let replies = self.client.execute_stream(outgoing).await?.into_inner();
                &mut none.insert(Batches { requests, replies }).replies
            }
        };
        let reply = replies.message().await?;
        reply.ok_or_else(|| Status::unavailable("it ended the stream of batches without an answer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_want_of_room_or_time_says_nothing_against_an_entry() {
        for status in [
            Status::resource_exhausted("no room"),
            Status::aborted("stale epoch"),
            Status::failed_precondition("out of order"),
        ] {
            assert!(!blames_entries(&status), "{status}");
        }
        let mut busy = Status::unavailable("busy");
        assert!(blames_entries(&busy), "it stops, or died");
        let reason = tonic::metadata::MetadataValue::from_static("BUSY");
        busy.metadata_mut().insert("leeky-reason", reason);
        assert!(!blames_entries(&busy));
        assert!(blames_entries(&Status::internal("panicked")));
        assert!(blames_entries(&Status::unknown("the connection broke")));
    }
}
