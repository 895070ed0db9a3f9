//! Certificates with their private keys: the one core kind that holds a secret.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A value that never appears in Debug, logs or `/config`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps it.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself; the caller answers for where it goes.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateSpec {
    /// Leaf first, then intermediates.
    pub chain: String,
    /// PKCS#8, SEC1 or PKCS#1.
    pub private_key: Secret<String>,
}
