//! The version of a Resource: a hash of its content, so that equal versions are equal contents at every replica of a release.

use super::Resource;
use super::kind::holds_secrets;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fmt;

/// Bytes of the hash that are kept: 128 bits make an accidental collision impossible in practice.
const KEPT: usize = 16;

/// Keys the versions of Resources that hold secrets, so that a version seen in a log or in `/config` cannot be used to confirm a guess of
/// the secret. All replicas of a controller derive the same one from the CA's key.
#[derive(Clone)]
pub struct VersionKey([u8; 32]);

impl VersionKey {
    /// A key derived from something secret.
    pub fn derive(secret: &[u8]) -> Self {
        Self(mac(secret, b"selvage version key v1"))
    }

    /// A key of this process alone: good where versions are compared within one process only, as those of a file are.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for VersionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// The version of `resource`, whatever its `version` says now.
pub(super) fn version_of(resource: &Resource, key: &VersionKey) -> String {
    let mut text = Vec::with_capacity(512);
    // The parts in a fixed order, each as JSON, so that no two different Resources give the same text.
    for part in [
        serde_json::to_value(&resource.key),
        serde_json::to_value(resource.class),
        serde_json::to_value(&resource.attachments),
        serde_json::to_value(&resource.refs),
        serde_json::to_value(resource.created),
    ] {
        canonical(&part.unwrap_or_default(), &mut text);
        text.push(b'\n');
    }
    canonical(&resource.spec, &mut text);
    if holds_secrets(&resource.key.kind) { hex(&mac(&key.0, &text)) } else { hex(&Sha256::digest(&text)) }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// JSON without spaces and with sorted names, whatever order the map keeps.
fn canonical(value: &serde_json::Value, out: &mut Vec<u8>) {
    match value {
        serde_json::Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            out.push(b'{');
            for (name, value) in fields {
                out.extend_from_slice(serde_json::Value::from(name.as_str()).to_string().as_bytes());
                out.push(b':');
                canonical(value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        serde_json::Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        plain => out.extend_from_slice(plain.to_string().as_bytes()),
    }
}

/// The first bytes of a hash as lower-case hexadecimal digits.
fn hex(hash: &[u8]) -> String {
    use fmt::Write;
    hash.iter().take(KEPT).fold(String::with_capacity(2 * KEPT), |mut text, byte| {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
