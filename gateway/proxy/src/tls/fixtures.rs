//! Certificates for tests, made on the spot.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use selvage_config::CertificateSpec;
use selvage_config::resource::Secret;
use selvage_policy::SpiffeId;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("self-signed"))
    }

    pub(crate) fn root(&self) -> String {
        self.0.as_ref().pem()
    }

    /// A certificate for DNS names.
    pub(crate) fn web(&self, names: &[&str]) -> CertificateSpec {
        self.issue(names, &[])
    }

    /// A certificate for a workload.
    pub(crate) fn workload(&self, id: &SpiffeId) -> CertificateSpec {
        self.issue(&[&id.dns_name()], &[&id.to_string()])
    }

    /// The same with so long a life.
    pub(crate) fn workload_for(&self, id: &SpiffeId, life: Duration) -> CertificateSpec {
        let mut params = CertificateParams::default();
        params.not_after = (SystemTime::now() + life).into();
        self.issue_with(params, &[&id.dns_name()], &[&id.to_string()])
    }

    pub(crate) fn issue(&self, names: &[&str], uris: &[&str]) -> CertificateSpec {
        self.issue_with(CertificateParams::default(), names, uris)
    }

    fn issue_with(&self, mut params: CertificateParams, names: &[&str], uris: &[&str]) -> CertificateSpec {
        let key = KeyPair::generate().expect("key");
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names
            .iter()
            .map(|name| SanType::DnsName((*name).try_into().expect("ascii")))
            .chain(uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ascii"))))
            .collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params.signed_by(&key, &self.0).expect("signed").pem();
        CertificateSpec { chain, private_key: Secret::new(key.serialize_pem()) }
    }
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().expect("well formed")
}

/// A client that takes any certificate and offers `alpn`, with or without one of its own.
pub(crate) fn client(alpn: &[&[u8]], leaf: Option<&CertificateSpec>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match leaf {
        Some(leaf) => builder
            .with_client_auth_cert(
                super::certificate::chain("chain", &leaf.chain).expect("chain"),
                super::certificate::private_key(leaf).expect("key"),
            )
            .expect("a pair"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::provider().signature_verification_algorithms.supported_schemes()
    }
}
