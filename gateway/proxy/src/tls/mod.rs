//! TLS by rustls with aws-lc-rs: certificates by SNI for clients, mutual TLS for the mesh hop.
//!
//! ```text
//! CertificateSpec --certificate--> Certificate ──┬─ serve_clients ─> ServerConfig of an Https or Tls listener
//!                                                ├─ serve_mesh ────> ServerConfig of the accepting side of a mesh hop
//!                                                └─ upstream ──────> Hop: what a connection to a meshed endpoint needs
//! ```

pub mod certificate;
pub mod peer;
pub mod serve;
pub mod upstream;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use rustls::crypto::CryptoProvider;
use std::sync::{Arc, LazyLock};

pub use certificate::{Certificate, InvalidCertificate, certificate};
pub use peer::peer_identity;
pub use serve::{serve_clients, serve_mesh};
pub use upstream::{Hop, MeshTransport, Speaks};

/// ALPN of HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// ALPN of opaque TCP inside the mesh hop: a preamble that carries a port, then raw bytes (see [`crate::l4::preamble`]).
pub const ALPN_TCP: &[u8] = b"selvage-tcp/1";

/// aws-lc-rs with X25519MLKEM768 first, whoever has installed another one as the process default.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

pub(crate) fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// Makes it the process default, which Pingora takes for its upstream connections; where there is none Pingora would install ring.
pub fn install_default() {
    // Somebody was first: our own configurations name their provider all the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
