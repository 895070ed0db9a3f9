//! Clients of standalone proxies: every version, plain or over the mesh hop, connections kept as long as they last.

use super::Authority;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use selvage_config::CertificateSpec;
use selvage_policy::SpiffeId;
use selvage_proxy::tls::ALPN_TCP;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything a test waits for on purpose.
const PATIENCE: Duration = Duration::from_secs(20);

/// What begins an opaque connection over the mesh hop: the version of its preamble.
const PREAMBLE: u8 = 1;

/// How a request travels to the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// Without TLS: nobody in particular.
    Plain,
    /// Over the mesh hop, as this workload, to that one.
    Mesh {
        /// Who calls.
        from: SpiffeId,
        /// Whom the reserved name asks for.
        to: SpiffeId,
    },
    /// Client TLS with this name.
    Tls(String),
}

/// A request to make.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its method.
    pub method: String,
    /// Path and query, as they are to be sent.
    pub target: String,
    /// The authority.
    pub host: String,
    /// Fields, in order, repeated ones too.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: HeaderMap,
}

/// Keeps connections by destination, way and version.
#[derive(Debug)]
pub struct Caller {
    leaves: HashMap<SpiffeId, CertificateSpec>,
    configs: HashMap<(Via, &'static [&'static [u8]]), Arc<ClientConfig>>,
    open: HashMap<(SocketAddr, Via, bool), Sender>,
    /// Connections made so far.
    pub connections: usize,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Call {
    /// A GET of `http://orders.shop/<target>`.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// Another method.
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), host: "orders.shop".into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// The same for another host.
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    /// The same with one more field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same with a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The same as a gRPC call.
    pub fn grpc(mut self) -> Self {
        self.method = "POST".into();
        self.header("content-type", "application/grpc").header("te", "trailers")
    }
}

impl Heard {
    /// A field or, failing that, a trailer; nothing if neither is there.
    pub fn field(&self, name: &str) -> &str {
        let value = self.headers.get(name).or_else(|| self.trailers.get(name));
        value.and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its body as JSON, `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The reason of a refusal in problem+json.
    pub fn reason(&self) -> Option<String> {
        self.json()["reason"].as_str().map(String::from)
    }
}

impl Caller {
    /// A caller without connections.
    pub fn new() -> Self {
        Self { leaves: HashMap::new(), configs: HashMap::new(), open: HashMap::new(), connections: 0 }
    }

    /// Closes every connection.
    pub fn close(&mut self) {
        self.open.clear();
    }

    /// Sends a request, on the open connection if there is one and it still lives.
    pub async fn call(&mut self, authority: &Authority, to: SocketAddr, via: &Via, h2: bool, call: &Call) -> anyhow::Result<Heard> {
        let place = (to, via.clone(), h2);
        if let Some(mut sender) = self.open.remove(&place)
            && sender.is_open().await
            && let Ok(heard) = tokio::time::timeout(PATIENCE, sender.send(via, call)).await?
        {
            self.open.insert(place, sender);
            return Ok(heard);
        }
        let mut sender = tokio::time::timeout(PATIENCE, self.connect(authority, to, via, h2)).await??;
        let heard = tokio::time::timeout(PATIENCE, sender.send(via, call)).await??;
        self.open.insert(place, sender);
        Ok(heard)
    }

    /// Sends `bytes` as they are over a connection of their own and reads what comes back until it ends; nothing, if it was closed without a
    /// word. Over the mesh hop they are for `port`. An error: there was no connection to send them over.
    pub async fn opaque(&mut self, authority: &Authority, to: SocketAddr, via: &Via, port: u16, bytes: &[u8]) -> anyhow::Result<Bytes> {
        self.connections += 1;
        let stream = TcpStream::connect(to).await?;
        let name = match via {
            Via::Plain => return tokio::time::timeout(PATIENCE, exchange(stream, bytes)).await.map_err(Into::into),
            Via::Mesh { to, .. } => to.dns_name(),
            Via::Tls(name) => name.clone(),
        };
        let config = self.config(authority, via, &[ALPN_TCP]);
        let tls = tokio_rustls::TlsConnector::from(config).connect(ServerName::try_from(name)?, stream);
        let tls = tokio::time::timeout(PATIENCE, tls).await??;
        let [high, low] = port.to_be_bytes();
        let told = [&[PREAMBLE, high, low], bytes].concat();
        tokio::time::timeout(PATIENCE, exchange(tls, &told)).await.map_err(Into::into)
    }

    async fn connect(&mut self, authority: &Authority, to: SocketAddr, via: &Via, h2: bool) -> anyhow::Result<Sender> {
        self.connections += 1;
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let name = match via {
            Via::Plain => return handshake(stream, h2).await,
            Via::Mesh { to, .. } => to.dns_name(),
            Via::Tls(name) => name.clone(),
        };
        let config = self.config(authority, via, if h2 { &[b"h2"] } else { &[b"http/1.1"] });
        let tls = tokio_rustls::TlsConnector::from(config).connect(ServerName::try_from(name)?, stream).await?;
        handshake(tls, h2).await
    }

    fn config(&mut self, authority: &Authority, via: &Via, alpn: &'static [&'static [u8]]) -> Arc<ClientConfig> {
        if let Some(config) = self.configs.get(&(via.clone(), alpn)) {
            return config.clone();
        }
        let leaf = match via {
            Via::Mesh { from, .. } => Some(&*self.leaves.entry(from.clone()).or_insert_with(|| authority.workload(from))),
            Via::Plain | Via::Tls(_) => None,
        };
        let config = Arc::new(authority.client(leaf, alpn));
        self.configs.insert((via.clone(), alpn), config.clone());
        config
    }
}

impl Default for Caller {
    fn default() -> Self {
        Self::new()
    }
}

/// What is reset was closed without a word, or ended where it was.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Bytes {
    let mut heard = Vec::new();
    if stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok() {
        let _ = stream.read_to_end(&mut heard).await;
    }
    heard.into()
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, h2: bool) -> anyhow::Result<Sender> {
    let io = TokioIo::new(stream);
    if h2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(Sender::Two(sender))
    } else {
        let (sender, connection) = http1::Builder::new().preserve_header_case(true).handshake(io).await?;
        tokio::spawn(connection);
        Ok(Sender::One(sender))
    }
}

impl Sender {
    async fn is_open(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, via: &Via, call: &Call) -> anyhow::Result<Heard> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = Method::from_bytes(call.method.as_bytes())?;
        for (name, value) in &call.headers {
            request.headers_mut().append(HeaderName::try_from(name.as_str())?, HeaderValue::from_bytes(value.as_bytes())?);
        }
        let response = match self {
            Self::One(sender) => {
                *request.uri_mut() = call.target.parse::<Uri>()?;
                request.headers_mut().insert(http::header::HOST, call.host.parse()?);
                sender.send_request(request).await?
            }
            Self::Two(sender) => {
                let scheme = if *via == Via::Plain { "http" } else { "https" };
                *request.uri_mut() = format!("{scheme}://{}{}", call.host, call.target).parse()?;
                *request.version_mut() = Version::HTTP_2;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Heard { status: head.status.as_u16(), headers: head.headers, body: collected.to_bytes(), trailers })
    }
}
