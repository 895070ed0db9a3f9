//! Whether a cluster has Gateway API: the kinds that the controller watches are not brought by its chart.

use super::brief::brief;
use super::kinds::WATCHED;
use crate::translate::GATEWAY_GROUP;
use kube::Client;
use std::collections::BTreeSet;
use std::time::Duration;

/// What brings them.
pub const INSTALL: &str =
    "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.7.0/standard-install.yaml";
/// The version that is watched.
const VERSION: &str = "v1";
const NOT_FOUND: u16 = 404;
/// For an answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kinds of Gateway API that are watched and that the cluster does not serve.
pub async fn missing(client: &Client) -> Result<Vec<&'static str>, kube::Error> {
    let served = match client.list_api_group_resources(&format!("{GATEWAY_GROUP}/{VERSION}")).await {
        Ok(list) => list.resources.into_iter().map(|one| one.kind).collect(),
        // A group that nobody has installed is answered without a Status, so without a reason.
        Err(kube::Error::Api(status)) if status.code == NOT_FOUND => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    let ours = WATCHED.iter().filter(|kind| kind.group == GATEWAY_GROUP);
    Ok(ours.map(|kind| kind.kind).filter(|kind| !served.contains(*kind)).collect())
}

/// The same of the cluster that kubectl would speak to.
pub async fn missing_here() -> Result<Vec<&'static str>, Unanswered> {
    let client = Client::try_default().await.map_err(|error| Unanswered(brief(&error)))?;
    let found = tokio::time::timeout(PATIENCE, missing(&client)).await;
    found.map_err(|_| Unanswered(format!("no answer within {} s", PATIENCE.as_secs())))?.map_err(|error| Unanswered(brief(&error)))
}

/// The cluster does not say what it serves.
#[derive(Debug, thiserror::Error)]
#[error("the cluster cannot be asked: {0}; does kubectl reach it?")]
pub struct Unanswered(String);
