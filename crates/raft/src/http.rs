//! Health and metrics over HTTP (6003), and the level of the log.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, put};

use crate::logging::LevelHandle;
use crate::metrics;
use crate::shared::Shared;

/// A request body above this is refused: the only one there is holds a log level.
const MAX_BODY_BYTES: usize = 4096;

#[derive(Clone)]
struct Pages {
    shared: Arc<Shared>,
    level: LevelHandle,
}

/// All pages.
pub fn router(shared: Arc<Shared>, level: LevelHandle) -> Router {
    Router::new()
        .route("/livez", get(async || "the daemon runs\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/log-level", put(log_level))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Pages { shared, level })
}

/// Ready: a leader is known, the state machine answers, and it has applied what is committed, but
/// for what is under way.
async fn readyz(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    let shared = &pages.shared;
    let progress = &shared.progress;
    let lag = progress.commit().saturating_sub(progress.recorded());
    let reason = match () {
        () if *shared.stopping.borrow() => "the daemon is stopping\n",
        () if shared.cluster_id().is_none() => "this node belongs to no cluster yet\n",
        () if shared.standing().leader.is_none() => "no leader is known\n",
        () if shared.machine.borrow().client.is_none() => "the state machine does not answer\n",
        () if lag > shared.config.max_batch_entries as u64 => {
            "the state machine is behind the log\n"
        }
        () => return (StatusCode::OK, "ready\n"),
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason)
}

async fn metrics_page(State(pages): State<Pages>) -> ([(&'static str, &'static str); 1], String) {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([("content-type", kind)], metrics::render(&pages.shared))
}

async fn log_level(State(pages): State<Pages>, body: String) -> (StatusCode, String) {
    match pages.level.set(body.trim()) {
        Ok(()) => {
            tracing::info!("the log level is {} now", body.trim());
            (
                StatusCode::OK,
                format!("the log level is {} now\n", body.trim()),
            )
        }
        Err(sentence) => (StatusCode::BAD_REQUEST, format!("{sentence}\n")),
    }
}
