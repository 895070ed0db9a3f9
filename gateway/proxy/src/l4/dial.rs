//! From a listener to a connected upstream: guards first, then where to, then connect.

use super::preamble;
use crate::connection::Connection;
use crate::net::worker::Shared;
use crate::permit::TargetFacts;
use crate::snapshot::decide::{self, Next};
use crate::snapshot::{Backend, Listener, Rule, Snapshot};
use crate::state::clock;
use crate::tls::MeshTransport;
use selvage_config::Endpoint;
use selvage_policy::exchange::{Destination, Source};
use selvage_policy::list::Purpose;
use selvage_policy::{Denial, Exchange, Key, Reason, SpiffeId};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
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
}

/// Plain, or inside a mesh hop whose preamble has been sent.
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// Mesh TLS.
    Mesh(Box<TlsStream<TcpStream>>),
}

/// Runs the guards and connects.
pub async fn dial(shared: &Shared, snapshot: &Snapshot, listener: &Listener, connection: &Connection) -> Result<Dialled, Denial> {
    let source = Source { address: connection.peer.ip(), principal: connection.principal().cloned() };
    let destination = Destination { address: decide::target(listener, connection.bind, connection.destination) };
    let exchange = Exchange { source: &source, destination: &destination, http: None, now: clock::now(), wall: SystemTime::now() };
    let decided = decide::request(snapshot, connection.into(), &exchange, Purpose::Live);
    let no_route = || Denial::of(Reason::NoRoute, "no TCPRoute or TLSRoute of this listener takes this connection");
    let (address, limit) = match decided.next? {
        Next::Forward => {
            let matched = decided.matched.ok_or_else(no_route)?;
            return to_rule(shared, snapshot, listener, &matched.rule, &exchange, &decided.guards.counted).await;
        }
        Next::Redirect(_) => return Err(no_route()),
        Next::Local(address) => (address, listener.settings.resolve(&exchange).connect_timeout.unwrap_or(CONNECT)),
        Next::PassThrough(address) => (address, CONNECT),
    };
    let stream = Stream::Plain(connect(address, limit).await.map_err(unreachable)?);
    Ok(Dialled { route: None, endpoint: address, stream, target: None })
}

async fn to_rule(
    shared: &Shared,
    snapshot: &Snapshot,
    listener: &Listener,
    rule: &Rule,
    exchange: &Exchange<'_>,
    counted: &[Arc<Key>],
) -> Result<Dialled, Denial> {
    let chosen = rule.backend(rand::random())?;
    let Some(backend) = &chosen.backend else {
        return Err(Denial::of(Reason::InvalidBackend, "the backend of this route does not exist"));
    };
    let settings = chosen.settings.resolve(exchange);
    let limit = settings.connect_timeout.unwrap_or(CONNECT);
    // Retries that a policy turned off are off; more than one more try helps nobody who waits for a connection.
    let tries = if settings.attempts == Some(0) { 1 } else { TRIES };
    let mut guarded = false;
    let mut tried = Vec::new();
    let mut last = Denial::of(Reason::NoEndpoint, "no endpoint of the backend is ready");
    for _ in 0..tries {
        let Some(state) = backend.endpoints.pick(&tried, rand::random()).filter(|state| !tried.contains(&state.endpoint.address)) else {
            break;
        };
        let endpoint = &state.endpoint;
        if endpoint.identity.is_none() && !guarded {
            let decision = decide::destination(listener, backend, endpoint.address, exchange, Purpose::Live, counted);
            decision.denial.map_or(Ok(()), Err)?;
            guarded = true;
        }
        let mut flight = state.begin();
        match reach(&shared.transport, snapshot, listener.spec.identity.as_ref(), backend, endpoint, limit).await {
            Ok(stream) => {
                flight.answered(Ok(()));
                let target = endpoint.identity.is_none().then(|| TargetFacts {
                    backend: backend.clone(),
                    endpoint: endpoint.address,
                    way: None,
                    trace: None,
                });
                return Ok(Dialled { route: Some(rule.route.clone()), endpoint: endpoint.address, stream, target });
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
        let tcp = TcpStream::connect(endpoint.address).await?;
        tcp.set_nodelay(true)?;
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

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let tcp = timeout(limit, TcpStream::connect(address)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn unreachable(error: io::Error) -> Denial {
    let detail = if error.kind() == io::ErrorKind::TimedOut { "connecting took too long" } else { "the endpoint cannot be reached" };
    tracing::debug!(%error, "upstream connect failed");
    Denial::of(Reason::UpstreamConnect, detail)
}
