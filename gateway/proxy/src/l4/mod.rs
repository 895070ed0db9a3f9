//! Opaque TCP: guards, endpoint, connect, copy. The same guards as for HTTP, with nothing said about HTTP.
//!
//! ```text
//! Listener ── guards ──> plan: local application | rule -> backend -> endpoint | original destination
//!                           └── connect (plain, or mesh TLS with a preamble) ── copy both ways ──> Closed
//! ```

pub mod copy;
pub mod dial;
pub mod preamble;

use crate::connection::Connection;
use crate::net::raw::Breaking;
use crate::net::worker::Shared;
use crate::observe::labels::{Accepted, Carries, Direction};
use crate::permit::{Facts, Permit};
use crate::snapshot::Snapshot;
use crate::snapshot::decide::{self, Arrival};
use dial::Dialled;
use selvage_policy::{Denial, Key, Source, SpiffeId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// Neither side has said anything for so long. Longer than the two hours after which kernels probe would keep the dead, shorter would
/// cut the connection pools of databases.
pub const IDLE: Duration = Duration::from_secs(3600);

/// What became of one opaque TCP connection.
#[derive(Clone, Debug)]
pub struct Closed {
    /// The listener that took it.
    pub listener: Arc<Key>,
    /// Who connected.
    pub peer: SocketAddr,
    /// The identity the peer proved, on a mesh hop.
    pub principal: Option<SpiffeId>,
    /// Where the caller wanted to go.
    pub destination: SocketAddr,
    /// The route, or the backend where it has none; absent for the local application and for connections passed through.
    pub route: Option<Arc<Key>>,
    /// The endpoint it was connected to.
    pub endpoint: Option<SocketAddr>,
    /// Bytes from the caller to the endpoint.
    pub sent: u64,
    /// Bytes from the endpoint to the caller.
    pub received: u64,
    /// From accept to close.
    pub duration: Duration,
    /// Why it was refused, or ended by another configuration, if it was.
    pub denial: Option<Denial>,
    /// What policies in audit mode would have refused of one that was let in.
    pub audited: Vec<Denial>,
}

/// Told of what ended below the driver: for the access log. Called on the worker; it must not block.
pub trait Observer: Send + Sync + 'static {
    /// An opaque TCP connection ended or was refused.
    fn closed(&self, closed: &Closed) {
        let _ = closed;
    }

    /// An HTTP request was answered before the driver saw it: too late, too large, or no HTTP.
    fn refused(&self, connection: &Connection, denial: &Denial) {
        let _ = (connection, denial);
    }
}

/// How serving an opaque connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// In order, by both sides.
    Ended,
    /// It was refused or cut off, or one side failed: what has come may not be all.
    Broken,
}

/// Serves an opaque connection. Always ends in one [`Closed`], also when cancelled. `dialled`: how reaching somebody went, where it was tried already
/// under this Snapshot.
pub async fn serve<S>(
    shared: &Shared,
    snapshot: &Snapshot,
    connection: &Arc<Connection>,
    dialled: Option<Result<Dialled, Denial>>,
    io: S,
) -> Served
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut record = Record {
        shared,
        bytes: copy::Bytes::default(),
        began: Instant::now(),
        closed: Closed {
            listener: connection.listener.clone(),
            peer: connection.peer,
            principal: connection.principal().cloned(),
            destination: connection.destination,
            route: None,
            endpoint: None,
            sent: 0,
            received: 0,
            duration: Duration::ZERO,
            denial: None,
            audited: Vec::new(),
        },
    };
    // The one that holds now: where the configuration has changed since it was accepted, there may be none.
    let reached = match decide::listener(snapshot, Arrival::from(&**connection), None) {
        Ok(listener) => match dialled {
            Some(dialled) => dialled,
            None => dial::dial(shared, snapshot, &listener, connection).await,
        }
        .map(|dialled| (listener, dialled)),
        Err(denial) => Err(denial),
    };
    match reached {
        Ok((listener, dialled)) => {
            let source = Source { address: connection.peer.ip(), principal: connection.principal().cloned() };
            let facts = Facts { source, http: None, target: dialled.target };
            let permit = Permit::issue(connection, listener, facts, snapshot.generation, &shared.snapshot);
            shared.metrics.connections.accepted(Accepted::Served);
            let _open = shared.metrics.connections.open(Carries::Tcp);
            record.closed.route = dialled.route;
            record.closed.endpoint = Some(dialled.endpoint);
            record.closed.audited = dialled.audited;
            let mut upstream = Breaking::new(dialled.stream);
            let copied = async {
                match &mut upstream.io {
                    dial::Stream::Plain(upstream) => copy::both(io, upstream, &record.bytes, IDLE).await,
                    dial::Stream::Mesh(upstream) => copy::both(io, &mut **upstream, &record.bytes, IDLE).await,
                }
            };
            let copied = tokio::select! {
                biased;
                () = permit.withdrawal().withdrawn() => {
                    record.closed.denial = permit.withdrawal().denial().cloned();
                    return Served::Broken;
                }
                copied = copied => copied,
            };
            // How a side failed is its own affair: the bytes say how far it went, and the other side is told that it is not all.
            if copied.is_err() {
                return Served::Broken;
            }
            upstream.ended();
            Served::Ended
        }
        Err(denial) => {
            shared.metrics.connections.accepted(Accepted::Refused);
            record.closed.denial = Some(denial);
            Served::Broken
        }
    }
}

/// Reports when dropped, so that a connection cut off at its deadline is reported too.
struct Record<'a> {
    shared: &'a Shared,
    bytes: copy::Bytes,
    began: Instant,
    closed: Closed,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.closed.sent = self.bytes.sent();
        self.closed.received = self.bytes.received();
        self.closed.duration = self.began.elapsed();
        let metrics = &self.shared.metrics;
        metrics.connections.bytes(Direction::Sent, self.closed.sent);
        metrics.connections.bytes(Direction::Received, self.closed.received);
        if let Some(denial) = &self.closed.denial {
            metrics.requests.denied(denial);
        }
        metrics.requests.audited(&self.closed.audited);
        self.shared.observer.closed(&self.closed);
    }
}
