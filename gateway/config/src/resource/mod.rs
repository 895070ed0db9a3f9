//! One unit of configuration sent to proxies, and the kinds there are.
//!
//! Unset and default fields never go on the wire. Parsing is strict: an unknown field is an error of that one Resource.

pub mod backend;
pub mod certificate;
pub mod listener;
pub mod mesh;
pub mod route;
pub mod text;

pub use selvage_policy::list::Class;
use selvage_policy::{Key, Target};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use backend::{BackendSpec, Endpoint, EndpointsSpec};
pub use certificate::{CertificateSpec, Secret};
pub use listener::ListenerSpec;
pub use mesh::MeshSpec;
pub use route::RouteSpec;

/// One unit of configuration as it travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    Policy(Box<selvage_policy::list::PolicySpec>),
}
