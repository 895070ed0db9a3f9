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
use std::sync::Arc;

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

/// The process default if there is one, else aws-lc-rs: both put X25519MLKEM768 first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}
