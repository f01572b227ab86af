//! The one loop that owns the member: a datagram, a request or a deadline goes in; datagrams, log
//! lines and the published view come out. Between two inputs it sleeps until the core's next
//! deadline; there is no polling.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use member_core::{ClusterId, Counters, Event, Member, Output, View};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::events::EventLog;
use crate::home::{Home, StoredIdentity};
use crate::introducers::Introducers;

/// Requests that may wait for the loop; the next one waits in its caller.
pub(crate) const MAX_WAITING_REQUESTS: usize = 64;
/// Datagrams that are taken before requests and deadlines get their turn.
const MAX_DATAGRAMS_PER_TURN: usize = 64;
/// One byte more than the largest packet, so that what is larger is seen to be larger.
const RECEIVE_BUFFER_BYTES: usize = member_core::MAX_PACKET_BYTES + 1;
/// A socket that only fails is asked again after this.
const SOCKET_ERROR_PAUSE: Duration = Duration::from_millis(10);

/// What the other tasks ask of the loop.
pub(crate) enum Request {
    /// Everything as of now.
    Inspect(oneshot::Sender<(Published, Counters)>),
    Announce {
        raft_port: u16,
        cluster_id: Option<ClusterId>,
        done: oneshot::Sender<()>,
    },
    /// Answers with the number of members that acknowledged.
    Leave(oneshot::Sender<usize>),
}

/// What the daemon shows of itself.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) view: Arc<View>,
    pub(crate) first_introducer: bool,
    /// One more with every change of the above.
    pub(crate) version: u64,
}

impl Published {
    pub(crate) fn has_others(&self) -> bool {
        let me = self.view.me.node_id;
        let live = self
            .view
            .members
            .iter()
            .filter(|member| member.record.state.is_live());
        self.view.joined && live.map(|member| member.record.node_id).any(|id| id != me)
    }
}

pub(crate) struct Driver {
    pub(crate) member: Member,
    /// The origin of the core's time.
    pub(crate) origin: Instant,
    pub(crate) socket: UdpSocket,
    pub(crate) home: Arc<Home>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) introducers: watch::Receiver<Introducers>,
    pub(crate) publisher: watch::Sender<Published>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) log: EventLog,
    /// Callers that wait for the end of our leave.
    pub(crate) leavers: Vec<oneshot::Sender<usize>>,
}

impl Driver {
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let shutdown = self.shutdown.clone();
        let mut buffer = [0; RECEIVE_BUFFER_BYTES];
        self.use_introducers();
        // JOIN leaves before anyone is heard. A packet may wait in the socket already, since the others
        // look for whom they lost; a node that was found so would not ask, and never learn that it is
        // back (rejoin).
        self.member.tick(self.now());
        loop {
            self.drain();
            let deadline = self.origin + self.member.next_deadline();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.receive(&mut buffer, length, from),
                    Err(error) => {
                        // An earlier datagram was refused, or the like: nothing of ours is lost.
                        tracing::debug!("[MEMBER] UDP socket: {error}");
                        tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
                    }
                },
                Some(request) = self.requests.recv() => self.serve(request),
                Ok(()) = self.introducers.changed() => self.use_introducers(),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            let now = self.now();
            if self.member.next_deadline() <= now {
                self.member.tick(now);
            }
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn receive(&mut self, buffer: &mut [u8], length: usize, from: SocketAddr) {
        self.member.handle(self.now(), from, &buffer[..length]);
        for _ in 1..MAX_DATAGRAMS_PER_TURN {
            let Ok((length, from)) = self.socket.try_recv_from(buffer) else {
                return;
            };
            self.member.handle(self.now(), from, &buffer[..length]);
        }
    }

    fn serve(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Inspect(reply) => {
                let published = self.publisher.borrow();
                let inspected = Published {
                    view: Arc::new(self.member.view(now)),
                    first_introducer: published.first_introducer,
                    version: published.version,
                };
                // Whoever asked may have gone.
                let _ = reply.send((inspected, self.member.counters().clone()));
            }
            Request::Announce {
                raft_port,
                cluster_id,
                done,
            } => {
                self.member.announce(now, raft_port, cluster_id);
                let _ = done.send(());
            }
            Request::Leave(done) => {
                self.leavers.push(done);
                self.member.leave(now);
            }
        }
    }

    fn use_introducers(&mut self) {
        let introducers = self.introducers.borrow_and_update().clone();
        let own = self.member.me().metadata.address;
        self.member.set_introducers(self.now(), introducers.all());
        let is_first = introducers.first_is(own);
        self.publisher.send_if_modified(|published| {
            let changed = published.first_introducer != is_first;
            published.first_introducer = is_first;
            published.version += u64::from(changed);
            changed
        });
    }

    /// Carries out what the core put out, and publishes its view if that changed.
    fn drain(&mut self) {
        while let Some(output) = self.member.poll_output() {
            match output {
                // What the socket does not take at once is lost, as any datagram may be.
                Output::Send { to, bytes } => {
                    if let Err(error) = self.socket.try_send_to(&bytes, to) {
                        tracing::debug!("[MEMBER] a datagram to {to} was not sent: {error}");
                    }
                }
                Output::Event(event) => {
                    self.log.write(&event);
                    self.follow(&event);
                }
            }
        }
        let version = self.member.view_version();
        if self.publisher.borrow().view.version != version {
            let view = Arc::new(self.member.view(self.now()));
            self.publisher.send_modify(|published| {
                published.view = view;
                published.version += 1;
            });
        }
    }

    fn follow(&mut self, event: &Event) {
        match event {
            Event::BootEpochRaised(boot_epoch) => {
                let identity = StoredIdentity {
                    node_id: self.member.me().node_id,
                    boot_epoch: *boot_epoch,
                };
                // Happens once in the life of a disk that was restored from an image: the loop may
                // wait for it. If it fails, the next start learns the same again.
                if let Err(error) = self.home.store_identity(identity) {
                    tracing::warn!("[MEMBER] the raised boot epoch is not durable: {error:#}");
                }
            }
            Event::LeaveDone { acknowledged } => {
                for leaver in self.leavers.drain(..) {
                    let _ = leaver.send(*acknowledged);
                }
            }
            _ => {}
        }
    }
}
