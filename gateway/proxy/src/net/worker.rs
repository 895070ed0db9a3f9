//! Workers: current-thread runtimes on threads of their own, each with its own upstream pools.

use super::closing::Closing;
use super::conn;
use super::http::{ABANDONED, IDLE_H2, TRANSFER};
use crate::connection::Connection;
use crate::l4::Observer;
use crate::observe::Metrics;
use crate::snapshot::{Listener, Snapshot};
use crate::tls::MeshTransport;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, ProxyHttp, http_proxy};
use selvage_config::resource::listener::MeshMode;
use selvage_policy::Denial;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Connections of a whole proxy at once.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Connections of one socket at once: a flood on one listener leaves room for the others.
pub const MAX_PER_SOCKET: usize = 12_288;
/// For what is under way where its listener or the trust in its peer is gone.
pub const LINGER: Duration = Duration::from_secs(30);
/// Connections reviewed in a row; requests of this worker wait meanwhile.
const REVIEWED: usize = 64;
/// Idle upstream connections a worker keeps.
const UPSTREAM_POOL: usize = 1024;

/// What all workers of a proxy share.
pub struct Shared {
    /// The configuration.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Mesh hops to upstreams.
    pub transport: Arc<MeshTransport>,
    /// Told of what ends below the driver.
    pub observer: Arc<dyn Observer>,
    /// Counted by.
    pub metrics: Arc<Metrics>,
    /// The end of the whole proxy.
    pub closing: Closing,
    /// Connections at once, over all sockets.
    pub max_connections: usize,
    /// Connections at once on one socket.
    pub max_per_socket: usize,
    /// One read of a request body, one write of a response.
    pub transfer: Duration,
    /// An HTTP/2 connection without streams.
    pub idle_h2: Duration,
    /// What is left to a request whose client has ended its side before the response.
    pub abandoned: Duration,
    /// What is left to what is under way where its listener or the trust in its peer is gone.
    pub linger: Duration,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    numbers: AtomicU64,
    requests: AtomicUsize,
}

/// Counts a request until dropped.
pub struct Request<'a>(&'a AtomicUsize);

/// Keeps a connection on the list of those open, until dropped.
pub struct Registered<'a> {
    shared: &'a Shared,
    number: u64,
}

/// One thread that serves connections.
pub struct Worker<D> {
    /// Common to all.
    pub shared: Arc<Shared>,
    /// Pingora, with the driver and this worker's upstream pools.
    pub proxy: Arc<HttpProxy<D>>,
    running: (watch::Sender<bool>, ShutdownWatch),
    ended: (watch::Sender<bool>, ShutdownWatch),
}

/// A started worker, as the acceptor sees it.
pub struct Hand<D> {
    /// Where its tasks are spawned.
    pub handle: Handle,
    /// It.
    pub worker: Arc<Worker<D>>,
    /// Connections it serves.
    pub load: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    /// Nothing is open yet.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        transport: Arc<MeshTransport>,
        observer: Arc<dyn Observer>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            snapshot,
            transport,
            observer,
            metrics,
            closing: Closing::default(),
            max_connections: MAX_CONNECTIONS,
            max_per_socket: MAX_PER_SOCKET,
            transfer: TRANSFER,
            idle_h2: IDLE_H2,
            abandoned: ABANDONED,
            linger: LINGER,
            open: Mutex::default(),
            numbers: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
        }
    }

    /// Tells of a request that was answered before the driver saw it.
    pub fn refused(&self, connection: &Connection, denial: &Denial) {
        self.metrics.requests.denied(denial);
        self.observer.refused(connection, denial);
    }

    /// Counts a request in.
    pub fn begin(&self) -> Request<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Request(&self.requests)
    }

    /// HTTP requests in flight.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Puts a connection on the list.
    pub fn register(&self, connection: &Arc<Connection>) -> Registered<'_> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(number, connection.clone());
        Registered { shared: self, number }
    }

    /// The ends of open connections that `snapshot` no longer allows.
    pub fn outlived(&self, snapshot: &Snapshot) -> Vec<Closing> {
        let open = self.open.lock();
        open.values().filter(|open| !open.closing.is_draining() && has_outlived(open, snapshot)).map(|open| open.closing.clone()).collect()
    }

    /// Whether a connection that has just been put on the list is no longer allowed: a change that came before has not seen it there.
    pub fn has_missed(&self, connection: &Connection) -> bool {
        let snapshot = self.snapshot.load();
        snapshot.generation != connection.generation && has_outlived(connection, &snapshot)
    }

    /// Ends what is under way and would be refused under `snapshot`.
    pub async fn review(&self, snapshot: &Snapshot) {
        let open: Vec<Arc<Connection>> = self.open.lock().values().cloned().collect();
        for (number, connection) in open.iter().enumerate() {
            connection.review(snapshot);
            if number % REVIEWED == REVIEWED - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Whether the listener of a connection is gone, takes mesh TLS only by now, or no longer trusts what its peer has proved. Without TLS the listener
/// is chosen by each request: then it is the socket that must still take it.
fn has_outlived(connection: &Connection, snapshot: &Snapshot) -> bool {
    let listener = match &connection.tls {
        Some(_) => snapshot.listeners.get(&*connection.listener),
        None => snapshot.accept(connection.bind, connection.destination, None),
    };
    let is_shut = |listener: &Arc<Listener>| listener.spec.mesh == Some(MeshMode::Strict) && connection.principal().is_none();
    listener.is_none_or(is_shut) || !connection.is_trusted(&snapshot.mesh)
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.open.lock().remove(&self.number);
    }
}

impl<D> Worker<D>
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    /// Pingora around a driver, with pools of its own. To be called on the thread that will serve.
    pub fn new(shared: Arc<Shared>, driver: D) -> Self {
        let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: UPSTREAM_POOL, ..ServerConf::default() };
        let mut proxy = http_proxy(&Arc::new(conf), driver);
        proxy.server_options = Some(crate::driver::server_options());
        Self { shared, proxy: Arc::new(proxy), running: watch::channel(false), ended: watch::channel(true) }
    }
}

impl<D> Worker<D> {
    /// What Pingora is told of the end: it answers the last request of a connection with `Connection: close`.
    pub fn ending(&self, closing: &Closing) -> &ShutdownWatch {
        if closing.is_draining() { &self.ended.1 } else { &self.running.1 }
    }
}

impl<D> Hand<D>
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    /// Starts a thread with its runtime; it runs until `stop`.
    pub fn start(name: String, shared: Arc<Shared>, driver: D, stop: CancellationToken) -> io::Result<Self> {
        let (send, receive) = sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async move {
                if send.send(Arc::new(Worker::new(shared, driver))).is_ok() {
                    stop.cancelled().await;
                }
            });
        })?;
        let worker = receive.recv().map_err(|_| io::Error::other("the worker ended while Pingora started"))?;
        Ok(Self { handle, worker, load: Arc::default(), thread: Mutex::new(Some(thread)) })
    }

    /// The thread, to be joined once.
    pub fn thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().take()
    }
}

const _: () = assert!(crate::tls::upstream::IDLE.as_secs() < conn::IDLE.as_secs());
