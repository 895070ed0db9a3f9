//! One client's stream, from its first message to its end.

use super::connection::{Carried, Peer};
use super::difference::{Difference, Held};
use super::{Connected, Layer, Limits, Node, Question, Shared, Unauthenticated, View};
use crate::resource::kind::holds_secrets;
use crate::wire::{
    Ack, Explain, Explained, Found, Goaway, Hello, NotFound, PROTOCOL, Refused, Sign, Signed, Subject, ToClient, ToServer, Want,
};
use selvage_policy::Key;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

#[cfg(test)]
mod tests;

/// Messages to one client between us and its connection: flow control does the rest.
const QUEUE: usize = 4;
/// Explains waiting for one client.
const QUESTIONS: usize = 16;
/// Subjects one client may want at once.
const WANTED: usize = 4096;
/// Answers waiting for the transaction that brings what was wanted; a client asks no more at once.
const ANSWERS: usize = 1024;
/// Streams of one node that have not said Hello: it has one, and one more while it reconnects.
const SILENT: usize = 4;
/// For the last message to leave.
const FAREWELL: Duration = Duration::from_secs(1);

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// What a stream takes of the server, until it is dropped.
struct Slot {
    _permit: OwnedSemaphorePermit,
    _carried: Carried,
}

/// Authenticates a new stream and starts serving it.
pub(super) async fn open(
    shared: Arc<Shared>,
    request: Request<Streaming<ToServer>>,
) -> Result<ReceiverStream<Result<ToClient, Status>>, Status> {
    let Ok(permit) = shared.streams.clone().try_acquire_owned() else {
        return Err(Status::resource_exhausted("too many streams: come back later"));
    };
    let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("a connection without an address"))?;
    let (address, slot) = (peer.address, Slot { _permit: permit, _carried: peer.carry() });
    let node = authenticate(&shared, &request, address).await?;
    let (send, receive) = mpsc::channel(QUEUE);
    // Ends with the client, with the server, or when the client is too slow.
    match node {
        Some(node) => tokio::spawn(run(shared, node, request.into_inner(), send, slot)),
        None => tokio::spawn(postpone(shared, request.into_inner(), send, slot)),
    };
    Ok(ReceiverStream::new(receive))
}

/// Sends away who cannot be judged yet, as a proxy that is known is: it comes back soon, with no growing pause.
async fn postpone(shared: Arc<Shared>, mut incoming: Streaming<ToServer>, outgoing: mpsc::Sender<Result<ToClient, Status>>, _slot: Slot) {
    // Its first message, whatever it says: an answer before it would be taken for a broken stream.
    let _ = tokio::time::timeout(shared.limits.hello, incoming.message()).await;
    send_away(&shared, &outgoing).await;
}

/// Who the client is; none: nobody can tell yet.
async fn authenticate(shared: &Shared, request: &Request<Streaming<ToServer>>, peer: SocketAddr) -> Result<Option<Node>, Status> {
    let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) else {
        tracing::warn!(%peer, "a client without a token was refused");
        return Err(Status::unauthenticated("a bearer token is needed"));
    };
    match shared.authenticate.authenticate(token, peer).await {
        Ok(node) => Ok(Some(node)),
        Err(error @ Unauthenticated::Refused(_)) => {
            tracing::warn!(%peer, %error, "a client's token was refused");
            Err(Status::unauthenticated("the token is not valid here"))
        }
        Err(error @ Unauthenticated::NotYet(_)) => {
            tracing::info!(%peer, %error, "a client's token cannot be judged yet: it is to come back");
            Ok(None)
        }
    }
}

async fn run(
    shared: Arc<Shared>,
    node: Node,
    mut incoming: Streaming<ToServer>,
    outgoing: mpsc::Sender<Result<ToClient, Status>>,
    _slot: Slot,
) {
    let Some(silent) = Silent::enter(&shared, &node) else {
        return refuse(&outgoing, Status::resource_exhausted("too many streams of this proxy have not said hello")).await;
    };
    let hello = match tokio::time::timeout(shared.limits.hello, incoming.message()).await {
        Ok(Ok(Some(ToServer::Hello(hello)))) => hello,
        Ok(Ok(Some(_))) => return refuse(&outgoing, Status::failed_precondition("the first message must be hello")).await,
        Ok(Ok(None) | Err(_)) => return,
        Err(_) => return refuse(&outgoing, Status::deadline_exceeded("no hello came")).await,
    };
    drop(silent);
    if hello.protocol > PROTOCOL {
        let text =
            format!("this controller speaks protocol {PROTOCOL} at most, the client speaks {}: upgrade the controller", hello.protocol);
        return refuse(&outgoing, Status::failed_precondition(text)).await;
    }
    tracing::info!(node = node.name, uid = node.uid, calls_itself = hello.node, has = hello.have.len(), "a proxy has connected");
    let Some(view) = shared.source.subscribe(&node) else {
        tracing::info!(node = node.name, "a proxy came before there was anything for it: it is to come back");
        return send_away(&shared, &outgoing).await;
    };
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let presence = Presence::enter(shared.clone(), node.clone(), questions);
    let session = Session::new(&shared, &node, hello, view, outgoing.clone());
    let ended = session.serve(incoming, asked, &presence.replaced).await;
    tracing::info!(node = node.name, uid = node.uid, why = %ended, "a proxy's stream has ended");
    match ended {
        End::Gone => {}
        End::Stopped | End::Withdrawn => send_away(&shared, &outgoing).await,
        End::Replaced => refuse(&outgoing, Status::aborted("a newer stream of this proxy took over")).await,
        End::Late => refuse(&outgoing, Status::deadline_exceeded("what was sent was not taken or not acknowledged in time")).await,
        End::Broken(text) => refuse(&outgoing, Status::invalid_argument(text)).await,
    }
}

async fn send_away(shared: &Shared, outgoing: &mpsc::Sender<Result<ToClient, Status>>) {
    let retry_after = jitter(shared.limits.spread);
    let _ = tokio::time::timeout(FAREWELL, outgoing.send(Ok(ToClient::Goaway(Goaway { retry_after })))).await;
}

async fn refuse(outgoing: &mpsc::Sender<Result<ToClient, Status>>, status: Status) {
    let _ = tokio::time::timeout(FAREWELL, outgoing.send(Err(status))).await;
}

fn jitter(spread: Duration) -> u64 {
    let most = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
    rand::random_range(0..=most)
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the proxy went away")]
    Gone,
    #[error("the server stops")]
    Stopped,
    #[error("there is nothing for this proxy any more")]
    Withdrawn,
    #[error("a newer stream took over")]
    Replaced,
    #[error("what was sent was not taken or not acknowledged in time")]
    Late,
    #[error("{0}")]
    Broken(String),
}

/// A stream that has not said Hello.
struct Silent {
    shared: Arc<Shared>,
    uid: String,
}

impl Silent {
    fn enter(shared: &Arc<Shared>, node: &Node) -> Option<Self> {
        let mut silent = shared.silent.lock();
        let count = silent.entry(node.uid.clone()).or_default();
        (*count < SILENT).then(|| {
            *count += 1;
            Self { shared: shared.clone(), uid: node.uid.clone() }
        })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let mut silent = self.shared.silent.lock();
        if let Some(count) = silent.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                silent.remove(&self.uid);
            }
        }
    }
}

/// A node's entry among the connected, for as long as its newest stream lasts.
struct Presence {
    shared: Arc<Shared>,
    node: Node,
    serial: u64,
    replaced: CancellationToken,
}

impl Presence {
    fn enter(shared: Arc<Shared>, node: Node, questions: mpsc::Sender<Question>) -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let replaced = CancellationToken::new();
        let entry = Connected { node: node.clone(), serial, questions, replaced: replaced.clone() };
        let mut connected = shared.connected.lock();
        // A proxy that comes back before its old connection is known to be dead takes its own place.
        if let Some(old) = connected.insert(node.uid.clone(), entry) {
            old.replaced.cancel();
        }
        // Told while nobody else of this node can come or go, or the word that the old stream is gone might come last.
        shared.source.presence(&node, true);
        drop(connected);
        Self { shared, node, serial, replaced }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut connected = self.shared.connected.lock();
        if connected.get(&self.node.uid).is_some_and(|entry| entry.serial == self.serial) {
            connected.remove(&self.node.uid);
            self.shared.source.presence(&self.node, false);
        }
    }
}

struct Session<'a> {
    shared: &'a Shared,
    node: &'a Node,
    limits: &'a Limits,
    view: watch::Receiver<View>,
    outgoing: mpsc::Sender<Result<ToClient, Status>>,
    held: Held,
    wanted: BTreeMap<Subject, Vec<Key>>,
    txn: u64,
    in_flight: Option<InFlight>,
    /// Found messages for what the next transaction brings.
    answers: Vec<ToClient>,
    /// Held until the first transaction is acknowledged.
    initial: Option<OwnedSemaphorePermit>,
    questions: HashMap<u64, oneshot::Sender<serde_json::Value>>,
    last_question: u64,
}

struct InFlight {
    /// What the client has once it acknowledges.
    view: View,
    wanted: Layer,
    deadline: Instant,
    answers: Vec<ToClient>,
}

impl<'a> Session<'a> {
    fn new(
        shared: &'a Shared,
        node: &'a Node,
        hello: Hello,
        view: watch::Receiver<View>,
        outgoing: mpsc::Sender<Result<ToClient, Status>>,
    ) -> Self {
        // Their keys are looked up with the first difference.
        let wanted = hello.wants.into_iter().take(WANTED).map(|subject| (subject, Vec::new()));
        Self {
            shared,
            node,
            limits: &shared.limits,
            view,
            outgoing,
            held: Held::Said(hello.have),
            wanted: wanted.collect(),
            txn: 0,
            in_flight: None,
            answers: Vec::new(),
            initial: None,
            questions: HashMap::new(),
            last_question: 0,
        }
    }

    async fn serve(mut self, mut incoming: Streaming<ToServer>, mut asked: mpsc::Receiver<Question>, replaced: &CancellationToken) -> End {
        let shared = self.shared;
        self.initial = tokio::select! {
            permit = shared.initial_syncs.clone().acquire_owned() => permit.ok(),
            () = shared.stop.cancelled() => return End::Stopped,
            () = replaced.cancelled() => return End::Replaced,
        };
        let mut first = true;
        loop {
            let step = self.step(&mut incoming, &mut asked, &mut first);
            let outcome = tokio::select! {
                outcome = step => outcome,
                () = shared.stop.cancelled() => Err(End::Stopped),
                () = replaced.cancelled() => Err(End::Replaced),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    /// Sends what is due, then waits for the next thing to happen and does what it asks for.
    async fn step(
        &mut self,
        incoming: &mut Streaming<ToServer>,
        asked: &mut mpsc::Receiver<Question>,
        first: &mut bool,
    ) -> Result<(), End> {
        if self.in_flight.is_none() {
            self.send_difference(std::mem::take(first)).await?;
        }
        let free = self.in_flight.is_none();
        let deadline = self.in_flight.as_ref().map(|flight| flight.deadline);
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => self.heard(message).await,
                Ok(None) | Err(_) => Err(End::Gone),
            },
            changed = self.view.changed(), if free => changed.map_err(|_| End::Withdrawn),
            Some(question) = asked.recv() => self.ask(question).await,
            () = at(deadline) => Err(End::Late),
        }
    }

    /// Sends what the client lacks, if anything. The first transaction is sent even when it is empty: it tells a client that resumes that
    /// what it has is complete.
    async fn send_difference(&mut self, first: bool) -> Result<(), End> {
        let view = self.view.borrow_and_update().clone();
        // Anew each time: what answers a subject changes with the view.
        self.wanted.iter_mut().for_each(|(subject, keys)| *keys = readable(self.shared, self.node, &view, subject));
        let wanted: BTreeSet<Key> = self.wanted.values().flatten().cloned().collect();
        let wanted = Difference::beyond(&view, &wanted);
        let difference = Difference::between(&self.held, &view, &wanted);
        let answers = std::mem::take(&mut self.answers);
        if difference.is_empty() && !first {
            self.held = Held::Acknowledged(Box::new(view), wanted);
            return self.send_all(answers, Instant::now() + self.limits.ack).await;
        }
        self.txn += 1;
        let parts = difference.parts(self.txn);
        // From now on: a client that does not even read its parts is late too.
        let deadline = Instant::now() + self.limits.ack;
        self.send_all(parts, deadline).await?;
        self.in_flight = Some(InFlight { view, wanted, deadline, answers });
        Ok(())
    }

    async fn send_all(&self, messages: Vec<ToClient>, deadline: Instant) -> Result<(), End> {
        for message in messages {
            match tokio::time::timeout_at(deadline, self.outgoing.send(Ok(message))).await {
                Ok(sent) => sent.map_err(|_| End::Gone)?,
                Err(_) => return Err(End::Late),
            }
        }
        Ok(())
    }

    async fn send(&self, message: ToClient) -> Result<(), End> {
        self.send_all(vec![message], Instant::now() + self.limits.ack).await
    }

    async fn heard(&mut self, message: ToServer) -> Result<(), End> {
        match message {
            ToServer::Hello(_) => Err(End::Broken("hello came twice".into())),
            ToServer::Ack(ack) => self.acknowledged(ack).await,
            ToServer::Want(want) => self.want(want).await,
            ToServer::Release(release) => {
                self.wanted.remove(&release.subject);
                Ok(())
            }
            ToServer::Sign(sign) => self.sign(sign).await,
            ToServer::Explained(Explained { id, answer }) => {
                if let Some(waiting) = self.questions.remove(&id) {
                    let _ = waiting.send(answer);
                }
                Ok(())
            }
            ToServer::Report(report) => {
                self.shared.source.reported(self.node, report.report);
                Ok(())
            }
            ToServer::Unknown => Ok(()),
        }
    }

    async fn acknowledged(&mut self, ack: Ack) -> Result<(), End> {
        let Some(flight) = self.in_flight.take_if(|_| ack.txn == self.txn) else {
            return Err(End::Broken(format!("transaction {} was acknowledged, but {} is the last sent", ack.txn, self.txn)));
        };
        self.initial = None;
        self.shared.source.acknowledged(self.node, &flight.view, &ack);
        self.held = Held::Acknowledged(Box::new(flight.view), flight.wanted);
        self.send_all(flight.answers, Instant::now() + self.limits.ack).await
    }

    async fn want(&mut self, Want { id, subject }: Want) -> Result<(), End> {
        let keys = readable(self.shared, self.node, &self.view.borrow(), &subject);
        if keys.is_empty() || (self.wanted.len() >= WANTED && !self.wanted.contains_key(&subject)) {
            let ttl = u64::try_from(self.limits.not_found.as_millis()).unwrap_or(u64::MAX);
            return self.send(ToClient::NotFound(NotFound { id, ttl })).await;
        }
        if self.answers.len() >= ANSWERS {
            return Err(End::Broken(format!("more than {ANSWERS} questions wait for an answer")));
        }
        self.answers.push(ToClient::Found(Found { id, keys: keys.clone() }));
        self.wanted.insert(subject, keys);
        Ok(())
    }

    async fn sign(&mut self, Sign { id, csr }: Sign) -> Result<(), End> {
        // In turn, not beside: one client cannot keep the CA busier than one request at a time.
        let answer = match self.shared.source.sign(self.node, &csr).await {
            Ok(chain) => ToClient::Signed(Signed { id, chain }),
            Err(refusal) => {
                tracing::warn!(node = self.node.name, %refusal, "a certificate was refused");
                ToClient::Refused(Refused { id, reason: refusal.to_string() })
            }
        };
        self.send(answer).await
    }

    async fn ask(&mut self, question: Question) -> Result<(), End> {
        self.questions.retain(|_, waiting| !waiting.is_closed());
        if self.questions.len() >= QUESTIONS {
            return Ok(());
        }
        self.last_question += 1;
        self.questions.insert(self.last_question, question.answer);
        self.send(ToClient::Explain(Explain { id: self.last_question, request: question.request })).await
    }
}

/// The keys that answer a subject: within the node's view, and none of a kind that holds secrets, whatever the source says.
fn readable(shared: &Shared, node: &Node, view: &View, subject: &Subject) -> Vec<Key> {
    if matches!(subject, Subject::Key(key) if holds_secrets(&key.kind)) {
        return Vec::new();
    }
    let mut keys = shared.source.find(node, subject);
    keys.retain(|key| !holds_secrets(&key.kind) && (view.given(key).is_some() || view.offered.contains_key(key)));
    keys
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
