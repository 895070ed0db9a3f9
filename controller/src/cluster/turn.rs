//! The one loop that owns the World: events in, Resources and statuses out.
//!
//! ```text
//! events ──take──► World ──(changed: at once, then at most every 50 ms)──► translate ──► publish
//!                                                                              └──► statuses, namespaces, World for the writers
//! ```

use super::known::{Edition, Effect, Known, NotYet};
use super::metrics::Metrics;
use super::provisioning::addresses;
use super::statuses::{Said, Statuses};
use super::watch::{EVENTS, Event};
use crate::publish::{Publication, Publisher};
use crate::status::{Published, Steady, complete};
use crate::translate::{Inputs, Status, Translation, translate};
use crate::world::{Name, World};
use selvage_config::VersionKey;
use selvage_policy::{Key, TrustDomain};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// From one translation to the next, at least: a storm of events is one change.
const INTERVAL: Duration = Duration::from_millis(50);
/// From one look at what proxies acknowledged to the next, at least: a rollout is one change of statuses.
const DELIVERIES: Duration = Duration::from_millis(500);
/// From what a proxy acknowledged to the first look at it: others acknowledge the same change in that moment.
const SETTLE: Duration = Duration::from_millis(20);

/// A World and what it came to.
pub struct Seen {
    /// The World.
    pub world: Arc<World>,
    /// What it came to.
    pub translation: Translation,
    /// Of which objects it is, in which form.
    pub editions: Arc<BTreeMap<Key, Edition>>,
    /// Services of Gateways, whole.
    pub services: BTreeMap<Name, Arc<Value>>,
}

/// What others look at.
#[derive(Clone)]
pub struct Outlook {
    /// The World and its translation; none before everything was listed.
    pub seen: watch::Sender<Option<Arc<Seen>>>,
    /// What is to be said of each object.
    pub statuses: watch::Sender<Option<Statuses>>,
    /// Counts statuses that changed on the API server.
    pub echoes: watch::Sender<u64>,
    /// Every namespace.
    pub namespaces: watch::Sender<BTreeSet<String>>,
    /// Why nothing is published yet; none: it is.
    pub not_yet: watch::Sender<Option<String>>,
}

impl Default for Outlook {
    fn default() -> Self {
        Self {
            seen: watch::Sender::new(None),
            statuses: watch::Sender::new(None),
            echoes: watch::Sender::new(0),
            namespaces: watch::Sender::new(BTreeSet::new()),
            not_yet: watch::Sender::new(Some("starting".into())),
        }
    }
}

/// Everything before there is a certificate authority: waits until it is known for which trust domain.
pub async fn first(known: &mut Known, events: &mut mpsc::Receiver<Event>, outlook: &Outlook) -> Option<TrustDomain> {
    loop {
        match known.trust_domain() {
            Ok(domain) => return Some(domain.clone()),
            Err(error) => waits(outlook, &error),
        }
        known.take(events.recv().await?);
    }
}

fn waits(outlook: &Outlook, error: &NotYet) {
    outlook.not_yet.send_if_modified(|present| {
        let new = Some(error.to_string());
        let changed = *present != new;
        *present = new;
        changed
    });
}

/// The loop.
pub struct Turn {
    /// What is known.
    pub known: Known,
    /// What the watches see.
    pub events: mpsc::Receiver<Event>,
    /// The roots of workload identities.
    pub roots: watch::Receiver<Vec<String>>,
    /// Keys the versions of secrets.
    pub version_key: VersionKey,
    /// The trust domain that the certificate authority is made for.
    pub trust_domain: TrustDomain,
    /// Where Resources go.
    pub publisher: Arc<Publisher>,
    /// Where statuses go.
    pub outlook: Outlook,
    /// Where is counted.
    pub metrics: Arc<Metrics>,
    /// What was said, and what lags behind it.
    pub steady: Steady,
}

impl Turn {
    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut deliveries = self.publisher.deliveries();
        self.steady.begin(Instant::now().into_std());
        let mut dirty = true;
        let mut next = Instant::now();
        let mut judged: Option<Instant> = None;
        let mut looked: Option<Instant> = None;
        loop {
            let judge = judged.unwrap_or(next);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next), if dirty => {
                    let begun = Instant::now();
                    judged = self.turn().await;
                    // What was published is not acknowledged yet: the first that is said of it is worth a look at once.
                    looked = None;
                    dirty = false;
                    // Never more than half of the time is spent on it, however large the World is.
                    next = Instant::now() + INTERVAL.max(begun.elapsed());
                }
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    let effect = self.take(event);
                    if effect.status {
                        self.outlook.echoes.send_modify(|count| *count += 1);
                    }
                    dirty |= effect.world;
                }
                changed = self.roots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    dirty = true;
                }
                changed = deliveries.changed(), if judged.is_none_or(|judged| judged > Instant::now() + DELIVERIES) => {
                    if changed.is_err() {
                        return;
                    }
                    let soon = Instant::now() + SETTLE;
                    judged = Some(looked.map_or(soon, |looked| soon.max(looked + DELIVERIES)));
                }
                () = tokio::time::sleep_until(judge), if judged.is_some() => {
                    judged = self.judge();
                    looked = Some(Instant::now());
                }
            }
        }
    }

    /// Takes in this event and those that wait behind it.
    fn take(&mut self, event: Event) -> Effect {
        let mut effect = self.known.take(event);
        for _ in 0..EVENTS {
            match self.events.try_recv() {
                Ok(event) => effect |= self.known.take(event),
                Err(_) => break,
            }
        }
        effect
    }

    /// Translates and publishes; when to look at deliveries again even if nobody says anything.
    async fn turn(&mut self) -> Option<Instant> {
        let trusted = match self.known.trust_domain() {
            Ok(domain) if *domain == self.trust_domain => Ok(()),
            Ok(domain) => Err(format!(
                "the MeshConfig names the trust domain {domain}, but workloads have identities of {}: it cannot be changed, set it back",
                self.trust_domain
            )),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = trusted {
            // What was published stays.
            tracing::error!(error, "nothing new is published");
            self.outlook.not_yet.send_replace(Some(error));
            return None;
        }
        let begun = Instant::now();
        let world = Arc::new(self.known.world.clone());
        let (editions, services) = (self.known.editions.clone(), self.known.gateway_services.clone());
        let (roots, version_key) = (self.roots.borrow_and_update().clone(), self.version_key.clone());
        // Beside the tasks that serve: at thousands of objects this takes a while.
        let translated = tokio::task::spawn_blocking(move || {
            let translation = translate(&world, &Inputs { roots: &roots, version_key: &version_key });
            Seen { world, translation, editions, services }
        });
        let seen = match translated.await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::error!(%error, "the World could not be translated: what was published stays");
                self.outlook.not_yet.send_replace(Some("the last change could not be translated: see the log".into()));
                return None;
            }
        };
        for error in self.publisher.publish(&Publication::from(&seen.translation)) {
            tracing::error!(%error, "a resource is too large: what was published of it stays");
        }
        let (resources, objects) = (seen.translation.resources.len(), seen.translation.statuses.len());
        self.metrics.translated(begun.elapsed(), resources, objects, seen.world.malformed.len());
        let namespaces: BTreeSet<String> = seen.world.namespaces.keys().map(|name| name.name.clone()).collect();
        self.outlook.namespaces.send_if_modified(|present| std::mem::replace(present, namespaces.clone()) != namespaces);
        self.outlook.seen.send_replace(Some(Arc::new(seen)));
        self.outlook.not_yet.send_replace(None);
        self.judge()
    }

    /// What is to be said of each object, now that so much of it is in force; and when to look again.
    fn judge(&mut self) -> Option<Instant> {
        let (seen, now) = (self.outlook.seen.borrow().clone()?, Instant::now());
        if self.publisher.stands_by() {
            // The replica that serves knows better; should this one take over, it begins anew.
            self.steady.begin(now.into_std());
            self.outlook.statuses.send_replace(None);
            return None;
        }
        let addresses = addresses(&seen);
        let reachable = addresses.iter().filter(|(_, given)| !given.is_empty()).map(|(gateway, _)| gateway.clone()).collect();
        let completed = complete(&seen.translation, &Published { publisher: &self.publisher, addresses: &reachable });
        let before = |key: &Key| Some(self.known.present.standing(key)?.status);
        let (completed, again) = self.steady.say(completed, now.into_std(), before);
        let again = again.map(Instant::from_std);
        let said = |(key, status): (Key, Status)| {
            let edition = seen.editions.get(&key)?;
            let given = addresses.get(&key).into_iter().flatten().filter_map(|one| serde_json::to_value(one).ok());
            let addresses = (key.kind == "Gateway").then(|| given.collect());
            Some((key, Said { uid: edition.uid.clone(), status, addresses }))
        };
        let statuses: BTreeMap<_, _> = completed.into_iter().filter_map(said).collect();
        self.outlook.statuses.send_if_modified(|present| {
            let changed = present.as_deref() != Some(&statuses);
            *present = Some(Arc::new(statuses));
            changed
        });
        again
    }
}
