//! One unit of configuration sent to proxies, and the kinds there are.
//!
//! Unset and default fields never go on the wire. Parsing is strict: an unknown field is an error of that one Resource.

pub mod backend;
pub mod certificate;
pub mod fields;
pub mod keys;
pub mod kind;
pub mod listener;
pub mod mesh;
pub mod route;
pub mod text;
pub mod version;

#[cfg(test)]
mod tests;

pub use selvage_policy::list::Class;
use selvage_policy::list::PolicySpec;
use selvage_policy::{Key, Target};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

pub use backend::{BackendSpec, Endpoint, EndpointsSpec};
pub use certificate::{CertificateSpec, Secret};
pub use kind::CoreKind;
pub use listener::ListenerSpec;
pub use mesh::MeshSpec;
pub use route::RouteSpec;
pub use version::VersionKey;

/// One unit of configuration as it travels.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Resource {
    /// Its name; `key.kind` says which [`Spec`] it carries.
    pub key: Key,
    /// What becomes of its attachments when the spec cannot be used.
    pub class: Class,
    /// Hash of everything else; equal versions are equal contents.
    pub version: String,
    /// What a policy holds for; empty for core kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Target>,
    /// References of the spec that the controller resolved, by the text of the reference: `gateway:shop/public` -> a SPIFFE id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refs: BTreeMap<String, String>,
    /// When the object was made, seconds since 1970: the older of two equals wins.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub created: i64,
    /// The spec, still as JSON: it is parsed by kind in [`Resource::spec`].
    pub spec: serde_json::Value,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A parsed spec of a core kind, or a policy's.
#[derive(Clone, Debug)]
pub enum Spec {
    /// `Mesh`
    Mesh(Box<MeshSpec>),
    /// `Listener`
    Listener(Box<ListenerSpec>),
    /// `Route`
    Route(Box<RouteSpec>),
    /// `Backend`
    Backend(Box<BackendSpec>),
    /// `Endpoints`
    Endpoints(Box<EndpointsSpec>),
    /// `Certificate`
    Certificate(Box<CertificateSpec>),
    /// A policy kind, compiled by `selvage_policy::list`.
    Policy(Box<PolicySpec>),
}

/// What a Resource carries beside its spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin {
    /// What a policy holds for.
    pub attachments: Vec<Target>,
    /// References that the controller resolved.
    pub refs: BTreeMap<String, String>,
    /// When the object was made, seconds since 1970.
    pub created: i64,
}

/// A Resource that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidResource {
    /// The kind is not one of ours.
    #[error("{0}: its kind is not known to this version of Selvage: upgrade the proxy, or remove the object")]
    UnknownKind(Key),
    /// The spec does not parse.
    #[error("{key}: spec.{field}: {problem}")]
    Field {
        /// The Resource.
        key: Key,
        /// Path of the field below `spec`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The policy crate does not understand the spec.
    #[error("{key}: {invalid}")]
    Policy {
        /// The Resource.
        key: Key,
        /// What it says.
        invalid: selvage_policy::list::Invalid,
    },
}

impl Resource {
    /// A Resource that holds no secret (for those see [`Resource::secret`]; made here, they get a version that equals no other). A spec without
    /// a JSON form (none of ours: their maps have text keys) becomes `null`, which every reader rejects.
    pub fn new(key: Key, class: Class, spec: &impl Serialize, origin: Origin) -> Self {
        Self::unversioned(key, class, spec, origin).versioned(&VersionKey::random())
    }

    /// A core Resource that holds no secret.
    pub fn core(key: Key, spec: &impl Serialize, created: i64) -> Self {
        Self::new(key, Class::Core, spec, Origin { created, ..Origin::default() })
    }

    /// A certificate with its private key.
    pub fn secret(key: Key, spec: &CertificateSpec, version_key: &VersionKey) -> Self {
        Self::unversioned(key, Class::Core, spec, Origin::default()).versioned(version_key)
    }

    fn unversioned(key: Key, class: Class, spec: &impl Serialize, origin: Origin) -> Self {
        let Origin { attachments, refs, created } = origin;
        Self { key, class, version: String::new(), attachments, refs, created, spec: serde_json::to_value(spec).unwrap_or_default() }
    }

    /// The same with its version computed anew; `key` is used for kinds that hold secrets.
    #[must_use]
    pub fn versioned(mut self, key: &VersionKey) -> Self {
        self.version = version::version_of(&self, key);
        self
    }

    /// Parses the spec, strictly.
    #[allow(clippy::result_large_err, reason = "an error here is rare, and is kept as it is")]
    pub fn spec(&self) -> Result<Spec, InvalidResource> {
        Ok(match CoreKind::of(&self.key.kind) {
            Some(CoreKind::Mesh) => Spec::Mesh(self.parse()?),
            Some(CoreKind::Listener) => Spec::Listener(self.parse()?),
            Some(CoreKind::Route) => Spec::Route(self.parse()?),
            Some(CoreKind::Backend) => Spec::Backend(self.parse()?),
            Some(CoreKind::Endpoints) => Spec::Endpoints(self.parse()?),
            Some(CoreKind::Certificate) => Spec::Certificate(self.parse()?),
            None => {
                let kind = self.key.kind.parse().map_err(|_| InvalidResource::UnknownKind(self.key.clone()))?;
                let spec = PolicySpec::parse(kind, &self.spec);
                Spec::Policy(Box::new(spec.map_err(|invalid| InvalidResource::Policy { key: self.key.clone(), invalid })?))
            }
        })
    }

    #[allow(clippy::result_large_err, reason = "an error here is rare, and is kept as it is")]
    fn parse<T: DeserializeOwned>(&self) -> Result<Box<T>, InvalidResource> {
        serde_path_to_error::deserialize(&self.spec).map(Box::new).map_err(|error| InvalidResource::Field {
            key: self.key.clone(),
            field: error.path().to_string(),
            problem: if kind::holds_secrets(&self.key.kind) { without_values(error.inner()) } else { error.inner().to_string() },
        })
    }

    /// The same with its secrets replaced by `<redacted>`: what `/config` and Debug show.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        if kind::holds_secrets(&shown.key.kind) {
            match &mut shown.spec {
                // The chain is public: every client is sent it.
                serde_json::Value::Object(fields) => {
                    fields.iter_mut().filter(|(name, _)| *name != "chain").for_each(|(_, value)| *value = REDACTED.into());
                }
                other => *other = REDACTED.into(),
            }
        }
        shown
    }
}

/// What stands where a secret is not shown.
pub const REDACTED: &str = "<redacted>";

/// A message of serde's without the offending value, which may be the secret itself.
pub(crate) fn without_values(error: &serde_json::Error) -> String {
    let message = error.to_string();
    if message.starts_with("missing field") || message.starts_with("unknown field") {
        message
    } else {
        "is not what belongs there (its value is not shown)".into()
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.redacted();
        f.debug_struct("Resource")
            .field("key", &shown.key)
            .field("class", &shown.class)
            .field("version", &shown.version)
            .field("attachments", &shown.attachments)
            .field("refs", &shown.refs)
            .field("created", &shown.created)
            .field("spec", &shown.spec)
            .finish()
    }
}
