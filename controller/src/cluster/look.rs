//! What can be seen of a controller: health, readiness, figures, and how everything is.

use super::lease::Tenure;
use super::metrics::Metrics;
use super::turn::Outlook;
use super::watch::WatchState;
use crate::publish::Publisher;
use crate::status;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::RwLock;
use selvage_config::wire::server::Server;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What is looked at.
#[derive(Clone)]
pub struct Look {
    /// Who this replica is.
    pub identity: String,
    /// Figures, and watches.
    pub metrics: Arc<Metrics>,
    /// What is published.
    pub outlook: Outlook,
    /// Whether it writes.
    pub tenure: Tenure,
    /// Cancelled: it ends soon, and is not to be asked for anything new.
    pub leaving: CancellationToken,
    /// Who serves proxies; none before anything is served.
    pub wire: Arc<RwLock<Option<Wire>>>,
}

/// What serves proxies.
#[derive(Clone)]
pub struct Wire {
    /// Their streams.
    pub server: Arc<Server>,
    /// What they are given.
    pub publisher: Arc<Publisher>,
}

impl Look {
    /// Health, readiness and state.
    pub fn health(&self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/state", get(|State(look): State<Look>| async move { axum::Json(look.state()) }))
            .with_state(self.clone())
    }

    /// Figures for Prometheus, and the proxies for `selvage status`.
    pub fn figures(&self) -> Router {
        Router::new().route("/metrics", get(figures)).route(status::PATH, get(proxies)).with_state(self.clone())
    }

    /// How everything is.
    fn state(&self) -> Value {
        let watch = |state: WatchState| match state {
            WatchState::Waiting => json!("Waiting"),
            WatchState::Following => json!("Following"),
            WatchState::Absent => json!("Absent"),
            WatchState::Failing(error) => json!({ "Failing": error }),
        };
        let watches: serde_json::Map<String, Value> =
            self.metrics.watches().into_iter().map(|(kind, state)| (kind.to_string(), watch(state))).collect();
        let proxies = self.wire.read().as_ref().map(|wire| wire.server.connected()).unwrap_or_default();
        let proxies: Vec<Value> = proxies.iter().map(|node| json!({ "name": node.name, "uid": node.uid })).collect();
        let seen = self.outlook.seen.borrow().clone();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "identity": self.identity,
            "leads": self.tenure.holds(),
            "notReady": *self.outlook.not_yet.borrow(),
            "watches": watches,
            "resources": seen.as_ref().map_or(0, |seen| seen.translation.resources.len()),
            "malformed": seen.iter().flat_map(|seen| seen.world.malformed.values()).map(|one| json!({
                "object": one.key.to_string(), "faults": one.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "proxies": proxies,
        })
    }
}

async fn readyz(State(look): State<Look>) -> impl IntoResponse {
    if look.leaving.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "it ends\n".to_string());
    }
    // Once published, it stays ready: proxies are served from memory whatever becomes of the API server.
    let published = look.outlook.seen.borrow().is_some() && look.wire.read().is_some();
    let why = look.outlook.not_yet.borrow().clone().unwrap_or_else(|| "the wire is not served yet".into());
    if published { (StatusCode::OK, "ok\n".to_string()) } else { (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")) }
}

async fn figures(State(look): State<Look>) -> impl IntoResponse {
    look.metrics.connected(look.wire.read().as_ref().map_or(0, |wire| wire.server.connected().len()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], look.metrics.text())
}

async fn proxies(State(look): State<Look>) -> axum::response::Response {
    match look.wire.read().as_ref() {
        Some(wire) => axum::Json(wire.publisher.listing()).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the wire is not served yet\n").into_response(),
    }
}
