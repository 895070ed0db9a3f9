//! From a listener to a connected upstream: guards first, then where to, then connect.

use super::preamble;
use crate::connection::Connection;
use crate::net::keepalive;
use crate::net::raw::Abrupt;
use crate::net::worker::Shared;
use crate::permit::TargetFacts;
use crate::snapshot::decide::{self, Next};
use crate::snapshot::{Backend, Listener, Rule, Snapshot};
use crate::state::balance::{EndpointState, InFlight};
use crate::state::clock;
use crate::tls::MeshTransport;
use crate::tls::upstream::mark;
use selvage_config::Endpoint;
use selvage_policy::exchange::{Destination, Source};
use selvage_policy::list::{Decision, Purpose};
use selvage_policy::{Denial, Exchange, Key, Reason, SpiffeId};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Making a connection, where no policy says how long.
const CONNECT: Duration = Duration::from_secs(5);
/// Endpoints tried: nothing was sent to the first, so a second is safe.
const TRIES: usize = 2;

/// A connected upstream.
pub struct Dialled {
    /// The route, or the backend where it has none.
    pub route: Option<Arc<Key>>,
    /// Whom it is connected to.
    pub endpoint: SocketAddr,
    /// The connection.
    pub stream: Stream,
    /// Present where the guards of the target were run here.
    pub target: Option<TargetFacts>,
    /// What the endpoint is loaded with while this lives; absent where there is no choice of endpoints.
    pub load: Option<InFlight>,
    /// What policies in audit mode would have refused.
    pub audited: Vec<Denial>,
}

/// Plain, or inside a mesh hop whose preamble has been sent.
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// Mesh TLS.
    Mesh(Box<TlsStream<TcpStream>>),
}

impl Abrupt for Stream {
    fn reset_on_drop(&self) {
        match self {
            Self::Plain(tcp) => tcp.reset_on_drop(),
            Self::Mesh(tls) => tls.reset_on_drop(),
        }
    }
}

impl Dialled {
    /// Resolves when the other side has said something, or has ended. Takes nothing.
    pub async fn spoken(&self) {
        let tcp = match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Mesh(tls) => tls.get_ref().0,
        };
        // A failure is an end too: whoever reads finds out.
        let _ = tcp.peek(&mut [0]).await;
    }
}

/// Runs the guards and connects.
pub async fn dial(shared: &Shared, snapshot: &Snapshot, listener: &Listener, connection: &Connection) -> Result<Dialled, Denial> {
    let source = Source { address: connection.peer.ip(), principal: connection.principal().cloned() };
    let destination = Destination { address: decide::target(listener, connection.bind, connection.destination) };
    let exchange = Exchange { source: &source, destination: &destination, http: None, now: clock::now(), wall: SystemTime::now() };
    let decided = decide::request(snapshot, connection.into(), &exchange, Purpose::Live);
    let no_route = || Denial::of(Reason::NoRoute, "no TCPRoute or TLSRoute of this listener takes this connection");
    let way = |pin| Way { shared, snapshot, listener, exchange: &exchange, pin };
    let (address, limit) = match decided.next? {
        Next::Forward => {
            let matched = decided.matched.ok_or_else(no_route)?;
            return way(None).follow(&matched.rule, decided.guards).await;
        }
        Next::Pinned(address) => {
            let matched = decided.matched.ok_or_else(no_route)?;
            return way(Some(address)).follow(&matched.rule, decided.guards).await;
        }
        Next::Redirect(_) => return Err(no_route()),
        Next::Local(address) => (address, listener.settings.resolve(&exchange).connect_timeout.unwrap_or(CONNECT)),
        Next::PassThrough(address) => (address, CONNECT),
    };
    let stream = Stream::Plain(connect(address, limit).await.map_err(unreachable)?);
    Ok(Dialled { route: None, endpoint: address, stream, target: None, load: None, audited: decided.guards.audited })
}

/// From a rule to a connection.
struct Way<'a> {
    shared: &'a Shared,
    snapshot: &'a Snapshot,
    listener: &'a Listener,
    exchange: &'a Exchange<'a>,
    /// The one endpoint, where the caller chose it.
    pin: Option<SocketAddr>,
}

impl Way<'_> {
    /// `asked`: what the guards on the way have said.
    async fn follow(&self, rule: &Rule, mut asked: Decision) -> Result<Dialled, Denial> {
        let chosen = rule.backend(rand::random())?;
        let Some(backend) = &chosen.backend else {
            return Err(Denial::of(Reason::InvalidBackend, "the backend of this route does not exist"));
        };
        let settings = chosen.settings.resolve(self.exchange);
        let limit = settings.connect_timeout.unwrap_or(CONNECT);
        // Retries that a policy turned off are off; more than one more try helps nobody who waits for a connection.
        let tries = if settings.attempts == Some(0) { 1 } else { TRIES };
        let mut tried = Vec::new();
        let mut last = Denial::of(Reason::NoEndpoint, "no endpoint of the backend is ready");
        for _ in 0..tries {
            let Some(state) = self.pick(backend, &tried) else { break };
            let endpoint = &state.endpoint;
            if endpoint.identity.is_none() {
                self.guard(backend, endpoint.address, &mut asked)?;
            }
            let mut flight = state.begin();
            let from = self.listener.spec.identity.as_ref();
            match reach(&self.shared.transport, self.snapshot, from, backend, endpoint, limit).await {
                Ok(stream) => {
                    flight.answered(Ok(()));
                    let target = endpoint.identity.is_none().then(|| TargetFacts {
                        backends: decide::guarding(self.snapshot, backend, endpoint.address).into_iter().cloned().collect(),
                        endpoint: endpoint.address,
                        way: None,
                        trace: None,
                    });
                    return Ok(Dialled {
                        route: Some(rule.route.clone()),
                        endpoint: endpoint.address,
                        stream,
                        target,
                        load: Some(flight),
                        audited: asked.audited,
                    });
                }
                Err(denial) => {
                    flight.answered(Err(()));
                    last = denial;
                }
            }
            tried.push(endpoint.address);
        }
        Err(last)
    }

    /// One that has not been tried.
    fn pick(&self, backend: &Backend, tried: &[SocketAddr]) -> Option<Arc<EndpointState>> {
        let picked = match self.pin {
            Some(address) => backend.endpoints.at(address),
            None => backend.endpoints.pick(tried, rand::random()),
        };
        picked.filter(|state| !tried.contains(&state.endpoint.address))
    }

    fn guard(&self, backend: &Arc<Backend>, endpoint: SocketAddr, asked: &mut Decision) -> Result<(), Denial> {
        for backend in decide::guarding(self.snapshot, backend, endpoint) {
            let decision = decide::destination(self.listener, backend, endpoint, self.exchange, Purpose::Live, &asked.counted);
            asked.join(decision).map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

async fn reach(
    transport: &MeshTransport,
    snapshot: &Snapshot,
    from: Option<&SpiffeId>,
    backend: &Backend,
    endpoint: &Endpoint,
    limit: Duration,
) -> Result<Stream, Denial> {
    let Some(to) = &endpoint.identity else {
        return connect(endpoint.address, limit).await.map(Stream::Plain).map_err(unreachable);
    };
    // A meshed endpoint is never spoken to in plain, whatever is missing here.
    let Some(from) = from else {
        return Err(Denial::of(Reason::UpstreamConnect, "this listener has no identity to speak mesh TLS with"));
    };
    let hop = transport.hop(snapshot, from, to).map_err(|error| {
        tracing::warn!(backend = %backend.key, %from, %to, %error, "mesh TLS is not possible");
        Denial::of(Reason::UpstreamConnect, "mesh TLS to the endpoint is not possible")
    })?;
    let (config, name) = hop.tcp();
    let reached = timeout(limit, async {
        let tcp = hop_socket(endpoint.address)?.connect(endpoint.address).await?;
        settle(&tcp)?;
        let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
        preamble::write(&mut tls, endpoint.address.port()).await?;
        io::Result::Ok(tls)
    });
    match reached.await {
        Ok(Ok(tls)) => Ok(Stream::Mesh(Box::new(tls))),
        Ok(Err(error)) => Err(unreachable(error)),
        Err(_) => Err(unreachable(io::ErrorKind::TimedOut.into())),
    }
}

/// A socket for a mesh hop.
fn hop_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    mark(&socket)?;
    Ok(socket)
}

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let tcp = timeout(limit, TcpStream::connect(address)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    settle(&tcp)?;
    Ok(tcp)
}

fn settle(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    SockRef::from(tcp).set_tcp_keepalive(&keepalive::probes())
}

fn unreachable(error: io::Error) -> Denial {
    let detail = if error.kind() == io::ErrorKind::TimedOut { "connecting took too long" } else { "the endpoint cannot be reached" };
    tracing::debug!(%error, "upstream connect failed");
    Denial::of(Reason::UpstreamConnect, detail)
}
