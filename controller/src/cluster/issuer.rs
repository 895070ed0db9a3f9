//! The keys that the API server signs service account tokens with, kept so that tokens can be verified while it is away.
//!
//! ```text
//! /.well-known/openid-configuration, /openid/v1/jwks ──every 10 minutes──► keys ──► claims of a token, if it is authentic and for us
//! ```
//!
//! RS256 and ES256 (RFC 7518), as API servers use them. A token says who it is of; whether that Pod is still there is looked up elsewhere.

use super::brief::brief;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::Client;
use parking_lot::RwLock;
use rustls::pki_types::{AlgorithmIdentifier, alg_id};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// How often the keys are read: they are published long before they sign.
const ROUND: Duration = Duration::from_secs(600);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(10);
/// For one question.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clocks differ.
const SKEW: u64 = 60;
/// Keys of one API server: while they rotate there are two or three.
const MOST_KEYS: usize = 64;

/// What a token says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TokenClaims {
    iss: String,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
    aud: Vec<String>,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
}

/// What a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Bound {
    /// Of the Pod and its account.
    pub namespace: String,
    /// The Pod; none: it is bound to none.
    pub pod: Option<BoundPod>,
}

/// The Pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BoundPod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Jwk>,
}

/// RFC 7517.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    #[serde(default)]
    kid: String,
}

/// What a token may be signed with; nothing else is understood, `none` least of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Algorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "ES256")]
    Es256,
}

struct Key {
    id: String,
    algorithm: Algorithm,
    /// As in a SubjectPublicKeyInfo.
    public: Vec<u8>,
}

#[derive(Default)]
struct Keys {
    issuer: String,
    keys: Vec<Key>,
}

/// The issuer of tokens, as it was seen last.
#[derive(Default)]
pub struct Issuer {
    present: RwLock<Keys>,
}

impl Issuer {
    /// Keeps the keys up to date until stopped. What was read stays while the API server is away.
    pub async fn keep(&self, client: Client, stop: CancellationToken) {
        let mut told = false;
        loop {
            let read = tokio::time::timeout(PATIENCE, self.read(&client)).await.unwrap_or_else(|_| Err("no answer in time".into()));
            if let Err(error) = &read
                && !std::mem::replace(&mut told, read.is_err())
            {
                tracing::warn!(
                    error,
                    "the keys of service account tokens cannot be read: tokens cannot be verified while the API server is away"
                );
            }
            told = read.is_err();
            let pause = if told { AGAIN } else { ROUND };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Reads the keys once.
    pub async fn read(&self, client: &Client) -> Result<(), String> {
        let discovery: Discovery = document(client, "/.well-known/openid-configuration").await?;
        let set: KeySet = document(client, "/openid/v1/jwks").await?;
        let keys = set.keys.iter().take(MOST_KEYS).filter_map(Key::of).collect();
        *self.present.write() = Keys { issuer: discovery.issuer, keys };
        Ok(())
    }

    /// What `token` says, if the API server signed it, it is for `audience`, and it holds now.
    pub fn verify(&self, token: &str, audience: &str, now: SystemTime) -> Option<TokenClaims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let header: Header = part(header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let present = self.present.read();
        let mut candidates = present.keys.iter().filter(|key| key.id == header.kid && key.algorithm == header.alg);
        if !candidates.any(|key| key.signed(signed.as_bytes(), &signature)) {
            return None;
        }
        // Nothing of it is read before it is known to be authentic.
        let claims: TokenClaims = part(payload)?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let for_us = claims.iss == present.issuer && claims.aud.iter().any(|one| one == audience);
        (for_us && now < claims.exp && claims.nbf <= now.saturating_add(SKEW)).then_some(claims)
    }
}

async fn document<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, String> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    let text = client.request_text(request).await.map_err(|error| brief(&error))?;
    serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

impl Key {
    fn of(jwk: &Jwk) -> Option<Self> {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| !bytes.is_empty());
        let (algorithm, public) = match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("RSA", _) => (Algorithm::Rs256, sequence(&[integer(&bytes(&jwk.n)?), integer(&bytes(&jwk.e)?)])),
            // An uncompressed point (SEC 1).
            ("EC", "P-256") => (Algorithm::Es256, [vec![4], bytes(&jwk.x)?, bytes(&jwk.y)?].concat()),
            _ => return None,
        };
        Some(Self { id: jwk.kid.clone(), algorithm, public })
    }

    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let (key, hash): (AlgorithmIdentifier, AlgorithmIdentifier) = match self.algorithm {
            Algorithm::Rs256 => (alg_id::RSA_ENCRYPTION, alg_id::RSA_PKCS1_SHA256),
            Algorithm::Es256 => (alg_id::ECDSA_P256, alg_id::ECDSA_SHA256),
        };
        let signature = match (self.algorithm, signature.split_at_checked(32)) {
            (Algorithm::Rs256, _) => signature.to_vec(),
            // RFC 7518 section 3.4 writes both numbers one after the other, everybody else as a sequence of two.
            (Algorithm::Es256, Some((r, s))) if s.len() == 32 => sequence(&[integer(r), integer(s)]),
            (Algorithm::Es256, _) => return false,
        };
        let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let fits = known.all.iter().find(|one| one.public_key_alg_id() == key && one.signature_alg_id() == hash);
        fits.is_some_and(|one| one.verify_signature(&self.public, message, &signature).is_ok())
    }
}

/// A DER INTEGER of a number without a sign.
fn integer(number: &[u8]) -> Vec<u8> {
    let mut digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
    if digits.first().is_none_or(|first| *first >= 0x80) {
        digits.insert(0, 0);
    }
    tagged(0x02, &digits)
}

/// A DER SEQUENCE.
fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let head = match (content.len(), significant.len()) {
        (short @ 0..=0x7f, _) => vec![u8::try_from(short).unwrap_or_default()],
        (_, count) => [vec![0x80 | u8::try_from(count).unwrap_or_default()], significant].concat(),
    };
    [vec![tag], head, content.to_vec()].concat()
}
