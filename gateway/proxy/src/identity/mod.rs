//! A workload's own key and certificate: made here, signed by the controller, renewed at half of its life.
//!
//! ```text
//! KeyRequest::new(id) --CSR--> controller --chain--> KeyRequest::certify -> CertificateSpec, Life
//! ```
//!
//! The private key never leaves the process except into the proxy's own resource layer.

use crate::tls::{InvalidCertificate, certificate, peer_identity};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use selvage_config::CertificateSpec;
use selvage_config::resource::Secret;
use selvage_policy::SpiffeId;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

#[cfg(test)]
mod tests;

/// Renewal is spread over this share of a life around its half, so that pods born together do not renew together.
const JITTER: f64 = 0.1;

/// Why an identity has no certificate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// The key or the request could not be made.
    #[error("cannot make a key and a signing request for {0}: {1}")]
    Request(SpiffeId, String),
    /// What came back is not usable.
    #[error("the certificate signed for {0} cannot be used: {1}")]
    Certificate(SpiffeId, InvalidCertificate),
    /// It is somebody else's.
    #[error("the certificate signed for {wanted} is for {found}; the signer must use the identity it verified")]
    Other {
        /// Whom the request was for.
        wanted: SpiffeId,
        /// What the certificate says.
        found: String,
    },
}

/// A fresh key and the request to sign it.
#[derive(Debug)]
pub struct KeyRequest {
    /// Whose.
    pub id: SpiffeId,
    /// The signing request, PEM: URI SAN with the SPIFFE id, DNS SAN with its alias.
    pub csr: String,
    private_key: Secret<String>,
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// From here.
    pub not_before: SystemTime,
    /// To here.
    pub not_after: SystemTime,
}

impl KeyRequest {
    /// Makes an ECDSA P-256 key and its request.
    pub fn new(id: &SpiffeId) -> Result<Self, IdentityError> {
        let failed = |error: rcgen::Error| IdentityError::Request(id.clone(), error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(id.to_string().try_into().map_err(failed)?), SanType::DnsName(id.dns_name().try_into().map_err(failed)?)];
        let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;
        Ok(Self { id: id.clone(), csr, private_key: Secret::new(key.serialize_pem()) })
    }

    /// Takes the signed chain: it must be of this key and for this identity.
    pub fn certify(&self, chain: &str) -> Result<(CertificateSpec, Life), IdentityError> {
        let spec = CertificateSpec { chain: chain.to_string(), private_key: self.private_key.clone() };
        let parsed = certificate(&spec).map_err(|invalid| IdentityError::Certificate(self.id.clone(), invalid))?;
        let leaf = parsed.key.end_entity_cert().map_err(|error| self.unusable(&error.to_string()))?;
        match peer_identity(leaf) {
            Some(found) if found == self.id => {}
            Some(found) => return Err(IdentityError::Other { wanted: self.id.clone(), found: found.to_string() }),
            None => return Err(IdentityError::Other { wanted: self.id.clone(), found: "nobody: it needs exactly one URI SAN".into() }),
        }
        if !parsed.names.contains(&self.id.dns_name()) {
            return Err(self.unusable(&format!("it lacks the DNS name {}", self.id.dns_name())));
        }
        let life = Life::of(leaf).ok_or_else(|| self.unusable("its life is empty or before 1970"))?;
        Ok((spec, life))
    }

    fn unusable(&self, problem: &str) -> IdentityError {
        IdentityError::Certificate(self.id.clone(), InvalidCertificate(problem.into()))
    }
}

impl Life {
    /// The life of a DER certificate.
    pub fn of(leaf: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        let at = |seconds: i64| Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
        let life =
            Self { not_before: at(parsed.validity().not_before.timestamp())?, not_after: at(parsed.validity().not_after.timestamp())? };
        (life.not_before < life.not_after).then_some(life)
    }

    /// Half of it.
    pub fn half(&self) -> SystemTime {
        self.not_before + self.length() / 2
    }

    /// When to renew: around half of it. `random` is uniform over all of u64.
    pub fn renew_at(&self, random: u64) -> SystemTime {
        let spread = self.length().mul_f64(JITTER);
        let share = random as f64 / u64::MAX as f64;
        self.half() - spread / 2 + spread.mul_f64(share)
    }

    fn length(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or(Duration::from_secs(1))
    }
}
