//! One accepted connection, from the socket to the session that serves it.
//!
//! ```text
//! original destination -> listeners of the socket -> detect ─┬─ mesh TLS (reserved SNI) ─┬─ HTTP
//!                                                            ├─ client TLS by SNI ───────┤
//!                                                            └─ plain ───────────────────┴─ opaque TCP
//! ```

use super::closing::Closing;
use super::conn::{Conn, IDLE};
use super::detect::{self, DETECT, Hello, HelloError, Spoken};
use super::http::{http1, http2};
use super::raw::{Abrupt, Breaking, Raw};
use super::worker::Worker;
use crate::connection::{Connection, TlsSession};
use crate::l4::dial::Dialled;
use crate::l4::{self, Served};
use crate::observe::labels::{Accepted, Carries};
use crate::permit::Permits;
use crate::snapshot::{Listener, Snapshot, decide};
use crate::tls::{ALPN_H2, ALPN_TCP, peer, peer_identity};
use pingora_proxy::ProxyHttp;
use rustls::ServerConfig;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, Forward, Protocol};
use selvage_policy::{Denial, Reason};
use socket2::SockRef;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A ClientHello, then the rest of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A client that has something to say says it sooner.
const SILENCE: Duration = Duration::from_millis(100);
/// Where TCP is declared only a mesh hop is told from the rest, by its ClientHello.
const HELLO: Duration = Duration::from_millis(300);
/// TLS record with the fatal alert `unrecognized_name` (RFC 8446 section 6): no listener has this name.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection as the acceptor got it.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub stream: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// The socket.
    pub bind: Bind,
    /// Its end.
    pub closing: Closing,
}

/// The same on its worker, with its destination.
struct Here<'a, D> {
    worker: &'a Arc<Worker<D>>,
    snapshot: Arc<Snapshot>,
    peer: SocketAddr,
    bind: Bind,
    destination: SocketAddr,
    closing: Closing,
}

/// What is spoken, and how reaching somebody went, where that was tried.
type Found = (Spoken, Option<Result<Dialled, Denial>>);

/// Serves a connection until it ends or is told to.
pub async fn serve<D>(worker: Arc<Worker<D>>, arrival: Arrival)
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    let closing = arrival.closing.clone();
    tokio::select! {
        biased;
        () = closing.aborted() => {}
        () = run(&worker, arrival) => {}
    }
}

async fn run<D>(worker: &Arc<Worker<D>>, arrival: Arrival)
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    let Arrival { stream: tcp, peer, bind, closing } = arrival;
    // Without it a small answer waits for the client's delayed acknowledgement; the connection works all the same.
    let _ = tcp.set_nodelay(true);
    let Some(destination) = destination(&tcp, bind) else { return };
    let snapshot = worker.shared.snapshot.load_full();
    let Some(first) = first(&snapshot, bind, destination) else { return };
    let here = Here { worker, snapshot: snapshot.clone(), peer, bind, destination, closing };
    let raw = Raw::new(tcp);
    match decide::protocol(&here.snapshot, first, destination) {
        Protocol::Tcp if first.spec.mesh.is_none() => here.opaque(first, None, raw).await,
        Protocol::Https | Protocol::Tls | Protocol::Passthrough => here.tls(first, raw).await,
        Protocol::Http | Protocol::Tcp | Protocol::Detect => here.detect(first, raw).await,
    }
}

impl<D> Here<'_, D>
where
    D: ProxyHttp + Send + Sync + 'static,
    D::CTX: Send + Sync,
{
    /// How long it is waited for a client's first byte before somebody is reached for it, who may be the one that speaks first. A silent client of a
    /// Service that speaks HTTP is an idle one.
    fn patience(&self, listener: &Listener) -> Duration {
        match decide::declared(&self.snapshot, listener, self.destination) {
            Some(AppProtocol::Http | AppProtocol::H2c) => IDLE,
            _ if self.is_nobody_known(listener) => SILENCE,
            _ if listener.spec.protocol == Protocol::Tcp => HELLO,
            _ => DETECT,
        }
    }

    async fn detect(self, listener: &Arc<Listener>, mut raw: Raw) {
        let is_http = listener.spec.protocol == Protocol::Http;
        let spoken = async {
            if is_http {
                return detect::http(&mut raw, IDLE).await;
            }
            detect::detect(&mut raw, self.patience(listener)).await.map(Some)
        };
        let spoken = tokio::select! {
            biased;
            spoken = spoken => spoken,
            () = self.closing.drained() => return,
        };
        let Ok(Some(mut spoken)) = spoken else { return };
        let mut dialled = None;
        if spoken == Spoken::Nothing {
            let connection = self.connection(listener, None);
            let Some(found) = self.first_word(listener, &connection, &mut raw).await else { return };
            (spoken, dialled) = found;
        }
        match spoken {
            Spoken::Tls if listener.spec.mesh.is_some() || !is_http => self.tls(listener, raw).await,
            _ if listener.spec.protocol == Protocol::Tcp => self.opaque_to(self.connection(listener, None), dialled, raw).await,
            Spoken::Http2 => self.http(true, Conn::plain(raw, self.connection(listener, None))).await,
            Spoken::Opaque | Spoken::Nothing => self.opaque_to(self.connection(listener, None), dialled, raw).await,
            // Nothing is said of the caller there, and nobody can declare what it speaks.
            Spoken::Unended if self.is_nobody_known(listener) => self.opaque_to(self.connection(listener, None), dialled, raw).await,
            // TLS where none is spoken: the reader of heads answers it as what it is there, no HTTP.
            Spoken::Http1 | Spoken::Unended | Spoken::Tls => self.http(false, Conn::plain(raw, self.connection(listener, None))).await,
        }
    }

    /// Towards a destination that nobody told us about, and without guards that would be asked twice.
    fn is_nobody_known(&self, listener: &Listener) -> bool {
        listener.spec.forward == Forward::Destination
            && listener.guards.is_empty()
            && self.snapshot.service(self.destination).is_none()
            && self.snapshot.behind(self.destination).is_empty()
    }

    /// What is spoken where the client has said nothing: somebody is reached meanwhile, and whoever speaks first shows it. A server that does, or that
    /// cannot be reached, makes it opaque; what a client says late is looked at as if it had come at once. `None`: the end.
    async fn first_word<S>(&self, listener: &Arc<Listener>, connection: &Connection, raw: &mut Raw<S>) -> Option<Found>
    where
        S: AsyncRead + Unpin,
    {
        let dialled = tokio::select! {
            biased;
            _ = raw.look() => None,
            dialled = l4::dial::dial(&self.worker.shared, &self.snapshot, listener, connection) => Some(dialled),
            () = self.closing.drained() => return None,
        };
        match &dialled {
            Some(Err(_)) => return Some((Spoken::Opaque, dialled)),
            Some(Ok(reached)) => tokio::select! {
                biased;
                () = reached.spoken() => return Some((Spoken::Opaque, dialled)),
                _ = raw.look() => {}
                () = self.closing.drained() => return None,
                () = sleep(l4::IDLE) => return None,
            },
            None => {}
        }
        let spoken = detect::detect(raw, Duration::ZERO).await.ok()?;
        Some((spoken, dialled))
    }

    async fn tls(self, listener: &Arc<Listener>, mut raw: Raw) {
        let hello = match timeout(HANDSHAKE, detect::hello(&mut raw)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(HelloError::Invalid(_, alert)))
                if matches!(listener.spec.protocol, Protocol::Https | Protocol::Tls | Protocol::Passthrough) =>
            {
                let _ = raw.write_all(&alert).await;
                return;
            }
            // Opaque bytes that only looked like TLS.
            Ok(Err(HelloError::Invalid(..) | HelloError::TooLarge)) if is_opaque(listener) => {
                return self.opaque(listener, None, raw).await;
            }
            _ => return,
        };
        let snapshot = self.snapshot.clone();
        let name = hello.server_name.as_deref();
        let listener = snapshot.accept(self.bind, self.destination, name).unwrap_or(listener);
        if is_mesh_hop(listener, name) {
            return self.mesh(listener, raw, hello).await;
        }
        let takes = listener.spec.hostname.as_ref().is_none_or(|pattern| name.is_none_or(|name| pattern.matches(name)));
        match listener.spec.protocol {
            Protocol::Passthrough if takes => {
                let about = TlsSession { server_name: name.map(Into::into), peer: None, trusted: None };
                self.opaque(listener, Some(about), raw).await
            }
            Protocol::Passthrough => {
                let _ = raw.write_all(&UNRECOGNIZED_NAME).await;
            }
            Protocol::Https | Protocol::Tls => {
                let (Some(config), true) = (&listener.tls, takes) else {
                    let _ = raw.write_all(&UNRECOGNIZED_NAME).await;
                    return;
                };
                let Some(tls) = handshake(config, raw).await else { return };
                let about = TlsSession { server_name: name.map(Into::into), peer: None, trusted: None };
                if listener.spec.protocol == Protocol::Tls {
                    return self.opaque(listener, Some(about), tls).await;
                }
                let is_h2 = tls.get_ref().1.alpn_protocol() == Some(ALPN_H2);
                let connection = self.connection(listener, Some(about));
                self.http(is_h2, Conn::tls(tls, connection)).await;
            }
            // The application's own TLS: its business, passed through as it is.
            _ if is_opaque(listener) => self.opaque(listener, None, raw).await,
            _ => {}
        }
    }

    /// The mesh hop. Whatever goes wrong, the connection is closed: there is no way back to plain. It begins nothing new once the certificate
    /// that let it in has ended.
    async fn mesh(self, listener: &Arc<Listener>, raw: Raw, hello: Hello) {
        let Some(config) = &listener.mesh else { return };
        let Some(tls) = handshake(config, raw).await else { return };
        let session = tls.get_ref().1;
        let Some(leaf) = session.peer_certificates().and_then(<[_]>::first) else { return };
        let (Some(peer), Some(left)) = (peer_identity(leaf), peer::left(leaf, SystemTime::now())) else { return };
        let trusted = Some(self.snapshot.mesh.clone());
        let about = TlsSession { server_name: hello.server_name.map(Into::into), peer: Some(peer), trusted };
        let closing = self.closing.clone();
        let ended = async {
            sleep(left).await;
            closing.drain();
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = self.hop(listener, about, tls) => {}
            () = ended => {}
        }
    }

    async fn hop(mut self, listener: &Arc<Listener>, about: TlsSession, mut tls: TlsStream<Raw>) {
        let alpn = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        if alpn.as_deref() != Some(ALPN_TCP) {
            if listener.spec.protocol == Protocol::Tcp {
                return;
            }
            let connection = self.connection(listener, Some(about));
            return self.http(alpn.as_deref() == Some(ALPN_H2), Conn::tls(tls, connection)).await;
        }
        let Ok(Ok(port)) = timeout(HANDSHAKE, l4::preamble::read(&mut tls)).await else { return };
        let snapshot = self.snapshot.clone();
        let Some(meant) = l4::preamble::listener(&snapshot, listener, self.destination.port(), port).filter(|meant| is_opaque(meant))
        else {
            return;
        };
        if meant.key != listener.key {
            // As if it had come in there: guards and destination are those of the port that is meant.
            self.bind = meant.spec.bind;
            self.destination = match meant.spec.bind {
                Bind::Bound(address) => address,
                Bind::Captured(_) => SocketAddr::new(self.destination.ip(), port),
            };
        }
        self.opaque_hop(meant, about, tls).await;
    }

    /// Opaque bytes of the mesh. The caller says that they are, but only the listener's own word counts: what is HTTP after all would pass the guards
    /// without a word about it, and bring fields that only we may set.
    async fn opaque_hop(&self, listener: &Arc<Listener>, about: TlsSession, tls: TlsStream<Raw>) {
        let connection = self.connection(listener, Some(about));
        let mut raw = Raw::new(tls);
        if listener.spec.protocol == Protocol::Tcp {
            return self.opaque_to(connection, None, raw).await;
        }
        let spoken = tokio::select! {
            biased;
            spoken = detect::detect(&mut raw, SILENCE) => spoken,
            () = self.closing.drained() => return,
        };
        let found = match spoken {
            Ok(Spoken::Nothing) => self.first_word(listener, &connection, &mut raw).await,
            Ok(spoken) => Some((spoken, None)),
            Err(_) => None,
        };
        match found {
            Some((Spoken::Opaque | Spoken::Tls | Spoken::Nothing, dialled)) => self.opaque_to(connection, dialled, raw).await,
            Some((Spoken::Http1 | Spoken::Unended | Spoken::Http2, _)) => {
                self.worker.shared.refused(&connection, &Denial::of(Reason::BadRequest, "HTTP came as opaque bytes"));
                raw.reset_on_drop();
            }
            None => {}
        }
    }

    async fn http(&self, is_h2: bool, conn: pingora_core::Result<Conn>) {
        let Ok(conn) = conn else { return };
        let Some(connection) = conn.connection().cloned() else { return };
        let shared = &self.worker.shared;
        let _registered = shared.register(&connection);
        if shared.has_missed(&connection) {
            return;
        }
        shared.metrics.connections.accepted(Accepted::Served);
        let _open = shared.metrics.connections.open(if is_h2 { Carries::Http2 } else { Carries::Http1 });
        if is_h2 { http2(self.worker, conn).await } else { http1(self.worker, conn).await }
    }

    async fn opaque<S>(&self, listener: &Arc<Listener>, tls: Option<TlsSession>, io: S)
    where
        S: AsyncRead + AsyncWrite + Abrupt + Unpin + Send,
    {
        self.opaque_to(self.connection(listener, tls), None, io).await;
    }

    async fn opaque_to<S>(&self, connection: Arc<Connection>, dialled: Option<Result<Dialled, Denial>>, io: S)
    where
        S: AsyncRead + AsyncWrite + Abrupt + Unpin + Send,
    {
        let shared = &self.worker.shared;
        // An end in order is one that both sides have made. What was refused, or is cut off, must not look like a whole answer.
        let mut io = Breaking::new(io);
        let _registered = shared.register(&connection);
        // A change from here on finds it on the list; it may have been silent for long, so what holds by now is asked.
        let snapshot = shared.snapshot.load_full();
        if !connection.is_trusted(&snapshot.mesh) {
            return;
        }
        let dialled = dialled.filter(|_| snapshot.generation == connection.generation);
        if l4::serve(shared, &snapshot, &connection, dialled, &mut io.io).await == Served::Ended {
            io.ended();
        }
    }

    fn connection(&self, listener: &Arc<Listener>, tls: Option<TlsSession>) -> Arc<Connection> {
        Arc::new(Connection {
            bind: self.bind,
            listener: listener.key.clone(),
            peer: self.peer,
            destination: self.destination,
            tls,
            generation: self.snapshot.generation,
            closing: self.closing.clone(),
            permits: Permits::new(self.worker.shared.linger),
        })
    }
}

fn is_opaque(listener: &Listener) -> bool {
    matches!(listener.spec.protocol, Protocol::Tcp | Protocol::Detect)
}

/// Only the reserved name of the workload itself is the mesh hop; any other TLS is the application's.
fn is_mesh_hop(listener: &Listener, name: Option<&str>) -> bool {
    let identity = listener.spec.mesh.and(listener.spec.identity.as_ref());
    identity.is_some_and(|identity| name == Some(identity.dns_name().as_str()))
}

async fn handshake(config: &Arc<ServerConfig>, raw: Raw) -> Option<TlsStream<Raw>> {
    timeout(HANDSHAKE, TlsAcceptor::from(config.clone()).accept(raw)).await.ok()?.ok()
}

/// Any listener of the socket that takes this destination: they agree on what is spoken.
fn first(snapshot: &Snapshot, bind: Bind, destination: SocketAddr) -> Option<&Arc<Listener>> {
    snapshot.sockets.get(&bind)?.iter().find(|listener| {
        listener.spec.destination.as_ref().is_none_or(|takes| {
            (takes.addresses.is_empty() || takes.addresses.contains(&destination.ip()))
                && takes.port.is_none_or(|port| port == destination.port())
        })
    })
}

/// Where the caller wanted to go. `None`: nowhere but to us; a captured connection that was not redirected would come back for ever.
fn destination(tcp: &TcpStream, bind: Bind) -> Option<SocketAddr> {
    let local = canonical(tcp.local_addr().ok()?);
    let Bind::Captured(port) = bind else { return Some(local) };
    let socket = SockRef::from(tcp);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = canonical(original.ok()?.as_socket()?);
    (original != local && original.port() != port).then_some(original)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
