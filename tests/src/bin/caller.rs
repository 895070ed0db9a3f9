//! A client for pods of the test cluster, whose image has no shell: one request, some bytes, or a proxy's stream, as `kubectl exec` asks.
//! Its answers are JSON on standard output.

use anyhow::Context;
use async_trait::async_trait;
use clap::{Args, Parser, Subcommand};
use http::Method;
use rcgen::{CertificateParams, KeyPair, SanType};
use selvage_config::resource::Secret;
use selvage_config::wire::client::{AskError, Client as Stream, NotApplied, Options, Sink, Text, Transaction};
use selvage_config::wire::{Rejected, Subject};
use selvage_policy::Key;
use selvage_tests::Client;
use selvage_tests::client::crypto;
use selvage_tests::grpc::Catalogue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client for pods of the test cluster.
#[derive(Parser)]
#[command(name = "caller")]
struct Program {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Does nothing, until it is told to stop.
    Wait,
    /// One HTTP request: prints `{status, headers, body}`, or `{error}`.
    Call(Call),
    /// Sends a text over TCP: prints `{text}`, what came back for as many bytes, or `{error}`.
    Say {
        /// `host:port`.
        to: String,
        /// What to say.
        text: String,
    },
    /// Sends back over TCP whatever comes, in capitals. Until it is told to stop.
    Echo {
        /// Where to listen.
        listen: SocketAddr,
    },
    /// Asks a bookshop's catalogue for a book over gRPC: prints `{title, metadata}`, or `{error}`.
    Book {
        /// `host:port`.
        to: String,
        /// Its number.
        id: u32,
    },
    /// Speaks to the controller as a proxy does: prints `{given: [key], wanted: {key: answer}, signed: {identity: answer}}`, or `{error}`.
    Stream(Controller),
}

#[derive(Args)]
struct Call {
    /// `host:port`.
    to: String,
    /// Path and query.
    target: String,
    /// The Host, if it is to be another.
    #[arg(long)]
    host: Option<String>,
    /// Another method than GET.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// `name: value`; may be repeated.
    #[arg(long)]
    header: Vec<String>,
    /// HTTP/2 by prior knowledge.
    #[arg(long)]
    http2: bool,
}

#[derive(Args)]
struct Controller {
    /// `host:port`.
    #[arg(long)]
    controller: String,
    /// The name in its certificate.
    #[arg(long)]
    name: String,
    /// Roots of that certificate.
    #[arg(long)]
    roots: PathBuf,
    /// The token's file.
    #[arg(long)]
    token: Option<PathBuf>,
    /// The token itself.
    #[arg(long, conflicts_with = "token")]
    token_text: Option<String>,
    /// A Resource to ask for beyond what is given: `Kind/namespace/name`; may be repeated.
    #[arg(long)]
    want: Vec<Key>,
    /// An identity to ask a certificate for: `spiffe://…`; may be repeated.
    #[arg(long)]
    sign: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    crypto();
    let answer = match Program::parse().task {
        Task::Wait => return until_told().await,
        Task::Echo { listen } => tokio::select! {
            ended = echo(listen) => return ended,
            told = until_told() => return told,
        },
        Task::Call(request) => call(&request).await,
        Task::Say { to, text } => say(&to, &text).await,
        Task::Book { to, id } => book(&to, id).await,
        Task::Stream(controller) => stream(controller).await,
    };
    let answer = answer.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
    writeln!(std::io::stdout(), "{answer}").context("nobody reads the answer")
}

async fn until_told() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::terminate()).context("no signals")?.recv().await;
    Ok(())
}

async fn resolve(to: &str) -> anyhow::Result<SocketAddr> {
    tokio::net::lookup_host(to).await.with_context(|| to.to_string())?.next().with_context(|| format!("{to} has no address"))
}

async fn call(request: &Call) -> anyhow::Result<Value> {
    let mut client = Client::new(resolve(&request.to).await?).with("host", request.host.as_deref().unwrap_or(&request.to));
    for line in &request.header {
        let (name, value) = line.split_once(':').with_context(|| format!("--header {line}: there is no colon"))?;
        client = client.with(name.trim(), value.trim());
    }
    if request.http2 {
        client = client.http2();
    }
    let answer = tokio::time::timeout(PATIENCE, client.try_send(request.method.clone(), &request.target, "")).await??;
    let headers: BTreeMap<_, _> =
        answer.headers.iter().map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    let body = serde_json::from_slice(&answer.body).unwrap_or_else(|_| Value::String(answer.text()));
    Ok(json!({ "status": answer.status, "headers": headers, "body": body }))
}

async fn say(to: &str, text: &str) -> anyhow::Result<Value> {
    let exchange = async {
        let mut stream = TcpStream::connect(resolve(to).await?).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        anyhow::Ok(json!({ "text": String::from_utf8_lossy(&back) }))
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")?
}

async fn book(to: &str, id: u32) -> anyhow::Result<Value> {
    let (address, host) = (resolve(to).await?, to.split(':').next().unwrap_or(to));
    let asked = async { Catalogue::connect(address, host).await.get(id).await };
    let (book, metadata) = tokio::time::timeout(PATIENCE, asked).await.context("no answer in time")??;
    let metadata: BTreeMap<_, _> =
        metadata.as_ref().iter().map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    Ok(json!({ "title": book["title"], "metadata": metadata }))
}

async fn echo(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| listen.to_string())?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        // Ends with its connection.
        tokio::spawn(async move {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                chunk.make_ascii_uppercase();
                if stream.write_all(&chunk[..count]).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// Takes what it is given, and notes only what it is called: values may be private keys.
struct Keys(tokio::sync::mpsc::UnboundedSender<Vec<Key>>);

#[async_trait]
impl Sink for Keys {
    fn have(&self) -> BTreeMap<Key, String> {
        BTreeMap::new()
    }

    async fn apply(&mut self, transaction: Transaction) -> Result<Vec<Rejected>, NotApplied> {
        // Only the first one is waited for.
        let _ = self.0.send(transaction.upserts.into_iter().map(|resource| resource.key).collect());
        Ok(Vec::new())
    }
}

/// What an answer comes to: `granted`, `NotFound`, `Refused`, or another failure.
fn answer<T>(answer: Result<T, AskError>) -> String {
    match answer {
        Ok(_) => "granted".into(),
        Err(AskError::NotFound) => "NotFound".into(),
        Err(AskError::Refused(_)) => "Refused".into(),
        Err(other) => other.to_string(),
    }
}

fn signing_request(identity: &str) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}

async fn stream(controller: Controller) -> anyhow::Result<Value> {
    let token = match (controller.token, controller.token_text) {
        (Some(file), _) => Text::File(file),
        (None, text) => Text::Inline(Secret::new(text.context("--token or --token-text is needed")?)),
    };
    let (told, mut given) = tokio::sync::mpsc::unbounded_channel();
    let (client, driver) = Stream::new(
        Options {
            address: controller.controller,
            server_name: controller.name,
            roots: Text::File(controller.roots),
            token,
            node: "caller".into(),
            backoff: (Duration::from_secs(1), Duration::from_secs(1)),
        },
        Keys(told),
    );
    let mut connection = client.connection();
    let stop = CancellationToken::new();
    let outcome = async {
        tokio::select! {
            keys = given.recv() => {
                let keys: Vec<String> = keys.context("the stream ended")?.iter().map(Key::to_string).collect();
                let (mut wanted, mut signed) = (BTreeMap::new(), BTreeMap::new());
                for key in controller.want {
                    wanted.insert(key.to_string(), answer(client.want(Subject::Key(key)).await));
                }
                for identity in controller.sign {
                    let request = signing_request(&identity)?;
                    signed.insert(identity, answer(client.sign(request).await));
                }
                Ok(json!({ "given": keys, "wanted": wanted, "signed": signed }))
            }
            refused = connection.wait_for(|now| now.error.is_some()) => {
                let error = refused.map(|now| now.error.clone().unwrap_or_default()).context("the stream ended")?;
                Err(anyhow::anyhow!(error))
            }
        }
    };
    tokio::select! {
        outcome = tokio::time::timeout(PATIENCE, outcome) => outcome.context("the controller does not answer")?,
        () = driver.run(stop) => anyhow::bail!("the stream ended"),
    }
}
