//! TLS by rustls with aws-lc-rs: certificates by SNI for clients, mutual TLS for the mesh hop.

use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use selvage_config::CertificateSpec;
use selvage_policy::{SpiffeId, TrustDomain};
use std::sync::Arc;

/// A certificate or key that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCertificate(pub String);

/// A parsed certificate with the names it is for.
#[derive(Debug)]
pub struct Certificate {
    /// Chain and signing key.
    pub key: Arc<CertifiedKey>,
    /// DNS names, lower-case, wildcards included.
    pub names: Vec<String>,
    /// PEM again, for upstream client authentication.
    pub spec: CertificateSpec,
    /// Hash of the leaf.
    pub fingerprint: u64,
}

/// Parses it; chain and key must belong together.
pub fn certificate(spec: &CertificateSpec) -> Result<Certificate, InvalidCertificate> {
    let _ = spec;
    unimplemented!("contract")
}

/// The configuration for an `Https` or `Tls` listener: the certificate is chosen by SNI (exact, then wildcard, then the first);
/// ALPN h2 and http/1.1 for `Https`, none for `Tls`.
pub fn serve_clients(certificates: &[Arc<Certificate>], http: bool) -> Result<Arc<ServerConfig>, InvalidCertificate> {
    let _ = (certificates, http);
    unimplemented!("contract")
}

/// The configuration for the accepting side of the mesh hop: TLS 1.3, a peer certificate of one of `domains` under `roots` required;
/// ALPN `h2`, `http/1.1`, `selvage-tcp/1`.
pub fn serve_mesh(leaf: &Certificate, roots: &[String], domains: &[TrustDomain]) -> Result<Arc<ServerConfig>, InvalidCertificate> {
    let _ = (leaf, roots, domains);
    unimplemented!("contract")
}

/// The identity in a verified peer certificate: exactly one URI SAN, of our form.
pub fn peer_identity(certificate: &[u8]) -> Option<SpiffeId> {
    let _ = certificate;
    unimplemented!("contract")
}
