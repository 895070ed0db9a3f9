//! Opaque TCP: guards, endpoint, connect, copy. The same guards as for HTTP, with nothing said about HTTP.

use selvage_policy::{Denial, Key, SpiffeId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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
    /// Why it was refused, if it was.
    pub denial: Option<Denial>,
}

/// Told of connections that ended below HTTP: for metrics and the access log. Called on the worker; it must not block.
pub trait Observer: Send + Sync + 'static {
    /// An opaque TCP connection ended or was refused.
    fn closed(&self, closed: &Closed) {
        let _ = closed;
    }

    /// An HTTP request was answered before the driver saw it: too late, too large, or plain where mesh TLS is required.
    fn refused(&self, connection: &crate::connection::Connection, denial: &Denial) {
        let _ = (connection, denial);
    }
}

/// Watches nothing.
#[derive(Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}
