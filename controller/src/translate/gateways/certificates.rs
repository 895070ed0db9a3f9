//! The certificates a listener ends TLS with: found, permitted, and fit to be used.

use super::Entry;
use crate::gateway_api::gateways::GatewayListenersTlsCertificateRefs as CertificateRef;
use crate::translate::status::Problem;
use crate::translate::{Facts, Translation};
use crate::world::Name;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use selvage_config::resource::{CertificateSpec, Secret};
use selvage_config::{Resource, VersionKey, keys};
use selvage_policy::Key;

/// Those that can be used, each made a Resource; what is wrong with the others is noted at the entry. One that cannot be used takes nothing from the others.
pub(super) fn resolve(
    facts: &Facts<'_>,
    gateway: &Name,
    entry: &mut Entry,
    version_key: &VersionKey,
    translation: &mut Translation,
) -> Vec<Key> {
    let references: Vec<CertificateRef> =
        entry.listener.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten()).cloned().collect();
    let mut found = Vec::new();
    let mut problem = None;
    if references.is_empty() {
        problem = Some(("InvalidCertificateRef", "tls.certificateRefs is empty: name a Secret of type kubernetes.io/tls".to_string()));
    }
    // A ReferenceGrant for Gateways is none for their ListenerSets, nor the reverse.
    let (kind, namespace) = entry.set.as_ref().map_or(("Gateway", &gateway.namespace), |set| ("ListenerSet", &set.namespace));
    for reference in &references {
        match one(facts, kind, namespace, reference) {
            Ok((name, spec)) => {
                let key = keys::certificate(&name.namespace, &name.name);
                if entry.is_distinct() {
                    translation.add(Resource::secret(key.clone(), &spec, version_key));
                }
                found.push(key);
            }
            Err(refused) => problem = problem.or(Some(refused)),
        }
    }
    if let Some(problem) = problem {
        entry.resolved = Err(problem);
    }
    found
}

fn one(facts: &Facts<'_>, kind: &str, namespace: &str, reference: &CertificateRef) -> Result<(Name, CertificateSpec), Problem> {
    let name = Name::new(reference.namespace.clone().unwrap_or_else(|| namespace.to_string()), reference.name.clone());
    let shown = format!("Secret {}/{}", name.namespace, name.name);
    let invalid = |problem: &str| ("InvalidCertificateRef", format!("{shown} {problem}"));
    if reference.kind.as_deref().unwrap_or("Secret") != "Secret" || !reference.group.as_deref().unwrap_or_default().is_empty() {
        return Err(("InvalidCertificateRef", "tls.certificateRefs name Secrets (of the core group)".into()));
    }
    if !facts.granted(kind, namespace, "Secret", &name) {
        return Err((
            "RefNotPermitted",
            format!("{shown} is in another namespace: a ReferenceGrant there must allow {kind}s of {namespace}"),
        ));
    }
    let secret = facts.world.secrets.get(&name).ok_or_else(|| invalid("does not exist"))?;
    let part = |field: &str| {
        let bytes = secret.spec.data.as_ref().and_then(|parts| parts.get(field));
        bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
    };
    let (Some(chain), Some(key)) = (part("tls.crt"), part("tls.key")) else {
        return Err(invalid("lacks tls.crt or tls.key, PEM"));
    };
    fit(&chain, &key).map_err(|problem| invalid(&problem))?;
    Ok((name, CertificateSpec { chain, private_key: Secret::new(key) }))
}

/// Whether a proxy will be able to use them. The message never shows what is in the Secret.
fn fit(chain: &str, key: &str) -> Result<(), String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| "has a tls.crt that is not PEM".to_string())?;
    if chain.is_empty() {
        return Err("has no certificate in tls.crt: write PEM blocks of type CERTIFICATE, the leaf first".into());
    }
    if chain.iter().any(|der| !matches!(x509_parser::parse_x509_certificate(der), Ok(([], _)))) {
        return Err("has something in tls.crt that is no X.509 certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "has a tls.key that is no PEM private key".to_string())?;
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key);
    let signer = signer.map_err(|_| "has a tls.key of a kind that is not served: use RSA, ECDSA (P-256, P-384) or Ed25519".to_string())?;
    match rustls::sign::CertifiedKey::new(chain, signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(()),
        Err(_) => Err("has a tls.key that does not belong to the first certificate of tls.crt: put the leaf first".into()),
    }
}
