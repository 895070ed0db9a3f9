//! A certificate authority for tests: leaves of workloads and of sites.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use selvage_config::CertificateSpec;
use selvage_config::resource::Secret;
use selvage_policy::SpiffeId;

/// A root with its key.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A fresh one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Selvage test root");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root signs itself");
        Self { issuer }
    }

    /// The root, PEM.
    pub fn root(&self) -> String {
        self.issuer.pem()
    }

    /// The leaf of a workload: the URI of its identity and the DNS name that stands for it.
    pub fn workload(&self, id: &SpiffeId) -> CertificateSpec {
        let uri = SanType::URI(id.to_string().try_into().expect("an identity is ASCII"));
        let dns = SanType::DnsName(id.dns_name().try_into().expect("a DNS name is ASCII"));
        self.leaf(vec![uri, dns])
    }

    /// The certificate of a site.
    pub fn site(&self, names: &[&str]) -> CertificateSpec {
        self.leaf(names.iter().map(|name| SanType::DnsName(name.to_string().try_into().expect("a DNS name is ASCII"))).collect())
    }

    fn leaf(&self, names: Vec<SanType>) -> CertificateSpec {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params.signed_by(&key, &self.issuer).expect("the root signs").pem();
        CertificateSpec { chain, private_key: Secret::new(key.serialize_pem()) }
    }

    /// Signs a request as it stands.
    pub fn sign(&self, csr: &str) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a signing request");
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).expect("the root signs").pem()
    }

    /// A server with this certificate that asks for none.
    pub fn server(&self, leaf: &CertificateSpec) -> ServerConfig {
        let (chain, key) = parts(leaf);
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("our leaf fits its key")
    }

    /// A client that trusts this root and proves `leaf`, if there is one.
    pub fn client(&self, leaf: Option<&CertificateSpec>, alpn: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("our root is one");
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let (chain, key) = parts(leaf);
                builder.with_client_auth_cert(chain, key).expect("our leaf fits its key")
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

fn parts(leaf: &CertificateSpec) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>().expect("our chain is PEM");
    (chain, PrivateKeyDer::from_pem_slice(leaf.private_key.expose().as_bytes()).expect("our key is PEM"))
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}
