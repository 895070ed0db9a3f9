//! The MeshConfig `default`: made where it is not there. The chart does not hold it, so that an upgrade never resets it.

use super::FIELD_OWNER;
use super::kinds;
use super::lease::{Tenure, WriteError};
use crate::crds::{GROUP, VERSION};
use crate::world::{MESH_CONFIG, Name};
use kube::Client;
use kube::api::{DynamicObject, PostParams};
use selvage_policy::TrustDomain;
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often is looked whether it is there.
const ROUND: Duration = Duration::from_secs(10);

/// Makes it whenever it is not there and this replica holds the lease; until stopped.
pub async fn keep(client: Client, trust_domain: TrustDomain, mut tenure: Tenure, stop: CancellationToken) {
    loop {
        match stop.run_until_cancelled(tenure.begins()).await {
            Some(true) => {}
            _ => return,
        }
        if let Err(error) = ensure(&client, &trust_domain, &tenure).await {
            tracing::warn!(%error, "the MeshConfig cannot be made: it is tried again");
        }
        if stop.run_until_cancelled(tokio::time::sleep(ROUND)).await.is_none() {
            return;
        }
    }
}

/// Makes it if it is not there; says whether it did.
pub async fn ensure(client: &Client, trust_domain: &TrustDomain, tenure: &Tenure) -> Result<bool, WriteError> {
    let Some(kind) = kinds::of("MeshConfig") else { return Ok(false) };
    let api = kind.at(client.clone(), &Name::new("", MESH_CONFIG));
    if tenure.write(api.get_opt(MESH_CONFIG)).await?.is_some() {
        return Ok(false);
    }
    let mut object = DynamicObject::new(MESH_CONFIG, &kind.resource());
    object.metadata.labels = Some([("app.kubernetes.io/part-of".to_string(), "selvage".to_string())].into());
    object.data = json!({ "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind.kind, "spec": { "trustDomain": trust_domain } });
    object.types = None;
    let params = PostParams { field_manager: Some(FIELD_OWNER.into()), ..PostParams::default() };
    match tenure.write(api.create(&params, &object)).await {
        Ok(_) => {
            tracing::info!(%trust_domain, "the MeshConfig was made");
            Ok(true)
        }
        Err(error) if error.status().is_some_and(|status| status.is_already_exists() || status.is_conflict()) => Ok(false),
        // The CRDs are not installed, or not yet; the watch shows it.
        Err(error) if error.status().is_some_and(|status| status.is_not_found()) => Ok(false),
        Err(error) => Err(error),
    }
}
