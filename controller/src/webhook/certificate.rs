//! The certificate that webhooks are served with: from our own authority, made anew every hour, swapped under open connections.

use crate::ca::{Authority, CaError};
use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// What the API server calls the controller.
pub const SERVER_NAME: &str = "selvage-controller.selvage-system.svc";
/// How often a new certificate is made. It lives a day: a missed one does no harm.
const EVERY: Duration = Duration::from_secs(3600);
/// After a failure it is tried again so soon.
const AGAIN: Duration = Duration::from_secs(10);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The authority does not issue.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// What it issued cannot be used.
    #[error("the certificate for {SERVER_NAME} cannot be used: {0}")]
    Unusable(String),
}

/// The certificate in use. Before the first, handshakes fail.
#[derive(Debug, Default)]
pub struct Serving {
    current: ArcSwapOption<CertifiedKey>,
}

impl Serving {
    /// Takes a new one from the authority. To be called as well as soon as the authority signs with something else.
    pub fn renew(&self, authority: &Authority, now: SystemTime) -> Result<(), ServingError> {
        let issued = authority.issue_server(SERVER_NAME, now)?;
        let unusable = |error: &dyn std::fmt::Display| ServingError::Unusable(error.to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(issued.private_key.expose().as_bytes()).map_err(|error| unusable(&error))?;
        let certified =
            CertifiedKey::from_der(chain.map_err(|error| unusable(&error))?, key, &default_provider()).map_err(|error| unusable(&error))?;
        self.current.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// How TLS is spoken with it.
    pub fn tls(self: Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

/// Keeps the certificate fresh until `end`.
pub async fn keep_current(serving: Arc<Serving>, authority: Arc<Authority>, end: CancellationToken) {
    loop {
        let pause = match serving.renew(&authority, SystemTime::now()) {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::error!(%error, "webhooks have no new certificate");
                AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = end.cancelled() => return,
        }
    }
}
