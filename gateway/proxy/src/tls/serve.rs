//! The accepting side: certificates by SNI for clients, mutual TLS for the mesh hop.

use super::certificate::{Certificate, InvalidCertificate, roots};
use super::peer::Callers;
use super::{ALPN_H2, ALPN_HTTP1, ALPN_TCP, provider};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use selvage_policy::TrustDomain;
use std::collections::HashMap;
use std::sync::Arc;

/// The configuration for an `Https` or `Tls` listener: the certificate is chosen by SNI (exact, then wildcard, then the first);
/// ALPN h2 and http/1.1 for `Https`, none for `Tls`.
pub fn serve_clients(certificates: &[Arc<Certificate>], http: bool) -> Result<Arc<ServerConfig>, InvalidCertificate> {
    let resolver = ByName::of(certificates)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| InvalidCertificate(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    if http {
        config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    }
    with_tickets(config)
}

/// The configuration for the accepting side of the mesh hop: TLS 1.3, a peer certificate of one of `domains` under `roots` required;
/// ALPN `h2`, `http/1.1`, `selvage-tcp/1`.
pub fn serve_mesh(leaf: &Certificate, roots: &[String], domains: &[TrustDomain]) -> Result<Arc<ServerConfig>, InvalidCertificate> {
    let (store, _) = self::roots(roots)?;
    let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|error| InvalidCertificate(format!("roots: {error}")))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| InvalidCertificate(error.to_string()))?
        .with_client_cert_verifier(Arc::new(Callers { webpki, domains: domains.to_vec() }))
        .with_cert_resolver(Arc::new(One(leaf.key.clone())));
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec(), ALPN_TCP.to_vec()];
    with_tickets(config)
}

/// Resumption by tickets under keys of this configuration alone: a session of an older generation, whose certificates or roots may
/// have been withdrawn since, begins anew.
fn with_tickets(mut config: ServerConfig) -> Result<Arc<ServerConfig>, InvalidCertificate> {
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| InvalidCertificate(error.to_string()))?;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Certificates by name. A wildcard stands for exactly one label (RFC 6125 section 6.4.3).
#[derive(Debug)]
struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the `*`, dot included.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    first: Arc<CertifiedKey>,
}

impl ByName {
    fn of(certificates: &[Arc<Certificate>]) -> Result<Self, InvalidCertificate> {
        let Some(first) = certificates.first() else {
            return Err(InvalidCertificate("certificates: none; a listener that terminates TLS needs at least one".into()));
        };
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for certificate in certificates {
            for name in &certificate.names {
                let (table, name) = match name.strip_prefix('*') {
                    Some(suffix) => (&mut wildcard, suffix),
                    None => (&mut exact, name.as_str()),
                };
                // Of two for one name the earlier wins, as Gateway API lists them.
                table.entry(name.to_string()).or_insert_with(|| certificate.key.clone());
            }
        }
        Ok(Self { exact, wildcard, first: first.key.clone() })
    }

    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if let Some(key) = self.exact.get(&name) {
            return key;
        }
        let suffix = name.find('.').map(|dot| &name[dot..]);
        suffix.and_then(|suffix| self.wildcard.get(suffix)).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().map_or(&self.first, |name| self.find(name)).clone())
    }
}
