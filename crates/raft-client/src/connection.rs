//! One HTTP/2 connection per node, opened on demand and kept.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use wire::gather::Gather;

/// How long one attempt to connect may take. The address of a container that is gone answers
/// nothing at all: it must cost little of the whole timeout.
pub const CONNECT_DEADLINE: Duration = Duration::from_millis(300);

/// The shortest deadline, when many addresses share what time is left.
const CONNECT_DEADLINE_MIN: Duration = Duration::from_millis(50);

/// While a call is under way, the node must show this often that it lives. A process that was
/// stopped keeps its connections open and would otherwise look merely slow.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(400);

/// How long such a sign may take.
const KEEP_ALIVE_DEADLINE: Duration = Duration::from_millis(800);

/// At most so many connections are kept.
const CONNECTIONS_MAX: usize = 256;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    /// A word or two: "refused", "no answer within 300 ms".
    pub reason: String,
    /// The machine is there and says that nothing listens.
    pub refused: bool,
}

/// Connections by address.
#[derive(Debug, Default)]
pub struct Connections {
    open: BTreeMap<SocketAddr, Channel>,
}

impl Connections {
    /// The connection to an address: the one there is, or a new one.
    ///
    /// # Errors
    /// [`ConnectError`] when there is none within the deadline.
    pub async fn get(
        &mut self,
        address: SocketAddr,
        deadline: Duration,
    ) -> Result<Channel, ConnectError> {
        if let Some(channel) = self.open.get(&address) {
            return Ok(channel.clone());
        }
        let channel = connect(address, deadline).await?;
        self.put(address, channel.clone());
        Ok(channel)
    }

    /// Keeps a connection that was opened elsewhere.
    pub fn put(&mut self, address: SocketAddr, channel: Channel) {
        if self.open.len() >= CONNECTIONS_MAX {
            self.open.clear();
        }
        self.open.insert(address, channel);
    }

    /// Whether there is a connection already.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.open.contains_key(&address)
    }

    /// Forgets a connection that failed.
    pub fn close(&mut self, address: SocketAddr) {
        self.open.remove(&address);
    }
}

/// A share of what time is left for each of `candidates`, at most [`CONNECT_DEADLINE`]; two more
/// shares are for the call itself.
pub fn connect_deadline(left: Duration, candidates: usize) -> Duration {
    let share = left / u32::try_from(candidates.saturating_add(2)).unwrap_or(u32::MAX);
    share.clamp(CONNECT_DEADLINE_MIN, CONNECT_DEADLINE)
}

/// Opens a connection.
///
/// # Errors
/// [`ConnectError`] when there is none within the deadline.
pub async fn connect(address: SocketAddr, deadline: Duration) -> Result<Channel, ConnectError> {
    let silent = || ConnectError {
        reason: format!("no answer within {} ms", deadline.as_millis()),
        refused: false,
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| ConnectError {
            reason: error.to_string(),
            refused: false,
        })?
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_DEADLINE);
    let connector = tower::service_fn(move |_: Uri| async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        io::Result::Ok(TokioIo::new(Gather::new(stream)))
    });
    match timeout(deadline, endpoint.connect_with_connector(connector)).await {
        Err(_) => Err(silent()),
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(reason_of(&error)),
    }
}

/// A connection that ended is opened again with the next call on it. When that fails, the call's
/// status says so, and nothing of the call has left this process.
pub(crate) fn never_connected(status: &Status) -> Option<ConnectError> {
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return Some(reason_of(error));
        }
        next = error.source();
    }
    None
}

fn reason_of(error: &(dyn Error + 'static)) -> ConnectError {
    match io_cause(error) {
        Some(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => ConnectError {
            reason: "refused".to_owned(),
            refused: true,
        },
        Some(cause) => ConnectError {
            reason: cause.to_string(),
            refused: false,
        },
        None => ConnectError {
            reason: deepest(error),
            refused: false,
        },
    }
}

fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<io::Error>() {
            return Some(cause);
        }
        next = error.source();
    }
    None
}

/// The innermost cause: "transport error" alone helps nobody.
pub(crate) fn deepest(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
