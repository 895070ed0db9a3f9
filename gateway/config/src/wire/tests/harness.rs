//! A controller and its proxies over loopback, with real TLS.

use crate::resource::{Class, Origin, Resource};
use crate::resource::{Secret, VersionKey};
use crate::wire::client::{Client, Driver, NotApplied, Options, Sink, Text, Transaction};
use crate::wire::codec::Json;
use crate::wire::server::{Authenticate, Limits, Node, Server, SignRefusal, Source, Unauthenticated, View};
use crate::wire::{Ack, Encoded, METHOD, Rejected, Subject, ToClient, ToServer};
use async_trait::async_trait;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use selvage_policy::Key;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{ClientTlsConfig, Endpoint};

pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

pub fn policy(name: &str, spec: serde_json::Value) -> Resource {
    Resource::new(key(&format!("TrafficPolicy/shop/{name}")), Class::Traffic, &spec, Origin::default())
}

pub fn certificate(name: &str) -> Resource {
    let spec = crate::CertificateSpec { chain: "CHAIN".into(), private_key: Secret::new("KEY".into()) };
    Resource::secret(key(&format!("Certificate/shop/{name}")), &spec, &VersionKey::derive(b"test"))
}

pub fn view(given: &[Resource], offered: &[Resource]) -> View {
    let map = |resources: &[Resource]| {
        Arc::new(resources.iter().map(|r| (r.key.clone(), Encoded::new(r).expect("small enough"))).collect::<BTreeMap<_, _>>())
    };
    View { given: map(given), offered: map(offered), ..View::default() }
}

/// Knows `token-<uid>`.
pub struct Tokens;

#[async_trait]
impl Authenticate for Tokens {
    async fn authenticate(&self, token: &str, peer: SocketAddr) -> Result<Node, Unauthenticated> {
        assert!(peer.ip().is_loopback());
        if token.starts_with("early-") {
            return Err(Unauthenticated::NotYet("nobody knows it yet".into()));
        }
        match token.strip_prefix("token-") {
            Some(uid) => Ok(Node { uid: uid.into(), name: format!("shop/{uid}") }),
            None => Err(Unauthenticated::Refused("unknown token".into())),
        }
    }
}

/// What every node may read, and what they said.
#[derive(Default)]
pub struct Book {
    pub views: Mutex<HashMap<String, watch::Sender<View>>>,
    pub acks: Mutex<Vec<(String, Ack)>>,
    pub reports: Mutex<Vec<serde_json::Value>>,
    pub finds: Mutex<Vec<Subject>>,
    /// It has nothing to say yet.
    pub silent: Mutex<bool>,
    /// Certificates that are never done.
    pub signing: AtomicUsize,
}

impl Book {
    pub fn publish(&self, uid: &str, view: View) {
        self.views.lock().entry(uid.into()).or_default().send_replace(view);
    }

    pub fn rejected(&self) -> Vec<Rejected> {
        self.acks.lock().iter().flat_map(|(_, ack)| ack.rejected.clone()).collect()
    }
}

#[async_trait]
impl Source for Book {
    fn subscribe(&self, node: &Node) -> Option<watch::Receiver<View>> {
        let silent = *self.silent.lock();
        (!silent).then(|| self.views.lock().entry(node.uid.clone()).or_default().subscribe())
    }

    fn find(&self, _: &Node, subject: &Subject) -> Vec<Key> {
        self.finds.lock().push(subject.clone());
        match subject {
            Subject::Key(key) => vec![key.clone()],
            // A careless source: the server has to keep the certificate back.
            Subject::Host(host) if host == "orders" => vec![key("TrafficPolicy/shop/orders"), key("Certificate/shop/tls")],
            _ => vec![],
        }
    }

    async fn sign(&self, node: &Node, csr: &str) -> Result<String, SignRefusal> {
        match csr {
            "GOOD" => Ok(format!("CHAIN for {}", node.uid)),
            "SLOW" => {
                self.signing.fetch_add(1, Ordering::Relaxed);
                std::future::pending().await
            }
            _ => Err(SignRefusal("the request names another account".into())),
        }
    }

    fn acknowledged(&self, node: &Node, _: &View, ack: &Ack) {
        self.acks.lock().push((node.uid.clone(), ack.clone()));
    }

    fn reported(&self, _: &Node, report: serde_json::Value) {
        self.reports.lock().push(report);
    }
}

/// A certificate authority with the controller's certificate.
pub struct Authority {
    roots: String,
    tls: Arc<rustls::ServerConfig>,
}

impl Authority {
    pub fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).expect("a root");
        let roots = ca.pem();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::new(vec!["controller.selvage".to_string()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &issuer).expect("a leaf");
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key);
        Self { roots, tls: Arc::new(tls.expect("a configuration")) }
    }
}

impl Authority {
    /// A TLS connection to the controller that nothing is said on yet.
    pub async fn handshake(&self, address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.roots.as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let mut tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let name = "controller.selvage".try_into().expect("a name");
        let socket = TcpStream::connect(address).await.expect("a connection");
        tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, socket).await.expect("a handshake")
    }
}

/// A client that says what it likes.
pub struct Raw {
    pub say: mpsc::Sender<ToServer>,
    heard: tonic::Streaming<ToClient>,
}

impl Raw {
    /// A stream whose other side may send `window` bytes before it has to wait for us to read.
    pub async fn open(authority: &Authority, address: SocketAddr, token: &str, window: Option<u32>) -> Result<Self, tonic::Status> {
        let root = tonic::transport::Certificate::from_pem(&authority.roots);
        let tls = ClientTlsConfig::new().ca_certificate(root).domain_name("controller.selvage");
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address").tls_config(tls).expect("roots");
        let channel = endpoint.initial_stream_window_size(window).connect().await.expect("a connection");
        let (say, said) = mpsc::channel(1);
        let mut request = tonic::Request::new(ReceiverStream::new(said));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.expect("a connection");
        let path = http::uri::PathAndQuery::from_static(METHOD);
        let opened = grpc.streaming(request, path, Json::<ToServer, ToClient>::default()).await?;
        Ok(Self { say, heard: opened.into_inner() })
    }

    pub async fn hear(&mut self) -> Result<Option<ToClient>, tonic::Status> {
        tokio::time::timeout(PATIENCE, self.heard.message()).await.expect("something is heard")
    }
}

/// A running controller.
pub struct Controller {
    pub address: SocketAddr,
    pub server: Arc<Server>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Controller {
    pub async fn start(authority: &Authority, book: &Arc<Book>, at: Option<SocketAddr>, limits: Limits) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(at.unwrap_or_else(|| "127.0.0.1:0".parse().expect("an address"))).expect("a free port");
        let listener = socket.listen(64).expect("listening");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let server = Arc::new(Server::new(Arc::new(Tokens), book.clone(), limits, stop.clone()));
        let tls = authority.tls.clone();
        let serving = tokio::spawn({
            let server = server.clone();
            async move { server.serve(listener, tls).await.expect("serving") }
        });
        Self { address, server, stop, serving }
    }

    /// Ends it in order.
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("it ends").expect("no panic");
    }
}

/// What a proxy has, and in which steps it came.
#[derive(Clone, Default)]
pub struct Proxy(pub Arc<Mutex<ProxyState>>);

#[derive(Default)]
pub struct ProxyState {
    pub have: BTreeMap<Key, Resource>,
    pub steps: Vec<(Vec<String>, Vec<String>)>,
    /// Keys this proxy cannot use.
    pub unusable: Vec<Key>,
    pub delay: Duration,
    /// How many of the next transactions are not applied.
    pub faults: usize,
    /// If there is one, each transaction waits for a permit.
    pub gate: Option<Arc<Semaphore>>,
}

#[async_trait]
impl Sink for Proxy {
    fn have(&self) -> BTreeMap<Key, String> {
        self.0.lock().have.iter().map(|(key, resource)| (key.clone(), resource.version.clone())).collect()
    }

    async fn apply(&mut self, transaction: Transaction) -> Result<Vec<Rejected>, NotApplied> {
        let delay = self.0.lock().delay;
        tokio::time::sleep(delay).await;
        let gate = self.0.lock().gate.clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("never closed").forget();
        }
        let mut state = self.0.lock();
        if state.faults > 0 {
            state.faults -= 1;
            return Err(NotApplied("a fault".into()));
        }
        let names = |keys: Vec<&Key>| keys.into_iter().map(|key| key.name.clone()).collect::<Vec<_>>();
        let step = (names(transaction.upserts.iter().map(|r| &r.key).collect()), names(transaction.removals.iter().collect()));
        state.steps.push(step);
        let mut rejected = Vec::new();
        for key in &transaction.removals {
            state.have.remove(key);
        }
        for resource in transaction.upserts {
            if resource.spec.is_null() || state.unusable.contains(&resource.key) {
                let reason = "cannot be used".into();
                rejected.push(Rejected { key: resource.key.clone(), version: resource.version.clone(), reason });
            }
            state.have.insert(resource.key.clone(), resource);
        }
        Ok(rejected)
    }

    async fn explain(&mut self, request: serde_json::Value) -> serde_json::Value {
        serde_json::json!({ "of": request })
    }
}

impl Proxy {
    pub fn steps(&self) -> Vec<(Vec<String>, Vec<String>)> {
        self.0.lock().steps.clone()
    }

    pub fn names(&self) -> Vec<String> {
        self.0.lock().have.keys().map(|key| key.name.clone()).collect()
    }
}

/// A connected proxy's handle; it ends when this is dropped.
pub struct Running {
    pub client: Client,
    _stop: tokio_util::sync::DropGuard,
}

pub fn options(authority: &Authority, address: SocketAddr, token: &str) -> Options {
    Options {
        address: address.to_string(),
        server_name: "controller.selvage".into(),
        roots: Text::Inline(Secret::new(authority.roots.clone())),
        token: Text::Inline(Secret::new(token.into())),
        node: "whoever".into(),
        backoff: (Duration::from_millis(10), Duration::from_millis(100)),
    }
}

pub fn connect(options: Options, proxy: &Proxy) -> Running {
    run(Client::new(options, proxy.clone()))
}

/// The same, by a client that can say of little what it has.
pub fn connect_saying_at_most(have: usize, options: Options, proxy: &Proxy) -> Running {
    let (client, mut driver) = Client::new(options, proxy.clone());
    driver.most_have = have;
    run((client, driver))
}

fn run((client, driver): (Client, Driver<Proxy>)) -> Running {
    let stop = CancellationToken::new();
    tokio::spawn(driver.run(stop.clone()));
    Running { client, _stop: stop.drop_guard() }
}

/// Waits until it is so.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is() {
        assert!(tokio::time::Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
