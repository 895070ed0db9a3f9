use super::super::issuer::Issuer;
use super::super::pods::Pods;
use super::super::tokens::{PodTokens, TokenError};
use super::*;
use crate::containers::TOKEN_AUDIENCE;
use crate::world::Name;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use std::time::SystemTime;
use x509_parser::prelude::FromDer;

const ISSUER: &str = "https://kubernetes.default.svc";

/// A key of an API server.
struct Signer {
    pair: KeyPair,
    scheme: SignatureScheme,
}

impl Signer {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let scheme = if *algorithm == PKCS_RSA_SHA256 { SignatureScheme::RSA_PKCS1_SHA256 } else { SignatureScheme::ECDSA_NISTP256_SHA256 };
        Self { pair: KeyPair::generate_for(algorithm).expect("a key"), scheme }
    }

    fn jwk(&self, id: &str) -> Value {
        let raw = self.pair.public_key_raw();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        if self.scheme == SignatureScheme::RSA_PKCS1_SHA256 {
            let (_, key) = x509_parser::public_key::RSAPublicKey::from_der(raw).expect("an RSA key");
            let modulus: Vec<u8> = key.modulus.iter().copied().skip_while(|byte| *byte == 0).collect();
            json!({ "kty": "RSA", "kid": id, "n": text(&modulus), "e": text(key.exponent) })
        } else {
            json!({ "kty": "EC", "kid": id, "crv": "P-256", "x": text(&raw[1..33]), "y": text(&raw[33..65]) })
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let key = PrivateKeyDer::try_from(self.pair.serialize_der()).expect("a key");
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = key.choose_scheme(&[self.scheme]).expect("a signer").sign(message.as_bytes()).expect("signed");
        let signature = if self.scheme == SignatureScheme::RSA_PKCS1_SHA256 { signature } else { plain(&signature) };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Both numbers of an ECDSA signature, 32 bytes each.
fn plain(der: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        let length = usize::from(der[at + 1]);
        let digits: Vec<u8> = der[at + 2..at + 2 + length].iter().copied().skip_while(|byte| *byte == 0).collect();
        ([vec![0; 32 - digits.len()], digits].concat(), at + 2 + length)
    };
    let (r, next) = number(2);
    [r, number(next).0].concat()
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:orders", "aud": [TOKEN_AUDIENCE], "nbf": 1_800_000_000, "exp": 1_800_003_600,
        "kubernetes.io": {
            "namespace": "shop", "pod": { "name": "orders-0", "uid": "uid-1" }, "serviceaccount": { "name": "orders", "uid": "x" },
        },
    })
}

fn now(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

async fn issuer(keys: Vec<Value>) -> (Api, Issuer) {
    let (api, issuer) = (Api::new(), Issuer::default());
    api.document("/.well-known/openid-configuration", json!({ "issuer": ISSUER }));
    api.document("/openid/v1/jwks", json!({ "keys": keys }));
    issuer.read(&api.client()).await.expect("keys");
    (api, issuer)
}

#[tokio::test]
async fn what_the_api_server_signed_is_believed_while_it_is_away() {
    for (algorithm, name) in [(&PKCS_RSA_SHA256, "RS256"), (&PKCS_ECDSA_P256_SHA256, "ES256")] {
        let signer = Signer::new(algorithm);
        let (api, issuer) = issuer(vec![signer.jwk("a")]).await;
        api.away(true);
        assert!(issuer.read(&api.client()).await.is_err());
        let token = signer.sign(&json!({ "alg": name, "kid": "a" }), &claims());
        let verified = issuer.verify(&token, TOKEN_AUDIENCE, now(10)).unwrap_or_else(|| panic!("{name} is refused"));
        assert_eq!(verified.sub, "system:serviceaccount:shop:orders");
        assert_eq!(verified.bound.pod.expect("a Pod").uid, "uid-1");
    }
}

#[tokio::test]
async fn what_it_did_not_sign_for_us_and_for_now_is_not() {
    let signer = Signer::new(&PKCS_ECDSA_P256_SHA256);
    let (_api, issuer) = issuer(vec![signer.jwk("a")]).await;
    let header = json!({ "alg": "ES256", "kid": "a" });
    let good = signer.sign(&header, &claims());
    assert!(issuer.verify(&good, TOKEN_AUDIENCE, now(10)).is_some());
    let with = |field: &str, value: Value| {
        let mut claims = claims();
        claims[field] = value;
        signer.sign(&header, &claims)
    };
    let (message, signature) = good.rsplit_once('.').expect("a token");
    let other = Signer::new(&PKCS_ECDSA_P256_SHA256);
    let forged = {
        let mut claims = claims();
        claims["kubernetes.io"]["pod"]["uid"] = json!("uid-2");
        format!("{}.{}.{signature}", message.split_once('.').expect("a head").0, URL_SAFE_NO_PAD.encode(claims.to_string()))
    };
    let unsigned = {
        let head = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "kid": "a" }).to_string());
        format!("{head}.{}.", message.split_once('.').expect("a payload").1)
    };
    for (what, token) in [
        ("for others", with("aud", json!(["https://kubernetes.default.svc"]))),
        ("from another issuer", with("iss", json!("https://elsewhere.example"))),
        ("not yet", with("nbf", json!(1_800_001_000))),
        ("ended", with("exp", json!(1_800_000_005))),
        ("of another key", other.sign(&header, &claims())),
        ("of a key that is not known", signer.sign(&json!({ "alg": "ES256", "kid": "b" }), &claims())),
        ("of another algorithm", signer.sign(&json!({ "alg": "RS256", "kid": "a" }), &claims())),
        ("changed", forged),
        ("unsigned", unsigned),
        ("nothing", String::new()),
        ("dots", "...".into()),
    ] {
        assert!(issuer.verify(&token, TOKEN_AUDIENCE, now(10)).is_none(), "{what}");
    }
}

#[tokio::test]
async fn with_the_api_server_away_a_pod_that_was_never_seen_before_joins_by_its_token() {
    let signer = Signer::new(&PKCS_ECDSA_P256_SHA256);
    let (api, issuer) = issuer(vec![signer.jwk("a")]).await;
    let pods = Arc::new(Pods::default());
    pods.insert(Name::new("shop", "orders-0"), &pod("shop", "orders-0", "uid-1", "orders", "10.1.0.7"));
    let tokens = PodTokens::new(api.client(), pods, Arc::new(issuer), metrics());
    api.away(true);
    let header = json!({ "alg": "ES256", "kid": "a" });
    let peer = "10.1.0.7".parse().expect("an address");
    let judge = async |claims: &Value, at: u64| tokens.judge(&signer.sign(&header, claims), peer, now(at)).await;
    assert_eq!(judge(&claims(), 10).await.expect("a node").uid, "uid-1");
    assert!(matches!(judge(&claims(), 3601).await, Err(TokenError::Unreachable { .. })), "beyond its end");
    let mut unbound = claims();
    unbound["kubernetes.io"]["pod"] = Value::Null;
    assert!(matches!(judge(&unbound, 10).await, Err(TokenError::Unbound { .. })));
    let mut elsewhere = claims();
    elsewhere["sub"] = json!("system:serviceaccount:stock:orders");
    assert!(matches!(judge(&elsewhere, 10).await, Err(TokenError::NoAccount { .. })));
}
