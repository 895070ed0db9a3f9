//! The serving side: who connects is authenticated, gets what its node may read, and is kept up to date.
//!
//! What a node may read is decided by a [`Source`] from the authenticated [`Node`] alone; nothing a client says enters into it.

mod accept;
mod connection;
mod difference;
mod session;

use super::codec::Json;
use super::message::{ToClient, ToServer};
use super::{Ack, Encoded, MAX_MESSAGE, METHOD, SERVICE, Subject};
use async_trait::async_trait;
use parking_lot::Mutex;
use selvage_policy::Key;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub use accept::ServeError;

/// A proxy whose connection proved which one it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// What it may read hangs on this alone: the pod's UID, or the proxy's name on a laptop.
    pub uid: String,
    /// For people: `shop/orders-0`.
    pub name: String,
}

/// A client that did not prove who it is. The text is logged here and not sent to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// What it sent proves nothing.
    #[error("{0}")]
    Refused(String),
    /// Whether it is who it says cannot be told yet: it is to come back soon.
    #[error("{0}")]
    NotYet(String),
}

/// Finds out who a client is.
#[async_trait]
pub trait Authenticate: Send + Sync + 'static {
    /// Which node does this token, from this address, belong to?
    async fn authenticate(&self, token: &str, peer: SocketAddr) -> Result<Node, Unauthenticated>;
}

/// Resources by key, as the wire carries them.
pub type Layer = Arc<BTreeMap<Key, Arc<Encoded>>>;

/// What one node may read.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Counts up with its changes, for people to compare.
    pub generation: u64,
    /// What it is sent at once and kept up to date with.
    pub given: Layer,
    /// The same, but one set for many nodes. No key is in both.
    pub shared: Layer,
    /// What it may ask for with Want. Kinds that hold secrets are never sent from here.
    pub offered: Layer,
}

impl View {
    /// A Resource that the node is given.
    pub fn given(&self, key: &Key) -> Option<&Arc<Encoded>> {
        self.given.get(key).or_else(|| self.shared.get(key))
    }
}

/// Why a certificate is not issued; sent to the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SignRefusal(pub String);

/// Where Resources come from, and where a node's words go.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What `node` may read, now and whenever it changes. None: there is nothing to say to it yet, so it is sent away and keeps what it has;
    /// an empty view would take it all away. When the sender is dropped it is sent away too.
    fn subscribe(&self, node: &Node) -> Option<watch::Receiver<View>>;

    /// The keys, of what is offered to `node`, that answer `subject`; none: there is no such thing for it.
    fn find(&self, node: &Node, subject: &Subject) -> Vec<Key>;

    /// Issues a certificate chain (PEM, leaf first) for a signing request, if `node` may have it.
    async fn sign(&self, node: &Node, csr: &str) -> Result<String, SignRefusal>;

    /// `node` has applied all of `view`, but for what `ack` rejects of it.
    fn acknowledged(&self, node: &Node, view: &View, ack: &Ack);

    /// `node` says how it is.
    fn reported(&self, node: &Node, report: serde_json::Value) {
        let _ = (node, report);
    }

    /// `node` has connected or gone.
    fn presence(&self, node: &Node, present: bool) {
        let _ = (node, present);
    }
}

/// Bounds and times of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once, those that have not proved anything yet included; more are closed.
    pub connections: usize,
    /// The same from one address: a proxy has one, and one more while it reconnects, but many may be behind one address.
    pub connections_of_one_address: usize,
    /// Streams at once; more are turned away.
    pub streams: usize,
    /// First transactions under way at once; more wait, so that a restart of the controller is no storm.
    pub initial_syncs: usize,
    /// From the opening of a stream to its Hello; and how long a connection may be without a stream.
    pub hello: Duration,
    /// From a commit to its Ack; a client that takes longer is cut off and may come back.
    pub ack: Duration,
    /// How long a client need not ask again for what does not exist.
    pub not_found: Duration,
    /// At the end clients are told to come back within this time, each at another moment.
    pub spread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_of_one_address: 512,
            streams: 8192,
            initial_syncs: 64,
            hello: Duration::from_secs(10),
            ack: Duration::from_secs(60),
            not_found: Duration::from_secs(10),
            spread: Duration::from_secs(2),
        }
    }
}

/// The server of one controller.
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    authenticate: Arc<dyn Authenticate>,
    source: Arc<dyn Source>,
    limits: Limits,
    streams: Arc<Semaphore>,
    initial_syncs: Arc<Semaphore>,
    /// The newest stream of each node, by UID; at most `limits.streams`.
    connected: Mutex<HashMap<String, Connected>>,
    /// How many streams of each node, by UID, have not said Hello.
    silent: Mutex<HashMap<String, usize>>,
    stop: CancellationToken,
}

struct Connected {
    node: Node,
    /// Tells streams of one node apart.
    serial: u64,
    questions: mpsc::Sender<Question>,
    replaced: CancellationToken,
}

/// An Explain on its way to a proxy.
struct Question {
    request: serde_json::Value,
    answer: oneshot::Sender<serde_json::Value>,
}

/// A question that no proxy answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// It is not here.
    #[error("the proxy {0} is not connected to this controller")]
    NotConnected(String),
    /// It is busy, went away, or took too long.
    #[error("the proxy {0} did not answer")]
    NoAnswer(String),
}

impl Server {
    /// A server that ends its streams, kindly, when `stop` is cancelled.
    pub fn new(authenticate: Arc<dyn Authenticate>, source: Arc<dyn Source>, limits: Limits, stop: CancellationToken) -> Self {
        let streams = Arc::new(Semaphore::new(limits.streams));
        let initial_syncs = Arc::new(Semaphore::new(limits.initial_syncs));
        let (connected, silent) = (Mutex::default(), Mutex::default());
        Self { shared: Arc::new(Shared { authenticate, source, limits, streams, initial_syncs, connected, silent, stop }) }
    }

    /// The nodes that are connected.
    pub fn connected(&self) -> Vec<Node> {
        self.shared.connected.lock().values().map(|connected| connected.node.clone()).collect()
    }

    /// Asks a connected proxy what would become of a request; waits at most `patience`.
    pub async fn explain(&self, uid: &str, request: serde_json::Value, patience: Duration) -> Result<serde_json::Value, ExplainError> {
        let questions = self.shared.connected.lock().get(uid).map(|connected| connected.questions.clone());
        let questions = questions.ok_or_else(|| ExplainError::NotConnected(uid.into()))?;
        let (answer, answered) = oneshot::channel();
        let no_answer = |_| ExplainError::NoAnswer(uid.into());
        questions.try_send(Question { request, answer }).map_err(|_| ExplainError::NoAnswer(uid.into()))?;
        tokio::time::timeout(patience, answered).await.map_err(|_| ExplainError::NoAnswer(uid.into()))?.map_err(no_answer)
    }

    /// Serves connections of `listener` until `stop` is cancelled and every stream has ended. `tls` decides with which certificate;
    /// its resolver may change certificates while it serves.
    pub async fn serve(&self, listener: tokio::net::TcpListener, tls: Arc<rustls::ServerConfig>) -> Result<(), ServeError> {
        accept::serve(Configuration(self.shared.clone()), listener, tls, self.shared.stop.clone()).await
    }
}

/// The gRPC service.
#[derive(Clone)]
struct Configuration(Arc<Shared>);

impl tonic::server::NamedService for Configuration {
    const NAME: &'static str = SERVICE;
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for Configuration {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("there is one method: Stream").into_http());
            }
            let codec = Json::<ToClient, ToServer>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
            Ok(grpc.streaming(Stream(shared), request).await)
        })
    }
}

struct Stream(Arc<Shared>);

impl tonic::server::StreamingService<ToServer> for Stream {
    type Response = ToClient;
    type ResponseStream = ReceiverStream<Result<ToClient, Status>>;
    type Future = tonic::codegen::BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<ToServer>>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { session::open(shared, request).await.map(Response::new) })
    }
}
