//! The certificate authority that all replicas share: kept in the Secret `selvage-ca`.
//!
//! ```text
//! absent ──create (of two replicas one wins)──► there ──read──► Authority
//! holder of the lease: renews its issuer, puts it back where somebody removed it      everybody: follows its changes
//! ```
//!
//! A damaged Secret is never overwritten: a new root would make strangers of every workload.

use super::brief::{brief, brief_of_watch};
use super::lease::{LONGEST_WRITE, Tenure, WriteError};
use super::metrics::Metrics;
use crate::ca::{Authority, CaError, Kept};
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::watcher::{self, Event};
use selvage_policy::TrustDomain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The Secret's name.
pub const SECRET: &str = "selvage-ca";
/// Where in it the authority is.
pub const KEY: &str = "ca.json";
/// The type of the Secret.
const TYPE: &str = "selvage.dev/ca";
/// On the Secret: the trust domain that the authority was made for.
const DOMAIN: &str = "selvage.dev/trust-domain";
/// How often the holder of the lease looks whether the issuer is due, or the Secret gone.
const ROUND: Duration = Duration::from_secs(60);
/// After a watch of the Secret failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The API server does not do it.
    #[error("the Secret {SECRET} cannot be read or made: {}", brief(.0))]
    Api(Box<kube::Error>),
    /// It took too long.
    #[error("the Secret {SECRET} cannot be read or made: the API server did not answer within {LONGEST_WRITE:?}")]
    Late,
    /// What is there cannot be used.
    #[error("the Secret {SECRET} is damaged ({0}): restore it from a backup; only if there is none, delete it to start with a new root")]
    Damaged(String),
    /// The authority itself fails.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl From<kube::Error> for AuthorityError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// Reads the authority, or makes it where there is none.
pub async fn open(client: Client, namespace: &str, trust_domain: &TrustDomain) -> Result<Kept, AuthorityError> {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    loop {
        if let Some(secret) = within(api.get_opt(SECRET)).await? {
            return parse(&secret);
        }
        let kept = Kept::create(trust_domain, SystemTime::now())?;
        match within(api.create(&PostParams::default(), &made(&kept, trust_domain)?)).await {
            Ok(_) => {
                tracing::info!(%trust_domain, secret = SECRET, "a certificate authority was made");
                return Ok(kept);
            }
            // Another replica was quicker: its authority is everybody's.
            Err(AuthorityError::Api(error)) if already_there(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The trust domain that the authority was made for, where there is one that says so.
pub async fn domain(client: Client, namespace: &str) -> Result<Option<TrustDomain>, AuthorityError> {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let secret = within(api.get_opt(SECRET)).await?;
    let written = secret.and_then(|secret| secret.metadata.annotations?.remove(DOMAIN));
    Ok(written.and_then(|domain| TrustDomain::try_from(domain).ok()))
}

fn already_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists() || status.is_conflict())
}

async fn within<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, AuthorityError> {
    Ok(tokio::time::timeout(LONGEST_WRITE, asked).await.map_err(|_| AuthorityError::Late)??)
}

fn parse(secret: &Secret) -> Result<Kept, AuthorityError> {
    let damaged = |problem: String| AuthorityError::Damaged(problem);
    let text = secret.data.as_ref().and_then(|data| data.get(KEY)).ok_or_else(|| damaged(format!("it has no key {KEY}")))?;
    let kept: Kept = serde_json::from_slice(&text.0).map_err(|error| {
        // serde's own message may quote a value.
        damaged(format!("{KEY} is not what we keep, near line {}, column {}", error.line(), error.column()))
    })?;
    Authority::new(kept.clone()).map_err(|error| damaged(error.to_string()))?;
    Ok(kept)
}

/// The Secret of an authority that was just made, or is put back.
fn made(kept: &Kept, trust_domain: &TrustDomain) -> Result<Secret, AuthorityError> {
    let one = |name: &str, value: &str| Some(BTreeMap::from([(name.to_string(), value.to_string())]));
    let metadata = ObjectMeta {
        name: Some(SECRET.into()),
        labels: one("app.kubernetes.io/part-of", "selvage"),
        annotations: one(DOMAIN, &trust_domain.to_string()),
        ..ObjectMeta::default()
    };
    secret(kept, &Secret { metadata, type_: Some(TYPE.into()), ..Secret::default() })
}

fn secret(kept: &Kept, before: &Secret) -> Result<Secret, AuthorityError> {
    let text = serde_json::to_vec(kept).map_err(|error| AuthorityError::Damaged(error.to_string()))?;
    let data = Some(BTreeMap::from([(KEY.to_string(), ByteString(text))]));
    Ok(Secret { metadata: before.metadata.clone(), type_: before.type_.clone(), data, ..Secret::default() })
}

/// The authority of this replica, kept the same as the Secret.
pub struct Keeper {
    /// The Secret's namespace.
    pub namespace: String,
    /// The API server.
    pub client: Client,
    /// The trust domain that it was made for.
    pub trust_domain: TrustDomain,
    /// What signs.
    pub authority: Arc<Authority>,
    /// Told of new roots.
    pub roots: watch::Sender<Vec<String>>,
    /// Whether this replica writes.
    pub tenure: Tenure,
    /// Where its age is shown.
    pub metrics: Arc<Metrics>,
}

impl Keeper {
    /// Follows the Secret, and renews the issuer while this replica holds the lease.
    pub async fn run(self, stop: CancellationToken) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut seen = watcher::watcher(api.clone(), watcher::Config::default().fields(&format!("metadata.name={SECRET}"))).boxed();
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut begins = self.tenure.clone();
            self.metrics.renews_ca(self.authority.kept().renew_issuer, SystemTime::now());
            tokio::select! {
                () = stop.cancelled() => return,
                _ = round.tick() => {}
                began = begins.begins(), if !self.tenure.holds() => if !began { return },
                event = seen.next() => match event {
                    Some(Ok(Event::Apply(secret) | Event::InitApply(secret))) => {
                        self.take(&secret);
                        continue;
                    }
                    Some(Ok(Event::Init)) => continue,
                    // Gone, or not in the list: looked at below.
                    Some(Ok(Event::Delete(_) | Event::InitDone)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(error = brief_of_watch(&error), "the watch of the certificate authority's Secret is interrupted");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    None => return,
                },
            }
            if self.tenure.holds()
                && let Err(error) = self.tend(&api).await
            {
                tracing::error!(error, secret = SECRET, "the certificate authority could not be kept: it is tried again");
            }
        }
    }

    /// The Secret as it is now. What cannot be used changes nothing here.
    fn take(&self, secret: &Secret) {
        let kept = match parse(secret) {
            Ok(kept) => kept,
            Err(error) => return tracing::error!(%error, "the certificate authority is kept as it was"),
        };
        if kept == self.authority.kept() {
            return;
        }
        match self.authority.replace(kept) {
            Ok(()) => {
                tracing::info!("the certificate authority was renewed");
                let roots = self.authority.roots();
                self.roots.send_if_modified(|present| std::mem::replace(present, roots.clone()) != roots);
            }
            Err(error) => tracing::error!(%error, "the certificate authority is kept as it was"),
        }
    }

    /// Puts the Secret back where it is gone, and renews the issuer where it is due.
    async fn tend(&self, api: &Api<Secret>) -> Result<(), String> {
        let text = |error: WriteError| error.to_string();
        let present = within(api.get_opt(SECRET)).await.map_err(|error| error.to_string())?;
        let Some(present) = present else {
            let back = made(&self.authority.kept(), &self.trust_domain).map_err(|error| error.to_string())?;
            self.tenure.write(api.create(&PostParams::default(), &back)).await.map_err(text)?;
            tracing::warn!(secret = SECRET, "the Secret of the certificate authority was gone: it was put back");
            return Ok(());
        };
        let mut kept = parse(&present).map_err(|error| error.to_string())?;
        if !kept.renew(&self.trust_domain, SystemTime::now()).map_err(|error| error.to_string())? {
            return Ok(());
        }
        // With the version that was read.
        let renewed = secret(&kept, &present).map_err(|error| error.to_string())?;
        let written = self.tenure.write(api.replace(SECRET, &PostParams::default(), &renewed)).await.map_err(text)?;
        self.take(&written);
        Ok(())
    }
}
