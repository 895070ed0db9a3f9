//! The name of the object somebody wrote, carried by everything that is compiled from it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Names one object or unit of configuration: kind, namespace (empty when cluster-scoped), name.
///
/// It is written `Kind/namespace/name`, or `Kind/name` without a namespace. The name of a part of an object is
/// the object's name, `#` and the part: `Listener/shop/public#http`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The Kubernetes kind, or the kind of Resource: `AuthorizationPolicy`, `Listener`.
    pub kind: String,
    /// Empty for what is cluster-scoped.
    pub namespace: String,
    /// The object's name; `name#part` for a part of it.
    pub name: String,
}

/// A text that is not a [`Key`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a key: write Kind/namespace/name or Kind/name")]
pub struct InvalidKey(String);

impl Key {
    /// A key from its three parts.
    pub fn new(kind: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    /// The same object's part `part`.
    pub fn part(&self, part: &str) -> Self {
        Self { name: format!("{}#{part}", self.name), ..self.clone() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl std::str::FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [kind, name] if !kind.is_empty() && !name.is_empty() => Ok(Self::new(*kind, "", *name)),
            [kind, ns, name] if !kind.is_empty() && !ns.is_empty() && !name.is_empty() => Ok(Self::new(*kind, *ns, *name)),
            _ => Err(InvalidKey(text.into())),
        }
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
