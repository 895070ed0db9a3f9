//! Everything the controller knows: Kubernetes objects, from a directory of files or from watches, in one shape.
//!
//! ```text
//! file or watch event --kinds::parse--> World::insert --settle--> World --translate-->
//! ```
//!
//! Whatever the source, an object passes the same checks and gets the same defaults ([`schema`]). An object that does not pass is kept
//! as [`Malformed`]: it gets a status, and takes nothing else down.

pub mod addresses;
pub mod directory;
pub(crate) mod endpoints;
mod kinds;
pub mod pod;
mod remove;
pub mod route;
pub mod schema;
#[cfg(test)]
mod tests;

pub use addresses::Addresses;
pub(crate) use kinds::of_invalid;
pub use kinds::{is_dns_name, parse};
pub use pod::Pod;
pub use schema::Unknown;

use crate::gateway_api::{GatewayClassSpec, GatewaySpec, ListenerSetSpec, ReferenceGrantSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use route::Route;
use selvage_policy::Key;
use selvage_policy::list::{Kind as PolicyKind, PolicySpec};
use selvage_policy::mesh::MeshConfigSpec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The namespace of the platform itself: policies on the mesh live here.
pub const PLATFORM_NAMESPACE: &str = "selvage-system";
/// The one MeshConfig that holds.
pub const MESH_CONFIG: &str = "default";
/// `selvage.dev/inject` says `disabled` on a Pod without a sidecar.
pub const INJECT: &str = "selvage.dev/inject";

/// Namespace (empty: cluster-scoped) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Name {
    /// From both parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// With the kind: the key of the object.
    pub fn key(&self, kind: &str) -> Key {
        Key::new(kind, self.namespace.clone(), self.name.clone())
    }
}

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// Identifies this very object; in files the name stands for it.
    pub uid: String,
    /// Seconds since 1970; 0 where a file does not say.
    pub created: i64,
    /// Counts edits of the spec.
    pub generation: i64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Fields of Gateway API's that this version does not know, by path: a newer CRD has them. They are left out of account.
    pub unknown: Vec<String>,
}

impl Meta {
    /// Namespace and name.
    pub fn named(&self) -> Name {
        Name::new(self.namespace.clone(), self.name.clone())
    }

    /// Whether it carries all of `labels`.
    pub fn carries(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<S> {
    /// What every object has.
    pub meta: Meta,
    /// What its kind says.
    pub spec: S,
}

/// Objects of one kind.
pub type Table<S> = BTreeMap<Name, Arc<Object<S>>>;

/// A policy of ours: the spec as somebody wrote it, with defaults, and parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Which kind.
    pub kind: PolicyKind,
    /// Parsed; or what is wrong with it: a guard then refuses on its targets.
    pub spec: Result<PolicySpec, Vec<Fault>>,
    /// As it travels.
    pub raw: serde_json::Value,
}

/// An object that does not pass the checks of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Which.
    pub key: Key,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
    /// `metadata.generation` of what could not be read.
    pub generation: i64,
    /// What stands in its `spec`, whatever that is: so that it can be told whose it is.
    pub raw: serde_json::Value,
}

/// One thing that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error, serde::Serialize)]
#[error("{}{object}: {field}{}{problem}", file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default(), if field.is_empty() { "" } else { ": " })]
pub struct Fault {
    /// The file it stands in; absent in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// `Kind/namespace/name`, as far as it is known.
    pub object: String,
    /// Path of the field: `spec.rules[0].when`; empty: the object as a whole.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl Fault {
    /// Of the object `key`.
    pub fn of(key: &Key, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { file: None, object: key.to_string(), field: field.into(), problem: problem.into() }
    }

    /// The same, saying which file.
    #[must_use]
    pub fn within(mut self, file: &str) -> Self {
        self.file = Some(file.into());
        self
    }
}

/// An object whose kind the controller reads.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// Namespace
    Namespace(Object<()>),
    /// Pod
    Pod(Box<Object<Pod>>),
    /// Service
    Service(Box<Object<ServiceSpec>>),
    /// EndpointSlice
    EndpointSlice(Box<Object<EndpointSlice>>),
    /// Secret
    Secret(Box<Object<Secret>>),
    /// GatewayClass
    GatewayClass(Object<GatewayClassSpec>),
    /// Gateway
    Gateway(Box<Object<GatewaySpec>>),
    /// ListenerSet
    ListenerSet(Box<Object<ListenerSetSpec>>),
    /// HTTPRoute, GRPCRoute, TLSRoute or TCPRoute
    Route(Box<Object<Route>>),
    /// ReferenceGrant
    ReferenceGrant(Object<ReferenceGrantSpec>),
    /// A policy of ours
    Policy(Box<Object<Policy>>),
    /// MeshConfig
    MeshConfig(Object<MeshConfigSpec>),
    /// A kind that means nothing to the controller (ConfigMap, Deployment, ServiceAccount …).
    Other,
}

/// Everything the controller knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Namespaces, with their labels.
    pub namespaces: Table<()>,
    /// Pods.
    pub pods: Table<Pod>,
    /// Services.
    pub services: Table<ServiceSpec>,
    /// EndpointSlices.
    pub slices: Table<EndpointSlice>,
    /// Secrets of type `kubernetes.io/tls`.
    pub secrets: Table<Secret>,
    /// GatewayClasses.
    pub classes: Table<GatewayClassSpec>,
    /// Gateways.
    pub gateways: Table<GatewaySpec>,
    /// ListenerSets.
    pub listener_sets: Table<ListenerSetSpec>,
    /// Routes of every kind, by `Kind/namespace/name`.
    pub routes: BTreeMap<Key, Arc<Object<Route>>>,
    /// ReferenceGrants.
    pub grants: Table<ReferenceGrantSpec>,
    /// Policies, by `Kind/namespace/name`.
    pub policies: BTreeMap<Key, Arc<Object<Policy>>>,
    /// MeshConfigs; the one named `default` holds.
    pub mesh_configs: Table<MeshConfigSpec>,
    /// Objects that do not pass their checks.
    pub malformed: BTreeMap<Key, Malformed>,
    /// Who has which loopback address; absent in a cluster.
    pub addresses: Option<Addresses>,
}

impl World {
    /// Takes in an object, in place of an older form of it.
    pub fn insert(&mut self, object: Parsed) {
        fn put<S>(table: &mut Table<S>, object: Object<S>) {
            table.insert(object.meta.named(), Arc::new(object));
        }
        match object {
            Parsed::Namespace(object) => put(&mut self.namespaces, object),
            Parsed::Pod(object) => put(&mut self.pods, *object),
            Parsed::Service(object) => put(&mut self.services, *object),
            Parsed::EndpointSlice(object) => put(&mut self.slices, *object),
            Parsed::Secret(object) => put(&mut self.secrets, *object),
            Parsed::GatewayClass(object) => put(&mut self.classes, object),
            Parsed::Gateway(object) => put(&mut self.gateways, *object),
            Parsed::ListenerSet(object) => put(&mut self.listener_sets, *object),
            Parsed::ReferenceGrant(object) => put(&mut self.grants, object),
            Parsed::MeshConfig(object) => put(&mut self.mesh_configs, object),
            Parsed::Route(object) => {
                self.routes.insert(object.meta.named().key(object.spec.kind.as_str()), Arc::new(*object));
            }
            Parsed::Policy(object) => {
                self.policies.insert(object.meta.named().key(object.spec.kind.as_str()), Arc::new(*object));
            }
            Parsed::Other => {}
        }
    }

    /// Takes in an object from the API server or a file: checked, or kept as malformed, and then what was there before of it stays.
    pub fn insert_json(&mut self, value: serde_json::Value) {
        let unknown = if self.in_cluster() { Unknown::Note } else { Unknown::Refuse };
        match parse(value, unknown) {
            Ok((key, object)) => {
                self.malformed.remove(&key);
                self.insert(object);
            }
            Err(malformed) => {
                let faults: Vec<String> = malformed.faults.iter().map(ToString::to_string).collect();
                tracing::warn!(object = %malformed.key, faults = faults.join("; "), "an object cannot be used as it is written");
                self.malformed.insert(malformed.key.clone(), malformed);
            }
        }
    }

    /// Whether this is what an API server knows, and not what files say: addresses and endpoints are as they are there.
    pub fn in_cluster(&self) -> bool {
        self.addresses.is_none()
    }

    /// What follows from what is there, in files: Namespaces that are only mentioned, addresses, and endpoints of local Pods. In a cluster
    /// nothing does: others make Namespaces and EndpointSlices there.
    pub fn settle(&mut self) -> Result<(), addresses::Exhausted> {
        let Some(mut addresses) = self.addresses.take() else { return Ok(()) };
        let mentioned = self.pods.keys().chain(self.services.keys()).chain(self.gateways.keys()).map(|name| name.namespace.clone());
        let written = self.routes.keys().chain(self.policies.keys()).map(|key| key.namespace.clone());
        for namespace in mentioned.chain(written).collect::<std::collections::BTreeSet<_>>() {
            let object = || Arc::new(Object { meta: kinds::namespace_meta(&namespace, Meta::default()), spec: () });
            self.namespaces.entry(Name::new("", namespace.clone())).or_insert_with(object);
        }
        let outcome = addresses.allocate(self);
        self.addresses = Some(addresses);
        endpoints::synthesise(self);
        outcome
    }

    /// The platform's settings.
    pub fn mesh(&self) -> MeshConfigSpec {
        self.mesh_configs.get(&Name::new("", MESH_CONFIG)).map(|object| object.spec.clone()).unwrap_or_default()
    }

    /// Whether a Pod has a sidecar. In a cluster: if one was injected. In files: yes, unless it or its Namespace says
    /// `selvage.dev/inject: disabled`; the Pod's word counts more.
    pub fn meshed(&self, pod: &Object<Pod>) -> bool {
        if self.in_cluster() {
            return pod.spec.has_sidecar();
        }
        let said = |meta: &Meta| meta.annotations.get(INJECT).or_else(|| meta.labels.get(INJECT)).map(|word| word != "disabled");
        let namespace = || self.namespaces.get(&Name::new("", pod.meta.namespace.clone())).and_then(|namespace| said(&namespace.meta));
        said(&pod.meta).or_else(namespace).unwrap_or(true)
    }

    /// The labels of a namespace.
    pub fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        self.namespaces.get(&Name::new("", namespace)).map(|object| object.meta.labels.clone()).unwrap_or_default()
    }
}
