//! Signed chains that are taken and refused, and when to renew.

use super::*;
use rcgen::{BasicConstraints, CertificateSigningRequestParams, CertifiedIssuer, IsCa};

fn id(text: &str) -> SpiffeId {
    text.parse().expect("well formed")
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("self-signed")
}

fn sign(csr: &str) -> String {
    let mut request = CertificateSigningRequestParams::from_pem(csr).expect("our own request parses");
    request.params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    request.params.not_after = rcgen::date_time_ymd(2026, 1, 3);
    request.signed_by(&authority()).expect("signed").pem()
}

#[test]
fn a_signed_request_becomes_a_certificate_of_its_key_and_identity() {
    let orders = id("spiffe://cluster.local/ns/shop/sa/orders");
    let request = KeyRequest::new(&orders).expect("made");
    let (spec, life) = request.certify(&sign(&request.csr)).expect("accepted");
    let parsed = certificate(&spec).expect("usable");
    assert_eq!(parsed.names, ["orders.shop.sa.cluster.local"]);
    assert_eq!(peer_identity(parsed.key.end_entity_cert().expect("leaf")), Some(orders));
    assert_eq!(life.not_after.duration_since(life.not_before).expect("ordered"), Duration::from_secs(2 * 86400));
}

#[test]
fn a_chain_of_another_key_is_refused() {
    let orders = id("spiffe://cluster.local/ns/shop/sa/orders");
    let (one, other) = (KeyRequest::new(&orders).expect("made"), KeyRequest::new(&orders).expect("made"));
    let error = one.certify(&sign(&other.csr)).expect_err("another key").to_string();
    assert!(error.contains("does not belong"), "{error}");
}

#[test]
fn a_chain_for_another_identity_is_refused() {
    let mut request = KeyRequest::new(&id("spiffe://cluster.local/ns/shop/sa/cart")).expect("made");
    let chain = sign(&request.csr);
    request.id = id("spiffe://cluster.local/ns/shop/sa/orders");
    let error = request.certify(&chain).expect_err("another identity").to_string();
    assert!(error.contains("is for spiffe://cluster.local/ns/shop/sa/cart"), "{error}");
}

#[test]
fn garbage_is_refused_with_its_place() {
    let request = KeyRequest::new(&id("spiffe://cluster.local/ns/shop/sa/orders")).expect("made");
    for chain in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = request.certify(chain).expect_err(chain).to_string();
        assert!(error.contains("chain:"), "{error}");
    }
}

#[test]
fn renewal_is_spread_around_half_of_the_life() {
    let life = Life { not_before: UNIX_EPOCH, not_after: UNIX_EPOCH + Duration::from_secs(1000) };
    let at = |random| life.renew_at(random).duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64().round();
    assert_eq!((at(0), at(u64::MAX / 2), at(u64::MAX)), (450.0, 500.0, 550.0));
}

#[test]
fn the_private_key_is_not_printed() {
    let request = KeyRequest::new(&id("spiffe://cluster.local/ns/shop/sa/orders")).expect("made");
    assert!(!format!("{request:?}").contains("PRIVATE"));
}
