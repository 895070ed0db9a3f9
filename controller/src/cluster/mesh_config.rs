//! The MeshConfig `default`: made where it is not there. The chart does not hold it, so that an upgrade never resets it.
//!
//! One that somebody removed is made again as it was seen last: a mesh that refuses does not begin to allow because an object is gone.
//! Where nobody has seen one, the trust domain is that of the certificate authority, which every identity has; the chart's only where there
//! is no authority either.

use super::FIELD_OWNER;
use super::authority::{self, AuthorityError};
use super::kinds;
use super::lease::{Tenure, WriteError};
use super::turn::Outlook;
use crate::crds::{GROUP, VERSION};
use crate::world::{MESH_CONFIG, Name, PLATFORM_NAMESPACE};
use kube::Client;
use kube::api::{DynamicObject, PostParams};
use selvage_policy::TrustDomain;
use selvage_policy::mesh::MeshConfigSpec;
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often is looked whether it is still there.
const ROUND: Duration = Duration::from_secs(10);
/// After it could not be made: nothing is served before it is there, and the CRDs may be on their way.
const PAUSE: Duration = Duration::from_millis(500);

/// Why it is not there.
#[derive(Debug, thiserror::Error)]
enum MeshConfigError {
    /// It could not be read or written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Nobody can say for which trust domain.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ensured {
    /// It was there.
    Present,
    /// It was made.
    Made,
    /// The cluster does not have the kind.
    NoSuchKind,
}

/// Makes it whenever it is not there and this replica holds the lease; until stopped. `trust_domain` is of the first one.
pub async fn keep(client: Client, trust_domain: TrustDomain, outlook: Outlook, mut tenure: Tenure, stop: CancellationToken) {
    let mut told = false;
    // Says, too, that it is gone.
    let mut not_yet = outlook.not_yet.subscribe();
    loop {
        match stop.run_until_cancelled(tenure.begins()).await {
            Some(true) => {}
            _ => return,
        }
        not_yet.borrow_and_update();
        let pause = match ensure(&client, last_seen(&outlook), &trust_domain, &tenure).await {
            Ok(Ensured::Present | Ensured::Made) => ROUND,
            // The watch shows it.
            Ok(Ensured::NoSuchKind) => PAUSE,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the MeshConfig cannot be made: it is tried again");
                }
                PAUSE
            }
        };
        told &= pause == PAUSE;
        tokio::select! {
            () = stop.cancelled() => return,
            changed = not_yet.changed(), if pause == ROUND => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What it said when everything was translated last: without it nothing is.
fn last_seen(outlook: &Outlook) -> Option<MeshConfigSpec> {
    let seen = outlook.seen.borrow();
    seen.as_ref()?.world.mesh_configs.get(&Name::new("", MESH_CONFIG)).map(|config| config.spec.clone())
}

/// Makes it if it is not there: as it was `seen`, else for the trust domain of the authority, else for this one.
async fn ensure(
    client: &Client,
    seen: Option<MeshConfigSpec>,
    trust_domain: &TrustDomain,
    tenure: &Tenure,
) -> Result<Ensured, MeshConfigError> {
    let Some(kind) = kinds::of("MeshConfig") else { return Ok(Ensured::NoSuchKind) };
    let api = kind.at(client.clone(), &Name::new("", MESH_CONFIG));
    if tenure.write(api.get_opt(MESH_CONFIG)).await?.is_some() {
        return Ok(Ensured::Present);
    }
    let spec = match seen {
        Some(spec) => spec,
        None => {
            let of_authority = authority::domain(client.clone(), PLATFORM_NAMESPACE).await?;
            MeshConfigSpec { trust_domain: of_authority.unwrap_or_else(|| trust_domain.clone()), ..MeshConfigSpec::default() }
        }
    };
    let mut object = DynamicObject::new(MESH_CONFIG, &kind.resource());
    object.metadata.labels = Some([("app.kubernetes.io/part-of".to_string(), "selvage".to_string())].into());
    object.data = json!({ "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind.kind, "spec": spec });
    // Named even where it is the default: it holds for good.
    object.data["spec"]["trustDomain"] = json!(spec.trust_domain);
    object.types = None;
    let params = PostParams { field_manager: Some(FIELD_OWNER.into()), ..PostParams::default() };
    match tenure.write(api.create(&params, &object)).await {
        Ok(_) => {
            tracing::info!(trust_domain = %spec.trust_domain, "the MeshConfig was made");
            Ok(Ensured::Made)
        }
        Err(error) if error.status().is_some_and(|status| status.is_already_exists() || status.is_conflict()) => Ok(Ensured::Present),
        Err(error) if error.status().is_some_and(|status| status.is_not_found()) => Ok(Ensured::NoSuchKind),
        Err(error) => Err(error.into()),
    }
}
