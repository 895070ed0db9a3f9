//! A controller on loopback with a CA, as small as it can be.

use async_trait::async_trait;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair};
use selvage_config::Resource;
use selvage_config::resource::Secret;
use selvage_config::wire::client::{Options, Text};
use selvage_config::wire::server::{Authenticate, Limits, Node, Server, SignRefusal, Source, Unauthenticated, View};
use selvage_config::wire::{Ack, Encoded, Rejected, Standing, Subject};
use selvage_policy::Key;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub struct Controller {
    pub world: Arc<World>,
    pub address: SocketAddr,
    _stop: DropGuard,
}

/// What the controller knows; it outlives restarts.
pub struct World {
    authority: CertifiedIssuer<'static, KeyPair>,
    view: watch::Sender<View>,
    pub acks: Mutex<Vec<Ack>>,
    pub standings: Mutex<Vec<Standing>>,
    pub signed: AtomicUsize,
    pub refuses: AtomicBool,
    /// Of leaves: how long ago they began, and in how long they end.
    pub life: Mutex<(u64, u64)>,
}

impl World {
    pub fn new() -> Arc<Self> {
        crate::tls::install_default();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
        Arc::new(Self {
            authority,
            view: watch::Sender::default(),
            acks: Mutex::default(),
            standings: Mutex::default(),
            signed: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
            life: Mutex::new((60, 3600)),
        })
    }

    pub fn root(&self) -> String {
        self.authority.pem()
    }

    pub fn publish(&self, resources: &[Resource]) {
        let given = resources.iter().map(|r| (r.key.clone(), Encoded::new(r).expect("small enough"))).collect();
        self.view.send_replace(View { given: Arc::new(given), ..View::default() });
    }

    pub fn rejected(&self) -> Vec<Rejected> {
        self.acks.lock().last().map(|ack| ack.rejected.clone()).unwrap_or_default()
    }

    pub async fn serve(self: &Arc<Self>, at: Option<SocketAddr>) -> Controller {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(at.unwrap_or_else(|| "127.0.0.1:0".parse().expect("an address"))).expect("a free port");
        let listener = socket.listen(16).expect("listening");
        let address = listener.local_addr().expect("an address");
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec!["controller.selvage".to_string()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &self.authority).expect("a leaf");
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).expect("TLS");
        let stop = CancellationToken::new();
        let limits = Limits { spread: Duration::from_millis(10), ..Limits::default() };
        let server = Server::new(Arc::new(AnyToken), self.clone(), limits, stop.clone());
        tokio::spawn(async move { server.serve(listener, Arc::new(tls)).await.expect("serving") });
        Controller { world: self.clone(), address, _stop: stop.drop_guard() }
    }
}

impl Controller {
    pub fn options(&self) -> Options {
        Options {
            address: self.address.to_string(),
            server_name: "controller.selvage".into(),
            roots: Text::Inline(Secret::new(self.world.root())),
            token: Text::Inline(Secret::new("token".into())),
            node: "orders-0".into(),
            backoff: (Duration::from_millis(10), Duration::from_millis(50)),
        }
    }
}

struct AnyToken;

#[async_trait]
impl Authenticate for AnyToken {
    async fn authenticate(&self, _: &str, _: SocketAddr) -> Result<Node, Unauthenticated> {
        Ok(Node { uid: "uid".into(), name: "shop/orders-0".into() })
    }
}

#[async_trait]
impl Source for World {
    fn subscribe(&self, _: &Node) -> Option<watch::Receiver<View>> {
        Some(self.view.subscribe())
    }

    fn find(&self, _: &Node, _: &Subject) -> Vec<Key> {
        vec![]
    }

    async fn sign(&self, _: &Node, csr: &str) -> Result<String, SignRefusal> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(SignRefusal("not today".into()));
        }
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a request");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let (before, after) = *self.life.lock();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        request.params.not_before = epoch + Duration::from_secs(now - before);
        request.params.not_after = epoch + Duration::from_secs(now + after);
        self.signed.fetch_add(1, Ordering::Relaxed);
        Ok(request.signed_by(&self.authority).expect("signed").pem())
    }

    fn acknowledged(&self, _: &Node, _: &View, ack: &Ack) {
        self.acks.lock().push(ack.clone());
    }

    fn reported(&self, _: &Node, report: serde_json::Value) {
        self.standings.lock().push(serde_json::from_value(report).expect("what this release reports"));
    }
}
