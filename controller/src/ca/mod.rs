//! The certificate authority of workload identities.
//!
//! ```text
//! root (10 years, kept, signs only issuers) ──► issuer (1 year, renewed) ──► leaf (24 hours, of a public key in a request)
//! ```
//!
//! Of a signing request only the public key is used, and that it was signed with its private key; who the leaf is for is decided by
//! whoever calls [`Authority::sign`], from what the connection proves. Several roots are trusted at once while they rotate.

mod keep;
#[cfg(test)]
mod tests;

pub use keep::{KeepError, open};

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use selvage_config::CertificateSpec;
use selvage_config::resource::Secret;
use selvage_policy::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use x509_parser::prelude::Pem;

/// How long a root lives.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How long an issuer lives; it is renewed at half of it.
const ISSUER_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// How long a leaf lives; proxies renew it at half of it.
pub const LEAF_LIFE: Duration = Duration::from_secs(86_400);

/// Certificates hold from a little earlier on, because clocks differ.
const SKEW: Duration = Duration::from_secs(300);

/// What the name of a root of our own making begins with; the trust domain follows.
const ROOT_OF: &str = "Selvage root of ";

/// Why the authority cannot issue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The request is not one.
    #[error("the signing request cannot be used ({0}): send a PKCS#10 request with an ECDSA or RSA key, signed with that key")]
    Request(String),
    /// What was kept cannot be used.
    #[error("the certificate authority's own {part} cannot be used: {problem}")]
    Own {
        /// Root or issuer, certificate or key.
        part: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// What has to be kept of an authority: one document, for a file (mode 0600) or a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Kept {
    /// PEM.
    pub root: String,
    /// PEM.
    pub root_key: Secret<String>,
    /// PEM.
    pub issuer: String,
    /// PEM.
    pub issuer_key: Secret<String>,
    /// Seconds since 1970 at which the issuer is made anew.
    pub renew_issuer: u64,
    /// Other roots that are trusted (PEM): those before and after, while they rotate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted: Vec<String>,
}

/// An authority ready to sign. What it signs with may be replaced while it serves.
pub struct Authority {
    ready: ArcSwap<Ready>,
    replacements: watch::Sender<u64>,
}

struct Ready {
    kept: Kept,
    issuer: Issuer<'static, KeyPair>,
}

impl TryFrom<Kept> for Ready {
    type Error = CaError;

    fn try_from(kept: Kept) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(kept.issuer_key.expose()).map_err(own("issuer key"))?;
        let issuer = Issuer::from_ca_cert_pem(&kept.issuer, key).map_err(own("issuer certificate"))?;
        Ok(Self { kept, issuer })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Kept {
    /// A new root and issuer.
    pub fn create(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let root_key = key("root key")?;
        let mut params = authority_params(&format!("{ROOT_OF}{trust_domain}"), now, ROOT_LIFE, 1);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&root_key).map_err(own("root certificate"))?.pem();
        let mut kept = Self {
            root,
            root_key: Secret::new(root_key.serialize_pem()),
            issuer: String::new(),
            issuer_key: Secret::new(String::new()),
            renew_issuer: 0,
            trusted: Vec::new(),
        };
        kept.new_issuer(trust_domain, now)?;
        Ok(kept)
    }

    /// The trust domain it was made for, as its root's name tells; nothing, where the root is not of our making.
    pub fn trust_domain(&self) -> Option<TrustDomain> {
        let block = Pem::iter_from_buffer(self.root.as_bytes()).next()?.ok()?;
        let root = block.parse_x509().ok()?;
        let name = root.subject().iter_common_name().next()?.as_str().ok()?;
        TrustDomain::try_from(name.strip_prefix(ROOT_OF)?.to_string()).ok()
    }

    /// Makes a new issuer if half of the present one's life is over; says whether it did.
    pub fn renew(&mut self, trust_domain: &TrustDomain, now: SystemTime) -> Result<bool, CaError> {
        let due = seconds(now) >= self.renew_issuer;
        if due {
            self.new_issuer(trust_domain, now)?;
        }
        Ok(due)
    }

    fn new_issuer(&mut self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), CaError> {
        let root_key = KeyPair::from_pem(self.root_key.expose()).map_err(own("root key"))?;
        let root = Issuer::from_ca_cert_pem(&self.root, root_key).map_err(own("root certificate"))?;
        let issuer_key = key("issuer key")?;
        let params = authority_params(&format!("Selvage issuer of {trust_domain}"), now, ISSUER_LIFE, 0);
        self.issuer = params.signed_by(&issuer_key, &root).map_err(own("issuer certificate"))?.pem();
        self.issuer_key = Secret::new(issuer_key.serialize_pem());
        self.renew_issuer = seconds(now) + ISSUER_LIFE.as_secs() / 2;
        Ok(())
    }
}

impl Authority {
    /// Takes up what was kept.
    pub fn new(kept: Kept) -> Result<Self, CaError> {
        Ok(Self { ready: ArcSwap::from_pointee(kept.try_into()?), replacements: watch::Sender::new(0) })
    }

    /// Signs with this from now on; what cannot be used changes nothing.
    pub fn replace(&self, kept: Kept) -> Result<(), CaError> {
        self.ready.store(std::sync::Arc::new(kept.try_into()?));
        self.replacements.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Counts how often it was replaced: what it issued before may not be trusted much longer.
    pub fn replacements(&self) -> watch::Receiver<u64> {
        self.replacements.subscribe()
    }

    /// What has to be kept of it.
    pub fn kept(&self) -> Kept {
        self.ready.load().kept.clone()
    }

    /// Every trusted root, PEM, the present one first.
    pub fn roots(&self) -> Vec<String> {
        let ready = self.ready.load();
        std::iter::once(&ready.kept.root).chain(&ready.kept.trusted).cloned().collect()
    }

    /// Issues a leaf for the public key of `csr` (PEM): the chain, leaf first. `uid` (of the pod) stands in the subject's serial number, for our own eyes.
    pub fn sign(&self, csr: &str, identity: &SpiffeId, uid: &str, now: SystemTime) -> Result<String, CaError> {
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(|error| CaError::Request(error.to_string()))?;
        let ready = self.ready.load();
        let leaf = leaf_params(identity, uid, now)?.signed_by(&request.public_key, &ready.issuer);
        Ok(format!("{}{}", leaf.map_err(own("issuer key"))?.pem(), ready.kept.issuer))
    }

    /// Makes a key and a leaf in one: for the controller's own server, and for rendered files.
    pub fn issue(&self, identity: &SpiffeId, uid: &str, now: SystemTime) -> Result<CertificateSpec, CaError> {
        self.issue_with(leaf_params(identity, uid, now)?)
    }

    /// Makes a key and a leaf for a server that is known by `name` and is no workload: the webhooks that the API server calls.
    pub fn issue_server(&self, name: &str, now: SystemTime) -> Result<CertificateSpec, CaError> {
        let san = |error: rcgen::Error| CaError::Request(format!("{name} does not fit a certificate: {error}"));
        let mut params = any_leaf_params(now);
        params.subject_alt_names = vec![SanType::DnsName(name.to_string().try_into().map_err(san)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue_with(params)
    }

    fn issue_with(&self, params: CertificateParams) -> Result<CertificateSpec, CaError> {
        let key = key("leaf key")?;
        let ready = self.ready.load();
        let leaf = params.signed_by(&key, &ready.issuer).map_err(own("issuer key"))?;
        Ok(CertificateSpec { chain: format!("{}{}", leaf.pem(), ready.kept.issuer), private_key: Secret::new(key.serialize_pem()) })
    }
}

fn key(part: &'static str) -> Result<KeyPair, CaError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(own(part))
}

fn own(part: &'static str) -> impl Fn(rcgen::Error) -> CaError {
    move |error| CaError::Own { part, problem: error.to_string() }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn authority_params(name: &str, now: SystemTime, life: Duration, below: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - SKEW).into();
    params.not_after = (now + life).into();
    params
}

fn leaf_params(identity: &SpiffeId, uid: &str, now: SystemTime) -> Result<CertificateParams, CaError> {
    let san = |error: rcgen::Error| CaError::Request(format!("{identity} does not fit a certificate: {error}"));
    let mut params = any_leaf_params(now);
    params.distinguished_name.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), uid);
    params.subject_alt_names =
        vec![SanType::URI(identity.to_string().try_into().map_err(san)?), SanType::DnsName(identity.dns_name().try_into().map_err(san)?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// What every leaf has.
fn any_leaf_params(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - SKEW).into();
    params.not_after = (now + LEAF_LIFE).into();
    params
}

/// The attribute type serialNumber of a name (X.520 section 6.2.9).
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];
