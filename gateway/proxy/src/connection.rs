//! What is known of one accepted connection; every request on it reads this.

use crate::net::closing::Closing;
use crate::permit::Permits;
use pingora_core::protocols::Digest;
use pingora_core::protocols::raw_connect::ProxyDigest;
use selvage_config::MeshSpec;
use selvage_config::resource::listener::Bind;
use selvage_policy::{Key, SpiffeId};
use std::net::SocketAddr;
use std::sync::Arc;

/// One downstream connection. The driver finds it with [`Connection::of`].
#[derive(Debug)]
pub struct Connection {
    /// The socket it came in on.
    pub bind: Bind,
    /// The listener chosen when it was accepted. Each request resolves its listener again from bind, destination and host.
    pub listener: Arc<Key>,
    /// Who connected.
    pub peer: SocketAddr,
    /// Where the caller wanted to go: the original destination when captured, else the local address.
    pub destination: SocketAddr,
    /// TLS terminated by us; on a `Passthrough` listener what its hello says.
    pub tls: Option<TlsSession>,
    /// The generation of the Snapshot it was accepted under: what was found out under another one is found out again.
    pub generation: u64,
    /// Whether it is going away: a response should say so (`Connection: close`).
    pub closing: Closing,
    /// What was let in on it and is under way.
    pub permits: Permits,
}

/// The TLS session of a connection.
#[derive(Clone, Debug)]
pub struct TlsSession {
    /// SNI, lower-case.
    pub server_name: Option<Arc<str>>,
    /// On a mesh hop: the identity the peer's certificate proved.
    pub peer: Option<SpiffeId>,
    /// The roots and trust domains under which it did.
    pub trusted: Option<Arc<MeshSpec>>,
}

impl Connection {
    /// The connection a session runs on: `Connection::of(session.digest()?)`.
    pub fn of(digest: &Digest) -> Option<&Arc<Self>> {
        Self::in_digest(digest.proxy_digest.as_ref()?)
    }

    /// The same, where the digest's own part is at hand.
    pub fn in_digest(about: &ProxyDigest) -> Option<&Arc<Self>> {
        about.user_data.as_ref()?.downcast_ref()
    }

    /// Whether `mesh` still trusts what its peer's certificate was verified against. A connection without one needs no trust.
    pub fn is_trusted(&self, mesh: &Arc<MeshSpec>) -> bool {
        let Some((peer, then)) = self.tls.as_ref().and_then(|tls| Some((tls.peer.as_ref()?, tls.trusted.as_ref()?))) else { return true };
        let has_domain =
            || std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases).any(|domain| domain == peer.trust_domain());
        Arc::ptr_eq(then, mesh) || (then.roots.iter().all(|root| mesh.roots.contains(root)) && has_domain())
    }

    /// The identity its peer proved, on a mesh hop.
    pub fn principal(&self) -> Option<&SpiffeId> {
        self.tls.as_ref()?.peer.as_ref()
    }
}
