//! The proxy's side: connects, says what it has, applies what it is sent, for ever.
//!
//! ```text
//! Driver::run ──► connect, Hello ──► Update … commit ──► Sink::apply ──► Ack
//!      ▲              │ lost, Goaway, refused
//!      └── wait ◄─────┘
//! ```
//!
//! A [`Client`] is the handle for what a proxy asks for itself: certificates, and what it needs beyond what it is given.

mod assembly;
mod session;

pub use assembly::Transaction;

use super::{MAX_MESSAGE, Rejected, Subject};
use crate::resource::Secret;
use async_trait::async_trait;
use selvage_policy::Key;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// Questions waiting to be sent.
const QUESTIONS: usize = 64;
/// For an answer; who asks may ask again.
const ANSWER: Duration = Duration::from_secs(10);
/// To connect and to be let in.
const CONNECT: Duration = Duration::from_secs(5);
/// How often, and how patiently, a silent server is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// The longest wait that a server can ask for.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Subjects whose absence is remembered.
const ABSENT: usize = 4096;
/// Bytes of `have` in a Hello; who has more asks for everything anew rather than send a message too large to be taken.
const MOST_HAVE: usize = 3 << 20;

/// The shortest and the longest wait of a proxy in a cluster before another try to reach its controller.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// A text given as such, or read from a file at each connection because somebody renews it.
#[derive(Clone, Debug)]
pub enum Text {
    /// Given.
    Inline(Secret<String>),
    /// In this file.
    File(PathBuf),
}

/// How a proxy reaches its controller.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port`.
    pub address: String,
    /// The name in the controller's certificate.
    pub server_name: String,
    /// Roots of that certificate, PEM.
    pub roots: Text,
    /// The token that proves who we are.
    pub token: Text,
    /// What we call ourselves in the controller's log.
    pub node: String,
    /// The shortest and the longest wait before another try.
    pub backoff: (Duration, Duration),
}

/// Where transactions go.
#[async_trait]
pub trait Sink: Send + 'static {
    /// What is here already, by version, rejected Resources included.
    fn have(&self) -> BTreeMap<Key, String>;

    /// Applies a transaction as a whole; returns what cannot be used of all that is here now. The first one of a connection may be empty: it says that
    /// what is here is complete and current. One that is not applied is not acknowledged, and comes again with the next connection.
    async fn apply(&mut self, transaction: Transaction) -> Result<Vec<Rejected>, NotApplied>;

    /// What would become of a request; `null` from a proxy that cannot say.
    async fn explain(&mut self, request: serde_json::Value) -> serde_json::Value {
        let _ = request;
        serde_json::Value::Null
    }
}

/// A transaction of which nothing is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotApplied(pub String);

/// How the connection is.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Whether it stands.
    pub connected: bool,
    /// Whether a transaction was applied on it: what is here is what the controller has for us, but for what is on its way.
    pub current: bool,
    /// Since when it does, or does not.
    pub since: Instant,
    /// Transactions applied over all connections.
    pub transactions: u64,
    /// Why the last one ended.
    pub error: Option<String>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The connection was lost, or there is none for too long.
    #[error("the controller does not answer: see the log for why the connection does not stand")]
    Unreachable,
    /// Too many questions at once.
    #[error("too many questions to the controller are waiting")]
    Busy,
    /// No certificate.
    #[error("the controller refused: {0}")]
    Refused(String),
    /// There is no such thing for this proxy.
    #[error("there is no such thing, or it is not for this proxy")]
    NotFound,
}

/// The handle for what a proxy asks for.
#[derive(Clone, Debug)]
pub struct Client {
    questions: mpsc::Sender<Question>,
    connection: watch::Receiver<Connection>,
}

#[derive(Debug)]
enum Question {
    Sign(String, oneshot::Sender<Result<String, AskError>>),
    Want(Subject, oneshot::Sender<Result<Vec<Key>, AskError>>),
    Release(Subject),
    Report(serde_json::Value),
}

impl Client {
    /// The handle, and the driver that has to be run.
    pub fn new<S: Sink>(options: Options, sink: S) -> (Self, Driver<S>) {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let never = Connection { connected: false, current: false, since: Instant::now(), transactions: 0, error: None };
        let (told, connection) = watch::channel(never);
        let driver =
            Driver { options, sink, asked, told, wanted: BTreeSet::new(), absent: HashMap::new(), last_id: 0, most_have: MOST_HAVE };
        (Self { questions, connection }, driver)
    }

    /// How the connection is, now and later.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Has a signing request (PEM) signed; the answer is the chain, leaf first.
    pub async fn sign(&self, csr: String) -> Result<String, AskError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Question::Sign(csr, answer), answered).await
    }

    /// Asks for what is needed beyond what is given at once. When this returns, it has been applied. It is kept up to date, over
    /// reconnections too, until it is released. Absence is remembered for as long as the controller says.
    pub async fn want(&self, subject: Subject) -> Result<Vec<Key>, AskError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Question::Want(subject, answer), answered).await
    }

    /// Needs it no longer.
    pub async fn release(&self, subject: Subject) -> Result<(), AskError> {
        self.questions.send(Question::Release(subject)).await.map_err(|_| AskError::Unreachable)
    }

    /// Says how the proxy is, unless too much is waiting.
    pub fn report(&self, report: serde_json::Value) -> Result<(), AskError> {
        self.put(Question::Report(report))
    }

    fn put(&self, question: Question) -> Result<(), AskError> {
        self.questions.try_send(question).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Busy,
            mpsc::error::TrySendError::Closed(_) => AskError::Unreachable,
        })
    }

    async fn ask<T>(&self, question: Question, answered: oneshot::Receiver<Result<T, AskError>>) -> Result<T, AskError> {
        self.put(question)?;
        match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(AskError::Unreachable),
        }
    }
}

/// What connects, and keeps connecting.
pub struct Driver<S> {
    options: Options,
    sink: S,
    asked: mpsc::Receiver<Question>,
    told: watch::Sender<Connection>,
    wanted: BTreeSet<Subject>,
    absent: HashMap<Subject, Instant>,
    last_id: u64,
    /// Bytes of `have` in a Hello.
    pub(super) most_have: usize,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0} cannot be read: {1}")]
    File(PathBuf, std::io::Error),
    #[error("cannot connect to {0}: {1}")]
    Connect(String, String),
    #[error("the controller refused the stream: {0}")]
    Refused(String),
    #[error("the controller closed the stream")]
    Closed,
    #[error("the stream broke: {0}")]
    Lost(String),
    #[error("the controller sent us away, to come back in {0:?}")]
    Goaway(Duration),
    #[error("the controller sent nonsense: {0}")]
    Nonsense(String),
    #[error("a transaction could not be applied: {0}")]
    NotApplied(#[from] NotApplied),
}

impl<S: Sink> Driver<S> {
    /// Runs until `cancel` is cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (least, most) = self.options.backoff;
        let mut wait = least;
        loop {
            let before = self.told.borrow().transactions;
            let end = tokio::select! {
                end = self.connect_and_serve() => end,
                () = cancel.cancelled() => return,
            };
            // One that brought something and outlived the wait before it was good: the next failure is a new one. What ends each
            // connection soon after its first transaction is the same failure again.
            let (brought, stood) = {
                let connection = self.told.borrow();
                (connection.transactions > before, connection.since.elapsed())
            };
            if brought && (matches!(end, End::Goaway(_)) || stood >= wait) {
                wait = least;
            }
            let pause = match end {
                End::Goaway(pause) => pause,
                _ => wait.mul_f64(rand::random_range(0.5..=1.0)),
            };
            tracing::warn!(address = self.options.address, why = %end, ?pause, "the controller is not connected: what is here stays in force");
            self.told.send_modify(|connection| {
                if connection.connected {
                    connection.since = Instant::now();
                }
                connection.connected = false;
                connection.current = false;
                connection.error = Some(end.to_string());
            });
            wait = (wait * 2).min(most);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    async fn connect_and_serve(&mut self) -> End {
        let channel = match tokio::time::timeout(CONNECT, self.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(end)) => return end,
            Err(_) => return End::Connect(self.options.address.clone(), format!("no answer within {CONNECT:?}")),
        };
        let token = match read(&self.options.token).await {
            Ok(token) => token,
            Err(end) => return end,
        };
        session::run(self, channel, &token).await
    }

    async fn connect(&self) -> Result<Channel, End> {
        let roots = read(&self.options.roots).await?;
        let failed = |error: tonic::transport::Error| End::Connect(self.options.address.clone(), with_sources(&error));
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name(self.options.server_name.clone());
        Endpoint::from_shared(format!("https://{}", self.options.address))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(failed)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(failed)
    }
}

/// tonic says `transport error` and keeps why to its sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn read(text: &Text) -> Result<String, End> {
    match text {
        Text::Inline(text) => Ok(text.expose().clone()),
        Text::File(path) => read_file(path).await.map_err(|error| End::File(path.clone(), error)),
    }
}

async fn read_file(path: &Path) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut text = String::new();
    let bound = u64::try_from(MAX_MESSAGE).unwrap_or(u64::MAX);
    tokio::fs::File::open(path).await?.take(bound).read_to_string(&mut text).await?;
    Ok(text.trim().to_string())
}
