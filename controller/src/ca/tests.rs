use super::*;
use std::os::unix::fs::PermissionsExt;
use x509_parser::prelude::{FromDer, GeneralName, Pem, X509Certificate};

fn domain() -> TrustDomain {
    TrustDomain::try_from("cluster.local".to_string()).expect("well formed")
}

fn orders() -> SpiffeId {
    SpiffeId::new(domain(), "shop", "orders").expect("well formed")
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn authority() -> Authority {
    Authority::new(Kept::create(&domain(), at(0)).expect("made")).expect("just made")
}

fn chain(pem: &str) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(pem.as_bytes()).map(|block| block.expect("PEM").contents).collect()
}

/// A request that asks for far more than its sender may have.
fn greedy_request() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().expect("ascii"))];
    let key = KeyPair::generate().expect("a key");
    params.serialize_request(&key).and_then(|csr| csr.pem()).expect("a request")
}

#[test]
fn only_the_public_key_of_a_request_is_used() {
    let signed = authority().sign(&greedy_request(), &orders(), "uid-1", at(0)).expect("signed");
    let chain = chain(&signed);
    assert_eq!(chain.len(), 2, "leaf and issuer");
    let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("a certificate");
    let san = leaf.subject_alternative_name().expect("one").expect("there").value.general_names.clone();
    assert_eq!(san.len(), 2);
    assert!(matches!(san[0], GeneralName::URI("spiffe://cluster.local/ns/shop/sa/orders")), "{san:?}");
    assert!(matches!(san[1], GeneralName::DNSName("orders.shop.sa.cluster.local")), "{san:?}");
    assert!(!leaf.is_ca());
    let serial = leaf.subject().iter_attributes().next().expect("a subject").as_str().expect("text");
    assert_eq!(serial, "uid-1");
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(life, 86_400 + 300);
}

#[test]
fn a_chain_leads_to_the_root_by_signatures() {
    let authority = authority();
    let signed = authority.issue(&orders(), "u", at(0)).expect("issued");
    let certificates = chain(&signed.chain);
    let root = chain(&authority.roots()[0]);
    let (_, leaf) = X509Certificate::from_der(&certificates[0]).expect("leaf");
    let (_, issuer) = X509Certificate::from_der(&certificates[1]).expect("issuer");
    let (_, root) = X509Certificate::from_der(&root[0]).expect("root");
    assert_eq!(leaf.issuer(), issuer.subject());
    assert_eq!(issuer.issuer(), root.subject());
    assert_eq!(issuer.basic_constraints().expect("one").expect("there").value.path_len_constraint, Some(0));
}

#[test]
fn what_is_no_request_is_refused_with_the_remedy() {
    for bad in ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        let error = authority().sign(bad, &orders(), "u", at(0)).expect_err("refused");
        assert!(matches!(error, CaError::Request(_)), "{error}");
    }
}

#[test]
fn a_request_with_a_broken_signature_is_refused() {
    let request = greedy_request();
    let mut der = chain(&request).remove(0);
    let last = der.len() - 1;
    der[last] ^= 1;
    let pem = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der)
    );
    assert!(authority().sign(&pem, &orders(), "u", at(0)).is_err());
}

#[test]
fn other_roots_are_trusted_beside_the_present_one() {
    let mut kept = Kept::create(&domain(), at(0)).expect("made");
    let next = Kept::create(&domain(), at(1)).expect("made");
    kept.trusted.push(next.root.clone());
    let roots = Authority::new(kept.clone()).expect("usable").roots();
    assert_eq!(roots, [kept.root, next.root]);
}

#[test]
fn the_issuer_is_renewed_at_half_its_life_and_the_root_stays() {
    let mut kept = Kept::create(&domain(), at(0)).expect("made");
    let before = kept.clone();
    assert!(!kept.renew(&domain(), at(100)).expect("renewed"));
    assert_eq!(kept, before);
    assert!(kept.renew(&domain(), at(ISSUER_LIFE.as_secs() / 2)).expect("renewed"));
    assert_eq!(kept.root, before.root);
    assert_ne!(kept.issuer, before.issuer);
}

#[test]
fn an_authority_survives_a_restart_and_refuses_wide_modes_and_damage() {
    let dir = std::env::temp_dir().join(format!("selvage-ca-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let path = dir.join("ca.json");
    let first = open(&path, &domain(), at(0)).expect("made");
    let again = open(&path, &domain(), at(10)).expect("opened");
    assert_eq!(first.roots(), again.roots());
    let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let other = TrustDomain::try_from("other.example".to_string()).expect("well formed");
    let refused = open(&path, &other, at(10)).expect_err("certificates of before are of another trust domain").to_string();
    for word in ["MeshConfig/default", "spec.trustDomain", "other.example", &domain().to_string(), "set it back"] {
        assert!(refused.contains(word), "{word} is not in: {refused}");
    }

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
    assert!(matches!(open(&path, &domain(), at(20)), Err(KeepError::Mode { mode: 0o644, .. })));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
    std::fs::write(&path, "{}").expect("written");
    assert!(matches!(open(&path, &domain(), at(30)), Err(KeepError::Damaged { .. })));
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn no_key_shows_in_debug() {
    let kept = Kept::create(&domain(), at(0)).expect("made");
    let shown = format!("{kept:?} {:?}", Authority::new(kept.clone()).expect("usable"));
    assert!(!shown.contains("PRIVATE"), "{shown}");
}
