//! One watch: from the API server's list and events of one kind to what changed, over every interruption.
//!
//! A list is passed on whole, so that what was deleted meanwhile disappears. A kind whose CRD is not there counts as one without
//! objects and is asked for again quietly.

use super::brief::brief_of_watch;
use super::kinds::Kind;
use super::metrics::Metrics;
use crate::world::Name;
use futures::StreamExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event as Seen};
use kube::{Client, ResourceExt};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Waits after errors: the first, and the longest. Short, because a watch that is behind is configuration that is behind.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// How often a kind that is not there is asked for.
const ABSENT_PAUSE: Duration = Duration::from_secs(2);
/// A kind that was there is believed to be gone only after so long: an API server that is starting may not know it yet.
const ABSENT_GRACE: Duration = Duration::from_secs(15);
/// Without an error for so long, a watch follows again. Longer than a connection to the API server may take to fail.
const QUIET: Duration = Duration::from_secs(10);
/// Events waiting for the World: more, and watches wait.
pub const EVENTS: usize = 1024;

/// What a watch saw.
#[derive(Debug)]
pub struct Event {
    /// Of which kind.
    pub kind: &'static Kind,
    /// What.
    pub change: Change,
}

/// What changed.
#[derive(Debug)]
pub enum Change {
    /// These are all objects of the kind.
    All(Vec<Value>),
    /// One is new or other than before.
    Applied(Value),
    /// One is gone.
    Deleted(Name),
    /// The kind itself is not there.
    Absent,
}

/// How a watch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// Nothing was listed yet.
    Waiting,
    /// It follows.
    Following,
    /// The kind is not there: its CRD is not installed.
    Absent,
    /// It fails, and is tried again. What was seen before holds.
    Failing(String),
}

/// Watches until nobody listens.
pub async fn watch(kind: &'static Kind, client: Client, events: mpsc::Sender<Event>, metrics: Arc<Metrics>) {
    let seen = watcher::watcher(kind.everywhere(client), kind.watcher());
    tokio::pin!(seen);
    let mut list = Vec::new();
    let mut had_any = false;
    let mut failing: Option<(Instant, Duration)> = None;
    metrics.watch(kind.kind, WatchState::Waiting);
    loop {
        let next = match (tokio::time::timeout(QUIET, seen.next()).await, failing) {
            (Ok(Some(next)), _) => next,
            (Ok(None), _) => return,
            // A watch that begins again says nothing until something changes.
            (Err(_), Some(_)) if metrics.state(kind.kind) != Some(WatchState::Absent) => {
                failing = None;
                metrics.watch(kind.kind, WatchState::Following);
                continue;
            }
            (Err(_), _) => continue,
        };
        let change = match next {
            Ok(Seen::Init) => {
                list = Vec::new();
                continue;
            }
            Ok(Seen::InitApply(object)) => {
                list.push(json(kind, object));
                continue;
            }
            Ok(Seen::InitDone) => {
                had_any = true;
                Change::All(std::mem::take(&mut list))
            }
            Ok(Seen::Apply(object)) => Change::Applied(json(kind, object)),
            Ok(Seen::Delete(object)) => Change::Deleted(Name::new(object.namespace().unwrap_or_default(), object.name_any())),
            Err(error) => {
                let now = Instant::now();
                let (since, wait) = *failing.get_or_insert((now, BACKOFF.0));
                let absent = is_absent(&error);
                if absent && (!had_any || now.duration_since(since) >= ABSENT_GRACE) {
                    if metrics.watch(kind.kind, WatchState::Absent) {
                        tracing::info!(
                            kind = kind.kind,
                            group = kind.group,
                            "the cluster does not have this kind: its CRD is not installed"
                        );
                        if events.send(Event { kind, change: Change::Absent }).await.is_err() {
                            return;
                        }
                    }
                    had_any = false;
                    tokio::time::sleep(ABSENT_PAUSE).await;
                    continue;
                }
                let error = brief_of_watch(&error);
                if metrics.watch(kind.kind, WatchState::Failing(error.clone())) {
                    tracing::warn!(kind = kind.kind, error, "a watch is interrupted: what was seen before holds");
                }
                failing = Some((since, (wait * 2).min(BACKOFF.1)));
                tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
                continue;
            }
        };
        failing = None;
        if metrics.watch(kind.kind, WatchState::Following) {
            tracing::debug!(kind = kind.kind, "a watch follows");
        }
        if events.send(Event { kind, change }).await.is_err() {
            return;
        }
    }
}

/// Whether the API server does not know the kind.
fn is_absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else { return false };
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// The object as JSON, as a file would have it: lists leave out what kind their items are.
fn json(kind: &Kind, mut object: DynamicObject) -> Value {
    // Who wrote which field is the larger half of many objects, and says nothing here.
    object.metadata.managed_fields = None;
    let resource = kind.resource();
    object.types = Some(kube::core::TypeMeta { api_version: resource.api_version, kind: resource.kind });
    // Objects of the client's own types are always JSON.
    serde_json::to_value(&object).unwrap_or_default()
}
