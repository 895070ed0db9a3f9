//! A certificate chain with its key, parsed once; errors name what is wrong with which of the two.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use selvage_config::CertificateSpec;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate or key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    let chain = chain("chain", &spec.chain)?;
    let key = private_key(spec)?;
    let signer = super::provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| InvalidCertificate(format!("privateKey: {error}; use an RSA, ECDSA (P-256, P-384) or Ed25519 key")))?;
    let names = dns_names(&chain[0])?;
    let fingerprint = fingerprint(&chain[0]);
    let key = CertifiedKey::new(chain, signer);
    match key.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            return Err(InvalidCertificate("privateKey: it does not belong to the first certificate of chain; put the leaf first".into()));
        }
    }
    Ok(Certificate { key: Arc::new(key), names, spec: spec.clone(), fingerprint })
}

/// The key of a spec in DER.
pub(super) fn private_key(spec: &CertificateSpec) -> Result<PrivateKeyDer<'static>, InvalidCertificate> {
    PrivateKeyDer::from_pem_slice(spec.private_key.expose().as_bytes())
        .map_err(|error| InvalidCertificate(format!("privateKey: no PEM private key in it ({error}); use PKCS#8, SEC1 or PKCS#1")))
}

/// Every certificate in a PEM text, at least one, each one parsed: what comes out of here cannot make a later parser panic.
pub(super) fn chain(field: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, InvalidCertificate> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| InvalidCertificate(format!("{field}: not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(InvalidCertificate(format!("{field}: no certificate in it; write PEM blocks of type CERTIFICATE, the leaf first")));
    }
    for (place, der) in chain.iter().enumerate() {
        match X509Certificate::from_der(der) {
            Ok(([], _)) => {}
            Ok(_) => return Err(InvalidCertificate(format!("{field}: certificate {place} has bytes after its end"))),
            Err(error) => return Err(InvalidCertificate(format!("{field}: certificate {place} is no X.509 certificate: {error}"))),
        }
    }
    Ok(chain)
}

/// The roots of workload identities, from PEM texts.
pub(super) fn roots(pems: &[String]) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), InvalidCertificate> {
    let mut store = RootCertStore::empty();
    let mut all = Vec::new();
    for (place, pem) in pems.iter().enumerate() {
        for der in chain(&format!("roots[{place}]"), pem)? {
            store.add(der.clone()).map_err(|error| InvalidCertificate(format!("roots[{place}]: {error}")))?;
            all.push(der);
        }
    }
    if store.is_empty() {
        return Err(InvalidCertificate("roots: empty; without a root no peer can be verified".into()));
    }
    Ok((store, all))
}

/// The first eight bytes of SHA-256 of a certificate.
pub(super) fn fingerprint(der: &[u8]) -> u64 {
    let digest = Sha256::digest(der);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

fn dns_names(leaf: &CertificateDer<'_>) -> Result<Vec<String>, InvalidCertificate> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| InvalidCertificate(format!("chain: {error}")))?;
    let names = parsed.subject_alternative_name().map_err(|error| InvalidCertificate(format!("chain: subjectAltName: {error}")))?;
    let names = names.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    Ok(names.iter().filter_map(|name| if let GeneralName::DNSName(dns) = name { Some(dns.to_ascii_lowercase()) } else { None }).collect())
}
