//! The connecting side of the mesh hop: everything a connection to a meshed endpoint needs, made once per pair of identities.
//!
//! Pingora builds its TLS configuration per connection from an `HttpPeer`'s pieces and leaves the roots out of its pool key, so those
//! pieces are shared and hashed here; opaque TCP uses a rustls configuration of our own, which also checks the URI SAN.

use super::certificate::{Certificate, InvalidCertificate, chain, private_key, roots};
use super::peer::Callee;
use super::{ALPN_TCP, provider};
use crate::snapshot::Snapshot;
use parking_lot::Mutex;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_core::{ErrorType, OrErr};
use rustls::ClientConfig;
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use selvage_config::MeshSpec;
use selvage_config::ports::HOP_PRIORITY;
use selvage_policy::SpiffeId;
use sha2::{Digest, Sha256};
use socket2::SockRef;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;

/// Pairs of identities kept at once; a proxy talks to the workloads that its own calls, so this is never reached in practice.
const MAX_HOPS: usize = 8192;
/// Streams per upstream HTTP/2 connection (Pingora's default is 1).
const MAX_STREAMS: usize = 100;
/// Idle upstream connections are given up before the accepting side closes them ([`crate::net::conn::IDLE`]), so that no request
/// races with that close.
pub const IDLE: Duration = Duration::from_secs(50);

/// What is spoken inside the hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// HTTP/2.
    Http2,
    /// HTTP/1.1, for Upgrade and Expect.
    Http1,
}

/// A mesh hop from one identity of ours to one expected identity.
pub struct Hop {
    /// Whom the endpoint must prove to be.
    pub expected: SpiffeId,
    /// The reserved SNI, and the DNS name that Pingora verifies.
    pub server_name: String,
    cert_key: Arc<CertKey>,
    ca: Arc<CaType>,
    groups: [u64; 2],
    tcp: Arc<ClientConfig>,
    name: ServerName<'static>,
    mark: Tweak,
}

/// What Pingora does to a socket before it connects.
type Tweak = Arc<dyn Fn(&TcpSocket) -> pingora_core::Result<()> + Send + Sync>;

/// Marks a socket as a mesh hop, so that the capture rules let one that leads to our own pod come in as any other does.
pub fn mark(socket: &TcpSocket) -> io::Result<()> {
    SockRef::from(socket).set_priority(HOP_PRIORITY)
}

/// Hops by identities; one per proxy, shared by its workers. Entries are replaced when the leaf or the roots change.
#[derive(Debug, Default)]
pub struct MeshTransport {
    /// By whom, then to whom: looked up by reference, since every request does.
    hops: Mutex<HashMap<SpiffeId, HashMap<SpiffeId, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    leaf: Arc<Certificate>,
    mesh: Arc<MeshSpec>,
    hop: Arc<Hop>,
}

impl Hop {
    /// Makes `peer` (built with TLS on) speak this hop: client certificate, roots, SNI, ALPN and the pool key.
    pub fn apply(&self, peer: &mut HttpPeer, speaks: Speaks) {
        peer.sni.clone_from(&self.server_name);
        peer.client_cert_key = Some(self.cert_key.clone());
        peer.options.ca = Some(self.ca.clone());
        peer.options.verify_cert = true;
        peer.options.verify_hostname = true;
        peer.options.idle_timeout = Some(IDLE);
        peer.options.upstream_tcp_sock_tweak_hook = Some(self.mark.clone());
        match speaks {
            Speaks::Http2 => {
                peer.options.alpn = ALPN::H2;
                peer.options.max_h2_streams = MAX_STREAMS;
            }
            Speaks::Http1 => peer.options.alpn = ALPN::H1,
        }
        peer.group_key = self.groups[usize::from(speaks == Speaks::Http1)];
    }

    /// The configuration for opaque TCP, ALPN `selvage-tcp/1`, and the name to ask for.
    pub fn tcp(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        (self.tcp.clone(), self.name.clone())
    }

    fn new(leaf: &Certificate, roots_pem: &[String], expected: &SpiffeId) -> Result<Self, InvalidCertificate> {
        let (store, root_ders) = roots(roots_pem)?;
        let chain = chain("chain", &leaf.spec.chain)?;
        let key = private_key(&leaf.spec)?;
        let ders: Vec<Vec<u8>> = chain.iter().map(|der| der.to_vec()).collect();
        // Pingora parses with a release of x509-parser that is not ours and panics where it fails; `chain` has parsed them already.
        let cert_key = catch_unwind(|| CertKey::new(ders, key.secret_der().to_vec()))
            .map_err(|_| InvalidCertificate("chain: Pingora cannot parse it".into()))?;
        let ca = catch_unwind(|| root_ders.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect::<Vec<_>>())
            .map_err(|_| InvalidCertificate("roots: Pingora cannot parse them".into()))?;
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|error| InvalidCertificate(format!("roots: {error}")))?;
        let mut tcp = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| InvalidCertificate(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Callee { webpki, expected: expected.clone() }))
            .with_client_cert_resolver(Arc::new(Mine(leaf.key.clone())));
        tcp.alpn_protocols = vec![ALPN_TCP.to_vec()];
        let server_name = expected.dns_name();
        let name = ServerName::try_from(server_name.clone()).map_err(|_| {
            InvalidCertificate(format!("`{server_name}` of {expected} is no DNS name: shorten namespace, account or trust domain"))
        })?;
        let group = |speaks: u8| {
            let mut hash = Sha256::new();
            hash.update(&chain[0]);
            root_ders.iter().for_each(|der| hash.update(Sha256::digest(der)));
            hash.update(expected.to_string());
            hash.update([speaks]);
            let mut first = [0; 8];
            first.copy_from_slice(&hash.finalize()[..8]);
            u64::from_be_bytes(first)
        };
        let groups = [group(0), group(1)];
        Ok(Self {
            expected: expected.clone(),
            server_name,
            cert_key: Arc::new(cert_key),
            ca: ca.into_boxed_slice().into(),
            groups,
            tcp: Arc::new(tcp),
            name,
            mark: Arc::new(|socket| mark(socket).or_err(ErrorType::SocketError, "the socket of a mesh hop cannot be marked")),
        })
    }
}

impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hop").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl MeshTransport {
    /// The hop from `from`, an identity this proxy speaks for, to `to`. Nothing is parsed where the last one still holds.
    pub fn hop(&self, snapshot: &Snapshot, from: &SpiffeId, to: &SpiffeId) -> Result<Arc<Hop>, InvalidCertificate> {
        let Some(leaf) = snapshot.identities.get(from) else {
            return Err(InvalidCertificate(format!("the certificate of {from} has not arrived yet")));
        };
        let mut hops = self.hops.lock();
        if let Some(entry) = hops.get_mut(from).and_then(|hops| hops.get_mut(to)) {
            let same_roots = Arc::ptr_eq(&entry.mesh, &snapshot.mesh) || entry.mesh.roots == snapshot.mesh.roots;
            if entry.leaf.fingerprint == leaf.fingerprint && same_roots {
                if !Arc::ptr_eq(&entry.mesh, &snapshot.mesh) {
                    entry.mesh = snapshot.mesh.clone();
                }
                return Ok(entry.hop.clone());
            }
        }
        let hop = Arc::new(Hop::new(leaf, &snapshot.mesh.roots, to)?);
        if hops.values().map(HashMap::len).sum::<usize>() >= MAX_HOPS {
            hops.clear();
        }
        let entry = Entry { leaf: leaf.clone(), mesh: snapshot.mesh.clone(), hop: hop.clone() };
        hops.entry(from.clone()).or_default().insert(to.clone(), entry);
        Ok(hop)
    }
}

#[derive(Debug)]
struct Mine(Arc<CertifiedKey>);

impl ResolvesClientCert for Mine {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
