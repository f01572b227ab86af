//! HTTP for people and machines that look after the node: `/livez`, `/metrics`, `/log-level`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, put};
use member_core::Counters;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wire::is_local;

use crate::driver::{Published, Request};
use crate::logging::SetLogLevel;

/// The loop is alive if it answers within this.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest filter that `/log-level` reads.
const MAX_FILTER_BYTES: usize = 4096;

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) log_level: Option<SetLogLevel>,
    pub(crate) own_ip: IpAddr,
}

impl Http {
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/metrics", get(metrics))
            .route("/log-level", put(log_level))
            .layer(DefaultBodyLimit::max(MAX_FILTER_BYTES))
            .with_state(self)
    }

    async fn inspect(&self) -> Option<(Published, Counters)> {
        let (sender, receiver) = oneshot::channel();
        let ask = async {
            self.requests.send(Request::Inspect(sender)).await.ok()?;
            receiver.await.ok()
        };
        timeout(LIVENESS_TIMEOUT, ask).await.ok().flatten()
    }
}

async fn livez(State(http): State<Http>) -> impl IntoResponse {
    match http.inspect().await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the gossip loop does not answer\n",
        ),
    }
}

async fn log_level(
    State(http): State<Http>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
    filter: String,
) -> (StatusCode, String) {
    if !is_local(caller.ip(), http.own_ip) {
        return (StatusCode::FORBIDDEN, "only from this node\n".to_owned());
    }
    let Some(set) = &http.log_level else {
        return (
            StatusCode::NOT_FOUND,
            "this process does not own its log\n".to_owned(),
        );
    };
    match set(filter.trim()) {
        Ok(()) => {
            tracing::info!("[MEMBER] log level is now {}", filter.trim());
            (StatusCode::OK, "ok\n".to_owned())
        }
        Err(reason) => (StatusCode::BAD_REQUEST, format!("{reason}\n")),
    }
}

async fn metrics(State(http): State<Http>) -> impl IntoResponse {
    let text = match http.inspect().await {
        Some((published, counters)) => exposition(&published, &counters).ok(),
        None => None,
    };
    match text {
        Some(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn exposition(published: &Published, counters: &Counters) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("leeky_member");
    let members = Family::<[(&'static str, &'static str); 1], Gauge>::default();
    for (state, name) in [
        (member_core::State::Alive, "alive"),
        (member_core::State::Suspect, "suspect"),
        (member_core::State::Dead, "dead"),
        (member_core::State::Left, "left"),
    ] {
        let count = published
            .view
            .members
            .iter()
            .filter(|m| m.record.state == state)
            .count();
        members.get_or_create(&[("state", name)]).set(count as i64);
    }
    registry.register(
        "members",
        "Members shown, this one included, by state",
        members,
    );
    let gauges = [
        (
            "joined",
            "Another member has answered since the start",
            i64::from(published.view.joined),
        ),
        (
            "superseded",
            "Another process runs under this node id",
            i64::from(published.view.superseded),
        ),
        (
            "boot_epoch",
            "Starts on this data directory",
            i64::from(published.view.me.incarnation.boot_epoch()),
        ),
    ];
    for (name, help, value) in gauges {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    let refused = Family::<[(&'static str, &'static str); 1], Counter>::default();
    for (reason, count) in [
        ("malformed", counters.refused_malformed),
        ("unknown_type", counters.refused_unknown_type),
        ("other_cluster", counters.refused_other_cluster),
        ("other_target", counters.refused_other_target),
        ("stale_boot", counters.refused_stale_boot),
    ] {
        refused.get_or_create(&[("reason", reason)]).inc_by(count);
    }
    registry.register("packets_refused", "Datagrams refused, by reason", refused);
    for (name, help, value) in [
        (
            "packets_received",
            "Datagrams received",
            counters.packets_received,
        ),
        (
            "packet_bytes_received",
            "Bytes of datagrams received",
            counters.bytes_received,
        ),
        ("packets_sent", "Datagrams sent", counters.packets_sent),
        (
            "packet_bytes_sent",
            "Bytes of datagrams sent",
            counters.bytes_sent,
        ),
        (
            "records_of_other_clusters",
            "News refused: of another cluster",
            counters.refused_foreign_records,
        ),
        (
            "leaps_refused",
            "News refused: a boot epoch too far above the known one",
            counters.refused_leaps,
        ),
        (
            "records_without_room",
            "News refused: too many members",
            counters.refused_full,
        ),
        (
            "accusations",
            "Suspicions raised or confirmed here",
            counters.accusations,
        ),
        (
            "failures",
            "Members that turned dead in this view",
            counters.failures,
        ),
        (
            "refutations",
            "Accusations of this member that it answered",
            counters.refutations,
        ),
        (
            "digests_sent",
            "Digests that differing views caused",
            counters.digests_sent,
        ),
        ("pauses", "Pauses of this process", counters.pauses),
        (
            "collisions",
            "Signs of a second process under this node id",
            counters.collisions,
        ),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
