//! The roots of workload identities in every namespace: a ConfigMap that proxies mount, to verify the controller before they are told
//! anything.

use super::FIELD_OWNER;
use super::brief::brief_of_watch;
use super::lease::{Tenure, WriteError};
use super::metrics::{Metrics, WriteOutcome, Written};
use crate::containers::ROOTS;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where in it the roots are, PEM.
pub const KEY: &str = "roots.pem";
/// After a write or a watch failed.
const PAUSE: Duration = Duration::from_secs(2);
/// A namespace that refused is left alone for so long: it may be ending.
const REFUSED: Duration = Duration::from_secs(30);

/// Keeps the ConfigMaps.
pub struct Roots {
    /// The API server.
    pub client: Client,
    /// Every namespace.
    pub namespaces: watch::Receiver<BTreeSet<String>>,
    /// The roots, PEM.
    pub roots: watch::Receiver<Vec<String>>,
    /// Whether this replica writes.
    pub tenure: Tenure,
    /// Where writes are counted.
    pub metrics: Arc<Metrics>,
}

impl Roots {
    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let everywhere: Api<ConfigMap> = Api::all(self.client.clone());
        let mut seen = watcher::watcher(everywhere, watcher::Config::default().fields(&format!("metadata.name={ROOTS}"))).boxed();
        let mut present: BTreeMap<String, String> = BTreeMap::new();
        let mut list: Option<BTreeMap<String, String>> = None;
        let mut known = false;
        let mut refused: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let mut retry = None;
            if known && self.tenure.holds() {
                retry = self.write(&mut present, &mut refused).await.then_some(PAUSE);
            }
            let mut tenure = self.tenure.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.namespaces.changed() => if changed.is_err() { return },
                changed = self.roots.changed() => if changed.is_err() { return },
                began = tenure.begins(), if !self.tenure.holds() => if !began { return },
                () = tokio::time::sleep(retry.unwrap_or(REFUSED)) => {}
                event = seen.next() => match event {
                    Some(Ok(Event::Init)) => list = Some(BTreeMap::new()),
                    Some(Ok(Event::InitApply(map))) => drop(list.get_or_insert_default().insert(map.namespace().unwrap_or_default(), text(&map))),
                    Some(Ok(Event::InitDone)) => {
                        present = list.take().unwrap_or_default();
                        known = true;
                    }
                    Some(Ok(Event::Apply(map))) => drop(present.insert(map.namespace().unwrap_or_default(), text(&map))),
                    Some(Ok(Event::Delete(map))) => drop(present.remove(&map.namespace().unwrap_or_default())),
                    Some(Err(error)) => {
                        tracing::debug!(error = brief_of_watch(&error), "the watch of the roots is interrupted");
                        tokio::time::sleep(PAUSE).await;
                    }
                    None => return,
                },
            }
        }
    }

    /// Writes what is not as it should be; says whether something has to be tried again soon.
    async fn write(&self, present: &mut BTreeMap<String, String>, refused: &mut BTreeMap<String, Instant>) -> bool {
        let roots = self.roots.borrow().concat();
        let namespaces = self.namespaces.borrow().clone();
        refused.retain(|namespace, since| since.elapsed() < REFUSED && namespaces.contains(namespace));
        let is_wrong = |namespace: &&String| present.get(*namespace) != Some(&roots) && !refused.contains_key(*namespace);
        let wrong: Vec<&String> = namespaces.iter().filter(is_wrong).collect();
        let mut again = false;
        for namespace in wrong {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
            let params = PatchParams::apply(FIELD_OWNER).force();
            let outcome = match self.tenure.write(api.patch(ROOTS, &params, &Patch::Apply(config_map(namespace, &roots)))).await {
                Ok(_) => {
                    present.insert(namespace.clone(), roots.clone());
                    WriteOutcome::Written
                }
                Err(WriteError::NotOurs) => return false,
                Err(error) => {
                    // A namespace that is ending takes nothing in.
                    if error.status().is_some_and(|status| status.is_forbidden() || status.is_not_found()) {
                        tracing::debug!(namespace, %error, "a namespace takes no roots");
                        refused.insert(namespace.clone(), Instant::now());
                    } else {
                        tracing::warn!(namespace, %error, "the roots could not be written: it is tried again");
                        again = true;
                    }
                    WriteOutcome::Failed
                }
            };
            self.metrics.wrote(Written::Roots, outcome);
        }
        again
    }
}

fn text(map: &ConfigMap) -> String {
    map.data.as_ref().and_then(|data| data.get(KEY)).cloned().unwrap_or_default()
}

fn config_map(namespace: &str, roots: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": ROOTS, "namespace": namespace, "labels": { "app.kubernetes.io/part-of": "selvage" } },
        "data": { KEY: roots },
    })
}
