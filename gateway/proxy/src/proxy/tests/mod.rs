//! The accepting half on loopback, with a driver that says what it sees of its connection.

mod deadlines;
mod driven;
mod http;
mod opaque;
mod tls;

use super::*;
use crate::connection::Connection;
use crate::l4::Closed;
use crate::snapshot::Listener;
use crate::tls::fixtures::{Authority, id};
use crate::tls::{certificate, serve_clients, serve_mesh};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use selvage_config::ListenerSpec;
use selvage_config::resource::listener::{Bind, Clients, Forward, MeshMode, Protocol};
use selvage_policy::{Key, SpiffeId};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longer than anything here takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A driver that answers itself: `/slow` once its gate is open, `/large` at length, all after their bodies.
#[derive(Clone)]
struct Probe {
    gate: Arc<Semaphore>,
}

impl Probe {
    /// Its gate is shut.
    fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)) }
    }
}

#[async_trait]
impl ProxyHttp for Probe {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _: &mut ()) -> pingora_core::Result<bool> {
        let connection = session.digest().and_then(Connection::of).cloned().expect("every connection is known");
        if session.req_header().uri.path() == "/slow" {
            let _passed = self.gate.acquire().await.expect("it is never closed");
        }
        let mut read = 0;
        while let Some(chunk) = session.read_request_body().await? {
            read += chunk.len();
        }
        if connection.closing.is_draining() {
            session.set_keepalive(None);
        }
        let name = connection.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let text = format!(
            "listener={} peer={} name={} read={read}\n",
            connection.listener,
            connection.principal().map_or("-".into(), ToString::to_string),
            name.unwrap_or("-")
        );
        let text = if session.req_header().uri.path() == "/large" { "x".repeat(LARGE) } else { text };
        let mut head = ResponseHeader::build(200, None)?;
        head.insert_header("content-length", text.len().to_string())?;
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(Bytes::from(text)), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        Err(pingora_core::Error::new_str("the probe has no upstream"))
    }
}

/// Remembers what was closed.
#[derive(Default)]
struct Memory(Mutex<Vec<Closed>>);

impl Observer for Memory {
    fn closed(&self, closed: &Closed) {
        self.0.lock().push(closed.clone());
    }
}

/// A proxy under test.
struct Fixture {
    proxy: Proxy,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changes: watch::Sender<u64>,
    memory: Arc<Memory>,
    probe: Probe,
}

impl Fixture {
    async fn start(snapshot: Snapshot) -> Self {
        Self::with(ProxyOptions::default(), snapshot).await
    }

    /// With the driver that proxies have in earnest.
    async fn driven(snapshot: Snapshot) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let (changes, receiver) = watch::channel(0);
        let options = ProxyOptions { access: Sink::Off, ..ProxyOptions::default() };
        let proxy = Proxy::start(&options, snapshot.clone(), receiver).expect("started");
        let fixture = Self { proxy, snapshot, changes, memory: Arc::default(), probe: Probe::new() };
        fixture.settled().await;
        fixture
    }

    async fn with(options: ProxyOptions, snapshot: Snapshot) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let (changes, receiver) = watch::channel(0);
        let memory = Arc::new(Memory::default());
        let parts = Parts {
            snapshot: snapshot.clone(),
            changes: receiver,
            transport: Arc::default(),
            metrics: Arc::new(Metrics::new().expect("metrics")),
            observer: memory.clone(),
        };
        let probe = Probe::new();
        let proxy = Proxy::start_with(&options, parts, |_| probe.clone()).expect("started");
        let fixture = Self { proxy, snapshot, changes, memory, probe };
        fixture.settled().await;
        fixture
    }

    /// Puts another Snapshot in place and waits for the sockets to follow.
    async fn swap(&self, mut snapshot: Snapshot) {
        snapshot.generation = self.snapshot.load().generation + 1;
        let generation = snapshot.generation;
        self.snapshot.store(Arc::new(snapshot));
        self.changes.send_replace(generation);
        self.settled().await;
    }

    async fn settled(&self) {
        let generation = self.snapshot.load().generation;
        let mut status = self.proxy.status();
        let settled = |status: &Status| status.generation == generation && status.bound.len() + status.failures.len() > 0;
        timeout(PATIENCE, status.wait_for(settled)).await.expect("in time").expect("alive");
    }

    /// Lets requests for `/slow` end, those to come too.
    fn open_gate(&self) {
        self.probe.gate.add_permits(1);
    }

    /// Waits until so many requests are under way.
    async fn under_way(&self, requests: usize) {
        timeout(PATIENCE, async {
            while self.proxy.requests() != requests {
                sleep(LOOK).await;
            }
        })
        .await
        .expect("in time");
    }

    /// The address a bind got.
    fn address(&self, bind: Bind) -> SocketAddr {
        self.proxy.status().borrow().bound[&bind][0]
    }

    async fn connect(&self, bind: Bind) -> TcpStream {
        TcpStream::connect(self.address(bind)).await.expect("connected")
    }

    /// What was closed, once there are `n`.
    async fn closed(&self, n: usize) -> Vec<Closed> {
        timeout(PATIENCE, async {
            while self.memory.0.lock().len() < n {
                sleep(LOOK).await;
            }
        })
        .await
        .expect("in time");
        self.memory.0.lock().clone()
    }
}

/// An address of this test's own; the port is the kernel's choice.
fn bind(last: u8) -> Bind {
    Bind::Bound(SocketAddr::from(([127, 77, 0, last], 0)))
}

fn spec(bind: Bind, protocol: Protocol) -> ListenerSpec {
    ListenerSpec {
        bind,
        destination: None,
        hostname: None,
        port: 80,
        protocol,
        certificates: Vec::new(),
        mesh: None,
        clients: Clients::Outside,
        forward: Forward::Routes,
        chain: Vec::new(),
        posture: false,
        identity: None,
        application: None,
        assertors: Vec::new(),
    }
}

fn listener(name: &str, spec: ListenerSpec) -> Listener {
    Listener {
        key: Arc::new(Key::new("Listener", "shop", name)),
        spec,
        tls: None,
        mesh: None,
        guards: Arc::default(),
        routes: Arc::default(),
        settings: Arc::default(),
    }
}

fn http(name: &str, at: Bind) -> Listener {
    listener(name, spec(at, Protocol::Http))
}

/// A listener on the target's side of a mesh hop, whose application is at `local`.
fn inbound(name: &str, at: Bind, protocol: Protocol, mode: MeshMode, owner: &SpiffeId, ca: &Authority, local: SocketAddr) -> Listener {
    let mut spec = spec(at, protocol);
    spec.mesh = Some(mode);
    spec.identity = Some(owner.clone());
    spec.clients = Clients::Fellows;
    spec.forward = Forward::Local(local);
    let leaf = certificate(&ca.workload(owner)).expect("a leaf");
    let config = serve_mesh(&leaf, &[ca.root()], &[owner.trust_domain().clone()]).expect("a configuration");
    Listener { mesh: Some(config), ..listener(name, spec) }
}

fn https(name: &str, at: Bind, hostname: Option<&str>, certificates: &[selvage_config::CertificateSpec]) -> Listener {
    let mut spec = spec(at, Protocol::Https);
    spec.hostname = hostname.map(|name| name.to_string().try_into().expect("a host name"));
    let parsed: Vec<_> = certificates.iter().map(|spec| Arc::new(certificate(spec).expect("usable"))).collect();
    Listener { tls: Some(serve_clients(&parsed, true).expect("a configuration")), ..listener(name, spec) }
}

fn snapshot(listeners: Vec<Listener>) -> Snapshot {
    let mut snapshot = Snapshot::empty();
    for listener in listeners.into_iter().map(Arc::new) {
        snapshot.sockets.entry(listener.spec.bind).or_default().push(listener.clone());
        snapshot.listeners.insert((*listener.key).clone(), listener);
    }
    snapshot
}

/// Sends, then reads one response: head and as much body as it announces. Fails where the connection ends before.
async fn ask<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> std::io::Result<String> {
    timeout(PATIENCE, async {
        stream.write_all(request).await?;
        stream.flush().await?;
        answer(stream).await
    })
    .await
    .expect("in time")
}

async fn answer<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_string();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return Ok(text);
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text));
        }
    }
}

/// Whether the other side has ended the connection without another byte.
async fn is_closed<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> bool {
    matches!(timeout(PATIENCE, stream.read(&mut [0; 64])).await, Ok(Ok(0) | Err(_)))
}

/// More than any buffer on the way holds.
const LARGE: usize = 32 << 20;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const SLOW: &[u8] = b"GET /slow HTTP/1.1\r\nHost: shop.test\r\n\r\n";
