//! What is known of one accepted connection; every request on it reads this.

use selvage_config::resource::listener::Bind;
use selvage_policy::{Key, SpiffeId};
use std::net::SocketAddr;
use std::sync::Arc;

/// One downstream connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The socket it came in on.
    pub bind: Bind,
    /// The listener chosen when it was accepted. Each request resolves its listener again from bind, destination and host.
    pub listener: Arc<Key>,
    /// Who connected.
    pub peer: SocketAddr,
    /// Where the caller wanted to go: the original destination when captured, else the local address.
    pub destination: SocketAddr,
    /// TLS terminated by us.
    pub tls: Option<TlsInfo>,
    /// The generation of the Snapshot it was accepted under.
    pub generation: u64,
}

/// The TLS session of a connection.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// SNI, lower-case.
    pub server_name: Option<Arc<str>>,
    /// On a mesh hop: the identity the peer's certificate proved.
    pub peer: Option<SpiffeId>,
    /// Serial number of the certificate we answered with, to notice rotation.
    pub certificate: u64,
}
