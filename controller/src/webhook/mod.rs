//! The webhooks that the API server asks before it stores an object.
//!
//! ```text
//! API server ──TLS──► /inject/namespace, /inject/pod   Pods: sidecars put in      (inject)
//!                     /validate                        our kinds: compiled        (admission)
//! ```
//!
//! Which label asked for a sidecar is in the path: the API server's selectors know it for certain, while what we have watched may be
//! late. Nothing here writes, and nothing that is sent here is a secret; what cannot be read is answered with 400, and the API server
//! then refuses (`failurePolicy: Fail`).

mod bundle;
pub mod review;
#[cfg(test)]
mod tests;
pub mod validate;

pub use bundle::{MUTATING, VALIDATING, WEBHOOKS, ca_bundles};

use crate::inject::{self, Namespace, Outcome};
use crate::settings::Settings;
use crate::world::{INJECT, World};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use review::{Answer, Operation, Request};
use std::sync::Arc;

/// What the API server calls the controller.
pub const SERVER_NAME: &str = "selvage-controller.selvage-system.svc";
/// A review holds an object twice, and the API server stores none above 1.5 MiB.
const MOST_BYTES: usize = 4 << 20;

/// What webhooks look at.
pub trait Knowledge: Send + Sync + 'static {
    /// The World as it is now.
    fn world(&self) -> Arc<World>;
}

/// Everything that a handler needs.
struct Webhooks {
    knowledge: Arc<dyn Knowledge>,
    settings: Settings,
}

/// Who asked for a sidecar, as the API server's selectors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The Namespace's label, and the Pod does not say otherwise.
    Namespace,
    /// The Pod's label, in a Namespace that does not ask.
    Pod,
}

/// The webhooks, to be served over TLS.
pub fn router(knowledge: Arc<dyn Knowledge>, settings: Settings) -> Router {
    let webhooks = Arc::new(Webhooks { knowledge, settings });
    Router::new()
        .route("/inject/namespace", post(|state, body| injected(Asked::Namespace, state, body)))
        .route("/inject/pod", post(|state, body| injected(Asked::Pod, state, body)))
        .route("/validate", post(validated))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(webhooks)
}

async fn injected(asked: Asked, State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    answer(webhooks, body, move |request, webhooks| inject(request, asked, &webhooks.knowledge.world(), &webhooks.settings)).await
}

async fn validated(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    answer(webhooks, body, |request, webhooks| validate::validate(request, &webhooks.knowledge.world(), &webhooks.settings)).await
}

/// Reads, decides apart from the threads that serve (a policy may take a while to compile), and writes.
async fn answer(webhooks: Arc<Webhooks>, body: Bytes, decide: impl FnOnce(&Request, &Webhooks) -> Answer + Send + 'static) -> Response {
    let decided = tokio::task::spawn_blocking(move || {
        let request = review::parse(&body)?;
        let answer = decide(&request, &webhooks);
        if !answer.faults.is_empty() {
            tracing::info!(kind = request.kind.kind, namespace = request.namespace, faults = ?answer.faults, "an object was refused");
        }
        Ok::<_, review::InvalidReview>(answer.review(&request.uid))
    });
    match decided.await {
        Ok(Ok(review)) => axum::Json(review).into_response(),
        Ok(Err(invalid)) => (StatusCode::BAD_REQUEST, invalid.to_string()).into_response(),
        Err(error) => {
            tracing::error!(%error, "a webhook failed");
            (StatusCode::INTERNAL_SERVER_ERROR, "the webhook failed; see the controller's log").into_response()
        }
    }
}

/// Answers for one Pod.
pub fn inject(request: &Request, asked: Asked, world: &World, settings: &Settings) -> Answer {
    if request.kind.kind != "Pod"
        || request.operation != Operation::Create
        || request.sub_resource.as_deref().is_some_and(|sub| !sub.is_empty())
    {
        return Answer::allowed();
    }
    let name = request.namespace.clone().unwrap_or_default();
    let mut labels = world.namespace_labels(&name);
    if asked == Asked::Namespace && labels.get(INJECT).is_none_or(|word| word == "disabled") {
        // The API server has seen the label already; we have not.
        labels.insert(INJECT.into(), "enabled".into());
    }
    match inject::inject(&request.object, &Namespace { name, labels }, settings, settings.trust_domain_in_force(world)) {
        Ok(Outcome::Injected(patch)) => Answer { patch, ..Answer::default() },
        Ok(Outcome::Untouched(why)) if why.is_surprising() => Answer { warnings: vec![format!("no sidecar: {why}")], ..Answer::default() },
        Ok(Outcome::Untouched(_)) => Answer::allowed(),
        Err(faults) => Answer::refused(faults),
    }
}
