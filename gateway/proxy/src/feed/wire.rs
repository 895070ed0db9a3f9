//! Resources from the controller, the last good ones from the disk, and our own certificates signed over the same stream.

use super::leaves::{Signer, keep, life};
use super::store::{Change, Store};
use async_trait::async_trait;
use selvage_config::keys;
use selvage_config::last_good::LastGood;
use selvage_config::wire::client::{Client, NotApplied, Options, Sink, Transaction};
use selvage_config::wire::{Rejected, Standing};
use selvage_policy::Key;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// At most so often the configuration is saved: it is for restarts, and those are rarer.
const SAVE: Duration = Duration::from_secs(1);
/// How often a standing connection is taken as the word that what we have is current: the controller sends changes at once.
const CONFIRM: Duration = Duration::from_secs(2);
/// After it, what found no room among the messages to the controller is said again.
const UNTOLD: Duration = Duration::from_secs(1);

/// Answers `selvage explain` for this proxy.
pub type Explain = Arc<dyn Fn(serde_json::Value) -> serde_json::Value + Send + Sync>;

/// A connected proxy. It stays connected until this is dropped.
pub struct WireFeed {
    client: Client,
    _tasks: JoinSet<()>,
    _stop: DropGuard,
}

impl WireFeed {
    /// Puts the last good configuration in force, if there is one, and connects. The proxy is ready once its store says so.
    pub async fn start(store: Arc<Store>, options: Options, last_good: Option<LastGood>, explain: Option<Explain>) -> Self {
        if let Some(last_good) = &last_good {
            restore(&store, last_good).await;
        }
        let stop = CancellationToken::new();
        let (client, driver) = Client::new(options, Applied { store: store.clone(), explain });
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run(stop.clone()));
        tasks.spawn(keep(store.clone(), Arc::new(client.clone()) as Arc<dyn Signer>));
        tasks.spawn(confirm(store.clone(), client.clone()));
        tasks.spawn(report(store.clone(), client.clone()));
        if let Some(last_good) = last_good {
            tasks.spawn(save(store, last_good));
        }
        Self { client, _tasks: tasks, _stop: stop.drop_guard() }
    }

    /// For what the proxy asks for itself, and for how the connection is.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

async fn restore(store: &Arc<Store>, last_good: &LastGood) {
    let found = last_good.clone();
    let Ok(mut kept) = tokio::task::spawn_blocking(move || found.load(SystemTime::now())).await else { return };
    for damaged in &kept.refused {
        tracing::warn!(%damaged, "a saved configuration is not used");
    }
    let Some(age) = kept.age else { return };
    let now = SystemTime::now();
    // A leaf that has ended would only hide that one is missing.
    kept.resources.retain(|resource| !keys::is_identity(&resource.key) || life(resource).is_some_and(|life| now < life.not_after));
    let resources = kept.resources.len();
    match store.apply(Change::Restore(kept.resources)).await {
        Ok(rejected) => {
            store.confirm_as_of(age);
            tracing::info!(age_seconds = age.as_secs(), resources, rejected = rejected.len(), "the last good configuration is in force");
        }
        Err(error) => tracing::warn!(%error, "the last good configuration cannot be used"),
    }
}

/// Saves what is in force after it changed.
async fn save(store: Arc<Store>, last_good: LastGood) {
    let mut changes = store.changes();
    loop {
        if changes.changed().await.is_err() {
            return;
        }
        let (resources, last_good) = (store.used(), last_good.clone());
        let saved = tokio::task::spawn_blocking(move || last_good.save(resources.iter().map(AsRef::as_ref), SystemTime::now()));
        if let Ok(Err(error)) = saved.await {
            tracing::warn!(%error, "the last good configuration was not saved");
        }
        tokio::time::sleep(SAVE).await;
    }
}

async fn confirm(store: Arc<Store>, client: Client) {
    let connection = client.connection();
    loop {
        tokio::time::sleep(CONFIRM).await;
        let current = connection.borrow().current;
        if current {
            store.confirm();
        }
    }
}

/// Says how we are: at each connection, and when it changes.
async fn report(store: Arc<Store>, client: Client) {
    let (mut connection, mut changes) = (client.connection(), store.changes());
    let mut told = None;
    loop {
        let now = connection.borrow_and_update().clone();
        changes.mark_unchanged();
        let present = (now.since, standing(&store));
        let mut untold = false;
        if now.connected && told.as_ref() != Some(&present) {
            if client.report(serde_json::to_value(&present.1).unwrap_or_default()).is_ok() {
                told = Some(present);
            } else {
                untold = true;
            }
        }
        let changed = tokio::select! {
            changed = connection.changed() => changed,
            changed = changes.changed() => changed,
            () = tokio::time::sleep(UNTOLD), if untold => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

fn standing(store: &Store) -> Standing {
    let ends = store.identities().into_iter().filter_map(|identity| {
        let life = life(&*store.own(&keys::identity(&identity))?)?;
        let end = life.not_after.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some((identity.to_string(), end.as_secs()))
    });
    Standing { version: env!("CARGO_PKG_VERSION").into(), certificates: ends.collect() }
}

struct Applied {
    store: Arc<Store>,
    explain: Option<Explain>,
}

#[async_trait]
impl Sink for Applied {
    fn have(&self) -> BTreeMap<Key, String> {
        self.store.have()
    }

    async fn apply(&mut self, transaction: Transaction) -> Result<Vec<Rejected>, NotApplied> {
        let applied = self.store.apply(Change::Told(transaction)).await;
        let rejected = applied.map_err(|error| {
            tracing::error!(%error, "a transaction could not be applied: what was in force stays");
            NotApplied(error.to_string())
        })?;
        self.store.confirm();
        Ok(rejected.iter().cloned().map(|one| Rejected { key: one.key, version: one.version, reason: one.reason }).collect())
    }

    async fn explain(&mut self, request: serde_json::Value) -> serde_json::Value {
        self.explain.as_ref().map_or(serde_json::Value::Null, |explain| explain(request))
    }
}
