//! Putting the daemon together, and taking it apart.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use config::Config;
use futures_util::stream;
use member_core::{Identity, Member, NodeId, Options};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use wire::member::membership_server::MembershipServer;

use crate::convert::Own;
use crate::driver::{Driver, MAX_WAITING_REQUESTS, Published, Request};
use crate::events::EventLog;
use crate::home::{Home, StoredIdentity};
use crate::http::Http;
use crate::introducers::{Introducers, advertised_ip, keep_resolving};
use crate::logging::SetLogLevel;
use crate::service::MembershipService;

/// Calls of one gRPC connection that are worked on at a time.
const MAX_CALLS_PER_CONNECTION: usize = 64;
/// What is still being answered has this long when the daemon ends.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// After a connection could not be accepted, as when all descriptors are in use.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);
/// Least time between two writes of the members known last.
const LAST_KNOWN_PAUSE: Duration = Duration::from_secs(5);

/// A running membership daemon. Dropping it ends its tasks.
#[derive(Debug)]
pub struct Daemon {
    /// The node's identity.
    pub node_id: NodeId,
    /// Where other members reach it.
    pub gossip_address: SocketAddr,
    requests: mpsc::Sender<Request>,
    shutdown: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Daemon {
    /// Starts the daemon. When this returns, its identity is durable and its ports are open.
    ///
    /// # Errors
    /// When the data directory is in use or cannot be written, or a port is taken.
    pub async fn start(config: &Config, log_level: Option<SetLogLevel>) -> anyhow::Result<Self> {
        let home = Arc::new(Home::open(&config.data_dir)?);
        let mut introducers = Introducers::configured(config);
        introducers.resolve().await;
        let own_ip = advertised_ip(config, &introducers).await;

        let bind = |port: u16| SocketAddr::new(config.bind_ip, port);
        let taken = |name: &str, port: u16| {
            format!(
                "cannot listen on {} ({name}); is another daemon there?",
                bind(port)
            )
        };
        let port = config.member_gossip_port;
        let socket = UdpSocket::bind(bind(port))
            .await
            .with_context(|| taken("MemberGossipPort, UDP", port))?;
        let port = config.member_rpc_port;
        let rpc_listener = TcpListener::bind(bind(port))
            .await
            .with_context(|| taken("MemberRPCPort", port))?;
        let port = config.member_http_port;
        let http_listener = TcpListener::bind(bind(port))
            .await
            .with_context(|| taken("MemberHTTPPort", port))?;

        let gossip_address = SocketAddr::new(own_ip, config.member_gossip_port);
        let stored = home.begin_boot()?;
        let origin = Instant::now();
        let member = new_member(config, stored, gossip_address, &home);
        let (requests, request_queue) = mpsc::channel(MAX_WAITING_REQUESTS);
        let (introducer_sender, introducer_receiver) = watch::channel(introducers.clone());
        let (publisher, published) = watch::channel(Published {
            view: Arc::new(member.view(Duration::ZERO)),
            first_introducer: introducers.first_is(gossip_address),
            version: 1,
        });
        let shutdown = CancellationToken::new();
        tracing::info!(
            "[MEMBER] [ONLINE] {} [PID={}] node {} boot {} gossips at {gossip_address}",
            config.name,
            stored.node_id.pid(),
            stored.node_id,
            stored.boot_epoch
        );
        let driver = Driver {
            member,
            origin,
            socket,
            home: home.clone(),
            requests: request_queue,
            introducers: introducer_receiver,
            publisher,
            shutdown: shutdown.clone(),
            log: EventLog::new(),
            leavers: Vec::new(),
        };
        let service = MembershipService {
            requests: requests.clone(),
            published: published.clone(),
            origin,
            own: Own {
                introducers: config.introducers.clone(),
            },
            own_ip,
            shutdown: shutdown.clone(),
        };
        let http = Http {
            requests: requests.clone(),
            log_level,
            own_ip,
        };

        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run());
        tasks.spawn(serve_rpc(rpc_listener, service, shutdown.clone()));
        tasks.spawn(serve_http(http_listener, http, shutdown.clone()));
        tasks.spawn(remember_members(home, published.clone(), shutdown.clone()));
        let end = shutdown.clone();
        tasks.spawn(async move {
            keep_resolving(introducers, introducer_sender, published, end).await;
            Ok(())
        });
        Ok(Self {
            node_id: stored.node_id,
            gossip_address,
            requests,
            shutdown,
            tasks,
        })
    }

    /// Leaves the ring gracefully; answers with the number of members that acknowledged it. The
    /// daemon says nothing more afterwards.
    pub async fn leave(&self) -> usize {
        let (sender, receiver) = oneshot::channel();
        if self.requests.send(Request::Leave(sender)).await.is_err() {
            return 0;
        }
        receiver.await.unwrap_or(0)
    }

    /// Waits until the daemon has ended by itself: after `Leave` by gRPC, or by a failure.
    ///
    /// # Errors
    /// The failure.
    pub async fn finished(&mut self) -> anyhow::Result<()> {
        let first = self.tasks.join_next().await;
        self.shutdown.cancel();
        let rest = async {
            while let Some(result) = self.tasks.join_next().await {
                result.context("a part of the daemon failed")??;
            }
            anyhow::Ok(())
        };
        let rest = tokio::time::timeout(GOODBYE_TIMEOUT, rest).await;
        if let Some(first) = first {
            first.context("a part of the daemon failed")??;
        }
        // Whoever still reads an answer after that reads no more.
        rest.unwrap_or(Ok(()))
    }

    /// Ends the daemon without a word to the other members.
    ///
    /// # Errors
    /// What failed while it ended.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.finished().await
    }
}

fn new_member(
    config: &Config,
    stored: StoredIdentity,
    gossip_address: SocketAddr,
    home: &Home,
) -> Member {
    let identity = Identity {
        node_id: stored.node_id,
        boot_epoch: stored.boot_epoch,
        boot_nonce: rand::random(),
        address: gossip_address,
        name: config.name.clone(),
    };
    let options = Options {
        gossip_interval: config.gossip_interval,
        fail_timeout: config.fail_timeout,
        cleanup_timeout: config.cleanup_timeout,
    };
    Member::new(
        identity,
        options,
        home.last_known(),
        Duration::ZERO,
        rand::random(),
    )
}

async fn serve_rpc(
    listener: TcpListener,
    service: MembershipService,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    Server::builder()
        .concurrency_limit_per_connection(MAX_CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(MembershipServer::new(service))
        .serve_with_incoming_shutdown(connections(listener), shutdown.cancelled_owned())
        .await
        .context("the gRPC server failed")
}

/// Accepts for ever: a connection that cannot be accepted must not end the server.
fn connections(listener: TcpListener) -> impl stream::Stream<Item = io::Result<TcpStream>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(connection), listener)),
                Err(error) => {
                    tracing::debug!("[MEMBER] [RPC] a connection was not accepted: {error}");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    })
}

async fn serve_http(
    listener: TcpListener,
    http: Http,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let service = http
        .router()
        .into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("the HTTP server failed")
}

/// Keeps the file of members known last up to date, for a start without any introducer.
async fn remember_members(
    home: Arc<Home>,
    mut published: watch::Receiver<Published>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut stored = Vec::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = published.changed() => if changed.is_err() { return Ok(()) },
        }
        let members = known_members(&published.borrow_and_update());
        // A view without others is no reason to forget them.
        if members.is_empty() || members == stored {
            continue;
        }
        stored.clone_from(&members);
        let home = home.clone();
        let written = tokio::task::spawn_blocking(move || home.store_last_known(&members)).await?;
        if let Err(error) = written {
            tracing::warn!("[MEMBER] the known members were not written down: {error:#}");
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(LAST_KNOWN_PAUSE) => {}
        }
    }
}

fn known_members(published: &Published) -> Vec<(SocketAddr, String)> {
    let me = published.view.me.node_id;
    let others = published.view.members.iter().map(|member| &member.record);
    others
        .filter(|record| record.node_id != me && record.state != member_core::State::Left)
        .map(|record| (record.metadata.address, record.metadata.name.clone()))
        .collect()
}
