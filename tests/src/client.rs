//! A client that speaks HTTP/1.1, HTTP/2 and TLS, one connection at a time, so that a test knows what went over which.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything a test waits for on purpose.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a request goes, and how.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    version: Version,
    tls: Option<(Arc<ClientConfig>, String)>,
    headers: HeaderMap,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its version.
    pub version: Version,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: HeaderMap,
}

impl Answer {
    /// A field, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Panics with everything, unless the status is this one.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, self.text());
        self
    }
}

impl Client {
    /// HTTP/1.1 without TLS.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, version: Version::HTTP_11, tls: None, headers: HeaderMap::new() }
    }

    /// The same in HTTP/2 (by prior knowledge, or by ALPN inside TLS).
    pub fn http2(mut self) -> Self {
        self.version = Version::HTTP_2;
        self
    }

    /// The same inside TLS, with this server name.
    pub fn tls(mut self, config: &ClientConfig, name: &str) -> Self {
        let mut config = config.clone();
        config.alpn_protocols = vec![if self.version == Version::HTTP_2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        self.tls = Some((Arc::new(config), name.into()));
        self
    }

    /// The same with one more field in every request.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers
            .append(http::HeaderName::try_from(name).expect("a field name"), http::HeaderValue::try_from(value).expect("a field value"));
        self
    }

    /// GET on a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Any request on a connection of its own.
    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        self.try_send(method, path, body).await.unwrap_or_else(|error| panic!("{path} at {}: {error:#}", self.address))
    }

    /// The same, where failing is one of the answers.
    pub async fn try_send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
        self.connect().await?.send(method, path, body).await
    }

    /// A connection to send several requests on.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let connecting = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, anyhow::Error>(match &self.tls {
                None => self.handshake(stream).await?,
                Some((config, name)) => {
                    let name = ServerName::try_from(name.clone())?;
                    self.handshake(tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await?).await?
                }
            })
        };
        tokio::time::timeout(PATIENCE, connecting).await?
    }

    async fn handshake(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> anyhow::Result<Connection> {
        let io = TokioIo::new(stream);
        let sender = if self.version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection.with_upgrades());
            Sender::One(sender)
        };
        Ok(Connection { client: self.clone(), sender })
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    sender: Sender,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Whether another request can be sent on it: the peer has not closed it.
    pub async fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::One(sender) => sender.ready().await.is_ok(),
            Sender::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Gives a field another value in the requests to come.
    pub fn rename(&mut self, name: &str, value: &str) {
        let name = http::HeaderName::try_from(name).expect("a field name");
        self.client.headers.insert(name, http::HeaderValue::try_from(value).expect("a field value"));
    }

    /// Sends a request and reads the whole response.
    pub async fn send(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
        let scheme = if self.client.tls.is_some() { "https" } else { "http" };
        let named = self.client.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).map(String::from);
        let authority = named.or_else(|| self.client.tls.as_ref().map(|(_, name)| format!("{name}:{}", self.client.address.port())));
        let authority = authority.unwrap_or_else(|| self.client.address.to_string());
        let uri: Uri = match self.sender {
            Sender::One(_) => path.parse()?,
            Sender::Two(_) => format!("{scheme}://{authority}{path}").parse()?,
        };
        let mut request = Request::builder().method(method).uri(uri).body(Full::new(body.into()))?;
        *request.headers_mut() = self.client.headers.clone();
        let exchange = async {
            let response = match &mut self.sender {
                Sender::One(sender) => {
                    request.headers_mut().insert(http::header::HOST, authority.parse()?);
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Two(sender) => {
                    request.headers_mut().remove(http::header::HOST);
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let (head, body) = response.into_parts();
            let collected = body.collect().await?;
            let trailers = collected.trailers().cloned().unwrap_or_default();
            Ok::<_, anyhow::Error>(Answer {
                status: head.status.as_u16(),
                version: head.version,
                headers: head.headers,
                body: collected.to_bytes(),
                trailers,
            })
        };
        tokio::time::timeout(PATIENCE, exchange).await?
    }
}

/// Sends bytes as they are and reads until the peer closes, or until it has been silent for a while.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.write_all(bytes).await.expect("the bytes are sent");
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut chunk)).await {
        answer.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// TLS that trusts these roots (PEM).
pub fn trusting(roots: &str) -> ClientConfig {
    use rustls_pki_types::pem::PemObject;
    let mut store = rustls::RootCertStore::empty();
    for root in rustls_pki_types::CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.expect("a certificate in PEM")).expect("a root");
    }
    ClientConfig::builder().with_root_certificates(store).with_no_client_auth()
}

/// Installs the TLS provider of this process; again is fine.
pub fn crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
