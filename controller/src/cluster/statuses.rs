//! The writer of statuses: whatever differs from what the API server has is written, by the replica that holds the lease.
//!
//! ```text
//! said (translate, deliveries) ──change──► merge patch of `status`, with the version it was compared with ──conflict──► read, compare again
//! ```
//!
//! What is said is said of one object in one generation. One that was made anew, or edited since, is left alone until something is said
//! of it.

use super::FIELD_OWNER;
use super::kinds::{self, Kind, StatusForm};
use super::lease::{Tenure, WriteError};
use super::merge::{change, mentions_us};
use super::metrics::{Metrics, WriteOutcome, Written};
use super::present::{Present, Standing};
use crate::translate::Status;
use crate::world::Name;
use futures::StreamExt;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Patch, PatchParams};
use selvage_policy::Key;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Writes at once.
const AT_ONCE: usize = 8;
/// How often one object is tried when others write it too; the next round tries again.
const ATTEMPTS: usize = 5;
/// Between two rounds, so that what changes several times in a moment is written once.
const PAUSE: Duration = Duration::from_millis(100);
/// After a round in which something failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// What is to be said of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Of which very object.
    pub uid: String,
    /// Conditions and the like, of the generation that it names.
    pub status: Status,
    /// `status.addresses`: of Gateways.
    pub addresses: Option<Vec<Value>>,
}

/// What is to be said of each object.
pub type Statuses = Arc<BTreeMap<Key, Said>>;

/// Writes.
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// What every object has now.
    pub present: Arc<Present>,
    /// Whether this replica writes.
    pub tenure: Tenure,
    /// Where writes are counted.
    pub metrics: Arc<Metrics>,
    /// What the API server will not take, as it was tried: not tried again until something about it changes.
    refused: HashMap<Key, (Standing, Value)>,
}

/// How a round went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Statuses written.
    pub written: usize,
    /// Statuses to be tried again.
    pub failed: usize,
}

enum One {
    Same,
    Written,
    Failed,
    Refused(Standing, Value),
}

impl Writer {
    /// A writer that has written nothing yet.
    pub fn new(client: Client, present: Arc<Present>, tenure: Tenure, metrics: Arc<Metrics>) -> Self {
        Self { client, present, tenure, metrics, refused: HashMap::new() }
    }

    /// Writes what is said, whenever it changes; until stopped. `changed` tells of statuses that others wrote.
    pub async fn run(mut self, mut said: watch::Receiver<Option<Statuses>>, mut changed: watch::Receiver<u64>, stop: CancellationToken) {
        loop {
            match stop.run_until_cancelled(self.tenure.begins()).await {
                Some(true) => {}
                _ => return,
            }
            changed.borrow_and_update();
            let statuses = said.borrow_and_update().clone();
            let round = match &statuses {
                Some(statuses) => self.round(statuses).await,
                None => Round::default(),
            };
            if round.written > 0 {
                tracing::debug!(written = round.written, "statuses were written");
            }
            let patience = if round.failed > 0 { AFTER_FAILURE } else { Duration::from_secs(3600) };
            let news = async {
                tokio::select! {
                    told = said.changed() => told.is_ok(),
                    told = changed.changed() => told.is_ok(),
                    () = tokio::time::sleep(patience) => true,
                }
            };
            match stop.run_until_cancelled(news).await {
                Some(true) => tokio::time::sleep(PAUSE).await,
                _ => return,
            }
        }
    }

    /// Writes everything that differs.
    pub async fn round(&mut self, statuses: &BTreeMap<Key, Said>) -> Round {
        // Also objects of which nothing is to be said any more and that have an entry of ours.
        let left = self.present.keys(|key, standing| !statuses.contains_key(key) && mentions_us(&standing.status));
        let keys: Vec<Key> = statuses.keys().chain(&left).cloned().collect();
        let this = &*self;
        let one = async |key: Key| {
            let outcome = this.one(&key, statuses.get(&key)).await;
            (key, outcome)
        };
        let outcomes: Vec<(Key, One)> = futures::stream::iter(keys).map(one).buffer_unordered(AT_ONCE).collect().await;
        let mut round = Round::default();
        for (key, outcome) in outcomes {
            match outcome {
                One::Same => {}
                One::Written => {
                    round.written += 1;
                    self.refused.remove(&key);
                }
                One::Failed => round.failed += 1,
                One::Refused(standing, wanted) => drop(self.refused.insert(key, (standing, wanted))),
            }
        }
        round
    }

    async fn one(&self, key: &Key, said: Option<&Said>) -> One {
        let Some(kind) = kinds::of(&key.kind).filter(|kind| kind.status != StatusForm::None) else { return One::Same };
        // Not there any more, or not yet as far as the watch knows.
        let Some(mut standing) = self.present.standing(key) else { return One::Same };
        let of =
            said.map_or_else(|| (standing.uid.clone(), standing.generation), |said| (said.uid.clone(), said.status.observed_generation));
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        for _ in 0..ATTEMPTS {
            if standing.uid != of.0 || standing.generation > of.1 {
                return One::Same;
            }
            let Some(change) = change(kind.status, said, &standing.status, &now) else { return One::Same };
            let wanted = Value::Object(change);
            if self.refused.get(key).is_some_and(|(at, refused)| *at == standing && same_but_time(refused, &wanted)) {
                return One::Same;
            }
            match self.write(kind, key, &standing, &wanted).await {
                Ok(object) => {
                    self.present.saw(key.clone(), &object);
                    self.metrics.wrote(Written::Status, WriteOutcome::Written);
                    return One::Written;
                }
                Err(WriteError::NotOurs) => return One::Failed,
                Err(error) => match error.status() {
                    Some(status) if status.is_conflict() => {
                        self.metrics.wrote(Written::Status, WriteOutcome::Conflict);
                        match self.read(kind, key).await {
                            Some(fresh) => standing = fresh,
                            None => return One::Failed,
                        }
                    }
                    Some(status) if status.is_not_found() => return One::Same,
                    Some(status) if status.is_invalid() || status.code == 400 => {
                        self.metrics.wrote(Written::Status, WriteOutcome::Failed);
                        tracing::error!(object = %key, %error, "the API server does not take a status of ours");
                        return One::Refused(standing, wanted);
                    }
                    _ => {
                        self.metrics.wrote(Written::Status, WriteOutcome::Failed);
                        tracing::warn!(object = %key, %error, "a status could not be written: it is tried again");
                        return One::Failed;
                    }
                },
            }
        }
        One::Failed
    }

    async fn write(&self, kind: &Kind, key: &Key, standing: &Standing, wanted: &Value) -> Result<Value, WriteError> {
        let name = Name::new(key.namespace.clone(), key.name.clone());
        // With the version that it was compared with: what somebody else wrote meanwhile is not lost. With the UID: an object that
        // was made anew under the same name is another one.
        let patch = json!({ "metadata": { "resourceVersion": standing.resource_version, "uid": standing.uid }, "status": wanted });
        let params = PatchParams { field_manager: Some(FIELD_OWNER.into()), ..PatchParams::default() };
        let api = kind.at(self.client.clone(), &name);
        let written = self.tenure.write(api.patch_status(&name.name, &params, &Patch::Merge(&patch))).await?;
        Ok(serde_json::to_value(&written).unwrap_or_default())
    }

    async fn read(&self, kind: &Kind, key: &Key) -> Option<Standing> {
        let name = Name::new(key.namespace.clone(), key.name.clone());
        let object = self.tenure.write(kind.at(self.client.clone(), &name).get_opt(&name.name)).await.ok()??;
        let object = serde_json::to_value(&object).ok()?;
        self.present.saw(key.clone(), &object);
        Some(Standing::of(&object))
    }
}

/// Whether two statuses differ in nothing but when they were said.
fn same_but_time(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, one)| name == "lastTransitionTime" || b.get(name).is_some_and(|other| same_but_time(one, other)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(one, other)| same_but_time(one, other)),
        (a, b) => a == b,
    }
}
