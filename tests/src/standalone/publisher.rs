//! A publisher without a controller behind it: real wire, real TLS, and Resources that a test puts in by hand.

use super::{Authority, Resources};
use async_trait::async_trait;
use selvage_config::CertificateSpec;
use selvage_config::wire::server::{Authenticate, Limits, Node, Server, SignRefusal, Source, Unauthenticated, View};
use selvage_config::wire::{Ack, Encoded, Subject};
use selvage_policy::Key;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The name in the publisher's certificate.
pub const NAME: &str = "controller.selvage";

/// How long the address of one that was killed may take to become free, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// What publishers know; it outlives them.
pub struct Book {
    /// Who signs proxies' certificates, and the publisher's own.
    pub authority: Authority,
    /// Transactions that proxies took.
    pub acknowledged: AtomicUsize,
    token: Mutex<String>,
    view: watch::Sender<View>,
}

impl Book {
    /// With nothing in it.
    pub fn new(authority: Authority, token: &str) -> Arc<Self> {
        let view = watch::Sender::new(View::default());
        Arc::new(Self { authority, acknowledged: AtomicUsize::new(0), token: Mutex::new(token.into()), view })
    }

    /// What is published from now on.
    pub fn publish(&self, resources: &Resources) {
        let encoded = |resource: &Arc<_>| Encoded::new(resource).expect("a small Resource");
        let given = resources.list().iter().map(|(key, resource)| (key.clone(), encoded(resource))).collect();
        self.view.send_replace(View { given: Arc::new(given), ..View::default() });
    }

    /// The only token that is taken from now on.
    pub fn take_only(&self, token: &str) {
        *self.token.lock().expect("nobody panicked") = token.into();
    }
}

#[async_trait]
impl Authenticate for Book {
    async fn authenticate(&self, token: &str, _: SocketAddr) -> Result<Node, Unauthenticated> {
        let is_known = *self.token.lock().expect("nobody panicked") == token;
        if is_known {
            Ok(Node { uid: "one".into(), name: "shop/one".into() })
        } else {
            Err(Unauthenticated::Refused("unknown token".into()))
        }
    }
}

#[async_trait]
impl Source for Book {
    fn subscribe(&self, _: &Node) -> Option<watch::Receiver<View>> {
        Some(self.view.subscribe())
    }

    fn find(&self, _: &Node, _: &Subject) -> Vec<Key> {
        Vec::new()
    }

    async fn sign(&self, _: &Node, csr: &str) -> Result<String, SignRefusal> {
        Ok(self.authority.sign(csr))
    }

    fn acknowledged(&self, _: &Node, _: &View, ack: &Ack) {
        assert!(ack.rejected.is_empty(), "{:?}", ack.rejected);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// A publisher on a runtime of its own, so that it can be killed in the middle of a word.
pub struct Publisher(Option<tokio::runtime::Runtime>);

impl Publisher {
    /// Starts it: it listens when this returns. One before it at the same address may have been killed just now.
    pub fn start(book: &Arc<Book>, tls: &CertificateSpec, at: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let tls = book.authority.server(tls);
        let book = book.clone();
        let listener = listen(at);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block");
            let server = Server::new(book.clone(), book, Limits::default(), CancellationToken::new());
            server.serve(listener, Arc::new(tls)).await.expect("serving");
        });
        Self(Some(runtime))
    }

    /// No goodbye.
    pub fn kill(mut self) {
        self.0.take().expect("it runs").shutdown_background();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A killed publisher's socket is closed by its own threads, a moment later.
fn listen(at: SocketAddr) -> TcpListener {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(at) {
            Ok(listener) => {
                listener.set_nonblocking(true).expect("an option");
                return listener;
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{at}: {error}"),
        }
    }
}
