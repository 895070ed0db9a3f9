//! The controller's own certificates, on the wire and for webhooks: issued by the authority it serves, renewed at half their life and as
//! soon as the authority signs with something else, without a restart.

use crate::ca::{Authority, CaError, LEAF_LIFE};
use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use selvage_policy::{SpiffeId, TrustDomain};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// The controller's service account, in [`crate::world::PLATFORM_NAMESPACE`].
pub const IDENTITY_ACCOUNT: &str = "controller";

/// How often it is looked at. A sleep of half its life would be longer by whatever time the machine is suspended.
const LOOK: Duration = Duration::from_secs(60);

/// Who the controller is: the name that proxies verify is its `dns_name()`.
pub fn server_identity(trust_domain: &TrustDomain) -> SpiffeId {
    SpiffeId::new(trust_domain.clone(), crate::world::PLATFORM_NAMESPACE, IDENTITY_ACCOUNT).expect("both names are well formed literals")
}

/// The certificate, replaced in place.
#[derive(Debug)]
pub struct ServerCertificate {
    name: ServerName,
    present: RwLock<Arc<CertifiedKey>>,
}

/// Who is served as.
#[derive(Debug)]
enum ServerName {
    /// The controller, to proxies.
    Identity(SpiffeId),
    /// A DNS name, to the API server.
    Dns(String),
}

impl ServerCertificate {
    /// Issues the first one.
    pub fn new(authority: &Authority, trust_domain: &TrustDomain) -> Result<Arc<Self>, CaError> {
        Self::of(authority, ServerName::Identity(server_identity(trust_domain)))
    }

    /// The same for webhooks, which the API server calls by `name`.
    pub fn webhooks(authority: &Authority, name: &str) -> Result<Arc<Self>, CaError> {
        Self::of(authority, ServerName::Dns(name.into()))
    }

    fn of(authority: &Authority, name: ServerName) -> Result<Arc<Self>, CaError> {
        let present = RwLock::new(issue(authority, &name)?);
        Ok(Arc::new(Self { name, present }))
    }

    /// The TLS configuration that serves it.
    pub fn tls(self: &Arc<Self>) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        Arc::new(versions.expect("aws-lc-rs speaks TLS 1.3").with_no_client_auth().with_cert_resolver(self.clone()))
    }

    /// Renews it at half its life, and when the authority was replaced, until cancelled; a failure keeps the present one and is tried again
    /// at the next look.
    pub async fn keep(self: Arc<Self>, authority: Arc<Authority>, stop: CancellationToken) {
        let mut made = SystemTime::now();
        let mut replaced = authority.replacements();
        let mut is_replaced = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // Never closed: the authority is ours, too.
                _ = replaced.changed() => is_replaced = true,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = SystemTime::now();
            if !is_replaced && !is_due(made, now) {
                continue;
            }
            match issue(&authority, &self.name) {
                Ok(new) => {
                    *self.present.write() = new;
                    (made, is_replaced) = (now, false);
                }
                Err(error) => tracing::error!(%error, "the controller's own certificate could not be renewed"),
            }
        }
    }
}

/// Whether half of its life is over by the wall clock, by which others judge it; also where that was set back to before it was made.
fn is_due(made: SystemTime, now: SystemTime) -> bool {
    now.duration_since(made).map_or(true, |age| age >= LEAF_LIFE / 2)
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present.read().clone())
    }
}

fn issue(authority: &Authority, name: &ServerName) -> Result<Arc<CertifiedKey>, CaError> {
    let own = |problem: String| CaError::Own { part: "leaf", problem };
    let spec = match name {
        ServerName::Identity(identity) => authority.issue(identity, "", SystemTime::now())?,
        ServerName::Dns(name) => authority.issue_server(name, SystemTime::now())?,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(spec.chain.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(spec.private_key.expose().as_bytes()).map_err(|error| own(error.to_string()))?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|error| own(error.to_string()))?;
    Ok(Arc::new(CertifiedKey::new(chain.map_err(|error| own(error.to_string()))?, key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_by_the_wall_clock() {
        let (made, half) = (SystemTime::UNIX_EPOCH + LEAF_LIFE, LEAF_LIFE / 2);
        for (now, due) in
            [(made, false), (made + half - LOOK, false), (made + half, true), (made + 2 * LEAF_LIFE, true), (made - LOOK, true)]
        {
            assert_eq!(is_due(made, now), due, "{now:?}");
        }
    }
}
