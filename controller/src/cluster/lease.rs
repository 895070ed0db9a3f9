//! The lease of the one writer: of several replicas one writes statuses, makes what Gateways need and renews the CA.
//!
//! ```text
//! Lease selvage-controller: holder, renewed every 2 s ── not renewed for 15 s, as seen here ──► whoever notices first takes it
//! ```
//!
//! A holder that cannot renew stops writing 10 s after its last success, and no write takes longer than 4 s: so it has ended before
//! another can begin. Times are measured on each replica's own clock, never compared between clocks.

use super::brief::brief;
use super::metrics::Metrics;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The Lease's name.
pub const LEASE: &str = "selvage-controller";
/// No write to the API server takes longer.
pub const LONGEST_WRITE: Duration = Duration::from_secs(4);

/// How a lease is held.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Not renewed for so long, it may be taken.
    pub duration: Duration,
    /// How long its holder may write after it renewed it last.
    pub writes: Duration,
    /// How often it is renewed, or looked at.
    pub period: Duration,
}

/// As it is in a cluster: what was begun at the last moment has ended before another may begin.
pub const TIMES: Times = Times { duration: Duration::from_secs(15), writes: Duration::from_secs(10), period: Duration::from_secs(2) };
const _: () = assert!(TIMES.writes.as_secs() + LONGEST_WRITE.as_secs() < TIMES.duration.as_secs());

/// For one question to the API server about it.
const PATIENCE: Duration = Duration::from_secs(4);

/// How often it is tried when others write it too; the next period tries again.
const ATTEMPTS: usize = 3;

/// Whether this replica may write.
#[derive(Clone, Debug)]
pub struct Tenure {
    until: watch::Receiver<Option<Instant>>,
    others: watch::Receiver<Option<Instant>>,
}

impl Tenure {
    /// Whether another replica was seen to hold it, so lately that it still must. Not so where nobody knows: the API server may be away,
    /// and this replica the last.
    pub fn is_another(&self) -> bool {
        self.others.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Whether it may write now.
    pub fn holds(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until it may write. False: it never will, the program ends.
    pub async fn begins(&mut self) -> bool {
        while !self.holds() {
            if self.until.changed().await.is_err() {
                return false;
            }
        }
        true
    }

    /// Does a write, if it may, in the time that a write may take.
    pub async fn write<T>(&self, write: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        if !self.holds() {
            return Err(WriteError::NotOurs);
        }
        match tokio::time::timeout(LONGEST_WRITE, write).await {
            Ok(written) => written.map_err(|error| WriteError::Api(Box::new(error))),
            Err(_) => Err(WriteError::Late),
        }
    }

    /// One that never ends, and one that never begins: for tests of writers.
    #[cfg(test)]
    pub fn fixed(holds: bool) -> (watch::Sender<Option<Instant>>, Self) {
        let (sender, until) = watch::channel(holds.then(|| Instant::now() + Duration::from_secs(3600)));
        let (_, others) = watch::channel(None);
        (sender, Self { until, others })
    }
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Another replica writes.
    #[error("the lease is not held by this replica")]
    NotOurs,
    /// The API server did not answer in time.
    #[error("the API server did not answer within {LONGEST_WRITE:?}")]
    Late,
    /// The API server refuses.
    #[error("{}", brief(.0))]
    Api(Box<kube::Error>),
}

impl WriteError {
    /// What the API server says of it.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Who holds the lease, as far as one attempt could tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    This,
    Another,
    /// It was written by somebody in that moment.
    Unsettled,
}

/// Keeps trying to hold the lease.
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    until: watch::Sender<Option<Instant>>,
    /// Until when the lease that another was seen to hold lasts.
    others: watch::Sender<Option<Instant>>,
    metrics: Arc<Metrics>,
    times: Times,
    /// The holder and resource version seen last, and since when.
    seen: Option<(String, String, Instant)>,
}

impl Candidate {
    /// For the replica `identity`, which no other has.
    pub fn new(client: Client, namespace: &str, identity: String, times: Times, metrics: Arc<Metrics>) -> (Self, Tenure) {
        let ((until, own), (others, another)) = (watch::channel(None), watch::channel(None));
        let candidate = Self { api: Api::namespaced(client, namespace), identity, until, others, metrics, times, seen: None };
        (candidate, Tenure { until: own, others: another })
    }

    /// Runs until stopped, and then lets go, so that another need not wait.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut told = false;
        loop {
            let begun = Instant::now();
            match tokio::time::timeout(PATIENCE, self.attempt()).await {
                Ok(Ok(Holder::This)) => {
                    self.until.send_replace(Some(begun + self.times.writes));
                    self.others.send_replace(None);
                }
                Ok(Ok(Holder::Another)) => {
                    self.until.send_replace(None);
                    self.others.send_replace(Some(begun + self.times.duration));
                }
                // What was so before is so until it ends by itself.
                Ok(Ok(Holder::Unsettled)) => {}
                Ok(Err(error)) => tracing::warn!(error = brief(&error), "the lease cannot be asked for: it is tried again"),
                Err(_) => tracing::warn!("the lease cannot be asked for in time: it is tried again"),
            }
            let holds = self.until.borrow().is_some_and(|until| Instant::now() < until);
            self.metrics.leads(holds);
            if holds != told {
                told = holds;
                if holds {
                    tracing::info!(identity = self.identity, "this replica writes from now on");
                } else {
                    tracing::warn!(identity = self.identity, "this replica does not write any more");
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(self.times.period.mul_f64(rand::random_range(0.8..=1.0)))).await.is_none() {
                break;
            }
        }
        // Nobody here writes any more before another may begin.
        self.until.send_replace(None);
        if let Err(error) = tokio::time::timeout(PATIENCE, self.release()).await.unwrap_or(Ok(())) {
            tracing::warn!(error = brief(&error), "the lease could not be given back: another replica waits for it to end");
        }
    }

    /// Takes or renews it. Where somebody else wrote it in that moment, it is looked at again at once: what was written may be anything.
    async fn attempt(&mut self) -> kube::Result<Holder> {
        for _ in 0..ATTEMPTS {
            match self.attempt_once().await? {
                Holder::Unsettled => {}
                settled => return Ok(settled),
            }
        }
        Ok(Holder::Unsettled)
    }

    async fn attempt_once(&mut self) -> kube::Result<Holder> {
        let Some(mut lease) = self.api.get_opt(LEASE).await? else {
            let metadata = ObjectMeta { name: Some(LEASE.into()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return taken(self.api.create(&PostParams::default(), &lease).await);
        };
        let present = lease.spec.take().unwrap_or_default();
        let holder = present.holder_identity.clone().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() && !self.expired(&lease, &holder, &present) {
            return Ok(Holder::Another);
        }
        lease.spec = Some(self.spec(Some(&present)));
        // With the version that was read: of two that try, one fails.
        taken(self.api.replace(LEASE, &PostParams::default(), &lease).await)
    }

    /// Whether its holder has not renewed it for its whole duration, as seen here.
    fn expired(&mut self, lease: &Lease, holder: &str, present: &LeaseSpec) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let now = Instant::now();
        match &self.seen {
            Some((seen_holder, seen_version, since)) if seen_holder == holder && *seen_version == version => {
                // What the holder says counts where it is longer: it may be of a later release.
                let said = present
                    .lease_duration_seconds
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .map_or(Duration::ZERO, Duration::from_secs);
                now.duration_since(*since) >= said.max(self.times.duration)
            }
            _ => {
                self.seen = Some((holder.into(), version, now));
                false
            }
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = before.is_some_and(|before| before.holder_identity.as_deref() == Some(&self.identity));
        let acquired = before.filter(|_| same).and_then(|before| before.acquire_time.clone()).unwrap_or_else(|| now.clone());
        let transitions = before.map_or(0, |before| before.lease_transitions.unwrap_or_default().saturating_add(i32::from(!same)));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.times.duration.as_secs()).ok(),
            acquire_time: Some(acquired),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(LEASE).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity)) else { return Ok(()) };
        spec.holder_identity = Some(String::new());
        taken(self.api.replace(LEASE, &PostParams::default(), &lease).await).map(drop)
    }
}

/// A conflict means that somebody else was quicker, and no more.
fn taken(outcome: kube::Result<Lease>) -> kube::Result<Holder> {
    match outcome {
        Ok(_) => Ok(Holder::This),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(Holder::Unsettled),
        Err(error) => Err(error),
    }
}
