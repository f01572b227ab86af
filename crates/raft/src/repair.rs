//! A node whose log is damaged in its middle (D6): it is not up. Until what is missing was fetched from
//! the other nodes it answers `status` and its web pages, and nothing else; then it starts like any other.
//!
//! What may be put back, and why, is said in [`raft_core::repair`].

use std::sync::Arc;

use anyhow::Context as _;
use config::Config;
use raft_core::repair::{Answer, Question, Repair, Step};
use raft_core::{Entry, NodeId, Payload};
use raft_disk::{Identity, OpenError, RealDisk, RepairError, Wound};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService as _;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use wire::raft::raft_server::{Raft, RaftServer};
use wire::raft::{self as pb};

use crate::accept;
use crate::addresses::AddressBook;
use crate::ask::Ask;
use crate::convert;
use crate::http;
use crate::limits::{CONNECT_DEADLINE, FAREWELL, REPAIR_DEADLINE, REPAIR_PAUSE, REPAIR_QUESTIONS};
use crate::logging::LevelHandle;
use crate::membership::{self, View};
use crate::net::status_line;
use crate::peers::connect;
use crate::say;
use crate::server::ADDRESSES_FILE;
use crate::shared::{Ending, Shared};
use crate::status;

/// Name of the alarm while the log is damaged.
const ALARM: &str = "log-damaged";

/// Which entries are missing, and what they are needed for.
struct Case {
    wound: Wound,
    /// Where, for people.
    place: String,
    shared: Arc<Shared>,
    folder: Arc<RealDisk>,
}

/// Fetches what is missing from the other nodes, for as long as that takes. When it returns, the log is to
/// be opened anew.
///
/// # Errors
/// The error itself, if it is no damage that others could repair; or the disk refused.
pub async fn repair(
    error: anyhow::Error,
    config: &Arc<Config>,
    folder: Arc<RealDisk>,
    (rpc, web): (&std::net::TcpListener, &std::net::TcpListener),
    level: LevelHandle,
) -> anyhow::Result<()> {
    let (wound, place) = match error.downcast::<OpenError>()? {
        OpenError::Damaged {
            wound: Some(wound),
            path,
            offset,
            what,
            ..
        } => (*wound, format!("at byte {offset} of {path}: {what}")),
        other => return Err(other.into()),
    };
    let identity = Identity::open_or_create(folder.clone(), None)?;
    let addresses = AddressBook::open(&folder.directory().join(ADDRESSES_FILE));
    let (id, boot) = (identity.node_id(), identity.boot());
    let shared = Arc::new(Shared::new(id, boot, config.clone(), addresses));
    shared.cluster.send_replace(identity.cluster_id());
    let case = Case {
        wound,
        place,
        shared: shared.clone(),
        folder,
    };
    shared.progress.set_last(case.wound.lost().anchor.index);
    shared.metrics.log_damages.inc();
    case.say("nobody was asked yet");
    let (view_sender, view) = watch::channel(Arc::new(View::default()));
    let members = tokio::spawn(membership::run(shared.clone(), view_sender));
    let (over, done) = watch::channel(());
    let server = serve(&shared, view, rpc, done.clone()).await?;
    let web = TcpListener::from_std(web.try_clone()?)?;
    let web = axum::serve(web, http::router(shared.clone(), level));
    let web = web.with_graceful_shutdown(ended(done)).into_future();
    let web = tokio::spawn(async move {
        if let Err(error) = web.await {
            tracing::warn!("the web pages are not served while the log is damaged: {error}");
        }
    });
    let mut ending = shared.ending.subscribe();
    let repaired = tokio::select! {
        repaired = case.ask_all() => repaired,
        ended = ending.wait_for(Option::is_some) => match ended.ok().and_then(|ended| ended.clone()) {
            Some(Ending::Failed(sentence)) => Err(anyhow::anyhow!(sentence)),
            _ => Err(anyhow::anyhow!("stopped while the log is being repaired")),
        },
    };
    members.abort();
    // Every connection has a task of its own, which would go on to say what was true until now. Those who
    // have one open are told to make another.
    drop(over);
    for mut task in [server, web] {
        if tokio::time::timeout(FAREWELL, &mut task).await.is_err() {
            task.abort();
        }
    }
    repaired
}

/// The repair is over.
async fn ended(mut done: watch::Receiver<()>) {
    // Nothing is ever sent: it ends with its sender.
    let _ = done.changed().await;
}

impl Case {
    fn sentence(&self) -> String {
        let lost = self.wound.lost();
        let first = lost.known.last.min(lost.last - 1) + 1;
        let what = match first == lost.last {
            true => format!("entry {first} is missing, and is"),
            false => format!("entries {first} to {} are missing, and are", lost.last),
        };
        format!(
            "the log is damaged {}: {what} being fetched from the other nodes. Until then this node neither \
             votes nor acknowledges nor applies anything",
            self.place
        )
    }

    fn say(&self, so_far: &str) {
        let sentence = format!("{}; so far: {so_far}", self.sentence());
        self.shared.alarm(ALARM, Some(sentence));
    }

    /// Asks one peer after the other, again and again.
    async fn ask_all(&self) -> anyhow::Result<()> {
        loop {
            let mut said = Vec::new();
            for node in self.shared.addresses.nodes() {
                if node == self.shared.id {
                    continue;
                }
                let name = self.shared.name_of(node);
                match self.ask(node).await {
                    Ok(Step::Mend { joint, entries }) => {
                        let count = entries.len();
                        let (wound, folder) = (self.wound.clone(), self.folder.clone());
                        let mend = move || wound.mend(&*folder, joint, &entries);
                        if let Some(why) = refused(tokio::task::spawn_blocking(mend).await?)? {
                            said.push(format!("{name}: {why}"));
                            continue;
                        }
                        say!(
                            info,
                            "REPAIR",
                            "{name} had what was missing: {count} entries"
                        );
                        return Ok(());
                    }
                    Ok(Step::GiveUp { joint, entries }) => {
                        let from = joint.index + 1;
                        let (wound, folder) = (self.wound.clone(), self.folder.clone());
                        let give_up = move || wound.give_up(folder, joint, entries);
                        if let Some(why) = refused(tokio::task::spawn_blocking(give_up).await?)? {
                            said.push(format!("{name}: {why}"));
                            continue;
                        }
                        say!(
                            warn,
                            "REPAIR",
                            "{name} has others committed: the log was never committed from {from} on, and gives way"
                        );
                        return Ok(());
                    }
                    Ok(Step::Useless(why)) => said.push(format!("{name}: {why}")),
                    Ok(Step::Ask) => said.push(format!("{name}: no end of answers")),
                    Err(why) => said.push(format!("{name}: {why}")),
                }
            }
            match said.is_empty() {
                true => self.say("no other node is known"),
                false => self.say(&said.join("; ")),
            }
            tokio::time::sleep(REPAIR_PAUSE).await;
        }
    }

    /// Asks one peer for all that is needed of it.
    async fn ask(&self, node: NodeId) -> Result<Step, String> {
        let mut client = connect(&self.shared, node, CONNECT_DEADLINE).await?;
        let mut repair = Repair::new(self.wound.lost().clone());
        for _ in 0..REPAIR_QUESTIONS {
            let question = repair.question();
            let request = pb::ReadLogRequest {
                cluster_id: self.shared.cluster_bytes(),
                node_id: wire::id_bytes(node.0),
                previous: convert::position(question.previous),
                anchor: convert::position(question.anchor),
            };
            let asked = tokio::time::timeout(REPAIR_DEADLINE, client.read_log(request));
            let reply = asked.await.map_err(|_| "no answer in time".to_owned())?;
            let reply = reply.map_err(|status| status_line(&status))?.into_inner();
            match repair.take(answer_from_wire(reply)?) {
                Step::Ask => {}
                done => return Ok(done),
            }
        }
        Ok(Step::Ask)
    }
}

/// Why what a peer gave does not fit. Another one may give what does, or this one a moment later.
///
/// # Errors
/// The disk refused, or the log did.
fn refused(outcome: Result<(), RepairError>) -> Result<Option<String>, RepairError> {
    match outcome {
        Ok(()) => Ok(None),
        Err(invalid @ RepairError::Invalid(_)) => Ok(Some(invalid.to_string())),
        Err(other) => Err(other),
    }
}

/// What a peer asks.
///
/// # Errors
/// It is incomplete.
pub fn question(request: &pb::ReadLogRequest) -> Result<Question, Status> {
    let position = |position: &Option<pb::Position>| {
        let position = position.map(convert::from_position);
        position.ok_or_else(|| Status::invalid_argument("a position is missing"))
    };
    Ok(Question {
        previous: position(&request.previous)?,
        anchor: position(&request.anchor)?,
    })
}

/// The answer, as it travels.
pub fn answer_to_wire(answer: &Answer) -> pb::ReadLogReply {
    let mut encoded = convert::EncodedEntries::default();
    pb::ReadLogReply {
        holds_anchor: answer.holds_anchor,
        holds_previous: answer.holds_previous,
        hint: convert::position(answer.hint),
        entries: answer
            .entries
            .iter()
            .map(|entry| convert::entry_to_wire(entry, &mut encoded))
            .collect(),
        commit_index: answer.commit_index,
        base: convert::position(answer.base),
    }
}

fn answer_from_wire(reply: pb::ReadLogReply) -> Result<Answer, String> {
    let entry = |entry: pb::LogEntry| -> Result<Entry, String> {
        Ok(Entry {
            index: entry.index,
            term: entry.term,
            log_time_ms: entry.log_time_ms,
            payload: Payload::decode(entry.payload).map_err(|bad| bad.to_string())?,
        })
    };
    Ok(Answer {
        holds_anchor: reply.holds_anchor,
        holds_previous: reply.holds_previous,
        hint: reply.hint.map(convert::from_position).unwrap_or_default(),
        entries: reply
            .entries
            .into_iter()
            .map(entry)
            .collect::<Result<_, _>>()?,
        commit_index: reply.commit_index,
        base: reply.base.map(convert::from_position).unwrap_or_default(),
    })
}

/// What a node answers while its log is damaged.
struct Damaged {
    shared: Arc<Shared>,
    view: watch::Receiver<Arc<View>>,
    /// Nobody listens.
    inbox: mpsc::Sender<Ask>,
}

/// The health says "not serving", so that whoever looks at nothing else sees it.
async fn serve(
    shared: &Arc<Shared>,
    view: watch::Receiver<Arc<View>>,
    listener: &std::net::TcpListener,
    done: watch::Receiver<()>,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::from_std(listener.try_clone().context("cannot listen")?)?;
    let damaged = Damaged {
        shared: shared.clone(),
        view,
        inbox: mpsc::channel(1).0,
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in ["", RaftServer::<Damaged>::NAME] {
        let not_serving = tonic_health::ServingStatus::NotServing;
        health.set_service_status(service, not_serving).await;
    }
    let server = Server::builder()
        .add_service(health_service)
        .add_service(RaftServer::new(damaged))
        .serve_with_incoming_shutdown(accept::incoming(listener), ended(done));
    Ok(tokio::spawn(async move {
        // Dropping the reporter would end the watchers' streams.
        let _health = health;
        if let Err(error) = server.await {
            tracing::warn!("status is not served while the log is damaged: {error}");
        }
    }))
}

impl Damaged {
    fn refuse<T>(&self) -> Result<Response<T>, Status> {
        Err(Status::unavailable(
            "the log of this node is damaged and being repaired: ask another one, see its status",
        ))
    }
}

macro_rules! refused {
    ($($name:ident($request:ident) -> $reply:ty;)+) => {
        #[tonic::async_trait]
        impl Raft for Damaged {
            async fn status(
                &self,
                _: Request<pb::StatusRequest>,
            ) -> Result<Response<pb::StatusReply>, Status> {
                let view = self.view.borrow().clone();
                let mut reply = status::status(&self.shared, &self.inbox, &view).await;
                "damaged".clone_into(&mut reply.role);
                Ok(Response::new(reply))
            }

            type SaveSnapshotStream = ReceiverStream<Result<pb::SavedPart, Status>>;
            type WatchStream = ReceiverStream<Result<pb::WatchReply, Status>>;

            $(async fn $name(
                &self,
                _: Request<pb::$request>,
            ) -> Result<Response<$reply>, Status> {
                self.refuse()
            })+
        }
    };
}
refused! {
    put_entry(PutEntryRequest) -> pb::PutEntryReply;
    query(QueryRequest) -> pb::QueryReply;
    register_session(RegisterSessionRequest) -> pb::RegisterSessionReply;
    keep_alive(KeepAliveRequest) -> pb::KeepAliveReply;
    save_snapshot(SaveSnapshotRequest) -> Self::SaveSnapshotStream;
    transfer_leadership(TransferLeadershipRequest) -> pb::TransferLeadershipReply;
    leave(LeaveRequest) -> pb::LeaveReply;
    skip(SkipRequest) -> pb::SkipReply;
    watch(WatchRequest) -> Self::WatchStream;
}
