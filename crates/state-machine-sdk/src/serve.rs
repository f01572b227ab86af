//! Listening, answering and ending.

use std::env;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{debug, info, warn};
use wire::is_local;
use wire::state_machine::state_machine_server::StateMachineServer;

use crate::limits::{
    Limits, MAX_STREAMS, MESSAGE_MARGIN_BYTES, SHUTDOWN_SYNC_WAIT, SHUTDOWN_WAIT,
    SNAPSHOT_CHUNK_BYTES,
};
use crate::service::Service;
use crate::{DurableStateMachine, StorageError};

/// The port that a daemon looks for its state machine at, when it is not told another.
const DEFAULT_PORT: u16 = 6005;

/// Where a state machine is reached by the `raft` daemon of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address. Only callers of the same machine are answered: by a loopback address, or by this one.
    Tcp(SocketAddr),
    /// A Unix socket, by its path.
    Unix(PathBuf),
}

impl Listen {
    /// As `BindIp`, `StateMachinePort` and `StateMachineSocket` of the configuration say: the
    /// socket if there is one. The daemon is on the same node, so an address that means "all" is
    /// taken as the loopback one; nobody else has any business here.
    pub fn at(bind_ip: IpAddr, port: u16, socket: Option<&Path>) -> Self {
        let ip = match bind_ip {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            specific => specific,
        };
        match socket {
            Some(path) => Self::Unix(path.to_owned()),
            None => Self::Tcp(SocketAddr::new(ip, port)),
        }
    }

    /// As the environment says: `LEEKY_STATE_MACHINE_SOCKET`, or else `LEEKY_BIND_IP` (127.0.0.1)
    /// and `LEEKY_STATE_MACHINE_PORT` (6005).
    ///
    /// # Errors
    /// When a variable is set to what is no IP address or port.
    pub fn from_environment() -> Result<Self, ServeError> {
        fn read<T: std::str::FromStr>(name: &str, default: T) -> Result<T, ServeError> {
            let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else {
                return Ok(default);
            };
            let value = value.to_string_lossy();
            value.parse().map_err(|_| ServeError::Environment {
                name: name.to_owned(),
                value: value.into_owned(),
            })
        }
        let socket = env::var_os("LEEKY_STATE_MACHINE_SOCKET").filter(|path| !path.is_empty());
        let ip = read("LEEKY_BIND_IP", IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        let port = read("LEEKY_STATE_MACHINE_PORT", DEFAULT_PORT)?;
        Ok(Self::at(ip, port, socket.as_deref().map(Path::new)))
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::Unix(path) => write!(out, "{}", path.display()),
        }
    }
}

/// Why a state machine could not be served, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An environment variable makes no sense.
    #[error("{name} is set to {value:?}, which is no IP address or port")]
    Environment {
        /// The variable.
        name: String,
        /// What it is set to.
        value: String,
    },
    /// Nothing can listen there.
    #[error("cannot listen on {at}: {reason}")]
    Listen {
        /// The address or the path.
        at: Listen,
        /// What the system says.
        reason: io::Error,
    },
    /// The runtime or the signals of the process could not be set up.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The server ended by itself.
    #[error("the server ended: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The call that was under way when the process was told to stop has not ended, or the last
    /// sync has not. A crash would leave no less than this does.
    #[error(
        "told to stop, and still busy after {} s: ending without a last sync",
        SHUTDOWN_SYNC_WAIT.as_secs()
    )]
    StillBusy,
    /// The disk had no room for the last sync.
    #[error(
        "told to stop, and the last sync was refused, for {reason}. On disk is the state as of \
         entry {durable_index}, and the entries after it up to {applied_index} will be applied \
         again from the log"
    )]
    NotSynced {
        /// The storage's own sentence.
        reason: String,
        /// What is on disk.
        durable_index: u64,
        /// What was applied.
        applied_index: u64,
    },
    /// The storage failed, or a machine in memory could not go on.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Comes back when the process is asked to end: SIGTERM, or SIGINT from a terminal.
///
/// # Errors
/// When the process cannot listen to signals.
pub fn termination() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Serves a machine with the usual [`Limits`] until SIGTERM, on a runtime of its own.
///
/// # Errors
/// As [`serve`].
pub fn run(machine: impl DurableStateMachine, listen: Listen) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Start)?;
    let result = runtime.block_on(async {
        let termination = termination().map_err(ServeError::Start)?;
        serve(machine, listen, Limits::default(), termination).await
    });
    // A command that hangs must not keep the process from ending.
    runtime.shutdown_background();
    result
}

/// Serves a machine until `shutdown` comes back: the open calls end, everything is synced, and then
/// the server is gone. The standard gRPC health service answers beside it.
///
/// # Errors
/// [`ServeError::Listen`] when it cannot start; [`ServeError::NotSynced`] and
/// [`ServeError::StillBusy`] when it ended without a last sync; [`ServeError::Storage`] when the
/// storage fails or a machine in memory panics. The machine must then not be served again by this process: exit with
/// a code other than 0 and start anew.
pub async fn serve(
    machine: impl DurableStateMachine,
    listen: Listen,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let machine: Arc<dyn DurableStateMachine> = Arc::new(machine);
    let service = Service::open(machine.clone(), limits)?;

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<StateMachineServer<Service>>().await;
    let largest = usize::try_from(limits.max_batch_bytes).unwrap_or(usize::MAX);
    let state_machine = StateMachineServer::new(service.clone()).max_decoding_message_size(
        largest
            .max(SNAPSHOT_CHUNK_BYTES)
            .saturating_add(MESSAGE_MARGIN_BYTES),
    );
    let router = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(health_service)
        .add_service(state_machine);

    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        // An error means that the sender is gone, which is as good a reason to stop.
        let _ = stopped.await;
    };
    let cannot_listen = |reason| ServeError::Listen {
        at: listen.clone(),
        reason,
    };
    let mut server = match &listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(cannot_listen)?;
            let incoming = TcpIncoming::from(listener)
                .with_nodelay(Some(true))
                .filter(from_this_machine);
            tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped))
        }
        Listen::Unix(path) => {
            let listener = bind_unix(path).map_err(cannot_listen)?;
            let incoming = UnixListenerStream::new(listener);
            tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped))
        }
    };
    info!(
        "[STATEMACHINE] [ONLINE] {} {} on {listen}, at index {}, instance {:016x}",
        machine.name(),
        machine.version(),
        service.indices().await.0,
        service.nonce()
    );

    let syncing = tokio::spawn(service.clone().sync_when_dirty());
    let failure = tokio::select! {
        () = shutdown => None,
        error = service.failure() => Some(error),
        ended = &mut server => {
            syncing.abort();
            return Err(server_ended(ended));
        }
    };

    health
        .set_not_serving::<StateMachineServer<Service>>()
        .await;
    service.end_transfers();
    // The receiver is gone only if the server is.
    let _ = stop.send(());
    if timeout(SHUTDOWN_WAIT, &mut server).await.is_err() {
        // Watches of the health service, and connections that nobody closes, have no end.
        server.abort();
    }
    syncing.abort();
    if let Listen::Unix(path) = &listen
        && let Err(error) = std::fs::remove_file(path)
    {
        warn!(
            "[STATEMACHINE] the socket {} could not be removed: {error}",
            path.display()
        );
    }
    if failure.is_none() {
        let synced = timeout(SHUTDOWN_SYNC_WAIT, service.sync()).await;
        // A failure of this sync is reported below like any other.
        if let Ok(Some(reason)) = synced.map_err(|_| ServeError::StillBusy)? {
            let (applied_index, durable_index) = service.indices().await;
            return Err(ServeError::NotSynced {
                reason,
                durable_index,
                applied_index,
            });
        }
    }
    match failure.or_else(|| service.failed()) {
        Some(error) => Err(error.into()),
        None => {
            info!(
                "[STATEMACHINE] [OFFLINE] at index {}",
                service.indices().await.0
            );
            Ok(())
        }
    }
}

/// Whoever may open an epoch ends that of the daemon, so a connection from elsewhere ends at once.
fn from_this_machine(incoming: &io::Result<TcpStream>) -> bool {
    let Ok(stream) = incoming else {
        return true;
    };
    let (Ok(caller), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else {
        return false;
    };
    let local = is_local(caller.ip(), own.ip());
    if !local {
        debug!(
            "[STATEMACHINE] [CONNERROR] {caller} is not of this machine: the connection is closed"
        );
    }
    local
}

fn server_ended(
    ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> ServeError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => ServeError::Start(io::Error::other("the listener closed by itself")),
        Err(error) => ServeError::Start(io::Error::other(error)),
    }
}

/// Binds a Unix socket. A socket file that its process left behind is replaced; one that answers,
/// or a file that is no socket, is not.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file of that name which is no socket",
            ));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path)
}
