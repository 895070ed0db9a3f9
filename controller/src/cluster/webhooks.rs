//! What webhooks know, and whom the API server believes when it calls them.

use super::FIELD_OWNER;
use super::lease::Tenure;
use super::turn::Seen;
use crate::webhook::{Knowledge, ca_bundles};
use crate::world::World;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the bundles are applied again: an upgrade of the chart may have taken them out.
const AGAIN: Duration = Duration::from_secs(30);
/// After something failed: the chart may be on its way.
const PAUSE: Duration = Duration::from_secs(2);

/// The World, for webhooks.
pub struct Latest(pub watch::Receiver<Option<Arc<Seen>>>);

impl Knowledge for Latest {
    fn world(&self) -> Arc<World> {
        self.0.borrow().as_ref().map(|seen| seen.world.clone()).unwrap_or_default()
    }
}

/// Keeps the roots in the webhook configurations while this replica holds the lease; until stopped.
pub async fn keep_bundles(client: Client, mut roots: watch::Receiver<Vec<String>>, mut tenure: Tenure, stop: CancellationToken) {
    let mut told = false;
    loop {
        match stop.run_until_cancelled(tenure.begins()).await {
            Some(true) => {}
            _ => return,
        }
        let bundles = ca_bundles(&roots.borrow_and_update());
        let mut failed = false;
        for bundle in bundles {
            if let Err(error) = apply(&client, &tenure, &bundle).await {
                failed = true;
                if !told {
                    tracing::warn!(kind = ?bundle["kind"], error, "webhooks are not trusted by the API server yet: is the chart installed?");
                }
            }
        }
        told = failed;
        let pause = if failed { PAUSE } else { AGAIN };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = roots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn apply(client: &Client, tenure: &Tenure, bundle: &Value) -> Result<(), String> {
    let text = |pointer: &str| bundle.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let kind = text("/kind");
    let resource = ApiResource {
        group: "admissionregistration.k8s.io".into(),
        version: "v1".into(),
        api_version: text("/apiVersion"),
        plural: format!("{}s", kind.to_lowercase()),
        kind,
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let params = PatchParams::apply(FIELD_OWNER).force();
    tenure.write(api.patch(&text("/metadata/name"), &params, &Patch::Apply(bundle))).await.map(drop).map_err(|error| error.to_string())
}
