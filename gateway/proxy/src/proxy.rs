//! One running proxy: its workers, its sockets, and its end.
//!
//! ```text
//! start ──> workers (threads) + sockets that follow the Snapshots
//! drain ──> readiness off, accepting stops, HTTP/1 says `Connection: close`, HTTP/2 GOAWAY; tunnels until the deadline; then all closes
//! ```
//!
//! Many proxies can live in one process.

use crate::driver;
use crate::l4::Observer;
use crate::net::http::{ABANDONED, IDLE_H2, TRANSFER};
use crate::net::sockets::{Status, Workers};
use crate::net::worker::{Hand, LINGER, MAX_CONNECTIONS, MAX_PER_SOCKET, Shared};
use crate::observe::access::Sink;
use crate::observe::{AccessLog, InvalidMetric, Metrics};
use crate::snapshot::Snapshot;
use crate::tls::MeshTransport;
use arc_swap::ArcSwap;
use pingora_proxy::ProxyHttp;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

#[cfg(test)]
mod tests;

/// How often a draining proxy looks whether it is done.
const LOOK: Duration = Duration::from_millis(10);
/// After the deadline: for connections that were told to end to do so.
const ABORTED: Duration = Duration::from_millis(500);

/// How a proxy runs; what it serves is in its Snapshots.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// For threads and logs.
    pub name: String,
    /// Workers.
    pub threads: usize,
    /// How long what is under way may finish where its listener or the trust in its peer is gone.
    pub linger: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections of one socket at once.
    pub max_per_socket: usize,
    /// One read of a request body, one write of a response: whoever takes longer is cut off.
    pub transfer: Duration,
    /// An HTTP/2 connection without streams is told to go after so long.
    pub idle_h2: Duration,
    /// How long a response may take to begin whose client has ended its side: it may wait for it, but most have gone.
    pub abandoned: Duration,
    /// Where the access log goes.
    pub access: Sink,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            name: "proxy".into(),
            threads: 1,
            linger: LINGER,
            max_connections: MAX_CONNECTIONS,
            max_per_socket: MAX_PER_SOCKET,
            transfer: TRANSFER,
            idle_h2: IDLE_H2,
            abandoned: ABANDONED,
            access: Sink::default(),
        }
    }
}

/// What a proxy works with, besides its options.
pub struct Parts {
    /// The configuration; swapped by the feed.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Told of each swap.
    pub changes: watch::Receiver<u64>,
    /// Mesh hops, shared with the driver.
    pub transport: Arc<MeshTransport>,
    /// Metrics, shared with the driver.
    pub metrics: Arc<Metrics>,
    /// Told of what ends below the driver.
    pub observer: Arc<dyn Observer>,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Pingora panics over this one.
    #[error("SSL_CERT_FILE names {0}, which cannot be read; unset it or name a bundle of certificates")]
    Bundle(PathBuf),
    /// The access log.
    #[error("cannot open the access log: {0}")]
    AccessLog(io::Error),
    /// Two metrics of one name: a fault of ours.
    #[error(transparent)]
    Metrics(#[from] InvalidMetric),
    /// A thread or a runtime.
    #[error("cannot start worker {0}: {1}")]
    Worker(usize, io::Error),
}

/// A running proxy. Dropping it ends it at once; [`Proxy::drain`] ends it in order.
pub struct Proxy {
    shared: Arc<Shared>,
    open: Arc<std::sync::atomic::AtomicUsize>,
    status: watch::Receiver<Status>,
    ready: watch::Sender<bool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Proxy {
    /// Starts it. `changes` tells of each swap of `snapshot`. Blocks until the workers run (not the sockets: see [`Proxy::status`]).
    pub fn start(options: &ProxyOptions, snapshot: Arc<ArcSwap<Snapshot>>, changes: watch::Receiver<u64>) -> Result<Self, StartError> {
        let shared = Arc::new(driver::Shared {
            snapshot: snapshot.clone(),
            transport: Arc::default(),
            metrics: Arc::new(Metrics::new()?),
            access: AccessLog::open(&options.access).map_err(StartError::AccessLog)?,
            options: driver::Options::default(),
        });
        let (transport, metrics) = (shared.transport.clone(), shared.metrics.clone());
        let parts = Parts { snapshot, changes, transport, metrics, observer: shared.clone() };
        Self::start_with(options, parts, |_| driver::new(shared.clone()))
    }

    /// The same with any driver; `driver` makes the HTTP driver of each worker.
    pub fn start_with<D>(options: &ProxyOptions, parts: Parts, mut driver: impl FnMut(usize) -> D) -> Result<Self, StartError>
    where
        D: ProxyHttp + Send + Sync + 'static,
        D::CTX: Send + Sync,
    {
        if let Some(bundle) = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from)
            && std::fs::File::open(&bundle).is_err()
        {
            return Err(StartError::Bundle(bundle));
        }
        crate::tls::install_default();
        let Parts { snapshot, changes, transport, metrics, observer } = parts;
        let mut shared = Shared::new(snapshot, transport, observer, metrics);
        shared.max_connections = options.max_connections;
        shared.max_per_socket = options.max_per_socket;
        shared.transfer = options.transfer;
        shared.idle_h2 = options.idle_h2;
        shared.abandoned = options.abandoned;
        shared.linger = options.linger;
        let shared = Arc::new(shared);
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let hands = (0..options.threads.max(1))
            .map(|place| {
                let name = format!("{}-{place}", options.name);
                Hand::start(name, shared.clone(), driver(place), stop.clone()).map_err(|error| StartError::Worker(place, error))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let threads = hands.iter().filter_map(Hand::thread).collect();
        let first = hands[0].handle.clone();
        let open = Arc::default();
        let workers = Arc::new(Workers { shared: shared.clone(), hands, open: Arc::clone(&open) });
        let (sender, status) = watch::channel(Status::default());
        first.spawn(workers.reconcile(changes, sender, options.linger));
        Ok(Self { shared, open, status, ready: watch::Sender::new(true), threads, stop, _stop: guard })
    }

    /// Which sockets are open, and why others are not.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether it takes new work; false from the beginning of a drain.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Its figures.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.shared.metrics.clone()
    }

    /// The configuration it serves.
    pub fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        self.shared.snapshot.clone()
    }

    /// HTTP requests in flight.
    pub fn requests(&self) -> usize {
        self.shared.requests()
    }

    /// Connections open.
    pub fn connections(&self) -> usize {
        self.open.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Takes back that it is ready, and goes on serving: the first step of an end that nobody notices.
    pub fn leave(&self) {
        self.ready.send_replace(false);
    }

    /// Ends it in order: what is under way may finish until the deadline. Returns how many connections had to be cut off.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.leave();
        self.shared.closing.drain();
        let end = Instant::now() + deadline;
        while self.connections() > 0 && Instant::now() < end {
            sleep(LOOK).await;
        }
        let cut = self.connections();
        self.shared.closing.abort();
        let end = Instant::now() + ABORTED;
        while self.connections() > 0 && Instant::now() < end {
            sleep(LOOK).await;
        }
        self.stop.cancel();
        cut
    }

    /// Waits for its threads to end, after [`Proxy::drain`].
    pub async fn join(mut self) {
        let threads = std::mem::take(&mut self.threads);
        let stop = self.stop.clone();
        stop.cancelled().await;
        // A worker that panicked has said so already; there is nothing to pass on.
        let _ = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join()))).await;
    }
}
