//! The Resources of a proxy and the Snapshot they compile to.

use super::layers::Layers;
use crate::snapshot::{Live, Rejection, Snapshot};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use selvage_config::Resource;
use selvage_config::wire::client::Transaction;
use selvage_policy::{Key, SpiffeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Everything that is told to a proxy goes in here; what requests see comes out.
///
/// Changes are applied one after the other, each as a whole: one compile, one swap, one generation.
#[derive(Debug)]
pub struct Store {
    snapshot: Arc<ArcSwap<Snapshot>>,
    layers: ArcSwap<Layers>,
    rejected: ArcSwap<Vec<Rejection>>,
    live: Arc<Live>,
    changes: watch::Sender<u64>,
    readiness: watch::Sender<Readiness>,
    /// Held while a change is applied.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// When the configuration was last heard to be current, and how old it was then.
    confirmed: Mutex<Option<(Instant, Duration)>>,
}

/// Whether a proxy can serve all it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What is missing; empty: ready.
    pub missing: Vec<String>,
}

impl Readiness {
    /// Nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.missing.is_empty()
    }
}

/// One change of what a proxy has.
#[derive(Debug)]
pub enum Change {
    /// From the controller: what cannot be used is rejected Resource by Resource, the rest holds.
    Told(Transaction),
    /// From a file: all of it, and only if all of it can be used.
    Admit(BTreeMap<Key, Resource>),
    /// From the disk at the start, where it was in force before.
    Restore(Vec<Resource>),
    /// Our own leaves.
    Own {
        /// New ones.
        put: Vec<Resource>,
        /// Those needed no longer.
        remove: Vec<Key>,
    },
}

/// A change that is not applied; what was in force stays.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Something of it cannot be used.
    #[error("{}", list(.0))]
    Unusable(Vec<Rejection>),
    /// A fault of ours.
    #[error("the configuration could not be compiled: {0}; this is a fault of Selvage")]
    Fault(String),
}

fn list(rejected: &[Rejection]) -> String {
    let mut lines: Vec<String> = rejected.iter().map(|rejection| format!("{}: {}", rejection.key, rejection.reason)).collect();
    lines.dedup();
    lines.join("; ")
}

impl Store {
    /// A store without anything.
    pub fn new(live: Arc<Live>) -> Arc<Self> {
        let missing = Readiness { missing: vec!["configuration".into()] };
        Arc::new(Self {
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::empty())),
            layers: ArcSwap::default(),
            rejected: ArcSwap::default(),
            live,
            changes: watch::Sender::new(0),
            readiness: watch::Sender::new(missing),
            turn: Arc::default(),
            confirmed: Mutex::new(None),
        })
    }

    /// What is in force; each request loads it once.
    pub fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        self.snapshot.clone()
    }

    /// The generation in force, told after each swap.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether the proxy can serve all it is for: a configuration, the platform's settings in it, and the certificate of each identity it
    /// speaks for.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// What it has: for `/config`, which redacts it.
    pub fn resources(&self) -> Vec<Arc<Resource>> {
        self.layers.load().merged().into_values().collect()
    }

    /// What is in force, for a restart without anybody to ask: not what was told last, where that cannot be used.
    pub(super) fn used(&self) -> Vec<Arc<Resource>> {
        self.snapshot.load().used().cloned().collect()
    }

    /// What of it cannot be used.
    pub fn rejected(&self) -> Arc<Vec<Rejection>> {
        self.rejected.load_full()
    }

    /// Since when the configuration has not been heard to be current; nothing without any.
    pub fn age(&self) -> Option<Duration> {
        self.confirmed.lock().map(|(at, old)| old + at.elapsed())
    }

    /// Whoever tells us what to do says that what we have is current.
    pub fn confirm(&self) {
        self.confirm_as_of(Duration::ZERO);
    }

    pub(super) fn confirm_as_of(&self, old: Duration) {
        *self.confirmed.lock() = Some((Instant::now(), old));
    }

    /// The versions of what was told, rejected Resources included.
    pub fn have(&self) -> BTreeMap<Key, String> {
        self.layers.load().told.iter().map(|(key, resource)| (key.clone(), resource.version.clone())).collect()
    }

    /// Our own leaf for an identity's key.
    pub(super) fn own(&self, key: &Key) -> Option<Arc<Resource>> {
        self.layers.load().own.get(key).cloned()
    }

    pub(super) fn own_keys(&self) -> Vec<Key> {
        self.layers.load().own.keys().cloned().collect()
    }

    /// Whether there was a first configuration.
    pub(super) fn is_configured(&self) -> bool {
        *self.changes.borrow() > 0
    }

    /// The identities that listeners speak for.
    pub fn identities(&self) -> BTreeSet<SpiffeId> {
        self.snapshot.load().listeners.values().filter_map(|listener| listener.spec.identity.clone()).collect()
    }

    /// Applies a change, after those before it. Returns everything that cannot be used now.
    pub async fn apply(self: &Arc<Self>, change: Change) -> Result<Arc<Vec<Rejection>>, Refused> {
        let turn = self.turn.clone().lock_owned().await;
        let store = self.clone();
        // Compiling takes long enough to be in the way of requests on a worker.
        let applied = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            store.compile(change)
        });
        applied.await.unwrap_or_else(|error| Err(Refused::Fault(error.to_string())))
    }

    fn compile(&self, change: Change) -> Result<Arc<Vec<Rejection>>, Refused> {
        let before = self.layers.load_full();
        let admit = matches!(change, Change::Admit(_));
        let after = match change {
            Change::Told(transaction) => before.told(transaction),
            Change::Admit(resources) => before.replaced(resources),
            Change::Restore(resources) => Layers::restored(resources),
            Change::Own { put, remove } => before.own(put, &remove),
        };
        if self.is_configured() && after.same_as(&before) {
            return Ok(self.rejected());
        }
        let merged = after.merged();
        if admit {
            // Before anything of what is in force is touched.
            let rejected = Snapshot::check(&self.snapshot.load(), &merged);
            if !rejected.is_empty() {
                return Err(Refused::Unusable(rejected));
            }
        }
        let (snapshot, rejected) = Snapshot::compile(&self.snapshot.load(), &merged, &self.live);
        let generation = snapshot.generation;
        let rejected = Arc::new(rejected);
        self.layers.store(Arc::new(after));
        self.rejected.store(rejected.clone());
        self.snapshot.store(Arc::new(snapshot));
        self.live.prune();
        tracing::info!(generation, resources = merged.len(), rejected = rejected.len(), "a configuration is in force");
        self.readiness.send_replace(self.missing());
        self.changes.send_replace(generation);
        Ok(rejected)
    }

    fn missing(&self) -> Readiness {
        let snapshot = self.snapshot.load();
        let settings = snapshot.lacks_settings().then(|| "platform settings".to_string());
        let lacking = self.identities().into_iter().filter(|identity| !snapshot.identities.contains_key(identity));
        Readiness { missing: settings.into_iter().chain(lacking.map(|identity| format!("certificate of {identity}"))).collect() }
    }
}
