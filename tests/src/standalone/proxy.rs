//! One proxy in this process, fed by hand.

use super::Resources;
use arc_swap::ArcSwap;
use selvage_config::resource::listener::Bind;
use selvage_proxy::net::sockets::Status;
use selvage_proxy::observe::Metrics;
use selvage_proxy::observe::access::Sink;
use selvage_proxy::proxy::{Proxy, ProxyOptions};
use selvage_proxy::snapshot::{Live, Rejection, Snapshot};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long sockets may take to open, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running proxy. Dropping it ends it at once.
pub struct Standalone {
    proxy: Proxy,
    snapshot: Arc<ArcSwap<Snapshot>>,
    live: Live,
    changes: watch::Sender<u64>,
    /// What could not be used of the first configuration.
    pub rejected: Vec<Rejection>,
}

impl Standalone {
    /// Starts it and waits until its sockets are open.
    pub async fn start(resources: &Resources) -> Self {
        Self::logging(resources, Sink::Off).await
    }

    /// The same with an access log.
    pub async fn logging(resources: &Resources, access: Sink) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::empty()));
        let (changes, changed) = watch::channel(0);
        let options = ProxyOptions { name: "test".into(), linger: Duration::from_secs(1), access, ..ProxyOptions::default() };
        let proxy = Proxy::start(&options, snapshot.clone(), changed).unwrap_or_else(|error| panic!("the proxy does not start: {error}"));
        let mut started = Self { proxy, snapshot, live: Live::default(), changes, rejected: Vec::new() };
        started.rejected = started.apply(resources).await;
        started
    }

    /// Compiles and swaps, then waits until the sockets have followed. What cannot be used is returned.
    pub async fn apply(&self, resources: &Resources) -> Vec<Rejection> {
        let (mut next, rejected) = Snapshot::compile(&self.snapshot.load(), resources.list(), &self.live);
        next.generation = self.snapshot.load().generation + 1;
        let generation = next.generation;
        let wanted: Vec<Bind> = next.sockets.keys().copied().collect();
        self.snapshot.store(Arc::new(next));
        self.live.prune();
        self.changes.send_replace(generation);
        let followed = |status: &Status| status.generation >= generation && wanted.iter().all(|bind| status.bound.contains_key(bind));
        let mut status = self.proxy.status();
        let waited = tokio::time::timeout(PATIENCE, status.wait_for(followed)).await;
        assert!(waited.is_ok(), "the sockets are not open: {:?}", self.proxy.status().borrow());
        rejected
    }

    /// The configuration it serves.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Its figures.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.proxy.metrics()
    }

    /// Connections open.
    pub fn connections(&self) -> usize {
        self.proxy.connections()
    }
}

impl std::fmt::Debug for Standalone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standalone").field("generation", &self.snapshot.load().generation).finish_non_exhaustive()
    }
}
