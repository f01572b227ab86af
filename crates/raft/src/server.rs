//! Starts everything, and stops it in the right order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use config::Config;
use raft_core::{NodeId, Options, Raft, RoleName, Time};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Server;
use wire::raft::peer_server::PeerServer;
use wire::raft::raft_server::{Raft as _, RaftServer};
use wire::raft::{self as pb};

use crate::accept;
use crate::addresses::AddressBook;
use crate::apply::Apply;
use crate::ask::Ask;
use crate::client_service::ClientService;
use crate::committed::Committed;
use crate::comparison;
use crate::disk::{self, Directory, Disk, Opened};
use crate::driver::{Driver, Parts};
use crate::founding;
use crate::hints;
use crate::http;
use crate::limits::{
    FAREWELL, INBOX, KEEP_ALIVE, LEAVE_DEADLINE, MAX_MESSAGE_BYTES, MAX_STREAMS, TRANSFER_DEADLINE,
    WINDOW_BYTES,
};
use crate::logging::{self, LevelHandle};
use crate::membership::{self, View};
use crate::peer_service::{PeerService, Streams};
use crate::repair;
use crate::room::Room;
use crate::say;
use crate::shared::{Ending, Shared};
use crate::snapshots::Snapshots;
use crate::waiters::Waiters;

/// The most threads that run the daemon's tasks. None of them waits for anything, and the disk has a thread
/// of its own.
const MAX_WORKERS: usize = 4;

/// Threads for what blocks: reading the log, the identity, the cache of addresses.
const BLOCKING_THREADS: usize = 16;

/// Half of the processors: the state machine wants the other half, and every task that wakes one on another
/// thread pays for it.
fn workers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, MAX_WORKERS)
}

/// What the daemon runs on. Where it is one thread, it is one that takes its tasks in order: twenty calls that
/// are answered by one batch are then twenty answers in one write for each connection. A worker of several
/// runs whom a task woke before all others, and so writes after every answer.
///
/// # Errors
/// The system has no threads to give.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match workers() {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder
        .worker_threads(workers())
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Resolves at the first SIGTERM or SIGINT.
///
/// # Errors
/// The system does not let this process handle signals.
pub fn signals() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Runs the daemon until `shutdown` resolves or it must end. Returns why it ended.
///
/// # Errors
/// It could not start; the error is one sentence for a person.
pub async fn run(
    config: Config,
    level: LevelHandle,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<Ending> {
    tokio::pin!(shutdown);
    let config = Arc::new(config);
    let mut directory = Directory::open(&config)?;
    let rpc = listen(&config, config.rpc_port, "RPCPort").await?;
    let web = listen(&config, config.http_port, "HTTPPort").await?;
    let member = match directory.node_id()? {
        Some(_) => None,
        None => tokio::select! {
            id = membership::first_contact(&config, directory.retired) => Some(id),
            () = &mut shutdown => return Ok(Ending::Stopped),
        },
    };
    if let Some(waiting) = directory.to_restore(&config)? {
        tokio::select! {
            allowed = founding::may_restore(&config, &waiting) => allowed?,
            () = &mut shutdown => return Ok(Ending::Stopped),
        }
    }
    let (rpc, web) = (rpc.into_std()?, web.into_std()?);
    let began = Instant::now();
    let mut damages = 0;
    let (directory, opened) = loop {
        let (back, opened) = open(&config, directory, member).await?;
        directory = back;
        let error = match opened {
            Ok(opened) => break (directory, opened),
            Err(error) => error,
        };
        let places = (&rpc, &web);
        tokio::select! {
            repaired = repair::repair(error, &config, directory.disk(), places, level.clone()) => repaired?,
            () = &mut shutdown => return Ok(Ending::Stopped),
        }
        damages += 1;
    };
    let (rpc, web) = (TcpListener::from_std(rpc)?, TcpListener::from_std(web)?);
    let daemon = Daemon::start(config, directory, opened, began)?;
    daemon.shared.metrics.log_damages.inc_by(damages);
    daemon.shared.metrics.log_repairs.inc_by(damages);
    let server = daemon.serve(rpc).await;
    let web =
        tokio::spawn(axum::serve(web, http::router(daemon.shared.clone(), level)).into_future());
    let mut ending = daemon.shared.ending.subscribe();
    let ended = tokio::select! {
        ended = ending.wait_for(Option::is_some) => ended.ok().and_then(|ended| ended.clone()),
        () = &mut shutdown => None,
    };
    let ending = match ended {
        Some(ending) => ending,
        None => daemon.stop().await,
    };
    if let Ending::Retired(_) = &ending {
        daemon.retire().await?;
        // Whoever asked for it is still to be answered.
        tokio::time::sleep(FAREWELL).await;
    }
    server.abort();
    web.abort();
    Ok(ending)
}

async fn listen(config: &Config, port: u16, key: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(config.bind_ip, port);
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (BindIp and {key})"))
}

/// Opens identity and log. The directory comes back, whatever became of it.
async fn open(
    config: &Arc<Config>,
    directory: Directory,
    member: Option<NodeId>,
) -> anyhow::Result<(Directory, anyhow::Result<Opened>)> {
    let config = config.clone();
    let open = move || {
        let opened = disk::open(&directory, &config, member);
        (directory, opened)
    };
    Ok(tokio::task::spawn_blocking(open).await?)
}

/// The parts that run.
struct Daemon {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Ask>,
    clients: Arc<ClientService>,
    peers: PeerService,
    _directory: Directory,
}

impl Daemon {
    fn start(
        config: Arc<Config>,
        directory: Directory,
        opened: Opened,
        began: Instant,
    ) -> anyhow::Result<Daemon> {
        let Opened {
            identity,
            store,
            recovered,
            snapshots,
        } = opened;
        let (id, boot) = (identity.node_id(), identity.boot());
        logging::set_pid(id);
        let addresses = AddressBook::open(&directory.path().join(ADDRESSES_FILE));
        let shared = Arc::new(Shared::new(id, boot, config.clone(), addresses));
        shared.cluster.send_replace(identity.cluster_id());
        let room = room(&config, directory.path());
        let (disk, durable) = Disk::start(identity, store, shared.clone())?;
        room.set_usage(disk.usage());
        say!(
            info,
            "ONLINE",
            "{} ({id}), boot {boot}, log up to {} [TERM={}], timeout {}-{} ms, opened in {} ms",
            config.name,
            recovered.last.index,
            recovered.hard_state.current_term,
            config.elect_timeout_min.as_millis(),
            config.elect_timeout_max.as_millis(),
            began.elapsed().as_millis()
        );
        let (inbox, receiver) = mpsc::channel(INBOX);
        let streams = Arc::new(Streams::default());
        let snapshots = Snapshots::new(
            snapshots,
            shared.clone(),
            inbox.clone(),
            disk.clone(),
            room.clone(),
            streams.clone(),
        );
        let waiters = Arc::new(Waiters::default());
        let committed = Arc::new(Committed::default());
        let started = Instant::now();
        let raft = Raft::new(
            id,
            boot,
            options(&config),
            recovered,
            Time(0),
            rand::random(),
        );
        let driver = Driver::new(Parts {
            raft,
            started,
            shared: shared.clone(),
            inbox: receiver,
            sender: inbox.clone(),
            disk: disk.clone(),
            durable,
            waiters: waiters.clone(),
            committed: committed.clone(),
            room: room.clone(),
            snapshots: snapshots.clone(),
        });
        let apply = Apply::new(
            shared.clone(),
            inbox.clone(),
            committed,
            disk.clone(),
            waiters.clone(),
            snapshots.clone(),
        );
        let view = spawn_tasks(&shared, &inbox, driver, apply);
        Ok(Daemon {
            clients: Arc::new(ClientService::new(
                shared.clone(),
                inbox.clone(),
                waiters,
                snapshots.clone(),
                view,
            )),
            peers: PeerService::new(
                shared.clone(),
                inbox.clone(),
                room,
                snapshots,
                streams,
                disk,
            ),
            inbox,
            shared,
            _directory: directory,
        })
    }

    /// Serves clients, peers and health checks. The health says "serving", not "has a leader".
    async fn serve(&self, listener: TcpListener) -> tokio::task::JoinHandle<()> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<RaftServer<ClientService>>().await;
        let clients = RaftServer::from_arc(self.clients.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(usize::MAX);
        let peers = PeerServer::new(self.peers.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let server = Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(WINDOW_BYTES.0)
            .initial_connection_window_size(WINDOW_BYTES.1)
            .http2_keepalive_interval(Some(KEEP_ALIVE.0))
            .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
            .add_service(health_service)
            .add_service(clients)
            .add_service(peers)
            .serve_with_incoming(accept::incoming(listener));
        let shared = self.shared.clone();
        tokio::spawn(async move {
            // The reporter lives as long as the server: dropping it would end the watchers' streams.
            let _health = health;
            if let Err(error) = server.await {
                shared.end(Ending::Failed(format!("the gRPC server ended: {error}")));
            }
        })
    }

    /// Hands over what others rest on, says goodbye, and ends.
    async fn stop(&self) -> Ending {
        say!(info, "SELF", "stopping");
        // From now on nobody hands it the leadership (M1).
        let _ = self.inbox.send(Ask::Stopping).await;
        let mut left = self.shared.config.leave_on_terminate && self.leave().await;
        // A leader that leaves learns it from its own log, perhaps before it is told.
        left |= matches!(*self.shared.ending.borrow(), Some(Ending::Retired(_)));
        if !left {
            self.hand_over().await;
        }
        self.shared.stopping.send_replace(true);
        let (done, told) = oneshot::channel();
        let asked = async {
            self.inbox.send(Ask::Stop { done }).await.ok()?;
            told.await.ok()
        };
        let _ = tokio::time::timeout(FAREWELL * 2, asked).await;
        self.clients.watches_ended().await;
        if left && let Err(error) = self.retire().await {
            return Ending::Failed(format!("{error:#}"));
        }
        Ending::Stopped
    }

    /// Leaves the cluster for good, if the leader lets it (M1). True: this node was removed.
    async fn leave(&self) -> bool {
        if self.shared.cluster_id().is_none() {
            return false;
        }
        let request = Request::new(pb::LeaveRequest::default());
        match tokio::time::timeout(LEAVE_DEADLINE, self.clients.leave(request)).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                say!(info, "SELF", "leave: {}", reply.sentence);
                reply.removed
            }
            Ok(Err(status)) => {
                say!(
                    warn,
                    "SELF",
                    "not removed, stays a voter: {}",
                    status.message()
                );
                false
            }
            Err(_) => {
                say!(warn, "SELF", "not removed in time, stays a voter");
                false
            }
        }
    }

    /// Hands leadership to another voter, so that nobody waits for an election.
    async fn hand_over(&self) {
        let others = self.shared.configurations().latest.all_voters();
        if !self.shared.leads() || others.iter().all(|voter| *voter == self.shared.id) {
            return;
        }
        let mut standing = self.shared.standing.subscribe();
        let _ = self.inbox.send(Ask::Transfer { to: None }).await;
        let id = self.shared.id;
        let taken_over = standing.wait_for(|now| {
            now.role != RoleName::Leader && now.leader.is_some_and(|leader| leader != id)
        });
        if tokio::time::timeout(TRANSFER_DEADLINE, taken_over)
            .await
            .is_err()
        {
            say!(warn, "SELF", "nobody took leadership over in time");
        }
    }

    async fn retire(&self) -> anyhow::Result<()> {
        let (config, id) = (self.shared.config.clone(), self.shared.id);
        tokio::task::spawn_blocking(move || disk::retire(&config, id)).await?
    }
}

/// Starts what runs for as long as the daemon does. Returns the view of the members.
fn spawn_tasks(
    shared: &Arc<Shared>,
    inbox: &mpsc::Sender<Ask>,
    driver: Driver,
    apply: Apply,
) -> watch::Receiver<Arc<View>> {
    let (view_sender, view) = watch::channel(Arc::new(View::default()));
    let guard = |name, task: tokio::task::JoinHandle<()>| guard(name, task, shared.clone());
    guard("the driver", tokio::spawn(driver.run()));
    guard("digest_commits", tokio::spawn(apply.run()));
    let members = membership::run(shared.clone(), view_sender);
    guard("the view of the members", tokio::spawn(members));
    let hints = hints::run(shared.clone(), inbox.clone(), view.clone());
    guard("the hints for the reconciler", tokio::spawn(hints));
    let lobby = founding::run(shared.clone(), inbox.clone(), view.clone());
    guard("the lobby", tokio::spawn(lobby));
    let comparison = comparison::run(shared.clone());
    guard("the comparison of outcomes", tokio::spawn(comparison));
    let others = founding::watch_for_others(shared.clone(), inbox.clone());
    guard("the watch for other clusters", tokio::spawn(others));
    view
}

/// Ends the daemon when one of its tasks panics: an invariant is broken, and what it left behind must
/// not spread. A crash is safe; half a daemon is not.
fn guard(name: &'static str, task: tokio::task::JoinHandle<()>, shared: Arc<Shared>) {
    tokio::spawn(async move {
        if let Err(error) = task.await
            && error.is_panic()
        {
            shared.end(Ending::Failed(format!(
                "{name} has stopped: an invariant of this program is broken, and the lines above say \
                 which. Please report it; starting again is safe"
            )));
        }
    });
}

/// The cache of addresses, in the folder of `raft`.
pub(crate) const ADDRESSES_FILE: &str = "addresses";

fn room(config: &Config, folder: &Path) -> Arc<Room> {
    Arc::new(Room::new(
        folder.to_owned(),
        config.max_log_bytes,
        config.segment_bytes,
    ))
}

fn options(config: &Config) -> Options {
    Options {
        elect_timeout_min: config.elect_timeout_min,
        elect_timeout_max: config.elect_timeout_max,
        heartbeat_interval: config.heartbeat_interval,
        max_batch_bytes: config.max_batch_bytes,
        max_batch_entries: config.max_batch_entries,
        max_inflight_batches: config.max_inflight_batches,
        max_inflight_bytes: config.max_inflight_bytes,
        max_entry_bytes: config.max_entry_bytes,
        max_uncommitted_entries: config.max_waiting_entries,
        max_uncommitted_bytes: config.max_waiting_bytes,
        log_cache_bytes: config.log_cache_bytes,
        voters: config.voters,
        min_voters: config.min_voters,
        dead_server_timeout: config.dead_server_timeout,
        remove_server_timeout: config.remove_server_timeout,
        server_stabilization_time: config.server_stabilization_time,
        automatic_changes_per_hour: config.automatic_changes_per_hour,
        ..Options::default()
    }
}
