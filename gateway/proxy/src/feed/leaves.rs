//! The proxy's own certificates: one for each identity its listeners speak for, made here, signed by the controller, renewed in time.

use super::store::{Change, Store};
use crate::identity::{KeyRequest, Life};
use crate::tls::certificate;
use async_trait::async_trait;
use selvage_config::resource::keys;
use selvage_config::wire::client::{AskError, Client};
use selvage_config::{Resource, Spec, VersionKey};
use selvage_policy::{Key, SpiffeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The first and the longest wait after a refusal or a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// The least time between two renewals of one leaf, should its life be over at once or our clock be wrong.
const LEAST: Duration = Duration::from_secs(1);
/// The longest sleep: clocks are set, and `Instant` and `SystemTime` part.
const LOOK: Duration = Duration::from_secs(60);

/// Who signs.
#[async_trait]
pub trait Signer: Send + Sync + 'static {
    /// Signs a request (PEM); the answer is the chain, leaf first.
    async fn sign(&self, csr: String) -> Result<String, AskError>;
}

#[async_trait]
impl Signer for Client {
    async fn sign(&self, csr: String) -> Result<String, AskError> {
        Client::sign(self, csr).await
    }
}

/// Keeps every leaf there and fresh, until the task is aborted.
pub(super) async fn keep(store: Arc<Store>, signer: Arc<dyn Signer>) {
    let version_key = VersionKey::random();
    let mut changes = store.changes();
    let mut plans: HashMap<SpiffeId, Plan> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let needed = store.identities();
        plans.retain(|identity, _| needed.contains(identity));
        drop_unneeded(&store, &needed.iter().map(keys::identity).collect::<Vec<_>>()).await;
        let mut next = Instant::now() + LOOK;
        for identity in needed {
            let plan = plans.entry(identity.clone()).or_insert_with(|| Plan::for_leaf(&store, &identity));
            if plan.due() {
                plan.renew(&store, signer.as_ref(), &identity, &version_key).await;
            }
            next = next.min(plan.wake());
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

async fn drop_unneeded(store: &Arc<Store>, needed: &[Key]) {
    let remove: Vec<Key> = store.own_keys().into_iter().filter(|key| !needed.contains(key)).collect();
    // Before the first configuration nothing is known to be needless.
    if !remove.is_empty()
        && store.is_configured()
        && let Err(error) = store.apply(Change::Own { put: Vec::new(), remove }).await
    {
        // They are seen again with the next change.
        tracing::error!(%error, "certificates that are needed no longer could not be dropped");
    }
}

/// When an identity's leaf is to be renewed.
struct Plan {
    at: SystemTime,
    retry: Option<(Instant, Duration)>,
}

impl Plan {
    fn for_leaf(store: &Store, identity: &SpiffeId) -> Self {
        let life = store.own(&keys::identity(identity)).and_then(|leaf| life(&leaf));
        // Without a usable one: at once.
        Self { at: life.map_or(SystemTime::UNIX_EPOCH, |life| life.renew_at(rand::random())), retry: None }
    }

    fn due(&self) -> bool {
        match self.retry {
            Some((not_before, _)) => Instant::now() >= not_before,
            None => SystemTime::now() >= self.at,
        }
    }

    fn wake(&self) -> Instant {
        match self.retry {
            Some((not_before, _)) => not_before,
            None => Instant::now() + self.at.duration_since(SystemTime::now()).unwrap_or_default().min(LOOK),
        }
    }

    async fn renew(&mut self, store: &Arc<Store>, signer: &dyn Signer, identity: &SpiffeId, version_key: &VersionKey) {
        match install(store, signer, identity, version_key).await {
            Ok(life) => {
                tracing::info!(%identity, "a certificate was obtained");
                *self = Self { at: life.renew_at(rand::random()).max(SystemTime::now() + LEAST), retry: None };
            }
            Err(error) => {
                let wait = self.retry.map_or(RETRY.0, |(_, wait)| (wait * 2).min(RETRY.1));
                tracing::warn!(%identity, error, "no certificate was obtained: trying again");
                self.retry = Some((Instant::now() + wait.mul_f64(rand::random_range(0.5..=1.0)), wait));
            }
        }
    }
}

/// Obtains one and puts it in force: a certificate that is not in force is none.
async fn install(store: &Arc<Store>, signer: &dyn Signer, identity: &SpiffeId, version_key: &VersionKey) -> Result<Life, String> {
    let (spec, life) = obtain(signer, identity).await?;
    let leaf = Resource::secret(keys::identity(identity), &spec, version_key);
    store.apply(Change::Own { put: vec![leaf], remove: Vec::new() }).await.map_err(|error| error.to_string())?;
    Ok(life)
}

async fn obtain(signer: &dyn Signer, identity: &SpiffeId) -> Result<(selvage_config::CertificateSpec, Life), String> {
    let request = KeyRequest::new(identity).map_err(|error| error.to_string())?;
    let chain = signer.sign(request.csr.clone()).await.map_err(|error| error.to_string())?;
    request.certify(&chain).map_err(|error| error.to_string())
}

/// The life of a saved leaf; none, if it is no certificate.
pub(super) fn life(leaf: &Resource) -> Option<Life> {
    let Ok(Spec::Certificate(spec)) = leaf.spec() else { return None };
    let parsed = certificate(&spec).ok()?;
    Life::of(parsed.key.end_entity_cert().ok()?)
}
