//! One connection of a client, from Hello to its end.

use super::assembly::Assembly;
use super::{ABSENT, ANSWER, AskError, CONNECT, Driver, End, LONGEST_RETRY, Question, Sink};
use crate::resource::kind::{SCHEMA_REVISION, known_kinds};
use crate::wire::codec::Json;
use crate::wire::{
    Ack, Explain, Explained, Found, Goaway, Hello, MAX_MESSAGE, METHOD, NotFound, PROTOCOL, Refused, Rejected, Release, Report, Sign,
    Signed, Subject, ToClient, ToServer, Update, Want,
};
use selvage_policy::Key;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

/// Messages to the controller between us and the connection.
const QUEUE: usize = 16;
/// Questions without an answer yet.
const PENDING: usize = 1024;
/// Subjects wanted at once.
const WANTED: usize = 4096;
/// Rejections in an Ack, and bytes of the reason of one: a longer Ack would be too large to be taken, and with it everything else.
const REJECTED: usize = 1000;
const REASON: usize = 512;

/// For what a closed stream still has to say.
const LAST_WORDS: Duration = Duration::from_millis(100);

enum Pending {
    Sign(oneshot::Sender<Result<String, AskError>>),
    Want(Subject, oneshot::Sender<Result<Vec<Key>, AskError>>),
}

impl Pending {
    fn is_closed(&self) -> bool {
        match self {
            Self::Sign(answer) => answer.is_closed(),
            Self::Want(_, answer) => answer.is_closed(),
        }
    }
}

pub(super) async fn run<S: Sink>(driver: &mut Driver<S>, channel: Channel, token: &str) -> End {
    let (send, receive) = mpsc::channel(QUEUE);
    let hello = hello(driver);
    let whole = hello.have.is_empty();
    if send.send(ToServer::Hello(hello)).await.is_err() {
        return End::Closed;
    }
    let mut request = Request::new(ReceiverStream::new(receive));
    // A header cannot hold every text; the message must not quote this one.
    let Ok(mut bearer) = MetadataValue::try_from(format!("Bearer {token}")) else {
        return End::Refused("the token has characters that no token has".into());
    };
    bearer.set_sensitive(true);
    request.metadata_mut().insert("authorization", bearer);
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    if let Err(error) = grpc.ready().await {
        return End::Lost(error.to_string());
    }
    let path = http::uri::PathAndQuery::from_static(METHOD);
    let opened = tokio::time::timeout(CONNECT, grpc.streaming(request, path, Json::<ToServer, ToClient>::default())).await;
    let mut incoming = match opened {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return End::Refused(format!("{:?}: {}", status.code(), status.message())),
        Err(_) => return End::Lost(format!("the stream was not opened within {CONNECT:?}")),
    };
    driver.told.send_modify(|connection| {
        connection.connected = true;
        connection.since = Instant::now();
        connection.error = None;
    });
    tracing::info!(address = driver.options.address, "the controller is connected");
    let mut session = Session { driver, send, assembly: Assembly::default(), whole, malformed: BTreeMap::new(), pending: HashMap::new() };
    loop {
        let outcome = tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => session.heard(message).await,
                Ok(None) => Err(End::Closed),
                Err(status) => Err(lost(&status)),
            },
            question = session.driver.asked.recv() => match question {
                Some(question) => session.ask(question).await,
                // Every handle is gone; updates go on.
                None => std::future::pending().await,
            },
        };
        match outcome {
            Ok(()) => {}
            // Whoever closed the stream has said why, but a failed send was noticed first.
            Err(End::Closed) => match tokio::time::timeout(LAST_WORDS, last_words(&mut incoming)).await {
                Ok(Some(end)) => return end,
                Ok(None) | Err(_) => return End::Closed,
            },
            Err(end) => return end,
        }
    }
}

async fn last_words(incoming: &mut tonic::Streaming<ToClient>) -> Option<End> {
    loop {
        match incoming.message().await {
            Ok(Some(ToClient::Goaway(Goaway { retry_after }))) => return Some(sent_away(retry_after)),
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(status) => return Some(lost(&status)),
        }
    }
}

fn sent_away(retry_after: u64) -> End {
    End::Goaway(Duration::from_millis(retry_after).min(LONGEST_RETRY))
}

fn lost(status: &tonic::Status) -> End {
    End::Lost(format!("{:?}: {}", status.code(), status.message()))
}

fn hello<S: Sink>(driver: &Driver<S>) -> Hello {
    let mut have = driver.sink.have();
    let bytes: usize = have.iter().map(|(key, version)| key.kind.len() + key.namespace.len() + key.name.len() + version.len() + 8).sum();
    if bytes > driver.most_have {
        have = BTreeMap::new();
    }
    Hello {
        protocol: PROTOCOL,
        node: driver.options.node.clone(),
        kinds: known_kinds().map(|kind| (kind.to_string(), SCHEMA_REVISION)).collect(),
        have,
        wants: driver.wanted.iter().cloned().collect(),
    }
}

struct Session<'a, S> {
    driver: &'a mut Driver<S>,
    send: mpsc::Sender<ToServer>,
    assembly: Assembly,
    /// The next transaction is all there is: we said that we have nothing, so the controller cannot say what of it is gone.
    whole: bool,
    /// What came on this connection and could not even be parsed: it goes into every Ack until it is replaced.
    malformed: BTreeMap<Key, Rejected>,
    pending: HashMap<u64, Pending>,
}

impl<S: Sink> Session<'_, S> {
    async fn say(&self, message: ToServer) -> Result<(), End> {
        match tokio::time::timeout(ANSWER, self.send.send(message)).await {
            Ok(sent) => sent.map_err(|_| End::Closed),
            Err(_) => Err(End::Lost(format!("the controller took no message for {ANSWER:?}"))),
        }
    }

    async fn heard(&mut self, message: ToClient) -> Result<(), End> {
        match message {
            ToClient::Update(update) => return self.update(update).await,
            ToClient::Found(Found { id, keys }) => {
                if let Some(Pending::Want(_, answer)) = self.pending.remove(&id) {
                    let _ = answer.send(Ok(keys));
                }
            }
            ToClient::NotFound(NotFound { id, ttl }) => {
                if let Some(Pending::Want(subject, answer)) = self.pending.remove(&id) {
                    self.driver.wanted.remove(&subject);
                    remember(&mut self.driver.absent, subject, Duration::from_millis(ttl));
                    let _ = answer.send(Err(AskError::NotFound));
                }
            }
            ToClient::Signed(Signed { id, chain }) => {
                if let Some(Pending::Sign(answer)) = self.pending.remove(&id) {
                    let _ = answer.send(Ok(chain));
                }
            }
            ToClient::Refused(Refused { id, reason }) => {
                if let Some(Pending::Sign(answer)) = self.pending.remove(&id) {
                    let _ = answer.send(Err(AskError::Refused(reason)));
                }
            }
            ToClient::Explain(Explain { id, request }) => {
                let answer = self.driver.sink.explain(request).await;
                return self.say(ToServer::Explained(Explained { id, answer })).await;
            }
            ToClient::Goaway(Goaway { retry_after }) => {
                return Err(sent_away(retry_after));
            }
            ToClient::Unknown => {}
        }
        Ok(())
    }

    async fn update(&mut self, update: Update) -> Result<(), End> {
        let committed = self.assembly.take(update).map_err(|error| End::Nonsense(error.to_string()))?;
        let Some((txn, mut transaction, malformed)) = committed else { return Ok(()) };
        if std::mem::take(&mut self.whole) {
            let sent: BTreeSet<&Key> = transaction.upserts.iter().map(|resource| &resource.key).collect();
            transaction.removals = self.driver.sink.have().into_keys().filter(|key| !sent.contains(key)).collect();
        }
        for key in transaction.upserts.iter().map(|resource| &resource.key).chain(&transaction.removals) {
            self.malformed.remove(key);
        }
        self.malformed.extend(malformed.into_iter().map(|rejection| (rejection.key.clone(), rejection)));
        let unusable = self.driver.sink.apply(transaction).await?;
        // The shell of a malformed one is rejected a second time; the first reason is the better one.
        let known = unusable.into_iter().filter(|rejection| !self.malformed.contains_key(&rejection.key));
        let rejected: Vec<Rejected> = known.chain(self.malformed.values().cloned()).collect();
        for rejection in &rejected {
            tracing::warn!(key = %rejection.key, reason = rejection.reason, "a Resource is rejected");
        }
        self.driver.told.send_modify(|connection| {
            connection.transactions += 1;
            connection.current = true;
        });
        self.say(ToServer::Ack(Ack { txn, rejected: bounded(rejected) })).await
    }

    async fn ask(&mut self, question: Question) -> Result<(), End> {
        self.pending.retain(|_, pending| !pending.is_closed());
        let busy = self.pending.len() >= PENDING;
        self.driver.last_id += 1;
        let id = self.driver.last_id;
        match question {
            Question::Sign(_, answer) if busy => drop(answer.send(Err(AskError::Busy))),
            Question::Want(_, answer) if busy || self.driver.wanted.len() >= WANTED => drop(answer.send(Err(AskError::Busy))),
            // Who asked has given up meanwhile.
            Question::Sign(_, answer) if answer.is_closed() => {}
            Question::Want(_, answer) if answer.is_closed() => {}
            Question::Sign(csr, answer) => {
                self.pending.insert(id, Pending::Sign(answer));
                self.say(ToServer::Sign(Sign { id, csr })).await?;
            }
            Question::Want(subject, answer) if is_absent(&self.driver.absent, &subject) => {
                tracing::debug!(?subject, "known to be absent");
                let _ = answer.send(Err(AskError::NotFound));
            }
            Question::Want(subject, answer) => {
                self.driver.wanted.insert(subject.clone());
                self.pending.insert(id, Pending::Want(subject.clone(), answer));
                self.say(ToServer::Want(Want { id, subject })).await?;
            }
            Question::Release(subject) => {
                self.driver.wanted.remove(&subject);
                self.say(ToServer::Release(Release { subject })).await?;
            }
            Question::Report(report) => self.say(ToServer::Report(Report { report })).await?,
        }
        Ok(())
    }
}

/// The first rejections, with the first words of their reasons; the last one says how many are left out.
fn bounded(mut rejected: Vec<Rejected>) -> Vec<Rejected> {
    let more = rejected.len().saturating_sub(REJECTED);
    rejected.truncate(REJECTED);
    for rejection in &mut rejected {
        rejection.reason.truncate(rejection.reason.floor_char_boundary(REASON));
    }
    if let Some(last) = rejected.last_mut().filter(|_| more > 0) {
        last.reason.push_str(&format!("; {more} more Resources are rejected"));
    }
    rejected
}

fn is_absent(absent: &HashMap<Subject, Instant>, subject: &Subject) -> bool {
    absent.get(subject).is_some_and(|until| Instant::now() < *until)
}

fn remember(absent: &mut HashMap<Subject, Instant>, subject: Subject, ttl: Duration) {
    let now = Instant::now();
    if absent.len() >= ABSENT {
        absent.retain(|_, until| now < *until);
    }
    if absent.len() < ABSENT {
        absent.insert(subject, now + ttl.min(LONGEST_RETRY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::parse;

    #[test]
    fn an_acknowledgement_stays_small_enough_to_be_taken() {
        let one = |number: usize| Rejected {
            key: Key::new("AuthorizationPolicy", "n".repeat(63), format!("{number:0>253}")),
            version: "0".repeat(32),
            // Two bytes a letter, six as JSON.
            reason: "ä\u{1}".repeat(1000),
        };
        let table = [(0, 0), (1, 1), (REJECTED, REJECTED), (REJECTED + 1, REJECTED), (20 * REJECTED, REJECTED)];
        for (rejected, told) in table {
            let ack = ToServer::Ack(Ack { txn: 1, rejected: bounded((0..rejected).map(one).collect()) });
            let text = serde_json::to_vec(&ack).expect("JSON");
            assert!(text.len() < MAX_MESSAGE, "{} bytes for {rejected}", text.len());
            let Ok(ToServer::Ack(ack)) = parse(&text) else { panic!("an Ack") };
            assert_eq!(ack.rejected.len(), told);
            let more = (rejected - told > 0).then(|| format!("; {} more Resources are rejected", rejected - told));
            assert!(more.is_none_or(|more| ack.rejected.last().is_some_and(|last| last.reason.ends_with(&more))), "{rejected}");
        }
    }
}
